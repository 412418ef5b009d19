"""To and from other tools' files: what `import-mapping`, `export-mapping` and `operator-table` read and write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from cosoc.output import check_writable, put, say, write_text
from cosoc.sim.errors import InputError
from cosoc.sim.files.mapping_file import dump_mapping
from cosoc.sim.importers.timeloop import from_strings, read_strings
from cosoc.sim.importers.timeloop_file import SUFFIX, from_files, to_files
from cosoc.sim.importers.zigzag_file import NAMES, to_zigzag
from cosoc.sim.model.mapping import Dim, Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.operator_table import NamesFile, astra_sim, llmservingsim, plain, read_names
from cosoc.sim.report.result import Result

Tool = Literal["timeloop", "zigzag"]
ZIGZAG_FILES = ("mapping.yaml", "workload.yaml")
TOLD = 3  # layers that a message names


def imported(
    found: str, workload: Workload, soc: SoC, layer: str | None, core: str | None, outside: str | None,
    runtime: Runtime | None,
) -> str:  # fmt: skip
    """A mapping file, of a mapping string, a file of them, a mapping file of Timeloop, or a folder of these."""
    # os.path: a string may be longer than the name of a file can be
    is_folder, is_file = os.path.isdir(found), found.endswith((".yaml", ".yml")) or os.path.isfile(found)
    if is_folder or (is_file and layer is not None):
        files = _in_folder(Path(found)) if layer is None else {layer: Path(found)}
        if is_folder and layer is not None:
            raise InputError(f"--layer goes with a string or one file, not with the folder {found}")
        mapping, inside = from_files(files, workload, soc, core, outside, runtime or "overlapped")
        return _told(inside) + dump_mapping(mapping)
    for option, value in (("--core", core), ("--outside", outside), ("--runtime", runtime)):
        if value is not None:
            raise InputError(f"{option} {value}: goes with a mapping file of Timeloop (and --layer), not with strings")
    if not is_file and layer is None:
        raise InputError(f"--layer goes with a string, not with a file; found {found!r} and no layer")
    strings = read_strings(Path(found)) if is_file else {str(layer): found}
    return dump_mapping(from_strings(strings, workload, soc))


def _told(inside: tuple[str, ...]) -> str:
    if not inside:
        return ""
    return f"# Kept of {', '.join(inside)}: the sizes of tiles. What happens inside of one is the core model's own.\n"


def _in_folder(folder: Path) -> dict[str, Path]:
    """Files by layer: each is called as one, as `export-mapping` names them."""
    files = {unquote(path.name.removesuffix(SUFFIX)): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    if not files:
        raise InputError(f"{folder}: has no file that ends with {SUFFIX}")
    return files


def exported(
    mapping: Mapping, workload: Workload, soc: SoC, tool: Tool, out: Path | None, layer: str | None,
    unroll: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Write a mapping as another tool reads it: into a folder, or of one layer to standard output."""
    if layer is not None and layer not in {one.name for one in workload}:
        raise InputError(f"--layer {layer}: {workload.name} has no such layer")
    if (layer is None) == (out is None):
        raise InputError("--out DIR takes all layers, --layer NAME prints one; give one of them")
    if unroll is not None and tool != "zigzag":
        raise InputError(f"--unroll goes with --to zigzag; {tool} has none")
    if tool == "zigzag":
        if layer is not None:
            raise InputError("--layer goes with --to timeloop; a file of ZigZag has all layers")
        placed, layers, left = to_zigzag(mapping, workload, soc, _unrolled(unroll))
        files = dict(zip(ZIGZAG_FILES, (placed, layers), strict=True))
        written = bool(layers)
    else:
        texts, left = to_files(mapping, workload, soc)
        if layer is not None:
            if layer in left:
                raise InputError(f"{layer} has no file of Timeloop: {left[layer]}")
            put(texts[layer], end="")
            return
        files, written = {f"{quote(name, safe='')}{SUFFIX}": text for name, text in texts.items()}, bool(texts)
    reasons = [f"{name}: {why}" for name, why in left.items()]
    if not written:
        raise InputError(f"no layer can be written: {'; '.join(reasons[:TOLD])}")
    assert out is not None
    _into(out, files)
    if left and not quiet:
        for line in reasons:
            say(f"left out: {line}")


def _unrolled(text: str | None) -> list[tuple[Dim, int]]:
    """What an array of ZigZag unrolls along each of its axes."""
    dims, out = {name: d for d, name in NAMES.items()}, dict[Dim, int]()
    for word in (text or "").split(","):
        name, _, size = word.strip().partition("=")
        if name not in dims or not size.isdecimal() or int(size) < 1 or dims[name] in out:
            found = f"--unroll {text}" if text is not None else "--unroll is missing"
            raise InputError(
                f"{found}: DIM=SIZE of each axis of ZigZag's array is needed, such as K=16,C=16, each of "
                f"{', '.join(dims)} once at most"
            )
        out[dims[name]] = int(size)
    return list(out.items())


def _into(folder: Path, files: dict[str, str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; a folder is needed")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made: {error.strerror or error}") from error
    for name, text in files.items():
        write_text(folder / name, text)


def check_table(to: str, workloads: Sequence[str], out: Path | None, names: Path | None) -> None:
    """What `operator-table` is asked for hangs together: seen before the work, not after it."""
    if (names is None) == (to == "llmservingsim"):
        wrong = "is missing; LLMServingSim has layer names of its own" if names is None else f"{names}: means nothing"
        raise InputError(f"--names {wrong} with --for {to}" if names else f"--names {wrong} (docs/compilers.md)")
    if to == "astra-sim" and len(workloads) > 1:
        raise InputError(f"--for astra-sim: found {len(workloads)} networks; a file has one")
    if to == "llmservingsim":
        if out is None:
            raise InputError("--out is missing; LLMServingSim reads a folder, such as perf/CHIP/MODEL/int8/tp1")
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out}: is a file; a folder is needed")
    elif out is not None:
        check_writable("--out", out)


def write_table(to: str, results: Sequence[Result], out: Path | None, names: NamesFile | None) -> None:
    """What each operator of some runs takes, for a tool, into a file or folder or to standard output."""
    if names is not None and out is not None:
        _into(out, llmservingsim(results, names))
        return
    text = astra_sim(results[0]) if to == "astra-sim" else plain(results)
    if out is None:
        put(text, end="")
    else:
        write_text(out, text)


__all__ = ["Tool", "check_table", "exported", "imported", "read_names", "write_table"]

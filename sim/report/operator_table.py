"""What each operator of a network takes on a chip, as tables that simulators of whole systems read.

An operator's time is its part of the critical path, so that the operators of a run sum to the run, whatever overlaps.
Formats:

- *LLMServingSim* (its documentation of the profiler's output bundle, as of September 2026): `dense.csv` by tokens,
  `per_sequence.csv` by sequences, `attention.csv` by prefill chunk, effective key length, decoding sequences and
  their keys; microseconds. What its layers are called there, a names file says.
- *ASTRA-sim* (the text converter of MLCommons Chakra, schema 1.0.2): a header, and a line a layer; whole microseconds.
  Of inference the forward pass alone takes time.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from cosoc.sim.errors import InputError
from cosoc.sim.files.mending import WHOLE, Mended, Place
from cosoc.sim.files.yamlfile import load_model
from cosoc.sim.model.soc import FromList, Model
from cosoc.sim.model.workload import Layer
from cosoc.sim.report.result import LayerPart, Result

DENSE, PER_SEQUENCE, ATTENTION = "dense", "per_sequence", "attention"
COLUMNS = {
    DENSE: ("layer", "tokens"),
    PER_SEQUENCE: ("layer", "sequences"),
    ATTENTION: ("layer", "prefill_chunk", "prefill_key", "n_decode", "kv_decode", "decode_q_len"),
}


def _calls(value: Any) -> Any:
    """One call may be a plain list of layers."""
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return (tuple(value),)
    return tuple(tuple(one) if isinstance(one, list) else one for one in value) if isinstance(value, list) else value


Calls = Annotated[tuple[tuple[str, ...], ...], BeforeValidator(_calls)]


class NamesFile(Model):
    """Which layers of networks each layer of LLMServingSim is: names, or patterns such as *.q. A list of lists is as
    many calls, of which the mean is told."""

    dense: dict[str, Calls] = {}  # those that work on tokens: qkv_proj, o_proj, layernorm, ...
    per_sequence: dict[str, Calls] = {}  # those that work on sequences: lm_head, sampler
    attention: dict[str, Calls] = {}  # scores, softmax and the product with values
    left_out: Annotated[tuple[str, ...], FromList] = ()  # layers that it has no name for

    def entries(self) -> Iterator[tuple[str, str, tuple[tuple[str, ...], ...]]]:
        """(table, name there, calls)."""
        for table in COLUMNS:
            for name, calls in getattr(self, table).items():
                yield table, name, calls


def read_names(path: Path, layers: Sequence[str]) -> NamesFile:
    """A names file for networks with these layers. InputError at file:line:column where it names one twice, or not."""

    def check(file: NamesFile, mended: Mended) -> list[tuple[Place, str]]:
        wrong: list[tuple[Place, str]] = []
        seen: dict[str, str] = {}
        places = [((table, name), p) for table, name, calls in file.entries() for call in calls for p in call]
        for place, pattern in [*places, *((("left_out",), one) for one in file.left_out)]:
            found = [layer for layer in dict.fromkeys(layers) if fnmatchcase(layer, pattern)]
            if not found:
                wrong.append((place, f"found {pattern!r}; no layer of the networks is called so"))
            for layer in found:
                if layer in seen:
                    wrong.append((place, f"found {pattern!r}; {layer} is in {seen[layer]} already"))
                seen[layer] = place[0] if len(place) == 1 else place[1]
        over = [layer for layer in dict.fromkeys(layers) if layer not in seen]
        if over and not wrong and mended == WHOLE:
            wrong.append(((), f"says nothing of {', '.join(over[:4])}; name each layer, or put it under left_out"))
        return wrong

    return load_model(path, NamesFile, problems=check)


@dataclass(frozen=True)
class _Row:
    key: tuple[Any, ...]
    seconds: float


def llmservingsim(results: Sequence[Result], names: NamesFile) -> dict[str, str]:
    """The tables by the name of their file: a row for each layer there and each result that has it. Where several
    results have one key, the mean, as its profiler does."""
    rows: dict[str, list[_Row]] = {table: [] for table in COLUMNS}
    for result in results:
        for table, name, calls in names.entries():
            found = [call for call in (_matched(result, patterns) for patterns in calls) if call]
            if found:
                keys = {_key(table, name, [result.at.workload[one.layer] for one in call]) for call in found}
                if len(keys) > 1:
                    raise InputError(f"{result.workload}: calls of {name} are on {len(keys)} sizes; name them apart")
                seconds = sum(one.seconds_critical for call in found for one in call) / len(found)
                rows[table].append(_Row(keys.pop(), seconds / result.inferences))
    return {f"{table}.csv": _csv(COLUMNS[table], mine) for table, mine in rows.items() if mine}


def _matched(result: Result, patterns: Sequence[str]) -> list[LayerPart]:
    return [one for one in result.by_layer if any(fnmatchcase(one.layer, p) for p in patterns)]


def _key(table: str, name: str, layers: Sequence[Layer]) -> tuple[Any, ...]:
    first = layers[0]
    tokens = first.n * first.oy * first.ox
    if table == DENSE:
        return name, tokens
    if table == PER_SEQUENCE:
        return name, first.n
    scores = next((layer for layer in layers if layer.op == "matmul"), None)
    if scores is None:
        raise InputError(f"{name}: none of {', '.join(one.name for one in layers)} multiplies two activations")
    queries, keys = scores.oy * scores.ox, scores.k // scores.groups
    if queries == 1:
        return name, 0, 0, scores.n, keys, 1
    # Of a chunk that sees what is before it and, on average, half of itself.
    return name, queries * scores.n, max(keys - queries, 0) + queries / 2, 0, 0, 1


def _csv(columns: Sequence[str], rows: Sequence[_Row]) -> str:
    by_key: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row.seconds)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*columns, "time_us"))
    for key in sorted(by_key):
        seconds = by_key[key]
        shown = (f"{value:g}" if isinstance(value, float) else value for value in key)
        writer.writerow((*shown, f"{sum(seconds) / len(seconds) * 1e6:.6g}"))
    return out.getvalue()


def astra_sim(result: Result) -> str:
    """The run's layers in their order as a text workload. Their times are rounded so that the sums of the first of them
    are right to half a microsecond each, and so is the sum of all."""
    ends = itertools.accumulate(one.seconds_critical * 1e6 / result.inferences for one in result.by_layer)
    whole = [0, *(round(end) for end in ends)]
    names = [re.sub(r"\s", "_", one.layer) for one in result.by_layer]
    lines = ["DATA", str(len(names))]
    for name, (start, end) in zip(names, itertools.pairwise(whole), strict=True):
        passes = (end - start, "NONE", 0), (0, "NONE", 0), (0, "NONE", 0)
        lines.append(" ".join(map(str, (name, -1, *itertools.chain(*passes), 0))))
    return "\n".join(lines) + "\n"


def plain(results: Sequence[Result]) -> str:
    """Every operator of every run: what it is, its sizes, time and energy."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    sizes = ("n", "k", "c", "oy", "ox", "fy", "fx", "groups")
    writer.writerow(("soc", "workload", "layer", "op", *sizes, "macs", "cores", "time_us", "energy_uj"))
    for result in results:
        for one in result.by_layer:
            layer, n = result.at.workload[one.layer], result.inferences
            about = (result.soc, result.workload, layer.name, layer.op, *(getattr(layer, d) for d in sizes))
            times = (f"{one.seconds_critical * 1e6 / n:.6g}", f"{one.energy_j * 1e6 / n:.6g}")
            writer.writerow((*about, one.macs // n, " ".join(one.cores), *times))
    return out.getvalue()


__all__ = ["NamesFile", "astra_sim", "llmservingsim", "plain", "read_names"]

"""What `cosoc doctor` looks at: versions, extras, folders that must be writable, the engine, and a self-test.

The self-test simulates a network of three layers with both engines and holds what comes out against `selftest.json`,
which comes with this version: `python -m cosoc.doctor` rewrites it, and a test says whether it is current.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosoc import __version__
from cosoc.sim import trust
from cosoc.sim.errors import Deadlock, InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

EXTRAS = {
    "data": "the data set digits, images in folders",
    "onnx": "reading ONNX files",
    "baselines": "other optimisers to compare with",
    "cluster": "campaigns on a Dask cluster",
}
SOC = "diana"
NETWORK = """\
name: selftest
input: {c: 3, iy: 16, ix: 16}
outputs: [dense]
layers:
- {name: conv, op: conv, inputs: [input], k: 16, c: 3, oy: 16, ox: 16, iy: 16, ix: 16, fy: 3, fx: 3, pad_y: 1, pad_x: 1}
- {name: pool, op: avg_pool, inputs: [conv], k: 16, c: 16, iy: 16, ix: 16, fy: 16, fx: 16}
- {name: dense, op: conv, inputs: [pool], k: 10, c: 16}
"""
CLOSE = 1e-12  # relative; energies are sums of floats


def examined() -> dict[str, Any]:
    """What was found, as plain data; `problems` says in a line each what keeps cosoc from working."""
    packages, extras = _packages()
    found: dict[str, Any] = {
        "cosoc": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "where": str(Path(__file__).parent),
        "packages": packages,
        "extras": extras,
        "trust": trust.trusted(),
        "folders": _folders(),
        "engine": _engine(),
        "self_test": _self_test(),
    }
    return found | {"problems": list(_problems(found))}


def _packages() -> tuple[dict[str, str | None], dict[str, dict[str, Any]]]:
    """Versions of what cosoc needs, None where it is missing; and the same of each extra, with what installs it."""
    needed: dict[str, str | None] = {}
    extras: dict[str, dict[str, Any]] = {
        name: {"for": what, "packages": {}, "present": True, "install": f"pip install 'cosoc[{name}]'"}
        for name, what in EXTRAS.items()
    }
    try:
        lines = importlib.metadata.requires("cosoc") or []
    except importlib.metadata.PackageNotFoundError:  # used from a folder, without an installation
        return needed, extras
    for line in lines:
        name, extra = re.split(r"[^\w.-]", line)[0], re.search(r"extra == ['\"](\w+)['\"]", line)
        if extra is None:
            needed[name] = _version(name)
        elif extra[1] in extras:
            one = extras[extra[1]]
            one["packages"][name] = _version(name)
            one["present"] = one["present"] and one["packages"][name] is not None
    return needed, extras


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folders() -> dict[str, dict[str, Any]]:
    """Where compiled kernels, fonts, and what is temporary are kept, and whether they can be: the first two are made
    anew in every process otherwise."""
    places: dict[str, Path | None] = {}
    try:
        places["temporary files"] = Path(tempfile.gettempdir())
    except OSError:
        places["temporary files"] = None
    from cosoc.sim.machine import engine_fast

    places["compiled kernels"] = engine_fast.cache_folder()
    import matplotlib

    places["fonts"] = Path(matplotlib.get_cachedir())
    return {
        what: {"path": str(path) if path else None, "writable": path is not None and _writable(path)}
        for what, path in places.items()
    }


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError:
        return False
    return True


def _engine() -> dict[str, Any]:
    from cosoc.sim.machine import engine_fast

    return {"compiled": engine_fast.is_compiled(), "jit": engine_fast.can_compile()}


def simulated() -> dict[str, dict[str, Any]]:
    """What each engine makes of the self-test: ticks, energy_j; or error."""
    from cosoc.sim.files.catalog import find_soc
    from cosoc.sim.files.mapping_file import find_mapping
    from cosoc.sim.files.workload_file import load_workload
    from cosoc.sim.simulate import simulate

    soc, workload = find_soc(SOC), load_workload(Path("selftest"), NETWORK)
    mapping = find_mapping("default", workload, soc)
    out: dict[str, dict[str, Any]] = {}
    for engine in ("fast", "reference"):
        try:
            result = simulate(soc, workload, mapping, engine=engine)
        except (InputError, Deadlock) as error:
            out[engine] = {"error": str(error)}
            continue
        out[engine] = {"ticks": result.ticks, "energy_j": result.energy_j}
    return out


def _self_test() -> dict[str, Any]:
    start = time.perf_counter()
    found, wanted = simulated(), json.loads(_stored().read_text(encoding="utf-8"))
    return {"wanted": wanted, "found": found, "seconds": time.perf_counter() - start}


def _stored() -> Path:
    return Path(str(resources.files("cosoc"))) / "selftest.json"


def _problems(found: dict[str, Any]) -> Any:
    missing = [name for name, version in found["packages"].items() if version is None]
    if missing:
        yield f"missing: {', '.join(missing)}; pip install cosoc"
    yield from (
        f"{what}: {one['path'] or 'no folder'} cannot be written"
        for what, one in found["folders"].items()
        if not one["writable"]
    )
    test = found["self_test"]
    for engine, figures in test["found"].items():
        if "error" in figures:
            yield f"self-test, {engine} engine: {figures['error']}"
            continue
        for key, wanted in test["wanted"].items():
            same = figures[key] == wanted
            if isinstance(wanted, float):
                same = math.isclose(figures[key], wanted, rel_tol=CLOSE)
            if not same:
                yield f"self-test, {engine} engine: {key} is {figures[key]}, and {wanted} where this version was made"


def table(found: dict[str, Any]) -> RenderableType:
    """What was found, for a terminal."""
    from rich.console import Group
    from rich.table import Table

    out = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    for _ in range(3):
        out.add_column(overflow="fold")
    out.add_row("cosoc", found["cosoc"], found["where"])
    out.add_row("python", found["python"], found["system"])
    for name, version in found["packages"].items():
        out.add_row(name, version or "missing", "")
    for name, one in found["extras"].items():
        have = ", ".join(f"{package} {version}" for package, version in one["packages"].items() if version)
        out.add_row(f"[{name}]", have if one["present"] else "not installed", one["for"])
        if not one["present"]:
            out.add_row("", "", one["install"])
    for what, one in found["folders"].items():
        out.add_row(what, "writable" if one["writable"] else "not writable", one["path"] or "")
    engine, test = found["engine"], found["self_test"]
    state = "compiled" if engine["compiled"] else "will be compiled, once" if engine["jit"] else "cannot be compiled"
    out.add_row("fast engine", state, "" if engine["jit"] else "NUMBA_DISABLE_JIT is set")
    out.add_row("trust", "always" if found["trust"] else "by --trust", f"{trust.VARIABLE}, for code that files name")
    failed = any(line.startswith("self-test") for line in found["problems"])
    out.add_row("self-test", "differs" if failed else "as it should be", f"{test['seconds']:.1f} s, both engines")
    return Group(out, *(f"problem: {line}" for line in found["problems"]))


def main() -> None:
    """Rewrite the stored figures, by the reference engine."""
    _stored().write_text(json.dumps(simulated()["reference"], indent=1) + "\n", encoding="utf-8")
    print(_stored(), file=sys.stdout)


if __name__ == "__main__":
    main()

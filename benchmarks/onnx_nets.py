"""What becomes of the ONNX networks that are at hand: layers, MACs, what the host must run, simulated time.

    python benchmarks/onnx_nets.py [FILE.onnx ...] [--soc NAME ...] [--quick] [--json FILE]

Without files: the networks that come with the package onnx, and those of zigzag-dse where that is installed. --quick
takes the three smallest. There is no randomness, hence no seed.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.onnx_file import from_onnx
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import default_core

FOLDERS = {"onnx": "backend/test/data/light", "zigzag": "inputs/workload"}


def found() -> list[Path]:
    """The files in installed packages, which are not imported."""
    out = []
    for package, folder in FOLDERS.items():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            out += sorted((Path(place) / folder).glob("*.onnx"))
    return out


def figures(path: Path, socs: list[SoC]) -> dict[str, Any]:
    """One network on all SoCs; what is refused carries its reason instead."""
    import onnx

    row: dict[str, Any] = {"file": path.name, "nodes": len(onnx.load(path, load_external_data=False).graph.node)}
    start = time.perf_counter()
    try:
        network = from_onnx(path)
    except InputError as error:
        return row | {"refused": str(error).removeprefix(f"{path}: ")}
    row |= {"read_s": time.perf_counter() - start, "layers": len(network.layers), "macs": network.macs}
    return row | {"params": network.params, "socs": {soc.name: on(soc, network) for soc in socs}}


def on(soc: SoC, network: Workload) -> dict[str, Any]:
    """Simulated, every layer on its default core."""
    try:
        host = Counter(layer.op for layer in network if default_core(layer, soc) == soc.host)
        result = simulate(soc, network, named_mapping("default", network, soc))
    except InputError as error:
        return {"refused": str(error)}
    on_host = sum(layer.macs for layer in network if default_core(layer, soc) == soc.host)
    return {"host": dict(host), "host_macs": on_host, "ms": result.seconds * 1e3, "uj": result.energy_j * 1e6}


def table(rows: list[dict[str, Any]]) -> Table:
    """A line a network and SoC."""
    out = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("network", "nodes", "layers", "M MAC", "SoC", "ms", "M MAC on host", "on the host, or why not"):
        out.add_column(name, justify="right" if name in ("nodes", "layers", "M MAC", "ms", "M MAC on host") else "left")
    for row in rows:
        head = [row["file"], str(row["nodes"])]
        if "refused" in row:
            out.add_row(*head, "", "", "", "", "", row["refused"])
        for soc, got in row.get("socs", {}).items():
            sizes = [str(row["layers"]), f"{row['macs'] / 1e6:.1f}", soc]
            if "refused" in got:
                out.add_row(*head, *sizes, "", "", got["refused"])
            else:
                host = ", ".join(f"{n} {op}" for op, n in sorted(got["host"].items()))
                out.add_row(*head, *sizes, f"{got['ms']:.1f}", f"{got['host_macs'] / 1e6:.1f}", host)
    return out


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.onnx")
    parser.add_argument("--soc", action="append", metavar="NAME", help="may be repeated [default: diana]")
    options = parser.parse_args()
    state()
    files = options.files or found()
    if options.quick:
        files = sorted(files, key=lambda path: path.stat().st_size)[:3]
    socs = [find_soc(name) for name in options.soc or ["diana"]]
    rows = [figures(path, socs) for path in files]
    Console(width=150).print(table(rows))
    write_json(options.json, {"quick": options.quick, "networks": rows})


if __name__ == "__main__":
    main()

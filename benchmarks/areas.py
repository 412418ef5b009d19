"""How far are areas and powers by size (socs/technology) from those of chips, and what do sweeps over sizes find now?

    python benchmarks/areas.py [--quick] [--json FILE]

Published areas beside what the laws have of the same parts; powers that SoC files have from silicon beside what the
laws have of a cycle in which the core works; and sweeps over sizes of DIANA's digital array and of Gemmini's: time,
energy and area of ResNet-8 and ResNet-18, with the figures of the sizes, and the energy with those of the file whatever
the sizes. There is no randomness, hence no seed; --quick leaves
ResNet-18 and the largest sizes out.
"""

from __future__ import annotations

from typing import Any

from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.sim.files.catalog import find_soc, find_technology
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.technology import areas_mm2, peaks_mw
from cosoc.sim.price import Simulated
from cosoc.sim.simulate import engine_run

# Part of a chip, as (SoC, technology, names of its parts): mm2, and where that is from. Recalled: from the paper,
# without it at hand.
AREAS: dict[str, tuple[str, str, tuple[str, ...], float, str]] = {
    "Gemmini: array of 16 x 16": ("gemmini", "22nm", ("cores.gemmini",), 0.116, "recalled: DAC 2021"),
    "Gemmini: scratchpad, 256 KB": ("gemmini", "22nm", ("memories.scratchpad",), 0.544, "recalled: DAC 2021"),
    "Gemmini: accumulator, 64 KB": ("gemmini", "22nm", ("memories.accumulator",), 0.146, "recalled: DAC 2021"),
    "Gemmini: Rocket, its caches and FPU": ("gemmini", "22nm", ("cores.host",), 0.171, "recalled: DAC 2021"),
    "Darkside: cluster": (
        "darkside", "65nm",
        ("memories.tcdm", "memories.cluster_weights", "memories.engine_weights", "memories.tensor_weights",
         "links.tcdm", "cores.depthwise_engine", "cores.cluster", "cores.tensor"),
        3.85, "recalled: chip paper",
    ),
    "DIANA: all that is described, of a die with pads": ("diana", "22nm", (), 10.24, "recalled: die, chip paper"),
}  # fmt: skip
# Cores whose power while they work a SoC file has from silicon.
POWERS = (("diana", "digital"), ("darkside", "depthwise_engine"), ("darkside", "cluster"), ("darkside", "tensor"),
          ("gap9", "ne16"), ("gap9", "cluster"))  # fmt: skip
# Sizes of a sweep, by SoC: mapping, path, values.
SWEEPS = {
    "diana": ("all_8bit", "cores.digital.rows", (8, 16, 32, 64, 128, 256, 512)),
    "gemmini": ("default", "cores.gemmini.side", (4, 8, 16, 32, 64, 128)),
}
NETWORKS = ("resnet8", "resnet18")


def areas() -> list[dict[str, Any]]:
    """mm2 by the laws and published, of each part, and their ratio."""
    out = []
    for what, (name, node, parts, published, source) in AREAS.items():
        found = areas_mm2(find_soc(name, {"technology": node}), find_technology(node))
        laws = sum(found[part] for part in parts or found)
        out.append({"what": what, "laws_mm2": laws, "published_mm2": published, "ratio": laws / published,
                    "source": source})  # fmt: skip
    return out


def powers() -> list[dict[str, Any]]:
    """mW by the laws and as the SoC file has it from silicon, of each core, and their ratio."""
    out = []
    for name, core in POWERS:
        soc = find_soc(name)
        laws, file = peaks_mw(soc, find_technology(str(soc.technology)))[core], soc.cores[core].power_mw
        out.append({"soc": name, "core": core, "laws_mw": laws, "file_mw": file, "ratio": laws / file})
    return out


def sweep(name: str, network: str, largest: int) -> list[dict[str, Any]]:
    """ms, mJ and mm2 at each size up to the largest: `energy_mj` with the figures of the sizes, `free_mj` with those of
    the file whatever the sizes."""
    mapping, path, sizes = SWEEPS[name]
    out = []
    for size in sizes:
        if size > largest:
            continue
        soc = find_soc(name, {path: str(size)})
        time, energy = _priced(soc, network, mapping)
        free = soc.model_copy(update=_stated(find_soc(name), soc))
        out.append({"size": size, "latency_ms": 1e3 * time, "energy_mj": 1e3 * energy, "area_mm2": soc.area_mm2,
                    "free_mj": 1e3 * _priced(free, network, mapping)[1]})  # fmt: skip
    return out


def _stated(file: SoC, soc: SoC) -> dict[str, Any]:
    """Powers and energies of the file in place of those of the sizes."""
    cores = {name: core.model_copy(update={"power_mw": file.cores[name].power_mw}) for name, core in soc.cores.items()}
    return {"cores": cores, "memories": file.memories, "links": file.links,
            "base_power_mw": file.base_power_mw, "static_power_mw": file.static_power_mw}  # fmt: skip


def _priced(soc: SoC, network: str, mapping: str) -> tuple[float, float]:
    """Seconds and joules of an inference."""
    workload = find_workload(network)
    figures = Simulated(soc, engine_run("fast")).figures(find_mapping(mapping, workload, soc), workload)
    return figures.latency_s, figures.energy_j


def best(rows: list[dict[str, Any]], key: str) -> int:
    """The size of least energy by a key."""
    found: int = min(rows, key=lambda row: row[key])["size"]
    return found


def main() -> None:
    options = arguments(__doc__).parse_args()
    state()
    console = Console()
    found: dict[str, Any] = {"quick": options.quick, "areas": areas(), "powers": powers(), "sweeps": {}}
    table = Table("part", "laws, mm2", "published, mm2", "ratio", "source")
    for row in found["areas"]:
        table.add_row(row["what"], f"{row['laws_mm2']:.3f}", f"{row['published_mm2']:.3f}", f"{row['ratio']:.2f}",
                      row["source"])  # fmt: skip
    console.print(table)
    table = Table("core", "laws, mW", "from silicon, mW", "ratio")
    for row in found["powers"]:
        table.add_row(f"{row['soc']} {row['core']}", f"{row['laws_mw']:.1f}", f"{row['file_mw']:.1f}",
                      f"{row['ratio']:.2f}")  # fmt: skip
    console.print(table)
    for name in SWEEPS:
        for network in NETWORKS[:1] if options.quick else NETWORKS:
            rows = sweep(name, network, 32 if options.quick else 512)
            found["sweeps"][f"{name} {network}"] = rows
            table = Table("size", "ms", "mJ", "mJ, sizes free", "mm2", title=f"{name} {network}: {SWEEPS[name][1]}")
            for row in rows:
                table.add_row(str(row["size"]), *(f"{row[key]:.4g}" for key in
                              ("latency_ms", "energy_mj", "free_mj", "area_mm2")))  # fmt: skip
            console.print(table)
            console.print(f"least energy at {best(rows, 'energy_mj')}; were sizes free, at {best(rows, 'free_mj')}")
    write_json(options.json, found)


if __name__ == "__main__":
    main()

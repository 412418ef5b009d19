"""Are links shared as closed forms say, is energy charged where a byte was served, does any upgrade harm?

    python benchmarks/memory_truth.py [--quick] [--seed N] [--seconds S] [--json FILE]

In the JSON file:

- sharing: {case: {ours, closed_form}} of small machines and of dynamic memories (`sharing.py`).
- three_cores: {core: {before, before_closed_form, ours, closed_form}}, bytes a cycle of three unlike cores on one
  memory: as a burst held its route for the slowest server of it, emulated by a program as no engine has that rule any
  more, and as today.
- slower_upgrades: what takes more than 1 % longer on a chip with more of something, each with its cause (`upgrades.py`;
  --quick: of Darkside and a board, with one network).
- energy_identity: {run: relative error}. Of SoC/network under its default mapping, the largest error of: levels against
  the whole; each link's energy against the bytes that it carried times its figure; behind a cached mover the DRAM's
  energy against the bytes on its link times its figure, and the last-level cache's against what it served.
- levels_j: {run: {level: J}}, of the networks on Gemmini; asked_bytes, dram_bytes: between its L2 and its memories,
  which all were charged as the DRAM's before, and over the DRAM's link.
- gains: {network: {energy, edp}}: by how much of what the library's default tiles cost the best searched tiles cost
  less (0.1: a tenth), on Gemmini, both simulated, by the same simulator, up to the same boundary. gains_about: their
  figures, and the seconds that the search had.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import arguments, state, write_json
from sharing import CORES, MEMORY, dram, sharing, three_cores
from upgrades import NETWORKS as NETWORKS_UPGRADED
from upgrades import slower_upgrades

from cosoc.search.spaces.tile_search import TileConfig, search_tiles
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import DEFAULT, named_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.cached_terms import cached_cores
from cosoc.sim.movers.links import link_level
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate

ARRAY = "gemmini"
UPGRADED = ("diana", "darkside", "gemmini", "hetero", "isaac", "rpi4")
QUICK_NETWORKS, NETWORKS = ("resnet8", "resnet18"), ("resnet18", "resnet50", "mobilenet_v1", "bert_base_block")
QUICK_RUNS, RUNS = ("resnet8",), ("resnet8", "dscnn", "resnet18", "mobilenet_v1", "bert_base_block")


def default_run(soc: SoC, network: str) -> Result:
    """A network under the default mapping."""
    workload = find_workload(network)
    return simulate(soc, workload, named_mapping(DEFAULT, workload, soc))


def shared() -> dict[str, Any]:
    """Links and memories against closed forms, and three cores before servers granted by themselves and today."""
    found, cores = sharing() | dram(), three_cores()
    worst = max(found, key=lambda case: abs(found[case]["ours"] / found[case]["closed_form"] - 1))
    off = found[worst]["ours"] / found[worst]["closed_form"] - 1
    print(f"sharing of links against closed forms: {len(found)} cases, worst {off:+.2%} ({worst})")
    for key, when in (("before", "a burst held its route for the slowest server"), ("ours", "today")):
        rates = ", ".join(f"{one[key]:.1f} on its link of {CORES[name]}" for name, one in cores.items())
        total = sum(one[key] for one in cores.values())
        print(f"three cores on a memory of {MEMORY} B/cycle, {when}: {rates}; {total:.1f} in all")
    return {"sharing": found, "three_cores": cores}


def slower(quick: bool) -> list[str]:
    """Upgrades that harm, with their causes."""
    names, networks = (("darkside", "rpi4"), ("resnet8",)) if quick else (UPGRADED, NETWORKS_UPGRADED)
    tried, out = 0, list[str]()
    for name in names:
        some, found = slower_upgrades(find_soc(name), networks)
        tried, out = tried + some, [*out, *map(str, found)]
    print(f"upgrades: {tried} tried, {len(out)} more than 1 % slower", *out, sep="\n  ", flush=True)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Energy by the counters that time


def identity_error(soc: SoC, result: Result) -> float:
    """The largest relative error of what the levels are charged against what they served."""
    pairs = [(sum(result.by_level.values()), result.energy_j)]
    servers = {part.server: part.bytes for part in result.by_server}
    memories = {part.memory: part.read_bytes + part.written_bytes for part in result.by_memory}
    for name, link in soc.links.items():
        by_hand = servers.get(name, 0) * link.energy_pj_per_byte * 1e-12
        pairs.append((result.by_level.get(link_level(name), 0.0), by_hand))
    for _, mover in cached_cores(soc).values():
        for name, served in ((soc.main_memory, servers[mover.dram_link]), (mover.llc, memories[mover.llc])):
            by_hand = served * soc.memories[name].access_pj_per_byte * 1e-12
            pairs.append((result.by_level.get(name, 0.0), by_hand))
    return max(abs(found - by_hand) / max(abs(by_hand), 1e-30) for found, by_hand in pairs if found or by_hand)


def energy_identity(quick: bool) -> dict[str, float]:
    """Of every SoC and some networks, but those that its memories cannot hold."""
    out = {}
    for name in list_socs():
        soc = find_soc(name)
        for network in QUICK_RUNS if quick else RUNS:
            try:
                result = default_run(soc, network)
            except InputError as error:
                print(f"left out: {error}")
                continue
            out[f"{name}/{network}"] = identity_error(soc, result)
    worst = max(out, key=lambda run: out[run])
    print(f"energy by level against bytes served: {len(out)} runs, worst {out[worst]:.1e} ({worst})")
    return out


def levels(quick: bool) -> dict[str, Any]:
    """Where the energy of Gemmini's default tiles goes."""
    soc = find_soc(ARRAY)
    _, mover = next(iter(cached_cores(soc).values()))
    print(f"{ARRAY}, default tiles: MB asked of the L2, MB over the DRAM's link, uJ by level")
    found: dict[str, Any] = {"levels_j": {}, "asked_bytes": {}, "dram_bytes": {}}
    for network in QUICK_NETWORKS if quick else NETWORKS:
        result = default_run(soc, network)
        servers = {part.server: part.bytes for part in result.by_server}
        found["levels_j"][network] = result.by_level
        found["asked_bytes"][network] = servers[mover.return_link]
        found["dram_bytes"][network] = servers[mover.dram_link]
        told = sorted(result.by_level.items(), key=lambda item: -item[1])
        moved = f"{servers[mover.return_link] / 1e6:8.2f} {servers[mover.dram_link] / 1e6:8.2f}"
        print(f"  {network:16s} {moved}  " + ", ".join(f"{level} {joules * 1e6:,.0f}" for level, joules in told))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# What a search gains


def gains(networks: tuple[str, ...], seconds: float, seed: int) -> dict[str, Any]:
    """Searched tiles against the library's."""
    soc = find_soc(ARRAY)
    out: dict[str, Any] = {"gains": {}, "gains_about": {}}
    print(f"{ARRAY}, {soc.energy_boundary}: best searched tiles (EDP, {seconds:g} s) against the library's")
    for network in networks:
        workload = find_workload(network)
        given = named_mapping(DEFAULT, workload, soc)
        with tempfile.TemporaryDirectory() as folder:
            config = TileConfig(soc, workload, given, "edp", seconds, seed, Path(folder) / "run", fusion=True)
            found = search_tiles(config, lambda done, total, what: None)
        default = next(one.simulated for one in found.found if one.name == DEFAULT)
        best = found.best.simulated
        gain = {"energy": 1 - best.energy_j / default.energy_j, "edp": 1 - best.edp / default.edp}
        out["gains"][network] = gain
        out["gains_about"][network] = {
            "default": default.plain(), "best": best.plain(), "seconds": seconds, "boundary": soc.energy_boundary
        }  # fmt: skip
        time = 1 - best.latency_s / default.latency_s
        print(f"  {network:16s} energy {gain['energy']:.1%}, time {time:.1%}, EDP {gain['edp']:.1%}", flush=True)
    return out


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--seconds", type=float, help="of each search [default: 60; with --quick 4]")
    asked = parser.parse_args()
    state(asked.seed)
    seconds = asked.seconds or (4.0 if asked.quick else 60.0)
    networks = QUICK_NETWORKS if asked.quick else NETWORKS
    sections: tuple[Callable[[], dict[str, Any]], ...] = (
        shared,
        lambda: {"energy_identity": energy_identity(asked.quick)},
        lambda: {"slower_upgrades": slower(asked.quick)},
        lambda: levels(asked.quick),
        lambda: gains(networks, seconds, asked.seed),
    )
    figures: dict[str, Any] = {}
    for section in sections:
        figures |= section()
    write_json(asked.json, figures)


if __name__ == "__main__":
    main()

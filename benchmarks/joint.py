"""Do cores, tiles and fusion chosen together cost less than one after the other, in either order, at equal time?

    python benchmarks/joint.py [--quick] [--json FILE] [--seconds S]

Each way has S seconds of processor time (one thread): together all of them; one after the other half of them for each
choice, the second beginning with what the first has found. Who has nothing left to try ends before. `first` is the
outer part of the chain (channels, operators, tiles before fusion): under the tiler's tiles for whatever shares it
tries; as second choice it keeps the tiles of the first where they fit. Values are of the objective, simulated as whole
networks; `bound` is a value that no estimate in the whole space is below (its proven optimum, where layers wait for one
another); with fused pieces behind a DMA there is none. Cases of splits come from `joint_splits.py`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, state, write_json

from cosoc.search.exact.tiles import best_plan
from cosoc.search.loop import Asked, search
from cosoc.search.oracle import Oracle
from cosoc.search.spaces.joint import JointSpace, Outer
from cosoc.search.spaces.sections import Options, Section, mapping_of, sections_of
from cosoc.search.spaces.share_tiles import Tiles
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.targets import Target, peak
from cosoc.sim.figures import objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import Extent, Runtime
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload


@dataclass(frozen=True)
class Case:
    """A chip with some values of its file, a network, and what is chosen. peak: the most that its main memory may
    hold."""

    soc: str
    network: str
    chain: tuple[str, ...]
    objective: str
    runtime: Runtime = "overlapped"
    values: Mapping[str, str] = field(default_factory=dict)
    peak: str | None = None
    quick: bool = False

    @property
    def name(self) -> str:
        """What a table calls it."""
        short = [f"{path.split('.')[1]} {int(value) // 1024} KB" for path, value in self.values.items()]
        bound = [f"peak {self.peak}"] if self.peak else []
        return ", ".join([self.soc, self.network, "+".join(self.chain), self.objective, self.runtime, *short, *bound])


L1, L2 = "memories.l1.size_bytes", "memories.l2.size_bytes"
CORES, ALL = ("channels", "tiles"), ("channels", "tiles", "fusion")
CASES = (
    Case("diana", "digits_cnn", CORES, "energy", values={L1: "14336", L2: "98304"}, quick=True),
    Case("diana", "digits_cnn", CORES, "latency", peak="20KB", quick=True),
    Case("gemmini", "digits_cnn", ("tiles", "fusion"), "edp", quick=True),
    Case("gemmini", "resnet8", ("tiles", "fusion"), "edp"),
    Case("diana", "resnet8", CORES, "edp", "serial", values={L1: "14336", L2: "131072"}),
    Case("diana", "resnet8", CORES, "energy", values={L1: "22528", L2: "131072"}),
    Case("darkside", "dscnn", CORES, "edp", values={"memories.tcdm.size_bytes": "24576"}),
    Case("hetero", "digits_cnn", CORES, "edp", values={L1: "14336"}),
    Case("diana", "resnet8", CORES, "latency", peak="150KB"),
    Case("diana", "resnet8", ALL, "edp", values={L1: "38912", L2: "131072"}),
)
WAYS = ("joint", "first_then_second", "second_then_first")


def silent(done: int, total: int, what: str) -> None:
    """The table says how far it is."""


def found(space: JointSpace | TileSpace, soc: SoC, workload: Workload, case: Case) -> tuple[NetworkMapping, Any]:
    """The best mapping of a search, and its result."""
    bounds = bounds_of(case)
    with tempfile.TemporaryDirectory() as folder:
        asked = Asked(case.objective, 0, Path(folder) / "run", {}, targets=bounds)
        result = search(space, Oracle(soc, workload), asked, silent)
        return load_mapping(Path(folder) / "run" / result.best.mapping, workload, soc), result


def bounds_of(case: Case) -> tuple[Target, ...]:
    """The targets of a case."""
    return () if case.peak is None else (peak(case.peak),)


def by_cores(case: Case, seconds: float) -> dict[str, Any]:
    """The three ways of a chain that begins with channels."""
    soc, workload = find_soc(case.soc, dict(case.values)), find_workload(case.network)
    default = named_mapping("default", workload, soc, case.runtime)
    spent, values = dict[str, float](), dict[str, float]()

    def space(outer: Outer, tiles: Tiles, given: NetworkMapping, budget_s: float, fusion: bool = False) -> JointSpace:
        return JointSpace(
            soc, workload, outer, case.objective, given, tiles, fusion, bounds_of(case), budget_s,
            clock=time.process_time,
        )  # fmt: skip

    def cut(given: NetworkMapping, budget_s: float) -> JointSpace | TileSpace:
        """Tiles, and pieces, of cores that are given."""
        if "fusion" not in case.chain:
            return space("tiles", "searched", given, budget_s)
        return TileSpace(
            soc, workload, case.objective, given, budget_s, max_group=4, clock=time.process_time,
            targets=bounds_of(case),
        )  # fmt: skip

    def timed(name: str, stages: Sequence[Callable[[NetworkMapping], JointSpace | TileSpace]]) -> Any:
        begun, given, result = time.process_time(), default, None
        for stage in stages:
            given, result = found(stage(given), soc, workload, case)
        spent[name], values[name] = time.process_time() - begun, result.value(result.best.simulated)
        return result

    half = seconds / 2
    joint = timed("joint", [lambda given: space("channels", "searched", given, seconds, "fusion" in case.chain)])
    timed("first_then_second", [lambda given: space("channels", "tiler", given, half), lambda given: cut(given, half)])
    timed("second_then_first", [lambda given: cut(given, half), lambda given: space("channels", "kept", given, half)])
    bound = None if joint.optimum is None else joint.optimum.bound
    estimated = None if joint.best.estimated is None else joint.value(joint.best.estimated)
    return {**values, "bound": bound, "joint_estimated": estimated, "seconds": spent}


def by_pieces(case: Case) -> dict[str, Any]:
    """Tiles and fused pieces behind a cached mover: exact each way, from the library's tiles. Fusion with tiles kept:
    pieces that go by the tile that their last layer has; tiles with pieces kept: all that these may be."""
    soc, workload = find_soc(case.soc, dict(case.values)), find_workload(case.network)
    default = named_mapping("default", workload, soc)
    aim, n = objective(case.objective), len(workload.layers)
    spent, values = dict[str, float](), dict[str, float]()

    def solved(given: Sequence[Section], tiles: bool, pieces: bool) -> tuple[Section, ...]:
        space = TileSpace(soc, workload, case.objective, default)
        by_layer = {i: section.plans[i - section.first] for section in given for i in range(*section.span)}
        kept = {section.span: section for section in given}
        options = {}
        for first, last in space.spans():
            if not pieces and (first, last + 1) not in kept:
                continue
            own = space.options(first, last)
            if own is None:
                continue
            if not tiles and by_layer[last].is_tiled:
                own = of_tile(own, first, last, kept.get((first, last + 1)), by_layer[last].tile, space)
            if own is not None:
                options[first, last + 1] = own
        return best_plan(n, options, aim, items=workload.n).sections

    def of_tile(
        own: Options, first: int, last: int, kept: Section | None, tile: Extent, space: TileSpace
    ) -> Options | None:
        """Those of a piece that go by a tile of the last layer's rows and columns; of a single layer, what it is."""
        if kept is not None:
            cost = space.cost(kept)
            return Options(np.array([[cost.energy_j, cost.seconds]]), lambda choice: kept)
        array = next(array for array in space.arrays.values() if last in array.shapes)
        rows = array.fused_candidates(first, last)
        rows = rows[array.fused_fits(first, last, rows)]
        at = np.flatnonzero((rows[:, 0] == tile.oy) & (rows[:, 1] == tile.ox))
        return Options(own.points[at], lambda choice: own.section(int(at[choice]))) if len(at) else None

    def timed(name: str, stages: Sequence[tuple[bool, bool]]) -> None:
        begun, sections = time.process_time(), sections_of(space_given, workload)
        for tiles, pieces in stages:
            sections = solved(sections, tiles, pieces)
        mapping = mapping_of(sections, space_given, workload)
        values[name] = float(aim(Oracle(soc, workload).simulate(mapping)))
        spent[name] = time.process_time() - begun

    whole = TileSpace(soc, workload, case.objective, default)
    space_given = whole.given
    timed("joint", [(True, True)])
    timed("first_then_second", [(True, False), (False, True)])
    timed("second_then_first", [(False, True), (True, False)])
    optimum = whole.optimum_plan()
    return {
        **values, "bound": optimum.value * optimum.bound, "joint_estimated": optimum.value, "seconds": spent,
    }  # fmt: skip


def said(found: Mapping[str, Any]) -> str:
    """A case in a line."""
    joint, first, second = (found[way] for way in WAYS)
    gap = f"{joint / found['bound']:.4f}" if found["bound"] is not None else "no bound"
    took = ", ".join(f"{found['seconds'][way]:.1f}" for way in WAYS)
    return f"{first / joint:.4f} {second / joint:.4f}; {gap}; {took}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, for each way [default: 60]")
    options = parser.parse_args()
    state()
    print("values over the joint one: first then second, second then first; joint over bound; seconds of each")
    out: dict[str, Any] = {}
    cases = [case for case in CASES if case.quick or not options.quick]
    for done, case in enumerate(cases):
        print(f"{done}/{len(cases)} {case.name}", flush=True)
        seconds = min(options.seconds, 10.0) if options.quick else options.seconds
        out[case.name] = by_pieces(case) if case.chain[0] == "tiles" else by_cores(case, seconds)
        print(f"    {said(out[case.name])}", flush=True)
        write_json(options.json, out)  # what is done stands there, should the rest be broken off
    if find_spec("joint_splits") is not None:
        out |= import_module("joint_splits").cases(options.quick)
    write_json(options.json, out)


if __name__ == "__main__":
    main()

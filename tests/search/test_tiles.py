"""Are tiles and fusion searched from the proven optimum, by the clock, on every chip, and reported as simulated?"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosoc.cli import main
from cosoc.search.fit import Made, fit, ticks_of
from cosoc.search.oracle import Oracle
from cosoc.search.runfolder import RunFolder
from cosoc.search.spaces.sections import Cost, Section, mapping_of, sections_of
from cosoc.search.spaces.tile_search import TileConfig, search_tiles
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.spaces.tiles_cached import CachedTiles
from cosoc.search.spaces.tiles_dma import DmaTiles, orders
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import Memory, SoC
from cosoc.sim.model.tiles import channels_read, tiled
from cosoc.sim.model.workload import Layer, Workload, batched
from cosoc.sim.movers.cached_terms import Machine
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import FACTORS, Theta
from cosoc.sim.tiler import channel_tiles, complete, cuts, homes_of, planned_ticks, tile_problems

DIGITS = find_workload("digits_cnn")
# A chip whose cores compute from the main memory has nothing but fusion to choose, for the peak.
CHIPS = [(soc, aim) for soc in ("diana", "darkside", "gemmini") for aim in ("edp", "peak")] + [("isaac", "peak")]
C3 = {"oy": 8, "ox": 8, "iy": 8, "ix": 8, "fy": 3, "fx": 3, "pad_y": 1, "pad_x": 1}
# Three layers, the last two of which can stay on the chip; the tiles of the second are not all of it.
SMALL = Workload(
    "small",
    (16, 8, 8),
    (
        Layer("a", "conv", ("input",), 24, 16, **C3),
        Layer("b", "conv", ("a",), 32, 24, **C3),
        Layer("c", "add", ("b", "b"), 32, 32, oy=8, ox=8, iy=8, ix=8),
    ),
    ("c",),
)


def quiet(done: int, total: int, what: str) -> None:
    """No progress."""


GRID = {"oy": 12, "ox": 12, "iy": 12, "ix": 12}
# Groups, taps that lie apart, groups of points, and one dimension.
ODD = Workload(
    "odd",
    (16, 12, 12),
    (
        Layer("a", "conv", ("input",), 32, 16, **GRID, fy=3, fx=3, pad_y=1, pad_x=1, groups=4),
        Layer("b", "conv", ("a",), 32, 32, **GRID, fy=3, fx=3, pad_y=2, pad_x=2, dilation_y=2, dilation_x=2),
        Layer("c", "conv", ("b",), 48, 32, **GRID, groups=2),
        Layer("d", "conv", ("c",), 24, 48, ox=72, ix=144, fx=3, pad_x=1, stride_x=2),
    ),
    ("d",),
)  # fmt: skip


def space_of(soc: SoC, net: Workload, aim: str = "edp", **changes: Any) -> TileSpace:
    return TileSpace(soc, net, aim, Mapping("default", "overlapped"), **changes)


def config_of(soc: str, net: Workload, out: Path, **changes: Any) -> TileConfig:
    return TileConfig(find_soc(soc), net, Mapping("default", "overlapped"), out=out, **({"fusion": True} | changes))


def searched(soc: str, net: Workload, out: Path, **changes: Any) -> dict[str, Any]:
    return search_tiles(config_of(soc, net, out, **changes), quiet).content()


def best_of(content: dict[str, Any]) -> dict[str, Any]:
    return next(p for p in content["points"] + content["known"] if p["name"] == content["best"])


# ---------------------------------------------------------------------------------------------- what is chosen among


def every_tiling(space: DmaTiles, layer: Layer) -> list[float]:
    """The tiler's own estimate of every legal tiling, one after the other: seconds."""
    soc, given, homes = space.soc, space.given.layers[layer.name], homes_of(space.workload, space.given, space.soc)
    steps = channel_tiles(layer.k, soc.cores[given.parts[0].core].channel_step)
    reads, out = channels_read(layer), []
    for k, oy, ox, c in itertools.product(steps, cuts(layer.oy), cuts(layer.ox), cuts(reads)):
        for order in orders(layer):
            plan = tiled(layer, given, soc, (k,), oy, ox, order, 0 if c == reads else c)
            if not tile_problems(layer, plan, soc, "overlapped", homes):
                out.append(planned_ticks(layer, plan, soc, "overlapped", homes) / soc.tick_hz)
    return out


@pytest.mark.parametrize("memory", [65536, 8192])
def test_the_programme_finds_the_best_of_all_plans_on_diana(memory: int) -> None:
    """Brute force: every legal tiling of every layer priced by itself, every way to fuse, sections simulated alone.

    8 KiB of L1 leave no layer whole."""
    soc = find_soc("diana")
    soc = soc.model_copy(update={"memories": soc.memories | {"l1": Memory(size_bytes=memory)}})
    space = space_of(soc, SMALL, "latency")
    dma = DmaTiles(SMALL, soc, space.given)
    single = [min(every_tiling(dma, layer)) for layer in SMALL]
    ways = [((0, 1), (1, 2), (2, 3)), ((0, 2), (2, 3)), ((0, 1), (1, 3)), ((0, 3),)]
    found = []
    for way in ways:
        options = {span: space.options(span[0], span[1] - 1) for span in way if span[1] - span[0] > 1}
        if all(options.values()):
            fused = sum(own.cost(0).seconds for own in options.values() if own is not None)
            found.append(fused + sum(single[a] for a, b in way if b == a + 1))
    optimum = space.optimum_plan()
    assert optimum.cost.seconds == pytest.approx(min(found), rel=1e-12)
    assert optimum.bound == 1.0


def test_what_is_not_dominated_is_kept() -> None:
    """No tiling that the tiler's candidates have is faster than the fastest of the options, none takes less energy."""
    soc, net = find_soc("darkside"), find_workload("resnet8")
    given = complete(Mapping("default", "overlapped"), net, soc)
    space = DmaTiles(net, soc, given)
    for i, layer in enumerate(net):
        points, own = space.options(i).points, space.cost(Section(i, (given.layers[layer.name],)))
        assert points[:, 0].min() <= own.energy_j * (1 + 1e-12)
        assert points[:, 1].min() <= own.seconds * (1 + 1e-12)
        section = space.options(i).section(0)
        assert not tile_problems(layer, section.plan, soc, "overlapped", space.homes)
        assert space.cost(section) == Cost(*map(float, points[0]))


def test_sections_are_the_mapping() -> None:
    """A mapping in sections and back; a piece whose layers do not follow each other leaves them by themselves."""
    soc, net = find_soc("gemmini"), find_workload("resnet8")
    space = space_of(soc, net)
    optimum = space.optimum_plan()
    mapping = mapping_of(optimum.sections, space.given, net)
    assert any(section.piece is not None for section in optimum.sections)
    assert sections_of(mapping, net) == optimum.sections
    assert [i for section in optimum.sections for i in range(*section.span)] == list(range(len(net.layers)))


@pytest.mark.parametrize("aim", ["latency", "energy", "edp", "peak", "throughput", "latency*peak"])
def test_the_estimate_s_optimum_is_no_worse_than_the_default_by_the_estimate(aim: str) -> None:
    space = space_of(find_soc("diana"), find_workload("resnet8"), aim)
    optimum, default = space.optimum_plan(), sections_of(space.given, space.workload)
    assert objective(aim)(space.figures(optimum.sections)) <= objective(aim)(space.figures(default)) * (1 + 1e-12)


# ---------------------------------------------------------------------------------------------- what is reported


@pytest.mark.parametrize(("soc", "aim"), CHIPS)
def test_no_search_ends_above_what_is_known_and_its_file_simulates_to_it(tmp_path: Path, soc: str, aim: str) -> None:
    """To the tick, on each chip: result.json against `simulate` of the mapping that it names."""
    net = find_workload("resnet8")
    content = searched(soc, net, tmp_path / "r", objective=aim, time_budget_s=4.0)
    best, machine = best_of(content), find_soc(soc)
    result = simulate(machine, net, load_mapping(tmp_path / "r" / best["mapping"], net, machine))
    assert best["simulated"]["latency_s"] == result.seconds
    assert best["simulated"]["energy_j"] == pytest.approx(result.energy_j, rel=1e-12)
    names = {p["name"] for p in content["known"]}
    assert names == {"default", "optimum"}
    for known in content["known"]:
        figures = [Figures(**{k: v for k, v in p["simulated"].items() if k != "edp"}) for p in (best, known)]
        assert objective(aim)(figures[0]) <= objective(aim)(figures[1])
    assert content["gap"] is None or content["gap"] >= -1e-12


def test_fusion_lowers_the_peak_of_the_main_memory(tmp_path: Path) -> None:
    """What stays on the chip between two layers needs no room in L2; by hand: a and b of 24 and 32 x 64 bytes, of which
    fused layers hold one at most."""
    content = searched("diana", SMALL, tmp_path / "r", objective="peak")
    best = best_of(content)
    default = next(p for p in content["known"] if p["name"] == "default")
    assert best["about"]["fused"]
    assert best["simulated"]["peak_bytes"] < default["simulated"]["peak_bytes"]
    assert best["simulated"]["peak_bytes"] == best["estimated"]["peak_bytes"]


def test_a_small_product_comes_near_to_the_simulated_optimum(tmp_path: Path) -> None:
    """64 x 64 x 64: every tile of at least 16 under every order through the simulator; what the search finds is within
    two per cent of the best of them."""
    layer = Layer("gemm", "conv", ("input",), 64, 64, ox=64, ix=64)
    workload, soc = Workload("gemm", (64, 1, 64), (layer,), ("gemm",)), find_soc("gemmini")
    space = space_of(soc, workload)
    array = CachedTiles(workload, Machine.of(soc), core=space.given.layers["gemm"].parts[0].core)
    every = [
        space.simulated(array.as_single(0, (k, c, 1, 1, 1, x, order)))
        for k in (16, 32, 64) for c in (16, 32, 64) for x in (16, 32, 64) for order in range(3)
    ]  # fmt: skip
    least = min(cost.energy_j * cost.seconds for cost in every if cost is not None)
    assert best_of(searched("gemmini", workload, tmp_path / "r"))["simulated"]["edp"] <= 1.02 * least


def test_sections_alone_add_up_to_the_network() -> None:
    """Behind a cached mover each section is fenced: caches apart, their times are the network's. Their energies are
    no less, as caches are cold where a section begins, and more by no more than what it takes to bring all that passes
    between layers from the DRAM through both caches, once."""
    soc, net = find_soc("gemmini"), DIGITS
    space = space_of(soc, net)
    sections = space.optimum_plan().sections
    alone = [space.simulated(section) for section in sections]
    whole = Oracle(soc, net).simulate(mapping_of(sections, space.given, net))
    assert sum(cost.seconds for cost in alone if cost) == pytest.approx(whole.latency_s, rel=0.1)
    more = sum(cost.energy_j for cost in alone if cost) - whole.energy_j
    l2, llc, dram = (soc.memories[name].access_pj_per_byte for name in ("l2", "llc", "dram"))
    between = sum(layer.outputs for layer in net if layer.name not in net.outputs)
    assert 0 <= more <= between * (dram + 2 * llc + l2) * 1e-12


# ---------------------------------------------------------------------------------------------- time


class Ticking(Oracle):
    """An oracle whose every simulation takes a second of a clock of its own."""

    now = 0.0

    def simulate(self, mapping: Mapping, workload: Workload | None = None) -> Figures:
        self.now += 1.0
        return super().simulate(mapping, workload)


@pytest.mark.parametrize("soc", ["diana", "gemmini"])
@pytest.mark.parametrize("seconds", [0.5, 7.0, 40.0])
def test_a_time_budget_is_overrun_by_one_simulation_at_most(tmp_path: Path, soc: str, seconds: float) -> None:
    """A clock that moves with simulations only, for no time at all, for less than a search can use, and for more. What
    has no choice is simulated for the first estimate, whatever the time."""
    machine, net = find_soc(soc), find_workload("resnet8")
    oracle = Ticking(machine, net)
    space = space_of(machine, net, time_budget_s=seconds, clock=lambda: oracle.now)
    folder = RunFolder(tmp_path / "r", {}, False)
    fixed = sum(1 for i in range(len(net.layers)) if space.options(i, i) is not None and not space.has_choice(i))
    for name in space.rounds():
        space.propose(name, oracle, folder, quiet)
        assert oracle.now <= seconds + 1 + fixed


def test_the_optimum_is_there_without_any_time(tmp_path: Path) -> None:
    content = searched("gemmini", DIGITS, tmp_path / "r", time_budget_s=1e-6)
    assert {p["name"] for p in content["known"]} == {"default", "optimum"}


def test_a_broken_run_goes_on_as_an_unbroken_one(tmp_path: Path) -> None:
    """Ctrl-C in the second round: resumed, the result is the unbroken run's, files included."""

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    config = config_of("gemmini", DIGITS, tmp_path / "whole")
    whole = search_tiles(config, quiet).content()
    broken = replace(config, out=tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        search_tiles(broken, stop)
    for _ in range(2):  # the second finds all rounds done, as after a kill just before the end
        resumed = search_tiles(replace(broken, resume=True), quiet).content()
        assert json.dumps(resumed) == json.dumps(whole)
    for file in (tmp_path / "whole" / "mappings").iterdir():
        assert file.read_text() == (tmp_path / "broken" / "mappings" / file.name).read_text()


@pytest.mark.parametrize("chip", ["gemmini", "gap9"])
def test_grouped_dilated_and_flat_convolutions_have_tiles_to_choose(chip: str, tmp_path: Path) -> None:
    """What is found is written, read back and simulated as it was reported, does all products once, and is no slower
    than the mapping that it began with."""
    soc = find_soc(chip)
    content = searched(chip, ODD, tmp_path / "out", objective="latency", fusion=False)
    best = best_of(content)
    again = load_mapping(tmp_path / "out" / "mappings" / f"{best['name']}.yaml", ODD, soc)
    result = simulate(soc, ODD, again)
    assert result.seconds == pytest.approx(best["simulated"]["latency_s"])
    assert result.seconds <= simulate(soc, ODD, Mapping("default", "overlapped")).seconds
    assert {part.layer: part.macs for part in result.by_layer} == {layer.name: layer.macs for layer in ODD}


# ---------------------------------------------------------------------------------------------- learning


def test_refitting_finds_the_theta_that_made_the_figures() -> None:
    """Sections "simulated" by the closed form under another theta: predictions meet them again after the fit."""
    truth = Theta(unhidden=0.35, reload_miss=0.4, load=1.2)
    machine = Machine.of(find_soc("gemmini"))
    space, other = CachedTiles(DIGITS, machine), CachedTiles(DIGITS, machine, truth)
    rng = np.random.default_rng(0)
    some = [own.section(int(rng.integers(len(own.points)))) for own in space.choices().values() for _ in range(3)]
    seen = {section: other.cost(section) for section in some}
    made = [Made(cached=((machine, space.terms_of(section)),)) for section in seen]

    def error() -> float:
        return max(abs(space.cost(section).seconds / cost.seconds - 1) for section, cost in seen.items())

    before = error()
    space.learn(fit(made, [cost.seconds * machine.hz for cost in seen.values()], list(FACTORS), space.theta))
    assert error() < 0.02 < before


@pytest.mark.parametrize("name", ["gemmini", "diana", "hetero"])
def test_what_an_estimate_is_made_of_gives_it_again(name: str) -> None:
    """Of every layer's first and last choice, under another theta."""
    space = space_of(find_soc(name), find_workload("resnet8"))
    space.start(replace(Theta(), launch_hidden=0.5, load=2.0, unhidden=0.3))
    for i in range(len(space.workload.layers)):
        options = space.options(i, i)
        assert options is not None
        for section in {options.section(0), options.section(len(options.points) - 1)}:
            (ticks,) = ticks_of([space.made(section)], space.theta)
            assert ticks == pytest.approx(space.cost(section).seconds * space.soc.tick_hz, rel=1e-9)


@pytest.mark.parametrize("name", ["gemmini", "diana"])
def test_a_batch_is_estimated_as_its_images(name: str) -> None:
    """Four images of a convolution take up to four times as long as one, and hardly less: weights are a small part."""
    layers = {n: space_of(find_soc(name), batched(find_workload("resnet8"), n)) for n in (1, 4)}
    seconds = {n: own.cost(sections_of(own.given, own.workload)[1]).seconds for n, own in layers.items()}
    assert 3 < seconds[4] / seconds[1] < 4.2


def test_the_library_s_tiles_have_their_own_closed_form() -> None:
    """They load every operand for every tile: more bytes, so more energy, than the same tiles that reuse."""
    space = space_of(find_soc("gemmini"), find_workload("resnet8"))
    array = next(iter(space.arrays.values()))
    own = [section for section in sections_of(space.given, space.workload) if section.first in array.shapes]
    assert own and all(not section.plan.reuse for section in own)
    for section in own:
        reusing = Section(
            section.first, (replace(section.plan, reuse=True, order=("n", "oy", "ox", "k", "c", "fy", "fx")),)
        )
        assert array.cost(section).energy_j >= array.cost(reusing).energy_j * (1 - 1e-12)


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_budget_s": 0.0}, "time budget 0.0: a positive number of seconds is needed"),
        ({"time_budget_s": float("nan")}, "time budget nan: a positive number"),
        ({"objective": "area"}, "objective 'area': found 'area'; latency, energy"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        searched("gemmini", DIGITS, tmp_path / "r", **changes)
    assert not (tmp_path / "r").exists()


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "gemmini", "digits_cnn", "--space", "tiles", "--out", str(tmp_path / "r"), "-q"]
    assert main([*words, "--time-budget", "-1"]) == 2
    assert "time budget -1.0" in capsys.readouterr().err
    assert main([*words, "--epochs", "3"]) == 2
    assert "--epochs: means nothing with --space tiles" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()

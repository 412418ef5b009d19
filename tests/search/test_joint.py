"""Cores and tiles chosen together by cost, held against brute force, the simulator, and one choice after the other."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cosoc.cli import main
from cosoc.search.loop import Asked, search
from cosoc.search.oracle import Oracle
from cosoc.search.result import Result
from cosoc.search.spaces.inner_tiles import InnerTiles, slopes
from cosoc.search.spaces.joint import JointSpace
from cosoc.search.spaces.share_tiles import ShareTiles, shares
from cosoc.search.spaces.tile_search import TileConfig, search_tiles
from cosoc.search.spaces.together_space import search_together
from cosoc.search.targets import Target, target
from cosoc.sim.figures import Figures, objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.report.together import Load
from cosoc.sim.simulate import figures, simulate_together
from cosoc.sim.tiler import checked, homes_of

DIANA = find_soc("diana")
NET = Workload(
    "two", (16, 8, 8),
    (
        Layer("first", "conv", ("input",), 32, 16, 8, 8, 8, 8, 3, 3, 1, 1, 1, 1),
        Layer("second", "conv", ("first",), 64, 32, 4, 4, 8, 8, 3, 3, 2, 2, 1, 1),
    ),
    ("second",),
)  # fmt: skip


def quiet(done: int, total: int, what: str) -> None:
    """No progress."""


def space_of(soc: SoC = DIANA, net: Workload = NET, aim: str = "latency", **changes: Any) -> JointSpace:
    runtime = changes.pop("runtime", "serial")
    given = named_mapping("default", net, soc, runtime)
    return JointSpace(soc, net, **({"outer": "channels", "aim": aim, "given": given, "tries": 6} | changes))


def searched(space: JointSpace, out: Path) -> Result:
    asked = Asked(space.objective_text, 0, out / "run", {}, targets=space.targets)
    return search(space, Oracle(space.soc, space.workload), asked, quiet)


def one_conv(k: int, c: int, size: int) -> Workload:
    layer = Layer("conv", "conv", ("input",), k, c, size, size, size, size, 3, 3, 1, 1, 1, 1)
    return Workload("one", (c, size, size), (layer,), ("conv",))


TIGHT = find_soc("diana", {"memories.l1.size_bytes": "6240"})  # 96 bytes of scratchpad behind what is reserved
ONE = one_conv(32, 2, 2)


@pytest.fixture(scope="module")
def every() -> list[Figures]:
    """Every share and tiling of a layer of 32 channels of 4 pixels, simulated."""
    space = space_of(TIGHT, ONE)
    table = ShareTiles(ONE, TIGHT, space.given, homes_of(ONE, space.given, TIGHT), space.open_layers)
    (layer,) = ONE.layers
    out = []
    for parts in shares(layer, TIGHT):
        plan = replace(space.given.layers[layer.name], parts=parts, order=None)
        for plans, many in table.dma.tilings(layer, plan):
            tiled = [table.dma.chosen(plans, choice) for choice in range(many)]
            out += [figures(TIGHT, ONE, replace(space.given, layers={layer.name: one})) for one in tiled]
    return out


@pytest.mark.parametrize("aim", ["latency", "energy", "edp"])
def test_what_is_called_optimal_is_the_least_of_all_shares_and_tilings_simulated(
    aim: str, every: list[Figures]
) -> None:
    """Brute force in a scratchpad that holds a part of the layer: the serial estimate is the simulator's own time, so
    that the proven plan is the best of all that can be run."""
    space = space_of(TIGHT, ONE, aim)
    (homes,) = space.placements()
    solved = space.solved(homes)
    assert solved is not None
    least = min(float(space.objective(one)) for one in every)
    assert space.worth(solved.plans["optimum"]) == pytest.approx(least, rel=1e-12)
    assert solved.bound == pytest.approx(least, rel=1e-9)


def test_tiles_inside_of_a_search_over_shares_are_the_best_of_each_share(every: list[Figures]) -> None:
    """The best of all shares in their inner tiles is the best of all shares and tilings."""
    space = space_of(TIGHT, ONE)
    inner = InnerTiles(ONE, TIGHT, "latency", every[0])
    found = []
    for parts in shares(ONE.layers[0], TIGHT):
        mapping = checked(replace(space.given, layers={"conv": LayerPlan(parts)}), ONE, TIGHT)
        cut = inner.cut(mapping)
        assert figures(TIGHT, ONE, cut).latency_s <= figures(TIGHT, ONE, mapping).latency_s
        found.append(figures(TIGHT, ONE, cut).latency_s)
    assert min(found) == min(one.latency_s for one in every)


def test_an_objectives_slopes_are_those_of_its_formula() -> None:
    """Of energy times latency: a joule more is worth the seconds, a second the joules."""
    at = Figures(2e-3, 3e-3, 1, 500.0)
    assert slopes("edp", at) == pytest.approx((2e-3, 3e-3), rel=1e-6)
    assert slopes("latency", at) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert slopes("peak", at) == (0.0, 1.0)  # tiles change no peak: then they are the fastest


def test_no_estimate_is_below_the_bound() -> None:
    """Of networks whose layers hide one another's weights: the programme's own plans, and all layers on either core."""
    space = space_of(runtime="overlapped")
    (homes,) = space.placements()
    solved = space.solved(homes)
    assert solved is not None
    uniform = [space.uniform(core) for core in ("digital", "analog")]
    for mapping in [space.given, *solved.plans.values(), *uniform]:
        assert mapping is not None
        found = space.estimated(mapping)
        assert found is not None
        assert found.latency_s >= solved.bound * (1 - 1e-9)


def test_together_is_never_worse_than_one_after_the_other(tmp_path: Path) -> None:
    """Channels under the tiler's tiles and then tiles; tiles and then channels with these kept: on a chip whose
    scratchpad holds a few rows, what was chosen together costs no more than either."""
    soc = find_soc("diana", {"memories.l1.size_bytes": "14336", "memories.l2.size_bytes": "98304"})
    given, aim = named_mapping("default", NET, soc, "serial"), "energy"
    joint = searched(space_of(soc, aim=aim), tmp_path / "joint")
    values = []
    for first, second in itertools.permutations(("channels", "tiles")):
        now, folder = given, tmp_path / first
        for n, outer in enumerate((first, second)):
            tiles = "searched" if outer == "tiles" else ("kept" if n else "tiler")
            step = searched(space_of(soc, aim=aim, outer=outer, tiles=tiles, given=now), folder / outer)
            now = load_mapping(folder / outer / "run" / step.best.mapping, NET, soc)
        values.append(step.value(step.best.simulated))
    assert joint.value(joint.best.simulated) <= min(values) * (1 + 1e-12)


def test_a_bound_on_the_peak_is_kept_and_costs_time(tmp_path: Path) -> None:
    """Analog weights are stored for all columns and take more of the main memory: below the peak of the fastest
    mapping another is the fastest, slower and within."""
    net, runtime = find_workload("digits_cnn"), "overlapped"
    free = searched(space_of(net=net, runtime=runtime), tmp_path / "free").best.simulated
    bound = Target("peak", free.peak_bytes - 1)
    found = searched(space_of(net=net, runtime=runtime, targets=(bound,)), tmp_path / "bound").best.simulated
    assert found.peak_bytes < free.peak_bytes
    assert found.latency_s > free.latency_s


def test_a_figure_is_small_while_another_is_bounded(tmp_path: Path) -> None:
    """Half-way between the least of the bounded figure and what it is where nothing is bounded."""
    aim, bound = "energy", "latency"
    free = searched(space_of(aim=aim), tmp_path / "free").best.simulated
    least = searched(space_of(aim=bound), tmp_path / "least").best.simulated
    value = objective(bound)
    middle = (float(value(free)) + float(value(least))) / 2
    result = searched(space_of(aim=aim, targets=(Target(bound, middle),)), tmp_path / "both")
    assert float(value(result.best.simulated)) <= middle
    assert result.value(result.best.simulated) >= float(objective(aim)(free)) * (1 - 1e-12)


def test_operators_are_chosen_with_their_tiles() -> None:
    """A convolution that may be depthwise takes a sixteenth of the products and an engine of its own: by cost alone all
    channels are computed there, faster than what the chip does without a search."""
    soc = find_soc("darkside")
    conv = Layer("conv", "conv", ("input",), 16, 16, 4, 4, 4, 4, 3, 3, 1, 1, 1, 1)
    conv = replace(conv, alternative=replace(conv, name="other", groups=16))
    net = Workload("choice", (16, 4, 4), (conv,), ("conv",))
    space = space_of(soc, net, outer="operators")
    (homes,) = space.placements()
    solved = space.solved(homes)
    assert solved is not None
    best = solved.plans["optimum"]
    assert [part.core for part in best.layers["conv"].parts] == ["depthwise_engine"]
    assert space.worth(best) < space.worth(space.given)


def test_fused_pieces_are_chosen_with_cores_and_tiles(tmp_path: Path) -> None:
    """A piece may come to be, and the file says what was simulated."""
    result = searched(space_of(aim="edp", fusion=True, runtime="overlapped"), tmp_path)
    alone = searched(space_of(aim="edp", runtime="overlapped"), tmp_path / "alone")
    assert result.value(result.best.simulated) <= alone.value(alone.best.simulated)
    mapping = load_mapping(tmp_path / "run" / result.best.mapping, NET, DIANA)
    assert figures(DIANA, NET, mapping) == result.best.simulated


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    """Killed in its second round and resumed, it reports what it would have."""
    given = named_mapping("default", NET, DIANA, "overlapped")
    config = TileConfig(DIANA, NET, given, out=tmp_path / "whole", outer="channels", targets=(target("peak=1MB"),))
    whole = search_tiles(config, quiet).content()

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("descent"):
            raise KeyboardInterrupt

    broken = replace(config, out=tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        search_tiles(broken, stop)
    assert search_tiles(replace(broken, resume=True), quiet).content() == whole


def test_networks_at_once_are_searched_together(tmp_path: Path) -> None:
    """No worse than with their default mappings, each within the bound on its peak, and as `simulate_together` has the
    files."""
    other = one_conv(64, 16, 8)
    bound = target("peak=40KB")
    configs = [
        TileConfig(DIANA, net, named_mapping("default", net, DIANA, "overlapped"), "edp", 4.0, out=tmp_path / "run",
                   outer="channels", targets=(bound,))
        for net in (NET, other)
    ]  # fmt: skip
    result = search_together(configs, quiet)
    content = result.content()
    best = next(one for one in result.found if one.name == content["best"])
    given = next(one for one in result.found if one.name == "given")
    assert result.value(best.simulated) <= result.value(given.simulated)
    assert best.simulated.peak_bytes <= bound.most
    files = [best.mapping, *best.about["beside"]]
    loads = [
        Load(net, load_mapping(tmp_path / "run" / file, net, DIANA))
        for net, file in zip((NET, other), files, strict=True)
    ]
    run = simulate_together(DIANA, loads)
    assert (run.seconds, run.energy_j) == (best.simulated.latency_s, best.simulated.energy_j)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gemmini", "digits_cnn"], "no layer has two cores to choose between (gemmini alone can compute them)"),
        (["rpi4", "digits_cnn"], "no layer has two cores to choose between (cpu alone can compute them)"),
        (["diana", "digits_cnn", "--space", "operators+tiles"], "nothing to choose for template conv-dw on diana"),
        (["diana", "digits_cnn", "--strengths", "1"], "--strengths: means nothing with --space channels+tiles, where"),
        (["diana", "digits_cnn", "--space", "channels"], "channels+tiles can do without"),
        (["diana", "digits_cnn", "--time-budget", "-1"], "a positive number of seconds"),
    ],
)
def test_what_cannot_be_searched_by_cost_is_said_in_a_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    space = [] if "--space" in words else ["--space", "channels+tiles"]
    assert main(["search", *words, *space, "--epochs", "0", "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()

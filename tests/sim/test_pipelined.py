"""Crossbar chips with all layers at work at once: timelines drawn by hand, closed forms, brute force, NeuroSim."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.layers_at_once import LayerAtOnce, lower_at_once, places, starts
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Part
from cosoc.sim.pipelined import _shared, balanced, simulate_pipelined
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import checked

CHAIN = [LayerAtOnce("a", 9, ()), LayerAtOnce("b", 10, ("a",)), LayerAtOnce("c", 3, ("b",))]


def test_a_chain_by_hand() -> None:
    """b is the slowest and never waits but for the first image; a has two places for what it makes, so that it begins
    the third image when b is done with the first."""
    lowered = lower_at_once(CHAIN, 4, 1000)
    trace = engine_reference.run(lowered.program)
    assert trace.issue[lowered.ops].tolist() == [[0, 9, 19], [9, 19, 29], [19, 29, 39], [29, 39, 49]]
    assert trace.end[lowered.ops[:, 2]].tolist() == [22, 32, 42, 52]


def test_copies_take_images_in_turns() -> None:
    """Two copies of a layer of 20 ticks behind one of 10: an image every 10 ticks, each 20 ticks in its copy."""
    layers = [LayerAtOnce("a", 10, ()), LayerAtOnce("b", 20, ("a",), copies=2)]
    lowered = lower_at_once(layers, 4, 1000)
    trace = engine_reference.run(lowered.program)
    assert trace.issue[lowered.ops[:, 1]].tolist() == [10, 20, 30, 40]
    assert trace.end[lowered.ops[:, 1]].tolist() == [30, 40, 50, 60]


def test_layers_of_a_shared_unit_wait_for_one_another() -> None:
    """A pooling unit of 6 ticks behind a and of 5 behind b serves 11 ticks an image, more than a's 9 or b's 8."""
    layers = [LayerAtOnce("a", 9, ()), LayerAtOnce("p", 6, ("a",), "pool"), LayerAtOnce("b", 8, ("p",)),
              LayerAtOnce("q", 5, ("b",), "pool")]  # fmt: skip
    lowered = lower_at_once(layers, 101, 1000)
    done = engine_reference.run(lowered.program).end[lowered.ops[:, 3]]
    assert (done[90] - done[40]) / 50 == pytest.approx(11, rel=0.02)


def test_what_passes_by_a_branch_has_places_for_all_that_are_under_way() -> None:
    """a is read by b and, two layers on, by the sum: an image is in a, b, c and the sum, so four places."""
    layers = [LayerAtOnce("a", 5, ()), LayerAtOnce("b", 5, ("a",)), LayerAtOnce("c", 5, ("b",)),
              LayerAtOnce("sum", 5, ("c", "a"))]  # fmt: skip
    assert starts(layers) == {"a": 0, "b": 1, "c": 2, "sum": 3}
    assert places(layers) == {"a": 4, "b": 2, "c": 2, "sum": 1}
    lowered = lower_at_once(layers, 20, 1000)
    assert np.diff(engine_reference.run(lowered.program).end[lowered.ops[:, 3]]).tolist() == [5] * 19


@pytest.mark.parametrize("seed", range(20))
def test_any_network_runs_at_the_rate_of_its_slowest(seed: int) -> None:
    """Random graphs with copies and a shared unit, on both engines: images leave at what the slowest layer or the unit
    takes of each, in the steady state, and there is no deadlock."""
    draw = random.Random(seed)
    layers: list[LayerAtOnce] = []
    for i in range(draw.randint(2, 8)):
        reads = tuple(sorted({f"{draw.randrange(max(i - 3, 0), i)}" for _ in range(draw.randint(1, 2))})) if i else ()
        shared = "pool" if draw.random() < 0.2 else ""
        copies = 1 if shared else draw.randint(1, 3)
        layers.append(LayerAtOnce(f"{i}", draw.randint(0, 40), reads, shared, copies))
    lowered = lower_at_once(layers, 240, 1000)
    traces = [run(lowered.program, ()) for run in (engine_fast.run, engine_reference.run)]
    assert (traces[0].end == traces[1].end).all()
    pool = sum(one.ticks for one in layers if one.shared)
    period = max(pool, *(one.ticks / one.copies for one in layers))
    left = np.sort(traces[0].end[lowered.ops].max(axis=1))
    assert left[-1] >= 240 * period
    assert (left[216] - left[60]) / 156 == pytest.approx(period, rel=0.03, abs=0.03)  # 156: whole turns of 1, 2, 3


@pytest.mark.parametrize("seed", range(20))
def test_copies_are_spent_as_well_as_can_be(seed: int) -> None:
    """All ways to spend up to nine tiles on three layers, by brute force: none has a shorter period, and none with the
    same has fewer tiles."""
    draw = random.Random(seed)
    layers = [LayerAtOnce(name, draw.randint(1, 60), ()) for name in "abc"]
    tiles = {one.name: draw.randint(1, 3) for one in layers}
    left = draw.randint(0, 9)

    def figures(copies: tuple[int, ...]) -> tuple[float, int]:
        period = max(one.ticks / n for one, n in zip(layers, copies, strict=True))
        return period, sum(tiles[one.name] * (n - 1) for one, n in zip(layers, copies, strict=True))

    ways = [figures(copies) for copies in itertools.product(range(1, 11), repeat=3)]
    best = min(way for way in ways if way[1] <= left)
    ours = figures(tuple(one.copies for one in balanced(layers, tiles, left)))
    assert ours[0] == best[0]
    assert ours[1] <= left


def test_vgg8_on_neurosims_chip() -> None:
    """Published (V1.5): 10,480 images a second. The rate is that of the slowest layer, and layer after layer stays.
    Energy is what the operations take and the leakage of a period."""
    soc, net = find_soc("neurosim_22nm"), find_workload("vgg8")
    mapping = named_mapping("default", net, soc)
    alone, found = simulate(soc, net, mapping), simulate_pipelined(soc, net, mapping)
    slowest = max(part.seconds_critical for part in alone.by_layer)
    assert found.throughput == pytest.approx(1 / slowest, rel=1e-6)
    assert found.throughput == pytest.approx(10_480, rel=0.02)
    assert found.layer_after_layer_s == alone.seconds
    assert found.energy_j == pytest.approx(alone.ops_energy_j + 5.48e-3 * slowest, rel=1e-6)
    assert sum(one.tiles for one in found.layers) == 125  # all of the chip's: NeuroSim's copies leave no room for more


def test_room_in_the_cells_goes_to_the_slowest_layers() -> None:
    """Without NeuroSim's copies inside of layers 22 tiles are left: the rate rises and no tile more is taken."""
    single = {f"cores.cim.{key}": str(n) for key, n in (("most_copies", 1), ("block_rows", 0), ("block_cols", 0))}
    soc, net = find_soc("neurosim_22nm", single), find_workload("vgg8")
    runs = [simulate_pipelined(soc, net, named_mapping("default", net, soc), copies=copies) for copies in (False, True)]
    one, more = ([part.seconds / part.copies for part in found.layers] for found in runs)
    assert runs[1].throughput == pytest.approx(1 / max(more), rel=0.01)
    assert max(more) < max(one) / 5
    assert sum(part.tiles for part in runs[1].layers) <= 125


def test_layers_need_tiles_of_their_own() -> None:
    """VGG-8 takes all 125 tiles of the chip; one less is too few."""
    soc, net = find_soc("neurosim_22nm", {"cores.cim.arrays": str(124 * 64)}), find_workload("vgg8")
    with pytest.raises(InputError, match="take 125 tiles of cim, which has 124"):
        simulate_pipelined(soc, net, named_mapping("default", net, soc))


@pytest.mark.parametrize(
    ("soc", "net", "message"),
    [
        ("diana", "resnet8", "diana runs layer after layer"),
        ("neurram", "vgg8", "neurram runs layer after layer"),
        ("neurosim_22nm", "vgg16", "its weights do not stay in the cells of cim"),
    ],
)
def test_what_cannot_be_pipelined_says_why(soc: str, net: str, message: str) -> None:
    machine, network = find_soc(soc), find_workload(net)
    with pytest.raises(InputError, match=message):
        simulate_pipelined(machine, network, named_mapping("default", network, machine))


def test_the_command_line_streams(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    status, text, _ = run("simulate", "neurosim_22nm", "vgg8", "--pipelined", "--inferences", "50", "--json", out)
    assert status == 0
    assert "10,331" in text
    assert json.loads(out.read_text())["bottleneck"] == "features.2"
    assert "means nothing with --pipelined" in run("simulate", "isaac", "vgg8", "--pipelined", "--batch", "2")[2]
    status, _, error = run("simulate", "isaac", "vgg8", "--pipelined", "--inferences", "1")
    assert (status, error.count("\n")) == (2, 1)


def test_a_pipeline_needs_each_layer_on_one_core() -> None:
    """Half of a layer on the host beside the arrays: neither has all of an image."""
    soc, net = find_soc("isaac"), find_workload("digits_cnn")
    whole = checked(named_mapping("default", net, soc, "overlapped"), net, soc)
    name = next(layer.name for layer in net if layer.op == "conv")
    (crossbar,) = (part.core for part in whole.layers[name].parts)
    parts = Part(crossbar, net[name].k // 2), Part(soc.host, net[name].k - net[name].k // 2)
    split = replace(whole, layers={**whole.layers, name: LayerPlan(parts)})
    with pytest.raises(InputError, match=f"layer {name} is split over {crossbar}, {soc.host}"):
        simulate_pipelined(soc, net, split, 2)


def test_what_layers_share_works_for_all_of_them() -> None:
    """Two layers of 3 and 6 ticks on the host, between arrays: 9 an image, more than any array's."""
    layers = [LayerAtOnce("a", 5, ()), LayerAtOnce("b", 3, ("a",), "host"), LayerAtOnce("c", 6, ("b",), "host")]
    assert _shared(layers) == ("host", 9)
    assert _shared(layers[:1]) == ("", 0)

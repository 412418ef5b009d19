"""Mappings over all cores: as good as enumeration by simulation, never worse than one core, formats left alone."""

from __future__ import annotations

import functools
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from own_arrays import arrays

from cosoc.sim.errors import InputError
from cosoc.sim.figures import OBJECTIVES, Figures, objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import dump_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import alone, named_mapping
from cosoc.sim.mapper import _Mapper, cheapest, has_choice, usual_runtime
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.price import Simulated
from cosoc.sim.simulate import engine_run, figures
from cosoc.sim.tiler import TilingCache, checked, homes_of
from cosoc.sim.ways import Way, Ways, cores_for, has_twins, shares, twins

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEP = 16  # output channels of a column of DIANA's digital array


def conv(name: str, reads: str, k: int, c: int, size: int = 8, f: int = 3) -> Layer:
    area = {"oy": size, "ox": size, "iy": size, "ix": size}
    return Layer(name, "conv", (reads,), k=k, c=c, fy=f, fx=f, pad_y=f // 2, pad_x=f // 2, **area)


CHAIN = Workload(
    "chain", (32, 8, 8), (conv("a", INPUT, 48, 32), conv("b", "a", 32, 48), conv("c", "b", 64, 32)), ("c",)
)
FORK = Workload(
    "fork", (32, 8, 8), (conv("a", INPUT, 32, 32), conv("b", "a", 16, 32), conv("c", "a", 16, 32, f=1)), ("b", "c")
)


def every(net: Workload, cores: tuple[str, str], runtime: Runtime) -> Iterator[Mapping]:
    """All divisions of every layer between two cores in steps of 16 channels; and, where its last two layers read
    nothing of one another, these at once, each on a core."""
    options = [
        [
            LayerPlan(tuple(Part(core, n) for core, n in zip(cores, (k, layer.k - k), strict=True) if n))
            for k in range(0, layer.k + 1, STEP)
        ]
        for layer in net
    ]
    names = [layer.name for layer in net]
    for plans in itertools.product(*options):
        mapping = Mapping("any", runtime, dict(zip(names, plans, strict=True)))
        yield mapping
        last = [{part.core for part in plan.parts} for plan in plans[-2:]]
        if net is FORK and runtime == "overlapped" and not last[0] & last[1]:
            yield Mapping("any", runtime, mapping.layers, (Piece(tuple(names[-2:]), "parallel"),))


@functools.cache
def simulated(net: Workload, runtime: Runtime) -> list[Figures]:
    """What every division costs on two equal arrays."""
    priced = Simulated(arrays(2), engine_run("fast"))
    return [priced.figures(mapping, net) for mapping in every(net, ("digital", "digital1"), runtime)]


@pytest.mark.parametrize("net", [CHAIN, FORK], ids=lambda net: net.name)
@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
@pytest.mark.parametrize("aim", ["latency", "energy", "edp"])
def test_nothing_that_enumeration_finds_is_cheaper(net: Workload, runtime: Runtime, aim: str) -> None:
    """Two equal arrays: all divisions of three layers in hardware steps, all simulated; the mapper by
    enumeration of its own ways, and by descent alone."""
    soc, value = arrays(2), objective(aim)
    least = min(value(one) for one in simulated(net, runtime))
    for exact_up_to in (256, 0):
        found = cheapest(net, soc, runtime, aim, exact_up_to=exact_up_to)
        assert value(figures(soc, net, found)) <= least * (1 + 1e-12), exact_up_to


@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
def test_unlike_cores_are_held_against_enumeration_too(runtime: Runtime) -> None:
    """DIANA's digital and analog array, whatever numbers they compute in: `min_cost`."""
    net, soc = (
        Workload("two", (64, 8, 8), (conv("a", INPUT, 64, 64), conv("b", "a", 48, 64)), ("b",)),
        find_soc("diana"),
    )
    least = min(figures(soc, net, mapping).latency_s for mapping in every(net, ("digital", "analog"), runtime))
    found = named_mapping("min_cost", net, soc, runtime)
    assert figures(soc, net, found).latency_s <= least * (1 + 1e-12)


@pytest.mark.parametrize(
    ("soc", "net"),
    [
        ("arrays2", "resnet8"),
        ("arrays4", "resnet8"),
        ("gap9", "dscnn"),
        ("darkside", "dscnn"),
        ("hetero", "digits_cnn"),
    ],
)
def test_the_default_is_no_worse_than_each_core_alone(soc: str, net: str) -> None:
    """By every objective, simulated: each layer on its default core, and all that they can on each other core."""
    chip, network = arrays(int(soc[6:])) if soc.startswith("arrays") else find_soc(soc), find_workload(net)
    cores = {layer.name: [part.core for part in cores_for(layer, chip, False)] for layer in network}
    one_core = [
        Mapping("one", "overlapped", {n: LayerPlan((Part(core if core in own else own[0], network[n].k),))
                                      for n, own in cores.items()})
        for core in dict.fromkeys(itertools.chain(*cores.values()))
    ]  # fmt: skip
    found = [figures(chip, network, mapping) for mapping in one_core]
    for aim in ("latency", "energy"):
        mine = figures(chip, network, named_mapping("default", network, chip, "overlapped", aim))
        assert OBJECTIVES[aim](mine) <= min(OBJECTIVES[aim](one) for one in found)


def test_two_equal_arrays_halve_what_they_compute() -> None:
    """A layer that its arithmetic bounds: 64 channels are four steps of one array, two of each of two; loads and stores
    stay as they are. Between half of the time, and that with all that moves on top."""
    layer = conv("a", INPUT, 64, 256, 16)
    net = Workload("one", (256, 16, 16), (layer,), ("a",))
    one, two = arrays(1), arrays(2)
    first = figures(one, net, named_mapping("default", net, one, "overlapped")).latency_s
    mapping = named_mapping("default", net, two)
    assert (mapping.name, mapping.runtime) == ("min_cost", "overlapped")
    assert sorted(part.channels for part in mapping.layers["a"].parts) == [32, 32]
    assert 0.5 * first <= figures(two, net, mapping).latency_s <= 0.62 * first


def test_branches_that_fill_a_step_each_run_at_once() -> None:
    """Two branches of 16 channels, a step of an array: no array gains from half of one, but both at once do."""
    layers = (conv("a", INPUT, 16, 128, 16), conv("b", INPUT, 16, 128, 16))
    net, soc = Workload("branches", (128, 16, 16), layers, ("a", "b")), arrays(2)
    mapping = named_mapping("default", net, soc)
    assert mapping.pieces == (Piece(("a", "b"), "parallel"),)
    first = figures(soc, net, named_mapping("all_8bit", net, soc)).latency_s
    assert figures(soc, net, mapping).latency_s < 0.75 * first


@pytest.mark.parametrize("seed", range(4))
def test_ways_through_a_network_are_counted_as_they_are_listed(seed: int) -> None:
    """Steps over one to three layers, drawn at random, so that some layers no step ends before: what begins at such a
    one is on no way. Beyond a bound it is one more than the bound."""
    g, net = random.Random(seed), Workload("six", (8, 8, 8), tuple(conv(n, INPUT, 8, 8) for n in "abcdef"), ("f",))
    mapper = _Mapper(net, find_soc("diana"), "overlapped", "latency", False, None)
    for _ in range(20):
        drawn = [(at, end) for at in range(6) for end in range(at + 1, min(at + 3, 6) + 1) for _ in range(2)]
        steps: dict[int, list[tuple[int, int, Way]]] = {}
        for at, end in (one for one in drawn if g.random() < 0.4):
            steps.setdefault(at, []).append((at, end, Way((), 0, 0)))
        listed = len(list(mapper.every(steps, 0)))
        assert mapper.many(steps, 1000) == listed
        assert mapper.many(steps, 3) == min(listed, 4)


def test_the_default_leaves_formats_alone() -> None:
    """DIANA's analog array is ternary, Darkside's tensor engine FP16: no default has them; min_cost may."""
    for name, other in (("diana", "analog"), ("darkside", "tensor")):
        soc, net = find_soc(name), find_workload("mobilenet_v1_025")
        default = named_mapping("default", net, soc, "serial")
        assert other not in {part.core for plan in default.layers.values() for part in plan.parts}
        assert any(part.core == other for layer in net for part in cores_for(layer, soc, any_format=True))
    diana, net = find_soc("diana"), find_workload("resnet8")
    assert not has_choice(net, diana) and has_choice(net, diana, any_format=True)
    default = named_mapping("default", net, diana)
    assert default.name == "default" and default.layers == named_mapping("all_8bit", net, diana).layers


def test_weights_of_a_network_decide_the_format() -> None:
    """GAP9's NE16 takes weights of 2 to 8 bits, its cluster 8: a layer with 4 stays on NE16, one with 8
    may go to both."""
    soc = find_soc("gap9")
    for bits, cores in ((4, {"ne16"}), (8, {"ne16", "cluster"})):
        layer = Layer("a", "conv", (INPUT,), k=32, c=32, oy=8, ox=8, iy=8, ix=8, weight_bits=bits)
        assert {part.core for part in cores_for(layer, soc, any_format=False)} == cores


def test_a_chip_with_a_core_twice_runs_both_at_once() -> None:
    """Which runtime a mapping has that names none."""
    assert not twins(find_soc("diana"), "digital", "analog") and twins(arrays(2), "digital", "digital1")
    assert [usual_runtime(soc) for soc in (arrays(1), arrays(2), find_soc("gap9"), find_soc("gemmini"))] == [
        "serial", "overlapped", "serial", "overlapped",
    ]  # fmt: skip


def test_shares_are_in_steps() -> None:
    """By hand: 100 channels over two columns of 16 as 3 and what is left, over speeds 3 : 1 as 5 steps and the rest."""
    assert shares(100, (16, 16), (1.0, 1.0)) == (48, 52)
    assert shares(100, (16, 16), (3.0, 1.0)) == (80, 20)
    assert shares(64, (16, 16, 16, 16), (1.0,) * 4) == (16,) * 4


def test_weights_that_one_crossbar_cannot_keep_are_spread_over_two() -> None:
    """Arrays for about half of a network's weights each: on one, the layers that do not fit are written in every
    inference; on two, none is."""
    isaac, net = find_soc("isaac"), find_workload("digits_cnn")
    core = isaac.cores["cim"]
    assert core.weight_memory is not None
    mapping = named_mapping("all_8bit", net, isaac)
    sizes = {n: _kept(net, mapping, isaac, n) for n in mapping.layers}
    half = isaac.memories[core.weight_memory].model_copy(update={"size_bytes": sum(sizes.values()) * 6 // 10})
    fills = [route for route in isaac.routes if route.target == core.weight_memory]
    other = core.model_copy(update={"weight_memory": "more_cells"})
    two = isaac.model_copy(
        update={
            "cores": {"cim": core, "cim1": other} | {n: c for n, c in isaac.cores.items() if n != "cim"},
            "memories": isaac.memories | {core.weight_memory: half, "more_cells": half},
            "routes": (*isaac.routes, *(route.model_copy(update={"target": "more_cells"}) for route in fills)),
        }
    )
    first = figures(two, net, named_mapping("all_8bit", net, two)).latency_s
    assert figures(two, net, named_mapping("default", net, two)).latency_s < 0.9 * first


def _kept(net: Workload, mapping: Mapping, soc: SoC, name: str) -> int:
    from cosoc.sim.tiler import kept_bytes

    return kept_bytes(net[name], mapping, soc, "cim")


def test_a_mapping_is_the_same_in_every_process() -> None:
    """Whatever order Python's sets have there."""
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); from own_arrays import arrays;"
        "from cosoc.sim.files.mapping_file import dump_mapping; from cosoc.sim.manual import named_mapping;"
        "from cosoc.sim.files.workload_file import find_workload;"
        "print(dump_mapping(named_mapping('default', find_workload('digits_cnn'), arrays(3))))"
    )
    here = dump_mapping(named_mapping("default", find_workload("digits_cnn"), arrays(3)))
    there = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here.strip()


def test_the_host_is_nobodys_twin() -> None:
    """A chip with a second processor like its host has one core that it can run layers on beside it, not two."""
    soc = find_soc("diana")
    assert not has_twins(soc.model_copy(update={"cores": soc.cores | {"host2": soc.cores["host"]}}))
    assert has_twins(soc.model_copy(update={"cores": soc.cores | {"digital2": soc.cores["digital"]}}))


def test_the_first_way_of_a_layer_is_all_of_it_on_its_default_core() -> None:
    """And the last is the one with least there: who takes the first of equals takes the default."""
    net, soc = find_workload("resnet8"), find_soc("diana")
    plain = named_mapping("all_8bit", net, soc, "overlapped")
    ways = Ways(net, soc, "overlapped", homes_of(net, checked(plain, net, soc), soc), True, TilingCache())
    found = [{part.core: part.channels for part in way.parts[0]} for way in ways.of(1, lambda ticks, _: ticks)]
    default = plain.layers[net.layers[1].name].parts[0].core
    assert found[0] == {default: net.layers[1].k} and len(found) > 1
    shares = [on.get(default, 0) for on in found]
    assert shares == sorted(shares, reverse=True)


def test_of_two_equal_cores_the_first_has_no_less() -> None:
    """A split and its mirror cost the same on twins, so that one of them is looked at: 16, 32 and 48 of 64 channels as
    32 and 48, one core after the other."""
    soc = arrays(2)
    mapping = checked(named_mapping("default", CHAIN, soc, "serial"), CHAIN, soc)
    ways = Ways(CHAIN, soc, "serial", homes_of(CHAIN, mapping, soc), True, TilingCache())
    both = [[part.channels for part in way.parts[0]] for way in ways.of(2, lambda ticks, _: ticks)]
    assert sorted(on for on in both if len(on) == 2) == [[32, 32], [48, 16]]


def test_a_network_changes_by_one_step_in_another_way_joined_or_apart() -> None:
    """Three layers, the first in two ways, the first two at once in one: from all apart, the other way or the two at
    once; from there, all apart again in the faster way. The cheapest by estimate comes first."""

    def way(core: str, ticks: float, n: int = 1) -> Way:
        return Way(((Part(core, 1),),) * n, ticks, 0.0)

    first, slow, both = (0, 1, way("a", 5)), (0, 1, way("b", 9)), (0, 2, way("a", 7, 2))
    second, third = (1, 2, way("a", 6)), (2, 3, way("a", 8))
    steps = {0: [slow, first, both], 1: [second], 2: [third]}
    at = SimpleNamespace(workload=SimpleNamespace(layers=(0, 1, 2)))
    assert _Mapper.changes(at, (first, second, third), steps) == [(both, third), (slow, second, third)]
    assert _Mapper.changes(at, (both, third), steps) == [(first, second, third)]


def test_throughput_of_a_chip_is_its_latency() -> None:
    """One inference after the other: the same mapping, but for its name."""
    soc, net = arrays(2), find_workload("digits_cnn")
    by_time, by_rate = (named_mapping("default", net, soc, None, aim) for aim in ("latency", "throughput"))
    assert by_time.layers == by_rate.layers and (by_time.name, by_rate.name) == ("min_cost", "min_cost_throughput")


def test_an_objective_that_chooses_nothing_is_refused() -> None:
    """Where a mapping has chosen, or each layer has one core."""
    net = alone(find_workload("resnet8"), find_workload("resnet8").layers[0])
    for name in ("all_8bit", "default"):
        with pytest.raises(InputError, match=r"--objective energy: .* use min_cost"):
            named_mapping(name, net, find_soc("diana"), "serial", "energy")
    with pytest.raises(InputError, match="objective 'speed'"):
        named_mapping("min_cost", net, find_soc("diana"), "serial", "speed")


def test_a_refusal_names_the_mapping() -> None:
    """A row of 14 x 960 inputs under a filter of three, 12 apart: all 14 rows of them, beyond GAP9's scratchpad."""
    deep = Layer("deep", "conv", (INPUT,), 8, 960, 14, 14, 14, 14, 3, 3, 1, 1, 12, 12, 12, 12)
    small = Layer("small", "conv", ("deep",), 8, 8, 14, 14, 14, 14)
    network = Workload("w", (960, 14, 14), (deep, small), ("small",))
    with pytest.raises(InputError, match="mapping min_cost does not fit gap9: layer deep: tiles need"):
        named_mapping("min_cost", network, find_soc("gap9"))

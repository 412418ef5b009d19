"""Splits of networks over clusters: exact programmes against enumeration, closed forms and the replay."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from split_problems import all_plans, figures, random_problem

from cosoc.cli import main
from cosoc.search.baselines import heuristics
from cosoc.search.exact.split_classes import bounded
from cosoc.search.exact.splits import Point, front, front_labels, least_period, merged
from cosoc.search.front import hypervolume
from cosoc.search.oracle import Oracle
from cosoc.search.spaces.split_space import SplitConfig, agreed_front, replayed, search_splits
from cosoc.search.spaces.splits import check, cuts_of, evaluate, nested
from cosoc.search.spaces.splits_soft import relaxed_front
from cosoc.search.split_costs import device_costs, device_mappings, make_case, profile_problem
from cosoc.sim import exact
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_cluster, find_soc, load_cluster
from cosoc.sim.files.mapping_file import load_cluster_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.cuts import crossing
from cosoc.sim.model.mapping import Mapping, Piece
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.simulate import simulate, simulate_cluster

# ------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("seed", range(300))
def test_fronts_are_those_of_enumeration(seed: int) -> None:
    """Every plan of a small problem, priced by the definition."""
    rng = np.random.default_rng(seed)
    counts = [int(n) for n in rng.integers(1, 3, int(rng.integers(1, 4)))]
    replicate, medium = bool(seed & 1), bool(seed & 2)
    problem = random_problem(rng, counts, int(rng.integers(2, 6)), medium, idle=(0.0, 0.1, 1.0)[seed % 3])
    points = [Point(plan, evaluate(problem, plan)) for plan in all_plans(problem, replicate)]
    points = [p for p in points if np.isfinite(p.costs.period_s) and np.isfinite(p.costs.energy_j)]
    found = front(problem, replicate)
    assert figures(found) == pytest.approx(figures(merged(points)))
    labelled = front_labels(problem, replicate, known=found)
    assert figures(labelled, True) == pytest.approx(figures(merged(points, latency=True), True))
    for point in found + labelled:
        check(problem, point.plan)
    if not medium:
        assert least_period(problem, replicate).costs.period_s == pytest.approx(figures(found)[0][0])


def test_fronts_of_the_samples_have_many_points() -> None:
    """The comparison above would be worth little if every front were one point."""
    rng = np.random.default_rng(0)
    sizes = [len(front(random_problem(rng, [2, 2], 5, False, 0.1))) for _ in range(50)]
    assert max(sizes) >= 6 and np.mean(sizes) >= 3


@pytest.mark.parametrize("seed", range(10))
def test_two_programmes_agree_beyond_enumeration(seed: int) -> None:
    """Halving intervals and label setting share no code but the definition of costs."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, [2, 3, 2], 14, False, 0.3)
    assert figures(front(problem)) == pytest.approx(figures(front_labels(problem, latency=False)))


def test_equal_devices_divide_equal_layers_evenly() -> None:
    """Twelve layers of a second on four devices: three seconds each; the closed form ceil(12 / 4)."""
    problem = profile_problem(["a"], [4], np.ones((1, 12)), np.zeros(13), 1.0)
    best = least_period(problem)
    assert best.costs.period_s == 3.0
    assert [(s.begin, s.end) for s in best.plan] == [(0, 3), (3, 6), (6, 9), (9, 12)]


def test_twelve_distinct_devices_are_solved_exactly() -> None:
    """Speeds 1 to 12 and layers to match: device s does s equal layers in one second, and nothing is faster."""
    speeds = np.arange(1, 13)
    problem = profile_problem(
        [f"d{s}" for s in speeds], [1] * 12, np.ones((12, 78)) / speeds[:, None], np.zeros(79), 1.0
    )
    best = least_period(problem)
    assert best.costs.period_s == pytest.approx(1.0)
    assert sorted(s.end - s.begin for s in best.plan) == speeds.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_encloses_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, [1] * 7, 12, False, 0.0)
    optimum = least_period(problem).costs.period_s
    point, bound = bounded(problem, classes=2)
    assert bound <= optimum * (1 + 1e-12) <= point.costs.period_s * (1 + 1e-12)
    check(problem, point.plan)


def test_the_bound_is_tight_where_classes_are_equal_devices() -> None:
    """Sixteen devices of two speeds, named as sixteen types: the two classes are exact, which the bound must show."""
    speeds = np.array([1.0, 2.0] * 8)
    problem = profile_problem(
        [f"d{i}" for i in range(16)], [1] * 16, np.ones((16, 48)) / speeds[:, None], np.zeros(49), 1.0
    )
    point, bound = bounded(problem, classes=2)
    assert point.costs.period_s == pytest.approx(bound) == pytest.approx(2.0)  # 8 x 2 layers + 8 x 4 layers


# PipeEdge's scheduler on 4 + 4 boards, ViT-Base, 48 layers, micro-batch 8: seconds of all layers on an Atom E3845 and
# an RCC-VE-C2000 (README_Scheduler.md of usc-isi/PipeEdge at 1a68bbb, summed).
E3845_S, C2000_S = 13.058, 10.386


def test_mixed_boards_get_five_and_seven_layers() -> None:
    """By the boards' totals alone, layers being equal: stages of 5 and 7 layers, as in the optimum for the profile by
    layer, whose bottleneck of 1.5488 s lies above, as unequal layers cannot divide better than equal ones do here."""
    seconds = np.array([[E3845_S / 48] * 48, [C2000_S / 48] * 48])
    problem = profile_problem(["e3845", "c2000"], [4, 4], seconds, np.zeros(49), 125e6, items=8)
    best = least_period(problem)
    sizes = {t: {s.end - s.begin for s in best.plan if s.type == t} for t in (0, 1)}
    period = best.costs.period_s * 8
    assert period == pytest.approx(7 * C2000_S / 48)
    assert max(sizes[0]) == 5 and max(sizes[1]) == 7
    assert 0.97 * 1.5488 < period < 1.5488


def test_types_are_not_mixed_up_when_the_first_has_several_devices() -> None:
    """PipeEdge's scheduler lists devices one by one but looks them up by the number of their type, so that the second
    of two types is costed as the first. It then splits evenly, which is 8 % slower than the optimum."""
    seconds = np.array([[E3845_S / 48] * 48, [C2000_S / 48] * 48])
    true = profile_problem(["e3845", "c2000"], [4, 4], seconds, np.zeros(49), 125e6)
    mixed_up = profile_problem(["e3845", "c2000"], [4, 4], seconds[[0, 0]], np.zeros(49), 125e6)
    flawed = evaluate(true, least_period(mixed_up).plan).period_s
    assert flawed == pytest.approx(6 * E3845_S / 48)
    assert flawed / least_period(true).costs.period_s == pytest.approx(6 * E3845_S / (7 * C2000_S))


# ------------------------------------------------------------------------------------------------- cuts


def diamond() -> Workload:
    """a -> (b -> c, d) -> e -> f: two branches between two articulation points."""

    def layer(name: str, *inputs: str, k: int = 4) -> Layer:
        return Layer(name, "add" if len(inputs) > 1 else "conv", inputs, k, k)

    layers = (
        layer("a", "input"),
        layer("b", "a"),
        layer("c", "b"),
        layer("d", "a"),
        layer("e", "c", "d"),
        layer("f", "e"),
    )
    return Workload("diamond", (4, 1, 1), layers, ("f",))


def test_cuts_of_a_diamond_by_hand() -> None:
    found = dict(zip(cuts_of(diamond()).names, cuts_of(diamond()).crossing, strict=True))
    assert next(iter(found.values())) == ("input",) and list(found.values())[-1] == ("f",)
    inner = {frozenset(c) for c in list(found.values())[1:-1]}
    by_hand = ["a", "b a", "c a", "a d", "b d", "c d", "e"]  # nothing, b, c, d, b and d, c and d, all of the branches
    assert inner == {frozenset(text.split()) for text in by_hand}
    assert cuts_of(diamond()).complete
    assert cuts_of(diamond(), branches=False).names == ("input", "a", "e", "f")


@pytest.mark.parametrize("name", ["resnet8", "squeezenet"])
def test_cuts_are_all_closed_sets(name: str) -> None:
    """Of a network's first fifteen layers, against all subsets of them."""
    network = find_workload(name)
    layers = network.layers[:15]
    part = replace(network, layers=layers, outputs=(layers[-1].name,))
    needs = [[n for n, other in enumerate(layers) if other.name in layer.inputs] for layer in layers]
    closed = 0
    for number in range(1 << len(layers)):
        done = [bool(number >> i & 1) for i in range(len(layers))]
        closed += all(not d or all(done[j] for j in needs[i]) for i, d in enumerate(done))
    cuts = cuts_of(part)
    assert cuts.complete and len(cuts.names) == closed


def test_residual_sums_carry_both_tensors_across() -> None:
    network = find_workload("resnet18")
    names = [layer.name for layer in network]
    inside = [i <= names.index("layer1.0.conv1") for i in range(len(names))]
    assert set(crossing(network, inside)) == {"layer1.0.conv1", "maxpool"}


# ------------------------------------------------------------------------------------------------- costs


def test_one_stage_is_the_simulated_network() -> None:
    """A split over one device is no split: the simulator's own latency of the network there."""
    case = make_case(find_cluster("homogeneous_cpu_2"), find_workload("resnet18"))
    soc, network = find_soc("rpi4"), find_workload("resnet18")
    simulated = simulate(soc, network, named_mapping("all_8bit", network, soc))
    single = heuristics.single_devices(case.problem)["cpu"]
    assert single.costs.period_s == pytest.approx(simulated.seconds, rel=1e-6)
    assert single.costs.energy_j == pytest.approx(simulated.energy_j, rel=1e-6)


def test_batches_save_kernel_starts_and_weights_only() -> None:
    """Of VGG-16's first fully connected layer, 411 MB of weights: bound by memory, so five take as long as one; a
    3x3 layer bound by arithmetic takes eight times as long, less seven kernel starts."""
    core = find_soc("rpi4").cores["cpu"]
    assert isinstance(core, Roofline)
    network = find_workload("vgg16")
    start = core.runtimes[core.runtime].kernel_cycles
    dense = next(layer for layer in network if layer.params > 100e6)
    tile = make_tile(dense, dense.k, 1, 1)
    weights_s = 25088 * 4096 * 4 / core.memory_bytes_per_cycle
    assert core.batch_cycles(tile, 5, exact) == pytest.approx(start + weights_s, rel=0.01)
    conv = make_tile(network.layers[1], 64, 224, 224)
    assert core.batch_cycles(conv, 8, exact) == pytest.approx(8 * (core.cycles(conv, exact) - start) + start, rel=1e-4)


def write_cluster(folder: Path, memory_mib: int, count: int) -> Path:
    path = folder / "small.yaml"
    path.write_text(
        "name: small\n"
        f"devices:\n  a: {{soc: rpi4, count: {count}, set: {{memories.dram.size_bytes: '{memory_mib << 20}'}}}}\n"
        "links:\n  x: {kind: pcie, between: [a], bytes_per_s: 100_000_000, latency_ns: 1000, burst_bytes: 1448}\n"
    )
    return path


def test_memories_that_are_too_small_are_told_by_how_much(tmp_path: Path) -> None:
    """VGG-16's first fully connected layer has 25088 x 4096 weights, 392 MiB in fp32, and cannot be divided; its inputs
    and outputs add less than 1 MiB. Three devices can give it one for itself."""
    network = find_workload("vgg16")
    with pytest.raises(InputError, match="every device lacks") as error:
        make_case(load_cluster(write_cluster(tmp_path, 300, 3)), network)
    lacking = float(str(error.value).split("lacks ")[1].split(" MiB")[0])
    assert 92 <= lacking <= 93
    assert least_period(make_case(load_cluster(write_cluster(tmp_path, 393, 3)), network).problem).plan
    with pytest.raises(InputError, match="every device lacks"):
        make_case(load_cluster(write_cluster(tmp_path, 392, 3)), network)


def test_memory_forces_a_split(tmp_path: Path) -> None:
    """138 M parameters in fp32 are 528 MiB: no device of 500 MiB holds them, two do."""
    case = make_case(load_cluster(write_cluster(tmp_path, 500, 2)), find_workload("vgg16"))
    assert not heuristics.single_devices(case.problem)
    assert len(least_period(case.problem).plan) == 2


# ------------------------------------------------------------------------------------------------- baselines


def test_no_baseline_beats_the_exact_front() -> None:
    case = make_case(find_cluster("donna_hetero"), find_workload("resnet18"))
    exactly = front(case.problem)
    others = [*heuristics.genetic(case.problem, 0, generations=20), *heuristics.single_devices(case.problem).values()]
    others += [p for p in (heuristics.even_split(case.problem), heuristics.greedy(case.problem)) if p]
    assert len(others) >= 5
    for point in others:
        check(case.problem, point.plan)
        mine = [p.costs.energy_j for p in exactly if p.costs.period_s <= point.costs.period_s * (1 + 1e-12)]
        assert mine and min(mine) <= point.costs.energy_j * (1 + 1e-12)


def test_even_split_loses_to_the_optimum_on_mixed_devices() -> None:
    case = make_case(find_cluster("donna_hetero"), find_workload("vgg16"))
    even = heuristics.even_split(case.problem)
    assert even is not None and even.costs.period_s > 1.1 * least_period(case.problem).costs.period_s


def test_weighted_sums_find_the_hull_only() -> None:
    """Against ten thousand weightings of the same front."""
    case = make_case(find_cluster("donna_hetero"), find_workload("mobilenet_v2"))
    points = front(case.problem)
    found, missed = heuristics.weighted_sums(points)
    values = np.array([(p.costs.period_s, p.costs.energy_j) for p in points])
    values = (values - values.min(0)) / np.ptp(values, axis=0)
    weights = np.linspace(0.0001, 0.9999, 10_000)
    chosen = {
        int(i) for i in np.argmin(weights[:, None] * values[:, 0] + (1 - weights[:, None]) * values[:, 1], axis=1)
    }
    assert chosen == {points.index(p) for p in found}
    assert len(missed) == len(points) - len(chosen) > 0


@pytest.mark.parametrize(("cluster", "network"), [("donna_hetero", "vgg16"), ("homogeneous_gpu_8", "resnet50")])
def test_the_relaxation_comes_within_one_percent(cluster: str, network: str) -> None:
    """Fastest point, least energy, and the area that the front dominates."""
    case = make_case(find_cluster(cluster), find_workload(network), branches=False)
    best, soft = (figures(points) for points in (front(case.problem), relaxed_front(case.problem, seed=0)))
    assert (soft.min(0) <= 1.01 * best.min(0)).all()
    slowest, dearest = (1.1 * best.max(0)).tolist()
    area = hypervolume(soft.tolist(), (slowest, dearest))
    assert area >= 0.99 * hypervolume(best.tolist(), (slowest, dearest))


# ------------------------------------------------------------------------------------------------- the replay


def test_replay_confirms_the_front() -> None:
    case = make_case(find_cluster("donna_hetero"), find_workload("resnet18"))
    found = agreed_front(case, True, Oracle(case.cluster, case.workload, inferences=200))
    assert found.searches == 1
    for split in found.splits:
        assert split.error == pytest.approx(0, abs=1e-3)
        assert split.simulated.energy_j == pytest.approx(split.point.costs.energy_j, rel=1e-3)


def test_replay_refits_where_queues_are_short() -> None:
    """With one place at each input, a device waits for the next item until it has done with the last: hops no longer
    overlap with work, which the programme does not know. It learns it from the replay."""
    cluster = find_cluster("homogeneous_gpu_4")
    slow = cluster.links["ethernet"].model_copy(update={"bytes_per_s": 20_000_000})
    short = cluster.devices["gpu"].model_copy(update={"queue_items": 1})
    cluster = cluster.model_copy(update={"links": {"ethernet": slow}, "devices": {"gpu": short}})
    case = make_case(cluster, find_workload("vgg16"), branches=False)
    first = least_period(case.problem)
    oracle = Oracle(cluster, case.workload, inferences=100)
    seen = replayed(case, first, oracle).simulated
    assert 1 / seen.throughput > 1.05 * first.costs.period_s
    found = agreed_front(case, False, oracle)
    assert found.searches > 1
    assert max(abs(split.error) for split in found.splits) <= 0.05


def quiet(done: int, total: int, what: str) -> None:
    """No progress."""


def of_kind(content: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The points of one front."""
    return [point for point in content["points"] if point["name"].startswith(f"{kind}_")]


def test_a_search_says_what_was_simulated(tmp_path: Path) -> None:
    cluster, network = find_cluster("homogeneous_gpu_2"), find_workload("resnet18")
    config = SplitConfig(cluster, network, 100, batches=(1, 2), out=tmp_path / "run")
    content = search_splits(config, quiet).content()
    points = of_kind(content, "point")
    rates, joules = ([p["simulated"][key] for p in points] for key in ("throughput", "energy_j"))
    assert all(a > b for a, b in pairwise(rates)) and all(a > b for a, b in pairwise(joules))
    (alone,) = [known for known in content["known"] if known["name"] == "one_gpu"]
    assert 1 < rates[0] / alone["simulated"]["throughput"] <= 2
    quick = of_kind(content, "latency")
    for point in quick:
        assert point["simulated"]["latency_s"] == pytest.approx(point["estimated"]["latency_s"], rel=1e-3)
    fastest_reply = min(quick, key=lambda p: float(p["simulated"]["latency_s"]))
    assert len(fastest_reply["about"]["stages"]) == 1  # any hop only adds to an empty pipeline of equal devices
    for point in points:
        assert sum(s["layers"] for s in point["about"]["stages"]) == len(network.layers)
        total = sum(d["energy_j"] for d in point["about"]["replay"]["devices"])
        assert total <= point["simulated"]["energy_j"]  # the rest is the links'


def test_no_search_returns_worse_than_what_it_knows(tmp_path: Path) -> None:
    """Whatever the objective: of single devices, even, greedy and genetic splits none is better than the best."""
    cluster, network = find_cluster("donna_hetero"), find_workload("resnet8")
    for goal in ("throughput", "latency", "energy", "edp", "peak", "latency*energy^2"):
        out = tmp_path / goal.replace("*", "_")
        result = search_splits(SplitConfig(cluster, network, 50, batches=(1, 2), objective=goal, out=out), quiet)
        values = [result.value(one.simulated) for one in result.found]
        assert result.value(result.best.simulated) == min(values)
        assert any(one.known for one in result.found)


def test_a_killed_search_of_splits_goes_on_to_the_same_result(tmp_path: Path) -> None:
    """Killed while it looks for the front with replicas, the round before being kept."""
    config = SplitConfig(find_cluster("homogeneous_gpu_2"), find_workload("resnet8"), 50, batches=(1,))
    search_splits(replace(config, out=tmp_path / "whole"), quiet)

    class Killed(BaseException):
        pass

    def kill(done: int, total: int, what: str) -> None:
        if (tmp_path / "broken" / "done" / "front.figures.json").exists():
            raise Killed

    with pytest.raises(Killed):
        search_splits(replace(config, out=tmp_path / "broken"), kill)
    search_splits(replace(config, out=tmp_path / "broken", resume=True), quiet)
    for name in ("result.json", "mappings/point_0.yaml"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.parametrize("inferences", [30, 100, 1000])
def test_eight_devices_are_at_most_eight_times_as_fast_as_one(inferences: int, tmp_path: Path) -> None:
    """Also where a run has hardly more items than a turn of the replicas, and in batches. A stage's devices cannot do
    more than replicas / seconds, and what the programme predicts is not bent to what a replay cannot show."""
    config = SplitConfig(
        find_cluster("homogeneous_gpu_8"), find_workload("vgg8"), inferences, latency=False, out=tmp_path / "run"
    )
    content = search_splits(config, quiet).content()
    for point in content["points"]:
        half_a_tick, about = 0.5e-9, point["about"]  # to which a stage's seconds are rounded
        most = min(s["replicas"] / (s["seconds"] - half_a_tick) for s in about["stages"]) * about["micro_batch"]
        assert point["simulated"]["throughput"] <= most and point["estimated"]["throughput"] <= most
        assert not about["replay"]["steady"] or abs(about["difference"]) < 0.05
    (alone,) = [known for known in content["known"] if known["name"] == "one_gpu"]
    fastest = of_kind(content, "replicated")[0]["simulated"]["throughput"]
    assert 7 < fastest / alone["simulated"]["throughput"] <= 8 * (1 + 1e-9)


def three_chips(folder: Path) -> Path:
    """Chips whose programs tick differently, some of them of several cores, behind a fast switch."""
    path = folder / "three.yaml"
    path.write_text(
        "name: three\n"
        "devices:\n"
        "  split: {soc: diana, count: 2, message_ns: 1000, carrier_w: 2.7}\n"
        "  array: {soc: gemmini, carrier_w: 2.7}\n"
        "  board: {soc: rpi5}\n"
        "links:\n"
        "  x: {kind: pcie, between: [split, array, board], bytes_per_s: 500_000_000, latency_ns: 500, "
        "burst_bytes: 256, energy_pj_per_byte: 40}\n"
    )
    return path


def test_a_point_is_what_simulate_says_of_its_file(tmp_path: Path) -> None:
    """To the last digit, with and without replicas: the fastest point, the most frugal, and one between."""
    cluster, folder = three_chips(tmp_path), tmp_path / "run"
    words = [str(cluster), "digits_cnn", "--inferences", "60", "-q"]
    assert main(["search", *words, "--space", "splits", "--out", str(folder)]) == 0
    content = json.loads((folder / "result.json").read_text())
    assert max(len(point["about"]["stages"]) for point in content["points"]) > 1
    kinds = [of_kind(content, "point"), of_kind(content, "replicated"), of_kind(content, "latency"), content["known"]]
    for points in kinds:
        for number in sorted({0, len(points) // 2, len(points) - 1}):
            point = points[number]
            file, about = folder / point["mapping"], point["about"]
            assert main(["simulate", *words, "--mapping", str(file), "--json", str(tmp_path / "r.json")]) == 0
            again = json.loads((tmp_path / "r.json").read_text())
            assert {key: again[key] for key in about["replay"]} == about["replay"]
            assert again["stages"] == about["stages"]
            figures = [again[key] for key in ("fill_s", "energy_j", "throughput")]
            assert figures == [point["simulated"][key] for key in ("latency_s", "energy_j", "throughput")]


def test_devices_are_searched_under_their_mappings(tmp_path: Path) -> None:
    """DIANA with each layer on both of its arrays, overlapped: faster alone than its default, and so in a cluster; what
    a point's file says of layers are those of its stages."""
    network, soc = find_workload("resnet8"), find_soc("diana")
    cluster = load_cluster(three_chips(tmp_path))
    devices = {"split": cluster.devices["split"]}
    link = cluster.links["x"].model_copy(update={"between": ("split",)})
    cluster = cluster.model_copy(update={"devices": devices, "links": {"x": link}})
    both = named_mapping("min_cost", network, soc, "overlapped")
    config = SplitConfig(
        cluster, network, 50, batches=(1,), mappings={"split": both}, latency=False, out=tmp_path / "run"
    )
    result = search_splits(config, quiet)
    alone = simulate(soc, network, both).seconds
    found = {one.name: one for one in result.found}
    assert 1 / found["one_split"].simulated.throughput == pytest.approx(alone, abs=0.5e-9)
    assert alone < 0.9 * simulate(soc, network, named_mapping("default", network, soc)).seconds
    mapping = load_cluster_mapping(tmp_path / "run" / found["point_0"].mapping, network, cluster)
    assert mapping.runtime == "overlapped"
    assert {name: [(p.core, p.channels) for p in plan.parts] for name, plan in mapping.layers.items()} == {
        name: [(p.core, p.channels) for p in plan.parts] for name, plan in both.layers.items()
    }
    again = simulate_cluster(cluster, network, mapping, inferences=50)
    assert again.seen.throughput == found["point_0"].simulated.throughput
    assert [asdict(stage) for stage in again.stages] == [
        stage | {"behind": tuple(stage["behind"])} for stage in found["point_0"].about["stages"]
    ]


def test_mappings_inside_of_devices_share_a_runtime(tmp_path: Path) -> None:
    cluster, network = load_cluster(three_chips(tmp_path)), find_workload("resnet8")
    found = device_mappings(cluster, network)
    assert {mapping.runtime for mapping in found.values()} == {"overlapped"}  # an array's library knows no other
    with pytest.raises(InputError, match="the mapping for split is serial, others are overlapped"):
        device_mappings(cluster, network, {"split": named_mapping("default", network, find_soc("diana"))})
    with pytest.raises(InputError, match="a mapping for chip: three has no such device; it has split, array, board"):
        device_mappings(cluster, network, {"chip": Mapping("m")})


def test_a_stage_does_not_cut_through_a_fused_piece(tmp_path: Path) -> None:
    """Layers that a device fuses stay together in whatever plan."""
    network, cluster = find_workload("resnet8"), load_cluster(three_chips(tmp_path))
    names = ("layer1.0.conv1", "layer1.0.conv2")
    fused = Mapping("m", "overlapped", pieces=(Piece(names),))
    costs = device_costs(cluster, network, device_mappings(cluster, network, {"split": fused}))
    case = make_case(cluster, network, costs=costs)
    has = case.cuts.done @ np.array([layer.name in names for layer in network], dtype=int)
    torn = (has[None, :] - has[:, None] == 1) & nested(case.cuts)
    assert torn.any()
    assert np.isinf(case.problem.occupancy_s[0, torn]).all()
    assert np.isfinite(case.problem.occupancy_s[1, torn]).any()  # another device does not fuse them


# ------------------------------------------------------------------------------------------------- the command


def test_the_command_leaves_its_folder(tmp_path: Path) -> None:
    path = write_cluster(tmp_path, 4096, 2)
    words = [
        "search",
        str(path),
        "resnet8",
        "--space",
        "splits",
        "--inferences",
        "50",
        "--out",
        str(tmp_path / "run"),
        "-q",
    ]
    assert main(words) == 0
    content = json.loads((tmp_path / "run" / "result.json").read_text())
    assert content["about"]["inferences"] == 50 and content["cluster"] == "small"
    plans = sorted(f"mappings/{file.name}" for file in (tmp_path / "run" / "mappings").iterdir())
    assert plans == sorted(point["mapping"] for point in content["points"] + content["known"])
    assert (tmp_path / "run" / "front.png").stat().st_size > 1000
    assert main(words) == 2  # the folder is not empty


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{cluster}", "resnet8", "--space", "splits"], "small.yaml:5:"),
        (["nope", "resnet8", "--space", "splits"], "no cluster named 'nope'"),
        (
            ["donna_hetero", "resnet8", "--space", "splits", "--epochs", "3"],
            "--epochs: means nothing with --space splits",
        ),
        (["diana", "digits_cnn", "--inferences", "3"], "--inferences: means nothing with --space channels"),
    ],
)
def test_bad_input_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    path = write_cluster(tmp_path, 4096, 2)
    path.write_text(path.read_text().replace("[a]", "[b]"))
    assert main(["search", *(word.format(cluster=path) for word in words), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1

"""A network over a cluster: what its stages cost, what a run says, and how mappings over clusters are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import device_soc, find_cluster, find_soc, list_socs, load_cluster
from cosoc.sim.files.mapping_file import dump_mapping, load_cluster_mapping, load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.cuts import crossing, done_behind, last_layers, section
from cosoc.sim.model.mapping import WEIGHTS_STAY, Extent, LayerPlan, Mapping, Part, Piece, Runtime, Stage
from cosoc.sim.model.soc import CachedMover, SoC
from cosoc.sim.model.workload import Workload, batched
from cosoc.sim.report.pipeline_result import summary, table
from cosoc.sim.simulate import engine_run, simulate, simulate_cluster
from cosoc.sim.stages import Pricer, lone_roofline, stage_figures

RUN = engine_run("fast")
HALF_A_TICK_S = 0.5e-9 * (1 + 1e-9)  # a stage's seconds are rounded to a pipeline's ticks of a nanosecond


@pytest.fixture(scope="module")
def resnet8() -> Workload:
    return find_workload("resnet8")


def cluster_of(folder: Path, devices: str, more: str = "") -> Cluster:
    """Devices that one fast link joins; it costs a nanosecond a byte and no energy."""
    names = ", ".join(line.split(":")[0].strip() for line in devices.splitlines())
    path = folder / "c.yaml"
    path.write_text(
        f"name: test\ndevices:\n{devices}\nlinks:\n  x: {{kind: pcie, between: [{names}], "
        f"bytes_per_s: 1_000_000_000, latency_ns: 0, burst_bytes: 1000{more}}}\n"
    )
    return load_cluster(path)


def alone_in(soc: str, workload: Workload, mapping: Mapping) -> tuple[Cluster, Mapping]:
    """A cluster of one device, and the same mapping there: the whole network is its only stage."""
    cluster = Cluster.model_validate({"name": "one", "devices": {"d": {"soc": soc}}, "links": {}})
    return cluster, replace(mapping, stages=(Stage("d", workload.outputs),))


# ------------------------------------------------------------------------------------------------- one device


@pytest.mark.parametrize("soc", list_socs())
def test_a_device_in_a_cluster_of_one_is_as_fast_as_alone(soc: str, resnet8: Workload) -> None:
    """Whatever ticks its programs have, whatever its weights do between inferences: both simulate one inference after
    the other, each from its first load to its last store. What may differ is the rounding to a nanosecond, and the
    base power over that."""
    machine = find_soc(soc)
    default = named_mapping("all_8bit", resnet8, machine)
    alone = simulate(machine, resnet8, default)
    seen = simulate_cluster(*_case(soc, resnet8, Mapping("m", default.runtime)), inferences=20).seen
    assert 1 / seen.throughput == pytest.approx(alone.seconds, rel=1e-12, abs=HALF_A_TICK_S)
    assert seen.latency_s["max"] == pytest.approx(alone.seconds, rel=1e-12, abs=HALF_A_TICK_S)
    base_w = machine.base_power_mw * 1e-3
    assert seen.energy_j == pytest.approx(alone.energy_j, rel=1e-12, abs=base_w * HALF_A_TICK_S)


def _case(soc: str, workload: Workload, mapping: Mapping) -> tuple[Cluster, Workload, Mapping]:
    cluster, mapped = alone_in(soc, workload, mapping)
    return cluster, workload, mapped


@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
def test_a_device_runs_what_the_mapping_says(runtime: Runtime, resnet8: Workload) -> None:
    """DIANA with its channels on both arrays, in stated tiles, two layers fused; not its default mapping."""
    machine = find_soc("diana")
    split = named_mapping("min_cost", resnet8, machine, runtime)
    fused = replace(split, pieces=(Piece(("layer1.0.conv1", "layer1.0.conv2")),))
    first = resnet8.layers[0]
    tile = Extent(first.k, first.c, first.fy, first.fx, 8, first.ox)
    one = {"layer1.0.conv1": LayerPlan((Part("digital", 16),)), "layer1.0.conv2": LayerPlan((Part("digital", 16),))}
    tiled = LayerPlan((Part("digital", first.k, tile),), WEIGHTS_STAY)
    mapping = replace(fused, layers={**split.layers, **one, first.name: tiled})
    default = simulate(machine, resnet8, Mapping("m", runtime))
    alone = simulate(machine, resnet8, mapping)
    assert abs(alone.seconds / default.seconds - 1) > 0.01  # else this would show nothing
    seen = simulate_cluster(*_case("diana", resnet8, mapping), inferences=5).seen
    assert 1 / seen.throughput == pytest.approx(alone.seconds, rel=1e-12, abs=HALF_A_TICK_S)


@pytest.mark.parametrize("soc", [name for name in list_socs() if lone_roofline(find_soc(name))])
@pytest.mark.parametrize("items", [1, 4])
def test_boards_cost_what_the_engines_find(soc: str, items: int, resnet8: Workload) -> None:
    """The formula stands for a simulation of the batch: the same seconds and joules."""
    machine, mapping = find_soc(soc), Mapping("m")
    every = (True,) * len(resnet8.layers)
    cost = Pricer(machine, resnet8, mapping, RUN).cost((False,) * len(every), every, items)
    found = simulate(machine, batched(resnet8, items), mapping)
    assert cost.seconds == pytest.approx(found.seconds, rel=1e-12)
    assert cost.joules + machine.base_power_mw * 1e-3 * cost.seconds == pytest.approx(found.energy_j, rel=1e-9)


@pytest.mark.parametrize("soc", [name for name in list_socs() if "gemmini" not in name])
def test_a_micro_batch_does_all_its_work(soc: str, resnet8: Workload) -> None:
    """Every multiply-accumulate of each of its inferences, and joules for them: nothing is counted once for all but
    weights and starts. (Behind caches weights come from the DRAM once, through both of them.)"""
    machine, three = find_soc(soc), batched(resnet8, 3)
    found, one = simulate(machine, three, Mapping("m")), simulate(machine, resnet8, Mapping("m"))
    assert sum(part.macs for part in found.by_layer) == three.macs == 3 * resnet8.macs
    spared_pj = 0.0
    for mover in (mover for mover in machine.dmas.values() if isinstance(mover, CachedMover)):
        l2, llc, dram = (machine.memories[m].access_pj_per_byte for m in (mover.l2, mover.llc, machine.main_memory))
        spared_pj = 2 * sum(layer.weights for layer in resnet8) * (dram + 2 * llc + l2)
    assert found.ops_energy_j + spared_pj * 1e-12 >= 2.9 * one.ops_energy_j and one.seconds < found.seconds


def test_a_micro_batch_brings_weights_once() -> None:
    """A crossbar chip that keeps all weights takes eight times as long for eight inferences. With less room than they
    need it writes those of each layer anew, once for all that pass together: what seven more inferences add is seven
    times what one takes where nothing is written (and some, as layers then come in parts)."""
    roomy, network = find_soc("neurosim_22nm"), find_workload("autoencoder")
    core = roomy.cores["cim"]
    assert core.weight_memory is not None
    cells = roomy.memories[core.weight_memory].model_copy(
        update={"size_bytes": sum(layer.weights for layer in network), "reserved_bytes": 0}
    )
    small = roomy.model_copy(update={"memories": {**roomy.memories, core.weight_memory: cells}})
    every = (True,) * len(network.layers)

    def seconds(soc: SoC, items: int) -> float:
        return Pricer(soc, network, Mapping("m"), RUN).cost((False,) * len(every), every, items).seconds

    kept = seconds(roomy, 1)
    assert seconds(roomy, 8) == pytest.approx(8 * kept, rel=0.01)
    assert seconds(small, 1) > 10 * kept
    assert seconds(small, 8) - seconds(small, 1) == pytest.approx(7 * kept, rel=0.1)


# ------------------------------------------------------------------------------------------------- stages


# Behind caches, a part finds what the part before it has left there: it starts with cold ones by itself.
UNCACHED = [name for name in list_socs() if not any(map(find_soc(name).is_cached, find_soc(name).cores))]


@pytest.mark.parametrize("soc", UNCACHED)
@pytest.mark.parametrize("behind", ["conv1", "layer1.0.conv1"])
def test_a_serial_network_is_the_sum_of_its_stages(soc: str, behind: str, resnet8: Workload) -> None:
    """Serial: every transfer and job is waited for, so that a cut costs and saves nothing, wherever it stands; behind
    layer1.0.conv1 two tensors cross. (The weights of a part stay where those of the whole do: all have room.)"""
    machine, mapping = find_soc(soc), Mapping("m", "serial")
    pricer, every = Pricer(machine, resnet8, mapping, RUN), (True,) * len(resnet8.layers)
    cut = done_behind(resnet8, [behind])
    two = [pricer.cost((False,) * len(every), cut, 1), pricer.cost(cut, every, 1)]
    whole = simulate(machine, resnet8, mapping)
    assert sum(cost.seconds for cost in two) == pytest.approx(whole.seconds, rel=1e-12)
    base_j = machine.idle_power_mw * 1e-3 * whole.seconds
    assert sum(cost.joules for cost in two) + base_j == pytest.approx(whole.energy_j, rel=1e-9)


def test_stages_hold_every_layer_once_and_send_what_crosses(resnet8: Workload) -> None:
    """Whatever the cut: MACs and weights add up, and what a later part receives is what crosses."""
    every = (True,) * len(resnet8.layers)
    for layer in resnet8.layers[:-1]:
        cut = done_behind(resnet8, [layer.name])
        a, b = section(resnet8, (False,) * len(every), cut), section(resnet8, cut, every)
        assert a.macs + b.macs == resnet8.macs and a.params + b.params == resnet8.params
        assert set(dict(b.received)) | ({"input"} & set(crossing(resnet8, cut))) == set(crossing(resnet8, cut))
        assert dict(b.received).items() <= {one.name: one.outputs for one in resnet8}.items()
        assert done_behind(resnet8, last_layers(resnet8, cut)) == cut


def test_messages_cost_their_processors_time(tmp_path: Path, resnet8: Workload) -> None:
    """By hand: 16 x 32 x 32 outputs of conv1 in 4 bytes are 65,536 bytes; at 1 MB/s copied in 65,536 us, and 1 ms for
    the message, at either end. The link takes 65,536 ns of a port's time."""
    cluster = cluster_of(
        tmp_path, "  a: {soc: rpi4, message_ns: 1_000_000, copy_bytes_per_s: 1_000_000}\n  b: {soc: rpi4}"
    )
    mapping = Mapping("m", stages=(Stage("a", ("conv1",)), Stage("b", ("fc",))))
    a, b = simulate_cluster(cluster, resnet8, mapping, inferences=30).stages
    pricer, cut = Pricer(find_soc("rpi4"), resnet8, mapping, RUN), done_behind(resnet8, ["conv1"])
    assert a.bytes_sent == 65_536 and b.bytes_sent == 0
    assert a.seconds == pytest.approx(pricer.cost((False,) * len(cut), cut, 1).seconds + 1e-3 + 65_536e-6)
    assert b.seconds == pytest.approx(pricer.cost(cut, (True,) * len(cut), 1).seconds)
    assert a.item_j > pricer.cost((False,) * len(cut), cut, 1).joules  # the processor works meanwhile


def test_two_devices_in_turns_are_twice_as_fast(tmp_path: Path, resnet8: Workload) -> None:
    """Three equal devices: two of them take turns at one stage. The period is that of the slowest, halved for two."""
    cluster = cluster_of(tmp_path, "  a: {soc: rpi4, count: 3}")
    mapping = Mapping("m", stages=(Stage("a", ("layer1.0.add",), 2), Stage("a", ("fc",))))
    result = simulate_cluster(cluster, resnet8, mapping, inferences=500)
    slowest = max(stage.seconds / stage.replicas for stage in result.stages)
    assert 1 / result.seen.throughput == pytest.approx(slowest, rel=1e-6)
    assert {part.device for part in result.seen.devices} == {"a[0]", "a[1]", "a[2]"}


def test_a_run_is_told_with_its_replicas_and_with_what_is_not_sure(tmp_path: Path, resnet8: Workload) -> None:
    cluster = cluster_of(tmp_path, "  a: {soc: rpi4, count: 3}")
    mapping = Mapping("m", stages=(Stage("a", ("layer1.0.add",), 2), Stage("a", ("fc",))))
    result = simulate_cluster(cluster, resnet8, mapping, inferences=50)
    console = Console(width=120)
    with console.capture() as told:
        console.print(table(result))
    assert [line.split()[:3] for line in told.get().splitlines() if line.startswith("a ")] == [
        ["a", "x", "2"], ["a", "fc", str(result.stages[1].layers)],
    ]  # fmt: skip
    for interval, stands in ((0.1, True), (1e-4, False), (math.inf, False)):
        seen = replace(result.seen, steady=True, throughput_ci=interval * result.seen.throughput)
        assert ("±" in summary(replace(result, seen=seen))) == stands


def test_a_systolic_array_and_a_split_array_share_a_network(tmp_path: Path, resnet8: Workload) -> None:
    """Devices whose programs tick differently: each stage takes what its own simulation says."""
    cluster = cluster_of(tmp_path, "  g: {soc: gemmini}\n  d: {soc: diana}")
    mapping = Mapping("m", "overlapped", stages=(Stage("g", ("layer2.0.add",)), Stage("d", ("fc",))))
    g, d = simulate_cluster(cluster, resnet8, mapping, inferences=100).stages
    cut = done_behind(resnet8, ["layer2.0.add"])
    first = section(resnet8, (False,) * len(cut), cut)
    assert g.seconds == pytest.approx(simulate(find_soc("gemmini"), first, Mapping("m", "overlapped")).seconds)
    last = section(resnet8, cut, (True,) * len(cut))
    assert d.seconds == pytest.approx(simulate(find_soc("diana"), last, Mapping("m", "overlapped")).seconds)


# ------------------------------------------------------------------------------------------------- files


def test_a_cluster_s_mapping_is_read_back(tmp_path: Path, resnet8: Workload) -> None:
    """Stages, a batch, and what holds inside: tiles of a batch of four, two images a job."""
    cluster = cluster_of(tmp_path, "  d: {soc: diana}\n  r: {soc: rpi4, count: 2}")
    first = resnet8.layers[0]
    tile = Extent(first.k, first.c, first.fy, first.fx, 8, first.ox, n=1)
    layers = {first.name: LayerPlan((Part("digital", first.k, tile),), WEIGHTS_STAY)}
    stages = (Stage("d", ("layer2.0.conv1", "layer2.0.downsample.0")), Stage("r", ("fc",), 2))
    mapping = Mapping("mine", "overlapped", layers, (Piece(("layer1.0.conv1", "layer1.0.conv2")),), stages, 4)
    file = tmp_path / "m.yaml"
    file.write_text(dump_mapping(mapping))
    assert load_cluster_mapping(file, resnet8, cluster) == mapping
    assert simulate_cluster(cluster, resnet8, mapping, inferences=40).seen.batch == 4


STAGES = "stages:\n  - {device: d, behind: layer1.0.add}\n  - {device: r, behind: fc}\n"


@pytest.mark.parametrize(
    ("text", "mark", "message"),
    [
        ("runtime: serial\n", "runtime", "test is a cluster: the mapping needs stages, such as stages: [{device: d"),
        (STAGES.replace("device: r", "device: q"), "q,", "no device named 'q'; there is d, r, far"),
        (STAGES.replace("device: r", "device: far"), "far", "no link joins d and far"),
        (STAGES.replace("behind: fc", "behind: fd"), "fd", "resnet8 has no layer 'fd'"),
        (STAGES.replace("behind: fc", "behind: conv1"), "conv1", "conv1 is done in the stages before"),
        (STAGES.replace("behind: fc", "behind: layer2.0.add"), "layer2.0.add}", "leaves layer3.0"),
        (STAGES.replace("fc}", "fc, replicas: 3}"), "3}", "3 of r are in use with this stage; test has 2"),
        (STAGES.replace("fc}", "fc, replicas: 0}"), "0}", "found 0"),
        (STAGES.replace("device: r", "device: d"), "d, behind: fc", "2 of d are in use with this stage; test has 1"),
        (STAGES.replace("fc}", "fc, on: r}"), "on", "unknown key"),
        ("micro_batch: 0\n" + STAGES, "0", "found 0"),
        ("layers:\n  fc: {parts: {digital: 10}}\n" + STAGES, "10}", "rpi4 has no such core; it has cpu"),
        ("layers:\n  conv1: {parts: {digital: 15}}\n" + STAGES, "{digital", "sum to 15 output channels"),
        ("layers:\n  conv1: {parts: {digital: 16}, unroll: 2}\n" + STAGES, "2}", "none of its cores does"),
        ("layers:\n  conv9: {parts: {digital: 16}}\n" + STAGES, "{parts", "resnet8 has no such layer"),
        ("pieces: [[conv1], [layer1.0.add, layer2.0.conv1]]\n" + STAGES, "[layer1.0.add", "are not in one stage"),
        ("pieces: [[conv1], [layer2.0.conv1, layer2.0.conv9]]\n" + STAGES, "[layer2.0.conv1", "are not in one stage"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, resnet8: Workload, text: str, mark: str, message: str
) -> None:
    cluster = cluster_of(tmp_path, "  d: {soc: diana}\n  r: {soc: rpi4, count: 2}\n  far: {soc: rpi4}")
    links = {"x": cluster.links["x"].model_copy(update={"between": ("d", "r")}),
             "y": cluster.links["x"].model_copy(update={"between": ("r", "far")})}  # fmt: skip
    cluster = cluster.model_copy(update={"links": links})
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_cluster_mapping(file, resnet8, cluster)
    before = text[: text.index(mark)]
    place = f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "
    assert message in str(error.value)
    assert str(error.value).startswith(place) and "\n" not in str(error.value)


def test_a_stage_must_fit_its_device(tmp_path: Path) -> None:
    """VGG-16 has 138 M parameters in fp32, 528 MiB; 500 MiB hold the convolutions (56 MiB), not the rest."""
    memory = "set: {memories.dram.size_bytes: '524288000'}"
    cluster = cluster_of(tmp_path, f"  a: {{soc: rpi4, {memory}}}\n  b: {{soc: rpi4}}")
    network, file = find_workload("vgg16"), tmp_path / "m.yaml"
    fits = network.layers[17].name
    file.write_text(f"stages:\n  - {{device: a, behind: {fits}}}\n  - {{device: b, behind: {network.outputs[0]}}}\n")
    assert load_cluster_mapping(file, network, cluster).stages
    file.write_text(f"stages:\n  - {{device: a, behind: {network.outputs[0]}}}\n")
    with pytest.raises(InputError, match=r"m.yaml:2:5: stages.0: needs 553.4 MiB of a, which has 500.0 MiB"):
        load_cluster_mapping(file, network, cluster)


def test_items_that_wait_must_fit_their_device(tmp_path: Path, resnet8: Workload) -> None:
    """In fp32: 1,000 items of 65,536 bytes behind conv1 are 62.5 MiB; a tenth of a MiB is for one layer and one item
    that leaves, and 0.3 MiB for 78 k weights."""
    memory = "set: {memories.dram.size_bytes: '65536000'}"
    cluster = cluster_of(tmp_path, f"  a: {{soc: rpi4}}\n  b: {{soc: rpi4, {memory}, queue_items: 1000}}")
    mapping = Mapping("m", stages=(Stage("a", ("conv1",)), Stage("b", ("fc",))))
    with pytest.raises(InputError, match=r"stages.1: needs 6[23]\.. MiB of b, which has 62.5 MiB; give it fewer"):
        simulate_cluster(cluster, resnet8, mapping)


def test_stages_and_batches_mean_nothing_to_one_soc(tmp_path: Path, resnet8: Workload) -> None:
    file, diana = tmp_path / "m.yaml", find_soc("diana")
    for text, place in ((STAGES, "2:3: stages"), ("micro_batch: 4\n", "1:14: micro_batch")):
        file.write_text(text)
        with pytest.raises(InputError, match=f"m.yaml:{place}: .*diana is one SoC"):
            load_mapping(file, resnet8, diana)
    with pytest.raises(InputError, match="diana is one SoC"):
        simulate(diana, resnet8, Mapping("m", stages=(Stage("d", ("fc",)),)))


def test_a_mapping_that_cannot_be_is_refused_by_the_library_too(resnet8: Workload) -> None:
    cluster = find_cluster("homogeneous_cpu_2")
    with pytest.raises(InputError, match=r"mapping m does not fit homogeneous_cpu_2: stages.0.replicas: 3 of cpu"):
        simulate_cluster(cluster, resnet8, Mapping("m", stages=(Stage("cpu", ("fc",), 3),)))
    nowhere = {"conv1": LayerPlan((Part("npu", 16),))}
    with pytest.raises(InputError, match=r"on cpu: .*npu"):
        simulate_cluster(cluster, resnet8, Mapping("m", layers=nowhere, stages=(Stage("cpu", ("fc",)),)))
    with pytest.raises(InputError, match="inferences is 0"):
        simulate_cluster(cluster, resnet8, Mapping("m", stages=(Stage("cpu", ("fc",)),)), inferences=0)


def test_a_stage_is_simulated_once(resnet8: Workload) -> None:
    """However many stages of other plans ask for it."""
    runs = 0

    def counted(*arguments: object) -> object:
        nonlocal runs
        runs += 1
        return RUN(*arguments)  # type: ignore[arg-type]

    cluster, mapping = alone_in("diana", resnet8, Mapping("m"))
    pricer = Pricer(device_soc(cluster, "d"), resnet8, mapping, counted)  # type: ignore[arg-type]
    first = stage_figures(cluster, resnet8, mapping, {"d": pricer})
    assert stage_figures(cluster, resnet8, mapping, {"d": pricer}) == first
    assert runs == 1

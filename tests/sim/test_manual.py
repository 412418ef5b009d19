"""Manual mappings: which core gets what, and that the cheapest split is the cheapest there is."""

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.names import KINDS, MANUAL
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import KINDS_OF_CORE, alone, named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.ways import splits

SOC = find_soc("diana")


def cores(name: str, workload: Workload) -> dict[str, str]:
    """The core of every layer of a mapping that splits none."""
    mapping = named_mapping(name, workload, SOC)
    assert all(
        len(given.parts) == 1 and given.parts[0].channels == workload[n].k for n, given in mapping.layers.items()
    )
    return {n: given.parts[0].core for n, given in mapping.layers.items()}


def test_rules_put_layers_where_they_say() -> None:
    """DIANA: the ternary core runs no depthwise layers, pools and sums have units of their own."""
    workload = find_workload("dscnn")
    weighted = {layer.name: layer for layer in workload if layer.op == "conv"}
    depthwise = {name for name, layer in weighted.items() if layer.depthwise}
    assert depthwise
    eight = cores("all_8bit", workload)
    assert {eight[n] for n in weighted} == {"digital"}
    ternary = cores("all_ternary", workload)
    assert {n for n in weighted if ternary[n] != "analog"} == depthwise
    ends = cores("io_8bit_backbone_ternary", workload)
    assert {n for n in weighted if ends[n] != ternary[n]} == {"conv1", "fc"}
    assert {eight[layer.name] for layer in workload if layer.op == "avg_pool"} == {"pool"}
    assert set(cores("all_8bit", find_workload("resnet8")).values()) == {"digital", "simd", "pool"}


@pytest.mark.parametrize("objective", ["latency", "energy"])
@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
def test_no_split_of_a_layer_is_cheaper_than_the_one_of_min_cost(runtime: Runtime, objective: str) -> None:
    """Brute force over all 41 splits of 40 channels, not only those at hardware steps; ties go to 8 bit."""
    layer = Layer("l", "conv", (INPUT,), k=40, c=64, oy=8, ox=8, iy=8, ix=8, fy=3, fx=3, pad_y=1, pad_x=1)
    workload = Workload("w", (64, 8, 8), (layer,), ("l",))
    found = {}
    for k in range(layer.k + 1):
        shares = tuple(p for p in (Part("digital", k), Part("analog", layer.k - k)) if p.channels)
        result = simulate(SOC, workload, Mapping("m", runtime, {"l": LayerPlan(shares)}))
        found[k] = result.seconds if objective == "latency" else result.energy_j
    mapping = named_mapping("min_cost", workload, SOC, runtime, objective)
    chosen = mapping.layers["l"].channels_on("digital")
    least = min(found.values())
    assert found[chosen] == least
    assert chosen == max(k for k, cost in found.items() if cost == least and k in dict(splits(layer, SOC, PAIR)))


PAIR = ("digital", "analog")


def test_splits_stand_where_a_cost_can_change() -> None:
    """16 channels a digital column block, 32 an analog one, from the other end."""
    layer = Layer("l", "conv", (INPUT,), k=40, c=64)
    assert [k for k, _ in splits(layer, SOC, PAIR)] == [0, 8, 16, 32, 40]
    assert all(a + b == 40 for a, b in splits(layer, SOC, PAIR))


def test_a_layer_alone_does_the_same_work() -> None:
    workload = find_workload("resnet8")
    for layer in workload:
        single = alone(workload, layer)
        assert single.macs == layer.macs
        assert set(single.layers[0].inputs) == {INPUT}
        simulate(SOC, single, Mapping("m"))


def test_a_machine_without_ternary_cores_has_one_manual_mapping() -> None:
    """DIANA with its analog core taken out; min_cost is over what cores there are, here one for each layer."""
    kept = {name: core for name, core in SOC.cores.items() if not core.ternary}
    plain: SoC = SOC.model_copy(update={"cores": kept})
    workload = find_workload("digits_cnn")
    first = named_mapping("all_8bit", workload, plain)
    assert first.layers and named_mapping("min_cost", workload, plain).layers == first.layers
    for name in MANUAL:
        if "ternary" in name:
            with pytest.raises(InputError, match="needs a ternary core, and diana has none"):
                named_mapping(name, workload, plain)
    with pytest.raises(InputError, match="no manual mapping named 'fastest'"):
        named_mapping("fastest", workload, SOC)


def test_min_cost_of_a_network_is_no_slower_than_the_rules_when_layers_run_one_by_one() -> None:
    """In the serial runtime a network's time is the sum of its layers', as long as nothing moves off chip: what is best
    for each layer is best for all."""
    workload = find_workload("digits_cnn")
    seconds = {name: simulate(SOC, workload, named_mapping(name, workload, SOC, "serial")).seconds for name in MANUAL}
    assert seconds["min_cost"] == min(seconds.values())


def test_a_mapping_to_a_kind_of_core_needs_one() -> None:
    """gpu, dla: refused in one line on a chip that has none."""
    workload = find_workload("resnet8")
    with pytest.raises(InputError, match="mapping dla needs a core of that kind, and diana has none; use default"):
        named_mapping("dla", workload, find_soc("diana"))


def test_every_kind_that_is_listed_can_be_asked_for() -> None:
    assert set(KINDS) == set(KINDS_OF_CORE)

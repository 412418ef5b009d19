"""The datamover: widths rewritten after loads and before stores, by hand-drawn timelines and by counting elements."""

import pytest

from cosoc.sim import exact
from cosoc.sim.cores.datamover import Datamover
from cosoc.sim.cores.tensor_engine import TensorEngine
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import KINDS
from cosoc.sim.model.mapping import INPUTS_STAY, RUNTIMES, WEIGHTS_STAY, Dim, LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import tiled
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import homes_of, problems, tile_bytes
from cosoc.sim.work import layer_work


@pytest.fixture(scope="module")
def soc() -> SoC:
    return find_soc("darkside")


def without(soc: SoC) -> SoC:
    """The same chip, on which conversion costs nothing."""
    tensor = soc.cores["tensor"].model_copy(update={"datamover": None})
    return soc.model_copy(update={"cores": soc.cores | {"tensor": tensor}})


def pointwise(k: int = 16, c: int = 32, size: int = 8) -> Layer:
    return Layer("pw", "conv", (INPUT,), k, c, size, size, size, size)


def workload(layer: Layer) -> Workload:
    return Workload("one", (layer.c, layer.iy, layer.ix), (layer,), (layer.name,))


def mapped(
    layer: Layer,
    soc: SoC,
    tile: tuple[tuple[int, ...], int, int] | None,
    runtime: Runtime = "serial",
    on_cluster: int = 0,
    order: tuple[Dim, ...] = WEIGHTS_STAY,
) -> Mapping:
    """tile: channels a part, rows and columns; None leaves it to the tiler."""
    parts = (Part("tensor", layer.k - on_cluster),) + ((Part("cluster", on_cluster),) if on_cluster else ())
    plan = LayerPlan(parts) if tile is None else tiled(layer, LayerPlan(parts), soc, *tile, order)
    return Mapping("m", runtime, {layer.name: plan})


def test_cycles_by_hand() -> None:
    # 100 elements of 8 bit become 100 of 16: 300 bytes read or written, 32 a cycle.
    assert Datamover(bytes_per_cycle=32).cycles(100, 16, exact) == 10
    assert Datamover(bytes_per_cycle=4).cycles(100, 16, exact) == 75


def test_serial_timeline_by_hand(soc: SoC) -> None:
    """One job: inputs and weights come, are widened, the job launches, computes and narrows, and its results go.

    Widening 32 x 8 x 8 bytes is 3 x 2048 / 32 = 192 ticks, narrowing 16 x 64 results 3 x 1024 / 32 = 96."""
    layer = pointwise()
    program = lower(workload(layer), mapped(layer, soc, None), soc)
    trace = engine_fast.run(program)
    unit = program.unit_names.index("tensor")
    mine = program.rows["unit"] == unit
    kinds = [KINDS[kind] for kind in program.rows["kind"][mine]]
    issue, end = trace.issue[mine].tolist(), trace.end[mine].tolist()
    assert kinds[:2] == ["feed", "launch"]
    loads = program.rows["kind"] == KINDS.index("load")
    assert issue[0] == trace.end[loads].max()
    assert end[0] - issue[0] == 192
    tensor = soc.cores["tensor"]
    assert isinstance(tensor, TensorEngine)
    # The engine's own law: 8 x 1 blocks of 8 x 16 outputs, 16 cycles for four terms; 56 to start, and 28 first words.
    assert end[-1] - end[1] == 8 * 16 * 8 + 56 + 28 + 96
    stores = program.rows["kind"] == KINDS.index("store")
    assert trace.issue[stores].min() == end[-1]
    assert simulate(without(soc), workload(layer), mapped(layer, soc, None)).ticks == trace.makespan - 192 - 96


def test_inputs_that_stay_are_widened_once_and_those_that_come_again_again(soc: SoC) -> None:
    """Two tiles of 32 rows' halves by two of channels: with the inputs staying each half is loaded and widened once,
    with the weights staying twice. Results are narrowed once in any case."""
    layer = pointwise(k=32)
    costs = {}
    for name, order in (("inputs", INPUTS_STAY), ("weights", WEIGHTS_STAY)):
        mapping = mapped(layer, soc, ((16,), 4, 8), order=order)
        costs[name] = [simulate(one, workload(layer), mapping).ticks for one in (soc, without(soc))]
    narrowing, widening = 3 * 32 * 64 // 32, 3 * 32 * 64 // 32
    assert costs["inputs"][0] - costs["inputs"][1] == narrowing + widening
    assert costs["weights"][0] - costs["weights"][1] == narrowing + 2 * widening


@pytest.mark.parametrize("order", [INPUTS_STAY, WEIGHTS_STAY])
@pytest.mark.parametrize("on_cluster", [0, 16, 48])
def test_the_closed_form_has_the_same_work(soc: SoC, order: tuple[Dim, ...], on_cluster: int) -> None:
    """Serial time is a sum, so that estimate and simulation must agree to the tick, whatever core has more tiles."""
    layer = pointwise(k=64)  # transfers are whole bursts of 64 bytes, as the closed form has them
    tile = ((16, 16)[: 1 + bool(on_cluster)], 4, 8)
    mapping = mapped(layer, soc, tile, on_cluster=on_cluster, order=order)
    given, homes = mapping.layers["pw"], homes_of(workload(layer), mapping, soc)
    work = layer_work(layer, soc, [(p.core, p.channels) for p in given.parts], given, homes, exact)
    estimated = layer_time(layer, work, soc, "serial", homes, Theta(), exact).ticks
    assert estimated == simulate(soc, workload(layer), mapping).ticks


def test_tiles_take_two_bytes_an_element_and_both_widths_where_two_cores_read_one_copy(soc: SoC) -> None:
    layer = pointwise(k=32)
    alone = mapped(layer, soc, ((32,), 8, 8))
    both = mapped(layer, soc, ((16, 16), 8, 8), on_cluster=16)
    homes = homes_of(workload(layer), alone, soc)
    one = tile_bytes(layer, alone.layers["pw"], soc, "serial", homes)["tcdm"]
    two = tile_bytes(layer, both.layers["pw"], soc, "serial", homes)["tcdm"]
    assert (one.inputs, one.outputs) == (2 * 32 * 64, 2 * 32 * 64)
    assert (two.inputs, two.outputs) == ((1 + 2) * 32 * 64, (2 + 1) * 16 * 64)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_tile_that_fits_in_bytes_but_not_in_fp16_is_refused(soc: SoC, runtime: Runtime) -> None:
    layer = pointwise(k=16, c=768, size=8)  # 48 kB of inputs: 96 kB in FP16, of 80
    mapping = mapped(layer, soc, ((4,), 8, 8), runtime)
    found = problems(mapping, workload(layer), soc)
    assert len(found) == 1 and "98304 in" in found[0][1] and "of tcdm, which has 81920" in found[0][1]
    assert not problems(mapped(layer, soc, ((4,), 2, 8), runtime), workload(layer), soc)


def test_widening_beside_the_cluster_is_slowed_by_bank_conflicts(soc: SoC) -> None:
    """The datamover is at the TCDM while it works: without conflicts the same program ends earlier."""
    layer = pointwise(k=64, c=64, size=16)
    mapping = mapped(layer, soc, ((16, 32), 8, 16), "overlapped", on_cluster=32)
    free = soc.links["tcdm"].model_copy(update={"stretch": (1.0,)})
    calm = replace_links(soc, tcdm=free)
    service = []
    for machine in (soc, calm):
        program = lower(workload(layer), mapping, machine)
        trace = engine_fast.run(program)
        rows = program.rows
        mine = (rows["unit"] == program.unit_names.index("tensor")) & (rows["kind"] == KINDS.index("feed"))
        service.append(int(trace.service[mine].sum()))
    table = soc.links["tcdm"].stretch
    assert service[1] < service[0] < table[3] * service[1]


def replace_links(soc: SoC, tcdm: object) -> SoC:
    return soc.model_copy(update={"links": soc.links | {"tcdm": tcdm}})


def test_no_datamover_no_cost(soc: SoC) -> None:
    """Cores of 8 bit have nothing rewritten."""
    for name, core in soc.cores.items():
        if name != "tensor":
            assert core.rewritten_bytes(1000, exact) == 0
            assert core.element_bytes == 1
    tensor = soc.cores["tensor"]
    assert tensor.rewritten_bytes(1000, exact) == 94 * 32  # 3000 bytes in cycles of 32

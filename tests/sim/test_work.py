"""Is the work of many tilings in one call that of each of them, and is it what a program has?"""

from __future__ import annotations

import numpy as np
import pytest

from cosoc.sim import exact
from cosoc.sim.estimate import layer_terms, layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine.program import KINDS, unroll
from cosoc.sim.model.mapping import DIMS, INPUTS_STAY, WEIGHTS_STAY, Extent, LayerPlan, Mapping, Part
from cosoc.sim.model.tiles import channels_read, tiled
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import channel_tiles, complete, cuts, homes_of, tile_bytes
from cosoc.sim.work import layer_work

MANY = 8
SPLIT = ("n", "oy", "k", "ox", "c", "fy", "fx")  # rows outside the channels, columns inside


@pytest.mark.parametrize(("name", "network"), [("diana", "resnet8"), ("darkside", "mobilenet_v1_025")])
@pytest.mark.parametrize("order", [WEIGHTS_STAY, INPUTS_STAY, SPLIT])
def test_tilings_in_arrays_cost_what_each_costs(name: str, network: str, order: tuple[str, ...]) -> None:
    """Time, energy and bytes of memory of tiles drawn at random, as arrays and one by one."""
    soc, net = find_soc(name), find_workload(network)
    given = complete(Mapping("default", "overlapped"), net, soc)
    homes, rng = homes_of(net, given, soc), np.random.default_rng(0)
    for layer in net:
        plan = given.layers[layer.name]
        steps = [channel_tiles(part.channels, soc.cores[part.core].channel_step) for part in plan.parts]
        k = [rng.choice(own, MANY) for own in steps]
        oy, ox = rng.choice(cuts(layer.oy), MANY), rng.choice(cuts(layer.ox), MANY)
        c = int(rng.choice(cuts(channels_read(layer))))
        cut_c = 0 if c == channels_read(layer) else c

        def priced(k, oy, ox, layer=layer, plan=plan, cut_c=cut_c):  # type: ignore[no-untyped-def]
            one = tiled(layer, plan, soc, k, oy, ox, order, cut_c)
            work = layer_work(layer, soc, [(part.core, part.channels) for part in plan.parts], one, homes, exact)
            time = layer_time(layer, work, soc, "overlapped", homes, Theta(), exact)
            return (
                time.ticks,
                time.unit_j,
                *(b.total for b in tile_bytes(layer, one, soc, "overlapped", homes).values()),
            )

        together = [np.broadcast_to(np.asarray(x, float), MANY) for x in priced(k, oy, ox)]
        for i in range(MANY):
            alone = priced([int(own[i]) for own in k], int(oy[i]), int(ox[i]))
            assert [x[i] for x in together] == pytest.approx([float(x) for x in alone], rel=1e-12)


def test_a_part_without_channels_is_no_work() -> None:
    """An array behind caches, and a core beside it that has all channels: the layer takes what it takes without."""
    soc, net = find_soc("hetero"), find_workload("resnet8")
    layer = net["layer2.0.conv2"]
    times = []
    for parts in ((Part("digital", 32),), (Part("digital", 32), Part("gemmini", 0))):
        given = complete(Mapping("m", "overlapped", {layer.name: LayerPlan(parts)}), net, soc)
        plan, homes = given.layers[layer.name], homes_of(net, given, soc)
        work = layer_work(layer, soc, [(part.core, part.channels) for part in parts], plan, homes, exact)
        for idle in work.cores[1:]:
            assert (idle.jobs, idle.array, idle.energy_pj) == (0, 0, 0)
        time = layer_time(layer, work, soc, "overlapped", homes, Theta(), exact)
        times.append((time.ticks, time.unit_j))
    assert times[0] == times[1]


@pytest.mark.parametrize(("name", "network"), [("diana", "resnet8"), ("gap9", "resnet8")])
def test_transfers_of_weights_are_as_many_as_the_program_has(name: str, network: str) -> None:
    """Counted in the program, layer by layer and core by core; of a layer without weights there are none."""
    soc, net = find_soc(name), find_workload(network)
    given = complete(Mapping("default", "overlapped"), net, soc)
    homes, program = homes_of(net, given, soc), unroll(lower(net, given, soc))
    assert homes.weights_in_main  # one way: each transfer is one op
    mine = program.rows[program.rows["kind"] == KINDS.index("weights")]
    for layer in net:
        plan = given.layers[layer.name]
        work = layer_work(layer, soc, [(part.core, part.channels) for part in plan.parts], plan, homes, exact)
        ops = int((mine["layer"] == program.layers.index(layer.name)).sum()) if layer.name in program.layers else 0
        assert sum(core.weights.calls for core in work.cores) == ops, layer.name


def test_a_dma_that_stores_for_longer_than_the_last_tile_takes_is_free_for_nothing() -> None:
    """By hand: the last of several tiles of a 1x1 layer takes less than the store of its results, which is under way
    when the next layer's weights could come; with 3x3 filters it takes longer, and the DMA is free for what is left."""
    soc, free = find_soc("diana", {"dmas.dma.setup_cycles": "200"}), []
    for side in (1, 3):
        layer = Layer("c", "conv", (INPUT,), 16, 16, 32, 32, 32, 32, side, side, pad_y=side // 2, pad_x=side // 2)
        net = Workload("one", (16, 32, 32), (layer,), ("c",))
        plan = LayerPlan((Part("digital", 16, Extent(16, 16, side, side, 8, 32)),), DIMS)
        given = complete(Mapping("m", "overlapped", {"c": plan}), net, soc)
        homes = homes_of(net, given, soc)
        work = layer_work(layer, soc, [("digital", 16)], given.layers["c"], homes, exact)
        terms, _ = layer_terms(layer, work, soc, homes, exact)
        assert work.steps > 1
        assert terms.free == max(terms.tile + terms.launch - terms.store, 0)
        free.append(terms.free)
    assert free[0] == 0 < free[1]

"""Is the work of many tilings in one call that of each of them?"""

from __future__ import annotations

import numpy as np
import pytest

from cosoc.sim import exact
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import INPUTS_STAY, WEIGHTS_STAY, Mapping
from cosoc.sim.model.tiles import channels_read, tiled
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

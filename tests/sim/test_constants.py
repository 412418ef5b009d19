"""Constants that layers without weights read beside their inputs: parameters, room, and bytes of every inference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import dump_workload, load_workload
from cosoc.sim.importers.build import Input
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.mapping import Extent, LayerPlan, Mapping, Part, Piece, Runtime
from cosoc.sim.model.workload import INPUT, Layer, Workload, batched
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import complete, homes_of, problems, stored_bytes
from cosoc.sim.work import layer_work

RUNTIMES: tuple[Runtime, ...] = ("serial", "overlapped")


class Embedded(nn.Module):
    """A transformer's first layers: a class token, position embeddings, a norm, a scale by place behind it, a gate with
    slopes by channel, and a bias by head and place before a softmax, with weights of its own and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.places = nn.Parameter(torch.zeros(1, 9, 16))
        self.norm = nn.LayerNorm(16)
        self.gate = nn.PReLU(9)
        self.bias = nn.Parameter(torch.zeros(2, 9, 9))
        self.out = nn.Linear(16, 4)
        self.register_buffer("mask", torch.zeros(9, 9), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.token, x), 1) + self.places
        x = self.gate(self.norm(x))
        heads = x.reshape(1, 9, 2, 8).transpose(1, 2)
        scores = heads @ heads.transpose(2, 3) + self.bias
        x = (scores.softmax(-1) @ heads).transpose(1, 2).reshape(1, 9, 16)
        one = x.reshape(1, 1, 9, 16)
        x = ((one @ one.transpose(2, 3) + self.mask).softmax(-1) @ one).reshape(1, 9, 16)
        return self.out(x)


def test_parameters_are_those_that_torch_counts() -> None:
    """Every parameter is one that some layer reads; a mask, which is none, takes nothing."""
    module = Embedded()
    found = from_module(module, [Input("", (8, 16))], "net")
    assert found.params == sum(parameter.numel() for parameter in module.parameters())
    beside = [layer.constants for layer in found if layer.constants]
    assert beside == [16, 9 * 16, 2 * 16, 9, 2 * 9 * 9]


PIXELS = 24 * 20


def added(constants: int) -> Workload:
    """A map of 12 channels, constants beside it, and a layer that reads the result."""
    grid = {"oy": 24, "ox": 20, "iy": 24, "ix": 20}
    layers = (
        Layer("places", "eltwise", (INPUT,), k=12, c=12, fn="add", constants=constants, **grid),
        Layer("out", "conv", ("places",), k=8, c=12, **grid),
    )
    return Workload("added", (12, 24, 20), layers, ("out",))


CHIPS = (("gap8", "cluster"), ("gap9", "cluster"), ("darkside", "cluster"))


def tiled(core: str, network: Workload, k: int, rows: int, runtime: Runtime) -> Mapping:
    layer = network["places"]
    plan = LayerPlan((Part(core, layer.k, Extent(k, 1, 1, 1, rows, 20, 1)),), ("n", "oy", "ox", "k", "c", "fy", "fx"))
    return Mapping("m", runtime, {layer.name: plan})


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("chip", "core"), CHIPS)
def test_each_tile_loads_what_it_reads(chip: str, core: str, runtime: Runtime) -> None:
    """Conservation: of a constant as large as the map each element comes once, however the map is cut, for each image
    of a batch; of one number a channel, those of its channels with every tile. Both are beside the inputs, which come
    as they do without. Tiles are whole words."""
    soc = find_soc(chip)
    for n, k, rows in ((1, 12, 24), (1, 4, 6), (3, 4, 12)):
        loads = {}
        for constants in (0, 12, 12 * PIXELS):
            network = batched(added(constants), n)
            result = simulate(soc, network, complete(tiled(core, network, k, rows, runtime), network, soc))
            loads[constants] = next(part.load_bytes for part in result.by_layer if part.layer == "places")
        assert loads[12 * PIXELS] - loads[0] == n * 12 * PIXELS
        align = soc.dma(soc.route(soc.main_memory, soc.cores[core].memory).dma).align_bytes
        assert loads[12] - loads[0] == n * (24 // rows) * (12 // k) * -(-k // align) * align


@pytest.mark.parametrize("constants", [12, 12 * PIXELS])
@pytest.mark.parametrize(("chip", "core"), CHIPS)
def test_serial_time_is_the_closed_form(chip: str, core: str, constants: int) -> None:
    """A transfer more a tile: bytes are the same, and ticks but for the burst that a small transfer does not fill."""
    soc, network = find_soc(chip), added(constants)
    mapping = complete(tiled(core, network, 4, 6, "serial"), network, soc)
    homes, layer = homes_of(network, mapping, soc), network["places"]
    plan = mapping.layers["places"]
    work = layer_work(layer, soc, [(p.core, p.channels) for p in plan.parts], plan, homes, exact)
    found = next(part for part in simulate(soc, network, mapping).by_layer if part.layer == "places")
    ticks = layer_time(layer, work, soc, "serial", homes, Theta(), exact).ticks
    assert found.load_bytes == work.loads.bytes + work.constants.bytes
    assert abs(found.ticks_critical - ticks) <= 8 * work.constants.calls


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_they_take_room_beside_the_weights(runtime: Runtime) -> None:
    """Stored with the weights, a byte each, once where a layer shares them. 256 kB of them are too many for Darkside's
    L2, which has as much: they come from off-chip memory, and no memory is fuller than it is large."""
    soc = find_soc("darkside")
    grid = {"oy": 24, "ox": 20, "iy": 24, "ix": 20}
    network = added(12 * PIXELS)
    again = Layer("again", "eltwise", ("places",), 12, 12, fn="add", constants=12 * PIXELS, weights_of="places", **grid)
    shared = Workload("shared", (12, 24, 20), (network["places"], again), ("again",))
    mapping = complete(Mapping("m", runtime), shared, soc)
    assert stored_bytes(shared, mapping, soc) == 12 * PIXELS == shared.params
    much = Workload("much", (12, 24, 20), (Layer("places", "eltwise", (INPUT,), 12, 12, fn="add", constants=1 << 18,
                                                 **grid),), ("places",))  # fmt: skip
    full = complete(Mapping("m", runtime), much, soc)
    assert homes_of(much, full, soc).weights_of(much["places"]) == "off_chip"
    result = simulate(soc, much, full)
    assert next(part.bytes for part in result.by_server if part.server == "off_chip") >= 12 * PIXELS
    for use in memory_use(result, soc, much, full):
        assert use.bytes.min() >= 0 and use.bytes.max() <= use.capacity_bytes, use.memory


def test_fused_rows_read_their_part() -> None:
    """Row by row each element comes once."""
    soc, network = find_soc("gap8"), added(12 * PIXELS)
    fused = Mapping("m", "overlapped", pieces=(Piece(("places", "out")),))
    bare = simulate(soc, added(0), complete(fused, added(0), soc))
    result = simulate(soc, network, complete(fused, network, soc))
    first = [next(part.load_bytes for part in one.by_layer if part.layer == "places") for one in (result, bare)]
    assert first[0] - first[1] == 12 * PIXELS


def test_layers_of_a_core_at_the_main_memory_may_fuse() -> None:
    """Nothing comes in or goes out there, so that of a piece no row needs room: no reason against it is found."""
    soc = find_soc("isaac")
    grid = {"oy": 4, "ox": 4, "iy": 4, "ix": 4}
    layers = (Layer("one", "conv", (INPUT,), k=8, c=4, **grid), Layer("two", "conv", ("one",), k=8, c=8, **grid))
    network = Workload("two", (4, 4, 4), layers, ("two",))
    assert not problems(Mapping("m", "overlapped", pieces=(Piece(("one", "two")),)), network, soc)


def test_they_belong_to_operators_without_weights(tmp_path: Path) -> None:
    """A file keeps them, and a convolution with some is refused."""
    file = tmp_path / "net.yaml"
    file.write_text(dump_workload(added(12)))
    assert load_workload(file) == added(12)
    file.write_text(dump_workload(added(12)).replace("k: 8,", "k: 8, constants: 3,"))
    with pytest.raises(InputError, match="found 3 of conv; those are of add, concat"):
        load_workload(file)

"""3-D convolutions as planes in rows: what a tile of part of a plane reads, held against every tap of every output."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import dump_workload, load_workload
from cosoc.sim.importers.build import Input
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.mapping import Extent, LayerPlan, Mapping, Part
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.dma_terms import spans_x, spans_y
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import complete

# Filter, stride, padding, dilation, each (planes, rows, columns), over 5 planes of 8 x 10.
VOLUME = (5, 8, 10)
WINDOWS = (
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((3, 5, 3), (1, 2, 1), (1, 2, 1), (1, 1, 1)),
    ((2, 2, 2), (1, 2, 2), (0, 0, 0), (1, 1, 1)),
    ((3, 3, 3), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
)


def convolution(window: tuple[tuple[int, ...], ...]) -> Workload:
    taps, stride, pad, dilation = window
    module = nn.Conv3d(2, 4, taps, stride, pad, dilation)  # type: ignore[arg-type]
    return from_module(module, [Input("", (2, *VOLUME))], "volume")


def rows_under(window: tuple[tuple[int, ...], ...], planes: range, pixels: range, width: int) -> int:
    """Rows of inputs under some pixels, numbered row by row, of some output planes: all that exist from the first tap
    to the last, in planes as in rows."""
    taps, stride, pad, dilation = window
    z = [at * stride[0] - pad[0] + tap * dilation[0] for at in planes for tap in range(taps[0])]
    y = [at // width * stride[1] - pad[1] + tap * dilation[1] for at in pixels for tap in range(taps[1])]
    each = [
        sum(0 <= at < size for at in range(min(own), max(own) + 1)) for own, size in zip((z, y), VOLUME, strict=False)
    ]
    return each[0] * each[1]


def tiles(size: int, tile: int) -> Iterator[range]:
    return (range(first, min(first + tile, size)) for first in range(0, size, tile))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_a_tile_reads_the_rows_under_its_outputs(window: tuple[tuple[int, ...], ...]) -> None:
    """Of each tile the whole rows of the input from its first to its last tap; a single tile reads all."""
    (layer,) = convolution(window).layers
    assert layer.plane is not None
    width = layer.plane.ox
    for planes, pixels in itertools.product((1, 2, layer.oy), (3, width, 2 * width + 1, layer.ox)):
        rows = [span.inp for span in spans_y(layer, planes) for _ in range(span.count)]
        cols = [span.inp for span in spans_x(layer, pixels) for _ in range(span.count)]
        by_tile = itertools.product(tiles(layer.oy, planes), tiles(layer.ox, pixels))
        for (z, at), (read_z, read_yx) in zip(by_tile, itertools.product(rows, cols), strict=True):
            under = rows_under(window, z, at, width)
            if planes < layer.oy and pixels < layer.ox:
                assert read_z * read_yx == under * VOLUME[2]
            assert read_z * read_yx >= under * VOLUME[2]


def test_a_program_loads_them() -> None:
    """GAP8, tiles of 2 planes and 2 rows: bytes of the loads are those of the rows under each tile, of both channels,
    which are pieces of whole words."""
    window = WINDOWS[0]
    network, soc = convolution(window), find_soc("gap8")
    (layer,) = network.layers
    whole = Extent(layer.k, layer.c, layer.fy, layer.fx, 2, 20, 1)
    plan = LayerPlan((Part("cluster", layer.k, whole),), ("n", "oy", "ox", "k", "c", "fy", "fx"))
    mapping = complete(Mapping("m", "overlapped", {layer.name: plan}), network, soc)
    loaded = simulate(soc, network, mapping).by_layer[0].load_bytes
    read = [rows_under(window, z, at, 10) for z in tiles(5, 2) for at in tiles(80, 20)]
    assert loaded == 2 * 10 * sum(read)


def test_a_filter_one_plane_deep_is_that_of_an_image(tmp_path: Path) -> None:
    """It reads each plane by itself, so that the planes, one below another, are one tall image: five of 8 x 10."""
    deep = nn.Conv3d(2, 4, (1, 3, 3), (1, 2, 1), (0, 1, 1))
    flat = nn.Conv2d(2, 4, (3, 3), (2, 1), (1, 1))
    (layer,) = from_module(deep, [Input("", (2, *VOLUME))], "volume").layers
    (wanted,) = from_module(flat, [Input("", (2, 5 * 8, 10))], "image").layers
    assert replace(layer, name="") == replace(wanted, name="")


def test_a_file_keeps_planes(tmp_path: Path) -> None:
    """A workload comes back from its file; planes that do not make up their rows are refused."""
    network = convolution(WINDOWS[1])
    file = tmp_path / "net.yaml"
    file.write_text(dump_workload(network))
    assert load_workload(file) == network
    wrong = dump_workload(network).replace("plane: {iy: 8", "plane: {iy: 9")
    file.write_text(wrong)
    with pytest.raises(InputError, match="iy\\*ix = 90; ix of the layer is 80"):
        load_workload(file)

"""Number formats of a mapping's parts: what they change on a chip, that they reach every path, and refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from cosoc.search.terms import network_estimate
from cosoc.sim import exact
from cosoc.sim.cores.cluster import Cluster
from cosoc.sim.cores.crossbar import Crossbar
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import dump_mapping, load_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import checked

K, C, TAPS = 32, 16, 9
BIAS = 4 * K  # bytes, as socs/darkside.yaml has them


def two_layers() -> Workload:
    """Two 3 x 3 convolutions with 32 output channels on 8 x 8 pixels."""
    first = Layer("a", "conv", (INPUT,), K, C, 8, 8, 8, 8, 3, 3, 1, 1, 1, 1)
    second = replace(first, name="b", inputs=("a",), c=K)
    return Workload("two", (C, 8, 8), (first, second), ("b",))


def on(core: str, bits: int | None, runtime: Runtime = "serial", pieces: tuple[Piece, ...] = ()) -> Mapping:
    """Both layers on one core, the first in another format."""
    plans = {"a": LayerPlan((Part(core, K, bits=bits),)), "b": LayerPlan((Part(core, K),))}
    return Mapping("m", runtime, plans, pieces)


def weights(result: Result) -> list[int]:
    return [next(part.weight_bytes for part in result.by_layer if part.layer == name) for name in "ab"]


@pytest.fixture(scope="module")
def darkside() -> SoC:
    return find_soc("darkside")


@pytest.mark.parametrize(("bits", "stored"), [(None, 8), (8, 8), (4, 4), (2, 2)])
@pytest.mark.parametrize("fused", [False, True])
def test_weights_move_in_the_format_of_their_part(darkside: SoC, bits: int | None, stored: int, fused: bool) -> None:
    """By hand: k c fy fx weights of so many bits, and biases; the layer beside it keeps its own 8 bits."""
    pieces = (Piece(("a", "b")),) * fused
    found = simulate(darkside, two_layers(), on("cluster", bits, "overlapped" if fused else "serial", pieces))
    assert weights(found) == [K * C * TAPS * stored // 8 + BIAS, K * K * TAPS + BIAS]


def test_activations_of_8_bits_keep_the_width_of_the_products(darkside: SoC) -> None:
    """Weights are unpacked to the activations' width, so that time changes by their transfer alone: a serial run is
    shorter by the ticks that the saved bytes take on the narrowest link."""
    before, after = (simulate(darkside, two_layers(), on("cluster", bits)) for bits in (8, 4))
    saved = sum(weights(before)) - sum(weights(after))
    link = min(darkside.links[name].bytes_per_period for name in darkside.route("l2", "cluster_weights").links)
    assert before.ticks - after.ticks == saved // link


def test_a_crossbar_takes_half_of_the_cells() -> None:
    """ISAAC's weights of 16 bits take eight cells of 2, those of 8 bits four: 256 output channels are sixteen arrays
    of 128 columns, or eight. Of the energy of reading and converting them, half is left."""
    soc = find_soc("isaac")
    layer = Layer("a", "conv", (INPUT,), 256, 128, 4, 4, 4, 4)
    network = Workload("one", (128, 4, 4), (layer,), ("a",))
    cells, spent = [], []
    for bits in (16, 8):
        result = simulate(soc, network, Mapping("m", "serial", {"a": LayerPlan((Part("cim", 256, bits=bits),))}))
        tile, core = make_tile(layer, 256, 4, 4), soc.cores["cim"].with_bits(bits)
        assert isinstance(core, Crossbar)
        cells.append(core.blocks(tile, exact))
        spent.append((int(result.program.rows["energy_fj"].sum()), core.energy_pj(tile, exact)))
    assert cells == [(1, 16), (1, 8)]
    assert (spent[0][0] - spent[1][0]) / 1000 == pytest.approx(spent[0][1] - spent[1][1])


def test_the_estimate_takes_the_same_format(darkside: SoC) -> None:
    """In the serial runtime the estimate is the simulated time."""
    mapping = checked(on("cluster", 2), two_layers(), darkside)
    shares = {name: {"cluster": torch.tensor(float(K), dtype=torch.float64)} for name in "ab"}
    estimate = network_estimate(two_layers(), darkside, mapping, shares, Theta())
    assert float(estimate.ticks) == simulate(darkside, two_layers(), mapping).ticks


def test_a_file_says_the_format_and_is_held_to_it(tmp_path: Path, darkside: SoC) -> None:
    file = tmp_path / "m.yaml"
    mapping = checked(on("cluster", 4), two_layers(), darkside)
    file.write_text(dump_mapping(mapping))
    assert load_mapping(file, two_layers(), darkside) == mapping
    entry = "  a: {parts: {cluster: {channels: 32, bits: 3}}}"
    file.write_text(f"layers:\n{entry}\n")
    with pytest.raises(
        InputError, match=rf"m\.yaml:2:{entry.index('3}') + 1}: .*cluster has weights of 2 or 4 or 8 bits, not 3"
    ):
        load_mapping(file, two_layers(), darkside)
    file.write_text("layers:\n  a: {parts: {depthwise_engine: {channels: 32, bits: 4}}}\n")
    with pytest.raises(InputError, match="depthwise_engine has weights of 8 bits, not 4"):
        load_mapping(file, two_layers(), darkside)


def test_a_network_has_its_weights_in_a_format(darkside: SoC) -> None:
    """A layer of 4-bit weights is computed in 4 bits where a core has them, unless the mapping says otherwise."""
    network = two_layers()
    four = replace(network, layers=(replace(network["a"], weight_bits=4), network["b"]))
    asked = simulate(darkside, network, on("cluster", 4))
    assert simulate(darkside, four, on("cluster", None)).ticks == asked.ticks
    assert simulate(darkside, four, on("cluster", 8)).ticks == simulate(darkside, network, on("cluster", None)).ticks
    gemmini = find_soc("gemmini")
    silent = Mapping("m", "overlapped")
    assert simulate(gemmini, four, silent).ticks == simulate(gemmini, network, silent).ticks


@pytest.mark.parametrize("formats", [(2, 4), (4, 4, 8)])
def test_a_chip_names_each_format_once(darkside: SoC, formats: tuple[int, ...]) -> None:
    content = darkside.cores["cluster"].model_dump() | {"weight_formats": formats}
    with pytest.raises(ValidationError, match="name each width once, weight_bits 8 among them"):
        Cluster.model_validate(content)

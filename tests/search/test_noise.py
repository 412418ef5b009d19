"""Does analog noise have the size that the SoC file states, and does it act on analog channels alone?"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosoc.search.spaces.channels import MixedLayer, MixedNet, fix, prepare
from cosoc.search.training.nets import build
from cosoc.search.training.noise import KINDS, Noise, kinds_of, noise_of, quiet, set_ranges
from cosoc.search.training.quant import Converter
from cosoc.sim.cores.analog_array import AnalogNoise
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, load_soc, soc_folder, soc_ranges
from cosoc.sim.importers.torch_export import from_module

DIGITAL, ANALOG = 0, 1  # places of DIANA's cores in a layer's
CHIPS = 1000


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels() -> AnalogNoise:
    found = noise_of(find_soc("diana"), KINDS).levels
    assert found is not None
    return found


def linear() -> tuple[MixedNet, MixedLayer, Tensor]:
    """A linear layer of 40 inputs, three outputs on each core, and an input that its quantiser keeps."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(40, 6))
    net = prepare(module, from_module(module, (40, 1, 1), "linear"), find_soc("diana"))
    (layer,) = net.layers.values()
    assert layer.analog == (False, True)
    fix(net, {"1": torch.tensor([DIGITAL] * 3 + [ANALOG] * 3)})
    return net.double().eval(), layer, torch.rand(1, 40, dtype=torch.float64)


def cnn(core: int) -> tuple[MixedNet, Tensor]:
    """The digits' network, all of it on a core."""
    torch.manual_seed(0)
    module = build("digits_cnn").eval()
    x = torch.rand(16, 1, 8, 8)
    net = prepare(module, from_module(module, (1, 8, 8), "digits_cnn"), find_soc("diana"))
    fix(net, {name: torch.full((len(layer.gates),), core) for name, layer in net.layers.items()})
    with torch.no_grad():
        net.train()(x)  # which is when activations get their ranges
    return net.eval(), x


@torch.no_grad()
def test_a_conversion_is_off_by_the_noise_and_by_rounding() -> None:
    """Inputs evenly over the range: noise of sigma steps and a rounding, evenly within half a step, are independent,
    so that variances add: sigma^2 + 1/12 steps^2. Bound: four standard errors of a variance."""
    bits, sigma = 6, 0.5
    x = torch.linspace(-0.8, 0.8, 200_001)
    converter = Converter(bits)
    converter.unseen.zero_()
    converter.log_clip.data.zero_()  # a range of 1
    converter.disturb(sigma, drawn(0))
    in_steps = (converter(x) - x) * (2 ** (bits - 1) - 1)
    assert float(in_steps.var()) == pytest.approx(sigma**2 + 1 / 12, rel=4 * math.sqrt(2 / len(x)))
    converter.quiet()
    assert float(((converter(x) - x) * (2 ** (bits - 1) - 1)).var()) == pytest.approx(1 / 12, rel=1e-2)


@torch.no_grad()
def test_a_column_is_off_by_the_errors_of_its_cells() -> None:
    """Sums of x_i (w_i + s sigma e_i) over chips, e_i independent, of variance 1: variance (s sigma)^2 sum x_i^2."""
    net, layer, x = linear()
    noise = Noise(levels(), ("weights",))
    exact, outputs = layer(x), []
    for chip in range(CHIPS):
        noise.draw(net, drawn(chip))
        outputs.append(layer(x))
    y = torch.cat(outputs)
    assert torch.equal(y[:, :3], exact[:, :3].expand(CHIPS, 3))  # digital, to the bit
    expected = levels().weight_sigma ** 2 * layer.log_scale.exp()[3:] ** 2 * x.square().sum()
    assert torch.allclose(y[:, 3:].var(0), expected, rtol=4 * math.sqrt(2 / CHIPS))
    assert torch.allclose(y[:, 3:].mean(0), exact[0, 3:], atol=4 * float((expected / CHIPS).sqrt().max()))
    quiet(net)
    assert torch.equal(layer(x), exact)


@torch.no_grad()
def test_drift_is_one_gain_of_a_chip() -> None:
    """All column sums of a chip have one gain, within what the file's kelvins make at most; biases are digital."""
    net, layer, x = linear()
    noise, stated = Noise(levels(), ("drift",)), levels()
    most = stated.gain_per_k * stated.off_by_k
    exact, bias = layer(x), layer.geometry.bias
    gains = []
    for chip in range(200):
        noise.draw(net, drawn(chip))
        of_channels = (layer(x) - bias)[0] / (exact - bias)[0]
        assert torch.equal(of_channels[:3], torch.ones(3, dtype=torch.float64))
        assert torch.allclose(of_channels[3:], of_channels[3])
        gains.append(float(of_channels[3]))
    assert max(abs(gain - 1) for gain in gains) <= most
    # Evenly within +-most: of 200 draws the outermost are within a twentieth of the ends but for one in 10^4.
    assert min(gains) < 1 - 0.9 * most < 1 + 0.9 * most < max(gains)


@torch.no_grad()
def test_digital_channels_are_computed_as_ever() -> None:
    """With all kinds of noise and converters at every layer, what has no analog channel is the same to the bit."""
    net, x = cnn(DIGITAL)
    exact = net(x)
    noise = noise_of(find_soc("diana"), KINDS)
    set_ranges(net, noise.adc_bits, x)
    noise.draw(net, drawn(0))
    assert torch.equal(net(x), exact)
    analog, x = cnn(ANALOG)
    exact = analog(x)
    noise.draw(analog, drawn(0))
    assert not torch.equal(analog(x), exact)


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2])
def test_arrays_full_of_rows_add_up_to_the_layer(groups: int) -> None:
    """1152 rows hold 128 channels of 3x3, of each group: of 130 channels a group two arrays' sums are the layer's."""
    torch.manual_seed(0)
    module, shape = nn.Sequential(nn.Conv2d(130 * groups, 4 * groups, 3, groups=groups)), (130 * groups, 5, 5)
    net = prepare(module, from_module(module, shape, "wide"), find_soc("diana")).double().eval()
    (layer,) = net.layers.values()
    fix(net, {"0": torch.full((4 * groups,), layer.cores.index("analog"))})
    x = torch.rand(2, *shape, dtype=torch.float64)
    sums = list(layer.column_sums(x))
    assert len(sums) == 2
    assert layer.geometry.bias is not None
    assert torch.allclose(sum(sums) + layer.geometry.bias[:, None, None], layer(x))


def test_a_chip_is_the_same_for_every_mapping() -> None:
    noise = noise_of(find_soc("diana"), KINDS)
    (one, _), (other, _) = cnn(DIGITAL), cnn(ANALOG)
    for net in (one, other):
        noise.draw(net, drawn(3))
    for name, layer in one.layers.items():
        errors = layer.errors
        assert errors is not None
        assert torch.equal(errors, other.layers[name].errors)  # type: ignore[arg-type]
        assert layer.gain == other.layers[name].gain != 1.0


@pytest.mark.parametrize(("bits", "best"), [(3, 2.15), (4, 2.55), (6, 3.28)])
@torch.no_grad()
def test_ranges_of_converters_lose_least(bits: int, best: float) -> None:
    """Of normal sums, the range that loses least is known: 2.15, 2.55 and 3.28 sigma at 3, 4 and 6 bits (Banner et al.,
    NeurIPS 2019: 2^bits steps between its ends). A converter's range is its last level, half a step before that end.
    Ranges are tried in twentieths of the largest sum."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False))
    net = prepare(module, from_module(module, (64, 1, 1), "linear"), find_soc("diana"))
    (layer,) = net.layers.values()
    fix(net, {"1": torch.full((64,), ANALOG)})
    sums = torch.randn(4096, 64)
    layer.forward = lambda x: sums  # type: ignore[method-assign]
    layer.column_sums = lambda x: iter([sums])  # type: ignore[method-assign]
    set_ranges(net, bits, torch.rand(4096, 64, 1, 1))
    assert layer.converter is not None
    found = float(layer.converter.log_clip.exp())
    assert found == pytest.approx(best * (1 - 2.0**-bits), abs=0.75 * float(sums.abs().max()) / 20)


def test_where_noise_comes_from() -> None:
    soc = find_soc("diana")
    assert noise_of(soc, ()).adc_bits == 0
    assert noise_of(soc, ("weights",)).adc_bits == 0
    assert noise_of(soc, ("adc",)).adc_bits == 6
    assert kinds_of("all") == KINDS
    with pytest.raises(InputError, match="no noise named 'hum'; there is all, adc, weights, drift"):
        kinds_of("adc,hum")
    with pytest.raises(InputError, match="darkside has no analog core"):
        noise_of(find_soc("darkside"), ("adc",))
    still = find_soc("diana", {"cores.analog.noise.weight_sigma": "0.0"})
    with pytest.raises(InputError, match=r"cores\.analog\.noise\.weight_sigma of diana is 0, so it changes nothing"):
        noise_of(still, ("weights",))
    silent = soc.model_copy(
        update={"cores": {**soc.cores, "analog": soc.cores["analog"].model_copy(update={"noise": None})}}
    )
    with pytest.raises(InputError, match="core analog of diana states no levels"):
        noise_of(silent, ("adc",))


def test_files_state_noise_of_analog_cores_only(tmp_path: Path) -> None:
    text = (soc_folder() / "diana.yaml").read_text()
    stated = text[text.index("    noise:\n") : text.index("  pool:\n    model: vector_unit")]
    chip = tmp_path / "chip.yaml"
    chip.write_text(text.replace("  analog:\n    model", stated + "  analog:\n    model"))
    with pytest.raises(InputError, match=r"chip\.yaml:\d+:\d+: cores\.digital\.noise: "):
        load_soc(chip)
    chip.write_text(text.replace("      off_by_k: 40.0", "      off_by_k: 0.0 "))
    with pytest.raises(InputError, match=r"chip\.yaml:\d+:\d+: cores\.analog\.noise\.gain_per_k: .*changes nothing"):
        load_soc(chip)
    # From noise follows no time, so that ranges of times leave it out.
    assert not [one.path for one in soc_ranges("diana") if "noise" in one.path]


def test_noise_is_none_of_the_state() -> None:
    """What is trained under noise is kept without it."""
    net, _ = cnn(ANALOG)
    before = set(net.state_dict())
    noise = replace(noise_of(find_soc("diana"), KINDS), kinds=("weights", "drift"))
    noise.draw(net, drawn(0))
    assert set(net.state_dict()) == before

"""Do corruptions do to pixels what physics, or the format, says that they do, and more of it at each severity?"""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cosoc.search.training.corruptions import CORRUPTIONS, SEVERITIES, corrupted, names_of
from cosoc.sim.errors import InputError

GREY = 0.5


def natural(n: int, c: int, side: int) -> Tensor:
    """Images in 0..1 whose amplitudes fall with 1 / frequency, as those of photographs do."""
    noise = torch.randn(n, c, side, side, generator=torch.Generator().manual_seed(0))
    fy, fx = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    frequency = (fy**2 + fx**2).sqrt().clamp_min(1 / side)
    x = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(side, side))
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low)


def grey(n: int, side: int) -> Tensor:
    return torch.full((n, 1, side, side), GREY)


def psnr(x: Tensor, y: Tensor) -> float:
    return float(-10 * (x - y).square().mean().log10())


@pytest.mark.parametrize("c_and_side", [(1, 8), (1, 28), (3, 32)])
@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_each_severity_leaves_less_of_a_picture(name: str, c_and_side: tuple[int, int]) -> None:
    x = natural(32, *c_and_side)
    assert corrupted(x, name, 0, seed=0) is x  # severity 0 is none
    made = [corrupted(x, name, severity, seed=0) for severity in SEVERITIES]
    assert all(y.shape == x.shape and float(y.min()) >= 0 and float(y.max()) <= 1 for y in made)
    left = [psnr(x, y) for y in made]
    assert left == sorted(left, reverse=True), left
    assert len(set(left)) == len(left)


def test_what_is_drawn_follows_from_the_seed() -> None:
    x = natural(4, 1, 16)
    still = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    for name in CORRUPTIONS:
        again, other = corrupted(x, name, 3, 0), corrupted(x, name, 3, 1)
        assert torch.equal(corrupted(x, name, 3, 0), again)
        assert torch.equal(again, other) == (name in still), name


def test_noise_has_the_moments_of_its_law() -> None:
    """Gaussian: variance sigma^2. Poisson: mean and variance of the photons are equal, so that a grey of g has variance
    g / photons. Impulses: a share of the pixels is black or white, half each. Bounds: four standard errors."""
    x = grey(64, 32)
    n = x.numel()
    sigma, photons, share = (CORRUPTIONS[f"{k}_noise"].levels[0][0] for k in ("gaussian", "shot", "impulse"))
    spread = 4 * math.sqrt(2 / n)  # of a variance, relative
    gaussian = corrupted(x, "gaussian_noise", 1, 0) - x
    assert float(gaussian.var()) == pytest.approx(sigma**2, rel=spread)
    assert float(gaussian.mean()) == pytest.approx(0, abs=4 * sigma / math.sqrt(n))
    shot = corrupted(x, "shot_noise", 1, 0)
    assert float(shot.var()) == pytest.approx(GREY / photons, rel=2 * spread)  # kurtosis adds to the error
    assert float(shot.mean()) == pytest.approx(GREY, abs=4 * math.sqrt(GREY / photons / n))
    impulse = corrupted(x, "impulse_noise", 1, 0)
    for value in (0.0, 1.0):
        error = 4 * math.sqrt(share / 2 / n)
        assert float((impulse == value).float().mean()) == pytest.approx(share / 2, abs=error)


def test_a_blur_loses_no_light() -> None:
    """Defocus mirrors what it takes from an edge; of a picture with a wide margin motion moves nothing out of it."""
    x = natural(4, 3, 32)
    assert torch.allclose(corrupted(x, "defocus_blur", 5, 0).mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    x = torch.zeros(4, 3, 32, 32)
    x[:, :, 12:20, 12:20] = natural(4, 3, 8)
    assert torch.allclose(corrupted(x, "motion_blur", 5, 0).sum((2, 3)), x.sum((2, 3)), rtol=1e-5)


@pytest.mark.parametrize("side", [56, 112, 224])
def test_a_disk_has_the_second_moment_of_its_radius(side: int) -> None:
    """Of a point, a disk of radius r makes one with variance r^2 / 4 in each direction, r being in proportion to the
    picture; that shifts are bilinear between pixels adds the mean of f (1 - f) over fractions f, 1/6."""
    x = torch.zeros(1, 1, side, side)
    x[..., side // 2, side // 2] = 1.0
    y = corrupted(x, "defocus_blur", 5, 0)[0, 0]
    rows = torch.arange(float(side)) - side // 2
    variance = float((y.sum(1) * rows**2).sum())
    radius = CORRUPTIONS["defocus_blur"].levels[4][0] * side / 224
    assert variance == pytest.approx(radius**2 / 4 + 1 / 6, rel=0.02)


def test_digital_changes_have_closed_forms() -> None:
    x = 0.25 + 0.3 * natural(8, 1, 16)  # leaves room for all of these
    kept = CORRUPTIONS["contrast"].levels[0][0]
    assert torch.allclose(corrupted(x, "contrast", 1, 0).std((2, 3)), kept * x.std((2, 3)), rtol=1e-4)
    more = CORRUPTIONS["brightness"].levels[2][0]
    assert torch.allclose(corrupted(x, "brightness", 3, 0), x + more, atol=1e-6)
    colour = torch.tensor([0.6, 0.3, 0.15]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.allclose(corrupted(colour, "brightness", 1, 0), colour * 0.7 / 0.6)  # hue and saturation stay
    assert CORRUPTIONS["pixelate"].levels[1] == (0.5,)
    squares = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(corrupted(x, "pixelate", 2, 0), squares, atol=1e-6)


@pytest.mark.parametrize("c", [1, 3])
def test_jpeg_loses_what_libjpeg_loses(c: int) -> None:
    """Pillow's encoder and decoder, libjpeg's, are the reference: same tables, same quality, same colours at half the
    resolution. What is left between the two are roundings (and how colours come back to full resolution)."""
    from PIL import Image

    x = (natural(2, c, 40) * 255).round() / 255
    quality = int(CORRUPTIONS["jpeg_compression"].levels[0][0])
    ours = corrupted(x, "jpeg_compression", 1, 0)
    for picture, made in zip(x, ours, strict=True):
        pixels = np.round(picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if c == 1 else pixels).save(file, "JPEG", quality=quality)
        theirs = torch.from_numpy(np.asarray(Image.open(file)).copy()).float().reshape(40, 40, c).permute(2, 0, 1) / 255
        lost = psnr(picture, theirs)
        assert psnr(made, theirs) > lost + (20 if c == 1 else 6)  # a tenth, and a half, of the error
        assert psnr(picture, made) == pytest.approx(lost, abs=0.1 if c == 1 else 0.5)


def test_what_is_no_image_is_refused() -> None:
    x = natural(2, 1, 8)
    with pytest.raises(InputError, match=r"no corruption named 'rain'; there is gaussian_noise, "):
        corrupted(x, "rain", 1, 0)
    with pytest.raises(InputError, match="severity 6: 1 to 5 is needed"):
        corrupted(x, "fog", 6, 0)
    with pytest.raises(InputError, match=r"found data of \(2, 8, 8\); corruptions are of images"):
        corrupted(x.expand(2, 2, 8, 8), "fog", 1, 0)
    with pytest.raises(InputError, match=r"found pixels of 0 \.\. 2"):
        corrupted(2 * x, "fog", 1, 0)
    assert names_of("all") == tuple(CORRUPTIONS)
    assert len(CORRUPTIONS) == 15
    assert names_of("fog, snow,fog") == ("fog", "snow")

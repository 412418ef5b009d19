"""Fifteen corruptions of images, after ImageNet-C (Hendrycks and Dietterich, ICLR 2019), at five severities.

For any size, and 1 or 3 channels: images are float [n, c, h, w] with pixels in 0..1, and so is what comes back. Levels
are those of ImageNet-C, whose pictures have 224 pixels along their shorter side; lengths among them (radii, shifts,
flakes) are scaled by min(h, w) / 224, so that a blur covers the same part of a picture at any size. Shifts of less than
a pixel are interpolated. What does not scale: noise is drawn pixel by pixel, a flake of snow is no finer than two, and
JPEG's blocks are 8 pixels. Edges are mirrored. What is drawn for an image is the same at all severities.

Made otherwise than in ImageNet-C: frost is synthesised (ridges of a fractal) where that has photographs; fog's
fractal is a sum of octaves; motion is blurred to both sides; glass shifts what a pixel shows where that swaps pixels.
Frost, fog and elastic shifts have one thing that grows, and snow a lighter second severity, where that has steps that
take less of a picture than the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cosoc.search.training.train import generator
from cosoc.sim.errors import InputError

SEVERITIES = (1, 2, 3, 4, 5)
MADE_FOR = 224  # pixels along the shorter side, which lengths among the levels are of
CHUNK = 256  # images at once: what is drawn for an image depends on it
GREY = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601

Level = tuple[float, ...]
Draw = torch.Generator


@dataclass(frozen=True)
class Corruption:
    """make(images, level, draws) corrupts images in 0..1 (and may leave that range); levels: of the five severities."""

    make: Callable[[Tensor, Level, Draw], Tensor]
    levels: tuple[Level, ...]


def corrupted(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Images [n, c, h, w] with pixels in 0..1, corrupted; at severity 0 as they are. What is drawn follows from seed
    and name. InputError for another name or severity, and for what are no such images."""
    if name not in CORRUPTIONS:
        raise InputError(f"no corruption named {name!r}; there is {', '.join(CORRUPTIONS)}")
    if severity not in (0, *SEVERITIES):
        raise InputError(f"severity {severity}: 1 to 5 is needed, or 0 for none")
    check_images(images)
    if severity == 0:
        return images
    made = CORRUPTIONS[name]
    draws = generator(seed, "corruption", name)
    parts = [made.make(part, made.levels[severity - 1], draws).clamp(0, 1) for part in torch.split(images, CHUNK)]
    return torch.cat(parts)


def check_images(images: Tensor) -> None:
    """InputError unless a tensor holds images of one or three channels, at least 2x2, with pixels in 0..1."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or min(shape[2:]) < 2:
        raise InputError(f"found data of {shape[1:]}; corruptions are of images (c, h, w) with 1 or 3 channels")
    if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        found = f"{float(images.min()):.4g} .. {float(images.max()):.4g}"
        raise InputError(f"found pixels of {found}; corruptions are of pixels in 0..1")


def names_of(text: str) -> tuple[str, ...]:
    """Corruptions by a list with commas, or `all`. InputError for an unknown one."""
    names = tuple(CORRUPTIONS) if text == "all" else tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in CORRUPTIONS:
            raise InputError(f"no corruption named {name!r}; there is all, {', '.join(CORRUPTIONS)}")
    return names


# ---------------------------------------------------------------------------------------------------------------------
# Tools


def _scale(images: Tensor) -> float:
    return min(images.shape[2:]) / MADE_FOR


def _grey(images: Tensor) -> Tensor:
    """[n, 1, h, w]."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)


def _uniform(shape: Sequence[int], low: float, high: float, draws: Draw) -> Tensor:
    return torch.rand(tuple(shape), generator=draws) * (high - low) + low


def _mirrored(images: Tensor, by: int) -> Tensor:
    """With `by` pixels more on each side, the edge's own mirrored first; any number of them."""
    for dim in (2, 3):
        n = images.shape[dim]
        at = torch.arange(-by, n + by) % (2 * n)
        images = images.index_select(dim, torch.where(at < n, at, 2 * n - 1 - at))
    return images


def _filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Images [n, c, h, w] under kernels [n or 1, size, size] of odd size."""
    n, c, h, w = images.shape
    size = kernels.shape[-1]
    wide = _mirrored(images, size // 2)
    if len(kernels) == 1:
        return functional.conv2d(wide.flatten(0, 1)[:, None], kernels[:, None]).reshape(n, c, h, w)
    each = kernels.repeat_interleave(c, 0)[:, None]
    return functional.conv2d(wide.reshape(1, n * c, *wide.shape[2:]), each, groups=n * c).reshape(n, c, h, w)


def _kernels(dy: Tensor, dx: Tensor, weights: Tensor) -> Tensor:
    """Kernels [n, size, size] that average shifts by dy, dx (pixels, [n, points]) with weights [points]: each point
    bilinear between the four pixels that it lies among."""
    reach = 1 + int(torch.stack((dy, dx)).abs().max())
    size = 2 * reach + 1
    out = torch.zeros(len(dy), size * size)
    weights = (weights / weights.sum()).expand_as(dy)
    y0, x0 = dy.floor(), dx.floor()
    for y, in_y in ((y0, 1 - (dy - y0)), (y0 + 1, dy - y0)):
        for x, in_x in ((x0, 1 - (dx - x0)), (x0 + 1, dx - x0)):
            at = (y.long() + reach).clamp(0, size - 1) * size + (x.long() + reach).clamp(0, size - 1)
            out.scatter_add_(1, at, weights * in_y * in_x)
    return out.reshape(-1, size, size)


def _gaussian(images: Tensor, sigma: float) -> Tensor:
    """Blurred by a Gaussian of so many pixels, integrated over each pixel."""
    reach = max(1, math.ceil(3 * sigma))
    edges = (torch.arange(-reach, reach + 2) - 0.5) / (sigma * math.sqrt(2))
    line = torch.erf(edges).diff()
    line = line / line.sum()
    return _filtered(images, (line[:, None] * line)[None])


def _shown_at(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Images read, bilinearly, at rows y and columns x [n or 1, h, w], in pixels from the first one's centre."""
    n, _, h, w = images.shape
    grid = torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / h - 1), -1).expand(n, -1, -1, -1)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel, [1, h, 1] and [1, 1, w]."""
    h, w = images.shape[2:]
    return torch.arange(float(h))[None, :, None], torch.arange(float(w))[None, None, :]


def _streaked(images: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Blurred along a line at an angle (degrees, [n]), by a Gaussian cut off at the radius, pixels."""
    along = torch.linspace(-radius, radius, 2 * math.ceil(2 * radius) + 15)
    radians = torch.deg2rad(angles)[:, None]
    return _filtered(
        images, _kernels(along * radians.sin(), along * radians.cos(), (-((along / sigma) ** 2) / 2).exp())
    )


def _plasma(images: Tensor, decay: float, draws: Draw) -> Tensor:
    """A fractal in 0..1 for each image, [n, 1, h, w]: octaves of noise, each `decay` times weaker than the coarser."""
    n, _, h, w = images.shape
    total, cells, strength = torch.zeros(n, 1, h, w), 2, 1.0
    while True:
        noise = torch.rand(n, 1, cells + 1, cells + 1, generator=draws)
        total += strength * functional.interpolate(noise, (h, w), mode="bilinear", align_corners=True)
        if cells >= max(h, w):
            break
        cells, strength = 2 * cells, strength / decay
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Noise


def _gaussian_noise(x: Tensor, level: Level, draws: Draw) -> Tensor:
    (sigma,) = level
    return x + sigma * torch.randn(x.shape, generator=draws)


def _shot_noise(x: Tensor, level: Level, draws: Draw) -> Tensor:
    (photons,) = level  # of a white pixel
    return torch.poisson(x * photons, generator=draws) / photons


def _impulse_noise(x: Tensor, level: Level, draws: Draw) -> Tensor:
    (share,) = level  # of pixels that are black or white
    drawn = torch.rand(x.shape, generator=draws)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn < share, 1.0, x))


# ---------------------------------------------------------------------------------------------------------------------
# Blur

RINGS, SPOKES = 12, 48  # points of a disk; symmetric to both axes, so that a blur keeps the mean


def _defocus_blur(x: Tensor, level: Level, draws: Draw) -> Tensor:
    radius = level[0] * _scale(x)
    rings = radius * ((torch.arange(RINGS) + 0.5) / RINGS).sqrt()
    spokes = 2 * math.pi * (torch.arange(SPOKES) + 0.5) / SPOKES
    dy, dx = ((rings[:, None] * part).flatten()[None] for part in (spokes.sin(), spokes.cos()))
    return _filtered(x, _kernels(dy, dx, torch.ones(RINGS * SPOKES)))


def _glass_blur(x: Tensor, level: Level, draws: Draw) -> Tensor:
    sigma, shift, times = level
    n, _, h, w = x.shape
    most = shift * _scale(x)
    y, across = _places(x)
    for _ in range(int(times)):
        x = _shown_at(
            x, y + _uniform((n, h, w), -most, most, draws), across + _uniform((n, h, w), -most, most, draws)
        )  # fmt: skip
    return _gaussian(x, sigma * _scale(x))


def _motion_blur(x: Tensor, level: Level, draws: Draw) -> Tensor:
    radius, sigma = (length * _scale(x) for length in level)
    return _streaked(x, radius, sigma, _uniform((len(x),), -45, 45, draws))


def _zoom_blur(x: Tensor, level: Level, draws: Draw) -> Tensor:
    most, step = level
    h, w = x.shape[2:]
    rows, columns = _places(x)
    steps = round((most - 1) / step)
    total = x.clone()
    for i in range(1, steps + 1):
        factor = 1 + i * step
        y, across = ((at - (n - 1) / 2) / factor + (n - 1) / 2 for at, n in ((rows, h), (columns, w)))
        total += _shown_at(x, y.expand(1, h, w), across.expand(1, h, w))
    return total / (steps + 1)


# ---------------------------------------------------------------------------------------------------------------------
# Weather


def _snow(x: Tensor, level: Level, draws: Draw) -> Tensor:
    mean, spread, flake, least, radius, sigma, kept = level
    n, _, h, w = x.shape
    scale = _scale(x)
    size = max(2.0, flake * scale)
    coarse = (max(1, math.ceil(h / size)), max(1, math.ceil(w / size)))
    layer = mean + spread * torch.randn(n, 1, *coarse, generator=draws)
    layer = functional.interpolate(layer, (h, w), mode="bilinear", align_corners=False)
    layer = torch.where(layer < least, 0.0, layer).clamp(0, 1)
    layer = _streaked(layer, radius * scale, sigma * scale, _uniform((n,), -135, -45, draws))
    whitened = kept * x + (1 - kept) * torch.maximum(x, _grey(x) * 1.5 + 0.5)
    return whitened + layer + layer.flip(2, 3)


ICE = (0.85, 0.93, 1.0)  # of red, green and blue


def _frost(x: Tensor, level: Level, draws: Draw) -> Tensor:
    kept, ice = level
    ridges = 1 - (2 * _plasma(x, 1.6, draws) - 1).abs()
    tint = x.new_tensor(ICE if x.shape[1] == 3 else (1.0,))[:, None, None]
    return kept * x + ice * ridges**2 * tint


def _fog(x: Tensor, level: Level, draws: Draw) -> Tensor:
    strength, decay = level
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + strength * _plasma(x, decay, draws)) * most / (most + strength)


# ---------------------------------------------------------------------------------------------------------------------
# Digital


def _brightness(x: Tensor, level: Level, draws: Draw) -> Tensor:
    """HSV's value is raised, hue and saturation stay; black becomes grey."""
    (more,) = level
    value = x.amax(1, keepdim=True)
    raised = (value + more).clamp(0, 1)
    return torch.where(value > 0, x * raised / value.clamp_min(1e-9), raised.expand_as(x))


def _contrast(x: Tensor, level: Level, draws: Draw) -> Tensor:
    (kept,) = level
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * kept + mean


def _elastic(x: Tensor, level: Level, draws: Draw) -> Tensor:
    rms, smooth = (length * _scale(x) for length in level)
    n, _, h, w = x.shape
    rough = torch.rand(n, 2, h, w, generator=draws) - 0.5
    field = _gaussian(rough, smooth)
    field = field * (rms / field.square().mean((2, 3), keepdim=True).sqrt().clamp_min(1e-9))
    y, across = _places(x)
    return _shown_at(x, y + field[:, 0], across + field[:, 1])


def _pixelate(x: Tensor, level: Level, draws: Draw) -> Tensor:
    """Means over squares of 1 / level pixels; a pixel that lies in two has its part of either."""
    (kept,) = level
    h, w = x.shape[2:]
    return _blocks(h, 1 / kept) @ x @ _blocks(w, 1 / kept).T


def _blocks(n: int, size: float) -> Tensor:
    """[n, n]: what pixels become of pixels where blocks of `size` are averaged."""
    starts = torch.arange(math.ceil(n / size)) * size
    pixels = torch.arange(n)[:, None]
    part = (torch.minimum(pixels + 1, starts + size) - torch.maximum(pixels, starts)).clamp_min(0)  # [pixel, block]
    return part @ (part / part.sum(0)).T


# ISO/IEC 10918-1, annex K: steps of the coefficients at quality 50, of luminance and of chrominance.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32,
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # JFIF


def _jpeg(x: Tensor, level: Level, draws: Draw) -> Tensor:
    """What JPEG loses: coefficients of 8x8 blocks in whole steps, colours at half the resolution. Its entropy coding
    loses nothing, and is left out."""
    (quality,) = level
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    bright, coloured = (
        torch.tensor([min(255, max(1, math.floor((scale * step + 50) / 100))) for step in table]).reshape(8, 8).float()
        for table in (_LUMINANCE, _CHROMINANCE)
    )
    whole = (x * 255).round()
    if x.shape[1] == 1:
        return (_coded(whole - 128, bright) + 128).round() / 255
    h, w = x.shape[2:]
    to_ycc = torch.tensor(_TO_YCC)
    planes = torch.einsum("ij,njhw->nihw", to_ycc, whole)
    luminance = _coded(planes[:, :1] - 128, bright) + 128
    even = functional.pad(planes[:, 1:], (0, w % 2, 0, h % 2), mode="replicate")
    halved = _coded(functional.avg_pool2d(even, 2), coloured)
    colours = halved.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :h, :w]
    back = torch.einsum("ij,njhw->nihw", torch.linalg.inv(to_ycc), torch.cat((luminance, colours), 1))
    return back.round() / 255


def _coded(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes [n, c, h, w] with the coefficients of their 8x8 blocks in whole steps [8, 8]; edges are repeated."""
    n, c, h, w = planes.shape
    full = functional.pad(planes, (0, -w % 8, 0, -h % 8), mode="replicate")
    i = torch.arange(8.0)
    cosines = torch.cos((2 * i + 1) * i[:, None] * math.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    high, wide = full.shape[2] // 8, full.shape[3] // 8
    blocks = full.reshape(n, c, high, 8, wide, 8).transpose(3, 4)
    kept = (cosines @ blocks @ cosines.T / steps).round() * steps
    out = cosines.T @ kept @ cosines
    return out.transpose(3, 4).reshape(n, c, 8 * high, 8 * wide)[:, :, :h, :w]


def _levels(*levels: float) -> tuple[Level, ...]:
    return tuple((level,) for level in levels)


# The levels of ImageNet-C's public code, by severity, but for those marked; in pixels of 224 where they are lengths.
CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(_gaussian_noise, _levels(0.08, 0.12, 0.18, 0.26, 0.38)),  # sigma
    "shot_noise": Corruption(_shot_noise, _levels(60, 25, 12, 5, 3)),  # photons of a white pixel
    "impulse_noise": Corruption(_impulse_noise, _levels(0.03, 0.06, 0.09, 0.17, 0.27)),  # share of pixels
    "defocus_blur": Corruption(_defocus_blur, _levels(3, 4, 6, 8, 10)),  # radius
    # sigma of the blur behind it, shift, how often
    "glass_blur": Corruption(_glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": Corruption(_motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),  # radius, sigma
    # largest zoom, step
    "zoom_blur": Corruption(_zoom_blur, ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.25, 0.02), (1.3, 0.03))),
    # mean and deviation of the layer, flake, the least that is seen, radius and sigma of its fall, share of the
    # picture; the second is ours
    "snow": Corruption(
        _snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 2, 0.5, 12, 4, 0.75),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption(_frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.6, 0.8), (0.5, 0.9))),  # of picture, of ice; ours
    "fog": Corruption(_fog, ((1.5, 2), (2, 2), (2.5, 2), (3, 2), (4, 2))),  # strength, decay of its octaves; ours
    "brightness": Corruption(_brightness, _levels(0.1, 0.2, 0.3, 0.4, 0.5)),  # added to the value
    "contrast": Corruption(_contrast, _levels(0.4, 0.3, 0.2, 0.1, 0.05)),  # that is kept
    # root mean square of the shift, and over what it is smooth; ours
    "elastic_transform": Corruption(_elastic, ((2, 10), (3, 10), (4.5, 10), (6.5, 10), (9, 10))),
    "pixelate": Corruption(_pixelate, _levels(0.6, 0.5, 0.4, 0.3, 0.25)),  # of the resolution
    "jpeg_compression": Corruption(_jpeg, _levels(25, 18, 15, 10, 7)),  # quality
}

"""Whether what was best stays best: rank correlations of accuracies, with intervals by resampling test images.

Accuracies that are to be compared are of the same images, so a resample takes the same images for all of them: what
two mappings get wrong alike does not widen the interval of their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from cosoc.search.front import SURE

RESAMPLES = 1000
CHUNK = 100  # of them at once


@dataclass(frozen=True)
class Correlation:
    """Between two lists of accuracies: 1 where the order is the same, -1 where it is turned round. low, high: of 95 %
    of the resamples. None where all of a list are equal."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Order:
    """What becomes of an order. turned: pairs of places, the first better before and worse after, each in 97.5 % of
    the resamples and more."""

    kendall: Correlation
    spearman: Correlation
    turned: tuple[tuple[int, int], ...]

    def plain(self, names: Sequence[str]) -> dict[str, Any]:
        """As JSON has it, with names for places."""
        turned = [[names[a], names[b]] for a, b in self.turned]
        return {"kendall": asdict(self.kendall), "spearman": asdict(self.spearman), "turned": turned}


def resampled(right: np.ndarray, seed: int, times: int = RESAMPLES) -> np.ndarray:
    """Accuracies of resamples of the images, [times, ...], of what is right of each image, [..., images] in 0..1."""
    n = right.shape[-1]
    flat = right.reshape(-1, n).T.astype(np.float64)
    rng = np.random.default_rng(seed)
    parts = []
    for first in range(0, times, CHUNK):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(CHUNK, times - first))
        parts.append(counts @ flat / n)
    return np.concatenate(parts).reshape(-1, *right.shape[:-1])


def order(before: np.ndarray, after: np.ndarray, drawn_before: np.ndarray, drawn_after: np.ndarray) -> Order:
    """What becomes of the order of accuracies [m]; drawn: the same of resamples, [times, m]."""
    surely = (1 + SURE) / 2
    pairs = np.array([(a, b) for a in range(len(before)) for b in range(len(before)) if before[a] > before[b]])
    turned: list[tuple[int, int]] = []
    for a, b in pairs:
        was = float(np.mean(drawn_before[:, a] > drawn_before[:, b]))
        became = float(np.mean(drawn_after[:, a] < drawn_after[:, b]))
        if after[a] < after[b] and min(was, became) >= surely:
            turned.append((int(a), int(b)))
    tau, rho = (_interval(of(before, after), of(drawn_before, drawn_after)) for of in (kendall, spearman))
    return Order(tau, rho, tuple(turned))


def _interval(value: np.ndarray, drawn: np.ndarray) -> Correlation:
    if np.isnan(value):
        return Correlation(None, None, None)
    low, high = np.nanquantile(drawn, [(1 - SURE) / 2, (1 + SURE) / 2])
    return Correlation(float(value), float(low), float(high))


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b along the last axis; NaN where all of a list are equal, or it has fewer than two."""
    i, j = np.triu_indices(a.shape[-1], 1)
    x, y = (np.sign(values[..., i] - values[..., j]) for values in (a, b))
    return _ratio((x * y).sum(-1), (x * x).sum(-1) * (y * y).sum(-1))


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last axis: the correlation of ranks, equal ones sharing theirs; NaN as above."""
    x, y = (rankdata(values, axis=-1) for values in (a, b))
    x, y = (ranks - ranks.mean(-1, keepdims=True) for ranks in (x, y))
    return _ratio((x * y).sum(-1), (x * x).sum(-1) * (y * y).sum(-1))


def _ratio(product: np.ndarray, squares: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(squares > 0, product / np.sqrt(squares), np.nan))

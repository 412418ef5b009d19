"""Errors of predictions against what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosoc.sim.truth.compared import Compared

FAR = 0.3  # an error from which on a row is listed by itself


@dataclass(frozen=True)
class Errors:
    """Errors of `n` predictions, as fractions of what was measured.

    mape: mean of |error|. median, p90: of |error|. low, high: 10th and 90th percentile of the error with its sign.
    bias: mean of log(predicted / measured). spearman: rank correlation, None where all values of a side are equal.
    """

    n: int
    mape: float
    median: float
    p90: float
    low: float
    high: float
    bias: float
    spearman: float | None


def errors(measured: Sequence[float], predicted: Sequence[float]) -> Errors:
    """Errors of predictions, which are positive, as many as measured values, and at least one."""
    from scipy.stats import spearmanr

    truth, found = np.array(measured, dtype=float), np.array(predicted, dtype=float)
    error = found / truth - 1
    low, high = np.quantile(error, (0.1, 0.9))
    ranked = np.ptp(truth) > 0 and np.ptp(found) > 0
    return Errors(
        n=len(truth), mape=float(np.abs(error).mean()), median=float(np.median(np.abs(error))),
        p90=float(np.quantile(np.abs(error), 0.9)), low=float(low), high=float(high),
        bias=float(np.log(found / truth).mean()), spearman=float(spearmanr(found, truth)[0]) if ranked else None,
    )  # fmt: skip


def of_rows(rows: Sequence[Compared]) -> Errors:
    """Errors of the rows' times (or rates), each in its set's unit."""
    return errors([row.measured for row in rows], [row.ours for row in rows])


def of_energies(rows: Sequence[Compared]) -> Errors | None:
    """Errors of the energies of those rows that have one; None where none has."""
    pairs = [(row.energy_measured_j, row.energy_ours_j) for row in rows]
    known = [(truth, ours) for truth, ours in pairs if truth is not None and ours is not None]
    return errors([truth for truth, _ in known], [ours for _, ours in known]) if known else None


def of_peers(rows: Sequence[Compared]) -> dict[str, Errors]:
    """Errors of what others predict, by name, each over the rows for which they say something."""
    names = dict.fromkeys(name for row in rows for name in row.peers)
    return {
        name: errors(*zip(*((row.measured, row.peers[name]) for row in rows if name in row.peers), strict=True))
        for name in names
    }

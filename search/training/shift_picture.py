"""The picture of accuracy under shift: by severity, and by condition."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosoc.search.front import SURE
from cosoc.search.training.shift import Shift
from cosoc.sim.errors import InputError
from cosoc.sim.report.figure import drawn_figure
from cosoc.sim.shown import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
SUFFIXES = (".png", ".svg")
MARKERS = "osD^vP*X"


def check_plot(path: Path) -> None:
    """InputError unless a figure can be of what a name ends in."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot {path}: a PNG or SVG is drawn; give a name that ends in .png or .svg")


def plot(found: Shift, suffix: str) -> bytes:
    """The figure as a PNG or SVG, by the suffix of its name."""
    with _drawn(found) as picture:
        drawing = io.BytesIO()
        picture.savefig(drawing, dpi=DPI, format=suffix.lower().removeprefix("."))
    return drawing.getvalue()


@contextmanager
def _drawn(found: Shift) -> Iterator[Figure]:
    """On the left accuracy by severity, the mean of all corruptions, with the interval over resampled images; on the
    right each corruption (mean of its severities) and noise."""
    severities = [0, *sorted({one.severity for one in found.conditions if one.severity})]
    rows = found.rows()
    with drawn_figure(11 if len(severities) > 1 else 7, 1.5 + 0.28 * len(rows)) as picture:
        picture.set_dpi(DPI)
        axes = picture.subplots(1, 2 if len(severities) > 1 else 1, squeeze=False)[0]
        if len(severities) > 1:
            _by_severity(found, severities, axes[0])
        places = np.arange(len(rows))[::-1]
        for i, mapping in enumerate(found.mappings):
            values = [100 * found.accuracies(at)[i] for _, at in rows]
            axes[-1].plot(
                values, places, MARKERS[i % len(MARKERS)], color=f"C{i % 10}", label=shown(mapping), alpha=0.8
            )
        axes[-1].set_yticks(places, [shown(name) for name, _ in rows])
        axes[-1].set(xlabel="test accuracy, %")
        axes[-1].grid(alpha=0.3)
        axes[0].legend(loc="best", fontsize=7)
        picture.suptitle(shown(f"{found.heading['workload']} on {found.heading['soc']}, {found.heading['data']}"))
        yield picture


def _by_severity(found: Shift, severities: list[int], axis: Axes) -> None:
    at = [
        [i for i, one in enumerate(found.conditions) if one.kind in ("clean", "corruption") and one.severity == s]
        for s in severities
    ]
    tail = 100 * (1 - SURE) / 2
    for i, mapping in enumerate(found.mappings):
        values = [100 * found.accuracies(places)[i] for places in at]
        drawn = [100 * found.drawn[:, places, i].mean(1) for places in at]
        low, high = ([np.percentile(one, share) for one in drawn] for share in (tail, 100 - tail))
        axis.fill_between(severities, low, high, color=f"C{i % 10}", alpha=0.15, linewidth=0)
        axis.plot(severities, values, f"{MARKERS[i % len(MARKERS)]}-", color=f"C{i % 10}", label=shown(mapping))
    axis.set(xlabel="severity (0: clean)", ylabel="test accuracy, %, mean of all corruptions")
    axis.set_xticks(severities)
    axis.grid(alpha=0.3)

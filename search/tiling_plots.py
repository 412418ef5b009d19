"""The best value so far over time, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosoc.search.runfolder import replacing

History = Sequence[Sequence[float]]  # (seconds, value), falling


def plot_history(runs: Mapping[str, History], about: Mapping[str, Any], path: Path) -> None:
    """Draw histories by name into a PNG, with the optimum of the estimate where `about` has one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, history in runs.items():
        if history:
            axis.step([t for t, _ in history], [v for _, v in history], where="post", label=name)
    objective = about["objective"]
    if about.get("optimum"):
        key = {"edp": "edp", "latency": "seconds", "energy": "energy_j"}[objective]
        axis.axhline(about["optimum"][key], color="black", linestyle=":", label="optimum of the estimate")
    axis.set_xlabel("seconds")
    axis.set_ylabel({"edp": "EDP, J s", "latency": "latency, s", "energy": "energy, J"}[objective] + " (estimated)")
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.legend(loc="best")
    figure.suptitle(f"{about['workload']} on {about['soc']}")
    with replacing(path) as part:
        figure.savefig(part, dpi=130, format="png")
    pyplot.close(figure)


def plot_bands(runs: Mapping[str, Sequence[History]], optimum: float, title: str, path: Path) -> None:
    """Draw the best value over time: of every method the median of its runs and the band from least to largest."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    last = max(history[-1][0] for several in runs.values() for history in several)
    times = np.geomspace(0.1, max(last, 1.0), 200)
    for name, several in runs.items():
        values = np.array([_at(history, times) for history in several])
        some = np.isfinite(values).all(axis=0)
        axis.plot(times[some], np.median(values[:, some], axis=0), label=name)
        axis.fill_between(times[some], values[:, some].min(axis=0), values[:, some].max(axis=0), alpha=0.2)
    axis.axhline(optimum, color="black", linestyle=":", label="optimum")
    axis.set(xlabel="seconds", ylabel="EDP, J s (estimated)", xscale="log", yscale="log", title=title)
    axis.grid(alpha=0.3)
    axis.legend(loc="best")
    with replacing(path) as part:
        figure.savefig(part, dpi=130, format="png")
    pyplot.close(figure)


def _at(history: History, times: Any) -> Any:
    """The value that a falling step function has at given times; infinity before its first."""
    import numpy as np

    when, value = np.array([t for t, _ in history]), np.array([v for _, v in history])
    at = np.searchsorted(when, times, side="right") - 1
    return np.where(at >= 0, value[np.maximum(at, 0)], np.inf)

"""The front of a search, as a picture: accuracy against latency and against energy, with the manual mappings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosoc.search.front import non_dominated
from cosoc.search.runfolder import replacing

WIDE = 10  # between the largest and the smallest cost: from there on a logarithmic scale
AXES = (("seconds", 1e3, "latency, ms (simulated)"), ("energy_j", 1e6, "energy, uJ (simulated)"))


def plot_front(content: dict[str, Any], path: Path) -> None:
    """Draw the points of a result.json into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, plots = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for axis, (key, factor, label) in zip(plots, AXES, strict=True):
        points = [(p["simulated"][key] * factor, 100 * p["accuracy"]) for p in content["points"]]
        manual = [(p["simulated"][key] * factor, 100 * p["accuracy"]) for p in content["manual"]]
        if points:
            best = non_dominated([(x, -y) for x, y in points])
            axis.plot(*zip(*(points[i] for i in best), strict=True), color="tab:blue", linewidth=1)
            axis.scatter(*zip(*points, strict=True), color="tab:blue", label="search", zorder=3)
        if manual:
            axis.scatter(*zip(*manual, strict=True), color="tab:orange", marker="s", label="manual", zorder=3)
        for (x, y), row in zip([*points, *manual], [*content["points"], *content["manual"]], strict=True):
            axis.annotate(row["name"], (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
        if (costs := [x for x, _ in [*points, *manual]]) and max(costs) > WIDE * min(costs):
            axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        axis.margins(0.12)
    plots[0].set_ylabel("test accuracy, %")
    plots[1].legend(loc="best")
    figure.suptitle(f"{content['workload']} on {content['soc']}, {content['data']}, {content['runtime']}")
    with replacing(path) as part:
        figure.savefig(part, dpi=130, format="png")
    pyplot.close(figure)

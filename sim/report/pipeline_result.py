"""What a run of a network over a cluster says, as plain data and as tables for a terminal."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cosoc.sim.lower.pipeline import Replay
from cosoc.sim.shown import quantity
from cosoc.sim.stages import StageFigures

if TYPE_CHECKING:  # slow to import
    from rich.console import RenderableType


@dataclass(frozen=True, repr=False)
class ClusterResult:
    """A simulated stream of `inferences` through a cluster under a mapping. stages: what each costs; seen: the run.
    energy_boundary: how far the energies of all its devices reach; None where they do not say, or not equally far."""

    cluster: str
    workload: str
    mapping: str
    engine: str
    runtime: str
    inferences: int
    stages: tuple[StageFigures, ...]
    seen: Replay
    energy_boundary: str | None = None

    def __repr__(self) -> str:
        return summary(self)


def to_json(result: ClusterResult) -> dict[str, Any]:
    """The result as plain data for `json.dump`: the run's figures beside what was asked; infinity is null."""
    asked = {key: value for key, value in asdict(result).items() if key != "seen"}
    out: dict[str, Any] = finite(asked | asdict(result.seen))
    return out


def finite(value: Any) -> Any:
    """The same with infinities as None, which JSON has not."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(result: ClusterResult) -> RenderableType:
    """Stages, then a line that sums the run up; 80 columns."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD, title="Stages", title_justify="left", pad_edge=False, show_edge=False)
    for name in ("device", "ends behind", "layers", "ms an item", "mJ an item", "KiB sent", "busy"):
        rows.add_column(name, justify="left" if name in ("device", "ends behind") else "right", overflow="fold")
    for number, stage in enumerate(result.stages):
        busy = [part.utilisation for part in result.seen.devices if part.stage == number]
        rows.add_row(
            stage.device + (f" x {stage.replicas}" if stage.replicas > 1 else ""), ", ".join(stage.behind),
            str(stage.layers), f"{1e3 * stage.seconds:.4g}", f"{1e3 * stage.item_j:.4g}",
            f"{stage.bytes_sent / 1024:.4g}", f"{sum(busy) / len(busy):.0%}",
        )  # fmt: skip
    return Group(rows, "", summary(result))


def summary(result: ClusterResult) -> str:
    """Throughput, energy, latency and what limits them."""
    seen = result.seen
    what = f"{result.workload} on {result.cluster}, {result.mapping}, {result.runtime}"
    batch = f" in batches of {seen.batch}" if seen.batch > 1 else ""
    if not seen.steady:
        sure = " over the whole run, too short for a steady rate"
    elif math.isfinite(seen.throughput_ci) and seen.throughput_ci > 1e-3 * seen.throughput:
        sure = f" ± {seen.throughput_ci:.1g}"
    else:
        sure = ""
    reaches = f" (all that a {result.energy_boundary} takes)" if result.energy_boundary else ""
    return (
        f"{what}: {result.inferences:,} inferences{batch}, {seen.throughput:.5g} a second{sure}, "
        f"{quantity(seen.energy_j, 'J')} each{reaches}; latency {quantity(seen.latency_s['mean'], 's')} "
        f"(99 % within {quantity(seen.latency_s['p99'], 's')}). The bottleneck is {seen.bottleneck}, busy for "
        f"{seen.utilisation[seen.bottleneck]:.0%} of the run."
    )

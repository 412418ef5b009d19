"""What is asked of a search by cost alone, of tiles and fusion, or of cores with them; and the search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosoc.search.loop import Asked, search
from cosoc.search.oracle import Oracle
from cosoc.search.result import Result
from cosoc.search.spaces.joint import JointSpace, Outer
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.targets import Target
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.progress import Report
from cosoc.sim.theta import Theta


@dataclass(frozen=True)
class TileConfig:
    """What to search. given: the mapping whose cores and channels are kept. fusion: whether layers may be fused, or
    taken out of the given mapping's pieces; else these stay. outer: whose shares of channels are chosen with the
    tiles; `tiles`, none: the cores of the given mapping stay. targets: what the best mapping must meet. time_budget_s:
    for all rounds together; None: each goes to its own end. theta: of the estimate to begin with; None: the usual
    one."""

    soc: SoC
    workload: Workload
    given: Mapping
    objective: str = "edp"
    time_budget_s: float | None = None
    seed: int = 0
    out: Path = Path("run")
    resume: bool = False
    redo: str | None = None
    theta: Theta | None = None
    fusion: bool = False
    outer: Outer = "tiles"
    targets: tuple[Target, ...] = ()

    def stated(self) -> dict[str, Any]:
        """The configuration as plain data; `out`, `resume` and `redo` are not part of what a run is."""
        return {
            "outer": self.outer, "fusion": self.fusion, "objective": self.objective,
            "targets": [asdict(one) for one in self.targets], "time_budget_s": self.time_budget_s, "seed": self.seed,
            "theta": self.theta and asdict(self.theta),
            "given": asdict(self.given), "workload": self.workload.name,
            "soc": self.soc.model_dump(mode="json", by_alias=True, exclude_unset=True),
        }  # fmt: skip

    def space(self) -> TileSpace | JointSpace:
        """The space that is asked for. InputError for a budget or an objective that makes no sense, or a mapping that
        the SoC cannot run."""
        if self.outer != "tiles":
            return JointSpace(
                self.soc, self.workload, self.outer, self.objective, self.given, fusion=self.fusion,
                targets=self.targets, time_budget_s=self.time_budget_s, theta=self.theta,
            )  # fmt: skip
        space = TileSpace(
            self.soc, self.workload, self.objective, self.given, self.time_budget_s, fusion=self.fusion,
            targets=self.targets,
        )  # fmt: skip
        if self.theta is not None:
            space.start(self.theta)
        return space


def search_tiles(config: TileConfig, report: Report, space: TileSpace | JointSpace | None = None) -> Result:
    """Run (or go on with) a search by cost alone; the results are in `config.out`. space: that of the configuration,
    where it has been made already."""
    asked = Asked(
        config.objective, config.seed, config.out, config.stated(), config.resume, config.redo, config.targets
    )
    return search(space or config.space(), Oracle(config.soc, config.workload), asked, report)

"""`cosoc search gemmini WORKLOAD --space tiling-fusion`: search by gradient, simulate the best, refit, search again.

A round descends from many starts, repairs, and leaves its best plans. Their pieces, and the best neighbours of these,
are simulated one by one; the best plan that can be made of them and the round's own are simulated whole; theta is
refitted to all pieces simulated so far, and the next round starts around the best plans. What is reported is simulated;
beside it stand the estimate, and the gap to the plan that is provably best under the estimate.

In the folder of --out: config.yaml, environment.json, metrics.jsonl (a line for each better plan), done/ROUND.json,
mappings/best.yaml (the best plan so far, from the first one on), result.json, history.png.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from cosoc.search.exact.tiles import best_plan, check_objective, lower_bound
from cosoc.search.runfolder import RunFolder, replace_text
from cosoc.search.spaces.tiles import (
    MAX_GROUP,
    Cost,
    Fused,
    Objective,
    Plan,
    Single,
    Space,
    to_mapping,
)
from cosoc.search.tiling_plots import plot_history
from cosoc.search.tiling_search import Effort, Watch, gradient
from cosoc.search.tiling_simulate import Pieces, Simulated, refit, simulated
from cosoc.sim.errors import InputError
from cosoc.sim.files.mapping_file import dump_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import CachedTheta, Machine

Progress = Callable[[int, int, str], None]  # done, of how many, what

ROUNDS = 2
SEARCHING = 0.7  # share of a time budget that is searched in, the rest simulates
TOP = 3  # plans of a round that are simulated
WORTH = 1.2  # times the best: no plan beyond that is simulated
NEAR = 4  # neighbours of each piece of the best one that are simulated, too
UNIT = {"edp": "J s", "latency": "s", "energy": "J"}


@dataclass(frozen=True)
class TilingConfig:
    """What to search. time_budget_s: for all rounds together; None: one descent a round. starts: at once; steps: of
    descent; max_group: layers that may be fused at most."""

    soc: SoC
    workload: Workload
    objective: Objective = "edp"
    seed: int = 0
    out: Path = Path("run")
    resume: bool = False
    time_budget_s: float | None = None
    device: str = "cpu"
    starts: int = 64
    steps: int = 80
    rounds: int = ROUNDS
    max_group: int = MAX_GROUP
    simulate: bool = True

    def stated(self) -> dict[str, Any]:
        """The configuration as plain data; `out` and `resume` are not part of what a run is."""
        plain = asdict(replace(self, soc=None, workload=None, out=None))  # type: ignore[arg-type]
        kept = {key: value for key, value in plain.items() if key not in ("out", "resume")}
        soc = self.soc.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return kept | {"workload": asdict(self.workload), "soc": soc}


@dataclass(frozen=True)
class TilingResult:
    """The content of result.json."""

    content: dict[str, Any]

    def table(self) -> Table:
        """The best plan: what it costs, estimated and simulated, and how it compares."""
        c = self.content
        out = Table(title=f"{c['workload']} on {c['soc']}, objective {c['objective']}")
        for name in ("", "EDP, J s", "energy, mJ", "latency, ms"):
            out.add_column(name, justify="right" if name else "left")
        for name in ("simulated", "estimated", "optimum", "unfused_optimum", "lower_bound"):
            if c.get(name):
                row = c[name]
                figures = (f"{row['edp']:.4g}", f"{row['energy_j'] * 1e3:.4f}", f"{row['seconds'] * 1e3:.4f}")
                out.add_row(name.replace("_", " "), *figures)
        out.caption = (
            f"gap to the optimum of the estimate: {c['gap']:.2%}; {len(c['groups'])} fused groups; {c['time_s']:.1f} s"
        )
        return out


def search_tiling(config: TilingConfig, progress: Progress) -> TilingResult:
    """Run (or go on with) a search; the results are in `config.out`.

    progress is called with (done, of how many, phase and best value so far). Raises InputError for what cannot be
    searched, before anything is.
    """
    check(config)
    machine = Machine.of(config.soc)
    space = Space(config.workload, machine, max_group=config.max_group)
    return _Run(config, space, progress).run()


def check(config: TilingConfig) -> None:
    """InputError for a budget, an objective or a device that makes no sense, or a layer that fits nowhere."""
    check_objective(config.objective)
    budget = config.time_budget_s
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise InputError(f"time budget {budget}: a positive number of seconds is needed")
    for name in ("starts", "steps", "rounds", "max_group"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; at least 1 is needed")
    import torch

    if config.device not in ("cpu", "cuda"):
        raise InputError(f"device {config.device!r}: cpu or cuda is needed")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch finds no such device here; use cpu")
    Space(config.workload, Machine.of(config.soc))


class _Run:
    """One run: what its rounds share."""

    def __init__(self, config: TilingConfig, space: Space, progress: Progress) -> None:
        self.config, self.space, self.progress = config, space, progress
        self.folder = RunFolder(config.out, config.stated(), config.resume)
        self.begun = time.monotonic()
        self.spent = 0.0  # seconds of rounds that an earlier run finished
        self.seen: list[Simulated] = []
        self.found: list[Plan] = []  # estimated best first, of the last round
        self.pieces = Pieces(space, config.soc)
        self.shown = math.inf
        self.phase = ""

    def run(self) -> TilingResult:
        for turn in range(self.config.rounds):
            name = f"round_{turn}"
            done = self.folder.finished(name)
            if done is None:
                done = self._round(turn, name)
            else:
                self.spent += done["time_s"]
            self.found = [plan_from(p) for p in done["plans"]]
            self.pieces.found |= {plan_from([p]).pieces[0]: Cost(**c) for p, c in done["pieces"]}
            self.seen += [
                Simulated(plan_from(s["plan"]), Cost(**s["cost"]), Cost(**s["estimated"])) for s in done["simulated"]
            ]
            self.space = replace_theta(self.space, CachedTheta(**done["theta"]))
        return self._result()

    def _round(self, turn: int, name: str) -> dict[str, Any]:
        config, begun = self.config, time.monotonic()
        self.phase = name
        seconds = self._share(turn) * (SEARCHING if config.simulate else 1.0)
        watch = Watch(self.space, config.objective, seconds, self._better)
        effort = Effort(config.starts, config.steps, device=config.device)
        rounds = 1 if config.time_budget_s is None else 1 << 20
        base = turn * config.steps

        def step(at: int) -> None:
            best = f"best {config.objective} {self.shown:.4g} {UNIT[config.objective]}"
            what = f"{name}: {best if math.isfinite(self.shown) else 'first descent'}"
            self.progress(base + at + 1, config.rounds * config.steps, what)

        around = [s.plan for s in sorted(self.seen, key=self._simulated_value)][:TOP]
        for plan in around:
            watch.offer(plan, self.space.cost(plan))
        pool = gradient(watch, config.seed + 7919 * turn, rounds, effort, around=around, progress=step)
        best, _ = pool.best(config.objective)
        plans = list(dict.fromkeys([p for p in (watch.best, best) if p is not None] + watch.bests))[:TOP]
        least = self.space.cost(plans[0]).of(config.objective)
        plans = [p for p in plans if self.space.cost(p).of(config.objective) <= WORTH * least]
        new: list[Simulated] = []
        theta = self.space.theta
        if config.simulate:
            deadline = begun + self._share(turn) if config.time_budget_s is not None else math.inf
            self.pieces.space = self.space
            least_plan, found = plans[0], self.pieces.best(plans, config.objective, NEAR, deadline)
            while found != least_plan:  # its neighbours may be better still
                least_plan, found = found, self.pieces.best([found, *plans], config.objective, NEAR, deadline)
            plans = list(dict.fromkeys([found, *plans]))[:TOP]
            new = [simulated(self.space, config.soc, plan) for plan in plans]
            theta = refit(self.space, self.pieces.found) if self.pieces.found else theta
        done: dict[str, Any] = {
            "plans": [plan_json(p) for p in plans],
            "simulated": [
                {"plan": plan_json(s.plan), "cost": asdict(s.cost), "estimated": asdict(s.estimated)} for s in new
            ],
            "pieces": [(asdict(piece), asdict(cost)) for piece, cost in self.pieces.found.items()],
            "theta": asdict(theta),
            "history": [(self.spent + t, self._si(v)) for t, v in watch.history],
            "time_s": time.monotonic() - begun,
        }
        self.folder.finish(name, done)
        self.spent += done["time_s"]
        return done

    def _share(self, turn: int) -> float:
        """Seconds that a round may take: its share of what is left of the budget."""
        if self.config.time_budget_s is None:
            return math.inf
        return max(0.0, self.config.time_budget_s - self.spent) / (self.config.rounds - turn)

    def _better(self, seconds: float, found: float, plan: Plan) -> None:
        """A better plan: into the metrics, and onto the disk."""
        self.shown = self._si(found)
        entry = {"phase": self.phase, "epoch": 0, "seconds": self.spent + seconds, self.config.objective: self.shown}
        self.folder.log(entry)
        self._write(plan)

    def _write(self, plan: Plan) -> None:
        mapping = to_mapping(self.space, plan, self.config.soc)
        replace_text(self.folder.path / "mappings" / "best.yaml", dump_mapping(mapping))

    def _si(self, found: float) -> float:
        """An objective's value in J s, s or J."""
        factor = {"edp": 1e-12 / self.space.machine.hz, "latency": 1 / self.space.machine.hz, "energy": 1e-12}
        return found * factor[self.config.objective]

    def _simulated_value(self, s: Simulated) -> float:
        return s.cost.of(self.config.objective)

    def _figures(self, cost: Cost) -> dict[str, float]:
        energy_j, seconds = cost.energy_pj * 1e-12, cost.cycles / self.space.machine.hz
        return {"edp": energy_j * seconds, "energy_j": energy_j, "seconds": seconds}

    def _result(self) -> TilingResult:
        config, space = self.config, self.space
        best = min(self.seen, key=self._simulated_value) if self.seen else None
        plan = best.plan if best else self.found[0]
        estimated, optimum = space.cost(plan), best_plan(space, config.objective)
        unfused = best_plan(space, config.objective, fusion=False)
        self._write(plan)
        content: dict[str, Any] = {
            "soc": config.soc.name, "workload": config.workload.name, "objective": config.objective,
            "seed": config.seed, "theta": asdict(space.theta),
            "estimated": self._figures(estimated),
            "simulated": self._figures(best.cost) if best else None,
            "optimum": self._figures(optimum.cost), "optimum_bound": optimum.bound,
            "unfused_optimum": self._figures(unfused.cost), "lower_bound": self._figures(lower_bound(space)),
            "gap": estimated.of(config.objective) / optimum.value - 1,
            "plan": plan_json(plan), "time_s": self.spent,
            "groups": [[layer.name for layer in config.workload.layers[g.first : g.last + 1]] for g in plan.groups],
            "history": [entry for turn in range(config.rounds) for entry in
                        (self.folder.finished(f"round_{turn}") or {}).get("history", [])],
        }  # fmt: skip
        replace_text(self.folder.path / "result.json", json.dumps(content, indent=1) + "\n")
        plot_history({"search": content["history"]}, content, self.folder.path / "history.png")
        return TilingResult(content)


def replace_theta(space: Space, theta: CachedTheta) -> Space:
    """The same space under another theta."""
    return replace(space, theta=theta)


def plan_json(plan: Plan) -> list[dict[str, Any]]:
    """A plan as plain data."""
    return [asdict(piece) for piece in plan.pieces]


def plan_from(content: Sequence[dict[str, Any]]) -> Plan:
    """A plan from plain data."""
    return Plan(
        tuple(
            Single(p["layer"], tuple(p["tile"]), p["order"])
            if "layer" in p
            else Fused(p["first"], p["last"], p["oy"], p["ox"], p["keep"], tuple(p["resident"]))
            for p in content
        )
    )

"""What simulation is worth: how much slower than need be the mappings are that simpler models believe best.

    python benchmarks/worth.py [--quick] [--json FILE] [--seed S] [--case NAME ...] [--resume] [--trained] [--plot FILE]

Cases (`worth_cases.py`) are chips, networks, memory sizes and rates. In each, random mappings, and the greedy ones that
every model would take at five budgets, are simulated and predicted by

    law         ODiMO's released formulas, where there are some for the chip
    roofline    the longest of arithmetic and of bytes, by layer
    estimate    our closed form, fitted to 24 random mappings of the network, as a search fits it
    simulation  itself

Spearman: rank agreement with simulation over all of these mappings. A *budget* bounds what a choice costs besides time
(`worth_cases`), between the least and the most that choices cost; a model's *front* is the mapping that it believes
fastest within each budget. Regret: how much slower, simulated, than the fastest mapping known within the budget, by
whatever means it was found; of the front the mean and the largest, and that of the mapping that a model believes
fastest of all. Hypervolume: of the front as simulated, budget and time both scaled to 0..1 by the most that the choices
cost and by the fastest mapping known within the least budget.

`law_repaired` gives back, layer by layer, what simulation says costs no time, from each mapping of the law's front;
`estimate_local` changes single layers of the estimate's front while simulation gains time, 24 simulations a point each.
Their rank agreement is that of their models. A cause is switched off by keys of the SoC's file (the serial runtime by
the overlapped one), and the law compared again, with what is then fastest among the same mappings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, state, write_json
from numpy.random import Generator
from rich.console import Console
from rich.table import Table
from scipy import stats
from worth_cases import CASES, QUICK, Case, Choice, Problem, added, draw, least, problem_of, second

from cosoc.search.front import hypervolume
from cosoc.sim.errors import InputError

RANDOM, QUICK_RANDOM = 60, 12
BUDGETS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TRIES = 24  # simulations of a repair or a local search, for each point of a front
HAIR = 1 + 1e-6  # beyond the reference of a hypervolume, so that points on its edge count

Figures = dict[str, float | None]


def mappings(problem: Problem, budgets: Sequence[float], random: int, rng: Generator) -> list[Choice]:
    """Random choices, and those of every model that adds up layers within each budget; each once."""
    greedy = [least(problem, budget, model) for budget in budgets for model in problem.tables]
    return list(dict.fromkeys([*greedy, *(draw(problem, rng) for _ in range(random))]))


def limits(problem: Problem) -> list[float]:
    """The budgets of a problem."""
    join: Callable[[list[float]], float] = max if problem.largest else sum
    low, high = join([min(own) for own in problem.second]), join([max(own) for own in problem.second])
    return [low + part * (high - low) for part in BUDGETS]


def front(
    problem: Problem, pool: Sequence[Choice], believed: Sequence[float], budgets: Sequence[float]
) -> list[Choice]:
    """The mapping believed fastest within each budget."""
    order = sorted(range(len(pool)), key=lambda i: believed[i])
    costs = [second(problem, one) for one in pool]
    return [pool[next(i for i in order if costs[i] <= budget)] for budget in budgets]


def improved(problem: Problem, start: Choice, budget: float, rng: Generator) -> list[Choice]:
    """Choices on the way from one to a faster one within a budget, by simulation, one layer at a time."""
    now, out = start, [start]
    for _ in range(TRIES):
        layer = int(rng.integers(len(now)))
        tried = (*now[:layer], int(rng.integers(len(problem.second[layer]))), *now[layer + 1 :])
        if second(problem, tried) <= budget and problem.simulated(tried) < problem.simulated(now):
            now = tried
            out.append(now)
    return out


def repaired(problem: Problem, start: Choice, rng: Generator) -> list[Choice]:
    """Choices on the way from one to one that costs less besides time and takes no more of it, by simulation."""
    now, out, left = start, [start], TRIES
    for layer in rng.permutation(len(now)).tolist():
        costs = problem.second[layer]
        for option in sorted((i for i in range(len(costs)) if costs[i] < costs[now[layer]]), key=lambda i: costs[i]):
            if not left:
                return out
            tried, left = (*now[:layer], option, *now[layer + 1 :]), left - 1
            if problem.simulated(tried) <= problem.simulated(now):
                now = tried
                out.append(now)
                break
    return out


def run(case: Case, random: int, seed: int) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """All models of a case, and the law with causes switched off."""
    problem, rng = problem_of(case), np.random.default_rng(seed)
    problem.fitted(seed)
    budgets = limits(problem)
    pool = mappings(problem, budgets, random, rng)
    truth = [float(problem.simulated(one)) for one in pool]
    believed = {
        model: [added(problem, model, one) for one in pool] for model in ("law", "roofline") if model in problem.tables
    }
    believed |= {"estimate": problem.estimated(pool).tolist(), "simulation": truth}
    points: dict[str, list[Choice]] = {}
    for model, ticks in believed.items():
        points[model] = front(problem, pool, ticks, budgets)
        if model == "law":
            points["law_repaired"] = [
                way for one in dict.fromkeys(points[model]) for way in repaired(problem, one, rng)
            ]
        if model == "estimate":
            points["estimate_local"] = [
                way
                for one, budget in dict(zip(points[model], budgets, strict=True)).items()
                for way in improved(problem, one, budget, rng)
            ]
    seen = {*pool, *(one for own in points.values() for one in own)}
    found = {}
    for model, own in points.items():
        plain = model.partition("_")[0]
        fastest = min(range(len(pool)), key=lambda i: believed[plain][i])
        end = [pool[fastest]] if model == plain else own
        found[model] = figures(problem, own, end, seen, budgets, model != plain)
        found[model]["spearman"] = _rank(believed[plain], truth)
    return found, causes(case, pool, believed.get("law"), budgets)


def figures(
    problem: Problem, own: list[Choice], end: list[Choice], seen: set[Choice], budgets: Sequence[float], simulated: bool
) -> Figures:
    """Regrets and hypervolume of a front. end: what is believed fastest of all; seen: all that was simulated;
    simulated: whether the model knows the simulated times of its points."""
    ticks = {one: float(problem.simulated(one)) for one in (*own, *seen)}
    costs = {one: second(problem, one) for one in ticks}
    regrets, at_budgets = [], list[Choice]()
    for i, budget in enumerate(budgets):
        inside = [one for one in own if costs[one] <= budget]
        pick = min(inside, key=lambda one: ticks[one]) if simulated else own[i]
        at_budgets.append(pick)
        regrets.append(ticks[pick] / min(ticks[one] for one in seen if costs[one] <= budget) - 1)
    most, slowest = max(budgets) or 1.0, min(ticks[one] for one in seen if costs[one] <= budgets[0])
    scaled = [(costs[one] / most, ticks[one] / slowest) for one in at_budgets]
    return {
        "spearman": None,
        "regret_fastest": min(ticks[one] for one in end) / min(ticks.values()) - 1,
        "regret_front_mean": float(np.mean(regrets)),
        "regret_front_max": max(regrets),
        "hypervolume": hypervolume(scaled, (HAIR, HAIR)),
    }


def _rank(believed: Sequence[float], truth: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where a model sees no difference."""
    return float(stats.spearmanr(believed, truth).statistic) if np.ptp(believed) > 0 else None


def causes(
    case: Case, pool: Sequence[Choice], law: Sequence[float] | None, budgets: Sequence[float]
) -> dict[str, Figures]:
    """How far the law is from simulation with nothing switched off, and with each cause, over the same mappings."""
    if law is None:
        return {}
    out = {}
    variants: dict[str, Case] = {"none": case}
    variants |= {name: replace(case, set={**case.set, **keys}) for name, keys in case.causes.items()}
    variants["all"] = replace(
        case, set={**case.set, **{k: v for keys in case.causes.values() for k, v in keys.items()}}
    )
    if case.runtime == "serial":
        variants["serial"] = replace(case, runtime="overlapped")
    for name, changed in variants.items():
        problem = problem_of(changed)
        truth = [float(problem.simulated(one)) for one in pool]
        believed = [added(problem, "law", one) for one in pool]
        costs = [second(problem, one) for one in pool]
        picks = front(problem, pool, believed, budgets)
        best = [min(t for t, cost in zip(truth, costs, strict=True) if cost <= budget) for budget in budgets]
        regrets = [problem.simulated(one) / fast - 1 for one, fast in zip(picks, best, strict=True)]
        out[name] = {
            "spearman": _rank(believed, truth),
            "regret_front_mean": float(np.mean(regrets)),
            "regret_front_max": max(regrets),
        }
    return out


def table(found: dict[str, Any]) -> Table:
    """All cases and models."""
    out = Table(title="Rank agreement with simulation; regret of the fastest mapping and of the front, mean / worst")
    for name in ("case", "model", "Spearman", "fastest", "front", "hypervolume"):
        out.add_column(name, justify="left" if name in ("case", "model") else "right")
    for case, models in found.items():
        for n, (model, row) in enumerate(models.items()):
            rank = "-" if row["spearman"] is None else f"{row['spearman']:.3f}"
            regrets = f"{row['regret_front_mean']:.1%} / {row['regret_front_max']:.1%}"
            cells = (rank, f"{row['regret_fastest']:.1%}", regrets, f"{row['hypervolume']:.4f}")
            out.add_row("" if n else case, model, *cells)
    return out


def main() -> None:
    parser = arguments(__doc__, seed=0)
    names = [case.name for case in CASES]
    parser.add_argument("--case", nargs="+", metavar="NAME", help=f"some cases only: {', '.join(names)}")
    parser.add_argument("--resume", action="store_true", help="keep the cases that FILE of --json has already")
    args = parser.parse_args()
    if unknown := set(args.case or ()) - set(names):
        parser.error(f"no case named {min(unknown)!r}; there is {', '.join(names)}")
    if args.resume and args.json is None:
        parser.error("--resume needs the FILE of --json")
    torch.set_num_threads(1)
    state(args.seed)
    wanted = args.case or (QUICK if args.quick else names)
    random = QUICK_RANDOM if args.quick else RANDOM
    about = {"seed": args.seed, "random": random}
    kept = _kept(args.json, about) if args.resume else {"causes": {}}
    start = time.monotonic()
    todo = [case for case in CASES if case.name in wanted and case.name not in kept]
    for n, case in enumerate(todo):
        kept[case.name], kept["causes"][case.name] = run(case, random, args.seed)
        passed = time.monotonic() - start
        print(f"{n + 1}/{len(todo)} {case.name}, about {passed / (n + 1) * (len(todo) - n - 1):.0f} s left", flush=True)
        write_json(args.json, {"about": about} | kept)
    Console(width=120).print(table({name: kept[name] for name in wanted}))


def _kept(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The cases of a file; InputError where it was made in another way."""
    if not path.exists():
        return {"causes": {}}
    found: dict[str, Any] = json.loads(path.read_text())
    if found.pop("about") != about:
        raise InputError(f"{path}: was made with another seed or number of mappings")
    found.pop("machine")
    return found


if __name__ == "__main__":
    main()

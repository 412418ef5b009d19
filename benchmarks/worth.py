"""What simulation is worth: how much slower than need be the mappings are that simpler models believe best.

    python benchmarks/worth.py [--quick] [--json FILE] [--seed S] [--case NAME ...] [--resume] [--figure FILE] [--page]
    python benchmarks/worth.py --trained [--quick] [--json FILE] [--seed S] [--seeds N] [--case NAME ...] [--resume]

Cases (`worth_cases.py`) are chips, networks, memory sizes and rates. In each, random mappings, and the greedy ones that
every model would take at six budgets, are simulated and predicted by

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
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import worth_page
import worth_trained
from common import arguments, state, write_json
from numpy.random import Generator
from rich.console import Console
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
    if law is None or not case.causes:
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


def trained(args: Namespace) -> None:
    """The searches that train, by seed and case."""
    budget = worth_trained.QUICK if args.quick else worth_trained.Budget()
    every = worth_trained.TRAINED[:1] if args.quick else worth_trained.TRAINED
    cases = [case for case in every if case.name in (args.case or [one.name for one in every])]
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    kept = _kept(args.json, {"budget": str(budget)}) if args.resume else {"runs": {}, "hypervolume": {}}
    for seed in seeds:
        for case in cases:
            runs = kept["runs"].setdefault(case.name, [])
            if all(one["seed"] != seed for one in runs):
                runs.append(worth_trained.run(case, seed, budget))
                kept["hypervolume"][case.name] = worth_trained.summary(runs)
                print(f"{case.name}, seed {seed}", flush=True)
                write_json(args.json, {"about": {"budget": str(budget)}} | kept)
    rows = worth_page.volumes(kept["hypervolume"])
    Console(width=120).print(worth_page.table("Hypervolume over the seeds", *rows))
    if args.page:
        worth_page.write("trained", *rows)


def main() -> None:
    parser = arguments(__doc__, seed=0)
    names, others = [case.name for case in CASES], [case.name for case in worth_trained.TRAINED]
    shown = f"some cases only: {', '.join(names)}; of --trained {', '.join(others)}"
    parser.add_argument("--case", nargs="+", metavar="NAME", help=shown)
    parser.add_argument("--resume", action="store_true", help="keep what FILE of --json has already")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the worst regrets, as PNG or SVG")
    parser.add_argument("--page", action="store_true", help="write the tables of docs/worth.md anew")
    parser.add_argument("--trained", action="store_true", help="searches that train, driven by each model")
    parser.add_argument("--seeds", type=int, default=3, help="of --trained: how many seeds, from --seed on")
    args = parser.parse_args()
    names = others if args.trained else names
    if unknown := set(args.case or ()) - set(names):
        parser.error(f"no case named {min(unknown)!r}; there is {', '.join(names)}")
    if args.resume and args.json is None:
        parser.error("--resume needs the FILE of --json")
    torch.set_num_threads(1)
    state(args.seed)
    try:
        trained(args) if args.trained else untrained(args, names)
    except InputError as error:
        parser.error(str(error))


def untrained(args: Namespace, names: Sequence[str]) -> None:
    """All models in the cases that are asked for."""
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
    found = {name: kept[name] for name in names if name in wanted}
    rows, why = worth_page.models(found), worth_page.causes({n: own for n, own in kept["causes"].items() if own})
    console = Console(width=120)
    console.print(worth_page.table("Against simulation: rank, and regret of the fastest and of the front", *rows))
    console.print(worth_page.table("The law, with causes of its errors switched off", *why))
    if args.figure:
        worth_page.plot(found, args.figure)
    if args.page:
        worth_page.write("models", *rows)
        worth_page.write("causes", *why)


def _kept(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The cases of a file; InputError where it was made in another way."""
    if not path.exists():
        return {"causes": {}} if "seed" in about else {"runs": {}, "hypervolume": {}}
    found: dict[str, Any] = json.loads(path.read_text())
    if found.pop("about") != about:
        raise InputError(f"{path}: was made with another seed or number of mappings")
    found.pop("machine")
    return found


if __name__ == "__main__":
    main()

"""What of a plan can be known to be wrong before anything runs: names that nothing has, values that a key cannot have.

A name or an axis with a typing error is found once, at its line, and not once a task. What only a task can say (that a
mapping does not fit a memory, say) is that task's failure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from cosoc.search.campaigns.axes import Axes, FormulaError
from cosoc.search.campaigns.expression import parsed
from cosoc.search.campaigns.plan import Plan, SearchPart, SimulatePart, grid
from cosoc.search.campaigns.trained import wrong_name
from cosoc.search.campaigns.work import in_device
from cosoc.search.spaces.chain import chain
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import check_values, find_cluster, find_soc
from cosoc.sim.files.mending import WHOLE, Mended, Place
from cosoc.sim.files.names import list_mappings
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.trust import check_trusted


def plan_problems(plan: Plan, mended: Mended = WHOLE) -> Sequence[tuple[Place, str]]:
    """What is wrong with the names, axes and formulas of a plan, each at its place in the file. mended: what the file
    has otherwise; names that stand in for others are not looked up, nor are formulas where axes are not known."""
    parts = [(key, part) for key, part in (("simulate", plan.simulate), ("search", plan.search)) if part is not None]
    return [
        ((key, *place), what)
        for key, part in parts
        for place, what in _problems(part, lambda *at, key=key: mended.touches((key, *at)))
    ]


def _problems(part: SimulatePart | SearchPart, touched: Callable[..., bool]) -> Iterator[tuple[Place, str]]:
    spaces = part.space if isinstance(part, SearchPart) else ()
    firsts = {chain(space)[0] for space in spaces}
    splits = "splits" in firsts
    for i, name in enumerate(part.workload):
        if touched("workload", i) or touched("space"):
            continue
        for what in _refused(partial(_workload, name, bool(firsts & {"channels", "operators"}))):
            yield ("workload", i), what
    if isinstance(part, SearchPart) and ":" in part.data and not Path(part.data).exists() and not touched("data"):
        yield from ((("data",), what) for what in _refused(partial(check_trusted, part.data)))
    if isinstance(part, SearchPart):
        for key in sorted(part.model_fields_set & {"recipe", "weights", "train_noise"}):
            if not touched(key):
                yield from (((key,), what) for what in _refused(partial(wrong_name, part, key)))
    found = {}
    for i, name in enumerate(part.soc):
        if touched("soc", i):
            continue
        refused = _refused(partial(find_cluster if splits else find_soc, name))
        if touched("space"):  # it may be either
            refused = refused and _refused(partial(find_soc if splits else find_cluster, name))
        yield from ((("soc", i), what) for what in refused)
        if not refused:
            found[name] = i
    for i, name in enumerate(part.mapping if isinstance(part, SimulatePart) else ()):
        known = {one for soc in found for one in list_mappings(soc)}
        if found and not (name in known or name.endswith((".yaml", ".yml")) or Path(name).exists()):
            yield ("mapping", i), f"no mapping named {name!r}; there is {', '.join(sorted(known))}, or a .yaml file"
    for machine in found if not (touched("space") or touched("set") or touched("where")) else ():
        yield from _axes(part, machine)


def _workload(name: str, trained: bool) -> None:
    if ":" in name:
        check_trusted(name)
    if not trained:
        find_workload(name)
        return
    from cosoc.search.training.nets import NETWORKS

    if ":" not in name and name not in NETWORKS:
        raise InputError(f"no network named {name!r} to train; there is {', '.join(NETWORKS)}")


def _axes(part: SimulatePart | SearchPart, machine: str) -> Iterator[tuple[Place, str]]:
    """Each value of each axis in one combination, so that each is looked at once. One problem an axis is enough. A
    formula that means nothing is left out with what needs it, and the others are looked at."""
    seen: set[tuple[str, str]] = set()
    wrong: set[str] = set()
    conditions = list(enumerate(part.where))
    left: Axes = dict(part.set)
    while True:
        there = part.model_copy(update={"set": left, "where": tuple(text for _, text in conditions)})
        n = 0
        try:
            for settings in grid(there, machine):
                n += 1
                for path, value in settings.items():
                    if (path, value) in seen or path in wrong:
                        continue
                    seen.add((path, value))
                    refused = _refused(partial(_one, machine, path, value))
                    if refused:
                        wrong.add(path)
                        yield _place(part, path, value), f"{machine}: {refused[0]}"
            break
        except FormulaError as error:
            if isinstance(error.at, int):
                number, _ = conditions.pop(error.at)
                yield ("where", number), f"{machine}: {error}"
            else:
                yield ("set", error.at), f"{machine}: {error}"
                left, conditions = _without(error.at, left, conditions)
    if not n and len(conditions) == len(part.where):
        yield ("where",), f"{machine}: no combination meets {' and '.join(part.where)}"


def _without(path: str, axes: Axes, conditions: list[tuple[int, str]]) -> tuple[Axes, list[tuple[int, str]]]:
    """Axes and conditions without a path and all that names it."""

    def needs(text: object, condition: bool = False) -> bool:
        return isinstance(text, str) and any(f".{path}".endswith(f".{n}") for n in parsed(text, condition).names)

    left: Axes = {one: value for one, value in axes.items() if one != path}
    conditions = [one for one in conditions if not needs(one[1], condition=True)]
    for follower in [one for one, value in left.items() if needs(value)]:
        left, conditions = _without(follower, left, conditions) if follower in left else (left, conditions)
    return left, conditions


def _one(machine: str, path: str, value: str) -> None:
    device, inside = in_device(path)
    if not device:
        check_values(machine, {path: value})
        return
    devices = find_cluster(machine).devices
    if device not in devices:
        raise InputError(f"{path}: {machine} has no device {device!r}; it has {', '.join(devices)}")
    check_values(devices[device].soc, {inside: value})


def _place(part: SimulatePart | SearchPart, path: str, value: str) -> Place:
    axis = part.set[path]
    return ("set", path) if isinstance(axis, str) else ("set", path, [json.dumps(one) for one in axis].index(value))


def _refused(look: Callable[[], object]) -> tuple[str, ...]:
    """Why something is refused; nothing where it is not."""
    try:
        look()
    except InputError as error:
        return error.lines
    return ()

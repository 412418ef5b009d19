"""What a campaign runs: a plan file, and the tasks that it stands for.

    simulate:
      soc: [diana]
      workload: [resnet8, resnet20]
      mapping: [all_8bit, min_cost]
      runtime: [overlapped]
      set: {memories.l1.size_bytes: [131072, 262144], links.l2.bytes_per_period: [8, 16]}
    search:
      soc: [diana]
      workload: [resnet8]
      space: [channels]
      strengths: [0.1, 1.0]
      seeds: [0, 1]
      epochs: 10

Every combination is a task; either part may be left out. `set` names values of the SoC file, as `--set` does: a list is
an axis, a formula follows from others, and `where` leaves out the combinations that break a condition
(`cosoc.search.campaigns.axes`). With `space: [splits]` each `soc` is a cluster, and `set` names values of the cluster
file; `devices.NAME.set.PATH` is a value of that device's SoC file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cosoc.search.campaigns.axes import Grid, Scalar, Settings
from cosoc.search.campaigns.expression import parsed
from cosoc.search.campaigns.trained import TrainedKeys
from cosoc.search.spaces.chain import chain
from cosoc.sim.errors import InputError
from cosoc.sim.figures import USUAL, objective
from cosoc.sim.files.catalog import file_content
from cosoc.sim.files.mending import Mended, Place
from cosoc.sim.files.yamlfile import load_model
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.soc import FromList, Model, refuse
from cosoc.sim.model.units import Positive

Names = Annotated[tuple[str, ...], FromList, Field(min_length=1)]
MOST_TASKS = 1_000_000


def _axis(value: Any) -> Any:
    """A list of values, or a formula, which is read to see that it is one."""
    if isinstance(value, str):
        _refusing(lambda: parsed(value))
    elif not isinstance(value, list | tuple) or not value or not all(isinstance(one, Scalar) for one in value):
        raise ValueError("a list of values is needed, or a formula such as 2 * rows")
    return tuple(value) if isinstance(value, list) else value


def _condition(text: str) -> str:
    _refusing(lambda: parsed(text, condition=True))
    return text


def _refusing(read: Callable[[], Any]) -> None:
    try:
        read()
    except InputError as error:
        raise ValueError(str(error)) from None


Axes = dict[str, Annotated[tuple[Scalar, ...] | str, BeforeValidator(_axis)]]
Conditions = Annotated[tuple[Annotated[str, AfterValidator(_condition)], ...], FromList]


def _objective(text: str) -> str:
    _refusing(lambda: objective(text))
    return text


class SimulatePart(Model):
    """Simulations: every SoC, workload, mapping, runtime and value of the SoC with every other."""

    soc: Names
    workload: Names
    mapping: Names = ("default",)
    runtime: Annotated[tuple[Runtime, ...], FromList, Field(min_length=1)] | None = None
    set: Axes = {}
    where: Conditions = ()


def _chain(text: str) -> str:
    try:
        return "+".join(chain(text))
    except InputError as error:
        raise ValueError(str(error)) from None


SpaceName = Annotated[str, AfterValidator(_chain)]


class SearchPart(TrainedKeys):
    """Searches: every SoC (or cluster), workload, space, strength and seed with every other. What a space does not
    know (the strength of a split, the inferences of a tile) is no axis of it. How networks are trained: see
    `TrainedKeys`."""

    soc: Names
    workload: Names
    space: Annotated[tuple[SpaceName, ...], FromList, Field(min_length=1)] = ("channels",)
    template: Literal["conv-dw", "dws-dw", "conv-dws"] = "conv-dw"  # of operators
    strengths: Annotated[tuple[float, ...], FromList, Field(min_length=1)] = (0.1,)
    seeds: Annotated[tuple[int, ...], FromList, Field(min_length=1)] = (0,)
    objective: Annotated[str, AfterValidator(_objective)] | None = None  # the usual one of the space
    data: str = "digits"
    epochs: Positive = 40
    mapping: str = "default"  # whose cores tiles keep
    time_budget_s: Annotated[float, Field(gt=0)] | None = None
    inferences: Positive = 1000
    set: Axes = {}
    where: Conditions = ()

    @model_validator(mode="after")
    def _clusters_or_socs(self) -> SearchPart:
        if len({chain(space)[0] == "splits" for space in self.space}) > 1:
            raise ValueError("splits are of clusters, the other spaces of SoCs: make a plan of each")
        return self

    @model_validator(mode="after")
    def _every_key_counts(self) -> SearchPart:
        if idle := self.idle({chain(space)[0] for space in self.space}):
            refuse("search", idle)
        return self


class Plan(Model):
    """A plan file."""

    name: str = ""
    simulate: SimulatePart | None = None
    search: SearchPart | None = None

    @model_validator(mode="after")
    def _something_to_do(self) -> Plan:
        if self.simulate is None and self.search is None:
            raise ValueError("names neither simulate nor search: one of them is needed")
        return self


@dataclass(frozen=True)
class Task:
    """One simulation or search. spec: plain data, all that it depends on besides the program itself."""

    kind: Literal["simulate", "search"]
    spec: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Equal tasks, in whatever plan, have equal ids."""
        text = json.dumps([self.kind, self.spec], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """What a person calls it."""
        words = [self.kind, *(str(self.spec[key]) for key in ("soc", "workload"))]
        optional = ("mapping", "runtime", "space", "strength", "seed")
        words += [str(self.spec[key]) for key in optional if self.spec.get(key) is not None]
        return " ".join(words + [f"{key}={value}" for key, value in self.spec["set"].items()])


Wrong = Callable[[Plan, Mended], Sequence[tuple[Place, str]]]


def load_plan(path: Path, wrong: Wrong = lambda plan, mended: ()) -> Plan:
    """Read and check a plan. wrong: what else is looked into, such as `cosoc.search.campaigns.checks`. InputError names
    file, line and column."""

    def problems(plan: Plan, mended: Mended) -> Sequence[tuple[Place, str]]:
        n = _combinations(plan)
        if n > MOST_TASKS:
            return [((), f"stands for more than {MOST_TASKS:,} tasks; make several plans of it")]
        return wrong(plan, mended)

    return load_model(path, Plan, problems=problems)


def _combinations(plan: Plan) -> int:
    """At most so many tasks: names that stand twice count twice."""
    n = 0
    for part in (plan.simulate, plan.search):
        names = [] if part is None else [name for name in type(part).model_fields if name != "where"]
        axes = [getattr(part, name) for name in names]
        sizes = [len(axis) for axis in axes if isinstance(axis, tuple)]
        values = [one for axis in axes if isinstance(axis, dict) for one in axis.values()]
        sizes += [len(one) for one in values if isinstance(one, tuple)]
        n += math.prod(sizes) if part is not None else 0
    return n


def tasks(plan: Plan) -> Iterator[Task]:
    """The tasks of a plan, each once, in the order of its axes, the first slowest."""
    seen: set[str] = set()
    for task in itertools.chain(_simulations(plan.simulate), _searches(plan.search)):
        if task.id not in seen:
            seen.add(task.id)
            yield task


def grid(part: SimulatePart | SearchPart, machine: str) -> Grid:
    """The settings of a part for one of its SoCs or clusters. InputError for a formula that means nothing there."""
    formulas = part.where or any(isinstance(one, str) for one in part.set.values())
    return Grid(part.set, part.where, file_content(machine) if formulas else {})


def _settings(part: SimulatePart | SearchPart) -> dict[str, list[Settings]]:
    """All settings by machine."""
    return {machine: list(grid(part, machine)) for machine in dict.fromkeys(part.soc)}


def _simulations(part: SimulatePart | None) -> Iterator[Task]:
    if part is None:
        return
    runtimes: tuple[str | None, ...] = part.runtime or (None,)
    known = _settings(part)
    for soc, workload, mapping, runtime in itertools.product(part.soc, part.workload, part.mapping, runtimes):
        for settings in known[soc]:
            spec = {"soc": soc, "workload": workload, "mapping": mapping, "runtime": runtime, "set": settings}
            yield Task("simulate", spec)


def _searches(part: SearchPart | None) -> Iterator[Task]:
    if part is None:
        return
    axes = (part.soc, part.workload, part.space, part.strengths, part.seeds)
    known = _settings(part)
    for soc, workload, space, strength, seed in itertools.product(*axes):
        for settings in known[soc]:
            spec: dict[str, Any] = {"soc": soc, "workload": workload, "space": space, "seed": seed, "set": settings}
            spec["objective"] = part.objective or USUAL[chain(space)[0]]
            if chain(space)[0] == "splits":
                spec["inferences"] = part.inferences
            if chain(space)[0] == "tiles":
                spec |= {"mapping": part.mapping, "time_budget_s": part.time_budget_s}
            if chain(space)[0] in ("channels", "operators"):
                spec |= {"data": part.data, **part.stated(chain(space)[0])}
                if "calibrate_only" not in spec:
                    spec |= {"strength": strength, "epochs": part.epochs}
            if chain(space)[0] == "operators":
                spec["template"] = part.template
            yield Task("search", spec)

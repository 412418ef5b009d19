"""The one search: a space proposes, what it proposes is written and simulated, and what is not dominated is the result.

A round that is finished is kept in the folder (`done/NAME.figures.json`) and never done again. What is reported of a
mapping is simulated from the file that holds it. What is in the folder: see `runfolder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosoc.search.manifest import RESULT
from cosoc.search.metric import metric_from
from cosoc.search.oracle import Oracle, Pair
from cosoc.search.picture import plot
from cosoc.search.result import Found, Result, found_from
from cosoc.search.runfolder import RunFolder
from cosoc.search.space import Candidate, Space
from cosoc.search.targets import Target
from cosoc.sim.errors import InputError
from cosoc.sim.figures import objective
from cosoc.sim.files.catalog import boundary_of
from cosoc.sim.files.mapping_file import dump_mapping
from cosoc.sim.files.workload_file import dump_workload
from cosoc.sim.progress import Report

DRIFT = 0.05  # of the estimate, from which on a space learns from what was simulated


@dataclass(frozen=True)
class Asked:
    """What is asked of any search. objective: a name of `OBJECTIVES` or a product of powers of them. stated: all that
    a run is, as plain data, in config.yaml: a resumed run must state the same. redo: the phase of a resumed run to do
    again, with what follows from it. targets: what must hold of a mapping for it to be the best."""

    objective: str
    seed: int
    out: Path
    stated: Mapping[str, Any]
    resume: bool = False
    redo: str | None = None
    targets: tuple[Target, ...] = ()


def search(space: Space, oracle: Oracle, asked: Asked, report: Report) -> Result:
    """Search (or go on searching) a space; the results are in `asked.out`.

    report is called with (done, of how many, what). InputError for a folder that is another run's, or not empty.
    """
    objective(asked.objective)
    with RunFolder(asked.out, asked.stated, asked.resume, asked.redo) as folder:
        folder.begin_with("workload.yaml", dump_workload(oracle.workload))
        found = _searched(space, oracle, folder, report)
        heading = {
            oracle.kind: oracle.machine.name, "workload": oracle.workload.name, "space": space.name, "seed": asked.seed,
            "energy_boundary": boundary_of(oracle.machine),
        }  # fmt: skip
        result = Result(heading, asked.objective, tuple(found), space.optimum(), space.about(), asked.targets)
        folder.put(RESULT, {"result.json": result.text(), "front.png": plot(result)})
    return result


def _searched(space: Space, oracle: Oracle, folder: RunFolder, report: Report) -> Sequence[Found]:
    """Do every round that has not been done, and take up what those found that have."""
    found: list[Found] = []
    for name in space.rounds():
        done = folder.finished(f"{name}.figures")
        if done is None:
            found += _round(space, oracle, folder, name, report, {one.name for one in found})
        else:
            metric = metric_from(done.get("metric"))
            again = [found_from(plain, plain["name"] in done["known"], metric) for plain in done["points"]]
            for one in again:
                _remember(oracle, one, folder)
            space.restore(name, done["state"])
            found += again
    if not found:
        raise InputError(f"space {space.name}: proposes nothing for {oracle.workload.name} on {oracle.machine.name}")
    return found


def _round(
    space: Space, oracle: Oracle, folder: RunFolder, name: str, report: Report, taken: set[str]
) -> Sequence[Found]:
    """Do a round, simulate what it proposes, let the space learn, and keep it all."""
    before = len(oracle.pairs)
    found = []
    for candidate in space.propose(name, oracle, folder, report):
        if candidate.name in taken:
            raise ValueError(f"round {name}: a candidate named {candidate.name} has been before")
        taken.add(candidate.name)
        found.append(priced(candidate, oracle, folder, name))
    if any(pair.drift > DRIFT for pair in oracle.pairs[before:]):
        space.learn(oracle)
    done = {
        "points": [one.plain() for one in found], "known": [one.name for one in found if one.known],
        "state": space.state(), "metric": next((one.metric.plain() for one in found if one.accuracy is not None), None),
    }  # fmt: skip
    folder.finish(f"{name}.figures", done)
    return found


def priced(candidate: Candidate, oracle: Oracle, folder: RunFolder, name: str) -> Found:
    """Write a candidate's mapping, whole, into its file, and simulate what stands there. name: of its round."""
    file = f"mappings/{candidate.name}.yaml"
    folder.put(f"{name}.figures", {file: dump_mapping(oracle.whole(candidate.mapping))})
    mapping = oracle.read(folder.path / file)
    simulated = oracle.simulate(mapping)
    if candidate.estimated is not None:
        oracle.pairs.append(Pair(mapping, candidate.estimated, simulated))
    return Found(
        candidate.name,
        file,
        simulated,
        candidate.estimated,
        candidate.accuracy,
        candidate.known,
        candidate.about,
        candidate.accuracies,
        candidate.metric,
    )


def _remember(oracle: Oracle, one: Found, folder: RunFolder) -> None:
    """What an earlier run has simulated is not simulated again."""
    if one.estimated is not None:
        mapping = oracle.read(folder.files.path(one.mapping))
        oracle.pairs.append(Pair(mapping, one.estimated, one.simulated))

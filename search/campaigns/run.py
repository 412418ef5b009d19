"""Run a campaign: hand out its tasks, put down what comes back, go on where it was left.

Tasks are handed out a few at a time. A worker that dies takes the pool with it, not the campaign: a new pool is made,
and what was under way is run again, one by one, so that the task that kills its worker is found and recorded as failed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Group, RenderableType
from rich.table import Table

from cosoc.search.campaigns.plan import Plan, Task, load_plan, tasks
from cosoc.search.campaigns.store import Store
from cosoc.search.campaigns.work import boundary_of, perform
from cosoc.search.front import non_dominated
from cosoc.search.manifest import MANIFEST, START, discard
from cosoc.sim.errors import InputError
from cosoc.sim.model.soc import BOUNDARIES, mixed
from cosoc.sim.processes import Workers

Progress = Callable[[int, int, str], None]  # done, of how many, what
Done = Iterator[tuple[Task, dict[str, Any]]]


@dataclass(frozen=True)
class SweepConfig:
    """plan: its file. out: folder of results.sqlite and of the searches' runs. workers: processes. scheduler: address
    of a Dask scheduler, in place of processes here. retry_failed: run failed tasks of a resumed campaign again. redo:
    the id of a task of a resumed campaign to run again, or `start`: all of them.
    carrier_w: what a board draws beside a chip, for fronts over SoCs whose energies do not reach equally far."""

    plan: Path
    out: Path
    workers: int
    scheduler: str | None = None
    resume: bool = False
    retry_failed: bool = False
    redo: str | None = None
    carrier_w: float | None = None


@dataclass(frozen=True)
class SweepResult:
    """What the results file holds. left: tasks of the plan that are not in it. carrier_w: of its config."""

    rows: tuple[dict[str, Any], ...]
    left: int
    carrier_w: float | None = None


class Pool(Protocol):
    """Somebody who runs tasks, in any order."""

    def run(self, todo: Sequence[Task], folder: Path, memo: Path) -> Done: ...


def sweep(config: SweepConfig, progress: Progress) -> SweepResult:
    """Run a campaign, or go on with it. Raises InputError for a plan or folder that is not fit for it, and for one
    whose fronts would mix energies of different boundaries.

    On KeyboardInterrupt, as on any exception, what is finished is in the file.
    """
    plan = load_plan(config.plan)
    store = Store(config.out / "results.sqlite", plan.model_dump_json(), config.resume, config.redo)
    try:
        every = list(tasks(plan))
        for task in every:
            if config.redo in (START, task.id) and os.path.lexists(config.out / "runs" / task.id / MANIFEST):
                discard(config.out / "runs" / task.id)
        if config.carrier_w is None:
            _check_boundaries(every)
        known = store.finished()
        todo = [t for t in every if t.id not in known or (config.retry_failed and known[t.id] == "failed")]
        done = len(every) - len(todo)
        pool = DaskPool(config.scheduler) if config.scheduler else ProcessPool(config.workers)
        progress(done, len(every), "sweep")
        for task, outcome in pool.run(todo, config.out / "runs", store.path):
            store.record(task, outcome)
            done += 1
            progress(done, len(every), task.label)
        rows = store.rows()
        here = {task.id for task in every}
        return SweepResult(tuple(row for row in rows if row["id"] in here), len(every) - done, config.carrier_w)
    finally:
        store.close()


@dataclass(frozen=True)
class ProcessPool:
    """Processes of this machine."""

    workers: int

    def run(self, todo: Sequence[Task], folder: Path, memo: Path) -> Done:
        """Yield every task with its outcome as it is finished."""
        queue = list(reversed(todo))
        suspects: list[Task] = []  # were under way when a worker died
        while queue or suspects:
            if not suspects:
                suspects = yield from self._until_broken(queue, self.workers, folder, memo)
                continue
            alone = suspects.pop()
            if (yield from self._until_broken([alone], 1, folder, memo)):
                error = "its worker process was killed, by a signal or for want of memory"
                yield alone, {"error": error, "wall_s": 0.0}

    def _until_broken(
        self, queue: list[Task], workers: int, folder: Path, memo: Path
    ) -> Generator[tuple[Task, dict[str, Any]], None, list[Task]]:
        """Work off `queue` from its end; returns the tasks that were under way when a worker died, if one did."""
        under_way: dict[Future[dict[str, Any]], Task] = {}
        with Workers(workers) as pool:
            while queue or under_way:
                while queue and len(under_way) < 2 * workers:  # one waits behind each that runs
                    task = queue.pop()
                    arguments = (task.kind, dict(task.spec), str(folder / task.id), str(memo))
                    try:
                        under_way[pool.submit(perform, *arguments)] = task
                    except BrokenProcessPool:
                        return [*under_way.values(), task]
                finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in finished:
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        return list(under_way.values())
                    yield under_way.pop(future), outcome
            return []


@dataclass(frozen=True)
class DaskPool:
    """The workers of a Dask cluster, found by the address of its scheduler. They share no files with us: searches leave
    their run folders on the worker, and simulations are not looked up."""

    address: str

    def run(self, todo: Sequence[Task], folder: Path, memo: Path) -> Done:
        """Yield every task with its outcome as it is finished."""
        try:
            from distributed import Client, as_completed
        except ImportError as error:
            raise InputError("--scheduler needs Dask: pip install 'cosoc[cluster]'") from error
        try:
            client = Client(self.address, timeout=5)
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler {self.address}: no Dask scheduler answers: {error}") from error
        with client:
            futures = {
                client.submit(perform, t.kind, dict(t.spec), str(folder / t.id), None, key=f"cosoc-{t.id}", retries=2,
                              pure=False): t
                for t in todo
            }  # fmt: skip
            for future in as_completed(futures):
                if future.status == "finished":
                    yield futures[future], future.result()
                else:
                    yield futures[future], {"error": f"its worker failed: {future.exception()}", "wall_s": 0.0}


def exposed(address: str) -> str | None:
    """What it means to hand work to a scheduler at an address that others can reach; None on this machine, or with
    TLS."""
    scheme, _, rest = address.rpartition("://")
    host = rest.rpartition(":")[0].strip("[]") or rest
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return None
    if host == "localhost" or scheme in ("tls", "wss", "inproc"):
        return None
    return (
        f"--scheduler {address}: Dask asks nobody who he is: whoever reaches its ports runs code on its workers; keep "
        "them on 127.0.0.1 (and tunnel), or use tls://"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Results


def _check_boundaries(every: Sequence[Task]) -> None:
    """InputError where simulations of one workload are on SoCs whose energies do not reach equally far."""
    stated: dict[str, dict[str, str | None]] = {}
    for task in (task for task in every if task.kind == "simulate"):
        with contextlib.suppress(InputError):  # a SoC that cannot be read is its task's failure
            spec = task.spec
            stated.setdefault(spec["workload"], {})[spec["soc"]] = boundary_of(spec)
    for workload, of in stated.items():
        if mixed(of):
            raise InputError(
                f"front of {workload}: {mixed(of)}; --carrier W adds what a board draws, or make two plans"
            )


def _lifted(rows: list[dict[str, Any]], carrier_w: float | None) -> list[dict[str, Any]]:
    """Simulations of one workload with energies that reach equally far; InputError where they do not."""
    stated = {row["spec"]["soc"]: row["result"].get("energy_boundary") for row in rows}
    if not mixed(stated):
        return rows
    if carrier_w is None or None in stated.values():
        raise InputError(
            f"front of {rows[0]['spec']['workload']}: {mixed(stated)}; --carrier W adds what a board draws"
        )
    widest = max(stated.values(), key=BOUNDARIES.index)
    return [
        row
        if row["result"]["energy_boundary"] == widest
        else row | {"result": row["result"] | {
            "energy_j": row["result"]["energy_j"] + carrier_w * row["result"]["latency_s"], "energy_boundary": widest
        }}
        for row in rows
    ]  # fmt: skip


def fronts(result: SweepResult) -> dict[str, list[dict[str, Any]]]:
    """Of each workload, the simulations that no other beats in both time and energy, fastest first, chips with the
    carrier where others are boards. InputError where energies do not reach equally far."""
    out: dict[str, list[dict[str, Any]]] = {}
    for row in result.rows:
        if row["kind"] == "simulate" and row["status"] == "done":
            out.setdefault(row["spec"]["workload"], []).append(row)
    for workload in out:
        rows = _lifted(out[workload], result.carrier_w)
        points = [(row["result"]["latency_s"], row["result"]["energy_j"]) for row in rows]
        out[workload] = [rows[i] for i in non_dominated(points)]
    return out


def split_fronts(result: SweepResult) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Of each workload, the points of all searches over splits, (task, point), that no other beats in both simulated
    throughput and energy of an inference, fastest first."""
    out: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for row in result.rows:
        if row["status"] == "done" and row["spec"].get("space") == "splits":
            points = row["result"]["content"]["points"]
            out.setdefault(row["spec"]["workload"], []).extend((row, point) for point in points)
    for workload, found in out.items():
        stated = {row["spec"]["soc"]: row["result"].get("energy_boundary") for row, _ in found}
        if mixed(stated):
            raise InputError(f"splits of {workload}: {mixed(stated)}; give devices a carrier_w in their cluster files")
        figures = [(-p["simulated"]["throughput"], p["simulated"]["energy_j"]) for _, p in found]
        out[workload] = [found[i] for i in non_dominated(figures)]
    return out


def table(result: SweepResult) -> RenderableType:
    """The fronts over everything simulated, and over all splits, for a terminal."""
    failed = len(failures(result))
    counts = f"{len(result.rows) - failed} done, {failed} failed, {result.left} left"
    simulated, splits = fronts(result), split_fronts(result)
    out = _front_table(f"Best in time or energy, by workload ({counts})", "ms", "uJ")
    for rows in simulated.values():
        for row in rows:
            found = row["result"]
            _add(out, row, found["latency_s"] * 1e3, found["energy_j"] * 1e6)
        out.add_section()
    if not splits:
        return out
    shared = _front_table(f"Splits best in throughput or energy, by workload ({counts})", "inferences/s", "mJ")
    for found in splits.values():
        for row, point in found:
            seen = point["simulated"]
            _add(shared, row, seen["throughput"], seen["energy_j"] * 1e3)
        shared.add_section()
    return Group(out, "", shared) if simulated else shared


def _front_table(title: str, *figures: str) -> Table:
    out = Table(title=title, title_justify="left")
    for name in ("task", *figures, "mm2", "peak mW"):
        out.add_column(name, justify="left" if name == "task" else "right", overflow="fold")
    return out


def _add(out: Table, row: dict[str, Any], *figures: float) -> None:
    """A row: the task, figures, and what the SoC file, or those of the cluster, say."""
    chip = (row["result"]["area_mm2"], row["result"]["peak_power_mw"])
    out.add_row(_label(row), *(f"{figure:.4g}" if figure else "-" for figure in (*figures, *chip)))


def failures(result: SweepResult) -> list[str]:
    """Every task that failed, with its reason."""
    return [f"{_label(row)}: {row['error']}" for row in result.rows if row["status"] == "failed"]


def _label(row: dict[str, Any]) -> str:
    return Task(row["kind"], row["spec"]).label


def to_json(result: SweepResult) -> dict[str, Any]:
    """Everything that was found, and the fronts as ids."""
    chosen = {workload: [row["id"] for row in rows] for workload, rows in fronts(result).items()}
    splits = {
        workload: [{"id": row["id"], "throughput": p["simulated"]["throughput"], "energy_j": p["simulated"]["energy_j"]}
                   for row, p in found]
        for workload, found in split_fronts(result).items()
    }  # fmt: skip
    return {"rows": list(result.rows), "fronts": chosen, "split_fronts": splits, "left": result.left}


__all__ = [
    "Plan",
    "SweepConfig",
    "SweepResult",
    "exposed",
    "failures",
    "fronts",
    "split_fronts",
    "sweep",
    "table",
    "to_json",
]

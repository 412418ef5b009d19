"""Run a campaign: hand out its tasks, put down what comes back, go on where it was left.

Tasks are handed out a few at a time. A worker that dies takes the pool with it, not the campaign: a new pool is made,
and what was under way is run again, one by one, so that the task that kills its worker is found and recorded as failed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cosoc.search.campaigns.budget import Budget, within
from cosoc.search.campaigns.checks import plan_problems
from cosoc.search.campaigns.plan import Task, load_plan, tasks
from cosoc.search.campaigns.results import SweepResult
from cosoc.search.campaigns.store import RESULTS, Store
from cosoc.search.campaigns.work import boundary_of, perform, perform_all
from cosoc.search.manifest import MANIFEST, START, discard
from cosoc.sim.errors import InputError
from cosoc.sim.model.soc import mixed
from cosoc.sim.processes import Workers
from cosoc.sim.progress import Report

BATCH = 32  # most simulations that go to a worker of a Dask cluster together
BATCHES = 4  # of a lane, at least

Done = Iterator[tuple[Task, dict[str, Any]]]


@dataclass(frozen=True)
class SweepConfig:
    """plan: its file. out: folder of results.sqlite and of the searches' runs. workers: processes. scheduler: address
    of a Dask scheduler, in place of processes here. retry_failed: run failed tasks of a resumed campaign again. redo:
    the id of a task of a resumed campaign to run again, or `start`: all of them.
    carrier_w: what a board draws beside a chip, for fronts over SoCs whose energies do not reach equally far. budgets:
    tasks whose chips are beyond one of them are left out."""

    plan: Path
    out: Path
    workers: int
    scheduler: str | None = None
    resume: bool = False
    retry_failed: bool = False
    redo: str | None = None
    carrier_w: float | None = None
    budgets: tuple[Budget, ...] = ()


class Pool(Protocol):
    """Somebody who runs tasks, in any order."""

    def run(self, todo: Sequence[Task], folder: Path, memo: Path) -> Done: ...


def sweep(config: SweepConfig, progress: Report) -> SweepResult:
    """Run a campaign, or go on with it. Raises InputError for a plan or folder that is not fit for it, and for one
    whose fronts would mix energies of different boundaries.

    On KeyboardInterrupt, as on any exception, what is finished is in the file.
    """
    plan = load_plan(config.plan, plan_problems)
    planned = list(tasks(plan))
    every = list(within(planned, config.budgets))
    if config.carrier_w is None:
        _check_boundaries(every)
    store = Store(config.out / RESULTS, plan.model_dump_json(), config.resume, config.redo)
    try:
        for task in every:
            if config.redo in (START, task.id) and os.path.lexists(config.out / "runs" / task.id / MANIFEST):
                discard(config.out / "runs" / task.id)
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
        found = tuple(row for row in rows if row["id"] in here)
        return SweepResult(found, len(every) - done, config.carrier_w, len(planned) - len(every))
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
            lanes = max(1, sum(client.nthreads().values()))

            def handed(batch: Sequence[Task]) -> Any:
                given = [(task.kind, dict(task.spec), str(folder / task.id)) for task in batch]
                key = f"cosoc-{batch[0].id}-{len(batch)}"
                return client.submit(perform_all, given, key=key, retries=2, pure=False)

            futures = {handed(batch): batch for batch in _batches(todo, lanes)}
            finished = as_completed(futures)
            for future in finished:
                batch = futures.pop(future)
                if future.status == "finished":
                    yield from zip(batch, future.result(), strict=True)
                elif len(batch) > 1:  # one of them ends its worker, or the workers were ended by others: which is found
                    alone = {handed([task]): [task] for task in batch}
                    futures |= alone
                    finished.update(alone)
                else:
                    yield batch[0], {"error": f"its worker failed: {future.exception()}", "wall_s": 0.0}


def _batches(todo: Sequence[Task], lanes: int) -> Iterator[list[Task]]:
    """Tasks as they are handed out: a search by itself, simulations at most BATCH together and so few that each of the
    lanes has several batches. What a scheduler takes for a task is some milliseconds, as much as a small simulation."""
    most = max(1, min(BATCH, len(todo) // (BATCHES * lanes)))
    batch: list[Task] = []
    for task in todo:
        if batch and (task.kind == "search" or len(batch) == most):
            yield batch
            batch = []
        batch.append(task)
        if task.kind == "search":
            yield batch
            batch = []
    if batch:
        yield batch


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

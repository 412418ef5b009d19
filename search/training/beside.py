"""Simulations beside training: a process that simulates shares of channels before their costs are asked for.

What a simulation gives does not depend on who does it, so a run finds the same with and without. Known ahead are the
options of each layer beside the reference, of which the first front is made, while the network is warmed up; and the
candidate of an epoch, while it is validated. What follows from a simulation at once (theta for the next step, the
multiplier, a repair's next move) waits for it, beside or not. Few and small simulations are done here: a process takes
longer to begin.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from types import TracebackType

from cosoc.search.spaces.inner_tiles import InnerTiles
from cosoc.search.spaces.shares import Counts, Key, ShareCosts, key_of
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.processes import Workers

BEGINNING_S = 4.0  # about what a process takes until it simulates


@dataclass(frozen=True)
class Made:
    """What costs are made of. number: theirs, by which alone a process knows whether it has made them already."""

    number: int
    workload: Workload = field(compare=False)
    soc: SoC = field(compare=False)
    runtime: Runtime = field(compare=False)
    inner: tuple[str, Figures] | None = field(compare=False)


class Beside:
    """Who simulates ahead for `costs`; a context, at whose end its processes end. jobs: so many of them; 0: none.
    inner: an objective and figures to be near, where shares are in the best tiles (`InnerTiles`)."""

    def __init__(self, costs: ShareCosts, jobs: int, inner: tuple[str, Figures] | None) -> None:
        self.costs, self.jobs = costs, jobs
        self._made = Made(id(costs), costs.workload, costs.soc, costs.runtime, inner)
        self._workers: Workers | None = None
        self._under_way: dict[Key, Future[Figures | None]] = {}

    def __enter__(self) -> Beside:
        self.costs.ahead = self.take
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.costs.ahead = None
        for future in self._under_way.values():
            future.cancel()
        if self._workers is not None:
            self._workers.__exit__(kind, error, at)
            self._workers = None

    def ask(self, many: Sequence[Counts], more: int = 0) -> None:
        """Have shares simulated that will be asked for, and about so many more later."""
        keys = {key_of(counts): counts for counts in many}
        todo = {key: counts for key, counts in keys.items() if not self.costs.knows(key) and key not in self._under_way}
        if not self.jobs or not todo:
            return
        if self._workers is None:
            if (len(todo) + more) * self.costs.seconds_each < BEGINNING_S:
                return
            self._workers = Workers(self.jobs)
        for key, counts in todo.items():
            self._under_way[key] = self._workers.submit(simulated, self._made, counts)

    def take(self, key: Key) -> Figures | None:
        """What has been simulated ahead; None for what has not, or not begun. InputError where that has failed."""
        future = self._under_way.pop(key, None)
        if future is None or future.cancel():
            return None
        try:
            return future.result()
        except BrokenProcessPool:
            ended = "the process that simulates beside training was killed, by a signal or for want of memory"
            raise InputError(f"{ended}; --resume goes on, and --jobs 0 simulates without one") from None
        except Exception as error:
            text = " ".join(str(error).split())
            raise InputError(f"simulating beside training: {type(error).__name__}: {text}") from error


def simulated(made: Made, counts: Counts) -> Figures | None:
    """What shares cost, simulated, in a process of `Beside`; None where the machine cannot run them, which whoever asks
    is told when it asks."""
    try:
        return _costs(made).simulated(counts)
    except InputError:
        return None


@functools.lru_cache(maxsize=1)
def _costs(made: Made) -> ShareCosts:
    costs = ShareCosts(made.workload, made.soc, made.runtime)
    if made.inner is not None:
        objective, reference = made.inner
        costs.cut_by(InnerTiles(made.workload, made.soc, objective, reference))
    return costs

"""The reference engine: the four rules of `program` as a simpy model, for reading and for checking the fast one.

An op is a simpy process, and so is a burst at a server that has granted it. The machine lets simpy run all events of a
tick (rule 1), issues (rule 2), grants (rule 3) and goes on to the tick of simpy's next event (rule 4). Everything that
is ordered is ordered by integers, so simpy's own order of events within a tick cannot matter.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from cosoc.sim.machine.program import Ints, Program, Records, bursts_of, deadlock, unroll
from cosoc.sim.machine.trace import WAIT, Trace


def run(program: Program, watch: Collection[int] | None = ()) -> Trace:
    """Simulate `program`; `watch` names ops whose waits are recorded, None all of them. Raises Deadlock."""
    watched = range(program.n_ops) if watch is None else watch
    machine = _Machine(unroll(program), frozenset(int(op) for op in watched))
    machine.run()
    waits = np.array(sorted(machine.waits, key=lambda wait: (wait[1], wait[0])), dtype=WAIT)
    return Trace(
        _ints(machine.issue), _ints(machine.end), _ints(machine.service), _ints(machine.busy),
        max(machine.end, default=0), machine.bursts, waits,
        watch is None,
    )  # fmt: skip


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _dicts(records: Records) -> list[dict[str, int]]:
    return [dict(zip(records.dtype.names or (), record, strict=True)) for record in records.tolist()]


@dataclass
class _Burst:
    """What an op has asked for, and the simpy event of its end."""

    key: tuple[int, int, int, int]  # priority, asked, unit, op
    size: int  # bytes
    route: list[int]
    over: simpy.Event
    open: int  # servers that are not done with it
    last: tuple[int, int, int] = (0, 0, 0)  # end, hold, -place on the route: the greatest of those granted
    # Of a watched op, by place on the route: what it stood behind there, (since, until, behind); until -1: still does.
    stood: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)


class _Machine:
    def __init__(self, program: Program, watch: frozenset[int]) -> None:
        self.program = program
        self.env = simpy.Environment()
        self.watch = watch
        n_ops, n_servers = program.n_ops, len(program.servers)
        self.rows = _dicts(program.rows)
        self.n_bursts: list[int] = bursts_of(program.rows).tolist()
        self.servers = _dicts(program.servers)
        self.lanes: list[int] = program.units["lanes"].tolist()
        self.priority: list[int] = program.units["priority"].tolist()
        self.queue: list[list[int]] = [[] for _ in self.lanes]  # ops not issued yet, last first
        for op in reversed(range(n_ops)):
            self.queue[self.rows[op]["unit"]].append(op)
        self.in_flight = [0] * len(self.lanes)
        self.asked = [-1] * len(self.lanes)  # by the head of each unit, for issue
        self.free: list[int] = program.credits["capacity"].tolist()
        self.waiting: list[list[_Burst]] = [[] for _ in range(n_servers)]
        self.holders = [0] * n_servers
        self.last_granted = [-1] * n_servers
        self.tag = [-1] * n_servers
        self.issue, self.end, self.service = [-1] * n_ops, [-1] * n_ops, [0] * n_ops
        self.busy = [0] * n_servers
        self.bursts = self.ended = 0
        self.waits: list[tuple[int, int, int, int, int]] = []

    def run(self) -> None:
        while True:
            self.settle()
            while self.issue_round():
                self.settle()
            self.grant()
            if self.env.peek() == float("inf"):
                break
            self.env.step()  # simpy's clock goes to the next tick at which something ends
        if self.ended < len(self.rows):
            raise deadlock(self.program, _ints(self.issue), _ints(self.end), _ints(self.asked))

    @property
    def now(self) -> int:
        """The tick; simpy's clock is typed as float, but only integers are ever added to it."""
        return int(self.env.now)

    def settle(self) -> None:
        """Rule 1: everything that ends in this tick ends."""
        while self.env.peek() == self.now:
            self.env.step()

    def op(self, op: int) -> Generator[simpy.Event, Any, None]:
        """The life of an op from its issue on."""
        row = self.rows[op]
        route = self.list_of(op, "route")
        if row["setup"]:
            yield self.env.timeout(row["setup"])
        if row["run"]:
            yield self.env.timeout(row["run"])
        for number in range(self.n_bursts[op]):
            size = min(row["burst"], row["bytes"] - number * row["burst"])
            key = (self.priority[row["unit"]], self.now, row["unit"], op)
            burst = _Burst(key, size, route, self.env.event(), len(route))
            for server in route:
                self.waiting[server].append(burst)
            yield burst.over
            self.bursts += 1
            self.service[op] += burst.last[1]
            server = -burst.last[2]
            self.waits += [(op, *when, route[server], behind) for *when, behind in burst.stood.get(server, [])]
        self.end[op] = self.now
        self.ended += 1
        self.in_flight[row["unit"]] -= 1
        for credit, amount in self.list_of(op, "give"):
            self.free[credit] += amount

    def issue_round(self) -> bool:
        """Rule 2: one round; whether anything issued."""
        offers = []
        for unit, queue in enumerate(self.queue):
            if queue and self.in_flight[unit] < self.lanes[unit] and self.deps_ended(queue[-1]):
                if self.asked[unit] < 0:
                    self.asked[unit] = self.now
                offers.append((self.priority[unit], self.asked[unit], unit, queue[-1]))
        blocked: set[int] = set()
        issued = False
        for _, _, unit, op in sorted(offers):
            takes = self.list_of(op, "take")
            if any(credit in blocked or self.free[credit] < amount for credit, amount in takes):
                blocked.update(credit for credit, _ in takes)
                continue
            for credit, amount in takes:
                self.free[credit] -= amount
            self.queue[unit].pop()
            self.in_flight[unit] += 1
            self.asked[unit] = -1
            self.issue[op] = self.now
            self.env.process(self.op(op))
            issued = True
        return issued

    def deps_ended(self, op: int) -> bool:
        return all(self.end[op - distance] >= 0 for distance in self.list_of(op, "dep") if distance <= op)

    def grant(self) -> None:
        """Rule 3."""
        for server, figures in enumerate(self.servers):
            waiting = sorted(self.waiting[server], key=lambda burst: burst.key)
            free = figures["ports"] - self.holders[server]
            granted, self.waiting[server] = waiting[:free], waiting[free:]
            self.holders[server] += len(granted)
            for burst in granted:
                self.last_granted[server] = burst.key[-1]
                self.note(burst, server, -1)
                self.env.process(self.serve(server, burst, self.hold(server, burst)))
            for burst in self.waiting[server]:
                self.note(burst, server, self.last_granted[server])
        self.settle()  # lets the servers go to sleep for their holds

    def hold(self, s: int, burst: _Burst) -> int:
        """Ticks that a burst holds a server which has just granted it."""
        server, tag = self.servers[s], self.rows[burst.key[-1]]["tag"]
        seen = (tag >> server["tag_shift"]) % (1 << server["tag_bits"])
        ticks = -(-burst.size * server["rate_ticks"] // server["rate_bytes"])
        entry = min(self.holders[s], server["stretch_n"] - 1)
        ticks = ticks * int(self.program.stretch[server["stretch_at"] + entry]) >> 8
        if tag >= 0:
            if seen != self.tag[s]:
                ticks += server["switch"]
            self.tag[s] = seen
        return max(1, ticks)

    def serve(self, server: int, burst: _Burst, hold: int) -> Generator[simpy.Event, Any, None]:
        """A burst at a server, from its grant on."""
        self.busy[server] += hold
        burst.last = max(burst.last, (self.now + hold, hold, -burst.route.index(server)))
        yield self.env.timeout(hold)
        self.holders[server] -= 1
        burst.open -= 1
        if burst.open == 0:
            burst.over.succeed()

    def note(self, burst: _Burst, server: int, behind: int) -> None:
        """Record what a watched op stands behind at a server from this tick on; -1: it was granted."""
        if burst.key[-1] not in self.watch:
            return
        stood = burst.stood.setdefault(burst.route.index(server), [])
        if stood and stood[-1][1] < 0:
            since, _, other = stood[-1]
            if other == behind:
                return
            stood[-1] = (since, self.now, other)
        if behind >= 0:
            stood.append((self.now, -1, behind))

    def list_of(self, op: int, key: str) -> list[Any]:
        """The route, deps (distances), takes or gives ((credit, amount) pairs) of an op."""
        row = self.rows[op]
        entries: dict[str, Any] = {"route": self.program.routes, "dep": self.program.deps, "take": self.program.takes}
        array = entries.get(key, self.program.gives)
        return list(array[row[f"{key}_at"] : row[f"{key}_at"] + row[f"{key}_n"]].tolist())

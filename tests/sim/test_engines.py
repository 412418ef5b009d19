"""The two engines against each other, against timelines drawn by hand and against closed forms."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cosoc.sim.errors import Deadlock
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import Builder, Ints, Program, Records, from_text, row_of, unroll, validate
from cosoc.sim.machine.trace import Run, Trace

Programs = Callable[..., Program]
ENGINES = {"reference": engine_reference.run, "fast": engine_fast.run}


@pytest.fixture(params=ENGINES)
def run(request: pytest.FixtureRequest) -> Run:
    return ENGINES[request.param]


def plain(program: Program, watch: Collection[int] = ()) -> Trace:
    """The fast engine with every burst an event."""
    return engine_fast.counted(program, watch, coalesce=False, skip=False)[0]


def outcome(run: Run, program: Program, watch: Iterable[int] = ()) -> tuple[object, ...]:
    """All that an engine says about a program, as something that can be compared."""
    try:
        trace = run(program, list(watch))
    except Deadlock as deadlock:
        return ("deadlock", str(deadlock))
    arrays = (trace.issue, trace.end, trace.service, trace.busy, trace.waits)
    return ("trace", *(array.tolist() for array in arrays), trace.makespan, trace.bursts)


def fuzz_program(random_program: Programs, seed: int) -> Program:
    """One in twenty has so many servers that few are shared."""
    return random_program(seed, n_servers=140 if seed % 20 == 0 else None)


# ---------------------------------------------------------------------------------------------------------------------
# Against each other


def test_engines_agree_on_random_programs(random_program: Programs) -> None:
    """10,000 programs: issue, end, service, busy, waits, makespan, bursts and the text of deadlocks."""
    n_deadlocks = n_bursts = n_waits = 0
    for seed in range(10_000):
        program = fuzz_program(random_program, seed)
        assert validate(program) == [], f"seed {seed}"
        watch = range(program.n_ops) if seed % 2 else ()
        expected = outcome(engine_reference.run, program, watch)
        assert outcome(engine_fast.run, program, watch) == expected, f"seed {seed}"
        if expected[0] == "deadlock":
            n_deadlocks += 1
        else:
            n_bursts += int(expected[-1])  # type: ignore[call-overload]
            n_waits += len(expected[5])  # type: ignore[arg-type]
    # The comparison is worth something only if the programs do something: one in ten at least locks up, and so on.
    assert 1000 < n_deadlocks < 5000
    assert n_bursts > 500_000
    assert n_waits > 100_000


def test_what_is_skipped_changes_nothing(random_loop: Callable[[int], Program]) -> None:
    """10,000 loops, each way to skip alone and both together, against every burst as an event; and that against the
    reference engine now and then. Deadlocks (a few hundred) included."""
    ways = [{"coalesce": True, "skip": False}, {"coalesce": False, "skip": True}, {"coalesce": True, "skip": True}]
    counts = {key: [0] * len(ways) for key in ("streams", "splits", "skips", "ops")}
    for seed in range(10_000):
        program = random_loop(seed)
        expected = outcome(plain, program)
        if seed % 100 == 0:
            assert validate(program) == [], f"seed {seed}"
            assert outcome(engine_reference.run, program) == expected, f"seed {seed}"
        # Both together always, and one of them alone in turn.
        for way in (2, seed % 2):
            skipped = None

            def run(program: Program, watch: Collection[int], way: int = way) -> Trace:
                nonlocal skipped
                trace, skipped = engine_fast.counted(program, watch, **ways[way])
                return trace

            assert outcome(run, program) == expected, f"seed {seed}, {ways[way]}"
            if skipped is not None:
                for key in counts:
                    counts[key][way] += getattr(skipped, key)
    # Each path is taken, tens of thousands of times, and only where it may be.
    assert counts["skips"][0] == counts["ops"][0] == counts["streams"][1] == counts["splits"][1] == 0
    for way, key, least in ((0, "streams", 100_000), (0, "splits", 20_000), (1, "skips", 2_000), (1, "ops", 500_000),
                            (2, "streams", 100_000), (2, "splits", 20_000), (2, "skips", 4_000),
                            (2, "ops", 1_000_000)):  # fmt: skip
        assert counts[key][way] > least, (ways[way], key)


def test_all_waits_are_seen_in_one_run_or_none(random_program: Programs, random_loop: Callable[[int], Program]) -> None:
    """Told to watch all ops if one run is enough for that, both engines run as ever; waits are those of a run in which
    every burst is an event, or, where the fast engine found a steady state, there are none and the trace says so."""
    n_waits = {True: 0, False: 0}
    for seed in range(300):
        program = random_program(seed) if seed % 2 else random_loop(seed)
        try:
            expected = plain(program, range(program.n_ops))
        except Deadlock:
            continue
        trace = engine_fast.run(program, None)
        assert outcome(lambda *_, trace=trace: trace, program)[1:5] == outcome(plain, program)[1:5], f"seed {seed}"
        assert trace.waits.tolist() == (expected.waits.tolist() if trace.complete else []), f"seed {seed}"
        n_waits[trace.complete] += len(expected.waits)
        assert trace.complete or program.blocks["times"].max() > 1, f"seed {seed}"
        if seed % 40 == 1:
            reference = engine_reference.run(program, None)
            assert reference.complete and reference.waits.tolist() == expected.waits.tolist(), f"seed {seed}"
    assert min(n_waits.values()) > 5_000, n_waits


def test_a_loop_is_skipped_to_its_end() -> None:
    """Double buffering, a million iterations, in closed form: after the first load the compute never waits.

    Loads take 10 ticks, computes 15; the last compute ends at 10 + 15 n; the link is busy for 10 n.
    """
    n = 1_000_000
    b = Builder("double buffering", 1)
    dma, core, l2, buffer = b.unit("dma"), b.unit("core"), b.server("l2", rate_bytes=8), b.credit("buffer", 2)
    with b.repeat(n):
        load = b.op(dma, bytes=80, burst=32, route=(l2,), take=((buffer, 1),))
        b.op(core, run=15, deps=(load,), give=((buffer, 1),))
    trace, skipped = engine_fast.counted(b.build())
    assert trace.makespan == 10 + 15 * n
    assert trace.busy.tolist() == [10 * n]
    assert trace.bursts == 3 * n
    assert trace.issue[1::2].tolist() == list(range(10, 10 + 15 * n, 15))
    assert (trace.service[::2] == 10).all()
    assert skipped.ops > 2 * n - 200


def test_a_lone_stream_is_one_event_until_somebody_asks() -> None:
    """100 bursts of 4 ticks; at tick 42, in the eleventh, a second op asks and has 44-48; then it is alone again."""
    b = Builder("lone", 1)
    link = b.server("link", rate_bytes=8)
    b.op(b.unit("long"), bytes=3200, burst=32, route=(link,))
    b.op(b.unit("short"), setup=42, bytes=32, burst=32, route=(link,))
    trace, skipped = engine_fast.counted(b.build())
    assert times(trace) == [(0, 404), (0, 48)]
    assert (trace.bursts, trace.busy.tolist(), trace.service.tolist()) == (101, [404], [400, 4])
    assert (skipped.streams, skipped.splits) == (2, 1)


def late_port() -> Program:
    """A loop whose first two iterations differ in nothing but in when a port is free.

    `a` holds slow for 100 ticks and quick for 60. Its first burst, at 60, finds quick taken until 80, and so holds it
    until 140 and not until 120; when `clock` begins an iteration, at 100, 200 and so on, all else is the same.
    """
    b = Builder("late port", 1)
    slow, quick = b.server("slow", rate_bytes=3), b.server("quick", rate_bytes=5)
    clock, a, c = b.unit("clock"), b.unit("a"), b.unit("c")
    b.op(b.unit("before"), bytes=400, burst=400, route=(quick,))
    b.op(a, run=60)
    with b.repeat(50):
        tick = b.op(clock, run=100)
        b.op(a, bytes=300, burst=300, route=(slow, quick))
        b.op(c, setup=20, bytes=25, burst=25, route=(quick,), deps=(tick,))
    return b.build()


def test_when_a_port_is_free_is_part_of_the_state() -> None:
    """c asks at 120, when quick is held until 140, and at 220, when the second burst of a has just left it."""
    program = late_port()
    trace, skipped = engine_fast.counted(program)
    assert trace.end[4::3][:3].tolist() == [145, 225, 325]
    assert skipped.skips > 0
    expected = outcome(plain, program)
    assert outcome(engine_fast.run, program) == expected == outcome(engine_reference.run, program)


# Loops of 100 ticks whose first two iterations end alike but for one thing about x, which is in flight then. `beat`
# begins the iterations; deps are distances back, to the beat or to `late` of the iteration before, so that the first
# has none; `first` is done by its end, and until then nothing is kept to be compared with. The comments have ticks of
# the first iteration, and those of later ones less the hundreds.
WAITERS = {
    # x is done with `b` at 50, before r has it; but in the first iteration `first` has it until then and r goes before.
    # So x waits for a alone at 100, or for both; it is over at 115 and later at 110.
    "where it waits": """
unit first lanes=1 priority=0
unit beat lanes=1 priority=0
unit h lanes=2 priority=0
unit x lanes=2 priority=0
unit r lanes=2 priority=-1
server a rate=2/1 ports=1 switch=0 stretch=256
server b rate=1/1 ports=1 switch=0 stretch=256
server c rate=1/3 ports=1 switch=0 stretch=256
block x1
  first load bytes=50 burst=50 route=b
block x50
  beat compute run=100
  h load setup=30 bytes=150 burst=150 route=a deps=5
  x load setup=40 bytes=10 burst=10 route=a,b,c deps=6
  r load setup=45 bytes=55 burst=55 route=b deps=7
""",
    # x asks at 40 and later, held up by `late`, at 60, w at 50; both wait for b, which h has until 105, and x, when it
    # asks, for a until 70. So x goes before w at first, and after it later: over at 115 and at 120.
    "since when it waits": """
unit first lanes=1 priority=0
unit beat lanes=1 priority=0
unit p lanes=2 priority=0
unit h lanes=2 priority=0
unit late lanes=2 priority=0
unit w lanes=2 priority=0
unit x lanes=2 priority=0
server a rate=1/1 ports=1 switch=0 stretch=256
server b rate=1/1 ports=1 switch=0 stretch=256
block x1
  first compute run=50
block x50
  beat compute run=100
  p load setup=30 bytes=40 burst=40 route=a deps=7
  h load setup=30 bytes=75 burst=75 route=b deps=8
  late compute run=120 deps=9
  w load setup=50 bytes=5 burst=5 route=b deps=10
  x load setup=40 bytes=10 burst=10 route=a,b deps=8,11
""",
    # x asks at 75. z, of higher priority, does too, and has a until 95; later it is held up until 85, by when x is done
    # there. So a is held until 105 by x, or by z; x has b at 103, and is over at 105, by a, and later at 104, by b.
    "until when it is served elsewhere": """
unit first lanes=1 priority=0
unit beat lanes=1 priority=0
unit k lanes=2 priority=0
unit h lanes=2 priority=0
unit late lanes=2 priority=0
unit z lanes=2 priority=-1
unit x lanes=2 priority=0
server a rate=3/1 ports=1 switch=0 stretch=256
server b rate=30/1 ports=1 switch=0 stretch=256
server d rate=2/1 ports=1 switch=0 stretch=256
block x1
  first compute run=50
block x50
  beat compute run=100
  k load setup=30 bytes=120 burst=120 route=d deps=7
  h load setup=30 bytes=2190 burst=2190 route=b deps=8
  late compute run=110 deps=9
  z load setup=75 bytes=60 burst=60 route=a,d deps=7,10
  x load setup=75 bytes=30 burst=30 route=a,b deps=11
""",
    # x has s from 50 on while `first` is there, at half its rate, and later from 80 on, alone: until 110 each time, but
    # for 60 ticks and for 30.
    "how long it is served": """
unit first lanes=1 priority=0
unit beat lanes=1 priority=0
unit x lanes=1 priority=0
server s rate=1/1 ports=2 switch=0 stretch=256,256,512
block x1
  first load bytes=60 burst=60 route=s
  x compute run=50
block x50
  beat compute run=100
  x load bytes=30 burst=30 route=s
  x compute run=70
""",
}


@pytest.mark.parametrize(
    ("what", "op", "ends", "services"),
    [
        ("where it waits", 2, (115, 110), (10, 5)),
        ("since when it waits", 5, (115, 120), (10, 10)),
        ("until when it is served elsewhere", 5, (105, 104), (10, 1)),
        ("how long it is served", 1, (110, 110), (60, 30)),
    ],
)
def test_who_waits_is_part_of_the_state(what: str, op: int, ends: tuple[int, int], services: tuple[int, int]) -> None:
    """What x does in the first iteration is not what it does in the others, which are skipped."""
    program = from_text(f"program waiters tick_hz=1{WAITERS[what]}")
    body = int(program.blocks["n_rows"][-1])
    ops = program.n_ops - 50 * body + op + body * np.arange(49)
    trace, skipped = engine_fast.counted(program)
    assert (trace.end[ops] - 100 * np.arange(49)).tolist() == [ends[0], *[ends[1]] * 48]
    assert trace.service[ops].tolist() == [services[0], *[services[1]] * 48]
    assert skipped.skips > 0
    assert outcome(engine_fast.run, program) == outcome(plain, program) == outcome(engine_reference.run, program)


def test_a_loop_is_its_unrolled_self(random_program: Programs) -> None:
    for seed in range(200):
        program = fuzz_program(random_program, seed)
        watch = range(program.n_ops)
        assert outcome(engine_fast.run, program, watch) == outcome(engine_fast.run, unroll(program), watch), seed


def test_many_slots_and_servers() -> None:
    """600 slots and 130 servers: four levels of the event tree."""
    b = Builder("wide", 1000)
    servers = [b.server(f"s{i}", rate_bytes=4) for i in range(130)]
    units = [b.unit(f"u{i}", lanes=6, priority=i % 3) for i in range(100)]
    rng = np.random.default_rng(5)
    for i in range(1500):
        route = tuple(int(s) for s in rng.choice(servers, 3, replace=False))
        b.op(units[i % 100], setup=int(rng.integers(30)), bytes=int(rng.integers(1, 100)), burst=16, route=route)
    program = b.build()
    watch = range(program.n_ops)
    assert outcome(engine_fast.run, program, watch) == outcome(engine_reference.run, program, watch)


def test_engines_leave_the_program_alone(run: Run, random_program: Programs) -> None:
    program = random_program(5)
    for array in (program.units, program.servers, program.credits, program.rows, program.deps, program.takes,
                  program.gives, program.routes, program.stretch, program.blocks):  # fmt: skip
        array.flags.writeable = False
    assert outcome(run, program) == outcome(run, program)


def test_one_kernel_serves_every_program(random_program: Programs) -> None:
    """A second type of any argument would mean seconds of compilation in the middle of somebody's run."""
    for seed in range(20):
        outcome(engine_fast.run, fuzz_program(random_program, seed), (0,))
    program = random_program(1)
    outcome(engine_fast.run, replace(program, deps=program.deps.astype(np.int32)[::1], stretch=program.stretch[::1]))
    outcome(engine_fast.run, Builder("nothing", 1).build())
    loop = Builder("loop", 1)
    with loop.repeat(1000):
        loop.op(loop.unit("u"), run=1)
    outcome(engine_fast.run, loop.build())
    kernels = (engine_fast._run, engine_fast._steady, engine_fast._mark, engine_fast._fill)
    assert [len(kernel.signatures) for kernel in kernels] == [1] * len(kernels)


# Rules of the reference engine, each with one thing wrong.
REFERENCE_MUTANTS = {
    "credits may be overtaken": ("credit in blocked or self.free", "self.free"),
    "only the credit that lacks is blocked": (
        "blocked.update(credit for credit, _ in takes)",
        "blocked.update(credit for credit, amount in takes if self.free[credit] < amount)",
    ),
    "credits ignore priority": ("offers.append((self.priority[unit],", "offers.append((0,"),
    "credits ignore who asked first": ("self.asked[unit], unit, queue[-1])", "0, unit, queue[-1])"),
    "a head asks anew each round": ("if self.asked[unit] < 0:", "if True:"),
    "amounts are ignored": ("self.free[credit] -= amount", "self.free[credit] -= 1"),
    "one lane too many": ("self.in_flight[unit] < self.lanes", "self.in_flight[unit] <= self.lanes"),
    "one round only": ("while self.issue_round():", "if self.issue_round():"),
    "zero-time ops end after the last round": (
        "while self.issue_round():\n                self.settle()",
        "while self.issue_round():\n                pass\n            self.settle()",
    ),
    "a server is held until the burst is over": (
        "self.holders[server] -= 1\n        burst.open -= 1\n        if burst.open == 0:\n",
        (
            "burst.open -= 1\n        if burst.open == 0:\n"
            "            for s in burst.route:\n                self.holders[s] -= 1\n"
        ),
    ),
    "who waits at one server is kept from others": (
        "granted, self.waiting[server] = waiting[:free], waiting[free:]",
        (
            "ready = [b for b in waiting if b.last[0] or not any("
            "self.servers[s]['ports'] <= self.holders[s] for s in b.route)][:free]\n"
            "            granted, self.waiting[server] = ready, [b for b in waiting if b not in ready]"
        ),
    ),
    "one grant a tick": ('free = figures["ports"] - self.', 'free = figures["ports"] > self.'),
    "the burst is over with the first server": ("if burst.open == 0:", "if burst.open == len(burst.route) - 1:"),
    "who was granted last counts": ("burst.last = max(burst.last, (self.now", "burst.last = max((0, 0, 0), (self.now"),
    "of two that are done last, any counts": ("self.now + hold, hold, -burst", "self.now + hold, -hold, -burst"),
    "waits at all servers count": ("burst.stood.get(server, [])", "sum(burst.stood.values(), [])"),
    "a hold may take no time": ("return max(1, ticks)", "return max(0, ticks)"),
    "busy is counted once a burst": ("self.busy[server] += hold", "self.busy[server] += hold * (burst.open == 1)"),
    "grants ignore priority": ('key = (self.priority[row["unit"]],', "key = (0,"),
    "oldest op first": ('row["unit"]], self.now, ', 'row["unit"]], self.issue[op], '),
    "ties go to the older op": ('self.now, row["unit"], op)', "self.now, op, op)"),
    "occupancy is not counted": ("entry = min(self.holders[s]", "entry = min(1"),
    "the last burst is full": (
        'size = min(row["burst"], row["bytes"] - number * row["burst"])', 'size = row["burst"]'
    ),
    "rates round down": ('-(-burst.size * server["rate_ticks"] // server["rate_bytes"])',
                         '(burst.size * server["rate_ticks"] // server["rate_bytes"])'),
    "no tag is a tag": ("if tag >= 0:", "if True:"),
    "the first tag is free": ("if seen != self.tag[s]:", "if seen != self.tag[s] >= 0:"),
    "a view is all of the tag": ('(tag >> server["tag_shift"]) % (1 << server["tag_bits"])', "tag"),
    "a view begins at bit 0": ('(tag >> server["tag_shift"])', "tag"),
    "a view goes on to the last bit": (' % (1 << server["tag_bits"])', ""),
    "all of the tag is kept": ("self.tag[s] = seen", "self.tag[s] = tag"),
    "a switch is stretched": (
        'ticks = ticks * int(self.program.stretch[server["stretch_at"] + entry]) >> 8',
        (
            'ticks = (ticks + server["switch"] * (tag >= 0 and seen != self.tag[s])) '
            '* int(self.program.stretch[server["stretch_at"] + entry]) >> 8'
        ),
    ),
    "only the first dep is looked at": ('self.list_of(op, "dep") if', 'self.list_of(op, "dep")[:1] if'),
}  # fmt: skip

# And of the fast one, where it has structure of its own to get wrong.
FAST_MUTANTS = {
    "credits may be overtaken": ("credits[credit].blocked == m[0].round or ", ""),
    "ports are free a tick early": ("freed[at + n] <= t:", "freed[at + n] <= t + 1:"),
    "ports are freed in the order of grants": ("while i > at and freed[i - 1] > until:", "while i > at and False:"),
    "a server does not wake": ("    if tree[leaf] != when:\n", "    if tree[leaf] == when:\n"),
    "a burst under way elsewhere wakes it": ("slots[s].pending == 0 and slots[s].until", "slots[s].until"),
    "the end of a burst wakes nobody": ("if servers[hops[i].server].queued:", "if servers[hops[i].server].queued < 0:"),
    "who asks is granted though another asks": ("servers[server].asking == 1 and servers", "servers"),
    "who asks is granted though others wait": ("asking == 1 and servers[server].queued == 0:", "asking == 1:"),
    "who asks is granted though no port is free": ("if held < servers[server].ports:",
                                                   "if held <= servers[server].ports:"),
    "who asks alone finds itself there": ("s, i, held + 1, t)", "s, i, held, t)"),
    "who asks goes last": ("while before >= 0:\n        other", "while before >= NEVER:\n        other"),
    "loose though stretched": (">= lanes) & ~varies", ">= lanes)"),
    "loose though tagged": ("~varies & ~(tagged & (servers[\"switch\"] > 0))", "~varies"),
    "loose with a port a unit": ("servers[\"ports\"] >= lanes)", "servers[\"ports\"] >= goes_over.sum(axis=1))"),
    "loose servers are not busy": ("busy[server] += times[i] * (", "busy[server] += 0 * ("),
    "waits at all servers count": ("if waits[n].server != slots[s].server:", "if waits[n].server < 0:"),
    "who was granted last counts": ("if until > last or (", "if until > 0 or ("),
    "of two that are done last, any counts": ("hold == longest and place < slots[s].place", "hold == longest and True"),
    "watchers are not told": ("_touch(units, lists, m, watcher)", "pass"),
    "only the first dep is looked at": ("dep_at + rows[row].dep_n):\n        op = head",
                                        "dep_at + min(1, rows[row].dep_n)):\n        op = head"),
    "ties in slot order": ("slots[other].tie < tie", "other < s"),
    "occupancy is not counted": ("entry = min(occupancy,", "entry = min(1,"),
    "tags are not kept": ("servers[server].tag = tag", "pass"),
    "a view is all of the tag": ("(row.tag >> its.tag_shift) & ~(-1 << its.tag_bits)", "row.tag"),
    "a view goes on to the last bit": (" & ~(-1 << its.tag_bits)", ""),
    "a view begins at bit 0": ("row.tag >> its.tag_shift", "row.tag"),
    "no tag is a tag": ("if row.tag >= 0 and its.switch > 0:", "if its.switch > 0:"),
    "heads are not in order": ("units[other].asked == t and other < unit", "units[other].asked == t"),
    "no rescan when a credit returns": ("free += gives[i].amount\n        m[0].scan_queue = 1",
                                        "free += gives[i].amount"),
    "iterations overlap": ("units[unit].base += n_rows", "units[unit].base += n_rows - n_rows // 3"),
}  # fmt: skip

# And of what it skips.
SKIP_MUTANTS = {
    "who waits is no matter": ("if servers[server].queued or servers[server].owner >= 0:",
                               "if servers[server].owner >= 0:"),
    "other streams are no matter": ("if servers[server].queued or servers[server].owner >= 0:",
                                    "if servers[server].queued:"),
    "others on the route are no matter": ("if freed[j] > t and holder[j] != s:", "if freed[j] < 0:"),
    "tags that came and went are no matter": ("if hops[i].tag >= 0 and servers[server].tag != hops[i].tag:",
                                              "if hops[i].tag < -1:"),
    "nobody splits": ("other = servers[server].owner\n        ", "other = -1\n        "),
    "a split stream holds its servers whole": ("_hold_port(servers, freed, holder, server, s, start + here)",
                                               "_hold_port(servers, freed, holder, server, s, start + hold)"),
    "a burst too far": ("ended = 0 if t <= first else (t - first + alone - 1) // alone",
                        "ended = 0 if t <= first else (t - first) // alone + 1"),
    "the last burst is full": ("hold = rows[row].alone_last", "hold = alone"),
    "loose rows are not alone": ("(new.bursts - 1) * new.base + new.base_last", "new.bursts * new.base"),
    "asks a tick late": ("    if until > t:\n", "    if until >= t:\n"),
    "tags are no state": ("picture[n] = servers[server].tag", "picture[n] = 0"),
    "free ports are no state": ("picture[n] = freed[i] - t", "picture[n] = 0"),
    "ports are freed once": ("freed[i] += times * dt", "pass"),
    "service is no state": ("picture[n + 4] = slots[s].service", "picture[n + 4] = 0"),
    "where a burst waits is no state": ("picture[n] = nodes[i].waits", "picture[n] = 0"),
    "since when a burst waits is no state": ("(slots[s].key & ((1 << 50) - 1)) - t if waits else 1", "1"),
    "until when a burst is served is no state": ("(slots[s].until if waits else tree[s]) - t",
                                                 "0 if waits else tree[s] - t"),
    "how long a burst is served is no state": ("picture[n + 5] = slots[s].hold", "picture[n + 5] = 0"),
    "bursts that wait are served when they were": ("slots[s].until += times * dt", "pass"),
    "deps join no units": ("marks[_root(marks, other)].root = _root", "_root"),
    "free credits are no state": ("picture[n + credit] = credits[credit].free", "picture[n + credit] = 0"),
    "heads that queue are no state": ("units[unit].asked - t if state == QUEUED", "0 if state == QUEUED"),
    "watchers outside are not told": ("times = min(times, ahead // period if ahead >= 0 else 0)", "pass"),
    "ends are copied twice": ("if since < end[op] <= t:", "if since < end[op]:"),
    "who watches looks at the past": ("units[unit].watched += times * period", "pass"),
    "busy once": ("servers[server].busy += times * (", "servers[server].busy += ("),
}  # fmt: skip


def mutant(module: ModuleType, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`module.run`, compiled from its source with `old` replaced."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(old) == 1, f"the mutant must change one place of {module.__name__}: {old!r}"
    source = source.replace(old, new).replace("@njit(cache=True)", "@njit")
    spec = importlib.util.spec_from_loader("mutant", loader=None)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutant", made)  # dataclasses look their module up
    exec(compile(source, f"mutant of {module.__name__}", "exec"), made.__dict__)
    return made.run  # type: ignore[no-any-return]


def seeds_to_catch(run: Run, random_program: Programs) -> int | None:
    """How many of the fuzz's programs it takes to tell `run` from the fast engine; None if all agree."""
    for seed in range(2000):
        program = fuzz_program(random_program, seed)
        watch = range(program.n_ops) if seed % 2 else ()
        expected = outcome(engine_fast.run, program, watch)
        try:
            found = outcome(run, program, watch)
        except (AssertionError, IndexError, StopIteration):
            return seed
        if found != expected:
            return seed
    return None


@pytest.mark.parametrize("name", REFERENCE_MUTANTS)
def test_fuzz_catches_a_wrong_rule(name: str, random_program: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mutant(engine_reference, *REFERENCE_MUTANTS[name], monkeypatch)
    assert seeds_to_catch(run, random_program) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST_MUTANTS)
def test_fuzz_catches_a_wrong_kernel(name: str, random_program: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mutant(engine_fast, *FAST_MUTANTS[name], monkeypatch)
    assert seeds_to_catch(run, random_program) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", SKIP_MUTANTS)
def test_fuzz_catches_a_wrong_skip(
    name: str, random_program: Programs, random_loop: Callable[[int], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mutant(engine_fast, *SKIP_MUTANTS[name], monkeypatch)
    drawn = [late_port(), *(from_text(f"program waiters tick_hz=1{text}") for text in WAITERS.values())]
    for seed in range(10_000):
        for program in (*drawn, random_loop(seed), fuzz_program(random_program, seed)):
            try:
                found = outcome(run, program)
            except AssertionError:
                return
            if found != outcome(plain, program):
                return
        drawn = []
    pytest.fail("10,000 loops and programs could not tell the mutant from the engine")


# ---------------------------------------------------------------------------------------------------------------------
# Timelines drawn by hand


def times(trace: Trace) -> list[tuple[int, int]]:
    return list(zip(trace.issue.tolist(), trace.end.tolist(), strict=True))


def test_double_buffering(run: Run) -> None:
    """Two buffers, loads of 10 ticks, computes of 15: the third load waits for the first compute to free a buffer."""
    b = Builder("double buffering", 1)
    dma, core, l2, buffer = b.unit("dma"), b.unit("core"), b.server("l2", rate_bytes=8), b.credit("buffer", 2)
    with b.repeat(3):
        load = b.op(dma, bytes=80, burst=32, route=(l2,), take=((buffer, 1),))
        b.op(core, run=15, deps=(load,), give=((buffer, 1),))
    trace = run(b.build(), ())
    #          0    10   20   25   35  40   55
    # dma      |-L1-|-L2-| .. |-L3-|
    # core           |--C1---|--C2----|--C3--|
    assert times(trace) == [(0, 10), (10, 25), (10, 20), (25, 40), (25, 35), (40, 55)]
    assert trace.busy.tolist() == [30]
    assert trace.bursts == 9  # 32 + 32 + 16 bytes, three times


def test_round_robin_between_two_streams(run: Run) -> None:
    """Bursts of 4 ticks alternate while both streams have some; then the longer one goes on alone."""
    b = Builder("round robin", 1)
    link = b.server("link", rate_bytes=8)
    b.op(b.unit("a"), bytes=96, burst=32, route=(link,))
    b.op(b.unit("b"), bytes=64, burst=32, route=(link,))
    trace = run(b.build(), (0, 1))
    # a 0-4, b 4-8, a 8-12, b 12-16, a 16-20
    assert times(trace) == [(0, 20), (0, 16)]
    assert trace.service.tolist() == [12, 8]
    assert trace.waits.tolist() == [(1, 0, 4, 0, 0), (0, 4, 8, 0, 1), (1, 8, 12, 0, 0), (0, 12, 16, 0, 1)]


def test_first_come_first_served_when_burst_is_transfer(run: Run) -> None:
    b = Builder("fcfs", 1)
    link = b.server("link", rate_bytes=8)
    b.op(b.unit("late"), setup=2, bytes=32, burst=32, route=(link,))
    b.op(b.unit("early"), setup=1, bytes=32, burst=32, route=(link,))
    b.op(b.unit("long"), bytes=96, burst=96, route=(link,))
    assert times(run(b.build(), ())) == [(0, 20), (0, 16), (0, 12)]


def test_a_wait_for_credit_is_not_overtaken(run: Run) -> None:
    """`small` could have its one credit at tick 0, but `big` was there first and waits for two."""
    b = Builder("no overtaking", 1)
    pool, other = b.credit("pool", 3), b.credit("other", 1)
    b.op(b.unit("holder"), run=10, take=((pool, 2),), give=((pool, 2),))
    b.op(b.unit("big"), run=5, take=((pool, 2), (other, 1)), give=((pool, 2), (other, 1)))
    b.op(b.unit("small"), run=1, take=((pool, 1),), give=((pool, 1),))
    b.op(b.unit("aside"), run=1, take=((other, 1),), give=((other, 1),))  # free, but blocked with all that big takes
    b.op(b.unit("apart"), run=1)
    assert times(run(b.build(), ())) == [(0, 10), (10, 15), (10, 11), (15, 16), (0, 1)]


def test_priority_decides_among_waiters_and_heads(run: Run) -> None:
    """The server is held until 4; the op of higher priority (smaller number) goes next though it asked later."""
    b = Builder("priority", 1)
    link, slot = b.server("link", rate_bytes=8), b.credit("slot", 1)
    b.op(b.unit("holder"), bytes=32, burst=32, route=(link,), take=((slot, 1),), give=((slot, 1),))
    b.op(b.unit("low", priority=2), setup=1, bytes=32, burst=32, route=(link,))
    b.op(b.unit("high", priority=1), setup=3, bytes=32, burst=32, route=(link,))
    b.op(b.unit("last", priority=9), run=1, take=((slot, 1),), give=((slot, 1),))
    b.op(b.unit("first", priority=-1), run=6, deps=(0,), take=((slot, 1),), give=((slot, 1),))
    assert times(run(b.build(), ())) == [(0, 4), (0, 12), (0, 8), (10, 11), (4, 10)]


def test_a_new_tag_costs_a_switch(run: Run) -> None:
    """Bursts of 4 ticks, switch 5: tags 0 (new) 0 1 (new) none 1, on one server that starts with no tag."""
    b = Builder("switch", 1)
    unit, dram = b.unit("dma"), b.server("dram", rate_bytes=8, switch=5)
    for tag in (0, 0, 1, -1, 1):
        b.op(unit, bytes=32, burst=32, route=(dram,), tag=tag)
    assert times(run(b.build(), ())) == [(0, 9), (9, 13), (13, 22), (22, 26), (26, 30)]


def test_servers_look_at_bits_of_a_tag(run: Run) -> None:
    """Bit 0 is the direction, the rest a row: the bus turns round for 3 ticks, the bank opens rows in 5; data take 4.

    tag    row  dir  bank        bus         over
    0b010   1    0   0-9   new   0-7   new    9
    0b011   1    1   9-13        9-16  new   16
    0b101   2    1   16-25 new   16-20       25
    0b001   0    1   25-34 new   25-29       34
    none             34-38       34-38       38
    0b1001  4    1   38-47 new   38-42       47
    0b1000  4    0   47-51       47-54 new   54
    """
    b = Builder("views", 1)
    unit = b.unit("dma")
    bank = b.server("bank", rate_bytes=8, switch=5, tag_shift=1)
    bus = b.server("bus", rate_bytes=8, switch=3, tag_bits=1)
    for tag in (0b010, 0b011, 0b101, 0b001, -1, 0b1001, 0b1000):
        b.op(unit, bytes=32, burst=32, route=(bank, bus), tag=tag)
    assert run(b.build(), ()).end.tolist() == [9, 16, 25, 34, 38, 47, 54]
    b = Builder("some bits", 1)
    unit, bank = b.unit("dma"), b.server("bank", rate_bytes=8, switch=5, tag_shift=1, tag_bits=2)
    for tag in (0b001, 0b1001, 0b1010):  # rows 0, 4 mod 4 = 0 and 5 mod 4 = 1
        b.op(unit, bytes=32, burst=32, route=(bank,), tag=tag)
    assert run(b.build(), ()).end.tolist() == [9, 13, 22]


def test_a_stream_meets_its_own_view_of_a_tag() -> None:
    """Directions go 0 1 0 1 in four ops of the same rows: at a server that sees rows alone nothing ever switches again,
    so that its last burst, of tag 3, leaves the server as a burst of tag 2 needs it."""
    b = Builder("rows", 1)
    bank = b.server("bank", rate_bytes=8, switch=5, tag_shift=1)
    for tag in (2, 3, 2, 3):
        b.op(b.unit("dma"), bytes=320, burst=32, route=(bank,), tag=tag)
    trace, skipped = engine_fast.counted(b.build())
    assert times(trace) == [(0, 45), (45, 85), (85, 125), (125, 165)]
    assert skipped.streams == 4


def test_two_ports_and_a_stretch(run: Run) -> None:
    """Two at once take twice as long each; the third waits for a port and is then alone."""
    b = Builder("two ports", 1)
    bank = b.server("bank", rate_bytes=8, ports=2, stretch=(256, 256, 512))
    for name in "abc":
        b.op(b.unit(name), bytes=32, burst=32, route=(bank,))
    trace = run(b.build(), ())
    assert times(trace) == [(0, 8), (0, 8), (0, 12)]
    assert trace.busy.tolist() == [20]  # more than the makespan: two ports


def test_who_waits_at_one_server_is_served_at_another(run: Run) -> None:
    """x, y, z: 8 bytes a tick, one port; slow: 2; cap: 4, with a port for everybody. Each server goes its own way.

    tick     0    5    10   15   20
    x        |-only_x--|bb|              only_x has it until 10, `both` waits, for its burst of 4 ticks
    y         |bb||oo|                   `both` is served here meanwhile, at 1, and only_y at 5
    z         |  wide |                  held for its own 8 ticks, not for the 32 of the slow server
    """
    b = Builder("route", 1)
    x, y, z, slow, cap = (
        b.server(name, rate_bytes=rate, ports=ports)
        for name, rate, ports in (("x", 8, 1), ("y", 8, 1), ("z", 8, 1), ("slow", 2, 1), ("cap", 4, 3))
    )
    b.op(b.unit("only_x"), bytes=80, burst=80, route=(x,))
    b.op(b.unit("both"), setup=1, bytes=32, burst=32, route=(y, x, cap))
    b.op(b.unit("only_y"), setup=2, bytes=32, burst=32, route=(y, cap))
    b.op(b.unit("only_cap"), setup=2, bytes=32, burst=32, route=(cap,))
    b.op(b.unit("wide"), setup=1, bytes=64, burst=64, route=(z, slow))
    b.op(b.unit("only_z"), setup=2, bytes=8, burst=8, route=(z,))
    trace = run(b.build(), range(6))
    # only_y: done with y at 9, but the cap lets it go at 2 + 8; wide: slow until 33; only_z: z is free at 9.
    assert times(trace) == [(0, 10), (0, 14), (0, 10), (0, 10), (0, 33), (0, 10)]
    assert trace.service.tolist() == [10, 4, 8, 8, 32, 1]
    assert trace.busy.tolist() == [14, 8, 9, 32, 24]
    # Each wait is at the server that was done last: only_y waited for y, too, but the cap was done after it.
    assert trace.waits.tolist() == [(1, 1, 10, x, 0), (5, 2, 9, z, 4)]


def test_lanes_hide_setup(run: Run) -> None:
    """Two lanes: the second set-up runs while the first transfer does; the third op waits for a lane."""
    b = Builder("lanes", 1)
    dma, l2 = b.unit("dma", lanes=2), b.server("l2", rate_bytes=8)
    for _ in range(3):
        b.op(dma, setup=10, bytes=80, burst=80, route=(l2,))
    assert times(run(b.build(), ())) == [(0, 20), (0, 30), (20, 40)]


def test_ops_of_no_duration_pass_in_one_tick(run: Run) -> None:
    """Five syncs in a row on two units, then the credit that the last one gives lets an op of the same tick go."""
    b = Builder("syncs", 1)
    u, v, token = b.unit("u"), b.unit("v"), b.credit("token", 1)
    start = b.op(u, run=3, take=((token, 1),), kind="compute")
    for unit in (v, u, v, u):
        start = b.op(unit, deps=(start,), kind="sync")
    b.op(v, deps=(start,), kind="sync", give=((token, 1),))
    b.op(b.unit("w"), run=1, take=((token, 1),))
    assert times(run(b.build(), ())) == [(0, 3)] + [(3, 3)] * 5 + [(3, 4)]


def test_deadlock_names_op_and_credit(run: Run) -> None:
    b = Builder("stuck", 1)
    pool, layer = b.credit("l1.in", 2), b.layer("conv1")
    b.op(b.unit("dma"), run=1, take=((pool, 2),), kind="load", layer=layer)
    b.op(b.unit("dma"), run=1, take=((pool, 1),), kind="load", layer=layer)
    with pytest.raises(Deadlock) as caught:
        run(b.build(), ())
    assert str(caught.value) == (
        "stuck: op 1 (load of conv1 on dma) waits for 1 of credit l1.in, of which 0 of 2 are free; 1 of 2 ops ended"
    )


def test_deadlock_names_who_stands_in_front(run: Run) -> None:
    b = Builder("behind", 1)
    pool = b.credit("pool", 2)
    b.op(b.unit("u"), run=2, take=((pool, 1),))
    b.op(b.unit("w"), deps=(0,), take=((pool, 1),), run=1)  # asks at 2
    b.op(b.unit("v"), run=1, take=((pool, 2),))  # asks at 0, is never served
    with pytest.raises(Deadlock, match=r"op 1 \(compute on w\) waits for credit pool behind op 2 \(compute on v\)"):
        run(b.build(), ())


def test_empty_program(run: Run) -> None:
    trace = run(Builder("nothing", 1).build(), ())
    assert (trace.makespan, trace.bursts, len(trace.issue)) == (0, 0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms and bounds


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def test_unloaded_latency(run: Run) -> None:
    """Alone, a transfer takes its set-up and, burst by burst, the slowest server of its route."""
    rng = np.random.default_rng(11)
    for _ in range(50):
        setup, size, burst = (int(x) for x in rng.integers((0, 1, 1), (50, 500, 70)))
        rates = rng.integers(1, 20, (3, 2)).tolist()
        b = Builder("unloaded", 1)
        route = tuple(b.server(f"s{i}", rate_bytes=n, rate_ticks=d) for i, (n, d) in enumerate(rates))
        b.op(b.unit("dma"), setup=setup, bytes=size, burst=burst, route=route)
        full, rest = divmod(size, burst)
        slowest = max(ceil(burst * d, n) for n, d in rates)
        last = max(ceil(rest * d, n) for n, d in rates)
        trace = run(b.build(), ())
        assert trace.end[0] == setup + full * slowest + last
        assert trace.service[0] == trace.end[0] - setup


@pytest.mark.parametrize("ports", [1, 2, 3])
def test_peak_bandwidth(run: Run, ports: int) -> None:
    """12 transfers of 1,024 bytes over `ports` ports of 16 bytes a tick: no tick is lost."""
    b = Builder("peak", 1)
    l2 = b.server("l2", rate_bytes=16, ports=ports)
    for i in range(12):
        b.op(b.unit(f"dma{i}"), bytes=1024, burst=64, route=(l2,))
    assert run(b.build(), ()).makespan == 12 * 1024 // 16 // ports


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_round_robin_of_n_streams(run: Run, n: int) -> None:
    """n equal streams of m bursts of h ticks: stream i gets every n-th turn and ends at ((m - 1) n + i + 1) h."""
    m, h = 7, 4
    b = Builder("streams", 1)
    link = b.server("link", rate_bytes=8)
    for i in range(n):
        b.op(b.unit(f"u{i}"), bytes=32 * m, burst=32, route=(link,))
    assert run(b.build(), ()).end.tolist() == [((m - 1) * n + i + 1) * h for i in range(n)]


def test_more_bandwidth_never_hurts_a_single_stream(run: Run) -> None:
    """One unit with one lane: every op ends no later. (With several streams, anomalies are real.)"""
    rng = np.random.default_rng(3)
    for _ in range(20):
        ops = rng.integers((0, 1, 1), (20, 400, 70), (12, 3)).tolist()
        before = None
        for rate in (1, 2, 3, 7, 16, 64):
            b = Builder("single", 1)
            dma, link = b.unit("dma"), b.server("link", rate_bytes=rate)
            for setup, size, burst in ops:
                b.op(dma, setup=setup, bytes=size, burst=burst, route=(link,))
            end = run(b.build(), ()).end
            assert before is None or (end <= before).all()
            before = end


def holds(program: Program, rows: Records) -> tuple[Ints, Ints, Ints]:
    """(least, most) [n_servers]: ticks that all bursts of these ops hold each server, by its least and its greatest
    stretch, without and with a switch; slowest [n_ops]: ticks of the bursts of each at the slowest, at the least."""
    least, most = np.zeros((2, len(program.servers)), np.int64)
    slowest = np.zeros(len(rows), np.int64)
    for op, row in enumerate(rows):
        route = program.routes[row["route_at"] : row["route_at"] + row["route_n"]]
        left = int(row["bytes"])
        while left > 0:
            size = min(left, int(row["burst"]))
            left -= size
            here = []
            for server in route:
                about = program.servers[server]
                table = program.stretch[about["stretch_at"] : about["stretch_at"] + about["stretch_n"]]
                table = table[1:] if len(table) > 1 else table  # entry 0 is never read
                ticks = ceil(size * int(about["rate_ticks"]), int(about["rate_bytes"]))
                here.append(max(1, ticks * int(table.min()) >> 8))
                least[server] += here[-1]
                switch = int(about["switch"]) if row["tag"] >= 0 else 0
                most[server] += max(1, (ticks * int(table.max()) >> 8) + switch)
            slowest[op] += max(here)
    return least, most, slowest


def test_conservation_and_bounds(random_program: Programs) -> None:
    """Every byte is counted at every server of its route; nobody is faster than ports, units, deps or servers."""
    ran = 0
    for seed in range(300):
        program = random_program(seed)
        try:
            trace = engine_fast.run(program)
        except Deadlock:
            continue
        ran += 1
        rows = program.rows[row_of(program, np.arange(program.n_ops))]
        least, most, slowest = holds(program, rows)
        assert (least <= trace.busy).all() and (trace.busy <= most).all(), f"seed {seed}"
        assert (trace.busy <= program.servers["ports"] * trace.makespan).all(), f"seed {seed}"
        duration = trace.end - trace.issue
        assert (duration >= rows["setup"] + rows["run"] + trace.service).all(), f"seed {seed}"
        assert (duration >= rows["setup"] + rows["run"] + slowest).all(), f"seed {seed}"
        assert (duration == rows["setup"] + rows["run"])[rows["bytes"] == 0].all(), f"seed {seed}"
        for op, (at, n) in enumerate(zip(rows["dep_at"], rows["dep_n"], strict=True)):
            assert all(trace.end[op - d] <= trace.issue[op] for d in program.deps[at : at + n] if d <= op)
        for unit, lanes in enumerate(program.units["lanes"]):
            issue, end = trace.issue[rows["unit"] == unit], trace.end[rows["unit"] == unit]
            assert (np.diff(issue) >= 0).all()
            in_flight = [int(((issue <= t) & (end > t)).sum()) for t in issue]
            assert max(in_flight, default=0) <= lanes
    assert ran > 200


def test_long_times_do_not_overflow(run: Run) -> None:
    """Up to the limit of `validate`: an op of 2^49 ticks, then a transfer, then 2^48 more."""
    b = Builder("long", 1)
    unit, link = b.unit("u"), b.server("slow", rate_bytes=1, rate_ticks=1 << 40, stretch=(256, 384))
    b.op(unit, run=1 << 49)
    b.op(unit, bytes=64, burst=16, route=(link,))
    b.op(unit, run=1 << 48)
    moved = 64 * (1 << 40) * 3 // 2
    assert run(b.build(), ()).end.tolist() == [1 << 49, (1 << 49) + moved, (1 << 49) + moved + (1 << 48)]

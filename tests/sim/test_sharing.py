"""How servers are shared: small machines with closed forms, on both engines.

The expected rates are max-min fair shares (water filling): who can use less than an equal share has what it can use,
the others divide the rest. Answers may be off by 2 %: runs have a beginning and an end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cosoc.sim.errors import Deadlock
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import Builder, Program, row_of
from cosoc.sim.machine.trace import Run

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from sharing import (
    BURST,
    NODES,
    PACKET,
    ROUTER,
    WIDTH,
    all_to_all,
    bisection_cycles,
    fair_shares,
    send,
    sharing,
    three_cores,
)

ENGINES = {"reference": engine_reference.run, "fast": engine_fast.run}
WITHIN = 0.02


@pytest.fixture(params=ENGINES)
def run(request: pytest.FixtureRequest) -> Run:
    return ENGINES[request.param]


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("ports", [1, 2])
def test_units_behind_slow_links(run: Run, n: int, ports: int) -> None:
    """n units, each on a link of 16 bytes a cycle, one memory of 64 in all: together they have the smaller of 16 n and
    64. A memory of several ports has a port's part of the 64 at each."""
    b, size = Builder("slow links", 1), 200 * BURST
    memory = b.server("memory", rate_bytes=64 // ports, ports=ports)
    for i in range(n):
        b.op(b.unit(f"u{i}"), bytes=size, burst=BURST, route=(memory, b.server(f"link{i}", rate_bytes=16)))
    assert run(b.build(), ()).makespan == pytest.approx(n * size / min(16 * n, 64), rel=WITHIN)


@pytest.mark.parametrize("links", [(64, 16, 16), (64, 16), (64, 64, 16, 16), (32, 64, 8), (16, 16, 16, 32, 64)])
def test_fast_and_slow_requesters_on_one_memory(run: Run, links: tuple[int, ...]) -> None:
    """Each of the slow ones has what its link carries, unless an equal share of the 64 is less; the fast ones have the
    rest. All are given 4,000 cycles of work at that rate, and end at 4,000."""
    shares = fair_shares(64, links)
    b, cycles = Builder("mixed", 1), 4000
    memory = b.server("memory", rate_bytes=64)
    for i, (rate, share) in enumerate(zip(links, shares, strict=True)):
        size = round(share * cycles)
        b.op(b.unit(f"u{i}"), bytes=size, burst=BURST, route=(b.server(f"link{i}", rate_bytes=rate), memory))
    assert run(b.build(), ()).end == pytest.approx([cycles] * len(links), rel=WITHIN)


@pytest.mark.parametrize("hold", [2, 4, 8])
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_more_in_flight_hides_the_bursts_of_others(run: Run, hold: int, lanes: int) -> None:
    """A fast unit holds the memory for `hold` cycles a burst. A slow one needs it for one cycle in 4, at which its link
    is full. Its lanes and the fast unit take turns at the memory: of a round of hold + lanes, it has `lanes` bursts."""
    b, n = Builder("long bursts", 1), 400
    memory, link = b.server("memory", rate_bytes=64), b.server("link", rate_bytes=16)
    slow, fast = b.unit("slow", lanes=lanes), b.unit("fast")
    for _ in range(n):
        b.op(slow, bytes=BURST, burst=BURST, route=(link, memory))
    b.op(fast, bytes=64 * hold * n, burst=64 * hold, route=(memory,))
    cycles = run(b.build(), ()).end[n - 1]
    assert n * BURST / cycles == pytest.approx(min(16, 64 * lanes / (hold + lanes)), rel=WITHIN)


@pytest.mark.parametrize("ports", [2, 8])
def test_a_bystander_on_a_crossbar(run: Run, ports: int) -> None:
    """Seven units queue for one link behind a crossbar; an eighth, alone on its own link, keeps its 16 bytes a cycle.

    The seven have 16 together; a port of the crossbar carries 64, so that even two are more than all need.
    """
    b, cycles = Builder("crossbar", 1), 2800
    crossbar = b.server("crossbar", rate_bytes=64, ports=ports)
    busy, own = b.server("busy link", rate_bytes=16), b.server("own link", rate_bytes=16)
    for i in range(7):
        b.op(b.unit(f"u{i}"), bytes=16 * cycles // 7, burst=BURST, route=(crossbar, busy))
    b.op(b.unit("bystander"), bytes=16 * cycles, burst=BURST, route=(crossbar, own))
    assert run(b.build(), ()).end == pytest.approx([cycles] * 8, rel=WITHIN)


def test_directions_apart_and_shared(run: Run) -> None:
    """A reader and a writer: 16 bytes a cycle each where the directions have a server each, 8 where they share one."""
    size = 200 * BURST
    for directions, rate in ((("read", "write"), 16), (("bus", "bus"), 8)):
        b = Builder("directions", 1)
        memory = b.server("memory", rate_bytes=64)
        for i, direction in enumerate(directions):
            b.op(b.unit(f"u{i}"), bytes=size, burst=BURST, route=(memory, b.server(direction, rate_bytes=16)))
        assert run(b.build(), ()).end == pytest.approx([size / rate] * 2, rel=WITHIN)


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (1, 2, 5)])
def test_bursts_are_weights(run: Run, weights: tuple[int, ...]) -> None:
    """Units take turns, so that their shares are as their bursts; each is given work for 3,000 cycles of its share."""
    b, cycles = Builder("weights", 1), 3000
    link = b.server("link", rate_bytes=16)
    for i, weight in enumerate(weights):
        size = round(16 * cycles * weight / sum(weights))
        b.op(b.unit(f"u{i}"), bytes=size, burst=16 * weight, route=(link,))
    assert run(b.build(), ()).end == pytest.approx([cycles] * len(weights), rel=WITHIN)


@pytest.mark.parametrize("rate", [16, 32, 64])
def test_a_higher_priority_has_all_it_can_use(run: Run, rate: int) -> None:
    """First the high unit at the rate of its own link, the low one in the gaps; then the low one alone.

    Where the high one can use all of the memory, the low one has one burst in its time: it is never interrupted.
    """
    b, cycles = Builder("priority", 1), 1000
    memory = b.server("memory", rate_bytes=64)
    b.op(b.unit("low", priority=1), bytes=64 * cycles, burst=BURST, route=(memory,))
    b.op(b.unit("high"), bytes=rate * cycles, burst=BURST, route=(memory, b.server("link", rate_bytes=rate)))
    low, high = run(b.build(), ()).end
    assert high == pytest.approx(cycles, rel=WITHIN)
    assert low == pytest.approx(cycles + rate * cycles / 64, rel=WITHIN)


@pytest.mark.parametrize("n", [1, 3, 7])
def test_who_needs_two_servers_does_not_starve(run: Run, n: int) -> None:
    """A unit over x and y, n others on each that hold them for a time of 3 or 5 cycles, so that the two are hardly ever
    free together. It has its turn at both in every round: it holds them 3 and 5 cycles, so a round of the slower is
    5 (n + 1)."""
    b, bursts = Builder("both", 1), 100
    x, y = b.server("x", rate_bytes=5), b.server("y", rate_bytes=3)
    both = b.op(b.unit("both"), bytes=15 * bursts, burst=15, route=(x, y))
    for i in range(n):
        for name, server in (("x", x), ("y", y)):
            b.op(b.unit(f"{name}{i}"), bytes=30 * bursts, burst=15, route=(server,))
    assert run(b.build(), ()).end[both] == pytest.approx(5 * (n + 1) * bursts, rel=WITHIN)


def test_a_wait_is_at_most_a_burst_of_every_other_lane(random_program: Callable[..., Program]) -> None:
    """The bound on waiting, on random programs of one priority: of each other lane that goes over the server, a burst
    waits for one at most, at its longest there."""
    waits = longest = 0
    for seed in range(600):
        program = random_program(seed)
        program.units["priority"] = 0
        try:
            trace = engine_fast.run(program, range(program.n_ops))
        except Deadlock:
            continue
        most = np.zeros((len(program.servers), len(program.units)), np.int64)
        for row in program.rows:
            for server in program.routes[row["route_at"] : row["route_at"] + row["route_n"]]:
                about = program.servers[server]
                table = program.stretch[about["stretch_at"] : about["stretch_at"] + about["stretch_n"]]
                ticks = -(-min(row["bytes"], row["burst"]) * about["rate_ticks"] // about["rate_bytes"])
                hold = max(1, (ticks * table.max() >> 8) + about["switch"])
                most[server, row["unit"]] = max(most[server, row["unit"]], hold)
        unit = program.rows["unit"][row_of(program, np.arange(program.n_ops))]
        lanes = program.units["lanes"]
        # Records of an op that touch are of one burst: before the next one waits, this one is served.
        since: dict[tuple[int, int], tuple[int, int]] = {}  # op and server: when its wait began, and how far it goes
        for op, start, end, server, _ in trace.waits.tolist():
            first, last = since.get((op, server), (start, start))
            first = first if last == start else start
            since[op, server] = (first, end)
            bound = int((most[server] * lanes).sum() - most[server, unit[op]])
            assert end - first <= bound, f"seed {seed}: op {op} at server {server}, {first} to {end}"
            waits, longest = waits + 1, max(longest, end - first)
    assert waits > 5000 and longest > 50


# ---------------------------------------------------------------------------------------------------------------------
# A network on chip, hop by hop


def test_a_packet_alone_takes_its_hops(run: Run) -> None:
    """Every pair of nodes: a hop is a router and a link."""
    for source, target in product(NODES, NODES):
        if source != target:
            b = Builder("packet", 1)
            send(b, source, target)
            hops = abs(source[0] - target[0]) + abs(source[1] - target[1])
            assert run(b.build(), ()).makespan == hops * (ROUTER + PACKET // WIDTH)


def test_a_mesh_saturates_at_its_bisection() -> None:
    """The links across the bisection carry most, and so are busy from the beginning to the end."""
    trace, bound = engine_fast.run(all_to_all(100)), bisection_cycles(100)
    assert trace.busy.max() == bound
    assert bound <= trace.makespan <= bound * (1 + WITHIN)


def test_engines_agree_on_the_mesh() -> None:
    program = all_to_all(4)
    fast, reference = engine_fast.run(program), engine_reference.run(program)
    for key in ("issue", "end", "service", "busy"):
        assert getattr(fast, key).tolist() == getattr(reference, key).tolist()


def test_three_cores_before_and_today() -> None:
    """Closed forms drawn by hand: before, a round of bursts of 64 bytes is 4 + 8 + 1 cycles, so each core has 64 / 13;
    today the slow ones have what their links of 16 and 8 carry, and the fast one the 40 that are left of 64."""
    found = three_cores()
    for when, rates in (("before", [64 / 13] * 3), ("ours", [16, 8, 40])):
        assert [core[when] for core in found.values()] == pytest.approx(rates, rel=WITHIN)
        closed = "closed_form" if when == "ours" else "before_closed_form"
        assert [core[closed] for core in found.values()] == pytest.approx(rates, rel=1e-12)


def test_every_case_of_the_benchmark_is_within_its_closed_form() -> None:
    assert {name: one for name, one in sharing().items() if abs(one["ours"] / one["closed_form"] - 1) > WITHIN} == {}

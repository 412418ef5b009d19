"""The table of bank conflicts against machines with one server per bank, true to the address."""

import numpy as np
import pytest

from cosoc.sim.cores.banks import conflict_factor, stretch_table
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import Builder, Program

BANKS, WORD = 32, 4


def machine(ports: int, loads: int, run: int, loops: int, wide: int | None = None, seed: int = 0) -> Program:
    """Ports that load words of random banks, one tick each, and compute in between; beside them, if `wide` gives its
    priority, one unit that reads four neighbouring banks in every tick."""
    rng = np.random.default_rng(seed)
    b = Builder("banks", 1000)
    banks = [b.server(f"bank{i}", rate_bytes=WORD) for i in range(BANKS)]
    for port in range(ports):
        unit = b.unit(f"port{port}")
        for _ in range(loops):
            for bank in rng.integers(BANKS, size=loads):
                b.op(unit, bytes=WORD, burst=WORD, route=(banks[bank],))
            if run:
                b.op(unit, run=run)
    if wide is not None:
        unit = b.unit("wide", priority=wide)
        for first in 4 * rng.integers(BANKS // 4, size=loops * (loads + run)):
            b.op(unit, bytes=WORD, burst=WORD, route=tuple(banks[first : first + 4]))
    return b.build()


def ends(program: Program) -> list[int]:
    trace = engine_fast.run(program)
    return [int(trace.end[program.rows["unit"] == unit].max()) for unit in range(len(program.unit_names))]


@pytest.mark.parametrize("ports", [1, 8, 16, 24, 32])
def test_the_closed_form_is_what_random_words_at_32_banks_take(ports: int) -> None:
    words = 1500
    trace = engine_fast.run(machine(ports, words, 0, 1))
    # Words end evenly over a port's time, so twice the mean end is its length, without the tail of the slowest port.
    taken = 2 * float(trace.end.mean()) / (words + 1)
    assert taken == pytest.approx(conflict_factor(ports, BANKS), rel=0.015)


def test_one_port_never_waits_and_two_wait_when_they_meet() -> None:
    assert conflict_factor(1, BANKS) == pytest.approx(1)
    # Whoever throws meets the other with 1/B, whether that one waited or not: 2 - 1/B words a cycle.
    assert conflict_factor(2, BANKS) == pytest.approx(2 / (2 - 1 / BANKS), rel=1e-3)
    with pytest.raises(ValueError, match="0 ports"):
        conflict_factor(0, 32)


def test_darksides_table_is_the_closed_forms() -> None:
    link = find_soc("darkside").links["tcdm"]
    assert link.stretch == pytest.approx(stretch_table(link.ports, 8, BANKS), abs=6e-4)


def test_the_table_lies_between_the_two_ways_of_arbitration() -> None:
    """Eight ports in the cluster's inner loop (6 loads, 8 products) beside an engine that reads four banks at once in
    every cycle. Who waits depends on who goes first, which is not published; the table takes from both alike.

    By the table: 6/14 of the cluster's time at stretch while the engine is there for half of the time, and vice versa.
    """
    loops, loads, run = 200, 6, 8
    excess = find_soc("darkside").links["tcdm"].stretch[1] - 1
    shared = loads / (loads + run) * 0.5 * excess
    alone = np.mean(ends(machine(8, loads, run, loops)))
    engine_first, oldest_first = ends(machine(8, loads, run, loops, -1)), ends(machine(8, loads, run, loops, 0))
    length = loops * (loads + run)
    assert np.mean(oldest_first[:8]) / alone < 1 + shared < np.mean(engine_first[:8]) / alone
    assert engine_first[8] / length == 1 < 1 + shared < oldest_first[8] / length

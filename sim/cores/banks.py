"""Bank conflicts of a shared scratchpad as a table of stretch by occupancy, from balls in bins.

n ports throw one ball each into B bins, all alike: the words that they ask for. A bin gives up one ball a cycle, whose
port then throws anew; the others wait in theirs. With r balls given up per bin and cycle, arrivals that are nearly
independent leave r + (1 - 1/n) r^2 / (2 (1 - r)) balls in a bin (the mean of a queue with unit service; a ball does not
wait for itself, hence 1 - 1/n), and that is n / B. n words then take n / (r B) cycles: 1 for a single port, and within
one per cent of a simulation of 32 banks up to 32 ports (`tests/sim/test_banks.py`).

A table gives this by the number of units at the scratchpad, each with so many ports, relative to one unit alone: what
a unit's own ports do to each other is part of the time that it takes alone.
"""

from __future__ import annotations

from math import sqrt


def conflict_factor(ports: int, banks: int) -> float:
    """Cycles that a word takes if so many ports ask so many banks, each for one word at a time; at least 1."""
    if ports < 1 or banks < 1:
        raise ValueError(f"found {ports} ports at {banks} banks; both must be at least 1")
    others, load = 1 - 1 / ports, ports / banks
    # The root below 1 of (2 - others) r^2 - 2 (1 + load) r + 2 load = 0.
    rate = (1 + load - sqrt((1 + load) ** 2 - 2 * load * (2 - others))) / (2 - others)
    return load / rate


def stretch_table(units: int, ports: int, banks: int) -> tuple[float, ...]:
    """Stretch with 1 .. `units` units at `banks` banks, each with so many ports; the first entry is 1."""
    alone = conflict_factor(ports, banks)
    return tuple(conflict_factor(n * ports, banks) / alone for n in range(1, units + 1))

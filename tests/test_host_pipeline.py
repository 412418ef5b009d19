"""The pipelines that host kernels are counted on, on a few instructions drawn by hand: cycles by the table and hazards
of CV32E40P's user manual, and by Rocket's multiplier."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from host_kernels import RI5CY, ROCKET, rocket_multiply
from host_pipeline import Clock, Pipeline


def lb(to: int, base: int) -> int:
    return base << 15 | to << 7 | 0x03


def lw(to: int, base: int) -> int:
    return lb(to, base) | 2 << 12


def add(to: int, left: int, right: int, upper: int = 0, kind: int = 0) -> int:
    return upper << 25 | right << 20 | left << 15 | kind << 12 | to << 7 | 0x33


def div(to: int, left: int, right: int) -> int:
    return add(to, left, right, 1, 4)


def bne(left: int, right: int) -> int:
    return right << 20 | left << 15 | 1 << 12 | 0x63


def cycles(pipeline: Pipeline, *words: int, of: int = 1) -> int:
    """Of instructions one behind the other. of: what each register holds."""
    clock = Clock(pipeline, lambda register: of)
    for i, word in enumerate(words):
        clock.start(4 * i, word)
    return clock.now


def looped(pipeline: Pipeline, times: int) -> int:
    """Of an addition and the branch back to it, so many times, and one more addition behind."""
    clock = Clock(pipeline, lambda register: 1)
    for _ in range(times):
        clock.start(0, add(5, 5, 6))
        clock.start(4, bne(5, 7))
    clock.start(8, add(5, 5, 6))
    return clock.now


def test_what_is_loaded_is_there_an_instruction_later() -> None:
    """A use at once waits a cycle; one in between hides it. On Rocket a byte takes one more than a word."""
    assert cycles(RI5CY, lb(5, 8), add(6, 5, 5)) == 3
    assert cycles(RI5CY, lb(5, 8), add(7, 9, 9), add(6, 5, 5)) == 3
    assert cycles(ROCKET, lw(5, 8), add(6, 5, 5)) == 3
    assert cycles(ROCKET, lb(5, 8), add(6, 5, 5)) == 4


def test_a_taken_branch_takes_three_cycles_and_another_one() -> None:
    assert looped(RI5CY, 1) == 3
    assert looped(RI5CY, 10) == 9 * (1 + 3) + 3


def test_a_foreseen_branch_costs_nothing_more() -> None:
    """A counter that begins at 'rather not' is wrong once on the way in and once on the way out."""
    assert looped(ROCKET, 10) == 20 + 1 + 2 * 3


def test_a_division_goes_by_its_divisor_and_the_next_waits_for_it() -> None:
    """3 cycles with no leading zero in the divisor, one more for each: 34 with a divisor of 1."""
    assert cycles(RI5CY, div(5, 6, 7), add(8, 5, 5), of=1 << 31) == 3 + 1
    assert cycles(RI5CY, div(5, 6, 7), add(8, 5, 5)) == 34 + 1
    assert cycles(RI5CY, div(5, 6, 7), div(8, 6, 7)) == 34 + 1


def test_rockets_multiplier_takes_eight_bits_a_cycle() -> None:
    """32 bits in four cycles between one to start and one to end; zeros in front end it early, ones do not."""
    assert rocket_multiply(-1, 7) == rocket_multiply(1 << 30, 7) == 6
    assert rocket_multiply(5, 7) == 4

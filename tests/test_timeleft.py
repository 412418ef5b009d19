"""The time left: right where steps are alike, never climbing while a step lasts, silent where nobody can know."""

from __future__ import annotations

import itertools

import pytest

from cosoc.timeleft import TimeLeft, told


def replayed(lasting_s: list[float], every_s: float = 1.0, total: int | None = None) -> list[tuple[float, int, float]]:
    """What is said, as (when, steps done, seconds left), of steps that last so long, asked every so many seconds."""
    left, out, total = TimeLeft(), [], total or len(lasting_s)
    ends = list(itertools.accumulate(lasting_s))
    for n in range(int(ends[-1] / every_s)):
        now = n * every_s
        done = sum(end <= now for end in ends)
        said = left.at(now, done, total)
        if said is not None:
            out.append((now, done, said))
    return out


def test_of_equal_steps_it_is_what_is_left() -> None:
    """Asked between their ends, too: an end that is seen late by a second puts it off by one in sixty."""
    said = replayed([60.0] * 20)
    assert said and all(now + left == pytest.approx(20 * 60, rel=1 / 60) for now, _, left in said)
    assert min(done for _, done, _ in said) == 3


def test_while_a_step_lasts_it_counts_down_and_then_says_nothing() -> None:
    said = replayed([10.0] * 10 + [500.0, 10.0], total=40)
    for (before, done, left), (now, then, less) in itertools.pairwise(said):
        if done == then:
            assert less == pytest.approx(left - (now - before))
    assert max(now for now, done, _ in said if done == 10) < 100 + 10 * 30 + 1


def test_it_says_nothing_of_a_few_rounds() -> None:
    """A search over splits has five rounds, each of larger batches and longer: their mean once said 100 s, then 659."""
    assert not replayed([30.0, 60.0, 120.0, 240.0, 480.0])


def test_of_steps_that_grow_it_climbs_less_than_the_mean_would() -> None:
    lasting = [1.0 + n / 4 for n in range(40)]
    climbs = []
    for slower in (True, False):
        ends = list(itertools.accumulate(lasting))
        if slower:
            whole = [now + left for now, _, left in replayed(lasting, 0.5)]
        else:
            whole = [now + now * (40 - n) / n for n, now in enumerate(ends, 1) if 3 <= n < 40]
        climbs.append(sum(max(0.0, b - a) for a, b in itertools.pairwise(whole)))
    assert climbs[0] < climbs[1]


def test_what_was_done_before_a_resumption_has_taken_no_time() -> None:
    left = TimeLeft()
    said = [left.at(float(10 * n), 50 + n, 100) for n in range(11)]
    assert said[-1] == pytest.approx(400.0)


def test_as_one_says_it() -> None:
    assert [told(s) for s in (4.4, 89.0, 420.0, 9000.0)] == ["4 s", "89 s", "7 min", "2.5 h"]

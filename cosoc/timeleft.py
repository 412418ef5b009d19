"""How long a work will go on, as far as that can be said from what is done of it."""

from __future__ import annotations

STEPS = 3  # that have ended before anything is said
PARTS = 8  # that a work has at least: of fewer, one says little of the next (rounds of a search, say)
LATELY = 4  # the last such part of the steps is asked for its own pace


class TimeLeft:
    """Seconds left of a work that tells now and then how many of its steps are done.

    Elapsed time divided by what is done climbs for as long as a step lasts: 100 s left, then 200, then 300, and the
    step that was waited for has not ended. So what is left is told from when the last step ended, and counts down from
    there; once it has come to nothing, nothing is said before another step ends. The pace is that of all steps or of
    the last ones, the slower of both, as what comes later is seldom faster.
    """

    def __init__(self) -> None:
        self._began_s, self._first = 0.0, -1
        self._ends: list[tuple[float, int]] = []  # when done grew, and to what

    def at(self, now_s: float, done: int, total: int) -> float | None:
        """Seconds left at a time, with so many steps done of so many; None where that cannot be said."""
        last = self._ends[-1][1] if self._ends else self._first
        if self._first < 0 or done < last:  # the first report, with what a resumed run has; or another work
            self._began_s, self._first, self._ends = now_s, done, []
        elif done > last:
            self._ends.append((now_s, done))
        if len(self._ends) < STEPS or total < PARTS or done >= total:
            return None
        (end_s, end), pace = self._ends[-1], self._pace_s()
        left_s = end_s + pace * (total - end) - now_s
        return left_s if left_s > 0 else None

    def _pace_s(self) -> float:
        """Seconds a step."""
        end_s, end = self._ends[-1]
        paces = [(end_s - self._began_s) / (end - self._first)]
        since = end - max(1, (end - self._first) // LATELY)
        began_s, began = max(((s, n) for s, n in self._ends if n <= since), default=(self._began_s, self._first))
        paces.append((end_s - began_s) / (end - began))
        return max(paces)


def told(seconds: float) -> str:
    """A time as one says it: `40 s`, `7 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

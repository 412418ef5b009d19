"""A limit of time that compiled loops keep, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Flag = np.ndarray[Any, np.dtype[np.uint8]]


class OutOfTime(Exception):
    """A programme was ended before it knew its answer."""


class Limit:
    """So many seconds from now on, by `clock`; none where they are inf."""

    def __init__(self, seconds: float = float("inf"), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._until = clock, clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left; below 0 once it is over."""
        return self._until - self._clock()

    @property
    def over(self) -> bool:
        return self.left_s <= 0

    @contextmanager
    def flag(self) -> Iterator[Flag]:
        """[1]: not 0 as soon as the limit is over; for a loop that gives Python's lock away and looks at it."""
        out = np.zeros(1, np.uint8)
        left = self.left_s
        if left <= 0:
            out[0] = 1
        if not 0 < left < threading.TIMEOUT_MAX:
            yield out
            return
        timer = threading.Timer(left, out.fill, (1,))
        timer.daemon = True
        timer.start()
        try:
            yield out
        finally:
            timer.cancel()


NO_LIMIT = Limit()

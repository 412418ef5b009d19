"""The command `cosoc`, which is `python -m cosoc`: signals have their meaning before anything large is imported."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

SHUTDOWN_S = 0.5  # for Python to end after a signal


def run() -> int:
    """Run the command line of this process; its exit status, 128 + n after the signal n."""
    taken = []
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
            taken.append(number)
    atexit.register(_ignore, taken)  # the first that is registered is the last that is called
    from cosoc.cli import main

    status = main()
    if status > 128:  # whatever would wait for something in Python's own end
        timer = threading.Timer(SHUTDOWN_S, os._exit, (status,))
        timer.daemon = True
        timer.start()
    return status


def _ignore(numbers: Sequence[signal.Signals]) -> None:
    """All is done, and the status stands: what Python then takes down would end by the signal instead."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    """End at once: nothing has begun yet, or all is done."""
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(run())

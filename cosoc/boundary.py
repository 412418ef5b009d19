"""What the system refuses a command: memory, threads, libraries, room. Said in a line, unlike a fault of ours."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import warnings
from collections.abc import Sequence

with contextlib.suppress(ImportError):  # not on Windows
    import resource

# Address space that commands take with a small network on one thread (470 and 1,150 MB), and some more.
NEEDED_MB = {"": 640, "calibrate": 1536, "search": 1536, "sweep": 1536}


class Interrupted(Exception):
    """A signal has come; the message says what is left of the work."""


def calm() -> None:
    """Keep libraries to themselves: no window, whatever MPLBACKEND says, and no lines between ours."""
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def nonsense() -> str | None:
    """What is wrong with a variable of the environment that libraries would complain of in lines of their own."""
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is None or all(part.strip().isdigit() for part in threads.split(",")):
        return None
    return f"OMP_NUM_THREADS={threads}: a whole number of threads is needed"


def refused(error: Exception) -> str | None:
    """What the system refused, in a line; None where the error is a fault of ours."""
    text = " ".join(str(error).split())
    # Neither torch nor threads have exceptions of their own for want of memory.
    wanting = isinstance(error, RuntimeError) and ("allocate" in text or "can't start new thread" in text)
    if isinstance(error, MemoryError) or wanting or getattr(error, "errno", None) == errno.ENOMEM:
        return f"out of memory: {text}{_limit()}".removesuffix(": ")
    if isinstance(error, ImportError):
        return f"a library cannot be loaded{_limit()}: {text}; `cosoc doctor` says what is installed"
    if isinstance(error, OSError) and error.filename is None:
        return f"the system refused it{_limit()}: {error.strerror or text}"
    return None


def too_little_memory(words: Sequence[str]) -> str | None:
    """That the address space is limited to less than a command needs; None otherwise. Asked first: libraries that run
    out of it end the process in ways of their own, or stand still."""
    command = next((word for word in words if not word.startswith("-")), "")
    needed_mb, limit_mb = NEEDED_MB.get(command, NEEDED_MB[""]), _limit_mb()
    if limit_mb is None or limit_mb >= needed_mb or command in ("", "list"):
        return None
    return (
        f"out of memory: it is limited to {limit_mb} MB (ulimit -v), and cosoc {command} needs {needed_mb:,} MB or more"
    )


def _limit_mb() -> int | None:
    with contextlib.suppress(NameError, OSError):
        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        return None if soft == resource.RLIM_INFINITY else soft >> 20
    return None


def _limit() -> str:
    """How far memory is limited, which is then the likely cause."""
    limit_mb = _limit_mb()
    return "" if limit_mb is None else f" (memory is limited to {limit_mb} MB: ulimit -v)"

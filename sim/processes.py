"""How a command ends by a signal, and processes that work for it and end with it.

A signal that asks for the end (Ctrl-C, SIGTERM, SIGHUP) raises `Ended` in the main thread, so that what is under way is
left in order; a second one changes nothing. Python looks for signals between its own instructions only. Where the main
thread is not out soon after (it is in a library's C code, say, or something has swallowed the exception), a thread that
the system has woken ends the process, and with it its workers. During an import the process ends at once: there is
nothing to leave in order, and libraries that are half begun do not bear exceptions.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Ended(BaseException):
    """A signal has asked for the end. No KeyboardInterrupt: Python remembers that one had passed through C code, and
    then ends by a signal of its own. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE_S = 0.5  # for the main thread to leave in order


# ---------------------------------------------------------------------------------------------------------------------
# Signals


class Signals:
    """What has been heard. number: of the signal that has asked for the end. There is one of it, as a process has one
    handler for each signal."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._held = 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        if self.number is None:
            self.number = number
            if not self._held:
                self._end(number, frame)

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """Signals are heard behind the block: what it does is done whole."""
        before = self.number
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self.number is not None and before is None and not self._held:
                self._end(self.number, None)

    def _end(self, number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                exit_at_once(128 + number)
            frame = frame.f_back
        raise Ended(number)


_SIGNALS = Signals()


@contextlib.contextmanager
def ending_by_signals() -> Iterator[Signals]:
    """In the block a signal that asks for the end raises Ended, and what is given says which; a process that is not out
    of the block GRACE_S later is ended. Signals that are ignored (nohup, a job of a shell's background) stay so;
    outside the main thread nothing is done."""
    if threading.current_thread() is not threading.main_thread():
        yield Signals()
        return
    _SIGNALS.number = None
    before = {number: signal.getsignal(number) for number in ENDING}
    heard = [number for number in ENDING if before[number] not in (signal.SIG_IGN, None)]
    left, (from_system, to_thread) = threading.Event(), os.pipe()
    os.set_blocking(to_thread, False)
    threading.Thread(target=_wait, args=(from_system, heard, left), daemon=True).start()
    others = signal.set_wakeup_fd(to_thread, warn_on_full_buffer=False)
    for number in heard:
        signal.signal(number, _SIGNALS.hear)
    try:
        yield _SIGNALS
    finally:
        left.set()
        for number in heard:
            signal.signal(number, before[number])
        signal.set_wakeup_fd(others)
        os.close(to_thread)


def _wait(from_system: int, heard: list[int], left: threading.Event) -> None:
    """Wait for one of the signals, or for the end of the block, and end the process if the block does not end by it."""
    with open(from_system, "rb", buffering=0) as numbers:
        while (number := numbers.read(1)) and number[0] not in heard:
            pass
        if number and not left.wait(GRACE_S):
            exit_at_once(128 + number[0])


def exit_at_once(status: int) -> None:
    """End this process and its workers, wherever it is."""
    end_workers()
    with contextlib.suppress(OSError):
        cursor = b"\x1b[?25h" if os.isatty(2) else b""  # which a progress bar hides
        os.write(2, cursor + b"interrupted; what was finished before is intact\n")
    os._exit(status)


# ---------------------------------------------------------------------------------------------------------------------
# Workers


class Workers:
    """Processes of this machine that run functions for this one; a context.

    A Ctrl-C is this process's to answer: they do not hear it. They end when the block does, at once where that is by an
    exception, and when this process ends in whatever way.
    """

    def __init__(self, number: int) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        with _SIGNALS.wait(), _deaf():  # its locks start a helper
            # Threads of torch and numba do not survive a fork.
            self._pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _begin)

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a function called. BrokenProcessPool where a worker has been killed."""
        with _SIGNALS.wait(), _deaf():  # submitting starts a process
            return self._pool.submit(function, *args, **kwargs)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            end_workers()
        self._pool.shutdown(wait=kind is None, cancel_futures=True)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started here never hear of a Ctrl-C, from their first moment on: a mask is inherited."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        _start_tracker()
        signal.pthread_sigmask(signal.SIG_SETMASK, {*before, signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start multiprocessing's helper, which ends last and clears up behind the others; without a word about it, as
    there is something to clear up whenever they have been killed."""
    from multiprocessing import resource_tracker

    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def _begin() -> None:
    """The first thing that a worker does: one thread for torch, and an end when its parent has ended."""
    import multiprocessing

    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_workers() -> None:
    """Kill the worker processes that this one has started."""
    if "multiprocessing" in sys.modules:
        import multiprocessing

        for process in multiprocessing.active_children():
            process.kill()

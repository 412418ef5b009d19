"""How a command ends by a signal: with 128 + n, nobody left behind, not a traceback, whatever it is doing.

Each case is a process of its own, in a session of its own, so that a signal to its group meets its workers too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cosoc.sim import processes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 60.0  # on a busy machine; how soon it is in fact, benchmarks/robustness.py measures

BUSY = """
import contextlib, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs these tests may ignore it, as for a background job
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and this one, as `nohup` does
from cosoc.sim.processes import Ended, Workers, ending_by_signals
{}
with ending_by_signals() as signals:
    try:
        print("ready", flush=True)
        {}
    except Ended as error:
        print("left in order")
        raise SystemExit(128 + error.number)
"""
ORDERLY = "time.sleep(60)"
DEAF = """
        while True:
            with contextlib.suppress(BaseException):
                print("deaf", flush=True)
                time.sleep(60)
"""
WORKING = """
        with Workers(2) as pool:
            under_way = [pool.submit(time.sleep, 60) for _ in range(4)]
            print("working", flush=True)
            under_way[0].result()
"""


@contextmanager
def started(source: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said `ready`."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status and what it says of a process that is about to end."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def is_empty(group: int) -> bool:
    """Whether a process group comes to have no member."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", SIGNALS)
def test_what_can_be_left_in_order_is(number: signal.Signals) -> None:
    with started(BUSY.format("", ORDERLY)) as process:
        process.send_signal(number)
        assert ended(process) == (128 + number, "left in order\n", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_what_does_not_leave_is_ended(number: signal.Signals) -> None:
    """An exception that somebody swallows, again and again."""
    with started(BUSY.format("", DEAF)) as process:
        assert process.stdout is not None and process.stdout.readline() == "deaf\n"
        process.send_signal(number)
        status, out, err = ended(process)
        assert (status, set(out.split()) <= {"deaf"}, err.count("\n")) == (128 + number, True, 1)
        assert err.startswith("interrupted; ")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("whom", ["group", "parent"])
@pytest.mark.parametrize("when", ["starting", "working"])
def test_workers_end_too_and_say_nothing(number: signal.Signals, whom: str, when: str) -> None:
    """While they are being started, and while they work; to all, as a terminal's Ctrl-C, or to the parent alone."""
    with started(BUSY.format("", WORKING)) as process:
        assert process.stdout is not None
        if when == "working":
            assert process.stdout.readline() == "working\n"
        else:
            time.sleep(0.1)
        (os.killpg if whom == "group" else os.kill)(process.pid, number)
        status, _, err = ended(process)
        assert (status, "Traceback" in err) == (128 + number, False), err
        assert is_empty(process.pid)


def test_workers_end_with_a_parent_that_is_killed() -> None:
    with started(BUSY.format("", WORKING)) as process:
        assert process.stdout is not None and process.stdout.readline() == "working\n"
        process.kill()
        process.wait()
        assert is_empty(process.pid)


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup."""
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with started(BUSY.format(ignoring, ORDERLY)) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 128 + signal.SIGTERM


def test_a_signal_waits_for_what_is_done_whole() -> None:
    done = []

    def work() -> None:
        with processes.ending_by_signals() as signals:
            with signals.wait():
                signal.raise_signal(signal.SIGTERM)
                done.append("whole")
            done.append("never")

    with pytest.raises(processes.Ended, match="SIGTERM"):
        work()
    assert done == ["whole"]


def test_handlers_are_put_back_and_others_threads_have_none() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with processes.ending_by_signals():
        assert signal.getsignal(signal.SIGTERM) != before[1]

    def inside() -> None:
        with processes.ending_by_signals():
            pass

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_is_still_importing_ends_without_a_word(number: signal.Signals) -> None:
    """From the first line of ours on: moments through the imports, each a run."""
    for moment_s in (0.1, 0.2, 0.35):
        words = [sys.executable, "-m", "cosoc", "simulate", "diana", "digits_cnn", "--quiet"]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        time.sleep(moment_s)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
        if process.returncode < 0 or "site" in err:  # not even Python had begun
            continue
        assert process.returncode in (0, 128 + number)
        assert err.count("\n") <= 1 and "Traceback" not in err


AT_THE_END = """
import os, signal, sys
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.Signals({})):
        kill(pid, number)
late = Late()  # taken down with this module, when Python has given signals their first meaning back
sys.argv = ["cosoc", "--version"]
from cosoc.__main__ import run
sys.exit(run())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_takes_itself_down_changes_no_status(number: signal.Signals) -> None:
    """All is done by then, and status 0 stands: without a word of ours Python would end by the signal."""
    words = [sys.executable, "-c", AT_THE_END.format(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("cosoc ")

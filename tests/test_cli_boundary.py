"""What ends a command from within: one line and a status, or the traceback that a fault of ours deserves."""

from __future__ import annotations

import signal
from concurrent.futures.process import BrokenProcessPool
from typing import NoReturn

import pytest

from cosoc import boundary, cli
from cosoc.sim.errors import Deadlock, InputError


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("soc.yaml:1:2: found\n  a break"), 2, "soc.yaml:1:2: found a break"),
        (Deadlock("op 3 waits for op 4"), 2, "op 3 waits for op 4"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (boundary.Interrupted("results so far in runs/x"), 130, "interrupted; results so far in runs/x"),
        (MemoryError("9 GB"), 1, "out of memory: 9 GB"),
        (BrokenProcessPool("a future"), 1, "a worker process was killed"),
        (OSError(36, "File name too long", "xxx"), 2, "xxx: File name too long"),
        # as torch says it on the host
        (RuntimeError("can't allocate memory: you tried to allocate 9 bytes"), 1, "out of memory: can't allocate"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_one_line_and_a_status(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(cli, "_soc", fail)
    assert cli.main(["show", "soc", "diana"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_ctrl_c_arrives_as_a_signal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "_soc", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
    try:
        assert cli.main(["show", "soc", "diana"]) == 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted; nothing was written\n"


def test_any_other_runtime_error_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "_soc", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["show", "soc", "diana"])

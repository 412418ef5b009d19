"""What surrounds a command: outputs that are closed or full, encodings, backends, limits, folders. Each ends with the
status that docs/errors.md states, in one line or none. benchmarks/environments.py holds more commands against more."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cosoc import boundary, cli, doctor
from cosoc.cli import main
from cosoc.sim.machine import engine_fast

Say = Callable[..., tuple[int, str, str]]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


def called(words: Sequence[str], shell: str = "exec {}", **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as a shell starts it."""
    line = " ".join([sys.executable, "-m", "cosoc", *words])
    return subprocess.run(["bash", "-c", shell.format(line)], capture_output=True, text=True, check=False, timeout=120,
                          env=os.environ | environment, errors="replace")  # fmt: skip


@needs_full
@pytest.mark.parametrize("words", ["list", "--help", "show soc diana", "--version", "simulate --help"])
def test_a_full_output_is_said(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words.split()) == 2
        monkeypatch.undo()
    assert capsys.readouterr().err == "standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("words", ["list", "--help", "show soc diana"])
def test_a_reader_may_go(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """128 + SIGPIPE, as of other programs, and not a word."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(words.split()) == 141
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_no_output_at_all_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list"]) == 2
    monkeypatch.undo()
    assert capsys.readouterr().err == "standard output cannot be written: it is closed\n"


@needs_full
def test_nobody_to_complain_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status says what the line cannot."""
    with contextlib.suppress(OSError), FULL.open("w") as full:  # closing it fails, too
        for stream in (None, full):
            monkeypatch.setattr(sys, "stderr", stream)
            assert main(["simulate", "diana", "nothing"]) == 2
            monkeypatch.undo()


@needs_full
@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [("{} > /dev/full", 2, "standard output cannot be written: No space left on device\n"),
     ("{} >&-", 2, "standard output cannot be written: it is closed\n"),
     ("{} | true; exit ${{PIPESTATUS[0]}}", 141, "")],
)  # fmt: skip
def test_the_process_says_no_more_than_the_command(shell: str, status: int, said: str) -> None:
    """Python itself would flush what is left at its end, and say that it could not."""
    done = called(["show", "soc", "diana"], shell)
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
def test_a_terminal_of_another_encoding(encoding: str) -> None:
    """Tables in what it has: lines of ASCII, spaces for hard spaces; what it lacks is escaped."""
    done = subprocess.run(
        [sys.executable, "-m", "cosoc", "simulate", "diana", "digits_cnn"], capture_output=True, check=False,
        timeout=120, env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    text, beside = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 0
    assert all(re.search(r"\d+ s ", line) for line in beside.splitlines())  # progress, where it took long
    assert "digital 16" in text.replace("\u00a0", " ") and "\\x" not in text


@pytest.mark.parametrize(
    ("words", "limit_mb", "status"), [("list", 300, 0), ("simulate diana digits_cnn", 500, 1), ("sweep x", 1000, 1)]
)
def test_too_little_memory_is_said_first(words: str, limit_mb: int, status: int) -> None:
    """Where libraries run out of it half way, they abort, or stand still."""
    done = called(words.split(), f"ulimit -v {limit_mb << 10}; exec {{}}", OMP_NUM_THREADS="1")
    assert done.returncode == status
    assert done.stderr.count("\n") == (1 if status else 0)
    assert f"it is limited to {limit_mb} MB" in done.stderr or not status


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("can't start new thread"), "out of memory: can't start new thread"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory: "),
        (OSError(errno.ENOSPC, "No space left on device"), "the system refused it: No space left on device"),
        (OSError("no shared object"), "the system refused it: no shared object"),
        (ImportError("failed to map segment"), "a library cannot be loaded: failed to map segment; `cosoc doctor`"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_status_1(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_soc", fail)
    assert main(["show", "soc", "diana"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_a_fault_of_ours_is_not_the_systems() -> None:
    assert boundary.refused(RuntimeError("a bug")) is None
    assert boundary.refused(OSError(errno.ENOENT, "No such file", "x")) is None


def test_without_numbas_compiler_there_is_the_other_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Say
) -> None:
    monkeypatch.setattr(engine_fast, "can_compile", lambda: False)
    status, _, said = run("simulate", "diana", "digits_cnn", "--quiet")
    assert status == 2 and "NUMBA_DISABLE_JIT is set" in said and said.count("\n") == 1
    assert run("simulate", "diana", "digits_cnn", "--quiet", "--engine", "reference")[0] == 0
    status, _, said = run("search", "gemmini", "digits_cnn", "--space", "tiles", "--quiet", "--out", tmp_path / "run")
    assert status == 2 and "NUMBA_DISABLE_JIT is set" in said and said.count("\n") == 1
    status, _, said = run("calibrate", "diana", "--samples", "6", "--quiet")
    assert status == 2 and "NUMBA_DISABLE_JIT is set" in said and said.count("\n") == 1


def test_no_room_for_temporary_files_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Say) -> None:
    """What a result holds is read where it is."""
    result = tmp_path / "result.json"
    assert run("simulate", "diana", "digits_cnn", "--quiet", "--json", result)[0] == 0
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert run("explain", result)[0] == 0


def test_a_window_is_never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib itself refuses to be imported with such a backend."""
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    boundary.calm()
    assert os.environ["MPLBACKEND"] == "agg"


# ------------------------------------------------------------------------------------------ doctor


def test_the_stored_figures_are_the_reference_engines() -> None:
    """`python -m cosoc.doctor` rewrites them. The layers have 16*256*27 + 16*256 + 10*16 operations in all."""
    wanted = json.loads((Path(doctor.__file__).parent / "selftest.json").read_text())
    assert doctor.simulated() == {"fast": wanted, "reference": wanted}


def test_a_doctor_finds_nothing_here(tmp_path: Path, run: Say) -> None:
    status, out, said = run("doctor", "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert (status, said, found["problems"]) == (0, "", [])
    assert "as it should be" in out
    assert set(found["extras"]) == set(doctor.EXTRAS)
    for name, one in found["extras"].items():
        assert one["packages"] and one["install"] == f"pip install 'cosoc[{name}]'"
        assert one["present"] or one["install"] in out


def test_a_doctor_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch, run: Say) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("numpy", "onnx") else "1")
    monkeypatch.setattr(doctor, "_writable", lambda folder: False)
    right = doctor.simulated()
    wrong = right | {"fast": right["fast"] | {"ticks": right["fast"]["ticks"] + 1}}
    monkeypatch.setattr(doctor, "simulated", lambda: wrong)
    status, out, _ = run("doctor")
    assert status == 1
    for part in ("missing: numpy; pip install cosoc", "cannot be written", "pip install 'cosoc[onnx]'",
                 "fast engine: ticks is"):  # fmt: skip
        assert part in " ".join(out.split())


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [("sklearn", "search diana digits_cnn --epochs 1 --out {}/run", "data"),
     ("onnx", "show workload net.onnx", "onnx"),
     ("distributed", "sweep {}/plan.yaml --out {}/sweep --scheduler localhost:1 --quiet", "cluster")],
)  # fmt: skip
def test_a_missing_extra_is_named_with_what_installs_it(
    package: str, words: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Say
) -> None:
    (tmp_path / "plan.yaml").write_text("simulate: {soc: [diana], workload: [digits_cnn]}")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    status, _, said = run(*words.format(tmp_path, tmp_path).split())
    assert status == 2 and said.endswith(f"pip install 'cosoc[{extra}]'\n") and said.count("\n") == 1

"""The command line answers at once and in one line: what it loads is counted, what it says is read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Seconds each to import: torch 4, pyplot 2, numba 1, scipy, sklearn and simpy less.
HEAVY = ("torch", "numba", "matplotlib", "scipy", "sklearn", "simpy")

_PROBE = """
import sys
from cosoc.cli import main
sys.argv = ["cosoc", *sys.argv[1:]]
try:
    main()
finally:
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def _cosoc(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "cosoc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=cwd, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["simulate", "--help"],
        ["search", "--help"],
        ["list"],
        ["show", "soc", "diana"],
        ["show", "workload", "resnet8"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stderr.rpartition("loaded:")[2].split()
    assert "typer" in loaded  # the probe sees modules at all
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate"], "frobnicate"),
        (["simulate"], "SOC"),
        (["simulate", "diana", "resnet8", "--inferences", "0"], "--inferences"),
        (["simulate", "diana", "resnet8", "--engine", "slow"], "fast"),
        (["simulate", "diana", "resnet8", "--no-such-option"], "--no-such-option"),
        (["simulate", "nowhere", "resnet8"], "diana"),
        (["simulate", "diana", "no_such_net"], "resnet8"),
        (["simulate", "diana", "resnet8", "--mapping", "no_such_mapping"], "all_8bit"),
        (["simulate", "diana", "resnet8", "--set", "tick_hz"], "PATH=VALUE"),
        (["simulate", "diana", "resnet8", "--set", "tick_hz=0"], "tick_hz"),
        (["simulate", "diana", "resnet8", "--json", "no_such_folder/x.json"], "no_such_folder"),
        (["simulate", "diana", "resnet8", "--json", "."], "folder"),
        (["simulate", "diana", "resnet8", "--json", "a.json", "--trace", "./a.json"], "its own file"),
        (["simulate", "diana", "pkg.nets:net", "--input-shape", "1,a"], "1,3,32,32"),
        (["search", "diana", "resnet8", "--strengths", "0.1,,3"], "--strengths"),
        (["search", "diana", "resnet8", "--strengths", "nan"], "--strengths"),
        (["search", "diana", "resnet8", "--strengths", "1", "--target-ms", "2"], "--target-ms"),
        (["search", "diana", "resnet8", "--target-ms", "-1"], "--target-ms"),
        (["search", "diana", "resnet8", "--resume", "--out", "run"], "no run"),
        (["show", "soc", "nowhere"], "diana"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = _cosoc(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cosoc: error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_run_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    done = _cosoc("search", "diana", "resnet8", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "--resume" in done.stderr
    assert (tmp_path / "run" / "result.json").read_text() == "{}"


_INTERRUPTED = """
import sys
import typer
from cosoc import cli

def stop(name, overrides):
    {statement}

cli._soc = stop
sys.argv = ["cosoc", "show", "soc", "diana"]
cli.main()
"""


@pytest.mark.parametrize(
    ("statement", "status", "line"),
    [
        ("raise KeyboardInterrupt", 130, "cosoc: interrupted; nothing was written"),
        ("raise cli.Interrupted('results so far in runs/x')", 130, "cosoc: interrupted; results so far in runs/x"),
        ("raise MemoryError('of 8 GB')", 1, "cosoc: error: out of memory: of 8 GB"),
        (
            "raise RuntimeError('tried to allocate 9 GB')",
            1,
            "cosoc: error: out of memory: tried to allocate 9 GB",
        ),
        ("raise cli.Deadlock('op 3\\n  waits')", 2, "cosoc: error: op 3 waits"),
    ],
)
def test_the_error_boundary(statement: str, status: int, line: str) -> None:
    code = _INTERRUPTED.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (status, line + "\n")


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    code = _INTERRUPTED.format(statement="raise RuntimeError('a bug')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug" in done.stderr


def test_a_signal_ends_it_like_ctrl_c() -> None:
    """Ctrl-C arrives as SIGINT in the middle of whatever runs."""
    statement = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    code = _INTERRUPTED.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.count("\n") == 1


def test_what_show_prints_is_read_again(tmp_path: Path) -> None:
    """A SoC and a workload as printed, read as files, print the same."""
    for kind, name in (("soc", "diana"), ("workload", "resnet8")):
        printed = _cosoc("show", kind, name).stdout
        (tmp_path / f"{kind}.yaml").write_text(printed)
        assert _cosoc("show", kind, f"{kind}.yaml", cwd=tmp_path).stdout == printed


def test_an_override_shows() -> None:
    assert "tick_hz: 123456789" in _cosoc("show", "soc", "diana", "--set", "tick_hz=123456789").stdout

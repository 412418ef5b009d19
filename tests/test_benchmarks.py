"""What holds of every benchmark, without running one: it has a quick form and figures, README names it, and what it
imports is there. `make quick` runs them."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import common  # noqa: E402
import quick  # noqa: E402

MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def _text(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def _tree(name: str) -> ast.Module:
    return ast.parse(_text(name))


def _imports(name: str) -> set[str]:
    """Modules that one imports from, in functions too."""
    found: set[str] = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("name", quick.scripts())
def test_every_benchmark_has_a_quick_form_and_figures_and_is_explained(name: str) -> None:
    """As README promises: --quick (said to change nothing where it need not), --json, and a line in README's table."""
    text = _text(name)
    assert any(way in text for way in ("args.json", "options.json", "write_json(", "in_pieces("))
    assert any(way in text for way in (".quick", "in_pieces(", "--quick too is all of it"))
    assert f"\n| `{name}.py` |" in README


def test_what_is_no_benchmark_is_a_part_of_one() -> None:
    """Every other module is imported by a benchmark, or run by one, and README says with which it goes."""
    parts = set(MODULES) - set(quick.scripts()) - {"common", "quick"}
    used = set().union(*(_imports(name) for name in [*quick.scripts(), *parts]))
    run = {name for name in parts if any(f"{name}.py" in _text(other) for other in quick.scripts())}
    assert parts <= used | run, f"neither benchmarks nor parts: {sorted(parts - used - run)}"
    assert [name for name in sorted(parts) if f"`{name}.py`" not in README] == []


@pytest.mark.parametrize("name", MODULES)
def test_what_a_benchmark_imports_of_cosoc_is_there(name: str) -> None:
    """No type checker looks here, and a script that nobody runs breaks silently: pulp.py once did."""
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cosoc":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def _script(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A benchmark of this text, in a folder of its own with what all share."""
    (folder / "common.py").write_text((FOLDER / "common.py").read_text())
    (folder / "one.py").write_text(
        f"from common import arguments, skip\noptions = arguments(__doc__).parse_args()\n{text}"
    )
    monkeypatch.setattr(quick, "HERE", folder)


@pytest.mark.parametrize(
    ("text", "what", "said"),
    [
        ("options.json.write_text('{}')", "passed", ""),
        ("skip('a tool: pip install tool')", "skipped", "skipped, needs a tool: pip install tool"),
        ("", "failed", "no figures: "),
        ("raise SystemExit('wrong')", "failed", "status 1: wrong"),
        ("import time; time.sleep(60)", "failed", "no end within 2 s: "),
    ],
)
def test_how_a_benchmark_ends_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, what: str, said: str
) -> None:
    """By hand: what passes has status 0 and figures, what is skipped the status for that, all else has failed."""
    _script(tmp_path, monkeypatch, text)
    assert quick.scripts() == ["one"]
    found = quick.run("one", limit_s=2)
    assert (found.what, found.said) == (what, said)


def test_processor_time_is_that_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that burns 0.3 s is counted, a sleep is not."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    _script(
        tmp_path, monkeypatch,
        f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {burn!r}])\ntime.sleep(0.5)\n"
        "options.json.write_text('{}')",
    )  # fmt: skip
    found = quick.run("one")
    assert found.what == "passed" and found.cpu_s >= 0.3 and found.wall_s >= 0.5


def test_skipping_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, and a status that is neither success nor a failure of Python's own."""
    with pytest.raises(SystemExit) as ended:
        common.skip("a file: --data FILE")
    assert ended.value.code == common.SKIPPED not in (0, 1, 2)
    assert capsys.readouterr().err == "skipped, needs a file: --data FILE\n"

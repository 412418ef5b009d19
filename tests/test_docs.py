"""The pages of docs/ are run: what they show is what happens.

A page that is listed here is run from top to bottom in a folder of its own. Fenced blocks count by their language:

    python               run, in one namespace a page
    LANG title="FILE"    written to FILE
    console              lines behind `$ cosoc` are run; what follows each is what it says
    console refused      the same of bad input: status 2
    text                 right behind a python block: what that printed

Expected output is compared up to white space; `...` stands for anything. Other blocks are for the reader alone.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cosoc.cli import main as cosoc

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = ("index", "python", "tutorial", "mappings", "compilers", "errors", "own_data", "validate")
NOTEBOOKS = tuple(sorted(path.stem for path in (DOCS / "notebooks").glob("*.ipynb")))
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?([^\n]*)\n(.*?)^```$', re.M | re.S)
ALIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BAD_INPUT = 2


@dataclass(frozen=True)
class Block:
    """A fenced block; line: that of its fence; refused: its commands end with status 2."""

    language: str
    title: str
    refused: bool
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [
        Block(m[1], m[2] or "", m[3].strip() == "refused", m[4], text.count("\n", 0, m.start()) + 1)
        for m in FENCE.finditer(text)
    ]


def expect(where: str, wanted: str, got: str) -> None:
    assert doctest.OutputChecker().check_output(wanted, got, ALIKE), f"{where} shows\n{wanted}but this is said:\n{got}"


def commands(block: Block) -> list[tuple[str, str]]:
    """(command, what it says) of every `$` in a console block."""
    parts = re.split(r"^\$ ", block.text, flags=re.M)
    assert not parts[0].strip(), f"line {block.line}: a console block begins with $"
    return [(command, said) for command, _, said in (part.partition("\n") for part in parts[1:])]


def run_command(line: str) -> tuple[int, str]:
    """Status of a `cosoc` command, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = cosoc(shlex.split(line, comments=True)[1:])
    return status, said.getvalue()


def run_page(page: str, status: int) -> None:
    """Run a page in the working directory; its commands end with `status`."""
    names: dict[str, Any] = {"__name__": page}
    printed = ""
    for block in blocks(page):
        where = f"docs/{page}.md:{block.line}"
        if block.title:
            Path(block.title).parent.mkdir(exist_ok=True)
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("\n" * block.line + block.text, f"docs/{page}.md", "exec"), names)
            printed = out.getvalue()
        elif block.language == "text":
            expect(where, block.text, printed)
        elif block.language == "console":
            for line, wanted in commands(block):
                if line.startswith("cosoc "):
                    found, said = run_command(line)
                    assert found == (BAD_INPUT if block.refused else status), f"{where}: {line}: status {found}: {said}"
                    expect(f"{where}: {line}", wanted, said)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_happens(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "path", list(sys.path))
    run_page(page, BAD_INPUT if page == "errors" else 0)
    for name in [name for name, module in sys.modules.items() if _stands_in(module, tmp_path)]:
        del sys.modules[name]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_what_running_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run anew, every cell says what stands under it; `python docs/notebooks.py NAME` writes it there."""
    monkeypatch.syspath_prepend(str(DOCS))
    notebooks = importlib.import_module("notebooks")
    cells = notebooks.read(DOCS / "notebooks" / f"{name}.ipynb")["cells"]
    monkeypatch.chdir(tmp_path)
    for n, (cell, outputs) in enumerate(zip(cells, notebooks.run(cells, name), strict=True)):
        assert notebooks.texts(outputs) == notebooks.texts(cell.get("outputs", [])), f"cell {n} of {name}.ipynb"
    assert any(cell.get("outputs") for cell in cells)


def _stands_in(module: Any, folder: Path) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(folder))


def test_a_wrong_page_would_be_noticed() -> None:
    expect("here", "12 ticks ...\n", "12   ticks and more\n")
    with pytest.raises(AssertionError, match="here shows"):
        expect("here", "12 ticks\n", "13 ticks\n")


def test_every_page_is_in_the_site_and_can_be_found_from_the_readme() -> None:
    pages = {path.name for path in DOCS.glob("*.md")}
    site = (DOCS / "mkdocs.yml").read_text()
    assert {name for name in pages if name in site} == pages
    reached, todo = set(), ["README.md"]
    while todo:
        page = ROOT / todo.pop()
        for link in re.findall(r"\]\(([^)#:]+\.md)", page.read_text(encoding="utf-8")):
            name = (page.parent / link).resolve().relative_to(ROOT).as_posix()
            if name not in reached:
                reached.add(name)
                todo.append(name)
    assert {f"docs/{name}" for name in pages} <= reached


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs cosoc[docs]")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(DOCS / "mkdocs.yml")]
    done = subprocess.run([*words, "-d", str(tmp_path / "site")], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "simulate" / "index.html").read_text(encoding="utf-8")
    assert "Simulate <code>inferences</code> of the workload" in page or "inferences` of the workload" in page

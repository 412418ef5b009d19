"""The wheel alone is enough: built from a copy of the tree, installed elsewhere, used with the tree out of sight."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import cosoc

ROOT = Path(__file__).parents[1]

# Dependencies come from the environment of the tests, so that nothing is downloaded; a plain path (not a site folder)
# keeps the editable install's import hook out.
_PTH = "zz_dependencies.pth"


def _run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    parts = ("cosoc", "sim", "search", "socs", "pyproject.toml", "README.md", "LICENSE")
    tree.mkdir()
    for part in parts:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / part)
    pip = (sys.executable, "-m", "pip")
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, tree, cwd=folder)
    (wheel,) = folder.glob("cosoc-*.whl")
    shutil.rmtree(tree)
    _run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    scheme = sysconfig.get_preferred_scheme("prefix")
    variables = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    site = Path(sysconfig.get_path("purelib", scheme, variables))
    python = Path(sysconfig.get_path("scripts", scheme, variables)) / "python"
    _run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site / _PTH).write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_it_is_the_wheel_that_is_used(python: Path) -> None:
    where = _run(python, "-c", "import cosoc.sim, cosoc.search; print(cosoc.sim.__file__)", cwd=python.parent)
    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_its_metadata(python: Path) -> None:
    code = "import importlib.metadata as m; print(m.version('cosoc')); print(*sorted(m.requires('cosoc')), sep=chr(10))"
    version, *requires = _run(python, "-c", code, cwd=python.parent).splitlines()
    assert version == cosoc.__version__
    assert [r for r in requires if r.startswith("torch")] == ["torch<2.14,>=2.6"]


def test_every_module_and_data_file_came_along(python: Path) -> None:
    """The installed files against those of the tree, by their installed names."""
    code = "import importlib.metadata as m; print(*m.distribution('cosoc').files, sep=chr(10))"
    names = _run(python, "-c", code, cwd=python.parent).split()
    installed = {name for name in names if name.startswith("cosoc/") and "__pycache__" not in name}
    in_tree = set()
    for part in ("cosoc", "sim", "search", "socs"):
        for path in (ROOT / part).rglob("*"):
            if path.suffix in (".py", ".yaml", ".json"):
                name = path.relative_to(ROOT).as_posix()
                in_tree.add(name if part == "cosoc" else f"cosoc/{name}")
    assert installed == in_tree


def test_it_lists_and_simulates(python: Path) -> None:
    """From a folder that holds nothing: descriptions come from the wheel."""
    script = python.with_name("cosoc")
    assert "diana" in _run(script, "list", cwd=python.parent)
    assert "makespan" in _run(script, "simulate", "diana", "digits_cnn", cwd=python.parent)

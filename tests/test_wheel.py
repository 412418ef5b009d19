"""The wheel, used as a user does: installed in an environment of its own, away from the tree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree so that no build folder is left behind, or found."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for part in ("cosoc", "sim", "search", "socs"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (built,) = folder.glob("*.whl")
    return built


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words], check=True)


@pytest.fixture(scope="module")
def clean_cosoc(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `cosoc` of a fresh environment that has the wheel, and of this one the libraries only.

    A .pth line adds a folder without running the .pth files in it, so an editable cosoc there stays unseen.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip("install", "--no-deps", "--no-index", "--ignore-installed", "--target", str(site), str(wheel))
    where = output(python, "-c", "import cosoc.sim, cosoc.socs; print(cosoc.sim.__file__)", cwd=folder)
    assert where.startswith(str(site)), f"not the wheel's cosoc: {where}"
    return python


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert all(name.startswith("cosoc/") for name in inside), "a top-level package besides cosoc"
    folders = {"cosoc/": "cosoc/", "cosoc/sim/": "sim/", "cosoc/search/": "search/", "cosoc/socs/": "socs/"}
    tree = {
        target + path.relative_to(ROOT / folder).as_posix()
        for target, folder in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".json", ".csv", ".html")
    }
    assert inside == tree
    assert any(name.endswith("licenses/LICENSE") for name in names)


def output(python: Path | str, *words: str, cwd: Path) -> str:
    """What a Python prints."""
    return subprocess.run([python, *words], cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_it_simulates_from_elsewhere(clean_cosoc: Path, tmp_path: Path) -> None:
    words = ("-m", "cosoc", "simulate", "diana", "resnet8", "--quiet", "--json", "/dev/stdout")
    there, here = (json.loads(output(python, *words, cwd=tmp_path)) for python in (clean_cosoc, sys.executable))
    assert there["ticks"] == here["ticks"] > 0


def test_its_data_came_along(clean_cosoc: Path, tmp_path: Path) -> None:
    there, here = (output(python, "-m", "cosoc", "list", cwd=tmp_path) for python in (clean_cosoc, sys.executable))
    assert there == here
    assert "silicon" in there

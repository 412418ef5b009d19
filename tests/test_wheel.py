"""The wheel, used as a user does: installed in an environment of its own, away from the tree."""

from __future__ import annotations

import json
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
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = ["wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *build], check=True)
    (built,) = folder.glob("*.whl")
    return built


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
    install = ["install", "--no-deps", "--no-index", "--ignore-installed", "--quiet", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *install], check=True)
    where = subprocess.run(
        [python, "-c", "import cosoc.sim, cosoc.socs; print(cosoc.sim.__file__)"], cwd=folder, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(site)), f"not the wheel's cosoc: {where.stdout}{where.stderr}"
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
        if path.suffix in (".py", ".yaml", ".json")
    }
    assert inside == tree
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_simulates_from_elsewhere(clean_cosoc: Path, tmp_path: Path) -> None:
    words = ["simulate", "diana", "resnet8", "--json", "r.json", "--trace", "t.json", "--quiet"]
    subprocess.run([clean_cosoc, "-m", "cosoc", *words], cwd=tmp_path, check=True)
    result = json.loads((tmp_path / "r.json").read_text())
    here = subprocess.run(
        [sys.executable, "-m", "cosoc", "simulate", "diana", "resnet8", "--quiet", "--json", "/dev/stdout"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result["ticks"] == json.loads(here.stdout)["ticks"]


def test_its_data_came_along(clean_cosoc: Path, tmp_path: Path) -> None:
    listed = [
        subprocess.run([python, "-m", "cosoc", "list"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for python in (clean_cosoc, sys.executable)
    ]
    assert listed[0] == listed[1]
    assert "silicon" in listed[0]

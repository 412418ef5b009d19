"""The installed package is the tree: every package listed, every data file covered, every module visible to mypy."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import cosoc

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {folder: package for package, folder in SETUPTOOLS["package-dir"].items()}


def test_every_package_is_listed() -> None:
    """setuptools installs what is listed; a package that is not is missing from the wheel, not from the tree."""
    found = {
        ".".join((package, *path.parent.relative_to(ROOT / folder).parts))
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(SETUPTOOLS["packages"]) == found


def test_every_folder_of_modules_is_a_package() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has modules and no __init__.py"


def test_every_data_file_is_installed() -> None:
    patterns = SETUPTOOLS["package-data"]["cosoc.socs"]
    files = [
        path.relative_to(ROOT / "socs").as_posix()
        for path in (ROOT / "socs").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert "diana.yaml" in files
    for name in files:
        # fnmatch lets * cross a slash, setuptools does not: compare part by part
        matches = [
            pattern
            for pattern in patterns
            if len(pattern.split("/")) == len(name.split("/"))
            and all(fnmatch.fnmatchcase(a, b) for a, b in zip(name.split("/"), pattern.split("/"), strict=True))
        ]
        assert matches, f"socs/{name} matches none of {patterns}"


def test_mypy_sees_every_module() -> None:
    """.types/cosoc is the installed layout in links: folders as a whole, the modules of cosoc/ one by one."""
    links = ROOT / ".types" / "cosoc"
    for folder in set(FOLDERS) - {"cosoc"}:
        assert (links / folder).resolve() == ROOT / folder
    seen = {path.name: path.resolve() for path in links.glob("*.py")}
    assert seen == {path.name: path for path in (ROOT / "cosoc").glob("*.py")}


def test_one_version_everywhere() -> None:
    """pyproject.toml reads the version from the package; the citation and the changelog repeat it."""
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == cosoc.__version__  # type: ignore[index]
    assert f"## {cosoc.__version__}" in (ROOT / "CHANGELOG.md").read_text()

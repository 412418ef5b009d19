"""The installed package is the tree: every package listed, every data file covered, every module visible to mypy."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import cosoc

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {"cosoc": "cosoc", "sim": "cosoc.sim", "search": "cosoc.search", "socs": "cosoc.socs"}


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


def test_the_tree_has_the_installed_layout() -> None:
    """Editors, mypy, wheels and path imports all read cosoc/: the folders beside it are linked there."""
    for folder in set(FOLDERS) - {"cosoc"}:
        assert (ROOT / "cosoc" / folder).resolve() == ROOT / folder


def test_one_version_everywhere() -> None:
    """pyproject.toml reads the version from the package; the citation and the changelog repeat it."""
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == cosoc.__version__  # type: ignore[index]
    assert f"## {cosoc.__version__}" in (ROOT / "CHANGELOG.md").read_text()

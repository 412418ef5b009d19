"""What the packaging says is what the tree holds."""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath

import pytest
import yaml

import cosoc

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}


def _folder(package: str) -> Path:
    """Where a package stands in the tree, by the longest entry of package-dir."""
    root = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
    return FOLDERS[root].joinpath(*package.removeprefix(root).strip(".").split("."))


def test_every_folder_with_code_is_a_listed_package() -> None:
    """setuptools ships exactly the listed packages: one that is missing is missing from the wheel."""
    listed = {_folder(package) for package in SETUPTOOLS["packages"]}
    present = {path.parent for top in FOLDERS.values() for path in top.rglob("*.py")}
    assert present == listed
    assert all((folder / "__init__.py").is_file() for folder in present)


def test_every_data_file_is_matched_by_package_data() -> None:
    for top in FOLDERS.values():
        data = [
            path for path in top.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".nbi", ".nbc")
        ]
        package = next(name for name, folder in FOLDERS.items() if folder == top)
        patterns = SETUPTOOLS["package-data"].get(package, [])
        names = [PurePosixPath(path.relative_to(top).as_posix()) for path in data]
        depth_matches = [
            any(len(name.parts) == len(PurePosixPath(p).parts) and name.match(p) for p in patterns) for name in names
        ]
        assert [str(n) for n, ok in zip(names, depth_matches, strict=True) if not ok] == []


def test_the_type_checker_sees_the_installed_layout() -> None:
    """mypy reads .types/cosoc instead of package-dir: it must hold every part and every module of the front door."""
    links = {path.name: path.resolve() for path in (ROOT / ".types" / "cosoc").iterdir() if path.name != "__pycache__"}
    parts = {name.removeprefix("cosoc."): folder for name, folder in FOLDERS.items() if name != "cosoc"}
    front = {path.name: path for path in FOLDERS["cosoc"].glob("*.py")}
    assert links == parts | front


def test_version_is_stated_alike() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == cosoc.__version__
    assert f"\n## {cosoc.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_torch_is_never_replaced_by_a_dependency() -> None:
    """torchvision and what pulls it in replace a CPU build of torch by another, or fail to import beside it."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(d for extra in extras for d in extra)]
    banned = ("torchvision", "timm", "onnx2torch", "lightning")
    assert [d for d in wanted if d.startswith(banned)] == []


@pytest.mark.parametrize("name", ["README.md", "Makefile", ".ci/run", "docs/design.md", "LICENSE", "CHANGELOG.md"])
def test_no_line_ends_in_blanks(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [i for i, line in enumerate(lines, 1) if line != line.rstrip()] == []

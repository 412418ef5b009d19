"""A result file is replaced whole or not at all."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table

from cosoc.output import check_writable, put, replacing, write_json, write_text
from cosoc.sim.errors import InputError
from cosoc.sim.shown import quantity


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
        assert part.suffix == ".png"  # plotting chooses the format by it
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_device_stays_a_device() -> None:
    check_writable("--json", Path(os.devnull))
    write_text(Path(os.devnull), "gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_not_a_number_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"seconds": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_asking_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "x"
    check_writable("--json", path)
    path.write_text("old")
    check_writable("--json", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["missing/x", "x" * 300, ""])
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="--json"):
        check_writable("--json", tmp_path / name)


def test_what_is_piped_is_neither_wrapped_nor_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole names and captions, a row a line, and spaces that `cut` and `grep` take for spaces."""
    monkeypatch.delenv("COLUMNS", raising=False)
    name, caption = "a_layer_of_a_name_" * 9, "what there is to say " * 20

    def shown() -> Group:
        table = Table(title="a title of some length over a narrow table", caption=caption)
        table.add_column("layer", max_width=26, no_wrap=True, overflow="ellipsis")
        table.add_row(f"{name}\u00a08")
        return Group(table, caption)

    put(shown())
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(f"{name} 8" in line for line in lines)
    assert lines.count(caption.strip()) == 2 and "a title of some length over a narrow table" in lines
    monkeypatch.setenv("COLUMNS", "80")
    put(shown())
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0 s"), (1.0, "1 s"), (0.99996, "1 s"), (0.9994, "999.4 ms"), (4.7355e-4, "473.6 us"), (2e-9, "2 ns"),
        (3e-13, "0.3 ps"), (-1.5e-6, "-1.5 us"), (12345.0, "1.234e+04 s"),
    ],
)  # fmt: skip
def test_a_figure_has_the_prefix_that_leaves_one_to_a_thousand(value: float, said: str) -> None:
    """By hand; what rounds up to a thousand of a unit is one of the next."""
    assert quantity(value, "s") == said

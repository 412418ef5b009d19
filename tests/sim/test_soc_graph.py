"""The picture of a SoC shows every part that the file has, and every way that bytes can take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cosoc.cli import main
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.report import soc_graph as soc_graph_module
from cosoc.sim.report.soc_graph import draw_soc, soc_graph


def test_every_box_is_inside_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, drawn = [], soc_graph_module.drawn_figure

    @contextmanager
    def kept(*size: float) -> Iterator[Any]:
        with drawn(*size) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr(soc_graph_module, "drawn_figure", kept)
    draw_soc(find_soc("hetero"), tmp_path / "hetero.svg", "svg")
    (axes,) = figures[0].axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for text in axes.texts:
        x, y = text.get_position()
        assert not text.get_bbox_patch() or (left < x < right and low < y < high), text.get_text()


@pytest.mark.parametrize("name", list_socs())
def test_every_part_and_every_route_is_shown(name: str) -> None:
    """Read from the SoC's own lists: a picture that left something out would mislead."""
    soc = find_soc(name)
    boxes, arrows = soc_graph(soc)
    shown = {(box.kind, box.name) for box in boxes}
    assert shown == {("memory", one) for one in soc.memories} | {("link", one) for one in soc.links} | {
        ("core", one) for one in soc.cores
    }
    ways: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for arrow in arrows:
        ways.setdefault(arrow.start, set()).add(arrow.end)
        assert arrow.start in shown and arrow.end in shown
    for route in soc.routes:
        assert _reaches(ways, ("memory", route.source), ("memory", route.target)), route
    for core, one in soc.cores.items():
        assert ("memory", one.memory) in ways["core", core]


def _reaches(ways: dict[tuple[str, str], set[tuple[str, str]]], start: tuple[str, str], end: tuple[str, str]) -> bool:
    reached, todo = {start}, [start]
    while todo:
        for found in ways.get(todo.pop(), set()) - reached:
            reached.add(found)
            todo.append(found)
    return end in reached


def test_the_command_draws_texts_as_texts_and_refuses_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "diana.png"
    assert main(["show", "soc", "diana", "--graph", str(file)]) == 0
    assert file.read_bytes()[:4] == b"\x89PNG"
    assert main(["show", "soc", "diana", "--graph", str(tmp_path / "diana.txt")]) == 2
    assert "ends with .svg, .png, .pdf" in capsys.readouterr().err and not (tmp_path / "diana.txt").exists()

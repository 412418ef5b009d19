"""Gemmini from the command line: its default mapping, and mapping strings that become mapping files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosoc.cli import main

# A fully connected layer of 64 inputs and 10 outputs: two steps of 5 outputs, four of 16 inputs.
STRING = "L3[WIO] K2 C4 - L2[WI] K5X - L1[O] C16X - L0[W] N1"


def _cycles(path: Path) -> int:
    result = json.loads(path.read_text())
    assert result["ticks"] > 0
    return int(result["ticks"])


def test_a_string_becomes_a_file_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The layer's nest is the string's; eight tiles take longer than the one tile that the library takes."""
    mapping, mine, default = (tmp_path / name for name in ("m.yaml", "mine.json", "default.json"))
    assert main(["import-mapping", STRING, "--workload", "resnet8", "--layer", "fc", "--out", str(mapping)]) == 0
    assert "k: 5, c: 16, fy: 1, fx: 1, oy: 1, ox: 1" in mapping.read_text()
    assert main(["simulate", "gemmini", "resnet8", "--mapping", str(mapping), "--json", str(mine), "-q"]) == 0
    assert main(["simulate", "gemmini", "resnet8", "--json", str(default), "-q"]) == 0
    assert _cycles(mine) > _cycles(default)


def test_a_file_of_strings_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "strings.yaml"
    path.write_text(f'layers: {{fc: "{STRING}"}}\n')
    assert main(["import-mapping", str(path), "--workload", "resnet8"]) == 0
    from_file = capsys.readouterr().out
    assert main(["import-mapping", STRING, "--workload", "resnet8", "--layer", "fc"]) == 0
    assert capsys.readouterr().out == from_file


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([STRING.replace("K2", "Y2"), "--layer", "fc"], "layer fc: mapping 'L3[WIO] Y2 C4 - "),
        ([STRING.replace("K2", "K3"), "--layer", "fc"], "its factors of K multiply to 15, the layer has 10"),
        (["", "--layer", "fc"], "found '' where a level such as L3[WIO] is needed"),
        (["K2 " * 200, "--layer", "fc"], "found 'K2' where a level"),  # longer than a file's name can be
        ([STRING, "--layer", "fc2"], "resnet8 has no layer 'fc2'"),
        ([STRING], "--layer goes with a string"),
        ([STRING, "--layer", "fc", "--soc", "diana"], "diana has no systolic array"),
    ],
)
def test_a_wrong_string_is_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-mapping", *words, "--workload", "resnet8"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_the_default_mapping_is_shown_with_its_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "mapping", "gemmini", "resnet8"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("tile: {") == 14  # nine convolutions, the classifier, three sums, one pooling
    assert main(["simulate", "gemmini", "resnet8", "--mapping", "all_ternary"]) == 2
    assert "gemmini has none; use all_8bit" in capsys.readouterr().err

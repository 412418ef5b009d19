"""`cosoc calibrate --measured FILE.csv`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosoc.cli import main

HEAD = "device,runtime,network,ms,source,evidence"
ROWS = (
    "rpi4,ncnn,squeezenet,46.65,ncnn,measured",
    "rpi4,ncnn,mobilenet_v2,61.88,ncnn,measured",
    "rpi4,ncnn,resnet18,123.12,ncnn,measured",
    "rpi4,ncnn,alexnet,76.40,ncnn,measured",
    "rpi4,ncnn,vgg16,547.1,ncnn,measured",
    "rpi4_1t,ncnn,vgg16,1071.9,ncnn,measured",
)


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "latencies.csv"
    path.write_text("\n".join((HEAD, *lines)) + "\n")
    return path


def test_the_error_on_left_out_networks_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five networks are enough for a leave-one-out error, one is not; a fit with seven unknowns and a prior is
    closer to what it was fitted to than to what was left out."""
    out = tmp_path / "r.json"
    assert main(["calibrate", "--measured", str(csv(tmp_path, *ROWS)), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert list(result) == ["rpi4/ncnn", "rpi4_1t/ncnn"]
    many, one = result.values()
    assert many["networks"] == 5 and 0 < many["mape_fit"] < many["mape_network_left_out"]
    assert f"{many['mape_network_left_out']:.1%}" in printed
    assert one["mape_network_left_out"] is None
    assert many["latencies_ms"]["vgg16"]["measured"] == pytest.approx(547.1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rpi9,ncnn,vgg16,1,x,measured", "latencies.csv:2: device: found 'rpi9'; the devices are agx_orin"),
        ("rpi4,ncnn,vgg16,1O,x,measured", "latencies.csv:2: ms: found '1O'; a positive number is needed"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert main(["calibrate", "--measured", str(csv(tmp_path, line)), "--json", str(tmp_path / "r.json")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "r.json").exists()


def test_an_unknown_unit_is_refused_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv(tmp_path, ROWS[0])
    path.write_text(path.read_text().replace("ms", "fortnights"))
    assert main(["calibrate", "--measured", str(path)]) == 2
    assert "latencies.csv:1: unknown column or unit 'fortnights'; known are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give SOC, or --measured FILE.csv, or both"),
        (["--measured", "none.csv"], "none.csv: no such file"),
        (["--measured", "x.csv", "--out", "e.json"], "--out: means nothing with --measured and no SOC"),
        (["--measured", "x.csv", "--set", "tick_hz=1"], "--set: means nothing with --measured and no SOC"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1

"""The four tasks of MLPerf Tiny (Banbury et al. 2021), each with its network and its metric, from data to a front."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cosoc.search.result import result_from
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.theta import Theta

TRAIN, VAL, TEST = 8, 2, 6
WINDOWS = 3  # of a clip
SIDES = {"resnet8": (3, 32, 32), "mobilenet_v1_025": (3, 96, 96)}  # pixels, of so many classes:
CLASSES = {"resnet8": 10, "mobilenet_v1_025": 2, "dscnn": 12}
LARGE = ("mobilenet_v1_025",)  # of 96 x 96 pixels
METRICS = {"resnet8": "accuracy", "mobilenet_v1_025": "accuracy", "dscnn": "accuracy", "autoencoder": "auc"}


def write_data(path: Path, network: str) -> None:
    """Synthetic items in the sizes that the networks are made for: of classes, or normal ones to train on and windows
    of clips, half of them anomalies, to judge by."""
    rng, found = np.random.default_rng(0), {}
    for part, n in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        if network == "autoencoder":
            clip = np.arange(n * WINDOWS) // WINDOWS
            anomalous = clip % 2 * (part != "train")
            x = rng.normal(size=(len(clip), 640)).astype(np.float32) * (1 + 3 * anomalous[:, None])
            y = np.stack([anomalous, clip], 1).astype(np.float32)
        elif network == "dscnn":
            x, y = rng.normal(size=(n, 1, 49, 10)).astype(np.float32), np.arange(n) % CLASSES[network]
        else:
            x, y = rng.integers(0, 256, (n, *SIDES[network]), dtype=np.uint8), np.arange(n) % CLASSES[network]
        found |= {f"x_{part}": x, f"y_{part}": y}
    if network == "autoencoder":
        np.savez(path, **found, task="anomaly_detection", outputs=640)
    else:
        np.savez(path, **found, outputs=CLASSES[network])


@pytest.mark.parametrize("network", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in METRICS])
def test_a_task_goes_from_its_data_to_a_front(network: str, tmp_path: Path) -> None:
    """Every point has the task's metric, under its name; the table and the page's axes say it; result.json read back is
    the same; and shares of items are in steps of one item, or of one pair of clips."""
    write_data(tmp_path / "items.npz", network)
    config = TrainingConfig(
        find_soc("diana"), network, data=str(tmp_path / "items.npz"), strengths=(1.0,), epochs=1, manual=("all_8bit",),
        theta=Theta(), out=tmp_path / "run",
    )  # fmt: skip
    result = search_trained(config, lambda done, total, what: None)
    content = json.loads((tmp_path / "run" / "result.json").read_text())
    name = METRICS[network]
    assert content["axes"] == ["latency", name] == list(result.axes) and content["about"]["metric"]["name"] == name
    pairs = (TEST // 2) * (TEST - TEST // 2)
    for point in (*content["points"], *content["known"]):
        steps = point[name] * (pairs if name == "auc" else TEST)
        assert 0 <= point[name] <= 1 and steps * 2 == pytest.approx(round(steps * 2))
        assert f"val_{name}" in point["about"]
    assert {one["name"] for one in content["known"]} == {"all_8bit"}
    assert result_from(content).content() == content == result.content()
    assert [str(column.header) for column in result.table().columns][1] == name
    if network == "autoencoder":  # anomalies are four times as loud: their error is larger, whatever has been learned
        assert all(one.accuracy == 1.0 for one in result.found)

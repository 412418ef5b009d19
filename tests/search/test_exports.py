"""What leaves for a device, read back by whoever would: a C compiler, torch, an ONNX runtime, a reader of JSON."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from decided_nets import SHAPE, cut, decided

from cosoc.search.exports import c_arrays, onnx_qdq, torch_module
from cosoc.search.exports.exported import Exported, exported, outputs, plain
from cosoc.search.spaces.channels import MixedNet, to_mapping
from cosoc.search.training.data import Data
from cosoc.search.training.integers import quantised_image
from cosoc.search.training.parts import Split
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.search.training.task import classification
from cosoc.search.training.trained import read_run
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.integers.network import run_whole

CASES = [("digits_cnn", "diana"), ("resnet8", "diana"), ("dscnn", "diana"), ("resnet8", "darkside")]
N = 24  # images


def data_of(name: str) -> Data:
    x = torch.randn(N, *SHAPE[name], generator=torch.Generator().manual_seed(1))
    part = Split(x, torch.arange(N) % 10)
    means = (0.0,) * SHAPE[name][0]
    return Data("drawn", "", tuple("0123456789"), part, part, part, means, means, classification(10))


@pytest.fixture(scope="module", params=CASES, ids=str)
def one(request: pytest.FixtureRequest) -> tuple[Exported, MixedNet]:
    name, soc = request.param
    if soc == "darkside":
        net, workload, mapping = cut(name, soc, "conv-dw", 0)
    else:
        net, workload, chosen = decided(name, soc, 0)
        mapping = to_mapping(net, chosen, "overlapped", "point_1")
    return exported("point_1", net, mapping, workload, find_soc(soc), data_of(name), 0.5), net


def drawn(one: Exported) -> torch.Tensor:
    """The images."""
    return one.data.test.items(torch.arange(N))[0]


def by_integers(one: Exported, net: MixedNet) -> Any:
    """Outputs of all images."""
    return outputs(one.network, drawn(one), net.output_order)


def test_c_computes_the_integers(one: tuple[Exported, MixedNet], tmp_path: Path) -> None:
    """Compiled as C99 with all warnings: the sums of every image, and its scores to the last digit that is printed."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here")
    about, net = one
    for name, text in c_arrays.files(about).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "network.h"\nstatic int64_t sums[COSOC_SUMS];\nstatic int16_t x[COSOC_INPUTS];\n'
        "static double scores[COSOC_OUTPUTS];\nint main(void) {\n  int value;\n  for (;;) {\n"
        "    for (int i = 0; i < COSOC_INPUTS; i++) {\n"
        '      if (scanf("%d", &value) != 1) return 0;\n      x[i] = (int16_t)value;\n    }\n'
        "    cosoc_run(x, sums);\n    cosoc_scores(sums, scores);\n"
        '    for (int i = 0; i < COSOC_OUTPUTS; i++) printf("%.17g ", scores[i]);\n    printf("\\n");\n  }\n}\n'
    )
    words = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "main.c", "network.c", "-o", "run"]
    subprocess.run([compiler, *words], cwd=tmp_path, check=True, timeout=120)
    images = quantised_image(about.network, drawn(about)[:4])
    fed = "\n".join(" ".join(map(str, image.reshape(-1).tolist())) for image in images)
    told = subprocess.run([tmp_path / "run"], input=fed, capture_output=True, text=True, check=True, timeout=120).stdout
    found = np.array([[float(word) for word in line.split()] for line in told.splitlines()])
    assert np.array_equal(found, by_integers(about, net)[:4])


def test_a_torch_program_computes_the_integers(one: tuple[Exported, MixedNet]) -> None:
    """Read back without anything of ours, for a batch of another size than it was made with."""
    about, net = one
    program = torch.export.load(io.BytesIO(torch_module.program(about))).module()
    found = program(drawn(about)[:5]).numpy()
    assert np.array_equal(found, by_integers(about, net)[:5])


def test_onnx_computes_the_network(one: tuple[Exported, MixedNet]) -> None:
    """Executed in floating point of 24 bits, by a runtime that may rewrite the graph: outputs are those of the integers
    to its rounding, unless that puts a sum which lies halfway into the next step, one in some 1e5."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install 'cosoc[dev]')")
    pytest.importorskip("onnx")
    about, net = one
    session = runtime.InferenceSession(onnx_qdq.model(about), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": drawn(about).numpy()})
    wanted = by_integers(about, net)
    near = np.abs(found - wanted).max(1) < 1e-5 * np.abs(wanted).max()
    assert near.mean() > 0.9
    assert (found.argmax(1) == wanted.argmax(1))[near].all()


def test_json_says_all_that_is_needed_to_compute(one: tuple[Exported, MixedNet]) -> None:
    """A reader of nothing but the file: weights by core are put together again, and the first layer is computed."""
    about, _ = one
    found = json.loads(json.dumps(plain(about)))
    layer = found["layers"][0]
    first = layer["forms"][0]
    shape = (-1, first["c"] // first["groups"], first["fy"], first["fx"])
    weights = np.concatenate([np.array(part["weights"]).reshape(shape) for part in first["parts"]])
    assert np.array_equal(weights, about.network.layers[layer["layer"]].weights)
    for one_of in found["layers"]:
        parts = [part for form in one_of["forms"] for part in form["parts"]]
        assert sum(part["channels"] for part in parts) == one_of["k"]
        for part in parts:
            if "weights" in part:
                assert np.abs(part["weights"]).max() <= 2 ** (part["bits"] - 1) - 1
    x = quantised_image(about.network, drawn(about)[:1])[0]
    (_, y, col), scaled = (first["k"], 1, 2), first["rescale"]
    total = 0
    for c in range(first["c"]):
        for fy in range(first["fy"]):
            for fx in range(first["fx"]):
                row = y * first["stride_y"] - first["pad_y"] + fy
                at = col * first["stride_x"] - first["pad_x"] + fx
                if 0 <= row < first["iy"] and 0 <= at < first["ix"]:
                    total += int(weights[0, c, fy, fx]) * int(x[c, row, at])
    made = (scaled["multiplier"][0][0] * total + scaled["offset"][0]) >> scaled["shift"][0]
    makes = layer["makes"]
    whole = run_whole(about.network, x[None])[layer["layer"]]
    assert max(makes["low"], min(makes["high"], made)) == whole[0, 0, y, col]


def test_a_schedule_that_does_not_compute_the_network_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosoc.sim.integers.network import Rescale

    net, workload, chosen = decided("digits_cnn", "diana", 0)
    mapping = to_mapping(net, chosen, "overlapped", "point_1")
    data = data_of("digits_cnn")
    true, calls = Rescale.of, []

    def of(self: Rescale, sums: Any, first: int, end: int) -> Any:
        calls.append(end - first)
        found = true(self, sums, first, end)
        return found + (len(calls) > 3 and found.shape[1] < 10)  # whole layers come first, then tiles

    monkeypatch.setattr(Rescale, "of", of)
    with pytest.raises(InputError, match="the schedule does not compute the network"):
        exported("point_1", net, mapping, workload, find_soc("diana"), data, 0.5)


def test_weights_beyond_8_bits_have_no_c_arrays(one: tuple[Exported, MixedNet]) -> None:
    about, _ = one
    soc = about.soc
    wide = {
        n: core.model_copy(update={"weight_bits": 16}) if not core.ternary else core for n, core in soc.cores.items()
    }
    with pytest.raises(InputError, match=r"weights of 16 bits on (digital|cluster); c-array has up to 8"):
        c_arrays.files(replace(about, soc=soc.model_copy(update={"cores": wide})))


# -- the command ---------------------------------------------------------------------------------------------------

Run = Any


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two mappings, one of them on both of DIANA's cores."""
    out = tmp_path_factory.mktemp("runs") / "run"
    config = TrainingConfig(
        soc=find_soc("diana"), workload="digits_cnn", points=0, strengths=(0.5,), epochs=6, batch=32, out=out,
        manual=("all_8bit",),
    )  # fmt: skip
    search_trained(config, lambda done, total, what: None)
    return out


def told(folder: Path) -> dict[str, float]:
    result = json.loads((folder / "result.json").read_text())
    return {one["name"]: one["accuracy"] for part in ("points", "known") for one in result[part]}


@pytest.mark.parametrize("point", ["strength_0.5", "all_8bit"])
def test_what_is_exported_is_as_accurate_as_the_run_says(point: str, finished: Path, tmp_path: Path, run: Run) -> None:
    """To 0.1 points, of all test images: the integers, and the ONNX file as a runtime executes it."""
    status, said, _ = run("export", finished, point, "--format", "onnx-qdq", "--out", tmp_path / "onnx")
    assert status == 0 and f"{point}: accuracy " in said
    status, *_ = run("export", finished, point, "--out", tmp_path / "json", "--quiet")
    found = json.loads((tmp_path / "json" / "network.json").read_text())
    wanted = told(finished)[point]
    assert found["accuracy"] == wanted and abs(found["integer_accuracy"] - wanted) <= 1e-3
    plan = json.loads((tmp_path / "onnx" / "plan.json").read_text())
    assert plan == json.loads((tmp_path / "json" / "plan.json").read_text())
    forms = {layer["layer"]: layer["forms"] for layer in found["layers"]}
    cores = {name: [p["core"] for form in some for p in form["parts"]] for name, some in forms.items()}
    assert cores == {layer["layer"]: [p["core"] for p in layer["parts"]] for layer in plan["layers"]}
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install 'cosoc[dev]')")
    test = read_run(finished).data.test
    x, y = test.items(torch.arange(len(test)))
    session = runtime.InferenceSession(str(tmp_path / "onnx" / "network.onnx"), providers=["CPUExecutionProvider"])
    (outputs_of,) = session.run(None, {"input": x.numpy()})
    assert abs((outputs_of.argmax(1) == y.numpy()).mean() - wanted) <= 1e-3


def test_every_format_is_written_whole_or_not_at_all(finished: Path, tmp_path: Path, run: Run) -> None:
    files = {"c-array": {"network.h", "network.c"}, "torch": {"network.pt2"}}
    for form, names in files.items():
        status, *_ = run("export", finished, "all_8bit", "--format", form, "--out", tmp_path / form, "-q")
        assert status == 0 and {one.name for one in (tmp_path / form).iterdir()} == names | {"plan.json"}
    status, _, said = run("export", finished, "all_8bit", "--out", tmp_path / "torch")
    assert status == 2 and "is not an empty folder" in said
    status, _, said = run("export", finished, "point_9", "--out", tmp_path / "new")
    assert status == 2 and "has no mapping 'point_9'; there is strength_0.5, all_8bit" in said
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(files)

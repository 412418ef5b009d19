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
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parent))
import network_reader
from decided_nets import SHAPE, cut, decided, drawn

from cosoc.inputs import soc_of
from cosoc.search.exports import c_arrays, onnx_qdq, torch_module
from cosoc.search.exports.exported import Exported, exported, outputs, plain
from cosoc.search.exports.network_file import NetworkFile
from cosoc.search.spaces.channels import MixedNet, to_mapping
from cosoc.search.training.calibrated import Calibration
from cosoc.search.training.data import Data
from cosoc.search.training.integers import quantised_image
from cosoc.search.training.nets import VisionTransformer
from cosoc.search.training.parts import Split
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.search.training.task import classification, regression
from cosoc.search.training.trained import read_run
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc

CASES = [
    ("digits_cnn", "diana"), ("resnet8", "darkside"), ("tiny_vit", "gemmini"), ("tiny_tokens", "diana"),
    ("bert_base_block", "hetero"), ("gpt3_block_prefill", "diana"), ("gpt3_block_decode", "gemmini"),
]  # fmt: skip
ROWS = {"cores.analog.rows": "144", "cores.analog.min_channels": "1"}  # so that a layer takes two arrays
N = 24  # images


def data_of(name: str) -> Data:
    x, y, task = drawn(name, N, torch.Generator().manual_seed(1)), torch.arange(N) % 10, classification(10)
    if "block" in name:  # as many vectors as it reads; or those of a token, its key and its value
        width, _, tokens = SHAPE[name]
        y, task = torch.zeros(N, 3 if name.endswith("decode") else tokens, width), regression(width)
    part, means = Split(x, y), (0.0,) * SHAPE[name][0]
    return Data("drawn", "", tuple("0123456789"), part, part, part, means, means, task)


@pytest.fixture(scope="module", params=CASES, ids=str)
def one(request: pytest.FixtureRequest) -> tuple[Exported, MixedNet]:
    """Channels on digital and analog cores, these read by converters; cut between operators; transformers: of images,
    of numbers of a table's rows, and blocks whose outputs are vectors."""
    name, chip = request.param
    soc = soc_of(chip, ROWS if chip == "diana" else {})
    if chip == "darkside":
        net, workload, mapping = cut(name, chip, "conv-dw", 0)
    else:
        net, workload, chosen = decided(name, soc, 0, 6 if name == "digits_cnn" else 0)
        mapping = to_mapping(net, chosen, "overlapped", "point_1")
    return exported("point_1", net, mapping, workload, soc, data_of(name), 0.5), net


def images(one: Exported) -> torch.Tensor:
    return one.data.test.items(torch.arange(N))[0]


def by_integers(one: Exported, net: MixedNet) -> Any:
    """Outputs of all images."""
    return outputs(one.network, images(one), net.output_order, one.rows)


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
        "static double scores[COSOC_OUTPUTS * COSOC_PIXELS];\nint main(void) {\n  int value;\n  for (;;) {\n"
        "    for (int i = 0; i < COSOC_INPUTS; i++) {\n"
        '      if (scanf("%d", &value) != 1) return 0;\n      x[i] = (int16_t)value;\n    }\n'
        "    cosoc_run(x, sums);\n    cosoc_scores(sums, scores);\n"
        '    for (int i = 0; i < COSOC_OUTPUTS * COSOC_PIXELS; i++) printf("%.17g ", scores[i]);\n'
        '    printf("\\n");\n  }\n}\n'
    )
    words = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "main.c", "network.c", "-o", "run", "-lm"]
    subprocess.run([compiler, *words], cwd=tmp_path, check=True, timeout=120)
    drawn_of = quantised_image(about.network, images(about)[:4])
    fed = "\n".join(" ".join(map(str, image.reshape(-1).tolist())) for image in drawn_of)
    told = subprocess.run([tmp_path / "run"], input=fed, capture_output=True, text=True, check=True, timeout=120).stdout
    found = np.array([[float(word) for word in line.split()] for line in told.splitlines()])
    assert np.array_equal(found, by_integers(about, net)[:4])


def test_a_torch_program_computes_the_integers(one: tuple[Exported, MixedNet]) -> None:
    """Read back without anything of ours, for a batch of another size than it was made with; of blocks, whose operators
    are those of the other transformers, what is written computes, as writing takes seconds."""
    about, net = one
    if "block" in about.workload.name:
        program: Any = torch_module.IntegerModule(about.network, torch.from_numpy(about.order), about.rows)
    else:
        program = torch.export.load(io.BytesIO(torch_module.program(about))).module()
    found = program(images(about)[:5]).numpy()
    assert np.array_equal(found, by_integers(about, net)[:5])


def test_onnx_computes_the_network(one: tuple[Exported, MixedNet]) -> None:
    """Executed in floating point of 24 bits, by a runtime that may rewrite the graph: outputs are those of the integers
    to its rounding, unless that puts a sum which lies halfway into the next step."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install 'cosoc[dev]')")
    pytest.importorskip("onnx")
    about, net = one
    session = runtime.InferenceSession(onnx_qdq.model(about), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": images(about).numpy()})
    wanted = by_integers(about, net)
    near = np.abs(found - wanted) < 1e-5 * np.abs(wanted).max()
    assert near.mean() > 0.9
    assert (found.argmax(1) == wanted.argmax(1))[near.all(1)].all()


def test_json_says_all_that_is_needed_to_compute(one: tuple[Exported, MixedNet]) -> None:
    """A reader of nothing but the file, which holds it to its schema, computes the network to the last digit; weights
    are within the bits that the file says of them, and each layer's channels are on some core."""
    about, net = one
    text = json.dumps(plain(about))
    assert np.allclose(network_reader.run(text, images(about)[:3].double().numpy()), by_integers(about, net)[:3], 1e-12)
    for layer in json.loads(text)["layers"]:
        parts = [part for form in layer["forms"] for part in form["parts"]]
        assert sum(part["channels"] for part in parts) == layer["k"]
        for part in parts:
            if "weights" in part:
                assert np.abs(part["weights"]).max() <= 2 ** (part["bits"] - 1) - 1


@pytest.mark.parametrize(("before", "after", "where"), [
    ('"shift"', '"shifts"', "shift"), ('"cosoc_network": 1', '"cosoc_network": 2', "cosoc_network"),
])  # fmt: skip
def test_a_file_of_other_keys_is_not_this_format(
    before: str, after: str, where: str, one: tuple[Exported, MixedNet]
) -> None:  # fmt: skip
    with pytest.raises(ValidationError, match=where):
        NetworkFile.model_validate_json(json.dumps(plain(one[0])).replace(before, after))


def test_a_schedule_that_does_not_compute_the_network_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosoc.sim.integers.network import Rescale

    net, workload, chosen = decided("digits_cnn", find_soc("diana"), 0)
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
    with pytest.raises(
        InputError, match=r"weights of 16 bits on (digital|cluster|\w*gemmini|host); c-array has up to 8"
    ):
        c_arrays.files(replace(about, soc=soc.model_copy(update={"cores": wide})))


# -- the command ---------------------------------------------------------------------------------------------------

Run = Any


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two mappings, one of them on both of DIANA's cores."""
    out = tmp_path_factory.mktemp("runs") / "run"
    config = TrainingConfig(
        soc=find_soc("diana"), workload="digits_cnn", points=0, strengths=(0.5,), epochs=2, train_images=192,
        manual=("all_8bit",), out=out,
    )  # fmt: skip
    search_trained(config, lambda done, total, what: None)
    return out


def told(folder: Path) -> dict[str, float]:
    result = json.loads((folder / "result.json").read_text())
    return {one["name"]: one["accuracy"] for part in ("points", "known") for one in result[part]}


@pytest.mark.parametrize("point", ["strength_0.5", "all_8bit"])
def test_what_is_exported_is_as_accurate_as_the_run_says(point: str, finished: Path, tmp_path: Path, run: Run) -> None:
    """To 0.1 points, of all test images: the integers, and the ONNX file as a runtime executes it."""
    status, said, _ = run(
        "export", finished, point, "--format", "onnx-qdq", "--out", tmp_path / "onnx", "--images", "1"
    )
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
    assert abs(executed((tmp_path / "onnx" / "network.onnx").read_bytes(), read_run(finished).data) - wanted) <= 1e-3


def executed(model: bytes, data: Data) -> float:
    """The accuracy of the test part as ONNX Runtime computes it."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install 'cosoc[dev]')")
    x, y = data.test.items(torch.arange(len(data.test)))
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (outputs_of,) = session.run(None, {"input": x.numpy()})
    return float((outputs_of.argmax(1) == y.numpy()).mean())


def test_a_transformer_behind_converters_is_as_accurate_as_its_run_says(tmp_path: Path) -> None:
    """Attention, norms, softmax and GELU, and analog channels that are read by converters: the integers, and the ONNX
    file as a runtime executes it, to 0.1 points of all test images."""
    torch.manual_seed(0)
    net = VisionTransformer(1, 10, 8, 4, 24, 1, 3)
    config = TrainingConfig(
        soc=find_soc("diana"), workload="tiny_vit", module=net, points=0, strengths=(), epochs=8, train_images=512,
        adc_bits=6, manual=("io_8bit_backbone_ternary",), out=tmp_path / "run",
    )  # fmt: skip
    search_trained(config, lambda done, total, what: None)
    about = read_run(tmp_path / "run", net)
    (one,) = about.found
    training = about.trainings(one)[0]
    found = exported(
        one.name, training.net, about.mapping(one), about.opened.workload, about.config.soc, about.data, training.metric
    )
    assert any(layer.converted is not None for layer in found.network.layers.values())
    assert training.metric > 0.2  # ten classes: more than chance
    assert abs(found.integer_accuracy - training.metric) <= 1e-3
    assert abs(executed(onnx_qdq.model(found), about.data) - training.metric) <= 1e-3


def test_every_format_is_written_whole_or_not_at_all(
    finished: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Of a torch program it is the file alone that counts here: what is in it is computed with above."""
    monkeypatch.setattr(torch_module, "program", lambda one: b"program")
    files = {"c-array": {"network.h", "network.c"}, "torch": {"network.pt2"}}
    for form, names in files.items():
        status, *_ = run(
            "export", finished, "all_8bit", "--format", form, "--out", tmp_path / form, "-q", "--images", "1"
        )
        assert status == 0 and {one.name for one in (tmp_path / form).iterdir()} == names | {"plan.json"}
    status, _, said = run("export", finished, "all_8bit", "--out", tmp_path / "torch")
    assert status == 2 and "is not an empty folder" in said
    status, _, said = run("export", finished, "point_9", "--out", tmp_path / "new")
    assert status == 2 and "has no mapping 'point_9'; there is strength_0.5, all_8bit" in said
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(files)


def test_what_was_calibrated_is_exported_alike(finished: Path, tmp_path: Path) -> None:
    """Without training: ranges and biases from a few images, of the float network that the run above began with."""
    out = tmp_path / "calibrated"
    config = TrainingConfig(
        soc=find_soc("diana"), workload="digits_cnn", weights=finished / "weights" / "warm_up.pt", calibrate_only=True,
        points=0, manual=("io_8bit_backbone_ternary",), calibration=Calibration(32), train_images=192, out=out,
    )  # fmt: skip
    search_trained(config, lambda done, total, what: None)
    about = read_run(out)
    (one,) = about.found
    training = about.trainings(one)[0]
    found = exported(
        one.name, training.net, about.mapping(one), about.opened.workload, about.config.soc, about.data, training.metric
    )
    assert abs(found.integer_accuracy - training.metric) <= 1e-3
    cores = {part["core"] for layer in plain(found)["layers"] for form in layer["forms"] for part in form["parts"]}
    assert {"digital", "analog"} <= cores

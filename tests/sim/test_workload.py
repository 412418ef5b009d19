"""Do shapes count what they should, and does a workload file say exactly what it means?"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosoc.sim.errors import InputError
from cosoc.sim.files.reading import Reading
from cosoc.sim.files.workload_file import (
    LayerLine,
    dump_workload,
    faults,
    find_workload,
    json_schema,
    list_workloads,
    load_workload,
)
from cosoc.sim.model.placement import tensor_bytes
from cosoc.sim.model.workload import INPUT, OPS, Layer, Workload

GOOD = """\
name: small
input: {c: 3, iy: 8, ix: 8}
outputs: [fc]
layers:
- {name: conv1, op: conv, inputs: [input], k: 4, c: 3, oy: 8, ox: 8, iy: 8, ix: 8, fy: 3, fx: 3, pad_y: 1, pad_x: 1}
- {name: conv2, op: conv, inputs: [conv1], k: 4, c: 4, oy: 8, ox: 8, iy: 8, ix: 8}
- {name: sum, op: add, inputs: [conv2, conv1], k: 4, c: 4, oy: 8, ox: 8, iy: 8, ix: 8}
- {name: pool, op: avg_pool, inputs: [sum], k: 4, c: 4, iy: 8, ix: 8, fy: 8, fx: 8}
- {name: fc, op: conv, inputs: [pool], k: 10, c: 4}
"""


def load_text(tmp_path: Path, text: str) -> Workload:
    path = tmp_path / "w.yaml"
    path.write_text(text, encoding="utf-8")
    return load_workload(path)


# ------------------------------------------------------------------------------------------------ counting


@settings(max_examples=60, deadline=None)
@given(k=st.integers(1, 3), c=st.integers(1, 3), groups=st.integers(1, 2), out=st.integers(1, 3), f=st.integers(1, 3))
def test_macs_are_those_of_the_loops(k: int, c: int, groups: int, out: int, f: int) -> None:
    """Closed forms against the loop nest of a grouped convolution, counted one multiplication at a time."""
    layer = Layer(
        "l", "conv", (INPUT,), k * groups, c * groups, out, out, out + f - 1, out + f - 1, f, f, groups=groups
    )
    same_group = [(m, n) for m, n in product(range(layer.k), range(layer.c)) if m // k == n // c]
    assert layer.macs == sum(1 for _ in product(same_group, range(out), range(out), range(f), range(f)))
    assert layer.weights == sum(1 for _ in product(same_group, range(f), range(f)))


@pytest.mark.parametrize(("op", "multiplies"), [(op, op in ("conv", "matmul")) for op in OPS])
def test_only_products_have_macs(op: str, multiplies: bool) -> None:
    assert (Layer("l", op, (INPUT,), 8, 8, 4, 4, 4, 4).macs > 0) is multiplies


def test_input_window_of_a_strided_dilated_filter() -> None:
    """Rows touched by 3 outputs of a 3-row filter, stride 2, dilation 2, drawn by hand: rows 0..8."""
    layer = Layer("l", "conv", (INPUT,), 1, 1, 3, 1, 9, 1, fy=3, stride_y=2, dilation_y=2)
    touched = {o * 2 + f * 2 for o in range(3) for f in range(3)}
    assert layer.input_rows(3) == max(touched) + 1 == 9


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("out", "wanted"), [((4, 4), (2, 1)), ((2, 2), (2, 1)), ((4, 1), (2, 2)), ((1, 4), (1, 1)), ((1, 1), (1, 1))]
)
def test_along_an_axis_with_one_output_no_step_is_made(out: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Steps of 2 rows and 1 column; the one that is never made is as the other."""
    layer = Layer("l", "conv", (INPUT,), 4, 4, *out, 9, 9, 2, 2, stride_y=2, stride_x=1)
    assert layer.strides == wanted


def test_weights_are_counted_in_whole_numbers() -> None:
    """8 outputs of 12 inputs in 4 groups under 3 x 3 taps: 8 x 3 x 9, which a file has without a point."""
    layer = Layer("l", "conv", (INPUT,), 8, 12, 4, 4, 4, 4, 3, 3, pad_y=1, pad_x=1, groups=4)
    assert repr(layer.weights) == "216"


def test_what_is_written_into_a_state_has_no_room_of_its_own() -> None:
    """A step of a decoder: its keys go into the cache of 64 bytes that is there."""
    layers = (Layer("keys", "conv", (INPUT,), 8, 8, into="cache"), Layer("out", "conv", ("cache",), 4, 64))
    step = Workload("step", (8, 1, 1), layers, ("out",), "", (), (("cache", 64),))
    assert [tensor_bytes(step, name) for name in ("keys", "cache", "out")] == [0, 64, 4]


def test_a_good_file_is_read(tmp_path: Path) -> None:
    w = load_text(tmp_path, GOOD)
    assert (w.name, w.input_shape, w.outputs) == ("small", (3, 8, 8), ("fc",))
    assert w["sum"].inputs == ("conv2", "conv1")
    assert w.readers("conv1") == ("conv2", "sum")
    assert w.macs == 8 * 8 * (4 * 3 * 9 + 4 * 4) + 10 * 4


# One mistake in a good file: what is replaced, by what (the caret marks where the message must point), the message.
BAD = {
    "unknown key": ("k: 10, c: 4}", "k: 10, c: 4, ^kernel: 3}", "layers.4.kernel: unknown key; known here: name"),
    "missing key": ("{name: fc, op: conv,", "^{name: fc,", "layers.4.op: required key is missing"),
    "duplicate key": ("k: 10, c: 4}", "k: 10, c: 4, ^c: 4}", "layers.4.c: key given twice"),
    "out of range": ("k: 10,", "k: ^0,", "layers.4.k: found 0: must be 1 to 2^24 elements"),
    "not a number": ("k: 10,", "k: ^ten,", "layers.4.k: found 'ten'"),
    "boolean for a number": ("k: 10,", "k: ^true,", "layers.4.k: found True"),
    "unknown operator": ("op: add", "op: ^plus", "'conv', 'matmul', 'add'"),
    "unknown input": ("[pool]", "[^pol]", "reads 'pol', which does not precede it; known so far:"),
    "input comes later": ("[conv2, conv1]", "[^fc, conv1]", "it comes later: move it up"),
    "name taken": ("name: conv2", "name: ^conv1", "'conv1' is taken"),
    "wrong channels": ("k: 10, c: 4}", "k: 10, c: ^8}", "c*iy*ix = 8*1*1 = 8, but pool gives 4 elements"),
    "wrong rows": ("3, oy: 8,", "3, oy: ^5,", "a window of 3 with stride 1 and padding 1 give 7 to 9"),
    "groups do not divide": ("pad_x: 1}", "pad_x: 1, groups: ^3}", "found 3; it must divide c = 3 and k = 4"),
    "sum of unequal sizes": ("[conv2, conv1]", "^[conv2, input]", "input gives 192 elements; this sum has"),
    "unread layer": (
        "- {name: fc",
        "- ^{name: idle, op: conv, inputs: [pool], k: 1, c: 4}\n- {name: fc",
        "nobody reads 'idle'",
    ),
    "unknown output": ("outputs: [fc]", "outputs: [^fcc]", "'fcc' is no layer of this workload; its last is 'fc'"),
    "no layers": (GOOD[GOOD.index("layers:") :], "layers: ^[]\n", "layers: List should have at least 1 item"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_to_the_column(tmp_path: Path, case: str) -> None:
    """The message names file, line, column and path, what was found and what is right, on one line."""
    old, new, message = BAD[case]
    assert GOOD.count(old) == 1
    before, after = GOOD.replace(old, new).split("^")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    with pytest.raises(InputError) as caught:
        load_text(tmp_path, before + after)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'w.yaml'}:{line}:{column}: "), said
    assert message in said
    assert "\n" not in said


def test_file_lines_know_what_layers_know() -> None:
    """The file's keys and defaults are Layer's own, in its order."""
    ours = {name: (None if f.is_required() else f.default) for name, f in LayerLine.model_fields.items()}
    required = ("name", "op", "inputs", "k", "c")
    assert ours == {f.name: None if f.name in required else f.default for f in fields(Layer)}
    assert list(ours) == [f.name for f in fields(Layer)]


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@settings(max_examples=80, deadline=None)
@given(name=NAMES | st.sampled_from(["0", "1e9", "no", "on", "null", "~", "- a", "a: b", "a#b", "x ", "0x1f", "1_0"]))
def test_any_name_survives_the_file(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """torch names layers 0, 1, 2 in a Sequential; YAML would read numbers. Round trip of every printable name."""
    if name == INPUT:
        return
    layer = Layer(name, "conv", (INPUT,), 2, 3, bias=False, weight_bits=2, activation="relu6")
    workload = Workload(name, (3, 1, 1), (layer,), (name,), source=name)
    assert load_text(tmp_path_factory.mktemp("w"), dump_workload(workload)) == workload


def test_faults_are_all_named_at_once() -> None:
    """Two mistakes in one workload give two faults; none gives none."""
    good = find_workload("resnet8")
    assert faults(good) == []
    layers = list(good.layers)
    layers[1] = replace(layers[1], groups=3)
    layers[4] = replace(layers[4], oy=15)
    places = [place for place, _ in faults(replace(good, layers=tuple(layers)))]
    assert ("layers", 1, "groups") in places
    assert ("layers", 4, "oy") in places


# ------------------------------------------------------------------------------------------------ by name


def test_every_builtin_is_consistent_and_round_trips(tmp_path: Path) -> None:
    assert {"resnet8", "resnet20", "resnet18", "dscnn", "autoencoder", "resnet18_segment"} <= set(list_workloads())
    for name in list_workloads():
        workload = find_workload(name)
        assert workload.name == name
        assert load_text(tmp_path, dump_workload(workload)) == workload


def test_a_builtin_needs_no_torch() -> None:
    """Reading a built-in by name loads no torch: it takes seconds, and simulating does not need it."""
    code = "import sys, cosoc.sim.files.workload_file as w; w.find_workload('resnet20'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_file_is_found_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert find_workload(str(path)).name == "small"


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet21", None, "no workload named 'resnet21'; there is"),
        ("absent.onnx", None, "absent.onnx: "),
        ("absent.yaml", None, "absent.yaml: no such file"),
        ("resnet8", (1, 3, 32, 32), "resnet8 has its own input shape"),
        ("pkg.nets:make", None, "pkg.nets:make needs an input shape"),
        ("pkg.nets:make", (32,), "input shape 32: the batch and then the sizes are needed"),
    ],
)
def test_what_cannot_be_found_is_said(name: str, shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        find_workload(name, Reading((("", shape),)) if shape else None)


def test_schema_offers_the_operators() -> None:
    """An editor that reads the schema completes `op:` with the operators there are."""
    assert str(list(OPS)) in str(json_schema())


def test_layers_that_share_weights_have_as_many_and_some() -> None:
    """A second reading of 8 x 8 weights: by as many, by more, and by a layer that has none."""

    def told(second: Layer) -> list[str]:
        first = Layer("first", "conv", (INPUT,), 8, 8)
        return [why for _, why in faults(Workload("n", (8, 1, 1), (first, second), ("second",)))]

    second = Layer("second", "conv", ("first",), 8, 8, weights_of="first")
    assert told(second) == []
    assert told(replace(second, k=16)) == ["second: second has 128 weights, first has 64"]
    (why,) = told(Layer("second", "max_pool", ("first",), 8, 8, weights_of="first"))
    assert "weights" in why

"""Workloads as YAML files, and workloads by name: built-in, file, or a user's ONNX file or torch module.

One line a layer; what a line leaves out has Layer's default:

    name: two_layers
    source: where it comes from
    input: {c: 3, iy: 32, ix: 32}
    outputs: [fc]
    layers:
    - {name: conv1, op: conv, inputs: [input], k: 16, c: 3, oy: 32, ox: 32, iy: 32, ix: 32, fy: 3, fx: 3, ...}
    - {name: fc, op: conv, inputs: [conv1], k: 10, c: 16384}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cosoc.sim.errors import InputError
from cosoc.sim.files.mending import WHOLE, Mended, Place
from cosoc.sim.files.names import list_workloads, workload_folder
from cosoc.sim.files.reading import Reading
from cosoc.sim.files.yamlfile import load_model
from cosoc.sim.model.mobilenets import by_name
from cosoc.sim.model.units import Bits, Elements, ElementsOr0
from cosoc.sim.model.workload import INPUT, OPS, SLICE, Layer, Plane, Workload, beyond_counting

Name = Annotated[str, Field(min_length=1)]
Fault = tuple[Place, str]
Sizes = dict[str, int | None]  # elements of what precedes, by name
_KeyFaults = Iterator[tuple[str, str]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PlaneLine(_Strict):
    """What a row is made of where it is a plane of a volume; names and defaults are those of Plane."""

    iy: Elements  # input rows of a plane
    ix: Elements  # input columns of a plane
    oy: Elements  # output rows of a plane
    ox: Elements  # output columns of a plane
    fy: Elements = 1  # filter rows
    fx: Elements = 1  # filter columns
    stride_y: Elements = 1  # of the filter, in input rows
    stride_x: Elements = 1  # of the filter, in input columns
    pad_y: ElementsOr0 = 0  # rows above a plane
    pad_x: ElementsOr0 = 0  # columns left of a plane
    dilation_y: Elements = 1  # input rows from tap to tap
    dilation_x: Elements = 1  # input columns from tap to tap


class LayerLine(_Strict):
    """One layer as a file says it; names and defaults are those of Layer."""

    FORMER: ClassVar[dict[str, str]] = {"act_bits": "remove the key: activations have the format of the core"}

    name: Name  # of the layer, each once
    # what it computes
    op: Literal[OPS]  # type: ignore[valid-type]
    inputs: Annotated[list[Name], Field(min_length=1)]  # layers whose outputs it reads, or `input`
    k: Elements  # output channels
    c: Elements  # input channels
    oy: Elements = 1  # output rows
    ox: Elements = 1  # output columns
    iy: Elements = 1  # input rows
    ix: Elements = 1  # input columns
    fy: Elements = 1  # filter rows
    fx: Elements = 1  # filter columns
    stride_y: Elements = 1  # of the filter, in input rows
    stride_x: Elements = 1  # of the filter, in input columns
    pad_y: ElementsOr0 = 0  # rows above the input
    pad_x: ElementsOr0 = 0  # columns left of the input
    dilation_y: Elements = 1  # input rows from tap to tap
    dilation_x: Elements = 1  # input columns from tap to tap
    groups: Elements = 1  # of a convolution, each with its own channels
    fn: str = ""  # the source operator's own name, for messages
    activation: str = ""  # that is folded into it
    bias: bool = True  # whether it adds one to each output channel
    weight_bits: Bits | None = None  # as the network has its weights; a core without that format takes its own
    alternative: LayerLine | None = None  # another operator that may compute any of the same output channels
    n: Elements = 1  # images of the batch
    rows: ElementsOr0 = 0  # of the table that its inputs pick from, of an embedding
    weights_of: str = ""  # the layer before whose weights it computes with
    into: str = ""  # the state that its outputs are appended to, or replace
    constants: ElementsOr0 = 0  # elements that it reads beside its inputs, of an operator without weights
    plane: PlaneLine | None = None  # what its rows are made of, if they are planes of a volume

    def layer(self) -> Layer:
        own = self.model_dump(exclude={"alternative", "plane"}) | {"inputs": tuple(self.inputs)}
        plane = Plane(**self.plane.model_dump()) if self.plane else None
        return Layer(**own, alternative=self.alternative.layer() if self.alternative else None, plane=plane)


class InputLine(_Strict):
    """The network's input: channels, rows, columns."""

    c: Elements  # channels
    iy: Elements = 1  # rows
    ix: Elements = 1  # columns


class WorkloadFile(_Strict):
    """A whole workload file. more_inputs: what it reads beside `input`, and states: what lives from one inference to
    the next, each with its elements."""

    name: Name  # by which results call it
    source: str = ""  # where it comes from
    input: InputLine  # shape of the network's input
    more_inputs: dict[Name, Elements] = {}  # what the network reads beside `input`, with its elements
    states: dict[Name, Elements] = {}  # what lives from one inference to the next, with its elements
    outputs: Annotated[list[Name], Field(min_length=1)]  # layers whose results leave the network
    layers: Annotated[list[LayerLine], Field(min_length=1)]  # in an order in which every input precedes its readers

    def workload(self) -> Workload:
        """As the simulator takes it."""
        shape = (self.input.c, self.input.iy, self.input.ix)
        layers = tuple(line.layer() for line in self.layers)
        beside = tuple(self.more_inputs.items()), tuple(self.states.items())
        return Workload(self.name, shape, layers, tuple(self.outputs), self.source, *beside)

    def problems(self, mended: Mended = WHOLE) -> list[Fault]:
        """What the types alone do not say. mended: what the file has otherwise, and what follows is not told of."""
        return faults(self.workload(), mended)


# ---------------------------------------------------------------------------------------------- consistency


def faults(workload: Workload, mended: Mended = WHOLE) -> list[Fault]:
    """Everything inconsistent in a workload, as (place in its file, what was found and what would be right). mended:
    what its file has otherwise; what may follow from that, or from a fault that is told, is left out."""
    found = [*_outside_faults(workload, mended)]
    sizes: dict[str, int | None] = {INPUT: None if mended.touches(("input",)) else _product(workload.input_shape)}
    sizes |= dict(workload.received) | dict(workload.states)  # None: not known, as something is wrong there
    sizes |= {str(name): None for key in ("more_inputs", "states") for name in mended.entries(key)}
    n = Counter(layer.n for layer in workload.layers).most_common(1)[0][0]
    unnamed: list[tuple[str, Fault]] = []  # names that nothing has, each with where it is read
    lost = sum(place[0] == "layers" and place[2:] == ("name",) for place in mended.places)
    owners: dict[str, Layer] = {}
    for i, layer in enumerate(workload.layers):
        place: Place = ("layers", i)
        own = list[tuple[str, str]]()
        if layer.name in sizes:
            lost += 1
            found.append(((*place, "name"), f"{layer.name!r} is taken; every layer needs a name of its own"))
        unknown = list(_unknown_inputs(layer, place, sizes, workload.layers[i:]))
        unnamed += unknown
        broken = i in mended.entries("layers")
        if not broken and (wrong := beyond_counting(layer)):
            found.append((place, f"{layer.name}: {wrong}"))
        if not broken and not unknown:
            own += _layer_faults(layer, sizes)
            if layer.alternative is not None:
                own += [(f"alternative.{key}", what) for key, what in _alternative_faults(layer, sizes)]
        if not broken and layer.n != n:
            own.append(("n", f"found {layer.n}; a batch is the same for all layers, and the others have {n}"))
        if not broken and mended.entries("layers").isdisjoint(
            j for j, other in enumerate(workload.layers[:i]) if other.name == layer.weights_of
        ):
            own += _shared_faults(layer, workload, owners, mended)
        found += [((*place, *key.split(".")), f"{layer.name}: {what}") for key, what in own]
        owners[layer.name] = layer
        unsure = any(key in ("k", "oy", "ox", "n") or layer.op not in ("conv", "matmul") for key, _ in own)
        outputs = None if broken or unsure else layer.outputs // layer.n
        sizes.setdefault(layer.name, dict(workload.states).get(layer.into, outputs))  # of one image
    if len({name for name, _ in unnamed}) > lost:  # else those whose names are wrong are meant
        found += [fault for _, fault in unnamed]
    return [*found, *_output_faults(workload, sizes, bool(unnamed or lost), mended)]


def _unknown_inputs(layer: Layer, place: Place, sizes: Sizes, rest: Sequence[Layer]) -> Iterator[tuple[str, Fault]]:
    """What a layer reads that does not precede it: the name, and what is said. rest: itself and what comes later."""
    asked = [((*place, "inputs", j), name) for j, name in enumerate(layer.inputs)]
    if layer.alternative is not None:
        asked += [((*place, "alternative", "inputs", j), n) for j, n in enumerate(layer.alternative.inputs)]
    later = {other.name for other in rest}
    for where, name in asked:
        if name not in sizes:
            known = "it comes later: move it up" if name in later else f"known so far: {', '.join(list(sizes)[-6:])}"
            yield name, (where, f"{layer.name} reads {name!r}, which does not precede it; {known}")


def _outside_faults(workload: Workload, mended: Mended) -> Iterator[Fault]:
    """Names of what comes from outside must be different; states must be of use."""
    taken = {INPUT}
    for key, tensors in (("more_inputs", workload.received), ("states", workload.states)):
        for name, _ in tensors:
            if name in taken:
                yield ((key, name), f"{name!r} is taken; every tensor needs a name of its own")
            taken.add(name)
    used = {name for layer in workload for name in (*layer.reads, layer.into)}
    for name, _ in workload.states:
        if name not in used and not mended.names:
            yield (("states", name), f"no layer reads or writes {name!r}; take it out")


def _shared_faults(layer: Layer, workload: Workload, owners: dict[str, Layer], mended: Mended) -> _KeyFaults:
    """weights_of names an earlier layer that has as many weights of its own, into a state that is large enough."""
    owner = owners.get(layer.weights_of)
    if layer.weights_of and (owner is None or owner.weights_of):
        yield "weights_of", f"found {layer.weights_of!r}; it must be an earlier layer that has weights of its own"
    elif owner is not None and (owner.weights != layer.weights or not layer.weights):
        yield "weights_of", f"{layer.name} has {layer.weights} weights, {owner.name} has {owner.weights}"
    state = dict(workload.states).get(layer.into)
    if layer.into and state is None and not mended.lacks("states", layer.into):
        yield "into", f"found {layer.into!r}; it must be one of states"
    elif state is not None and layer.outputs // layer.n > state and layer.into not in mended.entries("states"):
        yield "into", f"writes {layer.outputs // layer.n} elements into {layer.into}, which has {state}"
    if bool(layer.rows) != (layer.op == "gather"):
        yield "rows", f"found {layer.rows}; it is the rows of the table of a gather, and of nothing else"


def _output_faults(workload: Workload, sizes: Sizes, misnamed: bool, mended: Mended) -> Iterator[Fault]:
    """misnamed: some layer has a wrong name, or reads one; that nobody reads another may follow."""
    for j, name in enumerate(workload.outputs):
        if (name == INPUT or name not in sizes) and not mended.touches(("outputs", j)):
            misnamed = True
            yield (("outputs", j), f"{name!r} is no layer of this workload; its last is {workload.layers[-1].name!r}")
    read = {name for layer in workload.layers for name in layer.reads} | set(workload.outputs)
    for i, layer in enumerate(workload.layers):
        if layer.name not in read and not layer.into and not misnamed and not mended.names:
            yield (("layers", i), f"nobody reads {layer.name!r}; name it under outputs or take it out")
    for name, count in Counter(workload.outputs).items():
        if count > 1:
            yield ("outputs",), f"{name!r} stands there {count} times; keep one"


WITH_CONSTANTS = ("add", "concat", "softmax", "norm", "eltwise")


def _layer_faults(layer: Layer, sizes: Sizes) -> _KeyFaults:
    layer = replace(layer, n=1)  # sizes are those of one image
    yield from _window_faults(layer)
    yield from _group_faults(layer)
    if layer.constants and (layer.op not in WITH_CONSTANTS or layer.fn == SLICE):
        yield "constants", f"found {layer.constants} of {layer.op}; those are of {', '.join(WITH_CONSTANTS)}"
    if min(layer.k, layer.oy, layer.ox) < 1:
        yield "k", f"k*oy*ox = {layer.k}*{layer.oy}*{layer.ox}; a layer gives at least one element"
    reads = [size for name in layer.inputs if (size := sizes[name])]
    if len(reads) == len(layer.inputs):  # what reads nothing is not to blame
        yield from _CHECKS.get(layer.op, _pointwise)(layer, reads)


def _alternative_faults(layer: Layer, sizes: Sizes) -> _KeyFaults:
    """An alternative must be a convolution that gives the same outputs as another one, and have none of its own."""
    other = layer.alternative
    assert other is not None
    yield from _layer_faults(other, sizes)
    if (layer.op, other.op) != ("conv", "conv"):
        yield "op", f"found {other.op} in place of {layer.op}; both must be conv"
    if (other.k, other.oy, other.ox) != (layer.k, layer.oy, layer.ox):
        what = f"k, oy, ox = {other.k}, {other.oy}, {other.ox}"
        yield "k", f"found {what}; its layer has {layer.k}, {layer.oy}, {layer.ox}"
    if other.alternative is not None:
        yield "alternative", "an alternative has none of its own; take this one out"


def _window_faults(layer: Layer) -> _KeyFaults:
    """Output rows and columns must follow from input, filter, stride and padding; the end may be padded or unread."""
    if layer.op not in ("conv", "max_pool", "avg_pool"):
        if layer.plane is not None:
            yield "plane", f"means nothing for {layer.op}; convolutions and pools have windows over planes"
        return
    yield from _sides(layer)
    plane = layer.plane
    if plane is None:
        return
    made = (("ix", plane.iy * plane.ix), ("ox", plane.oy * plane.ox), ("fx", plane.fy * plane.fx))
    for key, size in made:
        if size != getattr(layer, key):
            yield "plane", f"{key[0]}y*{key[0]}x = {size}; {key} of the layer is {getattr(layer, key)}"
    for key, what in _sides(plane):
        yield "plane", f"{key}: {what}"


def _sides(layer: Layer | Plane) -> _KeyFaults:
    sides = (
        ("oy", layer.oy, layer.iy, layer.stride_y, layer.pad_y, (layer.fy - 1) * layer.dilation_y + 1),
        ("ox", layer.ox, layer.ix, layer.stride_x, layer.pad_x, (layer.fx - 1) * layer.dilation_x + 1),
    )
    for key, out, size, stride, pad, reach in sides:
        end_pad = max(pad, reach - 1)
        least, most = ((size + pad + end - reach) // stride + 1 for end in (0, end_pad))
        if not max(least, 1) <= out <= most:
            right = str(most) if least == most else f"{max(least, 1)} to {most}"
            what = f"{size} inputs under a window of {reach} with stride {stride} and padding {pad}"
            yield key, f"found {out} outputs; {what} give {right}"


def _group_faults(layer: Layer) -> _KeyFaults:
    if layer.c % layer.groups or layer.k % layer.groups:
        yield ("groups", f"found {layer.groups}; it must divide c = {layer.c} and k = {layer.k}")


def _taken(layer: Layer) -> int:
    return layer.c * layer.iy * layer.ix


def _reads_all(layer: Layer, given: int) -> _KeyFaults:
    if _taken(layer) != given:
        taken = f"c*iy*ix = {layer.c}*{layer.iy}*{layer.ix} = {_taken(layer)}"
        yield "c", f"{taken}, but {layer.inputs[0]} gives {given} elements"


def _count(layer: Layer, reads: list[int], wanted: int) -> _KeyFaults:
    if len(reads) != wanted:
        yield "inputs", f"found {len(reads)}; {layer.op} takes {wanted}"


def _conv(layer: Layer, reads: list[int]) -> _KeyFaults:
    yield from _count(layer, reads, 1)
    yield from _reads_all(layer, reads[0])


def _pool(layer: Layer, reads: list[int]) -> _KeyFaults:
    yield from _conv(layer, reads)
    if layer.k != layer.c:
        yield "k", f"found {layer.k}; a pool keeps its c = {layer.c} channels"


def _resize(layer: Layer, reads: list[int]) -> _KeyFaults:
    yield from _conv(layer, reads)
    if layer.k != layer.c:
        yield "k", f"found {layer.k}; a resize keeps its c = {layer.c} channels"


def _matmul(layer: Layer, reads: list[int]) -> _KeyFaults:
    yield from _count(layer, reads, 2)
    yield from _reads_all(layer, reads[0])
    second = layer.k * (layer.c // layer.groups)
    if len(reads) == 2 and reads[1] != second:
        yield ("k", f"k*c/groups = {second}, but {layer.inputs[1]} gives {reads[1]} elements")
    if layer.oy * layer.ox != layer.iy * layer.ix:
        yield ("ox", f"found {layer.oy}*{layer.ox} output rows; the first operand has {layer.iy}*{layer.ix}")


def _add(layer: Layer, reads: list[int]) -> _KeyFaults:
    if len(reads) < 2:
        yield "inputs", f"found {len(reads)}; a sum takes at least 2"
    for name, given in zip(layer.inputs, reads, strict=True):
        if given != layer.outputs:
            yield ("inputs", f"{name} gives {given} elements; this sum has k*oy*ox = {layer.outputs}")
    yield from _same_out_as_in(layer)


def _concat(layer: Layer, reads: list[int]) -> _KeyFaults:
    if _taken(layer) != sum(reads):
        yield ("c", f"c*iy*ix = {_taken(layer)}, but its inputs give {sum(reads)} elements")
    if layer.outputs < sum(reads):
        yield ("k", f"k*oy*ox = {layer.outputs}, but its inputs give {sum(reads)} elements")


def _pointwise(layer: Layer, reads: list[int]) -> _KeyFaults:
    """Softmax, norms and elementwise operators; an operand may be smaller and repeated, or hold several values for each
    result (the gates of a recurrent layer), a slice gives part of one."""
    if layer.fn == SLICE:
        yield from _conv(layer, reads)
        if layer.outputs > reads[0]:
            yield ("k", f"k*oy*ox = {layer.outputs} of {reads[0]} elements; a slice gives at most all")
        return
    yield from _same_out_as_in(layer)
    for name, given in zip(layer.inputs, reads, strict=True):
        whole = layer.outputs % given == 0 or (len(reads) > 1 and given % layer.outputs == 0)
        if not whole or (given != layer.outputs and len(reads) == 1):
            yield ("inputs", f"{name} gives {given} elements; {layer.op} here has k*oy*ox = {layer.outputs}")


def _gather(layer: Layer, reads: list[int]) -> _KeyFaults:
    """Its inputs are the numbers of rows, one a pixel."""
    yield from _count(layer, reads, 1)
    yield from _same_out_as_in(layer)
    if reads[0] != layer.oy * layer.ox:
        yield "ox", f"picks {layer.oy}*{layer.ox} rows, but {layer.inputs[0]} gives {reads[0]} numbers"


def _same_out_as_in(layer: Layer) -> _KeyFaults:
    if _taken(layer) != layer.outputs:
        yield "c", f"c*iy*ix = {_taken(layer)}; it must equal k*oy*ox = {layer.outputs}"


_CHECKS: dict[str, Callable[[Layer, list[int]], _KeyFaults]] = {
    "conv": _conv,
    "max_pool": _pool,
    "avg_pool": _pool,
    "matmul": _matmul,
    "add": _add,
    "concat": _concat,
    "resize": _resize,
    "gather": _gather,
}


def _product(shape: tuple[int, ...]) -> int:
    out = 1
    for size in shape:
        out *= size
    return out


# ---------------------------------------------------------------------------------------------- reading, writing


def load_workload(path: Path, text: str | None = None) -> Workload:
    """Read a workload file, or a text that errors call `path`. InputError says `file:line:column: path: what was found,
    what would be right`."""
    return load_model(path, WorkloadFile, problems=WorkloadFile.problems, text=text).workload()


def dump_workload(workload: Workload) -> str:
    """A workload as YAML, one line a layer, defaults left out; load_workload reads it back equal."""
    c, iy, ix = workload.input_shape
    lines = [
        f"name: {_quoted(workload.name)}",
        *([f"source: {_quoted(workload.source)}"] if workload.source else []),
        f"input: {{c: {c}, iy: {iy}, ix: {ix}}}",
        *(
            f"{key}: {{{', '.join(f'{_quoted(name)}: {size}' for name, size in tensors)}}}"
            for key, tensors in (("more_inputs", workload.received), ("states", workload.states))
            if tensors
        ),
        f"outputs: {_flow(workload.outputs)}",
        "layers:",
        *(f"- {{{_layer_items(layer)}}}" for layer in workload.layers),
    ]
    return "\n".join(lines) + "\n"


def _layer_items(layer: Layer | Plane) -> str:
    every = fields(layer)
    values = {f.name: getattr(layer, f.name) for f in every}
    values = {f.name: values[f.name] for f in every if f.default is MISSING or values[f.name] != f.default}
    return ", ".join(f"{key}: {_flow(value)}" for key, value in values.items())


def _flow(value: object) -> str:
    if isinstance(value, (Layer, Plane)):
        return f"{{{_layer_items(value)}}}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """Plain where every YAML reader takes it for text, in double quotes otherwise."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:/-]*[A-Za-z0-9_]|[A-Za-z]", text)
    word = text.lower() in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    if plain and not word:
        return text
    escaped = (c if c.isascii() else f"\\U{ord(c):08x}" for c in json.dumps(text, ensure_ascii=False))
    return "".join(escaped)


# ---------------------------------------------------------------------------------------------- by name


def find_workload(name: str, reading: Reading | None = None) -> Workload:
    """A workload by what a user calls it.

    `name` is a built-in's, that of a MobileNet by its rule (mobilenet_v2_160_0.75: version, input size, width), the
    path of a workload file or an ONNX file, or `package.module:factory` for a torch module (`torchvision:resnet18`,
    `timm:NAME` for theirs). reading: how an ONNX file or a module is to be read; a module of one's own needs shapes, an
    ONNX file where its own leaves sizes open. Raises InputError.
    """
    reading = reading or Reading()
    if name.endswith(".onnx"):
        from cosoc.sim.importers.onnx_file import from_onnx

        if reading.context or reading.dtypes:
            raise InputError(f"{name}: an ONNX file states its own types and past; --input-shape gives its sizes")
        return from_onnx(Path(name), reading.shapes, reading.cut_at)
    if any(key for key, _ in reading.shapes) and ":" not in name:
        key = next(key for key, _ in reading.shapes if key)
        raise InputError(f"--input-shape {key}=...: inputs are named in ONNX files and modules alone; leave it out")
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", name):
        from cosoc.sim.importers.torch_export import from_spec

        return from_spec(name, reading)
    if reading.shapes:
        raise InputError(f"{name} has its own input shape; one is for ONNX files and package.module:factory")
    if reading != Reading():
        raise InputError(
            f"{name} is read as it is; --input-dtype, --cut-at and --context are for ONNX files and modules"
        )
    if name in list_workloads():
        return load_workload(workload_folder() / f"{name}.yaml")
    if name.endswith((".yaml", ".yml")):
        return load_workload(Path(name))
    by_rule = by_name(name)
    if by_rule is not None:
        return by_rule
    known = ", ".join(list_workloads())
    other = "a .yaml or .onnx file or package.module:factory"
    raise InputError(f"no workload named {name!r}; there is {known}, or give {other}")


def json_schema() -> dict[str, object]:
    """The JSON schema of a workload file, for editors and other tools."""
    return TypeAdapter(WorkloadFile).json_schema()

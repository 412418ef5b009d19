"""A point of a finished run as it is deployed: its integers by core, its mapping's schedule, and whether both agree.

network.json: soc, workload, point, metric, accuracy (the run's) and integer_accuracy of as many test images; input and
output, each with what its integers are worth; layers in their order: what each makes (k, oy, ox; low, high, step), and
its forms, of which there is one unless it was searched by operator: sizes of that form's own channels, which begin at
`first`; the input channels that it `reads`, if not all; rescale (multiplier, offset, shift, see
`cosoc.sim.integers.network`); and parts: core, channels and bits of the weights, and these themselves [channels,
c/groups, fy, fx], flattened. Channels stand in the order in which they are computed, each layer's side by side by core,
so weights read their inputs in that order; `order` says where each of the network's own outputs is. plan.json is the
schedule of the mapping, with addresses (`cosoc schema schedule`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cosoc.search.spaces.channels import MixedNet, precise
from cosoc.search.training.data import Data
from cosoc.search.training.integers import integers, quantised_image, scores
from cosoc.sim.errors import InputError
from cosoc.sim.integers.network import Floats, IntegerNetwork, Ints, Piece, Rescale, pieces, run_whole
from cosoc.sim.integers.regions import NEVER, TileFault
from cosoc.sim.integers.run import run_tiles
from cosoc.sim.model.mapping import Mapping, Part
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, SLICE, Layer, Workload, batched
from cosoc.sim.progress import Report, untold
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate

VERSION = 1
SIZES = ("k", "c", "oy", "ox", "iy", "ix", "fy", "fx", "stride_y", "stride_x", "pad_y", "pad_x", "dilation_y",
         "dilation_x", "groups")  # of a layer, as files have them  # fmt: skip
OFF = 0.1  # of their spread, by which outputs may be off: a step of some tensor now and then
AT_ONCE = 64  # images that go through the integers together


@dataclass(frozen=True, eq=False, repr=False)
class Exported:
    """Printed it is a line. point: its name. network: its integers, of one image. order [k]: where each of the
    network's own outputs lies among what its last layer computes; rows: they are vectors side by side, whose channels
    come last. run: its mapping, simulated. accuracy: the task's
    metric of the test part, as the run measured it; integer_accuracy: of as many of its first images as were tried."""

    point: str
    soc: SoC
    data: Data
    network: IntegerNetwork
    order: Ints
    rows: bool
    run: Result
    accuracy: float
    integer_accuracy: float
    images: int

    def __repr__(self) -> str:
        of = f"the first {self.images} test images" if self.images < len(self.data.test) else "the test images"
        measured = self.data.task.measured
        whole, trained = measured.text(self.integer_accuracy), measured.text(self.accuracy)
        return f"{self.point}: {measured.name} {whole} on {of} in integers, {trained} as it was trained"

    @property
    def workload(self) -> Workload:
        return self.network.workload

    def pieces(self, layer: Layer) -> list[Piece]:
        """A layer by its forms, which are one unless it was searched by operator."""
        return pieces(self.network, layer)

    def parts(self, layer: Layer, piece: Piece) -> list[tuple[int, Part]]:
        """The parts of a layer that have channels of one form, each with its first there."""
        out, first = [], 0
        for part in self.run.at.mapping.layers[layer.name].parts:
            if part.channels and piece.first <= first < piece.end:
                out.append((first - piece.first, part))
            first += part.channels
        return out


def exported(
    point: str, net: MixedNet, mapping: Mapping, workload: Workload, soc: SoC, data: Data, accuracy: float,
    images: int | None = None, report: Report = untold,
) -> Exported:  # fmt: skip
    """A trained point for export. net: with its gates fixed; images: of the test part, to try the integers on (None:
    all). InputError for what has no integers, where these compute something else than the network, and where the tiles
    of the mapping do not compute them."""
    network = integers(net, workload)
    order = net.output_order.numpy().astype(np.int64)
    result = simulate(soc, workload, mapping)
    first, _ = data.test.items(torch.arange(1))
    with torch.no_grad():
        trained = copy.deepcopy(net).double()(precise(first))
    rows = are_rows(network, first, net.output_order, trained.flatten(1).numpy())
    check_tiles(result, network, quantised_image(network, first))
    shape = trained.shape[1:]
    tried = len(data.test) if images is None else min(images, len(data.test))
    seen = []
    for at in range(0, tried, AT_ONCE):
        report(at, tried, "images through the integers")
        x, y = data.test.items(torch.arange(at, min(at + AT_ONCE, tried)))
        seen.append(
            data.task.seen(torch.from_numpy(outputs(network, x, net.output_order, rows)).reshape(-1, *shape), y)
        )
    report(tried, tried, "images through the integers")
    return Exported(point, soc, data, network, order, rows, result, accuracy, data.task.figure(torch.cat(seen)), tried)


def outputs(network: IntegerNetwork, x: torch.Tensor, order: torch.Tensor, rows: bool = False) -> Floats:
    """Outputs of images x [n, c, iy, ix] by the integers, [n, k x pixels], in the order of the network that was
    trained. rows: its channels come last."""
    of_all = replace(network, workload=batched(network.workload, len(x)))
    return scores(network, run_whole(of_all, quantised_image(network, x)), order, rows)


def are_rows(network: IntegerNetwork, x: torch.Tensor, order: torch.Tensor, trained: Floats) -> bool:
    """Whether a network gives vectors side by side, whose channels come last. trained: its outputs [n, k x pixels] in
    double precision, in which an integer is a step apart for the bits of multipliers alone. InputError where those of
    its integers are others either way: its forward pass then does something that its layers do not show."""
    last = network.workload[network.workload.outputs[0]]
    spread = trained.std() or np.abs(trained).max() or 1.0
    for rows in (False, True) if last.oy == 1 and last.ox > 1 else (False,):
        found = outputs(network, x, order, rows)
        if found.shape == trained.shape and np.sqrt(((found - trained) ** 2).mean()) <= OFF * spread:
            return rows
    what = "its integers compute something else: its forward pass is not what its layers show"
    raise InputError(f"{network.workload.name}: {what}")


def check_tiles(result: Result, network: IntegerNetwork, image: Ints) -> None:
    """InputError unless the ops of a run compute the network, tile by tile, for an image."""
    whole = run_whole(network, image)
    try:
        for name, one in run_tiles(result, network, image).items():
            if (one.values != whole[name])[one.ready < NEVER].any():
                raise TileFault(f"{name}: its tiles compute something else than the layer")
    except TileFault as fault:
        raise InputError(
            f"{result.workload} on {result.soc}: the schedule does not compute the network: {fault}"
        ) from None


# ------------------------------------------------------------------------------------------------------ network.json


def plain(one: Exported) -> dict[str, Any]:
    """The content of network.json."""
    last = one.network.layers[one.workload.outputs[0]]
    assert last.step is not None and last.bias is not None
    c, iy, ix = one.workload.input_shape
    return {
        "cosoc_network": VERSION, "soc": one.soc.name, "workload": one.workload.name, "point": one.point,
        "metric": one.data.task.measured.name,
        "accuracy": one.accuracy, "integer_accuracy": one.integer_accuracy, "images": one.images,
        "data": one.data.name, "classes": list(one.data.classes),
        "mean": list(one.data.mean), "std": list(one.data.std),
        "input": {"tensor": INPUT, "c": c, "iy": iy, "ix": ix, **_format(one, INPUT)},
        "output": {"tensor": one.workload.outputs[0], "order": one.order.tolist(), "step": last.step.tolist(),
                   "bias": last.bias.tolist(), "rows": one.rows},
        "layers": [_layer(one, layer) for layer in one.workload],
    }  # fmt: skip


def _format(one: Exported, tensor: str) -> dict[str, Any]:
    found = one.network.tensors.get(tensor)
    return {} if found is None else {"low": found.low, "high": found.high, "step": found.step}


def _layer(one: Exported, layer: Layer) -> dict[str, Any]:
    return {
        "layer": layer.name, "k": layer.k, "oy": layer.oy, "ox": layer.ox, "makes": _format(one, layer.name),
        "forms": [_form(one, layer, piece) for piece in one.pieces(layer)],
    }  # fmt: skip


def _form(one: Exported, layer: Layer, piece: Piece) -> dict[str, Any]:
    mine, about = piece.layer, piece.about
    out: dict[str, Any] = {"op": mine.op, "inputs": list(mine.inputs), "first": piece.first}
    out |= {key: getattr(mine, key) for key in SIZES}
    if piece.reads is not None:
        out["reads"] = list(piece.reads)
    if about.rescale is not None:
        out["rescale"] = _rescale(about.rescale)
    if about.converted is not None:
        by = about.converted
        out["converted"] = {
            "block": by.block, "low": by.by.low, "high": by.by.high, "rescale": _rescale(by.by), "on": by.on.tolist()
        }  # fmt: skip
    if about.real is not None:
        real = about.real
        out["real"] = {"function": real.function, "reads": real.reads}
        if real.function == "softmax":
            out["real"]["heads"] = real.groups
        if real.weight is not None and real.bias is not None:
            out["real"] |= {"weight": real.weight.tolist(), "bias": real.bias.tolist(), "eps": real.eps}
    if about.table is not None:
        out["table"] = about.table.reshape(-1).tolist()
    if about.constant is not None:
        out["constant"] = about.constant.reshape(-1).tolist()
    if mine.fn == SLICE:
        out["from_column"] = about.from_column
    if mine.op == "matmul":
        out["keys"] = about.keys
    out["parts"] = []
    for first, part in one.parts(layer, piece):
        said: dict[str, Any] = {"core": part.core, "first": piece.first + first, "channels": part.channels}
        if about.weights is not None:
            said["bits"] = bits_of(part, one.soc)
            said["weights"] = about.weights[first : first + part.channels].reshape(-1).tolist()
        out["parts"].append(said)
    return out


def _rescale(about: Rescale) -> dict[str, Any]:
    return {"multiplier": about.multiplier.tolist(), "offset": about.offset.tolist(), "shift": about.shift.tolist()}


def bits_of(part: Part, soc: SoC) -> int:
    """Bits that a part's weights take: 2 for three levels."""
    core = soc.core_of(part)
    return 2 if core.ternary else part.bits or core.weight_bits


__all__ = ["SIZES", "VERSION", "Exported", "bits_of", "check_tiles", "exported", "outputs", "plain"]

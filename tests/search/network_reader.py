"""A reader of network.json that knows nothing but the file: it computes the network layer by layer, as its keys say."""

from __future__ import annotations

from math import erf, sqrt
from typing import Any

import numpy as np

from cosoc.search.exports.network_file import FormFile, NetworkFile, NetworkLayerFile, RealFile, RescaleFile

Ints = Any


def run(text: str, images: Any) -> Any:
    """Outputs [n, outputs] of images [n, c, iy, ix] in real numbers. The file is held to its schema first."""
    file = NetworkFile.model_validate_json(text)
    x = np.clip(np.rint(images / file.input.step), file.input.low, file.input.high).astype(np.int64)
    tensors = {file.input.tensor: x}
    for layer in file.layers:
        made = [_form(layer, form, tensors) for form in layer.forms]
        tensors[layer.layer] = np.concatenate(made, 1).reshape(len(x), layer.k, layer.oy, layer.ox)
    sums, out = tensors[file.output.tensor], file.output
    real = sums.reshape(len(x), len(out.step), -1) * np.array(out.step)[:, None] + np.array(out.bias)[:, None]
    real = real[:, list(out.order)]
    return (real.swapaxes(1, 2) if out.rows else real).reshape(len(x), -1)


def _form(layer: NetworkLayerFile, form: FormFile, tensors: dict[str, Ints]) -> Ints:
    first, low, high = tensors[form.inputs[0]], layer.makes.low, layer.makes.high
    if form.op == "add":
        sums = [tensors[name] for name in form.inputs]
    elif form.op == "concat" and not form.constant:
        read = [tensors[name] for name in form.inputs]
        sums = [np.concatenate(read, 3 if len(read) > 1 and read[0].shape[1] == form.k else 1)]
    elif form.op == "gather":
        table = np.array(form.table).reshape(-1, form.k)
        return table[first.reshape(len(first), form.oy, form.ox)].transpose(0, 3, 1, 2)
    else:
        x = (first[:, slice(*form.reads)] if form.reads else first).reshape(len(first), form.c, form.iy, form.ix)
        if form.real is not None:
            assert low is not None and high is not None and layer.makes.step is not None
            return np.clip(np.rint(_real(form.real, x * form.real.reads) / layer.makes.step), low, high).astype(int)
        sums = _sums(form, x, tensors)
    if form.rescale is None:
        return sums[0]
    return np.clip(_shifted(form.rescale, sums), low, high)


def _shifted(by: RescaleFile, sums: list[Ints]) -> Ints:
    shape = (-1, 1, 1)
    total = np.array(by.offset).reshape(shape)
    for multiplier, one in zip(by.multiplier, sums, strict=True):
        total = total + np.array(multiplier).reshape(shape) * one
    return total >> np.array(by.shift).reshape(shape)


def _sums(form: FormFile, x: Ints, tensors: dict[str, Ints]) -> list[Ints]:
    n, k, c = len(x), form.k // form.groups, form.c // form.groups
    if form.op == "matmul":
        assert form.keys is not None
        second = tensors[form.inputs[1]].reshape(n, form.groups, *((c, k) if form.keys else (k, c)))
        second = second.swapaxes(2, 3) if form.keys else second
        return [(second @ x.reshape(n, form.groups, c, -1)).reshape(n, form.k, form.oy, form.ox)]
    if form.from_column is not None:
        return [x[:, :, : form.oy, form.from_column : form.from_column + form.ox]]
    if form.constant:
        constant = np.broadcast_to(np.array(form.constant).reshape(form.k, form.oy, -1), (n, form.k, form.oy, form.ox)
                                   if form.op == "eltwise" else (n, form.k, form.oy, form.ox - form.ix))  # fmt: skip
        return [x, constant] if form.op == "eltwise" else [np.concatenate([constant, x], 3)]
    if form.op == "concat" or form.op == "eltwise":
        return [x]
    taps = _taps(form, x)
    if form.op == "max_pool":
        return [taps.max(2)]
    if form.op == "avg_pool":
        return [taps.sum(2)]
    weights = np.concatenate([np.array(part.weights).reshape(part.channels, c, -1) for part in form.parts])
    by, grouped = form.converted, taps.reshape(n, form.groups, c, *taps.shape[2:])
    block, total = c if by is None else by.block, np.zeros((n, form.k, form.oy, form.ox), np.int64)
    for at in range(0, c, block):
        mine = weights[:, at : at + block].reshape(form.groups, k, -1, weights.shape[2])
        sums = np.einsum("gkct,ngctyx->ngkyx", mine, grouped[:, :, at : at + block]).reshape(total.shape)
        if by is not None:
            read = np.clip(_shifted(by.rescale, [sums]), by.low, by.high)
            sums = np.where(np.array(by.on)[:, None, None], read, sums)
        total += sums
    return [total]


def _taps(form: FormFile, x: Ints) -> Ints:
    """What every output reads of x: [n, c, taps, oy, ox]."""
    below = (form.oy - 1) * form.stride_y + (form.fy - 1) * form.dilation_y + 1 - form.pad_y - form.iy
    right = (form.ox - 1) * form.stride_x + (form.fx - 1) * form.dilation_x + 1 - form.pad_x - form.ix
    edges = (0, 0), (0, 0), (form.pad_y, max(below, 0)), (form.pad_x, max(right, 0))
    padded = np.pad(x, edges, constant_values=np.iinfo(np.int64).min if form.op == "max_pool" else 0)
    found = []
    for fy in range(form.fy):
        rows = padded[:, :, fy * form.dilation_y :: form.stride_y][:, :, : form.oy]
        found += [rows[..., fx * form.dilation_x :: form.stride_x][..., : form.ox] for fx in range(form.fx)]
    return np.stack(found, 2)


def _real(about: RealFile, x: Any) -> Any:
    if about.function == "gelu":
        return x * 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))
    if about.function == "gelu_tanh":
        return x * 0.5 * (1 + np.tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if about.function == "softmax":
        powers = np.exp(x.reshape(len(x), about.heads, -1, *x.shape[2:]))
        return (powers / powers.sum(2, keepdims=True)).reshape(x.shape)
    off = x - x.mean(1, keepdims=True)
    weight, bias = (np.array(one)[:, None, None] for one in (about.weight, about.bias))
    return off / np.sqrt((off * off).mean(1, keepdims=True) + about.eps) * weight + bias

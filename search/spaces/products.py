"""Attention as the products that a chip computes: queries, keys and values, scores, their softmax, and the product with
the values.

A fused attention hides the tensors between them, which lie in memory in the formats of its cores like all others. A
module that computes several products at once is taken apart as its layers are in the workload.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cosoc.sim.model.workload import Workload

FUSED = "scaled_dot_product_attention"
PLAIN = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False}


@fx.wrap
def side_by_side(products: Sequence[Tensor]) -> Tensor:
    """Products of one input as one tensor, which nothing in memory is: what reads it takes a product out of it."""
    return torch.cat(list(products), -1)


class Fused(nn.ModuleList):
    """Products of one input, side by side: what one of all their weights gives."""

    def forward(self, x: Tensor) -> Tensor:
        return side_by_side([product(x) for product in self])


def take_apart(net: nn.Module, workload: Workload) -> None:
    """Put `Fused` products into the place of every linear module of which the workload has the parts, `NAME.0` and so
    on in the order of their channels."""
    modules = dict(net.named_modules())
    parts: dict[str, list[int]] = {}
    for layer in workload:
        path, _, number = layer.name.rpartition(".")
        if layer.op == "conv" and number.isdigit() and type(modules.get(path)) is nn.Linear:
            parts.setdefault(path, []).append(layer.k)
    for path, sizes in parts.items():
        parent, _, name = path.rpartition(".")
        setattr(net.get_submodule(parent), name, _parts(modules[path], sizes))


def _parts(linear: nn.Linear, sizes: list[int]) -> Fused:
    bias: Sequence[Tensor | None] = [None] * len(sizes)
    if linear.bias is not None:
        bias = torch.split_with_sizes(linear.bias.detach(), sizes)
    found = Fused()
    for weight, own in zip(torch.split_with_sizes(linear.weight.detach(), sizes), bias, strict=True):
        product = nn.Linear(weight.shape[1], weight.shape[0], own is not None, device="meta")  # draws nothing
        product.weight = nn.Parameter(weight.clone())
        if own is not None:
            product.bias = nn.Parameter(own.clone())
        found.append(product)
    return found.train(linear.training)


def scaled_scores(query: Tensor, key: Tensor) -> Tensor:
    """Products of queries and keys [..., tokens, d], over the root of d: [..., tokens of queries, tokens of keys]."""
    scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return scores


def spell_out(graph: fx.Graph) -> None:
    """Put its products and its softmax into the place of every fused attention of a graph, but for those that are
    masked, drop out or scale otherwise, which stay as they are."""
    for node in list(graph.nodes):
        fused = node.op == "call_function" and getattr(node.target, "__name__", "") == FUSED
        if not fused or len(node.args) != 3 or any(PLAIN.get(key, ...) != value for key, value in node.kwargs.items()):
            continue
        query, key, value = node.args
        with graph.inserting_before(node):
            scores = graph.call_function(scaled_scores, (query, key))
            softmax = graph.call_function(functional.softmax, (scores, -1))
            node.replace_all_uses_with(graph.call_method("matmul", (softmax, value)))
        graph.erase_node(node)


SIDE_BY_SIDE = side_by_side.__name__

__all__ = ["SIDE_BY_SIDE", "Fused", "scaled_scores", "side_by_side", "spell_out", "take_apart"]

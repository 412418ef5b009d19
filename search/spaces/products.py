"""Attention as the products that a chip computes: scores, their softmax, and the product with the values.

A fused attention hides the tensors between them, which lie in memory in the formats of its cores like all others.
"""

from __future__ import annotations

from torch import Tensor, fx
from torch.nn import functional

FUSED = "scaled_dot_product_attention"


def scaled_scores(query: Tensor, key: Tensor) -> Tensor:
    """Products of queries and keys [..., tokens, d], over the root of d: [..., tokens of queries, tokens of keys]."""
    scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return scores


def spell_out(graph: fx.Graph) -> None:
    """Put its products and its softmax into the place of every fused attention of a graph, but for those that are
    masked, drop out or scale otherwise, which stay as they are."""
    for node in list(graph.nodes):
        fused = node.op == "call_function" and getattr(node.target, "__name__", "") == FUSED
        if not fused or len(node.args) != 3 or node.kwargs:
            continue
        query, key, value = node.args
        with graph.inserting_before(node):
            scores = graph.call_function(scaled_scores, (query, key))
            softmax = graph.call_function(functional.softmax, (scores, -1))
            node.replace_all_uses_with(graph.call_method("matmul", (softmax, value)))
        graph.erase_node(node)


__all__ = ["scaled_scores", "spell_out"]

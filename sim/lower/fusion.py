"""Fused groups: the order in which their rows run, and the line buffers that this order needs.

A group's layers advance row by row. Each pair of producer and consumer within the group has a line buffer; the
rows of a producer that wait for any consumer fit the largest of its buffers, since all release rows in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cosoc.sim.errors import InputError
from cosoc.sim.model.workload import Layer, Workload

AHEAD = 2  # rows that a producer may run ahead of need: one being written while one is read


@dataclass(frozen=True)
class Row:
    """One output row of a layer. needs: (producer, its last row under this one), members of the group only.
    frees: (producer, rows that this row is the last of its layer to read)."""

    layer: str
    row: int
    needs: tuple[tuple[str, int], ...]
    frees: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Schedule:
    """rows: the group's rows in program order. buffer_rows: (producer, consumer) -> rows held at most."""

    rows: tuple[Row, ...]
    buffer_rows: dict[tuple[str, str], int]


def last_row_under(layer: Layer, row: int) -> int:
    """The last input row that output row `row` reads."""
    return min(layer.iy - 1, row * layer.stride_y - layer.pad_y + (layer.fy - 1) * layer.dilation_y)


def rows_done_with(layer: Layer, row: int) -> int:
    """How many input rows are read by no output row after `row`."""
    if row == layer.oy - 1:
        return layer.iy
    return min(layer.iy, max(0, (row + 1) * layer.stride_y - layer.pad_y))


def _row_by_row(layer: Layer, producer: Layer) -> bool:
    """Whether the rows that a layer reads are those of the producer, in their order."""
    return layer.iy == producer.oy and not (layer.hands_on and layer.oy != layer.iy)


def _last_under(layer: Layer, row: int, producer: Layer) -> int:
    """The last row of a producer that an output row reads. Rows of a tensor that is read in another shape (flattened
    for a dense layer, one pixel repeated, part of it taken) are not those of the producer: every row reads all."""
    return last_row_under(layer, row) if _row_by_row(layer, producer) else producer.oy - 1


def _done_with(layer: Layer, row: int, producer: Layer) -> int:
    """How many rows of a producer are read by no output row after `row`."""
    if _row_by_row(layer, producer):
        return rows_done_with(layer, row)
    return producer.oy if row == layer.oy - 1 else 0


def _pieces(workload: Workload, members: Sequence[str]) -> tuple[list[Layer], list[tuple[str, str]]]:
    """The layers of a group, shallow first, and its edges (producer, consumer)."""
    layers = [layer for layer in workload if layer.name in set(members)]
    if len(layers) != len(members):
        raise InputError(f"group {', '.join(members)}: names a layer twice, or one that {workload.name} has not")
    inside = {layer.name for layer in layers}
    for layer in layers:
        if layer.op == "resize":
            raise InputError(f"group: {layer.name} resizes, and row by row it cannot be run; end the group before it")
    for layer in layers[1:]:
        if not inside & set(layer.inputs):
            raise InputError(f"group: {layer.name} reads nothing that the group produces; start another group there")
    return layers, [(p, layer.name) for layer in layers for p in dict.fromkeys(layer.inputs) if p in inside]


def line_buffers(workload: Workload, members: Sequence[str]) -> dict[tuple[str, str], int]:
    """Rows that each edge of a group holds: what a deepest-first order needs, and AHEAD more.

    Buffers that suffice for one order suffice for every order: rows and buffers form a marked graph, whose liveness
    does not depend on the order of firing. InputError if the layers form no connected piece of the network.
    """
    layers, edges = _pieces(workload, members)
    no_bound = dict.fromkeys(edges, max(layer.oy for layer in layers) + 1)
    _, held = _run(layers, edges, no_bound, lambda state, ready: ready[-1])
    return {edge: most + AHEAD for edge, most in held.items()}


def schedule(
    workload: Workload, members: Sequence[str], core: Mapping[str, str], row_ticks: Mapping[str, int]
) -> Schedule:
    """Order the rows of a group by a list schedule: the row that can start first goes first, within the line buffers.

    core, row_ticks: where each layer runs and how long one of its rows takes there.
    """
    layers, edges = _pieces(workload, members)
    bound = line_buffers(workload, members)

    def earliest(state: _State, ready: list[Layer]) -> Layer:
        starts = [(max(state.free.get(core[r.name], 0), state.inputs_at(r)), -i, r) for i, r in enumerate(ready)]
        start, _, layer = min(starts, key=lambda s: s[:2])
        state.free[core[layer.name]] = state.end[layer.name, state.rows[layer.name]] = start + row_ticks[layer.name]
        return layer

    rows, _ = _run(layers, edges, bound, earliest)
    return Schedule(rows, bound)


class _State:
    """Progress of a group: rows emitted a layer, rows freed an edge, when cores are free and rows end."""

    def __init__(self, layers: Sequence[Layer], edges: Sequence[tuple[str, str]]) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self.into = {layer.name: [edge for edge in edges if edge[1] == layer.name] for layer in layers}
        self.out_of = {layer.name: [edge for edge in edges if edge[0] == layer.name] for layer in layers}
        self.rows = {layer.name: 0 for layer in layers}
        self.freed = dict.fromkeys(edges, 0)
        self.free: dict[str, int] = {}
        self.end: dict[tuple[str, int], int] = {}

    def inputs_at(self, layer: Layer) -> int:
        """When the rows under a layer's next row are there."""
        row = self.rows[layer.name]
        needs = (self.end[p, _last_under(layer, row, self.layers[p])] for p, _ in self.into[layer.name])
        return max(needs, default=0)

    def ready(self, layer: Layer, bound: Mapping[tuple[str, str], int]) -> bool:
        """Whether a layer's next row has its inputs and a place to put its output."""
        row = self.rows[layer.name]
        if row >= layer.oy:
            return False
        if any(self.rows[p] <= _last_under(layer, row, self.layers[p]) for p, _ in self.into[layer.name]):
            return False
        return all(row - self.freed[edge] < bound[edge] for edge in self.out_of[layer.name])


def _run(
    layers: Sequence[Layer],
    edges: Sequence[tuple[str, str]],
    bound: Mapping[tuple[str, str], int],
    choose: Callable[[_State, list[Layer]], Layer],
) -> tuple[tuple[Row, ...], dict[tuple[str, str], int]]:
    """Emit all rows, each time the one that `choose` picks among the ready layers (shallow first); and the rows that
    each edge held at most."""
    state, out, held = _State(layers, edges), [], dict.fromkeys(edges, 0)
    for _ in range(sum(layer.oy for layer in layers)):
        layer = choose(state, [layer for layer in layers if state.ready(layer, bound)])
        row = state.rows[layer.name]
        state.rows[layer.name] += 1
        for edge in state.out_of[layer.name]:
            held[edge] = max(held[edge], row + 1 - state.freed[edge])
        inner = [state.layers[p] for p, _ in state.into[layer.name]]
        done = {p.name: _done_with(layer, row, p) for p in inner}
        frees = tuple((p, n - state.freed[p, layer.name]) for p, n in done.items())
        for p, n in done.items():
            state.freed[p, layer.name] = n
        needs = tuple((p.name, _last_under(layer, row, p)) for p in inner)
        out.append(Row(layer.name, row, needs, frees))
    return tuple(out), held


def buffer_bytes(workload: Workload, members: Sequence[str]) -> dict[str, int]:
    """Bytes of line buffer for each producer of a group, at 8 bit an element."""
    out: dict[str, int] = {}
    for (producer, _), rows in line_buffers(workload, members).items():
        layer = workload[producer]
        out[producer] = max(out.get(producer, 0), min(rows, layer.oy) * layer.ox * layer.k)
    return out

"""LSTM, GRU and plain recurrent layers as the layers that they are, step by step.

What a step multiplies of its input depends on no other step: one product for the whole sequence (`inputs`). What it
multiplies of the state, h, waits for the step before: a product of one vector a step, all with the same weights. The
gates are pointwise. By the definition of the operators (torch.nn.LSTM, GRU, RNN; ONNX alike):

    LSTM: i f g o = W x + U h;  c' = s(f) c + s(i) tanh(g);  h' = s(o) tanh(c')
    GRU:  r z n = W x, R Z N = U h;  h' = (1 - s(z + Z)) tanh(n + s(r + R) N) + s(z + Z) h
    RNN:  h' = tanh(W x + U h)

Where the first state is a constant, what is multiplied of it is one too, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from cosoc.sim.importers.build import Builder, Site, Value

MOST_STEPS = 4096  # unfolded, each some four layers
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True)
class Cell:
    """One direction of one layer. kind: of GATES; hidden: elements of its state; key: tells its weights from others."""

    kind: str
    hidden: int
    key: Hashable
    backward: bool = False


def direction(
    build: Builder, site: Site, x: Value, steps: int, cell: Cell, first: Value | None, first_c: Value | None
) -> tuple[Value, Value, Value]:
    """A direction over `steps` vectors: (its outputs of all steps, the last h, the last c). first, first_c: the state
    before, None where it is constant."""
    if steps > MOST_STEPS:
        raise site.unsupported(f"it has {steps} steps; at most {MOST_STEPS} can be unfolded")
    width, features = GATES[cell.kind] * cell.hidden, x.shape[-1]
    size = (steps, width)
    inputs = build.owned(build.dense(site, x, (width, features), size, True, "inputs"), (cell.key, "inputs"))
    inputs = replace(inputs, sole=False, shape=size)
    h, c, out = first, first_c, list[Value]()
    for _ in range(steps):
        taken = build.slice(site, inputs, (1, width)) if steps > 1 else inputs
        gates = [taken]
        if h is not None:
            product = build.dense(site, h, (width, cell.hidden), (1, width), True, "state")
            gates.append(build.owned(product, (cell.key, "state")))
        h, c = _step(build, site, cell, gates, h, c)
        out.append(h)
    assert h is not None
    order = out[::-1] if cell.backward else out
    return together(build, site, order, (steps, cell.hidden)), h, c or h


def together(build: Builder, site: Site, parts: Sequence[Value], shape: tuple[int, ...]) -> Value:
    """Tensors side by side."""
    if len(parts) == 1:
        return parts[0]
    return replace(build.concat(site, parts, shape), shape=shape)


def _step(
    build: Builder, site: Site, cell: Cell, gates: list[Value], h: Value | None, c: Value | None
) -> tuple[Value, Value | None]:
    """The gates of a step, each operand as often as it is read: (the next h, the next c)."""
    n = cell.hidden
    fields = {"k": n, "c": n, "fn": site.fn}
    if cell.kind == "lstm":
        c = build.add(site, "eltwise", [*gates * 3, *([] if c is None else [c])], fields, "cell")
        return replace(build.add(site, "eltwise", [*gates, c], fields, "out"), sole=False, shape=(1, n)), c
    before = [] if h is None or cell.kind == "rnn" else [h]
    return replace(
        build.add(site, "eltwise", [*gates * GATES[cell.kind], *before], fields, "out"), sole=False, shape=(1, n)
    ), c


@dataclass(frozen=True)
class Layers:
    """A recurrent operator: layers one upon the other, each in one direction or two. keys: a name for the weights of
    each direction of each layer, in order."""

    kind: str
    hidden: int
    keys: tuple[Hashable, ...]
    both: bool


def recurrent(
    build: Builder, site: Site, x: Value, layers: Layers, first: Value | None = None, first_c: Value | None = None
) -> tuple[Value, Value, Value]:
    """A sequence [steps, features] (a batch dimension of one anywhere) through all layers: (outputs, the last h of all,
    the last c of all). A first state given for several cells is cut into theirs."""
    features = x.shape[-1]
    steps = max(1, _elements(x) // features)
    ways = 2 if layers.both else 1
    last_h, last_c = list[Value](), list[Value]()
    for number in range(len(layers.keys) // ways):
        found = []
        for way in range(ways):
            cell = Cell(layers.kind, layers.hidden, layers.keys[number * ways + way], way == 1)
            states = [_own(build, site, state, cell.hidden, len(layers.keys)) for state in (first, first_c)]
            outputs, h, c = direction(build, site, x, steps, cell, *states)
            found.append(outputs)
            last_h.append(h)
            last_c.append(c)
        shape = (steps, layers.hidden * ways)
        x = replace(together(build, site, found, shape), sole=False, shape=shape)
    ends = (len(layers.keys), layers.hidden)
    return x, together(build, site, last_h, ends), together(build, site, last_c, ends)


def _own(build: Builder, site: Site, state: Value | None, hidden: int, cells: int) -> Value | None:
    if state is None or cells == 1:
        return state
    return build.slice(site, state, (1, hidden))


def _elements(x: Value) -> int:
    out = 1
    for size in x.shape:
        out *= size
    return out

"""Cuts of a network: what is done when data crosses from one device to the next, and what then crosses.

A cut is a set of layers that holds all that its layers read: here one truth value a layer, in the workload's order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cosoc.sim.model.workload import INPUT, Layer, Workload

Done = tuple[bool, ...]


def done_behind(workload: Workload, names: Iterable[str]) -> Done:
    """The cut behind some layers: they and everything that they need."""
    needed = set(names)
    for layer in reversed(workload.layers):
        if layer.name in needed:
            needed.update(layer.reads)
    return tuple(layer.name in needed for layer in workload)


def last_layers(workload: Workload, done: Sequence[bool]) -> tuple[str, ...]:
    """The names by which `done_behind` finds a cut: its layers that no other of them reads."""
    inside = [layer for layer, is_done in zip(workload, done, strict=True) if is_done]
    read = {name for layer in inside for name in layer.reads}
    return tuple(layer.name for layer in inside if layer.name not in read)


def crossing(workload: Workload, done: Sequence[bool]) -> tuple[str, ...]:
    """The tensors (inputs among them) that are made before a cut and read behind it; at the end, the outputs."""
    made = {layer.name for layer, is_done in zip(workload, done, strict=True) if is_done}
    made |= {INPUT, *(name for name, _ in workload.received)}
    left = [layer for layer, is_done in zip(workload, done, strict=True) if not is_done]
    needed = [name for layer in left for name in layer.reads if name in made]
    needed += [name for name in workload.outputs if name in made]
    return tuple(dict.fromkeys(needed))


def elements(workload: Workload) -> dict[str, int]:
    """Elements of every tensor that can cross a cut."""
    return workload.sizes


def only(workload: Workload, names: Iterable[str]) -> Workload:
    """Some layers as a workload by themselves: what they read of others comes from outside, what others read of
    them are its outputs."""
    own, size = set(names), elements(workload)
    inside = tuple(layer for layer in workload if layer.name in own)
    read = dict.fromkeys(name for layer in inside for name in layer.reads)
    outside = [name for name in read if name not in own and name not in workload.incoming]
    received = tuple((name, size[name] // workload.n) for name in outside)
    left = {name for layer in workload if layer.name not in own for name in layer.reads} | set(workload.outputs)
    outputs = tuple(layer.name for layer in inside if layer.name in left)
    kept = tuple((name, elements) for name, elements in workload.received if name in read)
    written = {layer.into for layer in inside}
    states = tuple((name, elements) for name, elements in workload.states if name in read or name in written)
    layers = _owning(inside)
    return replace(workload, layers=layers, outputs=outputs, received=kept + received, states=states)


def _owning(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers by themselves: where weights are another layer's which is not among them, the first has them instead."""
    own, out = {layer.name: layer.name for layer in layers}, list[Layer]()
    for layer in layers:
        owner = own.setdefault(layer.weights_of, layer.name) if layer.weights_of else ""
        out.append(replace(layer, weights_of="" if owner == layer.name else owner))
    return tuple(out)


def section(workload: Workload, before: Sequence[bool], done: Sequence[bool]) -> Workload:
    """The layers from one cut to a later one as a workload."""
    cut = zip(workload, before, done, strict=True)
    return only(workload, [layer.name for layer, was, now in cut if now and not was])


__all__ = ["Done", "crossing", "done_behind", "elements", "last_layers", "only", "section"]

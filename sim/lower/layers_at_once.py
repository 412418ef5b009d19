"""Layers at work at once, each on an image of its own, as a program for the engines.

An image passes the layers in their order, and each layer has what it computes with: arrays that hold its weights, or
several sets of them (*copies*) that take the images in turns. Other layers share a unit of the chip, a pooling unit
say, which serves who asked first.

A layer begins with an image when those that it reads are done with it and its result has a place. A tensor has as many
places as images can be between the layer that makes it and the last one that reads it, so that nobody waits for a place
in the steady state unless a later layer is the slower.

Ops are emitted wave by wave: in a wave each layer begins one image, and an image is in a layer for as many waves as
that has copies. So whoever waits for a place waits for an op of an earlier wave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cosoc.sim.machine.program import Builder, Ints, Program, within_counting


@dataclass(frozen=True)
class LayerAtOnce:
    """A layer: ticks that an image takes it, and the layers that it reads, by name. shared: the unit that it computes
    on, if others do too; '': what it computes on is its own, and so for each of its copies."""

    name: str
    ticks: int
    reads: tuple[str, ...]
    shared: str = ""
    copies: int = 1


@dataclass(frozen=True)
class Lowered:
    """ops [images, layers]: the number of the op that computes a layer of an image."""

    program: Program
    ops: Ints


def starts(layers: Sequence[LayerAtOnce]) -> dict[str, int]:
    """The wave in which each layer begins the first image."""
    copies = {layer.name: layer.copies for layer in layers}
    out: dict[str, int] = {}
    for layer in layers:
        out[layer.name] = max((out[name] + copies[name] for name in layer.reads), default=0)
    return out


def places(layers: Sequence[LayerAtOnce]) -> dict[str, int]:
    """How many images of each layer's result there is room for: one at a time is being made or read in each wave from
    the first of its making to the last of its reading."""
    begin = starts(layers)
    out = {layer.name: layer.copies for layer in layers}
    for layer in layers:
        for name in layer.reads:
            out[name] = max(out[name], begin[layer.name] + layer.copies - begin[name])
    return out


def lower_at_once(layers: Sequence[LayerAtOnce], images: int, tick_hz: int) -> Lowered:
    """The program of so many images that stream through the layers, which stand behind those that they read."""
    within_counting(images * len(layers), f"a stream of {images} inferences")
    b = Builder("layers at once", tick_hz)
    begin, room = starts(layers), places(layers)
    readers = {layer.name: [one.name for one in layers if layer.name in one.reads] for layer in layers}
    number = {layer.name: i for i, layer in enumerate(layers)}
    ops = np.full((images, len(layers)), -1, np.int64)
    left: dict[tuple[str, int], int] = {}  # readers of an image's tensor that have yet to be emitted
    for wave in range(images + max(begin.values(), default=0)):
        for layer in layers:
            image = wave - begin[layer.name]
            if not 0 <= image < images:
                continue
            read_once = [name for name in layer.reads if len(readers[name]) == 1]
            # A shared unit's ticks are what it serves, as a server serves bytes: who waits for it holds nobody up who
            # waits for a place.
            served = layer.ticks if layer.shared else 0
            ops[image, number[layer.name]] = b.op(
                b.unit(f"{layer.name} {image % layer.copies + 1}"), layer=b.layer(layer.name),
                run=layer.ticks - served, bytes=served, burst=served,
                route=(b.server(layer.shared, rate_bytes=1),) if served else (),
                deps=[int(ops[image, number[name]]) for name in layer.reads],
                take=[(b.credit(layer.name, room[layer.name]), 1)] if readers[layer.name] else [],
                give=[(b.credit(name, room[name]), 1) for name in read_once],
            )  # fmt: skip
            for name in layer.reads:
                _read(b, name, image, readers, room, left, [int(ops[image, number[one]]) for one in readers[name]])
    return Lowered(b.build_for(f"a stream of {images} images", lambda unit, _: f"the cycles of {unit}"), ops)


def _read(
    b: Builder, name: str, image: int, readers: Mapping[str, Sequence[str]], room: Mapping[str, int],
    left: dict[tuple[str, int], int], ops: Sequence[int],
) -> None:  # fmt: skip
    """A tensor's place is free when the last of several readers is done, whichever that is."""
    if len(readers[name]) == 1:
        return
    left[name, image] = left.get((name, image), len(readers[name])) - 1
    if left[name, image] == 0:
        del left[name, image]
        b.op(b.unit(f"{name} read"), deps=ops, give=[(b.credit(name, room[name]), 1)], kind="sync", layer=b.layer(name))


__all__ = ["LayerAtOnce", "Lowered", "lower_at_once", "places", "starts"]

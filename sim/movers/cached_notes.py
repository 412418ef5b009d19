"""What the ops of a cached mover's tiles are for: each belongs to the tile whose start stands before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cosoc.sim.machine.program import KINDS
from cosoc.sim.model.mapping import DIMS
from cosoc.sim.model.workload import Layer
from cosoc.sim.movers.cached_terms import in_rows
from cosoc.sim.movers.cached_units import CONTROL, EXECUTE, FETCH, FILL, LOAD
from cosoc.sim.movers.notes import NONE, TILE, Notes
from cosoc.sim.movers.tile_table import (
    ADDS,
    C0,
    FX0,
    FY0,
    K0,
    MEMBER,
    N0,
    OPERANDS,
    OUT_AT,
    OWN,
    OX0,
    OY0,
    Addresses,
    Ints,
    Tiled,
)
from cosoc.sim.movers.touches import EX_C, EX_TILE, Touched

_FIRST = {"n": N0, "k": K0, "c": C0, "fy": FY0, "fx": FX0, "oy": OY0, "ox": OX0}  # the size stands behind each
_AT = {name: i for i, name in enumerate(TILE.names or ())}


def note_tiles(
    notes: Notes, first: int, rows: Any, tiled: Tiled, seen: Touched, layers: Sequence[Layer], part: int,
    addresses: Addresses,
) -> None:  # fmt: skip
    """Note spliced ops. first: the number of the first of them. rows: of the program, their units numbered as in UNITS.
    layers: of every member. part: the number of the part that they compute."""
    unit, kind = rows["unit"], rows["kind"]
    tiles = _tiles_of(tiled, layers, part, addresses)
    tile = np.cumsum((unit == CONTROL) & (kind == KINDS.index("launch"))) - 1
    of = notes.tiles_of(tiles) + tile
    groups = tiles[seen.groups[:, EX_TILE]]  # of a product a tile is executed in stretches of its input channels
    deep = seen.groups[:, EX_C]
    begins = np.append(True, seen.groups[1:, EX_TILE] != seen.groups[:-1, EX_TILE])
    before = np.cumsum(deep) - deep
    groups[:, _AT["c0"]] += before - np.maximum.accumulate(np.where(begins, before, 0))
    groups[:, _AT["c1"]] = groups[:, _AT["c0"]] + deep
    of[unit == EXECUTE] = notes.tiles_of(groups) + np.arange(len(groups))
    _operands(notes, of, unit, rows["bytes"] > 0, tile, tiles, tiled.members[tiled.table[:, MEMBER]])
    notes.ops(first, of)


def _tiles_of(tiled: Tiled, layers: Sequence[Layer], part: int, addresses: Addresses) -> Ints:
    """Rows as of TILE. A head's or group's output channels are counted through the layer."""
    table = tiled.table
    out = np.zeros((len(table), len(_AT)), np.int64)
    out[:, _AT["part"]], out[:, _AT["operand"]] = part, NONE
    out[:, _AT["own"]] = tiled.members[table[:, MEMBER], OWN]
    for d in DIMS:
        at = _FIRST[d]
        out[:, _AT[f"{d}0"]], out[:, _AT[f"{d}1"]] = table[:, at], table[:, at] + table[:, at + 1]
    homes = np.array([addresses.tensor[layer.name] for layer in layers])
    for edge in ("k0", "k1"):
        out[:, _AT[edge]] += (tiled.members[:, OUT_AT] - homes)[table[:, MEMBER]]
    rows = np.array([in_rows(layer) for layer in layers])[table[:, MEMBER]]
    for edge in "01":
        n, ox = _AT[f"n{edge}"], _AT[f"ox{edge}"]
        out[rows, n], out[rows, ox] = out[rows, ox], out[rows, n].copy()
    return out


def _operands(notes: Notes, of: Ints, unit: Ints, moves: Any, tile: Ints, tiles: Ints, members: Ints) -> None:
    """Tell the inputs of an addition apart, which come one after the other, each in as many mvins. of: is changed."""
    several = (members[:, ADDS] > 0) & (members[:, OPERANDS] > 1)
    if not several.any():
        return
    brings = (unit == LOAD) & moves & several[tile]
    count = np.bincount(tile[brings], minlength=len(tiles))
    rank = np.cumsum(brings) - 1
    rank = rank - (np.cumsum(count) - count)[tile]
    each = np.maximum(count // np.maximum(members[:, OPERANDS], 1), 1)
    number = np.where(brings, rank // each[tile], NONE)
    # What a mvin misses follows it.
    last = np.maximum.accumulate(np.where(unit == LOAD, np.arange(len(unit)), 0))
    beside = np.isin(unit, (FILL, FETCH)) & several[tile]
    number = np.where(beside, number[last], number)
    which = np.flatnonzero(number >= 0)
    told = tiles[tile[which]]
    told[:, _AT["operand"]] = number[which]
    found, at = np.unique(np.column_stack((tile[which], number[which])), axis=0, return_index=True)
    start = notes.tiles_of(told[at])
    keys = found[:, 0] * (int(number.max(initial=0)) + 1) + found[:, 1]
    mine = tile[which] * (int(number.max(initial=0)) + 1) + number[which]
    of[which] = start + np.searchsorted(keys, mine)


__all__ = ["note_tiles"]

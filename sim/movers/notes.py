"""What each op of a network is for, noted while it is written: which tile it works on, and whose results it uses.

A program knows none of it, and no engine asks. Who hands a lowered network on does: the network is then written once
more, loops unrolled, with `Notes`, and op n of the notes is op n of the unrolled program.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cosoc.sim.model.mapping import DIMS

Records = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]

NONE = -1
# One row an op. tile: of TILE, -1 for none. inputs_by, weights_by: of a job, the ops that brought its inputs and its
# weights; of an op that frees weights, the latter. results_of: of a store, the job whose results it takes; of a job's
# ops, the first of them. source, target: numbers of the memories between which a transfer is, in the order of the SoC.
NOTE = np.dtype([(k, np.int64) for k in ("tile", "inputs_by", "weights_by", "results_of", "source", "target")])
# One row a tile of a part: [first, end) along each of DIMS. part: its number in the plan. own: 1 where its inputs are
# those of its output channels alone. fused: 1 where it is a row of a fused piece. operand: of a load that brings one of
# several inputs, its number.
TILE = np.dtype([(k, np.int64) for k in ("part", "own", "fused", "operand", *(f"{d}{i}" for d in DIMS for i in "01"))])
_NOTHING = (NONE,) * len(NOTE.names or ())


class Notes:
    """Notes of the ops so far. now: what the next ops are for: tile, inputs_by, weights_by, results_of.

    inputs, weights: by layer (its label) and part, the op that brought what a job would find there.
    """

    def __init__(self, memories: Sequence[str]) -> None:
        self.memories = tuple(memories)
        self.now = (NONE, NONE, NONE, NONE)
        self.inputs: dict[tuple[int, int], int] = {}
        self.weights: dict[tuple[int, int], int] = {}
        self._ops = array("q")
        self._tiles = array("q")
        self._n_tiles = 0

    def tile(
        self, part: int, ranges: Sequence[int], own: bool = False, fused: bool = False, operand: int = NONE
    ) -> int:
        """The number of a new tile. ranges: first and end along each of DIMS."""
        self._tiles.extend((part, own, fused, operand, *ranges))
        self._n_tiles += 1
        return self._n_tiles - 1

    def tiles_of(self, rows: Ints) -> int:
        """The number of the first of many new tiles, [tiles, columns of TILE]."""
        self._tiles.frombytes(np.ascontiguousarray(rows, np.int64).tobytes())
        self._n_tiles += len(rows)
        return self._n_tiles - len(rows)

    def op(self, number: int, memories: Sequence[str]) -> None:
        """Note an op as what the next ones are for. memories: that it moves bytes from and to, if two."""
        self._fill(number)
        ends = [self.memories.index(name) for name in memories] if len(memories) == 2 else (NONE, NONE)
        self._ops.extend((*self.now, *ends))

    def ops(self, first: int, tiles: Ints) -> None:
        """Note many ops, of which only the tiles are known."""
        self._fill(first)
        rows = np.full((len(tiles), len(_NOTHING)), NONE, np.int64)
        rows[:, 0] = tiles
        self._ops.frombytes(rows.tobytes())

    def _fill(self, number: int) -> None:
        missing = number - len(self._ops) // len(_NOTHING)
        self._ops.extend(_NOTHING * missing)

    def arrays(self, n_ops: int) -> tuple[Records, Records]:
        """NOTE [n_ops] and TILE [tiles]."""
        self._fill(n_ops)
        found = []
        for values, dtype in ((self._ops, NOTE), (self._tiles, TILE)):
            found.append(np.frombuffer(values.tobytes(), np.int64).view(dtype))
        return found[0], found[1]


__all__ = ["NONE", "NOTE", "TILE", "Notes"]

"""A datamover: rewrites what lies in the scratchpad in another width, for a core beside it.

Transfers bring and take elements of 8 bit. A core of another width has its inputs rewritten when they have come, and
its results before they go. Both are read once in one width and written once in the other, at the core's port to the
scratchpad and in the core's own time: the core waits meanwhile, which a chip with a spare buffer could avoid.

That the published datamover changes widths from 1 to 32 bit is all that we know of it; the rate is assumed.
"""

from __future__ import annotations

from typing import Any

from cosoc.sim.model.soc import Model, Num
from cosoc.sim.model.units import BeatBytes

MEMORY_BITS = 8  # of an element, as transfers bring it


class Datamover(Model):
    """See the module docstring."""

    bytes_per_cycle: BeatBytes  # read or written, one or the other

    def cycles(self, elements: Num, bits: int, xp: Any) -> Num:
        """Cycles at the scratchpad for rewriting so many elements of 8 bit in `bits`, or the reverse."""
        return xp.ceildiv(elements * (MEMORY_BITS + bits), 8 * self.bytes_per_cycle)

"""Chains of spaces: what `--space a+b+c` may say, and what it means.

A part is what is chosen. Those of a chain are chosen together, and a part stands before those that it decides for:
splits hand layers to devices, channels and operators hand them to a device's cores, tiles cut what a core has of a
layer, and fusion puts neighbouring layers into one piece, whose tiles are then its own.
"""

from __future__ import annotations

from itertools import pairwise

from cosoc.sim.errors import InputError

# Outermost first, and what each chooses.
PARTS: dict[str, str] = {
    "splits": "which layers run on which device of a cluster",
    "channels": "how many output channels of a layer each core computes",
    "operators": "how many of them are computed in a block's second form",
    "tiles": "how what a core has of a layer is cut, and in which order",
    "fusion": "which neighbouring layers run as one piece",
}
CHAINS = (
    ("channels",), ("channels", "tiles"), ("channels", "tiles", "fusion"),
    ("operators",), ("operators", "tiles"), ("operators", "tiles", "fusion"),
    ("tiles",), ("tiles", "fusion"),
    ("splits",), ("splits", "tiles"), ("splits", "tiles", "fusion"), ("splits", "channels"),
    ("splits", "channels", "tiles"), ("splits", "channels", "tiles", "fusion"),
)  # fmt: skip


def chain(text: str) -> tuple[str, ...]:
    """The parts that a text names, such as `channels+tiles+fusion`, outermost first.

    InputError for a part that there is not, one that stands behind a part which it decides for, and a chain that means
    nothing; each names what there is.
    """
    parts = tuple(part.strip() for part in text.split("+"))
    for part in parts:
        if part not in PARTS:
            raise InputError(f"space {text!r}: found {part!r}; the parts of a chain are {', '.join(PARTS)}")
    for first, second in pairwise(parts):
        if list(PARTS).index(first) >= list(PARTS).index(second):
            right = "+".join(sorted(set(parts), key=list(PARTS).index))
            raise InputError(f"space {text!r}: {second} stands behind {first}; each stands once, in the order {right}")
    if parts not in CHAINS:
        known = ", ".join("+".join(one) for one in CHAINS)
        raise InputError(f"space {text!r}: {_why(parts)}; there is {known}")
    return parts


def _why(parts: tuple[str, ...]) -> str:
    """Why a chain of known parts in their order means nothing."""
    if "channels" in parts and "operators" in parts:
        return "channels and operators both say which core computes a channel"
    if "fusion" in parts and "tiles" not in parts:
        return "fused pieces have tiles of their own, so fusion stands behind tiles"
    return "a device of a cluster has the operators that its network has, so splits choose none"

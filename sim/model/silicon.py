"""What a core is made of, as far as its area and its energy follow from it. What each part takes is a technology's to
say (`cosoc.sim.model.technology`)."""

from __future__ import annotations

from dataclasses import dataclass

SUM_BITS = 32  # of the sums that products of integers are added up in


@dataclass(frozen=True)
class Silicon:
    """Parts of a core, and what it reads in a cycle in which all of them work.

    multipliers: of integers, `multiplier_bits` wide, each with an adder of SUM_BITS. adders: of `adder_bits`.
    float_multipliers: multiply-adds in FP16. register_bits: flip-flops. processors: small ones, with their instruction
    memory. cell_bits: of memory that computes in place. read_bytes, weight_bytes: a cycle, from its memory and
    from where its weights lie.
    """

    multipliers: float = 0
    multiplier_bits: tuple[int, int] = (8, 8)
    adders: float = 0
    adder_bits: int = 8
    float_multipliers: float = 0
    register_bits: float = 0
    processors: float = 0
    cell_bits: float = 0
    read_bytes: float = 0
    weight_bytes: float = 0

"""Mapping strings of DOSA and Timeloop, and the loop nest that Gemmini's test programs make of them.

A string such as `L3[WIO] K8 Q28 - L2[WI] N1 K4X - L1[O] K2 C3X - L0[W] P16` lists levels from the outermost (DRAM) to
the innermost, and in a level its loops, outermost first; X marks a spatial factor. What runs is coarser: everything
below L3 makes one *tile*, which one LOOP_WS or LOOP_CONV_WS instruction works off in an order of its own; the loops of
L3 are software loops around it. Source: the test generator of DOSA (gemmini-rocc-tests, gemmini-data-collection).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from cosoc.sim.errors import InputError
from cosoc.sim.movers.measured import Nest

# Dimensions of a nest, in this order throughout: output channels, input channels, kernel rows and columns, output
# rows and columns; and the letters that mapping strings have for them.
DIMS = ("och", "kch", "krow", "kcol", "orow", "ocol")
LETTERS = ("K", "C", "S", "R", "Q", "P")
# Loops that L3 leaves out: the generator puts them outside the others, the last of these outermost. They have one
# iteration, or two where an even kernel makes the image one larger than the layer's.
_APPENDED = "CRSKPQN"
_FACTOR = re.compile(r"([A-Z])(\d+)(X?)")
_LEVEL = re.compile(r"L(\d)(\[[A-Z]*\])?")
# The generator counts GEMM tiles in blocks of 16, whatever the side of the array that runs them.
_GEMM_BLOCK = 16
# Sizes of a tile of the library's own, in the order in which the data collection writes them; and the library's loops.
_DEFAULT = "RSPQCKN"
_CONV_LOOPS = tuple(LETTERS.index(x) for x in "QPKSRC")
_GEMM_LOOPS = tuple(LETTERS.index(x) for x in "SRQPKC")


@dataclass(frozen=True)
class Problem:
    """One layer: k output and c input channels, p x q outputs, r x s kernel; a GEMM has q = r = s = 1 (p rows)."""

    k: int
    c: int
    p: int
    q: int = 1
    r: int = 1
    s: int = 1
    stride: int = 1

    @property
    def is_gemm(self) -> bool:
        return self.q == self.r == self.s == 1


def decode(mapping: str, problem: Problem, side: int | None = None) -> Nest:
    """The nest that a mapping string runs as. `side`: PEs along one edge of the array; None: infer it.

    Inferred is the smallest power of two that holds the spatial factors: no column of the data states it.
    Raises InputError with every reason why the string is not a mapping of the problem.
    """
    inner, order, side = factors(mapping, problem, side)
    return (_gemm if problem.is_gemm else _conv)(problem, inner, order, side)


def factors(mapping: str, problem: Problem, side: int | None = None) -> tuple[dict[str, int], tuple[int, ...], int]:
    """What a mapping string says: the extent of a tile by dimension letter, the loops around the tiles as indices into
    DIMS, outermost first, and the array's side. Raises InputError as `decode` does."""
    levels = _parse(mapping)
    dims = {"K": problem.k, "C": problem.c, "S": problem.s, "R": problem.r, "Q": problem.q, "P": problem.p, "N": 1}
    product, inner, spatial = dict.fromkeys(dims, 1), dict.fromkeys(dims, 1), 1
    for level, loops in levels.items():
        for letter, factor, is_spatial in loops:
            product[letter] *= factor
            if level < 3:
                inner[letter] *= factor
            if is_spatial:
                spatial = max(spatial, factor)
    reasons = [
        f"its factors of {letter} multiply to {product[letter]}, the layer has {size}"
        for letter, size in dims.items()
        if product[letter] != size
    ]
    side = side if side is not None else max(2, 1 << (spatial - 1).bit_length())
    if spatial > side:
        reasons.append(f"its largest spatial factor is {spatial}, the array has {side} x {side} PEs")
    if reasons:
        raise InputError(f"mapping {mapping!r}: " + "; ".join(reasons))
    named = [letter for letter, _, _ in levels.get(3, [])]
    letters = [x for x in reversed(_APPENDED) if x not in named] + list(dict.fromkeys(named))
    return inner, tuple(LETTERS.index(x) for x in letters if x in LETTERS), side


def decode_default(tiling: str, problem: Problem, side: int) -> Nest:
    """The nest of a run of Gemmini's own library from the tile that its data collection noted: `R_S_P_Q_C_K_N`.

    The seven figures are elements of a tile, as the letters of mapping strings have them: kernel columns and rows,
    output columns and rows, input and output channels, images. A GEMM has its rows in P, and its tile is whole blocks
    of the array, though the layer may be smaller. The library's loops around the tiles are images, rows, columns,
    output channels, kernel rows and columns, input channels, outermost first (gemmini.h: tiled_conv, tiled_matmul). A
    tile ends where the layer does. Raises InputError with what was found and what is needed.
    """
    words = tiling.strip().split("_")
    figures = [_whole(word) for word in words]
    if len(words) != len(_DEFAULT) or min(figures) < 1:
        raise InputError(
            f"default tiling {tiling!r}: needed are the {len(_DEFAULT)} sizes {'_'.join(_DEFAULT)} of a tile, whole "
            "numbers of at least 1"
        )
    inner = dict(zip(_DEFAULT, figures, strict=True))
    ones = [x for x in ("N", *("RSQ" if problem.is_gemm else "")) if inner[x] != 1]
    if ones:
        found = ", ".join(f"{x} = {inner[x]}" for x in ones)
        raise InputError(f"default tiling {tiling!r}: found {found}, where the layer has 1")
    if problem.is_gemm:
        sizes = [-(-inner[x] // side) * side if x in "KCP" else 1 for x in LETTERS]
        return Nest("gemm", side, _gemm_extent(problem), tuple(sizes), _GEMM_LOOPS)
    nest = _conv(problem, inner, _CONV_LOOPS, side)
    return replace(nest, tile=tuple(map(min, nest.tile, nest.extent)))


def _whole(word: str) -> int:
    """A whole number however it is written (14, 14.0, 1.4e1); 0 for what is none."""
    try:
        value = float(word)
    except ValueError:
        return 0
    return int(value) if value.is_integer() else 0


def _parse(mapping: str) -> dict[int, list[tuple[str, int, bool]]]:
    """Level -> its loops as (letter, factor, spatial), outermost first. InputError with all that cannot be read."""
    levels: dict[int, list[tuple[str, int, bool]]] = {}
    wrong, known = [], (*LETTERS, "N")
    for part in mapping.split(" - "):
        head, *words = part.split() or [""]
        match = _LEVEL.fullmatch(head)
        if match is None or int(match[1]) in levels:
            wrong.append(f"found {head!r} where a level such as L3[WIO] is needed, each once")
            continue
        loops = levels[int(match[1])] = []
        for word in words:
            factor = _FACTOR.fullmatch(word)
            if factor is None or factor[1] not in known or int(factor[2]) < 1:
                wrong.append(f"{word!r} is no loop such as K8 or C4X; dimensions are {', '.join(known)}")
            else:
                loops.append((factor[1], int(factor[2]), bool(factor[3])))
    if set(levels) != {0, 1, 2, 3}:
        named = ", ".join(f"L{level}" for level in sorted(levels, reverse=True))
        wrong.append(f"has {named or 'none'} of the levels; L3, L2, L1 and L0 are needed, each once")
    if wrong:
        raise InputError(f"mapping {mapping!r}: " + "; ".join(wrong))
    return levels


def _gemm(problem: Problem, inner: dict[str, int], order: tuple[int, ...], side: int) -> Nest:
    def blocks(letter: str) -> int:
        return max(1, inner[letter] // _GEMM_BLOCK) * side

    return Nest("gemm", side, _gemm_extent(problem), (blocks("K"), blocks("C"), 1, 1, 1, blocks("P")), order)


def _gemm_extent(problem: Problem) -> tuple[int, ...]:
    return problem.k, problem.c, 1, 1, 1, problem.p


def _conv(problem: Problem, inner: dict[str, int], order: tuple[int, ...], side: int) -> Nest:
    """The test program knows square images and kernels only: out_size of P, padding of half a kernel.

    An even kernel so gives one row and one column of outputs more than the layer has.
    """
    kernel, in_size = problem.r, problem.p * problem.stride
    out_size = (in_size + 2 * (kernel // 2) - kernel) // problem.stride + 1
    extent = (problem.k, problem.c, kernel, kernel, out_size, out_size)
    tile = tuple(inner[letter] for letter in LETTERS)
    pad = kernel // 2
    return Nest("conv", side, extent, tile, order, problem.stride, pad, pad, in_size, in_size)

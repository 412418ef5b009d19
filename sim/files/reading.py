"""How a network is to be read from a torch module or an ONNX file: what a user says of its inputs and of its end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cosoc.sim.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """shapes: of inputs, batch first, by name ('' where it is the only one or goes by place); of an ONNX file also
    the size of a dimension by its name. dtypes: of inputs, by the same names. cut_at: the layer or module that the
    network ends with, '' for its own end. context: tokens of a language model's key-value cache, 0: without one."""

    shapes: tuple[tuple[str, Shape], ...] = ()
    dtypes: tuple[tuple[str, str], ...] = ()
    cut_at: str = ""
    context: int = 0

    @property
    def batch(self) -> int:
        """Items that go through together: the first size of the inputs, one where none is given. InputError where they
        differ."""
        sizes = sorted({shape[0] for name, shape in self.shapes if len(shape) > 1} - {1})
        if len(sizes) > 1 or sizes[:1] == [0]:
            raise InputError(
                f"--input-shape: batches of {', '.join(map(str, sizes))}; all inputs have one and the same"
            )
        return sizes[0] if sizes else 1


def reading(
    shapes: Sequence[str] | None = None, dtypes: Sequence[str] | None = None, cut_at: str = "", context: int = 0
) -> Reading:
    """As options say it: shapes as [NAME=]1,3,32,32, dtypes as [NAME=]int64. Raises InputError."""
    return Reading(
        tuple((name, _shape(sizes, text)) for name, sizes, text in map(_named, shapes or ())),
        tuple((name, dtype) for name, dtype, _ in map(_named, dtypes or ())),
        cut_at,
        context,
    )


def _named(text: str) -> tuple[str, str, str]:
    name, _, value = text.rpartition("=")
    return name, value, text


def _shape(sizes: str, text: str) -> Shape:
    if not re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*)*", sizes):
        raise InputError(f"--input-shape {text}: whole numbers and commas are needed, such as 1,3,32,32")
    return tuple(int(size) for size in sizes.split(","))

"""The formats of a network that leaves for a device; apart, as the command line names them without loading torch."""

from __future__ import annotations

from typing import Literal, get_args

Format = Literal["json", "c-array", "torch", "onnx-qdq"]
FORMATS: tuple[Format, ...] = get_args(Format)

__all__ = ["FORMATS", "Format"]

"""Pictures without a window: figures whose texts are text, whatever is called what."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def drawn_figure(width: float, height: float) -> Iterator[Any]:
    """A matplotlib figure of so many inches, to draw on and save within the block. A name such as `$x` is no formula
    there, and one that the font lacks characters for, or that leaves no room for the rest, is drawn as far as it can
    be."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from|constrained_layout not applied")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure

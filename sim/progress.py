"""How long work tells whoever waits for it how far it is."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[int, int, str], None]  # done, of how many, what


def untold(done: int, total: int, what: str) -> None:
    """A report to nobody."""


__all__ = ["Report", "untold"]

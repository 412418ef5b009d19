"""Text from files as people see it: on a terminal, in a message, in a picture."""

from __future__ import annotations

import unicodedata

# Control characters (among them the escape that begins a terminal's commands), invisible and reordering ones, half
# characters, and what ends a line or a paragraph.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def shown(text: str) -> str:
    """The text with every character that does not stand for itself escaped as in Python: ESC is shown as \\x1b."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if unicodedata.category(c) not in _UNSEEN else ascii(c)[1:-1] for c in text)

"""Text from files and figures as people see them: on a terminal, in a message, in a picture."""

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


def quantity(value: float, unit: str) -> str:
    """A figure to four digits, with the prefix that leaves 1 to 999 of its unit: `4.735e-4, s` is 473.5 us."""
    rounded = abs(float(f"{value:.3e}"))  # 999.96 m of a unit is 1 of it
    for prefix, factor in (("", 1.0), ("m", 1e-3), ("u", 1e-6), ("n", 1e-9)):
        if rounded >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value * 1e12:.4g} p{unit}" if value else f"0 {unit}"

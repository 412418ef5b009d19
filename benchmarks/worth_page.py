"""What `worth.py` shows: tables for a terminal and for docs/worth.md, and the figure; all from its JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

PAGE = Path(__file__).parent.parent / "docs" / "worth.md"
BEGIN, END = "<!-- {}: written by benchmarks/worth.py -->\n", "<!-- up to here -->\n"

# Model -> name, marker and colour; hollow markers know simulated times.
SHOWN = {
    "law": ("ODiMO's law", "o", "tab:red"),
    "law_repaired": ("law, repaired by simulation", "o", "none"),
    "roofline": ("roofline", "s", "tab:orange"),
    "estimate": ("estimate", "D", "tab:blue"),
    "estimate_local": ("estimate, then simulation", "D", "none"),
}

Rows = list[list[str]]


def models(found: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Head and rows of the table of cases and models."""
    head = ["case", "model", "Spearman", "fastest", "front, mean / worst", "hypervolume"]
    rows = []
    for case, own in found.items():
        for n, (model, row) in enumerate(own.items()):
            rank = "-" if row["spearman"] is None else f"{row['spearman']:.3f}"
            regrets = f"{row['regret_front_mean']:.1%} / {row['regret_front_max']:.1%}"
            cells = [rank, f"{row['regret_fastest']:.1%}", regrets, f"{row['hypervolume']:.4f}"]
            rows.append(["" if n else case, model, *cells])
    return head, rows


def causes(found: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Head and rows of the table of causes."""
    head, rows = ["case", "switched off", "Spearman of the law", "its front, mean / worst"], []
    for case, own in found.items():
        for n, (cause, row) in enumerate(own.items()):
            rank = "-" if row["spearman"] is None else f"{row['spearman']:.3f}"
            rows.append(
                ["" if n else case, cause, rank, f"{row['regret_front_mean']:.1%} / {row['regret_front_max']:.1%}"]
            )
    return head, rows


def volumes(found: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Head and rows of the table of searches that trained."""
    head, rows = ["case", "search driven by", "hypervolume, mean and 95 % interval"], []
    for case, own in found.items():
        for n, (variant, row) in enumerate(own.items()):
            half = "" if row["half_interval"] is None else f" ± {row['half_interval']:.3f}"
            rows.append(["" if n else case, variant, f"{row['mean']:.3f}{half}"])
    return head, rows


def table(title: str, head: Sequence[str], rows: Rows) -> Table:
    """For a terminal."""
    out = Table(title=title, title_justify="left")
    for n, name in enumerate(head):
        out.add_column(name, justify="left" if n < 2 else "right")
    for row in rows:
        out.add_row(*row)
    return out


def write(name: str, head: Sequence[str], rows: Rows) -> None:
    """Put a table into its place of the page."""
    begin = BEGIN.format(name)
    lines = ["| " + " | ".join(cells) + " |\n" for cells in (head, ["---"] * len(head), *rows)]
    text = PAGE.read_text(encoding="utf-8")
    place = re.compile(re.escape(begin) + ".*?" + re.escape(END), re.S)
    if not place.search(text):
        raise ValueError(f"{PAGE} has no place for {name}")
    PAGE.write_text(place.sub(lambda _: begin + "".join(lines) + END, text), encoding="utf-8")
    print(f"written: {PAGE}, {name}")


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw the worst regret of every model's front, a line for each case."""
    from matplotlib.figure import Figure

    names = list(found)
    drawn = Figure(figsize=(8, 0.3 * len(names) + 1.3), layout="constrained")
    axes = drawn.subplots()
    for n, (model, (label, marker, face)) in enumerate(SHOWN.items()):
        rows = [(i, found[name][model]) for i, name in enumerate(names) if model in found[name]]
        edge = SHOWN[model.partition("_")[0]][2]
        x, y = [100 * row["regret_front_max"] for _, row in rows], [i + 0.12 * (n - 2) for i, _ in rows]
        axes.scatter(x, y, marker=marker, facecolors=face, edgecolors=edge, label=label, zorder=3 + n)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(-0.1, 100)
    axes.set_xticks([0, 1, 3, 10, 30, 100], ["0", "1", "3", "10", "30", "100"])
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.grid(axis="both", alpha=0.3)
    axes.set_xlabel("worst regret along the front: how much slower than need be, simulated, %")
    drawn.legend(*axes.get_legend_handles_labels(), fontsize="small", loc="outside upper center", ncols=3)
    drawn.savefig(path, dpi=120)
    print(f"written: {path}")


__all__ = ["causes", "models", "plot", "table", "volumes", "write"]

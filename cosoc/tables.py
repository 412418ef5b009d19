"""Share vectors and their figures as CSV files, and what a table of them says, for a terminal and as JSON."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as Lines

from cosoc.search.share_table import Check, Shares, Table
from cosoc.sim.errors import InputError

FIGURES = ("latency_s", "energy_j", "peak_bytes")


def read_shares(path: Path) -> Shares:
    """Share vectors: a head of LAYER:CORE, then a line of channels for each vector. InputError with line and column."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *lines = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    columns = []
    for at, name in enumerate(head):
        layer, colon, core = name.rpartition(":")
        if not colon or not layer or not core:
            raise InputError(f"{path}:1:{at + 1}: found {name!r}; a column is named LAYER:CORE, such as conv1:digital")
        columns.append((layer, core))
    if not columns or not lines:
        raise InputError(f"{path}:1: a head of LAYER:CORE and a line of channels for each vector are needed")
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise InputError(f"{path}:{number}: {len(line)} values, the head has {len(head)} columns")
        for at, text in enumerate(line):
            if not (text.strip().isascii() and text.strip().isdigit() and len(text) < 10):
                raise InputError(f"{path}:{number}:{at + 1}: found {text!r}; a whole number of channels is needed")
    return Shares(tuple(columns), np.array(lines, np.int64), str(path))


def to_csv(shares: Shares, table: Table) -> str:
    """Vectors and figures, one line each; figures are empty where the machine cannot run a vector."""
    columns = [shares.channels[:, i].tolist() for i in range(len(shares.columns))]
    figures = (table.latency_s, table.energy_j, table.peak_bytes)
    shown = [["" if x != x else f"{x:.9g}" for x in figure.tolist()] for figure in figures[:2]]
    shown.append(["" if x != x else f"{x:.0f}" for x in figures[2].tolist()])
    head = ",".join([*(f"{layer}:{core}" for layer, core in shares.columns), *FIGURES])
    lines = (",".join(map(str, line)) for line in zip(*columns, *shown, strict=True))
    return "\n".join([head, *lines]) + "\n"


def to_json(shares: Shares, table: Table, check: Check | None) -> dict[str, Any]:
    """How many vectors there are and how many cannot run, those of least latency and energy, and the check."""
    run = np.flatnonzero(~np.isnan(table.latency_s))
    out: dict[str, Any] = {"vectors": len(table.latency_s), "cannot_run": len(table.latency_s) - len(run)}
    for what, figure in (("least_latency", table.latency_s), ("least_energy", table.energy_j)):
        if not len(run):
            continue
        best = int(run[np.argmin(figure[run])])
        named = zip(shares.columns, shares.channels[best].tolist(), strict=True)
        out[what] = {
            "vector": best + 1,
            "latency_s": float(table.latency_s[best]),
            "energy_j": float(table.energy_j[best]),
            "peak_bytes": int(table.peak_bytes[best]),
            "shares": {f"{layer}:{core}": k for (layer, core), k in named},
        }
    if check is not None:
        plain = asdict(check)
        out["check"] = {name: None if value != value else value for name, value in plain.items()}
    return out


def summary(title: str, content: dict[str, Any]) -> Lines:
    """`to_json` for a terminal of 80 columns."""
    out = Lines(title=title, box=None, title_justify="left")
    for name in ("", "vector", "latency, ms", "energy, uJ", "peak, bytes"):
        out.add_column(name, justify="right" if name else "left")
    for what in ("least_latency", "least_energy"):
        if what in content:
            row = content[what]
            figures = f"{row['latency_s'] * 1e3:.4g}", f"{row['energy_j'] * 1e6:.4g}", f"{row['peak_bytes']:,}"
            out.add_row(what.replace("_", " "), str(row["vector"]), *figures)
    if content["cannot_run"]:
        out.add_row("cannot run", f"{content['cannot_run']:,}")
    if "check" in content:
        check = content["check"]
        out.add_row("against simulation", f"{check['vectors']}", f"{check['latency_mape']:.2%} off, at most")
        out.add_row("", "", f"{check['latency_worst']:.2%}", f"{check['energy_mape']:.2%} off")
        if check["spearman"] is not None:
            out.add_row("rank correlation", "", f"{check['spearman']:.4f}")
    return out

"""Results as Python shows them: a line or two, the cards of the report in a notebook, frames, a chart, a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from cosoc.output import as_text
from cosoc.sim.errors import InputError
from cosoc.sim.report.render import gantt_figure, summary
from cosoc.sim.report.result import CAUSES, Result
from cosoc.sim.shown import quantity, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.console import RenderableType

LAYERS = 16  # of a card, the longest on the critical path
FRAMES = "pip install 'cosoc[frames]'"
COLUMNS = 100  # of a table that is shown as text
COLOURS = {  # of causes, as in the report's page (Okabe and Ito's palette, distinct for colour-blind eyes)
    "compute": "#0072B2", "weights": "#D55E00", "transfer": "#009E73", "feed": "#56B4E9", "dma_setup": "#999999",
    "setup": "#999999", "launch": "#E69F00", "wait_server": "#b0413e",
}  # fmt: skip
CARD = "border:1px solid #8886;border-radius:8px;padding:10px 14px;margin:8px 0;max-width:900px"
SOFT = "opacity:.7;font-size:85%"


def sentences(result: Result) -> str:
    """Time, energy and bottleneck, and what of it no measurement covers: what `print` shows."""
    return "\n".join([summary(result), *(f"Note: {note}." for note in result.unmeasured)])


def preformatted(what: RenderableType) -> str:
    """A table for a notebook: its text, whatever is in it."""
    return f'<pre style="line-height:1.25;white-space:pre;overflow-x:auto">{escape(as_text(what, COLUMNS))}</pre>'


# ------------------------------------------------------------------------------------------ cards


def cards(result: Result) -> str:
    """The report's cards as HTML that needs no script: figures, the critical path by cause and by layer, units."""
    path = result.critical_path
    causes = sorted(path.by_cause_ticks, key=lambda cause: -path.by_cause_ticks[cause])
    figures = (
        ("time", quantity(result.seconds, "s")), ("energy", quantity(result.energy_j, "J")),
        ("inferences", f"{result.inferences:,}"), ("ops", f"{result.ops:,}"),
    )  # fmt: skip
    boxes = "".join(
        f'<span style="margin-right:28px"><b style="font-size:125%">{_said(value)}</b><br>'
        f'<span style="{SOFT}">{_said(name)}</span></span>'
        for name, value in figures
    )
    key = "".join(
        f'<span style="margin-right:14px;white-space:nowrap">{_swatch(cause)} {_said(CAUSES[cause])} '
        f"{path.by_cause_ticks[cause] / max(result.ticks, 1):.0%}</span>"
        for cause in causes
    )
    longest = sorted(result.by_layer, key=lambda part: -part.ticks_critical)[:LAYERS]
    most = max((part.ticks_critical for part in longest), default=0) or 1
    rows = "".join(
        _bar(part.layer, part.causes, causes, most, quantity(part.ticks_critical / result.tick_hz, "s"))
        for part in longest
    )
    left = len(result.by_layer) - len(longest)
    more = f'<div style="{SOFT}">and {left} more: <code>.layers</code></div>' if left else ""
    units = "".join(
        f"<tr><td>{_said(unit.unit)}</td><td>{unit.utilisation:.0%} busy</td>"
        f"<td>{'' if unit.energy_j is None else _said(quantity(unit.energy_j, 'J'))}</td></tr>"
        for unit in result.by_unit
        if unit.ops or unit.busy_ticks
    )
    return (
        f'<div style="{CARD}"><div>{_said(sentences(result))}</div><div style="margin-top:8px">{boxes}</div></div>'
        f'<div style="{CARD}"><b>Critical path</b><div style="{SOFT}">{key}</div>'
        f'<table style="width:100%;border-collapse:collapse">{rows}</table>{more}</div>'
        f'<div style="{CARD}"><b>Units</b><table>{units}</table></div>'
    )


def _said(text: str) -> str:
    return escape(shown(text))


def _swatch(cause: str) -> str:
    style = f"display:inline-block;width:10px;height:10px;border-radius:2px;background:{COLOURS[cause]}"
    return f'<span style="{style}"></span>'


def _bar(name: str, ticks: dict[str, int], causes: Sequence[str], most: int, value: str) -> str:
    parts = "".join(
        f'<span style="display:inline-block;height:12px;width:{100 * ticks[cause] / most:.2f}%;'
        f'background:{COLOURS[cause]}"></span>'
        for cause in causes
        if ticks.get(cause)
    )
    return (
        f'<tr><td style="text-align:left;white-space:nowrap">{_said(name)}</td>'
        f'<td style="width:60%;text-align:left;line-height:0;white-space:nowrap">{parts}</td>'
        f"<td>{_said(value)}</td></tr>"
    )


# ------------------------------------------------------------------------------------------ frames


def frame(rows: Sequence[Any], index: str | None = None) -> DataFrame:
    """Records as a frame of pandas, one a row, by the column `index` where one is named. InputError without pandas."""
    try:
        import pandas
    except ImportError:
        raise InputError(f"frames need pandas, which is not installed: {FRAMES}") from None
    plain = [asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row) for row in rows]
    out = pandas.DataFrame.from_records(plain)
    return out if index is None or not plain else out.set_index(index)


def layer_frame(result: Result) -> DataFrame:
    """A row a layer: its figures, the ticks of each cause as `ticks_CAUSE`, the channels on each core as
    `channels_CORE`."""
    causes = [cause for cause in CAUSES if any(part.causes.get(cause) for part in result.by_layer)]
    cores = sorted({core for part in result.by_layer for core in part.cores})
    rows = []
    for part in result.by_layer:
        plain = asdict(part)
        del plain["causes"], plain["cores"]
        plain |= {f"ticks_{cause}": part.causes.get(cause, 0) for cause in causes}
        plain |= {f"channels_{core}": part.cores[core].channels if core in part.cores else 0 for core in cores}
        rows.append(plain)
    return frame(rows, "layer")


# ------------------------------------------------------------------------------------------ chart


def plot(result: Result) -> Figure:
    """The run's Gantt chart."""
    return gantt_figure(result)


def op_by_op(result: Result) -> dict[str, Any]:
    """The run's schedule as plain data."""
    from cosoc.sim.report.schedule import schedule  # it lowers, with what that needs

    return schedule(result)

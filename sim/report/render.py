"""A Result for eyes: tables for a terminal, a Gantt chart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosoc.sim.machine.program import KINDS, Ints, Program, row_of
from cosoc.sim.machine.trace import changes
from cosoc.sim.movers.links import link_level
from cosoc.sim.report.figure import drawn_figure
from cosoc.sim.report.hosted import by_reason, host_share, reason_lines
from cosoc.sim.report.result import CAUSES, NO_LAYER, LayerPart, Result
from cosoc.sim.shown import quantity, shown

if TYPE_CHECKING:  # loaded where they are used: both are slow to import
    from matplotlib.figure import Figure
    from rich.console import RenderableType
    from rich.table import Table

# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table(result: Result) -> RenderableType:
    """The result as tables by layer, by unit, by level of the energy and by cause, and a line that sums it up; 80
    columns."""
    from rich.console import Group

    reasons = zip(_letters(len(by_reason(result))), reason_lines(result), strict=True)
    layers = Group(_layer_table(result), *(f"{letter}: {line}" for letter, line in reasons))
    tables = layers, _unit_table(result), _level_table(result), _cause_table(result)
    notes = (f"Note: {note}." for note in result.unmeasured)
    return Group(*(part for one in tables for part in (one, "")), summary(result), *notes)


def summary(result: Result) -> str:
    """Time, energy, what only the host can run, the top bottleneck, and what the figures rest on where the SoC file
    says so, in a sentence each."""
    said = f"{_title(result)} ({_cycles(result, result.ticks)} {_cycle(result)})."
    rests_on = (f"{one}." for one in result.evidence if one.basis)
    return " ".join(part for part in (said, host_share(result), bottleneck(result), *rests_on) if part)


def _cycle(result: Result) -> str:
    """What durations are counted in: cycles of the SoC where ticks are finer than these."""
    return "ticks" if result.ticks_per_cycle == 1 else "cycles"


def _cycles(result: Result, ticks: int) -> str:
    return f"{ticks // result.ticks_per_cycle:,}"


def _title(result: Result) -> str:
    what = f"{result.workload} on {result.soc}, {result.mapping}, {result.runtime}"
    many = f" for {result.inferences} inferences" if result.inferences > 1 else ""
    return f"{what}: {quantity(result.seconds, 's')}, {quantity(result.energy_j, 'J')}{many}"


def bottleneck(result: Result) -> str:
    """The cause and unit with most of the critical path, and the layer that has most of that, in one sentence."""
    totals: dict[tuple[str, str], int] = {}
    for part in result.critical_path.shares:
        totals[part.cause, part.unit] = totals.get((part.cause, part.unit), 0) + part.ticks
    if not totals:
        return "Nothing takes time."
    cause, unit = max(totals, key=lambda key: totals[key])
    shares = result.critical_path.shares
    by_layer = {part.layer: part.ticks for part in shares if (part.cause, part.unit) == (cause, unit)}
    share, worst = totals[cause, unit] / result.ticks, max(by_layer, key=lambda layer: by_layer[layer])
    return f"The bottleneck is {unit} {CAUSES[cause]}: {share:.0%} of the time, above all in {worst}."


def _columns(title: str, left: str, *right: str) -> Table:
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1), show_edge=False)
    out.collapse_padding = True
    out.add_column(left, no_wrap=True, overflow="ellipsis", max_width=26)
    for name in right:
        words = name in ("cores", "most in")
        out.add_column(name, justify="left" if words else "right", no_wrap=not words)
    return out


def _uj(joules: float) -> str:
    """Three digits of microjoules, and never an exponent for large ones."""
    return f"{joules * 1e6:.3g}" if joules < 99.95e-6 else f"{joules * 1e6:,.0f}"


def _channels(layer: LayerPart) -> str:
    return ", ".join(f"{name}\u00a0{part.channels}" for name, part in layer.cores.items())  # breaks at commas only


def _layer_table(result: Result) -> Table:
    """MAC/cycle: of a layer while its cores are busy, of all over the whole time. why: a letter for each reason why
    only the host can run a layer, which `reason_lines` gives."""
    title = f"By layer (critical {_cycle(result)}; MAC per busy cycle)"
    reasons = by_reason(result)
    letters = dict(zip(reasons, _letters(len(reasons)), strict=True))
    why = ("why",) if reasons else ()
    out = _columns(title, "layer", "cores", _cycle(result), "time", "MAC/cycle", "uJ", *why)
    for layer in result.by_layer:
        busy = layer.core_busy_ticks / result.ticks_per_cycle
        rate = f"{layer.macs / busy:,.1f}" if layer.macs else ""
        share = f"{layer.ticks_critical / max(result.ticks, 1):.1%}"
        out.add_row(
            layer.layer, _channels(layer), _cycles(result, layer.ticks_critical), share, rate, _uj(layer.energy_j),
            *([letters.get(layer.why_host, "")] if reasons else []),
        )  # fmt: skip
    macs = sum(layer.macs for layer in result.by_layer)
    out.add_section()
    rate = f"{macs * result.ticks_per_cycle / max(result.ticks, 1):,.1f}"
    out.add_row("all", "", _cycles(result, result.ticks), "100.0%", rate, _uj(result.energy_j))
    return out


def _letters(n: int) -> list[str]:
    """a, b, ..., z, aa, ab, ..."""
    one = [chr(ord("a") + i) for i in range(26)]
    return list(itertools.islice(itertools.chain(one, (a + b for a in one for b in one)), n))


def _unit_table(result: Result) -> Table:
    waited = ("dependency", "buffer", "link, host")
    out = _columns(
        f"By unit (and the {_cycle(result)} that it waited for what)", "unit", "busy", "of time", *waited, "uJ"
    )
    for unit in result.by_unit:
        if unit.ops or unit.busy_ticks:
            energy = "-" if unit.energy_j is None else _uj(unit.energy_j)
            ticks = (unit.busy_ticks, unit.wait_dep_ticks, unit.wait_credit_ticks, unit.wait_server_ticks)
            busy, *waits = (_cycles(result, t) for t in ticks)
            out.add_row(unit.unit, busy, f"{unit.utilisation:.1%}", *waits, energy)
    out.add_row("base, static", "", "", "", "", "", _uj(result.base_energy_j))
    if any(unit.energy_j is None for unit in result.by_unit if unit.ops or unit.busy_ticks):
        out.caption, out.caption_justify = "-: no figure of its own, inside the base and core powers", "left"
    return out


def _level_table(result: Result) -> Table:
    """Where the energy goes, largest first; bytes of memories that are read and written, and over links."""
    moved = {part.memory: part.read_bytes + part.written_bytes + part.feed_bytes for part in result.by_memory}
    moved |= {link_level(part.server): part.bytes for part in result.by_server}
    reaches = f" ({result.energy_boundary})" if result.energy_boundary else ""
    out = _columns(f"Energy by level{reaches}", "level", "bytes", "uJ", "energy")
    for level, joules in sorted(result.by_level.items(), key=lambda item: -item[1]):
        n_bytes = f"{moved[level]:,}" if moved.get(level) else ""
        out.add_row(level, n_bytes, _uj(joules), f"{joules / max(result.energy_j, 1e-30):.1%}")
    out.add_section()
    out.add_row("all", "", _uj(result.energy_j), "100.0%" if result.energy_j else "")
    return out


def _cause_table(result: Result) -> Table:
    out = _columns("Critical path", "cause", _cycle(result), "time", "most in")
    path = result.critical_path
    for cause, ticks in sorted(path.by_cause_ticks.items(), key=lambda item: -item[1]):
        most = max(result.by_layer, key=lambda layer, cause=cause: layer.causes.get(cause, 0))  # type: ignore[misc]
        where = f"{most.layer} ({_cycles(result, most.causes.get(cause, 0))})"
        out.add_row(CAUSES[cause], _cycles(result, ticks), f"{ticks / result.ticks:.1%}", where)
        if cause == "wait_server":
            for server, holders in path.waits_ticks.items():
                behind, most_ticks = max(holders.items(), key=lambda item: item[1])
                waited = sum(holders.values())
                detail = f"behind {behind} ({_cycles(result, most_ticks)})"
                out.add_row(f"  for {server}", _cycles(result, waited), f"{waited / result.ticks:.1%}", detail)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Gantt

# Colours by kind (Okabe and Ito's palette, distinct for colour-blind eyes); set-up is drawn over them in grey.
_COLOURS = {
    "compute": "#0072B2",
    "weights": "#D55E00",
    "load": "#009E73",
    "store": "#CC79A7",
    "feed": "#56B4E9",
    "launch": "#E69F00",
    "sync": "#000000",
    "set-up": "#999999",
}
_PIXELS = 4000  # neighbours of one kind closer than the makespan over this are drawn as one


def gantt(result: Result, path: Path | str) -> None:
    """Write the run's chart as a PNG."""
    with _gantt(result) as figure:
        figure.savefig(path, format="png", dpi=110)


def gantt_figure(result: Result) -> Figure:
    """The run's chart as a figure of matplotlib."""
    with _gantt(result) as figure:
        return figure


@contextmanager
def _gantt(result: Result) -> Iterator[Figure]:
    """The run drawn: units as rows, ops coloured by kind, layers above; time in ms, ticks on top."""
    program, trace = result.program, result.trace
    row = row_of(program, np.arange(program.n_ops))
    units = [n for n in range(len(program.unit_names)) if (program.rows["unit"][row] == n).any()]
    with drawn_figure(14, 2.2 + 0.55 * len(units)) as figure:
        axes = figure.add_subplot()
        _draw(figure, axes, result, row, units)
        axes.set_xlabel(f"ms ({trace.makespan:,} ticks of {1e9 / program.tick_hz:.3g} ns in all)")
        figure.suptitle(shown(_title(result)), fontsize=11)
        yield figure


def _draw(figure: Any, axes: Any, result: Result, row: Ints, units: Sequence[int]) -> None:
    """The ops of some units as bars, a row each, over the bands of the layers; and what the colours mean."""
    from matplotlib.patches import Patch

    program, trace = result.program, result.trace
    ms = 1e3 / program.tick_hz
    used: dict[str, None] = {}
    for place, number in enumerate(units):
        for kind, bars in _bars(program, result, row, number).items():
            spans = [(start * ms, (end - start) * ms) for start, end in bars]
            axes.broken_barh(spans, (place - 0.36, 0.72), color=_COLOURS[kind], lw=0, snap=False)
            used[kind] = None
    _layer_bands(axes, result, ms)
    utilisation = {unit.unit: unit.utilisation for unit in result.by_unit}
    names = [program.unit_names[n] for n in units]
    axes.set_yticks(range(len(units)), [f"{shown(name)}\n{utilisation[name]:.0%} busy" for name in names])
    axes.set_ylim(len(units) - 0.5, -0.5)
    axes.set_xlim(0, max(trace.makespan, 1) * ms)
    handles = [Patch(color=colour, label=kind) for kind, colour in _COLOURS.items() if kind in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _bars(program: Program, result: Result, row: Ints, unit: int) -> dict[str, list[tuple[int, int]]]:
    """The intervals of a unit's ops by kind, set-up apart; near neighbours of one kind joined."""
    gap = max(result.trace.makespan // _PIXELS, 1)
    out: dict[str, list[tuple[int, int]]] = {}

    def add(kind: str, start: int, end: int) -> None:
        bars = out.setdefault(kind, [])
        if bars and start - bars[-1][1] < gap:
            bars[-1] = (bars[-1][0], max(end, bars[-1][1]))
        elif end > start:
            bars.append((start, end))

    ops = np.flatnonzero(program.rows["unit"][row] == unit)
    setup, kind = (program.rows[key][row[ops]].tolist() for key in ("setup", "kind"))
    ticks = zip(result.trace.issue[ops].tolist(), setup, result.trace.end[ops].tolist(), kind, strict=True)
    for start, before, end, number in ticks:
        asked = start + before
        if asked > start:
            add("set-up", start, asked)
        if end > asked:
            add(KINDS[number], asked, end)
    return {kind: bars for kind, bars in sorted(out.items(), key=lambda item: list(_COLOURS).index(item[0])) if bars}


def _layer(program: Program, layer: int) -> str:
    return program.layers[layer] if layer >= 0 else NO_LAYER


def _layer_bands(axes: Any, result: Result, ms: float) -> None:
    """Shade where the critical path is in every other layer; name layers above, as many as there is room for."""
    path = result.path[result.path["end"] > result.path["start"]]
    layers = result.program.rows["layer"][row_of(result.program, path["op"])]
    first = changes(layers)
    until = path["end"][np.append(first[1:], len(layers)) - 1]
    columns = (layers[first].tolist(), path["start"][first].tolist(), until.tolist())
    stays = [(_layer(result.program, layer), start, end) for layer, start, end in zip(*columns, strict=True)]
    number = {layer.layer: n for n, layer in enumerate(result.by_layer)}
    longest: dict[str, tuple[int, int]] = {}
    for name, start, end in stays:
        if number[name] % 2:
            axes.axvspan(start * ms, end * ms, color="#000000", alpha=0.05, lw=0, zorder=0)
        old = longest.get(name, (0, 0))
        longest[name] = (start, end) if end - start > old[1] - old[0] else old
    room, last = result.ticks / 95, -result.ticks  # ticks that a name of this size takes across
    for name, (start, end) in sorted(longest.items(), key=lambda item: item[1]):
        middle = (start + end) // 2
        if middle - last >= room:
            axes.text(middle * ms, -0.55, shown(name), rotation=90, ha="center", va="bottom", fontsize=7.5)
            last = middle


__all__ = ["bottleneck", "gantt", "gantt_figure", "summary", "table"]

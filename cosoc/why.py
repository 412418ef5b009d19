"""What `cosoc explain`, `compare` and `report` do: read runs back, simulate them again, show what is found."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cosoc import __version__
from cosoc.output import check_writable, write_text
from cosoc.search.manifest import Files
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import soc_from
from cosoc.sim.files.mapping_file import dump_mapping, load_mapping
from cosoc.sim.files.workload_file import dump_workload, load_workload
from cosoc.sim.files.yamlfile import read_json, read_plain
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.explain import LayerChange
from cosoc.sim.report.result import CAUSES, Result, to_json
from cosoc.sim.shown import quantity
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import checked
from cosoc.views import frame, preformatted

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import RenderableType
    from rich.table import Table

    from cosoc.search import result as search_result
    from cosoc.search.campaigns.results import SweepResult
    from cosoc.sim.pipelined import PipelinedResult
    from cosoc.sim.ranges import Ranged, Spread

T = TypeVar("T")

COMMON = 12  # layers that a terminal's table names


@dataclass(frozen=True)
class Case:
    """What a run needs, and so all that is needed to run it again."""

    soc: SoC
    workload: Workload
    mapping: Mapping
    engine: str = "fast"
    inferences: int = 1


# ------------------------------------------------------------------------------------------ reading


def of_result(result: Result) -> dict[str, Any]:
    """A result as JSON, together with its inputs: `load` reads it back."""
    at = result.at
    inputs = {
        "soc": at.soc.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "workload": dump_workload(at.workload),
        "mapping": dump_mapping(at.mapping),
    }
    return to_json(result) | {"inputs": inputs}


def load(path: Path, point: str | None = None) -> Case:
    """A case from a result JSON, or from a run folder (or one of its mappings/*.yaml). InputError if it is none."""
    if path.parent.name == "mappings" and path.suffix == ".yaml":
        return _from_folder(path.parent.parent, path.stem)
    if path.is_dir():
        return _from_folder(path, point)
    content = read_json(path)
    inputs = content.get("inputs")
    if not isinstance(inputs, dict) or not {"soc", "workload", "mapping"} <= set(inputs):
        raise InputError(f"{path}: holds no inputs to simulate again; write it with `cosoc simulate --json`")
    soc = soc_from(inputs["soc"], f"{path}: soc")
    workload = load_workload(Path(f"{path}: inputs.workload"), str(inputs["workload"]))
    mapping = load_mapping(Path(f"{path}: inputs.mapping"), workload, soc, text=str(inputs["mapping"]))
    engine = "reference" if content.get("engine") == "reference" else "fast"
    inferences = content.get("inferences", 1)
    if not isinstance(inferences, int):
        raise InputError(f"{path}: inferences is {inferences!r}; a whole number is needed")
    return Case(soc, workload, mapping, engine, inferences)


def _from_folder(folder: Path, point: str | None) -> Case:
    files = Files(folder, to_read=True)
    config = _config(files)
    if "soc" not in config:
        raise InputError(f"{folder}: config.yaml is not that of a search on a SoC")
    soc, workload = (
        soc_from(config["soc"], f"{folder / 'config.yaml'}: soc"),
        load_workload(files.path("workload.yaml")),
    )
    names = sorted(Path(name).stem for name in files.known if name.startswith("mappings/"))
    name = point or _best(files, names)
    if name not in names:
        raise InputError(f"{folder}: has no mapping {name}; there is {', '.join(names) or 'none yet'}")
    return Case(soc, workload, load_mapping(files.path(f"mappings/{name}.yaml"), workload, soc))


def _config(files: Files) -> dict[str, Any]:
    """A run folder's config.yaml. InputError where it is not one."""
    config = read_plain(files.path("config.yaml"))
    if not isinstance(config, dict):
        raise InputError(f"{files.folder}: its config.yaml is not that of a search")
    return config


def _best(files: Files, names: Sequence[str]) -> str:
    """The mapping that the search found best, or the first that an unfinished one has left."""
    best = read_json(files.path("result.json")).get("best") if "result.json" in files else None
    return str(best) if best in names else names[0] if names else "best"


# ------------------------------------------------------------------------------------------ tables


def explanation(result: Result, case: Case, whats: Sequence[str]) -> RenderableType:
    """Bottleneck, causes by layer, and what-ifs (proposed ones, where none is asked for), for a terminal."""
    from rich.console import Group

    from cosoc.sim.report.explain import improving, what_if
    from cosoc.sim.report.hosted import reason_lines
    from cosoc.sim.report.render import summary

    machine = case.soc, case.workload, case.mapping
    run = case.engine, case.inferences
    outcomes = what_if(*machine, whats, *run) if whats else improving(result, *machine, *run)
    table = _table("What if (each alone, simulated)", "change", "ms", "", "uJ", "")
    table.add_row("as it is", f"{result.seconds * 1e3:.4g}", "", f"{result.energy_j * 1e6:.4g}", "")
    for one in outcomes:
        if one.seconds is None or one.energy_j is None:
            table.add_row(one.what, "cannot run:", "", "", "")
            table.add_row(f"  {one.error}", "", "", "", "")
            continue
        ms, uj = f"{one.seconds * 1e3:.4g}", f"{one.energy_j * 1e6:.4g}"
        gained = (_change(result.seconds, one.seconds), _change(result.energy_j, one.energy_j))
        table.add_row(one.what, ms, gained[0], uj, gained[1])
    return Group(summary(result), "", _causes(result), *reason_lines(result), "", table)


def _table(title: str, left: str, *right: str) -> Table:
    from rich import box
    from rich.table import Table

    out = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0), show_edge=False
    )
    out.add_column(left, overflow="fold", min_width=14)
    for name in right:
        out.add_column(name, justify="right", no_wrap=True)
    return out


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else "-"


def _causes(result: Result) -> RenderableType:
    from cosoc.sim.report.explain import causes_by_layer

    layers = causes_by_layer(result)
    causes = sorted(result.critical_path.by_cause_ticks, key=lambda cause: -result.critical_path.by_cause_ticks[cause])
    out = _table("Critical path, share of the time", "layer", "all", *(cause.replace("_", " ") for cause in causes[:5]))
    for name, ticks in list(layers.items())[:COMMON]:
        _add(out, name, ticks, causes, result.ticks)
    rest: dict[str, int] = {}
    for ticks in list(layers.values())[COMMON:]:
        for cause, n in ticks.items():
            rest[cause] = rest.get(cause, 0) + n
    if rest:
        _add(out, f"{len(layers) - COMMON} more", rest, causes, result.ticks)
    _add(out, "total", result.critical_path.by_cause_ticks, causes, result.ticks)
    return out


def _add(table: Table, name: str, ticks: dict[str, int], causes: Sequence[str], total: int) -> None:
    shares = [f"{ticks[cause] / total:.1%}" if ticks.get(cause) else "" for cause in causes[:5]]
    table.add_row(name, f"{sum(ticks.values()) / total:.1%}", *shares)


def pipelined(result: PipelinedResult) -> RenderableType:
    """A chip's layers at once: what each takes and how busy it is, and the stream's figures, for a terminal."""
    from rich.console import Group

    table = _table("Layers at once", "layer", "core", "us", "copies", "tiles", "busy")
    for one in result.layers:
        tiles = f"{one.tiles:,}" if one.tiles else ""
        table.add_row(one.layer, one.core, f"{one.seconds * 1e6:.4g}", f"{one.copies}", tiles, f"{one.utilisation:.1%}")
    said = f"{result.workload} on {result.soc}, {result.mapping}, pipelined: {result.throughput:,.1f} images a second, "
    said += f"{quantity(result.energy_j, 'J')} each, {quantity(result.latency_s, 's')} under way. "
    said += f"{result.bottleneck} sets the rate. Layer after layer: {1 / result.layer_after_layer_s:,.1f} a second."
    return Group(table, "", said)


def ranged(found: Ranged) -> RenderableType:
    """Intervals of each mapping, what single figures do, and what makes another mapping the fastest, for a terminal."""
    from rich.console import Group

    n = len(found.ranges)
    drawn = "all" if found.corners == found.all_corners else f"{found.corners} of {found.all_corners:,}"
    said = f"Tried: {n} figures at both ends of their ranges, {drawn} corners of all together (seed {found.seed})."
    table = _table("Over the ranges of the SoC file", "mapping", "ms", "from", "to", "uJ", "from", "to")
    for one in found.spreads:
        ms = [f"{value * 1e3:.4g}" for value in (one.seconds.nominal, one.seconds.low, one.seconds.high)]
        uj = [f"{value * 1e6:.4g}" for value in (one.energy_j.nominal, one.energy_j.low, one.energy_j.high)]
        table.add_row(one.mapping, *ms, *uj)
    parts: list[RenderableType] = [table]
    for one in found.spreads:
        parts += ["", _effects(one, {by.path: f"{by.low} .. {by.high}" for by in found.ranges})]
    parts += ["", said]
    if len(found.spreads) > 1:
        parts += [_turns(found)]
    return Group(*parts)


def _effects(spread: Spread, ranges: dict[str, str]) -> Table:
    out = _table(f"{spread.mapping}: each figure alone", "figure", "range", "ms", "to", "uJ", "to")
    for one in spread.effects:
        if one.seconds[0] != one.seconds[1] or one.energy_j[0] != one.energy_j[1]:
            ms = [f"{value * 1e3:.4g}" for value in one.seconds]
            uj = [f"{value * 1e6:.4g}" for value in one.energy_j]
            out.add_row(one.path, ranges[one.path], *ms, *uj)
    return out


def _turns(found: Ranged) -> str:
    said = f"{found.fastest} is the fastest by the file, and in {found.fastest_in_corners[found.fastest]} of "
    said += f"{found.corners} corners."
    if not found.flips:
        return f"{said} No single figure turns that."
    turns = [f"from {flip.path} {flip.value:g} on {flip.faster} is" for flip in found.flips]
    return f"{said} Alone, {'; '.join(turns)}."


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two results of one network, as `cosoc simulate --json` has them; carriers added where that was asked for. layers:
    layer by layer, in the order of the network. `frame` has them as a frame of pandas."""

    a: dict[str, Any]
    b: dict[str, Any]
    layers: tuple[LayerChange, ...]

    @property
    def shifts_s(self) -> dict[str, float]:
        """Seconds of the critical path by cause, the second's minus the first's, those that are not 0."""
        sums = {cause: sum(one.causes_s.get(cause, 0.0) for one in self.layers) for cause in CAUSES}
        return {cause: s for cause, s in sums.items() if s}

    def __repr__(self) -> str:
        a, b = self.a, self.b
        said = [
            f"{key} {one['mapping']} on {one['soc']} {quantity(one['seconds'], 's')}, {quantity(one['energy_j'], 'J')}"
            for key, one in (("A", a), ("B", b))
        ]
        most = max(self.shifts_s, key=lambda cause: abs(self.shifts_s[cause]), default="")
        shifted = f"; {CAUSES[most]} shifted most: {quantity(self.shifts_s[most], 's')}" if most else ""
        return f"{a['workload']}: {'; '.join(said)} ({_change(a['seconds'], b['seconds'])} time){shifted}"

    def _repr_html_(self) -> str:
        return preformatted(self.table())

    @property
    def frame(self) -> DataFrame:
        """A row a layer: seconds and joules of both, and the seconds by which each cause shifted."""
        rows = [
            {"layer": one.layer, "a_s": one.seconds[0], "b_s": one.seconds[1], "a_j": one.energy_j[0],
             "b_j": one.energy_j[1]} | {f"shift_{cause}_s": s for cause, s in one.causes_s.items()}
            for one in self.layers
        ]  # fmt: skip
        return frame(rows, "layer")

    def table(self) -> RenderableType:
        """Layer by layer, for a terminal."""
        a, b = self.a, self.b
        title = f"{a['workload']}: A {a['mapping']} on {a['soc']}, B {b['mapping']} on {b['soc']}"
        clocks = [one["tick_hz"] / one.get("ticks_per_cycle", 1) for one in (a, b)]
        out = _table(title, "layer", "A cycles", "B cycles", "", "A uJ", "B uJ", "shifted most")

        def row(name: str, seconds: Sequence[float], energy: Sequence[float], causes: dict[str, float]) -> None:
            top = max(causes, key=lambda cause: abs(causes[cause]), default="")
            said = f"{top.replace('_', ' ')} {causes[top] * clocks[1]:+,.0f}" if top else ""
            cycles = [f"{s * hz:,.0f}" for s, hz in zip(seconds, clocks, strict=True)]
            uj = [f"{j * 1e6:.4g}" for j in energy]
            out.add_row(name, *cycles, _change(*seconds), *uj, said)

        for one in self.layers:
            row(one.layer, one.seconds, one.energy_j, one.causes_s)
        row("total", (a["seconds"], b["seconds"]), (a["energy_j"], b["energy_j"]), self.shifts_s)
        return out


def compared(a: dict[str, Any], b: dict[str, Any], carrier_w: float | None = None) -> Comparison:
    """Two results layer by layer. carrier_w: what a board draws, added to the one whose energies stop before the
    other's. InputError where one is not as `cosoc simulate --json` writes it, where energies do not reach equally far
    and no carrier is given, and where they do and one is."""
    from cosoc.sim.report.explain import compare

    try:
        one, other = _lifted(a, b, carrier_w)
        found = Comparison(one, other, tuple(compare(one, other)))
        found.table()  # what it reads is there
        return found
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"one of the two is not a result as `cosoc simulate --json` writes it: {said}") from error


def _lifted(a: dict[str, Any], b: dict[str, Any], carrier_w: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two results whose energies reach equally far."""
    from cosoc.sim.model.soc import BOUNDARIES, mixed

    far = [one.get("energy_boundary") for one in (a, b)]
    why = mixed({f"A ({a['soc']})": far[0], f"B ({b['soc']})": far[1]})
    if not why:
        if carrier_w is not None:
            raise InputError(f"--carrier: the energies of both reach to the {far[0] or 'same'}; leave it out")
        return a, b
    if carrier_w is None or None in far:
        raise InputError(f"compare: {why}; --carrier W adds what a board draws to the one that stops before it")
    lower = min((0, 1), key=lambda i: BOUNDARIES.index(far[i]))
    one = (a, b)[lower]
    lifted = one | {
        "energy_j": one["energy_j"] + carrier_w * one["seconds"],
        "by_layer": [
            part | {"energy_j": part["energy_j"] + carrier_w * part["seconds_critical"]} for part in one["by_layer"]
        ],
    }
    return (lifted, b) if lower == 0 else (a, lifted)


def result_json(path: Path) -> dict[str, Any]:
    """A result to compare: a result JSON as it is, or a run folder's mapping, simulated."""
    if path.is_dir() or path.suffix == ".yaml":
        return simulated_json(load(path))
    content = read_json(path)
    needed = ("workload", "inferences", "soc", "mapping", "tick_hz", "seconds", "energy_j", "by_layer")
    missing = [key for key in needed if key not in content]
    if missing:
        raise InputError(f"{path}: has no {missing[0]}; a file of `cosoc simulate --json` is needed")
    return content


def simulated_json(case: Case) -> dict[str, Any]:
    """The result of a case, to compare."""
    return of_result(simulate(case.soc, case.workload, case.mapping, case.engine, case.inferences))


# ------------------------------------------------------------------------------------------ HTML


def report(run: Path, point: str | None = None, carrier_w: float | None = None) -> str:
    """The page of a result's JSON, simulated again, of a search's folder and one of its points (or mappings), or of a
    campaign's folder. carrier_w: what a board draws beside a chip, for a campaign over both."""
    from cosoc.search import search_page
    from cosoc.search.campaigns.store import RESULTS, stored_rows
    from cosoc.sim.report import run_page

    if run.name == RESULTS or (run / RESULTS).is_file():
        if point is not None:
            raise InputError(f"--point {point}: {run} is a campaign's, which has no points; leave it out")
        from cosoc.search.campaigns.results import SweepResult

        file = run if run.name == RESULTS else run / RESULTS
        return campaign(SweepResult(tuple(stored_rows(file)), 0, carrier_w), file.parent)
    if carrier_w is not None:
        raise InputError("--carrier: is for a campaign over chips and boards; leave it out")
    folder = run.parent.parent if run.parent.name == "mappings" else run
    chosen = run.stem if folder != run else point
    if folder.is_dir():
        files = Files(folder, to_read=True)
        config = _config(files)
        if "cluster" in config:
            found = _finished(files)
            data = _drawn(folder, lambda: search_page.cluster_data(config, found, chosen))
            return run_page.page(data | {"provenance": _provenance(files)})
    case = load(run, point)
    result = simulate(case.soc, case.workload, case.mapping, case.engine, case.inferences)
    return html(result, case, folder if folder.is_dir() else None)


def campaign(result: SweepResult, folder: Path) -> str:
    """A campaign as HTML: fronts, maps over its axes, tasks that failed."""
    from cosoc.search.campaigns.page import campaign_data
    from cosoc.sim.report import run_page

    return run_page.page(campaign_data(result, folder.name) | {"provenance": _provenance(None)})


def html(result: Result, case: Case, folder: Path | None = None) -> str:
    """A report as HTML: of a run, and of the search in whose folder its mapping is."""
    from cosoc.search import search_page
    from cosoc.sim.report import run_page

    files = None if folder is None else Files(folder, to_read=True)
    data: dict[str, Any] = {
        "title": f"{result.workload} on {result.soc}",
        "subtitle": f"{result.mapping}, {result.runtime}, {result.inferences} inference(s), {result.engine} engine",
        "run": run_page.run_data(result, case.soc, case.workload, case.mapping),
        "provenance": _provenance(files, case),
    }
    if files is not None and "result.json" in files:
        found = _finished(files)
        data |= _drawn(files.folder, lambda: search_page.soc_data(found, result, case.mapping))
    return run_page.page(data)


def write_page(result: Result, path: Path) -> None:
    """Write a run as a page."""
    check_writable("report", path)
    at = result.at
    write_text(path, html(result, Case(at.soc, at.workload, at.mapping, result.engine, result.inferences)))


def _drawn(folder: Path, draw: Callable[[], T]) -> T:
    """What `draw` makes of a folder's files. InputError where they are not what a search writes."""
    try:
        return draw()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{folder}: its results are not what a search of this version writes ({what})") from error


def _finished(files: Files) -> search_result.Result:
    """A search's result.json. InputError where it has none, or another."""
    if "result.json" not in files:
        folder = files.folder
        raise InputError(f"{folder}: has no result.json: the search has not ended; go on with `cosoc search --resume`")
    from cosoc.search import result as search_result

    content = read_json(files.path("result.json"))
    return _drawn(files.folder, lambda: search_result.result_from(content))


def _provenance(files: Files | None, case: Case | None = None) -> list[tuple[str, str]]:
    """What made the page, of what, and where and when the search ran."""
    out = [("cosoc", __version__)]
    if Path(sys.argv[0]).stem in ("cosoc", "__main__"):  # else a program of a user's own makes the page
        out += [("command", " ".join(["cosoc", *sys.argv[1:]]))]
    out += _digests(case) if case is not None else []
    if files is None:
        return [*out, ("python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
    return out + [(f"run: {key}", str(value)) for key, value in read_json(files.path("environment.json")).items()]


def _digests(case: Case) -> list[tuple[str, str]]:
    soc = json.dumps(case.soc.model_dump(mode="json", by_alias=True), sort_keys=True)
    texts = {
        "SoC": (case.soc.name, soc),
        "workload": (case.workload.name, dump_workload(case.workload)),
        "mapping": (case.mapping.name, dump_mapping(checked(case.mapping, case.workload, case.soc))),
    }
    return [(key, f"{name}, sha256 {hashlib.sha256(t.encode()).hexdigest()[:16]}") for key, (name, t) in texts.items()]

"""Why a run takes as long as it does: what-ifs that are simulated, and two results side by side. All as plain data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from pydantic import ValidationError

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import SoCFile, find_technology
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.technology import sized
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_units import core_of_unit, name_of
from cosoc.sim.movers.links import BANKS, BUS
from cosoc.sim.report.result import CAUSES, Result
from cosoc.sim.simulate import simulate

PROPOSED, TRIED = 4, 8  # what-ifs that are shown where none is asked for, of so many that are tried
SHOWS = 5e-4  # a smaller change of the time is none, as it is told in tenths of a per cent


@dataclass(frozen=True)
class Outcome:
    """A what-if, simulated. seconds, energy_j: None where the changed machine cannot run it; error says why."""

    what: str
    seconds: float | None
    energy_j: float | None
    error: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# Causes


def causes_by_layer(result: Result) -> dict[str, dict[str, int]]:
    """Ticks of the critical path by layer, then cause, longest layer first. All together they sum to the makespan."""
    layers = sorted(result.by_layer, key=lambda layer: -layer.ticks_critical)
    return {layer.layer: dict(layer.causes) for layer in layers if layer.ticks_critical}


def proposals(result: Result, soc: SoC) -> list[str]:
    """What-ifs for the top causes, the heaviest first: the links waited for at twice the rate, set-ups at half, ..."""
    weight: dict[str, int] = {}
    ticks: dict[tuple[str, str], int] = {}  # by cause and unit, over all layers
    for share in result.critical_path.shares:
        if share.cause != "wait_server":
            ticks[share.cause, share.unit] = ticks.get((share.cause, share.unit), 0) + share.ticks
    for (cause, unit), spent in ticks.items():
        for change in _remedies(result, soc, cause, unit):
            weight[change] = weight.get(change, 0) + spent
    for server, holders in result.critical_path.waits_ticks.items():
        for end, key in (("", "links.{}.rate=x2"), (BUS, "memories.{}.dram.period_cycles=x0.5"),
                         (BANKS, "memories.{}.dram.row_cycles=x0.5")):  # fmt: skip
            name = server.removesuffix(end)
            if server.endswith(end) and name in (soc.memories if end else soc.links):
                change = key.format(name)
                weight[change] = weight.get(change, 0) + sum(holders.values())
    made = (_makeable(soc, change) for change in sorted(weight, key=lambda change: -weight[change]))
    return [change for change in made if change]


def _makeable(soc: SoC, change: str) -> str:
    """A change as it can be made; '' where it cannot. Half of an odd count of cycles is rounded down."""
    for one in (change, _rounded(soc, change)):
        try:
            changed(soc, one)
        except InputError:
            continue
        return one
    return ""


def _rounded(soc: SoC, change: str) -> str:
    """PATH=xFACTOR as the whole number that it comes to, rounded down."""
    path, _, factor = change.partition("=x")
    section, _, name = path.rpartition(".")
    old = (_section(soc.model_dump(mode="json", by_alias=True), section) or {}).get(name)
    return f"{path}={int(old * Fraction(factor))}" if isinstance(old, int) else change


def _remedies(result: Result, soc: SoC, cause: str, unit: str) -> list[str]:
    """The parameters that a cause hangs on."""
    if unit in soc.dmas:
        if cause == "dma_setup":
            return [f"dmas.{unit}.setup_cycles=x0.5"]
        return _faster(result, {link for route in soc.routes if route.dma == unit for link in route.links})
    array = core_of_unit(soc).get(unit)
    if array is not None:
        return _mover_remedies(result, soc, array, cause, unit)
    core = soc.cores.get(unit)
    if core is None:
        return []
    if cause == "launch":
        return [f"cores.{unit}.launch_cycles=x0.5"] if core.launch_cycles else []
    if cause == "feed":
        return _faster(result, set(core.feed_links) | set(core.own_links()))
    return [f"cores.{unit}.{change}" for change in core.improvements()] if cause == "compute" else []


def _mover_remedies(result: Result, soc: SoC, array: str, cause: str, unit: str) -> list[str]:
    """The same for a unit of a cached mover."""
    mover = soc.route(soc.main_memory, soc.cores[array].memory).dma
    if cause == "launch":
        return [f"cores.{array}.software.conv_tile_cycles=x0.5"]
    if cause == "setup":
        loads = unit == name_of(soc, array, "load")
        return [f"dmas.{mover}.setup_cycles=x0.5" if loads else f"cores.{array}.execute.drain_cycles=x0.5"]
    if unit == name_of(soc, array, "store"):
        return [f"dmas.{mover}.store_request_cycles=x0.5"]
    rows = [i for i, name in enumerate(result.program.unit_names) if name == unit]
    ours = result.program.rows[np.isin(result.program.rows["unit"], rows) & (result.program.rows["route_n"] > 0)]
    links = {result.program.server_names[server] for server in result.program.routes[ours["route_at"]].tolist()}
    return _faster(result, links & set(soc.links))


def _faster(result: Result, links: set[str]) -> list[str]:
    """The busiest of some links at twice its rate."""
    parts = [part for part in result.by_server if part.server in links and part.busy_ticks]
    return [f"links.{max(parts, key=lambda part: part.utilisation).server}.rate=x2"] if parts else []


# ---------------------------------------------------------------------------------------------------------------------
# What-ifs


def changed(soc: SoC, what: str) -> SoC:
    """The SoC with one value changed: `PATH=VALUE`, `PATH=xFACTOR` or `PATH=+N`, a path as in the SoC file.

    `links.NAME.rate` stands for bytes_per_period / period_cycles, `memories.NAME.size` for what is not reserved of it.
    InputError for a path that there is not (near ones are named), and for a SoC that contradicts itself.
    """
    path, equals, change = what.partition("=")
    if not (path and equals and change):
        raise InputError(f"--what-if {what}: PATH=VALUE, PATH=xFACTOR or PATH=+N is needed, such as links.l2.rate=x2")
    content = soc.model_dump(mode="json", by_alias=True)
    section, _, name = path.rpartition(".")
    values = _section(content, section)
    if values is not None and section.startswith("links.") and name == "rate":
        rate = _new(what, Fraction(values["bytes_per_period"], values["period_cycles"]), change)
        values["bytes_per_period"], values["period_cycles"] = rate.limit_denominator(1 << 20).as_integer_ratio()
    elif values is not None and section.startswith("memories.") and name == "size":
        room = values["size_bytes"] - values["reserved_bytes"]
        values["size_bytes"] = int(_new(what, Fraction(room), change)) + values["reserved_bytes"]
    elif values is None or name not in values or isinstance(values[name], dict | list):
        raise InputError(f"--what-if {what}: {_unknown(content, path)}")
    else:
        values[name] = _replaced(what, values[name], change)
    try:
        machine = SoCFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--what-if {what}: {first['msg'].removeprefix('Value error, ')}") from None
    for place, message in machine.problems():
        raise InputError(f"--what-if {what}: {'.'.join(map(str, place))}: {message}")
    if machine.technology is None:
        return machine.at_its_voltage()
    # Its figures are of the sizes that it had.
    return sized(machine, soc, find_technology(machine.technology)).at_its_voltage()


def _section(content: dict[str, Any], path: str) -> dict[str, Any] | None:
    node: Any = content
    for part in path.split(".") if path else ():
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else None


def _paths(content: dict[str, Any], before: str = "") -> list[str]:
    out = []
    for key, value in content.items():
        out += _paths(value, f"{before}{key}.") if isinstance(value, dict) else [before + key]
    return out


def _unknown(content: dict[str, Any], path: str) -> str:
    known = _paths(content) + [f"links.{name}.rate" for name in content["links"]]
    known += [f"memories.{name}.size" for name in content["memories"]]
    beside = [one for one in known if one.startswith(path.rpartition(".")[0] + ".")]
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.6) or beside[:6]
    return f"the SoC has no value {path}; near it there is {', '.join(near or list(content))}"


def _new(what: str, old: Fraction, change: str) -> Fraction:
    """A number after a change. A result that is not positive is left to the SoC's own checks."""
    try:
        if change[0] in "x*":
            return old * Fraction(change[1:])
        return old + Fraction(change[1:]) if change[0] == "+" else Fraction(change)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--what-if {what}: {change!r} is no number, xFACTOR or +N") from None


def _float(change: str) -> float | str:
    try:
        return float(change)
    except ValueError:
        return change


def _replaced(what: str, old: Any, change: str) -> Any:
    if isinstance(old, bool) and change in ("true", "false"):
        return change == "true"
    if isinstance(old, str | bool):
        return change
    if old is None:
        return int(change) if change.isdigit() else _float(change)
    value = _new(what, Fraction(old), change)
    if isinstance(old, int) and value.denominator != 1:
        raise InputError(f"--what-if {what}: {old} becomes {float(value):g}; a whole number is needed")
    return int(value) if value.denominator == 1 and isinstance(old, int) else float(value)


def what_if(
    soc: SoC, workload: Workload, mapping: Mapping, whats: Sequence[str], engine: str = "fast", inferences: int = 1
) -> list[Outcome]:
    """Simulate each change alone. What the mapping leaves open is chosen anew for the changed machine.

    InputError for a change that cannot be made; a machine that cannot run the mapping is an outcome.
    """
    machines = [changed(soc, what) for what in whats]
    out = []
    for what, machine in zip(whats, machines, strict=True):
        try:
            run = simulate(machine, workload, mapping, engine, inferences)
        except InputError as error:
            out.append(Outcome(what, None, None, str(error)))
        else:
            out.append(Outcome(what, run.seconds, run.energy_j))
    return out


def improving(
    result: Result, soc: SoC, workload: Workload, mapping: Mapping, engine: str = "fast", inferences: int = 1
) -> list[Outcome]:
    """Of the proposals for a result those that change its time, simulated, the fastest first; TRIED are tried, PROPOSED
    kept. A cause's parameter may be hidden behind another that takes as long, and change nothing alone."""
    tried = proposals(result, soc)[:TRIED]
    found = []
    for change in tried:
        (outcome,) = what_if(soc, workload, mapping, [change], engine, inferences)
        if outcome.seconds is not None and abs(outcome.seconds / result.seconds - 1) >= SHOWS:
            found.append((outcome.seconds, outcome))
        if len(found) == PROPOSED:
            break
    return [outcome for _, outcome in sorted(found, key=lambda one: one[0])]


# ---------------------------------------------------------------------------------------------------------------------
# Two results


@dataclass(frozen=True)
class LayerChange:
    """A layer in two results. seconds: of the critical path. causes_s: the second's minus the first's, by cause."""

    layer: str
    seconds: tuple[float, float]
    energy_j: tuple[float, float]
    causes_s: dict[str, float]


def compare(a: MappingOf[str, Any], b: MappingOf[str, Any]) -> list[LayerChange]:
    """Two results, as `report.to_json` gives them, layer by layer in the order of the network.

    Seconds, not ticks: the two SoCs may have other clocks. The seconds of all layers sum to each makespan. InputError
    where the two are not of the same workload.
    """
    layers = [{part["layer"]: part for part in one["by_layer"]} for one in (a, b)]
    if a["workload"] != b["workload"]:
        raise InputError(f"compare: one result is of {a['workload']}, the other of {b['workload']}; run one workload")
    if a["inferences"] != b["inferences"]:
        raise InputError(f"compare: {a['inferences']} inferences against {b['inferences']}; run equally many")
    stated = [one.get("inputs", {}).get("workload") for one in (a, b)]
    known_same = stated[0] is not None and stated[0] == stated[1]  # a mapping may take another form of a layer
    for name in () if known_same else {**layers[0], **layers[1]}:
        macs = [one[name]["macs"] if name in one else None for one in layers]
        if macs[0] != macs[1] and any(macs):
            found = " against ".join("no such layer" if m is None else f"{m:,} MACs" for m in macs)
            raise InputError(f"compare: layer {name}: {found}; the workloads differ though both are {a['workload']}")
    hz = (a["tick_hz"], b["tick_hz"])
    empty = {"ticks_critical": 0, "energy_j": 0.0, "causes": {}}
    out = []
    for name in {**layers[0], **layers[1]}:
        one, other = (layer.get(name, empty) for layer in layers)
        shift = {c: other["causes"].get(c, 0) / hz[1] - one["causes"].get(c, 0) / hz[0] for c in CAUSES}
        seconds = (one["ticks_critical"] / hz[0], other["ticks_critical"] / hz[1])
        energy = (one["energy_j"], other["energy_j"])
        out.append(LayerChange(name, seconds, energy, {cause: s for cause, s in shift.items() if s}))
    return out


__all__ = ["LayerChange", "Outcome", "causes_by_layer", "changed", "compare", "improving", "proposals", "what_if"]

"""What a run of several networks at once says: each network's time and energy, and who was busy for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cosoc.sim.lower.together import Together
from cosoc.sim.machine.program import Program
from cosoc.sim.machine.trace import Trace
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import Boundary, SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.evidence import evidence_of_run, unmeasured
from cosoc.sim.report.result import busy_ticks, energy_j
from cosoc.sim.shown import quantity

if TYPE_CHECKING:  # slow to import
    from rich.console import RenderableType


@dataclass(frozen=True)
class Load:
    """A network, its mapping, how many inferences of it, and after how many seconds each is due (0: as soon as the one
    before has ended)."""

    workload: Workload
    mapping: Mapping
    inferences: int = 1
    period_s: float = 0.0


@dataclass(frozen=True)
class NetworkPart:
    """One of the networks.

    seconds: of an inference, the mean, from when it was due, or the one before had ended where there is no period, to
    its end. worst_seconds: the longest. alone_seconds: of an inference of the same program without the others.
    energy_j: of an inference: its ops, the powers of units while they are busy for it, and of what is always drawn an
    equal share with whom else is not done yet. ended_s: when its last inference ended. ends_s: when each ended.
    busy_s: seconds for which each unit was busy for it. unmeasured: what of it no measurement of the device covers, a
    sentence for each class of operators, with its share of the time alone.
    """

    workload: str
    mapping: str
    runtime: str
    inferences: int
    period_s: float
    seconds: float
    worst_seconds: float
    alone_seconds: float
    energy_j: float
    ended_s: float
    ends_s: tuple[float, ...]
    busy_s: dict[str, float]
    unmeasured: tuple[str, ...]


@dataclass(frozen=True)
class TogetherResult:
    """A run of several networks on one SoC. networks: by name; a network that is there twice has a number, too.
    seconds: until the last has ended. energy_j: of the whole run. links_busy: share of the run in which each link was
    held, of all its ports."""

    soc: str
    engine: str
    seconds: float
    energy_boundary: Boundary | None
    energy_j: float
    networks: dict[str, NetworkPart]
    links_busy: dict[str, float]


def to_json(result: TogetherResult) -> dict[str, Any]:
    """The result as plain data for `json.dump`; units stand in the keys."""
    return asdict(result)


def summed_up(
    soc: SoC, loads: Sequence[Load], firsts: Sequence[Sequence[int]], programs: Sequence[Program], whole: Together,
    trace: Trace, alone: Sequence[Trace], engine: str,
) -> TogetherResult:  # fmt: skip
    """Sum up a run of `whole`. firsts: of each program, the first op of each inference. alone: of each by itself."""
    hz = whole.program.tick_hz
    parts = [_own(trace, ops) for ops in whole.ops]
    shares = _idle_shares([part.makespan for part in parts])
    networks: dict[str, NetworkPart] = {}
    total = float(power_energy_j(soc, trace.makespan, {}, hz))
    for load, program, first, part, by_itself, share in zip(loads, programs, firsts, parts, alone, shares, strict=True):
        own_j = energy_j(program, part, soc) - float(power_energy_j(soc, part.makespan, {}, hz))
        total += own_j
        ends, lengths = _inferences(load, first, part, hz)
        alone_s = _inferences(load, first, by_itself, hz)[1]
        busy = busy_ticks(program, part, soc).sum(axis=1).tolist()
        name, number = load.workload.name, 2
        while name in networks:
            name, number = f"{load.workload.name}.{number}", number + 1
        networks[name] = NetworkPart(
            workload=load.workload.name,
            mapping=load.mapping.name,
            runtime=load.mapping.runtime,
            inferences=load.inferences,
            period_s=load.period_s,
            seconds=float(np.mean(lengths)),
            worst_seconds=max(lengths),
            alone_seconds=float(np.mean(alone_s)),
            energy_j=(own_j + float(power_energy_j(soc, share, {}, hz))) / load.inferences,
            ended_s=part.makespan / hz,
            ends_s=tuple(ends),
            busy_s={
                unit: ticks / hz
                for unit, ticks in zip(program.unit_names, busy, strict=True)
                if ticks and (unit in soc.cores or unit in soc.dmas)
            },
            unmeasured=unmeasured(
                evidence_of_run(
                    load.workload,
                    load.mapping,
                    soc,
                    _layer_ticks(program, by_itself, soc),
                    by_itself.makespan,
                    by_itself.makespan * soc.tick_hz / program.tick_hz,
                    load.inferences,
                ),
                soc,
            ),
        )
    ports = whole.program.servers["ports"].tolist()
    links = {
        name: busy / max(trace.makespan, 1) / port
        for name, busy, port in zip(whole.program.server_names, trace.busy.tolist(), ports, strict=True)
        if name in soc.links
    }
    return TogetherResult(soc.name, engine, trace.makespan / hz, soc.energy_boundary, total, networks, links)


def _layer_ticks(program: Program, trace: Trace, soc: SoC) -> dict[str, int]:
    """For how long the unit that worked longest on a layer did so, by layer."""
    longest = busy_ticks(program, trace, soc).max(axis=0).tolist()
    return dict(zip(program.layers, longest, strict=False))  # the last: of no layer


def while_all_run(result: TogetherResult) -> tuple[float, ...]:
    """Seconds of an inference of each network, the mean over those that end while all still run; of its own where none
    does."""
    until = min(one.ended_s for one in result.networks.values())
    out = []
    for one in result.networks.values():
        ends = [end for end in one.ends_s if end <= until]
        out.append(ends[-1] / len(ends) if ends else one.seconds)
    return tuple(out)


def _own(trace: Trace, ops: Any) -> Trace:
    """What happened to some of the ops. Servers and waits, which are not theirs alone, are left out."""
    end = trace.end[ops]
    return replace(
        trace, issue=trace.issue[ops], end=end, service=trace.service[ops], makespan=int(end.max(initial=0)),
        waits=trace.waits[:0],
    )  # fmt: skip


def _idle_shares(ends: Sequence[int]) -> list[float]:
    """Ticks for whose idle power each network stands: an equal share of each tick with all that have not ended."""
    out, before = [0.0] * len(ends), 0
    for number, end in enumerate(sorted(ends)):
        each = (end - before) / (len(ends) - number)
        out = [share + (each if mine >= end else 0) for share, mine in zip(out, ends, strict=True)]
        before = end
    return out


def _inferences(load: Load, first: Sequence[int], trace: Trace, hz: int) -> tuple[list[float], list[float]]:
    """When each inference ended, and how long it took, s."""
    parts = np.split(trace.end, list(first[1:]))
    ends = [int(part.max(initial=0)) / hz for part in parts]
    due = [number * load.period_s for number in range(len(ends))] if load.period_s else [0.0, *ends[:-1]]
    return ends, [end - begin for end, begin in zip(ends, due, strict=True)]


def table(result: TogetherResult) -> RenderableType:
    """Networks, then units and links; 80 columns."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD, title="Networks", title_justify="left", pad_edge=False, show_edge=False)
    for name in ("network", "mapping", "runs", "ms", "alone ms", "slower", "mJ each"):
        rows.add_column(name, justify="left" if name in ("network", "mapping") else "right", overflow="fold")
    for name, one in result.networks.items():
        rows.add_row(
            name, one.mapping, str(one.inferences), f"{1e3 * one.seconds:.4g}", f"{1e3 * one.alone_seconds:.4g}",
            f"{one.seconds / one.alone_seconds:.2f} x" if one.alone_seconds else "", f"{1e3 * one.energy_j:.4g}",
        )  # fmt: skip
    busy = Table(box=box.SIMPLE_HEAD, title="Busy", title_justify="left", pad_edge=False, show_edge=False)
    busy.add_column("unit")
    for name in result.networks:
        busy.add_column(f"for {name}", justify="right")
    whole = max(result.seconds, 1e-30)
    for unit in dict.fromkeys(unit for one in result.networks.values() for unit in one.busy_s):
        busy.add_row(unit, *(f"{one.busy_s.get(unit, 0.0) / whole:.0%}" for one in result.networks.values()))
    for link, share in result.links_busy.items():
        busy.add_row(f"link {link}", f"{share:.0%} in all", *[""] * (len(result.networks) - 1))
    notes = (f"Note, {name}: {note}." for name, one in result.networks.items() for note in one.unmeasured)
    return Group(rows, "", busy, "", summary(result), *notes)


def summary(result: TogetherResult) -> str:
    """How long all take, and what energy."""
    names = " with ".join(result.networks)
    reaches = f" (all that a {result.energy_boundary} takes)" if result.energy_boundary else ""
    return (
        f"{names} on {result.soc}: {quantity(result.seconds, 's')} until the last has ended, "
        f"{quantity(result.energy_j, 'J')}{reaches}."
    )


__all__ = ["Load", "NetworkPart", "TogetherResult", "summary", "summed_up", "table", "to_json", "while_all_run"]

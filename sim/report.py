"""Result: what a simulated run says, per layer, unit, server and memory, in ticks, bytes and joules.

Everything here is a sum over the trace that a test can check against another: ticks of the critical path by cause and
by layer each sum to the makespan, energies by layer and by unit (plus the base) each sum to the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from cosoc.sim import exact
from cosoc.sim.energy import power_energy_j, unit_power_mw
from cosoc.sim.lower import HOST_TIME
from cosoc.sim.mapping import Mapping
from cosoc.sim.placement import Homes
from cosoc.sim.program import KINDS, Ints, Program, bursts_of, row_of
from cosoc.sim.soc import Route, SoC
from cosoc.sim.tiler import homes_of
from cosoc.sim.trace import Run, Segment, Trace, critical_path, occupancy, unit_ticks
from cosoc.sim.work import layer_work
from cosoc.sim.workload import Workload

LAUNCH, SYNC = KINDS.index("launch"), KINDS.index("sync")
NO_LAYER = "(none)"  # where ops stand that belong to no layer

# What the ticks of the critical path are called, and how to say it. Edges of no length (wait_dep, ...) count apart.
CAUSES = {
    "compute": "computing",
    "weights": "loading weights",
    "transfer": "moving activations",
    "feed": "feeding the core",
    "dma_setup": "setting up DMA transfers",
    "launch": "launching jobs",
    "setup": "setting up",
    "wait_server": "waiting for a shared link",
}


@dataclass(frozen=True)
class CorePart:
    """One core's part of a layer. busy_ticks: computing or feeding, waits for its links included."""

    channels: int
    jobs: int
    compute_ticks: int
    feed_ticks: int
    launch_ticks: int
    busy_ticks: int
    macs: int


@dataclass(frozen=True)
class LayerPart:
    """One layer. start_tick, end_tick: its first issue and last end. ticks_critical: its part of the critical path.

    compute_ticks: sum over its cores. core_busy_ticks: any of its cores computes or is fed. bytes: moved by DMAs, of
    which load_bytes, weight_bytes (each way they go: from the backing memory they go twice), store_bytes; feed_bytes:
    between cores and their memory. energy_j: its ops, the powers of its units while they are busy for it, and the base
    power for its part of the critical path. causes: its critical ticks by cause.
    """

    layer: str
    start_tick: int
    end_tick: int
    ticks_critical: int
    compute_ticks: int
    core_busy_ticks: int
    macs: int
    bytes: int
    load_bytes: int
    weight_bytes: int
    store_bytes: int
    feed_bytes: int
    energy_j: float
    causes: dict[str, int]
    cores: dict[str, CorePart]


@dataclass(frozen=True)
class UnitPart:
    """One unit. busy_ticks: it computes or moves (what its power is paid for); utilisation: that over the makespan.

    The launch of a job occupies its core (in_flight_ticks) but is the host's work (the host's busy_ticks).
    setup_ticks .. wait_credit_ticks: what its ops did and waited for, see `trace.UNIT_TICKS`. energy_j: on top of the
    base power; None where `note` says that the SoC file has no figure for it.
    """

    unit: str
    ops: int
    lanes: int
    busy_ticks: int
    in_flight_ticks: int
    utilisation: float
    setup_ticks: int
    run_ticks: int
    service_ticks: int
    wait_server_ticks: int
    wait_dep_ticks: int
    wait_credit_ticks: int
    macs: int
    energy_j: float | None
    note: str = ""


@dataclass(frozen=True)
class ServerPart:
    """One server. busy_ticks: sum of holds over its ports; utilisation: that over ports x makespan."""

    server: str
    ports: int
    bytes: int
    bursts: int
    busy_ticks: int
    utilisation: float
    note: str = ""


@dataclass(frozen=True)
class MemoryPart:
    """One memory. read_bytes, written_bytes: by DMAs. feed_bytes: by cores over their feed links, both ways.

    energy_j: of the links of transfers and feeds that read from it or store to it; None where `note` says that there
    is no figure.
    """

    memory: str
    capacity_bytes: int
    read_bytes: int
    written_bytes: int
    feed_bytes: int
    energy_j: float | None
    note: str = ""


@dataclass(frozen=True)
class CriticalPart:
    """A stretch [start_tick, end_tick) of the critical path: what op did what, or waited for whom."""

    start_tick: int
    end_tick: int
    op: int
    unit: str
    kind: str
    layer: str
    cause: str
    detail: str


@dataclass(frozen=True)
class CriticalPath:
    """Where the makespan went. by_cause_ticks, by_layer_ticks, by_unit_ticks: each sums to the makespan.

    waits_ticks: the ticks of cause wait_server, by server and then by who held it. edges: how many times an op of the
    path could not issue before the one that precedes it there had ended, by reason: a dependency (wait_dep), a buffer
    (wait_credit), its unit (wait_lane), an op in front of it (wait_order, wait_turn).
    """

    by_cause_ticks: dict[str, int]
    by_layer_ticks: dict[str, int]
    by_unit_ticks: dict[str, int]
    waits_ticks: dict[str, dict[str, int]]
    edges: dict[str, int]
    segments: tuple[CriticalPart, ...]


@dataclass(frozen=True)
class Result:
    """A simulated run of `inferences` of a workload. ticks: the makespan. wall_s: time that the engine itself took.
    ticks_per_cycle: of the SoC, whose cycles may be coarser than ticks.

    base_energy_j: of the base power over the makespan; powers_energy_j: of units while busy; ops_energy_j: of single
    ops; energy_j is their sum.
    """

    soc: str
    workload: str
    mapping: str
    engine: str
    runtime: str
    inferences: int
    ticks: int
    tick_hz: int
    ticks_per_cycle: int
    seconds: float
    energy_j: float
    base_energy_j: float
    powers_energy_j: float
    ops_energy_j: float
    by_layer: tuple[LayerPart, ...]
    by_unit: tuple[UnitPart, ...]
    by_server: tuple[ServerPart, ...]
    by_memory: tuple[MemoryPart, ...]
    critical_path: CriticalPath
    ops: int
    bursts: int
    wall_s: float
    program: Program
    trace: Trace


def to_json(result: Result) -> dict[str, Any]:
    """The result as plain data for `json.dump`, without program and trace; units stand in the keys."""
    out: dict[str, Any] = {}
    for field in fields(result):
        if field.name not in ("program", "trace"):
            value = getattr(result, field.name)
            if isinstance(value, tuple):
                value = [asdict(part) for part in value]
            out[field.name] = asdict(value) if isinstance(value, CriticalPath) else value
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Energy


def busy_ticks(program: Program, trace: Trace, soc: SoC) -> Ints:
    """Ticks in which each unit computes or moves, by the layer of the op: [n_units, n_layers + 1], last: no layer.

    A launch keeps the host busy, not its core. Where ops of one unit overlap (lanes, or the host's launches) a tick
    counts once, for the op that began first: rows sum to the union of the intervals.
    """
    row = row_of(program, np.arange(program.n_ops))
    layer = program.rows["layer"][row]
    unit, start, end = _at_work(program, trace, soc)
    ticks = np.zeros((len(program.unit_names), len(program.layers) + 1), np.int64)
    for number in range(len(program.unit_names)):
        ops = np.flatnonzero(unit == number)
        np.add.at(ticks[number], layer[ops], _own_ticks(start[ops], end[ops]))
    return ticks


def _at_work(program: Program, trace: Trace, soc: SoC) -> tuple[Ints, Ints, Ints]:
    """Whom each op keeps busy, from when to when: [n_ops] each; launches the host (nobody, if there is none)."""
    row = row_of(program, np.arange(program.n_ops))
    unit, start = program.rows["unit"][row], trace.issue.copy()
    launch = program.rows["kind"][row] == KINDS.index("launch")
    hosted = soc.host in program.unit_names
    unit[launch] = program.unit_names.index(soc.host) if hosted else -1
    start[launch] = trace.end[launch] - trace.service[launch] - program.rows["run"][row][launch]
    return unit, start, trace.end


def _own_ticks(start: Ints, end: Ints) -> Ints:
    """The ticks of each interval that no interval which began before it reaches: they sum to the union."""
    order = np.argsort(start, kind="stable")
    reach = np.maximum.accumulate(np.concatenate(([0], end[order])))[:-1]
    own = np.zeros(len(start), np.int64)
    own[order] = np.maximum(end[order] - np.maximum(start[order], reach), 0)
    return own


def energy_j(program: Program, trace: Trace, soc: SoC) -> float:
    """Energy of the whole run, J: base power, powers of units while busy, and the ops' own."""
    busy = busy_ticks(program, trace, soc).sum(axis=1).tolist()
    powers = power_energy_j(soc, trace.makespan, dict(zip(program.unit_names, busy, strict=True)), program.tick_hz)
    return float(powers) + _joules(int((program.rows["energy_fj"] * _times(program)).sum()))


def _joules(femtojoules: int) -> float:
    return femtojoules * 1e-15


def _times(program: Program) -> Ints:
    """How many ops each row stands for: [n_rows]."""
    return np.bincount(row_of(program, np.arange(program.n_ops)), minlength=len(program.rows)).astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# The parts


def report(
    program: Program,
    trace: Trace,
    soc: SoC,
    workload: Workload,
    mapping: Mapping,
    *,
    engine: str,
    run: Run,
    inferences: int = 1,
    wall_s: float = 0.0,
) -> Result:
    """Sum up a run. mapping: the complete one that was lowered. run: the engine, to ask it who stood in whose way."""
    path = _critical(program, soc, critical_path(program, trace, run))
    busy = busy_ticks(program, trace, soc)
    base = float(power_energy_j(soc, trace.makespan, {}, program.tick_hz))
    ops_j = _joules(int((program.rows["energy_fj"] * _times(program)).sum()))
    total = energy_j(program, trace, soc)
    homes = homes_of(workload, mapping, soc)
    return Result(
        soc=soc.name,
        workload=workload.name,
        mapping=mapping.name,
        engine=engine,
        runtime=mapping.runtime,
        inferences=inferences,
        ticks=trace.makespan,
        tick_hz=program.tick_hz,
        ticks_per_cycle=program.tick_hz // soc.tick_hz,
        seconds=trace.makespan / program.tick_hz,
        energy_j=total,
        base_energy_j=base,
        powers_energy_j=total - ops_j - base,
        ops_energy_j=ops_j,
        by_layer=_by_layer(program, trace, soc, mapping, busy, path),
        by_unit=_by_unit(program, trace, soc, busy),
        by_server=_by_server(program, trace),
        by_memory=_by_memory(program, soc, workload, mapping, homes, inferences),
        critical_path=path,
        ops=program.n_ops,
        bursts=trace.bursts,
        wall_s=wall_s,
        program=program,
        trace=trace,
    )


def _layer_name(program: Program, layer: int) -> str:
    return program.layers[layer] if layer >= 0 else NO_LAYER


def _cause(segment: Segment, kind: str, unit: str, soc: SoC) -> str:
    """The trace's causes, told apart by what the op is for."""
    if kind == "launch" and segment.cause != "wait_server":
        return "launch"
    if segment.cause == "setup" and unit in soc.dmas:
        return "dma_setup"
    if segment.cause == "transfer" and kind == "feed":
        return "feed"
    return segment.cause


def _critical(program: Program, soc: SoC, segments: Iterable[Segment]) -> CriticalPath:
    by_cause, by_layer = dict.fromkeys(CAUSES, 0), dict.fromkeys(program.layers, 0)
    by_unit: dict[str, int] = {}
    waits: dict[str, dict[str, int]] = {}
    edges: dict[str, int] = {}
    parts = []
    rows = row_of(program, np.arange(program.n_ops))
    for s in segments:
        row = program.rows[rows[s.op]]
        unit, kind = program.unit_names[row["unit"]], KINDS[row["kind"]]
        layer = _layer_name(program, int(row["layer"]))
        ticks = s.end - s.start
        if s.start == s.end:
            edges[s.cause] = edges.get(s.cause, 0) + 1
            cause = s.cause
        else:
            cause = _cause(s, kind, unit, soc)
            for totals, key in ((by_cause, cause), (by_layer, layer), (by_unit, unit)):
                totals[key] = totals.get(key, 0) + ticks
        if cause == "wait_server":
            server = program.server_names[s.server] if s.server >= 0 else "?"
            holders, holder = waits.setdefault(server, {}), _who(program, s.behind)
            holders[holder] = holders.get(holder, 0) + ticks
        parts.append(CriticalPart(s.start, s.end, s.op, unit, kind, layer, cause, s.detail))
    return CriticalPath({c: t for c, t in by_cause.items() if t}, by_layer, by_unit, waits, edges, tuple(parts))


def _who(program: Program, op: int) -> str:
    """An op as the holder of a server: `store of conv1 on dma`."""
    if op < 0:
        return "?"
    row = program.rows[int(row_of(program, np.array([op]))[0])]
    return f"{KINDS[row['kind']]} of {_layer_name(program, int(row['layer']))} on {program.unit_names[row['unit']]}"


def _by_layer(
    program: Program, trace: Trace, soc: SoC, mapping: Mapping, busy: Ints, path: CriticalPath
) -> tuple[LayerPart, ...]:
    rows, times, row = program.rows, _times(program), row_of(program, np.arange(program.n_ops))
    layer_of = rows["layer"][row]
    is_dma = np.array([name in soc.dmas for name in program.unit_names])[rows["unit"]]
    unit, start, end = _at_work(program, trace, soc)
    is_core = np.array([name in soc.cores for name in program.unit_names])[unit] & (unit == rows["unit"][row])
    causes: dict[str, dict[str, int]] = {}
    for part in path.segments:
        if part.end_tick > part.start_tick:
            of_layer = causes.setdefault(part.layer, {})
            of_layer[part.cause] = of_layer.get(part.cause, 0) + part.end_tick - part.start_tick
    out = []
    for layer in (*range(len(program.layers)), -1):
        name, ops, mine = _layer_name(program, layer), layer_of == layer, rows["layer"] == layer
        if not ops.any():
            continue

        def total(key: str, where: Any, mine: Any = mine) -> int:
            return int((rows[key] * times)[mine & where].sum())

        moved = {kind: total("bytes", is_dma & (rows["kind"] == KINDS.index(kind))) for kind in KINDS}
        powers = dict(zip(program.unit_names, busy[:, layer].tolist(), strict=True))
        ticks = path.by_layer_ticks.get(name, 0)
        out.append(
            LayerPart(
                layer=name,
                start_tick=int(trace.issue[ops].min()),
                end_tick=int(trace.end[ops].max()),
                ticks_critical=ticks,
                compute_ticks=total("run", rows["kind"] == KINDS.index("compute")),
                core_busy_ticks=int(_own_ticks(start[ops & is_core], end[ops & is_core]).sum()),
                macs=total("macs", True),
                bytes=sum(moved.values()),
                load_bytes=moved["load"],
                weight_bytes=moved["weights"],
                store_bytes=moved["store"],
                feed_bytes=total("bytes", ~is_dma & (rows["kind"] == KINDS.index("feed"))),
                energy_j=float(power_energy_j(soc, ticks, powers, program.tick_hz)) + _joules(total("energy_fj", True)),
                causes=causes.get(name, {}),
                cores=_cores(program, trace, soc, mapping, busy, layer),
            )
        )
    return tuple(out)


def _cores(program: Program, trace: Trace, soc: SoC, mapping: Mapping, busy: Ints, layer: int) -> dict[str, CorePart]:
    """The parts of a layer's cores, those that have ops in it."""
    row = row_of(program, np.arange(program.n_ops))
    rows = program.rows
    given = mapping.layers.get(program.layers[layer]) if layer >= 0 else None
    out = {}
    for number, name in enumerate(program.unit_names):
        ops = np.flatnonzero((rows["layer"][row] == layer) & (rows["unit"][row] == number))
        kind = rows["kind"][row[ops]]
        # What the host does for a layer that it does not compute is to launch its jobs.
        aside = given is not None and not given.k_on(name) and np.isin(kind, (LAUNCH, SYNC)).all()
        if name not in soc.cores or not len(ops) or aside:
            continue
        of = {k: ops[kind == KINDS.index(k)] for k in ("compute", "feed", "launch")}
        out[name] = CorePart(
            channels=given.k_on(name) if given else 0,
            jobs=len(of["compute"]),
            compute_ticks=int(rows["run"][row[of["compute"]]].sum()),
            feed_ticks=int(trace.service[of["feed"]].sum()),
            launch_ticks=int(trace.service[of["launch"]].sum()),
            busy_ticks=int(busy[number, layer]),
            macs=int(rows["macs"][row[ops]].sum()),
        )
    return out


def _by_unit(program: Program, trace: Trace, soc: SoC, busy: Ints) -> tuple[UnitPart, ...]:
    rows, times = program.rows, _times(program)
    in_flight, did = occupancy(program, trace).unit_busy, unit_ticks(program, trace)
    out = []
    for number, name in enumerate(program.unit_names):
        mine = rows["unit"] == number
        ticks, ops_fj = int(busy[number].sum()), int((rows["energy_fj"] * times)[mine].sum())
        known = bool(unit_power_mw(soc, name) or ops_fj)
        spent = float(power_energy_j(soc, 0, {name: ticks}, program.tick_hz))
        out.append(
            UnitPart(
                unit=name,
                ops=int(times[mine].sum()),
                lanes=int(program.units["lanes"][number]),
                busy_ticks=ticks,
                in_flight_ticks=int(in_flight[number]),
                utilisation=ticks / max(trace.makespan, 1),
                setup_ticks=int(did["setup"][number]),
                run_ticks=int(did["run"][number]),
                service_ticks=int(did["service"][number]),
                wait_server_ticks=int(did["wait_server"][number]),
                wait_dep_ticks=int(did["wait_dep"][number]),
                wait_credit_ticks=int(did["wait_credit"][number]),
                macs=int((rows["macs"] * times)[mine].sum()),
                energy_j=spent + _joules(ops_fj) if known else None,
                note="" if known else "no figure of its own: inside the base and core powers",
            )
        )
    return tuple(out)


def _by_server(program: Program, trace: Trace) -> tuple[ServerPart, ...]:
    times, bursts = _times(program), bursts_of(program.rows)
    utilisation = occupancy(program, trace).server_utilisation
    moved, granted = np.zeros((2, len(program.servers)), np.int64)
    for row, n in zip(program.rows, times.tolist(), strict=True):
        route = program.routes[row["route_at"] : row["route_at"] + row["route_n"]]
        moved[route] += row["bytes"] * n
    for number, n in enumerate((bursts * times).tolist()):
        row = program.rows[number]
        granted[program.routes[row["route_at"] : row["route_at"] + row["route_n"]]] += n
    return tuple(
        ServerPart(
            server=name,
            ports=int(program.servers["ports"][number]),
            bytes=int(moved[number]),
            bursts=int(granted[number]),
            busy_ticks=int(trace.busy[number]),
            utilisation=float(utilisation[number]),
            note="the host's time: its bytes are cycles" if name == HOST_TIME else "",
        )
        for number, name in enumerate(program.server_names)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Memories


def _by_memory(
    program: Program, soc: SoC, workload: Workload, mapping: Mapping, homes: Homes, inferences: int
) -> tuple[MemoryPart, ...]:
    """Bytes by memory, from the routes that the ops take."""
    read, written, feed, spent = (dict.fromkeys(soc.memories, 0) for _ in range(4))
    shared_weights: set[str] = set()  # layers whose weights go to several memories over the same links
    for row, n in zip(program.rows, _times(program).tolist(), strict=True):
        unit, kind = program.unit_names[row["unit"]], KINDS[row["kind"]]
        moved = int(row["bytes"]) * n
        if kind == "feed":
            feed[soc.cores[unit].memory] += moved
            spent[soc.cores[unit].memory] += int(row["energy_fj"]) * n
        if unit not in soc.dmas or not moved:
            continue
        layer = program.layers[row["layer"]]
        ends = _ends(program, row, soc, mapping, layer)
        source, target = ends[0].source, ends[0].target
        outer = target if kind == "store" else source
        spent[outer] += int(row["energy_fj"]) * n
        read[source] += moved
        if len({route.target for route in ends}) > 1:
            shared_weights.add(layer)
        else:
            written[target] += moved
    for layer in shared_weights:
        for memory, moved in _weights_into(workload, layer, soc, mapping, homes).items():
            written[memory] += moved * inferences
    note = "no figure of its own: inside the base and core powers"
    return tuple(
        MemoryPart(
            memory=name,
            capacity_bytes=memory.capacity_bytes,
            read_bytes=read[name],
            written_bytes=written[name],
            feed_bytes=feed[name],
            energy_j=_joules(spent[name]) if spent[name] else None,
            note="" if spent[name] else note,
        )
        for name, memory in soc.memories.items()
    )


def _ends(program: Program, row: np.void, soc: SoC, mapping: Mapping, layer: str) -> list[Route]:
    """The routes that a transfer may have taken: its DMA and links, and an end at one of the layer's cores.

    A split layer's weights may go to several memories over the same links; then there are several.
    """
    dma, kind = program.unit_names[row["unit"]], KINDS[row["kind"]]
    links = tuple(program.server_names[s] for s in program.routes[row["route_at"] : row["route_at"] + row["route_n"]])
    cores = [soc.cores[share.core] for share in mapping.layers[layer].shares if share.k]
    near = {core.memory for core in cores}
    if kind == "weights":
        near = {core.weight_memory for core in cores if core.weight_memory} | {soc.main_memory}
    same = [route for route in soc.routes if (route.dma, route.links) == (dma, links)]
    return [route for route in same if (route.source if kind == "store" else route.target) in near]


def _weights_into(workload: Workload, name: str, soc: SoC, mapping: Mapping, homes: Homes) -> dict[str, int]:
    """Bytes of a layer's weights by the weight memory that they go to, in one inference."""
    layer, given = workload[name], mapping.layers[name]
    out: dict[str, int] = {}
    shares = [(share.core, share.k) for share in given.shares]
    work = layer_work(layer, soc, shares, given, homes, exact)
    for part in work.cores:
        memory = soc.cores[part.core].weight_memory
        if memory is not None:
            out[memory] = out.get(memory, 0) + int(part.weights.bytes)
    return out


__all__ = ["CAUSES", "NO_LAYER", "Result", "busy_ticks", "energy_j", "report", "to_json"]

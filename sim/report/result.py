"""Result: what a simulated run says, per layer, unit, server and memory, in ticks, bytes and joules.

Everything here is a sum over the trace that a test can check against another: ticks of the critical path by cause and
by layer each sum to the makespan, energies by layer and by unit (plus the base) each sum to the whole.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cosoc.sim import exact
from cosoc.sim.machine.program import CHUNK, KINDS, Ints, Program, Records, bursts_of, entries_of, row_of
from cosoc.sim.machine.trace import (
    EDGES,
    PATH_CAUSES,
    Occupancy,
    Run,
    Trace,
    changes,
    occupancy,
    path_records,
    unit_ticks,
)
from cosoc.sim.model.energy import power_energy_j, unit_power_mw
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import Boundary, Route, SoC
from cosoc.sim.movers.cached_terms import cached_cores
from cosoc.sim.movers.cached_units import INTO_SCRATCHPAD, core_of_unit
from cosoc.sim.movers.links import HOST_TIME, link_level, together, told_as
from cosoc.sim.report.evidence import Evidence, evidence_of_run, unmeasured
from cosoc.sim.report.why_host import why_host
from cosoc.sim.tiler import Placed
from cosoc.sim.work import layer_work

if TYPE_CHECKING:  # loaded where they are asked for
    from matplotlib.figure import Figure
    from pandas import DataFrame

COMPUTE, FEED, LAUNCH, SYNC = (KINDS.index(kind) for kind in ("compute", "feed", "launch", "sync"))
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
PATH_NAMES = (*CAUSES, *EDGES)  # what `Result.path` calls a segment
PARTS = 5000  # stretches that a critical path is told in, at most


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
    """One layer. start_tick, end_tick: its first issue and last end. ticks_critical, seconds_critical: its
    part of the critical path.

    compute_ticks: sum over its cores. core_busy_ticks: any of its cores computes or is fed. bytes: moved by DMAs, of
    which load_bytes, weight_bytes (each way they go: from the backing memory they go twice), store_bytes; feed_bytes:
    between cores and their memory. energy_j: its ops, the powers of its units while they are busy for it, and the base
    power for its part of the critical path. causes: its critical ticks by cause. why_host: what other cores say against
    a layer that only the host can run; '' of others.
    """

    layer: str
    start_tick: int
    end_tick: int
    ticks_critical: int
    seconds_critical: float
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
    why_host: str


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
    """One server. busy_ticks: sum of holds over its ports; utilisation: that over ports x makespan. energy_j: of the
    bytes over the link that it is."""

    server: str
    ports: int
    bytes: int
    bursts: int
    busy_ticks: int
    utilisation: float
    energy_j: float
    note: str = ""


@dataclass(frozen=True)
class MemoryPart:
    """One memory. read_bytes, written_bytes: by movers; of a cache and of what is behind it, those that it served (a
    line that a store misses counts as written, once, in the memory that the line is of). feed_bytes: by cores over
    their feed links, both ways.

    energy_j: of its accesses, and of the links over which its bytes go to or come from the memories and cores nearer to
    the arithmetic; None where `note` says that there is no figure.
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
    """A stretch [start_tick, end_tick) of the critical path, in which `ops` ops, from number `first_op` on, had time.

    unit, kind, layer, cause: whose time, and for what; in a wait also server and behind: for what, and who held it.
    Where a run has many stretches, short ones are joined; then these are of what takes most of it, and causes, its
    ticks by cause, says what else there is.
    """

    start_tick: int
    end_tick: int
    first_op: int
    ops: int
    unit: str
    kind: str
    layer: str
    cause: str
    server: str
    behind: str
    causes: dict[str, int]


@dataclass(frozen=True)
class CriticalShare:
    """Ticks of the critical path that a unit spent for a layer for one reason."""

    layer: str
    unit: str
    cause: str
    ticks: int


@dataclass(frozen=True)
class CriticalPath:
    """Where the makespan went. by_cause_ticks, by_layer_ticks, by_unit_ticks: each sums to the makespan.

    waits_ticks: the ticks of cause wait_server, by server and then by who held it. edges: how many times an op of the
    path could not issue before the one that precedes it there had ended, by reason: a dependency (wait_dep), a buffer
    (wait_credit), its unit (wait_lane), an op in front of it (wait_order, wait_turn).
    shares: all of it by layer, unit and cause at once, in the order in which they begin. segments: from 0 to the
    makespan, each beginning where the last one ended: at most PARTS + 1.
    """

    by_cause_ticks: dict[str, int]
    by_layer_ticks: dict[str, int]
    by_unit_ticks: dict[str, int]
    waits_ticks: dict[str, dict[str, int]]
    edges: dict[str, int]
    shares: tuple[CriticalShare, ...]
    segments: tuple[CriticalPart, ...]


@dataclass(frozen=True, repr=False)
class Result:
    """A simulated run of `inferences` of a workload. ticks: the makespan. wall_s: time that the engine itself took.
    ticks_per_cycle: of the SoC, whose cycles may be coarser than ticks. at: what was simulated, the mapping completed.

    Printed it is a line or two, in a notebook the cards of its report. `layers`, `units`, `servers`, `memories` and
    `critical` are its parts as frames of pandas; `plot()` is a chart, `report(path)` a page.

    energy_boundary: how far energies reach, None where the SoC file does not say. base_energy_j: of what is always
    drawn, over the makespan: base and static power; powers_energy_j: of units while busy; ops_energy_j: of single
    ops; energy_j is their sum. by_level: the same told apart by where it is spent, J: memories, links (`link NAME`),
    cores by their ops, `power of NAME` of units while busy, base and static power; it sums to energy_j. evidence:
    what the figures of its cores rest on, of those whose file says so; unmeasured: what of it no measurement of the
    device covers, a sentence for each class of operators. path: the critical path
    segment by segment, `trace.PATH` records whose causes are numbers of PATH_NAMES.
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
    energy_boundary: Boundary | None
    energy_j: float
    base_energy_j: float
    powers_energy_j: float
    ops_energy_j: float
    by_level: dict[str, float]
    by_layer: tuple[LayerPart, ...]
    by_unit: tuple[UnitPart, ...]
    by_server: tuple[ServerPart, ...]
    by_memory: tuple[MemoryPart, ...]
    critical_path: CriticalPath
    evidence: tuple[Evidence, ...]
    unmeasured: tuple[str, ...]
    ops: int
    bursts: int
    wall_s: float
    program: Program
    trace: Trace
    path: Records
    at: Placed = field(compare=False)

    def __repr__(self) -> str:
        from cosoc import views

        return views.sentences(self)

    def _repr_html_(self) -> str:
        from cosoc import views

        return views.cards(self)

    @property
    def layers(self) -> DataFrame:
        """`by_layer` as a frame, a row a layer, with a column for each cause and each core's channels. InputError where
        pandas is not installed."""
        from cosoc import views

        return views.layer_frame(self)

    @property
    def units(self) -> DataFrame:
        """`by_unit` as a frame, a row a unit."""
        from cosoc import views

        return views.frame(self.by_unit, "unit")

    @property
    def servers(self) -> DataFrame:
        """`by_server` as a frame, a row a link or other server."""
        from cosoc import views

        return views.frame(self.by_server, "server")

    @property
    def memories(self) -> DataFrame:
        """`by_memory` as a frame, a row a memory."""
        from cosoc import views

        return views.frame(self.by_memory, "memory")

    @property
    def critical(self) -> DataFrame:
        """The critical path by layer, unit and cause as a frame, in the order in which they begin; ticks."""
        from cosoc import views

        return views.frame(self.critical_path.shares)

    def plot(self) -> Figure:
        """The run as a chart of matplotlib: units as rows, ops coloured by kind, layers above; ms."""
        from cosoc import views

        return views.plot(self)

    def schedule(self) -> dict[str, Any]:
        """The run op by op, with tiles, operands, addresses and times: what `cosoc simulate --schedule` writes."""
        from cosoc import views

        return views.op_by_op(self)

    def report(self, path: Path | str) -> None:
        """Write the run as one HTML file, as `cosoc simulate --report` does. InputError where it cannot be written."""
        from cosoc import why

        why.write_page(self, Path(path))


def to_json(result: Result) -> dict[str, Any]:
    """The result as plain data for `json.dump`, without program, trace, path and inputs; units stand in the keys."""
    out: dict[str, Any] = {}
    for one in fields(result):
        if one.name not in ("program", "trace", "path", "at"):
            value = getattr(result, one.name)
            if isinstance(value, tuple):
                value = [part if isinstance(part, str) else asdict(part) for part in value]
            out[one.name] = asdict(value) if isinstance(value, CriticalPath) else value
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Ops


@dataclass(frozen=True)
class _Ops:
    """What is asked about all ops again and again: [n_ops] each, but times [n_rows], the ops that a row stands for."""

    row: Ints
    unit: Ints
    kind: Ints
    layer: Ints
    times: Ints


def _ops(program: Program) -> _Ops:
    row = row_of(program, np.arange(program.n_ops))
    rows, times = program.rows, np.bincount(row, minlength=len(program.rows)).astype(np.int64, copy=False)
    return _Ops(row, rows["unit"][row], rows["kind"][row], rows["layer"][row], times)


def _payload(program: Program, soc: SoC) -> Ints:
    """Bytes of tensors that each row brings or takes: what it states, or what a DMA's transfer moves."""
    rows = program.rows
    is_dma = np.array([name in soc.dmas for name in program.unit_names], dtype=np.bool_)[rows["unit"]]
    return np.where(rows["payload_bytes"] >= 0, rows["payload_bytes"], np.where(is_dma, rows["bytes"], 0))


def _sums(n: int, of: Ints, values: Ints) -> Ints:
    """[n]: the sum of the values of each number; number -1 is the last."""
    out = np.zeros(n, np.int64)
    np.add.at(out, of, values)
    return out


def _groups(numbers: Ints) -> dict[int, Ints]:
    """Where each number stands, ascending."""
    order = np.argsort(numbers, kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=True)) if len(found) else {}


# ---------------------------------------------------------------------------------------------------------------------
# Energy


def busy_ticks(program: Program, trace: Trace, soc: SoC) -> Ints:
    """Ticks in which each unit computes or moves, by the layer of the op: [n_units, n_layers + 1], last: no layer.

    A launch keeps the host busy, not its core. Where ops of one unit overlap (lanes, or the host's launches) a tick
    counts once, for the op that began first: rows sum to the union of the intervals.
    """
    whom, ticks = _at_work(program, soc), np.zeros((len(program.unit_names), len(program.layers) + 1), np.int64)
    for number in range(len(program.unit_names)):
        ops = np.flatnonzero(whom == number)
        if len(ops):
            layer = program.rows["layer"][row_of(program, ops)]
            np.add.at(ticks[number], layer, _own_ticks(_work_begins(program, trace, ops), trace.end[ops]))
    return ticks


def _at_work(program: Program, soc: SoC) -> npt.NDArray[np.int16]:
    """Whom each op keeps busy, [n_ops]; launches the host (nobody, -1, if there is none)."""
    host = program.unit_names.index(soc.host) if soc.host in program.unit_names else -1
    whom = np.zeros(program.n_ops, np.int16)
    for first in range(0, len(whom), CHUNK):
        part = whom[first : first + CHUNK]
        rows = program.rows[row_of(program, np.arange(first, first + len(part)))]
        part[:] = np.where(rows["kind"] == LAUNCH, host, rows["unit"])
    return whom


def _work_begins(program: Program, trace: Trace, ops: Ints) -> Ints:
    """From when on some ops keep somebody busy: of a launch, when the host has begun with it."""
    row = row_of(program, ops)
    launch = program.rows["kind"][row] == LAUNCH
    of_launch = ops[launch]
    start = trace.issue[ops]
    start[launch] = trace.end[of_launch] - trace.service[of_launch] - program.rows["run"][row[launch]]
    return start


def _own_ticks(start: Ints, end: Ints) -> Ints:
    """The ticks of each interval that no interval which began before it reaches: they sum to the union."""
    order = np.argsort(start, kind="stable")
    reach = np.maximum.accumulate(np.concatenate(([0], end[order])))[:-1]
    own = np.zeros(len(start), np.int64)
    own[order] = np.maximum(end[order] - np.maximum(start[order], reach), 0)
    return own


def energy_j(program: Program, trace: Trace, soc: SoC) -> float:
    """Energy of the whole run, J: base power, powers of units while busy, and the ops' own."""
    return _powers_j(program, trace, soc, busy_ticks(program, trace, soc)) + _joules(_all_fj(program))


def _powers_j(program: Program, trace: Trace, soc: SoC, busy: Ints) -> float:
    ticks = dict(zip(program.unit_names, busy.sum(axis=1).tolist(), strict=True))
    return float(power_energy_j(soc, trace.makespan, ticks, program.tick_hz))


def _all_fj(program: Program) -> int:
    """What all ops spend, fJ."""
    energy_fj = program.rows["energy_fj"]
    return sum(int(energy_fj[first : first + n].sum()) * times for first, n, times in program.blocks.tolist())


def _joules(femtojoules: float) -> float:
    return femtojoules * 1e-15


BASE_POWER, STATIC_POWER, UNTOLD = "base power", "static power", "ops"


def levels_fj(program: Program) -> dict[str, int]:
    """What ops spend at each level, fJ; those that do not say at which stand under `ops`."""
    sums = _sums(len(program.levels), program.spent["level"], program.spent["energy_fj"]).tolist()
    out = dict(zip(program.levels, sums, strict=True))
    untold = _all_fj(program) - sum(sums)
    return out | ({UNTOLD: untold} if untold else {})


def _by_level(program: Program, soc: SoC, busy: Ints, base_j: float) -> dict[str, float]:
    out = {level: _joules(energy_fj) for level, energy_fj in levels_fj(program).items()}
    for unit, ticks in zip(program.unit_names, busy.sum(axis=1).tolist(), strict=True):
        spent = float(power_energy_j(soc, 0, {unit: ticks}, program.tick_hz))
        out |= {f"power of {unit}": spent} if spent else {}
    for level, power_mw in ((BASE_POWER, soc.base_power_mw), (STATIC_POWER, soc.static_power_mw)):
        out |= {level: base_j * power_mw / soc.idle_power_mw} if power_mw and base_j else {}
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The parts


def report(
    program: Program,
    trace: Trace,
    at: Placed,
    *,
    engine: str,
    run: Run,
    inferences: int = 1,
    wall_s: float = 0.0,
) -> Result:
    """Sum up a run. at: what was lowered. run: the engine, to ask it who stood in whose way."""
    soc, workload, mapping = at.soc, at.workload, at.mapping
    all_ops = _ops(program)
    path = path_records(program, trace, run)
    path["cause"] = _causes(program, soc, path, all_ops)
    critical = _critical(program, path, all_ops)
    busy = busy_ticks(program, trace, soc)
    base = float(power_energy_j(soc, trace.makespan, {}, program.tick_hz))
    ops_j = _joules(_all_fj(program))
    total = _powers_j(program, trace, soc, busy) + ops_j
    occupied = occupancy(program, trace)
    cycles = trace.makespan * soc.tick_hz / program.tick_hz
    evidence = evidence_of_run(workload, mapping, soc, critical.by_layer_ticks, trace.makespan, cycles, inferences)
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
        energy_boundary=soc.energy_boundary,
        energy_j=total,
        base_energy_j=base,
        powers_energy_j=total - ops_j - base,
        ops_energy_j=ops_j,
        by_level=_by_level(program, soc, busy, base),
        by_layer=_by_layer(program, trace, at, busy, critical, all_ops),
        by_unit=_by_unit(program, trace, soc, busy, occupied, all_ops),
        by_server=_by_server(program, trace, occupied, all_ops),
        by_memory=_by_memory(program, at, inferences, all_ops),
        critical_path=critical,
        evidence=evidence,
        unmeasured=unmeasured(evidence, soc),
        ops=program.n_ops,
        bursts=trace.bursts,
        wall_s=wall_s,
        program=program,
        trace=replace(trace, waits=trace.waits[:0], complete=False),
        path=path,
        at=at,
    )


def _layer_name(program: Program, layer: int) -> str:
    return program.layers[layer] if layer >= 0 else NO_LAYER


def _causes(program: Program, soc: SoC, path: Records, all_ops: _Ops) -> Ints:
    """The trace's causes, told apart by what the op is for: numbers of PATH_NAMES, [segments]."""
    number = {name: place for place, name in enumerate(PATH_NAMES)}
    work = path["end"] > path["start"]
    kind, unit = all_ops.kind[path["op"]], all_ops.unit[path["op"]]
    by_dma = np.array([name in soc.dmas for name in program.unit_names], dtype=np.bool_)[unit]
    of = {name: path["cause"] == PATH_CAUSES.index(name) for name in PATH_CAUSES}
    cases = (
        (work & (kind == LAUNCH) & ~of["wait_server"], "launch"),
        (of["setup"] & by_dma, "dma_setup"),
        (of["transfer"] & (kind == FEED), "feed"),
    )
    same = np.array([number[name] for name in PATH_CAUSES])[path["cause"]]
    return np.select([case for case, _ in cases], [number[name] for _, name in cases], same).astype(np.int64)


def _critical(program: Program, path: Records, all_ops: _Ops) -> CriticalPath:
    """path: with the causes of PATH_NAMES."""
    work = path["end"] > path["start"]
    edges = _first_seen(path["cause"][~work], np.ones(int((~work).sum()), np.int64))
    path = path[work]
    by_cause, by_layer, by_unit = dict.fromkeys(CAUSES, 0), dict.fromkeys(program.layers, 0), dict[str, int]()
    shares: dict[tuple[str, str, str], int] = {}
    place = _places(program, path["op"], all_ops) * len(PATH_NAMES) + path["cause"]
    for number, ticks in _first_seen(place, path["end"] - path["start"]).items():
        where, cause = divmod(number, len(PATH_NAMES))
        _, layer, unit = _names(program, where)
        key = layer, unit, PATH_NAMES[cause]
        shares[key] = shares.get(key, 0) + ticks
        for totals, name in zip((by_layer, by_unit, by_cause), key, strict=True):
            totals[name] = totals.get(name, 0) + ticks
    return CriticalPath(
        by_cause_ticks={cause: n for cause, n in by_cause.items() if n},
        by_layer_ticks=by_layer,
        by_unit_ticks=by_unit,
        waits_ticks=_waits(program, path, all_ops),
        edges={PATH_NAMES[cause]: n for cause, n in edges.items()},
        shares=tuple(CriticalShare(*key, ticks) for key, ticks in shares.items()),
        segments=_parts(program, path, all_ops),
    )


def _first_seen(numbers: Ints, values: Ints) -> dict[int, int]:
    """The sum of the values of each number, in the order in which the numbers first appear."""
    found, first, of = np.unique(numbers, return_index=True, return_inverse=True)
    sums = _sums(len(found), of, values)
    order = np.argsort(first)
    return dict(zip(found[order].tolist(), sums[order].tolist(), strict=True))


def _places(program: Program, ops: Ints, all_ops: _Ops) -> Ints:
    """A number for the kind, layer and unit of each of `ops`; -1 for op -1."""
    kind, layer, unit = (column[ops] for column in (all_ops.kind, all_ops.layer, all_ops.unit))
    return np.where(ops < 0, -1, ((layer + 1) * len(KINDS) + kind) * len(program.unit_names) + unit)


def _names(program: Program, place: int) -> tuple[str, str, str]:
    """(kind, layer, unit) of `_places`."""
    where, unit = divmod(place, len(program.unit_names))
    layer, kind = divmod(where, len(KINDS))
    return KINDS[kind], _layer_name(program, layer - 1), program.unit_names[unit]


def _waits(program: Program, path: Records, all_ops: _Ops) -> dict[str, dict[str, int]]:
    """The ticks of cause wait_server, by server and then by who held it."""
    path = path[path["cause"] == PATH_NAMES.index("wait_server")]
    who, holders = _holders(program, path, all_ops)
    out: dict[str, dict[str, int]] = {}
    for number, ticks in _first_seen((path["server"] + 1) * len(holders) + who, path["end"] - path["start"]).items():
        server, holder = divmod(number, len(holders))
        held = out.setdefault(_server_name(program, server - 1), {})
        held[holders[holder]] = held.get(holders[holder], 0) + ticks
    return out


def _holders(program: Program, path: Records, all_ops: _Ops) -> tuple[Ints, list[str]]:
    """Who was waited for, as numbers of names [segments]: `store of conv1 on dma`, `?` where that is not known."""
    places, who = np.unique(_places(program, path["behind"], all_ops), return_inverse=True)
    names = ["{} of {} on {}".format(*_names(program, place)) if place >= 0 else "?" for place in places.tolist()]
    return who, names


def _server_name(program: Program, server: int) -> str:
    return told_as(program.server_names[server]) if server >= 0 else "?"


def _parts(program: Program, path: Records, all_ops: _Ops) -> tuple[CriticalPart, ...]:
    """The path, whose segments all have a length, in PARTS + 1 stretches at most.

    Neighbours of one unit, kind, layer, cause, server and holder are one stretch. If these are too many, a stretch goes
    on, whatever comes, until it has lasted for one in PARTS of the makespan.
    """
    if not len(path):
        return ()
    op, start, ticks = path["op"], path["start"], path["end"] - path["start"]
    who, holders = _holders(program, path, all_ops)
    sizes = len(PATH_NAMES), len(program.server_names) + 1, len(holders)
    what = _places(program, op, all_ops)
    for size, number in zip(sizes, (path["cause"], path["server"] + 1, who), strict=True):
        what = what * size + number
    first = changes(what)
    if len(first) > PARTS:
        first = first[_apart(start[first], int(path["end"][-1]) // PARTS + 1)]
    lengths = np.diff(np.append(first, len(path)))
    found, number = np.unique(what, return_inverse=True)
    told = [_told(program, each, sizes, holders) for each in found.tolist()]
    sums: list[dict[int, int]] = [{} for _ in first]
    for of, n in _first_seen(np.repeat(np.arange(len(first)), lengths) * len(found) + number, ticks).items():
        sums[of // len(found)][of % len(found)] = n
    ops = np.add.reduceat(np.append(True, op[1:] != op[:-1]).astype(np.int64), first)
    ops += np.append(False, op[first[1:]] == op[first[1:] - 1])  # an op in two stretches has time in both
    columns = (start[first].tolist(), path["end"][first + lengths - 1].tolist(), op[first].tolist(), ops.tolist())
    out = []
    for begin, end, first_op, n_ops, ticks_of in zip(*columns, sums, strict=True):
        causes: dict[str, int] = {}
        for each, n in ticks_of.items():
            causes[told[each][3]] = causes.get(told[each][3], 0) + n
        most = max(ticks_of, key=ticks_of.__getitem__)
        out.append(CriticalPart(begin, end, first_op, n_ops, *told[most], causes))
    return tuple(out)


def _told(
    program: Program, what: int, sizes: tuple[int, int, int], holders: list[str]
) -> tuple[str, str, str, str, str, str]:
    """(unit, kind, layer, cause, server, behind) of a number that `_parts` made."""
    what, holder = divmod(what, sizes[2])
    what, server = divmod(what, sizes[1])
    place, cause = divmod(what, sizes[0])
    kind, layer, unit = _names(program, place)
    waits = PATH_NAMES[cause] == "wait_server"
    behind = (_server_name(program, server - 1), holders[holder]) if waits else ("", "")
    return unit, kind, layer, PATH_NAMES[cause], *behind


def _apart(start: Ints, ticks: int) -> list[int]:
    """Places in `start`, ascending ticks: the first, and each that is `ticks` or more after the one before it."""
    kept = [0]
    while (at := int(np.searchsorted(start, start[kept[-1]] + ticks))) < len(start):
        kept.append(at)
    return kept


def _by_layer(
    program: Program, trace: Trace, at: Placed, busy: Ints, path: CriticalPath, all_ops: _Ops
) -> tuple[LayerPart, ...]:
    soc, mapping = at.soc, at.mapping
    reasons = {layer.name: why_host(layer, mapping.layers[layer.name], soc) for layer in at.workload}
    rows, n = program.rows, len(program.layers) + 1
    core_busy = _core_busy(program, trace, soc, all_ops)
    start, end = np.full(n, trace.makespan), np.zeros(n, np.int64)
    np.minimum.at(start, all_ops.layer, trace.issue)
    np.maximum.at(end, all_ops.layer, trace.end)
    causes: dict[str, dict[str, int]] = {}
    for share in path.shares:
        of_layer = causes.setdefault(share.layer, {})
        of_layer[share.cause] = of_layer.get(share.cause, 0) + share.ticks

    def totals(values: Ints, where: Any) -> list[int]:
        return [int(value) for value in _sums(n, rows["layer"][where], (values * all_ops.times)[where])]

    every = np.ones(len(rows), np.bool_)
    payload = _payload(program, soc)
    moved = [totals(payload, rows["kind"] == kind) for kind in range(len(KINDS))]
    load, weights, store = (moved[KINDS.index(kind)] for kind in ("load", "weights", "store"))
    feed = totals(rows["bytes"], rows["kind"] == FEED)
    compute = totals(rows["run"], rows["kind"] == COMPUTE)
    macs, energy_fj = totals(rows["macs"], every), totals(rows["energy_fj"], every)
    cores = _cores(program, trace, soc, mapping, busy, all_ops)
    there = set(np.unique(all_ops.layer).tolist())
    out = []
    for layer in (layer for layer in (*range(n - 1), -1) if layer in there):
        name = _layer_name(program, layer)
        powers = dict(zip(program.unit_names, busy[:, layer].tolist(), strict=True))
        ticks = path.by_layer_ticks.get(name, 0)
        out.append(
            LayerPart(
                layer=name,
                start_tick=int(start[layer]),
                end_tick=int(end[layer]),
                ticks_critical=ticks,
                seconds_critical=ticks / program.tick_hz,
                compute_ticks=compute[layer],
                core_busy_ticks=core_busy.get(layer, 0),
                macs=macs[layer],
                bytes=sum(of_kind[layer] for of_kind in moved),
                load_bytes=load[layer],
                weight_bytes=weights[layer],
                store_bytes=store[layer],
                feed_bytes=feed[layer],
                energy_j=float(power_energy_j(soc, ticks, powers, program.tick_hz)) + _joules(energy_fj[layer]),
                causes=causes.get(name, {}),
                cores=cores.get(layer, {}),
                why_host=reasons.get(name, ""),
            )
        )
    return tuple(out)


def _core_busy(program: Program, trace: Trace, soc: SoC, all_ops: _Ops) -> dict[int, int]:
    """By layer, the ticks in which any of its cores computes or is fed."""
    whom = _at_work(program, soc)
    is_core = np.array([name in soc.cores for name in program.unit_names], dtype=np.bool_)[whom]
    ops = np.flatnonzero(is_core & (whom == all_ops.unit))
    groups = {layer: ops[at] for layer, at in _groups(all_ops.layer[ops]).items()}
    return {
        layer: int(_own_ticks(_work_begins(program, trace, of), trace.end[of]).sum()) for layer, of in groups.items()
    }


def _cores(
    program: Program, trace: Trace, soc: SoC, mapping: Mapping, busy: Ints, all_ops: _Ops
) -> dict[int, dict[str, CorePart]]:
    """The parts of cores by layer, those that have ops in it."""
    rows, row, n = program.rows, all_ops.row, len(program.unit_names)
    on_core = np.flatnonzero(np.array([name in soc.cores for name in program.unit_names], dtype=np.bool_)[all_ops.unit])
    out: dict[int, dict[str, CorePart]] = {}
    for number, at in _groups(all_ops.layer[on_core] * n + all_ops.unit[on_core]).items():
        (layer, unit), ops = divmod(number, n), on_core[at]
        name, kind = program.unit_names[unit], all_ops.kind[ops]
        given = mapping.layers.get(program.layers[layer]) if layer >= 0 else None
        # What the host does for a layer that it does not compute is to launch its jobs.
        if given is not None and not given.channels_on(name) and np.isin(kind, (LAUNCH, SYNC)).all():
            continue
        compute, feed, launch = (ops[kind == of] for of in (COMPUTE, FEED, LAUNCH))
        out.setdefault(layer, {})[name] = CorePart(
            channels=given.channels_on(name) if given else 0,
            jobs=len(compute),
            compute_ticks=int(rows["run"][row[compute]].sum()),
            feed_ticks=int(trace.service[feed].sum()),
            launch_ticks=int(trace.service[launch].sum()),
            busy_ticks=int(busy[unit, layer]),
            macs=int(rows["macs"][row[ops]].sum()),
        )
    return out


def _by_unit(
    program: Program, trace: Trace, soc: SoC, busy: Ints, occupied: Occupancy, all_ops: _Ops
) -> tuple[UnitPart, ...]:
    rows, n = program.rows, len(program.unit_names)
    n_ops = _sums(n, rows["unit"], all_ops.times)
    macs, energy_fj = (_sums(n, rows["unit"], rows[key] * all_ops.times) for key in ("macs", "energy_fj"))
    in_flight, did = occupied.unit_busy, unit_ticks(program, trace)
    out = []
    for number, name in enumerate(program.unit_names):
        ticks, ops_fj = int(busy[number].sum()), int(energy_fj[number])
        known = bool(unit_power_mw(soc, name) or ops_fj)
        spent = float(power_energy_j(soc, 0, {name: ticks}, program.tick_hz))
        out.append(
            UnitPart(
                unit=name,
                ops=int(n_ops[number]),
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
                macs=int(macs[number]),
                energy_j=spent + _joules(ops_fj) if known else None,
                note="" if known else "no figure of its own: inside the base and core powers",
            )
        )
    return tuple(out)


def _by_server(program: Program, trace: Trace, occupied: Occupancy, all_ops: _Ops) -> tuple[ServerPart, ...]:
    rows, n = program.rows, len(program.servers)
    owner = np.repeat(np.arange(len(rows)), rows["route_n"])
    server = program.routes[entries_of(rows["route_at"], rows["route_n"])]
    # A transfer whose bytes are ticks says what it moves.
    carried = np.where(rows["payload_bytes"] > 0, rows["payload_bytes"], rows["bytes"])
    moved, granted = (_sums(n, server, (of * all_ops.times)[owner]) for of in (carried, bursts_of(rows)))
    spent = levels_fj(program)
    return tuple(
        ServerPart(
            server=name,
            ports=int(program.servers["ports"][ours].sum()),
            bytes=int(moved[ours].sum()),
            bursts=int(granted[ours].sum()),
            busy_ticks=int(trace.busy[ours].sum()),
            utilisation=float(occupied.server_utilisation[ours].mean()),
            energy_j=_joules(spent.get(link_level(name), 0)),
            note="the host's time: its bytes are cycles" if name == HOST_TIME else "",
        )
        for name, ours in together(program.server_names).items()
    )


# ---------------------------------------------------------------------------------------------------------------------
# Memories


def _by_memory(program: Program, placed: Placed, inferences: int, all_ops: _Ops) -> tuple[MemoryPart, ...]:
    """Bytes by memory, from the routes that the ops take; a cached mover's by the link that they cross."""
    soc, mapping = placed.soc, placed.mapping
    read, written, feed = (dict.fromkeys(soc.memories, 0) for _ in range(3))
    levels = levels_fj(program)
    spent = {name: float(levels.get(name, 0)) for name in soc.memories}
    cached, core_of = cached_cores(soc), core_of_unit(soc)
    shared_weights: set[str] = set()  # layers whose weights go to several memories over the same links
    for row, moved in _transfers(program, soc, all_ops):
        unit, kind = program.unit_names[row["unit"]], KINDS[row["kind"]]
        servers = program.routes[row["route_at"] : row["route_at"] + row["route_n"]].tolist()
        links = [name for name in (program.server_names[server] for server in servers) if name in soc.links]
        over_fj = 1000 * moved * sum(soc.links[name].energy_pj_per_byte for name in links)
        if unit in core_of:
            core, mover = cached[core_of[unit]]
            near = core.memory if row["tag"] == INTO_SCRATCHPAD else core.accumulator
            far, nearer = {
                mover.return_link: (mover.l2, near),
                mover.outer_link: (mover.llc, mover.l2),
                mover.dram_link: (soc.main_memory, mover.llc),
            }[links[0]]
            spent[far] += over_fj
            read[nearer if kind == "store" else far] += moved
            written[far if kind == "store" else nearer] += moved
            continue
        if unit not in soc.dmas:
            feed[soc.cores[unit].memory] += moved
            spent[soc.cores[unit].memory] += over_fj
            continue
        layer = program.layers[row["layer"]]
        ends = route_ends(program, row, soc, mapping, layer)
        source, target = ends[0].source, ends[0].target
        spent[target if kind == "store" else source] += over_fj
        read[source] += moved
        if len({route.target for route in ends}) > 1:
            shared_weights.add(layer)
        else:
            written[target] += moved
    for layer in shared_weights:
        for memory, moved in _weights_into(placed, layer).items():
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


def _transfers(program: Program, soc: SoC, all_ops: _Ops) -> list[tuple[np.void, int]]:
    """What movers and feeds move: (a row, bytes) for all rows of the same unit, kind, layer, route and tag; lines that
    come beside what is asked for included."""
    rows, times = program.rows, all_ops.times
    lines = (rows["payload_bytes"] == 0) & (rows["kind"] != LAUNCH)
    moves = np.where(lines | (rows["kind"] == FEED), rows["bytes"], _payload(program, soc))
    ours = np.flatnonzero((moves * times > 0) | (rows["kind"] == FEED))
    keys = np.stack([rows[key][ours] for key in ("unit", "kind", "layer", "route_at", "route_n", "tag")])
    order = np.lexsort(keys)
    change = np.append(True, (keys[:, order[1:]] != keys[:, order[:-1]]).any(axis=0))[: len(order)]
    group = np.cumsum(change) - 1
    moved = _sums(int(change.sum()), group, (moves * times)[ours[order]]).tolist()
    return list(zip(rows[ours[order[change]]], moved, strict=True))


def route_ends(program: Program, row: np.void, soc: SoC, mapping: Mapping, layer: str) -> list[Route]:
    """The routes that a transfer may have taken: its DMA and links, and an end at one of the layer's cores.

    A split layer's weights may go to several memories over the same links; then there are several.
    """
    dma, kind = program.unit_names[row["unit"]], KINDS[row["kind"]]
    servers = program.routes[row["route_at"] : row["route_at"] + row["route_n"]].tolist()
    links = tuple(name for name in (program.server_names[server] for server in servers) if name in soc.links)
    cores = [soc.core_of(part) for part in mapping.layers[layer].parts if part.channels]
    near = {core.memory for core in cores}
    if kind == "weights":
        near = {core.weight_memory for core in cores if core.weight_memory} | {soc.main_memory}
    same = [route for route in soc.routes if (route.dma, route.links) == (dma, links)]
    return [route for route in same if (route.source if kind == "store" else route.target) in near]


def _weights_into(placed: Placed, name: str) -> dict[str, int]:
    """Bytes of a layer's weights by the weight memory that they go to, in one inference."""
    soc, layer, given = placed.soc, placed.workload[name], placed.mapping.layers[name]
    out: dict[str, int] = {}
    shares = [(part.core, part.channels) for part in given.parts]
    work = layer_work(layer, soc, shares, given, placed.homes, exact)
    for part in work.cores:
        memory = soc.cores[part.core].weight_memory
        if memory is not None:
            out[memory] = out.get(memory, 0) + int(part.weights.bytes)
    return out


__all__ = [
    "CAUSES", "NO_LAYER", "PATH_NAMES", "Result", "busy_ticks", "energy_j", "report", "to_json"
]  # fmt: skip

"""What of a run lies where from when to when, with addresses: tensors, weights, line buffers, buffers of tiles."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosoc.sim.lower.fusion import buffer_bytes
from cosoc.sim.machine.program import KINDS, Program
from cosoc.sim.machine.trace import Trace
from cosoc.sim.model.tiles import behind_caches
from cosoc.sim.movers.cached_terms import Machine, cached_cores
from cosoc.sim.movers.notes import NONE
from cosoc.sim.movers.tile_table import Addresses
from cosoc.sim.report.addresses import NOWHERE, Passing, Plan, Standing, plan
from cosoc.sim.report.memory_use import RunInTime
from cosoc.sim.tiler import Placed, living, weight_bytes

Ints = npt.NDArray[np.int64]
Records = npt.NDArray[np.void]
WEIGHTS, LOAD, STORE, LAUNCH = (KINDS.index(kind) for kind in ("weights", "load", "store", "launch"))
# What a tensor of the list is.
ACTIVATION, STATE, WEIGHT, LINE_BUFFER = "activation", "state", "weights", "line buffer"


@dataclass(frozen=True)
class Lasting:
    """A tensor, the weights of a layer, or the line buffer of a producer in a fused piece. since, until [inferences]:
    ticks. address: None where there is none."""

    name: str
    what: str
    memory: str
    bytes: int
    since: Ints
    until: Ints
    address: int | None = None


@dataclass(frozen=True)
class Held:
    """lasting: by what it is and its name. buffer [n_ops]: the address of the buffer that an op's transfer is into, or
    for a store out of, NOWHERE where it has none; since, until [n_ops]: its ticks. reasons: by memory, why it has no
    addresses. layout: in which order the elements of tensors at home lie; '' where that differs by who reads them."""

    lasting: dict[tuple[str, str], Lasting]
    buffer: Ints
    since: Ints
    until: Ints
    reasons: dict[str, str]
    layout: str


def held(program: Program, trace: Trace, at: Placed, inferences: int, notes: Records) -> Held:
    """Of a run. program: unrolled. notes: NOTE of its ops."""
    run = RunInTime(program, trace, at, inferences)
    listed = list(_lasting(run, at))
    if inferences > 1 and len(listed) and not _one_after_another([one for one in listed if one.what == ACTIVATION]):
        listed = [_once(one) for one in listed]
    buffer, since, until = (np.full(program.n_ops, NOWHERE) for _ in range(3))
    ops, memory, begins, ends = _buffers(program, trace, notes)
    since[ops], until[ops] = begins, ends
    reasons, found = dict[str, str](), dict[tuple[str, str], Lasting]()
    cached = _cached_addresses(at)
    for number, (name, about) in enumerate(at.soc.memories.items()):
        mine, here = [one for one in listed if one.memory == name], memory == number
        if cached is not None and name == at.soc.main_memory:
            placed = _as_cached(name, mine, cached)
        elif name in _arranged(at):
            placed = Plan({}, np.zeros(0, np.int64), _arranged(at)[name])
        else:
            standing = [Standing(f"{one.what} {one.name}", one.bytes, one.since, one.until) for one in mine]
            passing = Passing(begins[here], ends[here], *(program.rows[key][ops[here]] for key in ("bytes", "kind")))
            placed = plan(name, about.capacity_bytes, standing, passing)
            buffer[ops[here]] = placed.passing
        if placed.reason and (len(mine) or here.any() or name in _arranged(at)):
            reasons[name] = placed.reason
        for one in mine:
            address = placed.standing.get(f"{one.what} {one.name}")
            found[one.what, one.name] = Lasting(one.name, one.what, name, one.bytes, one.since, one.until, address)
    return Held(found, buffer, since, until, reasons, _layout(at))


def _one_after_another(listed: list[Lasting]) -> bool:
    """Whether nothing of an inference is there when the next one begins."""
    if not listed:
        return True
    first = np.min([one.since for one in listed], axis=0)
    last = np.max([one.until for one in listed], axis=0)
    return bool((last[:-1] <= first[1:]).all())


def _once(one: Lasting) -> Lasting:
    """From the first of all inferences to the last."""
    return Lasting(one.name, one.what, one.memory, one.bytes, one.since[:1], one.until[-1:])


def _lasting(run: RunInTime, at: Placed) -> Iterator[Lasting]:
    n = int(run.inference.max(initial=0)) + 1
    always = np.zeros(n, np.int64), np.full(n, run.span)
    states = dict(at.workload.states)
    for name, one in run.homes_in_time():
        since, until = (one.since, one.until) if name not in states else always
        what = STATE if name in states else ACTIVATION
        yield Lasting(name, what, one.memory, int(one.bytes[0]), since, until)
    home = at.homes.weights or at.homes.main
    most: dict[str, int] = {}
    for layer in living(at.workload, at.mapping, at.soc):
        parts = at.mapping.layers[layer.name].parts
        size = weight_bytes(at.workload[layer.name], at.soc, parts)
        if size and layer.name in at.homes.pinned:
            core = at.soc.core_of(next(part for part in parts if part.channels))
            assert core.weight_memory is not None
            yield Lasting(layer.name, WEIGHT, core.weight_memory, size, *always)
        elif size:
            owner = layer.weights_of or layer.name
            most[owner] = max(most.get(owner, 0), size)
    for owner, size in most.items():
        yield Lasting(owner, WEIGHT, home, size, *always)
    for piece in at.mapping.pieces:
        if piece.how != "fused" or behind_caches(at.mapping.layers[piece.layers[-1]], at.soc):
            continue
        times = [run.times(number) for number in run.of_layers(list(piece.layers))]
        since, until = np.min([t[0] for t in times], axis=0), np.max([t[1] for t in times], axis=0)
        for producer, size in buffer_bytes(at.workload, piece.layers).items():
            core = at.soc.core_of(next(part for part in at.mapping.layers[producer].parts if part.channels))
            yield Lasting(producer, LINE_BUFFER, core.memory, size, since, until)


def _buffers(program: Program, trace: Trace, notes: Records) -> tuple[Ints, Ints, Ints, Ints]:
    """Of every transfer that takes a buffer of a core's memory (or passes through the main one): op, number of that
    memory, ticks from when to when."""
    kind, n_ops = program.rows["kind"], program.n_ops
    until = trace.end.copy()
    for key in ("inputs_by", "weights_by"):
        users = np.flatnonzero(notes[key] != NONE)
        np.maximum.at(until, notes[key][users], trace.end[users])
    used = np.zeros(n_ops, bool)
    for key in ("inputs_by", "weights_by"):
        used[notes[key][notes[key] != NONE]] = True
    # What comes from the backing memory for a weight memory passes through the main one: the next op takes it on.
    passes = np.flatnonzero((kind == WEIGHTS) & (notes["target"] != NONE))
    on = passes[passes + 1 < n_ops]
    on = on[(kind[on + 1] == WEIGHTS) & (notes["source"][on + 1] == notes["target"][on])]
    until[on] = trace.end[on + 1]
    brought = np.flatnonzero(((kind == LOAD) & used) | (kind == WEIGHTS))
    brought = brought[notes["target"][brought] != NONE]
    stores = np.flatnonzero((kind == STORE) & (notes["results_of"] != NONE) & (notes["source"] != NONE))
    first = notes["results_of"][notes["results_of"][stores]]
    first = first + (kind[first] == LAUNCH)
    ops = np.concatenate((brought, stores))
    memory = np.concatenate((notes["target"][brought], notes["source"][stores]))
    since = np.concatenate((trace.issue[brought], trace.issue[first]))
    ends = np.concatenate((until[brought], trace.end[stores]))
    return ops, memory, since, ends


def _cached_addresses(at: Placed) -> Addresses | None:
    """Those by which a mover through caches looks lines up; None where there is none, or several disagree."""
    found = [Addresses.of(at.workload, Machine.of(at.soc, name)) for name in cached_cores(at.soc)]
    same = all((one.tensor, one.weights) == (found[0].tensor, found[0].weights) for one in found)
    return found[0] if found and same else None


def _as_cached(memory: str, mine: list[Lasting], known: Addresses) -> Plan:
    """The addresses by which lines are looked up; none where other cores store something larger than the array does."""
    out = {f"{one.what} {one.name}": known.weights[one.name] for one in mine if one.what == WEIGHT}
    out |= {f"{one.what} {one.name}": known.tensor[one.name] for one in mine if one.what in (ACTIVATION, STATE)}
    spans = sorted((out[f"{one.what} {one.name}"], one.bytes) for one in mine if f"{one.what} {one.name}" in out)
    nothing = np.zeros(0, np.int64)
    if any(at + size > after for (at, size), (after, _) in itertools.pairwise(spans)):
        why = f"by the addresses in {memory} at which caches look them up, weights as other cores store them overlap"
        return Plan({}, nothing, why)
    return Plan(out, nothing)


def _arranged(at: Placed) -> dict[str, str]:
    """Memories that have no addresses of ours, each with the reason."""
    out = dict[str, str]()
    for core, mover in cached_cores(at.soc).values():
        own = "the array's loop instructions arrange it, and no address of it is modelled"
        out |= {core.memory: own, core.accumulator: own}
        cache = "a cache: what lies where in it is decided line by line"
        out |= {mover.l2: cache, mover.llc: cache}
    if cached_cores(at.soc) and _cached_addresses(at) is None:
        out[at.soc.main_memory] = "its arrays lay tensors out differently"
    return out


def _layout(at: Placed) -> str:
    cached = set(cached_cores(at.soc))
    used = {part.core for plan in at.mapping.layers.values() for part in plan.parts if part.channels}
    if not used & cached:
        return "n k oy ox"
    return "n oy ox k" if used <= {*cached, at.soc.host} else ""


__all__ = ["ACTIVATION", "LINE_BUFFER", "STATE", "WEIGHT", "Held", "Lasting", "held"]

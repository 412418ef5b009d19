"""A run op by op, for compilers: what each works on, where that lies, when it starts and ends. JSON, one op a line.

What stands there is that of `cosoc.sim.report.schedule_file`. The network is lowered once more to be told what each op
is for (`movers.notes`); ops and times are those of the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from cosoc.sim.lower.emit import stream
from cosoc.sim.machine.program import KINDS, Program, unroll
from cosoc.sim.model.mapping import DIMS
from cosoc.sim.model.tiles import channels_read, form, job_form
from cosoc.sim.model.workload import Layer
from cosoc.sim.movers.cached_terms import cached_cores
from cosoc.sim.movers.cached_units import INTO_ACCUMULATOR, core_of_unit
from cosoc.sim.movers.links import HOST_TIME, told_as
from cosoc.sim.movers.notes import NONE, Notes, Records
from cosoc.sim.progress import Report, untold
from cosoc.sim.report.held_at import ACTIVATION, LINE_BUFFER, STATE, WEIGHT, Lasting, held
from cosoc.sim.report.result import Result
from cosoc.sim.tiler import living

VERSION = 1
TOLD_EVERY = 10_000  # ops, about a second
AT_ONCE = 65_536  # ops that are made Python's numbers at a time
COMPUTE, FEED, LAUNCH, SYNC = (KINDS.index(kind) for kind in ("compute", "feed", "launch", "sync"))
# Which ranges say what an op is about: a job all; what brings weights, inputs (of the tile's own channels alone), or
# takes results, the dimensions that these depend on.
ABOUT = {
    "weights": ("k", "c", "fy", "fx"),
    "load": ("n", "c", "fy", "fx", "oy", "ox"),
    "second": ("n", "k", "c"),
    "own": ("n", "k", "fy", "fx", "oy", "ox"),
    "store": ("n", "k", "oy", "ox"),
}
_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def write_schedule(result: Result, path: Path | str, report: Report = untold) -> None:
    """Write the schedule of a run to a file, op by op. report: told now and then how many are written."""
    with Path(path).open("w", encoding="utf-8") as file:
        put_schedule(result, file, report)
        file.write("\n")


def put_schedule(result: Result, file: IO[str], report: Report = untold) -> None:
    """The same into an open file."""
    about = _Schedule(result)
    file.write(_ENCODE(about.head())[:-1] + ',"ops":[')
    between = "\n"
    for done, op in enumerate(about.ops()):
        file.write(between + _ENCODE(op))
        between = ",\n"
        if done and done % TOLD_EVERY == 0:
            report(done, result.ops, "schedule")
    file.write("\n]}")


def schedule(result: Result) -> dict[str, Any]:
    """The schedule as plain data."""
    about = _Schedule(result)
    return about.head() | {"ops": list(about.ops())}


def with_notes(result: Result) -> tuple[Program, Records, Records]:
    """The unrolled program of a run, NOTE [n_ops] of what each of its ops is for, and TILE [tiles]."""
    notes = Notes(tuple(result.at.soc.memories))
    stream(result.at, result.inferences, notes=notes)
    program = unroll(result.program)
    return program, *notes.arrays(program.n_ops)


class _Schedule:
    def __init__(self, result: Result) -> None:
        self.result, self.at = result, result.at
        self.program, self.notes, self.tiles = with_notes(result)
        self.held = held(self.program, result.trace, self.at, result.inferences, self.notes)
        self.alive = {layer.name: layer for layer in living(self.at.workload, self.at.mapping, self.at.soc)}
        self.memories = tuple(self.at.soc.memories)
        self.arrays = cached_cores(self.at.soc)
        self.unit_of = core_of_unit(self.at.soc)
        self.pieces = {n: p for p in self.at.mapping.pieces if p.how == "fused" for n in p.layers}
        self.sink = self._sinks()

    def _sinks(self) -> dict[int, int]:
        """The store that takes a job's results, by the job's first op."""
        stores = np.flatnonzero(
            (self.program.rows["kind"] == KINDS.index("store")) & (self.notes["results_of"] != NONE)
        )
        begins = self.notes["results_of"][self.notes["results_of"][stores]]
        return dict(zip(begins.tolist(), stores.tolist(), strict=True))

    # ------------------------------------------------------------------------------------------ the head

    def head(self) -> dict[str, Any]:
        result, soc, program = self.result, self.at.soc, self.program
        links = dict.fromkeys(told_as(name) for name in program.server_names if name != HOST_TIME)
        return {
            "cosoc_schedule": VERSION, "soc": result.soc, "workload": result.workload, "mapping": result.mapping,
            "runtime": result.runtime, "inferences": result.inferences, "tick_hz": result.tick_hz,
            "ticks_per_cycle": result.ticks_per_cycle, "makespan_ticks": result.ticks, "layout": self.held.layout,
            "memories": [
                {"memory": name, "bytes": one.capacity_bytes, "no_addresses": self.held.reasons.get(name, "")}
                for name, one in soc.memories.items()
            ],
            "units": list(program.unit_names), "links": list(links),
            "tensors": [
                {"tensor": one.name, "what": one.what, "memory": one.memory, "address": one.address,
                 "bytes": one.bytes, "live_ticks": _stays(one)}
                for one in self.held.lasting.values()
            ],
            "layers": [self._layer(layer) for layer in self.at.workload if layer.name in self.alive],
        }  # fmt: skip

    def _layer(self, layer: Layer) -> dict[str, Any]:
        plan = self.at.mapping.layers[layer.name]
        return {
            "layer": layer.name, "op": layer.op, "inputs": list(self.alive[layer.name].inputs), "macs": layer.macs,
            "ranges": {d: [0, self._extent(layer, d)] for d in DIMS},
            "parts": [{"core": part.core, "channels": part.channels} for part in plan.parts],
        }  # fmt: skip

    @staticmethod
    def _extent(layer: Layer, dim: str) -> int:
        return channels_read(layer) if dim == "c" else int(getattr(layer, dim))

    # ------------------------------------------------------------------------------------------ ops

    def ops(self) -> Iterator[dict[str, Any]]:
        routes = _routes(self.program)
        for first in range(0, self.program.n_ops, AT_ONCE):
            yield from self._some_ops(first, first + AT_ONCE, routes)

    def _some_ops(self, first: int, last: int, routes: dict[tuple[int, int], list[str]]) -> Iterator[dict[str, Any]]:
        program, trace, rows = self.program, self.result.trace, self.program.rows[first:last]
        carried = np.where(rows["payload_bytes"] > 0, rows["payload_bytes"], rows["bytes"])
        keys = ("unit", "kind", "layer", "macs", "route_at", "route_n", "dep_at", "dep_n", "tag")
        columns = [rows[key].tolist() for key in keys]
        times = trace.issue[first:last].tolist(), trace.end[first:last].tolist()
        notes, deps = self.notes[first:last].tolist(), program.deps
        for op, values in enumerate(zip(*columns, carried.tolist(), *times, notes, strict=True), first):
            unit, kind, layer, macs, route_at, route_n, dep_at, dep_n, tag, moved, start, end, note = values
            out: dict[str, Any] = {"op": op, "unit": program.unit_names[unit], "kind": KINDS[kind]}
            name = program.layers[layer] if layer >= 0 else ""
            if name:
                out["layer"] = name
            tile = self.tiles[note[0]] if note[0] != NONE else None
            if tile is not None:
                out |= self._about(name, tile, KINDS[kind])
            if kind != LAUNCH and moved:
                links = [one for one in routes[route_at, route_n] if one != HOST_TIME]
                out |= {"links": links, "bytes": moved}
            if macs:
                out["macs"] = macs
            if tile is not None and (operands := self._operands(op, kind, name, tile, note, moved, tag)):
                out["operands"] = operands
            out |= {"start_tick": start, "end_tick": end}
            after = [op - d for d in deps[dep_at : dep_at + dep_n].tolist() if d <= op]
            if after:
                out["after"] = after
            yield out

    def _about(self, name: str, tile: np.void, kind: str) -> dict[str, Any]:
        about = ABOUT.get("own" if kind == "load" and tile["own"] else kind, DIMS)
        if self.at.workload[name].second and tile["operand"] != NONE:
            about = ABOUT["second"]
        core = self.at.mapping.layers[name].parts[tile["part"]].core
        return {"core": core, "tile": {d: [int(tile[f"{d}0"]), int(tile[f"{d}1"])] for d in about}}

    # ------------------------------------------------------------------------------------------ operands

    def _operands(
        self, op: int, kind: int, name: str, tile: np.void, note: tuple[int, ...], moved: int, tag: int
    ) -> list[dict[str, Any]]:
        core = self.at.mapping.layers[name].parts[tile["part"]].core
        unit = self.program.unit_names[self.program.rows["unit"][op]]
        if core in self.arrays and (unit == core or unit in self.unit_of):
            return self._of_array(kind, name, core, tile, moved, tag)
        if kind == COMPUTE:
            return self._of_job(name, core, tile, note)
        if KINDS[kind] in ("load", "weights", "store") and note[4] != NONE:
            return self._of_transfer(op, KINDS[kind], name, core, tile, note, moved)
        return []

    def _own(self, name: str, core: str) -> Layer:
        """The form of a layer that a core computes."""
        return form(self.at.workload[name], self.at.soc.cores[core])

    def _reads(self, name: str, core: str, tile: np.void) -> list[tuple[str, str]]:
        """The tensors that a tile's inputs are of: what each is, and its name."""
        own = self._own(name, core)
        if own.op == "gather" or tile["operand"] == len(own.inputs):
            return [(WEIGHT, own.weights_of or own.name)]
        names = own.inputs if own.op in ("add", "eltwise", "concat") else own.inputs[:1]
        names = names if tile["operand"] == NONE else (own.inputs[tile["operand"]],)
        return [self._tensor(tensor) for tensor in dict.fromkeys(names)]

    def _tensor(self, name: str) -> tuple[str, str]:
        """What a tensor is that layers read or make: what is written into a state is part of that."""
        states = dict(self.at.workload.states)
        layer = next((layer for layer in self.at.workload if layer.name == name), None)
        owner = layer.into if layer is not None and layer.into else name
        return (STATE if owner in states else ACTIVATION), owner

    def _operand(
        self, tensor: tuple[str, str], access: str, memory: str, address: int | None, n_bytes: int | None,
        live: tuple[int, int] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        what, name = tensor
        out = {"tensor": name, "what": what, "access": access, "memory": memory, "address": address, "bytes": n_bytes}
        return out if live is None else out | {"live_ticks": list(live)}

    def _at_home(self, tensor: tuple[str, str], access: str, n_bytes: int | None) -> dict[str, Any]:
        one = self.held.lasting.get(tensor)
        if one is None:  # a tensor that no memory holds by itself
            return self._operand(tensor, access, "", None, n_bytes)
        return self._operand(tensor, access, one.memory, one.address, n_bytes)

    def _buffer(self, op: int, tensor: tuple[str, str], access: str, memory: str, owner: bool) -> dict[str, Any]:
        """The buffer of a transfer. owner: whether this is the op that says from when to when it lies there."""
        address, moved = int(self.held.buffer[op]), int(self.program.rows["bytes"][op])
        live = (int(self.held.since[op]), int(self.held.until[op])) if owner and address >= 0 else None
        return self._operand(tensor, access, memory, address if address >= 0 else None, moved, live)

    def _of_transfer(
        self, op: int, kind: str, name: str, core: str, tile: np.void, note: tuple[int, ...], moved: int
    ) -> list[dict[str, Any]]:
        source, target = self.memories[note[4]], self.memories[note[5]]
        layer = self.at.workload[name]
        if kind == "weights":
            weights = self._tensor(layer.second) if layer.second else (WEIGHT, layer.weights_of or name)
            if source == self.at.homes.weights_of(layer):
                near = self._at_home(weights, "read", moved)
            else:
                near = self._buffer(op - 1, weights, "read", source, owner=False)
            return [near, self._buffer(op, weights, "write", target, owner=True)]
        if kind == "load":
            tensors = self._reads(name, core, tile)
            apart = moved // len(tensors) if len(tensors) == 1 or layer.op in ("add", "eltwise") else None
            inputs = tensors[0] if len(tensors) == 1 else ("inputs", name)
            near = self._buffer(op, inputs, "write", target, owner=True)
            return [*(self._at_home(tensor, "read", apart) for tensor in tensors), near]
        out = self._buffer(op, (ACTIVATION, name), "read", source, owner=True)
        return [out, self._at_home(self._tensor(name), "write", moved)]

    def _of_job(self, name: str, core: str, tile: np.void, note: tuple[int, ...]) -> list[dict[str, Any]]:
        _, inputs_by, weights_by, begin, *_ = note
        about, out = self.at.soc.cores[core], list[dict[str, Any]]()
        layer, tensors = self.at.workload[name], self._reads(name, core, tile)
        own = job_form(layer, about)
        if tile["fused"]:
            out += [self._in_piece(name, tensor, "read", about.memory) for tensor in tensors]
        elif inputs_by != NONE:
            inputs = tensors[0] if len(tensors) == 1 else ("inputs", name)
            out.append(self._buffer(inputs_by, inputs, "read", about.memory, owner=False))
        else:
            out += [self._at_home(tensor, "read", None) for tensor in tensors]
        weights = self._tensor(layer.second) if layer.second else (WEIGHT, layer.weights_of or name)
        if weights_by != NONE:
            near = self.memories[self.notes["target"][weights_by]]
            out.append(self._buffer(weights_by, weights, "read", near, owner=False))
        elif layer.second or (weights in self.held.lasting and (own.op == "conv" or layer.constants)):
            out.append(self._at_home(weights, "read", None))
        if begin in self.sink:
            out.append(self._buffer(self.sink[begin], (ACTIVATION, name), "write", about.memory, owner=False))
        elif tile["fused"]:
            out.append(self._in_piece(name, (ACTIVATION, name), "write", about.memory))
        else:
            out.append(self._at_home(self._tensor(name), "write", None))
        return out

    def _in_piece(self, reader: str, tensor: tuple[str, str], access: str, memory: str) -> dict[str, Any]:
        """A tensor that a row of a fused piece reads or makes: in its line buffer, or rows that came for it."""
        buffered = self.held.lasting.get((LINE_BUFFER, tensor[1]))
        if buffered is not None and tensor[1] in self.pieces[reader].layers:
            return self._operand((LINE_BUFFER, tensor[1]), access, buffered.memory, buffered.address, None)
        return self._operand(tensor, access, memory, None, None)

    def _of_array(self, kind: int, name: str, core: str, tile: np.void, moved: int, tag: int) -> list[dict[str, Any]]:
        """Of an op of an array behind caches, whose tiles have no addresses of ours."""
        array, layer, own = self.arrays[core][0], self.at.workload[name], self._own(name, core)
        weights = self._tensor(own.inputs[1]) if own.op == "matmul" else (WEIGHT, layer.weights_of or name)
        whole = all(tile[f"{d}1"] == self._extent(own, d) for d in ("c", "fy", "fx"))
        if kind == COMPUTE:
            reads = [
                self._operand(tensor, "read", array.memory, None, None) for tensor in self._reads(name, core, tile)
            ]
            if own.op in ("conv", "matmul"):
                reads.append(self._operand(weights, "read", array.memory, None, None))
            return [*reads, self._operand((ACTIVATION, name), "write", array.accumulator, None, None)]
        if not moved or kind in (LAUNCH, SYNC, FEED):
            return []
        if KINDS[kind] == "weights":
            return [self._at_home(weights, "read", moved), self._operand(weights, "write", array.memory, None, moved)]
        if KINDS[kind] == "store":
            if not whole:
                return [self._operand(("partial sums", name), "write", self.at.soc.main_memory, None, moved)]
            return [self._at_home(self._tensor(name), "write", moved)]
        if tag == INTO_ACCUMULATOR and own.op in ("conv", "matmul"):
            return [self._operand(("partial sums", name), "read", self.at.soc.main_memory, None, moved)]
        near = array.accumulator if tag == INTO_ACCUMULATOR else array.memory
        read = [self._at_home(tensor, "read", moved) for tensor in self._reads(name, core, tile)]
        return [*read, self._operand(self._reads(name, core, tile)[0], "write", near, None, moved)]


def _stays(one: Lasting) -> list[list[int]]:
    """Ticks from when to when it is there, in each inference, or once for all."""
    return [list(each) for each in dict.fromkeys(zip(one.since.tolist(), one.until.tolist(), strict=True))]


def _routes(program: Program) -> dict[tuple[int, int], list[str]]:
    """Names of the servers of every route that the rows have, by its place."""
    slices = set(zip(program.rows["route_at"].tolist(), program.rows["route_n"].tolist(), strict=True))
    return {
        (at, n): [told_as(program.server_names[server]) for server in program.routes[at : at + n].tolist()]
        for at, n in slices
    }


__all__ = ["VERSION", "put_schedule", "schedule", "with_notes", "write_schedule"]

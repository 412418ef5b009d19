"""Several programs of one machine -> one Program, in which they share its units, servers and time.

Servers are shared by name. A unit that several programs use is one unit still: each program keeps its own order on it,
and whoever is to issue takes one of its lanes, a credit, for as long as the op lasts. By rule 2 the lane goes to who
asked first, so that programs take turns op by op and none waits for ops of another that come later.

A lane is never waited for together with a program's own credits: who waits would block the lane for the others (rule
2: waiting is not overtaken), whose ops may be what gives the credit back. So an op that takes credits on a shared unit
is two: an op of no duration that waits for its deps and credits, and the op itself, which waits for the lane.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cosoc.sim.machine.program import (
    AMOUNT,
    BLOCK,
    CREDIT,
    KINDS,
    SPENT,
    Ints,
    Program,
    Records,
    bases,
    entries_of,
    unroll,
    validate,
)

CLOCK = "release clock"  # the unit that releases inferences: every program has one of its own


@dataclass(frozen=True)
class Together:
    """One program of several. ops: of each of them, the numbers of its ops in the whole, [n_ops]."""

    program: Program
    ops: tuple[Ints, ...]


def together(name: str, programs: Sequence[Program]) -> Together:
    """All programs at once, each from tick 0; one alone is as it was. They are of one machine: what has one name is one
    server, and ticks are equally long; ValueError where they are not."""
    if len({program.tick_hz for program in programs}) != 1:
        raise ValueError(f"{name}: programs of different tick_hz cannot share a machine")
    used = [{p.unit_names[unit] for unit in np.unique(p.rows["unit"]).tolist()} for p in programs]
    lanes = {
        unit: int(p.units["lanes"][number])
        for p in programs
        for number, unit in enumerate(p.unit_names)
        if unit != CLOCK and sum(unit in mine for mine in used) > 1
    }
    whole = _Whole(name, programs[0].tick_hz, lanes)
    ops = tuple(whole.add(program, number) for number, program in enumerate(programs))
    return Together(whole.program(), ops)


class _Whole:
    """The arrays of the program that is put together; the only mutable thing here."""

    def __init__(self, name: str, tick_hz: int, lanes: dict[str, int]) -> None:
        self.name, self.tick_hz, self.lanes = name, tick_hz, lanes
        self.names: dict[str, dict[str, int]] = {noun: {} for noun in ("unit", "server", "credit", "layer", "level")}
        self.records: dict[str, list[Records]] = {key: [] for key in ("units", "servers", "credits")}
        self.arrays: dict[str, list[Any]] = {
            key: [] for key in ("stretch", "rows", "routes", "deps", "takes", "gives", "blocks", "spent")
        }
        self.n_ops = 0
        if lanes:
            self._credits([f"{unit} lane" for unit in lanes], np.array([(n,) for n in lanes.values()], CREDIT))

    def add(self, program: Program, number: int) -> Ints:
        """Append a program; the numbers of its ops in the whole."""
        shared = np.array([unit in self.lanes for unit in program.unit_names], dtype=np.bool_)
        ops = np.arange(program.n_ops, dtype=np.int64)
        if number and _reaches_before(program):
            program = _within(unroll(program))
        rows = program.rows
        busy = (rows["setup"] > 0) | (rows["run"] > 0) | (rows["bytes"] > 0)
        if (shared[rows["unit"]] & busy & (rows["take_n"] > 0)).any():
            program, ops = _gated(unroll(program), shared)
        ops = ops + self.n_ops
        self.n_ops += program.n_ops
        self._append(program, number, shared)
        return ops

    def _append(self, program: Program, number: int, shared: Any) -> None:
        mine = f"~{number + 1}" if number else ""
        units = [
            self._one("unit", name + mine if shared[n] or name == CLOCK else name, "units", program.units[n])
            for n, name in enumerate(program.unit_names)
        ]
        stretch_at = sum(map(len, self.arrays["stretch"]))
        figures = program.servers.copy()
        figures["stretch_at"] += stretch_at
        servers = [self._one("server", name, "servers", figures[n]) for n, name in enumerate(program.server_names)]
        credits = [name + mine for name in program.credit_names]
        first_credit = self._credits(credits, program.credits)
        layers = [self._one("layer", name + mine) for name in program.layers]
        levels = [self._one("level", name) for name in program.levels]
        rows = program.rows.copy()
        sides: dict[str, Records] = {}
        for key, side in (("take", program.takes), ("give", program.gives)):
            sides[key] = side.copy()
            sides[key]["credit"] += first_credit
        busy = (rows["setup"] > 0) | (rows["run"] > 0) | (rows["bytes"] > 0)
        for unit in np.flatnonzero(shared).tolist():
            token = np.array([(self.names["credit"][f"{program.unit_names[unit]} lane"], 1)], AMOUNT)
            of_unit = (rows["unit"] == unit) & busy
            for key in ("take", "give"):
                sides[key] = _with_token(rows, key, sides[key], of_unit, token)
        for key, name in (("route", "routes"), ("dep", "deps"), ("take", "takes"), ("give", "gives")):
            rows[f"{key}_at"] += sum(map(len, self.arrays[name]))
        rows["unit"] = np.array(units, np.int64)[rows["unit"]]
        rows["layer"] = np.array([*layers, -1], np.int64)[rows["layer"]]
        blocks = program.blocks.copy()
        blocks["first_row"] += sum(map(len, self.arrays["rows"]))
        spent = program.spent.copy()
        spent["unit"] = np.array(units, np.int64)[spent["unit"]]
        spent["layer"] = np.array([*layers, -1], np.int64)[spent["layer"]]
        spent["level"] = np.array([*levels, -1], np.int64)[spent["level"]]
        routes = np.array([*servers, -1], np.int64)[program.routes]
        added = {
            "stretch": program.stretch, "rows": rows, "routes": routes, "deps": program.deps, "takes": sides["take"],
            "gives": sides["give"], "blocks": blocks, "spent": spent,
        }  # fmt: skip
        for key, array in added.items():
            self.arrays[key].append(array)

    def _one(self, noun: str, name: str, key: str = "", record: Any = None) -> int:
        """The number of a noun in the whole, new or known."""
        known = self.names[noun]
        if name not in known:
            known[name] = len(known)
            if key:
                self.records[key].append(record)
        return known[name]

    def _credits(self, names: Iterable[str], records: Records) -> int:
        """Append pools of credits; the number of the first."""
        first = len(self.names["credit"])
        for name, record in zip(names, records, strict=True):
            self._one("credit", name, "credits", record)
        return first

    def program(self) -> Program:
        """What was put together. ValueError with every reason why it is no program."""
        names = {noun: tuple(known) for noun, known in self.names.items()}
        joined = {key: np.concatenate(arrays) for key, arrays in self.arrays.items()}
        units, servers = (np.array(self.records[key], self.records[key][0].dtype) for key in ("units", "servers"))
        out = Program(
            self.name, self.tick_hz, names["unit"], names["server"], names["credit"], names["layer"],
            units=units, servers=servers, credits=np.array(self.records["credits"], CREDIT), levels=names["level"],
            stretch=joined["stretch"], rows=joined["rows"], routes=joined["routes"], deps=joined["deps"],
            takes=joined["takes"], gives=joined["gives"], blocks=joined["blocks"].astype(BLOCK),
            spent=joined["spent"].astype(SPENT),
        )  # fmt: skip
        reasons = validate(out)
        if reasons:
            raise ValueError(f"{self.name}: not a program:\n  " + "\n  ".join(reasons))
        return out


def _reaches_before(program: Program) -> bool:
    """Whether some dep lies before op 0, where behind another program its ops would stand."""
    blocks = list(zip(bases(program).tolist(), program.blocks.tolist(), strict=False))
    first = np.concatenate([np.zeros(0, np.int64), *(base + np.arange(n) for base, (_, n, _) in blocks)])
    rows = np.concatenate([np.zeros(0, np.int64), *(np.arange(at, at + n) for _, (at, n, _) in blocks)])
    deps = program.rows["dep_n"][rows]
    farthest = program.deps[entries_of(program.rows["dep_at"][rows], deps)]
    return bool((farthest > np.repeat(first, deps)).any())


def _within(flat: Program) -> Program:
    """An unrolled program without the deps that lie before op 0."""
    return _renumbered(flat, np.zeros(len(flat.rows), np.bool_))[0]


def _gated(flat: Program, shared: Any) -> tuple[Program, Ints]:
    """An unrolled program in which ops that take credits on shared units are two, and the numbers of its ops there."""
    rows = flat.rows
    busy = (rows["setup"] > 0) | (rows["run"] > 0) | (rows["bytes"] > 0)
    return _renumbered(flat, shared[rows["unit"]] & busy & (rows["take_n"] > 0))


def _renumbered(flat: Program, gate: Any) -> tuple[Program, Ints]:
    """Ops where `gate` says so with one before them that waits in their place."""
    rows, n = flat.rows, len(flat.rows)
    at = np.arange(n, dtype=np.int64) + np.cumsum(gate)
    owner = np.repeat(np.arange(n), rows["dep_n"])
    target = owner - flat.deps[entries_of(rows["dep_at"], rows["dep_n"])]
    owner, target = owner[target >= 0], target[target >= 0]
    deps = at[owner] - gate[owner] - at[target]
    count = np.bincount(owner, minlength=n).astype(np.int64)
    rows = rows.copy()
    rows["dep_at"], rows["dep_n"] = np.cumsum(count) - count, count
    out = np.zeros(n + int(gate.sum()), rows.dtype)
    waits = rows[gate]
    for key in ("setup", "run", "bytes", "burst", "route_at", "route_n", "give_at", "give_n", "macs", "energy_fj"):
        waits[key] = 0
    waits["tag"], waits["payload_bytes"], waits["kind"] = -1, -1, KINDS.index("sync")
    out[at[gate] - 1] = waits
    for key in ("take_at", "take_n"):
        rows[key][gate] = 0
    rows["dep_at"][gate], rows["dep_n"][gate] = len(deps), 1  # the op before it
    out[at] = rows
    blocks = np.array([(0, len(out), 1)], BLOCK) if len(out) else flat.blocks
    return replace(flat, rows=out, deps=np.append(deps, 1).astype(np.int64), blocks=blocks), at


def _with_token(rows: Records, key: str, side: Records, of_unit: Any, token: Records) -> Records:
    """The entries of a side with one more for the rows of a unit, whose slices are moved behind the others."""
    slices = np.stack([rows[f"{key}_at"][of_unit], rows[f"{key}_n"][of_unit]], axis=1)
    found, which = np.unique(slices, axis=0, return_inverse=True)
    new, places = [side], []
    end = len(side)
    for at, n in found.tolist():
        new += [side[at : at + n], token]
        places.append(end)
        end += n + 1
    if len(found):
        rows[f"{key}_at"][of_unit] = np.array(places, np.int64)[which.reshape(-1)]
        rows[f"{key}_n"][of_unit] += 1
    return np.concatenate(new)


__all__ = ["CLOCK", "Together", "together"]

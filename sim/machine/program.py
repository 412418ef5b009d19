"""Program: the work of a machine as integer arrays, and the definition of the machine that runs it.

**Nouns.** An *op* sits on one in-order *unit*. After `setup` ticks it either computes for `run` ticks or moves
`bytes` along a `route` of shared *servers*, `burst` bytes at a time. It may start once its *deps* have ended and its
*credits* can be taken. Loops stay loops: a program is a list of blocks (consecutive rows, repeated `times` times);
the number of an op is its place in the unrolled program. Deps are distances back in that numbering: an op with
number i and distance d waits for op i - d; one that would fall before op 0 is satisfied. One tick is one period of
`tick_hz`.

**The machine, in four rules.** Time starts at tick 0 with every unit idle, every credit at its capacity and every
server free with no tag. At tick t:

1. *End.* Everything that ends at t ends, in any order: a server is done with a burst and frees its port; an op
   whose work is done frees its lane, gives its credits and is ended for its dependents; an op whose setup is done
   (issue + setup == t), or whose burst is over with bytes left, *asks* for its next burst, at t. What ends counts
   in the same tick for everything below.
2. *Issue*, in rounds. A unit offers at most its head (the first op in program order that it has not issued), and only
   if fewer than `lanes` of its ops are in flight and the head's deps have ended; `asked` is the first tick at which
   it was so. The offers of a round are settled at its start and visited in (priority, asked, unit, op) order, small
   first. A head issues if each of its credits is unblocked and has the amount free, and takes them; if not, for
   either reason, it takes none and *blocks* each credit that it takes for the rest of the round (waiting is not
   overtaken). After a round, ops of no duration (setup = run = bytes = 0) end, as in rule 1. Rounds repeat until one
   issues nothing.
   An op with setup = 0 and bytes > 0 asks in the tick of its issue.
3. *Grant.* Who asks for a burst asks every server of its route, and each server serves on its own: while it has a
   free port and somebody asks for it, it grants one to the first in (priority, asked, unit, op) order; the others
   wait. What a burst waits for at one server keeps it from no other.
   After all grants of a server in a tick, in grant order, each burst of b bytes (`burst`, or what is left) gets its
   hold of that server: (ceil(b * rate_ticks / rate_bytes) * stretch[occupancy]) >> 8, plus the server's `switch` if
   the op's tag is not negative and the server's view of it differs from its last, and at least 1 tick. Its view of a
   tag is (tag >> tag_shift) mod 2^tag_bits; of a tag that is not negative it becomes the server's last. The occupancy
   of a server is the number of bursts that hold it after all grants of the tick; a table shorter than that is read at
   its last entry. A hold does not change afterwards. The server is done with the burst, and its port free, at t + hold.
   The burst is over when the last server is done with it. That one (of several, the one with the longest hold; then
   the first of the route) counts its ticks: its hold is the burst's part of the op's `service`, and until it granted,
   the op waited for it.
4. *Advance* to the next tick at which something ends. If there is none but ops remain: Deadlock, naming the first
   op (in program order) that has not ended and what it waits for. (Nothing is in flight then, and all earlier ops
   have ended, so it always waits for a credit.)

Credits start at their capacity; giving more than was taken raises them above it, which is allowed.
Re-asking per burst, oldest first, is round robin; a burst as long as the transfer is first come, first served; bursts
of different sizes are weights; buffers, queues and outstanding requests are credits and lanes. Views let a tag say
several things: a bank looks at its bits for the row, the data bus at the one for the direction. Engines know nothing
else: names, kinds, layers, MACs, energies and levels below are labels for reports.

**Sharing.** The servers of a route pass a burst side by side: alone, it takes as long as the slowest of them, and each
is held only for the time that its own rate needs, as if there were room for one burst of every lane before each.

- *No server is idle while somebody waits for it*, as a grant there depends on nothing but its own ports and queue. So
  n lanes behind links of their own have of a common server the smaller of what it and their links can do.
- *Nobody starves.* No burst needs two ports at once, so there is nothing to reserve and no overtaking to bound: at a
  server a burst is overtaken by higher priorities only, and a lane asks again only when its burst is over, by when
  it is younger than all who wait. A burst so waits, whatever goes on elsewhere, for those in progress there and at
  most one of each other lane of its own priority. A higher priority goes first for as long as it asks: that is what
  it is for.
- *A server with as many ports as lanes that go over it* makes nobody wait: it caps the rate of each.
- *Nothing locks up at servers.* A port that was granted is freed after its hold, whatever the burst waits for
  elsewhere.

What it does not say: a burst that began when a server was empty keeps its stretch though others come (the table holds
for bursts that are short against what they share, not for one as long as a transfer); a lane has one burst under way,
so that a wait longer than its own slowest server's hold is a gap there (more in flight are more lanes); a server
takes whole ticks for a burst, however few bytes it has; and a burst is not stopped in one hop by the next one's full
buffer (hop by hop, with buffers, is an op a hop, with credits).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from cosoc.sim.errors import Deadlock, InputError

Records = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]


def _record(*names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in names])


# One row a unit. priority: smaller goes first; lanes: ops in flight at once, >= 1.
UNIT = _record("lanes", "priority")
# One row a server. rate = rate_bytes per rate_ticks, at each port; stretch: slice of `stretch`, in 1/256. Of a tag it
# looks at tag_bits bits, from bit tag_shift on.
SERVER = _record("rate_bytes", "rate_ticks", "ports", "switch", "stretch_at", "stretch_n", "tag_shift", "tag_bits")
WHOLE_TAG = 0, 63  # tag_shift, tag_bits of a server that looks at all of a tag
# One row a credit pool.
CREDIT = _record("capacity")
# One row an op. route, deps, takes, gives: slices (at, n) of the arrays of that name. tag -1: none. payload_bytes, a
# label: bytes of tensors that the op brings or takes, if not what `bytes` says (-1): 0 for lines that come beside them,
# and more where `bytes` are the ticks for which it holds its servers.
ROW = _record(
    "unit", "setup", "run", "bytes", "burst", "tag",
    "route_at", "route_n", "dep_at", "dep_n", "take_at", "take_n", "give_at", "give_n",
    "kind", "layer", "macs", "energy_fj", "payload_bytes",
)  # fmt: skip
# A credit and how many of it.
AMOUNT = _record("credit", "amount")
# Rows first_row .. first_row + n_rows - 1, `times` times over.
BLOCK = _record("first_row", "n_rows", "times")
# A label: what all ops of a unit and a layer (-1: none) spend at one level, their repetitions counted.
SPENT = _record("unit", "layer", "level", "energy_fj")

# What an op is for: reports group by it, engines never look.
KINDS = ("compute", "weights", "load", "store", "feed", "launch", "sync")


@dataclass(frozen=True)
class Program:
    """The unit of exchange between lowering and engines; see the module docstring for its meaning.

    `stretch` [entries] is the concatenation of the servers' tables: entry n of a table is the factor, in 1/256, at
    occupancy n (entry 0 is never read). `deps` [entries] are distances >= 1. `routes` [entries] are server
    numbers. `layers` are the names that `rows["layer"]` indexes, -1 for none. `levels` are the names of what energy is
    spent at (a memory, a link, the multipliers), and `spent` has the sums of `rows["energy_fj"]` told apart by them;
    ops that do not say at which level are not in it.
    """

    name: str
    tick_hz: int
    unit_names: tuple[str, ...]
    server_names: tuple[str, ...]
    credit_names: tuple[str, ...]
    layers: tuple[str, ...]
    units: Records
    servers: Records
    credits: Records
    stretch: Ints
    rows: Records
    routes: Ints
    deps: Ints
    takes: Records
    gives: Records
    blocks: Records
    levels: tuple[str, ...] = ()
    spent: Records = field(default_factory=lambda: np.zeros(0, SPENT))

    @property
    def n_ops(self) -> int:
        """Ops in the unrolled program."""
        return int((self.blocks["n_rows"] * self.blocks["times"]).sum())


def bases(program: Program) -> Ints:
    """Number of the first op of each block, and n_ops at the end: [n_blocks + 1]."""
    return np.concatenate(([0], np.cumsum(program.blocks["n_rows"] * program.blocks["times"]))).astype(np.int64)


def row_of(program: Program, ops: Ints) -> Ints:
    """The rows that the ops with these numbers are instances of; same shape as `ops`."""
    if len(program.blocks) == 1 and program.blocks["times"][0] == 1:
        return np.asarray(program.blocks["first_row"][0] + ops, dtype=np.int64)
    base = bases(program)
    block = np.searchsorted(base, ops, side="right") - 1
    blocks = program.blocks[block]
    return np.asarray(blocks["first_row"] + (ops - base[block]) % blocks["n_rows"], dtype=np.int64)


def unroll(program: Program) -> Program:
    """The same program as one block that runs once: row i is op i."""
    rows = [np.tile(program.rows[b["first_row"] : b["first_row"] + b["n_rows"]], b["times"]) for b in program.blocks]
    flat = np.concatenate([program.rows[:0], *rows])
    return replace(program, rows=flat, blocks=_records(BLOCK, [(0, len(flat), 1)] if len(flat) else []))


def bursts_of(rows: Records) -> Ints:
    """Bursts of each row: ceil(bytes / burst), 0 where nothing moves."""
    return np.asarray(-(-rows["bytes"] // np.maximum(rows["burst"], 1)), dtype=np.int64)


def _records(dtype: np.dtype[np.void], values: Sequence[Sequence[int]]) -> Records:
    return np.array([tuple(value) for value in values], dtype=dtype)


def op_text(program: Program, op: int) -> str:
    """How messages and reports name an op: `op 12 (load of conv1 on dma)`."""
    row = program.rows[int(row_of(program, np.array([op]))[0])]
    layer = f" of {program.layers[row['layer']]}" if row["layer"] >= 0 else ""
    return f"op {op} ({KINDS[row['kind']]}{layer} on {program.unit_names[row['unit']]})"


# ---------------------------------------------------------------------------------------------------------------------
# Checking


# Figures up to here keep every sum and product of an engine inside 64 bits.
LIMIT = 1 << 50
MOST_UNITS = 4096
CHUNK = 1 << 18  # rows, or ops, that are looked at together


MOST_OPS = 1 << 24  # of several inferences in one run: some gigabytes, as a report of it takes more than its figures


def within_counting(n_ops: int, what: str) -> None:
    """InputError where `what`, so many inferences or items, would be more ops than one run can have."""
    if n_ops > MOST_OPS:
        most = f"2^{MOST_OPS.bit_length() - 1}"
        raise InputError(f"{what}: {n_ops} ops, of which one run may have {most}; ask for fewer inferences")


def validate(program: Program) -> list[str]:
    """Every condition that the program violates, each with its first culprit and their number; [] if it can be run."""
    reasons = _check_nouns(program) + _check_blocks(program) + _check_slices(program)
    if reasons:
        return reasons  # the rest indexes through what was found broken
    return _check_rows(program) + _check_entries(program) + _check_figures(program)


def _report(reasons: list[str], noun: str, bad: npt.NDArray[np.bool_], text: str, *figures: Ints) -> None:
    """Add a reason for the first index where `bad` holds: `text`, with the `figures` at that index filled in."""
    where = np.flatnonzero(bad)
    if len(where):
        more = f" (and {len(where) - 1} more)" if len(where) > 1 else ""
        reasons.append(f"{noun} {where[0]}: {text.format(*(figure[where[0]] for figure in figures))}{more}")


def _check_nouns(program: Program) -> list[str]:
    """Names, and the figures of units, servers and credits."""
    reasons: list[str] = []
    units, servers, credits = program.units, program.servers, program.credits
    if program.tick_hz < 1:
        reasons.append(f"tick_hz is {program.tick_hz}, must be at least 1")
    if len(units) > MOST_UNITS:
        reasons.append(f"{len(units)} units, at most {MOST_UNITS}")
    for noun, names, n in (
        ("unit", program.unit_names, len(units)), ("server", program.server_names, len(servers)),
        ("credit", program.credit_names, len(credits)), ("layer", program.layers, len(program.layers)),
        ("level", program.levels, len(program.levels)), ("program", (program.name,), 1),
    ):  # fmt: skip
        if len(names) != n:
            reasons.append(f"{n} {noun}s but {len(names)} {noun} names")
        if "" in names:
            reasons.append(f"{noun} {names.index('')} has an empty name")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            reasons.append(f"{noun} name {twice!r} stands {names.count(twice)} times")
    for noun, records, key, least in (
        ("unit", units, "lanes", 1), ("server", servers, "rate_bytes", 1), ("server", servers, "rate_ticks", 1),
        ("server", servers, "ports", 1), ("server", servers, "switch", 0), ("credit", credits, "capacity", 1),
    ):  # fmt: skip
        _report(reasons, noun, records[key] < least, f"{key} is {{}}, must be at least {least}", records[key])
    for key, least, most in (("tag_shift", 0, 62), ("tag_bits", 1, 63)):
        bad = (servers[key] < least) | (servers[key] > most)
        _report(reasons, "server", bad, f"{key} is {{}}, must be {least}..{most}", servers[key])
    at, n_entries = servers["stretch_at"], servers["stretch_n"]
    bad = (at < 0) | (n_entries < 1) | (at + n_entries > len(program.stretch))
    _report(reasons, "server", bad, f"stretch table {{}}+{{}} of {len(program.stretch)} entries", at, n_entries)
    _report(reasons, "stretch", program.stretch < 1, "{}/256, must be at least 1/256", program.stretch)
    return reasons


def _check_blocks(program: Program) -> list[str]:
    reasons: list[str] = []
    first, n, times = (program.blocks[key] for key in ("first_row", "n_rows", "times"))
    _report(reasons, "block", (n < 1) | (times < 1), "{} rows x {}, each must be at least 1", n, times)
    bad = (first < 0) | (first + n > len(program.rows))
    _report(reasons, "block", bad, f"rows {{}}+{{}} of {len(program.rows)}", first, n)
    return reasons


def _check_slices(program: Program) -> list[str]:
    """Slices and indices of the rows."""
    reasons: list[str] = []
    rows = program.rows
    for key, n_entries in (
        ("route", len(program.routes)), ("dep", len(program.deps)), ("take", len(program.takes)),
        ("give", len(program.gives)),
    ):  # fmt: skip
        at, n = rows[f"{key}_at"], rows[f"{key}_n"]
        bad = (at < 0) | (n < 0) | (at + n > n_entries)
        _report(reasons, "row", bad, f"{key} slice {{}}+{{}} of {n_entries} entries", at, n)
    for noun, index, low, high in (
        ("row", rows["unit"], 0, len(program.units)), ("row", rows["kind"], 0, len(KINDS)),
        ("row", rows["layer"], -1, len(program.layers)), ("route", program.routes, 0, len(program.servers)),
        ("take", program.takes["credit"], 0, len(program.credits)),
        ("give", program.gives["credit"], 0, len(program.credits)),
        ("spent", program.spent["unit"], 0, len(program.units)),
        ("spent", program.spent["layer"], -1, len(program.layers)),
        ("spent", program.spent["level"], 0, len(program.levels)),
    ):  # fmt: skip
        _report(reasons, noun, (index < low) | (index >= high), f"index {{}} is outside {low}..{high - 1}", index)
    return reasons


def _check_rows(program: Program) -> list[str]:
    """What a row must be in itself."""
    reasons: list[str] = []
    rows = program.rows
    for key in ("setup", "run", "bytes", "burst", "macs", "energy_fj"):
        _report(reasons, "row", (rows[key] < 0) | (rows[key] > LIMIT), f"{key} is {{}}, must be 0..2^50", rows[key])
    payload = rows["payload_bytes"]
    bad = (payload < -1) | (payload > LIMIT)
    _report(reasons, "row", bad, "payload_bytes is {}, must be -1..2^50", payload)
    moves, size = rows["bytes"] > 0, rows["bytes"]
    _report(reasons, "row", moves & (rows["run"] > 0), "both runs ({} ticks) and moves ({} bytes)", rows["run"], size)
    _report(reasons, "row", moves & (rows["burst"] < 1), "moves {} bytes in bursts of 0", size)
    _report(reasons, "row", moves & (rows["route_n"] < 1), "moves {} bytes without a route", size)
    idle = ~moves & ((rows["route_n"] > 0) | (rows["burst"] > 0))
    _report(
        reasons,
        "row",
        idle,
        "moves no bytes but has a route ({} servers) or a burst ({})",
        rows["route_n"],
        rows["burst"],
    )
    return reasons


def _check_entries(program: Program) -> list[str]:
    """What the entries of a row's lists must be: amounts, distances, and nothing twice in one list."""
    reasons: list[str] = []
    rows = program.rows
    _report(reasons, "dep", program.deps < 1, "distance {}, must be at least 1", program.deps)
    for noun, amounts in (("take", program.takes), ("give", program.gives)):
        amount, most = amounts["amount"], program.credits["capacity"][amounts["credit"]]
        text = "amount {} of credit {}, must be 1..{}, its capacity"
        _report(reasons, noun, (amount < 1) | (amount > most), text, amount, amounts["credit"], most)
    for key, entries in (
        ("route", program.routes), ("dep", program.deps), ("take", program.takes["credit"]),
        ("give", program.gives["credit"]),
    ):  # fmt: skip
        for first, some in _chunks(rows):
            at, n = some[f"{key}_at"], some[f"{key}_n"]
            owner, entry = np.repeat(np.arange(len(some)), n), entries[entries_of(at, n)]
            order = np.lexsort((entry, owner))
            owner, entry = owner[order], entry[order]
            twice = np.flatnonzero((owner[1:] == owner[:-1]) & (entry[1:] == entry[:-1]))
            if len(twice):
                reasons.append(f"row {first + owner[twice[0]]}: its {key} list names {entry[twice[0]]} twice")
                break
    return reasons


def _chunks(rows: Records) -> Iterator[tuple[int, Records]]:
    """The rows in parts of CHUNK, each with the number of its first: what is worked out of them takes no more memory
    than a part's, however long the program is."""
    for first in range(0, len(rows), CHUNK):
        yield first, rows[first : first + CHUNK]


def _check_figures(program: Program) -> list[str]:
    """Nothing overflows: the sum of all durations, hence the makespan, stays under 2^50 ticks."""
    reasons: list[str] = []
    bad, times, total = np.zeros(len(program.rows), bool), _times(program), 0.0
    for first, rows in _chunks(program.rows):
        part = replace(program, rows=rows)
        scaled, stretched, hold, row = _holds(part)
        bad[first + row[(scaled > 2.0**62) | (stretched > 2.0**62)]] = True
        total += float((times[first : first + len(rows)] * _lasts(part, hold, row)).sum())
    _report(reasons, "row", bad, "a burst of {} bytes overflows 64 bits on its route", program.rows["burst"])
    if total > LIMIT:
        reasons.append(f"all ops one after another may last {total:.3g} ticks, more than 2^50")
    return reasons


Floats = npt.NDArray[np.float64]


def _times(program: Program) -> Ints:
    """How many ops each row stands for."""
    times = np.zeros(len(program.rows), np.int64)
    for first, n, count in program.blocks.tolist():
        times[first : first + n] += count
    return times


def _lasts(program: Program, hold: Floats, row: Ints) -> Floats:
    """Most ticks of each row, with every server in turn: somebody is served at any time, but not all at once."""
    rows = program.rows
    each = np.zeros(len(rows))
    np.add.at(each, row, hold)
    return np.asarray(rows["setup"] + rows["run"] + bursts_of(rows) * each, dtype=np.float64)


def _holds(program: Program) -> tuple[Floats, Floats, Floats, Ints]:
    """Of every entry of a route: two products of a hold, most ticks of it, and whose row it is."""
    rows = program.rows
    row = np.repeat(np.arange(len(rows)), rows["route_n"])
    at = program.routes[entries_of(rows["route_at"], rows["route_n"])]
    server = program.servers[at]
    tables = [program.stretch[s["stretch_at"] : s["stretch_at"] + s["stretch_n"]] for s in program.servers]
    most = np.array([table.max() for table in tables], dtype=float)[at]
    # Floats: a bound, far from the 2^53 where they lose integers or the 2^63 where integers would wrap.
    scaled = np.minimum(rows["burst"], rows["bytes"])[row].astype(float) * server["rate_ticks"]
    stretched = (scaled / server["rate_bytes"] + 1) * most
    return scaled, stretched, stretched / 256 + server["switch"] + 1, row


def largest(program: Program) -> tuple[str, str]:
    """The unit whose ops make most of what cannot be counted of a program, and what makes it: `energy_fj`, `macs`,
    `bytes`, `setup`, `run`, or the name of a server."""
    rows = program.rows
    for key in ("energy_fj", "macs", "bytes"):
        if len(rows) and abs(rows[key]).max() > LIMIT:
            return program.unit_names[rows["unit"][abs(rows[key]).argmax()]], key
    hold, row = _holds(program)[2:]
    made = {key: _times(program) * rows[key].astype(float) for key in ("setup", "run")}
    op, key = max(((int(of.argmax()), key) for key, of in made.items()), key=lambda found: made[found[1]][found[0]])
    over = hold * (_times(program) * bursts_of(rows))[row]
    if len(over) and over.max() > made[key][op]:
        server = program.routes[entries_of(rows["route_at"], rows["route_n"])][over.argmax()]
        return program.unit_names[rows["unit"][row[over.argmax()]]], program.server_names[server]
    return program.unit_names[rows["unit"][op]], key


def entries_of(at: Ints, n: Ints) -> Ints:
    """Indices at[0] .. at[0]+n[0]-1, at[1] .. and so on: all entries of the slices, in row order."""
    starts = np.cumsum(n) - n
    return np.repeat(at - starts, n) + np.arange(int(n.sum()), dtype=np.int64)


def deadlock(program: Program, issue: Ints, end: Ints, asked: Ints) -> Deadlock:
    """The error for a program that stands still.

    issue, end [n_ops]: ticks, -1 where it has not come to that. asked [n_units]: when the unit's head was first
    offered, -1 if it is not. Replays the last round of rule 2, to name what the first unended op waits for.
    """
    ops = np.arange(len(end), dtype=np.int64)
    rows = program.rows[row_of(program, ops)]
    free = program.credits["capacity"].copy()
    for entries, key, sign, done in ((program.takes, "take", -1, issue >= 0), (program.gives, "give", 1, end >= 0)):
        at = entries_of(rows[f"{key}_at"][done], rows[f"{key}_n"][done])
        np.add.at(free, entries["credit"][at], sign * entries["amount"][at])
    first = int(np.flatnonzero(end < 0)[0])
    unissued = np.flatnonzero(issue < 0)
    units, where = np.unique(rows["unit"][unissued], return_index=True)
    heads = [(int(program.units["priority"][u]), int(asked[u]), int(u), int(unissued[i]))
             for u, i in zip(units, where, strict=True) if asked[u] >= 0]  # fmt: skip
    blocker: dict[int, int] = {}
    takes = program.takes[:0]
    for *_, op in sorted(heads):
        takes = program.takes[rows["take_at"][op] : rows["take_at"][op] + rows["take_n"][op]]
        if op == first:
            break
        for credit in takes["credit"].tolist():
            blocker.setdefault(credit, op)
    why = _why(program, takes, free, blocker)
    n_ended = int((end >= 0).sum())
    return Deadlock(f"{program.name}: {op_text(program, first)} waits for {why}; {n_ended} of {len(end)} ops ended")


def _why(program: Program, takes: Records, free: Ints, blocker: dict[int, int]) -> str:
    """What keeps a head with these takes from issuing, given free credits and who blocks them."""
    for credit, amount in takes.tolist():
        name, capacity = program.credit_names[credit], program.credits["capacity"][credit]
        if free[credit] < amount:
            return f"{amount} of credit {name}, of which {free[credit]} of {capacity} are free"
        if credit in blocker:
            return f"credit {name} behind {op_text(program, blocker[credit])}, which asked for it earlier"
    raise AssertionError("a head whose credits are free does not stand still")  # an engine that broke the rules


# ---------------------------------------------------------------------------------------------------------------------
# Building


class _Growing:
    """Rows of so many integers, put at the end of an array that has room for more: what is not used of it costs
    nothing, as its pages are not touched."""

    def __init__(self, *columns: int) -> None:
        self._array, self._n = np.zeros((0, *columns), np.int64), 0

    def __len__(self) -> int:
        return self._n

    def room(self, n: int) -> Ints:
        """Zeros [n, columns] behind what there is, to be written and then to be kept with `keep`."""
        if self._n + n > len(self._array):
            larger = np.zeros((max(self._n + n, 2 * self._n), *self._array.shape[1:]), np.int64)
            larger[: self._n] = self._array[: self._n]
            self._array = larger
        return self._array[self._n : self._n + n]

    def keep(self, n: int) -> None:
        """Keep the first n of what was given room."""
        self._n += n

    def extend(self, values: Sequence[object]) -> None:
        if len(values):
            whole = np.array(values, dtype=np.int64)  # OverflowError beyond 64 bits
            self.room(len(whole))[:] = whole
            self.keep(len(whole))

    @property
    def array(self) -> Ints:
        return self._array[: self._n]


class _Rows:
    """Rows, their lists and blocks while a program is being put together; equal lists are stored once. rows: those that
    are not among `packed` yet."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.packed = _Growing(len(ROW.names or ()))
        self.blocks: list[tuple[int, int, int]] = []
        self.deps = _Growing()
        self.entries: dict[str, Any] = {"route": [], "dep": self.deps, "take": [], "give": []}
        self.slices: dict[str, dict[tuple[object, ...], int]] = {key: {(): 0} for key in self.entries}

    def slice(self, key: str, values: tuple[object, ...]) -> int:
        """Where `values` stand in the array `key`; put there if they do not yet."""
        known = self.slices[key]
        at = known.get(values)
        if at is None:
            at = known[values] = len(self.entries[key])
            self.entries[key].extend(values)
        return at

    def __len__(self) -> int:
        return len(self.packed) + len(self.rows)

    def pack(self) -> None:
        """Make an array of the rows that are none yet."""
        self.packed.extend(self.rows)
        self.rows = []


class Builder:
    """Writes a Program op by op.

    Units, servers, credits and layers are handles (ints); asking for a name again returns the same handle. `op`
    returns a handle for later deps. About loops:

    - The body of `with b.repeat(n)` is emitted once and runs n times; loops do not nest; n = 0 emits nothing (handles
      from it are satisfied deps), n = 1 is as if the loop were not there.
    - A dep on an op from before the loop is a distance as of the first iteration, so it *slides*: iteration i waits for
      the op i bodies further on. If the loop follows an equally laid out first iteration, iteration i so waits for what
      iteration i - 1 emitted. To wait for a single op from before the loop, put a `sync` op with that dep in front of
      the loop, on the unit that has to wait: units are in-order.
    - After the loop, a handle from inside it means the instance of the last iteration.
    """

    def __init__(self, name: str, tick_hz: int) -> None:
        self._name, self._tick_hz = name, tick_hz
        self._units: dict[str, tuple[int, tuple[int, int]]] = {}
        self._servers: dict[str, tuple[int, tuple[int, int, int, int, tuple[int, ...], int, int]]] = {}
        self._credits: dict[str, tuple[int, tuple[int]]] = {}
        self._layers: dict[str, tuple[int, tuple[()]]] = {}
        self._levels: dict[str, tuple[int, tuple[()]]] = {}
        self._spent: dict[tuple[int, int, int], int] = {}
        self._rows = _Rows()
        self._next = 0  # number of the next op, in the first iteration of an open loop
        self._open = 0  # first row that is in no block yet
        self._loop: int | None = None  # `times` of the open loop
        self._loops: list[tuple[int, int, int]] = []  # of closed loops: first op, end of the first iteration, ops after

    def unit(self, name: str, lanes: int = 1, priority: int = 0) -> int:
        """An in-order unit; smaller priority goes first. ValueError if the name stands with other figures."""
        return _named(self._units, "unit", name, (lanes, priority))

    def server(
        self, name: str, *, rate_bytes: int, rate_ticks: int = 1, ports: int = 1, switch: int = 0,
        stretch: tuple[int, ...] = (256,), tag_shift: int = WHOLE_TAG[0], tag_bits: int = WHOLE_TAG[1],
    ) -> int:  # fmt: skip
        """A shared server: rate_bytes per rate_ticks, `switch` ticks on a new tag, stretch[occupancy] in 1/256. Of a
        tag it looks at tag_bits bits, from bit tag_shift on."""
        figures = (rate_bytes, rate_ticks, ports, switch, tuple(stretch), tag_shift, tag_bits)
        return _named(self._servers, "server", name, figures)

    def credit(self, name: str, capacity: int) -> int:
        """A pool of credits, full at tick 0."""
        return _named(self._credits, "credit", name, (capacity,))

    def layer(self, name: str) -> int:
        """A label for ops."""
        return _named(self._layers, "layer", name, ())

    def op(
        self, unit: int, *, setup: int = 0, run: int = 0, bytes: int = 0, burst: int = 0,
        route: Sequence[int] = (), deps: Sequence[int] = (), take: Sequence[tuple[int, int]] = (),
        give: Sequence[tuple[int, int]] = (), kind: str = "compute", layer: int = -1, macs: int = 0,
        energy_fj: int | Mapping[str, int] = 0, tag: int = -1, payload_bytes: int = -1,
    ) -> int:  # fmt: skip
        """Append an op and return its handle. take, give: (credit, amount) pairs; deps: handles of earlier ops.
        energy_fj: by level, or a sum of which no level is known.

        setup, run: ticks; bytes, burst: bytes, to be moved along the servers of `route`. Raises ValueError for an
        unknown kind and for a dep that is not an earlier op; the rest is checked by `build`.
        """
        if self._loop == 0:
            return -1
        if kind not in KINDS:
            raise ValueError(f"{self._name}: kind {kind!r} is none of {', '.join(KINDS)}")
        here = self._next
        distances = tuple(dict.fromkeys(here - self._number(dep) for dep in deps if dep >= 0))
        if distances and min(distances) < 1:
            raise ValueError(f"{self._name}: op {here} depends on handle {max(deps)}, which is not an earlier op")
        if not isinstance(energy_fj, int):
            for level, amount in energy_fj.items():
                self.spent(unit, layer, level, amount * (self._loop or 1))
            energy_fj = sum(energy_fj.values())
        figures = (unit, setup, run, bytes, burst, tag)
        lists = (tuple(route), distances, tuple(take), tuple(give))
        return self._append(figures, lists, (KINDS.index(kind), layer, macs, energy_fj, payload_bytes))

    def spent(self, unit: int, layer: int, level: str, energy_fj: int) -> None:
        """Say at which level some of the energy of a unit's ops for a layer is spent, those that are spliced in or read
        too; `op` says it of its own."""
        if energy_fj:
            key = unit, layer, _named(self._levels, "level", level, ())
            self._spent[key] = self._spent.get(key, 0) + energy_fj

    def _append(
        self, figures: tuple[int, ...], lists: tuple[tuple[object, ...], ...], labels: tuple[int, ...]
    ) -> int:  # fmt: skip
        packed = self._rows
        route, deps, take, give = lists
        self._rows.rows.append(
            (
                *figures,
                packed.slice("route", route), len(route), packed.slice("dep", deps), len(deps),
                packed.slice("take", take), len(take), packed.slice("give", give), len(give),
                *labels,
            )
        )  # fmt: skip
        self._next += 1
        return self._next - 1

    def pack(self) -> None:
        """Keep the rows so far as an array, in a third of the memory; not inside a loop."""
        with suppress(OverflowError):  # what is beyond 64 bits stays as it is, for `build_for` to name it
            self._rows.pack()

    @property
    def n_ops(self) -> int:
        """Ops so far, loops counted with all their iterations."""
        return self._next

    def handle_of(self, unit: str) -> int:
        """The handle of a unit that there is; KeyError where there is none."""
        return self._units[unit][0]

    def slice_of(self, key: Literal["route", "take", "give"], values: Sequence[object]) -> int:
        """Where a route or a list of amounts stands, for rows to be spliced in."""
        return self._rows.slice(key, tuple(values))

    def room(self, n_rows: int, n_deps: int) -> tuple[Ints, Ints, int]:
        """Zeros [n_rows, fields of a row] and [n_deps], to be written and then to be spliced in; and the number from
        which on dep_at counts there. Not inside a loop."""
        if self._loop is not None:
            raise ValueError(f"{self._name}: rows cannot be spliced into a loop")
        self._rows.pack()
        return self._rows.packed.room(n_rows), self._rows.deps.room(n_deps), len(self._rows.deps)

    def splice(self, n_rows: int, n_deps: int) -> int:
        """Append the first rows and deps of what `room` gave, and return the handle of the first.

        Units, routes (`slice_of`), takes, gives and layers are this builder's; deps are distances, that may reach back
        to ops before.
        """
        self._rows.packed.keep(n_rows)
        self._rows.deps.keep(n_deps)
        self._next += n_rows
        return self._next - n_rows

    def _number(self, handle: int) -> int:
        """The op number that a handle means here: the last instance if it is from a closed loop."""
        i = bisect_right(self._loops, (handle, LIMIT, LIMIT)) - 1
        if i >= 0 and handle < self._loops[i][1]:
            return handle + self._loops[i][2]
        return handle

    @contextmanager
    def repeat(self, times: int) -> Iterator[None]:
        """Run what is emitted inside `times` times; see the class docstring."""
        if self._loop is not None:
            raise ValueError(f"{self._name}: loops do not nest; unroll the inner one")
        if times < 0:
            raise ValueError(f"{self._name}: a loop cannot run {times} times")
        if times > 1:
            self.close_block(1)
        first = self._next
        self._loop = times
        yield
        self._loop = None
        if times > 1 and self._next > first:
            skipped = (times - 1) * (self._next - first)
            self._loops.append((first, self._next, skipped))
            self._next += skipped
            self.close_block(times)

    def close_block(self, times: int) -> None:
        """Make the rows since the last block a block that runs `times` times; nothing if there are none."""
        n_rows = len(self._rows) - self._open
        if n_rows:
            self._rows.blocks.append((self._open, n_rows, times))
            self._open = len(self._rows)

    def read(self, unit: str, kind: str, values: dict[str, str], ints: dict[str, int]) -> None:
        """Append the op of a line of the text form (which knows distances where `op` knows handles)."""
        unknown = set(values) - {*_PLAIN_FIELDS, "route", "deps", "take", "give", "layer"}
        if unknown:
            raise ValueError(f"no field is called {min(unknown)}")
        setup, run, size, burst, tag, *labels = (ints.get(key, plain) for key, plain in _PLAIN_FIELDS.items())
        route = tuple(self._servers[unquote(word)][0] for word in _words(values, "route"))
        deps = tuple(int(word) for word in _words(values, "deps"))
        take, give = (
            tuple((self._credits[unquote(word.rpartition(":")[0])][0], int(word.rpartition(":")[2]))
                  for word in _words(values, key)) for key in ("take", "give")
        )  # fmt: skip
        layer = self._layers[unquote(values["layer"])][0] if "layer" in values else -1
        figures = (self._units[unit][0], setup, run, size, burst, tag)
        self._append(figures, (route, deps, take, give), (KINDS.index(kind), layer, *labels))

    def build_for(self, what: str, keys: Callable[[str, str], str]) -> Program:
        """The program. Raises InputError where the figures of `what`, a workload on a machine, are beyond counting.
        keys: of a unit and of what its ops have too much (see `largest`), the keys of a file that make it."""
        try:
            program = self._put_together()
        except OverflowError:
            at = {name: i for i, name in enumerate(ROW.names or ())}
            most, key, unit = max(
                (row[at[key]], key, row[0]) for row in self._rows.rows for key in ("setup", "run", "bytes", "energy_fj")
            )
            made = keys(tuple(self._units)[unit], key)
            raise InputError(f"{what} cannot be counted: {key} of an op is {most}, more than 2^63: {made}") from None
        reasons = validate(program)
        if reasons:
            made = keys(*largest(program))
            raise InputError(f"{what} cannot be counted: {'; '.join(reasons)}: most of it made by {made}")
        return program

    def build(self) -> Program:
        """The program. Raises ValueError with every reason of `validate`."""
        program = self._put_together()
        reasons = validate(program)
        if reasons:
            raise ValueError(f"{self._name}: not a program:\n  " + "\n  ".join(reasons))
        return program

    def _put_together(self) -> Program:
        """The program, not yet looked at."""
        self.close_block(1)
        stretch: list[int] = []
        tables: dict[tuple[int, ...], int] = {}
        servers = []
        for _, (*figures, table, tag_shift, tag_bits) in self._servers.values():
            if table not in tables:
                tables[table] = len(stretch)
                stretch.extend(table)
            servers.append((*figures, tables[table], len(table), tag_shift, tag_bits))
        packed = self._rows
        packed.pack()
        return Program(
            self._name, self._tick_hz,
            tuple(self._units), tuple(self._servers), tuple(self._credits), tuple(self._layers),
            units=_records(UNIT, [figures for _, figures in self._units.values()]),
            servers=_records(SERVER, servers),
            credits=_records(CREDIT, [figures for _, figures in self._credits.values()]),
            stretch=np.array(stretch, dtype=np.int64),
            rows=packed.packed.array.reshape(-1).view(ROW),
            routes=np.array(packed.entries["route"], dtype=np.int64),
            deps=packed.deps.array,
            takes=np.array(packed.entries["take"], dtype=AMOUNT),
            gives=np.array(packed.entries["give"], dtype=AMOUNT),
            blocks=_records(BLOCK, packed.blocks), levels=tuple(self._levels),
            spent=_records(SPENT, [(*key, energy_fj) for key, energy_fj in self._spent.items()]),
        )  # fmt: skip


def _named(known: dict[str, tuple[int, Any]], noun: str, name: str, figures: Any) -> int:
    """The handle of `name`, new or known with the same figures."""
    handle, old = known.setdefault(name, (len(known), figures))
    if old != figures:
        raise ValueError(f"{noun} {name} stands with {old}, asked for again with {figures}")
    return handle


# ---------------------------------------------------------------------------------------------------------------------
# Text


def _words(values: dict[str, str], key: str) -> list[str]:
    return values[key].split(",") if key in values else []


def digest(program: Program) -> str:
    """SHA-256 (hex) over names and contents: equal for programs that an engine or a report cannot tell apart, wherever
    their lists and tables are stored."""
    sha = hashlib.sha256()
    names = (program.unit_names, program.server_names, program.credit_names, program.layers, program.levels)
    tables = [program.stretch[s["stretch_at"] : s["stretch_at"] + s["stretch_n"]].tolist() for s in program.servers]
    sha.update(repr((program.name, program.tick_hz, *names, tables)).encode())

    def add(array: npt.NDArray[Any]) -> None:
        sha.update(len(array).to_bytes(8, "little"))
        for first in range(0, len(array), CHUNK):
            sha.update(np.ascontiguousarray(array[first : first + CHUNK]).tobytes())

    for records in (program.units, program.servers, program.credits, program.blocks, program.spent, program.rows):
        for key in records.dtype.names or ():
            if not key.endswith("_at"):
                add(records[key])
    for key, entries in (
        ("route", program.routes), ("dep", program.deps), ("take", program.takes), ("give", program.gives)
    ):  # fmt: skip
        sha.update(int(program.rows[f"{key}_n"].sum()).to_bytes(8, "little"))
        for _, rows in _chunks(program.rows):
            sha.update(entries[entries_of(rows[f"{key}_at"], rows[f"{key}_n"])].tobytes())
    return sha.hexdigest()


# Row fields that a line shows only where they differ from these; the rest of a row is lists, unit, kind and layer.
_PLAIN_FIELDS = {
    "setup": 0, "run": 0, "bytes": 0, "burst": 0, "tag": -1, "macs": 0, "energy_fj": 0, "payload_bytes": -1
}  # fmt: skip


def to_text(program: Program) -> str:
    """The program as text, one line a noun, block or op: for reading, golden files and review diffs.

    Names are percent-encoded where they hold other than letters, digits and . _ - / [ ]. `deps` are distances back.
    """
    lines = [f"program {_quote(program.name)} tick_hz={program.tick_hz}"]
    for name, unit in zip(program.unit_names, program.units, strict=True):
        lines.append(f"unit {_quote(name)} lanes={unit['lanes']} priority={unit['priority']}")
    for name, s in zip(program.server_names, program.servers, strict=True):
        table = program.stretch[s["stretch_at"] : s["stretch_at"] + s["stretch_n"]]
        rate = f"rate={s['rate_bytes']}/{s['rate_ticks']}"
        whole = (s["tag_shift"], s["tag_bits"]) == WHOLE_TAG
        view = "" if whole else f" tag_shift={s['tag_shift']} tag_bits={s['tag_bits']}"
        figures = f"{rate} ports={s['ports']} switch={s['switch']} stretch={_join(table)}{view}"
        lines.append(f"server {_quote(name)} {figures}")
    for name, credit in zip(program.credit_names, program.credits, strict=True):
        lines.append(f"credit {_quote(name)} capacity={credit['capacity']}")
    lines += [f"layer {_quote(name)}" for name in program.layers]
    for unit, layer, level, energy_fj in program.spent.tolist():
        of = f" layer={_quote(program.layers[layer])}" if layer >= 0 else ""
        where = f"level {_quote(program.levels[level])} unit={_quote(program.unit_names[unit])}"
        lines.append(f"{where}{of} energy_fj={energy_fj}")
    for first, n_rows, times in program.blocks.tolist():
        lines.append(f"block x{times}")
        lines += [_row_text(program, row) for row in program.rows[first : first + n_rows]]
    return "\n".join(lines) + "\n"


def _quote(name: str) -> str:
    return quote(name, safe="._-/[]")


def _join(values: Ints) -> str:
    return ",".join(str(value) for value in values.tolist())


def _row_text(program: Program, row: np.void) -> str:
    words = [f"  {_quote(program.unit_names[row['unit']])} {KINDS[row['kind']]}"]
    words += [f"{key}={row[key]}" for key, plain in _PLAIN_FIELDS.items() if row[key] != plain]
    route = program.routes[row["route_at"] : row["route_at"] + row["route_n"]]
    if len(route):
        words.append("route=" + ",".join(_quote(program.server_names[server]) for server in route))
    if row["dep_n"]:
        words.append("deps=" + _join(program.deps[row["dep_at"] : row["dep_at"] + row["dep_n"]]))
    for key, amounts in (("take", program.takes), ("give", program.gives)):
        pairs = amounts[row[f"{key}_at"] : row[f"{key}_at"] + row[f"{key}_n"]]
        if len(pairs):
            words.append(f"{key}=" + ",".join(f"{_quote(program.credit_names[c])}:{n}" for c, n in pairs.tolist()))
    if row["layer"] >= 0:
        words.append(f"layer={_quote(program.layers[row['layer']])}")
    return " ".join(words)


def from_text(text: str) -> Program:
    """The program that `to_text` wrote; raises InputError with the line that cannot be read."""
    reader = _Reader()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        try:
            if words:
                reader.line(words, indented=line.startswith(" "))
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            reason = f"program text, line {number}: cannot read {' '.join(words)!r}: {error}"
            raise InputError(reason) from None
    if reader.builder is None:
        raise InputError("program text: empty, expected a line `program NAME tick_hz=N`")
    try:
        reader.close()
        return reader.builder.build()
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from None


class _Reader:
    """Reads the lines of a program's text into a Builder, block by block."""

    def __init__(self) -> None:
        self.builder: Builder | None = None
        self.times = 0  # of the open block; 0 before the first one

    def line(self, words: list[str], indented: bool) -> None:
        noun, name, values = words[0], unquote(words[1]), dict(word.split("=", 1) for word in words[2:])
        ints = {key: int(value) for key, value in values.items() if value.lstrip("-").isdigit()}
        b = self.builder
        if b is None:
            if noun != "program":
                raise ValueError("expected a line `program NAME tick_hz=N` first")
            self.builder = Builder(name, ints["tick_hz"])
        elif indented and self.times:
            b.read(unquote(noun), name, values, ints)
        elif noun == "block":
            self.close()
            self.times = int(name.removeprefix("x"))
        elif noun == "unit":
            b.unit(name, ints["lanes"], ints["priority"])
        elif noun == "server":
            rate_bytes, rate_ticks = map(int, values["rate"].split("/"))
            stretch = tuple(map(int, values["stretch"].split(",")))
            b.server(name, rate_bytes=rate_bytes, rate_ticks=rate_ticks, ports=ints["ports"], switch=ints["switch"],
                     stretch=stretch, tag_shift=ints.get("tag_shift", WHOLE_TAG[0]),
                     tag_bits=ints.get("tag_bits", WHOLE_TAG[1]))  # fmt: skip
        elif noun == "credit":
            b.credit(name, ints["capacity"])
        elif noun == "layer":
            b.layer(name)
        elif noun == "level":
            layer = b.layer(unquote(values["layer"])) if "layer" in values else -1
            b.spent(b.handle_of(unquote(values["unit"])), layer, name, ints["energy_fj"])
        else:
            raise ValueError("expected unit, server, credit, layer, level or block, or an indented op in a block")

    def close(self) -> None:
        """End the open block."""
        if self.builder is not None and self.times:
            self.builder.close_block(self.times)

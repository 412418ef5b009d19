"""Workload + Mapping + SoC -> Program: order, transfers, buffers.

Units are the SoC's cores and DMAs; servers are its links. In the serial runtime each op waits for the one before it, as
the deployed stack waits for every transfer and every job. In the overlapped runtime transfers are double-buffered:
a load takes one of two input slots of each core that reads it, a job gives it back and takes one of two output
slots, which its store gives back; weights take their bytes of the weight memory, so the next layer's may come in early.
A layer's first load waits for the stores of the layer before; those of a parallel group all wait for the same ones.
Every pool of credits is taken by one unit only, in
program order, and the program runs if executed in order: so it cannot deadlock.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cosoc.sim import exact
from cosoc.sim.cores.systolic import Systolic
from cosoc.sim.estimate import FEED_PERIODS
from cosoc.sim.lower.fusion import last_row_under, schedule
from cosoc.sim.lower.tile_steps import Ranges, Step, present, steps
from cosoc.sim.lower.together import CLOCK
from cosoc.sim.machine.program import Program, within_counting
from cosoc.sim.model.mapping import DIMS, LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.placement import handovers
from cosoc.sim.model.soc import CachedMover, Core, SoC
from cosoc.sim.model.tiles import (
    behind_caches,
    behind_dma,
    c_parts,
    channels_read,
    cut_channels,
    job_form,
    make_tile,
    per_channel,
    whole,
)
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import Machine, cached_cores
from cosoc.sim.movers.dma import SLOTS, DmaEmitter, Transfers
from cosoc.sim.movers.dma_terms import (
    Span,
    Window,
    copies,
)
from cosoc.sim.movers.fused_steps import chain
from cosoc.sim.movers.links import HOST_TIME
from cosoc.sim.movers.named_keys import keys_behind
from cosoc.sim.movers.notes import NONE, Notes
from cosoc.sim.movers.writer import Op, Writer
from cosoc.sim.progress import Report, untold
from cosoc.sim.tiler import Placed, living, placed
from cosoc.sim.work import access_pj, core_cycles, feed_ticks, job_cycles

if TYPE_CHECKING:
    from cosoc.sim.movers.cached import TileEmitter


def lower(workload: Workload, mapping: Mapping, soc: SoC, inferences: int = 1) -> Program:
    """The program that runs `inferences` of the workload, one after the other, under the mapping.

    A mapping silent about parts or tiles is completed first. Raises InputError listing every reason why the machine
    cannot run it.
    """
    return lowered(placed(mapping, workload, soc), inferences)


def lowered(at: Placed, inferences: int = 1, known: KnownSteps | None = None, report: Report = untold) -> Program:
    """The same of a network whose mapping has been checked. known: steps of layers on this SoC. report: is told of
    each layer."""
    return stream(at, inferences, known=known, report=report)[0]


def stream(
    at: Placed, inferences: int = 1, period_cycles: int = 0, known: KnownSteps | None = None,
    report: Report = untold, notes: Notes | None = None,
) -> tuple[Program, tuple[int, ...]]:  # fmt: skip
    """The same, and for each inference the number of its first op. period_cycles: each but the first begins no sooner
    than so many cycles after the one before it was due; 0: as soon as that one has ended. notes: where it is noted what
    each op is for; the program is the same then, without loops."""
    emitter, firsts = _Emitter(at, KnownSteps() if known is None else known, notes), list[int]()
    for number in range(inferences):
        firsts.append(emitter.ops.builder.n_ops)
        if number and period_cycles:
            emitter.release(period_cycles)
        for done, _ in enumerate(emitter.network(), number * len(at.workload.layers)):
            report(done, inferences * len(at.workload.layers), f"{at.workload.name}: layers are lowered")
        if number == 0 and inferences > 1:
            within_counting(inferences * emitter.ops.builder.n_ops, f"{inferences} inferences of {at.workload.name}")
        emitter.ops.builder.pack()
    keys = functools.partial(keys_behind, at.soc)
    return emitter.ops.builder.build_for(f"{at.workload.name} on {at.soc.name}", keys), tuple(firsts)


@dataclass(frozen=True)
class Job:
    """What one job takes, as it is emitted. run: array cycles. feeds: (links, bytes, burst). streamed: bytes that it
    moves beside its array cycles. energy_fj: by level."""

    run: int
    feeds: tuple[tuple[tuple[str, ...], int, int], ...]
    streamed: int
    macs: int
    energy_fj: dict[str, int]


@dataclass
class KnownSteps:
    """What has been walked and counted before on one SoC, so that only layers that change are so anew: the steps of a
    layer under a plan; its jobs by core, format, channels, window, unrolling and input channels; its transfers."""

    steps: dict[tuple[Layer, LayerPlan], tuple[Step, ...]] = field(default_factory=dict)
    jobs: dict[tuple[object, ...], Job] = field(default_factory=dict)
    transfers: Transfers = field(default_factory=dict)

    def of(self, layer: Layer, plan: LayerPlan, soc: SoC) -> tuple[Step, ...]:
        """`steps` of a layer."""
        if (layer, plan) not in self.steps:
            self.steps[layer, plan] = tuple(steps(layer, plan, soc))
        return self.steps[layer, plan]


def _row(layer: Layer, inputs: int = 1) -> Window:
    """One output row of a layer, under which so many input rows lie."""
    return Window(layer.n, Span(1, inputs, 1), Span(layer.ox, layer.ox if layer.hands_on else layer.ix, 1), 1)


def _piece(total: int, n: int, pieces: int, step: int) -> int:
    """Piece n of a total cut into so many multiples of `step`; the last takes what is left."""
    whole = total // pieces // step * step
    return whole if n < pieces - 1 else total - n * whole


# A store that waits: layer, output channels, window, part, the job, its tile in the notes.
_Pending = tuple[Layer, int, Window, int, Op, int]


class _Emitter:
    """Writes one network's ops into a Builder; the only mutable thing of the lowering."""

    def __init__(self, at: Placed, known: KnownSteps, notes: Notes | None = None) -> None:
        self.workload, self.mapping, self.soc, self.homes, self.known = at.workload, at.mapping, at.soc, at.homes, known
        name = f"{at.soc.name}/{at.workload.name}/{at.mapping.name}"
        self.ops, self.notes = Writer(name, at.soc, at.mapping.runtime == "serial", notes), notes
        self.ranges: dict[str, Ranges] = {}  # of the layer that is being written, or of several at once
        self.dma = DmaEmitter(self.ops, at.homes, known.transfers)
        self.arrays = self.array_emitters(cached_cores(at.soc))
        self.written: dict[str, tuple[Op, ...]] = {}  # the ops after which a tensor is in place
        self.barrier: tuple[Op, ...] = ()  # the stores of the layer before
        self.pending: list[_Pending] = []  # stores that wait for the next loads to go
        self.begun_on: set[tuple[str, int]] = set()  # cores that have a job of a layer (its label) in this inference
        self.inferences = 0  # begun
        self.launches: dict[str, Op] = {}  # the last on each core in this inference
        self.configured: tuple[Op, ...] = ()  # launches for which the first of this inference on a core waits
        self.handovers = handovers(living(at.workload, at.mapping, at.soc), at.mapping, at.soc)
        self.since: tuple[Op, ...] | None = None  # what the layers of a parallel group wait for, in place of `barrier`

    # -- notes ---------------------------------------------------------------------------------------------

    def note(
        self, layer: Layer, part: int, size: int, at: Window, c: tuple[int, int] | None = None, job: bool = False,
        operand: int = NONE,
    ) -> None:  # fmt: skip
        """Note that what follows is for the next tile of a layer, on a part. c: first and end of the input channels.
        job: it computes. operand: that is brought, if one alone is; constants count as the one after the inputs."""
        notes = self.notes
        if notes is None:
            return
        form = job_form(layer, self.soc.core_of(self.mapping.layers[layer.name].parts[part]))
        ranges = self.ranges[layer.name]
        where = ranges.of(form, at, part, size, c or (0, channels_read(form)))
        which = notes.tile(part, where, part in ranges.sliced, operand=operand)
        self.noted(which, part, job)

    def note_row(self, layer: Layer, row: int, job: bool = False, operand: int = NONE) -> None:
        """The same of a row of a layer in a fused piece. operand: that is brought, if one alone is."""
        if self.notes is not None:
            form = job_form(layer, self.soc.core_of(self.mapping.layers[layer.name].parts[0]))
            all_of_it = whole(form)
            spans = [s for d in DIMS for s in ((row, row + 1) if d == "oy" else (0, all_of_it.along(d)))]
            self.noted(self.notes.tile(0, spans, per_channel(form), fused=True, operand=operand), 0, job)

    def noted(self, tile: int, part: int, job: bool) -> None:
        notes = self.notes
        assert notes is not None
        key = self.ops.layer, part
        used = (notes.inputs.get(key, NONE), notes.weights.get(key, NONE)) if job else (NONE, NONE)
        notes.now = (tile, *used, self.ops.builder.n_ops if job else NONE)

    # -- jobs ----------------------------------------------------------------------------------------------

    def burst(self, core: Core, links: Sequence[str]) -> int:
        """Bytes of a burst of a core's own traffic."""
        return core.feed_burst(min(self.soc.links[name].bytes_per_period for name in links) * FEED_PERIODS)

    def job(
        self,
        layer: Layer,
        part: Part,
        size: int,
        at: Window,
        unroll: int,
        deps: Sequence[Op | None],
        take: Sequence[tuple[str, int, int]] = (),
        give: Sequence[tuple[str, int, int]] = (),
        c: int = 0,
    ) -> Op:
        """Emit one job: its launch by the host, its reads and writes, its array cycles."""
        name, core = part.core, self.soc.cores[part.core]
        cycles = core.launch_cycles
        if (name, self.ops.layer) not in self.begun_on:
            self.begun_on.add((name, self.ops.layer))
            cycles += core.layer_launch_cycles
        if cycles:  # the next job is configured when the one before it has ended
            launch = cycles * self.ops.ticks
            after = () if name in self.launches else self.configured
            op = self.ops.op(name, "launch", after, moved=launch, burst=launch, links=(HOST_TIME,))
            if self.inferences > 1 and name not in self.launches:
                self.configured = (op,)
            self.launches[name] = op
        one = self.one_job(layer, part, size, at, unroll, c)
        run, feeds, macs, energy = one.run, one.feeds, one.macs, one.energy_fj
        if core.streams:
            links, feed, burst = feeds[0]
            first = self.feed(name, deps, feed, burst, links, take)
            return self.streaming(name, first, run, one.streamed, give, macs, energy)
        for n in range(core.feed_pieces):
            for links, feed, burst in feeds:
                now = _piece(feed, n, core.feed_pieces, burst)
                if now:
                    self.feed(name, deps, now, burst, links, take)
                    deps, take = (), ()
            now = _piece(run, n, core.feed_pieces, 1)
            if now and n < core.feed_pieces - 1:
                self.ops.op(name, "compute", deps, take, run=now)
                deps, take = (), ()
        now = _piece(run, core.feed_pieces - 1, core.feed_pieces, 1)
        return self.ops.op(name, "compute", deps, take, give, run=now, macs=macs, energy_fj=energy)

    def one_job(self, layer: Layer, part: Part, size: int, at: Window, unroll: int, c: int) -> Job:
        """What a job takes; counted once."""
        key = layer, part.core, part.bits, size, at, unroll, c
        if key not in self.known.jobs:
            core = self.soc.core_of(part)
            tile = make_tile(job_form(layer, core), size, at.y.out, at.x.out, unroll, c)
            macs = at.n * tile.k * tile.c * tile.fy * tile.fx * tile.oy * tile.ox
            energy = {
                part.core: round(1000 * at.n * core.energy_pj(tile, exact)),
                self.soc.serves(core): round(1000 * at.n * access_pj(tile, self.soc, core)),
            }
            feeds = [(links, int(feed) * at.n) for links, feed in core.feeds(tile, exact) if feed]
            self.known.jobs[key] = Job(
                int(core_cycles(core, tile, at.n, exact)),
                tuple((links, moved, self.burst(core, links)) for links, moved in feeds),
                int(core.stream_bytes(tile, exact)) * at.n if core.streams else 0,
                macs if tile.op in ("conv", "matmul") else 0,
                energy,
            )
        return self.known.jobs[key]

    def streaming(
        self,
        name: str,
        first: Op,
        run: int,
        streamed: int,
        give: Sequence[tuple[str, int, int]],
        macs: int,
        energy: dict[str, int],
    ) -> Op:
        """Emit what a job does after its first words: array cycles beside the bytes that run ahead of them, piece by
        piece, neither of them further than a piece ahead. Ends with an op of no duration when both have ended."""
        core = self.soc.cores[name]
        piece: tuple[Op, ...] = (first,)
        word = min(self.soc.links[link].bytes_per_period for link in core.feed_links)
        for n in range(core.feed_pieces):
            at_once, last = list[Op](), n == core.feed_pieces - 1
            moved, now = _piece(streamed, n, core.feed_pieces, word), _piece(run, n, core.feed_pieces, 1)
            if moved:
                at_once.append(self.stream(name, piece, moved))
            if now or last:
                work, spent = (macs, energy) if last else (0, {})
                op = self.ops.op(name, "compute", piece, run=now, macs=work, energy_fj=spent, within=True)
                at_once.append(op)
            piece = tuple(at_once) or piece
        return self.ops.op(name, "sync", piece, give=give, within=True)

    def feed(
        self, name: str, after: Sequence[Op | None], moved: int, burst: int, links: Sequence[str],
        take: Sequence[tuple[str, int, int]] = (), within: bool = False,
    ) -> Op:  # fmt: skip
        """Emit bytes that a core moves to or from the memory that it computes from."""
        memories, spent = (self.soc.cores[name].memory,), self.ops.over(links, moved)
        return self.ops.op(
            name, "feed", after, take, moved=moved, burst=burst, links=links, memories=memories, energy_fj=spent,
            within=within,
        )  # fmt: skip

    def stream(self, name: str, after: Sequence[Op], moved: int) -> Op:
        """Emit bytes that a core moves beside its array cycles."""
        core = self.soc.cores[name]
        links = core.feed_links
        return self.feed(name, after, moved, self.burst(core, links), links, within=True)

    # -- layers --------------------------------------------------------------------------------------------

    def network(self) -> Iterator[None]:
        """Emit one inference, a layer a step.

        The host configures its jobs when it has configured all of the inference before, and the first on each core in
        their order: else a core that has nothing left to do would have the host at work for the next inference when a
        job of this one is to be started.
        """
        self.begun_on.clear()
        self.inferences += 1
        self.configured = tuple(self.launches.values())
        self.launches.clear()
        self.written |= dict.fromkeys(self.workload.incoming, self.barrier)
        pieces = {name: piece for piece in self.mapping.pieces for name in piece.layers}
        done: set[int] = set()
        living_names = {layer.name for layer in living(self.workload, self.mapping, self.soc)}
        for layer in (layer for layer in self.workload if layer.name in living_names):
            yield
            piece = pieces.get(layer.name)
            if piece is None or (piece.how == "parallel" and self.ops.serial):
                self.single(layer)
            elif id(piece) not in done:
                done.add(id(piece))
                if piece.how == "parallel":
                    self.together(piece)
                elif behind_caches(self.mapping.layers[layer.name], self.soc):
                    self.stepwise(piece)
                else:
                    self.fused(piece)
        self.flush()

    def release(self, period_cycles: int) -> None:
        """Let the next inference wait until it is due, but for weights that may come in early."""
        self.ops.layer = -1
        due = self.ops.builder.op(
            self.ops.builder.unit(CLOCK), run=period_cycles * self.ops.ticks, kind="sync", layer=self.ops.layer
        )
        self.barrier = (*self.barrier, due)
        if self.ops.serial:
            before = (due,) if self.ops.last is None else (self.ops.last, due)
            self.ops.last = self.ops.builder.op(self.ops.units[self.soc.host], deps=before, kind="sync")

    def flush(self) -> None:
        """Emit the stores that were held back, and let the next layer wait for them."""
        stored = []
        for layer, k, at, part, computed, tile in self.pending:
            if self.notes is not None:
                self.notes.now = (tile, NONE, NONE, computed)
            stored.append(self.store(layer, k, at, part, computed))
        self.pending.clear()
        if self.notes is not None:
            self.notes.now = (NONE, NONE, NONE, NONE)
        if stored:
            self.barrier = tuple(stored)

    def store(self, layer: Layer, k: int, at: Window, part: int, computed: Op) -> Op:
        """Store a job's results; the op after which they are in place."""
        name = self.mapping.layers[layer.name].parts[part].core
        before, self.ops.layer = self.ops.layer, self.ops.builder.layer(layer.name)
        slot = [(f"{name}.out", SLOTS, 1)]
        stored = self.dma.store(layer, self.soc.cores[name].memory, k, at, computed, slot)
        self.ops.layer = before
        return stored

    def hand_over(self, layer: Layer) -> None:
        """Let cores whose tensors the layer reads on another one hand them over, once each."""
        present = {part.core for part in self.mapping.layers[layer.name].parts if part.channels}
        for one in self.handovers[layer.name]:
            if not present.intersection(one.readers):
                continue
            self.flush()
            self.ops.layer = self.ops.builder.layer(one.tensor)
            done = self.ops.op(one.core, "sync", self.barrier, run=self.soc.cores[one.core].handover)
            self.barrier = (*self.barrier, done)

    def array_emitters(self, cached: dict[str, tuple[Systolic, CachedMover]]) -> dict[str, TileEmitter]:
        """Who emits for each array behind a cached mover; those behind the same caches share them."""
        if not cached:
            return {}
        from cosoc.sim.movers.cached import TileEmitter, caches_in  # its kernels take a moment to load
        from cosoc.sim.movers.tile_table import Addresses
        from cosoc.sim.movers.touches import caches_of

        states: dict[tuple[str, str], Any] = {}
        out = {}
        for name, (_, mover) in cached.items():
            machine = Machine.of(self.soc, name)
            state = states.setdefault((mover.l2, mover.llc), caches_of(caches_in(machine)))
            addresses = Addresses.of(self.workload, machine)
            out[name] = TileEmitter(self.ops.builder, self.soc, name, addresses, state, self.ops.serial, self.notes)
        return out

    def single(self, layer: Layer) -> None:
        """Emit a layer by itself: its parts behind caches beside those behind a DMA."""
        plan = self.mapping.layers[layer.name]
        self.hand_over(layer)
        cached = behind_caches(plan, self.soc)
        if not cached:
            self.tiled(layer)
            return
        self.flush()
        before, ends = self.barrier, list[Op]()
        if any(part.channels for part in behind_dma(plan, self.soc).parts):
            self.tiled(layer)
            self.flush()
            ends += self.barrier
        self.barrier = (*ends, *self.cached_parts(layer, before))
        self.wait_for_arrays(layer.name)

    def cached_parts(self, layer: Layer, before: Sequence[Op]) -> list[Op]:
        """Emit a layer's parts behind caches, after these ops; the ops that end them."""
        plan, ends = self.mapping.layers[layer.name], list[Op]()
        for first, part in behind_caches(plan, self.soc):
            assert part.tile is not None
            number = plan.parts.index(part) if self.notes is not None else 0
            ends += self.arrays[part.core].layer(
                layer, part.tile, plan.loops, plan.reuse, self.begun(before), first, part.channels, number
            )
        return ends

    def begun(self, before: Sequence[Op]) -> tuple[Op, ...]:
        """What an array's first op waits for: these, and in the serial runtime whatever was last."""
        return (*before, self.ops.last) if self.ops.serial and self.ops.last is not None else tuple(before)

    def wait_for_arrays(self, layer: str) -> None:
        """In the serial runtime: let what comes next wait for all that arrays have begun."""
        if self.ops.serial:
            label, host = self.ops.builder.layer(layer), self.ops.units[self.soc.host]
            self.ops.last = self.ops.builder.op(host, deps=self.barrier, kind="sync", layer=label)

    def stepwise(self, piece: Piece) -> None:
        """Emit a fused piece behind a cached mover, by the tiles of its last layer."""
        self.flush()
        names = [layer.name for layer in self.workload]
        first, last = names.index(piece.layers[0]), names.index(piece.layers[-1])
        plans = [self.mapping.layers[name] for name in piece.layers]
        ((_, part),) = behind_caches(plans[-1], self.soc)
        stays = [piece.stays(name) for name in piece.layers]
        members = chain(self.workload, first, last)
        tiles = [plan.tile for plan in plans]
        emitter = self.arrays[part.core]
        self.barrier = tuple(emitter.group(members, tiles, piece.keep_rows, stays, self.begun(self.barrier)))
        self.wait_for_arrays(piece.layers[-1])

    def tiled(self, layer: Layer) -> None:
        """Emit a layer, tile by tile."""
        plan = self.mapping.layers[layer.name]
        self.ops.layer = self.ops.builder.layer(layer.name)
        self.begin_notes(layer)
        first, same, previous = True, 0, None
        for step in self.known.of(layer, plan, self.soc):
            layout = (step.load, step.loads, step.jobs, bool(step.weights), step.free_inputs)
            same = same + 1 if layout == previous and not step.weights else 0
            previous = layout
            # A loop's body refers to the tile before it, so the first two of a kind stand outside. Notes know no loops.
            all_plain = self.notes is not None or (self.ops.serial is False and step.count < 3)
            plain = step.count if all_plain else min(step.count, 2 - min(same, 2))
            for _ in range(plain):
                self.step(layer, plan, step, first)
                first = False
            if step.count > plain:
                with self.ops.builder.repeat(step.count - plain):
                    self.step(layer, plan, step, first=False)
            for part in step.free_weights:
                self.dma.free(part, plan.parts[part].core)

    def together(self, piece: Piece) -> None:
        """Emit layers that run at once: tile by tile in the order in which they would start if nothing held them up, so
        that transfers of one do not queue behind all those of another."""
        for name in piece.layers:
            self.hand_over(self.workload[name])
        self.flush()
        self.since, ends = self.barrier, list[Op]()
        turns: list[tuple[int, int, int, Step]] = []
        for i, name in enumerate(piece.layers):
            start, layer, plan = 0, self.workload[name], self.mapping.layers[name]
            ends += self.cached_parts(layer, self.since)
            if not behind_dma(plan, self.soc).parts:
                continue
            self.begin_notes(layer)
            for step in self.known.of(layer, plan, self.soc):
                for n in range(step.count):
                    done = step.free_weights if n == step.count - 1 else ()
                    one = replace(step, count=1, weights=step.weights if n == 0 else (), free_weights=done)
                    turns.append((start, i, len(turns), one))
                    start += max(self.job_ticks(layer, plan.parts[part], size, step.at) for part, size in step.jobs)
        pending: list[list[_Pending]] = [[] for _ in piece.layers]
        begun = set[int]()
        for _, i, _, step in sorted(turns, key=lambda turn: turn[:3]):
            layer = self.workload[piece.layers[i]]
            self.ops.layer, self.pending = self.ops.builder.layer(layer.name), pending[i]
            self.step(layer, self.mapping.layers[layer.name], step, first=i not in begun)
            begun.add(i)
            for part in step.free_weights:
                self.dma.free(part, self.mapping.layers[layer.name].parts[part].core)
        for self.pending in pending:
            self.flush()
            ends += self.barrier
        self.since, self.barrier, self.pending = None, tuple(ends), []

    def job_ticks(self, layer: Layer, part: Part, size: int, at: Window) -> int:
        """Unloaded time of one job."""
        core = self.soc.core_of(part)
        tile = make_tile(job_form(layer, core), size, at.y.out, at.x.out, self.mapping.layers[layer.name].unroll)
        fed = feed_ticks(tile, self.soc, core, exact, at.n)
        return int(core.launch_cycles + fed + job_cycles(core, tile, self.soc, exact, at.n))

    def step(self, layer: Layer, plan: LayerPlan, step: Step, first: bool) -> None:
        """Emit one tile: weights, inputs, jobs, and the stores of the tile before."""
        names = {i: plan.parts[i].core for i, _ in step.jobs}
        before: Sequence[Op] = ()
        weights: dict[int, Op | None] = {}
        if not layer.second:
            weights = self.brought(layer, plan, step)
        if first:
            self.flush()
            before = self.barrier if self.since is None else self.since
        if layer.second:  # made by a layer before, so that it cannot come early
            weights = self.brought(layer, plan, step, before)
        loaded = self.load(layer, plan, names, step, before)
        computed = []
        for i, size in step.jobs:
            name = names[i]
            give = [(f"{name}.in", SLOTS, 1)] * (i in step.free_inputs and self.loads(layer, name))
            take = [(f"{name}.out", SLOTS, 1)] * self.stores(layer, name)
            deps = (weights.get(i), *loaded.get(i, ()), *before)
            op = self.parts(layer, plan, i, size, step, deps, take, give)
            computed.append((i, size, op, NONE if self.notes is None else self.notes.now[0]))
        self.flush()
        for i, size, op, tile in computed:
            self.pending.append((layer, size, step.at, i, op, tile))
        if self.notes is not None:
            self.ranges[layer.name].next += 1
        if self.ops.serial:
            self.flush()

    def begin_notes(self, layer: Layer) -> None:
        """Before the tiles of a layer behind a DMA."""
        if self.notes is not None:
            self.ranges[layer.name] = Ranges(layer, self.mapping.layers[layer.name], self.soc)

    def parts(
        self,
        layer: Layer,
        plan: LayerPlan,
        part: int,
        size: int,
        step: Step,
        deps: Sequence[Op | None],
        take: Sequence[tuple[str, int, int]],
        give: Sequence[tuple[str, int, int]],
    ) -> Op:
        """Emit the jobs of one tile on one core: one, or one for each part of the input channels."""
        mine, cut_c = plan.parts[part], cut_channels(layer, self.soc, plan)
        if not cut_c:
            self.note(layer, part, size, step.at, job=True)
            return self.job(layer, mine, size, step.at, plan.unroll, deps, take, give)
        sizes = [c for c, count in c_parts(job_form(layer, self.soc.core_of(mine)), cut_c) for _ in range(count)]
        op = begin = NONE
        for n, c in enumerate(sizes):
            read = sum(sizes[:n]), sum(sizes[: n + 1])
            self.note(layer, part, size, step.at, read, operand=1 if layer.second else NONE)
            weights = self.weights(layer, plan, part, size, c, step.at.n, deps if layer.second else ())
            self.note(layer, part, size, step.at, read, job=True)
            if self.notes is not None:  # the results of all parts begin with the first
                begin = begin if n else self.notes.now[3]
                self.notes.now = (*self.notes.now[:3], begin)
            first, last = n == 0, n == len(sizes) - 1
            wait = (*deps, weights) if first else (weights,)
            op = self.job(layer, mine, size, step.at, plan.unroll, wait, take if first else (), give if last else (), c)
            self.dma.free(part, mine.core)
        return op

    def brought(
        self, layer: Layer, plan: LayerPlan, step: Step, after: Sequence[Op | None] = ()
    ) -> dict[int, Op | None]:
        """Bring the weights of a step, or what stands in their place: the ops behind which its parts can compute."""
        out = dict[int, Op | None]()
        for i, size in step.weights:
            self.note(layer, i, size, step.at, operand=1 if layer.second else NONE)
            out[i] = self.weights(layer, plan, i, size, 0, step.at.n, after)
        return out

    def weights(
        self, layer: Layer, plan: LayerPlan, part: int, size: int, c: int = 0, n: int = 1,
        after: Sequence[Op | None] = (),
    ) -> Op | None:  # fmt: skip
        """Bring the weights of one tile, or what its n images are multiplied by in their place; the op after which the
        core can compute with them."""
        mine = plan.parts[part]
        op, moved = self.dma.weights(layer, part, mine.core, self.soc.core_of(mine), size, c, n, after)
        return self.rewrite(mine.core, moved, op) if layer.second else op

    def loads(self, layer: Layer, name: str) -> bool:
        """Whether a core has to load the layer's inputs, or constants."""
        memory = self.soc.cores[name].memory
        beside = layer.constants > 0 and self.homes.weights_of(layer) != memory
        return beside or self.homes.inputs(layer) != memory

    def stores(self, layer: Layer, name: str) -> bool:
        """Whether a core has to store the layer's output."""
        return self.homes.output(layer) != self.soc.cores[name].memory

    def load(
        self, layer: Layer, plan: LayerPlan, names: dict[int, str], step: Step, before: Sequence[Op]
    ) -> dict[int, tuple[Op | None, ...]]:
        """Load the inputs of one tile: one copy for all its cores, or each core's channels."""
        home = self.homes.inputs(layer)
        out: dict[int, tuple[Op | None, ...]] = {}
        for copy in copies(layer, self.soc, present(plan, self.soc)):
            parts = [i for i in copy.shares if i in names]
            if not parts or not (parts[0] in step.loads if copy.sliced else step.load):
                continue
            memory, size = self.soc.cores[names[parts[0]]].memory, dict(step.jobs)[parts[0]]
            take = [(f"{names[i]}.in", SLOTS, 1) for i in parts if self.loads(layer, names[i])]
            at = step.at.under(layer, copy.layer)
            self.note(layer, parts[0], size, step.at)
            op, loaded = self.dma.load(copy.layer, memory, size, at, home, before, take)
            if self.notes is not None and op is not None:
                self.notes.inputs |= {(self.ops.layer, i): op for i in parts}
            self.note(layer, parts[0], size, step.at, operand=len(layer.inputs) if layer.constants else NONE)
            more, beside = self.dma.constants(copy.layer, memory, size, at, before, take if op is None else ())
            if self.notes is not None and more is not None:
                self.notes.weights |= {(self.ops.layer, i): more for i in parts}
            out |= {i: (self.rewrite(names[i], loaded, op), self.rewrite(names[i], beside, more)) for i in parts}
        return out

    def rewrite(self, name: str, loaded: int, op: Op | None) -> Op | None:
        """Let a core bring what was just loaded into its own format; the op after which it can compute."""
        core = self.soc.cores[name]
        moved = int(core.rewritten_bytes(loaded, exact)) if op is not None else 0
        if not moved:
            return op
        return self.feed(name, (op,), moved, self.burst(core, core.feed_links), core.feed_links)

    def fused(self, piece: Piece) -> None:
        """Emit a fused piece, row by row."""
        on = {name: self.mapping.layers[name].parts[0] for name in piece.layers}
        layers = [self.workload[name] for name in piece.layers]
        ticks = {la.name: self.job_ticks(la, on[la.name], la.k, _row(la)) for la in layers}
        plan = schedule(self.workload, piece.layers, {name: part.core for name, part in on.items()}, ticks)
        self.flush()
        before = self.barrier
        weights: dict[str, Op | None] = {}
        for name in piece.layers:
            layer, mine = self.workload[name], self.mapping.layers[name]
            self.ops.layer = self.ops.builder.layer(name)
            self.note_row(layer, 0, operand=1 if layer.second else NONE)
            after = before if layer.second else ()
            weights[name] = self.weights(layer, mine, 0, on[name].channels, 0, layer.n, after)
        done: dict[tuple[str, int], Op] = {}
        fetched: dict[tuple[str, str], tuple[int, Op | None]] = {}
        for row in plan.rows:
            layer, mine = self.workload[row.layer], self.mapping.layers[row.layer]
            name = mine.parts[0].core
            self.ops.layer = self.ops.builder.layer(row.layer)
            deps: list[Op | None] = [weights[row.layer], *before] if row.row == 0 else []
            deps += [done[need] for need in row.needs]
            deps += self.outside_rows(layer, name, row.row, set(piece.layers), fetched, before)
            first = before if row.row == 0 else ()
            self.note_row(layer, row.row, operand=len(layer.inputs))
            deps.append(self.dma.constants(layer, self.soc.cores[name].memory, layer.k, _row(layer), first)[0])
            edges = plan.buffer_rows
            take = [(f"{p}>{c}", rows, 1) for (p, c), rows in edges.items() if p == row.layer]
            give = [(f"{p}>{row.layer}", edges[p, row.layer], n) for p, n in row.frees]
            leaves = self.workload.leaves(row.layer) or set(self.workload.readers(row.layer)) - set(piece.layers)
            if leaves and self.stores(layer, name):  # else the row is in place, and no store would give its slot back
                take.append((f"{row.layer}.rows", SLOTS, 1))
            self.note_row(layer, row.row, job=True)
            op = self.job(layer, on[row.layer], layer.k, _row(layer), mine.unroll, deps, take, give)
            done[row.layer, row.row] = op
            tile = NONE if self.notes is None else self.notes.now[0]
            if row.row == layer.oy - 1:
                self.dma.free(0, name)
            if leaves:
                if self.notes is not None:
                    self.notes.now = (tile, NONE, NONE, op)
                self.barrier = (self.store_row(layer, name, op),)

    def outside_rows(
        self,
        layer: Layer,
        core: str,
        row: int,
        members: set[str],
        fetched: dict[tuple[str, str], tuple[int, Op | None]],
        before: Sequence[Op],
    ) -> list[Op | None]:
        """Load the input rows that a row newly needs from tensors made outside the group."""
        ops = []
        memory = self.soc.cores[core].memory
        for tensor in layer.inputs[:1] if layer.second else layer.inputs:
            if tensor in members:
                continue
            have, op = fetched.get((layer.name, tensor), (0, None))
            need = (row if layer.hands_on else last_row_under(layer, row)) + 1
            if need > have:
                home, alone = self.homes.tensors[tensor], _reading(layer, tensor, self.workload)
                self.note_row(layer, row, operand=layer.inputs.index(tensor))
                op, _ = self.dma.load(
                    alone, memory, alone.k, _row(layer, need - have), home, before if have == 0 else ()
                )
                fetched[layer.name, tensor] = (need, op)
            ops.append(op)
        return ops

    def store_row(self, layer: Layer, core: str, computed: Op) -> Op:
        """Store one output row of a layer that leaves its group."""
        slot = [(f"{layer.name}.rows", SLOTS, 1)]
        return self.dma.store(layer, self.soc.cores[core].memory, layer.k, _row(layer), computed, slot)


def _reading(layer: Layer, tensor: str, workload: Workload) -> Layer:
    """The layer as if it read one of its tensors alone: of a concatenation, that one's channels."""
    if layer.op == "concat":
        channels = workload.sizes[tensor] // (layer.n * layer.iy * layer.ix)
        return replace(layer, inputs=(tensor,), c=channels, k=channels)
    return replace(layer, inputs=(tensor,)) if layer.op in ("add", "eltwise") else layer


__all__ = ["Job", "KnownSteps", "lower", "lowered", "stream"]

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cosoc.sim import exact
from cosoc.sim.estimate import FEED_PERIODS
from cosoc.sim.gemmini.nests import array_of
from cosoc.sim.lower.fusion import last_row_under, schedule
from cosoc.sim.machine.program import Builder, Program
from cosoc.sim.model.mapping import Group, LayerMapping, Mapping
from cosoc.sim.model.placement import Homes
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.tiler import checked, homes_of, living, weight_room
from cosoc.sim.work import (
    Span,
    Transfer,
    c_parts,
    copies,
    feed_ticks,
    form,
    input_transfer,
    k_tiles,
    make_tile,
    output_transfer,
    spans_x,
    spans_y,
    weight_transfer_of,
)

Op = int  # a Builder handle
HOST_TIME = "host_time"  # the server whose bytes are the host's cycles

SLOTS = 2  # tiles of inputs, and of outputs, that a core has room for in the overlapped runtime


def lower(workload: Workload, mapping: Mapping, soc: SoC, inferences: int = 1) -> Program:
    """The program that runs `inferences` of the workload, one after the other, under the mapping.

    A mapping silent about shares or tiles is completed first. Raises InputError listing every reason why the machine
    cannot run it.
    """
    mapping = checked(mapping, workload, soc)
    if array_of(soc) is not None:
        from cosoc.sim.gemmini.fused import lower_network  # its kernels take a moment to load

        return lower_network(workload, mapping, soc, inferences)
    emitter = _Emitter(workload, mapping, soc, homes_of(workload, mapping, soc))
    for _ in range(inferences):
        emitter.network()
    return emitter.builder.build_for(f"{workload.name} on {soc.name}")


@dataclass(frozen=True)
class _Step:
    """One tile of a layer on its cores. weights: (share, size) to bring in first. load: whether inputs are loaded for
    it that the channels after these read too. jobs: (share, size). free_inputs, free_weights: shares whose buffers are
    free afterwards."""

    y: Span
    x: Span
    load: bool
    jobs: tuple[tuple[int, int], ...]
    weights: tuple[tuple[int, int], ...] = ()
    free_inputs: tuple[int, ...] = ()
    free_weights: tuple[int, ...] = ()
    count: int = 1


def steps(layer: Layer, mapping: LayerMapping, soc: SoC) -> Iterator[_Step]:
    """The tiles of a layer in the order in which they run; `count` equal ones in a row are one step."""
    read = copies(layer, soc, _present(mapping))
    sliced = {i for copy in read if copy.sliced for i in copy.shares}
    tiling = mapping.tiling
    assert tiling is not None
    ys, xs = spans_y(layer, tiling.oy), spans_x(layer, tiling.ox)
    sizes = [
        [int(size) for size, count in k_tiles(share.k, kt, layer.k, exact) for _ in range(int(count)) if size > 0]
        for share, kt in zip(mapping.shares, tiling.k, strict=True)
    ]
    n_k = max(len(s) for s in sizes)
    if len(xs) == 1 and xs[0].count == 1:
        cut = [(y, xs[0]) for y in ys]
    else:
        cut = [(replace(y, count=1), x) for y in ys for _ in range(y.count) for x in xs]
    counts = [y.count * x.count for y, x in cut]
    tiles = sum(counts)
    if tiling.order == "weights":
        for j in range(n_k):
            jobs = tuple((i, s[j]) for i, s in enumerate(sizes) if j < len(s))
            for n, ((y, x), count) in enumerate(zip(cut, counts, strict=True)):
                load = j == 0 or tiles > 1
                free = tuple(i for i, _ in jobs if tiles > 1 or i in sliced or j == len(sizes[i]) - 1)
                last = n == len(cut) - 1
                shares = tuple(i for i, _ in jobs)
                if n == 0 and count > 1 and not tiling.c:
                    yield _Step(y, x, load, jobs, jobs, free, ())
                    yield _Step(y, x, load, jobs, (), free, shares if last else (), count - 1)
                elif tiling.c:  # every job brings its weights itself, part by part
                    yield _Step(y, x, load, jobs, (), free, (), count)
                else:
                    yield _Step(y, x, load, jobs, jobs if n == 0 else (), free, shares if last else (), count)
        return
    for n, (y, x) in enumerate([c for c, count in zip(cut, counts, strict=True) for _ in range(count)]):
        for j in range(n_k):
            jobs = tuple((i, s[j]) for i, s in enumerate(sizes) if j < len(s))
            fresh = tuple((i, size) for i, size in jobs if not tiling.c and (n == 0 or len(sizes[i]) > 1))
            done = tuple(i for i, _ in jobs if not tiling.c and (len(sizes[i]) > 1 or n == tiles - 1))
            last_use = tuple(i for i, _ in jobs if i in sliced or j == len(sizes[i]) - 1)
            yield _Step(y, x, j == 0, jobs, fresh, last_use, done)


def _present(mapping: LayerMapping) -> list[tuple[int, str]]:
    """Shares with channels: (number, core)."""
    return [(i, share.core) for i, share in enumerate(mapping.shares) if share.k]


def _piece(total: int, n: int, pieces: int, step: int) -> int:
    """Piece n of a total cut into so many multiples of `step`; the last takes what is left."""
    whole = total // pieces // step * step
    return whole if n < pieces - 1 else total - n * whole


class _Emitter:
    """Writes one network's ops into a Builder; the only mutable thing of the lowering."""

    def __init__(self, workload: Workload, mapping: Mapping, soc: SoC, homes: Homes) -> None:
        self.workload, self.mapping, self.soc, self.homes = workload, mapping, soc, homes
        self.serial = mapping.runtime == "serial"
        self.builder = Builder(f"{soc.name}/{workload.name}/{mapping.name}", soc.tick_hz)
        self.units = {name: self.builder.unit(name) for name in soc.cores}
        self.units |= {n: self.builder.unit(n, lanes=d.lanes, priority=d.priority) for n, d in soc.dmas.items()}
        self.servers = {
            name: self.builder.server(
                name,
                rate_bytes=link.bytes_per_period,
                rate_ticks=link.period_cycles,
                ports=link.ports,
                switch=link.switch_cycles,
                stretch=(256, *(round(256 * factor) for factor in link.stretch or (1.0,))),
            )
            for name, link in soc.links.items()
        }
        # The host configures one job at a time, whichever asks first: its time is a server of one cycle a cycle.
        self.servers[HOST_TIME] = self.builder.server(HOST_TIME, rate_bytes=1)
        self.layer = -1
        self.last: Op | None = None  # the op before, for the serial runtime
        self.written: dict[str, tuple[Op, ...]] = {}  # the ops after which a tensor is in place
        self.barrier: tuple[Op, ...] = ()  # the stores of the layer before
        self.pending: list[tuple[Layer, int, Span, Span, int, Op]] = []  # stores that wait for the next loads to go
        self.held: dict[tuple[int, int], int] = {}  # bytes of weight memory in use, by layer and share
        self.since: tuple[Op, ...] | None = None  # what the layers of a parallel group wait for, in place of `barrier`

    # -- ops -----------------------------------------------------------------------------------------------

    def op(
        self,
        unit: str,
        kind: str,
        deps: Sequence[Op | None] = (),
        take: Sequence[tuple[str, int, int]] = (),
        give: Sequence[tuple[str, int, int]] = (),
        *,
        setup: int = 0,
        run: int = 0,
        moved: int = 0,
        burst: int = 0,
        links: Sequence[str] = (),
        macs: int = 0,
        energy_fj: int = 0,
    ) -> Op:
        """Emit an op. take, give: (pool, its capacity, amount); only the overlapped runtime has them."""
        amounts = [[(self.builder.credit(n, cap), a) for n, cap, a in side if a] for side in (take, give)]
        if self.serial:
            deps, amounts = (self.last,), [[], []]
        op = self.builder.op(
            self.units[unit],
            setup=setup,
            run=run,
            bytes=moved,
            burst=burst,
            route=tuple(self.servers[n] for n in links),
            deps=tuple(dict.fromkeys(d for d in deps if d is not None)),
            take=tuple(amounts[0]),
            give=tuple(amounts[1]),
            kind=kind,
            layer=self.layer,
            macs=macs,
            energy_fj=energy_fj,
        )
        self.last = op
        return op

    def move(
        self,
        source: str,
        target: str,
        moved: Transfer,
        kind: str,
        deps: Sequence[Op | None] = (),
        take: Sequence[tuple[str, int, int]] = (),
        give: Sequence[tuple[str, int, int]] = (),
    ) -> Op | None:
        """Emit a DMA transfer; nothing if there is nothing to move."""
        if source == target or not moved.bytes:
            return None
        route = self.soc.route(source, target)
        dma = self.soc.dmas[route.dma]
        return self.op(
            route.dma,
            kind,
            deps,
            take,
            give,
            setup=int(moved.setup_ticks(dma)),
            moved=int(moved.bytes),
            burst=dma.burst_bytes,
            links=route.links,
            energy_fj=self.links_fj(route.links, int(moved.bytes)),
        )

    def links_fj(self, links: Sequence[str], moved: int) -> int:
        """Energy of moving so many bytes over all of the links, fJ."""
        return round(1000 * moved * sum(self.soc.links[name].energy_pj_per_byte for name in links))

    def burst(self, links: Sequence[str]) -> int:
        """Bytes of a burst of a core's own traffic."""
        return min(self.soc.links[name].bytes_per_period for name in links) * FEED_PERIODS

    def bring_weights(self, layer: Layer, share: int, core: Core, size: int, c: int = 0) -> Op | None:
        """Bring `size` channels' weights into a core's weight memory, from the backing memory if they live there."""
        moved = weight_transfer_of(layer, self.soc, core, size, exact, c, self.homes)
        if core.weight_memory is None or not moved.bytes:
            return None
        main, fetched, stream = self.soc.main_memory, None, []
        if not self.homes.weights_in_main and self.soc.backing_memory is not None:
            stream = [(f"{main}.stream", self.homes.stream_bytes, int(moved.bytes))]
            fetched = self.move(self.soc.backing_memory, main, moved, "weights", take=stream)
        capacity = weight_room(self.soc, core.weight_memory, self.homes)
        self.held[self.layer, share] = int(moved.bytes)
        room = [(core.weight_memory, capacity, int(moved.bytes))]
        return self.move(main, core.weight_memory, moved, "weights", (fetched,), take=room, give=stream)

    def free_weights(self, share: int, name: str, core: Core) -> None:
        """Give a share's weight memory back once its last job has ended: an op of no duration behind it."""
        held = self.held.pop((self.layer, share), 0)
        if held and core.weight_memory is not None and not self.serial:
            capacity = weight_room(self.soc, core.weight_memory, self.homes)
            self.op(name, "sync", give=[(core.weight_memory, capacity, held)])

    def job(
        self,
        layer: Layer,
        name: str,
        size: int,
        rows: int,
        cols: int,
        ox_unroll: int,
        deps: Sequence[Op | None],
        take: Sequence[tuple[str, int, int]] = (),
        give: Sequence[tuple[str, int, int]] = (),
        c: int = 0,
    ) -> Op:
        """Emit one job: its launch by the host, its reads and writes, its array cycles."""
        core = self.soc.cores[name]
        tile = make_tile(form(layer, core), size, rows, cols, ox_unroll, c)
        if core.launch_cycles:  # the next job is configured when the one before it has ended
            self.op(name, "launch", moved=core.launch_cycles, burst=core.launch_cycles, links=(HOST_TIME,))
        macs = tile.k * tile.c * tile.fy * tile.fx * tile.oy * tile.ox if tile.op in ("conv", "matmul") else 0
        energy = round(1000 * core.energy_pj(tile, exact))
        run = int(core.cycles(tile, exact))
        feeds = [(links, int(feed), self.burst(links)) for links, feed in core.feeds(tile, exact) if feed]
        for n in range(core.feed_pieces):
            for links, feed, burst in feeds:
                part = _piece(feed, n, core.feed_pieces, burst)
                if part:
                    spent = self.links_fj(links, part)
                    self.op(name, "feed", deps, take, moved=part, burst=burst, links=links, energy_fj=spent)
                    deps, take = (), ()
            part = _piece(run, n, core.feed_pieces, 1)
            if part and n < core.feed_pieces - 1:
                self.op(name, "compute", deps, take, run=part)
                deps, take = (), ()
        part = _piece(run, core.feed_pieces - 1, core.feed_pieces, 1)
        return self.op(name, "compute", deps, take, give, run=part, macs=macs, energy_fj=energy)

    # -- layers --------------------------------------------------------------------------------------------

    def network(self) -> None:
        """Emit one inference."""
        self.written[INPUT] = self.barrier
        grouped = {name: group for group in self.mapping.groups for name in group.layers}
        done: set[int] = set()
        living_names = {layer.name for layer in living(self.workload, self.mapping, self.soc)}
        for layer in (layer for layer in self.workload if layer.name in living_names):
            group = grouped.get(layer.name)
            if group is None or (group.parallel and self.serial):
                self.tiled(layer)
            elif id(group) not in done:
                done.add(id(group))
                if group.parallel:
                    self.together(group)
                else:
                    self.fused(group)
        self.flush()

    def flush(self) -> None:
        """Emit the stores that were held back, and let the next layer wait for them."""
        stored = []
        for layer, k, y, x, share, computed in self.pending:
            stored.append(self.store(layer, k, y, x, share, computed))
        self.pending.clear()
        if stored:
            self.barrier = tuple(stored)

    def store(self, layer: Layer, k: int, y: Span, x: Span, share: int, computed: Op) -> Op:
        """Store a job's results; the op after which they are in place."""
        name = self.mapping.layers[layer.name].shares[share].core
        memory, home = self.soc.cores[name].memory, self.homes.output(layer)
        moved = output_transfer(layer, self.soc, memory, k, y, x, home, exact)
        before, self.layer = self.layer, self.builder.layer(layer.name)
        out = self.move(memory, home, moved, "store", (computed,), give=[(f"{name}.out", SLOTS, 1)])
        self.layer = before
        return out or computed

    def tiled(self, layer: Layer) -> None:
        """Emit a layer, tile by tile."""
        mapping = self.mapping.layers[layer.name]
        self.layer = self.builder.layer(layer.name)
        first, same, previous = True, 0, None
        for step in steps(layer, mapping, self.soc):
            layout = (step.load, step.jobs, bool(step.weights), step.free_inputs)
            same = same + 1 if layout == previous and not step.weights else 0
            previous = layout
            # A loop's body refers to the tile before it, so the first two of a kind stand outside.
            plain = step.count if self.serial is False and step.count < 3 else min(step.count, 2 - min(same, 2))
            for _ in range(plain):
                self.step(layer, mapping, step, first)
                first = False
            if step.count > plain:
                with self.builder.repeat(step.count - plain):
                    self.step(layer, mapping, step, first=False)
            for share in step.free_weights:
                name = mapping.shares[share].core
                self.free_weights(share, name, self.soc.cores[name])

    def together(self, group: Group) -> None:
        """Emit layers that run at once: tile by tile in the order in which they would start if nothing held them up, so
        that transfers of one do not queue behind all those of another."""
        self.flush()
        self.since, ends = self.barrier, list[Op]()
        turns: list[tuple[int, int, int, _Step]] = []
        for i, name in enumerate(group.layers):
            start, layer, mapping = 0, self.workload[name], self.mapping.layers[name]
            for step in steps(layer, mapping, self.soc):
                for n in range(step.count):
                    done = step.free_weights if n == step.count - 1 else ()
                    one = replace(step, count=1, weights=step.weights if n == 0 else (), free_weights=done)
                    turns.append((start, i, len(turns), one))
                    start += max(
                        self.job_ticks(layer, mapping.shares[share].core, size, step.y.out, step.x.out)
                        for share, size in step.jobs
                    )
        pending: list[list[tuple[Layer, int, Span, Span, int, Op]]] = [[] for _ in group.layers]
        begun = set[int]()
        for _, i, _, step in sorted(turns, key=lambda turn: turn[:3]):
            layer = self.workload[group.layers[i]]
            self.layer, self.pending = self.builder.layer(layer.name), pending[i]
            self.step(layer, self.mapping.layers[layer.name], step, first=i not in begun)
            begun.add(i)
            for share in step.free_weights:
                core = self.mapping.layers[layer.name].shares[share].core
                self.free_weights(share, core, self.soc.cores[core])
        for self.pending in pending:
            self.flush()
            ends += self.barrier
        self.since, self.barrier, self.pending = None, tuple(ends), []

    def job_ticks(self, layer: Layer, core: str, size: int, rows: int, cols: int) -> int:
        """Unloaded time of one job."""
        model = self.soc.cores[core]
        tile = make_tile(form(layer, model), size, rows, cols, self.mapping.layers[layer.name].ox_unroll)
        return int(model.launch_cycles + feed_ticks(tile, self.soc, core, exact) + model.cycles(tile, exact))

    def step(self, layer: Layer, mapping: LayerMapping, step: _Step, first: bool) -> None:
        """Emit one tile: weights, inputs, jobs, and the stores of the tile before."""
        names = {i: mapping.shares[i].core for i, _ in step.jobs}
        weights = {i: self.bring_weights(layer, i, self.soc.cores[names[i]], size) for i, size in step.weights}
        before: Sequence[Op] = ()
        if first:
            self.flush()
            before = self.barrier if self.since is None else self.since
        loaded = self.load(layer, mapping, names, step, before)
        computed = []
        for i, size in step.jobs:
            name = names[i]
            give = [(f"{name}.in", SLOTS, 1)] * (i in step.free_inputs and self.loads(layer, name))
            take = [(f"{name}.out", SLOTS, 1)] * self.stores(layer, name)
            deps = (weights.get(i), *loaded.get(i, ()), *before)
            computed.append((i, size, self.parts(layer, mapping, i, size, step, deps, take, give)))
        self.flush()
        for i, size, op in computed:
            self.pending.append((layer, size, step.y, step.x, i, op))
        if self.serial:
            self.flush()

    def parts(
        self,
        layer: Layer,
        mapping: LayerMapping,
        share: int,
        size: int,
        step: _Step,
        deps: Sequence[Op | None],
        take: Sequence[tuple[str, int, int]],
        give: Sequence[tuple[str, int, int]],
    ) -> Op:
        """Emit the jobs of one tile on one core: one, or one for each part of the input channels."""
        name, tiling = mapping.shares[share].core, mapping.tiling
        assert tiling is not None
        rows, cols, unroll = step.y.out, step.x.out, mapping.ox_unroll
        if not tiling.c:
            return self.job(layer, name, size, rows, cols, unroll, deps, take, give)
        sizes = [c for c, count in c_parts(form(layer, self.soc.cores[name]), tiling) for _ in range(count)]
        op = -1
        for n, c in enumerate(sizes):
            weights = self.bring_weights(layer, share, self.soc.cores[name], size, c)
            first, last = n == 0, n == len(sizes) - 1
            wait = (*deps, weights) if first else (weights,)
            op = self.job(layer, name, size, rows, cols, unroll, wait, take if first else (), give if last else (), c)
            self.free_weights(share, name, self.soc.cores[name])
        return op

    def loads(self, layer: Layer, name: str) -> bool:
        """Whether a core has to load the layer's inputs."""
        return self.homes.inputs(layer) != self.soc.cores[name].memory

    def stores(self, layer: Layer, name: str) -> bool:
        """Whether a core has to store the layer's output."""
        return self.homes.output(layer) != self.soc.cores[name].memory

    def load(
        self, layer: Layer, mapping: LayerMapping, names: dict[int, str], step: _Step, before: Sequence[Op]
    ) -> dict[int, tuple[Op | None, ...]]:
        """Load the inputs of one tile: one copy for all its cores, or each core's channels."""
        home = self.homes.inputs(layer)
        out: dict[int, tuple[Op | None, ...]] = {}
        for copy in copies(layer, self.soc, _present(mapping)):
            shares = [i for i in copy.shares if i in names]
            if not shares or not (step.load or copy.sliced):
                continue
            memory, size = self.soc.cores[names[shares[0]]].memory, dict(step.jobs)[shares[0]]
            y, x = step.y.under(layer, copy.layer), step.x.under(layer, copy.layer)
            moved = input_transfer(copy.layer, self.soc, memory, size, y, x, home, exact)
            take = [(f"{names[i]}.in", SLOTS, 1) for i in shares if self.loads(layer, names[i])]
            op = self.move(home, memory, moved, "load", before, take)
            out |= {i: (self.rewrite(names[i], int(moved.bytes), op),) for i in shares}
        return out

    def rewrite(self, name: str, loaded: int, op: Op | None) -> Op | None:
        """Let a core bring what was just loaded into its own format; the op after which it can compute."""
        core = self.soc.cores[name]
        moved = int(core.rewritten_bytes(loaded, exact)) if op is not None else 0
        if not moved:
            return op
        spent = self.links_fj(core.feed_links, moved)
        burst = self.burst(core.feed_links)
        return self.op(name, "feed", (op,), moved=moved, burst=burst, links=core.feed_links, energy_fj=spent)

    def fused(self, group: Group) -> None:
        """Emit a fused group, row by row."""
        core = {name: self.mapping.layers[name].shares[0].core for name in group.layers}
        layers = [self.workload[name] for name in group.layers]
        ticks = {la.name: self.job_ticks(la, core[la.name], la.k, 1, la.ox) for la in layers}
        plan = schedule(self.workload, group.layers, core, ticks)
        self.flush()
        before = self.barrier
        weights: dict[str, Op | None] = {}
        resident: dict[str, int] = {}  # bytes of weight memory, by layer
        for name in group.layers:
            layer, share = self.workload[name], self.mapping.layers[name].shares[0]
            self.layer = self.builder.layer(name)
            weights[name] = self.bring_weights(layer, 0, self.soc.cores[share.core], share.k)
            resident[name] = self.held.pop((self.layer, 0), 0)
        done: dict[tuple[str, int], Op] = {}
        fetched: dict[tuple[str, str], tuple[int, Op | None]] = {}
        for row in plan.rows:
            layer, mapping = self.workload[row.layer], self.mapping.layers[row.layer]
            name = mapping.shares[0].core
            self.layer = self.builder.layer(row.layer)
            deps: list[Op | None] = [weights[row.layer], *before] if row.row == 0 else []
            deps += [done[need] for need in row.needs]
            deps += self.outside_rows(layer, name, row.row, set(group.layers), fetched, before)
            edges = plan.buffer_rows
            take = [(f"{p}>{c}", rows, 1) for (p, c), rows in edges.items() if p == row.layer]
            give = [(f"{p}>{row.layer}", edges[p, row.layer], n) for p, n in row.frees]
            leaves = row.layer in self.workload.outputs or set(self.workload.readers(row.layer)) - set(group.layers)
            if leaves and self.stores(layer, name):  # else the row is in place, and no store would give its slot back
                take.append((f"{row.layer}.rows", SLOTS, 1))
            op = self.job(layer, name, layer.k, 1, layer.ox, mapping.ox_unroll, deps, take, give)
            done[row.layer, row.row] = op
            if row.row == layer.oy - 1:
                self.held[self.layer, 0] = resident[row.layer]
                self.free_weights(0, name, self.soc.cores[name])
            if leaves:
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
        for tensor in layer.inputs:
            if tensor in members:
                continue
            have, op = fetched.get((layer.name, tensor), (0, None))
            need = last_row_under(layer, row) + 1
            if need > have:
                home = self.homes.tensors[tensor]
                y, x = Span(1, need - have, 1), Span(layer.ox, layer.ix, 1)
                moved = input_transfer(layer, self.soc, memory, layer.k, y, x, home, exact)
                op = self.move(home, memory, moved, "load", before if have == 0 else ())
                fetched[layer.name, tensor] = (need, op)
            ops.append(op)
        return ops

    def store_row(self, layer: Layer, core: str, computed: Op) -> Op:
        """Store one output row of a layer that leaves its group."""
        memory, home = self.soc.cores[core].memory, self.homes.output(layer)
        y, x = Span(1, 1, 1), Span(layer.ox, layer.ix, 1)
        moved = output_transfer(layer, self.soc, memory, layer.k, y, x, home, exact)
        slot = [(f"{layer.name}.rows", SLOTS, 1)]
        return self.move(memory, home, moved, "store", (computed,), give=slot) or computed


__all__ = ["lower", "steps"]

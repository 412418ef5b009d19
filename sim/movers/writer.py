"""Ops of a lowered network, as walk, cores and movers write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cosoc.sim.machine.program import Builder
from cosoc.sim.model.soc import Dma, SoC
from cosoc.sim.movers.cached_terms import cached_cores
from cosoc.sim.movers.cached_units import ticks_per_cycle
from cosoc.sim.movers.links import HOST_TIME, banks_of, link_level, server_of
from cosoc.sim.movers.notes import Notes

Op = int  # a Builder handle
Amounts = Sequence[tuple[str, int, int]]  # pool of credits, its capacity, amount


class Writer:
    """Writes ops into a Builder, with a SoC's units, servers and cycles.

    layer: the label of what is written. last: the op before, for which in the serial runtime every op waits. latest:
    the op before on each core that streams, which has two ops in flight within a job only. pages: of each dynamic
    memory, the row in which the next transfer of a DMA begins. notes: where it is noted what ops are for, if anywhere.
    """

    def __init__(self, name: str, soc: SoC, serial: bool, notes: Notes | None = None) -> None:
        self.soc, self.serial, self.notes = soc, serial, notes
        cached = cached_cores(soc)
        self.ticks = ticks_per_cycle(soc)
        self.builder = Builder(name, soc.tick_hz * self.ticks)
        # A core that streams moves bytes while it computes, as two ops in flight.
        self.units = {
            name: self.builder.unit(name, lanes=2 if core.streams else 1)
            for name, core in soc.cores.items()
            if name not in cached
        }
        dmas = {name: soc.dma(name) for name, mover in soc.dmas.items() if isinstance(mover, Dma)}
        self.units |= {n: self.builder.unit(n, lanes=d.lanes, priority=d.priority) for n, d in dmas.items()}
        # The way back to an array counts ticks, as its mover's constants are finer than a byte's time.
        inner = {mover.return_link for _, mover in cached.values()}
        self.servers = {
            name: server_of(self.builder, name, link, self.ticks)
            for name, link in soc.links.items()
            if name not in inner
        }
        # The host configures one job at a time, whichever asks first: its time is a server of one tick a tick.
        self.servers[HOST_TIME] = self.builder.server(HOST_TIME, rate_bytes=1)
        drams = {name: memory.dram for name, memory in soc.memories.items() if memory.dram is not None}
        self.banks = {name: banks_of(self.builder, name, dram, self.ticks) for name, dram in drams.items()}
        self.pages = dict.fromkeys(drams, 0)
        self.layer = -1
        self.last: Op | None = None
        self.latest: dict[str, Op | None] = {name: None for name, core in soc.cores.items() if core.streams}

    def op(
        self,
        unit: str,
        kind: str,
        deps: Sequence[Op | None] = (),
        take: Amounts = (),
        give: Amounts = (),
        *,
        setup: int = 0,
        run: int = 0,
        moved: int = 0,
        burst: int = 0,
        links: Sequence[str] = (),
        memories: Sequence[str] = (),
        macs: int = 0,
        energy_fj: Mapping[str, int] | None = None,
        within: bool = False,
    ) -> Op:
        """Write an op. take, give: only the overlapped runtime has them. memories: that it moves bytes from and to.
        energy_fj: by level. within: an op of a job that has begun, which waits for its deps alone: in the serial
        runtime, and on a core that streams, all others wait for the op before."""
        amounts = [[(self.builder.credit(n, cap), a) for n, cap, a in side if a] for side in (take, give)]
        if self.serial:
            deps, amounts = deps if within else (self.last,), [[], []]
        elif unit in self.latest and not within:
            deps = (*deps, self.latest[unit])
        route, tag = tuple(self.servers[name] for name in links), -1
        for memory in memories:
            if memory in self.banks:
                # What a core reads while it works are several streams, over all banks: its bursts take the bus alone.
                stream = kind == "feed"
                inside, tag = self.banks[memory].streamed() if stream else self._rows(memory, moved, kind == "store")
                route += inside
        op = self.builder.op(
            self.units[unit],
            setup=setup * self.ticks,
            run=run * self.ticks,
            bytes=moved,
            burst=burst,
            route=route,
            deps=tuple(dict.fromkeys(d for d in deps if d is not None)),
            take=tuple(amounts[0]),
            give=tuple(amounts[1]),
            kind=kind,
            layer=self.layer,
            macs=macs,
            energy_fj=energy_fj or {},
            tag=tag,
        )
        if self.notes is not None:
            self.notes.op(op, memories)
        self.last = op
        if unit in self.latest:
            self.latest[unit] = op
        return op

    def _rows(self, memory: str, moved: int, out: bool) -> tuple[tuple[int, ...], int]:
        """Servers of a dynamic memory that a transfer goes over, and its tag. DMAs know no addresses: a transfer begins
        where the one before has ended, in a row that is closed; the rows that follow are opened ahead, in other banks.
        In a loop it begins in the same row every time."""
        found = self.banks[memory].over(self.pages[memory], out)
        dram = self.soc.memories[memory].dram
        assert dram is not None  # it has banks
        self.pages[memory] += -(-moved // dram.row_bytes)
        return found

    def over(self, links: Sequence[str], moved: int) -> dict[str, int]:
        """Energy of moving so many bytes over links, fJ, by level."""
        return {link_level(name): self.link_fj(name, moved) for name in links}

    def link_fj(self, link: str, moved: int) -> int:
        """Energy of moving so many bytes over a link, fJ."""
        return round(1000 * moved * self.soc.links[link].energy_pj_per_byte)

    def access_fj(self, memory: str, moved: int) -> int:
        """Energy of reading or writing so many bytes in a memory, fJ."""
        return round(1000 * moved * self.soc.memories[memory].access_pj_per_byte)

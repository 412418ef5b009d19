"""Servers of a program from links and dynamic memories of a SoC file.

A transfer from or to a dynamic memory goes over its data bus and one bank, that of the row in which it begins, beside
the links of its route. Its tag says which row that is, at which the bank looks, and the direction, at which the bus
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cosoc.sim.machine.program import Builder
from cosoc.sim.model.soc import Dram, Link

HOST_TIME = "host_time"  # the server whose bytes are ticks of the host, which configures one job at a time
BANKS = ".banks"  # what all banks of a memory are told under, after its name
BUS = ".bus"
_DIRECTION_BITS = 1  # of a tag, the lowest; those of the row are above
_ANY_BURST = 1 << 40  # bytes, more than a burst ever has: a bank is not what limits a burst of the row that is open


def link_level(name: str) -> str:
    """What the energy of bytes over a link is told under; that of a memory's or a core's is told under its name."""
    return f"link {name}"


def server_of(builder: Builder, name: str, link: Link, ticks_per_cycle: int = 1, counts_ticks: bool = False) -> int:
    """The server that a link is, with all its figures. Cycles of the SoC are so many ticks of the program.

    counts_ticks: its transfers are given in ticks for which they hold it, in place of bytes.
    """
    rate = (1, 1) if counts_ticks else (link.bytes_per_period, link.period_cycles * ticks_per_cycle)
    return builder.server(
        name, rate_bytes=rate[0], rate_ticks=rate[1], ports=link.ports,
        stretch=(256, *(round(256 * factor) for factor in link.stretch or (1.0,))),
    )  # fmt: skip


@dataclass(frozen=True)
class Banks:
    """The servers of a dynamic memory: its data bus, and its banks in the order of their rows' addresses."""

    bus: int
    banks: tuple[int, ...]

    def over(self, page: int, out: bool) -> tuple[tuple[int, int], int]:
        """Servers and tag of a transfer that begins in this page: a row of some bank, counted through all banks. out:
        whether it is written."""
        return (self.bus, self.banks[page % len(self.banks)]), self.tag(page, out)

    def tag(self, page: Any, out: bool) -> Any:
        """The tag of a transfer that begins in a page; of an array of pages, theirs."""
        return page // len(self.banks) << _DIRECTION_BITS | int(out)

    def streamed(self) -> tuple[tuple[int], int]:
        """Servers and tag of what is read in no order that is known: it opens no row."""
        return (self.bus,), 0


def banks_of(builder: Builder, name: str, dram: Dram, ticks_per_cycle: int) -> Banks:
    """The servers of a dynamic memory. Cycles of the SoC are so many ticks of the program."""
    n_bytes, cycles = dram.rate
    turn = round(dram.turnaround_cycles * ticks_per_cycle / dram.batch_bursts)
    bus = builder.server(
        f"{name}{BUS}", rate_bytes=n_bytes, rate_ticks=cycles * ticks_per_cycle, switch=turn, tag_bits=_DIRECTION_BITS
    )
    # A burst of another row holds its bank for a row cycle in all, of which the least hold of any burst is one tick.
    cycle = dram.row_cycles * ticks_per_cycle - 1
    banks = (
        builder.server(f"{name}.bank{i}", rate_bytes=_ANY_BURST, switch=cycle, tag_shift=_DIRECTION_BITS)
        for i in range(dram.banks)
    )
    return Banks(bus, tuple(banks))


def told_as(server: str) -> str:
    """What reports call a server: by its name, but the banks of one memory all `MEMORY.banks`."""
    memory, dot, bank = server.rpartition(".bank")
    return f"{memory}{BANKS}" if dot and bank.isdigit() else server


def together(servers: Sequence[str]) -> dict[str, list[int]]:
    """The numbers of the servers that reports tell as one, by what they call it."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(servers):
        found.setdefault(told_as(name), []).append(number)
    return found

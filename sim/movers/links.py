"""Servers of a program from links of a SoC file."""

from __future__ import annotations

from cosoc.sim.machine.program import Builder
from cosoc.sim.model.soc import Link

HOST_TIME = "host_time"  # the server whose bytes are ticks of the host, which configures one job at a time


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

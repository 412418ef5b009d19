"""How links are shared, against closed forms: cases on the fast engine, {ours, closed_form} in bytes a cycle or cycles.
And what the banks of dynamic memories make of streams, strides and random rows.

    python benchmarks/sharing.py [--json FILE]

The closed forms of shared rates are max-min fair shares (water filling): who can use less than an equal share has what
it can use, the others divide the rest. On the mesh a packet alone takes its hops, and all to all is bounded by the
links across the bisection. A dynamic memory is bound by its data bus, less refresh and turnarounds, or by the row
cycles of the banks that are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from common import arguments, state, write_json

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import Builder, Program
from cosoc.sim.model.soc import Dram
from cosoc.sim.movers.links import banks_of

BURST = 64  # bytes


def fair_shares(capacity: float, most: Sequence[float]) -> list[float]:
    """What each of several has of a capacity, if each can use so much at most."""
    share = dict.fromkeys(range(len(most)), 0.0)
    for n_before, i in enumerate(sorted(share, key=lambda i: most[i])):
        share[i] = min(most[i], (capacity - sum(share.values())) / (len(most) - n_before))
    return list(share.values())


def behind_links(capacity: int, ports: int, links: Sequence[int], work: Sequence[float]) -> Program:
    """Units, each over a link of so many bytes a cycle, at one memory; work: bytes of each."""
    b = Builder("behind links", 1)
    memory = b.server("memory", rate_bytes=capacity // ports, ports=ports)
    for i, (rate, size) in enumerate(zip(links, work, strict=True)):
        route = (b.server(f"link{i}", rate_bytes=rate), memory)
        b.op(b.unit(f"u{i}"), bytes=round(size), burst=BURST, route=route)
    return b.build()


# Three unlike cores on one memory of MEMORY bytes a cycle: bytes a cycle of the link of each.
MEMORY, CORES = 64, {"array": 16, "signal processor": 8, "vector unit": 64}


def held_for_the_slowest(n: int) -> Program:
    """The three cores under the rule that there was before servers granted by themselves, n bursts each: a burst held
    its whole route for the slowest server of it.

    That rule is no longer in any engine. With one memory on all routes, one port there, and a link that nobody else
    uses, it comes to one server that a burst holds for the cycles of its slower one, which are its bytes here.
    """
    b = Builder("held for the slowest", 1)
    memory = b.server("memory", rate_bytes=1)
    for name, rate in CORES.items():
        cycles = BURST // min(rate, MEMORY)
        b.op(b.unit(name), bytes=cycles * n, burst=cycles, route=(memory,))
    return b.build()


def three_cores(cycles: int = 4000) -> dict[str, dict[str, float]]:
    """Bytes a cycle of each core, all streaming: under that rule (before) and today (ours), each with its closed form.

    Before, bursts take turns, and a round lasts for the slower servers of all three together: each core has a burst a
    round. Today they have fair shares of the memory.
    """
    round_cycles = sum(BURST / min(rate, MEMORY) for rate in CORES.values())
    shares = fair_shares(MEMORY, list(CORES.values()))
    n = cycles // round(round_cycles)
    before = engine_fast.run(held_for_the_slowest(n)).end.tolist()
    ours = engine_fast.run(behind_links(MEMORY, 1, list(CORES.values()), [share * cycles for share in shares])).end
    return {
        name: {
            "before": n * BURST / end_before, "before_closed_form": BURST / round_cycles,
            "ours": share * cycles / end, "closed_form": share,
        }
        for name, share, end_before, end in zip(CORES, shares, before, ours.tolist(), strict=True)
    }  # fmt: skip


# A network on chip, hop by hop: 4 x 4 nodes.
SIDE = 4  # nodes in a row and in a column
ROUTER, WIDTH, PACKET = 3, 16, 64  # cycles in a router; bytes a cycle of a link; bytes of a packet
NODES = tuple(product(range(SIDE), range(SIDE)))
Node = tuple[int, int]


def path(source: Node, target: Node) -> list[Node]:
    """The nodes that a packet passes: along its row first, then along its column."""
    (row, column), found = source, [source]
    while column != target[1]:
        column += 1 if target[1] > column else -1
        found.append((row, column))
    while row != target[0]:
        row += 1 if target[0] > row else -1
        found.append((row, column))
    return found


def send(b: Builder, source: Node, target: Node) -> int:
    """Emit a packet, an op a hop: it passes the router and then holds the link, once there is a place in the next
    router's buffer, which it leaves when it has passed the next link. Returns its last op."""
    hops = list(pairwise(path(source, target)))
    before: tuple[int, ...] = ()
    place: list[tuple[int, int]] = []
    for number, (here, there) in enumerate(hops):
        link = b.server(f"{here} to {there}", rate_bytes=WIDTH)
        unit = b.unit(f"{source} to {target}, hop {number}", lanes=2)
        last = number == len(hops) - 1
        after = [] if last else [(b.credit(f"{source} to {target}, buffer {number}", 4), 1)]
        before = (
            b.op(unit, setup=ROUTER, bytes=PACKET, burst=PACKET, route=(link,), deps=before, take=after, give=place),
        )
        place = after
    return before[0]


def all_to_all(packets: int) -> Program:
    """Every node sends so many packets to every other one."""
    b = Builder("all to all", 1)
    with b.repeat(packets):
        for source, target in product(NODES, NODES):
            if source != target:
                send(b, source, target)
    return b.build()


def bisection_cycles(packets: int) -> int:
    """Half of the nodes send to the other half over SIDE links each way: each of these carries (SIDE^2 / 2)^2 / SIDE
    packets a round, and no link carries more."""
    return packets * (SIDE**2 // 2) ** 2 // SIDE * PACKET // WIDTH


# LPDDR4x-4266 in ns, 16 channels of 16 bits side by side as on Jetson AGX Xavier: JESD209-4's RAS 42 and RPpb 18, REFI
# 3,904, WTR 10 and RL 17, pages of 2 KB, bursts of 16 in 3.75 ns (published); RFCab of 8 Gb a channel (recalled);
# one rank, and 32 bursts of one direction at a time (assumed). The boards' own files have links that were measured.
LPDDR4X = Dram(
    bytes_per_period=2048, period_cycles=15, banks=8, row_bytes=32768, row_cycles=60, turnaround_cycles=16,
    batch_bursts=32, refresh_cycles=280, refresh_interval_cycles=3904,
)  # fmt: skip


def memories() -> dict[str, tuple[Dram, int]]:
    """Dynamic memories by what they are, and their bursts, bytes."""
    gemmini = find_soc("gemmini")
    ddr3 = gemmini.memories[gemmini.main_memory].dram
    assert ddr3 is not None
    return {"DDR3-2133": (ddr3, 64), "LPDDR4x-4266": (LPDDR4X, 512)}


DEEP = 256  # requests in flight: a queue that never runs dry
FINE = 20  # ticks of a program in a cycle


def asked(memory: Dram, size: int, streams: Sequence[tuple[Sequence[int], bool]], in_flight: int) -> float:
    """Bytes a cycle of units that ask for one burst after the other, (addresses, written or read), so many at once."""
    b = Builder("dynamic memory", FINE)
    servers = banks_of(b, "memory", memory, FINE)
    for i, (addresses, out) in enumerate(streams):
        unit = b.unit(f"u{i}", lanes=in_flight)
        for address in addresses:
            route, tag = servers.over(address // memory.row_bytes, out)
            b.op(unit, bytes=size, burst=size, route=route, tag=tag)
    return sum(len(addresses) for addresses, _ in streams) * size * FINE / engine_fast.run(b.build()).makespan


def dram(seed: int = 0) -> dict[str, dict[str, float]]:
    """What each memory moves, in bytes a cycle, and what its figures say."""
    out: dict[str, dict[str, float]] = {}
    for name, (about, burst) in memories().items():
        row, around = about.row_bytes, about.row_bytes * about.banks
        bus, n = about.rate[0] / about.rate[1], 6000
        opened = burst / about.row_cycles  # by one bank that opens a row for every burst
        turned = burst / (burst / bus + about.turnaround_cycles / about.batch_bursts)
        some = np.random.default_rng(seed).permutation(n)  # each row once, as many of each bank
        again = [burst * i % row for i in range(n)]  # in one row
        other = [about.banks // 2 * row + at for at in again]  # in one of another bank
        in_a_row = max(row // 4096, 1)
        for case, streams, in_flight, closed_form in (
            ("a stream read", [([burst * i for i in range(n)], False)], DEEP, bus),
            ("one read and one written in turn", [(again, False), (other, True)], 1, turned),
            ("every 4 KB", [([4096 * i for i in range(n)], False)], DEEP, min(bus, in_a_row * about.banks * opened)),
            ("each in the next row", [([row * i for i in range(n)], False)], DEEP, min(bus, about.banks * opened)),
            ("each in a row of one bank", [([around * i for i in range(n)], False)], DEEP, opened),
            ("random rows", [([row * int(page) for page in some], False)], DEEP, min(bus, about.banks * opened)),
        ):
            found = {"ours": asked(about, burst, streams, in_flight), "closed_form": closed_form}
            out[f"{name}, {case}: B/cycle of {about.bytes_per_period / about.period_cycles:g}"] = found
    return out


# ------------------------------------------------------------------------------------------ cases


def sharing() -> dict[str, dict[str, float]]:
    """Every case: what the engine gives, and the closed form."""
    out: dict[str, dict[str, float]] = {}

    def case(name: str, ours: float, closed_form: float) -> None:
        out[name] = {"ours": ours, "closed_form": closed_form}

    for n in (2, 4):
        for ports in (1, 2, 4):
            size = 200 * BURST
            cycles = engine_fast.run(behind_links(64, ports, [16] * n, [size] * n)).makespan
            case(f"{n} units on links of 16, memory of 64, ports {ports}: B/cycle", n * size / cycles, min(16 * n, 64))
    for links in ((64, 16, 16), (64, 64, 16, 16), (32, 64, 8)):
        shares, cycles = fair_shares(64, links), 4000
        ends = engine_fast.run(behind_links(64, 1, links, [share * cycles for share in shares])).end
        for rate, share, end in zip(links, shares, ends.tolist(), strict=True):
            case(f"links of {links} at a memory of 64, that of {rate}: B/cycle", share * cycles / end, share)
    b, cycles = Builder("crossbar", 1), 2800
    crossbar = b.server("crossbar", rate_bytes=64, ports=8)
    busy, own = b.server("busy link", rate_bytes=16), b.server("own link", rate_bytes=16)
    for i in range(7):
        b.op(b.unit(f"u{i}"), bytes=16 * cycles // 7, burst=BURST, route=(crossbar, busy))
    alone = b.op(b.unit("bystander"), bytes=16 * cycles, burst=BURST, route=(crossbar, own))
    ended = engine_fast.run(b.build()).end[alone]
    case("a bystander on a crossbar, seven queue for another link: B/cycle", 16 * cycles / ended, 16)
    packet = Builder("packet", 1)
    send(packet, (0, 0), (SIDE - 1, SIDE - 1))
    hops = 2 * (SIDE - 1)
    case("a packet across a mesh of 4 x 4: cycles", engine_fast.run(packet.build()).makespan, hops * (ROUTER + 4))
    case("all to all on the mesh: cycles", engine_fast.run(all_to_all(100)).makespan, bisection_cycles(100))
    return out


def main() -> None:
    args = arguments(__doc__).parse_args()  # --quick too is all of it: two seconds
    state()
    found, cores = sharing() | dram(), three_cores()
    for name, one in found.items():
        off = one["ours"] / one["closed_form"] - 1
        print(f"{name:70} {one['ours']:10.2f} {one['closed_form']:10.2f} {off:+.2%}")
    print(f"\n{'three cores on a memory of ' + str(MEMORY) + ' B/cycle':40} before, closed form; today, closed form")
    for name, one in cores.items():
        print(f"  on a link of {CORES[name]:2}, {name:24}" + "".join(f"{rate:8.2f}" for rate in one.values()))
    write_json(args.json, {"sharing": found, "three_cores": cores})


if __name__ == "__main__":
    main()

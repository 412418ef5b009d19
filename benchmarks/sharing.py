"""How links are shared, against closed forms: cases on the fast engine, {ours, closed_form} in bytes a cycle or cycles.

    python benchmarks/sharing.py [--json FILE]

The closed forms of shared rates are max-min fair shares (water filling): who can use less than an equal share has what
it can use, the others divide the rest. On the mesh a packet alone takes its hops, and all to all is bounded by the
links across the bisection.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

from common import arguments, state, write_json

from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import Builder, Program

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
    args = arguments(__doc__).parse_args()
    state()
    found = sharing()
    for name, one in found.items():
        off = one["ours"] / one["closed_form"] - 1
        print(f"{name:70} {one['ours']:10.2f} {one['closed_form']:10.2f} {off:+.2%}")
    write_json(args.json, {"sharing": found})


if __name__ == "__main__":
    main()

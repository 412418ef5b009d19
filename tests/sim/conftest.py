"""What several tests of the simulator share: random programs and loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim.machine.program import KINDS, Builder, Program


def _random_program(seed: int, n_rows: int = 24, n_servers: int | None = None) -> Program:
    """A small program in which ties, blocking, zero-time ops, loops and (one in eight) deadlocks are common.

    Durations are a few ticks, so that many things fall into one tick; bursts are few, so that the reference engine
    is quick.
    """
    g = np.random.default_rng(seed)

    def pick(*values: int) -> int:
        return int(g.choice(values))

    b = Builder(f"random-{seed}", 1000)
    units = [b.unit(f"u{i}", lanes=pick(1, 1, 1, 2, 3), priority=pick(0, 0, 1, -1)) for i in range(g.integers(1, 6))]
    tables = ((256,), (256, 256, 384, 640), (256, 200, 300), (512,), (256, 256))
    servers = [
        b.server(
            f"s{i}", rate_bytes=pick(1, 3, 8, 8), rate_ticks=pick(1, 1, 2), ports=pick(9, 1, 1, 1, 2, 3),
            switch=pick(0, 0, 2, 5), stretch=tables[g.integers(len(tables))],
            tag_shift=pick(0, 0, 1), tag_bits=pick(63, 63, 1, 2),
        )
        for i in range(n_servers or g.integers(1, 5))
    ]  # fmt: skip
    credits = [b.credit(f"c{i}", pick(1, 2, 2, 3, 4)) for i in range(g.integers(0, 4))]
    capacity = [figures for _, (figures,) in b._credits.values()]
    deps: list[list[int]] = []
    for times in [pick(1, 1, 2, 4, 7) for _ in range(g.integers(1, 4))]:
        body = int(g.integers(1, n_rows))
        take: list[dict[int, int]] = [{} for _ in range(body)]
        give: list[dict[int, int]] = [{} for _ in range(body)]
        for credit in credits:
            for _ in range(g.integers(0, 4)):
                first = int(g.integers(body))
                last = min(first + int(g.integers(0, 3)), body - 1)
                amount = int(g.integers(1, capacity[credit] + 1))
                if credit not in take[first] and credit not in give[last]:
                    take[first][credit] = amount
                    if g.random() > 0.02:
                        give[last][credit] = amount
        with b.repeat(times):
            for i in range(body):
                figures: dict[str, int] = {"setup": pick(0, 0, 1, 3)}
                route: tuple[int, ...] = ()
                if g.random() < 0.6:
                    figures |= {"bytes": int(g.integers(1, 60)), "burst": pick(1, 8, 8, 16, 100)}
                    figures["tag"] = pick(-1, 0, 1, 2, 5)
                    figures["burst"] = max(figures["burst"], figures["bytes"] // 8)
                    n_hops = min(len(servers), int(g.integers(1, 4)))
                    route = tuple(int(s) for s in g.choice(servers, n_hops, replace=False))
                else:
                    figures["run"] = pick(0, 0, 1, 4, 9)
                unit = units[g.integers(len(units))]
                kind = KINDS[g.integers(len(KINDS))]
                b.op(unit, route=route, take=tuple(take[i].items()), give=tuple(give[i].items()), kind=kind, **figures)
                near = g.integers(1, 12, g.choice([0, 0, 1, 2]))
                deps.append(list(dict.fromkeys(int(d) for d in near)))
    return _with_deps(b.build(), deps)


def _random_loop(seed: int) -> Program:
    """Loops of 30 to 150 iterations, with ops before, between and after them.

    One to three sides with units and credits of their own share one to three servers, so that loops have components
    that run at different speeds; bursts are more than in `_random_program`, so that there are streams to be split.
    """
    g = np.random.default_rng(seed)

    def pick(*values: int) -> int:
        return int(g.choice(values))

    b = Builder(f"loop-{seed}", 1000)
    n_sides = pick(1, 1, 2, 3)
    tables = ((256,), (256, 256, 384, 640), (512,))
    shared = [
        b.server(f"s{i}", rate_bytes=pick(1, 4, 8), rate_ticks=pick(1, 1, 2), ports=pick(9, 1, 1, 2),
                 switch=pick(0, 0, 3), stretch=tables[g.integers(3)], tag_shift=pick(0, 0, 1),
                 tag_bits=pick(63, 63, 1))
        for i in range(pick(1, 2, 3))
    ]  # fmt: skip
    sides = []
    for side in range(n_sides):
        units = [
            b.unit(f"u{side}.{i}", lanes=pick(1, 1, 2, 3), priority=pick(0, 0, 0, 1)) for i in range(pick(1, 2, 3))
        ]
        capacity = [pick(1, 2, 3) for _ in range(pick(0, 1, 2))]
        credits = [(b.credit(f"c{side}.{i}", size), size) for i, size in enumerate(capacity)]
        sides.append((units, credits, b.server(f"l{side}", rate_bytes=pick(4, 16))))
    deps: list[list[int]] = []

    def body(n: int) -> None:
        plan = [int(g.integers(n_sides)) for _ in range(n)]
        take: list[dict[int, int]] = [{} for _ in range(n)]
        give: list[dict[int, int]] = [{} for _ in range(n)]
        for side, (_, credits, _) in enumerate(sides):
            mine = [i for i in range(n) if plan[i] == side]
            for first, (credit, size) in ((i, c) for c in credits for i in mine):
                if g.random() < 0.5:
                    later = [i for i in mine if i >= first][:3]
                    last = later[g.integers(len(later))]
                    if credit not in take[first] and credit not in give[last]:
                        take[first][credit] = give[last][credit] = int(g.integers(1, size + 1))
        for i in range(n):
            units, _, local = sides[plan[i]]
            figures: dict[str, int] = {"setup": pick(0, 0, 2, 5)}
            route: tuple[int, ...] = ()
            if g.random() < 0.6:
                figures |= {"bytes": int(g.integers(1, 200)), "burst": pick(8, 16, 64), "tag": pick(-1, -1, 0, 1, 2)}
                hops = g.choice(shared, min(len(shared), pick(1, 1, 2)), replace=False).tolist()
                route = (*hops, local) if g.random() < 0.5 else tuple(hops)
            else:
                figures["run"] = pick(0, 3, 20, 50)
            unit = units[g.integers(len(units))]
            b.op(unit, route=route, take=tuple(take[i].items()), give=tuple(give[i].items()), **figures)
            own = [d for d in range(1, min(2 * n, 20)) if plan[(i - d) % n] == plan[i]]
            deps.append(sorted(g.choice(own, min(len(own), pick(0, 1, 2)), replace=False).tolist()) if own else [])

    for _ in range(pick(1, 1, 2, 3)):
        if g.random() < 0.5:
            body(pick(1, 3, 5))
        n = pick(2, 4, 6, 10)
        with b.repeat(pick(30, 80, 150)):
            body(n)
    return _with_deps(b.build(), deps)


def _with_deps(program: Program, deps: list[list[int]]) -> Program:
    """The program with these distances as the deps of its rows.

    The builder knows deps on ops that exist; engines must also take distances that reach before op 0.
    """
    rows = program.rows.copy()
    rows["dep_n"] = [len(d) for d in deps]
    rows["dep_at"] = np.cumsum(rows["dep_n"]) - rows["dep_n"]
    return replace(program, rows=rows, deps=np.array([d for ds in deps for d in ds], dtype=np.int64))


@pytest.fixture(scope="session")
def random_program() -> Callable[..., Program]:
    return _random_program


@pytest.fixture(scope="session")
def random_loop() -> Callable[[int], Program]:
    return _random_loop

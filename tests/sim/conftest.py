"""What several tests of the simulator share: random programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim.program import KINDS, Builder, Program


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
            f"s{i}", rate_bytes=pick(1, 3, 8, 8), rate_ticks=pick(1, 1, 2), ports=pick(0, 1, 1, 1, 2, 3),
            switch=pick(0, 0, 2, 5), stretch=tables[g.integers(len(tables))],
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
                    figures |= {"bytes": int(g.integers(1, 60)), "burst": pick(1, 8, 8, 16, 100), "tag": pick(-1, 0, 1)}
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
    program = b.build()
    # The builder knows deps on ops that exist; engines must also take distances that reach before op 0.
    rows = program.rows.copy()
    rows["dep_n"] = [len(d) for d in deps]
    rows["dep_at"] = np.cumsum(rows["dep_n"]) - rows["dep_n"]
    return replace(program, rows=rows, deps=np.array([d for ds in deps for d in ds], dtype=np.int64))


@pytest.fixture(scope="session")
def random_program() -> Callable[..., Program]:
    return _random_program

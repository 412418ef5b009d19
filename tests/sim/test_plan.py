"""Is what a schedule says of addresses a plan that a compiler could use? What lies in a memory at one time lies apart,
within that memory, over random networks, shares, tiles and pieces; and a planner that errs is found out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from random_integers import random_workload
from random_runs import SMALL_L1, random_run

from cosoc.inputs import soc_of
from cosoc.sim.model.mapping import Mapping, Piece
from cosoc.sim.report import addresses
from cosoc.sim.report.schedule import schedule
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import problems

CHIPS = {"diana": SMALL_L1, "darkside": {}, "gap9": {}, "hetero": {}}


def lying(file: dict[str, Any], memory: str) -> np.ndarray:
    """(since, until, first byte, end) of everything that has an address in a memory, [things, 4]."""
    found = [
        (*live, one["address"], one["address"] + one["bytes"])
        for one in file["tensors"]
        if one["memory"] == memory and one["address"] is not None
        for live in one["live_ticks"]
    ]
    for op in file["ops"]:
        for one in op.get("operands", ()):
            if one["memory"] == memory and "live_ticks" in one:
                found.append((*one["live_ticks"], one["address"], one["address"] + one["bytes"]))
    return np.array(found, np.int64).reshape(-1, 4)


def faults(file: dict[str, Any]) -> int:
    """Pairs that share a byte at a tick, and things beyond the end of their memory."""
    out = 0
    for memory in file["memories"]:
        since, until, first, end = lying(file, memory["memory"]).T
        both = (since[:, None] < until) & (since < until[:, None]) & (first[:, None] < end) & (first < end[:, None])
        out += int(np.triu(both, 1).sum()) + int((end > memory["bytes"]).sum()) + int((first < 0).sum())
    return out


def planned(chip: str, seed: int) -> dict[str, Any]:
    rng, soc = np.random.default_rng(seed), soc_of(chip, CHIPS[chip])
    return schedule(random_run(soc, random_workload(rng), rng, "overlapped" if seed % 3 else "serial"))


@pytest.mark.parametrize(("chip", "seed"), list(zip(CHIPS, range(4), strict=True)))
def test_what_lies_in_a_memory_at_one_time_lies_apart(chip: str, seed: int) -> None:
    file = planned(chip, seed)
    assert sum(len(lying(file, one["memory"])) for one in file["memories"]) > 10
    assert faults(file) == 0


def fused() -> dict[str, Any]:
    """A piece on DIANA, whose line buffers lie beside the rows that leave it."""
    rng, soc = np.random.default_rng(5), soc_of("diana", {})
    workload = random_workload(rng, alone=True)
    names = tuple(layer.name for layer in workload)
    mapping = next(
        found
        for last in range(len(names), 1, -1)
        if not problems(found := Mapping("fused", "overlapped", {}, (Piece(names[:last]),)), workload, soc)
    )
    return schedule(simulate(soc, workload, mapping))


def test_line_buffers_lie_apart_from_tiles() -> None:
    file = fused()
    assert any(one["what"] == "line buffer" for one in file["tensors"]) and faults(file) == 0


def everything_at_the_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_lowest", lambda taken, size: 0)


def buffers_that_see_no_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses._Obstacles, "merged", lambda self, live, since, until: live)


def a_byte_too_near(monkeypatch: pytest.MonkeyPatch) -> None:
    true = addresses._lowest

    def near(taken: Any, size: int) -> int:
        at = true(taken, size)
        return at - (at > 0)

    monkeypatch.setattr(addresses, "_lowest", near)


@pytest.mark.parametrize("mutant", [everything_at_the_bottom, buffers_that_see_no_tensors, a_byte_too_near])
def test_a_planner_that_errs_is_found_out(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert faults(planned("gap9", 1)) + faults(planned("diana", 1)) + faults(fused()) > 0

"""Sets of truth: tables of measured rows, each with how the simulator is held against it. One module a set."""

from __future__ import annotations

from cosoc.sim.truth import boards, cim, diana, gemmini_rtl
from cosoc.sim.truth.compared import TruthSet

SETS: tuple[TruthSet, ...] = (
    gemmini_rtl.SET,
    diana.SET,
    boards.SET,
    cim.SET,
)

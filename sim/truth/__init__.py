"""Tables of what was measured, each with how the simulator is held against it."""

from __future__ import annotations

from cosoc.sim.truth import gap8_mobilenets, gap9_mlperf_tiny, redmule_rtl
from cosoc.sim.truth.compared import Compared, TruthSet

SETS: dict[str, TruthSet] = {one.name: one for one in (redmule_rtl.SET, gap8_mobilenets.SET, gap9_mlperf_tiny.SET)}

__all__ = ["SETS", "Compared", "TruthSet"]

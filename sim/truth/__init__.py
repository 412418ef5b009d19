"""Sets of truth: tables of measured rows, each with how the simulator is held against it. One module a set."""

from __future__ import annotations

from cosoc.sim.truth import xavier_gpu_dla
from cosoc.sim.truth.compared import TruthSet

SETS: tuple[TruthSet, ...] = (xavier_gpu_dla.SET,)

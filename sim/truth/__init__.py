"""Sets of truth: tables of measured rows, each with how the simulator is held against it. One module a set."""

from __future__ import annotations

from cosoc.sim.truth import (
    boards,
    cim,
    diana,
    gap8_mobilenets,
    gap9_mlperf_tiny,
    gemmini_rtl,
    redmule_rtl,
    xavier_gpu_dla,
)
from cosoc.sim.truth.compared import TruthSet

SETS: tuple[TruthSet, ...] = (
    gemmini_rtl.SET,
    redmule_rtl.SET,
    gap8_mobilenets.SET,
    gap9_mlperf_tiny.SET,
    xavier_gpu_dla.SET,
    diana.SET,
    boards.SET,
    cim.SET,
)

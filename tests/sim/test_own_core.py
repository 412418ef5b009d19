"""Core models from outside of the package. What a user's file looks like, and that it is right: docs/tutorial.md."""

from __future__ import annotations

import operator
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.trust import trusting

MODEL = """\
from cosoc.sim.model.soc import Core
from cosoc.sim.model.units import Positive

class Fixed(Core):
    job_cycles: Positive

    def fits(self, tile):
        return []

    def cycles(self, tile, xp):
        return self.job_cycles * xp.used(tile.k)
"""
CHIP = """\
name: small
tick_hz: 1000000
host: cpu
main_memory: l1
memories: {l1: {size_bytes: 65536}}
links: {}
dmas: {}
routes: []
cores:
  cpu: {model: fixed_core:Fixed, memory: l1, job_cycles: 7}
"""


def test_a_chip_with_a_core_of_ones_own_reaches_worker_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("fixed_core.py").write_text(MODEL)
    Path("chip.yaml").write_text(CHIP)
    with trusting():
        soc = find_soc("chip.yaml")
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            cores = pool.submit(operator.attrgetter("cores"), soc).result()
    finally:
        sys.modules.pop("fixed_core", None)
    assert cores["cpu"].job_cycles == 7

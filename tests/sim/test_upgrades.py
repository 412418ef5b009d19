"""More of anything does not harm; the answer comes from the simulator, by brute force: benchmarks/upgrades.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.model.soc import SoC

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from upgrades import NETWORKS, Slower, slower_upgrades, upgrades

QUICK = ("rpi4",)


@pytest.mark.parametrize(
    "soc", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in list_socs()]
)
def test_no_upgrade_makes_a_network_slower_without_a_cause(soc: str) -> None:
    tried, found = slower_upgrades(find_soc(soc), NETWORKS)
    assert tried
    assert [str(one) for one in found if not one.cause] == []


def test_processors_of_a_cluster_do_not_harm_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 processors in place of 8 once took 36 % longer on DS-CNN: those without a pixel were said to load, too."""

    def processors(soc: SoC) -> list[tuple[tuple[str, ...], int]]:
        return [(path, value) for path, value in upgrades(soc) if path == ("cores", "cluster", "cores")]

    monkeypatch.setattr("upgrades.upgrades", processors)
    tried, found = slower_upgrades(find_soc("darkside"), ("dscnn",))
    assert (tried, found) == (4, [])


def test_a_cause_explains_no_more_than_it_says() -> None:
    """Two lanes cost a few per cent; a simulator in which they cost half would not be excused."""
    few, half = (Slower("x", "dmas.dma.lanes", 2, "resnet8", "overlapped", times, None) for times in (1.02, 1.5))
    assert few.cause
    assert not half.cause
    assert "NO CAUSE KNOWN" in str(half)

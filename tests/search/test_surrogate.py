"""A calibrated estimate is good for one SoC and one simulator, and says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cosoc.search import surrogate
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import Theta
from cosoc.sim.files.catalog import find_soc

SOC = find_soc("diana")
TABLE = {"network": {"mape": 0.02, "p95": 0.05, "spearman": 0.99, "kendall": 0.95}}
MADE = surrogate.make(SOC, {"serial": Theta(), "overlapped": Theta(prefetch=0.75)}, 100, 3, TABLE)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    surrogate.save(MADE, tmp_path / "s.json")
    assert surrogate.load(tmp_path / "s.json", SOC) == MADE


@pytest.mark.parametrize("change", [{"dmas.dma.setup_cycles": "71"}, {"links.analog_feed.bytes_per_period": "16"}])
def test_another_soc_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    surrogate.save(MADE, tmp_path / "s.json")
    with pytest.raises(InputError, match=r"was fitted to SoC diana \(\w+\), not to diana \(\w+\) as it is"):
        surrogate.load(tmp_path / "s.json", find_soc("diana", change))


def test_another_simulator_is_refused(tmp_path: Path) -> None:
    for other in (replace(MADE, simulator="0.0.0"), replace(MADE, simulator_digest="0" * 16)):
        surrogate.save(other, tmp_path / "s.json")
        with pytest.raises(InputError, match=re.escape(f"was fitted to simulator {other.simulator} (")):
            surrogate.load(tmp_path / "s.json", SOC)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"theta": 1}', "\x00"])
def test_a_file_that_is_no_estimate_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(InputError, match="is not an estimate that `cosoc calibrate --out` wrote") as error:
        surrogate.load(tmp_path / "s.json", SOC)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        surrogate.load(tmp_path / "s.json", SOC)


def test_a_factor_that_is_unknown_is_refused(tmp_path: Path) -> None:
    """A file written by a version with other factors must not load as if they were ours."""
    surrogate.save(MADE, tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())
    found["theta"]["overlapped"]["fudge"] = 1.0
    (tmp_path / "s.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="fudge"):
        surrogate.load(tmp_path / "s.json", SOC)

"""benchmarks/memory_truth.py holds what it promises: identities on every SoC, and gains of searched tiles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cosoc.sim.files.catalog import list_socs

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory_truth.py"


def test_the_quick_form(tmp_path: Path) -> None:
    """Each level is charged for what it served, to the rounding of floats; searched tiles, which have the library's
    among them, cost no more EDP than these."""
    command = [sys.executable, str(SCRIPT), "--quick", "--seconds", "1", "--json", str(tmp_path / "f.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "f.json").read_text())
    assert {run.partition("/")[0] for run in found["energy_identity"]} == set(list_socs())
    assert max(found["energy_identity"].values()) < 1e-9
    assert set(found["gains"]) == {"resnet8", "resnet18"}
    for network, gain in found["gains"].items():
        about = found["gains_about"][network]
        assert 0 <= gain["edp"] < 1 and about["boundary"] == "chip"
        assert abs(1 - about["best"]["energy_j"] / about["default"]["energy_j"] - gain["energy"]) < 1e-12

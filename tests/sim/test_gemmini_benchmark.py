"""benchmarks/gemmini_rtl.py reads the files it is for, and says what is wrong with others."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gemmini_rtl.py"
GEMM = "L3[WIO] K2 - L2[WI] K16X - L1[O] C4 C16X P16 - L0[W] N1"
PROBLEM = {"prob.K": 32, "prob.C": 64, "prob.P": 16} | {
    f"prob.{d}": 1 for d in ("Q", "R", "S", "N", "Wstride", "Hstride")
}


def run(path: Path, rows: list[dict[str, object]], *arguments: str) -> subprocess.CompletedProcess[str]:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    command = [sys.executable, str(SCRIPT), "--data", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("column", ["arch.mem1_read_bandwidth", "arch.mem1_shared_bandwidth"])
def test_repeats_are_averaged_and_the_default_tiling_is_a_second_set(tmp_path: Path, column: str) -> None:
    row = PROBLEM | {"mapping.mapping": GEMM, column: 2, "dse.auto_tiling": "1_1_16_1_64_32_1"}
    row["target.gemmini_auto_cycle"] = "1.5e3"
    rows = [row | {"target.gemmini_cycle": cycles} for cycles in (900, 1100)]
    done = run(tmp_path / "rows.csv", rows, "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert {"mapped", "auto", "wall_s", "bursts"} <= set(found)
    keys = {"n", "mape", "median", "p90", "spearman", "kendall", "within10"}
    assert keys <= set(found["mapped"]) and keys <= set(found["auto"])
    assert found["mapped"]["n"] == found["auto"]["n"] == 1
    assert found["mapped"]["noise"]["mape"] == pytest.approx(0.1)  # 900 and 1100 around 1000
    assert "1 rows used" in done.stdout and "noise floor, 2 repeated runs" in done.stdout


def test_missing_columns_are_named(tmp_path: Path) -> None:
    done = run(tmp_path / "rows.csv", [{"prob.K": 1, "mapping.mapping": GEMM}])
    assert done.returncode == 2
    assert "has no column target.gemmini_cycle, prob.Wstride" in done.stderr and "Traceback" not in done.stderr


def test_a_mapping_that_does_not_fit_names_the_line(tmp_path: Path) -> None:
    good = PROBLEM | {"mapping.mapping": GEMM, "target.gemmini_cycle": 1000}
    done = run(tmp_path / "rows.csv", [good, good | {"prob.K": 48}])
    assert done.returncode == 2
    assert "rows.csv:3: mapping" in done.stderr and "factors of K multiply to 32, the layer has 48" in done.stderr


def test_of_the_library_runs_each_that_can_be_read_is_used_and_the_others_are_named(tmp_path: Path) -> None:
    """One GEMM and one convolution with their tiles; a line without such a run; and three that say nothing."""
    row = PROBLEM | {"mapping.mapping": GEMM, "target.gemmini_cycle": 1000, "dse.auto_tiling": "1_1_16_1_64_32_1"}
    conv = row | {"prob.P": 4, "prob.Q": 4, "prob.R": 3, "prob.S": 3, "dse.auto_tiling": "3_3_4_4_64_32_1"}
    conv["mapping.mapping"] = "L3[WIO] K2 - L2[WI] K16X - L1[O] C4 C16X R3 S3 Q4 P4 - L0[W] N1"
    rows = [
        row | {"target.gemmini_auto_cycle": 1000},
        conv | {"target.gemmini_auto_cycle": 3000},
        conv | {"dse.auto_tiling": "", "target.gemmini_auto_cycle": ""},
        row | {"dse.auto_tiling": "", "target.gemmini_auto_cycle": 1000},
        row | {"dse.auto_tiling": "1 1 1", "target.gemmini_auto_cycle": 1000},
        row | {"target.gemmini_auto_cycle": "-3"},
    ]
    done = run(tmp_path / "rows.csv", rows, "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["mapped"]["n"], found["auto"]["n"]) == (2, 2)
    mapped, auto = ({number: cycles for number, _, cycles in found[name]["rows"]} for name in ("mapped", "auto"))
    assert auto[0] < mapped[0]  # the product's mapping loads its inputs twice, in two tiles
    assert 9 * 4 * 2 * 4 * 4 < auto[1] != mapped[1]  # taps, blocks of 64 and 32 channels, at least 4 rows a row of 4
    errors = done.stderr.splitlines()
    assert [error.split(":")[1] for error in errors] == ["5", "6", "7"]
    assert "R_S_P_Q_C_K_N" in errors[1] and "gemmini_auto_cycle is '-3'; a positive number is needed" in errors[2]
    assert "3 of 5 runs cannot be read" in done.stdout


def test_columns_of_library_runs_that_are_there_but_empty_are_no_set(tmp_path: Path) -> None:
    row = PROBLEM | {"mapping.mapping": GEMM, "target.gemmini_cycle": 1000}
    row |= {"dse.auto_tiling": "", "target.gemmini_auto_cycle": ""}
    done = run(tmp_path / "rows.csv", [row], "--json", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    assert "auto" not in json.loads((tmp_path / "out.json").read_text())

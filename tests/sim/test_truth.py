"""Sets of truth: errors by hand, rows that are read strictly, and README's figures, which are a benchmark's."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.truth import SETS, boards, cim, diana, gap8_mobilenets, gemmini_rtl
from cosoc.sim.truth.compared import Compared
from cosoc.sim.truth.score import errors, of_energies, of_peers
from cosoc.sim.truth.tables import read_table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

GEMM = {"prob.K": "32", "prob.C": "64", "prob.P": "16"} | {
    f"prob.{d}": "1" for d in ("Q", "R", "S", "N", "Wstride", "Hstride")
}
GEMM |= {"mapping.mapping": "L3[WIO] K2 - L2[WI] K16X - L1[O] C4 C16X P16 - L0[W] N1"}


# ------------------------------------------------------------------------------------------ errors


def test_errors_are_those_of_a_pocket_calculator() -> None:
    """Measured 100, 200, 400; predicted 110, 180, 400: errors +10, -10 and 0 %, in the same order."""
    found = errors([100, 200, 400], [110, 180, 400])
    assert found.n == 3
    assert found.mape == pytest.approx(0.2 / 3) and found.median == pytest.approx(0.1)
    assert (found.low, found.high) == (pytest.approx(-0.08), pytest.approx(0.08))  # between -10, 0 and +10 %: linear
    assert found.bias == pytest.approx(math.log(1.1 * 0.9) / 3)
    assert found.spearman == pytest.approx(1)
    assert errors([1, 2, 3], [3, 2, 1]).spearman == pytest.approx(-1)
    assert errors([1, 1], [1, 2]).spearman is None


def test_energies_and_peers_count_where_they_are_known() -> None:
    rows = [Compared("a", 10, 10, 2.0, 3.0, {"x": 15}), Compared("b", 10, 10), Compared("c", 20, 20, peers={"x": 20})]
    energy = of_energies(rows)
    assert energy is not None and energy.n == 1 and energy.mape == pytest.approx(0.5)
    assert of_peers(rows)["x"].n == 2 and of_peers(rows)["x"].mape == pytest.approx(0.25)
    assert of_energies(rows[1:]) is None


# ------------------------------------------------------------------------------------------ rows


def test_every_set_has_a_name_of_its_own_and_rows_with_its_columns() -> None:
    assert len({truth.name for truth in SETS}) == len(SETS)
    for truth in SETS:
        assert all(set(truth.columns) <= set(row) for row in truth.built_in)
        assert truth.built_in or truth.how_to_get, "rows that do not come with cosoc are to be had from somewhere"


@pytest.mark.parametrize(
    ("truth", "cells", "message"),
    [
        (boards, {"device": "rpi9"}, "row 1, device: found 'rpi9'; known are agx_orin"),
        (boards, {"network": "vgg61"}, "row 1, network: found 'vgg61'"),
        (boards, {"ms": "-3"}, "row 1, ms: found '-3'; a positive number"),
        (diana, {"workload": "vgg61"}, "row 1, workload: .*vgg61"),
        (diana, {"mapping": "mine"}, "row 1, mapping: .*mine"),
        (diana, {"order": "sideways"}, "row 1, order: found 'sideways'; known are depth_first"),
        (cim, {"kind": "guess"}, "row 1, kind: found 'guess'"),
        (cim, {"kind": "layer", "name": "3,4"}, "row 1, name: found '3,4'; c,k,input side"),
        (cim, {"kind": "peak", "name": "diana"}, "row 1, name: diana has no core of crossbars"),
    ],
)
def test_a_cell_that_says_nothing_known_is_refused_by_row_and_column(
    truth: object, cells: dict[str, str], message: str
) -> None:
    row = dict(truth.SET.built_in[0]) | cells  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=message):
        list(truth.SET.compare([row]))  # type: ignore[attr-defined]


def test_tables_in_other_units_are_compared_in_seconds_and_joules() -> None:
    """2 frames a second at 50 mJ each are 0.5 s and 0.05 J; 40 ms are 0.04 s; NeuroSim's 133.91 us and 1.274 uJ."""
    (gap8,) = gap8_mobilenets.SET.compare([{"network": "MobileNet V1 128 0.25", "fps": "2", "energy_mj": "50"}])
    assert (gap8.measured, gap8.energy_measured_j) == pytest.approx((0.5, 0.05))
    (board,) = boards.SET.compare([dict(boards.SET.built_in[0]) | {"ms": "40"}])
    assert board.measured == pytest.approx(0.04)
    (first, *_) = (row for row in cim.ROWS if row["kind"] == "layer")
    assert (float(first["seconds"]), float(first["joules"])) == pytest.approx((133.91e-6, 1.274e-6))


def test_published_figures_become_seconds_and_joules() -> None:
    """ISAAC's 41.3 TOPS at 65.8 W: 10^12 operations in 1/41.3 s with 1.593 J. VGG-8's 95.42 us leak 5.48 mW beside
    56.62 uJ: 57.14 uJ. NeuRRAM's 2.12 TOPS at 43.1 TOPS/W."""

    def found(kind: str, name: str) -> tuple[float, float]:
        row = next(row for row in cim.ROWS if (row["kind"], row["name"]) == (kind, name))
        return float(row["seconds"]), float(row["joules"])

    assert found("peak", "isaac") == pytest.approx((1 / 41.3, 65.8 / 41.3))
    assert found("vgg8", "rram") == pytest.approx((95.42e-6, 57.143e-6), rel=1e-4)
    assert found("point", "neurram") == pytest.approx((1 / 2.12, 1 / 43.1))


def test_neurosims_layers_are_convolutions_without_padding() -> None:
    """It pads nothing, so a window of the filter's side fits as often as there are outputs."""
    for inp, out, _, _, side, *_ in cim.LAYERS:
        assert inp - side + 1 == out


@pytest.mark.parametrize(("cell", "what"), [("1.5", "whole numbers"), ("0", "whole numbers"), ("", "whole numbers")])
def test_a_layer_of_odd_size_is_refused(cell: str, what: str) -> None:
    with pytest.raises(InputError, match=f"row 1.*prob.K|K.*{what}"):
        list(gemmini_rtl.SET.compare([GEMM | {"prob.K": cell, "target.gemmini_cycle": "900"}]))


def test_repeats_of_a_measured_layer_are_one_row() -> None:
    """900 and 1,100 cycles of one layer in one tiling are 1,000; the array of 16 x 16 takes at least a cycle for each
    of 16 rows in each of 2 x 4 blocks."""
    rows = [GEMM | {"target.gemmini_cycle": cycles} for cycles in ("900", "1100")]
    (found,) = gemmini_rtl.SET.compare(rows)
    assert found.measured == 1000 and found.ours > 16 * 2 * 4
    assert found.label == "row 1, gemm, side 16"


def test_rows_of_one_array_run_on_one_array() -> None:
    """A mapping that needs 4 x 4 PEs runs on such an array, unless the library's own runs stand beside it: those come
    from one chip, the largest that any row needs and at least 16 x 16."""
    small = GEMM | {"mapping.mapping": "L3[WIO] K2 - L2[WI] K4 K4X - L1[O] C16 C4X P16 - L0[W] N1"}
    small |= {"target.gemmini_cycle": "5000"}
    beside = small | {"dse.auto_tiling": "1_1_16_1_64_32_1", "target.gemmini_auto_cycle": "1500"}
    (alone,), (chip,) = gemmini_rtl.SET.compare([small]), gemmini_rtl.SET.compare([beside])
    assert (alone.label, chip.label) == ("row 1, gemm, side 4", "row 1, gemm, side 16")
    assert alone.ours > chip.ours


def test_many_rows_are_spread_over_processes_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        GEMM | {"prob.P": str(p), "mapping.mapping": GEMM["mapping.mapping"].replace("P16", f"P{p}")}
        for p in (64, 16, 256)
    ]
    rows = [row | {"target.gemmini_cycle": "1000"} for row in rows]
    alone = [row.ours for row in gemmini_rtl.SET.compare(rows)]
    monkeypatch.setattr(gemmini_rtl, "FEW", 0)
    assert [row.ours for row in gemmini_rtl.SET.compare(rows)] == alone
    assert alone[1] < alone[0] < alone[2]  # more rows of the product take longer


# ------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column a, b; these are needed: a, b"),
        ("a,b\n", "has no rows"),
        ("a,b,a\n1,2,3\n", ":1: column 'a' stands there twice"),
        ("a,b\n1,2\n\n3\n", ":4: found 1 values; the first line names 2"),
        ("a,b\n1,2,3\n", ":2: found 3 values; the first line names 2"),
        ('a,b\n"1,2\n', "is no CSV"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(path, ("a", "b"))


def test_a_table_may_have_more_columns_and_a_mark_of_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffb,c,a\n1,2,3\n", encoding="utf-8")
    table = read_table(path, ("a", "b"))
    assert table.rows == ({"b": "1", "c": "2", "a": "3"},) and table.lines == (2,)


# ------------------------------------------------------------------------------------------ what is claimed


def test_readme_says_what_the_benchmark_found() -> None:
    import truth as benchmark

    results = json.loads(benchmark.RESULTS.read_text())
    missing = [truth.name for truth in SETS if truth.name not in results]
    assert not missing, f"run benchmarks/truth.py {' '.join(missing)} --data DIR --json {benchmark.RESULTS} --readme"
    shown = benchmark.README.read_text(encoding="utf-8").split(benchmark.BEGIN)[1].split(benchmark.END)[0]
    assert shown == benchmark.readme_table(results)


def test_no_set_claims_more_than_the_benchmark_found() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "truth.json").read_text())
    for truth in SETS:
        assert round(100 * results[truth.name]["mape"], 1) <= round(100 * truth.claim_mape, 1), truth.name


def test_neurosims_bandwidths_are_those_that_the_benchmark_fits() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "cim.json").read_text())["per_layer"]
    assert (found["tile_buffer_bytes_per_cycle"], found["h_tree_lane_bytes_per_cycle"]) == cim.V14_FITTED
    assert round(found["energy_scale"], 3) == cim.V14_ENERGY


def test_boards_rows_come_with_cosoc() -> None:
    with (ROOT / "sim" / "truth" / "boards.csv").open(newline="") as file:
        assert boards.SET.built_in == tuple(csv.DictReader(file))

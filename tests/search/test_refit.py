"""A SoC file refitted to what was timed: the optimum in closed form, ranges kept, the rest of the file untouched."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from cosoc.search.refit import NOISE, PRIOR, _folds, open_figures, refit, renamed
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, load_soc, soc_folder, soc_ranges
from cosoc.sim.truth.own import compared, own_rows

# DIANA without a word about its figures, so that a test says itself which are open.
PLAIN = re.sub(r" +#.*", "", (soc_folder() / "diana.yaml").read_text())
CLOCK = "tick_hz: 260_000_000"
ROWS = ("digits_cnn,all_8bit,serial", "digits_cnn,all_8bit,overlapped", "resnet8,all_8bit,serial",
        "resnet8,all_ternary,overlapped")  # fmt: skip


def chip(folder: Path, line: str, comment: str) -> Path:
    """DIANA with one comment."""
    assert line in PLAIN
    path = folder / "chip.yaml"
    path.write_text(PLAIN.replace(line, f"{line}  # {comment}", 1))
    return path


def timed(folder: Path, factor: float, energy: float | None = None, n: int = len(ROWS)) -> tuple[Path, list]:  # type: ignore[type-arg]
    """What DIANA takes, times a factor: a table of rows, and the rows read."""
    cells = [dict(zip(("workload", "mapping", "runtime"), row.split(","), strict=True)) for row in ROWS[:n]]
    found = [compared(row, find_soc("diana")) for row in own_rows([c | {"seconds": "1", "joules": "1"} for c in cells])]
    for one, row in zip(found, cells, strict=True):
        row["seconds"] = repr(one.ours * factor)
        row["joules"] = "" if energy is None else repr((one.energy_ours_j or 0) * energy)
    path = folder / "rows.csv"
    path.write_text("\n".join([",".join(cells[0]), *(",".join(row.values()) for row in cells)]) + "\n")
    return path, own_rows(cells)


def test_a_clock_is_found_where_the_closed_form_has_it(tmp_path: Path) -> None:
    """Every time is inversely proportional to the clock. If all n were measured 0.8 times as long as simulated, the
    most probable logarithm of the clock's change is n d / (n + (NOISE / PRIOR)^2) with d = log(1 / 0.8), and a fit to
    n - 1 of them is out by exp(d - its own) - 1 on the one left out."""
    table, rows = timed(tmp_path, 0.8)
    found = refit(str(chip(tmp_path, CLOCK, "fitted: by hand")), rows, table)
    d, weight = math.log(1 / 0.8), (NOISE / PRIOR) ** 2

    def change(n: int) -> float:
        return n * d / (n + weight)

    ((figure, value),) = found.figures
    assert figure.path == "tick_hz"
    assert value == pytest.approx(260e6 * math.exp(change(len(rows))), rel=1e-6)
    assert found.before.times.mape == pytest.approx(1 / 0.8 - 1)
    assert found.after.times.mape == pytest.approx(math.exp(d - change(len(rows))) - 1, rel=1e-4)
    assert found.left_out is not None
    assert found.left_out.times.mape == pytest.approx(math.exp(d - change(len(rows) - 1)) - 1, rel=1e-4)


def test_a_figure_stays_within_its_range(tmp_path: Path) -> None:
    table, rows = timed(tmp_path, 0.8)
    path = chip(tmp_path, CLOCK, "assumed, 250_000_000 .. 280_000_000: as its like")
    ((_, value),) = refit(str(path), rows, table).figures
    assert value == 280e6


def test_energies_are_fitted_beside_times(tmp_path: Path) -> None:
    """Energies 1.2 times what is simulated, times as they are: the base power goes up, and no time changes. It is not
    all of the energy, so no value of it meets every row."""
    table, rows = timed(tmp_path, 1.0, energy=1.2)
    line = re.search(r"^base_power_mw: .*$", PLAIN, re.M)
    assert line
    found = refit(str(chip(tmp_path, line[0], "fitted: by hand")), rows, table)
    ((figure, value),) = found.figures
    assert value > figure.value
    assert found.before.energies is not None and found.after.energies is not None and found.left_out is not None
    assert found.before.energies.mape == pytest.approx(1 - 1 / 1.2)
    assert 0 < found.after.energies.mape < found.before.energies.mape
    assert found.before.times.mape == pytest.approx(0, abs=1e-9) and found.after.times == found.before.times


def test_the_file_is_the_one_read_but_for_what_was_fitted(tmp_path: Path) -> None:
    table, rows = timed(tmp_path, 0.8)
    path = chip(tmp_path, CLOCK, "assumed, 200_000_000 .. 400_000_000: as its like")
    found = refit(str(path), rows, table)
    out = tmp_path / "mine.yaml"
    out.write_text(renamed(found.text, out))
    old, new = path.read_text().splitlines(), out.read_text().splitlines()
    head = [line for line in new if line.startswith(("# Refitted by cosoc", "# mean error"))]
    assert len(head) == 2 and "rows.csv (4 rows, sha256 " in head[0] and "of rows left out" in head[1]
    kept = [line for line in new if line not in head]
    changed = [(a, b) for a, b in zip(old, kept, strict=True) if a != b]
    (_, name), (_, now) = changed
    assert name == "name: mine"
    assert re.fullmatch(
        r"tick_hz: \d+ +# fitted, 200000000 \.\. 400000000: to rows.csv, was 260_000_000: as its like", now
    )
    assert load_soc(out).tick_hz == found.figures[0][1]
    assert {one.path for one in open_figures(out.read_text(), soc_ranges(str(out)))} == {
        "tick_hz"
    }  # and it may be refitted again


def test_what_no_row_depends_on_is_named_and_left(tmp_path: Path) -> None:
    """digits_cnn on the digital array never feeds the analog one."""
    table, rows = timed(tmp_path, 0.8, n=2)
    path = chip(tmp_path, CLOCK, "fitted: by hand")
    text = path.read_text()
    feed = text.index("bytes_per_period:", text.index("analog_feed:"))
    end = text.index("\n", feed)
    path.write_text(f"{text[:end]}  # fitted: by hand{text[end:]}")
    found = refit(str(path), rows, table)
    assert [one.path for one in found.idle] == ["links.analog_feed.bytes_per_period"]
    assert [one.path for one, _ in found.figures] == ["tick_hz"]


def test_a_single_row_leaves_none_out(tmp_path: Path) -> None:
    table, rows = timed(tmp_path, 0.8, n=1)
    found = refit(str(chip(tmp_path, CLOCK, "fitted: by hand")), rows, table)
    assert found.left_out is None and "none left out" in found.text


def test_every_row_is_left_out_once() -> None:
    for n in (2, 10, 11, 25):
        assert sorted(i for fold in _folds(n) for i in fold) == list(range(n))


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("published: it is known", "nothing in it may be refitted"),
        ("assumed, 300_000_000 .. 400_000_000: wrong", "tick_hz.* its range"),
    ],
)
def test_a_file_that_cannot_be_refitted_is_refused(tmp_path: Path, comment: str, message: str) -> None:
    table, rows = timed(tmp_path, 0.8, n=1)
    with pytest.raises(InputError, match=message):
        refit(str(chip(tmp_path, CLOCK, comment)), rows, table)


def test_figures_on_which_no_row_depends_are_refused(tmp_path: Path) -> None:
    """The base power moves energies, and no row has one."""
    table, rows = timed(tmp_path, 0.8, n=1)
    path = tmp_path / "chip.yaml"
    path.write_text(re.sub(r"^(base_power_mw: .*)$", r"\1  # fitted: by hand", PLAIN, flags=re.M))
    with pytest.raises(InputError, match="no row depends on what may be refitted: base_power_mw"):
        refit(str(path), rows, table)

"""`cosoc validate` and `cosoc calibrate SOC --measured`: what they print, write and refuse."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cosoc import validation as validate
from cosoc.sim.truth import SETS, cim, diana, gemmini_rtl
from cosoc.sim.truth.compared import Compared, Published, TruthSet

Run = Callable[..., tuple[int, str, str]]
EVIL = "</script><b>x"


def made_up(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Rows that state what is said of them: no simulation, so that figures are known."""
    for row in rows:
        joules = (2.0, 3.0) if row["joules"] else (None, None)
        peers = {"Theirs": float(row["theirs"])} if row["theirs"] else {}
        yield Compared(row["label"], float(row["measured"]), float(row["ours"]), *joules, peers=peers)


def row(label: str, measured: float, ours: float, joules: str = "", theirs: str = "") -> dict[str, str]:
    return {"label": label, "measured": str(measured), "ours": str(ours), "joules": joules, "theirs": theirs}


COLUMNS = ("label", "measured", "ours", "joules", "theirs")
KNOWN = TruthSet(
    "known", "s", COLUMNS, "Made up.", "one figure", 0.2, made_up,
    (row("a", 100, 110, "yes", "130"), row(EVIL, 200, 180), row("c", 400, 560)),
    (Published("Another", 0.25, "their paper"),),
)  # fmt: skip
AWAY = replace(KNOWN, name="away", built_in=(), columns=(*COLUMNS, "more"), how_to_get="their repository")


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "SETS", (KNOWN, AWAY))


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.usefixtures("sets")
def test_one_table_says_the_errors_and_what_they_are_to_be_taken_with(run: Run) -> None:
    """+10, -10 and +40 %: 20 % mean, 10 % median, one row beyond 30 %. The other set is not at hand."""
    status, out, err = run("validate")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["set", "rows", "mean", "median"]
    assert lines[1].split()[:4] == ["known", "3", "20.0%", "10.0%"] and lines[1].count("20.0%") == 2  # and claimed
    assert "50.0%" in lines[1]  # energy: 3 J for 2
    assert "Another 25.0%" in lines[1]  # better than the 30 % of the rows' peer
    assert "fitted: one figure" in out and "Another: 25.0% on their paper" in out
    assert "rows beyond 30%: 1 of 3" in out and "c: 560 s, measured 400 (+40%)" in out
    assert "not at hand: away takes columns label" in out and "to be had from their repository" in " ".join(out.split())
    assert "validated" in err


@pytest.mark.usefixtures("sets")
def test_json_has_exactly_what_is_promised(run: Run, tmp_path: Path) -> None:
    assert run("validate", "--json", tmp_path / "o.json", "--quiet") == (0, "", "")
    found = json.loads((tmp_path / "o.json").read_text())
    assert list(found) == ["known"]
    assert set(found["known"]) == {"n", "mape", "median", "spearman", "energy", "rows"}
    assert set(found["known"]["energy"]) == {"n", "mape", "median", "spearman"}
    assert found["known"]["n"] == 3 and found["known"]["mape"] == pytest.approx(0.2)
    assert found["known"]["rows"][0] == {
        "label": "a", "measured": 100, "ours": 110, "energy_measured_j": 2, "energy_ours_j": 3,
        "peers": {"Theirs": 130},
    }  # fmt: skip
    assert set(found["known"]["rows"][2]) == {"label", "measured", "ours"}


@pytest.mark.usefixtures("sets")
def test_the_page_has_every_row_and_none_becomes_markup(run: Run, tmp_path: Path) -> None:
    assert run("validate", "known", "--html", tmp_path / "o.html", "--quiet")[0] == 0
    page = (tmp_path / "o.html").read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data and EVIL not in page
    (section,) = json.loads(data[1])["charts"]
    assert [line[0] for line in section["rows"]] == ["c", EVIL, "a"]  # the farthest first
    assert [len(series["points"]) for series in section["charts"][0]["series"]] == [3, 1]  # ours, the peer's


def test_an_error_above_the_one_claimed_is_status_1_and_the_files_are_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "SETS", (replace(KNOWN, claim_mape=0.199), AWAY))
    status, out, err = run("validate", "--json", tmp_path / "o.json")
    assert status == 1
    assert "the error is above the 19.9% that is claimed" in out
    assert err.splitlines()[-1] == "above the error that is claimed: known"
    assert (tmp_path / "o.json").exists()


@pytest.mark.usefixtures("sets")
def test_rows_from_a_file_take_the_place_of_those_built_in(run: Run, tmp_path: Path) -> None:
    """A file of a set that is named, or whose columns tell it."""
    file = write(tmp_path / "x.csv", [row("d", 100, 101)])
    for words in (["known"], []):
        assert run("validate", *words, "--data", file, "--json", tmp_path / "o.json", "-q")[0] == 0
        found = json.loads((tmp_path / "o.json").read_text())
        assert [one["label"] for one in found["known"]["rows"]] == ["d"]
    more = write(tmp_path / "y.csv", [row("d", 100, 101) | {"more": ""}])
    status, _, err = run("validate", "--data", more)
    assert status == 2 and "its columns are those of 2 sets; name one of known, away" in err


@pytest.mark.usefixtures("sets")
def test_a_folder_has_a_folder_for_each_set_or_the_tables_themselves(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "data" / "away" / "train.csv", [row("e", 100, 101) | {"more": "1"}])
    write(tmp_path / "flat" / "train.csv", [row("f", 100, 101) | {"more": "1"}])
    for folder, labels in (("data", {"known": "a", "away": "e"}), ("flat", {"known": "f", "away": "f"})):
        assert run("validate", "--data", tmp_path / folder, "--json", tmp_path / "o.json", "-q")[0] == 0
        found = json.loads((tmp_path / "o.json").read_text())
        assert {name: one["rows"][0]["label"] for name, one in found.items()} == labels


@pytest.mark.usefixtures("sets")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "no set named 'nothing'; there is known, away; rows of your own need --soc SOC"),
        (["away"], "away: no rows come with cosoc; away takes columns"),
        (["away", "--data", "."], "away: nothing in .; away takes columns"),
        (["known", "--data", "none.csv"], "none.csv: no such file"),
        (["known", "--soc", "diana", "--data", "x.csv"], "--soc is for rows of your own"),
        (["--soc", "diana"], "--soc is for rows of your own"),
        (["known", "--set", "tick_hz=1"], "--set: goes with --soc"),
        (["--json", "o", "--html", "o"], "--json and --html both name o"),
    ],
)
def test_what_cannot_be_validated_is_said_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("validate", *words)
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_bad_row_is_named_with_its_file(run: Run, tmp_path: Path) -> None:
    rows = [dict(cim.SET.built_in[0]), dict(cim.SET.built_in[1]) | {"seconds": "soon"}]
    status, _, err = run("validate", "cim", "--data", write(tmp_path / "x.csv", rows), "-q")
    assert status == 2
    assert "x.csv: row 2, seconds: found 'soon'; a positive number is needed" in err and err.count("\n") == 1


def test_ctrl_c_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
        yield Compared("a", 1, 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(validate, "SETS", (replace(KNOWN, compare=interrupted),))
    status, out, err = run("validate", "--json", tmp_path / "o.json", "-q")
    assert (status, out, err) == (130, "", "interrupted; nothing was written\n")
    assert not list(tmp_path.iterdir())


def test_real_sets_are_found_by_their_columns() -> None:
    """No two sets have columns of which one's are among the other's: a file tells which it is."""
    stated = [(truth.name, set(truth.columns)) for truth in SETS if truth.columns]
    assert not [(a, b) for a, mine in stated for b, theirs in stated if a != b and mine <= theirs]
    assert {"gemmini_rtl", "diana", "cim"} <= {name for name, _ in stated}
    assert gemmini_rtl.SET in SETS and diana.SET in SETS


# ------------------------------------------------------------------------------------------ rows of one's own


ROWS = ("digits_cnn,all_8bit,{},,serial,1,me", "digits_cnn,all_8bit,{},1e-6,,4,")


def own(folder: Path, *seconds: float) -> Path:
    path = folder / "rows.csv"
    lines = [line.format(value) for line, value in zip(ROWS, seconds, strict=False)]
    path.write_text("\n".join(["workload,mapping,seconds,joules,runtime,batch,source", *lines]) + "\n")
    return path


def test_own_rows_are_simulated_as_simulate_does(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    assert run("validate", "--soc", "diana", "--data", own(tmp_path, 1e-3, 4e-3), "--json", out, "-q")[0] == 0
    rows = json.loads(out.read_text())["diana"]["rows"]
    for words, found in ((["--runtime", "serial"], rows[0]), (["--batch", "4"], rows[1])):
        run("simulate", "diana", "digits_cnn", "--mapping", "all_8bit", *words, "--json", tmp_path / "s.json", "-q")
        alone = json.loads((tmp_path / "s.json").read_text())
        assert found["ours"] == alone["seconds"]
    assert rows[1]["energy_measured_j"] == 1e-6 and rows[1]["energy_ours_j"] == alone["energy_j"]
    assert [found["label"] for found in rows] == ["digits_cnn, all_8bit, serial", "digits_cnn, all_8bit, batch 4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workload,mapping,seconds,volts\nresnet8,default,1,1\n", "volts: found 'volts'; no such column is known"),
        ("workload,mapping,seconds\nresnet9,default,1\n", "rows.csv: row 1, workload: "),
        ("workload,mapping,seconds\nresnet8,mine,1\n", "rows.csv: row 1, mapping: "),
        ("workload,mapping,seconds\nresnet8,default,0\n", "rows.csv: row 1, seconds: found '0'"),
        ("workload,mapping,seconds,batch\nresnet8,default,1,1.5\n", "row 1, batch: found '1.5'; a whole number"),
        ("workload,mapping\nresnet8,default\n", "rows.csv: has no column seconds"),
    ],
)
@pytest.mark.parametrize("command", [["validate", "--soc", "diana", "--data"], ["calibrate", "diana", "--measured"]])
def test_own_rows_are_read_strictly(run: Run, tmp_path: Path, command: list[str], text: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    status, out, err = run(*command, path, "-q")
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_a_soc_is_refitted_and_the_new_file_is_nearer(run: Run, tmp_path: Path) -> None:
    """A board that takes twice as long to start a kernel as the file says, on networks so small that this is most of
    their time: the fit moves towards what made the rows, and what it writes is a SoC that validates better."""
    truth = tmp_path / "truth.json"
    path = tmp_path / "rows.csv"
    lines = []
    for network in ("resnet8", "digits_cnn", "dscnn"):
        slow = ("--set", "cores.cpu.runtimes.ncnn.kernel_cycles=23400")
        run("simulate", "rpi5", network, *slow, "--json", truth, "-q")
        lines.append(f"{network},default,{json.loads(truth.read_text())['seconds']}")
    path.write_text("\n".join(["workload,mapping,seconds", *lines]) + "\n")
    out, mine = tmp_path / "r.json", tmp_path / "mine.yaml"
    status, said, _ = run("calibrate", "rpi5", "--measured", path, "-o", mine, "--json", out)
    assert status == 0 and "left out" in said
    found = json.loads(out.read_text())
    assert found["after"]["mape"] < 0.5 * found["before"]["mape"] and found["left_out"]["mape"] > 0
    figure = found["figures"]["cores.cpu.runtimes.ncnn.kernel_cycles"]
    assert 11_700 == figure["was"] < figure["is"] < 23_400
    run("validate", "--soc", mine, "--data", path, "--json", out, "-q")
    assert json.loads(out.read_text())["mine"]["mape"] == pytest.approx(found["after"]["mape"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "mine.json"], "--out mine.json: a SoC file is written; give a name that ends in .yaml"),
        (["--set", "tick_hz=1"], "--set: means nothing with SOC and --measured"),
        (["--samples", "3"], "--samples: means nothing with SOC and --measured"),
    ],
)
def test_what_a_refit_has_no_use_for_is_refused(run: Run, tmp_path: Path, words: list[str], message: str) -> None:
    status, out, err = run("calibrate", "diana", "--measured", own(tmp_path, 1e-3), *words)
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1

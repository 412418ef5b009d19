"""The command line as a user meets it: quick to answer, one line for every mistake, files whole or not at all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cosoc import __version__
from cosoc.sim.files.catalog import find_soc, load_soc, soc_folder
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.names import workload_folder
from cosoc.sim.files.workload_file import find_workload, load_workload

HEAVY = {"torch", "numba", "simpy", "matplotlib", "scipy", "sklearn"}

Run = Callable[..., tuple[int, str, str]]


# ------------------------------------------------------------------------------------------ speed, as modules loaded


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["simulate", "--help"],
        ["search", "--help"],
        ["export", "--help"],
        ["--version"],
        ["list"],
        ["show", "soc", "diana"],
        ["show", "workload", "resnet8"],
        ["show", "mapping", "diana", "resnet8"],
        ["show", "program", "diana", "digits_cnn"],
    ],
    ids=" ".join,
)
def test_what_needs_no_engine_loads_none(words: list[str]) -> None:
    """torch takes 4 s to import, pyplot 2 s, numba 1 s: what a command does not need it does not load."""
    code = (
        "import sys; from cosoc.cli import main; status = main(sys.argv[1:]); "
        "print(status, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    status, *loaded = done.stderr.split()
    assert status == "0"
    assert not HEAVY & set(loaded)


# ------------------------------------------------------------------------------------------ show and list


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"cosoc {__version__}\n", "")


def test_help_names_every_command(run: Run) -> None:
    status, out, _ = run()
    assert status == 0
    assert all(f"\n  {name} " in out for name in ("simulate", "calibrate", "search", "list", "show"))


def test_list_names_what_the_commands_take(run: Run) -> None:
    status, out, _ = run("list")
    names = out.split()
    assert status == 0
    assert {"diana", "resnet8", "resnet18_segment"} <= set(names)
    status, out, _ = run("list", "diana")
    assert status == 0
    assert {"all_8bit", "min_cost", "silicon"} <= set(out.split())


def test_a_shown_soc_is_the_same_soc(run: Run, tmp_path: Path) -> None:
    (tmp_path / "soc.yaml").write_text(run("show", "soc", "diana")[1])
    assert load_soc(tmp_path / "soc.yaml") == find_soc("diana")


def test_set_overrides_a_value_of_the_soc(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "soc.yaml"
    path.write_text(run("show", "soc", "diana", "--set", "links.analog_feed.bytes_per_period=64")[1])
    assert find_soc("diana").links["analog_feed"].bytes_per_period != 64
    assert load_soc(path).links["analog_feed"].bytes_per_period == 64


def test_a_shown_workload_is_the_same_workload(run: Run, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(run("show", "workload", "resnet8", "--yaml")[1])
    assert load_workload(tmp_path / "w.yaml") == find_workload("resnet8")


def test_a_workload_is_shown_with_its_sums(run: Run) -> None:
    """12.5 M MACs: MLPerf Tiny's image classification network."""
    _, out, _ = run("show", "workload", "resnet8")
    assert re.search(r"total +12,501,632 +77,706", out)
    assert all(len(line.rstrip()) <= 80 for line in out.splitlines())


def test_a_shown_mapping_is_complete_and_reads_back(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(run("show", "mapping", "diana", "resnet8", "--runtime", "overlapped")[1])
    network, soc = find_workload("resnet8"), find_soc("diana")
    mapping = load_mapping(tmp_path / "m.yaml", network, soc)
    assert mapping.runtime == "overlapped"
    assert list(mapping.layers) == [layer.name for layer in network]
    assert all(entry.is_tiled for entry in mapping.layers.values())


def test_a_program_is_shown_for_the_default_mapping(run: Run) -> None:
    status, out, _ = run("show", "program", "diana", "digits_cnn")
    assert status == 0
    assert out.startswith("program diana/digits_cnn/default tick_hz=260000000\n")


# ------------------------------------------------------------------------------------------ simulate

CONTRACT = (
    "soc", "workload", "mapping", "engine", "ticks", "tick_hz", "seconds", "energy_j", "by_layer", "by_unit",
    "by_server", "critical_path", "ops", "bursts", "wall_s",
)  # fmt: skip


def test_simulate_writes_what_it_was_asked_for(run: Run, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("r.json", "t.json", "g.png")}
    status, out, err = run(
        "simulate",
        "diana",
        "digits_cnn",
        "--json",
        files["r.json"],
        "--trace",
        files["t.json"],
        "--gantt",
        files["g.png"],
    )
    assert (status, err) == (0, "")
    assert "digits_cnn on diana, default, serial" in " ".join(out.split())
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    result = json.loads(files["r.json"].read_text())
    assert [key for key in CONTRACT if key not in result] == []
    assert (result["soc"], result["workload"], result["mapping"]) == ("diana", "digits_cnn", "default")
    assert result["seconds"] == result["ticks"] / result["tick_hz"]
    assert json.loads(files["t.json"].read_text())["traceEvents"]
    assert files["g.png"].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_quiet_leaves_the_files_only(run: Run, tmp_path: Path) -> None:
    assert run("simulate", "diana", "digits_cnn", "--json", tmp_path / "r.json", "-q") == (0, "", "")
    assert (tmp_path / "r.json").exists()


def test_two_inferences_in_a_row_take_twice_as_long(run: Run, tmp_path: Path) -> None:
    """In the serial runtime nothing of one inference overlaps with the next."""
    ticks = []
    for n in (1, 2):
        run("simulate", "diana", "digits_cnn", "--inferences", str(n), "--json", tmp_path / "r.json", "-q")
        ticks.append(json.loads((tmp_path / "r.json").read_text())["ticks"])
    assert ticks[1] == 2 * ticks[0]


def test_a_cluster_streams_inferences(run: Run, tmp_path: Path) -> None:
    """A thousand of them unless said; figures for a terminal, and the same as JSON. Both engines agree."""
    (tmp_path / "m.yaml").write_text(
        "stages:\n  - {device: gpu, behind: layer2.0.add, replicas: 2}\n  - {device: cpu, behind: fc, replicas: 4}\n"
    )
    words = ("simulate", "donna_hetero", "resnet8", "--mapping", tmp_path / "m.yaml", "--json", tmp_path / "r.json")
    status, out, err = run(*words)
    result = json.loads((tmp_path / "r.json").read_text())
    assert (status, err) == (0, "")
    text = " ".join(out.split())
    assert "resnet8 on donna_hetero, m, serial: 1,000 inferences, " in text and f"{result['throughput']:.5g}" in text
    assert f"The bottleneck is {result['bottleneck']}" in text
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    assert (result["cluster"], result["items"], result["steady"]) == ("donna_hetero", 1000, True)
    assert [(s["device"], s["replicas"], s["behind"]) for s in result["stages"]] == [
        ("gpu", 2, ["layer2.0.add"]),
        ("cpu", 4, ["fc"]),
    ]
    assert set(result["latency_s"]) == {"mean", "p50", "p95", "p99", "max"}
    assert all(0 < busy <= 1 for busy in result["utilisation"].values())
    found = []
    for engine in ("fast", "reference"):
        assert run(*words, "--inferences", "7", "--engine", engine, "-q") == (0, "", "")
        found.append(json.loads((tmp_path / "r.json").read_text()) | {"engine": ""})
    assert found[0] == found[1] and found[0]["items"] == 7 and not found[0]["steady"]


def test_a_cluster_of_one_s_own_is_a_cluster(run: Run, tmp_path: Path) -> None:
    """By its file, with a value of it overridden; the runtime of the option holds inside of the devices."""
    (tmp_path / "c.yaml").write_text("name: one\ndevices: {d: {soc: diana, count: 1}}\nlinks: {}\n")
    (tmp_path / "m.yaml").write_text("stages: [{device: d, behind: fc}]\n")
    seconds = {}
    for runtime in ("serial", "overlapped"):
        files = ("--mapping", tmp_path / "m.yaml", "--json", tmp_path / "r.json", "--runtime", runtime, "-q")
        assert run("simulate", tmp_path / "c.yaml", "resnet8", *files, "--set", "devices.d.soc=diana")[0] == 0
        result = json.loads((tmp_path / "r.json").read_text())
        assert result["runtime"] == runtime
        run("simulate", "diana", "resnet8", "--json", tmp_path / "r.json", "--runtime", runtime, "-q")
        alone = json.loads((tmp_path / "r.json").read_text())["seconds"]
        assert result["stages"][0]["seconds"] == alone
        seconds[runtime] = alone
    assert seconds["overlapped"] < seconds["serial"]


def test_engines_agree(run: Run, tmp_path: Path) -> None:
    results = []
    for engine in ("fast", "reference"):
        run("simulate", "diana", "digits_cnn", "--engine", engine, "--json", tmp_path / "r.json", "-q")
        results.append(json.loads((tmp_path / "r.json").read_text()))
    differing = {key for key in results[0] if results[0][key] != results[1][key]}
    assert differing <= {"engine", "wall_s"}


def test_a_mapping_file_may_state_the_runtime_and_an_option_overrides_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("runtime: overlapped\n")
    for options, runtime in ((), "overlapped"), (("--runtime", "serial"), "serial"):
        files = ("--mapping", tmp_path / "m.yaml", "--json", tmp_path / "r.json")
        run("simulate", "diana", "digits_cnn", *files, "-q", *options)
        assert json.loads((tmp_path / "r.json").read_text())["runtime"] == runtime


def test_devices_are_written_to_and_not_replaced(run: Run) -> None:
    assert run("simulate", "diana", "digits_cnn", "--json", "/dev/null", "-q")[0] == 0
    assert not Path("/dev/null").is_file()


def test_an_old_result_stays_where_the_new_one_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    assert run("simulate", "diana", "digits_cnn", "--mapping", "none", "--json", tmp_path / "r.json")[0] == 2
    assert (tmp_path / "r.json").read_text() == "old"


# ------------------------------------------------------------------------------------------ calibrate


def test_calibrate_writes_its_errors_and_the_estimate(run: Run, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "errors.json", "--out", tmp_path / "estimate.json")
    status, out, err = run("calibrate", "diana", "--samples", "60", "--seed", "1", *files)
    assert status == 0
    assert "60/60" in err  # progress goes to standard error
    assert "held out" in out
    held_out = json.loads((tmp_path / "errors.json").read_text())["held_out"]
    for kind in ("network", "layer"):
        assert {"mape", "p95", "spearman", "kendall"} <= set(held_out[kind])
        assert 0 <= held_out[kind]["mape"] <= held_out[kind]["p95"]
    saved = json.loads((tmp_path / "estimate.json").read_text())
    assert (saved["soc"], saved["samples"], saved["seed"]) == ("diana", 60, 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_too_few_samples_to_fit_are_refused(run: Run, tmp_path: Path) -> None:
    status, out, err = run("calibrate", "diana", "--samples", "2", "--quiet", "--out", tmp_path / "estimate.json")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--samples" in err
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ what the README says

README = (Path(__file__).parent.parent / "README.md").read_text()
# (language, title, text)
BLOCKS = re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', README, re.DOTALL | re.MULTILINE)
LINES = [line for _, _, block in BLOCKS for line in block.splitlines()]
COMMANDS = [line.partition(" #")[0].split()[1:] for line in LINES if line.startswith("cosoc ")]


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] in ("simulate", "list")], ids=" ".join)
def test_commands_of_the_readme(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """As they stand there; the user's own network is one of ours, and so is his ONNX file. What takes long says how far
    it is, and nothing else is on stderr."""
    monkeypatch.chdir(tmp_path)
    own = {"net:make_net": "cosoc.search.training.nets:resnet8"}
    status, out, err = run(*(own.get(word, word) for word in words))
    assert status == 0 and out
    assert all(re.match(r" *\d+ s  ", line) for line in err.splitlines()), err
    written = {word for word in words if word.startswith("out.") or word.endswith(".html")}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_python_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [text for language, title, text in BLOCKS if language == "python" and not title]
    exec(compile(code, "README.md", "exec"), {})
    summary, figures = capsys.readouterr().out.splitlines()
    ticks, seconds, energy_j = map(float, figures.split())
    assert f"({ticks:,.0f} ticks)" in summary
    assert seconds == ticks / 260e6
    assert energy_j > seconds * 8.81e-3  # DIANA's base power alone


# ------------------------------------------------------------------------------------------ mistakes in files

SOC = (soc_folder() / "diana.yaml").read_text()
WORKLOAD = (workload_folder() / "digits_cnn.yaml").read_text()
MAPPING = """\
runtime: serial
layers:
  conv1: {parts: {digital: 16}, tile: {k: {digital: 16}, oy: 8, ox: 8}}
  conv3: {parts: {digital: 16, analog: 16}}
pieces: []
"""

FILE_MISTAKES = [
    # malformed
    ("soc", "links:", "links: [", "expected"),
    ("workload", "layers:", "layers: {", "expected"),
    ("mapping", "pieces: []", "pieces: [", "expected"),
    # unknown key
    ("soc", "setup_cycles:", "setup_cycels:", "did you mean setup_cycles?"),
    ("workload", "fy: 3", "fz: 3", "unknown key"),
    ("mapping", "runtime: serial", "runtme: serial", "did you mean runtime?"),
    # missing key
    ("soc", "tick_hz: 260_000_000", "", "tick_hz: required key is missing"),
    ("workload", "outputs: [fc]", "", "outputs: required key is missing"),
    ("mapping", "{parts: {digital: 16}, tile", "{tile", "parts: required key is missing"),
    # duplicate key
    ("soc", "host: host", "host: host\nhost: host", "key given twice"),
    ("workload", "k: 16, c: 1", "k: 16, k: 16, c: 1", "key given twice"),
    ("mapping", "pieces: []", "pieces: []\npieces: []", "key given twice"),
    # out of range
    ("soc", "rows: 16 ", "rows: 0 ", "cores.digital.rows: found 0"),
    ("workload", "k: 16, c: 1", "k: 0, c: 1", "layers.0.k: found 0"),
    ("mapping", "oy: 8", "oy: 0", "found 0"),
    # wrong type
    ("soc", "rows: 16 ", "rows: sixteen ", "found 'sixteen'"),
    ("workload", "k: 16, c: 1", "k: [16], c: 1", "integer"),
    ("mapping", "runtime: serial", "runtime: fastest", "found 'fastest'"),
    # something that is not there
    ("soc", "host: host", "host: boss", "no core named 'boss'"),
    ("workload", "inputs: [conv2]", "inputs: [conv7]", "'conv7'"),
    ("mapping", "analog: 16}", "magic: 16}", "magic: diana has no such core"),
    ("mapping", "conv3", "conv9", "conv9: digits_cnn has no such layer"),
    # sizes that do not fit together
    ("soc", "reserved_bytes: 6144", "reserved_bytes: 999999999", "more than size_bytes"),
    ("workload", "k: 32, c: 16, oy: 4", "k: 32, c: 16, oy: 7", "found 7 outputs"),
    (
        "mapping",
        "{digital: 16, analog: 16}",
        "{digital: 16, analog: 15}",
        "sum to 31 output channels; the layer has 32",
    ),
    # infeasible
    ("mapping", "oy: 8, ox: 8", "oy: 9, ox: 8", "a tile spans 9 of oy, must be 1 to 8"),
    ("mapping", "pieces: []", "pieces: [[conv1, conv2]]", "goes row by row in its fused piece; leave out tile"),
]


@pytest.mark.parametrize(("kind", "found", "instead", "message"), FILE_MISTAKES)
def test_a_mistake_in_a_file(run: Run, tmp_path: Path, kind: str, found: str, instead: str, message: str) -> None:
    files = {"soc": SOC, "workload": WORKLOAD, "mapping": MAPPING}
    assert found in files[kind]
    files[kind] = files[kind].replace(found, instead, 1)
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    out_file = tmp_path / "out.json"
    places = [tmp_path / f"{name}.yaml" for name in ("soc", "workload")]
    status, out, err = run("simulate", *places, "--mapping", tmp_path / "mapping.yaml", "--json", out_file)
    assert (status, out) == (2, "")
    assert re.match(rf"{re.escape(str(tmp_path / kind))}\.yaml:\d+:\d+: [^\n]*{re.escape(message)}[^\n]*\n\Z", err), err
    assert not out_file.exists()
    assert len(list(tmp_path.iterdir())) == 3


def test_the_files_of_these_tests_are_right_without_the_mistakes(run: Run, tmp_path: Path) -> None:
    for name, text in (("soc", SOC), ("workload", WORKLOAD), ("mapping", MAPPING)):
        (tmp_path / f"{name}.yaml").write_text(text)
    places = [tmp_path / f"{name}.yaml" for name in ("soc", "workload")]
    assert run("simulate", *places, "--mapping", tmp_path / "mapping.yaml", "-q") == (0, "", "")


def test_a_machine_too_small_is_named_with_figure_and_bound(run: Run) -> None:
    """conv2 reads 16 channels of a 3x3 window and writes at least one byte: more than 128 bytes."""
    small = ("--set", "memories.l1.size_bytes=128", "--set", "memories.l1.reserved_bytes=0")
    status, out, err = run("simulate", "diana", "digits_cnn", *small)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert re.search(r"needs? \d+ bytes of l1, which has 128|\d+ bytes.*l1.*128", err)


def test_a_layer_that_nothing_can_run_is_named(run: Run, tmp_path: Path) -> None:
    """A host that only adds leaves the matrix product of two activations to nobody."""
    adder = "  host:\n    model: vector_unit\n    memory: l2\n    ops: [add]\n    lanes: 1\n    taps: 2\n"
    soc, replaced = re.subn(r"  host:\n    model: host_cpu\n(    .*\n)+", adder, SOC)
    assert replaced == 1
    product = "- {name: product, op: matmul, inputs: [fc, fc], k: 10, c: 1, iy: 10, oy: 10}\n"
    (tmp_path / "soc.yaml").write_text(soc)
    (tmp_path / "w.yaml").write_text(f"{WORKLOAD.rstrip()}\n{product}".replace("outputs: [fc]", "outputs: [product]"))
    status, out, err = run("simulate", tmp_path / "soc.yaml", tmp_path / "w.yaml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("layer product (matmul): no core of diana can run it: ")


# ------------------------------------------------------------------------------------------ mistakes in arguments


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulat"], "No such command"),
        (["simulate", "diana"], "Missing argument 'WORKLOAD'"),
        (["simulate", "diana", "digits_cnn", "--engine", "warp"], "'fast', 'reference'"),
        (["simulate", "diana", "digits_cnn", "--inferences", "0"], "greater than or equal to 1"),
        (["simulate", "diana", "digits_cnn", "--frobnicate"], "No such option: --frobnicate"),
        (["simulate", "diane", "digits_cnn"], "no SoC named 'diane'; there is agx_orin"),
        (["simulate", "none.yaml", "digits_cnn"], "none.yaml: no such file"),
        (["simulate", "diana", "digits"], "no workload named 'digits'; there is"),
        (["simulate", "diana", "digits_cnn", "--mapping", "best"], "no mapping named 'best'; there is default"),
        (["simulate", "diana", "digits_cnn", "--set", "tick_hz"], "PATH=VALUE is needed"),
        (["simulate", "diana", "digits_cnn", "--set", "link.l1.ports=2"], "has no 'link' there"),
        (["simulate", "diana", "digits_cnn", "--set", "links.l1.ports=-2"], "links.l1.ports: found -2"),
        (["simulate", "diana", "digits_cnn", "--input-shape", "1,1,8,8"], "has its own input shape"),
        (["simulate", "diana", "nets:make", "--input-shape", "1,x"], "whole numbers and commas"),
        (["simulate", "diana", "nets:make"], "needs an input shape"),
        (["simulate", "diana", "digits_cnn", "--json", "none/r.json"], "there is no folder none"),
        (["simulate", "diana", "digits_cnn", "--json", "."], "is a folder"),
        (["simulate", "diana", "digits_cnn", "--json", "a.png", "--gantt", "a.png"], "both name a.png"),
        (["simulate", "diana", "digits_cnn", "--gantt", "a.txt"], "ends in .png"),
        (["search", "diana", "digits_cnn", "--strengths", "1", "--target", "latency=1ms"], "exclude each other"),
        (["search", "diana", "digits_cnn", "--strengths", "1,x"], "numbers >= 0"),
        (["search", "diana", "digits_cnn", "--target", "latency=0ms"], "a positive number"),
        (["search", "diana", "digits_cnn", "--resume", "--out", "none"], "there is no run in none"),
        (["calibrate", "diana", "--samples", "0"], "greater than or equal to 1"),
    ],
)
def test_a_mistake_on_the_command_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    # the workload is wrong too: whichever is named was looked at first
    status, _, err = run("simulate", "diana", "none", "--json", tmp_path / "r.json")
    assert (status, err) == (2, f"--json {tmp_path / 'r.json'}: cannot be written: Permission denied\n")


def test_a_run_folder_in_use_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("mine")
    status, _, err = run("search", "diana", "digits_cnn", "--out", tmp_path)
    assert status == 2 and "is not empty; --resume goes on with it" in err
    assert (tmp_path / "result.json").read_text() == "mine"


# ------------------------------------------------------------------------------------------ what is nobody's mistake


@pytest.mark.slow
def test_ctrl_c_ends_cleanly(tmp_path: Path) -> None:
    """The reference engine on a large network, interrupted at work: one line, 130, no file."""
    words = ["simulate", "diana", "resnet18", "--engine", "reference", "--json", str(tmp_path / "r.json")]
    process = subprocess.Popen([sys.executable, "-m", "cosoc", *words], stderr=subprocess.PIPE, text=True)
    time.sleep(8)
    assert process.poll() is None, "it was done before it could be interrupted"
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "interrupted; nothing was written")
    assert not list(tmp_path.iterdir())


def test_several_networks_at_once(run: Run, tmp_path: Path) -> None:
    """The same as by the library: each network's time and energy, and all of it; the table names both."""
    file = tmp_path / "both.json"
    status, out, _ = run("simulate", "rpi4", "resnet8", "--with", "dscnn", "--json", str(file))
    assert status == 0
    assert "resnet8" in out and "dscnn" in out
    found = json.loads(file.read_text())
    assert set(found["networks"]) == {"resnet8", "dscnn"}
    assert found["seconds"] == max(one["ended_s"] for one in found["networks"].values())
    assert sum(one["energy_j"] for one in found["networks"].values()) == pytest.approx(found["energy_j"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--with", "dscnn", "--explain"), "--explain: means nothing with several networks at once"),
        (
            ("--with", "dscnn", "--period", "0"),
            "--period 0: one number of seconds, 1e-09 to 1e+06, is needed, or 2 with commas",
        ),
        (("--mapping-with", "default"), "--mapping-with: found 1 for 0 --with"),
        (("--with", "dscnn", "--with", "nobody"), "nobody"),
    ],
)
def test_wrong_words_for_several_networks(run: Run, words: tuple[str, ...], why: str) -> None:
    status, _, err = run("simulate", "rpi4", "resnet8", *words)
    assert status == 2
    assert why in err
    assert err.count("\n") == 1

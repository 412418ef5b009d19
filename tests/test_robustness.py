"""What the parts of benchmarks/robustness.py rest on, and what they found: planted faults are noticed, files are
replaced whole or not at all on a full disk, nothing in an input is run, and no name in it leads out of the run folder.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from cosoc.cli import main
from cosoc.search.campaigns.plan import Task
from cosoc.search.campaigns.store import Store
from cosoc.search.manifest import FORMAT, digest_of
from cosoc.search.runfolder import RunFolder
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import dump_workload, faults, find_workload
from cosoc.sim.machine.program import Builder, Program
from cosoc.sim.machine.trace import Trace
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.links import server_of
from cosoc.sim.simulate import engine_run, simulate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import kills  # noqa: E402
import metamorphic  # noqa: E402
import triples  # noqa: E402

# ------------------------------------------------------------------------------------------ triples


@pytest.mark.parametrize("number", [0, 1, 3, 5, 7, 9, 13])
def test_of_some_triples_everything_holds(number: int) -> None:
    assert triples.looked_at(number, seed=1, full=True)["violations"] == []


def test_random_graphs_are_networks() -> None:
    """As files have to be; and between them they have every operator."""
    graphs = [triples.random_graph(Random(seed)) for seed in range(60)]
    assert all(faults(graph) == [] for graph in graphs)
    ops = {layer.op for graph in graphs for layer in graph}
    assert ops == {*("conv", "matmul", "add", "max_pool", "avg_pool", "concat", "softmax", "norm", "eltwise", "resize")}


def _run() -> tuple[triples.Triple, Program, Trace]:
    soc, workload = find_soc("diana"), find_workload("digits_cnn")
    mapping = Mapping("all", "overlapped", {})
    result = simulate(soc, workload, mapping)
    full = triples.checked(mapping, workload, soc)
    return triples.Triple(soc, workload, full, "rule"), result.program, result.trace


def _less(program: Program, key: str, kind: str) -> Program:
    """The program with the op that does most of `key`, of its kind, doing half of it."""
    rows = program.rows.copy()
    rows[key][np.argmax(rows[key] * (rows["kind"] == triples.KINDS.index(kind)))] //= 2
    return replace(program, rows=rows)


FAULTS: dict[str, tuple[Callable[[Program, Trace], tuple[Program, Trace]], str]] = {
    "a load of half the bytes": (lambda p, t: (_less(p, "bytes", "load"), t), "bytes of load"),
    "a store of half the bytes": (lambda p, t: (_less(p, "bytes", "store"), t), "bytes of store"),
    "half of the weights": (lambda p, t: (_less(p, "bytes", "weights"), t), "bytes of weights"),
    "half of the work": (lambda p, t: (_less(p, "macs", "compute"), t), "MACs done of"),
    "a link that gains a tick": (lambda p, t: (p, replace(t, busy=t.busy + 1)), "bytes over its rate"),
    "a run of no time": (lambda p, t: (p, replace(t, makespan=1)), "the longest chain"),
    "a run that stands still": (lambda p, t: (p, replace(t, makespan=1 << 40)), "all ops one after the other"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(fault: str) -> None:
    triple, program, trace = _run()
    assert list(triples.violations(triple, program, trace)) == []
    plant, message = FAULTS[fault]
    assert any(message in text for text in triples.violations(triple, *plant(program, trace)))


def test_an_engine_that_is_a_tick_off_is_noticed() -> None:
    _, program, trace = _run()
    assert triples.engines_differ(program, trace) == ""
    assert triples.engines_differ(program, replace(trace, end=trace.end + 1)) == "end"


def test_a_fused_group_runs_where_its_results_stay_in_place() -> None:
    """Found by a triple: on a core that computes in the main memory there is no store to wait for, and each row waited
    for one. All rows of all layers on one core, one after the other, take at least what whole layers take."""
    soc, workload = find_soc("diana"), find_workload("digits_cnn")
    names = tuple(layer.name for layer in workload.layers[:2])
    layers = {layer.name: LayerPlan((Part("host", layer.k),)) for layer in workload.layers[:2]}
    plain = simulate(soc, workload, Mapping("plain", "overlapped", layers))
    fused = simulate(soc, workload, Mapping("fused", "overlapped", layers, (Piece(names),)))
    assert fused.ticks >= plain.ticks
    assert sum(part.macs for part in fused.by_layer) == workload.macs


def test_energies_beyond_counting_are_refused() -> None:
    """Found by a damaged SoC file: 10^30 pJ a MAC wrapped around. So would 2^28 MACs of one op at the most that a MAC
    may take."""
    with pytest.raises(InputError, match=r"access\.mac_pj: found 1e\+30: must be 0, or 1e-09 to 1e\+09 pJ"):
        find_soc("gemmini_firesim", {"cores.gemmini.access.mac_pj": "1e30"})
    large = {"memories.scratchpad.size_bytes": str(1 << 30), "memories.accumulator.size_bytes": str(1 << 30)}
    soc = find_soc("gemmini_firesim", {"cores.gemmini.access.mac_pj": "1e9"} | large)
    layer = Layer("fc", "conv", ("input",), 1 << 12, 1 << 12, 1, 1 << 10, 1, 1 << 10)
    with pytest.raises(
        InputError, match=r"energy at .* more than can be counted, .*: made by the keys in pj of access"
    ):
        simulate(soc, Workload("one", (1 << 12, 1, 1 << 10), (layer,), ("fc",)), Mapping("default", "overlapped", {}))


# ------------------------------------------------------------------------------------------ changes of known effect


@pytest.mark.parametrize("number", [1, 23, 26])
def test_changes_have_the_effect_that_is_known(number: int) -> None:
    """23 took 0.6 % more for two inferences than twice one, before the host worked off one after the other."""
    what, seen = metamorphic.looked_at(number, seed=0)
    assert [one for one in seen if one.violates] == [], what
    assert {"clocks", "text", "stream of 2"} <= {one.what for one in seen}


def test_a_change_beyond_what_is_known_is_noticed() -> None:
    Seen = metamorphic.Seen
    assert Seen("stream of 2", 1 + 1e-9, 1.0).violates and not Seen("stream of 2", 0.9, 1.0).violates
    assert Seen("clocks", 1 - 1e-9, exact=True).violates and not Seen("clocks", 1.0, exact=True).violates
    assert Seen("text", float("nan"), exact=True).violates and not Seen("order", 3.0).violates


@pytest.mark.parametrize("size", [64, 32, 16, 8, 4, 1])
def test_bursts_cost_their_beats(size: int) -> None:
    """A lone stream over DIANA's ports of 16 bytes a cycle, by hand: as many cycles as bursts, or beats of bursts."""
    soc = find_soc("diana")
    cycles = 4096 // size * max(1, size // 16)

    def streamed(burst: int) -> int:
        b = Builder("stream", soc.tick_hz)
        link = server_of(b, "l2_read", soc.links["l2_read"])
        b.op(b.unit("dma"), bytes=4096, burst=burst, route=(link,), kind="load")
        return int(engine_run("fast")(b.build(), ()).makespan)

    assert streamed(size) == cycles
    assert metamorphic.beats_cost(soc, "dma", size) >= cycles / streamed(soc.dma("dma").burst_bytes)


# ------------------------------------------------------------------------------------------ kills


def test_a_run_that_was_never_there_differs(tmp_path: Path) -> None:
    """The comparison of two searches sees a changed weight and a missing file."""
    for name in ("a", "b"):
        with RunFolder(tmp_path / name, {"epochs": 1}, resume=False) as folder:
            folder.finish("tune", {"accuracy": 0.5}, {"w": torch.ones(2)})
    assert kills.left("channels", tmp_path / "a") == kills.left("channels", tmp_path / "b")
    torch.save({"w": torch.tensor([1.0, 2.0])}, tmp_path / "b" / "weights" / "tune.pt")
    assert kills.left("channels", tmp_path / "a") != kills.left("channels", tmp_path / "b")
    (tmp_path / "b" / "weights" / "tune.pt").unlink()
    assert kills.left("channels", tmp_path / "a") != kills.left("channels", tmp_path / "b")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_processes_of_a_group_are_found() -> None:
    assert os.getpid() in kills.alive(os.getpgrp())


# ------------------------------------------------------------------------------------------ full disks


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond that: writing fails half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Kernels and fonts are in their caches before there is no room for them."""
    _run()


OUTPUTS = ("--json", "--trace", "--report", "--gantt")


@pytest.mark.parametrize("option", OUTPUTS)
def test_a_full_disk_leaves_the_old_result(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.png"
    path.write_text("old")
    with room_for(1500):
        status = main(["simulate", "diana", "digits_cnn", "--quiet", option, str(path)])
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"{path}: cannot be written: ")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "words",
    [*(["simulate", "diana", "digits_cnn", option] for option in OUTPUTS[:3])],
    ids=lambda words: " ".join(words[:1] + words[-1:]),
)
def test_a_device_that_is_full_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "/dev/full", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("/dev/full: cannot be written: No space left") and said.count("\n") == 1


def test_a_run_folder_on_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    """Each kind of file that a search writes: the message names it, the old one stays, no half of a new one does."""
    folder = RunFolder(tmp_path / "run", {"epochs": 1}, resume=False)
    small, large = {"w": torch.ones(2)}, {"w": torch.ones(9999)}
    folder.checkpoint("search", {"epoch": 1, "net": small})
    folder.finish("warm_up", {"accuracy": 1}, small)
    folder.log({"phase": "search", "epoch": 0})
    folder.checkpoint("search", {"epoch": 1, "net": small})
    before = {path.name for path in folder.path.rglob("*")}
    writes: list[Callable[[], None]] = [
        lambda: folder.checkpoint("search", {"epoch": 2, "net": large}),
        lambda: folder.finish("search", {}, large),
        lambda: folder.put("result", {"result.json": "1" * 9999}),
        lambda: folder.log({"phase": "search", "epoch": 1, "figures": "1" * 9999}),
    ]
    for write in writes:
        with room_for(4000), pytest.raises(InputError, match=r"cannot be written: .*what was finished before is"):
            write()
    assert {path.name for path in folder.path.rglob("*")} == before
    folder.close()
    with RunFolder(folder.path, {"epochs": 1}, resume=True) as again:
        state = again.restore("search")
        assert state is not None and state["epoch"] == 1
        assert again.finished("search") is None
        assert [entry["epoch"] for entry in again.metrics()] == [0]


def test_a_campaign_on_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    def task(name: str) -> Task:
        return Task("search", {"soc": "diana", "workload": name, "set": {}})

    path = tmp_path / "results.sqlite"
    store = Store(path, "the plan", resume=False)
    store.record(task("a"), {"result": {"content": {}}, "wall_s": 0.0})
    size = max(file.stat().st_size for file in tmp_path.iterdir())
    with room_for(size), pytest.raises(InputError, match=r"cannot be written: .*what it holds is intact"):
        store.record(task("b"), {"result": {"content": "x" * 99999}, "wall_s": 0.0})
    store.close()
    again = Store(path, "the plan", resume=True)
    assert [row["spec"]["workload"] for row in again.rows()] == ["a"]
    again.record(task("b"), {"result": {"content": {}}, "wall_s": 0.0})
    again.close()


# ------------------------------------------------------------------------------------------ folders that refuse

WRITERS = {
    "simulate": ["simulate", "diana", "digits_cnn", "--json", "{}/x.json"],
    "calibrate": ["calibrate", "diana", "--samples", "6", "--out", "{}/x.json"],
    "search": ["search", "diana", "digits_cnn", "--epochs", "1", "--out", "{}/run"],
    "search tiles": ["search", "gemmini", "resnet8", "--space", "tiles", "--out", "{}/run"],
    "search splits": ["search", "homogeneous_cpu_4", "vgg8", "--space", "splits", "--out", "{}/run"],
    "sweep": ["sweep", "{plan}", "--out", "{}/sweep"],
}


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize("how", ["file", "read-only"])
def test_a_folder_that_takes_nothing_is_refused_first(
    what: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any work: these end in a moment. Root may write where it is forbidden, a file is no folder for anybody."""
    if how == "read-only" and os.geteuid() == 0:
        pytest.skip("permissions do not stop root")
    place, plan = tmp_path / "place", tmp_path / "plan.yaml"
    plan.write_text("simulate: {soc: [diana], workload: [digits_cnn]}")
    if how == "file":
        place.write_text("mine")
    else:
        place.mkdir(mode=0o555)
    status = main([word.replace("{plan}", str(plan)).replace("{}", str(place)) for word in WRITERS[what]])
    out, said = capsys.readouterr()
    assert (status, out, said.count("\n")) == (2, "", 1)
    assert str(place) in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["place", "plan.yaml"]
    assert how == "read-only" or place.read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    ["sweep {}", "simulate {} digits_cnn", "simulate diana digits_cnn --mapping {}", "explain {}", "calibrate {}",
     "search diana digits_cnn --out {}", "search {} vgg8 --space splits", "simulate diana {}.yaml"],
)  # fmt: skip
def test_a_name_that_no_file_can_have_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.format("x" * 5000).split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "File name too long" in said


# ------------------------------------------------------------------------------------------ what inputs cannot do


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


RUNS_CODE = (
    *("pickle.load", "pickle.loads", "marshal.loads", "shelve.open", "joblib.load", "eval", "exec"),
    *("yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
)


def test_nothing_that_could_run_code_is_loaded() -> None:
    """Every call in the package that reads a format which can hold code says that it must not."""
    seen = 0
    for folder in ("sim", "search", "cosoc"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name, call in _calls(path):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                where = f"{path.relative_to(ROOT)}:{call.lineno}"
                if name == "torch.load":
                    assert keywords.get("weights_only") == "True", where
                    seen += 1
                assert name not in RUNS_CODE, where
                if name == "yaml.load":
                    assert "Safe" in ast.unparse(call), where
                if name in ("np.load", "numpy.load"):
                    assert keywords.get("allow_pickle", "False") == "False", where
    assert seen


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["checkpoint.pt", "weights/warm_up.pt"])
@pytest.mark.parametrize("known", [False, True])
def test_a_pickle_in_a_run_folder_is_not_run(name: str, known: bool, tmp_path: Path) -> None:
    """Laid there by somebody else; and even where the manifest was made to know it."""
    packed = pickle.dumps({"phase": "warm_up", "w": _Code(tmp_path / "it ran")})
    with RunFolder(tmp_path / "run", {"epochs": 1}, resume=False) as folder:
        folder.finish("warm_up", {}, {"w": torch.ones(2)})
        folder.checkpoint("tune", {"epoch": 1})
        if known:
            folder.put("warm_up", {name: packed})
    if not known:
        (folder.path / name).write_bytes(packed)

    def read() -> None:
        with RunFolder(folder.path, {"epochs": 1}, resume=True) as again:
            again.weights("warm_up")

    with pytest.raises(InputError, match="cannot be read back" if known else "is not what the run wrote"):
        read()
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("file", ["workload.yaml", "mapping.yaml", "soc.yaml", "plan.yaml", "config.yaml"])
def test_yaml_that_names_code_is_not_run(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "it ran"
    path = tmp_path / "run" / file
    path.parent.mkdir()
    path.write_text(f"name: !!python/object/apply:os.mkdir [{mark}]\n")
    if file == "config.yaml":
        entry = {"phase": "start", "sha256": [digest_of(path.read_bytes())]}
        (path.parent / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": {file: entry}}))
    words = {
        "workload.yaml": ["simulate", "diana", str(path)],
        "mapping.yaml": ["simulate", "diana", "digits_cnn", "--mapping", str(path)],
        "soc.yaml": ["simulate", str(path), "digits_cnn"],
        "plan.yaml": ["sweep", str(path), "--out", str(tmp_path / "sweep")],
        "config.yaml": ["explain", str(path.parent)],
    }
    assert main(words[file]) == 2
    faults = capsys.readouterr().err.splitlines()
    assert faults and all(file in fault for fault in faults)
    assert not mark.exists()


def _named(name: str) -> str:
    return dump_workload(replace(find_workload("resnet8"), name=name))


def test_a_name_in_a_file_does_not_lead_out_of_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that a command names itself, after a workload that calls itself ../../out."""
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    (inside / "net.yaml").write_text(_named("x/../../../../out"))
    words = ["search", "gemmini", "net.yaml", "--space", "tiles", "--time-budget", "0.1", "--quiet"]
    assert main(words) == 0
    made = {path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {("deep", "inside", "net.yaml"), ("deep", "inside", "runs")}
    (run,) = (inside / "runs").iterdir()
    assert (run / "result.json").is_file()


def test_a_name_in_a_result_does_not_lead_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`explain` reads workload and mapping from a result's JSON, whatever the mapping calls itself there."""
    result = tmp_path / "result.json"
    assert main(["simulate", "diana", "digits_cnn", "--quiet", "--json", str(result)]) == 0
    content = json.loads(result.read_text())
    for name in ("../../../out", "..", "a\x00b", "x" * 5000):
        content["mapping"] = name
        result.write_text(json.dumps(content))
        assert main(["explain", str(result)]) == 0
    assert list(tmp_path.iterdir()) == [result]
    assert main(["explain", str(tmp_path), "--point", "../result"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "damage", "message"),
    [
        ("compare {} {}", lambda content: content["by_layer"][0].pop("layer"), "is not a result as"),
        ("explain {}", lambda content: content["inputs"]["soc"]["memories"].pop("l1"), "no memory named 'l1'"),
    ],
)
def test_a_damaged_result_is_refused(
    command: str, damage: Callable[[Any], object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by damaging results at random."""
    result = tmp_path / "result.json"
    assert main(["simulate", "diana", "digits_cnn", "--quiet", "--json", str(result)]) == 0
    content = json.loads(result.read_text())
    damage(content)
    result.write_text(json.dumps(content))
    assert main(command.format(result, result).split()) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_external_data_of_an_onnx_file_is_not_opened(tmp_path: Path) -> None:
    """Weights whose location is a pipe that nobody fills: opening it would hang, and it is not. (One outside of the
    model's folder is refused: test_strangers.py.)"""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    weight = onnx.TensorProto(name="w", data_type=1, dims=[8, 3, 3, 3], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="pipe")
    shapes = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 8, 6, 6]))]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", shapes[:1], shapes[1:], [weight])
    path = tmp_path / "folder" / "net.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert find_workload(str(path)).macs == 8 * 3 * 3 * 3 * 6 * 6

"""Files that come from strangers: what they name is not run, what they are called is shown and not obeyed, and what
they would cost is bounded. Each test is an attack, with what it must not reach."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cosoc.output import put, reporting, say
from cosoc.search.campaigns.run import exposed
from cosoc.search.manifest import FORMAT, digest_of
from cosoc.search.runfolder import RunFolder
from cosoc.search.training import data
from cosoc.sim.errors import InputError
from cosoc.sim.files import yamlfile
from cosoc.sim.files.catalog import find_soc, load_soc
from cosoc.sim.files.mapping_file import dump_mapping, find_mapping
from cosoc.sim.files.workload_file import dump_workload, find_workload, load_workload
from cosoc.sim.files.yamlfile import read_json, read_plain
from cosoc.sim.model.workload import Workload
from cosoc.sim.report import render, run_page
from cosoc.sim.shown import shown
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import complete
from cosoc.sim.trust import VARIABLE, check_trusted, located, trusted, trusting

Say = Callable[..., tuple[int, str, str]]

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
  cpu: {model: MODEL, memory: l1}
"""
CLUSTER = """\
name: pair
devices: {one: {soc: chip.yaml, count: 2}}
links: {wire: {kind: ethernet_switch, between: [one], bytes_per_s: 1000, latency_ns: 1, message_ns: 1, burst_bytes: 1}}
"""


# ------------------------------------------------------------------------------------------ whose code runs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module that leaves a mark when it is imported, and a chip that names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("payload.py").write_text("open('it ran', 'w').close()\nclass Unit: pass\ndef net(): pass\n")
    Path("chip.yaml").write_text(CHIP.replace("MODEL", "payload:Unit"))
    yield tmp_path
    sys.modules.pop("payload", None)


def _result(folder: Path) -> Path:
    """A result whose SoC has a core of the stranger's."""
    soc, workload = find_soc("diana"), find_workload("digits_cnn")
    mapping = complete(find_mapping("default", workload, soc), workload, soc)
    inputs = {"soc": soc.model_dump(mode="json", by_alias=True, exclude_unset=True),
              "workload": dump_workload(workload), "mapping": dump_mapping(mapping)}  # fmt: skip
    inputs["soc"]["cores"]["simd"]["model"] = "payload:Unit"
    path = folder / "result.json"
    path.write_text(json.dumps({"inputs": inputs}))
    (folder / "run").mkdir()
    config = folder / "run" / "config.yaml"
    config.write_text(yaml.safe_dump({"soc": inputs["soc"]}))
    _fitted(config)
    return path


def _fitted(file: Path) -> None:
    """A manifest that was made to fit, as a stranger's would be."""
    entry = {"phase": "start", "sha256": [digest_of(file.read_bytes())]}
    (file.parent / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": {file.name: entry}}))


PLAN = "simulate: {{soc: [{}], workload: [{}]}}"
READERS = {
    "a SoC file": ["simulate", "chip.yaml", "digits_cnn"],
    "a cluster's device": ["simulate", "cluster.yaml", "digits_cnn", "--mapping", "any.yaml"],
    "a value of a SoC": ["show", "soc", "diana", "--set", "cores.simd.model=payload:Unit"],
    "a result, explained": ["explain", "result.json"],
    "a result, reported": ["report", "result.json", "--out", "page.html"],
    "a run's config.yaml": ["explain", "run"],
    "a plan's network": ["sweep", "nets.yaml", "--quiet"],
    "a plan's data": ["sweep", "data.yaml", "--quiet"],
}


@pytest.mark.parametrize("what", READERS)
def test_code_that_a_file_names_does_not_run(what: str, here: Path, run: Say) -> None:
    """Importing it leaves a mark. The message names the module and the file that would have run."""
    _result(here)
    Path("cluster.yaml").write_text(CLUSTER)
    Path("nets.yaml").write_text(PLAN.format("diana", "'payload:net'"))
    Path("data.yaml").write_text("search: {soc: [diana], workload: [digits_cnn], data: 'payload:net'}")
    status, out, said = run(*READERS[what])
    assert (status, out, said.count("\n")) == (2, "", 1)
    assert "payload is code, in " in said and str(here / "payload.py") in said and "--trust" in said
    assert not Path("it ran").exists()
    assert "payload" not in sys.modules


def test_code_that_a_plans_chip_names_does_not_run(here: Path, run: Say) -> None:
    """The plan is refused before anything of it runs."""
    Path("plan.yaml").write_text(PLAN.format("chip.yaml", "digits_cnn"))
    status, out, said = run("sweep", "plan.yaml", "--workers", "1")
    assert (status, out, said.count("\n")) == (2, "", 1)
    assert "payload is code, in " in said and not Path("it ran").exists() and not Path("sweep").exists()


def test_the_users_word_lets_it_run_for_that_command(here: Path, run: Say) -> None:
    status, _, said = run("show", "soc", "chip.yaml", "--trust")
    assert status == 2 and "payload:Unit is no core model" in said  # it was imported, and looked at
    assert Path("it ran").exists() and not trusted()
    assert run("show", "soc", "chip.yaml")[2].count("is code, in") == 1


def test_the_environments_word_is_the_same(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(InputError, match="payload:Unit is no core model"):
        load_soc(Path("chip.yaml"))
    monkeypatch.setenv(VARIABLE, "0")
    assert not trusted()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("os:system", "library"), ("test.autotest:x", "library"), ("sys:exit", "library"), ("idlelib.run:x", "library"),
        ("antigravity:x", "library"), ("xml.dom.minidom:parse", "library"), ("__main__:x", "running program"),
    ],
)  # fmt: skip
def test_pythons_own_library_is_never_run(name: str, what: str) -> None:
    """`test.autotest` runs CPython's tests when it is imported. Not even who trusts the file means that."""
    with trusting(), pytest.raises(InputError, match=f"{what}.* no file may have run"):
        check_trusted(name)


def test_to_look_for_a_module_is_not_to_run_it(here: Path) -> None:
    """Importing `package.inner` would run package/__init__.py first, and so would most ways to ask where it is."""
    for name in ("package", "package/inner"):
        Path(name).mkdir()
        Path(name, "__init__.py").write_text("open('it ran', 'w').close()")
    assert located("package.inner") == str(here / "package" / "inner" / "__init__.py")
    assert located("package.nothing") is None and located("nothing.at.all") is None
    assert not Path("it ran").exists() and "package" not in sys.modules


def test_a_network_on_the_command_line_is_the_users_word(here: Path, run: Say) -> None:
    Path("mine.py").write_text("import torch\ndef net(): return torch.nn.Linear(4, 2)\n")
    try:
        status, out, _ = run("show", "workload", "mine:net", "--input-shape", "1,4")
    finally:
        sys.modules.pop("mine", None)
    assert status == 0 and "net: 1 layers" in out


# ------------------------------------------------------------------------------------------ what names do to a terminal

HOSTILE = "\x1b[2J\x1b]0;mine\x07\r\n\x85\u202egnp.exe\u2028[/bold] [red]x :smile: $\\frac"


def _hostile() -> Workload:
    net = find_workload("digits_cnn")
    first, *rest = net.layers
    rest = [replace(layer, inputs=tuple(HOSTILE if n == first.name else n for n in layer.inputs)) for layer in rest]
    return replace(net, name=HOSTILE, layers=(replace(first, name=HOSTILE), *rest))


def _tame(text: str) -> bool:
    """Nothing but characters that stand for themselves, and ends of lines of our own."""
    return all(shown(line) == line for line in text.split("\n"))


@pytest.mark.parametrize(
    "words",
    ["show workload net.yaml", "simulate diana net.yaml", "simulate diana net.yaml --explain", "explain result.json",
     "compare result.json result.json", "show mapping diana net.yaml", "show program diana net.yaml",
     "show workload net.yaml --yaml"],
)  # fmt: skip
def test_names_are_shown_and_not_obeyed(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Say) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    Path("net.yaml").write_text(dump_workload(_hostile()))
    if "result" in words:
        assert run("simulate", "diana", "net.yaml", "--quiet", "--json", "result.json")[0] == 0
    status, out, said = run(*words.split())
    assert (status, said) == (0, "")
    assert _tame(out)
    assert "2J" in out  # the name is there


@pytest.mark.parametrize("key", ['"\\e[31mred"', '"\\u202e"', '"\\n\\r"'])
def test_an_unknown_key_is_shown_escaped(key: str, tmp_path: Path, run: Say) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(
        f"name: net\n{key}: 1\ninput: {{c: 1}}\noutputs: [a]\n"
        "layers: [{name: a, op: conv, inputs: [input], k: 1, c: 1}]\n"
    )
    status, _, said = run("simulate", "diana", path)
    assert status == 2 and said.count("\n") == 1 and _tame(said)


def test_messages_and_progress_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    with reporting(quiet=False) as progress:
        progress(1, 2, HOSTILE)
    put(HOSTILE)
    out, said = capsys.readouterr()
    assert _tame(out) and _tame(said)
    assert "\\x1b[2J" in out and "\\x1b[2J" in said


def test_long_names_cost_no_time_and_messages_end(tmp_path: Path, run: Say) -> None:
    """Rich's search for numbers to colour took minutes for the first; a message quoted all of the second."""
    (tmp_path / "map.yaml").write_text(f"name: {'9' * 50_000}\n")
    (tmp_path / "rows.csv").write_text(":" * 50_000)
    status, out, _ = run("simulate", "diana", "digits_cnn", "--mapping", tmp_path / "map.yaml")
    assert status == 0 and out.count("9") > 50_000
    status, _, said = run("calibrate", "--measured", tmp_path / "rows.csv")
    assert status == 2 and " characters) ... " in said and len(said) < 5000


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Code alone: an example in a docstring may print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(...)
    return tree


def test_only_one_place_writes_to_the_terminal() -> None:
    """So that what is escaped there is escaped everywhere: no print, console or stream of their own in what commands
    call."""
    root = Path(__file__).parents[1]
    own = {"output.py", "schema.py", "doctor.py", "nets.py"}  # the place; and writers of the project's own files
    files = [path for folder in ("cosoc", "sim", "search") for path in sorted((root / folder).glob("**/*.py"))]
    for path in files:
        code = ast.unparse(_without_docstrings(ast.parse(path.read_text(encoding="utf-8"))))
        for word in ("print(", "Console(", "sys.stdout", "sys.stderr", "rich.text", "rich.markup"):
            found = re.search(rf"(?<![\w.]){re.escape(word)}", code)
            assert path.name in own or not found, f"{path}: {word}"
    assert len(files) > 100


def test_a_layers_name_does_not_reach_into_the_page(tmp_path: Path, run: Say) -> None:
    """The template is filled once: what looks like its own mark, or like the end of a script, is a name like others."""
    name = "@DATA@</script><script>alert(1)</script><!--"
    net = find_workload("digits_cnn")
    first, *rest = net.layers
    rest = [replace(layer, inputs=tuple(name if n == first.name else n for n in layer.inputs)) for layer in rest]
    (tmp_path / "net.yaml").write_text(dump_workload(replace(net, layers=(replace(first, name=name), *rest))))
    page = tmp_path / "page.html"
    assert run("simulate", "diana", tmp_path / "net.yaml", "--quiet", "--report", page)[0] == 0
    text = page.read_text(encoding="utf-8")
    plain = run_page.page({"title": "x"})
    assert text.count("<script") == plain.count("<script") and text.count("</script") == plain.count("</script")
    content = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert content["run"]["layers"][0]["name"] == name


def test_a_formula_for_a_name_is_drawn_as_text(tmp_path: Path) -> None:
    """`$\\frac` alone is no formula, and drawing it as one fails."""
    net = _hostile()
    soc = find_soc("diana")
    result = simulate(soc, net, find_mapping("default", net, soc))
    render.gantt(result, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes()[:4] == b"\x89PNG"


# ------------------------------------------------------------------------------------------ what readers spend


def test_yaml_that_unfolds_is_refused_at_its_alias(tmp_path: Path, run: Say) -> None:
    """Nine levels of nine references each are 9^9 values; every reader of YAML stops at the first of them."""
    lines = ["a0: &a0 [x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    bomb = tmp_path / "run" / "config.yaml"
    bomb.parent.mkdir()
    bomb.write_text("\n".join(lines))
    _fitted(bomb)
    for words in (["simulate", bomb, "digits_cnn"], ["simulate", "diana", bomb], ["sweep", bomb],
                  ["simulate", "diana", "digits_cnn", "--mapping", bomb], ["explain", bomb.parent],
                  ["calibrate", bomb], ["search", bomb, "resnet8", "--space", "splits"]):  # fmt: skip
        status, _, said = run(*words)
        assert status == 2 and said.count("\n") == 1
        assert "config.yaml:2:" in said and "aliases are not supported" in said
    with pytest.raises(InputError, match="aliases are not supported"):
        RunFolder(bomb.parent, {}, resume=True)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "\n".join(" " * i + "a:" for i in range(500))])
def test_deep_yaml_is_refused_at_the_bound(text: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"deep.yaml:\d+:\d+: nested deeper than {yamlfile.MAX_DEPTH} levels"):
        read_plain(path)


def test_many_values_are_refused_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "MAX_VALUES", 1000)
    path = tmp_path / "many.yaml"
    path.write_text("[" + "0, " * 998 + "0]")  # with the list itself, a thousand
    assert read_plain(path) == [0] * 999
    path.write_text("[" + "0, " * 999 + "0]")
    with pytest.raises(InputError, match="1:2999: more than 1,000 values"):
        read_plain(path)


@pytest.mark.parametrize("text", ["9" * 100_000 + "x", "9" * 100_000, "1" * 5000 + "." + "1" * 5000 + "e"])
def test_long_numbers_are_text_and_cost_no_time(text: str, tmp_path: Path) -> None:
    """As numbers, the first takes a search of all the places where its digits could be cut, the second is more than
    Python converts."""
    path = tmp_path / "long.yaml"
    path.write_text(text)
    assert read_plain(path) == text
    path.write_text(f"name: net\ninput: {{c: {text}}}\noutputs: [a]\nlayers: []\n")
    with pytest.raises(InputError) as caught:
        load_workload(path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"a": ' * 100_000, "nested deeper than 64"), ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested deeper than 64"),
     ('{"a": ' + "9" * 9999 + "}", "is not JSON"), ("[]", "a JSON object is needed")],
)  # fmt: skip
def test_json_is_bounded_alike(text: str, said: str, tmp_path: Path, run: Say) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    tiles = ["search", "gemmini", "digits_cnn", "--space", "tiles", "--out", tmp_path / "run"]
    for words in (["explain", path], ["compare", path, path], [*tiles, "--estimate", path]):
        status, _, line = run(*words)
        assert status == 2 and said in line and line.count("\n") == 1
    with pytest.raises(InputError):
        read_json(path)


@pytest.mark.parametrize("words", ["calibrate --measured {}", "calibrate diana --measured {}"])
def test_a_field_beyond_what_a_table_has_is_refused(words: str, tmp_path: Path, run: Say) -> None:
    """Python's reader of CSV takes 131,072 characters a field."""
    path = tmp_path / "rows.csv"
    path.write_text("device,runtime,network,ms\n" + "x" * 200_000 + ",a,b,1\n")
    status, _, said = run(*words.format(path).split())
    assert status == 2 and said.count("\n") == 1 and "is no CSV: field larger than" in said


def _archive(path: Path, compression: int) -> None:
    """What torch.save makes, packed again."""
    packed = io.BytesIO()
    torch.save({"phase": "x", "w": torch.zeros(1 << 20)}, packed)
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def test_weights_that_unfold_are_refused(tmp_path: Path) -> None:
    """4 MB of zeros in 5 KB; and an archive whose entries share their bytes, which unpacks to more than it has."""
    folder = RunFolder(tmp_path / "run", {}, resume=False)
    folder.finish("tune", {}, {"w": torch.ones(3)})
    assert folder.weights("tune")["w"].tolist() == [1, 1, 1]
    file = tmp_path / "tune.pt"

    def read() -> dict[str, Any]:
        """As a run whose manifest was made to fit."""
        folder.put("tune", {"weights/tune.pt": file.read_bytes()})
        return folder.weights("tune")

    _archive(file, zipfile.ZIP_STORED)
    assert read()["phase"] == "x"
    _archive(file, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 20_000
    with pytest.raises(InputError, match=r"tune.pt: cannot be read back \(its \d+ entries unpack to 4,1"):
        read()
    _archive(file, zipfile.ZIP_STORED)
    content = file.read_bytes()
    directory = content.index(b"PK\x01\x02")
    first = content[directory : content.index(b"PK\x01\x02", directory + 4)]
    end = bytearray(content[content.rindex(b"PK\x05\x06") :])
    middle = content[directory : content.rindex(b"PK\x05\x06")] + first * 20
    end[8:10] = end[10:12] = (int.from_bytes(end[8:10], "little") + 20).to_bytes(2, "little")
    end[12:16] = len(middle).to_bytes(4, "little")
    file.write_bytes(content[:directory] + middle + bytes(end))
    with pytest.raises(InputError, match=r"cannot be read back"):
        read()


def test_a_data_set_that_unfolds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_BYTES", 1 << 16)
    for name in ("t10k-images-idx3-ubyte", "train-images-idx3-ubyte"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(InputError, match="holds more than 65,536 bytes, uncompressed"):
        data.load_data(str(tmp_path), seed=0)


def _onnx(path: Path, change: Callable[[Any, Any], object]) -> Path:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weight = onnx.TensorProto(name="w", data_type=1, dims=[8, 3, 3, 3], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights.bin")
    shapes = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 8, 6, 6]))]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", shapes[:1], shapes[1:], [weight])
    model = helper.make_model(graph)
    change(model, onnx)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "a/../../secret", "link/secret"])
def test_weights_outside_of_the_models_folder_are_refused(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    assert find_workload(str(_onnx(folder / "net.onnx", lambda model, onnx: None))).macs == 8 * 27 * 36

    def move(model: Any, onnx: Any) -> None:
        model.graph.initializer[0].external_data[0].value = place

    with pytest.raises(InputError, match=r"outside of .*model; move them there"):
        find_workload(str(_onnx(folder / "net.onnx", move)))


def _functions(levels: int, calls: int, back: int = 0) -> Callable[[Any, Any], None]:
    """Functions of which each calls the next so often; the last calls function `back` where that is not 0."""

    def change(model: Any, onnx: Any) -> None:
        helper, imports = onnx.helper, [model.opset_import[0], onnx.helper.make_opsetid("own", 1)]
        model.opset_import.append(imports[1])
        for i in range(1, levels + 1):
            inner = f"f{i + 1}" if i < levels else f"f{back}"
            own = i < levels or back
            names = ["a", *(f"t{j}" for j in range(calls - 1)), "b"]
            nodes = [helper.make_node(inner if own else "Relu", [x], [y], domain="own" if own else "")
                     for x, y in pairwise(names)]  # fmt: skip
            model.functions.append(helper.make_function("own", f"f{i}", ["a"], ["b"], nodes, imports))
        model.graph.node[0].output[0] = "z"
        model.graph.node.append(helper.make_node("f1", ["z"], ["y"], domain="own"))

    return change


def test_functions_of_functions_are_counted_before_they_are_unfolded(tmp_path: Path) -> None:
    """Ten levels of ten calls are 10^10 nodes in a file of some KB."""
    assert len(find_workload(str(_onnx(tmp_path / "net.onnx", _functions(2, 3)))).layers) >= 1
    path = _onnx(tmp_path / "net.onnx", _functions(10, 10))
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match="its functions unfolded, it has more than 1,000,000 nodes"):
        find_workload(str(path))
    with pytest.raises(InputError, match="a function in it calls itself"):
        find_workload(str(_onnx(tmp_path / "net.onnx", _functions(3, 1, back=2))))


# ------------------------------------------------------------------------------------------ who listens


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "localhost:8786", "[::1]:8786", "tls://head:8786"])
def test_the_loopback_and_tls_need_no_word(address: str) -> None:
    assert exposed(address) is None


@pytest.mark.parametrize("address", ["tcp://head:8786", "10.0.0.3:8786", "tcp://0.0.0.0:8786", "head"])
def test_an_open_scheduler_gets_a_word(address: str) -> None:
    assert "runs code on its workers" in (exposed(address) or "")


def test_where_nothing_is_said_nothing_is_trusted() -> None:
    assert os.environ.get(VARIABLE) is None


def test_a_module_that_is_nowhere_is_no_part_of_the_library() -> None:
    with pytest.raises(InputError, match="no module named 'nowhere_to_be_found', neither installed nor in"):
        check_trusted("nowhere_to_be_found:Core")

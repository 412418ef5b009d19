"""What `import cosoc` offers: names, paths and objects are one, results show themselves, nothing is ignored."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import cosoc
from cosoc.cli import main
from cosoc.search.training.nets import build
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import dump_mapping, find_mapping
from cosoc.sim.files.names import soc_folder
from cosoc.sim.files.workload_file import dump_workload, find_workload
from cosoc.sim.report.result import Result, to_json

SHORT = 500  # characters: a few lines of a terminal
DOCTEST = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def plain() -> Result:
    return cosoc.simulate("diana", "resnet8", "all_8bit", runtime="serial")


def figures(result: Result) -> dict[str, Any]:
    """Everything but how long the engine took, and what a network or mapping is called."""
    return {key: value for key, value in to_json(result).items() if key not in ("wall_s", "workload", "mapping")}


def test_names_paths_and_objects_are_the_same(plain: Result, tmp_path: Path) -> None:
    soc, workload = find_soc("diana"), find_workload("resnet8")
    mapping = find_mapping("all_8bit", workload, soc, "serial")
    network, placed = tmp_path / "resnet8.yaml", tmp_path / "all_8bit.yaml"
    network.write_text(dump_workload(workload))
    placed.write_text(dump_mapping(mapping))
    assert figures(cosoc.simulate(soc, workload, mapping)) == figures(plain)
    assert figures(cosoc.simulate(soc_folder() / "diana.yaml", network, placed)) == figures(plain)


def test_a_module_is_the_built_in_network_that_was_made_of_it(plain: Result) -> None:
    module = build("resnet8")
    for example in ((1, 3, 32, 32), torch.zeros(1, 3, 32, 32)):
        found = cosoc.simulate("diana", module, "all_8bit", example=example, runtime="serial")
        assert figures(found) == figures(plain)
    with pytest.raises(cosoc.InputError, match="needs an example of its input"):
        cosoc.simulate("diana", module)


def test_overrides_are_those_of_the_command_line(plain: Result, tmp_path: Path) -> None:
    changed = cosoc.simulate("diana", "resnet8", "all_8bit", runtime="serial", overrides={"dmas.dma.setup_cycles": 35})
    assert changed.ticks < plain.ticks
    out = tmp_path / "r.json"
    words = "simulate diana resnet8 --mapping all_8bit --runtime serial --set dmas.dma.setup_cycles=35 -q --json"
    assert main([*words.split(), str(out)]) == 0
    assert cosoc.compare(changed, out).shifts_s == {}
    with pytest.raises(cosoc.InputError, match="name its file instead"):
        cosoc.simulate(find_soc("diana"), "resnet8", overrides={"dmas.dma.setup_cycles": 35})


def test_results_are_short_as_text(plain: Result) -> None:
    assert len(str(plain)) < SHORT and len(f"{[plain]}") < SHORT
    found = cosoc.compare(plain, cosoc.simulate("diana", "resnet8", "all_8bit", runtime="overlapped"))
    assert len(str(found)) < SHORT and "A all_8bit on diana 473.6 us" in str(found)
    assert sum(one.seconds[0] for one in found.layers) == pytest.approx(plain.seconds, rel=1e-12)
    assert len(str(cosoc.validate("diana"))) < SHORT


def test_cards_hold_text_as_text_and_need_no_script(plain: Result) -> None:
    name = "<script>alert(1)</script>"
    workload = find_workload("digits_cnn")
    layers = tuple(
        type(one)(**{**vars(one), "name": name, "inputs": one.inputs}) if n == len(workload.layers) - 1 else one
        for n, one in enumerate(workload.layers)
    )
    renamed = type(workload)(name, workload.input_shape, layers, (name,), "")
    shown = cosoc.simulate("diana", renamed)._repr_html_()
    assert "<script" not in shown and "&lt;script&gt;alert(1)" in shown
    assert all(part.layer in plain._repr_html_() for part in plain.by_layer[:3])


def test_a_page_and_a_chart(plain: Result, tmp_path: Path) -> None:
    plain.report(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert "resnet8 on diana, all_8bit, serial" in page and "cosoc pytest" not in page
    axes = plain.plot().axes[0]
    names = [label.get_text().splitlines()[0] for label in axes.get_yticklabels()]
    assert {"digital", "dma"} <= set(names)
    with pytest.raises(cosoc.InputError, match="there is no folder"):
        plain.report(tmp_path / "none" / "run.html")


def test_frames_are_refused_in_one_line_without_pandas(plain: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for name in ("layers", "units", "servers", "memories", "critical"):
        with pytest.raises(cosoc.InputError, match=r"^frames need pandas.*: pip install 'cosoc\[frames\]'$"):
            getattr(plain, name)


def test_frames_sum_to_the_run(plain: Result) -> None:
    pytest.importorskip("pandas")
    layers = plain.layers
    assert layers["ticks_critical"].sum() == plain.ticks == plain.critical["ticks"].sum()
    assert layers["energy_j"].sum() == pytest.approx(plain.energy_j)
    causes = [name for name in layers.columns if name.startswith("ticks_") and name != "ticks_critical"]
    assert (layers[causes].sum(axis=1) == layers["ticks_critical"]).all()
    assert layers.loc["layer3.0.conv2", "channels_digital"] == find_workload("resnet8")["layer3.0.conv2"].k
    assert plain.units.loc["digital", "macs"] == sum(part.macs for part in plain.by_layer)
    validated = cosoc.validate("diana").rows
    assert set(validated["set"]) == {"diana"}


def test_a_search_is_called_whatever_of_its_package_was_imported(tmp_path: Path) -> None:
    importlib.import_module("cosoc.search.loop")
    out = tmp_path / "run"
    found = cosoc.search("diana", "digits_cnn", space="channels+tiles", epochs=0, out=out)
    assert len(str(found)) < SHORT and "digits_cnn on diana, channels+tiles" in str(found)
    best = cosoc.simulate("diana", "digits_cnn", out / found.best.mapping)
    assert best.seconds == found.best.simulated.latency_s
    with pytest.raises(cosoc.InputError, match="is not empty"):
        cosoc.search("diana", "digits_cnn", space="channels+tiles", epochs=0, out=out)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"space": "tiles", "strengths": (1.0,)}, "strengths"),
        ({"space": "tiles", "inferences": 5}, "inferences"),
        ({"space": "channels", "time_budget_s": 5.0}, "time_budget_s"),
        ({"space": "channels", "template": "dws-dw"}, "template"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(arguments: dict[str, Any], name: str, tmp_path: Path) -> None:
    with pytest.raises(cosoc.InputError, match=f"^{name}: means nothing with --space"):
        cosoc.search("diana", "digits_cnn", out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_module_of_ones_own_is_trained(tmp_path: Path) -> None:
    """The same network, by name and as a module with the same weights, has the same costs; and it is left alone."""
    module = build("digits_cnn")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    given: dict[str, Any] = {"strengths": (3.0,), "epochs": 1, "train_images": 32}
    mine = cosoc.search("diana", module, out=tmp_path / "a", **given)
    assert mine.heading["workload"] == "digitscnn"
    named = cosoc.search("diana", "digits_cnn", out=tmp_path / "b", **given)
    costs = [{one.name: one.simulated for one in found.found if one.known} for found in (mine, named)]
    assert costs[0]["all_8bit"] == costs[1]["all_8bit"]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_offered_names_are_typed_as_their_functions() -> None:
    from cosoc import api

    for name in api.__all__:
        assert inspect.signature(getattr(cosoc, name)) == inspect.signature(getattr(api, name))
    with pytest.raises(AttributeError, match="it offers InputError, calibrate"):
        _ = cosoc.nothing  # type: ignore[attr-defined]
    assert set(cosoc.__all__) <= set(dir(cosoc))


def test_the_import_loads_nothing_else() -> None:
    said = (
        "import sys, cosoc; print([m for m in sys.modules if m.split('.')[0] in ('cosoc', 'numpy', 'rich', 'torch')])"
    )
    out = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "['cosoc']"


@pytest.mark.parametrize("module", ["cosoc", "cosoc.api"])
def test_examples_say_what_happens(module: str) -> None:
    found = importlib.import_module(module)
    runner = doctest.DocTestRunner(optionflags=DOCTEST)
    # `search` is documented where it stands, and has no example
    for test in doctest.DocTestFinder(recurse=module != "cosoc").find(found, module):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 0

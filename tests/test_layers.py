"""Who may import whom: read from the source of every module, imports inside functions included."""

from __future__ import annotations

import ast
import functools
import graphlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = {"cosoc": "cosoc", "sim": "cosoc.sim", "search": "cosoc.search", "socs": "cosoc.socs"}

# From the ground up. A module imports from lines above its own only; a name stands for its submodules, where no line
# names them, and those of one name may import one another. What stands in sim/ is named without `cosoc.sim.`.
LAYERS = (
    ("progress", "shown"),
    ("errors", "exact", "processes"),
    ("trust",),
    ("machine",),
    ("figures", "model.workload", "model.mapping", "model.units", "model.silicon", "files.mending", "files.names"),
    ("files.yamlfile",),
    ("model.soc", "lower.fusion", "lower.walk", "model.cuts", "model.mobilenets"),
    ("cores", "model.cluster", "model.placement", "theta"),
    ("model.technology",),
    ("files.catalog", "model.energy", "model.tiles"),
    ("movers",),
    ("work",),
    ("estimate",),
    ("tiler",),
    ("ways",),
    ("lower",),
    ("report",),
    ("price",),
    ("stages",),
    ("report.pipeline_result",),
    ("report.cluster_schedule",),
    ("report.together",),
    ("simulate",),
    ("integers",),
    ("mapper",),
    ("manual", "report.explain", "ranges", "pipelined"),
    ("files",),
    ("importers",),
    ("truth",),
    ("search",),
    ("cosoc",),  # what stands in cosoc/ itself: the command line, and what `import cosoc` offers
)

# Engines know programs only, so that no engine can depend on what a core, a chip or a network is.
ENGINES = {
    "cosoc.sim.machine.trace": {"cosoc.sim.machine.program", "cosoc.sim.errors"},
    "cosoc.sim.machine.engine_reference": {"cosoc.sim.machine.program", "cosoc.sim.machine.trace", "cosoc.sim.errors"},
    "cosoc.sim.machine.engine_fast": {"cosoc.sim.machine.program", "cosoc.sim.machine.trace", "cosoc.sim.errors"},
}

# Imports against the order, each inside one function, each with its reason.
EXCEPTIONS = {
    ("cosoc.sim.files.workload_file", "cosoc.sim.importers.torch_export"): "a workload by name may be a torch module",
    ("cosoc.sim.files.workload_file", "cosoc.sim.importers.onnx_file"): "a workload by name may be an ONNX file",
    ("cosoc", "cosoc.api"): "what the package offers is loaded when it is asked for",
    ("cosoc", "cosoc.sim.errors"): "as above",
    ("cosoc.search", "cosoc.searching"): "the package is called as the verb",
    ("cosoc.sim.report.result", "cosoc.views"): "results show themselves in Python",
    ("cosoc.sim.report.result", "cosoc.why"): "as above",
    ("cosoc.search.result", "cosoc.views"): "as above",
    ("cosoc.search.result", "cosoc.search.picture"): "as above",
    ("cosoc.search.calibrate", "cosoc.views"): "as above",
    ("cosoc.search.campaigns.results", "cosoc.views"): "as above",
}

# The parts of sim that read other libraries' models; nothing else there imports torch or onnx.
FOREIGN = {
    "torch": {
        "cosoc.sim.importers.torch_export",
        "cosoc.sim.importers.torch_operators",
        "cosoc.sim.importers.decoder",
    },
    "onnx": {"cosoc.sim.importers.onnx_file"},
}

# Classes of sim that change while they gather or remember; all other data are frozen.
GATHERING = {
    "cosoc.sim.importers.torch_operators.Reader",
    "cosoc.sim.integers.arrays._Fused",
    "cosoc.sim.integers.arrays._Near",
    "cosoc.sim.integers.tiles.Sums",
    "cosoc.sim.lower.emit.KnownSteps",
    "cosoc.sim.machine.engine_reference._Burst",
    "cosoc.sim.model.mobilenets._Net",
    "cosoc.sim.price.Simulated",
    "cosoc.sim.stages.Prices",
    "cosoc.sim.tiler.TilingCache",
}


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the installed package by its dotted name."""
    out = {}
    for folder, package in PARTS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            out[".".join((package, *inner)).removesuffix(".__init__")] = path
    return out


def imported(source: str) -> Iterator[str]:
    """Every dotted name that a source imports, at any depth; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(source: str) -> set[str]:
    """The modules of cosoc that a source imports."""
    known, out = modules(), set()
    for name in imported(source):
        if name in known:
            out.add(name)
        elif name.rpartition(".")[0] in known:
            out.add(name.rpartition(".")[0])
    return out


@functools.cache
def graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, exceptions left out."""
    edges = {name: ours(path.read_text()) - {name} for name, path in modules().items()}
    for module, target in EXCEPTIONS:
        edges[module].discard(target)
    return edges


def layer(module: str) -> tuple[int, str]:
    """Line in LAYERS, and the longest name there that the module belongs to."""
    if module in PARTS.values() or not graph()[module]:
        return 0, module  # it needs nobody: version, or nothing at all, or a ground of its own
    _, part, *inner = module.split(".")
    path = ".".join(inner) if part == "sim" else ".".join((part, *inner)) if part in PARTS else "cosoc"
    found = [(name, n) for n, names in enumerate(LAYERS) for name in names if f"{path}.".startswith(f"{name}.")]
    if not found:
        pytest.fail(f"{module} stands in no line of LAYERS: give it its place")
    name, number = max(found, key=lambda one: len(one[0]))
    return number, name


def test_imports_are_seen_at_any_depth() -> None:
    source = (
        "import a.b\ndef f():\n    if True:\n        from cosoc.sim import exact, tiler as t\n    import cosoc.cli\n"
    )
    assert set(imported(source)) == {"a.b", "cosoc.sim.exact", "cosoc.sim.tiler", "cosoc.cli"}
    assert ours(source) == {"cosoc.sim.exact", "cosoc.sim.tiler", "cosoc.cli"}
    assert ours("from cosoc.sim.tiler import problems\nfrom cosoc import __version__") == {"cosoc.sim.tiler", "cosoc"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    mine, name = layer(module)
    for target in sorted(graph()[module]):
        below, other = layer(target)
        assert below < mine or other == name, f"{module} imports {target}, which stands beside or above it"


def test_exceptions_are_needed() -> None:
    """An exception that nobody makes use of any more is taken out."""
    for module, target in EXCEPTIONS:
        assert target in ours(modules()[module].read_text())


def test_no_cycles() -> None:
    order = list(graphlib.TopologicalSorter(graph()).static_order())
    assert len(order) == len(modules())


@pytest.mark.parametrize("module", sorted(ENGINES))
def test_engines_know_programs_only(module: str) -> None:
    assert graph()[module] <= ENGINES[module]


@pytest.mark.parametrize("library", sorted(FOREIGN))
def test_the_simulator_does_without_learning_libraries(library: str) -> None:
    users = {
        module
        for module, path in modules().items()
        if module.startswith("cosoc.sim") and library in {name.partition(".")[0] for name in imported(path.read_text())}
    }
    assert users <= FOREIGN[library]


def test_data_that_are_handed_on_are_frozen() -> None:
    """What several hold (a mapping, work, a trace, a result) none of them changes under the others."""
    thawed = set()
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())) if module.startswith("cosoc.sim") else ():
            if isinstance(node, ast.ClassDef):
                said = [ast.unparse(one) for one in node.decorator_list]
                if any(one.startswith("dataclass") and "frozen=True" not in one for one in said):
                    thawed.add(f"{module}.{node.name}")
    assert thawed == GATHERING


def test_nobody_imports_the_folders_themselves() -> None:
    """`import sim` works from the root of the tree, and makes a second copy of every module."""
    folders = [folder for folder in (*PARTS, "tests", "benchmarks") if (ROOT / folder).is_dir()]
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        bare = {name.partition(".")[0] for name in imported(path.read_text())} & {"sim", "search", "socs"}
        assert not bare, f"{path} imports {bare}: write cosoc.{bare.pop()}"


def test_third_parties_are_declared() -> None:
    """What a module imports stands in pyproject.toml, as a dependency or in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {line.split("[")[0].split(">")[0].split("<")[0].strip().lower() for line in lines}
    called = {
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "PIL": "pillow",
        "distributed": "dask",
        "pydantic_core": "pydantic",
    }
    for module, path in modules().items():
        foreign = {name.partition(".")[0] for name in imported(path.read_text())} - set(sys.stdlib_module_names)
        needed = {called.get(name, name) for name in foreign - {"cosoc"}}
        assert needed <= declared, f"{module} imports {needed - declared}"

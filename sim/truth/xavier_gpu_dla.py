"""Jetson AGX Xavier: networks on its GPU and on its DLA, alone and at once, as HaX-CoNN's artifact measured them.

Three kinds of tables, told apart by their columns:
    groups     network, layers, gpu_ms, dla_ms: groups of layers on either; or of a whole network (layers `all`)
    marks      engine, extra_output_after_layer, mean_ms: GoogLeNet with one more output
    together   a, on_a, a_alone_ms, a_together_ms, b, on_b, b_alone_ms, b_together_ms: two at once, over and over
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.names import list_workloads
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import Mapping as Placed
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.report.together import Load, while_all_run
from cosoc.sim.simulate import simulate, simulate_together
from cosoc.sim.truth.cells import one_of, positive, refusal, text
from cosoc.sim.truth.compared import Compared, TruthSet

SOC = "agx_xavier_dla"
ENGINES = ("gpu", "dla")
DERIVED = ("caffenet", "resnet101")  # networks that `network` makes of cosoc's own
OVERLAPS = 4  # inferences of the slower network for which the two run at once

# The layers, as upstream counts them -> how the names of ours in that group begin. GoogLeNet's are in the order of
# Caffe's file, activations and concatenations counted: the pool before the third stage is 9, 24 is the first
# convolution of that stage's second module. Of AlexNet only a group's number is known: of all ways to cut what is
# before the dense layers in five, this one fits our times best, on both engines taken together.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "googlenet": {
        "0-9": ("stem.", "norm"),
        "10-24": ("stage3.0.", "stage3.1.branch1."),
        "25-38": ("stage3.1.branch2.", "stage3.1.branch3.", "stage3.1.branch4.", "stage3.1.cat", "pool3"),
        "39-52": ("stage4.0.",),
        "53-66": ("stage4.1.",),
        "67-80": ("stage4.2.",),
        "81-94": ("stage4.3.",),
        "95-109": ("stage4.4.", "pool4"),
        "110-123": ("stage5.0.",),
        "124-140": ("stage5.1.", "avgpool", "fc"),
    },
    "alexnet": {
        "0": ("features.0",),
        "1": ("norm1", "features.2"),
        "2": ("features.3", "norm2"),
        "3": ("features.5", "features.6"),
        "4": ("features.8", "features.10", "features.12"),
        "5": ("classifier.0",),
        "6": ("classifier.2",),
        "7": ("classifier.4",),
    },
}


@cache
def network(name: str) -> Workload:
    """A network as the artifact has it: Caffe's GoogLeNet has filters of 5x5 where torchvision's has 3x3, and both it
    and Caffe's AlexNet normalise across channels twice (CaffeNet behind its pools); ResNet-101 is a shorter 152; the
    others are cosoc's own."""
    if name == "resnet101":
        return _shortened(find_workload("resnet152"), {"layer2": 4, "layer3": 23})
    if name == "caffenet":
        return _normalised(find_workload("alexnet"), {"features.2": "norm1", "features.5": "norm2"})
    workload = find_workload(name)
    if name == "googlenet":
        large = {layer.name for layer in workload if ".branch3.1" in layer.name}
        layers = tuple(
            replace(layer, fy=5, fx=5, pad_y=2, pad_x=2) if layer.name in large else layer for layer in workload
        )
        return _normalised(replace(workload, layers=layers), {"stem.1": "norm1", "stem.3.conv": "norm2"})
    if name == "alexnet":
        return _normalised(workload, {"features.0": "norm1", "features.3": "norm2"})
    return workload


def _shortened(workload: Workload, blocks: Mapping[str, int]) -> Workload:
    """The network with so many blocks of some stages, the first ones; whoever reads the last reads its last."""

    def there(name: str) -> bool:
        stage, _, rest = name.partition(".")
        return stage not in blocks or int(rest.partition(".")[0]) < blocks[stage]

    def reads(name: str) -> str:
        stage, _, rest = name.partition(".")
        return name if there(name) else f"{stage}.{blocks[stage] - 1}.{rest.partition('.')[2]}"

    kept = (layer for layer in workload if there(layer.name))
    return replace(workload, layers=tuple(replace(la, inputs=tuple(map(reads, la.inputs))) for la in kept))


def _normalised(workload: Workload, behind: Mapping[str, str]) -> Workload:
    """The network with normalisations across channels behind some layers, by the names that they get."""
    layers: list[Layer] = []
    for layer in workload:
        layers.append(replace(layer, inputs=tuple(behind.get(name, name) for name in layer.inputs)))
        if layer.name in behind:
            at = layer
            layers.append(Layer(
                behind[at.name], "norm", (at.name,), at.k, at.k, at.oy, at.ox, at.oy, at.ox, fn="LRN", bias=False
            ))  # fmt: skip
    return replace(workload, layers=tuple(layers))


def _placed(workload: Workload, engine: str) -> Placed:
    return named_mapping(engine, workload, find_soc(SOC), "serial")


@cache
def layer_seconds(name: str, engine: str) -> Mapping[str, float]:
    """Seconds of each layer of a network that runs alone, all that can on one engine."""
    workload, soc = network(name), find_soc(SOC)
    result = simulate(soc, workload, _placed(workload, engine))
    return {layer.layer: layer.seconds_critical for layer in result.by_layer}


def group_seconds(name: str, layers: str, engine: str) -> float:
    """The same of a group of layers; `all`: of the network."""
    begins = GROUPS[name][layers] if layers != "all" else ("",)
    return sum(seconds for layer, seconds in layer_seconds(name, engine).items() if layer.startswith(begins))


@cache
def together_seconds(a: str, on_a: str, b: str, on_b: str) -> tuple[float, float]:
    """Seconds of an inference of each of two networks that run over and over at once: the mean over those that end
    while both still run."""
    soc, names, engines = find_soc(SOC), (a, b), (on_a, on_b)
    alone = [sum(layer_seconds(name, engine).values()) for name, engine in zip(names, engines, strict=True)]
    counts = [math.ceil(OVERLAPS * max(alone) / own) for own in alone]
    loads = [
        Load(network(name), _placed(network(name), engine), count)
        for name, engine, count in zip(names, engines, counts, strict=True)
    ]
    first, second = while_all_run(simulate_together(soc, loads))
    return first, second


def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Each row simulated; a row of groups is one on each engine, one of two networks is one of each of them."""
    for number, row in enumerate(rows, 1):
        if "a_together_ms" in row:
            yield from _together(row, number)
        elif "gpu_ms" in row:
            yield from _groups(row, number)
        elif "extra_output_after_layer" in row:
            yield _mark(row, number)
        else:
            found = ", ".join(row)
            raise InputError(f"row {number}: columns {found} are none of groups, marks or together of {SET.name}")


def _together(row: Mapping[str, str], number: int) -> Iterator[Compared]:
    known = (*list_workloads(), *DERIVED)
    names = tuple(one_of(row, number, side, known) for side in ("a", "b"))
    engines = tuple(one_of(row, number, f"on_{side}", ENGINES) for side in ("a", "b"))
    measured = [1e-3 * positive(row, number, f"{side}_together_ms") for side in ("a", "b")]
    found = together_seconds(names[0], engines[0], names[1], engines[1])
    for n, other in ((0, 1), (1, 0)):
        alone = 1e-3 * positive(row, number, f"{'ab'[n]}_alone_ms")
        ours = sum(layer_seconds(names[n], engines[n]).values())
        yield Compared(f"{names[n]} on {engines[n]} alone", alone, ours)
        label = f"{names[n]} on {engines[n]}, {names[other]} on {engines[other]}"
        yield Compared(label, measured[n], found[n])


def _groups(row: Mapping[str, str], number: int) -> Iterator[Compared]:
    name = one_of(row, number, "network", (*list_workloads(), *DERIVED))
    layers = text(row, number, "layers")
    if layers != "all" and layers not in GROUPS.get(name, {}):
        known = ", ".join(GROUPS.get(name, {}))
        raise refusal(number, "layers", layers, f"of {name} there is all{f', {known}' if known else ''}")
    for engine in ENGINES:
        measured = 1e-3 * positive(row, number, f"{engine}_ms")
        yield Compared(f"{name} {layers} on {engine}", measured, group_seconds(name, layers, engine))


def _mark(row: Mapping[str, str], number: int) -> Compared:
    """One more output is a tensor that is handed over."""
    engine = one_of(row, number, "engine", ENGINES)
    after = text(row, number, "extra_output_after_layer")
    soc = find_soc(SOC)
    core = next(core for name, core in soc.cores.items() if name.startswith(engine))
    more = 0.0 if after == "-1" else core.handover / soc.tick_hz
    ours = sum(layer_seconds("googlenet", engine).values()) + more
    return Compared(f"googlenet on {engine}, output after {after}", 1e-3 * positive(row, number, "mean_ms"), ours)


SET = TruthSet(
    name="xavier_gpu_dla",
    unit="s",
    columns=(),
    about="Jetson AGX Xavier, TensorRT in fp16, batch 1: GoogLeNet and AlexNet by groups of layers on GPU and DLA, a "
    "tensor handed out, and two networks at once (measured; artifact of HaX-CoNN, PPoPP 2024).",
    fitted="kernel, fill and L2 of the GPU, start, fill, rate and access of the DLA on the groups, and which layers "
    "AlexNet's first five groups hold; fill of both also on the one pair at once; hand-over on the marks",
    claim_mape=0.2,
    compare=compare,
    files=("groups.csv", "together.csv", "googlenet_marks.csv"),
    how_to_get="the artifact of HaX-CoNN (PPoPP 2024), whose tables are reduced to the columns of docs/xavier.md",
)

"""Layers with an alternative form: what a mapping makes of them costs what the network of plain layers does."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import dump_workload, load_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import KINDS, Program, unroll
from cosoc.sim.model.mapping import RUNTIMES, LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import candidates, complete, homes_of, problems
from cosoc.sim.work import layer_work


@pytest.fixture(scope="module")
def soc() -> SoC:
    return find_soc("darkside")


def conv(name: str, source: str, k: int, c: int, size: int, f: int = 3, stride: int = 1) -> Layer:
    edge = size * stride
    return Layer(name, "conv", (source,), k, c, size, size, edge, edge, f, f, stride, stride, f // 2, f // 2)


def depthwise(name: str, source: str, k: int, size: int, stride: int = 1) -> Layer:
    return replace(conv(name, source, k, k, size, 3, stride), groups=k)


def network(*layers: Layer) -> Workload:
    first = layers[0]
    return Workload("net", (first.c, first.iy, first.ix), layers, (layers[-1].name,))


# Each with its two plain networks and the cores of either form: a full or a depthwise convolution of the same window;
# a separable or a depthwise one, which read different tensors; a full one that strides or a separable one.
Kind = Callable[[int, int], tuple[Workload, Workload, Workload, tuple[str, str]]]


def same_window(n: int, size: int) -> tuple[Workload, Workload, Workload, tuple[str, str]]:
    full, slim = conv("b", INPUT, n, n, size), depthwise("b", INPUT, n, size)
    return network(replace(full, alternative=slim)), network(full), network(slim), ("cluster", "depthwise_engine")


def other_tensor(n: int, size: int) -> tuple[Workload, Workload, Workload, tuple[str, str]]:
    stem, point, slim = depthwise("a", INPUT, n, size), conv("b", "a", n, n, size, 1), depthwise("b", INPUT, n, size)
    both = network(stem, replace(point, alternative=slim))
    return both, network(stem, point), network(slim), ("cluster", "depthwise_engine")


def other_stride(n: int, size: int) -> tuple[Workload, Workload, Workload, tuple[str, str]]:
    c = n // 2
    stem, full, point = (
        depthwise("a", INPUT, c, size, 2),
        conv("b", INPUT, n, c, size, 3, 2),
        conv("b", "a", n, c, size, 1),
    )
    both = network(stem, replace(full, alternative=point))
    return both, network(full), network(stem, point), ("cluster", "tensor")


KINDS_OF = (same_window, other_tensor, other_stride)


def split(cores: tuple[str, str], k: int, n: int, runtime: Runtime) -> Mapping:
    shares = tuple(Part(core, part) for core, part in zip(cores, (k, n - k), strict=True) if part)
    return Mapping("m", runtime, {"b": LayerPlan(shares)})


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", KINDS_OF)
@pytest.mark.parametrize(("n", "size"), [(32, 8), (64, 16), (256, 4)])
def test_all_channels_in_one_form_are_that_plain_network(
    soc: SoC, kind: Kind, n: int, size: int, runtime: Runtime
) -> None:
    both, first, second, cores = kind(n, size)
    for k, plain in ((n, first), (0, second)):
        mapping = split(cores, k, n, runtime)
        mine, its = simulate(soc, both, mapping), simulate(soc, plain, mapping)
        assert mine.ticks == its.ticks
        assert mine.energy_j == its.energy_j
        assert mine.program.layers == its.program.layers  # the stem of the form that is not there is not computed


@pytest.mark.parametrize("kind", KINDS_OF)
def test_split_takes_less_than_its_parts_one_after_the_other(soc: SoC, kind: Kind) -> None:
    both, *_, cores = kind(64, 16)
    n, k = both["b"].k, 32
    at_once, in_turn = (simulate(soc, both, split(cores, k, n, runtime)) for runtime in ("overlapped", "serial"))
    whole = [simulate(soc, both, split(cores, part, n, "overlapped")).ticks for part in (0, n)]
    assert min(whole) < at_once.ticks < in_turn.ticks
    assert at_once.ticks < max(whole)


def test_multiplications_are_those_of_the_forms(soc: SoC) -> None:
    both, *_, cores = same_window(64, 16)
    program = lower(both, split(cores, 16, 64, "overlapped"), soc)
    assert int(unroll(program).rows["macs"].sum()) == 16 * 16 * (16 * 64 * 9 + 48 * 9)


def random_cases(count: int, soc: SoC) -> Iterator[tuple[Workload, Mapping]]:
    """Random shapes, cuts and tiles."""
    rng = random.Random(0)
    for _ in range(count):
        both, *_, cores = rng.choice(KINDS_OF)(rng.choice((16, 32, 48, 64, 100, 256)), rng.choice((4, 5, 7, 8, 16)))
        n, runtime = both["b"].k, rng.choice(RUNTIMES)
        mapping = complete(split(cores, rng.randint(0, n), n, runtime), both, soc)
        tiles = list(candidates(both["b"], mapping.layers["b"], soc, runtime, homes_of(both, mapping, soc)))
        chosen = rng.choice(tiles)
        yield both, replace(mapping, layers={**mapping.layers, "b": chosen})


def moved(program: Program, layer: str, kind: str, unit: str) -> int:
    rows = program.rows
    mine = (rows["layer"] == program.layers.index(layer)) & (rows["kind"] == KINDS.index(kind))
    return int(rows["bytes"][mine & (rows["unit"] == program.unit_names.index(unit))].sum())


def test_what_is_moved_is_the_work_to_the_byte_and_engines_agree(soc: SoC) -> None:
    for i, (both, mapping) in enumerate(random_cases(40, soc)):
        program = unroll(lower(both, mapping, soc))
        shares = [(part.core, part.channels) for part in mapping.layers["b"].parts]
        work = layer_work(both["b"], soc, shares, mapping.layers["b"], homes_of(both, mapping, soc), exact)
        assert moved(program, "b", "load", "dma") == work.loads.bytes
        assert moved(program, "b", "store", "dma") == sum(core.stores.bytes for core in work.cores)
        assert moved(program, "b", "weights", "dma") == sum(core.weights.bytes for core in work.cores)
        if i < 10:
            assert engine_fast.run(program).makespan == engine_reference.run(program).makespan


def test_a_silent_mapping_takes_the_layer_s_own_form(soc: SoC) -> None:
    both, first, *_ = same_window(32, 8)
    silent = Mapping("m", "serial", {})
    assert simulate(soc, both, silent).ticks == simulate(soc, first, silent).ticks


def test_what_no_form_can_run_is_refused_with_both_reasons(soc: SoC) -> None:
    wide = replace(conv("b", INPUT, 32, 32, 8, 5), pad_y=2, pad_x=2)
    both = network(replace(wide, alternative=replace(wide, groups=32)))
    (reason,) = [
        r for _, r in problems(split(("cluster", "depthwise_engine"), 16, 32, "serial"), both, soc) if "window" in r
    ]
    assert reason == "layer b: depthwise_engine and in place of it has a window of 3x3, not 5x5"


def test_files_say_it_and_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    for kind in KINDS_OF:
        both = kind(32, 8)[0]
        file.write_text(dump_workload(both))
        assert load_workload(file) == both


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 64}, "k, oy, ox = 64, 8, 8; its layer has 32, 8, 8"),
        ({"inputs": ("nobody",)}, "reads 'nobody', which does not precede it"),
        ({"c": 16, "groups": 16}, r"c\*iy\*ix = 16\*8\*8 = 1024, but input gives 2048"),
        ({"op": "max_pool", "groups": 1}, "found max_pool in place of conv; both must be conv"),
        ({"ox": 7}, "k, oy, ox = 32, 8, 7; its layer has 32, 8, 8"),
    ],
)
def test_bad_alternatives_are_refused_with_their_place(tmp_path: Path, change: dict[str, object], message: str) -> None:
    both = same_window(32, 8)[0]
    other = replace(both["b"].alternative, **change)  # type: ignore[type-var, arg-type]
    file = tmp_path / "net.yaml"
    file.write_text(dump_workload(replace(both, layers=(replace(both["b"], alternative=other),))))
    with pytest.raises(InputError, match=rf"net.yaml:\d+:\d+: layers.0.*{message}"):
        load_workload(file)

"""The cached mover: bytes and energies against the closed form, one emission whatever is reused, two halves of an
accumulator, and a SoC file of which nothing is ignored."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, load_soc, soc_folder
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import KINDS, Builder, Program, digest, from_text, to_text, unroll, validate
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import DIMS, Extent, LayerPlan, Mapping, Part
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload, batched
from cosoc.sim.movers.cached import TileEmitter, caches_in
from cosoc.sim.movers.cached_terms import Machine, energy_pj, estimate_nest, shape_of
from cosoc.sim.movers.cached_units import TICKS_PER_CYCLE
from cosoc.sim.movers.tile_table import Addresses
from cosoc.sim.movers.touches import caches_of
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.report.result import energy_j, levels_fj
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta

SOC = find_soc("gemmini")
MACHINE = Machine.of(SOC)
CONV = Layer("conv", "conv", (INPUT,), 32, 48, oy=12, ox=12, iy=12, ix=12, fy=3, fx=3, pad_y=1, pad_x=1)
STRIDED = Layer(
    "strided", "conv", (INPUT,), 24, 20, oy=7, ox=7, iy=14, ix=14, fy=5, fx=5, stride_y=2, stride_x=2, pad_y=2, pad_x=2
)
GEMM = Layer("gemm", "conv", (INPUT,), 96, 160, ox=40, ix=40)
DEPTHWISE = replace(CONV, name="depthwise", k=48, c=48, groups=48)
POOL = Layer("pool", "max_pool", (INPUT,), 40, 40, oy=6, ox=6, iy=12, ix=12, fy=3, fx=3, stride_y=2, stride_x=2)
ADD = Layer("add", "add", (INPUT, INPUT), 40, 40, oy=9, ox=9, iy=9, ix=9)
DILATED = replace(CONV, name="dilated", oy=10, ox=10, dilation_y=2, dilation_x=2)
APART = replace(STRIDED, name="apart", oy=5, ox=5, dilation_y=2, dilation_x=2)
GROUPED = replace(CONV, name="grouped", groups=4)
BOTH = replace(DEPTHWISE, name="both", oy=8, ox=8, dilation_y=3, dilation_x=3)
TIMES = Layer("times", "conv", (INPUT,), 24, 16, ox=30, ix=60, fx=3, stride_x=2, pad_x=1)  # one row, of times
LAYERS = [CONV, STRIDED, GEMM, DEPTHWISE, POOL, ADD, DILATED, APART, GROUPED, BOTH, TIMES]


def alone(layer: Layer) -> Workload:
    return Workload(layer.name, (layer.c, layer.iy, layer.ix), (layer,), (layer.name,))


def program_of(layer: Layer, plan: LayerPlan, soc: SoC = SOC) -> Program:
    return lower(alone(layer), Mapping("m", "overlapped", {layer.name: plan}), soc)


def plans(layer: Layer, n: int, seed: int) -> list[LayerPlan]:
    """Random tiles, divisors or not, under random orders, with reuse and without."""
    rng, shape = np.random.default_rng(seed), shape_of(layer)
    out = []
    for i in range(n):
        tile = {d: int(rng.integers(max(1, getattr(shape, d) // 3), getattr(shape, d) + 1)) for d in DIMS[1:]}
        order: Any = ("n", *rng.permutation(DIMS[1:]).tolist())
        out.append(LayerPlan((Part("gemmini", layer.k, Extent(**tile)),), order, reuse=i % 2 == 0))
    return out


def bytes_of(program: Program) -> dict[str, int]:
    """Bytes of tensors by kind."""
    payload = np.maximum(program.rows["payload_bytes"], 0)
    return {kind: int(payload[program.rows["kind"] == i].sum()) for i, kind in enumerate(KINDS)}


def lines_of(program: Program) -> tuple[int, int]:
    """Bytes of lines over the outer link and over the DRAM's."""
    rows, names = program.rows, program.unit_names
    of = [sum(int(rows["bytes"][rows["unit"] == names.index(unit)].sum()) for unit in units if unit in names)
          for units in (("fill", "store_fill"), ("fetch", "store_fetch"))]  # fmt: skip
    return of[0], of[1]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda x: x.name)
def test_bytes_and_energies_are_the_closed_form_s(layer: Layer) -> None:
    """Whatever the tiles, the order, and whether operands stay: the same bytes, and, if the closed form had counted the
    lines that the walk found to miss, the same energy to half a femtojoule an op and level. Poolings and additions:
    bytes alone, as their windows are no accesses of the closed form."""
    theta = Theta()
    for plan in plans(layer, 12, 5):
        program, found = program_of(layer, plan), estimate_nest(layer, plan, MACHINE)
        assert sum(bytes_of(program).values()) == found.terms.moved_bytes
        assert int(program.rows["macs"].sum()) == layer.macs
        if layer.op == "conv":
            spent = int(program.rows["energy_fj"].sum())
            outer, dram = lines_of(program)
            counted = replace(
                found.terms, first_bytes=dram, lost_bytes=(outer - dram) / theta.reload_miss, split_bytes=0
            )
            assert abs(spent - 1000 * energy_pj(counted, MACHINE, theta)) <= 4 * len(program.rows) / 2
            assert energy_j(program, engine_fast.run(program), SOC) == pytest.approx(spent * 1e-15)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda x: x.name)
def test_each_level_is_charged_for_the_bytes_that_it_served(layer: Layer) -> None:
    """The caches and the DRAM against bytes on the links, by hand: what is asked for passes the L2; what that misses
    is read from the last-level cache and written into the L2; what that misses, read from the DRAM and written."""
    l2, llc, dram = (SOC.memories[name].access_pj_per_byte for name in ("l2", "llc", "dram"))
    assert 0 < l2 < llc < dram
    for plan in plans(layer, 6, 11):
        program = program_of(layer, plan)
        asked, (outer, fetched), spent = sum(bytes_of(program).values()), lines_of(program), levels_fj(program)
        for level, by_hand in (
            ("l2", (asked + outer) * l2), ("llc", (outer + fetched) * llc), ("dram", fetched * dram)
        ):  # fmt: skip
            assert spent[level] == pytest.approx(1000 * by_hand, abs=len(program.rows))
        assert sum(spent.values()) == int(program.rows["energy_fj"].sum())


@pytest.mark.parametrize("c", [64, 448])
def test_channels_behind_the_first_64_lie_in_lines_of_their_own(c: int) -> None:
    """64 pixels of so many channels under a window of 3 x 3, 16 outputs, asked for in rows of 64 channels: from cold
    caches each line of a tensor comes once. It begins within a line, and so lies in one more than it fills."""
    layer = Layer("deep", "conv", (INPUT,), 16, c, oy=8, ox=8, iy=8, ix=8, fy=3, fx=3, pad_y=1, pad_x=1)
    whole = LayerPlan((Part("gemmini", 16, Extent(16, c, 3, 3, 8, 8)),), ("n", "oy", "ox", "k", "c", "fy", "fx"))
    program = program_of(layer, whole)
    for unit, line_bytes in (("fill", MACHINE.line_bytes), ("fetch", MACHINE.llc_line_bytes)):
        for kind, n_bytes in (("weights", 9 * 16 * c), ("load", 64 * c)):
            rows = program.rows[program.rows["unit"] == program.unit_names.index(unit)]
            assert int(rows["bytes"][rows["kind"] == KINDS.index(kind)].sum()) == n_bytes + line_bytes


def test_a_pixel_of_one_byte_comes_as_fast_as_one_of_two() -> None:
    """Both are a beat of one request, and hold the return path for as long."""
    held = []
    for c in (1, 2):
        layer = Layer("pixel", "conv", (INPUT,), 16, c)
        program = program_of(layer, LayerPlan((Part("gemmini", 16, Extent(16, c, 1, 1, 1, 1)),), ("n", *DIMS[1:])))
        rows = program.rows[program.rows["unit"] == program.unit_names.index("load")]
        held += [row["bytes"] for row in rows if KINDS[row["kind"]] == "load"]
    assert len(held) == 2 and held[0] == held[1] > 0


def test_a_line_passes_a_link_in_one_burst() -> None:
    """Between the caches a line of the L2, to the DRAM one of the last level, on the way out as on the way in."""
    program = program_of(CONV, plans(CONV, 1, 3)[0])
    for unit, line_bytes in (
        ("fill", MACHINE.line_bytes), ("store_fill", MACHINE.line_bytes),
        ("fetch", MACHINE.llc_line_bytes), ("store_fetch", MACHINE.llc_line_bytes),
    ):  # fmt: skip
        bursts = program.rows["burst"][program.rows["unit"] == program.unit_names.index(unit)]
        assert set(bursts.tolist()) == {line_bytes}, unit


def test_taps_that_stand_apart_lie_over_the_rows_between_them() -> None:
    """Three taps two apart lie over five rows, as drawn: x.x.x; five over nine; three three apart over seven."""
    assert [shape_of(layer).reach_y for layer in (CONV, DILATED, APART, BOTH)] == [3, 5, 9, 7]


def test_an_addition_looks_at_its_input_as_a_pool_of_single_pixels_does() -> None:
    """A window of one by one, one step at a time, next to itself; it has two operands where the other has one."""
    pool = replace(ADD, op="max_pool", inputs=(INPUT,))
    assert shape_of(ADD) == replace(shape_of(pool), add=1, operands=2)


def test_where_nothing_is_used_again_reuse_changes_nothing() -> None:
    """All operands differ from one tile to the next: the reduction innermost, and more than one tile of it."""
    cases = (
        (GEMM, Extent(32, 64, 1, 1, 1, 16), ("n", "fy", "fx", "oy", "ox", "k", "c")),
        (CONV, Extent(16, 16, 3, 3, 4, 12), ("n", "oy", "ox", "k", "fy", "fx", "c")),
        (DEPTHWISE, Extent(1, 1, 3, 3, 12, 12), ("n", "oy", "ox", "k", "fy", "fx", "c")),
        (ADD, Extent(16, 1, 1, 1, 9, 9), ("n", "oy", "ox", "k", "fy", "fx", "c")),
    )
    for layer, tile, order in cases:
        one, other = (
            program_of(layer, LayerPlan((Part("gemmini", layer.k, tile),), order, reuse)) for reuse in (True, False)
        )
        assert digest(one) == digest(other), layer.name
    again = LayerPlan((Part("gemmini", 96, Extent(32, 160, 1, 1, 1, 16)),), cases[0][2], True)
    ticks = [engine_fast.run(program_of(GEMM, plan)).makespan for plan in (again, replace(again, reuse=False))]
    assert ticks[0] < ticks[1]  # and where something is, it does


def test_engines_agree_and_texts_are_read_back() -> None:
    for plan in plans(CONV, 2, 9):
        program = program_of(CONV, plan)
        assert not validate(program)
        assert np.array_equal(engine_fast.run(program).end, engine_reference.run(program).end)
        assert to_text(from_text(to_text(program))) == to_text(program)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1_025"])
def test_a_report_says_what_the_ops_move(name: str) -> None:
    """Layers, servers and memories: bytes of tensors once, lines that miss on the links outside alone."""
    workload = find_workload(name)
    result = simulate(SOC, workload, named_mapping("default", workload, SOC))
    rows, names = result.program.rows, result.program.unit_names
    moved = bytes_of(result.program)
    for key, kind in (("load_bytes", "load"), ("weight_bytes", "weights"), ("store_bytes", "store")):
        assert sum(getattr(part, key) for part in result.by_layer) == moved[kind] > 0
    servers = {part.server: part.bytes for part in result.by_server}
    assert servers["return_path"] == sum(moved.values())
    misses = {u: int(rows["bytes"][rows["unit"] == names.index(u)].sum()) for u in ("fill", "fetch", "store_fill")}
    stored = int(rows["bytes"][rows["unit"] == names.index("store_fetch")].sum())
    assert servers["outer_port"] == misses["fill"] + misses["store_fill"]
    assert servers["dram_port"] == misses["fetch"] + stored
    memories = {part.memory: part for part in result.by_memory}
    assert memories["dram"].read_bytes == misses["fetch"] and memories["dram"].written_bytes == stored
    assert memories["llc"].read_bytes == misses["fill"] + stored
    assert memories["llc"].written_bytes == misses["fetch"] + misses["store_fill"]
    assert memories["l2"].read_bytes == moved["load"] + moved["weights"] + misses["store_fill"]
    assert memories["l2"].written_bytes == moved["store"] + misses["fill"]
    assert memories["accumulator"].read_bytes == moved["store"]
    into = memories["scratchpad"].written_bytes, memories["accumulator"].written_bytes
    assert sum(into) == moved["load"] + moved["weights"]
    no_weights = [part for part in result.by_layer if workload[part.layer].op not in ("conv", "matmul")]
    assert into[1] == sum(part.load_bytes for part in no_weights)
    assert sum(part.energy_j for part in result.by_layer) == pytest.approx(result.energy_j)
    assert result.energy_j == pytest.approx(int(rows["energy_fj"].sum()) * 1e-15)


def test_no_more_sums_than_the_accumulator_has_room_for() -> None:
    """Tiles of half the accumulator whose stores take longer than their execution: a third would not fit."""
    layer = Layer("c", "conv", (INPUT,), 256, 16, oy=16, ox=16, iy=16, ix=16)
    workload = alone(layer)
    plan = LayerPlan((Part("gemmini", 256, Extent(16, 16, 1, 1, 16, 16)),), ("n", "oy", "ox", "k", "c", "fy", "fx"))
    small = find_soc("gemmini", {"memories.accumulator.size_bytes": "32768"})
    result = simulate(small, workload, Mapping("m", "overlapped", {"c": plan}))
    for use in memory_use(result, small, workload, Mapping("m", "overlapped", {"c": plan})):
        assert max(use.bytes) <= use.capacity_bytes, use.memory
    # By hand: the third tile's execution starts when the first one's store has ended, not before.
    rows, names = result.program.rows, result.program.unit_names
    execute, store = (np.flatnonzero(rows["unit"] == names.index(u)) for u in ("gemmini", "store"))
    assert result.trace.issue[execute[2]] >= result.trace.end[store[0]]
    assert result.trace.end[execute[1]] < result.trace.end[store[0]]


@pytest.mark.parametrize("layer", [CONV, STRIDED, GEMM, ADD], ids=lambda layer: layer.name)
def test_no_more_mvins_are_under_way_than_the_controller_allows(layer: Layer) -> None:
    """A mvin is under way from its first op to the last, over whichever link: a line that it misses keeps it so. Its
    ops stand together, from the near link to the far one, so that it begins where that order does."""
    for plan in plans(layer, 2, 0):
        program = program_of(layer, plan)
        trace, names = engine_fast.run(program), ("load", "fill", "fetch")
        link = np.array([names.index(name) if name in names else -1 for name in program.unit_names])
        far = link[unroll(program).rows["unit"]]
        ops = np.flatnonzero(far >= 0)
        begins = np.append(True, far[ops[1:]] <= far[ops[:-1]])
        since, until = trace.issue[ops[begins]], np.maximum.reduceat(trace.end[ops], np.flatnonzero(begins))
        ended = np.searchsorted(np.sort(until), since, side="right")
        assert (np.searchsorted(since, since, side="right") - ended).max() == MACHINE.mvins_in_flight


def test_an_array_in_which_not_one_element_fits_is_refused() -> None:
    """A pixel and a weight are two rows; a scratchpad of one row, of 16 bytes, has no two halves."""
    tiny = find_soc("gemmini", {"memories.scratchpad.size_bytes": "16"})
    with pytest.raises(InputError, match="layer conv: a tile needs 2 rows of the scratchpad; half of it"):
        simulate(tiny, alone(CONV), Mapping("m", "overlapped"))


def test_images_of_a_batch_share_weights_that_stay() -> None:
    """Three images whose weights are one tile: with reuse they come once, without once an image; inputs thrice."""
    layer = batched(alone(CONV), 3).layers[0]
    tile = Extent(32, 48, 3, 3, 12, 12)
    for reuse, times in ((True, 1), (False, 3)):
        moved = bytes_of(program_of(layer, LayerPlan((Part("gemmini", 32, tile),), DIMS, reuse)))
        assert moved["weights"] == times * CONV.weights
        assert (moved["load"], moved["store"]) == (3 * 48 * 144, 3 * 32 * 144)
    together = program_of(layer, LayerPlan((Part("gemmini", 32, replace(tile, oy=4, n=3)),), DIMS, True))
    assert bytes_of(together)["store"] == 3 * 32 * 144
    assert int(together.rows["macs"].sum()) == 3 * CONV.macs


def test_serial_tiles_follow_one_another() -> None:
    """No op of a tile begins before the tile before has ended."""
    plan = LayerPlan((Part("gemmini", 96, Extent(32, 160, 1, 1, 1, 16)),), DIMS)
    overlapped, serial = (
        lower(alone(GEMM), Mapping("m", runtime, {"gemm": plan}), SOC) for runtime in ("overlapped", "serial")
    )
    trace, rows = engine_fast.run(serial), serial.rows
    begins = np.flatnonzero(rows["take_n"] > 0) - 1
    for op, after in zip(begins[1:], begins[:-1], strict=True):
        assert trace.issue[op] >= trace.end[after:op].max()
    assert trace.makespan > engine_fast.run(overlapped).makespan


# ------------------------------------------------------------------------------------------ several arrays


def two_arrays(tmp_path: Any) -> SoC:
    """Gemmini twice behind the same caches, each with memories and a mover of its own."""
    content = yaml.safe_load((soc_folder() / "gemmini.yaml").read_text())
    for memory in ("scratchpad", "accumulator"):
        content["memories"][f"{memory}_b"] = content["memories"][memory]
    content["links"]["return_path_b"] = content["links"]["return_path"]
    content["dmas"]["mover_b"] = content["dmas"]["mover"] | {"return_link": "return_path_b"}
    links = ["return_path_b", "outer_port", "dram_port"]
    content["routes"] += [
        {"from": "dram", "to": "scratchpad_b", "dma": "mover_b", "links": links},
        {"from": "scratchpad_b", "to": "dram", "dma": "mover_b", "links": links},
    ]
    near = {"memory": "scratchpad_b", "accumulator": "accumulator_b"}
    content["cores"]["second"] = content["cores"]["gemmini"] | near
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps(content))
    return load_soc(path)


def test_a_layer_by_channels_on_two_arrays(tmp_path: Any) -> None:
    """Two emitters in one program: the bytes of weights and results of the whole, inputs for each, in less time."""
    soc, layer = two_arrays(tmp_path), replace(CONV, k=256, c=256)
    tile = Extent(64, 64, 3, 3, 12, 12)

    def lowered(parts: dict[str, tuple[int, int]]) -> Program:
        builder = Builder("two", soc.tick_hz * TICKS_PER_CYCLE)
        addresses = Addresses({INPUT: (256 * 144, 0), "conv": (layer.outputs, 0)}, {"conv": (layer.weights, 0)}, 64)
        state = caches_of(caches_in(Machine.of(soc, "gemmini")))
        for core, (first, channels) in parts.items():
            TileEmitter(builder, soc, core, addresses, state).layer(layer, tile, DIMS, False, (), first, channels)
        return builder.build()

    whole, halves = lowered({"gemmini": (0, 256)}), lowered({"gemmini": (0, 128), "second": (128, 128)})
    assert {"gemmini.load", "second.load", "gemmini", "second"} <= set(halves.unit_names)
    one, two = bytes_of(whole), bytes_of(halves)
    assert two == one
    assert int(halves.rows["macs"].sum()) == layer.macs
    times = [engine_fast.run(program).makespan for program in (whole, halves)]
    assert 0.5 * times[0] < times[1] < 0.75 * times[0]


# ------------------------------------------------------------------------------------------ the SoC file


def numeric(content: Any, path: str = "") -> dict[str, float]:
    """Every number of a SoC by its path in the file."""
    if isinstance(content, dict):
        inner = [numeric(value, f"{path}.{key}".lstrip(".")) for key, value in content.items()]
        return {key: value for part in inner for key, value in part.items()}
    return {path: content} if isinstance(content, int | float) and not isinstance(content, bool) else {}


# The file as it is, and with links, and then a memory, so slow that they are waited for.
SLOW = {"links.outer_port.period_cycles": "50", "links.dram_port.period_cycles": "100"}
MACHINES = ({}, SLOW, SLOW | {"memories.dram.dram.period_cycles": "100"})
NUMBERS = numeric(SOC.model_dump(mode="json", by_alias=True))
KEYS = sorted(key for key in NUMBERS if key.startswith(("links.", "dmas.", "cores.gemmini.", "memories.dram.dram.")))


def workload_of_all() -> Workload:
    """A strided convolution in several tiles of its reduction, a product, a pooling: more than the L2 holds."""
    layers = (
        replace(STRIDED, name="a", k=96, c=64, oy=14, ox=14, iy=28, ix=28),
        replace(CONV, name="b", inputs=("a",), k=512, c=96, oy=14, ox=14, iy=14, ix=14),
        Layer("c", "max_pool", ("b",), 512, 512, oy=1, ox=1, iy=14, ix=14, fy=14, fx=14),
        Layer("d", "conv", ("c",), 2000, 512),
        Layer("e", "conv", ("d",), 64, 2000),
    )
    return Workload("all", (64, 28, 28), layers, ("e",))


DEFAULT = named_mapping("default", workload_of_all(), SOC)
SMALL = LayerPlan((Part("gemmini", 64, Extent(16, 16, 1, 1, 1, 1)),), ("n", "k", "c", "fy", "fx", "oy", "ox"))
MAPPING = replace(DEFAULT, layers={**DEFAULT.layers, "e": SMALL})  # whose software takes longest


@functools.cache
def outcome(slow: int, key: str = "", value: str = "") -> tuple[float, float] | str:
    """Time and energy where a key of the file has another value; or why it cannot."""
    try:
        machine = find_soc("gemmini", MACHINES[slow] | ({key: value} if key else {}))
    except InputError as error:
        return str(error)
    program = lower(workload_of_all(), MAPPING, machine)
    trace = engine_fast.run(program)
    return trace.makespan, energy_j(program, trace, machine)


@pytest.mark.parametrize("key", [key for key in KEYS if not key.endswith("channel_step")])
def test_every_number_of_the_file_counts_or_is_refused(key: str) -> None:
    """Changed, it changes time or energy of a network; or the file is refused at its line. (A channel_step is for
    searches by channels.)"""
    now = NUMBERS[key]
    # Of banks there are more than the network has rows, so that more of them would change nothing.
    other = 0 if key.endswith(".ports") else 1 if key.endswith(".banks") else now * 2 if now else 3
    value = str(type(now)(other))
    found = [outcome(slow, key, value) for slow in range(len(MACHINES))]
    assert all(key in text for text in found if isinstance(text, str))
    assert any(each != outcome(slow) for slow, each in enumerate(found))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cores.gemmini.launch_cycles": "5"}, "cores.gemmini.launch_cycles: found 5: software has"),
        ({"cores.gemmini.weight_bits": "4"}, "cores.gemmini.weight_bits: found 4: it computes in 8 bits"),
        ({"dmas.mover.lanes": "2"}, "dmas.mover.lanes: unknown key; known here: model, l2, l2_ways"),
        ({"dmas.mover.model": "cache"}, "dmas.mover: a mover's model is dma or cached"),
        ({"backing_memory": "dram"}, "mover mover reads from dram only; leave it out"),
        ({"dmas.mover.l2_line_bytes": "48"}, "l2_line_bytes: found 48: mover mover needs a power of two"),
        ({"links.return_path.bytes_per_period": "128"}, "found 128: a beat is of one line, and those of"),
        ({"dmas.mover.return_link": "outer_port"}, "its three links must be three"),
        ({"cores.host.memory": "scratchpad"}, "a core of model host_cpu takes whole tiles, mover mover brings rows"),
    ],
)
def test_what_a_file_cannot_mean_is_said_at_its_line(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_soc("gemmini", changes)

"""Products of two activations: what a layer multiplies by in place of weights is brought to it, as weights are.

One step of decoding with a key-value cache: the caches are states of the network, in memory before and after, and a
token's attention reads all of both. So the bytes that come to a core behind a DMA are at least theirs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim import exact
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import KINDS, row_of
from cosoc.sim.model.mapping import Dim, Extent, LayerPlan, Mapping, Part, Piece, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload, batched
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.report.result import Result
from cosoc.sim.report.schedule import schedule
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import complete, homes_of, placed, problems
from cosoc.sim.work import layer_work

RUNTIMES: tuple[Runtime, ...] = ("serial", "overlapped")
HEADS = 2


def decoding(context: int, width: int = 32) -> Workload:
    """One token of `width` features through an attention of HEADS heads over a cache of so many tokens."""
    own = {"k": width, "c": width}
    layers = (
        Layer("q", "conv", (INPUT,), **own),
        Layer("key", "conv", (INPUT,), into="keys", **own),
        Layer("scores", "matmul", ("q", "key"), k=HEADS * context, c=width, groups=HEADS),
        Layer("softmax", "softmax", ("scores",), k=HEADS * context, c=HEADS * context),
        Layer("value", "conv", (INPUT,), into="values", **own),
        Layer("attend", "matmul", ("softmax", "value"), k=width, c=HEADS * context, groups=HEADS),
        Layer("out", "conv", ("attend",), **own),
    )
    states = (("keys", context * width), ("values", context * width))
    return Workload("decoding", (width, 1, 1), layers, ("out",), states=states)


def on(core: str, network: Workload, soc: SoC, runtime: Runtime) -> Mapping:
    """Its products on one core, everything else where it is by default."""
    products = {x.name: LayerPlan((Part(core, x.k),)) for x in network if x.op == "matmul"}
    return complete(Mapping("products", runtime, products), network, soc)


CHIPS = (("gap8", "cluster"), ("gap9", "cluster"), ("darkside", "cluster"), ("darkside", "tensor"))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("context", [64, 1000])  # caches of 2 kB, which fit every weight memory, and of 32 kB
@pytest.mark.parametrize(("chip", "core"), CHIPS)
def test_a_cache_is_read_once_a_step(chip: str, core: str, context: int, runtime: Runtime) -> None:
    """Conservation of bytes: one token is one row, so each element of the caches is needed once. Rows of 16 bytes and
    of whole words need no alignment."""
    soc, network = find_soc(chip), decoding(context)
    result = simulate(soc, network, on(core, network, soc, runtime))
    brought = {part.layer: part.weight_bytes for part in result.by_layer}
    for name, state in (("scores", "keys"), ("attend", "values")):
        assert brought[name] == dict(network.states)[state], name
    into = next(part for part in result.by_memory if part.memory == soc.cores[core].weight_memory)
    assert into.written_bytes >= sum(size for _, size in network.states)


@pytest.mark.parametrize(("chip", "core"), CHIPS)
def test_a_product_waits_for_the_layer_that_writes_the_cache(chip: str, core: str) -> None:
    """Weights may come before their layer; what another layer makes may not: the cache is read when the new key is in
    it."""
    soc, network = find_soc(chip), decoding(64)
    program = lower(network, on(core, network, soc, "overlapped"), soc)
    trace, row = engine_fast.run(program), row_of(program, np.arange(program.n_ops))
    kind, layer = program.rows["kind"][row], program.rows["layer"][row]

    def of(name: str, what: str) -> np.ndarray:
        return (layer == program.layers.index(name)) & (kind == KINDS.index(what))

    for name, maker in (("scores", "key"), ("attend", "value")):
        assert trace.issue[of(name, "weights")].min() >= trace.end[of(maker, "store")].max() > 0


def test_a_schedule_names_the_cache() -> None:
    """Transfers read the state where it lives, as many bytes as it has; jobs read it where it was brought to, over the
    ranges of its transfer."""
    soc, network = find_soc("gap8"), decoding(1000)
    file = schedule(simulate(soc, network, on("cluster", network, soc, "overlapped")))
    read = {"l2": 0, "l1_weights": 0}
    for op in (op for op in file["ops"] if op.get("layer") == "scores" and (op["kind"] != "compute" or "macs" in op)):
        for one in op.get("operands", ()):
            if one["tensor"] == "keys" and one["access"] == "read":
                read[one["memory"]] += one["bytes"]
                spans = [op["tile"][d][1] - op["tile"][d][0] for d in "nkc"]
                assert one["what"] == "state" and one["bytes"] == math.prod(spans)
    assert read == dict.fromkeys(read, dict(network.states)["keys"])


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("context", [64, 4096])
@pytest.mark.parametrize(("chip", "core"), CHIPS)
def test_serial_time_is_the_closed_form(chip: str, core: str, context: int, n: int) -> None:
    """To the byte, with caches in the main memory and (256 kB, of three sequences) beside it, each sequence of a batch
    with its own; and to the tick, as 64 features are whole bursts, but for stores of a few results: each takes up to a
    tick more than its share of a burst."""
    soc, network = find_soc(chip), batched(decoding(context, 64), n)
    mapping = on(core, network, soc, "serial")
    homes = homes_of(network, mapping, soc)
    result = simulate(soc, network, mapping)
    by_layer = {part.layer: part for part in result.by_layer}
    for layer in (layer for layer in network if layer.second):
        plan = mapping.layers[layer.name]
        work = layer_work(layer, soc, [(p.core, p.channels) for p in plan.parts], plan, homes, exact)
        stores = sum(own.stores.calls for own in work.cores)
        ticks = layer_time(layer, work, soc, "serial", homes, Theta(), exact).ticks
        assert 0 <= by_layer[layer.name].ticks_critical - ticks < stores, layer.name
        hops = 1 if homes.weights_of(layer) == soc.main_memory else 2
        assert by_layer[layer.name].weight_bytes == hops * sum(own.weights.bytes for own in work.cores)
        assert by_layer[layer.name].weight_bytes >= hops * n * dict(network.states)[network[layer.second].into]


ORDERS: tuple[tuple[Dim, ...], ...] = tuple(
    (*pixels, "oy", "c", "fy", "fx") for pixels in itertools.permutations(("n", "k", "ox"))
)


@pytest.mark.parametrize("order", ORDERS, ids="".join)
def test_bytes_are_those_of_a_walk_over_the_tiles(order: tuple[Dim, ...]) -> None:
    """Brute force: loops in the order of the plan, a load whenever images or output channels are others than the
    tile's before."""
    soc, network = find_soc("gap8"), batched(products(), 5)
    layer = network["product"]
    for n, k, rows in itertools.product((1, 2, 5), (8, 24), (3, 8)):
        plan = LayerPlan((Part("cluster", layer.k, Extent(k, 8, 1, 1, 1, rows, n)),), order)
        mapping = complete(Mapping("m", "overlapped", {layer.name: plan}), network, soc)
        cuts = {d: [(at, min(size, whole - at)) for at in range(0, whole, size)] for d, whole, size in
                (("n", 5, n), ("k", 24, k), ("ox", 8, rows))}  # fmt: skip
        walked, before = 0, None
        for tile in itertools.product(*(cuts[d] for d in order[:3])):
            at = dict(zip(order[:3], tile, strict=True))
            if (at["n"], at["k"]) != before:
                walked += at["n"][1] * at["k"][1] * 8
            before = at["n"], at["k"]
        result = simulate(soc, network, mapping)
        assert {part.layer: part.weight_bytes for part in result.by_layer}["product"] == walked


def products() -> Workload:
    """8 rows of 8 features times 24 columns, which another layer makes."""
    layers = (
        Layer("columns", "conv", (INPUT,), k=24, c=8, ox=8, ix=8),
        Layer("product", "matmul", (INPUT, "columns"), k=24, c=8, ox=8, ix=8),
    )
    return Workload("products", (8, 1, 8), layers, ("product",))


def over(result: Result, link: str) -> int:
    return next(part.bytes for part in result.by_server if part.server == link)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_host_reads_a_cache_of_the_backing_memory(runtime: Runtime) -> None:
    """DIANA's products are the host's, which computes from the L2: a cache of 1 MB lies in the flash, so that all of it
    comes over the flash's link; one that fits the L2 is read where it is."""
    soc = find_soc("diana")
    for context, away in ((64, False), (1 << 15, True)):
        network = decoding(context)
        mapping = complete(Mapping("m", runtime), network, soc)
        homes = homes_of(network, mapping, soc)
        result = simulate(soc, network, mapping)
        caches = [layer for layer in network if layer.into]
        assert {homes.output(layer) for layer in caches} == {"flash" if away else "l2"}
        moved = over(result, "off_chip")
        assert moved >= sum(size for _, size in network.states) if away else moved == 0
        for use in memory_use(result, soc, network, mapping):
            assert 0 <= use.bytes.max() <= use.capacity_bytes, use.memory


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("chip", "core"), CHIPS)
def test_a_core_without_a_weight_memory_has_it_beside_its_inputs(chip: str, core: str, runtime: Runtime) -> None:
    """The same bytes, as loads into the memory that it computes from, which is never fuller than it is large."""
    chip_, network = find_soc(chip), decoding(1000)
    bare = chip_.cores[core].model_copy(update={"weight_memory": None})
    soc = chip_.model_copy(update={"cores": {**chip_.cores, core: bare}})
    mapping = on(core, network, soc, runtime)
    result = simulate(soc, network, mapping)
    by_layer = {part.layer: part for part in result.by_layer}
    for name, rows in (("scores", 32), ("attend", HEADS * 1000)):
        assert by_layer[name].weight_bytes == 0
        assert by_layer[name].load_bytes >= 32 * 1000 + rows
    for use in memory_use(result, soc, network, mapping):
        assert use.bytes.min() >= 0 and use.bytes.max() <= use.capacity_bytes, use.memory


def test_a_cache_that_fits_nowhere_is_cut_until_it_does() -> None:
    """A row of 40,000 features takes more than the 32 kB of weights of Darkside's cluster a channel: input channels are
    cut, and each part comes once for one row."""
    soc = find_soc("darkside")
    layers = (
        Layer("key", "conv", (INPUT,), k=80_000, c=1, bias=False),
        Layer("long", "conv", (INPUT,), k=40_000, c=1, bias=False),
        Layer("product", "matmul", ("long", "key"), k=2, c=40_000),
    )
    network = Workload("long", (1, 1, 1), layers, ("product",))
    result = simulate(soc, network, on("cluster", network, soc, "overlapped"))
    assert {part.layer: part.weight_bytes for part in result.by_layer}["product"] == 80_000


def test_a_fused_piece_begins_behind_what_it_multiplies_by() -> None:
    """All of it must be there before the first row, so the piece cannot make it; from outside it is resident."""
    soc, network = find_soc("gap8"), products()
    both = Mapping("m", "overlapped", pieces=(Piece(("columns", "product")),))
    assert any("multiplies by columns, all of which must be there" in why for _, why in problems(both, network, soc))
    rows = Layer("rows", "conv", (INPUT,), k=8, c=8, ox=8, ix=8)
    inside = replace(network["product"], inputs=("rows", "columns"))
    later = replace(network, layers=(network["columns"], rows, inside))
    fused = Mapping("m", "overlapped", pieces=(Piece(("rows", "product")),))
    result = simulate(soc, later, placed(fused, later, soc).mapping)
    assert {part.layer: part.weight_bytes for part in result.by_layer}["product"] == 24 * 8

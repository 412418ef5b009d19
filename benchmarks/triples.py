"""Random SoC x workload x mapping triples, and what must hold of every simulation: a part of robustness.py.

A triple is a SoC of socs/ with some of its figures changed, a built-in network or a random graph, and a mapping: one by
rule, a random one, or one with a parallel or fused group. What is expected of it is computed here from shapes, rates
and the program's rows, not by the functions that the simulator itself uses for it:

- both engines give the same ticks (programs of up to MOST_BURSTS bursts);
- every MAC is done once, every output stored once, every input and weight loaded at least once;
- a link is busy for its bytes over its rate; where conflicts or switching stretch it, between the bounds of that;
- the makespan is at least the longest chain of dependent work and the busiest server and unit, at most all in a row;
- the critical path's causes sum to the makespan;
- another process, with other hashes, numbers of threads, locale, time zone and working folder, finds the same program,
  trace and report, digit for digit.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.mapping_file import dump_mapping
from cosoc.sim.files.workload_file import faults, find_workload
from cosoc.sim.machine.program import KINDS, Program, Records, bursts_of, entries_of, row_of
from cosoc.sim.machine.trace import Trace
from cosoc.sim.manual import MANUAL, named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import form, per_channel
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.movers.cached_terms import cached_cores
from cosoc.sim.report.result import to_json
from cosoc.sim.simulate import engine_run, simulate
from cosoc.sim.tiler import checked, homes_of, living, unsupported

MOST_BURSTS = 40_000  # of a program that the reference engine runs too, and as many ops
MOST_OPS = 60_000  # of a program whose longest chain is computed
TRIES = 60  # draws of a triple until the machine can run it
NETWORKS = (
    *("autoencoder", "digits_cnn", "dscnn", "mobilenet_v1_025", "mobilenet_v1_cifar", "resnet18_cifar"),
    *("resnet18_segment", "resnet20", "resnet8", "squeezenet", "vgg8"),
)
ELSEWHERE = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TZ": "Pacific/Kiritimati"}
OFTEN = ("darkside", "diana")  # several cores, memories and DMAs: every other triple is of one of these
# What is changed in a SoC file, and by which factors.
SCALED = {
    "size_bytes": (0.25, 0.5, 2, 4), "bytes_per_period": (0.125, 0.5, 2, 3, 7),
    "period_cycles": (2, 3), "setup_cycles": (0, 0.5, 3, 10), "piece_cycles": (0, 4), "burst_bytes": (0.25, 2, 5, 1000),
    "lanes": (2, 3), "ports": (2, 4), "launch_cycles": (0, 0.1, 7), "feed_pieces": (2, 3, 8),
    "rows": (0.5, 2), "cols": (0.5, 2), "align_bytes": (2, 0.25),
}  # fmt: skip


@dataclass(frozen=True)
class Triple:
    """What is simulated. kind: of the mapping, for the count."""

    soc: SoC
    workload: Workload
    mapping: Mapping
    kind: str


# ------------------------------------------------------------------------------------------ drawing


def drawn(seed: int, number: int) -> tuple[Triple, int]:
    """Triple `number`, and how many draws before it were refused as not fit for the machine."""
    for attempt in range(TRIES):
        rng = Random(f"{seed} triple {number} {attempt}")
        try:
            soc = random_soc(rng, OFTEN[number // 2 % 2] if number % 2 else list_socs()[number // 2 % len(list_socs())])
            network = random_graph(rng) if rng.random() < 0.5 else find_workload(rng.choice(NETWORKS))
            kind, mapping = random_mapping(rng, soc, network)
            return Triple(soc, network, checked(mapping, network, soc), kind), attempt
        except InputError:
            continue
    raise RuntimeError(f"triple {number} of seed {seed}: no draw of {TRIES} fits its machine")


def figures(content: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, str, int]]:
    """Dotted path, key and value of every figure that may be scaled."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in SCALED and isinstance(value, int) and not isinstance(value, bool):
                yield ".".join((*at, key)), key, value
            else:
                yield from figures(value, (*at, str(key)))


def random_soc(rng: Random, name: str) -> SoC:
    """A built-in SoC with up to five of its figures scaled. InputError where it does not hang together any more."""
    known = list(figures(find_soc(name).model_dump(mode="json", by_alias=True)))
    changes = {}
    for path, key, value in rng.sample(known, min(len(known), rng.choice((0, 1, 2, 3, 5)))):
        least = 0 if key in ("setup_cycles", "piece_cycles", "launch_cycles") else 1
        changes[path] = str(max(least, round((value or 1) * rng.choice(SCALED[key]))))
    return find_soc(name, changes)


def random_graph(rng: Random) -> Workload:
    """A small network of any shape: chains, branches that join again, every operator that a file can name."""
    c, size = rng.choice((1, 3, 8, 16)), rng.choice((4, 7, 8, 13, 16, 28))
    layers: list[Layer] = []
    ends = [Layer(INPUT, "", (), c, c, size, size, size, size)]  # stands for the input, as something that is read
    for _ in range(rng.randrange(2, 8)):
        made = rng.choice(MAKERS)(rng, rng.choice(ends[-3:]), len(layers))
        layers += made
        ends += made[-1:]
    read = {name for layer in layers for name in layer.inputs}
    outputs = tuple(layer.name for layer in layers if layer.name not in read)
    out = Workload("graph", (c, size, size), tuple(layers), outputs)
    wrong = faults(out)
    assert not wrong, wrong
    return out


def _conv(rng: Random, x: Layer, n: int, name: str = "", like: Layer | None = None) -> Layer:
    """A convolution of x; `like`: with the output shape of that one."""
    f = rng.choice((1, 1, 3, 3, 5))
    dilation = rng.choice((1, 1, 1, 2)) if f > 1 else 1
    reach, pad = (f - 1) * dilation + 1, (f - 1) * dilation // 2
    stride = like.stride_y if like else rng.choice((1, 1, 2))
    groups = rng.choice([g for g in (1, 1, 1, 2, x.k) if x.k % g == 0])
    k = like.k if like else groups * rng.choice((1, 2, 5, 8, 16, 24)) if groups < x.k or x.k == 1 else x.k
    if k % groups:
        groups = 1
    oy, ox = ((size + 2 * pad - reach) // stride + 1 for size in (x.oy, x.ox))
    return Layer(name or f"conv{n}", "conv", (x.name,), k, x.k, oy, ox, x.oy, x.ox, f, f, stride, stride, pad, pad,
                 dilation, dilation, groups, bias=rng.random() < 0.7)  # fmt: skip


def _same(x: Layer, name: str, op: str, inputs: tuple[str, ...], fn: str = "") -> Layer:
    return Layer(name, op, inputs, x.k, x.k, x.oy, x.ox, x.oy, x.ox, fn=fn)


def _chain(rng: Random, x: Layer, n: int) -> list[Layer]:
    return [_conv(rng, x, n)]


def _pool(rng: Random, x: Layer, n: int) -> list[Layer]:
    f = rng.choice((2, 3))
    if min(x.oy, x.ox) < f:
        return [_conv(rng, x, n)]
    oy, ox = ((size - f) // 2 + 1 for size in (x.oy, x.ox))
    op = rng.choice(("max_pool", "avg_pool"))
    return [Layer(f"pool{n}", op, (x.name,), x.k, x.k, oy, ox, x.oy, x.ox, f, f, 2, 2)]


def _residual(rng: Random, x: Layer, n: int) -> list[Layer]:
    first = _conv(rng, x, n)
    second = _conv(rng, x, n, f"short{n}", first)
    return [first, second, _same(first, f"add{n}", "add", (first.name, second.name))]


def _two_ways(rng: Random, x: Layer, n: int) -> list[Layer]:
    """A full and a depthwise convolution of one tensor, which can run at once, and their join."""
    full = Layer(f"full{n}", "conv", (x.name,), x.k, x.k, x.oy, x.ox, x.oy, x.ox)
    depth = Layer(f"depth{n}", "conv", (x.name,), x.k, x.k, x.oy, x.ox, x.oy, x.ox, 3, 3, pad_y=1, pad_x=1, groups=x.k)
    if rng.random() < 0.5:
        return [full, depth, _same(x, f"add{n}", "add", (full.name, depth.name))]
    join = replace(_same(x, f"concat{n}", "concat", (full.name, depth.name)), k=2 * x.k, c=2 * x.k)
    return [full, depth, join]


def _pointwise(rng: Random, x: Layer, n: int) -> list[Layer]:
    op, fn = rng.choice((("softmax", ""), ("norm", ""), ("eltwise", "Sigmoid"), ("eltwise", "Mul")))
    return [_same(x, f"{op}{n}", op, (x.name,) * (2 if fn == "Mul" else 1), fn)]


def _resize(rng: Random, x: Layer, n: int) -> list[Layer]:
    return [Layer(f"resize{n}", "resize", (x.name,), x.k, x.k, 2 * x.oy, 2 * x.ox, x.oy, x.ox, 2, 2)]


def _attention(rng: Random, x: Layer, n: int) -> list[Layer]:
    """A tensor times itself: every pixel with every other."""
    k = x.oy * x.ox
    return [Layer(f"matmul{n}", "matmul", (x.name, x.name), k, x.k, x.oy, x.ox, x.oy, x.ox)]


def _full(rng: Random, x: Layer, n: int) -> list[Layer]:
    return [Layer(f"fc{n}", "conv", (x.name,), rng.choice((2, 10, 33)), x.outputs)]


Maker = Callable[[Random, Layer, int], list[Layer]]
MAKERS: tuple[Maker, ...] = (
    *(_chain, _chain, _chain, _pool, _residual, _two_ways, _two_ways, _pointwise, _resize, _attention, _full),
)


def random_mapping(rng: Random, soc: SoC, workload: Workload) -> tuple[str, Mapping]:
    """(kind, mapping); what it leaves open the tiler completes."""
    runtime: Runtime = rng.choice(("serial", "overlapped", "overlapped"))
    if cached_cores(soc):
        return "default", named_mapping("default", workload, soc, runtime)
    kind = rng.choice(("rule", "random", "random", "parallel", "parallel", "fused"))
    if kind == "rule":
        return kind, named_mapping(rng.choice(MANUAL), workload, soc, runtime)
    if kind == "random":
        from cosoc.search import sampling
        from cosoc.sim.tiler import TilingCache

        draws = np.random.default_rng(rng.randrange(1 << 31))
        return kind, sampling.random_mapping(workload, soc, runtime, draws, TilingCache())
    groups = tuple(_groups(rng, workload, soc, kind == "parallel"))
    if not groups:
        raise InputError("no layers for a group")
    cores = {name: core for _, chosen in groups for name, core in chosen.items()}
    layers = {name: LayerPlan((Part(core, workload[name].k),)) for name, core in cores.items()}
    return kind, Mapping(kind, "overlapped", layers, tuple(group for group, _ in groups))


def _groups(rng: Random, workload: Workload, soc: SoC, parallel: bool) -> Iterator[tuple[Piece, dict[str, str]]]:
    """Groups of two or three neighbours, with a core for each: different ones if they are to run at once."""
    at, layers = 0, workload.layers
    while at < len(layers) - 1:
        members = layers[at : at + rng.choice((2, 2, 3))]
        names = {layer.name for layer in members}
        chosen: dict[str, str] = {}
        for layer in members:
            able = [n for n in soc.cores if not unsupported(layer, soc, n) and not (parallel and n in chosen.values())]
            if able:
                chosen[layer.name] = rng.choice(able)
        apart = not any(names & set(layer.reads) for layer in members)
        fits = len(chosen) == len(members) and (apart if parallel else not apart)
        group = Piece(tuple(layer.name for layer in members), "parallel" if parallel else "fused")
        if fits and _fits(soc, workload, group, chosen):
            yield group, chosen
            at += len(members)
        else:
            at += 1


def _fits(soc: SoC, workload: Workload, group: Piece, cores: dict[str, str]) -> bool:
    layers = {name: LayerPlan((Part(core, workload[name].k),)) for name, core in cores.items()}
    try:
        checked(Mapping("group", "overlapped", layers, (group,)), workload, soc)
    except InputError:
        return False
    return True


# ------------------------------------------------------------------------------------------ what must hold


def violations(triple: Triple, program: Program, trace: Trace) -> Iterator[str]:
    """Everything that does not hold of a run, in words."""
    yield from _bytes_and_work(triple, program)
    yield from _links(program, trace)
    yield from _bounds(program, trace)


def _times(program: Program) -> Any:
    """How many ops each row stands for."""
    times = np.zeros(len(program.rows), np.int64)
    for first, n, count in program.blocks.tolist():
        times[first : first + n] += count
    return times


def _bytes_and_work(triple: Triple, program: Program) -> Iterator[str]:
    soc, workload, mapping = triple.soc, triple.workload, triple.mapping
    rows, times = program.rows, _times(program)
    systolic = bool(cached_cores(soc))  # moves by the mvin, in ticks of its own: no bytes to be counted here
    homes = None if systolic else homes_of(workload, mapping, soc)
    for layer in living(workload, mapping, soc):
        mine = rows["layer"] == program.layers.index(layer.name) if layer.name in program.layers else rows["unit"] < 0
        own = workload[layer.name]
        shares = [p for p in mapping.layers[layer.name].parts if p.channels]
        forms = [(s, own if systolic else form(own, soc.cores[s.core])) for s in shares]
        macs, done = sum(f.macs * s.channels // f.k for s, f in forms), int((rows["macs"] * times)[mine].sum())
        if macs != done:
            yield f"{layer.name}: {done} MACs done of {macs}"
        if homes is None:
            continue
        moved = {kind: int((rows["bytes"] * times)[mine & (rows["kind"] == KINDS.index(kind))].sum())
                 for kind in ("load", "store", "weights")}  # fmt: skip
        inside = any(layer.name in group.layers and group.how == "fused" for group in mapping.pieces)
        yield from _moved(own, forms, soc, homes, moved, inside)


def _moved(own: Layer, forms: Any, soc: SoC, homes: Any, moved: dict[str, int], inside: bool) -> Iterator[str]:
    """Bytes of one layer against its shapes. inside: of a fused group, where tensors need not be moved at all."""
    loads = stores = weights = 0
    whole: set[tuple[str, str]] = set()
    for share, layer in forms:
        core = soc.cores[share.core]
        if homes.inputs(own) != core.memory and not inside:
            operands = len(layer.inputs) if layer.op in ("add", "eltwise") else 1
            pixels = _under(layer, "y") * _under(layer, "x") * operands
            if per_channel(layer):
                loads += share.channels * pixels
            elif (core.memory, layer.op) not in whole:  # one copy for all cores of a memory
                whole.add((core.memory, layer.op))
                loads = max(loads, layer.c * pixels)
        if homes.output(own) != core.memory and not inside:
            stores += share.channels * layer.oy * layer.ox
        if core.weight_memory is not None and layer.op == "conv" and own.name not in homes.pinned:
            bits = layer.weights // layer.k * share.channels * core.weight_bits
            weights += -(-bits // 8) * (1 if homes.weights_in_main else 2)
    for kind, least in (("load", loads), ("store", stores), ("weights", weights)):
        if moved[kind] < least:
            yield f"{own.name}: {moved[kind]} bytes of {kind}, of {least} at least"
    if all(dma.align_bytes == 1 for dma in soc.dmas.values()) and not inside and moved["store"] != stores:
        yield f"{own.name}: {moved['store']} bytes stored of {stores}"


def _under(layer: Layer, axis: str) -> int:
    """Input rows (or columns) that some output reads, counted one by one."""
    out, size, f, stride, pad, dilation = (
        getattr(layer, name + axis) for name in ("o", "i", "f", "stride_", "pad_", "dilation_")
    )
    if layer.op == "resize":
        return len({o * size // out for o in range(out)})
    if layer.op not in ("conv", "max_pool", "avg_pool"):
        return int(size)
    seen = {o * stride - pad + tap * dilation for o in range(out) for tap in range(f)}
    return len([at for at in seen if 0 <= at < size])


def _routes(program: Program) -> tuple[Any, Any]:
    """The row and the server of every entry of a route."""
    rows = program.rows
    owner = np.repeat(np.arange(len(rows)), rows["route_n"])
    return owner, program.routes[entries_of(rows["route_at"], rows["route_n"])]


def _holds(program: Program, size: Any) -> tuple[Any, Any]:
    """Least and most ticks for which a burst of so many bytes [rows] holds each server of its route, by the rates
    alone: [entries of routes]."""
    rows, servers = program.rows, program.servers
    owner, at = _routes(program)
    plain = -(-size[owner] * servers["rate_ticks"][at] // servers["rate_bytes"][at])
    tables = [program.stretch[s["stretch_at"] :][: s["stretch_n"]] for s in servers]
    low, high = (np.array([pick(t[1:] if len(t) > 1 else t) for t in tables], np.int64) for pick in (np.min, np.max))
    switch = np.where(rows["tag"][owner] >= 0, servers["switch"][at], 0)
    return np.maximum((plain * low[at]) >> 8, 1), np.maximum(((plain * high[at]) >> 8) + switch, 1)


def server_bounds(program: Program) -> tuple[Any, Any]:
    """Least and most ticks for which each row's bursts hold each server of its route: [entries of routes]."""
    rows, bursts = program.rows, bursts_of(program.rows)
    last = rows["bytes"] - np.maximum(bursts - 1, 0) * rows["burst"]
    whole, rest = _holds(program, np.minimum(rows["burst"], rows["bytes"])), _holds(program, last)
    n = bursts[_routes(program)[0]]
    least, most = (np.where(n > 0, (n - 1) * w + r, 0) for w, r in zip(whole, rest, strict=True))
    return least, most


def service_bounds(program: Program) -> tuple[Any, Any]:
    """Least and most ticks of each row's bursts: [rows]. Side by side at all servers of the route; or, where others are
    in between, at one after the other."""
    owner, _ = _routes(program)
    least, most = (np.zeros(len(program.rows), np.int64) for _ in range(2))
    found = server_bounds(program)
    np.maximum.at(least, owner, found[0])
    np.add.at(most, owner, found[1])
    return least, most


def _links(program: Program, trace: Trace) -> Iterator[str]:
    (owner, at), times = _routes(program), _times(program)
    bounds = []
    for ticks in server_bounds(program):
        busy = np.zeros(len(program.servers), np.int64)
        np.add.at(busy, at, ticks * times[owner])
        bounds.append(busy)
    for name, low, busy, high in zip(program.server_names, bounds[0], trace.busy, bounds[1], strict=True):
        if not low <= busy <= high:
            yield f"{name}: busy for {busy} ticks; its bytes over its rate are {low} to {high}"


def _bounds(program: Program, trace: Trace) -> Iterator[str]:
    rows, times, units = program.rows, _times(program), program.units
    least, most = service_bounds(program)
    alone = rows["setup"] + rows["run"]
    makespan = trace.makespan
    in_a_row = int(((alone + most) * times).sum())
    if makespan > in_a_row:
        yield f"makespan {makespan}: all ops one after the other take {in_a_row}"
    for name, busy, ports in zip(program.server_names, trace.busy, program.servers["ports"], strict=True):
        if busy > makespan * ports:
            yield f"makespan {makespan}: {name} is busy for {busy} on {ports} ports"
    for unit, lanes in enumerate(units["lanes"]):
        work = int(((alone + least) * times)[rows["unit"] == unit].sum())
        if work > makespan * lanes:
            yield f"makespan {makespan}: {program.unit_names[unit]} has work for {work} on {lanes} lanes"
    if program.n_ops <= MOST_OPS and makespan < (chain := longest_chain(program, alone + least)):
        yield f"makespan {makespan}: the longest chain of dependent ops takes {chain}"


def longest_chain(program: Program, ticks: Any) -> int:
    """Ticks of the longest chain of ops, each after its deps and, on a unit with one lane, after the one before it;
    ticks [rows]: what an op takes alone."""
    row = row_of(program, np.arange(program.n_ops)).tolist()
    rows, deps = program.rows, program.deps.tolist()
    unit, at, n = (rows[key].tolist() for key in ("unit", "dep_at", "dep_n"))
    takes, single = ticks.tolist(), (program.units["lanes"] == 1).tolist()
    ends: list[int] = []
    free = [0] * len(single)
    for op, r in enumerate(row):
        start = free[unit[r]]
        for distance in deps[at[r] : at[r] + n[r]]:
            if distance <= op:
                start = max(start, ends[op - distance])
        ends.append(start + takes[r])
        free[unit[r]] = ends[-1] if single[unit[r]] else start
    return max(ends, default=0)


def engines_differ(program: Program, trace: Trace) -> str:
    """In what the reference engine's trace is another; "" if in nothing."""
    other = engine_run("reference")(program, ())
    keys = ("issue", "end", "service", "busy")
    wrong = [key for key in keys if not np.array_equal(getattr(trace, key), getattr(other, key))]
    wrong += [key for key in ("makespan", "bursts") if getattr(trace, key) != getattr(other, key)]
    return ", ".join(wrong)


# ------------------------------------------------------------------------------------------ running them


def looked_at(number: int, seed: int, full: bool) -> dict[str, Any]:
    """One triple simulated: its digest and, if `full`, what was violated."""
    triple, refused = drawn(seed, number)
    result = simulate(triple.soc, triple.workload, triple.mapping)
    program, trace = result.program, result.trace
    plain = {key: value for key, value in to_json(result).items() if key != "wall_s"}
    out = {"number": number, "digest": _digest(plain, triple.mapping, program, trace)}
    if not full:
        return out
    found = list(violations(triple, program, trace))
    if sum(result.critical_path.by_cause_ticks.values()) != trace.makespan:
        found.append("the critical path's causes do not sum to the makespan")
    both = trace.bursts <= MOST_BURSTS and program.n_ops <= MOST_BURSTS
    if both and (wrong := engines_differ(program, trace)):
        found.append(f"the engines differ in {wrong}")
    return out | {
        "soc": triple.soc.name, "workload": triple.workload.name, "kind": triple.kind, "refused": refused,
        "runtime": triple.mapping.runtime, "bursts": int(trace.bursts), "both_engines": both,
        "exact_links": _exact(program), "violations": found,
    }  # fmt: skip


def _exact(program: Program) -> bool:
    """Whether rates alone decide every hold."""
    least, most = server_bounds(program)
    return bool((least == most).all())


def _digest(plain: dict[str, Any], mapping: Mapping, program: Program, trace: Trace) -> str:
    out = hashlib.sha256(json.dumps(plain, sort_keys=True).encode() + dump_mapping(mapping).encode())
    arrays: tuple[Records | Any, ...] = (program.rows, program.routes, program.deps, program.takes, program.gives,
                                         program.blocks, trace.issue, trace.end, trace.service, trace.busy)  # fmt: skip
    for array in arrays:
        out.update(np.ascontiguousarray(array).tobytes())
    return out.hexdigest()


def work(seed: int, n: int, full: bool) -> None:
    """A child process: every triple, a line of JSON each."""
    for number in range(n):
        print(json.dumps(looked_at(number, seed, full)), flush=True)


def measure(n: int, seed: int) -> dict[str, Any]:
    """Look at n triples in two processes that hash strings differently and have one thread, and two; the second with
    an ASCII locale and another time zone, in an empty folder."""
    script = Path(__file__).resolve()
    children = []
    with tempfile.TemporaryDirectory() as elsewhere:
        for threads, hashes, folder, more in ((1, "1", str(script.parent), {}), (2, "4242", elsewhere, ELSEWHERE)):
            names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
            environment = os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONHASHSEED": hashes} | more
            words = [sys.executable, str(script), "--work", str(seed), str(n), str(int(threads == 1))]
            children.append(subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, cwd=folder, text=True))
        found, again = ([json.loads(line) for line in child.communicate()[0].splitlines()] for child in children)
    for child in children:
        if child.returncode:
            raise RuntimeError(f"a process that looked at triples ended with status {child.returncode}")
    other = [a["number"] for a, b in zip(found, again, strict=True) if a["digest"] != b["digest"]]
    wrong = {t["number"]: t["violations"] for t in found if t["violations"]}
    return {
        "triples": n, "violated": len(wrong), "violations": wrong, "not_deterministic": other,
        "refused_draws": sum(t["refused"] for t in found), "both_engines": sum(t["both_engines"] for t in found),
        "links_exact": sum(t["exact_links"] for t in found),
        "random_graphs": sum(t["workload"] == "graph" for t in found),
        "socs": len({t["soc"] for t in found}), "mappings": Counter(f"{t['kind']}, {t['runtime']}" for t in found),
        "bursts": sum(t["bursts"] for t in found),
    }  # fmt: skip


if __name__ == "__main__":
    work(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")

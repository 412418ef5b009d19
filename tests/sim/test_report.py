"""Does what a user sees of a run add up, and is it what the trace says?"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosoc.sim.errors import Deadlock
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.machine import engine_reference
from cosoc.sim.machine.program import KINDS, Builder, Program, op_text, row_of, unroll
from cosoc.sim.machine.trace import Trace
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.report import render
from cosoc.sim.report.chrome import chrome_trace, tracks, write_chrome_trace
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.report.render import CAUSES, bottleneck, gantt, summary, table
from cosoc.sim.report.result import PATH_NAMES, Result, busy_ticks, energy_j, to_json
from cosoc.sim.simulate import simulate


def halves(network: str, runtime: Runtime) -> tuple[Workload, Mapping]:
    """Every convolution of 32 channels or more half digital, half analog."""
    workload = find_workload(network)
    wide = [layer for layer in workload if layer.op == "conv" and not layer.depthwise and layer.k >= 32]
    layers = {
        layer.name: LayerPlan((Part("digital", layer.k // 2), Part("analog", layer.k - layer.k // 2))) for layer in wide
    }
    return workload, Mapping("half", runtime, layers)


def run_of(network: str, runtime: Runtime, overrides: dict[str, str] | None = None, inferences: int = 1) -> Result:
    return simulate(find_soc("diana", overrides), *halves(network, runtime), inferences=inferences)


# Four DMA lanes and one port to the scratchpad: many ops at once, and many that stand in each other's way.
CROWDED = {"dmas.dma.lanes": "4", "links.l1.ports": "1", "links.l1.bytes_per_period": "8"}
RUNS: list[tuple[str, Runtime, dict[str, str], int]] = [
    ("digits_cnn", "serial", {}, 1),
    ("digits_cnn", "overlapped", {}, 3),
    ("resnet8", "overlapped", CROWDED, 1),
    ("resnet20", "serial", {"links.l2_read.energy_pj_per_byte": "1.5", "dmas.dma.power_mw": "0.75"}, 1),
    ("dscnn", "overlapped", {"links.analog_feed.energy_pj_per_byte": "0.25", "cores.host.power_mw": "2.5"}, 2),
    ("resnet18_cifar", "overlapped", {}, 1),
]


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: f"{run[0]}-{run[1]}")
def result(request: pytest.FixtureRequest) -> Result:
    return run_of(*request.param)


# -- energy ----------------------------------------------------------------------------------------------------------


# Powers of DIANA's units by ODiMO's table of modes: 24.96, 28.74 and 42.39 mW are a base and two increments.
MODES = {"base_power_mw": "11.31", "cores.digital.power_mw": "13.65", "cores.analog.power_mw": "17.43"}


@pytest.mark.parametrize(("busy", "mw"), [(("digital",), 24.96), (("analog",), 28.74), (("digital", "analog"), 42.39)])
def test_mode_powers_of_diana(busy: tuple[str, ...], mw: float) -> None:
    """A unit busy for the whole run draws, with the base, the power of that mode."""
    soc = find_soc("diana", MODES)
    builder = Builder("mode", soc.tick_hz)
    for name in busy:
        builder.op(builder.unit(name), run=1000, layer=builder.layer("layer"))
    program = builder.build()
    trace = engine_reference.run(program)
    assert trace.makespan == 1000
    assert energy_j(program, trace, soc) / (1000 / soc.tick_hz) == pytest.approx(mw * 1e-3, rel=1e-12)


def test_a_launch_is_the_hosts_time_and_a_feed_the_cores() -> None:
    """Drawn by hand: launch 0-10 (host busy), feed 10-14 and compute 14-34 (core busy), idle to 40."""
    soc = find_soc("diana", MODES | {"cores.host.power_mw": "2.0"})
    b = Builder("hand", soc.tick_hz)
    b.unit("host")
    analog, digital, layer = b.unit("analog"), b.unit("digital"), b.layer("layer")
    time, link = b.server("host_time", rate_bytes=1), b.server("feed", rate_bytes=8)
    b.op(analog, bytes=10, burst=10, route=(time,), kind="launch", layer=layer)
    b.op(analog, bytes=32, burst=32, route=(link,), kind="feed", layer=layer)
    b.op(analog, run=20, kind="compute", layer=layer)
    b.op(digital, run=40, kind="sync")
    program = b.build()
    trace = engine_reference.run(program)
    busy = busy_ticks(program, trace, soc)
    assert dict(zip(program.unit_names, busy.tolist(), strict=True)) == {
        "host": [10, 0],
        "analog": [24, 0],
        "digital": [0, 40],
    }
    expected = 11.31 * 40 + 2.0 * 10 + 17.43 * 24 + 13.65 * 40
    assert energy_j(program, trace, soc) == pytest.approx(expected * 1e-3 / soc.tick_hz, rel=1e-12)


def busy_by_tick(program: Program, trace: Trace) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tick by tick: which units have an op in flight that is no launch, and in which layer the first of those is."""
    rows = program.rows[row_of(program, np.arange(program.n_ops))]
    ticks = np.zeros((len(program.unit_names), len(program.layers) + 1), np.int64)
    for t in range(trace.makespan):
        now = (trace.issue <= t) & (t < trace.end) & (rows["kind"] != KINDS.index("launch"))
        for unit in range(len(program.unit_names)):
            ops = np.flatnonzero(now & (rows["unit"] == unit))
            if len(ops):
                ticks[unit, rows["layer"][ops[0]]] += 1
    return ticks


def test_busy_ticks_by_brute_force(random_program: Callable[..., Program]) -> None:
    """Random programs with up to three lanes a unit; their launches have no host to be busy."""
    soc = find_soc("diana")
    ran = 0
    for seed in range(16):
        drawn = random_program(seed)
        rows = drawn.rows.copy()
        rows["layer"] = np.random.default_rng(seed).integers(-1, 2, len(rows))
        program = replace(drawn, layers=("a", "b"), rows=rows)
        try:
            trace = engine_reference.run(program)
        except Deadlock:
            continue  # one in eight is drawn so
        assert (busy_ticks(program, trace, soc) == busy_by_tick(program, trace)).all(), f"seed {seed}"
        ran += 1
    assert ran >= 8


def test_energies_add_up(result: Result) -> None:
    assert sum(layer.energy_j for layer in result.by_layer) == pytest.approx(result.energy_j, rel=1e-12)
    units = sum(unit.energy_j or 0.0 for unit in result.by_unit)
    assert units + result.base_energy_j == pytest.approx(result.energy_j, rel=1e-12)
    parts = result.base_energy_j + result.powers_energy_j + result.ops_energy_j
    assert parts == pytest.approx(result.energy_j, rel=1e-12)
    base_mw = result.at.soc.base_power_mw  # 8.81 at the sizes of the file, which most of the runs have
    assert result.base_energy_j == pytest.approx(1e-3 * base_mw * result.seconds, rel=1e-12)
    links = sum(memory.energy_j or 0.0 for memory in result.by_memory)
    jobs = result.by_level.get("analog", 0.0)  # the one core of DIANA whose jobs have an energy of their own
    assert links + jobs == pytest.approx(result.ops_energy_j, rel=1e-9)


def test_what_has_no_figure_is_not_zero() -> None:
    """diana.yaml has powers for the two arrays and an energy for the off-chip link; the rest is inside them."""
    result = run_of("resnet18_cifar", "overlapped")
    assert {unit.unit for unit in result.by_unit if unit.energy_j is not None} == {"digital", "analog", "io_dma"}
    assert {memory.memory for memory in result.by_memory if memory.energy_j is not None} == {"flash"}
    for part in (*result.by_unit, *result.by_memory):
        assert (part.energy_j is None) == part.note.startswith("no figure of its own")


def test_off_chip_energy_is_that_of_its_bytes() -> None:
    """67 pJ a byte, over the off-chip link only."""
    result = run_of("resnet18_cifar", "overlapped")
    flash = next(memory for memory in result.by_memory if memory.memory == "flash")
    assert flash.read_bytes > 0
    assert flash.energy_j == pytest.approx((flash.read_bytes + flash.written_bytes) * 67e-12, rel=1e-9)


# -- ticks and bytes ---------------------------------------------------------------------------------------------------


def test_the_critical_path_is_the_makespan(result: Result) -> None:
    path = result.critical_path
    for totals in (path.by_cause_ticks, path.by_layer_ticks, path.by_unit_ticks):
        assert sum(totals.values()) == result.ticks
    assert sum(sum(layer.causes.values()) for layer in result.by_layer) == result.ticks
    assert [layer.ticks_critical for layer in result.by_layer] == [sum(p.causes.values()) for p in result.by_layer]
    waited = sum(sum(holders.values()) for holders in path.waits_ticks.values())
    assert waited == path.by_cause_ticks.get("wait_server", 0)
    ends = [0, *(part.end_tick for part in path.segments)]
    assert [part.start_tick for part in path.segments] == ends[:-1]
    assert ends[-1] == result.ticks
    assert set(path.by_cause_ticks) <= set(CAUSES)


def test_the_critical_path_is_told_as_its_segments_say(result: Result) -> None:
    """Against a loop over the segments: shares, waits, edges, and stretches of equal neighbours."""
    program, path = result.program, result.critical_path
    shares: dict[tuple[str, str, str], int] = {}
    waits: dict[str, dict[str, int]] = {}
    edges: dict[str, int] = {}
    stretches: list[tuple[tuple[str, ...], list[int]]] = []
    for start, end, op, number, server, behind, _ in result.path.tolist():
        cause = PATH_NAMES[number]
        if start == end:
            edges[cause] = edges.get(cause, 0) + 1
            continue
        what, _, unit = re.fullmatch(r"op \d+ \((.*)( on )(.*)\)", op_text(program, op)).groups()  # type: ignore[union-attr]
        kind, _, layer = what.partition(" of ")
        shares[layer, unit, cause] = shares.get((layer, unit, cause), 0) + end - start
        link = holder = ""
        if cause == "wait_server":
            link = program.server_names[server]
            holder = op_text(program, behind).partition("(")[2][:-1]
            waits.setdefault(link, {}).setdefault(holder, 0)
            waits[link][holder] += end - start
        key = (unit, kind, layer, cause, link, holder)
        if stretches and stretches[-1][0] == key:
            stretches[-1][1].append(op)
        else:
            stretches.append((key, [op]))
    assert {(share.layer, share.unit, share.cause): share.ticks for share in path.shares} == shares
    assert (path.waits_ticks, path.edges) == (waits, edges)
    told = [(p.unit, p.kind, p.layer, p.cause, p.server, p.behind) for p in path.segments]
    assert told == [key for key, _ in stretches]
    assert [(p.first_op, p.ops) for p in path.segments] == [(ops[0], len(set(ops))) for _, ops in stretches]


@pytest.mark.parametrize("parts", [1, 7, 40])
def test_a_long_critical_path_is_told_in_few_stretches(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They still reach from 0 to the makespan, none but the last is short, and no cause is lost."""
    monkeypatch.setattr("cosoc.sim.report.result.PARTS", parts)
    result = run_of("resnet20", "serial")
    path = result.critical_path
    assert parts // 3 <= len(path.segments) <= parts + 1
    ends = [0, *(part.end_tick for part in path.segments)]
    assert [part.start_tick for part in path.segments] == ends[:-1]
    assert ends[-1] == result.ticks
    assert all((part.end_tick - part.start_tick) * parts >= result.ticks for part in path.segments[:-1])
    causes: dict[str, int] = {}
    for part in path.segments:
        assert sum(part.causes.values()) == part.end_tick - part.start_tick
        assert part.cause in part.causes
        for cause, ticks in part.causes.items():
            causes[cause] = causes.get(cause, 0) + ticks
    assert causes == path.by_cause_ticks
    assert path.shares == run_of("resnet20", "serial").critical_path.shares


def test_parts_are_sums_over_ops(result: Result) -> None:
    """Against a loop over all ops, one by one: layers, their cores, units, servers and memories."""
    program, trace, soc = result.program, result.trace, find_soc("diana")
    totals: dict[tuple[str, ...], int] = {}

    def add(value: int, *key: str) -> None:
        if value:
            totals[key] = totals.get(key, 0) + int(value)

    for op, at in enumerate(row_of(program, np.arange(program.n_ops)).tolist()):
        row = program.rows[at]
        unit, kind, layer = program.unit_names[row["unit"]], KINDS[row["kind"]], program.layers[row["layer"]]
        add(1, "unit", unit)
        add(row["macs"], "unit macs", unit)
        add(row["macs"], "layer macs", layer)
        if unit in soc.dmas:
            add(row["bytes"], kind, layer)
        elif kind == "feed":
            add(row["bytes"], "feed", layer)
            add(row["bytes"], "feed of", soc.cores[unit].memory)
        if kind == "compute":
            add(1, "jobs", layer, unit)
            add(row["run"], "run", layer, unit)
        if kind in ("feed", "launch") and unit in soc.cores:
            add(trace.service[op], f"{kind} ticks", layer, unit)
        for server in program.routes[row["route_at"] : row["route_at"] + row["route_n"]]:
            add(row["bytes"], "server", program.server_names[server])
            add(-(-row["bytes"] // row["burst"]), "bursts", program.server_names[server])
    found: dict[tuple[str, ...], int] = {}
    for part in result.by_layer:
        found |= {("load", part.layer): part.load_bytes, ("weights", part.layer): part.weight_bytes}
        found |= {("store", part.layer): part.store_bytes, ("feed", part.layer): part.feed_bytes}
        found["layer macs", part.layer] = part.macs
        assert part.compute_ticks == sum(core.compute_ticks for core in part.cores.values())
        for name, core in part.cores.items():
            found |= {("jobs", part.layer, name): core.jobs, ("run", part.layer, name): core.compute_ticks}
            found["feed ticks", part.layer, name] = core.feed_ticks
            found["launch ticks", part.layer, name] = core.launch_ticks
    for of in result.by_unit:
        found |= {("unit", of.unit): of.ops, ("unit macs", of.unit): of.macs}
    for link in result.by_server:
        found |= {("server", link.server): link.bytes, ("bursts", link.server): link.bursts}
    found |= {("feed of", memory.memory): memory.feed_bytes for memory in result.by_memory}
    assert {key: n for key, n in found.items() if n} == totals


def test_a_crowded_link_is_named_with_its_holder() -> None:
    """Four lanes through one port: somebody waits, and for whom is said."""
    path = run_of("resnet8", "overlapped", CROWDED).critical_path
    assert path.by_cause_ticks["wait_server"] > 0
    assert path.waits_ticks["l1"]
    assert all(" on " in holder for holders in path.waits_ticks.values() for holder in holders)


def test_units_say_what_they_did(result: Result) -> None:
    """An in-order unit with one lane is always setting up, running, served or waiting, up to its last end."""
    program, trace = result.program, result.trace
    unit_of = program.rows["unit"][row_of(program, np.arange(program.n_ops))]
    for number, unit in enumerate(result.by_unit):
        assert unit.busy_ticks <= result.ticks
        assert unit.ops == (unit_of == number).sum()
        if unit.lanes == 1 and unit.ops:
            did = unit.setup_ticks + unit.run_ticks + unit.service_ticks + unit.wait_server_ticks
            assert did == unit.in_flight_ticks
            assert did + unit.wait_dep_ticks + unit.wait_credit_ticks == trace.end[unit_of == number].max()


def test_bytes_agree_between_layers_memories_and_servers(result: Result) -> None:
    moved = sum(layer.bytes for layer in result.by_layer)
    assert sum(memory.read_bytes for memory in result.by_memory) == moved
    assert sum(memory.written_bytes for memory in result.by_memory) == moved
    servers = {server.server: server for server in result.by_server}
    memories = {memory.memory: memory for memory in result.by_memory}
    assert servers["weight_port"].bytes == sum(memories[n].written_bytes for n in ("digital_weights", "analog_weights"))
    assert servers["off_chip"].bytes == memories["flash"].read_bytes + memories["flash"].written_bytes
    assert servers["l2_read"].bytes == memories["l2"].read_bytes
    assert servers["analog_feed"].bytes == memories["l1"].feed_bytes == sum(p.feed_bytes for p in result.by_layer)
    assert servers["host_time"].bytes == sum(c.launch_ticks for p in result.by_layer for c in p.cores.values())
    assert [server.busy_ticks for server in result.by_server] == result.trace.busy.tolist()


def test_a_split_layers_weights_go_to_two_memories() -> None:
    """By hand: 64 channels of a 3x3 filter over 32 inputs (288 taps), 32 on each array.

    Digital: 32 x (288 + 4 of bias) B. Analog: 288 rows (one step) x 128 columns (one step) x 2 bit. Both are multiples
    of the DMA's 32 B.
    """
    layer = Layer("conv", "conv", (INPUT,), 64, 32, 16, 16, 16, 16, 3, 3, pad_y=1, pad_x=1)
    workload = Workload("one", (32, 16, 16), (layer,), ("conv",))
    mapping = Mapping("half", "serial", {"conv": LayerPlan((Part("digital", 32), Part("analog", 32)))})
    result = simulate(find_soc("diana"), workload, mapping)
    memories = {memory.memory: memory for memory in result.by_memory}
    assert memories["digital_weights"].written_bytes == 32 * 292
    assert memories["analog_weights"].written_bytes == 288 * 128 * 2 // 8
    assert memories["l1"].written_bytes == 32 * 16 * 16
    assert memories["l1"].read_bytes == 64 * 16 * 16
    part = result.by_layer[0]
    assert {name: core.channels for name, core in part.cores.items()} == {"digital": 32, "analog": 32}
    assert part.cores["digital"].macs == part.cores["analog"].macs == layer.macs // 2


# -- JSON and tables ---------------------------------------------------------------------------------------------------


def test_json_has_what_it_promises(result: Result) -> None:
    out = json.loads(json.dumps(to_json(result), allow_nan=False))
    promised = (
        "soc workload mapping engine ticks tick_hz seconds energy_j by_layer by_unit by_server critical_path ops"
        " bursts wall_s runtime inferences by_memory"
    )
    assert set(promised.split()) <= set(out)
    assert out["ticks"] == result.ticks
    assert sum(layer["ticks_critical"] for layer in out["by_layer"]) == out["ticks"]
    assert sum(out["critical_path"]["by_cause_ticks"].values()) == out["ticks"]
    assert out["critical_path"]["segments"][-1]["end_tick"] == out["ticks"]
    assert not {"program", "trace", "path"} & set(out)


def test_table_fits_a_terminal(result: Result) -> None:
    from rich.console import Console

    out = io.StringIO()
    Console(width=80, file=out).print(table(result))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    for layer in result.by_layer:
        found = [line.split() for line in lines if line.split()[:1] == [layer.layer]]
        assert any(f"{layer.ticks_critical:,}" in words for words in found), layer.layer
    for unit in result.by_unit:
        assert not unit.ops or any(line.startswith(unit.unit) and f"{unit.busy_ticks:,}" in line for line in lines)
    assert " ".join(out.getvalue().split()).endswith(" ".join(summary(result).split()))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"links.l2_read.bytes_per_period": "1", "links.weight_port.bytes_per_period": "16"}, "dma moving activations"),
        ({"dmas.dma.setup_cycles": "100000"}, "dma setting up DMA transfers"),
        ({"cores.digital.launch_cycles": "1000000"}, "digital launching jobs"),
        ({"cores.digital.block_start_cycles": "10000"}, "digital computing"),
    ],
)
def test_the_bottleneck_is_what_was_made_slow(overrides: dict[str, str], sentence: str) -> None:
    layer = Layer("conv", "conv", (INPUT,), 16, 16, 32, 32, 32, 32, 1, 1)
    workload = Workload("one", (16, 32, 32), (layer,), ("conv",))
    result = simulate(find_soc("diana", overrides), workload, Mapping("m", "serial"))
    assert bottleneck(result).startswith(f"The bottleneck is {sentence}: ")
    assert bottleneck(result).endswith("above all in conv.")


# -- Chrome trace ------------------------------------------------------------------------------------------------------


def by_track(events: list[dict[str, Any]], process: str) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The slices of a process in ticks, by (name of the track, its number)."""
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    pid = next(e["pid"] for e in events if e["name"] == "process_name" and e["args"]["name"] == process)
    out: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for event in events:
        if event["ph"] == "X" and event["pid"] == pid:
            start, end = (event["args"][key] for key in ("start_tick", "end_tick"))
            in_ticks = {**event, "ts": start, "dur": end - start}
            out.setdefault((names[pid, event["tid"]], event["tid"]), []).append(in_ticks)
    return out


def outermost(slices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Slices that lie in no other; fails where two overlap without nesting."""
    top: list[dict[str, Any]] = []
    stack: list[int] = []
    for event in sorted(slices, key=lambda e: (e["ts"], -e["dur"])):
        end = event["ts"] + event["dur"]
        while stack and stack[-1] <= event["ts"]:
            stack.pop()
        assert not stack or end <= stack[-1], f"{event} sticks out of the slice that it begins in"
        if not stack:
            top.append(event)
        stack.append(end)
    return top


def test_chrome_trace_is_well_formed(result: Result) -> None:
    """Slices have a length, lie within the run and nest on their track; what a tick is is said."""
    out = json.loads(json.dumps(chrome_trace(result), allow_nan=False))
    events = out["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "C", "s", "f"}
    for process in ("units", "servers", "critical path", "layers"):
        for slices in by_track(events, process).values():
            assert all(e["dur"] > 0 and 0 <= e["ts"] <= e["ts"] + e["dur"] <= result.ticks for e in slices)
            outermost(slices)
    assert out["otherData"]["a tick"] == "3.846 ns (a cycle at 260 MHz)"


def test_a_trace_is_in_microseconds(result: Result) -> None:
    """Chrome's format has them as its unit (`ts`, `dur`): the run ends when the result says it does."""
    slices = [event for event in chrome_trace(result)["traceEvents"] if event["ph"] == "X"]
    assert max(event["ts"] + event["dur"] for event in slices) == pytest.approx(result.seconds * 1e6, rel=1e-12)
    for event in slices:
        assert event["ts"] == pytest.approx(event["args"]["start_tick"] * 1e6 / result.tick_hz, rel=1e-12)


def test_a_trace_s_critical_path_says_what_stood_in_the_way(result: Result) -> None:
    """Slice by slice: server and op where a tick went by in waiting for a server, and nowhere else; the ticks are those
    of the path."""
    (slices,) = by_track(chrome_trace(result)["traceEvents"], "critical path").values()
    ticks: dict[str, int] = {}
    for args in (one["args"] for one in slices if "server" in one["args"]):
        ticks[args["server"]] = ticks.get(args["server"], 0) + args["causes_ticks"]["wait_server"]
        assert args["behind"]
    wanted = {server: sum(by.values()) for server, by in result.critical_path.waits_ticks.items()}
    assert ticks == wanted


def test_a_cycle_of_several_ticks_is_told() -> None:
    """On Gemmini at 1 GHz a cycle has 20 ticks of 0.05 ns."""
    workload = Workload("one", (16, 8, 8), (Layer("c", "conv", (INPUT,), 16, 16, 8, 8, 8, 8, 1, 1),), ("c",))
    result = simulate(find_soc("gemmini"), workload, Mapping("m", "overlapped"))
    out = chrome_trace(result)
    assert out["otherData"]["a tick"] == "0.05 ns (a cycle at 1000 MHz is 20 ticks)"
    ends = [event["ts"] + event["dur"] for event in out["traceEvents"] if event["ph"] == "X"]
    assert max(ends) == pytest.approx(result.seconds * 1e6, rel=1e-12)


def test_arrows_lead_from_what_was_waited_for(result: Result) -> None:
    """Each joins two slices on different tracks, from within the one to the start of the other, of which the program
    says that it depends on the first, at once or through ops of no duration; and every such pair has one."""
    program, issue, end = unroll(result.program), result.trace.issue.tolist(), result.trace.end.tolist()
    events = chrome_trace(result)["traceEvents"]
    slices = [e for e in events if e["ph"] == "X" and e["pid"] == 1 and "kind" in e["args"]]
    track = {e["args"]["op"]: e["tid"] for e in slices}

    def waited_for(op: int) -> set[int]:
        row = program.rows[op]
        direct = {op - int(d) for d in program.deps[row["dep_at"] : row["dep_at"] + row["dep_n"]] if d <= op}
        return {one for other in direct for one in ({other} if other in track else waited_for(other))}

    wanted = {(one, op) for op in track for one in waited_for(op) if track[one] != track[op]}
    us, found = 1e6 / result.tick_hz, set()
    starts = {e["id"]: e for e in events if e["ph"] == "s"}
    for finish in (e for e in events if e["ph"] == "f"):
        start = starts.pop(finish["id"])
        (one,) = [op for op in track if track[op] == start["tid"] and issue[op] * us < start["ts"] < end[op] * us]
        (op,) = [op for op in track if track[op] == finish["tid"] and issue[op] * us == pytest.approx(finish["ts"])]
        found.add((one, op))
    assert found == wanted and not starts
    assert result.runtime == "serial" or len(found) > 10


def test_arrows_are_left_out_where_they_would_be_too_many(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosoc.sim.report.chrome.ARROWS", 3)
    assert not [e for e in chrome_trace(result)["traceEvents"] if e["ph"] in "sf"]


def test_a_counter_for_each_memory_is_its_use(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step; and where steps are joined, the most of them is kept."""

    def counters() -> dict[str, list[tuple[int, int]]]:
        out: dict[str, list[tuple[int, int]]] = {}
        for e in chrome_trace(result)["traceEvents"]:
            if e["ph"] == "C":
                tick = round(e["ts"] * result.tick_hz / 1e6)
                out.setdefault(e["name"], []).append((tick, e["args"]["bytes"]))
        return out

    uses = memory_use(result, result.at.soc, result.at.workload, result.at.mapping)
    wanted = {u.memory: list(zip(u.ticks.tolist(), u.bytes.tolist(), strict=True)) for u in uses}
    assert counters() == wanted
    monkeypatch.setattr("cosoc.sim.report.chrome.STEPS", 4)
    for name, steps in counters().items():
        assert len(steps) <= 4 and max(size for _, size in steps) == max(size for _, size in wanted[name])


@pytest.mark.parametrize("single", [0, 10**6])
def test_chrome_trace_durations_are_the_traces(result: Result, single: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether ops are drawn one by one, or those without a gap between them as one."""
    monkeypatch.setattr("cosoc.sim.report.chrome.SINGLE", single)
    events = chrome_trace(result)["traceEvents"]
    units: dict[str, int] = {}
    for (name, _), slices in by_track(events, "units").items():
        unit = name.partition(" lane ")[0]
        units[unit] = units.get(unit, 0) + sum(e["dur"] for e in outermost(slices))
    for unit in result.by_unit:
        lasted = unit.setup_ticks + unit.run_ticks + unit.service_ticks + unit.wait_server_ticks
        assert units.get(unit.unit, 0) == lasted
        assert unit.lanes > 1 or lasted == unit.in_flight_ticks
    served: dict[str, int] = {}
    for (name, _), slices in by_track(events, "servers").items():
        served[name] = served.get(name, 0) + sum(e["args"]["service_ticks"] for e in slices)
        exact = [e for e in slices if e["args"]["shown"] == "in service throughout"]
        assert all(e["dur"] == e["args"]["service_ticks"] for e in exact)
    assert served == {server.server: server.busy_ticks for server in result.by_server if server.busy_ticks}
    (path,) = by_track(events, "critical path").values()
    assert sum(e["dur"] for e in path) == result.ticks


def test_ops_without_a_gap_are_drawn_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run of many ops, a slice ends where the kind or layer changes or the unit idles, and nowhere else."""
    result = run_of("resnet18_cifar", "overlapped")
    each = by_track(chrome_trace(result)["traceEvents"], "units")
    monkeypatch.setattr("cosoc.sim.report.chrome.SINGLE", 1000)
    joined = by_track(chrome_trace(result)["traceEvents"], "units")
    assert joined.keys() == each.keys()
    for key, track in joined.items():
        ops, slices = outermost(each[key]), outermost(track)
        ends = {e["ts"] + e["dur"] for e in slices}
        for a, b in itertools.pairwise(ops):
            apart = a["name"] != b["name"] or a["ts"] + a["dur"] < b["ts"]
            assert (a["ts"] + a["dur"] in ends) == apart
        held = {e["args"].get("first_op", e["args"].get("op")): e["args"].get("ops", 1) for e in slices}
        assert sum(held.values()) == len(ops)
        assert set(held) <= {e["args"]["op"] for e in ops}
    assert sum(map(len, joined.values())) < sum(map(len, each.values()))


def test_ops_at_once_have_tracks_of_their_own(result: Result) -> None:
    for track in by_track(chrome_trace(result)["traceEvents"], "units").values():
        spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in outermost(track))
        assert all(before[1] <= after[0] + 1e-6 for before, after in itertools.pairwise(spans))


def test_chrome_trace_is_written_event_by_event(result: Result, tmp_path: Path) -> None:
    write_chrome_trace(result, tmp_path / "trace.json")
    text = (tmp_path / "trace.json").read_text()
    events = chrome_trace(result)
    assert json.loads(text) == events
    assert len(text.splitlines()) == len(events["traceEvents"]) + 2


def test_tracks_are_as_few_as_can_be() -> None:
    """As many as are open at once at most (interval graphs are perfect), and none overlaps on its track."""
    g = np.random.default_rng(1)
    for _ in range(50):
        starts = g.integers(0, 40, 30)
        spans = [(int(s), int(s + d)) for s, d in zip(starts, g.integers(1, 12, 30), strict=True)]
        places = tracks(spans)
        at_once = max(sum(a <= t < b for a, b in spans) for t in range(60))
        assert max(places) + 1 == at_once
        for n in set(places):
            mine = sorted(span for span, place in zip(spans, places, strict=True) if place == n)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(mine))


# -- Gantt -------------------------------------------------------------------------------------------------------------


def test_gantt_shows_how_long_each_unit_computes(tmp_path: Path) -> None:
    """Along the middle of a unit's row, the share of pixels in the colour of computing is that of the run."""
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    result = run_of("resnet8", "overlapped")
    gantt(result, tmp_path / "g.png")
    image = (imread(tmp_path / "g.png")[..., :3] * 255).round().astype(int)
    blue = np.abs(image - np.round(np.array(to_rgb("#0072B2")) * 255)).max(axis=2) <= 3
    black = (image.max(axis=2) < 60).sum(axis=0)
    left, *_, right = np.flatnonzero(black > image.shape[0] * 0.3)  # the frame of the axes
    computing = {unit.unit: unit.run_ticks / result.ticks for unit in result.by_unit}
    widest = blue[:, left:right].sum(axis=1) / (right - left)
    assert widest.max() == pytest.approx(computing["digital"], abs=0.01)


def test_a_chart_is_as_long_as_the_run_in_ms() -> None:
    """Its time axis ends with the run, and the last bar on it with the last op that does something."""
    result = run_of("resnet8", "overlapped")
    (axes,) = render.gantt_figure(result).axes[:1]
    assert axes.get_xlim() == pytest.approx((0, 1e3 * result.seconds))
    ends = [box.vertices[:, 0].max() for bars in axes.collections for box in bars.get_paths()]
    assert max(ends) == pytest.approx(1e3 * result.seconds, rel=1e-3)


@pytest.mark.parametrize("pixels", [10, 3000])
def test_bars_of_a_chart_hold_every_op_of_a_unit(result: Result, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near ones are joined, and what is joined ends with the last of them."""
    monkeypatch.setattr(render, "_PIXELS", pixels)
    program, trace = result.program, result.trace
    row = row_of(program, np.arange(len(trace.issue)))
    for unit in range(len(program.unit_names)):
        bars = render._bars(program, result, row, unit)
        for kind, spans in bars.items():
            assert all(before[1] < after[0] for before, after in itertools.pairwise(spans)), kind
        for op in np.flatnonzero(program.rows["unit"][row] == unit):
            start, end = int(trace.issue[op] + program.rows["setup"][row[op]]), int(trace.end[op])
            kind = KINDS[program.rows["kind"][row[op]]]
            assert end <= start or any(bar[0] <= start and end <= bar[1] for bar in bars[kind])


def test_nothing_run_is_nothing_spent() -> None:
    """No op: no tick, no joule, and nothing divided by them."""
    program, soc = Builder("empty", 260_000_000).build(), find_soc("diana")
    trace = engine_reference.run(program)
    assert energy_j(program, trace, soc) == 0
    assert busy_ticks(program, trace, soc).shape == (0, 1)

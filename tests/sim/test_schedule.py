"""A schedule as somebody else's compiler reads it: from the file alone come the MACs of every layer, the bytes of every
link and the room of every tile, and they are those of network, program and result."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from random_runs import FUSED, SHARED

import cosoc
from cosoc.cli import main
from cosoc.inputs import mapping_of, network_of, soc_of
from cosoc.sim.files.catalog import find_cluster
from cosoc.sim.lower.emit import stream
from cosoc.sim.machine.program import unroll
from cosoc.sim.model.cuts import crossing, elements
from cosoc.sim.model.mapping import Extent, LayerPlan, Mapping, Part
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.movers.links import HOST_TIME
from cosoc.sim.movers.notes import Notes
from cosoc.sim.report.addresses import NOWHERE, Passing, Standing, plan
from cosoc.sim.report.held_at import ACTIVATION, Lasting, _one_after_another
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.report.schedule import schedule
from cosoc.sim.report.schedule_file import ClusterScheduleFile, ScheduleFile
from cosoc.sim.simulate import simulate
from cosoc.sim.stages import cuts_between
from cosoc.sim.tiler import placed

SMALL_L1 = {"memories.l1.size_bytes": "32768"}  # so that layers have tiles and loops on DIANA
# soc, network, mapping, runtime, inferences, overrides
RUNS = [
    ("diana", "resnet8", "all_8bit", "serial", 2, SMALL_L1),
    ("diana", "resnet8", "default", "overlapped", 1, SMALL_L1),
    ("diana", "resnet8", "all_ternary", "overlapped", 2, {}),
    ("darkside", "mobilenet_v1_025", "all_8bit", "overlapped", 1, {}),
    ("gap9", "resnet8", "all_8bit", "serial", 1, {}),
    ("gap9", "resnet8", "all_8bit", "overlapped", 1, {}),
    ("gap8", "mobilenet_v1_025", "default", "overlapped", 1, {}),
    ("gemmini", "resnet8", "default", "overlapped", 2, {}),
    ("hetero", "resnet8", "default", "overlapped", 1, {}),
]


def run(soc: str, network: str, mapping: Any, runtime: Any, n: int, overrides: dict[str, str]) -> Any:
    return cosoc.simulate(soc, network, mapping, runtime=runtime, inferences=n, overrides=overrides)


@pytest.fixture(scope="module", params=[*RUNS, "fused", "fused on gemmini", "shared"], ids=str)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A result, and its schedule as it is read back."""
    if isinstance(request.param, str):
        path = tmp_path_factory.mktemp("mapping") / "mapping.yaml"
        path.write_text(SHARED if request.param == "shared" else FUSED)
        soc = "gemmini" if "gemmini" in request.param else "diana"
        result = run(soc, "resnet8", path, None, 1, {})
    else:
        result = run(*request.param)
    return result, json.loads(json.dumps(schedule(result)))


# -- a reader, of nothing but the file -----------------------------------------------------------------------------


def macs_of(file: dict[str, Any]) -> Counter[str]:
    """MACs by layer: of every job once, from the ranges of its tile."""
    found: Counter[str] = Counter()
    for op in file["ops"]:
        if "macs" in op:
            assert prod(end - first for first, end in op["tile"].values()) == op["macs"]
            found[op["layer"]] += op["macs"]
    return found


def bytes_of(file: dict[str, Any]) -> Counter[str]:
    """Bytes by link."""
    found: Counter[str] = Counter()
    for op in file["ops"]:
        for link in op.get("links", ()):
            found[link] += op["bytes"]
    return found


def rooms(file: dict[str, Any], memory: str) -> Iterator[tuple[int, int, int, int]]:
    """(since, until, address, bytes) of everything with an address in a memory."""
    for tensor in file["tensors"]:
        if tensor["memory"] == memory and tensor["address"] is not None:
            yield from ((*live, tensor["address"], tensor["bytes"]) for live in tensor["live_ticks"])
    for op in file["ops"]:
        for operand in op.get("operands", ()):
            if operand["memory"] == memory and "live_ticks" in operand:
                yield (*operand["live_ticks"], operand["address"], operand["bytes"])


# -- what it finds ---------------------------------------------------------------------------------------------------


def test_macs_of_every_layer_come_from_tile_ranges(told: tuple[Any, dict[str, Any]]) -> None:
    result, file = told
    wanted = {layer["layer"]: layer["macs"] * result.inferences for layer in file["layers"]}
    assert {name: macs_of(file)[name] for name in wanted} == wanted
    assert wanted == {part.layer: part.macs for part in result.by_layer if part.layer in wanted}


def test_tiles_cover_every_output_once(told: tuple[Any, dict[str, Any]]) -> None:
    """Of layers whose jobs multiply: each output gets each of its products once, in every inference."""
    result, file = told
    layers = {layer["layer"]: layer for layer in file["layers"]}
    counts: dict[str, Any] = {}
    for op in file["ops"]:
        if "macs" in op:
            extent = {d: end for d, (_, end) in layers[op["layer"]]["ranges"].items()}
            of = counts.setdefault(op["layer"], np.zeros([extent[d] for d in ("n", "k", "oy", "ox")], np.int64))
            tile = op["tile"]
            at = tuple(slice(*tile[d]) for d in ("n", "k", "oy", "ox"))
            of[at] += prod(tile[d][1] - tile[d][0] for d in ("c", "fy", "fx"))
    for name, of in counts.items():
        each = prod(layers[name]["ranges"][d][1] for d in ("c", "fy", "fx"))
        assert (of == each * result.inferences).all(), name


def test_bytes_of_every_link_are_those_of_the_result(told: tuple[Any, dict[str, Any]]) -> None:
    result, file = told
    wanted = {part.server: part.bytes for part in result.by_server if part.server != HOST_TIME}
    assert {name: bytes_of(file)[name] for name in file["links"]} == wanted


def test_a_transfer_reads_and_writes_what_it_moves(told: tuple[Any, dict[str, Any]]) -> None:
    """One of its operands has the bytes that it carries: of several inputs that come at once, where they go to."""
    _, file = told
    for op in (op for op in file["ops"] if "tile" in op and op["kind"] in ("load", "weights", "store")):
        if "bytes" in op:
            assert op["bytes"] in [one["bytes"] for one in op["operands"]], op
        else:
            assert "operands" not in op


def test_weights_of_every_layer_lie_there_throughout(told: tuple[Any, dict[str, Any]]) -> None:
    """Every layer that multiplies by weights is listed once, from the first tick to the last, with a byte a weight at
    least, or two bits on an array of three values."""
    result, file = told
    weights = {one["tensor"]: one for one in file["tensors"] if one["what"] == "weights"}
    network, soc = result.at.workload, result.at.soc
    assert [one["tensor"] for one in file["tensors"] if one["what"] == "weights"] == list(weights)
    for name in (layer.name for layer in network if layer.op == "conv"):
        cores = [soc.core_of(part) for part in result.at.mapping.layers[name].parts if part.channels]
        bits = min(2 if core.ternary else 8 for core in cores)
        assert 8 * weights[name]["bytes"] >= bits * network[name].weights
        assert weights[name]["live_ticks"] == [[0, result.ticks]]


def test_a_row_of_a_piece_is_put_into_the_line_buffer_of_its_layer(told: tuple[Any, dict[str, Any]]) -> None:
    """Wherever its layer has one, which lies at one place for the whole piece."""
    _, file = told
    lines = {one["tensor"]: one for one in file["tensors"] if one["what"] == "line buffer"}
    for op in (op for op in file["ops"] if op["kind"] == "compute" and op.get("layer") in lines):
        (made,) = (one for one in op["operands"] if one["access"] == "write")
        kept = lines[op["layer"]]
        assert [made[key] for key in ("what", "tensor", "memory", "address")] == [
            "line buffer", op["layer"], kept["memory"], kept["address"]
        ]  # fmt: skip


def test_a_byte_is_a_byte() -> None:
    """One weight for one pixel of one channel: over the array's port go one byte in, one weight, and one byte out."""
    layer = Layer("one", "conv", (INPUT,), 1, 1, bias=False)
    plan = Mapping("m", "overlapped", {"one": LayerPlan((Part("gemmini", 1),))})
    file = schedule(simulate(soc_of("gemmini", None), Workload("one", (1, 1, 1), (layer,), ("one",)), plan))
    assert bytes_of(file)["return_path"] == 3


def test_stretches_of_input_channels_follow_each_other() -> None:
    """A product of 160 inputs in tiles of 96 and 64, which are executed as they come, 64 bytes of a pixel at a time:
    every output adds up the products of each input once, so that 0, 1, ... 159 are what its channels add up to."""
    layer = Layer("product", "conv", (INPUT,), 32, 160, ox=32, ix=32)
    tile = LayerPlan((Part("gemmini", 32, Extent(16, 96, 1, 1, 1, 16)),), ("n", "oy", "ox", "k", "c", "fy", "fx"))
    file = schedule(simulate(soc_of("gemmini", None), Workload("product", (160, 1, 32), (layer,), ("product",)),
                             Mapping("m", "overlapped", {"product": tile})))  # fmt: skip
    count, numbers = np.zeros((32, 32), np.int64), np.zeros((32, 32), np.int64)
    for op in (op for op in file["ops"] if "macs" in op):
        at = tuple(slice(*op["tile"][d]) for d in ("k", "ox"))
        count[at] += len(range(*op["tile"]["c"]))
        numbers[at] += sum(range(*op["tile"]["c"]))
    assert (count == 160).all() and (numbers == sum(range(160))).all()


def test_times_are_those_of_the_run_and_nothing_starts_before_what_it_waits_for(
    told: tuple[Any, dict[str, Any]],
) -> None:
    result, file = told
    ops = file["ops"]
    assert [op["op"] for op in ops] == list(range(result.ops))
    assert [op["start_tick"] for op in ops] == result.trace.issue.tolist()
    assert [op["end_tick"] for op in ops] == result.trace.end.tolist()
    assert max(op["end_tick"] for op in ops) == file["makespan_ticks"] == result.ticks
    assert all(ops[before]["end_tick"] <= op["start_tick"] for op in ops for before in op.get("after", ()))


def test_two_things_alive_in_one_memory_never_overlap(told: tuple[Any, dict[str, Any]]) -> None:
    """A sweep over time, of tensors and of tiles' buffers at once."""
    _, file = told
    found = 0
    for memory in file["memories"]:
        live: list[tuple[int, int, int, int]] = []
        for one in sorted(room for room in rooms(file, memory["memory"]) if room[3] and room[0] < room[1]):
            live = [other for other in live if other[1] > one[0]]
            assert one[2] + one[3] <= memory["bytes"]
            for other in live:
                assert one[2] + one[3] <= other[2] or other[2] + other[3] <= one[2], (memory["memory"], one, other)
            live.append(one)
            found += 1
    assert found > 20


def test_what_an_op_touches_is_there_while_it_runs(told: tuple[Any, dict[str, Any]]) -> None:
    """A transfer reads and writes tensors within the ticks in which they lie at home; a job's buffers are those that
    its transfers have."""
    _, file = told
    homes = {(one["tensor"], one["what"]): one for one in file["tensors"]}
    buffers: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for op in file["ops"]:
        for one in op.get("operands", ()):
            if "live_ticks" in one:
                buffers.setdefault((one["memory"], one["address"]), []).append((*one["live_ticks"], one["bytes"]))
    seen = 0
    for op in file["ops"]:
        for one in op.get("operands", ()):
            home = homes.get((one["tensor"], one["what"]))
            if one["address"] is None:
                continue
            seen += 1
            spans = buffers.get((one["memory"], one["address"]), [])
            if home is not None and (home["memory"], home["address"]) == (one["memory"], one["address"]):
                spans = [*spans, *((*live, home["bytes"]) for live in home["live_ticks"])]
            assert any(a <= op["start_tick"] and op["end_tick"] <= b for a, b, _ in spans), (op, spans)
    assert seen > 50


def test_memories_without_addresses_say_why(told: tuple[Any, dict[str, Any]]) -> None:
    """And only caches, what an array arranges, and buffers that first fit finds no room for have none."""
    result, file = told
    silent = {one["memory"] for one in file["memories"] if not one["no_addresses"]}
    for op in file["ops"]:
        for one in op.get("operands", ()):
            if one["memory"] in silent and one["what"] != "partial sums" and not piece_of(result, op["layer"]):
                assert one["address"] is not None, op
    arranged = {"scratchpad", "accumulator", "l2", "llc"}
    if result.soc in ("gemmini", "hetero"):
        told = {one["memory"] for one in file["memories"] if one["no_addresses"]}
        # On hetero the array's caches see weights of 8 bits one behind the other; other cores store them with padding.
        assert told == (arranged if result.soc == "gemmini" else arranged | {"dram"})


def piece_of(result: Any, layer: str) -> bool:
    return any(piece.how == "fused" and layer in piece.layers for piece in result.at.mapping.pieces)


def test_it_is_what_the_schema_says(told: tuple[Any, dict[str, Any]]) -> None:
    _, file = told
    ScheduleFile.model_validate_json(json.dumps(file))


@pytest.mark.parametrize("soc", ["diana", "darkside"])
def test_the_bytes_in_a_memory_are_those_of_the_memory_chart(soc: str) -> None:
    """Two accounts of what lies where: `memory_use` by credits and transfers, the schedule by what each job uses.
    Serial, one core at a time: then both say the same at every tick at which a job computes."""
    result = run(soc, "resnet8", "default", "serial", 1, SMALL_L1 if soc == "diana" else {})
    file = schedule(result)
    charts = {one.memory: one for one in memory_use(result, result.at.soc, result.at.workload, result.at.mapping)}
    checked = 0
    for name in {
        result.at.soc.cores[part.core].memory for one in result.at.mapping.layers.values() for part in one.parts
    }:
        held = list(rooms(file, name))
        for op in (op for op in file["ops"] if "macs" in op):
            at = op["start_tick"]
            mine = sum(size for since, until, _, size in held if since <= at < until)
            chart = charts[name]
            assert mine == chart.bytes[np.searchsorted(chart.ticks, at, side="right") - 1], (name, op)
            checked += 1
    assert checked > 10


# -- notes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RUNS[:1] + RUNS[3:4] + RUNS[7:8], ids=str)
def test_a_network_written_with_notes_is_the_same_program(case: Any) -> None:
    """Op n of the notes is op n of the unrolled program; where a transfer in a loop begins in a dynamic memory's row is
    the one thing that differs."""
    soc, network, mapping, runtime, n, overrides = case
    machine, net = soc_of(soc, overrides), network_of(network, None, 1)
    at = placed(mapping_of(mapping, net, machine, runtime, None), net, machine)
    plain, noted = unroll(stream(at, n)[0]), unroll(stream(at, n, notes=Notes(tuple(machine.memories)))[0])
    assert len(plain.rows) == len(noted.rows)
    for key in plain.rows.dtype.names or ():
        if key != "tag" and not key.endswith("_at"):
            assert (plain.rows[key] == noted.rows[key]).all(), key


# -- addresses ---------------------------------------------------------------------------------------------------------

BOTH = np.array([0]), np.array([10])


def test_addresses_of_three_tensors_by_hand() -> None:
    """a (8 bytes) and b (4) live together, c (6) after a: the largest first, so b lies behind a, and c where a was."""
    a, b, c = Standing("a", 8, *BOTH), Standing("b", 4, np.array([5]), np.array([20])), Standing(
        "c", 6, np.array([10]), np.array([20])
    )  # fmt: skip
    none = Passing(*(np.zeros(0, np.int64) for _ in range(4)))
    assert plan("m", 12, [a, b, c], none).standing == {"a": 0, "b": 8, "c": 0}
    assert plan("m", 11, [a, b, c], none).reason == "first fit takes 12 bytes for what lies in m, which has 11"


@pytest.mark.parametrize(("since", "apart"), [(10, True), (9, False)])
def test_inferences_are_apart_where_all_of_one_is_gone_before_the_next(since: int, apart: bool) -> None:
    """Of two tensors in two inferences: a is there 0 .. 4 and again from `since` on, b 3 .. 10 and 14 .. 20."""
    a, b = (Lasting(name, ACTIVATION, "m", 4, np.array([first, again]), np.array(ends))
            for name, first, again, ends in (("a", 0, since, (4, 15)), ("b", 3, 14, (10, 20))))  # fmt: skip
    assert _one_after_another([a, b]) is apart
    assert _one_after_another([])


def test_buffers_pass_around_what_stands_and_from_both_ends_where_one_does_not_do() -> None:
    """Of 12 bytes 2 stand. A tile of 3 comes, weights of 3 that stay, and a tile of 5 when the first is gone: from one
    end the weights lie in the way (3 free below them, 4 above); with them at the top, 9 .. 12, tiles begin at 2."""
    stands = Standing("s", 2, np.array([0]), np.array([100]))
    passing = Passing(np.array([0, 1, 6]), np.array([5, 50, 9]), np.array([3, 3, 5]), np.array([2, 1, 2]))
    found = plan("m", 12, [stands], passing)
    assert (found.reason, found.standing, found.passing.tolist()) == ("", {"s": 0}, [2, 9, 2])
    # In order a tile of 2 lies at 5 when one of 5 comes, which finds 3 below and 4 above; by size that one is first.
    alike = Passing(np.array([0, 1, 6]), np.array([5, 50, 9]), np.array([3, 2, 5]), np.array([2, 2, 2]))
    assert plan("m", 11, [stands], alike).passing.tolist() == [2, 7, 2]
    crowded = plan("m", 9, [stands], passing)  # 2 + 3 + 5 are there at once
    assert crowded.standing == {"s": 0} and (crowded.passing == NOWHERE).all() and "no room" in crowded.reason


# -- the command, and a cluster ----------------------------------------------------------------------------------------


def test_the_command_writes_an_op_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosoc.sim.report.schedule.AT_ONCE", 7)  # in parts, as of a long run
    path = tmp_path / "s.json"
    assert main(["simulate", "diana", "resnet8", "--mapping", "all_8bit", "-q", "--schedule", str(path)]) == 0
    file = json.loads(path.read_text())
    assert len(path.read_text().splitlines()) == len(file["ops"]) + 2  # the head, an op each, what closes it
    assert file == json.loads(json.dumps(run("diana", "resnet8", "all_8bit", None, 1, {}).schedule()))


STAGES = """\
stages:
  - {device: array, behind: layer1.0.add}
  - {device: array, behind: layer2.0.add, replicas: 2}
  - {device: array, behind: fc}
micro_batch: 2
"""


def test_a_cluster_s_schedule_has_every_layer_s_macs_and_every_link_s_bytes(tmp_path: Path) -> None:
    """Of six inferences, two an item: MACs of a layer are those of its stage's own schedule, as often as items pass;
    bytes of a hop are the tensors that cross it, an element a byte."""
    (tmp_path / "m.yaml").write_text(STAGES)
    path = tmp_path / "s.json"
    words = ["simulate", "gemmini_4", "resnet8", "--mapping", str(tmp_path / "m.yaml"), "--inferences", "6", "-q"]
    assert main([*words, "--schedule", str(path)]) == 0
    file = json.loads(path.read_text())
    ClusterScheduleFile.model_validate_json(path.read_text())
    found: Counter[str] = Counter()
    for op in (op for op in file["ops"] if op["kind"] == "compute"):
        stage = file["stages"][op["stage"]]
        assert op["unit"] in stage["units"] and not op.get("links")
        found += macs_of(stage["inside"])
        ticks = stage["inside"]["makespan_ticks"] * file["tick_hz"] / stage["inside"]["tick_hz"]
        assert op["end_tick"] - op["start_tick"] == pytest.approx(ticks + stage["message_ticks"], abs=1)
    network = network_of("resnet8", None, 1)
    assert found == {layer.name: 6 * layer.macs for layer in network if layer.macs}
    cluster = find_cluster("gemmini_4")
    mapping = cosoc.inputs.cluster_mapping_of(tmp_path / "m.yaml", network, cluster, None)
    size = elements(network)
    for number, cut in enumerate(cuts_between(network, mapping.stages)[1:-1]):
        moved = sum(op["bytes"] for op in file["ops"] if op["kind"] == "store" and op["stage"] == number)
        assert moved == 6 * sum(size[name] for name in crossing(network, cut))
    assert {op["item"] for op in file["ops"]} == {0, 1, 2}

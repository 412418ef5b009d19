"""Fused groups: order of rows, line buffers by hand, and what cannot be fused."""

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.lower.fusion import (
    AHEAD,
    _row_by_row,
    buffer_bytes,
    last_row_under,
    line_buffers,
    rows_done_with,
    schedule,
)
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate


def conv(name: str, source: str, size: int, stride: int = 1, f: int = 3, k: int = 4) -> Layer:
    out = (size + 2 * (f // 2) - f) // stride + 1
    return Layer(name, "conv", (source,), k, 4, out, out, size, size, f, f, stride, stride, f // 2, f // 2)


CHAIN = Workload("chain", (4, 8, 8), (conv("a", INPUT, 8), conv("b", "a", 8), conv("c", "b", 8)), ("c",))


def test_rows_under_a_window_by_hand() -> None:
    layer = conv("a", INPUT, 8)  # 3x3, pad 1: row r reads r-1 .. r+1
    assert [last_row_under(layer, r) for r in (0, 3, 7)] == [1, 4, 7]
    assert [rows_done_with(layer, r) for r in (0, 1, 6, 7)] == [0, 1, 6, 8]
    strided = conv("s", INPUT, 8, stride=2)  # row r reads 2r-1 .. 2r+1
    assert [last_row_under(strided, r) for r in range(4)] == [1, 3, 5, 7]
    assert [rows_done_with(strided, r) for r in range(4)] == [1, 3, 5, 8]


def test_a_3x3_consumer_holds_three_rows_and_what_runs_ahead() -> None:
    assert line_buffers(CHAIN, ["a", "b", "c"]) == {("a", "b"): 3 + AHEAD, ("b", "c"): 3 + AHEAD}
    assert buffer_bytes(CHAIN, ["a", "b"]) == {"a": (3 + AHEAD) * 8 * 4}


def test_a_residual_edge_holds_the_rows_of_the_whole_branch() -> None:
    # The add's row r needs b's row r, which needs a's row r+1, which needs x's row r+2: 3 rows of x wait for the add.
    add = Layer("add", "add", ("b", "x"), 4, 4, 8, 8, 8, 8)
    layers = (conv("x", INPUT, 8), conv("a", "x", 8), conv("b", "a", 8), add)
    buffers = line_buffers(Workload("w", (4, 8, 8), layers, ("add",)), ["x", "a", "b", "add"])
    assert buffers["x", "add"] == 3 + AHEAD
    assert buffers["b", "add"] == 1 + AHEAD


def test_every_row_runs_once_after_what_it_reads_within_the_buffers() -> None:
    core = {"a": "p", "b": "q", "c": "q"}
    plan = schedule(CHAIN, ["a", "b", "c"], core, {"a": 10, "b": 3, "c": 3})
    done = {"a": 0, "b": 0, "c": 0}
    freed = dict.fromkeys(plan.buffer_rows, 0)
    for row in plan.rows:
        assert row.row == done[row.layer]
        assert all(done[p] > need for p, need in row.needs)
        done[row.layer] += 1
        for p, n in row.frees:
            freed[p, row.layer] += n
        assert all(done[p] - freed[p, c] <= rows for (p, c), rows in plan.buffer_rows.items())
    assert done == {"a": 8, "b": 8, "c": 8}
    assert freed == dict.fromkeys(plan.buffer_rows, 8)


def test_pieces_that_do_not_connect_are_refused() -> None:
    with pytest.raises(InputError, match="c reads nothing that the group produces"):
        line_buffers(CHAIN, ["a", "c"])


def test_a_dense_layer_in_a_group_waits_for_all_rows() -> None:
    """It reads the map flattened, as one row: every row of its producer is under it, and all are free behind it."""
    conv = Layer("conv", "conv", ("input",), 2, 1, 4, 4, 4, 4)
    dense = Layer("dense", "conv", ("conv",), 3, 32)
    plan = schedule(Workload("w", (1, 4, 4), (conv, dense), ("dense",)), ["conv", "dense"],
                    {"conv": "a", "dense": "b"}, {"conv": 1, "dense": 1})  # fmt: skip
    assert [(row.layer, row.row) for row in plan.rows] == [*(("conv", n) for n in range(4)), ("dense", 0)]
    assert (plan.rows[-1].needs, plan.rows[-1].frees) == ((("conv", 3),), (("conv", 4),))


def test_a_gate_in_a_group_is_read_by_every_row() -> None:
    """One pixel a channel times a map of four rows: each needs the one row of the gate, and the last frees it."""
    gate = Layer("gate", "conv", ("input",), 2, 2)
    scaled = Layer("scaled", "eltwise", ("input", "gate"), 2, 2, 4, 4, 4, 4, fn="Mul")
    plan = schedule(Workload("w", (2, 1, 1), (gate, scaled), ("scaled",)), ["gate", "scaled"],
                    {"gate": "a", "scaled": "a"}, {"gate": 1, "scaled": 1})  # fmt: skip
    mine = [row for row in plan.rows if row.layer == "scaled"]
    assert [row.needs for row in mine] == [(("gate", 0),)] * 4
    assert [row.frees for row in mine] == [(("gate", 0),)] * 3 + [(("gate", 1),)]


def test_a_group_beyond_its_memory_says_what_it_needs() -> None:
    """Line buffers of both edges, two rows of what comes in and two of what goes out: 8 pixels of 4 bytes each."""
    edges = sum(rows * 8 * 4 for rows in (3 + AHEAD, 3 + AHEAD))
    need = edges + 2 * 8 * 4 + 2 * 8 * 4
    soc = find_soc("diana", {"memories.l1.size_bytes": "380", "memories.l1.reserved_bytes": "0"})
    plan = LayerPlan((Part("digital", 4),))
    mapping = Mapping("fused", "overlapped", dict.fromkeys("abc", plan), (Piece(("a", "b", "c")),))
    with pytest.raises(InputError, match=f"its line buffers need {need} bytes of l1, which has"):
        simulate(soc, CHAIN, mapping)


def test_weights_of_a_group_stream_through_what_is_set_aside_for_them() -> None:
    """A layer of 128 x 384 weights, with four bytes for each of its channels. In an L2 of 200 KiB, where those of the
    last layer find no room, less is set aside; in one of 400 KiB enough; and in 1 MiB all weights are there."""
    sizes = (("a", INPUT, 384, 128), ("b", "a", 32, 384), ("c", "b", 512, 32), ("d", "c", 768, 512))
    layers = tuple(Layer(name, "conv", (source,), k, c, 4, 4, 4, 4) for name, source, k, c in sizes)
    network = Workload("w", (128, 4, 4), layers, ("d",))
    plans = {name: LayerPlan((Part("digital", k),)) for name, _, k, _ in sizes[:2]}
    mapping = Mapping("fused", "overlapped", plans, (Piece(("a", "b")),))
    needed = 128 * 384 + 4 * 384
    for kib, streams in ((200, True), (400, True), (1024, False)):
        soc = find_soc("diana", {"memories.l2.size_bytes": str(kib * 1024)})
        if kib == 200:
            with pytest.raises(InputError, match=f"of a layer need {needed} bytes to stream through l2, of which"):
                simulate(soc, network, mapping)
            continue
        homes = simulate(soc, network, mapping).at.homes
        assert homes.weights_in_main is not streams
        assert not streams or homes.stream_bytes >= needed


def test_a_group_with_a_dense_layer_runs_twice() -> None:
    """Rows of the map that were never given back kept a second inference from its buffer for ever."""
    soc = find_soc("rpi5")
    conv = Layer("conv", "conv", ("input",), 2, 1, 16, 16, 16, 16)
    dense = Layer("dense", "conv", ("conv",), 3, 512)
    network = Workload("w", (1, 16, 16), (conv, dense), ("dense",))
    mapping = Mapping("fused", "overlapped", {}, (Piece(("conv", "dense")),))
    once, twice = (simulate(soc, network, mapping, inferences=n).ticks for n in (1, 2))
    assert once < twice <= 2 * once


def test_a_tensor_from_outside_of_a_group_is_loaded_once() -> None:
    """By conservation: who joins a tensor of the group with one from outside brings each row of that one, 32 of 32
    pixels of 16 channels, once; the other operand is in the line buffers of the group."""
    chain = (("a", INPUT), ("b", "a"), ("c", "b"))
    layers = [Layer(name, "conv", (source,), 16, 16, 32, 32, 32, 32) for name, source in chain]
    join = Layer("d", "add", ("c", "a"), 16, 16, 32, 32, 32, 32)
    network = Workload("w", (16, 32, 32), (*layers, join), ("d",))
    mapping = Mapping("fused", "overlapped", {}, (Piece(("b", "c", "d")),))
    ops = simulate(find_soc("diana"), network, mapping).schedule()["ops"]
    assert sum(each["bytes"] for each in ops if each["layer"] == "d" and each["kind"] == "load") == 32 * 32 * 16


def test_rows_of_a_tall_image_are_as_good_as_those_of_a_short_one() -> None:
    """Sizes are compared as numbers: 4,000 rows that one layer makes are the 4,000 that the next one reads."""
    for rows in (4, 4000):
        made, read = (Layer(name, "conv", (INPUT,), 4, 4, oy=int(str(rows)), iy=int(str(rows))) for name in "ab")
        assert _row_by_row(read, made)
        assert not _row_by_row(read, Layer("c", "conv", (INPUT,), 4, 4, oy=rows + 1, iy=rows + 1))

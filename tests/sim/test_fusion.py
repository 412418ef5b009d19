"""Fused groups: order of rows, line buffers by hand, and what cannot be fused."""

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.lower.fusion import AHEAD, buffer_bytes, last_row_under, line_buffers, rows_done_with, schedule
from cosoc.sim.model.workload import INPUT, Layer, Workload


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

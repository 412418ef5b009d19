"""Program: building, checking, unrolling and the text form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.machine.program import (
    KINDS,
    LIMIT,
    Builder,
    Program,
    bases,
    digest,
    from_text,
    op_text,
    row_of,
    to_text,
    unroll,
    validate,
)

Programs = Callable[..., Program]


def double_buffer(tiles: int = 3) -> Program:
    """A DMA fills two buffers in turn, a core empties them."""
    b = Builder("double buffer", 260_000_000)
    dma, core = b.unit("dma"), b.unit("core")
    l2, l1 = b.server("l2.read", rate_bytes=8), b.server("l1.write", rate_bytes=16)
    buffer, layer = b.credit("l1.in", 2), b.layer("conv1")
    with b.repeat(tiles):
        load = b.op(dma, setup=2, bytes=64, burst=32, route=(l2, l1), take=((buffer, 1),), kind="load", layer=layer)
        b.op(core, run=15, deps=(load,), give=((buffer, 1),), layer=layer, macs=240, energy_fj=7)
    return b.build()


def tagged_pair() -> Program:
    """Two units share a banked memory whose rows cost a switch, then meet in a sync."""
    b = Builder("tagged pair", 1000)
    left, right = b.unit("left", lanes=2, priority=1), b.unit("right")
    memory = b.server("memory [0]", rate_bytes=3, rate_ticks=2, ports=2, switch=5, stretch=(256, 256, 384))
    bus = b.server("bus", rate_bytes=8, switch=3, tag_bits=1)
    first = b.op(left, bytes=10, burst=4, route=(memory, bus), tag=0, kind="load")
    second = b.op(right, setup=1, bytes=4, burst=4, route=(memory,), tag=1, kind="store")
    b.op(right, deps=(first, second), kind="sync")
    return b.build()


@pytest.mark.parametrize("program", [double_buffer(), tagged_pair()], ids=lambda program: program.name)
def test_text_is_the_reviewed_one(program: Program, golden: Callable[[str, str], None]) -> None:
    golden("program_" + program.name.replace(" ", "_"), to_text(program))


def test_text_round_trip_is_exact(random_program: Programs) -> None:
    for seed in range(200):
        program = random_program(seed)
        again = from_text(to_text(program))
        assert to_text(again) == to_text(program), f"seed {seed}"
        assert again.name == program.name
        assert again.tick_hz == program.tick_hz
        assert digest(from_text(to_text(again))) == digest(again), f"seed {seed}"
    for program in (double_buffer(), tagged_pair()):
        assert digest(from_text(to_text(program))) == digest(program)  # the builder packs as the reader does


def test_text_keeps_odd_names() -> None:
    b = Builder("50 % = a,b:c#", 1)
    b.op(b.unit("block"), run=1, give=((b.credit("a:b=1,2", 3), 2),), layer=b.layer("weiß/\n"))
    program = b.build()
    again = from_text(to_text(program))
    assert digest(again) == digest(program)
    assert again.layers == ("weiß/\n",)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("lanes=1", "lanes=one", "line 2"),
        ("rate=8/1", "rate=8", "line 4"),
        ("capacity=2", "", "line 6"),
        ("block x3", "block xx", "line 8"),
        ("dma load", "dam load", "line 9"),
        ("dma load", "dma lode", "line 9"),
        ("setup=2", "setpu=2", "line 9"),
        ("route=l2.read", "route=l3.read", "line 9"),
        ("program", "programme", "line 1"),
    ],
)
def test_text_errors_name_the_line(old: str, new: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        from_text(to_text(double_buffer()).replace(old, new, 1))


def test_text_errors_of_meaning() -> None:
    with pytest.raises(InputError, match="empty"):
        from_text("\n")
    with pytest.raises(InputError, match="bursts of 0"):
        from_text(to_text(double_buffer()).replace("burst=32 ", ""))


def test_digest_sees_every_figure() -> None:
    program = double_buffer()
    seen = {digest(program), digest(replace(program, name="other")), digest(replace(program, tick_hz=1))}
    fields = [
        (key, name)
        for key in ("units", "servers", "credits", "rows", "takes", "gives", "blocks")
        for name in getattr(program, key).dtype.names
        if not name.endswith("_at")  # where a list is stored is nothing that is seen
    ]
    for key, name in fields:
        changed = getattr(program, key).copy()
        if name.endswith("_n"):
            changed[name][np.argmax(changed[name])] -= 1
        else:
            changed[name][0] += 1
        seen.add(digest(replace(program, **{key: changed})))
    for key in ("routes", "deps", "stretch"):
        seen.add(digest(replace(program, **{key: getattr(program, key) + 1})))
    assert len(seen) == 3 + len(fields) + 3


def test_digest_does_not_see_where_lists_are_stored() -> None:
    """Rows that were spliced in store lists twice, and routes that nobody takes; their text form stores each once."""
    program = double_buffer()
    rows, n = program.rows.copy(), len(program.deps)
    rows["dep_at"] += n
    apart = replace(program, rows=rows, deps=np.concatenate([program.deps, program.deps]))
    assert validate(apart) == [] and apart.deps.shape != program.deps.shape
    assert digest(apart) == digest(program) == digest(from_text(to_text(apart)))


def set_field(key: str, name: str, value: int) -> Callable[[Program], Program]:
    def change(program: Program) -> Program:
        array = getattr(program, key).copy()
        array[name][0] = value
        return replace(program, **{key: array})

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_field("units", "lanes", 0), "unit 0: lanes is 0, must be at least 1"),
        (set_field("servers", "rate_bytes", 0), "server 0: rate_bytes is 0"),
        (set_field("servers", "rate_ticks", -1), "server 0: rate_ticks is -1"),
        (set_field("servers", "ports", -1), "server 0: ports is -1"),
        (set_field("servers", "switch", -1), "server 0: switch is -1"),
        (set_field("servers", "tag_shift", 63), "server 0: tag_shift is 63, must be 0..62"),
        (set_field("servers", "tag_bits", 0), "server 0: tag_bits is 0, must be 1..63"),
        (set_field("servers", "stretch_n", 9), "server 0: stretch table 0+9 of 1 entries"),
        (set_field("credits", "capacity", 0), "credit 0: capacity is 0"),
        (set_field("blocks", "times", 0), "block 0: 2 rows x 0"),
        (set_field("blocks", "n_rows", 3), "block 0: rows 0+3 of 2"),
        (set_field("rows", "unit", 2), "row 0: index 2 is outside 0..1"),
        (set_field("rows", "kind", len(KINDS)), f"row 0: index {len(KINDS)} is outside"),
        (set_field("rows", "kind", -1), "row 0: index -1 is outside 0.."),
        (set_field("rows", "unit", -1), "row 0: index -1 is outside 0..1"),
        (set_field("rows", "payload_bytes", -2), "row 0: payload_bytes is -2, must be -1..2^50"),
        (set_field("rows", "layer", -2), "row 0: index -2 is outside -1..0"),
        (set_field("rows", "route_n", 3), "row 0: route slice 0+3 of 2 entries"),
        (set_field("rows", "setup", -1), "row 0: setup is -1"),
        (set_field("rows", "run", 1), "row 0: both runs (1 ticks) and moves (64 bytes)"),
        (set_field("rows", "burst", 0), "row 0: moves 64 bytes in bursts of 0"),
        (set_field("rows", "route_n", 0), "row 0: moves 64 bytes without a route"),
        (set_field("rows", "bytes", 0), "row 0: moves no bytes but has a route"),
        (lambda p: set_field("rows", "route_n", 0)(set_field("rows", "bytes", 1)(p)), "row 0: moves 1 bytes without"),
        (set_field("rows", "setup", LIMIT), "more than 2^50"),
        (set_field("takes", "credit", 1), "take 0: index 1 is outside 0..0"),
        (set_field("takes", "amount", 3), "take 0: amount 3 of credit 0, must be 1..2"),
        (set_field("gives", "amount", 0), "give 0: amount 0 of credit 0, must be 1..2"),
        (lambda p: replace(p, deps=np.array([0])), "dep 0: distance 0, must be at least 1"),
        (lambda p: replace(p, routes=np.array([1, 1])), "row 0: its route list names 1 twice"),
        (lambda p: replace(p, routes=np.array([0, 2])), "route 1: index 2 is outside 0..1"),
        (lambda p: replace(p, stretch=np.array([0])), "stretch 0: 0/256"),
        (lambda p: replace(p, tick_hz=0), "tick_hz is 0"),
        (lambda p: replace(p, unit_names=("dma", "dma")), "unit name 'dma' stands 2 times"),
        (lambda p: replace(p, credit_names=()), "1 credits but 0 credit names"),
        (lambda p: replace(p, name=""), "program 0 has an empty name"),
    ],
)  # fmt: skip
def test_validate_names_what_is_wrong(change: Callable[[Program], Program], reason: str) -> None:
    assert validate(double_buffer()) == []
    assert any(reason in text for text in validate(change(double_buffer()))), validate(change(double_buffer()))


def test_validate_reports_every_reason_and_build_raises_them() -> None:
    b = Builder("bad", 1)
    b.op(b.unit("u", lanes=0), run=1)
    b.credit("c", 0)
    with pytest.raises(ValueError, match=r"(?s)bad: not a program.*lanes is 0.*capacity is 0"):
        b.build()


def test_names_are_handles() -> None:
    b = Builder("names", 1)
    assert b.unit("u", lanes=2) == b.unit("u", lanes=2) == 0
    assert (b.unit("v"), b.layer("x"), b.layer("y"), b.layer("x")) == (1, 0, 1, 0)
    with pytest.raises(ValueError, match="unit u stands with"):
        b.unit("u", lanes=3)
    b.server("s", rate_bytes=1)
    with pytest.raises(ValueError, match="server s stands with"):
        b.server("s", rate_bytes=2)


def test_what_a_unit_leaves_out_is_one_lane_of_the_first_priority() -> None:
    b = Builder("plain", 1)
    assert b.unit("u") == b.unit("u", lanes=1, priority=0)


def test_what_stands_before_a_loop_of_two_runs_once() -> None:
    """Three ops before, and what reads the first op of the first loop reads that of its last iteration."""
    b = Builder("two", 1)
    u = b.unit("u")
    with b.repeat(2):  # ops 0 and 1
        inside = b.op(u)
    b.op(u, deps=(inside,))  # op 2
    with b.repeat(2):  # ops 3 and 4
        b.op(u)
    program = b.build()
    assert program.blocks.tolist() == [(0, 1, 2), (1, 1, 1), (2, 1, 2)]
    assert deps_of(program) == [[], [], [1], [], []]


def test_the_bound_of_a_run_is_no_less_than_the_run() -> None:
    """A byte at 64 bytes a tick takes a tick, and four where others' traffic makes it four times as long: so many of
    them that they take longer than can be counted are refused, however short each would be by its bytes."""
    b = Builder("crowded", 1)
    server = b.server("s", rate_bytes=64, stretch=(256, 1024))
    with b.repeat(LIMIT // 4 + 1):
        b.op(b.unit("u"), route=(server,), bytes=1, burst=1)
    with pytest.raises(ValueError, match="more than 2\\^50"):
        b.build()


def deps_of(program: Program) -> list[list[int]]:
    """For each op of the unrolled program, the ops that it waits for."""
    rows = unroll(program).rows
    lists = [program.deps[at : at + n].tolist() for at, n in zip(rows["dep_at"], rows["dep_n"], strict=True)]
    return [[op - d for d in distances if d <= op] for op, distances in enumerate(lists)]


def test_handles_across_loops() -> None:
    b = Builder("loops", 1)
    u = b.unit("u")
    before = b.op(u)  # op 0
    with b.repeat(3):  # ops 1..6
        inside = b.op(u, deps=(before,))
        b.op(u, deps=(inside,))
    after = b.op(u, deps=(inside, before))  # op 7
    with b.repeat(0):
        nothing = b.op(u)
    with b.repeat(1):  # op 8, as if there were no loop
        b.op(u, deps=(after, nothing))
    program = b.build()
    # `before` slides with the iterations; after the loop, `inside` is the last iteration's.
    assert deps_of(program) == [[], [0], [1], [2], [3], [4], [5], [5, 0], [7]]
    assert program.blocks.tolist() == [(0, 1, 1), (1, 2, 3), (3, 2, 1)]
    assert bases(program).tolist() == [0, 1, 7, 9]
    assert len(program.rows) == 5
    assert program.n_ops == 9


def test_a_loop_waits_for_the_iteration_before_it() -> None:
    """An equally laid out first iteration in front makes a handle of it mean "one iteration ago"."""
    b = Builder("carried", 1)
    u = b.unit("u")
    x = b.op(u)
    b.op(u)
    with b.repeat(3):
        b.op(u, deps=(x,))
        b.op(u)
    assert deps_of(b.build())[2::2] == [[0], [2], [4]]


def test_builder_refuses() -> None:
    b = Builder("wrong", 1)
    u = b.unit("u")
    with pytest.raises(ValueError, match="op 0 depends on handle 0"):
        b.op(u, deps=(0,))
    with pytest.raises(ValueError, match="kind 'lode' is none of compute"):
        b.op(u, kind="lode")
    with pytest.raises(ValueError, match="-1 times"), b.repeat(-1):
        pass
    with pytest.raises(ValueError, match="do not nest"), b.repeat(2), b.repeat(2):
        pass


def test_equal_lists_are_stored_once() -> None:
    program = double_buffer()
    b = Builder("shared", 1)
    u, s, c = b.unit("u"), b.server("s", rate_bytes=1), b.credit("c", 1)
    for _ in range(100):
        b.op(u, bytes=1, burst=1, route=(s,), take=((c, 1),), give=((c, 1),))
    shared = b.build()
    assert (len(shared.routes), len(shared.takes), len(shared.gives), len(shared.rows)) == (1, 1, 1, 100)
    assert len(program.rows) == 2


def test_row_of_and_unroll_agree(random_program: Programs) -> None:
    for seed in range(50):
        program = random_program(seed)
        flat = unroll(program)
        ops = np.arange(program.n_ops)
        assert np.array_equal(flat.rows, program.rows[row_of(program, ops)]), f"seed {seed}"
        assert flat.n_ops == program.n_ops == len(flat.rows)
        assert validate(flat) == []


def test_op_text() -> None:
    program = double_buffer()
    assert op_text(program, 4) == "op 4 (load of conv1 on dma)"
    assert op_text(tagged_pair(), 1) == "op 1 (store on right)"


def test_empty_program() -> None:
    program = Builder("nothing", 1).build()
    assert program.n_ops == 0
    assert digest(from_text(to_text(program))) == digest(program)
    assert unroll(program).n_ops == 0

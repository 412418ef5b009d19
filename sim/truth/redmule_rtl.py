"""Darkside's tensor engine held against simulations of RedMulE's RTL, its published successor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.model.mapping import LayerPlan, Part
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.truth.compared import Compared, TruthSet

CORE, LINK = "tensor", "tcdm"
COLUMNS = ("m_rows", "n_reduction", "k_cols", "stall_probability", "cycles")
# In the RTL's test bench operands lie in FP16 in a memory that holds all of them.
ALL_OF_IT = dict.fromkeys(("memories.tcdm.size_bytes", "memories.tensor_weights.size_bytes"), str(1 << 26))


def job_cycles(soc: SoC, m: int, n: int, k: int, refused: float) -> int:
    """Cycles of one product [m, n] by [n, k], with such a share of grants at the scratchpad refused: each then takes
    1 / (1 - refused) cycles on average."""
    link = soc.links[LINK].model_copy(update={"stretch": (1 / (1 - refused),)})
    core = soc.cores[CORE].model_copy(update={"datamover": None, "launch_cycles": 0})
    alone = soc.model_copy(update={"links": soc.links | {LINK: link}, "cores": soc.cores | {CORE: core}})
    layer = Layer("product", "conv", (INPUT,), k, n, m, 1, m, 1, bias=False)
    workload = Workload("product", (n, m, 1), (layer,), ("product",))
    program = lower(workload, NetworkMapping("alone", "serial", {"product": LayerPlan((Part(CORE, k),))}), alone)
    trace = engine_fast.run(program)
    mine = program.rows["unit"] == program.unit_names.index(CORE)
    return int(trace.end[mine].max() - trace.issue[mine].min())


def _number(row: Mapping[str, str], column: str, low: float, high: float) -> float:
    try:
        found = float(row[column])
    except ValueError:
        found = float("nan")
    if not low <= found <= high:
        name = "x".join(row[c] for c in COLUMNS[:3])
        raise InputError(f"row {name}: column {column} is {row[column]!r}, must be {low:g} to {high:g}")
    return found


def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Each row's product on our engine alone."""
    soc = find_soc("darkside", ALL_OF_IT)
    for row in rows:
        m, n, k = (int(_number(row, column, 1, 4096)) for column in COLUMNS[:3])
        refused = _number(row, "stall_probability", 0, 0.9)
        measured = _number(row, "cycles", 1, 1e12)
        ours = job_cycles(soc, m, n, k, refused)
        yield Compared(f"{m}x{n}x{k}, {refused:.0%} refused", measured, ours)


def _rows(text: str) -> tuple[dict[str, str], ...]:
    return tuple(dict(zip(COLUMNS, line.split(), strict=True)) for line in text.strip().splitlines())


SET = TruthSet(
    name="redmule_rtl",
    unit="cycles",
    columns=COLUMNS,
    about="jobs of RedMulE (4 x 8 multiply-adds, commit 51cd064), simulated from its RTL; grants refused at random",
    fitted="job_start_cycles, on 188 rows without refusals; nothing on rows with them",
    claim_mape=0.01,
    compare=compare,
    built_in=_rows(  # every ninth row of the table
        """
        4 13 17 0 202
        5 22 65 0 554
        6 29 12 0 214
        7 16 5 0 144
        9 18 84 0 1040
        11 14 5 0 209
        11 224 113 0 14413
        13 34 64 0 1244
        16 24 86 0 1234
        24 14 85 0 1233
        32 65 9 0 1173
        38 20 221 0 5689
        45 35 10 0 950
        55 10 5 0 417
        62 10 85 0 2385
        79 115 5 0 4721
        99 55 41 0 8821
        114 13 124 0 7768
        138 111 61 0 32345
        167 51 4 0 4448
        231 52 19 0 12143
        19 86 46 0.02 3258
        10 83 44 0.05 2106
        21 226 11 0.05 2823
        8 41 9 0.1 265
        63 39 91 0.1 7770
        11 18 11 0.2 255
        12 15 23 0.3 348
        51 19 21 0.3 1213
        25 44 31 0.5 1594
        """
    ),
)

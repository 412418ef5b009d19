"""Darkside's tensor engine: jobs against RedMulE's RTL, and words that run ahead of need beside others at the banks."""

from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim import exact
from cosoc.sim.cores.tensor_engine import TensorEngine
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import KINDS, row_of
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Tile, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.truth import redmule_rtl
from cosoc.sim.truth.redmule_rtl import job_cycles


@pytest.fixture(scope="module")
def soc() -> SoC:
    return find_soc("darkside")


@pytest.fixture(scope="module")
def tensor(soc: SoC) -> TensorEngine:
    core = soc.cores["tensor"]
    assert isinstance(core, TensorEngine)
    return core


def test_jobs_take_what_the_rtl_takes() -> None:
    """Rows of RedMulE's RTL, some with grants refused: 1 % on average without, 3 % with."""
    truth = redmule_rtl.SET
    found = list(truth.compare(truth.built_in))
    errors = np.array([abs(row.ours / row.measured - 1) for row in found])
    refused = np.array([float(row["stall_probability"]) > 0 for row in truth.built_in])
    assert errors[~refused].mean() <= 0.01
    assert errors[refused].mean() <= 0.03


def test_words_of_a_block_by_hand(tensor: TensorEngine) -> None:
    """16 x 16 by 16 x 16: two blocks, each with 8 words of inputs, 16 of weights, 8 of accumulators and 8 of results:
    the RTL reads 64 and writes 16. 10 x 12 by 12 x 7: inputs of 10 rows, twice 12 of weights; RTL 50 and 16."""
    assert tensor.words(Tile("conv", 16, 16, 16, 1), exact) == 64 + 16
    assert tensor.words(Tile("conv", 7, 12, 10, 1), exact) == 50 + 16


def test_refused_grants_are_hidden_until_the_port_is_the_bottleneck(soc: SoC) -> None:
    """64 x 64 x 64: 3,584 words in 8,192 cycles, of which 28 meet nothing that hides them. With half of the grants
    refused the others still pass in time; with three of four they take four cycles each, and pace the job."""
    alone, half, most = (job_cycles(soc, 64, 64, 64, refused) for refused in (0, 0.5, 0.75))
    assert alone == 56 + 28 + 8192
    assert 28 <= half - alone < 2 * 28
    assert most == pytest.approx(56 + 4 * 3584, rel=0.01)


def pointwise(k: int, c: int, edge: int) -> Layer:
    return Layer("one", "conv", (INPUT,), k, c, edge, edge, edge, edge)


@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
def test_both_engines_run_a_streaming_job_alike(soc: SoC, runtime: str) -> None:
    layer = pointwise(96, 64, 16)
    workload = Workload("w", (64, 16, 16), (layer,), ("one",))
    plan = LayerPlan((Part("tensor", 64), Part("cluster", 32)))
    program = lower(workload, Mapping("m", runtime, {"one": plan}), soc)  # type: ignore[arg-type]
    fast, slow = engine_fast.run(program), engine_reference.run(program)
    assert (fast.end == slow.end).all() and (fast.issue == slow.issue).all()


def test_a_job_begins_when_the_one_before_has_ended(soc: SoC) -> None:
    """Two ops are in flight within a job alone: launches and first words stand between jobs."""
    layer = pointwise(16, 64, 64)
    workload = Workload("w", (64, 64, 64), (layer,), ("one",))
    program = lower(workload, Mapping("m", "overlapped", {"one": LayerPlan((Part("tensor", 16),))}), soc)
    trace = engine_fast.run(program)
    unit = program.unit_names.index("tensor")
    row = row_of(program, np.arange(len(trace.end)))
    kind, mine = program.rows["kind"][row], program.rows["unit"][row] == unit
    ends = np.flatnonzero(mine & (kind == KINDS.index("sync")))
    launches = np.flatnonzero(mine & (kind == KINDS.index("launch")))
    assert len(launches) > 2
    assert (trace.issue[launches[1:]] >= trace.end[ends[: len(launches) - 1]]).all()


def test_beside_the_cluster_the_engine_waits_less_than_the_cluster(soc: SoC) -> None:
    """A 3x3 layer on the cluster beside a 1x1 one on the engine: conflicts lengthen the cluster's jobs, whose loads are
    in its own time; the engine's words are ahead of need, but for each job's first."""
    one = replace(pointwise(256, 256, 8), name="one")
    wide = Layer("wide", "conv", (INPUT,), 64, 256, 8, 8, 8, 8, 3, 3, 1, 1, 1, 1)
    workload = Workload("w", (256, 8, 8), (wide, one), ("wide", "one"))
    plans = {"wide": LayerPlan((Part("cluster", 64),)), "one": LayerPlan((Part("tensor", 256),))}
    mapping = Mapping("m", "overlapped", plans, (Piece(("wide", "one"), "parallel"),))
    calm = soc.model_copy(
        update={"links": soc.links | {"tcdm": soc.links["tcdm"].model_copy(update={"stretch": (1.0,)})}}
    )
    busy = [
        {part.layer: part.cores for part in simulate(machine, workload, mapping).by_layer} for machine in (soc, calm)
    ]
    slowed = {
        core: busy[0][layer][core].busy_ticks / busy[1][layer][core].busy_ticks
        for layer, core in (("wide", "cluster"), ("one", "tensor"))
    }
    assert 1 < slowed["cluster"] < soc.links["tcdm"].stretch[2]
    assert slowed["tensor"] < 1.02

"""A batch is a dimension of layers and tiles: what it shares, what it multiplies, and that it is no special case."""

from __future__ import annotations

from typing import Any

import pytest

from cosoc.sim import exact
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import dump_mapping, load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import KINDS, Program, unroll
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.tiles import tiled
from cosoc.sim.model.workload import INPUT, Layer, Workload, batched
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import checked, homes_of
from cosoc.sim.work import layer_work

DIANA, GEMMINI = find_soc("diana"), find_soc("gemmini")
CONV = Layer("conv", "conv", (INPUT,), 32, 16, 8, 8, 8, 8, 3, 3, 1, 1, 1, 1)
DENSE = Layer("fc", "conv", (INPUT,), 64, 128)


def one(layer: Layer, n: int) -> Workload:
    return batched(Workload("one", (layer.c, layer.iy, layer.ix), (layer,), (layer.name,)), n)


def brought(program: Program, kind: str) -> int:
    """Bytes of tensors that all ops of a kind bring or take."""
    rows = unroll(program).rows
    payload = rows["payload_bytes"]
    moved = [int(p if p >= 0 else b) for p, b in zip(payload, rows["bytes"], strict=True)]
    return sum(m for m, k in zip(moved, rows["kind"], strict=True) if KINDS[k] == kind)


@pytest.mark.parametrize("soc", [DIANA, GEMMINI], ids=lambda soc: soc.name)
@pytest.mark.parametrize("layer", [CONV, DENSE], ids=lambda layer: layer.name)
def test_a_batch_multiplies_work_and_activations(soc: Any, layer: Layer) -> None:
    """Conservation: eight times the products, the bytes in and the bytes out of one image."""
    programs = [lower(one(layer, n), Mapping("m", "overlapped"), soc) for n in (1, 8)]
    single, batch = (unroll(program).rows["macs"].sum() for program in programs)
    assert batch == 8 * single
    for kind in ("load", "store"):
        assert brought(programs[1], kind) == 8 * brought(programs[0], kind) > 0


def test_weights_that_stay_come_once_for_the_whole_batch() -> None:
    plan = tiled(CONV, LayerPlan((Part("digital", 32),)), DIANA, (32,), 8, 8, n=1)
    moved = [brought(lower(one(CONV, n), Mapping("m", "overlapped", {"conv": plan}), DIANA), "weights") for n in (1, 8)]
    assert moved[1] == moved[0] > 0


def test_a_dense_layer_of_a_batch_loads_its_weights_once_behind_caches() -> None:
    """Tiles of all images: the rows of a matrix product, which pass while the weights stay."""
    moved = [brought(lower(one(DENSE, n), Mapping("m", "overlapped"), GEMMINI), "weights") for n in (1, 8)]
    assert moved[0] == moved[1] == 64 * 128


@pytest.mark.parametrize("images", [1, 2, 3, 8])
def test_the_closed_form_of_a_batch_is_its_serial_time(images: int) -> None:
    """Serial time is a sum: estimate and simulation agree to the tick, whatever the tile of images, edges included."""
    workload = one(CONV, 8)
    plan = tiled(workload["conv"], LayerPlan((Part("digital", 32),)), DIANA, (16,), 4, 8, n=images)
    mapping = Mapping("m", "serial", {"conv": plan})
    homes = homes_of(workload, mapping, DIANA)
    work = layer_work(workload["conv"], DIANA, [("digital", 32)], plan, homes, exact)
    estimated = layer_time(workload["conv"], work, DIANA, "serial", homes, Theta(), exact).ticks
    assert estimated == simulate(DIANA, workload, mapping).ticks


@pytest.mark.parametrize("soc", ["diana", "darkside", "gemmini", "hetero", "isaac", "rpi4"])
def test_a_network_of_a_batch_runs_on_every_chip(soc: str, tmp_path: Any) -> None:
    """Both engines agree, a file of its mapping is read back, and it takes no less than one image does."""
    machine, network = find_soc(soc), find_workload("digits_cnn")
    batch = batched(network, 3)
    mapping = checked(named_mapping("all_8bit", batch, machine), batch, machine)
    program = lower(batch, mapping, machine)
    ends = [engine.run(program).makespan for engine in (engine_fast, engine_reference)]
    assert ends[0] == ends[1] >= engine_fast.run(lower(network, Mapping("m", mapping.runtime), machine)).makespan
    (tmp_path / "m.yaml").write_text(dump_mapping(mapping))
    assert load_mapping(tmp_path / "m.yaml", batch, machine) == mapping

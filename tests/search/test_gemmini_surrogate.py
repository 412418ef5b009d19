"""Is the fitted closed form of Gemmini's nests the same in all number types, right in its parts, and close to the
simulator on layers that it was not fitted to?"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosoc.search import gemmini_surrogate as library
from cosoc.search import relax
from cosoc.search.gemmini_estimate import Model, NestTheta, _ended, _over, _sets, predict
from cosoc.search.gemmini_surrogate import Task, batch, nest_of, network_layers, tasks
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.dosa import Problem, decode
from cosoc.sim.model.workload import INPUT, Layer
from cosoc.sim.movers.cached_terms import ORDERS, Shape, Tiles, counts, rows_needed, stacked
from cosoc.sim.movers.measured import walk_nest
from cosoc.sim.movers.tile_table import ENDED
from cosoc.sim.movers.touches import REQUESTS, _miss

SOC = find_soc("gemmini")
MODEL = Model.of(SOC)
CONV = Layer("conv", "conv", (INPUT,), 32, 48, oy=12, ox=12, iy=12, ix=12, fy=3, fx=3, pad_y=1, pad_x=1)


@pytest.fixture(scope="module")
def plan() -> list[Task]:
    return tasks(MODEL, 90, 5, ("resnet18", "bert"))


@pytest.fixture(scope="module")
def calibration() -> library.Calibration:
    return library.calibrate(SOC, 340, 2, workers=1)


def test_ints_arrays_and_tensors_agree(plan: list[Task]) -> None:
    shape, tiles, order = batch(plan)
    theta = NestTheta()
    whole = predict(shape, tiles, order, MODEL, theta)
    layers = stacked([Shape.of(task.layer) for task in plan], torch.tensor)
    leaves = [torch.tensor(getattr(tiles, d), dtype=torch.float64) for d in Tiles.__annotations__]
    weights = [torch.tensor(each, dtype=torch.float64) for each in order]
    soft = predict(layers, Tiles(*leaves), weights, MODEL, theta, relax)
    assert soft.cycles.numpy() == pytest.approx(whole.cycles)
    assert soft.energy_pj.numpy() == pytest.approx(whole.energy_pj)
    for i, task in enumerate(plan[:20]):
        single = predict(
            Shape.of(task.layer), Tiles(*task.tile), [int(task.order == o) for o in range(3)], MODEL, theta
        )
        assert single.cycles == pytest.approx(whole.cycles[i])


def test_gradients_lead_out_of_tiles_that_are_too_small() -> None:
    """A layer in tiles of one pixel is bound by the software around them: whichever extent grows makes it faster."""
    leaves = [torch.tensor(float(x), dtype=torch.float64, requires_grad=True) for x in (16, 16, 1, 1, 1, 1)]
    shape = replace(Shape.of(CONV), k=torch.tensor(32.0, dtype=torch.float64))
    weights = [torch.tensor(1 / 3, dtype=torch.float64)] * 3
    predict(shape, Tiles(*leaves), weights, MODEL, NestTheta(), relax).cycles.backward()
    assert all(leaf.grad is not None and leaf.grad < 0 for leaf in leaves)


@pytest.mark.parametrize("x", [0.5, 1.0, 1.2, 1.5, 2.0, 3.0, 6.0])
def test_misses_of_sweeps_under_random_replacement(x: float) -> None:
    """Against the fixed point of 1 - m = exp(-m x), and against a cache that is gone over twelve times."""
    m = 1.0
    for _ in range(2000):
        m = 1 - math.exp(-m * x)
    sets, ways = 512, 8
    tags, rng = np.full((sets, ways), -1, np.int64), np.array([3], np.int64)
    lines = int(x * sets * ways)
    found = 0
    for sweep in range(12):
        missed = sum(_miss(tags, line, rng) for line in range(lines))
        found += missed if sweep >= 6 else 0
    estimate = _over(x, 1.0, exact)
    assert estimate == pytest.approx(m, abs=0.05)
    assert estimate == pytest.approx(found / lines / 6, abs=0.08)


@pytest.mark.parametrize(
    ("stride", "wide"), [(16, 16), (64, 64), (512, 16), (512, 128), (1000, 32), (3072, 64), (4096, 64)]
)
def test_rows_far_apart_use_few_sets(stride: int, wide: int) -> None:
    """Brute force: the sets that the lines of many rows fall into. A row over two lines uses twice the sets."""
    touched = {(row * stride + byte) // 64 % 1024 for row in range(16384) for byte in range(0, wide, 16)}
    assert _sets(stride, wide, 1024, 64, exact) == pytest.approx(len(touched) / 1024, rel=0.02)


@pytest.mark.parametrize("order", range(3))
def test_ended_loops_are_those_of_the_walk(order: int) -> None:
    tile = (16, 16, 3, 1, 5, 12)
    n = counts(Shape.of(CONV), Tiles(*tile), exact)
    walked = walk_nest(nest_of(CONV, tile, ORDERS[order], 16), MODEL.machine, 10**9)
    assert _ended(n, ORDERS[order], exact) == walked.tiled.table[:, ENDED].sum()


def test_a_layers_nest_is_that_of_the_measured_programs() -> None:
    layer = Layer("c", "conv", (INPUT,), 64, 32, oy=28, ox=28, iy=28, ix=28, fy=3, fx=3, pad_y=1, pad_x=1)
    text = "L3[WIO] Q4 P2 K4 R3 - L2[WI] K16X - L1[O] S3 C2 Q7 C16X - L0[W] P14"
    found = decode(text, Problem(64, 32, 28, 28, 3, 3), 16)
    mine = nest_of(layer, found.tile, [library.NEST_DIMS[d] for d in found.order], 16)
    assert mine == found


def test_sampled_tiles_fit_and_keep_out_of_the_padding(plan: list[Task]) -> None:
    for task in plan:
        spad, acc = rows_needed(Shape.of(task.layer), Tiles(*task.tile), MODEL.machine)
        assert spad <= MODEL.machine.spad_rows // 2 and acc <= MODEL.machine.acc_rows // 2
        nest = nest_of(task.layer, task.tile, ORDERS[task.order], 16)
        mvins = walk_nest(nest, MODEL.machine, 2000).seen.mvins
        assert mvins[:, REQUESTS].max() < 1000  # a counter that wraps makes 65,000


def test_every_network_has_layers() -> None:
    names = {name: len(network_layers(name)) for name in (*library.FITTED, *library.HELD_OUT)}
    assert min(names.values()) >= 5
    assert not set(library.FITTED) & set(library.HELD_OUT)


def test_layers_not_fitted_are_estimated(calibration: library.Calibration) -> None:
    """The target is 8 % and 0.98 on 2,000 samples (benchmarks/gemmini_surrogate.py); here are four a layer."""
    held = calibration.made.held_out
    assert held.samples == 170 and held.layers == 40
    assert held.mape < 0.1
    assert held.spearman > 0.98


def test_what_is_saved_is_loaded_and_other_machines_are_refused(
    calibration: library.Calibration, tmp_path: Path
) -> None:
    file = tmp_path / "s.json"
    library.save(calibration, file)
    assert library.load(file, SOC) == calibration.made
    with pytest.raises(InputError, match=r"was fitted to SoC gemmini \(\w+\), not to gemmini"):
        library.load(file, find_soc("gemmini", {"dmas.mover.fill_cycles": "7.0"}))
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"simulator_digest": "0" * 16}))
    with pytest.raises(InputError, match="was fitted to simulator"):
        library.load(file, SOC)
    found["theta"]["fudge"] = 1.0
    file.write_text(json.dumps(found))
    with pytest.raises(InputError, match="fudge"):
        library.load(file, SOC)


def test_figures_are_strict_json(calibration: library.Calibration) -> None:
    json.dumps(library.to_json(calibration), allow_nan=False)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match="5 samples to fit 5 factors"):
        library.calibrate(SOC, 10, 0, workers=1)


def test_which_socs_have_nests() -> None:
    assert library.runs_nests(SOC) and not library.runs_nests(find_soc("diana"))
    with pytest.raises(InputError, match="0 cores of model systolic"):
        Model.of(find_soc("diana"))

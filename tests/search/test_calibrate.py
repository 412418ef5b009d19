"""Calibration: legal samples, factors that are found again, and errors that mean what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cosoc.search import calibrate as library
from cosoc.search import surrogate
from cosoc.search.baselines import laws
from cosoc.search.fit import fit, made_of, ticks_of
from cosoc.search.sampling import random_mapping, random_pieces
from cosoc.search.terms import network_estimate
from cosoc.search.training.nets import VisionTransformer
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.workload import INPUT, Layer
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import TilingCache, problems

SOC = find_soc("diana")


@pytest.fixture(scope="module")
def samples() -> list[library.Sample]:
    return library.simulate_all(SOC, library.tasks(SOC, "channels", 96, 1), 1, workers=1)


def test_the_plan_holds_out_whole_networks() -> None:
    plan = library.tasks(SOC, "channels", 600, 0)
    fitted = {task.source for task in plan if not task.held_out}
    held = {task.source for task in plan if task.held_out}
    assert fitted == {*library.FITTED, ""}
    assert held == set(library.HELD_OUT)
    for source in fitted | held:
        assert {task.runtime for task in plan if task.source == source} == {"serial", "overlapped"}


@pytest.mark.parametrize("seed", range(6))
def test_sampled_mappings_are_legal_and_split(seed: int) -> None:
    workload, rng = find_workload("resnet8"), np.random.default_rng(seed)
    for runtime in ("serial", "overlapped"):
        mapping = random_mapping(workload, SOC, runtime, rng, TilingCache())
        assert problems(mapping, workload, SOC) == []


def test_products_behind_caches_are_sampled_legally() -> None:
    """On a chip with both kinds of movers, tilings of one are none of the other: a tile is of one head, 8 channels."""
    soc, workload = find_soc("hetero"), from_module(VisionTransformer(1, 10, 8, 2, 32, 1, 4), (1, 8, 8), "heads")
    for seed in range(24):
        mapping = random_mapping(workload, soc, "overlapped", np.random.default_rng(seed), TilingCache())
        assert problems(mapping, workload, soc) == []


def test_layers_at_once_are_sampled_legally() -> None:
    """ResNet-8 has two layers beside its 1x1 ones that read nothing of them; a chain has no layer to run beside."""
    for name in ("diana", "darkside"):
        soc, found = find_soc(name), set[tuple[str, ...]]()
        for seed in range(12):
            rng, workload = np.random.default_rng(seed), find_workload("resnet8")
            mapping = random_mapping(workload, soc, "overlapped", rng, TilingCache())
            assert problems(mapping, workload, soc) == []
            found |= {piece.layers for piece in mapping.pieces}
        assert len(found) >= 2
        assert all(len(pair) == 2 for pair in found)
        shares = {layer.name: {} for layer in find_workload("dscnn")}
        pieces, _ = random_pieces(find_workload("dscnn"), soc, shares, np.random.default_rng(0))
        assert pieces == ()


def test_samples_do_not_depend_on_how_they_are_shared_out(samples: list[library.Sample]) -> None:
    """Each draws from a generator of its own, seeded with its number."""
    alone = library.measure(SOC, [samples[7].task], 1)[0]
    assert (alone.ticks, alone.energy_j, alone.label) == (samples[7].ticks, samples[7].energy_j, samples[7].label)
    assert np.array_equal(alone.made.runs[0].terms, samples[7].made.runs[0].terms)


def test_the_serial_estimate_of_samples_is_exact(samples: list[library.Sample]) -> None:
    serial = [s for s in samples if s.task.runtime == "serial"]
    ticks, joules = library.estimates(serial, Theta(), SOC)
    assert ticks.tolist() == [s.ticks for s in serial]
    assert joules == pytest.approx([s.energy_j for s in serial], rel=1e-9)


def test_factors_are_found_again(samples: list[library.Sample]) -> None:
    """Samples whose ticks are those of known factors: the fit must return these. (To a tick: ticks are rounded.)"""
    truth = Theta(prefetch=0.4, launch_hidden=0.7)
    ticks, _ = library.estimates(samples, truth, SOC)
    made = [replace(s, ticks=round(t)) for s, t in zip(samples, ticks, strict=True)]
    found = library.fitted(made, SOC)
    assert found.prefetch == pytest.approx(truth.prefetch, abs=0.02)
    assert found.launch_hidden == pytest.approx(truth.launch_hidden, abs=0.02)


def test_a_fit_of_few_samples_stays_near_to_where_it_was(samples: list[library.Sample]) -> None:
    """Of samples that are met already nothing moves; of none, neither."""
    near = Theta(prefetch=0.4, launch_hidden=0.7)
    ticks, _ = library.estimates(samples, near, SOC)
    mine = [(s.made, t) for s, t in zip(samples, ticks.tolist(), strict=True) if s.task.runtime == "overlapped"][:3]
    names = ("prefetch", "launch_hidden")
    found = fit([made for made, _ in mine], [t for _, t in mine], names, near)
    assert (found.prefetch, found.launch_hidden) == (pytest.approx(0.4, abs=0.01), pytest.approx(0.7, abs=0.01))
    assert fit([], [], names, near) == near


def test_factors_reach_parts_behind_caches() -> None:
    """On a chip with a systolic array beside a digital one: what a network's estimate is made of follows a factor of
    the array as the network's estimate itself does, to first order."""
    soc, workload = find_soc("hetero"), find_workload("resnet8")
    mapping = random_mapping(workload, soc, "overlapped", np.random.default_rng(3), TilingCache())
    assert any(soc.is_cached(p.core) and p.channels for plan in mapping.layers.values() for p in plan.parts)
    made = made_of(workload, mapping, soc)
    # Further from the default 1.2 a tile of unaligned loads becomes bound by them: second order, 0.4 % at 1.45.
    for theta in (Theta(), Theta(load=1.3), Theta(unhidden=0.16, store=1.27)):
        (ticks,) = ticks_of([made], theta)
        assert ticks == pytest.approx(float(network_estimate(workload, soc, mapping, {}, theta).ticks), rel=2e-3)
    assert ticks_of([made], Theta(load=1.6))[0] > ticks_of([made], Theta())[0]


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match="usable samples for 2 factors; ask for more with --samples"):
        library.calibrate(SOC, 2, 0, workers=1)


def test_a_chip_without_factors_is_refused() -> None:
    with pytest.raises(InputError, match="v100: its cores compute from the main memory, so that its estimate has noth"):
        library.calibrate(find_soc("v100"), 100, 0, workers=1)


def test_spaces_by_default() -> None:
    """Channels need two cores to be shared out to."""
    chips = ("diana", "darkside", "hetero", "isaac", "gemmini")
    found = {name: library.default_space(find_soc(name)) for name in chips}
    assert found == dict(zip(chips, ["channels"] * 3 + ["tiles"] * 2, strict=True))


def test_a_calibration_of_tiles() -> None:
    """On a chip with DMAs a layer by itself has a launch to fit; a weight that comes before its layer there is not."""
    found = library.calibrate(SOC, 48, 0, workers=1, space="tiles")
    assert found.surrogate.space == "tiles"
    assert found.ours["overlapped"]["layer"].mape < 0.08
    assert found.ours["overlapped"]["network"].samples > 0
    assert found.surrogate.factors.prefetch == pytest.approx(Theta().prefetch, abs=0.01)
    json.dumps(library.to_json(found), allow_nan=False)


def test_tiles_behind_caches_are_fitted_on_networks_that_overflow_them() -> None:
    soc = find_soc("gemmini")
    plan = library.tasks(soc, "tiles", 64, 0)
    assert {task.source for task in plan if not task.held_out} == set(library.LARGE_FITTED)
    assert {task.source for task in plan if task.held_out} == set(library.LARGE_HELD_OUT)
    small = [replace(task, source="digits_cnn") for task in plan[:7]]  # tiles are sampled alike, in less time
    made = library.measure(soc, small, 0)
    assert len(made) == 7 and all(sample.made.cached for sample in made)
    ticks, joules = library.estimates(made, Theta(), soc)
    assert np.abs(np.log(ticks / np.array([sample.ticks for sample in made]))).max() < 0.7
    # Beside that, tensors begin and end within lines, of which the estimate knows nothing: of three tensors up to a
    # line of the DRAM's 128 bytes and one of the L2's 64 each.
    l2, llc, dram = (soc.memories[name].access_pj_per_byte for name in ("l2", "llc", "dram"))
    part_lines = 3 * (128 * (dram + llc) + 64 * (llc + l2)) * 1e-12
    assert joules == pytest.approx([sample.energy_j for sample in made], rel=0.05, abs=part_lines)


def test_errors_by_hand() -> None:
    """Predictions 10 % over, 20 % under and exact, in reversed order within group b."""
    error = library.errors(np.array([110.0, 160.0, 300.0]), np.array([100.0, 200.0, 300.0]), ["a", "a", "a"])
    assert (error.mape, error.samples) == (pytest.approx(0.1), 3)
    assert (error.spearman, error.kendall) == (pytest.approx(1), pytest.approx(1))
    both = library.errors(np.array([1.0, 2, 3, 3, 2, 1]), np.array([1.0, 2, 3, 1, 2, 3]), [*"aaabbb"])
    assert both.spearman == pytest.approx(-1)  # the worst group, not the mean of both
    assert library.errors(np.array([np.nan, 2.0]), np.array([1.0, 2.0]), ["a", "a"]).samples == 1


def test_a_calibration_end_to_end() -> None:
    seen: list[tuple[int, int]] = []
    calibration = library.calibrate(SOC, 72, 2, lambda done, total, what: seen.append((done, total)), workers=2)
    assert seen[0] == (0, 72)
    assert seen[-1] == (72, 72)
    # What is asked of a calibrated estimate, here of a small one.
    assert calibration.ours["overlapped"]["network"].mape < 0.05
    assert calibration.ours["overlapped"]["layer"].mape < 0.08
    assert calibration.ours["serial"]["network"].mape == 0
    # ODiMO's formulas leave out transfers and launches, of which these networks mostly consist.
    assert calibration.odimo["overlapped"]["network"].mape > 5 * calibration.ours["overlapped"]["network"].mape
    found = json.loads(json.dumps(library.to_json(calibration), allow_nan=False))
    assert set(found["held_out"]["network"]) >= {"mape", "p95", "spearman", "kendall"}
    assert set(found["odimo"]["layer"]) >= {"mape", "p95", "spearman", "kendall"}
    console = Console(width=80, record=True)
    console.print(library.table(calibration))
    text = console.export_text()
    assert "overlapped: networks" in text
    assert "..." not in text
    assert "…" not in text


def test_a_calibration_is_saved_for_this_soc(tmp_path: Path) -> None:
    calibration = library.calibrate(SOC, 72, 2, workers=1)
    surrogate.save(calibration.surrogate, tmp_path / "s.json")
    assert surrogate.load(tmp_path / "s.json", SOC) == calibration.surrogate


@pytest.mark.parametrize(
    ("c", "k", "f", "out", "digital", "analog"),
    [
        (64, 64, 3, 16, 40_960, 5_772.8),
        (64, 64, 3, 56, 566_272, 18_876.8),
        (128, 128, 3, 16, 155_648, 13_875.2),
        (16, 16, 3, 32, 13_312, 5_811.2),
        (128, 512, 3, 16, 610_304, 13_875.2),
    ],
)
def test_odimo_formulas(c: int, k: int, f: int, out: int, digital: float, analog: float) -> None:
    """Values of the released code (hw_models.py) for these layers."""
    layer = Layer("x", "conv", (INPUT,), k, c, out, out, out, out, f, f, 1, 1, f // 2, f // 2)
    assert laws.digital_cycles(layer, k) == pytest.approx(digital)
    assert laws.analog_cycles(layer, k) == pytest.approx(analog)


@pytest.mark.parametrize(("core", "cycles", "uj"), [("digital", 257_673, 24.74), ("analog", 88_120, 9.74)])
def test_odimo_resnet20(core: str, cycles: int, uj: float) -> None:
    """ResNet-20 wholly on one core, by the released model."""
    import torch

    workload = find_workload("resnet20")
    shares = {x.name: {core: torch.tensor(float(x.k))} for x in workload if x.op == "conv"}
    estimate = laws.network_estimate(workload, shares)
    assert estimate.ticks.item() == pytest.approx(cycles, abs=1)
    assert estimate.energy_j.item() * 1e6 == pytest.approx(uj, abs=0.005)


def test_released_gradients_are_too_steep() -> None:
    """A ceil with slope 1: 16 times the mean slope of the digital staircase, 512 times that of the analog one."""
    import torch

    layer = Layer("x", "conv", (INPUT,), 64, 64, 16, 16, 16, 16, 3, 3, 1, 1, 1, 1)
    slopes = {}
    for name, by in (("right", laws.RIGHT), ("released", laws.RELEASED)):
        k = torch.tensor(64.0, requires_grad=True)
        slopes[name] = (
            torch.autograd.grad(by.ceildiv(k, 16), k)[0].item(),
            torch.autograd.grad(by.ceildiv(k, 512), k)[0].item(),
        )
    assert slopes["released"] == (1, 1)
    assert slopes["right"] == pytest.approx((1 / 16, 1 / 512))
    k = torch.tensor(200.0, requires_grad=True)
    wide = replace(layer, k=200, fy=1, fx=1)
    (released,) = torch.autograd.grad(laws.RELEASED.unroll(wide, k), k)
    (right,) = torch.autograd.grad(laws.RIGHT.unroll(wide, k), k)
    assert released.item() > 0 > right.item()

"""Do the tiles that are simulated compute the network? Every op of a run is carried out on integers, and what comes out
is held to each layer computed whole, which knows of no tiles. Equal exactly: integers have no tolerance."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from random_integers import other_form, random_network, random_workload
from random_runs import FUSED, SHARED, SMALL_L1, random_run

import cosoc
from cosoc.inputs import soc_of
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.names import list_socs
from cosoc.sim.integers.network import IntegerLayer, IntegerNetwork, rescale, run_whole, windows
from cosoc.sim.integers.regions import NEVER, TileFault
from cosoc.sim.integers.run import run_tiles
from cosoc.sim.machine.program import KINDS
from cosoc.sim.model.mapping import DIMS, RUNTIMES, Extent, LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import placed, problems


def differing(result: Result, seed: int = 0) -> list[str]:
    """Layers whose results differ from those of the layer computed whole."""
    network, image, whole = random_network(result.at, np.random.default_rng(seed))
    made = run_tiles(result, network, image)
    assert made
    return [name for name, one in made.items() if (one.values != whole[name])[one.ready < NEVER].any()]


# -- networks as they are known ------------------------------------------------------------------------------------

CUT = """\
name: cut
runtime: overlapped
layers:
  layer3.0.conv2: {parts: {digital: 64}, tile: {k: 40, c: 24, oy: 3}}
"""
APART = FUSED + "layers:\n  layer1.0.conv1: {parts: {analog: 16}}\n"  # which runs ahead of the other core
STEPS = """\
name: steps
runtime: overlapped
layers:
  layer1.0.add: {parts: {gemmini: 16}, tile: {oy: 5}}
pieces: [{layers: [layer1.0.conv1, layer1.0.conv2, layer1.0.add], keep_rows: KEEP}]
"""
# soc, mapping, runtime, overrides, images of a batch
RUNS = [
    ("diana", "all_8bit", "serial", SMALL_L1, 1),
    ("diana", "default", "overlapped", SMALL_L1, 1),
    ("diana", SHARED, None, SMALL_L1, 1),
    ("diana", SHARED, None, SMALL_L1, 3),
    ("diana", CUT, None, {}, 2),
    ("diana", FUSED, None, {}, 1),
    ("diana", APART, None, {}, 2),
    ("darkside", "default", "overlapped", {}, 1),
    ("gemmini", "default", "overlapped", {}, 2),
    ("gemmini", STEPS.replace("KEEP", "true"), None, {}, 1),
    ("gemmini", STEPS.replace("KEEP", "false"), None, {}, 1),
]


@pytest.mark.parametrize(("soc", "mapping", "runtime", "overrides", "batch"), RUNS)
def test_tiles_of_a_residual_network_compute_it(
    soc: str, mapping: str, runtime: Any, overrides: dict[str, str], batch: int, tmp_path: Path
) -> None:
    """Of one image, and of several that go through each layer together, each an image of its own."""
    named: Any = mapping
    if "\n" in mapping:
        named = tmp_path / "mapping.yaml"
        named.write_text(mapping)
    result = cosoc.simulate(soc, "resnet8", named, runtime=runtime, overrides=overrides, batch=batch)
    assert result.at.workload.n == batch and differing(result) == []


# -- random networks, shares, tiles, orders and pieces -------------------------------------------------------------


@pytest.mark.parametrize("chip", list_socs())
def test_random_tiles_of_a_random_network_compute_it_on_every_chip(chip: str) -> None:
    """Each with a network and tiles of its own."""
    rng = np.random.default_rng(list_socs().index(chip))
    workload = random_workload(rng)
    runtime = RUNTIMES[int(rng.integers(2))]
    assert differing(random_run(soc_of(chip, SMALL_L1 if chip == "diana" else {}), workload, rng, runtime)) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("chip", ["diana", "darkside", "gemmini"])
def test_random_fused_pieces_compute_their_networks(chip: str, seed: int) -> None:
    """Runs of consecutive layers from the first on, as long as the chip takes them."""
    soc, rng, tried = find_soc(chip), np.random.default_rng(100 + seed), 0
    while not tried:
        workload = random_workload(rng, alone=True)
        names = [layer.name for layer in workload]
        for first, last in ((a, b) for a in range(len(names)) for b in range(len(names), a + 1, -1)):
            piece = Piece(tuple(names[first:last]), keep_rows=bool(rng.integers(2)))
            sink = workload[names[last - 1]]
            mapping = Mapping("fused", "overlapped", {}, (piece,))
            if chip == "gemmini" and sink.oy > 2:
                full = placed(Mapping("whole", "overlapped"), workload, soc).mapping.layers[sink.name]
                tile = replace(full.tile, oy=int(rng.integers(1, sink.oy)), ox=sink.ox)
                plan = replace(full, parts=(replace(full.parts[0], tile=tile),))
                mapping = replace(mapping, layers={sink.name: plan})
            if not problems(mapping, workload, soc):
                tried += 1
                assert differing(simulate(soc, workload, mapping), seed) == []
                break


@pytest.mark.parametrize("resident", [("a", "b"), ("b",), ()], ids=str)
def test_weights_of_a_step_stay_for_the_next_or_come_again(resident: tuple[str, ...]) -> None:
    """On Gemmini two layers of 48 channels, in two steps, each with more pixels than half the accumulator has room for
    in 48 channels: weights that stay come in two tiles, and both are there in the second step."""
    area = {"oy": 24, "ox": 16, "iy": 24, "ix": 16, "fy": 3, "fx": 3, "pad_y": 1, "pad_x": 1}
    layers = (Layer("a", "conv", (INPUT,), 48, 8, **area), Layer("b", "conv", ("a",), 48, 48, **area))
    network = Workload("two", (8, 24, 16), layers, ("b",))
    plan = LayerPlan((Part("gemmini", 48, Extent(32, 48, 3, 3, 12, 16)),), DIMS)
    result = simulate(find_soc("gemmini"), network,
                      Mapping("m", "overlapped", {"b": plan}, (Piece(("a", "b"), resident=resident),)))  # fmt: skip
    assert differing(result) == []
    rows = result.program.rows
    moved = rows["payload_bytes"][rows["kind"] == KINDS.index("weights")].clip(0).sum()
    assert moved == sum(layer.weights * (1 if layer.name in resident else 2) for layer in layers)


# -- what it would notice ------------------------------------------------------------------------------------------


def wrong(result: Result) -> bool:
    """Whether a run computes something else, or nothing at all."""
    try:
        return bool(differing(result))
    except TileFault:
        return True


def halo_of_one_row_less(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosoc.sim.movers import dma_terms

    true = dma_terms.spans

    def less(outputs: int, tile: int, inputs: int, reach: int, stride: int, pad: int) -> Any:
        return true(outputs, tile, inputs, max(reach - 1, 1), stride, pad)

    monkeypatch.setattr(dma_terms, "spans", less)


def rows_needed_one_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosoc.sim.lower import fusion

    true = fusion.last_row_under
    monkeypatch.setattr(fusion, "last_row_under", lambda layer, row: max(true(layer, row) - 1, 0))


def parts_in_the_other_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosoc.sim.lower import tile_steps

    true = tile_steps.Ranges.of

    def of(self: Any, form: Layer, at: Any, part: int, k: int, c: Any) -> tuple[int, ...]:
        found = list(true(self, form, at, part, k, c))
        shift = self.channels[1][0] if len(self.channels) > 1 else 0
        found[2:4] = [end + (shift if part == 0 else -self.channels[0][-1]) for end in found[2:4]]
        return tuple(found)

    monkeypatch.setattr(tile_steps.Ranges, "of", of)


def jobs_that_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosoc.sim.movers.writer import Writer

    true = Writer.op

    def op(self: Any, unit: str, kind: str, deps: Any = (), *others: Any, **named: Any) -> int:
        return true(self, unit, kind, () if kind in ("feed", "compute") else deps, *others, **named)

    monkeypatch.setattr(Writer, "op", op)


MUTANTS = {
    halo_of_one_row_less: SHARED,
    rows_needed_one_too_few: FUSED,
    parts_in_the_other_order: SHARED,
    jobs_that_wait_for_nothing: SHARED,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_lowering_that_is_wrong_is_caught(mutant: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MUTANTS[mutant])
    overrides = SMALL_L1 if MUTANTS[mutant] == SHARED else {}
    assert not wrong(cosoc.simulate("diana", "resnet8", tmp_path / "m.yaml", overrides=overrides))
    mutant(monkeypatch)
    assert wrong(cosoc.simulate("diana", "resnet8", tmp_path / "m.yaml", overrides=overrides))


def test_a_line_buffer_of_a_row_less_than_is_needed_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    """Less than the rows that any order of a piece needs, without those that run ahead: a row takes the place of one
    that is read yet, or that a later row reads."""
    from cosoc.sim.integers import tiles
    from cosoc.sim.lower.fusion import AHEAD

    true = tiles.line_buffers
    (tmp_path / "m.yaml").write_text(FUSED)
    result = cosoc.simulate("diana", "resnet8", tmp_path / "m.yaml")

    def less(workload: Workload, members: Any) -> Any:
        return {edge: max(rows - AHEAD - 1, 1) for edge, rows in true(workload, members).items()}

    monkeypatch.setattr(tiles, "line_buffers", less)
    with pytest.raises(TileFault, match=r"takes the place of row|where row \d+ lies"):
        differing(result)


def test_rows_of_a_step_that_are_dropped_too_early_are_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    """On Gemmini a scratchpad that keeps a row less than the next step needs."""
    from cosoc.sim.integers import arrays

    true = arrays.reach

    def less(*given: Any) -> Any:
        return [replace(one, held=one.held - 1) for one in true(*given)]

    (tmp_path / "m.yaml").write_text(STEPS.replace("KEEP", "true"))
    result = cosoc.simulate("gemmini", "resnet8", tmp_path / "m.yaml")
    monkeypatch.setattr(arrays, "reach", less)
    with pytest.raises(TileFault, match="is never made before"):
        differing(result)


def test_weights_that_a_core_cannot_hold_are_a_fault() -> None:
    result = cosoc.simulate("diana", "resnet8", "all_ternary")
    network, image, _ = random_network(result.at, np.random.default_rng(0))
    layers = {
        name: replace(one, weights=None if one.weights is None else 3 * one.weights)
        for name, one in network.layers.items()
    }
    with pytest.raises(TileFault, match=r"weights up to 3 on analog, which holds -1 \.\. 1"):
        run_tiles(result, replace(network, layers=layers), image)


# -- integers ------------------------------------------------------------------------------------------------------


def test_a_whole_layer_by_hand() -> None:
    """A 2x2 window with stride 2 over 1 .. 9 in 3x3, a row and a column of zeros before it: sums 1, 2 + 3, 4 + 7,
    5 + 6 + 8 + 9; halved and rounded upwards 1, 3, 6, 14, clipped at 10."""
    layer = Layer("pool", "avg_pool", (INPUT,), 1, 1, 2, 2, 3, 3, 2, 2, 2, 2, 1, 1)
    network = Workload("one", (1, 3, 3), (layer,), ("pool",))
    half = rescale(np.array([[0.5]]), np.zeros(1), np.array([[28.0]]), 0, 10)
    image = np.arange(1, 10).reshape(1, 1, 3, 3)
    assert windows(image, layer, 0).sum((4, 5))[0, 0].tolist() == [[1, 5], [11, 28]]
    made = run_whole(IntegerNetwork(network, {"pool": IntegerLayer(rescale=half)}, {}), image)
    assert made["pool"][0, 0].tolist() == [[1, 3], [6, 10]]


@pytest.mark.parametrize("seed", range(5))
def test_rescaling_differs_from_exact_rounding_within_its_bound(seed: int) -> None:
    """Of random factors, offsets and sums, in fractions: floor(factor x + offset + 1/2), but within `bound` of where
    that changes."""
    rng = np.random.default_rng(seed)
    factors, offsets = 10.0 ** rng.uniform(-6, 0, (2, 40)), rng.normal(0, 50, 40)
    sums = [rng.integers(-(2**20), 2**20, (1, 40, 3, 3)) for _ in range(2)]
    about = rescale(factors, offsets, np.full((2, 40), 2.0**20), -(2**40), 2**40)
    found, bound = about.of(sums, 0, 40), Fraction(about.bound([2**20, 2**20]))
    assert 0 < bound < Fraction(1, 2**8)
    for (_, k, y, x), got in np.ndenumerate(found):
        exact = Fraction(offsets[k]) + sum(
            Fraction(f[k]) * int(s[0, k, y, x]) for f, s in zip(factors, sums, strict=True)
        )
        low, high = (math.floor(exact + Fraction(1, 2) + d) for d in (-bound, bound))
        assert low <= got <= high


def test_what_integers_are_not_known_of_is_refused() -> None:
    result = cosoc.simulate("rpi4", "efficientnet_b0", "default")
    with pytest.raises(InputError, match=r"layer stem.act \(aten.silu\): integers are known of conv, "):
        run_tiles(result, IntegerNetwork(result.at.workload, {}, {}), np.zeros(1, np.int64))


def test_other_forms_of_layers_are_computed_as_such(tmp_path: Path) -> None:
    """On Darkside the depthwise engine computes its channels depthwise, where the others are a full convolution."""
    soc = find_soc("darkside")
    full = Layer("choice", "conv", ("stem",), 16, 16, 12, 12, 12, 12, 3, 3, 1, 1, 1, 1)
    stem = Layer("stem", "conv", (INPUT,), 16, 8, 12, 12, 12, 12)
    own = replace(full, name="choice.other", groups=16)
    workload = Workload("choice", (8, 12, 12), (stem, replace(full, alternative=own)), ("choice",))
    parts = [name for name, core in soc.cores.items() if type(core).__name__ == "DepthwiseEngine"]
    cluster = next(name for name in soc.cores if name not in parts)
    plan = LayerPlan((Part(cluster, 6), Part(parts[0], 10)))
    result = simulate(soc, workload, Mapping("both", "overlapped", {"choice": plan}))
    assert other_form(workload["choice"], plan, soc) == [False] * 6 + [True] * 10
    assert differing(result) == []

"""What commands say of two dozen runs, word for word, and the closed forms of some layers to six digits.

Tests elsewhere hold figures to physics, as closely as each can. Here a figure or a word that changes is seen, however
little: a change of the model or of a table says in its commit which, and why (`pytest tests/test_golden_commands.py
--update-golden`, and a look at the diff).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cosoc.sim import exact
from cosoc.sim.estimate import group_terms, layer_terms, layer_time
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import Extent, LayerPlan, Part, Runtime
from cosoc.sim.model.workload import INPUT, Layer
from cosoc.sim.movers.cached_terms import ORDERS, Machine, cycles, energy_pj, estimate_nest, roofline_cycles
from cosoc.sim.movers.fused_steps import chain, group_cost
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import checked, homes_of
from cosoc.sim.work import layer_work

COMMANDS = (
    "simulate diana digits_cnn --inferences 2",
    "simulate diana digits_cnn --inferences 2 --explain",
    "simulate diana resnet8 --mapping io_8bit_backbone_ternary --runtime overlapped",
    "simulate diana resnet8 --mapping io_8bit_backbone_ternary --runtime overlapped --explain",
    "simulate diana resnet8 --runtime overlapped --what-if links.l2_read.rate=x2",
    "simulate diana squeezenet --mapping all_8bit --explain",
    "simulate diana digits_cnn --with dscnn",
    "simulate gemmini resnet8 --inferences 2",
    "simulate gemmini resnet8 --batch 2 --explain",
    "simulate hetero digits_cnn --runtime overlapped",
    "simulate isaac vgg8 --pipelined",
    "simulate neurosim_22nm vgg8",
    "simulate xavier_nx resnet8 --batch 2 --explain",
    "simulate gap9 dscnn",
    "simulate gap9 dscnn --explain",
    "simulate gap8 dscnn --ranges",
    "simulate darkside dscnn --runtime overlapped",
    "simulate agx_xavier_dla resnet8 --mapping dla",
    "simulate rpi4 bert_base_block",
    "show workload mobilenet_v1_025",
    "show mapping gemmini resnet8",
    "show mapping gemmini bert_base_block",
    "show program gemmini digits_cnn",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_it_said(
    command: str, run: Callable[..., tuple[int, str, str]], golden: Callable[[str, str], None]
) -> None:
    status, out, _ = run(*command.split())
    assert status == 0
    golden(f"commands/{command.replace('--', '').replace(' ', '_').replace('.', '_').replace('=', '_')}", out)


def test_a_cluster_says_what_it_said(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]], golden: Callable[[str, str], None]
) -> None:
    mapping = tmp_path / "two.yaml"
    mapping.write_text("stages: [{device: cpu, behind: layer2.0.add, replicas: 2}, {device: cpu, behind: fc}]\n")
    status, out, said = run("simulate", "homogeneous_cpu_4", "resnet8", "--mapping", mapping, "--inferences", "50")
    assert status == 0, said
    golden("commands/simulate_homogeneous_cpu_4_resnet8", out)


def told(figures: dict[str, Any]) -> str:
    """Figures of a line, to six digits."""
    return " ".join(f"{name}={float(value):.6g}" for name, value in figures.items())


LAYERS = (
    Layer("plain", "conv", (INPUT,), 40, 24, oy=14, ox=14, iy=14, ix=14, fy=3, fx=3, pad_y=1, pad_x=1),
    Layer(
        "strided", "conv", (INPUT,), 70, 3, oy=14, ox=10, iy=29, ix=20, fy=5, fx=3, stride_y=2, stride_x=2, pad_y=2,
        pad_x=1,
    ),
    Layer("deep", "conv", (INPUT,), 200, 600, oy=7, ox=9, iy=7, ix=9),
    Layer("padded", "conv", (INPUT,), 24, 8, oy=8, ox=8, iy=8, ix=8, fy=7, fx=7, pad_y=3, pad_x=3),
    Layer("rows", "conv", (INPUT,), 300, 1500, ox=100, ix=100),
    Layer("depthwise", "conv", (INPUT,), 48, 48, oy=12, ox=9, iy=14, ix=11, fy=3, fx=3, groups=48),
    Layer("sum", "add", (INPUT, "plain"), 40, 40, oy=14, ox=14, iy=14, ix=14),
)  # fmt: skip


def test_the_closed_form_behind_caches_is_what_it_was(golden: Callable[[str, str], None]) -> None:
    """Layers of all kinds in tiles that divide none of their sizes, under every order, with and without reuse."""
    machine, out = Machine.of(find_soc("gemmini")), []
    for layer in LAYERS:
        c = 1 if layer.depthwise else layer.c
        for number, order in enumerate(ORDERS):
            tile = Extent(
                min(layer.k, 32 + 16 * (number % 3)), min(c, 48 + 64 * (number % 2)), 1 + number % layer.fy,
                1 + number // 2 % layer.fx, -(-layer.oy // (1 + number % 3)), -(-layer.ox // (2 + number % 2)),
            )  # fmt: skip
            if layer.op == "add":
                tile = Extent(tile.k, tile.k, 1, 1, tile.oy, tile.ox)
            plan = LayerPlan((Part("gemmini", layer.k, tile),), ("n", *order), reuse=number % 4 > 0)
            terms = estimate_nest(layer, plan, machine).terms
            ends = {
                "cycles": cycles(terms, machine, Theta()), "pj": energy_pj(terms, machine, Theta()),
                "roofline": roofline_cycles(terms, machine),
            }  # fmt: skip
            out.append(f"{layer.name} {' '.join(order)}: {told(ends | asdict(terms))}\n")
    golden("layers/terms_behind_caches", "".join(out))


def test_the_closed_form_of_fused_groups_is_what_it_was(golden: Callable[[str, str], None]) -> None:
    machine, net, out = Machine.of(find_soc("gemmini")), find_workload("resnet8"), []
    for first, last in ((0, 3), (4, 7), (8, 11)):
        group = chain(net, first, last)
        for oy, ox, keep in ((3, 5, 0), (4, group.shapes[-1].ox, 1), (100, 100, 0)):
            oy, ox = min(oy, group.shapes[-1].oy), min(ox, group.shapes[-1].ox)
            cost = group_cost(group, oy, ox, keep, [i % 2 for i in range(last - first + 1)], machine)
            rows = {"spad": cost.spad_rows, "acc": cost.acc_rows}
            out.append(f"{first} {oy} {ox} {keep}: {told(rows | asdict(cost.terms))}\n")
    golden("layers/terms_of_groups", "".join(out))


CHIPS = (
    ("diana", "resnet8", "io_8bit_backbone_ternary"), ("diana", "digits_cnn", "min_cost"),
    ("darkside", "dscnn", "all_8bit"), ("gap9", "dscnn", "default"), ("gap8", "dscnn", "default"),
    ("neurosim_22nm", "vgg8", "default"), ("isaac", "vgg8", "default"), ("xavier_nx", "resnet8", "default"),
    ("v100", "bert_base_block", "default"), ("rpi4", "resnet8", "default"), ("agx_orin_dla", "resnet8", "dla"),
    ("hetero", "digits_cnn", "default"),
)  # fmt: skip


@pytest.mark.parametrize("chip", CHIPS, ids=[" ".join(chip[:2]) for chip in CHIPS])
def test_the_closed_form_of_layers_is_what_it_was(
    chip: tuple[str, str, str], golden: Callable[[str, str], None]
) -> None:
    """Time, busy units and their energy of every layer, by itself, and beside the next, under both runtimes."""
    soc, net = find_soc(chip[0]), find_workload(chip[1])
    runtimes: tuple[Runtime, ...] = ("serial", "overlapped")
    out = []
    for runtime in runtimes:
        mapping = checked(find_mapping(chip[2], net, soc, runtime), net, soc)
        homes, works = homes_of(net, mapping, soc), []
        for layer in net:
            plan = mapping.layers[layer.name]
            shares = [(part.core, part.channels) for part in plan.parts]
            work = layer_work(layer, soc, shares, plan, homes, exact, Theta())
            terms, busy = layer_terms(layer, work, soc, homes, exact)
            ticks = {"ticks": layer_time(layer, work, soc, runtime, homes, Theta(), exact).ticks}
            out.append(f"{runtime} {layer.name}: {told(ticks | asdict(terms) | dict(busy))}\n")
            works.append((layer, work))
        for one, other in itertools.pairwise(works):
            both, _ = group_terms((one, other), soc, homes, exact)
            out.append(f"{runtime} {one[0].name} beside {other[0].name}: {told(asdict(both))}\n")
    golden(f"layers/{chip[0]}_{chip[1]}", "".join(out))

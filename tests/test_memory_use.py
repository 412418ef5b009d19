"""How full memories are: against figures worked out from shapes alone, and against the capacities that tilings keep."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.names import list_workloads
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import DIMS, Extent, LayerPlan, Piece
from cosoc.sim.model.placement import lifetimes, tensor_bytes
from cosoc.sim.model.tiles import tiled
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.memory_use import MemoryUse, memory_use
from cosoc.sim.report.run_page import STEPS, memories_data
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import checked, homes_of, weight_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from capacity import sweep


def used(soc: str, network: str, mapping: str, runtime: Any = None, inferences: int = 1) -> dict[str, MemoryUse]:
    machine, workload = find_soc(soc), find_workload(network)
    placed = find_mapping(mapping, workload, machine, runtime)
    result = simulate(machine, workload, placed, inferences=inferences)
    return {use.memory: use for use in memory_use(result, machine, workload, placed)}


def moved(n: int) -> int:
    """Bytes of a transfer on DIANA, whose DMA pads them."""
    align = find_soc("diana").dmas["dma"].align_bytes
    return -(-n // align) * align


def peak_of_tensors(workload: Workload) -> int:
    """Most bytes of tensors alive at a layer, by brute force over layers."""
    spans = lifetimes(workload)
    alive = [[n for n, (a, b) in spans.items() if a <= i <= b] for i in range(len(workload.layers))]
    return max(sum(tensor_bytes(workload, name) for name in names) for names in alive)


def moved_weights(soc: str, network: str, mapping: str) -> int:
    machine, workload = find_soc(soc), find_workload(network)
    placed = checked(find_mapping(mapping, workload, machine, None), workload, machine)
    return sum(weight_bytes(layer, machine, placed.layers[layer.name].parts) for layer in workload)


@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
@pytest.mark.parametrize("inferences", [1, 3])
def test_main_memory_holds_all_weights_and_the_tensors_alive(runtime: str, inferences: int) -> None:
    """On DIANA all of ResNet-8 fits the L2: weights lie there all the time, and no two layers overlap, so its peak is
    the weights and the largest sum of tensors alive at a layer. Some tensor is always there besides the weights."""
    workload = find_workload("resnet8")
    use = used("diana", "resnet8", "all_8bit", runtime, inferences)["l2"]
    weights = moved_weights("diana", "resnet8", "all_8bit")
    assert use.bytes.max() == weights + peak_of_tensors(workload)
    assert use.bytes[:-1].min() >= weights + min(layer.outputs for layer in workload)
    assert use.bytes[-1] == 0


def test_serial_tiles_are_a_layer_s_operands() -> None:
    """Every layer of ResNet-8 fits DIANA's L1 whole, so in the serial runtime it holds one layer's inputs and, from its
    job on, its output. The additions are the largest: three tensors of 16 x 32 x 32 bytes."""
    use = used("diana", "resnet8", "all_8bit", "serial")["l1"]
    workload = find_workload("resnet8")
    read = [sum(moved(tensor_bytes(workload, n)) for n in layer.inputs) for layer in workload]
    made = [moved(layer.outputs) for layer in workload]
    both = [a + b for a, b in zip(read, made, strict=True)]
    assert use.bytes.max() == max(both) == 3 * 16 * 32 * 32
    assert {0, *both} <= set(use.bytes.tolist()) <= {0, *read, *made, *both}


def test_weight_memory_is_the_program_s_own_count() -> None:
    """In the overlapped runtime the bytes of a weight memory are credits of the program: levels equal those of the
    engine's credits. In the serial one a layer's weights are there alone."""
    overlapped = used("diana", "resnet8", "all_8bit", "overlapped")["digital_weights"]
    machine, workload = find_soc("diana"), find_workload("resnet8")
    placed = find_mapping("all_8bit", workload, machine, "overlapped")
    result = simulate(machine, workload, placed)
    program, trace = result.program, result.trace
    credit = program.credit_names.index("digital_weights")
    at = int(np.argmax(overlapped.bytes))
    tick, held = int(overlapped.ticks[at]), 0
    for op in range(program.n_ops):  # a plain walk over the program, which has no loops here
        row = program.rows[op]
        for array, key, when, sign in ((program.takes, "take", trace.issue, 1), (program.gives, "give", trace.end, -1)):
            for entry in array[row[f"{key}_at"] : row[f"{key}_at"] + row[f"{key}_n"]]:
                if entry["credit"] == credit and when[op] <= tick:
                    held += sign * int(entry["amount"])
    assert held == overlapped.bytes[at] > 0
    serial = used("diana", "resnet8", "all_8bit", "serial")["digital_weights"]
    layers = checked(placed, workload, machine).layers
    sizes = {moved(weight_bytes(layer, machine, layers[layer.name].parts)) for layer in workload}
    assert set(serial.bytes.tolist()) <= sizes | {0} and serial.bytes.max() == max(sizes)


CASES = [
    ("diana", "mobilenet_v1_025", "default", "overlapped", 1),
    ("diana", "resnet8", "min_cost", "serial", 2),
    ("diana", "resnet18", "default", "overlapped", 1),  # weights stream through the L2, tensors spill to the flash
    ("diana", "resnet18", "default", "serial", 1),
    ("diana", "squeezenet", "default", "serial", 1),  # the host joins tensors of the flash, tile by tile in the L2
    ("diana", "bert_base_block", "default", "overlapped", 1),
    ("darkside", "resnet8", "default", "overlapped", 1),
    ("isaac", "resnet8", "default", "overlapped", 1),
    ("gemmini", "resnet8", "default", None, 2),
    ("gemmini", "bert_base_block", "default", "overlapped", 1),  # stores end beside the last k group's execution
]


@pytest.mark.parametrize(("soc", "network", "mapping", "runtime", "inferences"), CASES)
def test_nothing_is_fuller_than_it_is_large(
    soc: str, network: str, mapping: str, runtime: str | None, inferences: int
) -> None:
    """A legal tiling fits, so no memory is ever over its capacity; nothing is freed twice; at the end all is free."""
    for use in used(soc, network, mapping, runtime, inferences).values():
        assert use.bytes.min() >= 0 and use.bytes[-1] == 0, use.memory
        assert 0 < use.bytes.max() <= use.capacity_bytes, use.memory
        assert use.ticks[0] == 0 and (np.diff(use.ticks) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("soc", list_socs())
def test_nothing_is_fuller_than_it_is_large_in_the_whole_catalogue(soc: str) -> None:
    """Every network that fits the SoC, under both runtimes (benchmarks/capacity.py)."""
    over, runs = sweep([soc], list_workloads())
    assert runs >= 40 and not over


def test_a_tile_in_the_main_memory_has_what_lives_there_beside_it() -> None:
    """SqueezeNet's first join on DIANA, by hand: two tensors of 64 x 55 x 55 bytes, of which one lives in the L2 and
    one, as their result, in the flash; the host joins them and computes in the L2. A third of the L2 is for weights
    that pass through, and nothing else is alive then. What it reads and makes, as a whole, would be four of them."""
    machine, workload = find_soc("diana"), find_workload("squeezenet")
    plain = checked(find_mapping("default", workload, machine, "serial"), workload, machine)
    homes = homes_of(workload, plain, machine)
    join = next(layer for layer in workload if layer.op == "concat")
    half = 64 * 55 * 55
    assert join.outputs == 2 * half
    assert [homes.tensors[n] for n in (join.name, *join.inputs)] == ["flash", "l2", "flash"]
    room = 458_752 - 458_752 // 3 - half
    assert homes.room[join.name] == room < 4 * half
    whole_tile = tiled(join, plain.layers[join.name], machine, (join.k,), join.oy, join.ox)
    stated = replace(plain, layers={**plain.layers, join.name: whole_tile})
    with pytest.raises(InputError, match=rf"{join.name}: tiles need .* of l2, which has {room} free beside what lives"):
        checked(stated, workload, machine)


@pytest.mark.parametrize("soc", ["diana", "gemmini"])
def test_a_fused_group_brings_no_inner_tensor_home(soc: str) -> None:
    """ResNet-8's first block: when its second convolution ends, the block's input (the addition will read it), what
    lies between the convolutions, and their result are alive: three tensors of 16 x 32 x 32 bytes; fused, two."""
    machine, workload = find_soc(soc), find_workload("resnet8")
    names = ("layer1.0.conv1", "layer1.0.conv2")
    plain = checked(find_mapping("default", workload, machine, "overlapped"), workload, machine)
    home = machine.main_memory

    def by_rows(name: str) -> LayerPlan:
        layer, given = workload[name], plain.layers[name]
        if soc == "diana":
            return LayerPlan(tuple(replace(part, tile=None) for part in given.parts))
        tile = Extent(layer.k, layer.c, layer.fy, layer.fx, 4, layer.ox)
        return LayerPlan((replace(given.parts[0], tile=tile),), DIMS)

    fused = replace(plain, layers={**plain.layers, **{n: by_rows(n) for n in names}}, pieces=(Piece(names),))
    for mapping, tensors in ((plain, 3), (fused, 2)):
        result = simulate(machine, workload, mapping)
        use = {one.memory: one for one in memory_use(result, machine, workload, mapping)}
        end = next(part.end_tick for part in result.by_layer if part.layer == names[1])
        level = int(use[home].bytes[np.searchsorted(use[home].ticks, end - 1, side="right") - 1])
        assert level == moved_weights(soc, "resnet8", "default") + tensors * 16 * 32 * 32


def test_a_plot_keeps_peaks_and_little_else() -> None:
    """Many changes are drawn as the largest of each stretch: a step for each, the peak among them, never below the
    level; few changes are drawn as they are."""
    ticks = np.arange(0, 100_000, 7)
    level = (ticks * 7919) % 1001
    level[5000] = 5000
    (many,) = memories_data([MemoryUse("m", 6000, ticks, level)], 100_000)["series"]
    at, drawn = np.array(many["steps"]).T
    assert len(at) == STEPS and drawn.max() == many["peak"] == 5000
    assert (drawn[np.searchsorted(at, ticks, side="right") - 1] >= level).all()
    (few,) = memories_data([MemoryUse("m", 6000, ticks[:9], level[:9])], 100_000)["series"]
    assert few["steps"] == np.stack([ticks[:9], level[:9]], axis=1).tolist()

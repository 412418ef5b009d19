"""Repair on the simulated machine: never slower, never fewer 8-bit channels, and nothing free left."""

import pytest
import torch

from cosoc.search.spaces.channels import Assignment, MixedNet, assignment, make_contiguous, prepare, to_mapping
from cosoc.search.spaces.shares import ShareCosts
from cosoc.search.training.nets import build
from cosoc.search.training.repair import counts, meet, repair, wide, with_wide
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.workload import Workload
from cosoc.sim.simulate import simulate

SOC = find_soc("diana")
STEPS = {name: core.channel_step for name, core in SOC.cores.items()}
SHAPE = (1, 16, 16)
CONV = from_module(torch.nn.Sequential(torch.nn.Conv2d(2, 256, 1)), (2, 4, 4), "conv")


class Machine:
    """A network with random logits, and what its assignments cost."""

    def __init__(self, seed: int, runtime: Runtime) -> None:
        torch.manual_seed(seed)
        float_net = build("resnet8", in_channels=1)
        self.workload: Workload = from_module(float_net, SHAPE, "resnet8")
        self.net: MixedNet = prepare(float_net, self.workload, SOC)
        with torch.no_grad():
            for layer in self.net.layers.values():
                layer.logits.normal_()
        self.oracle = ShareCosts(self.workload, SOC, runtime)
        self.runtime = runtime

    def cost(self, chosen: Assignment) -> float:
        of = {n: torch.bincount(c, minlength=len(self.net.layers[n].cores)).tolist() for n, c in chosen.items()}
        return self.oracle.simulated(
            {n: dict(zip(self.net.layers[n].cores, k, strict=True)) for n, k in of.items()}
        ).latency_s

    def on_wide(self, chosen: Assignment) -> dict[str, int]:
        return {n: int((c == wide(self.net.layers[n])).sum()) for n, c in chosen.items()}


@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
def test_repair_leaves_no_free_channel_off_the_8_bit_core(runtime: Runtime) -> None:
    made = Machine(0, runtime)
    chosen = assignment(made.net)
    repaired, moves = repair(made.net, chosen, made.cost, STEPS)
    before, after = made.on_wide(chosen), made.on_wide(repaired)
    assert made.cost(repaired) <= made.cost(chosen)
    assert all(after[n] >= before[n] for n in before)
    grown = {n: (before[n], after[n]) for n in after if after[n] > before[n]}
    assert set(grown) == {m.layer for m in moves}
    assert moves
    for unit in made.net.units:
        (name,) = unit.layers
        layer = made.net.layers[name]
        kept = (chosen[name] == wide(layer)) & (repaired[name] != wide(layer))
        assert not kept.any()  # nobody who was on the 8-bit core leaves it
        for count in (n for n in counts(made.net, unit, STEPS) if n > after[name]):
            assert made.cost(with_wide(made.net, unit, repaired, count)) > made.cost(repaired)


def test_what_was_repaired_and_reordered_costs_what_was_simulated() -> None:
    """The mapping that is reported, with its contiguous shares, run as a user would run it."""
    made = Machine(1, "overlapped")
    repaired, _ = repair(made.net, assignment(made.net), made.cost, STEPS)
    ordered, _ = make_contiguous(made.net, made.workload, repaired)
    assert made.on_wide(ordered) == made.on_wide(repaired)
    result = simulate(SOC, made.workload, to_mapping(made.net, ordered, "overlapped", "found"))
    assert result.seconds == made.cost(repaired)


def test_a_target_between_the_extremes_is_met() -> None:
    made = Machine(2, "serial")
    all_wide = {n: torch.full((len(layer.logits),), wide(layer)) for n, layer in made.net.layers.items()}
    all_ternary = {n: 1 - c if len(made.net.layers[n].cores) > 1 else c for n, c in all_wide.items()}
    slow, fast = sorted((made.cost(all_wide), made.cost(all_ternary)), reverse=True)
    target = (slow + fast) / 2
    start = all_wide if made.cost(all_wide) == slow else all_ternary
    met, moves = meet(made.net, start, made.cost, target, STEPS)
    assert made.cost(met) <= target
    assert [m.cost_after for m in moves] == sorted((m.cost_after for m in moves), reverse=True)


@pytest.mark.parametrize("free", [0, 40, 208, 255, 256])
def test_of_many_counts_the_most_that_is_free_is_found(free: int) -> None:
    """A layer of 256 channels in steps of 8, where the first channel too many costs: by bisection, as many come back as
    whole steps have room for; and a target that so many channels meet is met by those."""
    torch.manual_seed(0)
    net = prepare(torch.nn.Sequential(torch.nn.Conv2d(2, 256, 1)), CONV, SOC)
    (unit,) = net.units
    steps, tries = {"digital": 8, "analog": 8}, 0

    def cost(chosen: Assignment) -> float:
        nonlocal tries
        tries += 1
        return float(max(0, int((chosen["0"] == wide(net.layers["0"])).sum()) - free))

    none = {"0": torch.full((256,), 1 - wide(net.layers["0"]))}
    repaired, _ = repair(net, none, cost, steps)
    assert int((repaired["0"] == wide(net.layers["0"])).sum()) == free // 8 * 8
    assert tries < len(counts(net, unit, steps))
    every = {"0": torch.full((256,), wide(net.layers["0"]))}
    met, _ = meet(net, every, cost, 0.0, steps)
    assert cost(met) == 0.0

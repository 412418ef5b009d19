"""Several networks at once on one SoC: what runs apart is as it was alone, and what shares takes turns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.together import together
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import Builder, Program
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import RUNTIMES, Runtime
from cosoc.sim.report.together import Load
from cosoc.sim.simulate import simulate, simulate_together

RUNS = (engine_fast.run, engine_reference.run)


def load(name: str, soc: str, runtime: Runtime = "serial", inferences: int = 1, period_s: float = 0.0) -> Load:
    workload = find_workload(name)
    return Load(workload, named_mapping("all_8bit", workload, find_soc(soc), runtime), inferences, period_s)


def program(name: str, unit: str, runs: list[int], moved: int = 0) -> Program:
    """Jobs one after the other on a unit, each after a transfer of so many bytes over a bus of 1 byte a tick."""
    b = Builder(name, 1000)
    core, dma, bus = b.unit(unit), b.unit(f"dma of {unit}"), b.server("bus", rate_bytes=1)
    room = b.credit("room", 2)
    for run in runs:
        take = b.op(dma, bytes=moved, burst=10, route=(bus,), take=[(room, 1)], kind="load") if moved else -1
        b.op(core, run=run, deps=(take,), give=[(room, 1)] if moved else ())
    return b.build()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("soc", ["diana", "darkside", "rpi4", "gemmini"])
def test_a_network_by_itself_is_as_it_was(soc: str, runtime: Runtime) -> None:
    """One network at once with nobody: the same program, to the tick and the joule."""
    one = load("resnet8", soc, runtime)
    alone, found = simulate(find_soc(soc), one.workload, one.mapping), simulate_together(find_soc(soc), [one])
    assert found.seconds == alone.seconds == found.networks["resnet8"].seconds
    assert found.energy_j == pytest.approx(alone.energy_j, rel=1e-12)


@pytest.mark.parametrize("run", RUNS)
def test_programs_that_share_nothing_do_not_feel_each_other(run: object) -> None:
    """Each on a unit of its own, no transfers: end times are those alone."""
    a, b = program("a", "x", [7, 8, 9]), program("b", "y", [3, 4])
    both = together("both", [a, b])
    trace = run(both.program, ())  # type: ignore[operator]
    for one, ops in zip((a, b), both.ops, strict=True):
        assert trace.end[ops].tolist() == run(one, ()).end.tolist()  # type: ignore[operator]


@pytest.mark.parametrize("run", RUNS)
def test_two_programs_on_one_unit_take_turns(run: object) -> None:
    """Drawn by hand. a: 10, 10; b: 4, 4. Both ask at 0, a stands first: a 0-10. b asked at 0, a again at 10: b 10-14.
    a asked at 10, b again at 14: a 14-24. b 24-28."""
    both = together("both", [program("a", "x", [10, 10]), program("b", "x", [4, 4])])
    trace = run(both.program, ())  # type: ignore[operator]
    assert [trace.end[ops].tolist() for ops in both.ops] == [[10, 24], [14, 28]]


@pytest.mark.parametrize("run", RUNS)
def test_who_waits_for_its_own_buffer_does_not_keep_the_unit(run: object) -> None:
    """Two programs whose transfers and jobs are on the same two units, each with buffers of its own. If a transfer that
    waits for a buffer kept the mover's lane, whose buffer is given back by a job that waits in turn, nothing would end.
    All work is done, and no faster than one unit can: both units' times are sums over the two programs."""
    runs = [5] * 6
    both = together("both", [program("a", "x", runs, moved=40), program("b", "x", runs, moved=40)])
    trace = run(both.program, ())  # type: ignore[operator]
    # 12 transfers of 40 ticks over one mover, then the last job.
    assert trace.makespan == 12 * 40 + 5
    assert np.all(trace.end[both.ops[0]] > 0)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("soc", ["diana", "darkside"])
def test_engines_agree_and_energies_add_up(soc: str, runtime: Runtime) -> None:
    """To the tick; and what the networks spend is all that the run spends. No unit is busy for longer than the run."""
    loads = [load("resnet8", soc, runtime), load("dscnn", soc, runtime)]
    fast, reference = (simulate_together(find_soc(soc), loads, engine) for engine in ("fast", "reference"))
    assert replace(fast, engine="reference") == reference
    assert sum(one.energy_j for one in fast.networks.values()) == pytest.approx(fast.energy_j, rel=1e-9)
    for unit in {unit for one in fast.networks.values() for unit in one.busy_s}:
        assert sum(one.busy_s.get(unit, 0.0) for one in fast.networks.values()) <= fast.seconds * (1 + 1e-9)


def test_one_core_works_off_two_networks_in_the_sum_of_their_times() -> None:
    """A processor of one core has no time to gain: together they end after both times alone."""
    loads = [load("resnet18", "rpi4"), load("squeezenet", "rpi4")]
    found = simulate_together(find_soc("rpi4"), loads)
    assert found.seconds == pytest.approx(sum(one.alone_seconds for one in found.networks.values()), rel=1e-9)


def test_a_serial_network_ends_an_inference_before_the_next() -> None:
    """Even where the next is due long before; DMA and arrays of DIANA could else work on two at once."""
    soc = find_soc("diana")
    (one,) = simulate_together(soc, [load("digits_cnn", "diana")]).networks.values()
    alone = one.ends_s[0]
    (all_three,) = simulate_together(soc, [load("digits_cnn", "diana", "serial", 3, alone / 4)]).networks.values()
    assert all_three.ends_s == pytest.approx([alone, 2 * alone, 3 * alone], rel=1e-9)


def test_inferences_are_due_at_periods() -> None:
    """With a period far longer than an inference each ends so long after it was due as one alone; the last ends two
    periods later than the first would."""
    soc, period = find_soc("rpi4"), 0.5
    alone = simulate_together(soc, [load("squeezenet", "rpi4")]).seconds
    assert alone < period
    (one,) = simulate_together(soc, [load("squeezenet", "rpi4", "serial", 3, period)]).networks.values()
    assert one.ends_s == pytest.approx([alone, period + alone, 2 * period + alone], rel=1e-9)
    assert one.worst_seconds == pytest.approx(alone, rel=1e-9)


def test_each_network_says_what_no_measurement_covers() -> None:
    """Depthwise layers on Xavier's GPU: what a network says of itself alone, it says beside another."""
    soc = find_soc("agx_xavier_dla")
    loads = [Load(one, named_mapping("gpu", one, soc)) for one in map(find_workload, ("mobilenet_v1_025", "resnet8"))]
    small, plain = simulate_together(soc, loads).networks.values()
    assert small.unmeasured == simulate(soc, loads[0].workload, loads[0].mapping).unmeasured
    assert "depthwise on gpu: 13 layers" in small.unmeasured[0]
    assert plain.unmeasured == ()


def test_networks_that_do_not_fit_a_memory_together_are_refused() -> None:
    """Two VGG-16 have 276 million weights of 32 bit: 1.1 GB, and half of a 1 GB memory holds one of them at most."""
    soc = find_soc("rpi4", {"memories.dram.size_bytes": "1000000000"})
    one = load("vgg16", "rpi4")
    assert simulate_together(soc, [one]).seconds > 0
    with pytest.raises(InputError, match="exceed dram"):
        simulate_together(soc, [one, one])

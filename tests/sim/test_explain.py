"""What-ifs against closed forms, causes against the makespan, and two results against one another."""

from __future__ import annotations

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.report.explain import _mover_remedies, causes_by_layer, changed, compare, improving, proposals, what_if
from cosoc.sim.report.result import to_json
from cosoc.sim.simulate import simulate

DIANA, NETWORK = find_soc("diana"), find_workload("digits_cnn")
MAPPING = find_mapping("all_8bit", NETWORK, DIANA, "serial")
RESULT = simulate(DIANA, NETWORK, MAPPING)


def test_causes_by_layer_sum_to_the_makespan() -> None:
    assert sum(sum(ticks.values()) for ticks in causes_by_layer(RESULT).values()) == RESULT.ticks


@pytest.mark.parametrize(
    ("what", "value"),
    [("x2", 32), ("*1/2", 8), ("+4", 20), ("24", 24)],
)
def test_a_value_is_replaced_multiplied_or_added_to(what: str, value: int) -> None:
    """DIANA's L2 reads 16 bytes a cycle."""
    assert changed(DIANA, f"links.l2_read.bytes_per_period={what}").links["l2_read"].bytes_per_period == value


def test_a_rate_may_be_a_fraction() -> None:
    """16 bytes a cycle, times 3/32: 3 bytes in 2 cycles. Nothing else of the SoC changes."""
    machine = changed(DIANA, "links.l2_read.rate=x3/32")
    link = machine.links["l2_read"]
    assert (link.bytes_per_period, link.period_cycles) == (3, 2)
    assert machine.links["l1"] == DIANA.links["l1"] and machine.cores == DIANA.cores


def test_a_size_keeps_what_of_it_is_reserved() -> None:
    memory = changed(DIANA, "memories.l1.size=x2").memories["l1"]
    assert memory.reserved_bytes == DIANA.memories["l1"].reserved_bytes > 0
    assert memory.capacity_bytes == 2 * DIANA.memories["l1"].capacity_bytes


def test_what_is_wrong_between_sections_is_said_too() -> None:
    with pytest.raises(InputError, match="mover needs a power of two"):
        changed(find_soc("gemmini"), "dmas.mover.l2_line_bytes=48")


@pytest.mark.parametrize(("unit", "link"), [("load", "return_path"), ("fill", "outer_port"), ("fetch", "dram_port")])
def test_what_waits_for_a_link_is_helped_by_that_link(unit: str, link: str) -> None:
    """Each unit of a cached mover goes over one: the way back from the L2, the way to the last level, the DRAM's."""
    soc, network = find_soc("gemmini"), find_workload("digits_cnn")
    result = simulate(soc, network, find_mapping("default", network, soc))
    assert _mover_remedies(result, soc, "gemmini", "transfer", unit) == [f"links.{link}.rate=x2"]


def test_what_takes_longest_is_proposed_first() -> None:
    """Launches are 31 % of the run on DIANA's digital array, as its report has it."""
    assert proposals(RESULT, DIANA)[0] == "cores.digital.launch_cycles=x0.5"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("links.l2_raed.rate=x2", "links.l2_read.rate"),
        ("links.l2_read=x2", "no value links.l2_read"),
        ("nonsense=3", "no value nonsense"),
        ("links.l2_read.rate", "PATH=VALUE"),
        ("links.l2_read.rate=fast", "'fast' is no number"),
        ("links.l2_read.rate=x1/0", "no number"),
        ("links.l2_read.bytes_per_period=x0.3", "whole number"),
        ("links.l2_read.rate=x0", r"must be 1 to 2\^20 bytes"),
        ("memories.l1.size=-1", "more than size_bytes"),
    ],
)
def test_a_wrong_change_says_what_is_near(what: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        changed(DIANA, what)


def test_twice_the_clock_is_half_the_time() -> None:
    """Every duration of the file is in cycles; with one clock for all, seconds scale with its period. Base and unit
    powers stay, so energy follows time: no link that this network uses has a figure per byte."""
    (outcome,) = what_if(DIANA, NETWORK, MAPPING, ["tick_hz=x2"])
    assert outcome.seconds == pytest.approx(RESULT.seconds / 2)
    assert outcome.energy_j == pytest.approx(RESULT.energy_j / 2)


def test_a_launch_in_a_serial_run_costs_what_it_takes() -> None:
    """Serial: everything follows everything, so a launch longer by 100 cycles delays the end by 100 cycles a job."""
    jobs = sum(part.cores["digital"].jobs for part in RESULT.by_layer if "digital" in part.cores)
    (outcome,) = what_if(DIANA, NETWORK, MAPPING, ["cores.digital.launch_cycles=+100"])
    assert outcome.seconds is not None and jobs
    # the closed form that picks tiles sees the launches too: no layer here needs a second tile either way
    assert round((outcome.seconds - RESULT.seconds) * DIANA.tick_hz) == 100 * jobs


def test_a_machine_that_cannot_run_it_is_an_outcome() -> None:
    """Nothing fits an L1 of 64 bytes."""
    (outcome,) = what_if(DIANA, NETWORK, MAPPING, ["memories.l1.size=64"])
    assert outcome.seconds is None and outcome.error


def test_what_is_proposed_can_be_made_and_no_proposal_slows_the_run() -> None:
    """In a serial run a faster part can only shorten the sum."""
    tried = proposals(RESULT, DIANA)
    assert tried
    assert all(o.seconds is not None and o.seconds <= RESULT.seconds for o in what_if(DIANA, NETWORK, MAPPING, tried))


@pytest.mark.parametrize("name", ["diana", "darkside", "gemmini", "isaac", "neurosim_22nm", "rpi4", "v100"])
def test_what_is_shown_changes_the_run(name: str) -> None:
    """Every kind of chip has something that would help, and nothing is shown that would not: twice the rows of a
    crossbar once stood there with +0.0 %."""
    soc, network = find_soc(name), find_workload("dscnn")
    mapping = find_mapping("default", network, soc)
    result = simulate(soc, network, mapping)
    shown = improving(result, soc, network, mapping)
    assert shown
    assert all(one.seconds is not None and one.seconds <= result.seconds * (1 - 5e-4) for one in shown)


def test_a_comparison_sums_to_the_difference_of_the_results() -> None:
    """By layer and by cause, in time and in energy; and against itself nothing shifts."""
    other = simulate(changed(DIANA, "links.l2_read.rate=x2"), NETWORK, MAPPING)
    a, b = to_json(RESULT), to_json(other)
    layers = compare(a, b)
    shift = sum(sum(layer.causes_s.values()) for layer in layers)
    assert shift == pytest.approx(other.seconds - RESULT.seconds, rel=1e-9)
    for side, result in enumerate((RESULT, other)):
        assert sum(layer.seconds[side] for layer in layers) == pytest.approx(result.seconds, rel=1e-9)
    assert sum(layer.energy_j[1] for layer in layers) == pytest.approx(other.energy_j, rel=1e-9)
    assert not any(layer.causes_s for layer in compare(a, a))


def test_different_workloads_are_not_compared() -> None:
    a = to_json(RESULT)
    with pytest.raises(InputError, match="one result is of digits_cnn, the other of x"):
        compare(a, a | {"workload": "x"})
    with pytest.raises(InputError, match="inferences"):
        compare(a, a | {"inferences": 2})
    fewer = a | {"by_layer": a["by_layer"][1:]}
    with pytest.raises(InputError, match="no such layer"):
        compare(a, fewer)
    one, other = a | {"inputs": {"workload": "one"}}, a | {"inputs": {"workload": "another"}}
    less = [a["by_layer"][0] | {"macs": a["by_layer"][0]["macs"] + 1}, *a["by_layer"][1:]]
    with pytest.raises(InputError, match="the workloads differ though both are"):
        compare(one, other | {"by_layer": less})

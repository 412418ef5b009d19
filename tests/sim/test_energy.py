"""Energy by the counters that time: on every chip a level is charged for the bytes that it served.

The answers are conservation: bytes that links carried (the counters that the engines' time is made of), times the
figure of the SoC file, against what the ops carry as labels.
"""

from __future__ import annotations

import io

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import DEFAULT, named_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.cached_terms import cached_cores
from cosoc.sim.movers.links import link_level
from cosoc.sim.report.render import table
from cosoc.sim.report.result import Result, levels_fj, to_json
from cosoc.sim.simulate import simulate

NETWORKS = ("resnet8", "dscnn", "bert_base_block")
RUNS = [(soc, network) for soc in list_socs() for network in NETWORKS]


def run_of(soc: str, network: str, overrides: dict[str, str] | None = None) -> tuple[SoC, Result]:
    machine, workload = find_soc(soc, overrides), find_workload(network)
    return machine, simulate(machine, workload, named_mapping(DEFAULT, workload, machine))


@pytest.mark.parametrize(("soc", "network"), RUNS)
def test_levels_are_charged_for_what_they_served(soc: str, network: str) -> None:
    machine, result = run_of(soc, network)
    assert sum(result.by_level.values()) == pytest.approx(result.energy_j, rel=1e-12)
    assert sum(levels_fj(result.program).values()) * 1e-15 == pytest.approx(result.ops_energy_j, rel=1e-12)
    assert "ops" not in result.by_level  # every op says at which level it spends
    servers = {part.server: part for part in result.by_server}
    for name, link in machine.links.items():
        by_hand = servers[name].bytes * link.energy_pj_per_byte * 1e-12 if name in servers else 0.0
        assert result.by_level.get(link_level(name), 0.0) == pytest.approx(by_hand, rel=1e-9)
    memories = {part.memory: part for part in result.by_memory}
    for _, mover in cached_cores(machine).values():
        dram = machine.memories[machine.main_memory].access_pj_per_byte * 1e-12
        assert result.by_level[machine.main_memory] == pytest.approx(servers[mover.dram_link].bytes * dram, rel=1e-9)
        moved = memories[machine.main_memory].read_bytes + memories[machine.main_memory].written_bytes
        assert moved == servers[mover.dram_link].bytes > 0
        llc = memories[mover.llc].read_bytes + memories[mover.llc].written_bytes
        per_byte = machine.memories[mover.llc].access_pj_per_byte * 1e-12
        assert result.by_level[mover.llc] == pytest.approx(llc * per_byte, rel=1e-9)


def test_a_core_at_the_main_memory_is_served_by_the_caches_before_it() -> None:
    """A sum of 100 x 16 x 16 on a host behind Gemmini's L2: two bytes in, one out, each at the L2; none at the DRAM."""
    machine = find_soc("gemmini")
    assert machine.serves(machine.cores["host"]) == "l2"
    assert find_soc("diana").serves(find_soc("diana").cores["host"]) == "l2"  # its memory, which is called so there
    _, result = run_of("gemmini", "bert_base_block")
    _, free = run_of("gemmini", "bert_base_block", {"memories.l2.access_pj_per_byte": "0.0"})
    l2 = next(part for part in result.by_memory if part.memory == "l2")
    charged = (result.energy_j - free.energy_j) / machine.memories["l2"].access_pj_per_byte * 1e12
    beside = charged - l2.read_bytes - l2.written_bytes  # what the host reads and writes
    workload = find_workload("bert_base_block")
    on_host = [layer for layer in workload if layer.op not in ("conv", "matmul", "add")]
    assert beside == pytest.approx(sum(layer.outputs * (1 + max(len(layer.inputs), 1)) for layer in on_host), rel=1e-6)


def test_json_and_tables_have_the_levels() -> None:
    """Every level in both, in 80 columns, largest first."""
    from rich.console import Console

    _, result = run_of("gemmini", "resnet8")
    assert to_json(result)["by_level"] == result.by_level
    text = io.StringIO()
    Console(file=text, width=80, color_system=None).print(table(result))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    begin = lines.index(next(line for line in lines if line.startswith("Energy by level")))
    shown = [line.split()[0] for line in lines[begin + 3 : begin + 3 + len(result.by_level)]]
    assert shown == sorted(result.by_level, key=lambda level: -result.by_level[level])


def test_a_large_memory_costs_more_than_linear_energy_says_and_less_than_the_dram() -> None:
    """gemmini_firesim's 4 MB: 256 KB by DOSA's line, 0.49 + 0.02513 x 256 = 6.92, times the root of 16."""
    from cosoc.sim.movers.cached_terms import Machine

    large = Machine.of(find_soc("gemmini_firesim"))
    assert large.scratchpad_pj == pytest.approx((0.49 + 0.02513 * 256) * 4)
    assert large.accumulator_pj == pytest.approx((1.94 + 0.1005 * 256 / 16) * 4)
    assert large.l2_pj < large.llc_pj < large.dram_pj and large.scratchpad_pj < large.dram_pj
    small = {"memories.scratchpad.size_bytes": "262144", "memories.accumulator.size_bytes": "65536"}
    assert Machine.of(find_soc("gemmini_firesim", small)).scratchpad_pj == Machine.of(find_soc("gemmini")).scratchpad_pj


# -- voltage ----------------------------------------------------------------------------------------------------------


def test_every_file_states_its_point_and_how_far_its_energies_reach() -> None:
    for name in list_socs():
        soc = find_soc(name)
        assert {"voltage_v", "nominal_voltage_v", "static_power_mw", "energy_boundary"} <= soc.model_fields_set, name
        assert soc.at_its_voltage() == soc  # at its nominal voltage nothing changes


@pytest.mark.parametrize(("soc", "network"), [("gemmini", "resnet8"), ("diana", "resnet8"), ("isaac", "vgg8")])
def test_energy_goes_with_the_square_of_the_voltage_and_time_with_its_inverse(soc: str, network: str) -> None:
    """At 0.8 of the nominal voltage: the same ticks, each 1 / 0.8 as long; on the chip 0.64 of an operation's energy
    (of a power that is drawn for so many ticks: V^3 over 1 / V), beside the chip all of it, of leakage V^2."""
    nominal = find_soc(soc).nominal_voltage_v
    assert nominal is not None
    before, now = (run_of(soc, network, {"static_power_mw": "3"} | more) for more in
                   ({}, {"voltage_v": str(0.8 * nominal)}))  # fmt: skip
    (machine, one), (slower, other) = before, now
    assert other.ticks == one.ticks
    assert other.seconds == pytest.approx(one.seconds / 0.8, rel=1e-6)
    outside = {name for name, memory in machine.memories.items() if memory.off_chip}
    outside |= {link_level(name) for name, link in machine.links.items() if link.off_chip}
    assert outside
    for level, joules in one.by_level.items():
        factor = 1.0 if level in outside else 0.8**1 / 0.8 if level == "static power" else 0.64
        assert other.by_level[level] == pytest.approx(joules * factor, rel=1e-6), level
    leaked = 3e-3 * one.seconds
    assert one.by_level["static power"] == pytest.approx(leaked)
    assert slower.voltage_v == slower.nominal_voltage_v and slower.at_its_voltage() == slower


def test_a_board_draws_its_base_power_whatever_its_processor_runs_at() -> None:
    (_, one), (_, other) = (run_of("rpi4", "resnet8", more) for more in ({}, {"voltage_v": "0.8"}))
    assert other.by_level["base power"] == pytest.approx(one.by_level["base power"] / 0.8, rel=1e-6)  # for longer
    assert other.by_level["power of cpu"] == pytest.approx(0.64 * one.by_level["power of cpu"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voltage_v": "0.2"}, "voltage_v: found 0.2; the laws are stated for 0.45 to 1.35 V"),
        (  # with a technology it would say that the memory takes no area
            {"technology": "null", "memories.l2.off_chip": "true", "memories.l2.access_pj_per_byte": "0.0"},
            "it has no access_pj_per_byte",
        ),
        ({"energy_boundary": "moon"}, "energy_boundary"),
        ({"static_power_mw": "-1"}, "static_power_mw"),
    ],
)
def test_a_point_that_means_nothing_is_refused_at_its_line(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_soc("gemmini", changes)

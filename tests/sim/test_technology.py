"""Areas and energies that follow sizes: the laws by hand, figures unchanged at the sizes that they are of, and more for
more."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import SoCFile, find_soc, find_technology, list_socs, load_soc, soc_folder
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.names import list_technologies, technology_folder
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.files.yamlfile import EVIDENCE, load_model
from cosoc.sim.model.silicon import Silicon
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.technology import areas_mm2, modelled
from cosoc.sim.price import Simulated
from cosoc.sim.simulate import engine_run

SIZED = [name for name in list_socs() if find_soc(name).technology is not None]
# What may be larger on a chip, and a size of it.
LARGER = (
    ("diana", "cores.digital.rows", 16), ("diana", "cores.digital.cols", 16), ("diana", "cores.digital.weight_bits", 8),
    ("diana", "cores.analog.rows", 1152), ("diana", "cores.pool.lanes", 16),
    ("diana", "memories.l1.size_bytes", 262144),
    ("diana", "links.l1.bytes_per_period", 64), ("gap9", "cores.ne16.outputs", 32),
    ("gap9", "cores.cluster.cores", 8), ("gap9", "memories.l2.size_bytes", 1572864),
    ("darkside", "cores.tensor.rows", 8), ("darkside", "cores.tensor.columns", 4),
    ("darkside", "cores.depthwise_engine.channels", 16), ("gemmini", "cores.gemmini.side", 16),
    ("gemmini", "memories.scratchpad.size_bytes", 262144),
)  # fmt: skip


def stated(name: str) -> SoC:
    """A SoC as its file has it, without any technology's part in it."""
    return load_model(soc_folder() / f"{name}.yaml", SoCFile)


# ------------------------------------------------------------------------------------------ the laws
def test_integers_cost_what_horowitz_published() -> None:
    """ISSCC 2014, 45 nm: 0.2 and 3.1 pJ a product of 8 and 32 bits, 0.03, 0.05 and 0.1 a sum of 8, 16 and 32; caches of
    8 KB, 32 KB and 1 MB take 10, 20 and 100 pJ for 64 bits."""
    found = find_technology("45nm")
    for bits, pj in ((8, 0.2), (32, 3.1)):
        assert bits**2 * found.multiply_pj_per_bit2 == pytest.approx(pj, rel=0.03)
    for bits, pj in ((8, 0.03), (16, 0.05), (32, 0.1)):
        assert bits * found.add_pj_per_bit == pytest.approx(pj, rel=0.13)
    for kb, pj in ((8, 10), (32, 20), (1024, 100)):
        assert 8 * found.access_pj_per_byte(1024 * kb) == pytest.approx(pj, rel=0.14)


def test_nodes_are_in_their_order() -> None:
    """A part is smaller, and takes less, in each finer technology (at the supplies that stand there)."""
    found = [find_technology(name) for name in sorted(list_technologies(), key=lambda name: int(name[:-2]))]
    assert len(found) > 2
    part = Silicon(multipliers=1, register_bits=48, processors=1, float_multipliers=1, adders=1)
    for finer, coarser in itertools.pairwise(found):
        assert finer.logic_mm2(part) < coarser.logic_mm2(part) and finer.logic_pj(part) < coarser.logic_pj(part)
        assert finer.sram_mm2(65536) < coarser.sram_mm2(65536)


def test_an_array_by_hand() -> None:
    """Gemmini's 16 x 16 in 45 nm: 256 PEs of an 8 x 8 bit product, a sum of 32 bits and registers for two weights, an
    input and a sum, 56 bits; a scratchpad of 2^21 cells with its strip."""
    t = find_technology("45nm")
    pe_um2 = 64 * 3.9 + 32 * 4.4 + 56 * 6.0
    spad_um2 = (math.sqrt(2**21 * 0.346) + 60) ** 2
    found = areas_mm2(find_soc("gemmini"), t)
    assert found["cores.gemmini"] == pytest.approx(256 * pe_um2 * 1e-6 / 0.6, rel=1e-12)
    assert found["memories.scratchpad"] == pytest.approx(spad_um2 * 1e-6 / 0.6, rel=1e-12)
    assert "memories.dram" not in found  # it is beside the chip
    assert find_soc("gemmini").area_mm2 == pytest.approx(sum(found.values()), rel=1e-12)


@pytest.mark.parametrize("name", list_technologies())
def test_every_number_of_a_technology_names_its_evidence(name: str) -> None:
    """Published, derived, recalled or assumed; what is recalled or assumed has a range, but for names and supplies."""
    found = find_technology(name)
    for line in (technology_folder() / f"{name}.yaml").read_text().splitlines():
        key, _, rest = line.partition(": ")
        if line.startswith("#") or not isinstance(getattr(found, key), int | float):
            continue
        _, _, evidence = rest.partition("#")
        word = evidence.split(",")[0].split(":")[0].strip()
        assert word in EVIDENCE, line
        settled = key in ("voltage_v", "sram_cell_um2")
        assert settled or word not in ("recalled", "assumed") or " .. " in evidence, line


@pytest.mark.parametrize("key", [key for key, value in find_technology("22nm") if isinstance(value, int | float)])
def test_every_key_of_a_technology_counts(key: str) -> None:
    """Twice as large, it changes an area, a power or an energy of DIANA or Darkside as the laws alone have them."""
    known = find_technology("22nm")
    other = known.model_copy(update={key: 2 * getattr(known, key)})
    chips = [
        find_soc(name, {"technology": "22nm"}).model_copy(update={"area_mm2": 0.0}) for name in ("diana", "darkside")
    ]
    assert any(modelled(soc, known) != modelled(soc, other) for soc in chips)


def test_a_technology_of_nothing_changes_nothing(tmp_path: Path) -> None:
    """All of its figures 0: there is no ratio, so that figures stay what they are at any size."""
    text = (technology_folder() / "22nm.yaml").read_text()
    kept = ("voltage_v", "sram_reference_bytes", "utilisation")
    lines = [line for line in text.splitlines() if ": " in line and not line.startswith("#")]
    file = tmp_path / "nothing.yaml"
    file.write_text(
        "\n".join(
            line if line.startswith((*kept, "name", "description")) else f"{line.split(':')[0]}: 0.0" for line in lines
        )
    )
    soc = find_soc("gap9", {"technology": str(file), "cores.ne16.outputs": "64"})
    assert soc.cores["ne16"].power_mw == 20.0 and soc.base_power_mw == 3.0


# ------------------------------------------------------------------------------------------ at the sizes of the figures
@pytest.mark.parametrize("name", SIZED)
def test_figures_are_those_of_the_file_at_its_own_sizes(name: str) -> None:
    """Powers and energies were measured on the chip as it is: to the last bit."""
    found, file = find_soc(name), stated(name)
    assert (found.base_power_mw, found.static_power_mw) == (file.base_power_mw, file.static_power_mw)
    assert (found.memories, found.links, found.dmas, found.cores) == (file.memories, file.links, file.dmas, file.cores)
    assert find_soc(name, {"description": "another"}).cores == file.cores  # what is set is no size


def test_sizes_that_figures_are_of_may_stand_in_the_file(tmp_path: Path) -> None:
    """A copy with 32 rows whose figures are of 16 is the built-in one with 32 rows set."""
    text = (soc_folder() / "diana.yaml").read_text().replace("    rows: 16 ", "    rows: 32 ", 1)
    file = tmp_path / "wide.yaml"
    file.write_text(text)
    assert load_soc(file).cores["digital"].power_mw == 9.51  # its own figure
    file.write_text(text + "figures_at: {cores.digital.rows: 16}\n")
    wide = load_soc(file)
    assert wide == find_soc("diana", {"cores.digital.rows": "32"})
    assert load_soc(file, {"cores.digital.rows": "16"}).cores["digital"].power_mw == 9.51


# ------------------------------------------------------------------------------------------ at others
@pytest.mark.parametrize(("name", "path", "size"), LARGER)
def test_more_is_never_less(name: str, path: str, size: int) -> None:
    """Area grows with each size; no power and no energy becomes less."""
    sizes = [size, size + max(1, size // 8), 2 * size, 8 * size]
    found = [find_soc(name, {path: str(one)}) for one in sizes]
    for a, b in itertools.pairwise(found):
        assert b.area_mm2 > a.area_mm2
        assert b.base_power_mw >= a.base_power_mw and b.static_power_mw > a.static_power_mw
        for less, more in ((a.cores, b.cores), (a.memories, b.memories), (a.links, b.links)):
            for key in less:
                assert all(y >= x for x, y in zip(_energies(less[key]), _energies(more[key]), strict=True))


def _energies(part: object) -> list[float]:
    keys = ("power_mw", "operation_pj", "access_pj_per_byte", "energy_pj_per_byte")
    return [getattr(part, key) for key in keys if hasattr(part, key)]


def test_an_array_twice_as_large_draws_nearly_twice_as_much() -> None:
    """PEs by rows x columns; what it reads by rows and columns alone: between twice and four times for both."""
    one = find_soc("diana").cores["digital"].power_mw
    rows = find_soc("diana", {"cores.digital.rows": "32"}).cores["digital"].power_mw
    both = find_soc("diana", {"cores.digital.rows": "32", "cores.digital.cols": "32"}).cores["digital"].power_mw
    assert 1.5 * one < rows < 2 * one and 2 * one < both < 4 * one


def test_a_memory_by_the_root_of_its_size() -> None:
    """Gemmini's L2 at four times its size: an access takes twice as much; the other memories what they took."""
    was, now = find_soc("gemmini"), find_soc("gemmini", {"memories.l2.size_bytes": str(4 * 524288)})
    assert now.memories["l2"].access_pj_per_byte == pytest.approx(2 * was.memories["l2"].access_pj_per_byte, rel=1e-12)
    assert now.memories["llc"] == was.memories["llc"] and now.memories["dram"] == was.memories["dram"]
    leak = find_technology("45nm").leakage_mw_per_mm2
    assert now.static_power_mw == pytest.approx(leak * (now.area_mm2 - was.area_mm2), rel=1e-9)


def test_what_no_law_knows_of_a_die_stays() -> None:
    """DIANA's die has 10.24 mm2, of which the laws know some 3: what is added is added, and no share of the rest."""
    was, now = find_soc("diana"), find_soc("diana", {"memories.l2.size_bytes": "1048576"})
    laws = [sum(areas_mm2(one, find_technology("22nm")).values()) for one in (was, now)]
    assert was.area_mm2 == 10.24
    assert now.area_mm2 - was.area_mm2 == pytest.approx(laws[1] - laws[0], rel=1e-9)


def test_voltage_comes_on_top() -> None:
    """At 0.9 of the voltage energies are 0.81 of what they are at the sizes."""
    sizes = {"memories.l2.size_bytes": "2097152"}
    full = find_soc("gemmini", sizes).memories["l2"].access_pj_per_byte
    low = find_soc("gemmini", sizes | {"voltage_v": "0.81"}).memories["l2"].access_pj_per_byte
    assert low == pytest.approx(0.81 * full, rel=1e-12)


def test_the_front_is_not_only_the_largest() -> None:
    """ResNet-8 on DIANA's digital array of 16 to 256 rows. While a PE was free, each doubling was faster and more
    frugal, as what was drawn was drawn for less time. Now the fastest is still the largest, and neither the least
    energy nor the least product of energy and time is there."""
    network = find_workload("resnet8")
    time, energy = dict[int, float](), dict[int, float]()
    for rows in (16, 32, 64, 128, 256):
        soc = find_soc("diana", {"cores.digital.rows": str(rows)})
        run = Simulated(soc, engine_run("fast")).figures(find_mapping("all_8bit", network, soc), network)
        time[rows], energy[rows] = run.latency_s, run.energy_j
    assert min(time, key=lambda rows: time[rows]) == 256
    assert 16 < min(energy, key=lambda rows: energy[rows]) < 256
    assert 16 < min(energy, key=lambda rows: energy[rows] * time[rows]) < 256


# ------------------------------------------------------------------------------------------ a chip of one's own
def test_a_chip_may_have_all_figures_from_its_technology(tmp_path: Path) -> None:
    """DIANA's file without powers and energies: the laws' instead, and what `show soc` prints is read back the same."""
    lines = (soc_folder() / "diana.yaml").read_text().splitlines()
    keys = ("base_power_mw", "static_power_mw", "    power_mw")
    own = [line for line in lines if not line.startswith(keys) and not line.startswith("area_mm2")]
    file = tmp_path / "own.yaml"
    file.write_text("\n".join([*own, "energies: technology"]) + "\n")
    soc, t = load_soc(file), find_technology("22nm")
    area = sum(areas_mm2(soc, t).values())
    assert soc.area_mm2 == pytest.approx(area, rel=1e-12)
    assert soc.static_power_mw == pytest.approx(2.0 * area, rel=1e-12)
    assert soc.base_power_mw == pytest.approx(8.0 * area * 0.26, rel=1e-12)
    assert soc.memories["l2"].access_pj_per_byte == pytest.approx(t.sram_pj_per_byte * math.sqrt(524288 / 8192))
    pe_pj = 7 * 8 * t.multiply_pj_per_bit2 + 32 * t.add_pj_per_bit + 47 * t.register_pj_per_bit
    reads_pj = 16 * 7 / 8 * t.access_pj_per_byte(262144) + 16 * t.access_pj_per_byte(65536)
    assert soc.cores["digital"].power_mw == pytest.approx((256 * pe_pj + reads_pj) * 0.26, rel=1e-12)
    assert soc.memories["flash"].access_pj_per_byte == 0.0  # beside the chip
    again = tmp_path / "again.yaml"
    again.write_text(_dumped(soc))
    assert load_soc(again).model_dump() == soc.model_dump()


def _dumped(soc: SoC) -> str:
    import yaml

    return str(yaml.safe_dump(soc.model_dump(mode="json", by_alias=True, exclude_unset=True), sort_keys=False))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("energies: technology", "base_power_mw: comes from the technology"),
        ("figures_at: {cores.digital.rws: 16}", "figures_at.cores.digital.rws"),
        ("figures_at: {cores.digital.rows: -1}", "must be 1 to"),
        ("technology: 23nm", "no technology named '23nm'; there is 22nm"),
        ("technology: 45nm", "has no compute_cell_um2"),
    ],
)
def test_what_means_nothing_is_refused(line: str, said: str, tmp_path: Path) -> None:
    text = (soc_folder() / "diana.yaml").read_text()
    if line.startswith("technology"):
        text = "\n".join(one for one in text.splitlines() if not one.startswith("technology")) + "\n"
    file = tmp_path / "mine.yaml"
    file.write_text(f"{text}{line}\n")
    with pytest.raises(InputError) as refused:
        load_soc(file)
    assert any(said in one for one in refused.value.lines), refused.value.lines


def test_without_a_technology_its_keys_are_refused(tmp_path: Path) -> None:
    """And a core that does not say what it is made of takes none."""
    text = "\n".join(
        one for one in (soc_folder() / "diana.yaml").read_text().splitlines() if not one.startswith("technology")
    )
    file = tmp_path / "mine.yaml"
    file.write_text(f"{text}\nfigures_at: {{cores.digital.rows: 16}}\n")
    with pytest.raises(InputError, match="figures_at: changes nothing without technology"):
        load_soc(file)
    with pytest.raises(InputError, match="does not say what it is made of"):
        find_soc("rpi4", {"technology": "22nm"})

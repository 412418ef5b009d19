"""SoC files: what they say is checked, and every mistake is named with its place."""

import re
from pathlib import Path

import pytest

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_cluster, find_soc, list_socs, load_soc, soc_folder
from cosoc.sim.files.names import list_clusters
from cosoc.sim.model.workload import Tile

DIANA = (soc_folder() / "diana.yaml").read_text()


@pytest.mark.parametrize(
    ("found", "instead", "mark", "message"),
    [
        ("    rows: 16 ", "    rows: -3 ", "-3 ", "cores.digital.rows: found -3"),
        ("block_start_cycles:", "block_strt_cycles:", "block_strt", "did you mean block_start_cycles?"),
        ("to: l1, dma: dma,", "to: l1, dma: dmaa,", "dmaa,", "no dma named 'dmaa'; there is dma, io_dma"),
        ("    taps: 2", "    lanes: 7\n    taps: 2", "lanes: 7", "key given twice"),
        ("host: host", "host: hst", "hst", "no core named 'hst'"),
        ("model: digital_array", "model: digital_aray", "model: digital_aray", "'digital_aray'"),
        ("tick_hz: 260_000_000 ", "tick_hz: yes ", "yes ", "found 'yes'"),
        ("links: [l2_read, l1]", "links: [l2_read, l3]", "[l2_read, l3]", "no link named 'l3'"),
        ("links: [l2_read, l1]", "links: [l1, l1]", "[l1, l1]", "named twice in one route"),
        ("reserved_bytes: 6144 ", "reserved_bytes: 262145 ", "size_bytes: 262144", "more than size_bytes"),
        ("weight_memory: digital_weights", "weight_memory: flash2", "flash2", "no memory named 'flash2'"),
        ("base_power_mw: 8.81 ", "base_power_mw: -1 ", "-1 ", "base_power_mw: found -1"),
        ("dma: dma, links: [l1, l2_write]", "links: [l1, l2_write]", "{from: l1, to: l2, links", "key is missing"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, found: str, instead: str, mark: str, message: str) -> None:
    assert DIANA.count(found) >= 1
    text = DIANA.replace(found, instead, 1)
    file = tmp_path / "soc.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_soc(file)
    before = text[: text.index(mark)]
    place = f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "
    assert str(error.value).startswith(place)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "- 1", "[", "a: [1,2", "a: " + "[" * 3000, "? [1]\n: 2", "a: &x 1\nb: *x", "a\n---\nb"]
)
def test_what_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "soc.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"soc\.yaml:\d+:\d+: ") as error:
        load_soc(file)
    assert "\n" not in str(error.value)


def test_missing_files_folders_and_binaries_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path, message in [("none.yaml", "no such file"), (".", "is a folder"), ("binary.yaml", "not UTF-8")]:
        with pytest.raises(InputError, match=message):
            load_soc(tmp_path / path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"no SoC named 'dianna'; there is .*diana"):
        find_soc("dianna")


def test_overrides_are_typed_and_checked_like_the_file() -> None:
    assert find_soc("diana", {"links.analog_feed.bytes_per_period": "64"}).links["analog_feed"].bytes_per_period == 64
    with pytest.raises(InputError, match=r"cores\.analog\.period_ops: found 0"):
        find_soc("diana", {"cores.analog.period_ops": "0"})
    with pytest.raises(InputError, match="has no 'cors' there"):
        find_soc("diana", {"cors.analog.period_ops": "1"})


@pytest.mark.parametrize("name", list_socs())
def test_every_number_of_a_soc_file_names_its_evidence(name: str) -> None:
    classes = ("published", "model", "fitted", "assumed", "derived", "measured", "recalled")
    for number, line in enumerate((soc_folder() / f"{name}.yaml").read_text().splitlines(), 1):
        code, _, comment = line.partition("#")
        value = code.partition(":")[2].strip()
        if value.replace("_", "").replace(".", "").isdigit() and comment.strip():
            assert comment.split(":")[0].split()[0].strip(":;,") in classes, f"{name}.yaml:{number}: {line}"


@pytest.mark.parametrize("name", [*list_socs(), *list_clusters()])
def test_what_a_file_leaves_out_may_be_written_out(name: str) -> None:
    """Every default is a figure that a file may state, and stating it changes nothing."""
    machine = find_cluster(name) if name in list_clusters() else find_soc(name)
    assert type(machine).model_validate(machine.model_dump(mode="json", by_alias=True)) == machine


def test_half_the_voltage_is_half_the_clock_and_a_quarter_of_the_energy() -> None:
    """P = f C V^2, of what is on the chip; a DRAM beside it has a supply of its own."""
    full, half = find_soc("gemmini"), find_soc("gemmini", {"voltage_v": "0.45"})
    assert half.tick_hz == full.tick_hz // 2
    access = {
        name: (full.memories[name].access_pj_per_byte, half.memories[name].access_pj_per_byte)
        for name in ("l2", "dram")
    }
    assert access["l2"][1] == pytest.approx(access["l2"][0] / 4) and access["dram"][1] == access["dram"][0]


def test_a_figure_of_another_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="only pipelined arrays drain, not"):
        find_soc("neurosim_22nm", {"cores.cim.drain_cycles": "3"})


def test_a_cached_mover_goes_over_its_own_links(tmp_path: Path) -> None:
    text = (soc_folder() / "gemmini.yaml").read_text()
    path = "to: scratchpad, dma: mover, links: [return_path, outer_port, dram_port]"
    assert path in text
    (tmp_path / "own.yaml").write_text(
        text.replace(path, "to: scratchpad, dma: mover, links: [return_path, dram_port]")
    )
    with pytest.raises(InputError, match="mover mover goes over return_path, outer_port, dram_port: name these"):
        load_soc(tmp_path / "own.yaml")


def test_an_engine_on_the_main_memory_reads_over_a_link(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^ *feed_links:.*\n", "", (soc_folder() / "agx_orin_dla.yaml").read_text())
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(InputError, match="name the link of the memory that it computes from"):
        load_soc(tmp_path / "own.yaml")


def test_dianas_arrays_reach_their_published_efficiency() -> None:
    """Chip paper: 14 TOPS/W of the 16 x 16 digital array, 600 TOPS/W of the 1152 x 512 analog one, each at full use."""
    soc = find_soc("diana")
    digital, analog = soc.cores["digital"], soc.cores["analog"]
    assert 2 * 16 * 16 * soc.tick_hz / (digital.power_mw * 1e-3) == pytest.approx(14e12, rel=1e-3)
    full = Tile("conv", 512, 128, 1, 1, 3, 3)  # 1152 rows and 512 columns: one operation
    assert 2 * 1152 * 512 / (float(analog.energy_pj(full, exact)) * 1e-12) == pytest.approx(600e12, rel=1e-3)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("cores.gemmini.accumulator", "no memory named 'nowhere'"),
        ("dmas.mover.llc", "no memory named 'nowhere'"),
        ("dmas.mover.dram_link", "no link named 'nowhere'"),
    ],
)
def test_what_a_core_or_mover_names_itself_must_be_there(key: str, message: str) -> None:
    with pytest.raises(InputError, match=f"{key}: {message}"):
        find_soc("gemmini_firesim", {key: "nowhere"})


def test_a_cache_smaller_than_its_ways_is_said() -> None:
    """A set needs a line for each of its ways."""
    with pytest.raises(InputError, match="llc_ways: memory llc has 581 bytes; a set of its ways needs 1024"):
        find_soc("gemmini_firesim", {"memories.llc.size_bytes": "581"})

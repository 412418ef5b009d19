"""Nothing in a SoC or cluster file is ignored: every number of every built-in file changes some result, or is refused.

The answer comes from the simulator itself, by brute force: benchmarks/keys.py changes each number of the parsed file,
also those left at their defaults, and runs small networks until a figure differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosoc.sim.cores.digital_array import DigitalArray
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_clusters, list_socs, soc_folder
from cosoc.sim.movers.dma_terms import Transfer
from cosoc.sim.movers.writer import Writer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from keys import Sweep, dead_keys, keys_of

QUICK = ("diana", "rpi4")  # every kind of key but those of the other core models


@pytest.mark.parametrize(
    "soc", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in list_socs()]
)
def test_no_number_of_a_file_is_dead(soc: str) -> None:
    assert not dead_keys([soc])


@pytest.mark.parametrize("cluster", list_clusters())
def test_no_number_of_a_cluster_is_dead(cluster: str) -> None:
    assert not dead_keys([cluster])


def test_all_numbers_are_looked_at() -> None:
    """Those of lists, those left at their defaults, and those that may be left out."""
    paths = {".".join(map(str, path)) for path, _ in keys_of(find_soc("darkside"))}
    stated = {"links.tcdm.stretch.3", "cores.tensor.datamover.bytes_per_cycle", "dmas.dma.lanes", "tick_hz"}
    silent = {"links.axi.ports", "dmas.io_dma.piece_cycles", "memories.l2.reserved_bytes", "cores.host.launch_cycles"}
    assert stated | silent <= paths


def _no_setup(self: Transfer, dma: Any) -> Any:
    return self.pieces * (dma.piece_cycles or 0)


def _no_start(self: DigitalArray, tile: Any) -> Any:
    return tile.c * tile.fy * tile.fx + self.refill_cycles * tile.c * tile.fy


def _no_energy(self: Writer, link: str, moved: int) -> int:
    return 0


@pytest.mark.parametrize(
    ("owner", "method", "mutant", "key"),
    [
        (Transfer, "setup_ticks", _no_setup, "dmas.dma.setup_cycles"),
        (DigitalArray, "_block_cycles", _no_start, "cores.digital.block_start_cycles"),
        (Writer, "link_fj", _no_energy, "links.l2_read.energy_pj_per_byte"),
    ],
)
def test_a_key_that_is_no_longer_read_is_found(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, mutant: Callable[..., Any], key: str
) -> None:
    """The key shows in the very first run; with its reader planted out it shows in none of the quick ones."""
    value = next(value for path, value in keys_of(find_soc("diana")) if ".".join(map(str, path)) == key)
    path = tuple(key.split("."))
    assert Sweep(find_soc("diana"), 3).why_alive(path, value)
    monkeypatch.setattr(owner, method, mutant)
    assert not Sweep(find_soc("diana"), 3).why_alive(path, value)


@pytest.mark.parametrize(
    ("soc", "key", "value", "message"),
    [
        ("diana", "cores.simd.weight_bits", "4", "it holds no weights"),
        ("diana", "cores.digital.feed_pieces", "2", "its cycles include its reads and writes"),
        ("diana", "cores.analog.feed_pieces", "2", "nobody holds up what it feeds"),
        ("diana", "cores.analog.weight_bits", "2", "its weights are ternary"),
        ("diana", "links.off_chip.ports", "2", "found 2, but at most 1 bursts ask for it at once"),
        ("diana", "dmas.io_dma.priority", "1", "none of its bursts waits for one of another unit"),
        ("diana", "memories.l2.usable_bytes", "9", "it was replaced: give reserved_bytes"),
        ("isaac", "cores.cim.adc_bits", "8", "a conversion takes adc_cycles at any width"),
        ("isaac", "cores.cim.settle_cycles", "8", "only summed arrays settle, not pipelined"),
        ("isaac", "cores.cim.most_copies", "2", "give block_rows and block_cols"),
        ("isaac", "dmas.writer.piece_cycles", "1", "it brings weights alone, each in one piece"),
        ("rpi4", "cores.cpu.launch_cycles", "5", "kernel_cycles of its runtime is the start of a kernel"),
        ("gemmini", "cores.gemmini.feed_pieces", "2", "its cycles include its reads and writes"),
    ],
)
def test_a_key_without_effect_is_refused_in_its_section(soc: str, key: str, value: str, message: str) -> None:
    section, name, _ = key.split(".")
    with pytest.raises(InputError, match=rf"{soc}\.yaml:\d+:\d+: {section}\.{name}.*{message}") as error:
        find_soc(soc, {key: value})
    assert "\n" not in str(error.value)


def test_what_nobody_uses_is_refused(tmp_path: Path) -> None:
    """A memory, a link and a DMA that nothing names; each at its own place."""
    text = (soc_folder() / "diana.yaml").read_text()
    for section, entry, what in (
        ("memories", "  spare: {size_bytes: 64}", "no core or route uses this memory"),
        ("links", "  spare: {bytes_per_period: 8}", "no route or core goes over this link"),
        ("dmas", "  spare: {setup_cycles: 1, burst_bytes: 8}", "no route names this mover"),
    ):
        file = tmp_path / f"{section}.yaml"
        file.write_text(text.replace(f"\n{section}:\n", f"\n{section}:\n{entry}\n"))
        line = file.read_text().splitlines().index(entry) + 1
        with pytest.raises(InputError, match=rf"{section}\.yaml:{line}:\d+: {section}\.spare: {what}; remove it"):
            find_soc(str(file))

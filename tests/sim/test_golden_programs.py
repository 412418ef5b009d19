"""Programs that must not change unless somebody means it: digests of some eighty, and three as text.

A restructuring keeps them all; a change of the machine's model says in its commit which it changed, and why
(`pytest tests/sim/test_golden_programs.py --update-golden`, and a look at the diff).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import WHOLE_TAG, Program, entries_of, to_text
from cosoc.sim.model.mapping import Mapping, Piece, Runtime
from cosoc.sim.model.workload import Layer, Workload

KEPT = Path(__file__).parents[1] / "golden" / "programs.json"

# (SoC, workload, mapping): under both runtimes.
CASES = [
    *(("diana", net, rule) for net in ("resnet8", "resnet20", "dscnn", "autoencoder", "resnet18_segment")
      for rule in ("all_8bit", "io_8bit_backbone_ternary", "all_ternary")),
    *(("diana", net, "all_8bit") for net in ("digits_cnn", "resnet18_64", "mobilenet_v1_025", "squeezenet")),
    ("diana", "digits_cnn", "min_cost"),
    ("diana", "resnet18_segment", "silicon"),
    *(("darkside", net, "all_8bit") for net in ("resnet8", "dscnn", "autoencoder", "mobilenet_v1_025", "mobilenet_v2")),
    *((cim, "vgg8", "default") for cim in ("isaac", "puma", "neurram", "neurosim_22nm")),
    *((board, net, "default") for board in ("rpi4", "v100", "xavier_nx") for net in ("resnet18", "vit_base")),
]  # fmt: skip
# Those of the systolic array have one runtime.
NESTS = [
    *(("gemmini", net, "default") for net in ("resnet8", "resnet18", "mobilenet_v2", "bert_base_block")),
    ("gemmini_large", "resnet18", "default"),
]
RUNTIMES: tuple[Runtime, ...] = ("serial", "overlapped")


def all_cases() -> dict[str, tuple[str, str, str, Runtime]]:
    """Every case by its name in the file."""
    cases = [(*case, runtime) for case in CASES for runtime in RUNTIMES]
    cases += [(*case, "overlapped") for case in NESTS]
    return {"/".join(case): case for case in cases}


def machine_digest(program: Program) -> str:
    """Digest of what engines and reports see, however its lists are stored."""
    sha, rows = hashlib.sha256(), program.rows
    sha.update(repr((program.tick_hz, program.unit_names, program.server_names, program.credit_names)).encode())
    sha.update(repr(program.layers).encode())
    tables = [program.stretch[s["stretch_at"] : s["stretch_at"] + s["stretch_n"]].tolist() for s in program.servers]
    plain = [program.servers[key].tolist() for key in ("rate_bytes", "rate_ticks", "ports", "switch")]
    sha.update(
        repr((tables, plain, program.units.tolist(), program.credits.tolist(), program.blocks.tolist())).encode()
    )
    views = program.servers[["tag_shift", "tag_bits"]].tolist()
    if set(views) - {WHOLE_TAG}:
        sha.update(repr(views).encode())
    for key in ("unit", "setup", "run", "bytes", "burst", "tag", "kind", "layer", "macs", "energy_fj"):
        sha.update(np.ascontiguousarray(rows[key]).tobytes())
    for key, entries in (
        ("route", program.routes), ("dep", program.deps), ("take", program.takes), ("give", program.gives)
    ):  # fmt: skip
        n = rows[f"{key}_n"]
        sha.update(np.ascontiguousarray(n).tobytes())
        sha.update(np.ascontiguousarray(entries[entries_of(rows[f"{key}_at"], n)]).tobytes())
    return sha.hexdigest()[:20]


def lowered(soc: str, workload: str, mapping: str, runtime: Runtime) -> Program:
    """The program of a case."""
    machine, network = find_soc(soc), find_workload(workload)
    return lower(network, find_mapping(mapping, network, machine, runtime), machine)


@pytest.mark.parametrize("name", sorted(all_cases()))
def test_a_program_is_the_one_that_was_kept(name: str, request: pytest.FixtureRequest) -> None:
    """Digest of the whole program, and its makespan, which says how far a changed one is from what it was."""
    program = lowered(*all_cases()[name])
    found = {"digest": machine_digest(program), "ticks": engine_fast.run(program).makespan}
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if request.config.getoption("--update-golden"):
        KEPT.write_text(json.dumps(dict(sorted((kept | {name: found}).items())), indent=1) + "\n")
        return
    assert found == kept[name], f"{name}: run pytest --update-golden and review the diff"


def pair() -> Workload:
    """Two convolutions of four pixels, small enough to be read as text."""
    first = Layer("first", "conv", ("input",), k=16, c=3, oy=4, ox=4, iy=4, ix=4, fy=3, fx=3, pad_y=1, pad_x=1)
    second = Layer("second", "conv", ("first",), k=16, c=16, oy=4, ox=4, iy=4, ix=4)
    return Workload("pair", (3, 4, 4), (first, second), ("second",))


@pytest.mark.parametrize(
    ("name", "mapping"),
    [
        ("serial", Mapping("m", "serial")),
        ("overlapped", Mapping("m", "overlapped")),
        ("fused", Mapping("m", "overlapped", pieces=(Piece(("first", "second")),))),
    ],
)
def test_a_lowered_text_is_the_reviewed_one(name: str, mapping: Mapping, golden: Callable[[str, str], None]) -> None:
    golden(f"lowered_{name}", to_text(lower(pair(), mapping, find_soc("diana"))))

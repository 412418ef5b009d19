"""What a stranger meets in the first hour: chips of one's own with every command, files and shapes that are wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cosoc.cli import main
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.report.explain import changed, improving, proposals
from cosoc.sim.simulate import simulate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import own_chips  # noqa: E402

NETWORK = find_workload("digits_cnn")


@pytest.mark.parametrize("number", [1, 5, 9])
def test_every_command_answers_for_a_chip_of_ones_own(number: int, tmp_path: Path) -> None:
    """An answer, or one line and status 2: on boards and chips whose figures and cores were changed at random."""
    found = list(own_chips.answers(0, number, tmp_path, trained=False, slow=False))
    assert [f"{' '.join(one.words)}: {one.failure}" for one in found if one.failure] == []
    assert sum(one.status == 0 for one in found) >= 7  # most of them answer


def test_a_wrong_answer_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(words: list[str]) -> int:
        if words[0] == "raises":
            raise ValueError("as a bug would")
        for _ in range(int(words[1])):
            print("a line", file=sys.stderr)
        return 2 if words[0] == "refuses" else 0

    monkeypatch.setattr(own_chips, "main", broken)
    assert "a traceback: ValueError" in own_chips.answer(["raises"]).failure
    assert own_chips.answer(["refuses", "2"]).failure == "status 2 and 2 lines"
    assert own_chips.answer(["refuses", "1"]).failure == ""
    assert own_chips.answer(["silent", "0"]).failure == "says nothing"


@pytest.mark.parametrize("cycles", [1, 3, 500, 501])
def test_odd_counts_are_halved_to_whole_ones(cycles: int) -> None:
    """What is proposed for launches can be made, whatever they take: half, rounded down, which of one is none; and
    simulated it is faster."""
    soc = find_soc("diana", {f"cores.{core}.launch_cycles": str(cycles) for core in ("digital", "pool", "simd")})
    mapping = find_mapping("default", NETWORK, soc)
    result = simulate(soc, NETWORK, mapping)
    asked = next(one for one in proposals(result, soc) if one.startswith("cores.digital.launch_cycles"))
    assert changed(soc, asked).cores["digital"].launch_cycles == cycles // 2
    assert all(one.seconds and one.seconds < result.seconds for one in improving(result, soc, NETWORK, mapping))


WRONG = """
import torch
def flat(): return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 30 * 30, 10))
class Reads(torch.nn.Module):
    def forward(self, x): return x + torch.zeros(x.shape[-1] + 1, dtype=x.dtype)
"""


@pytest.mark.parametrize(
    "words", [["wrong_nets:flat", "1,3,7,7"], ["wrong_nets:flat", "1,4,32,32"], ["wrong_nets:Reads", "1,8"]]
)
def test_a_shape_that_a_network_cannot_take_is_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing of torch's own log is before it, wherever torch writes that."""
    (tmp_path / "wrong_nets.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["show", "workload", words[0], "--input-shape", words[1]])
    finally:
        sys.modules.pop("wrong_nets", None)
    out, said = capfd.readouterr()
    assert (status, out, said.count("\n")) == (2, "", 1), said
    assert "torch.export cannot read it for input" in said

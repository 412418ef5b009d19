"""What benchmarks/mutants.py rests on that needs no tool: where a fault stands; its verdicts are of this code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from mutants import stale, verdicts  # noqa: E402 - found by the line above
from mutation import MODULE, Place, Source, drawn  # noqa: E402

CODE = """\
LIMIT: int = 3


class Core:
    width = 2

    @cache
    def cycles(self, n: int = 1) -> int:
        try:
            return (n +
                    LIMIT)
        except ValueError:
            return 0


@njit(cache=True)
def kernel(a):
    while a < LIMIT:
        a += 1
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "core.py").write_text(CODE)
    return Source(tmp_path, "core.py")


@pytest.mark.parametrize(
    ("line", "column", "wanted"),
    [
        (1, 13, ("", MODULE, True)),  # a constant that kernels are compiled with
        (5, 12, ("Core", MODULE, False)),
        (8, 31, ("Core.cycles", (7, 13), False)),  # a default: of all that the function does
        (10, 22, ("Core.cycles", (10, 11), False)),
        (12, 15, ("Core.cycles", (12, 12), False)),
        (18, 12, ("kernel", (18, 18), True)),  # the head of the loop, not its body
        (19, 13, ("kernel", (19, 19), True)),
    ],
)
def test_a_fault_counts_for_the_lines_that_it_changes(
    source: Source, line: int, column: int, wanted: tuple[str, tuple[int, int], bool]
) -> None:
    assert source.around((line, column)) == wanted


def test_what_no_run_can_show_is_left_out(source: Source) -> None:
    def reason(line: int, start: int, end: int) -> str:
        return source.reason(Place("core.py", (line, start), (line, end), ()))

    assert "type checkers" in reason(1, 7, 10)
    assert "speed" in reason(7, 4, 10) and "speed" in reason(16, 12, 16)
    assert not reason(8, 31, 32) and not reason(18, 12, 13)


def test_a_sample_stays_when_other_code_changes() -> None:
    """The order and the mutants of nine places are those among twelve, on other lines."""

    def place(number: int, line: int) -> Place:
        return Place("core.py", (line, 0), (line, 1), tuple((f"operator {i}", 0) for i in range(7)), f"place {number}")

    few, more = [place(i, i) for i in range(9)], [place(i, 2 * i) for i in range(12)]
    kept = {one.told_by for one in few}

    def order(found: list[Place], seed: int) -> list[tuple[str, str]]:
        return [(one.told_by, name) for one, name, _ in drawn(found, seed) if one.told_by in kept]

    assert order(few, 0) == order(more, 0) != order(few, 1)


def test_verdicts_are_read_and_name_tests_that_are_there() -> None:
    for entry in verdicts(ROOT / "benchmarks" / "mutants.yaml").values():
        file, _, test = entry.get("by", "tests/test_mutants.py::test_verdicts").partition("::")
        assert f"def {test}" in (ROOT / file).read_text(), entry


def test_a_verdict_of_code_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "core.py").write_text(CODE)
    entry = {"file": "core.py", "within": "kernel", "was": "a += 1", "becomes": "a -= 1", "verdict": "gap", "why": "x"}
    there, gone = entry, entry | {"was": "a += 2"}
    assert stale(tmp_path, {("1",): there, ("2",): gone, ("3",): entry | {"file": "none.py"}}) == [
        "core.py, kernel: a += 2", "none.py, kernel: a += 1",
    ]  # fmt: skip

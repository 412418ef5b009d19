"""What benchmarks/mutants.py rests on that needs no tool: where a fault stands; its verdicts are of this code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from mutants import verdicts  # noqa: E402 - found by the line above
from mutation import MODULE, Place, Source  # noqa: E402

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


def test_verdicts_speak_of_code_that_is_there() -> None:
    for (file, _, was, _), entry in verdicts(ROOT / "benchmarks" / "mutants.yaml").items():
        text = re.sub(r"\s+", " ", (ROOT / file).read_text())
        assert was in text, entry
        assert entry.get("why") or (ROOT / entry["by"].partition("::")[0]).is_file(), entry

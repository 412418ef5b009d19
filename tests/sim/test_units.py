"""What figures of files may be: bounds by unit, as the documentation has them, and what lies beyond all of them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import TypeAdapter, ValidationError

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, soc_folder
from cosoc.sim.model import units
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.units import Within
from cosoc.sim.model.workload import INPUT, Layer, Workload, batched

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import absurd  # noqa: E402

TYPES = {name: type_ for name, type_ in vars(units).items() if get_origin(type_) is Annotated}


@pytest.mark.parametrize("name", TYPES)
def test_bounds_are_those_of_the_documentation(name: str) -> None:
    within = get_args(TYPES[name])[1]
    told = (ROOT / "docs" / "errors.md").read_text().partition("### Figures")[2].partition("## ")[0]
    assert str(within) in told, f"{name}: {within}"


@pytest.mark.parametrize("name", TYPES)
def test_a_figure_is_within_its_bounds(name: str) -> None:
    """The ends are taken, what is next to them is not; 0 where it is said, and then without a sign."""
    kind, within = get_args(TYPES[name])
    read: TypeAdapter[Any] = TypeAdapter(TYPES[name])

    def taken(value: Any) -> bool:
        try:
            return bool(read.validate_python(value, strict=True) == value)
        except ValidationError:
            return False

    step = (lambda x: x + 1) if kind is int else (lambda x: math.nextafter(x, math.inf))
    back = (lambda x: x - 1) if kind is int else (lambda x: math.nextafter(x, -math.inf))
    least, most = kind(within.least), kind(within.most)
    assert taken(least) and taken(most) and not taken(step(most))
    assert taken(back(least)) == (within.or_zero and back(least) == 0)
    assert taken(kind(0)) == within.or_zero and not taken(kind(-1))
    if kind is float and within.or_zero:
        assert math.copysign(1, read.validate_python(-0.0)) == 1


def test_a_bound_refuses_with_its_unit_at_the_line(tmp_path: Path) -> None:
    text = (soc_folder() / "diana.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("energy_pj_per_byte: 67.0", "energy_pj_per_byte: 1e300"))
    line = next(n for n, said in enumerate(file.read_text().splitlines(), 1) if "1e300" in said)
    expected = rf"mine\.yaml:{line}:\d+: links\.off_chip\.energy_pj_per_byte: found 1e\+300: must be 0, or .* pJ/byte$"
    with pytest.raises(InputError, match=expected):
        find_soc(str(file))


def test_a_number_of_many_digits_is_refused_like_any_other() -> None:
    """Python refuses to read whole numbers of more than 4,300 digits."""
    with pytest.raises(InputError, match=r"tick_hz: found '1000.*characters\): Input should be a valid integer"):
        find_soc("diana", {"tick_hz": "1" + "0" * 5000})


def test_a_batch_beyond_counting_names_what_makes_it() -> None:
    layer = Layer("fc", "conv", (INPUT,), 1 << 20, 1 << 20)
    with pytest.raises(
        InputError, match=r"a batch of 1048577: layer fc: n\*c\*iy\*ix = 1099512676352 inputs; at most 2\^40"
    ):
        batched(Workload("w", (1 << 20, 1, 1), (layer,), ("fc",)), (1 << 20) + 1)


def test_two_types_of_one_unit_are_told_apart() -> None:
    assert str(Within("cycles", 1, 8)) == "1 to 8 cycles"
    assert str(Within("cycles", 1, 8, or_zero=True)) == "0 to 8 cycles"
    assert str(Within("cycles", 0.5, 1 << 30, or_zero=True)) == "0, or 0.5 to 2^30 cycles"


# ------------------------------------------------------------------------------------------ the benchmark's part


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> absurd.Bench:
    return absurd.Bench(tmp_path_factory.mktemp("absurd"))


SAMPLE = [case for _, case in absurd.chosen(("diana", "rpi4", "homogeneous_cpu_2"), 80, seed=1)]
OTHERS = [case for n, case in enumerate(absurd.other_cases()) if n % 29 == 0]


@pytest.mark.parametrize("case", [*SAMPLE, *OTHERS], ids=lambda case: f"{case[0]}: {case[1]}={case[2][:20]}")
def test_a_figure_beyond_reason_is_refused_or_harmless(case: absurd.Case, bench: absurd.Bench) -> None:
    assert absurd.looked_at(bench, case)[0] in ("fine", "refused")


def test_the_benchmark_notices(bench: absurd.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, a hang, a refusal that names no key."""
    case = "diana", "dmas.dma.setup_cycles", "1"
    assert absurd.looked_at(bench, case)[0] == "fine"
    monkeypatch.setattr(SoC, "problems", lambda self, mended: 1 / 0)
    assert absurd.looked_at(bench, case)[0] == "traceback"
    monkeypatch.setattr(SoC, "problems", lambda self, mended: [(("links",), "something is wrong")])
    assert absurd.looked_at(bench, case)[0] == "key not named"

    def stand_still(self: SoC, mended: object) -> Any:
        while True:
            pass

    monkeypatch.setattr(absurd, "LIMIT_S", 0.2)
    monkeypatch.setattr(SoC, "problems", stand_still)
    assert absurd.looked_at(bench, case)[0] == "hang"

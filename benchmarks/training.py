"""Training: what do networks that were trained with a mapping become, beside what one would compare them with?

    python benchmarks/training.py [PART ...] [--quick] [--data NAME] [--json FILE] [--keep DIR]

shift     Accuracy under fifteen corruptions of the images and under DIANA's analog noise, of networks that were trained
          without that noise and with it; whether the mappings keep their order. Each mapping is trained several times.
          Chips that networks are evaluated on are others than those that they were trained on.

Without PART all of them. With --keep, what an earlier call has finished there is not done again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import arguments, progress, state, write_json
from rich.console import Console

from cosoc.search.training.corruptions import CORRUPTIONS
from cosoc.search.training.noise import KINDS
from cosoc.search.training.shift import SEVERITIES, Asked, Shift, evaluate
from cosoc.search.training.shift_shown import table
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.search.training.trained import read_run
from cosoc.sim.files.catalog import find_soc


@dataclass(frozen=True)
class Size:
    """How much is done. data: as `cosoc search` has it; folder: of the runs."""

    quick: bool
    data: str
    seed: int
    folder: Path


MAPPINGS = ("all_8bit", "io_8bit_backbone_ternary", "all_ternary")


def shift(size: Size) -> dict[str, Any]:
    """See the module docstring."""
    workload = "digits_cnn" if size.data == "digits" else "resnet8"
    config = TrainingConfig(
        soc=find_soc("diana"), workload=workload, data=size.data, points=0, manual=MAPPINGS, seed=size.seed,
        epochs=4 if size.quick else 30, seeds=1 if size.quick else 3,
    )  # fmt: skip
    asked = Asked(
        ("fog", "gaussian_noise") if size.quick else tuple(CORRUPTIONS), (1, 5) if size.quick else SEVERITIES, KINDS,
        chips=2 if size.quick else 10, seed=size.seed + 1,
    )  # fmt: skip
    found: dict[str, Any] = {"workload": workload, "data": size.data, "epochs": config.epochs}
    shifts: dict[str, Shift] = {}
    for label, kinds in (("plain", ()), ("with_noise", KINDS)):
        out = size.folder / f"shift_{label}"
        search_trained(replace(config, train_noise=kinds, out=out, resume=out.exists()), progress(f"training, {label}"))
        shifts[label] = evaluate(read_run(out), asked, progress(f"evaluating, {label}"))
        Console(width=150, highlight=False).print(table(shifts[label]))
        found[label] = shifts[label].content()
    found["gained_by_training_with_noise"] = _gained(shifts["plain"], shifts["with_noise"])
    for mapping, by in found["gained_by_training_with_noise"].items():
        print(f"{mapping}: " + ", ".join(f"{name} {100 * gain:+.1f} points" for name, gain in by.items()))
    return found


def _gained(plain: Shift, with_noise: Shift) -> dict[str, dict[str, float]]:
    """By mapping and noise, the accuracy with training under noise less the one without."""
    at = {name: places for name, places in plain.rows() if plain.conditions[places[0]].kind != "corruption"}
    gains = {name: with_noise.accuracies(places) - plain.accuracies(places) for name, places in at.items()}
    return {m: {name: float(gain[i]) for name, gain in gains.items()} for i, m in enumerate(plain.mappings)}


PARTS: Mapping[str, Callable[[Size], dict[str, Any]]] = {"shift": shift}


def main() -> None:
    """Run what is asked for, and write its figures."""
    parser = arguments(__doc__, seed=0)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [default: all]")
    parser.add_argument("--data", default="digits", metavar="NAME|DIR", help="a data set by name, or its folder")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the runs there, and go on with those there")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there is {', '.join(PARTS)}")
    state(options.seed)
    # Parts that are measured apart stand in one file.
    result: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    result.pop("machine", None)
    with tempfile.TemporaryDirectory() as folder:
        size = Size(options.quick, options.data, options.seed, options.keep or Path(folder))
        for name in options.parts or PARTS:
            result[name] = {"seed": options.seed, "quick": options.quick} | PARTS[name](size)
            write_json(options.json, result)


if __name__ == "__main__":
    main()

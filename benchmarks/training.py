"""Training: what do networks that were trained with a mapping become, beside what one would compare them with?

    python benchmarks/training.py [PART ...] [--quick] [--data NAME] [--device cpu|cuda|mps] [--json FILE] [--keep DIR]

shift     Accuracy under fifteen corruptions of the images, and under DIANA's analog noise as its file states it; do
          mappings keep their order? Then the same at the worst of the ranges that the file states for that noise:
          what does training under it gain? Each mapping is trained several times, on other chips than it is evaluated
          on.
post      Post-training quantisation beside training (post_training.py).
large     ViT-B/16 and BERT-Base at full size through every step of a search (full_size.py).
fashion   Fashion-MNIST, all of it, trained for shorter: fronts with intervals, the float network beside published
          ones, fronts without training, and corruptions (fashion.py).
full      Fashion-MNIST as it is trained at length, started and extrapolated (full_training.py).
depth     A transformer of twelve blocks, a front from little training; exported, as accurate? (full_training.py)
heads     What it costs that whole heads of that one are shared (full_training.py).

Without PART all of them. With --keep, what an earlier call has finished there is not done again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, machine, progress, state, write_json
from fashion import fronts
from full_size import large
from full_training import depth, full, heads
from post_training import post
from rich.console import Console

from cosoc.search.front import SURE
from cosoc.search.training.compute import DEVICES, Compute
from cosoc.search.training.corruptions import CORRUPTIONS
from cosoc.search.training.noise import KINDS
from cosoc.search.training.shift import SEVERITIES, Asked, Shift, evaluate
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.search.training.trained import read_run
from cosoc.sim.files.catalog import find_soc, soc_folder
from cosoc.sim.files.yamlfile import ranges_of


@dataclass(frozen=True)
class Size:
    """How much is done. data: as `cosoc search` has it; folder: of the runs; compute: where networks of full length and
    size are trained; cases: words of those that are measured; known: what an earlier call has of a part."""

    quick: bool
    data: str
    seed: int
    folder: Path
    compute: Compute
    cases: Sequence[str] = ()
    known: Mapping[str, Any] = field(default_factory=dict)


MAPPINGS = ("all_8bit", "io_8bit_backbone_ternary", "all_ternary")


def shift(size: Size) -> dict[str, Any]:
    """See the module docstring."""
    workload = "digits_cnn" if size.data == "digits" else "resnet8"
    ends = {one.path: repr(one.high) for one in ranges_of(soc_folder() / "diana.yaml") if ".noise." in one.path}
    stated, worst = find_soc("diana"), find_soc("diana", ends)
    plain = TrainingConfig(
        soc=stated, workload=workload, data=size.data, points=0, manual=MAPPINGS, seed=size.seed,
        epochs=4 if size.quick else 30, seeds=1 if size.quick else 3,
    )  # fmt: skip
    # Without analog channels nothing of a network depends on noise: all_8bit would be trained to the same bits.
    under_noise = replace(plain, soc=worst, train_noise=KINDS, manual=MAPPINGS[1:])
    names = ("fog", "gaussian_noise") if size.quick else tuple(CORRUPTIONS)
    asked = Asked(names, (1, 5) if size.quick else SEVERITIES, KINDS, 2 if size.quick else 10, size.seed + 1)
    runs = {}
    for label, config in (("plain", plain), ("under_noise", under_noise)):
        out = size.folder / f"shift_{label}"
        search_trained(replace(config, out=out, resume=out.exists()), progress(f"training, {label}"))
        run = read_run(out)
        runs[label] = replace(run, found=tuple(one for one in run.found if one.name in under_noise.manual))
        if label == "plain":
            stated_shift = evaluate(run, asked, progress("evaluating"))
    worst_shifts = {}
    for label, run in runs.items():
        at_worst = replace(run, config=replace(run.config, soc=worst))
        worst_shifts[label] = evaluate(at_worst, replace(asked, corruptions=()), progress(f"evaluating, {label}"))
    found: dict[str, Any] = {"workload": workload, "data": size.data, "epochs": plain.epochs, "worst": ends}
    for label, one in {"as_stated": stated_shift, **worst_shifts}.items():
        print(f"\n{label}")
        Console(width=150, highlight=False).print(one.table())
        found[label] = one.content()
    found["gained_at_worst"] = _gained(worst_shifts["plain"], worst_shifts["under_noise"])
    for mapping, by in found["gained_at_worst"].items():
        said = (
            f"{name} {100 * one['gain']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
            for name, one in by.items()
        )
        print(f"{mapping}, points gained by training under noise: {', '.join(said)}")
    return found


def _gained(plain: Shift, under_noise: Shift) -> dict[str, dict[str, Any]]:
    """By mapping and noise, the accuracy with training under noise less the one without, and its interval over
    resampled images: equal seeds draw the same ones of both."""
    out: dict[str, dict[str, Any]] = {name: {} for name in plain.mappings}
    for at, condition in enumerate(plain.conditions):
        gains = under_noise.accuracies([at]) - plain.accuracies([at])
        drawn = under_noise.drawn[:, at] - plain.drawn[:, at]
        low, high = np.quantile(drawn, [(1 - SURE) / 2, (1 + SURE) / 2], axis=0)
        for i, name in enumerate(plain.mappings):
            out[name][condition.name] = {"gain": float(gains[i]), "low": float(low[i]), "high": float(high[i])}
    return out


def calibrated(size: Size) -> dict[str, Any]:
    """See the module docstring."""
    return post(size.quick, size.data, size.seed, size.folder)


def fashion(size: Size) -> dict[str, Any]:
    """See the module docstring."""
    return fronts(size.quick, size.seed, size.folder, size.compute, size.cases, size.known)


def long(size: Size) -> dict[str, Any]:
    """See the module docstring."""
    return full(size.quick, size.seed, size.compute, size.cases, size.known)


def deep(size: Size) -> dict[str, Any]:
    """See the module docstring."""
    return depth(size.quick, size.seed, size.folder, size.compute)


def whole(size: Size) -> dict[str, Any]:
    """See the module docstring."""
    return large(size.quick, size.compute, size.cases, size.known)


def shared_heads(size: Size) -> dict[str, Any]:
    """See the module docstring."""
    return heads(size.quick, size.seed, size.folder, size.compute)


PARTS: Mapping[str, Callable[[Size], dict[str, Any]]] = {
    "shift": shift,
    "post": calibrated,
    "large": whole,
    "fashion": fashion,
    "full": long,
    "depth": deep,
    "heads": shared_heads,
}


def main() -> None:
    """Run what is asked for, and write its figures."""
    parser = arguments(__doc__, seed=0)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [default: all]")
    parser.add_argument("--data", default="digits", metavar="NAME|DIR", help="a data set by name, or its folder")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="of large, fashion, full, depth and heads")
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="WORD",
        help="of large, fashion and full: those whose names have it; others stay",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the runs there, and go on with those there")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there is {', '.join(PARTS)}")
    state(options.seed)
    # Parts that are measured apart, perhaps on other machines, stand in one file.
    result: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    result.pop("machine", None)
    with tempfile.TemporaryDirectory() as folder:
        size = Size(
            options.quick,
            options.data,
            options.seed,
            options.keep or Path(folder),
            Compute(options.device),
            options.case,
        )
        for name in options.parts or PARTS:
            found = PARTS[name](replace(size, known=result.get(name, {}) if options.case else {}))
            result[name] = {"seed": options.seed, "quick": options.quick, "machine": machine()} | found
            write_json(options.json, result)


if __name__ == "__main__":
    main()

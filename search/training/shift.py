"""Accuracy under shift: what corrupted images and inexact analog cores leave of the accuracy of a run's mappings.

Every mapping is evaluated as it was trained, on the test images of its run: as they are, under each corruption and
severity (`corruptions`), on chips that are drawn (`noise`), and, where both are asked for, both together. What is right
of each image is kept, so that orders have intervals (`order`); in a folder, if one is given, condition by condition, so
that an evaluation which was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from torch import Tensor

from cosoc.search.front import SURE
from cosoc.search.manifest import digest_of
from cosoc.search.runfolder import RunFolder
from cosoc.search.spaces.channels import MixedNet
from cosoc.search.training.corruptions import SEVERITIES, check_images, corrupted
from cosoc.search.training.data import Data
from cosoc.search.training.evaluate import at_once
from cosoc.search.training.noise import Kind, Noise, noise_of, quiet, set_ranges
from cosoc.search.training.order import Correlation, Order, order, resampled
from cosoc.search.training.task import CLASSIFICATION, Task
from cosoc.search.training.train import generator
from cosoc.search.training.trained import TrainedRun
from cosoc.sim.errors import InputError
from cosoc.sim.progress import Report, untold

# Columns of a terminal that a table's have at least, with the gaps between them.
CONDITION_WIDE, MAPPING_WIDE, ORDER_WIDE = 20, 9, 22
FEW = 3  # corruptions that have a row each under noise, too
CHIPS = 3  # drawn, where nothing is said
RANGED_BY = 512  # images of the validation part, by which converters get their ranges


@dataclass(frozen=True)
class Asked:
    """What to evaluate. noise: kinds; each acts alone, and all together, these also under every corruption. chips: that
    are drawn for noise. seed: of all that is drawn. images: of the test part, the first so many; None: all."""

    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = SEVERITIES
    noise: tuple[Kind, ...] = ()
    chips: int = CHIPS
    seed: int = 0
    images: int | None = None

    def conditions(self) -> list[Condition]:
        """All conditions, the clean one first."""
        kinds = [(kind,) for kind in self.noise] + ([self.noise] if len(self.noise) > 1 else [])
        corruptions = [(name, severity) for name in self.corruptions for severity in self.severities]
        together = [Condition(*one, self.noise) for one in corruptions if self.noise]
        alone = [*(Condition(*one) for one in corruptions), *(Condition(noise=some) for some in kinds)]
        return [Condition(), *alone, *together]


@dataclass(frozen=True)
class Condition:
    """What images and chips are like. severity: of the corruption, 0 where there is none. noise: kinds that act."""

    corruption: str = ""
    severity: int = 0
    noise: tuple[Kind, ...] = ()

    @property
    def kind(self) -> Literal["clean", "corruption", "noise", "both"]:
        if self.corruption:
            return "both" if self.noise else "corruption"
        return "noise" if self.noise else "clean"

    @property
    def name(self) -> str:
        """The corruption, or kinds of noise joined by +, or both joined by &."""
        return " & ".join(part for part in (self.corruption, "+".join(self.noise)) if part) or "clean"


@dataclass(frozen=True, repr=False)
class Shift:
    """What was found. Printed it is a line; `table()` is for a terminal, `content()` for a file.

    mappings: by name, points first; recorded: their accuracies in result.json. right: [conditions, mappings, images],
    which part of the trainings and chips has an image right; the first condition is clean. drawn: accuracies of
    resamples of the images, [resamples, conditions, mappings].
    """

    heading: dict[str, Any]
    mappings: tuple[str, ...]
    recorded: tuple[float, ...]
    conditions: tuple[Condition, ...]
    right: np.ndarray
    drawn: np.ndarray

    def __repr__(self) -> str:
        heading, (name, places) = self.heading, self.rows()[-1]
        clean, left = self.accuracies([0]), self.accuracies(places)
        best = int(left.argmax())
        return (
            f"{heading['workload']} on {heading['soc']}, {heading['data']}: {len(self.mappings)} mappings under "
            f"{len(self.conditions) - 1} conditions; best under {name}: {self.mappings[best]}, {left[best]:.2%} "
            f"({clean[best]:.2%} clean)"
        )

    def rows(self) -> list[tuple[str, list[int]]]:
        """What a table and a figure show: each corruption over its severities, all corruptions, each noise, and both
        together, of more than a few corruptions only as a whole; the places of the conditions that a row is the mean
        of."""
        by_name: dict[str, list[int]] = {}
        for at, one in enumerate(self.conditions):
            by_name.setdefault(one.name, []).append(at)
        rows = []
        for kind in ("clean", "corruption", "noise", "both"):
            mine = [(name, at) for name, at in by_name.items() if self.conditions[at[0]].kind == kind]
            if kind != "both" or len(mine) <= FEW:
                rows += mine
            if kind in ("corruption", "both") and len(mine) > 1:
                with_noise = f" & {'+'.join(self.conditions[mine[0][1][0]].noise)}" if kind == "both" else ""
                rows.append((f"all corruptions{with_noise}", [place for _, at in mine for place in at]))
        return rows

    def accuracies(self, places: Sequence[int]) -> np.ndarray:
        """The mean of some conditions' accuracies, [mappings]."""
        return np.asarray(self.right[list(places)].mean((0, 2)))

    def order(self, places: Sequence[int]) -> Order:
        """What some conditions, taken together, make of the clean order."""
        drawn = self.drawn[:, list(places)].mean(1)
        return order(self.accuracies([0]), self.accuracies(places), self.drawn[:, 0], drawn)

    def table(self, columns: int | None = None) -> Group:
        """Accuracies by condition and mapping, and behind the last mapping what becomes of their order: a table, or of
        more mappings than have room in so many columns (None: any number) several, one below the other."""
        heading, n = self.heading, len(self.mappings)
        at_once = n if columns is None else max(1, (columns - CONDITION_WIDE - ORDER_WIDE) // MAPPING_WIDE)
        tables = [self._part(range(first, min(first + at_once, n)), n) for first in range(0, n, at_once)]
        images = f"{heading['images']} images"
        tables[0].title = f"{heading['workload']} on {heading['soc']}, {heading['data']}: accuracy, % of {images}"
        tables[-1].caption = "; ".join(self._notes())
        between: list[Table | str] = [""] * (2 * len(tables) - 1)
        between[::2] = tables
        return Group(*between)

    def _part(self, mappings: range, of: int) -> Table:
        """The table of some mappings; with the last of them, the column of the order."""
        last = mappings.stop == of
        out = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, show_edge=False)
        out.add_column("condition")
        for i in mappings:
            out.add_column(self.mappings[i], justify="right", overflow="fold", min_width=6)
        if last:
            out.add_column("order kept", justify="right", min_width=8)
        for name, places in self.rows():
            values = self.accuracies(places)
            cells = [f"{100 * values[i]:.1f}" for i in mappings]
            if last:
                cells.append("" if name == "clean" else _interval(self.order(places).kendall))
            out.add_row(name, *cells)
        return out

    def _notes(self) -> Iterator[str]:
        kinds = {one.kind for one in self.conditions}
        if kinds & {"corruption", "both"}:
            yield f"corruptions: means of severities {', '.join(map(str, self.heading['severities']))}"
        if kinds & {"noise", "both"}:
            yield f"noise: means of {self.heading['chips']} chips drawn"
        if kinds != {"clean"}:
            yield f"order kept: Kendall's tau-b with the clean order, and its interval over images ({SURE:.0%})"
        for name, places in self.rows():
            for a, b in self.order(places).turned:
                yield f"under {name} {self.mappings[b]} is surely better than {self.mappings[a]}, which is better clean"
        for mapping, value, recorded in zip(self.mappings, self.accuracies([0]), self.recorded, strict=True):
            if abs(value - recorded) > 1e-12 and self.heading["images"] == self.heading["test_images"]:
                yield f"{mapping} has {recorded:.4%} in result.json: measured with other hardware or versions"

    def content(self) -> dict[str, Any]:
        """As JSON."""
        conditions = [
            {
                "kind": one.kind,
                "name": one.name,
                "severity": one.severity,
                "accuracy": self._named(self.accuracies([at])),
                **self.order([at]).plain(self.mappings),
            }
            for at, one in enumerate(self.conditions)
        ]
        rows = [
            {"name": name, "accuracy": self._named(self.accuracies(at)), **self.order(at).plain(self.mappings)}
            for name, at in self.rows()
        ]
        recorded = dict(zip(self.mappings, self.recorded, strict=True))
        return {**self.heading, "recorded": recorded, "conditions": conditions, "means": rows}

    def _named(self, values: np.ndarray) -> dict[str, float]:
        return dict(zip(self.mappings, values.tolist(), strict=True))


def _interval(one: Correlation) -> str:
    if one.value is None or one.low is None or one.high is None:
        return "-"
    return f"{one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def evaluate(run: TrainedRun, asked: Asked, report: Report = untold, kept: Kept | None = None) -> Shift:
    """Evaluate the mappings of a run. report(networks evaluated, of how many, condition). kept: the folder of an
    evaluation, and whether to go on with the one there. InputError for noise that its SoC does not state, and for
    corruptions of what are no images."""
    noise = noise_of(run.config.soc, asked.noise)
    if run.data.task.name != CLASSIFICATION:
        raise InputError(f"{run.folder}: its network was trained for {run.data.task.name}; {CLASSIFICATION} is needed")
    n = len(run.data.test)
    if asked.images is not None and asked.images > n:
        raise InputError(f"{asked.images} test images of {run.data.name}; it has {n}")
    x, y = run.data.test.items(torch.arange(asked.images or n))
    pixels = pixels_of(run.data, x) if asked.corruptions else x
    conditions = asked.conditions()
    trainings = [run.trainings(one) for one in run.found]
    nets = [[training.net for training in some] for some in trainings]
    with_adc = _converted(run, nets, noise) if noise.adc_bits else nets
    right = np.zeros((len(conditions), len(nets), len(y)))
    chips = [asked.chips if one.noise else 1 for one in conditions]
    done, total = 0, sum(map(len, nets)) * sum(chips)
    with contextlib.nullcontext() if kept is None else kept.opened(run, asked) as folder:
        for at, one in enumerate(conditions):
            what = one.name if not one.severity else f"{one.name} {one.severity}"
            phase = f"{at:03d}.{what.replace(' ', '_')}"
            if folder is not None and folder.finished(phase) is not None:
                right[at] = folder.weights(phase)["right"].numpy()
                done += sum(map(len, nets)) * chips[at]
                continue
            seen = x
            if one.corruption:
                seen = normalised(run.data, corrupted(pixels, one.corruption, one.severity, asked.seed))
            acting = Noise(noise.levels, one.noise) if one.noise else Noise()
            for m, some_nets in enumerate(with_adc if "adc" in one.noise else nets):
                for net, chip in itertools.product(some_nets, range(chips[at])):
                    acting.draw(net, generator(asked.seed, "chip", chip))
                    rights = right_of(net, seen, y, run.data.task, at_once(run.data.test)).double().numpy()
                    right[at, m] += rights / (len(some_nets) * chips[at])
                    quiet(net)
                    done += 1
                    report(done, total, what)
            if folder is not None:
                folder.finish(phase, {"images": len(y)}, {"right": torch.from_numpy(right[at].copy())})
    # The mean of what all trainings find, as result.json has it.
    recorded = tuple(sum(one.metric for one in some) / len(some) for some in trainings)
    return Shift(
        _heading(run, asked, noise, len(y)), tuple(one.name for one in run.found), recorded, tuple(conditions), right,
        resampled(right, asked.seed),
    )  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """The folder of an evaluation, as that of any run (`runfolder`): what was asked for, and what is right under each
    condition that is done. resume: go on with the one there."""

    folder: Path
    resume: bool = False

    def opened(self, run: TrainedRun, asked: Asked) -> RunFolder:
        """Locked, and new, or of the same evaluation of the same run. InputError for another."""
        stated = asdict(asked) | {"result": digest_of(run.files.read("result.json"))}
        return RunFolder(self.folder, stated, self.resume)


def _heading(run: TrainedRun, asked: Asked, noise: Noise, images: int) -> dict[str, Any]:
    return {
        "soc": run.config.soc.name, "workload": run.opened.workload.name, "space": run.config.space,
        "data": run.data.name, "provenance": run.data.provenance, "images": images,
        "test_images": len(run.data.test),
        "trained_with_noise": list(run.config.train_noise), "trainings": run.config.seeds,
        "severities": list(asked.severities), "chips": asked.chips, "seed": asked.seed,
        "noise": noise.levels.model_dump() if noise.levels is not None else None,
    }  # fmt: skip


def _converted(run: TrainedRun, nets: list[list[MixedNet]], noise: Noise) -> list[list[MixedNet]]:
    """The networks with converters: those that they were trained with, or new ones with ranges of their own."""
    if run.config.converter_bits:
        return nets
    out, val = copy.deepcopy(nets), run.data.val
    images, _ = val.items(torch.arange(min(RANGED_BY, len(val))))
    for net in (net for some in out for net in some):
        set_ranges(net, noise.adc_bits, images)
    return out


@torch.no_grad()
def right_of(net: MixedNet, x: Tensor, y: Tensor, task: Task, batch: int) -> Tensor:
    """Which images a network has right, bool [n]; in batches, which are those in which runs measure accuracy."""
    net.eval()
    parts = zip(torch.split(x, batch), torch.split(y, batch), strict=True)
    return torch.cat([task.seen(net(part), of) for part, of in parts])


def pixels_of(data: Data, x: Tensor) -> Tensor:
    """Images with pixels in 0..1 of normalised ones. InputError where they are none."""
    if x.dim() != 4 or x.shape[1] not in (1, 3):
        check_images(x)
    if not data.mean or not data.std:
        raise InputError(f"the data of {data.name} do not say how pixels were normalised; mean and std are needed")
    mean, std = (torch.tensor(figures).float().reshape(1, -1, 1, 1) for figures in (data.mean, data.std))
    pixels = x * std + mean
    off = 1e-3  # far more than rounding, far less than a grey level
    if float(pixels.min()) < -off or float(pixels.max()) > 1 + off:
        raise InputError(f"the data of {data.name} are no images with pixels in 0..1; corruptions are of such")
    return pixels.clamp(0, 1)


def normalised(data: Data, pixels: Tensor) -> Tensor:
    """What a network reads of images with pixels in 0..1."""
    mean, std = (torch.tensor(figures).float().reshape(1, -1, 1, 1) for figures in (data.mean, data.std))
    return (pixels - mean) / std


def severities_of(text: str) -> tuple[int, ...]:
    """Severities of `3`, `1,3` or `1..5`. InputError for others."""
    found: list[int] = []
    for part in text.split(","):
        ends = part.split("..")
        if not (1 <= len(ends) <= 2 and all(end.strip().isdecimal() and len(end) < 4 for end in ends)):
            raise InputError(f"severity {text!r}: 1..5 is needed, or some of them, such as 3 or 1,5")
        found += range(int(ends[0]), int(ends[-1]) + 1)
    if not found or any(one not in SEVERITIES for one in found):
        raise InputError(f"severity {text!r}: 1..5 is needed, or some of them, such as 3 or 1,5")
    return tuple(sorted(set(found)))

"""Data of a user's own: is every item read, from arrays, folders and functions, and what cannot be read named?"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from cosoc.search.training import data as reading
from cosoc.search.training.batches import Plan, batches
from cosoc.search.training.compute import Compute
from cosoc.search.training.data import Data, load_data
from cosoc.search.training.image_folder import ENDS
from cosoc.search.training.parts import Split, Stored
from cosoc.search.training.space import TrainingConfig, judged_by, search_trained
from cosoc.search.training.task import regression
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.theta import Theta

CLASSES = 3
Arrays = dict[str, np.ndarray]


def pixels(n: int, seed: int, channels: int = 3, side: int = 6) -> np.ndarray:
    """Images [n, c, h, w], uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def back(data: Data, x: torch.Tensor) -> np.ndarray:
    """Normalisation undone, back to 0..255."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    return ((x * std + mean) * 255).round().to(torch.uint8).numpy()  # type: ignore[no-any-return]


def every(data: Data, *parts: str) -> set[tuple[bytes, int]]:
    """Images and labels of some parts."""
    found = set()
    for name in parts:
        part = getattr(data, name)
        x, y = part.items(torch.arange(len(part)))
        found |= {(one.tobytes(), int(label)) for one, label in zip(back(data, x), y, strict=True)}
    return found


# ------------------------------------------------------------------------------------------------ .npz


def arrays(**others: Any) -> Arrays:
    """A data set of 3 classes."""
    train, test = pixels(30, 1), pixels(9, 2)
    given = {"x_train": train, "y_train": np.arange(30) % CLASSES, "x_test": test, "y_test": np.arange(9) % CLASSES}
    return {key: np.asarray(value) for key, value in (given | others).items() if value is not None}


@pytest.mark.parametrize("layout", ["first", "last", "compressed"])
def test_every_image_of_an_npz_is_read(tmp_path: Path, layout: str) -> None:
    """Channels first or last, packed or not: the same images."""
    given = arrays()
    stored = {k: x.transpose(0, 2, 3, 1) if layout == "last" and x.ndim == 4 else x for k, x in given.items()}
    (np.savez_compressed if layout == "compressed" else np.savez)(tmp_path / "mine.npz", **stored)
    data = load_data(str(tmp_path / "mine.npz"), seed=1)
    assert data.name == "mine" and data.classes == ("0", "1", "2") and data.input_shape == (3, 6, 6)
    for parts, key in ((("train", "val"), "train"), (("test",), "test")):
        pairs = zip(given[f"x_{key}"], given[f"y_{key}"], strict=True)
        assert every(data, *parts) == {(x.tobytes(), int(y)) for x, y in pairs}
    assert "train, val, test held in memory" in data.provenance


def test_parts_that_are_given_are_not_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **arrays(x_val=pixels(6, 3), y_val=np.arange(6) % CLASSES))
    data = load_data(str(tmp_path / "mine.npz"), seed=1)
    assert [len(part) for part in (data.train, data.val, data.test)] == [30, 6, 9]
    assert "split" not in data.provenance


def test_an_npz_of_numbers_says_its_task(tmp_path: Path) -> None:
    """Floats are taken as they are; nobody guesses what they are for."""
    x, y = np.random.default_rng(0).normal(size=(20, 5)), np.random.default_rng(1).normal(size=(20, 2))
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, task="regression", outputs=2)
    data = load_data(str(tmp_path / "mine.npz"), seed=1)
    assert (data.task.name, data.task.n_outputs, data.input_shape) == ("regression", 2, (5,))
    assert (data.mean, data.std) == ((), ())
    both = torch.cat([part.items(torch.arange(len(part)))[0] for part in (data.train, data.val, data.test)])
    assert np.array_equal(np.sort(both.numpy(), 0), np.sort(x.astype(np.float32), 0))
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y)
    with pytest.raises(InputError, match="outputs is missing: how many values the network gives"):
        load_data(str(tmp_path / "other.npz"), seed=1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def lie(path: Path) -> None:
    """A header that claims a hundred times the data."""
    with zipfile.ZipFile(path, "w") as archive:
        out = io.BytesIO()
        np.save(out, np.zeros((10, 1, 4, 4), np.uint8))
        archive.writestr("x_train.npy", out.getvalue().replace(b"(10, 1, 4, 4)", b"(990,1, 4, 4)"))


def objects(path: Path) -> None:
    np.savez(path, x_train=np.array([print, None], dtype=object), y_train=np.arange(2))


NPZ: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "cannot be read as .npz"),
    "no zip": (lambda p: p.write_bytes(b"hello"), "cannot be read as .npz"),
    "a header that lies": (lie, "160 bytes of data; its header says 15,840"),
    "objects": (objects, "x_train: holds object; numbers or text are needed"),
    "no labels": (lambda p: np.savez(p, **arrays(y_train=None)), "y_train is missing; it has x_train, x_test, y_test"),
    "half a part": (lambda p: np.savez(p, **arrays(y_test=None)), "y_test is missing"),
    "unknown": (lambda p: np.savez(p, **arrays(x_tets=np.zeros(2))), "holds 'x_tets'; known are x_train"),
    "fewer labels": (lambda p: np.savez(p, **arrays(y_test=np.zeros(8, int))), "inputs (9, 3, 6, 6) with targets (8,)"),
    "a class too many": (
        lambda p: np.savez(p, **arrays(y_test=np.full(9, 3))),
        "test: targets are 3 to 3; 0 to 2 are the outputs",
    ),
    "any layout": (
        lambda p: np.savez(p, **arrays(x_train=np.zeros((30, 6, 6, 6), np.uint8))),
        "pixels (30, 6, 6, 6); (n, h, w), (n, h, w, c) or (n, c, h, w) with c 1 or 3 is needed",
    ),
    "an unknown task": (lambda p: np.savez(p, **arrays(task="classify")), "no task named 'classify'; there is"),
    "two counts": (lambda p: np.savez(p, **arrays(outputs=4, classes=["a", "b"])), "outputs is 4, and classes has 2"),
    "two types": (
        lambda p: np.savez(p, **arrays(x_test=np.zeros((9, 3, 6, 6)))),
        "x_test is float64, and x_train uint8",
    ),
}


@pytest.mark.parametrize("case", NPZ)
def test_damage_of_an_npz_is_named(tmp_path: Path, case: str) -> None:
    damage, message = NPZ[case]
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays())
    damage(path)
    with pytest.raises(InputError) as refused:
        load_data(str(path), seed=0)
    assert message in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_an_npz_that_unfolds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 10)
    np.savez_compressed(tmp_path / "mine.npz", x_train=np.zeros((1 << 12, 1, 2, 2), np.uint8))
    with pytest.raises(InputError, match="x_train takes 16,512 bytes; at most 1,024 are read"):
        load_data(str(tmp_path / "mine.npz"), seed=0)


# ------------------------------------------------------------------------------------------------ folders


def write_images(folder: Path, x: np.ndarray, end: str = "png") -> None:
    """One image after the other into the folders of 3 classes."""
    image = pytest.importorskip("PIL.Image")
    for i, one in enumerate(x):
        inner = folder / "abc"[i % CLASSES]
        inner.mkdir(parents=True, exist_ok=True)
        shown = one[0] if len(one) == 1 else one.transpose(1, 2, 0)
        image.fromarray(np.ascontiguousarray(shown)).save(inner / f"{i:03}.{end}")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("held", [True, False])
def test_every_image_of_a_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, held: bool
) -> None:
    """Kept in memory or not, grey or coloured: the images that were written, under the classes of their folders."""
    if not held:
        monkeypatch.setattr(reading, "HELD_BYTES", 100)
    train, test = pixels(30, 1, channels), pixels(9, 2, channels)
    write_images(tmp_path / "mine" / "train", train)
    write_images(tmp_path / "mine" / "test", test)
    (tmp_path / "mine" / "train" / "a" / "notes.txt").write_text("no image")
    data = load_data(str(tmp_path / "mine"), seed=1)
    assert (data.name, data.classes, data.input_shape) == ("mine", ("a", "b", "c"), (channels, 6, 6))
    assert every(data, "train", "val") == {(x.tobytes(), i % CLASSES) for i, x in enumerate(train)}
    assert every(data, "test") == {(x.tobytes(), i % CLASSES) for i, x in enumerate(test)}
    for part in (data.train, data.val, data.test):
        assert isinstance(part, Split if held else Stored)
    assert ("held in memory" in data.provenance) == held and ("read item by item" in data.provenance) != held
    x, _ = data.train.items(torch.arange(len(data.train)))
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0] * channels, abs=1e-5)
    assert x.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * channels, abs=1e-5)


def test_training_is_the_same_whether_images_are_held_or_read_by_whomever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last digit of every loss: where items lie is nobody's business but the data's."""
    write_images(tmp_path / "mine" / "train", pixels(60, 1, 1, 8))
    found = []
    for bound, workers in ((reading.HELD_BYTES, 0), (100, 0), (100, 1)):
        monkeypatch.setattr(reading, "HELD_BYTES", bound)
        out = tmp_path / f"{bound}_{workers}"
        config = TrainingConfig(
            find_soc("diana"), "digits_cnn", data=str(tmp_path / "mine"), epochs=2, points=0, manual=("all_8bit",),
            theta=Theta(), compute=Compute(workers=workers), out=out,
        )  # fmt: skip
        result = search_trained(config, lambda done, total, what: None)
        found.append(((out / "metrics.jsonl").read_text(), [one.accuracy for one in result.found]))
        assert ("held in memory" in result.about["provenance"]) == (bound > 100)
    assert found[0] == found[1] == found[2] and found[0][0].count("loss") == 3


def test_images_are_brought_to_a_size_that_is_asked_for(tmp_path: Path) -> None:
    """A wide image is cut alike on both sides: its middle stays. Without a size, images must be alike."""
    wide = np.zeros((3, 3, 4, 8), np.uint8)
    wide[:, :, :, 2:6] = 200  # the middle half
    write_images(tmp_path / "train", np.concatenate([wide] * 4))
    data = load_data(str(tmp_path), seed=1, input_shape=(1, 4, 4))
    assert data.input_shape == (1, 4, 4)
    x, _ = data.train.items(torch.arange(len(data.train)))
    assert (back(data, x) == 200).all()
    write_images(tmp_path / "val", pixels(3, 1))
    with pytest.raises(InputError, match=r"images of \(3, 6, 6\) \(c, h, w\), in train of \(3, 4, 8\); bring them to"):
        load_data(str(tmp_path), seed=1)


def test_any_first_items_of_a_part_are_of_all_classes(tmp_path: Path) -> None:
    """Folders are read class by class, and searches judge by the first items of the validation part: of 60 of three
    classes the first 30 have none of a class with probability 2e-8, and each 10 with a deviation of 1.8."""
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_images(tmp_path / part, pixels(60, seed))
    data = load_data(str(tmp_path), seed=0)
    for part in (data.val, data.test):
        _, labels = part.items(torch.arange(30))
        assert torch.bincount(labels, minlength=CLASSES).min() >= 4
    again, other = (load_data(str(tmp_path), seed=seed) for seed in (0, 1))
    assert torch.equal(again.val.items(torch.arange(60))[1], data.val.items(torch.arange(60))[1])
    assert not torch.equal(other.val.items(torch.arange(60))[1], data.val.items(torch.arange(60))[1])
    assert every(other, "val") == every(data, "val")


def other_class(folder: Path) -> None:
    write_images(folder / "val", pixels(3, 1))
    (folder / "val" / "a").rename(folder / "val" / "d")


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another size": (
        lambda f: write_images(f / "train" / "c", pixels(1, 1, side=7)),
        "c/a/000.png: 7 x 7 pixels (h x w), and ",
    ),
    "cut": (
        lambda f: (f / "train/b/001.png").write_bytes(b"\x89PNG\r\n\x1a\n12"),
        "001.png: cannot be read as an image",
    ),
    "no image": (lambda f: (f / "train/b/001.png").write_text("hello"), "001.png: cannot be read as an image"),
    "another class": (other_class, "has a folder 'd'; classes are the folders of train: a, b, c"),
    "another part": (lambda f: write_images(f / "valid", pixels(3, 1)), "so call it 'val'"),
    "no images": (lambda f: (f / "train" / "d").mkdir(), f"no images in it ({', '.join(sorted(ENDS))})"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_damage_of_a_folder_is_named(tmp_path: Path, case: str) -> None:
    damage, message = FOLDERS[case]
    write_images(tmp_path / "train", pixels(30, 1))
    damage(tmp_path)
    with pytest.raises(InputError) as refused:
        load_data(str(tmp_path), seed=0)
    assert message in str(refused.value) and "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------------------ functions


class Squares(Dataset[tuple[torch.Tensor, int]]):
    """Number n as a vector, and its class; items are made when they are asked for."""

    def __init__(self, n: int) -> None:
        self.n, self.asked = n, list[int]()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        self.asked.append(number)
        return torch.full((4,), float(number)), number % CLASSES


class Endless(IterableDataset[Any]):
    """Has no items by number."""

    def __iter__(self) -> Iterator[Any]:
        yield from ()


def good(**others: Any) -> dict[str, Any]:
    """What a function may give."""
    x, y = torch.randn(30, 4), torch.arange(30) % CLASSES
    given = {"train": (x, y), "test": TensorDataset(x[:6], y[:6]), "task": "classification", "outputs": CLASSES}
    return {key: value for key, value in (given | others).items() if value is not None}


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """A function of a module of a user's that gives something, and how it is named."""
    module = type(sys)("mine_for_test")
    monkeypatch.setitem(sys.modules, "mine_for_test", module)

    def named(gives: Any) -> str:
        module.make = lambda: gives  # type: ignore[attr-defined]
        return "mine_for_test:make"

    return named


def test_a_function_gives_tensors_datasets_or_loaders(function: Callable[[Any], str]) -> None:
    """The same items, whatever they come in; only what is asked for is read of a data set."""
    squares, x = Squares(30), torch.arange(30.0)[:, None].expand(30, 4)
    y = torch.arange(30) % CLASSES
    ways = [
        squares,
        DataLoader(squares, batch_size=7, shuffle=True),
        (x, y),
        (x.numpy(), y.numpy()),
        TensorDataset(x, y),
    ]
    found = []
    for way in ways:
        data = load_data(function(good(train=way)), seed=1, train_images=12)
        pairs = [part.items(torch.arange(len(part))) for part in (data.train, data.val)]
        found.append({(float(a[0]), int(b)) for xs, ys in pairs for a, b in zip(xs, ys, strict=True)})
        assert isinstance(data.train, Split) == (way is not squares and not isinstance(way, DataLoader))
    assert all(n % CLASSES == label for n, label in found[0])
    assert len(found[0]) == 12 + 3 and len(found[2]) == 12 + 3
    squares.asked.clear()
    data = load_data(function(good(train=squares)), seed=1)
    assert set(squares.asked) == {0}
    squares.asked.clear()
    data.train.items(torch.tensor([3, 5]))
    assert len(squares.asked) == 2 and "train, val read item by item" in data.provenance


def test_a_function_may_bring_a_task_of_its_own(function: Callable[[Any], str]) -> None:
    x = torch.randn(12, 4)
    given = good(train=(x, x[:, :1]), test=(x, x[:, :1]), task=regression(1), outputs=None, mean=[0.5], std=[2.0])
    data = load_data(function(given), seed=1)
    assert data.task == given["task"] and (data.mean, data.std) == ((0.5,), (2.0,))


def test_a_functions_bytes_are_pixels(function: Callable[[Any], str]) -> None:
    """They are normalised like those of a file."""
    x, y = pixels(30, 1), torch.arange(30) % CLASSES
    data = load_data(function(good(train=(torch.from_numpy(x), y), test=(x[:6], y[:6]))), seed=1)
    assert every(data, "train", "val") == {(one.tobytes(), int(label)) for one, label in zip(x, y, strict=True)}


NETS = {
    "segmentation": lambda: nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 1)),
    "sequence_labelling": lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)),
    "absolute_regression": lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)),
}
SHAPES = {
    "segmentation": ((1, 6, 6), (6, 6)), "sequence_labelling": ((5, 8), (5,)), "absolute_regression": ((8,), (3,)),
}  # fmt: skip


@pytest.mark.parametrize("task", NETS)
def test_a_task_is_trained_with_a_mapping(function: Callable[[Any], str], tmp_path: Path, task: str) -> None:
    """Maps, rows and vectors of outputs, from a function's data to a point, judged by the task's metric."""
    inputs, targets = SHAPES[task]
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(24, *inputs, generator=draws)
    y = torch.randint(CLASSES, (24, *targets), generator=draws)
    parts = (x[:16], y[:16]), (x[16:], y[16:])
    given = {"train": parts[0], "val": parts[1], "test": parts[1], "task": task, "outputs": CLASSES}
    config = TrainingConfig(
        find_soc("diana"), task, data=function(given), module=NETS[task](), epochs=2, strengths=(1.0,), theta=Theta(),
        manual=("all_8bit",), out=tmp_path / "run",
    )  # fmt: skip
    result = search_trained(config, lambda done, total, what: None)
    assert [one.name for one in result.found] == ["all_8bit", "strength_1"]
    for one in result.found:  # test and validation are the same items here, so the metric is, too
        assert one.accuracy == one.about[f"val_{result.metric.name}"] and math.isfinite(one.accuracy)


class Broken(Squares):
    """Its items cannot be read."""

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        raise KeyError("no such file")


class Uneven(Squares):
    """Its items are of several sizes."""

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(4 + number), 0


FUNCTIONS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "gives a NoneType; a dictionary with train, test, task is needed"),
    "no test": (good(test=None), "test is missing; it gives train, task, outputs"),
    "no task": (good(task=None), "task is missing"),
    "no outputs": (good(outputs=None), "outputs is missing: how many values its network gives for an item"),
    "another key": (good(valid=1), "gives 'valid'; known are train, test, task, val, outputs, classes, mean, std"),
    "another task": (good(task="sorting"), "no task named 'sorting'; there is classification"),
    "odd outputs": (good(outputs=2.5), "outputs is 2.5; a whole number is needed"),
    "odd part": (good(test=7), "test: is a int; a pair of tensors (inputs, targets), a Dataset or a "),
    "endless": (good(test=Endless()), "test: an IterableDataset has no items by number"),
    "its own batches": (good(test=DataLoader(Squares(4), collate_fn=list)), "test: its loader has a collate_fn"),
    "some items": (
        good(test=DataLoader(Squares(9), sampler=SubsetRandomSampler(range(3)))), "test: its loader draws by a Subset"
    ),
    "drawn items": (
        good(train=DataLoader(Squares(9), sampler=WeightedRandomSampler([1.0] * 9, 9))), "draws by a WeightedRandom"
    ),
    "fewer items": (good(train=DataLoader(Squares(9), sampler=RandomSampler(range(9), num_samples=4))), "by a Random"),
    "batches of its own": (
        good(train=DataLoader(Squares(9), batch_sampler=BatchSampler(range(3), 2, False))), "draws by a BatchSampler"
    ),
    "no number": (
        good(train=(torch.tensor([[1.0, math.nan]] * 3), torch.arange(3))), "3 of 6 inputs infinite or no number (NaN)"
    ),
    "an item without a number": (
        good(train=[(torch.full((4,), math.inf), 0)] * 3), "train: item 0: 4 of 4 inputs infinite"
    ),
    "no target": (
        good(task="regression", outputs=1, train=(torch.ones(3, 4), torch.tensor([1.0, math.inf, 2.0]))),
        "train: 1 of 3 targets infinite",
    ),
    "two means": (
        good(train=(torch.ones(3, 3, 2, 2), torch.arange(3)), test=(torch.ones(3, 3, 2, 2), torch.arange(3)),
             mean=[0.5, 0.5], std=[1.0, 1.0]),
        "mean and std have 2 values, and inputs 3 channels",
    ),
    "a mean alone": (good(mean=[0.5]), "mean has 1 values, and std 0; give both"),
    "no deviation": (good(mean=[0.5], std=[0.0]), "numbers are needed, of std above 0"),
    "broken": (good(test=Broken(4)), "test: item 0: KeyError: 'no such file'"),
    "dictionaries": (
        good(train=[{"image": torch.ones(4), "label": 0}] * 3),
        "train: item 0 is a dict of image, label; (input, target) is needed",
    ),
    "an image": (good(test=[("x", 1)]), "test: item 0: holds a builtins.str; tensors, arrays or numbers are needed"),
    "another shape": (good(test=(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))), "inputs of test are ((5,), "),
    "no anomalies": (
        good(task="anomaly_detection", outputs=4, train=(torch.zeros(3, 4), torch.zeros(3)),
             test=(torch.zeros(2, 4), torch.arange(2))),
        "val is missing; it needs anomalies, and train has none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FUNCTIONS)
def test_what_a_function_leaves_out_is_said_in_a_line(function: Callable[[Any], str], case: str) -> None:
    given, message = FUNCTIONS[case]
    with pytest.raises(InputError) as refused:
        load_data(function(given), seed=1)
    assert message in str(refused.value) and "mine_for_test:make" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_anomalies_are_not_what_is_to_be_rebuilt(function: Callable[[Any], str]) -> None:
    """Neither trained on nor, in the validation part, judged by: they are there for the metric alone."""
    x, marks = torch.arange(40.0).reshape(10, 4), torch.tensor([0, 1] * 5)
    parts = {"val": (x, marks), "test": (x, marks), "task": "anomaly_detection", "outputs": 4}
    data = load_data(function(good(train=(x, torch.zeros(10)), **parts)), seed=1)
    assert sorted(judged_by(data).x[:, 0].tolist()) == [0.0, 8.0, 16.0, 24.0, 32.0] and len(data.val) == 10
    with pytest.raises(InputError, match="train has 5 anomalies; it is of normal items"):
        load_data(function(good(train=(x, marks), **parts)), seed=1)


def test_what_a_worker_cannot_read_is_said_in_a_line(function: Callable[[Any], str]) -> None:
    """As without workers, and not with the worker's story around it."""
    data = load_data(function(good(train=Uneven(30))), seed=1)
    told = []
    for workers in (0, 1):
        with pytest.raises(InputError) as refused:
            list(batches(data.train, [Plan(torch.arange(5))], 1, 0, 1, "cpu", workers))
        told.append(str(refused.value))
    assert told[0] == told[1] and "\n" not in told[0] and "all must be alike" in told[0]


def test_items_of_several_sizes_are_named_when_they_are_read(function: Callable[[Any], str]) -> None:
    data = load_data(function(good(train=Uneven(30))), seed=1)
    with pytest.raises(InputError, match=r"train: item \d+ is \(\d+,\) float32, and the first \(4,\) float32"):
        data.train.items(torch.arange(5))


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="absent_for_test:make: no module named 'absent_for_test'"):
        load_data("absent_for_test:make", seed=0)

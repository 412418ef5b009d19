"""Data sets as tensors: scikit-learn's digits, or what the user has.

Nothing is downloaded, and nothing is called what it is not: a folder's data carries a data set's name only where its
test file is that set's, byte for byte; otherwise it carries the folder's.

Formats, by the files in a folder: idx (MNIST, Fashion-MNIST; plain or .gz), CIFAR-10 and CIFAR-100, each in its
Python or its binary version; images by class (`image_folder`). Pickles are read without running anything but numpy's
array constructor. Beside folders .npz files (`arrays`), and functions of a user's (`own_data`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosoc.search.training.arrays import from_npz
from cosoc.search.training.image_folder import from_folder, is_image_folder
from cosoc.search.training.own_data import from_factory
from cosoc.search.training.parts import Given, Part, Split, Stored
from cosoc.search.training.task import Task, classification
from cosoc.sim.errors import InputError
from cosoc.sim.importers.build import Input

# Where `--data NAME` looks, in this order. Debian's package dataset-fashion-mnist installs into the second.
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "fashion_mnist": ("data/fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    "mnist": ("data/mnist",),
    "cifar10": ("data/cifar-10-batches-py", "data/cifar-10-batches-bin"),
    "cifar100": ("data/cifar-100-python", "data/cifar-100-binary"),
}

# MD5 of the file of test images as distributed: MNIST's compressed, CIFAR's python version (both as torchvision checks
# them), Fashion-MNIST's uncompressed, since packagers compress it anew.
_TEST_FILES = {
    "8181f5470baa50b63fa0f6fddb340f0a": "fashion_mnist",
    "9fb629c4189551a2d022fa330f9573f3": "mnist",
    "40351d587109b95175f43aff81a1287e": "cifar10",
    "f0ef6b0ae62326f3e7ffdfab6717acfc": "cifar100",
}
MAX_BYTES = 1 << 30  # of one file of a data set, uncompressed; CIFAR-100's training images are 155 MB
TEST_SHARE = 0.2  # of data without a test part
HELD_BYTES = 1 << 28  # of images from folders, as float32: more are read when they are asked for
SAMPLED = 500  # images of these, whose mean and deviation are those of all
_FASHION = "t-shirt/top trouser pullover dress coat sandal shirt sneaker bag ankle-boot"


@dataclass(frozen=True)
class Data:
    """A data set, split and normalised.

    Pixels are (p / 255 - mean) / std, with mean and std a channel over the images in `train`; other inputs are as they
    were given, with mean and std as its owner states them, or none. `provenance` says where the data came from, how it
    was split, and of a user's own what of it is held in memory. `classes` are names, where it has classes.
    """

    name: str
    provenance: str
    classes: tuple[str, ...]
    train: Part
    val: Part
    test: Part
    mean: tuple[float, ...]
    std: tuple[float, ...]
    task: Task

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one item: (c, h, w) of an image."""
        return self.item.shape

    @property
    def item(self) -> Input:
        """One item, as a network takes it."""
        x, _ = self.train.items(torch.zeros(1, dtype=torch.int64))
        return Input("", tuple(x.shape[1:]), "" if x.is_floating_point() else "int64")

    def split(self) -> dict[str, dict[str, int | str]]:
        """By what a run knows its data again, as plain data: items of each part, and a digest of their classes, one
        after the other, where these are held in memory."""
        found: dict[str, dict[str, int | str]] = {}
        for name, part in (("train", self.train), ("val", self.val), ("test", self.test)):
            found[name] = {"items": len(part)}
            if isinstance(part, Split) and part.y.dtype == torch.int64:
                found[name]["classes"] = f"sha256 {hashlib.sha256(part.y.numpy().tobytes()).hexdigest()}"
        return found


@dataclass(frozen=True)
class _Raw:
    """Images uint8 [n, c, h, w] and labels int64 [n]; without a test part, one is split off."""

    name: str
    provenance: str
    classes: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray | None
    test_y: np.ndarray | None


def load_data(
    name_or_dir: str,
    seed: int,
    val_share: float = 0.1,
    train_images: int | None = None,
    folders: Mapping[str, tuple[str, ...]] = FOLDERS,
    input_shape: Sequence[int] | None = None,
) -> Data:
    """Read a data set: `digits`, a name in `folders`, a folder or an .npz file in one of the known formats, or
    `package.module:function`.

    `seed` decides the split: where there is no validation part, `val_share` of the items for training, class by class
    where they have classes, become one (of data without a test part, a fifth becomes that first). `train_images` keeps
    that many of the rest, at random. `input_shape`: (c, h, w), to which images in folders are brought. Raises
    InputError where files are missing, damaged or not what was asked for.
    """
    if not 0 < val_share < 1:
        raise InputError(f"validation share {val_share}: between 0 and 1 is needed")
    given = _given(name_or_dir, folders, None if input_shape is None else tuple(input_shape)[-3:])
    rng = np.random.default_rng(seed)
    rest = np.arange(len(given.train))
    test, val, how = given.test, given.val, ""
    if given.task.reconstructs and (val is None or test is None):
        missing = "val" if val is None else "test"
        raise InputError(f"{given.name}: {missing} is missing; it needs anomalies, and train has none")
    what = "each class" if given.labels is not None else "what is to train"
    if given.task.reconstructs and isinstance(given.train, Split):
        anomalies = int((given.train.y[:, given.task.n_outputs] != 0).sum())
        if anomalies:
            raise InputError(f"{given.name}: train has {anomalies} anomalies; it is of normal items (0) alone")
    if test is None:
        rest, held = _parted(given, rest, TEST_SHARE, rng)
        test = given.train.at(torch.from_numpy(held))
        how = f"; {TEST_SHARE:g} of {what} for testing" if given.own else ""
    if val is None:
        rest, held = _parted(given, rest, val_share, rng)
        val = given.train.at(torch.from_numpy(held))
        how += f"; split with seed {seed}, {val_share:g} of {what} for validation"
    else:
        rest = rng.permutation(rest)
    if given.own:  # which may be in the order of their classes; of some uses the first so many are taken
        val, test = (part.at(torch.from_numpy(_shuffled(len(part), seed))) for part in (val, test))
    if train_images is not None:
        if not 1 <= train_images <= len(rest):
            raise InputError(f"{train_images} training images of {given.name}; 1 to {len(rest)} can be had")
        rest = rest[:train_images]
    parts: dict[str, Part] = {"train": given.train.at(torch.from_numpy(rest)), "val": val, "test": test}
    if given.same:
        parts = {name: _kept(part) for name, part in parts.items()}
    mean, std = given.mean, given.std
    if given.images:
        statistics = _statistics(_sample(parts["train"]))
        parts = {
            name: part.normalised(*(torch.from_numpy(one).float() for one in statistics))
            for name, part in parts.items()
        }
        mean, std = tuple(statistics[0].tolist()), tuple(statistics[1].tolist())
    if given.own:
        how += f"; {_held(parts)}"
    return Data(
        given.name,
        f"{given.provenance}{how}",
        given.classes,
        parts["train"],
        parts["val"],
        parts["test"],
        mean,
        std,
        given.task,
    )


def _given(name_or_dir: str, folders: Mapping[str, tuple[str, ...]], shape: tuple[int, ...] | None) -> Given:
    """The data set that is meant, as it is."""
    path = Path(name_or_dir)
    if ":" in name_or_dir and not path.exists():
        return from_factory(name_or_dir)
    if path.suffix == ".npz":
        return from_npz(path, MAX_BYTES)
    if name_or_dir not in folders and is_image_folder(path):
        return from_folder(path, shape)
    raw = _digits() if name_or_dir == "digits" else _read_named(name_or_dir, folders)
    test = None if raw.test_x is None or raw.test_y is None else _pixels(raw.test_x, raw.test_y)
    task, train = classification(len(raw.classes)), _pixels(raw.x, raw.y)
    return Given(raw.name, raw.provenance, task, raw.classes, train, None, test, raw.y, True, own=False)


def _pixels(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(torch.from_numpy(np.require(x, requirements="W")), torch.from_numpy(y.astype(np.int64)))


def _parted(given: Given, among: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Some items for training parted at random: (rest, about `share` of them), class by class where there are any."""
    if given.labels is not None:
        rest, held = _stratified(given.labels[among], share, rng)
        return among[rest], among[held]
    shuffled, cut = rng.permutation(among), max(1, round(share * len(among)))
    if len(among) < 2:
        raise InputError(f"{given.name}: {len(among)} items cannot be split")
    return shuffled[cut:], shuffled[:cut]


def _shuffled(n: int, seed: int) -> np.ndarray:
    """The numbers 0 to n - 1 in another order."""
    return np.random.default_rng(seed).permutation(n)


def _kept(part: Part) -> Part:
    """A part that is the same whenever it is read, in memory where it takes no more than HELD_BYTES there."""
    if not isinstance(part, Stored) or len(part) * 4 * math.prod(part.shape) > HELD_BYTES:
        return part
    return Split(*part.items(torch.arange(len(part))))


def _sample(part: Part) -> np.ndarray:
    """Images by which pixels are normalised: all that are in memory, else SAMPLED of them, evenly."""
    if isinstance(part, Split):
        return part.x.numpy()
    index = torch.linspace(0, len(part) - 1, min(SAMPLED, len(part))).round().long()
    return part.items(index)[0].numpy()


def _held(parts: Mapping[str, Part]) -> str:
    """What of a data set is in memory, for people."""
    sizes = {name: part.x.nbytes + part.y.nbytes for name, part in parts.items() if isinstance(part, Split)}
    said = [f"{', '.join(sizes)} held in memory ({sum(sizes.values()) / 2**20:.1f} MiB)"] if sizes else []
    others = [name for name in parts if name not in sizes]
    return "; ".join(said + ([f"{', '.join(others)} read item by item"] if others else []))


def _stratified(y: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices shuffled and parted class by class: (rest, at least one and about `share` of every class)."""
    rest, held = [], []
    for label in np.unique(y):
        of_class = rng.permutation(np.flatnonzero(y == label))
        cut = max(1, round(share * len(of_class)))
        held.append(of_class[:cut])
        rest.append(of_class[cut:])
    if any(len(part) == 0 for part in rest):
        raise InputError(f"too few images to split: a class has only {min(len(p) + 1 for p in rest)}")
    return rng.permutation(np.concatenate(rest)), rng.permutation(np.concatenate(held))


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation a channel, of pixels in 0..1; a channel without contrast keeps scale 1."""
    counts = np.stack([np.bincount(x[:, c].ravel(), minlength=256) for c in range(x.shape[1])])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(axis=1)
    std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(axis=1) - mean**2, 0))
    return mean, np.where(std > 0, std, 1.0)


# ---------------------------------------------------------------------------------------------- which set


def _digits() -> _Raw:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the digits need scikit-learn: pip install 'cosoc[data]'") from None
    found = load_digits()
    # Grey levels are 0..16; stretched to 0..255 so that one rule of normalisation serves all.
    x = np.round(found.images * (255 / 16)).astype(np.uint8)[:, None]
    classes = tuple(str(name) for name in found.target_names)
    return _Raw("digits", "scikit-learn's load_digits", classes, x, found.target.astype(np.int64), None, None)


def _read_named(name_or_dir: str, folders: Mapping[str, tuple[str, ...]]) -> _Raw:
    if name_or_dir not in folders:
        return _read_folder(Path(name_or_dir), folders)
    present = [Path(folder) for folder in folders[name_or_dir] if Path(folder).is_dir()]
    if not present:
        looked = ", ".join(folders[name_or_dir])
        raise InputError(f"{name_or_dir} is not here; looked in {looked}. Give its folder: --data FOLDER ({_LAYOUTS})")
    raw = _read_folder(present[0], folders)
    if raw.name != name_or_dir:
        found = f"{present[0]} does not hold {name_or_dir} as distributed"
        raise InputError(f"{found}; to use it as what it is, --data {present[0]}")
    return raw


def _read_folder(folder: Path, folders: Mapping[str, tuple[str, ...]]) -> _Raw:
    if not folder.is_dir():
        known = ", ".join(("digits", *folders))
        raise InputError(f"no data set or folder {str(folder)!r}; known by name are {known}")
    for marker, reader in _READERS.items():
        path = _find(folder, marker)
        if path is not None:
            name = _identity(path) or folder.resolve().name
            raw = reader(folder, name)
            return _checked(raw, folder)
    raise InputError(f"{folder}: no known image files in it; {_LAYOUTS}")


def _identity(path: Path) -> str:
    """The data set whose test file this is, or ''."""
    packed = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    names = (_TEST_FILES.get(_md5(data)) for data in (packed, _plain(path)))
    return next((name for name in names if name), "")


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _checked(raw: _Raw, folder: Path) -> _Raw:
    """Images and labels in equal numbers, every label a class."""
    for x, y, part in ((raw.x, raw.y, "training"), (raw.test_x, raw.test_y, "test")):
        if x is None or y is None:
            continue
        if len(x) != len(y) or len(x) == 0:
            raise InputError(f"{folder}: {len(x)} {part} images with {len(y)} labels; equal numbers are needed")
        if y.min() < 0 or y.max() >= len(raw.classes):
            found = f"labels from {y.min()} to {y.max()}"
            raise InputError(f"{folder}: {part} {found}; 0 to {len(raw.classes) - 1} are its classes")
    return raw


def _find(folder: Path, name: str) -> Path | None:
    """A file by name, or compressed beside it."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _plain(path: Path) -> bytes:
    """A file's content, uncompressed; InputError beyond MAX_BYTES of it."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: holds more than {MAX_BYTES:,} bytes, uncompressed; no more are read")
    return content


def _needed(folder: Path, name: str) -> bytes:
    path = _find(folder, name)
    if path is None:
        raise InputError(f"{folder}: {name} is missing (it may be compressed, as {name}.gz)")
    return _plain(path)


# ---------------------------------------------------------------------------------------------- formats


def _read_idx(folder: Path, name: str) -> _Raw:
    x, y, test_x, test_y = (
        _idx(_needed(folder, file), folder / file, dimensions)
        for file, dimensions in (
            ("train-images-idx3-ubyte", 3),
            ("train-labels-idx1-ubyte", 1),
            ("t10k-images-idx3-ubyte", 3),
            ("t10k-labels-idx1-ubyte", 1),
        )
    )
    count = int(y.max()) + 1 if len(y) else 1
    classes = tuple(_FASHION.split()) if name == "fashion_mnist" else tuple(str(i) for i in range(count))
    labels = y.astype(np.int64), test_y.astype(np.int64)
    return _Raw(name, f"idx files in {folder}", classes, x[:, None], labels[0], test_x[:, None], labels[1])


def _idx(data: bytes, path: Path, dimensions: int) -> np.ndarray:
    """An idx file: two zero bytes, a type (8: unsigned byte), the number of dimensions, big-endian sizes, the data."""
    if len(data) < 4 + 4 * dimensions or data[:4] != bytes((0, 0, 8, dimensions)):
        raise InputError(f"{path}: starts with {data[:4].hex(' ')}; an idx file of {dimensions} dimensions is needed")
    sizes = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    body = data[4 + 4 * dimensions :]
    if len(body) != int(np.prod(sizes, dtype=object)):
        raise InputError(f"{path}: {len(body)} bytes of data; its header says {'x'.join(map(str, sizes))}")
    return np.frombuffer(body, np.uint8).reshape(sizes)


_CIFAR_SHAPE = (3, 32, 32)
_CIFAR10_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


def _read_cifar10_python(folder: Path, name: str) -> _Raw:
    parts = [_cifar_batch(folder / file, "labels") for file in (*_CIFAR10_BATCHES, "test_batch")]
    classes = _cifar_names(folder / "batches.meta", "label_names")
    return _joined(name, f"CIFAR-10 python files in {folder}", classes, parts)


def _read_cifar100_python(folder: Path, name: str) -> _Raw:
    parts = [_cifar_batch(folder / file, "fine_labels") for file in ("train", "test")]
    return _joined(
        name, f"CIFAR-100 python files in {folder}", _cifar_names(folder / "meta", "fine_label_names"), parts
    )


def _read_cifar10_binary(folder: Path, name: str) -> _Raw:
    parts = [_cifar_records(folder / f"{file}.bin", label_bytes=1) for file in (*_CIFAR10_BATCHES, "test_batch")]
    classes = _text_names(folder / "batches.meta.txt")
    return _joined(name, f"CIFAR-10 binary files in {folder}", classes, parts)


def _read_cifar100_binary(folder: Path, name: str) -> _Raw:
    parts = [_cifar_records(folder / f"{file}.bin", label_bytes=2) for file in ("train", "test")]
    classes = _text_names(folder / "fine_label_names.txt")
    return _joined(name, f"CIFAR-100 binary files in {folder}", classes, parts)


def _joined(name: str, provenance: str, classes: tuple[str, ...], parts: list[tuple[np.ndarray, np.ndarray]]) -> _Raw:
    """All parts but the last are for training."""
    x, y = (np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
    return _Raw(name, provenance, classes, x, y, *parts[-1])


def _cifar_records(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of one or two label bytes (the last is the class) and 3072 pixels."""
    data = np.frombuffer(_needed(path.parent, path.name), np.uint8)
    size = label_bytes + int(np.prod(_CIFAR_SHAPE))
    if len(data) % size or not len(data):
        raise InputError(f"{path}: {len(data)} bytes; a multiple of {size} is needed")
    records = data.reshape(-1, size)
    return records[:, label_bytes:].reshape(-1, *_CIFAR_SHAPE), records[:, label_bytes - 1].astype(np.int64)


def _text_names(path: Path) -> tuple[str, ...]:
    text = _needed(path.parent, path.name).decode("utf-8", errors="replace")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _cifar_batch(path: Path, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    found = _unpickle(path)
    x, y = np.asarray(found.get("data", ())), found.get(label_key)
    if x.dtype != np.uint8 or x.ndim != 2 or x.shape[1] != int(np.prod(_CIFAR_SHAPE)) or not isinstance(y, list):
        raise InputError(f"{path}: a CIFAR batch has uint8 data of n x 3072 and a list under {label_key!r}")
    if not all(isinstance(label, (int, np.integer)) for label in y):
        raise InputError(f"{path}: {label_key!r} must hold whole numbers")
    return x.reshape(-1, *_CIFAR_SHAPE), np.asarray(y, np.int64)


def _cifar_names(path: Path, key: str) -> tuple[str, ...]:
    names = _unpickle(path).get(key)
    if not isinstance(names, list) or not names:
        raise InputError(f"{path}: class names are needed under {key!r}")
    return tuple(_text(name) for name in names)


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain data and numpy arrays; anything else a pickle could call is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode_latin1,
        }
        inner = "multiarray" if module in ("numpy.core.multiarray", "numpy._core.multiarray") else module
        if (inner, name) not in allowed:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}")
        return allowed[inner, name]


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes in Python 2's pickle protocol."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it wants to encode as {encoding}")
    return text.encode("latin1")


def _unpickle(path: Path) -> dict[str, Any]:
    """A pickled dictionary of plain data and arrays, keys as text. Nothing in the file is run."""
    content = _needed(path.parent, path.name)
    try:
        found = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(f"{path}: not a CIFAR batch: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}; a CIFAR batch is a dictionary")
    return {_text(key): value for key, value in found.items()}


_LAYOUTS = (
    "wanted are four idx files (train-images-idx3-ubyte[.gz] and so on), CIFAR-10's data_batch_1[.bin] to "
    "test_batch[.bin], CIFAR-100's train[.bin] and test[.bin], or images in train/CLASS/"
)
# By the file of test images, which tells both the format and the data set.
_READERS = {
    "t10k-images-idx3-ubyte": _read_idx,
    "test_batch": _read_cifar10_python,
    "test_batch.bin": _read_cifar10_binary,
    "test": _read_cifar100_python,
    "test.bin": _read_cifar100_binary,
}

"""Are data sets read as their formats say, split reproducibly, and never called what they are not?"""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cosoc.search.training.data import FOLDERS, Data, load_data
from cosoc.sim.errors import InputError

CLASSES = 4
Images = tuple[np.ndarray, np.ndarray]


def images(count: int, channels: int, side: int, seed: int) -> Images:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, channels, side, side), dtype=np.uint8), np.arange(count) % CLASSES


def write_idx(folder: Path, train: Images, test: Images, compress: bool) -> None:
    for part, (x, y) in (("train", train), ("t10k", test)):
        for kind, array in (("images-idx3", x[:, 0]), ("labels-idx1", y.astype(np.uint8))):
            header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            data = header + array.tobytes()
            name = f"{part}-{kind}-ubyte"
            (folder / f"{name}.gz").write_bytes(gzip.compress(data)) if compress else (folder / name).write_bytes(data)


def cifar_dict(x: np.ndarray, y: np.ndarray, key: str) -> dict[bytes, object]:
    return {b"batch_label": b"part", key.encode(): y.tolist(), b"data": x.reshape(len(x), -1), b"filenames": [b"a.png"]}


def write_cifar10_python(folder: Path, train: Images, test: Images) -> None:
    """As Python 2 pickled it: protocol 2, keys and names as bytes."""
    parts = [(a, b) for a, b in zip(np.array_split(train[0], 5), np.array_split(train[1], 5), strict=True)]
    for name, (x, y) in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], [*parts, test], strict=True):
        (folder / name).write_bytes(pickle.dumps(cifar_dict(x, y, "labels"), protocol=2))
    names = [f"class {i}".encode() for i in range(CLASSES)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names, b"num_vis": 3072}, protocol=2))


def write_cifar100_python(folder: Path, train: Images, test: Images) -> None:
    for name, (x, y) in (("train", train), ("test", test)):
        (folder / name).write_bytes(pickle.dumps(cifar_dict(x, y, "fine_labels"), protocol=2))
    names = [f"class {i}" for i in range(CLASSES)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))


def write_records(path: Path, part: Images, coarse: bool) -> None:
    x, y = part
    labels = np.stack([np.zeros_like(y), y], 1) if coarse else y[:, None]
    path.write_bytes(np.concatenate([labels.astype(np.uint8), x.reshape(len(x), -1)], 1).tobytes())


def write_cifar10_binary(folder: Path, train: Images, test: Images) -> None:
    for i, index in enumerate(np.array_split(np.arange(len(train[1])), 5)):
        write_records(folder / f"data_batch_{i + 1}.bin", (train[0][index], train[1][index]), coarse=False)
    write_records(folder / "test_batch.bin", test, coarse=False)
    (folder / "batches.meta.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)) + "\n")


def write_cifar100_binary(folder: Path, train: Images, test: Images) -> None:
    write_records(folder / "train.bin", train, coarse=True)
    write_records(folder / "test.bin", test, coarse=True)
    (folder / "fine_label_names.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))


FORMATS: dict[str, tuple[tuple[int, int], Callable[[Path, Images, Images], None]]] = {
    "idx": ((1, 6), lambda f, a, b: write_idx(f, a, b, compress=False)),
    "idx.gz": ((1, 6), lambda f, a, b: write_idx(f, a, b, compress=True)),
    "cifar10 python": ((3, 32), write_cifar10_python),
    "cifar100 python": ((3, 32), write_cifar100_python),
    "cifar10 binary": ((3, 32), write_cifar10_binary),
    "cifar100 binary": ((3, 32), write_cifar100_binary),
}


def make(folder: Path, name: str) -> tuple[Images, Images]:
    (channels, side), write = FORMATS[name]
    train, test = images(40, channels, side, 1), images(12, channels, side, 2)
    folder.mkdir(exist_ok=True)
    write(folder, train, test)
    return train, test


def pixels(data: Data, x: torch.Tensor) -> np.ndarray:
    """Normalisation undone, back to 0..255."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    return ((x * std + mean) * 255).round().to(torch.uint8).numpy()  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("name", FORMATS)
def test_every_pixel_and_label_is_read(tmp_path: Path, name: str) -> None:
    """A folder written by the format's description gives back its images, whatever the split's order."""
    train, test = make(tmp_path / "mine", name)
    data = load_data(str(tmp_path / "mine"), seed=3, val_share=0.2)
    assert np.array_equal(pixels(data, data.test.x), test[0])
    assert np.array_equal(data.test.y.numpy(), test[1])
    both = torch.cat([data.train.x, data.val.x]), torch.cat([data.train.y, data.val.y])
    found = {(image.tobytes(), int(label)) for image, label in zip(pixels(data, both[0]), both[1], strict=True)}
    assert found == {(image.tobytes(), int(label)) for image, label in zip(*train, strict=True)}
    assert len(data.classes) == CLASSES
    assert (data.train.x.dtype, data.train.y.dtype) == (torch.float32, torch.int64)
    assert data.input_shape == train[0].shape[1:]


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_is_named_after_itself(tmp_path: Path, name: str) -> None:
    """Files of the right format are not yet the data set: other images must not carry its name."""
    make(tmp_path / "mine", name)
    data = load_data(str(tmp_path / "mine"), seed=0)
    assert data.name == "mine"
    assert str(tmp_path / "mine") in data.provenance


def test_a_name_is_not_given_to_other_images(tmp_path: Path) -> None:
    make(tmp_path / "fm", "idx.gz")
    with pytest.raises(InputError, match="does not hold fashion_mnist as distributed; to use it as what it is, --data"):
        load_data("fashion_mnist", seed=0, folders={"fashion_mnist": (str(tmp_path / "fm"),)})


@pytest.mark.skipif(
    not any(Path(f).is_dir() for f in FOLDERS["fashion_mnist"]), reason="Fashion-MNIST is not installed"
)
def test_fashion_mnist_is_fashion_mnist() -> None:
    """60,000 + 10,000 images of 28x28 (Xiao et al. 2017); mean and deviation of its pixels are known: 0.286, 0.353."""
    data = load_data("fashion_mnist", seed=0)
    assert data.name == "fashion_mnist"
    assert (len(data.train) + len(data.val), len(data.test)) == (60000, 10000)
    assert data.input_shape == (1, 28, 28)
    assert data.classes[9] == "ankle-boot"
    assert (data.mean[0], data.std[0]) == pytest.approx((0.286, 0.353), abs=5e-4)


def test_digits_are_scikit_learns() -> None:
    """1,797 images of 8x8 in ten classes, each class in every part in proportion."""
    pytest.importorskip("sklearn")
    data = load_data("digits", seed=0)
    parts = (data.train, data.val, data.test)
    assert sum(len(part) for part in parts) == 1797
    assert data.input_shape == (1, 8, 8)
    for part in parts:
        counts = torch.bincount(part.y, minlength=10)
        assert counts.max() / counts.min() <= 183 / 174 * (1 + 1 / counts.min())  # the classes have 174 to 183 images


# ------------------------------------------------------------------------------------------------ splitting


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    make(tmp_path / "mine", "idx")
    first, again, other = (load_data(str(tmp_path / "mine"), seed=s) for s in (1, 1, 2))
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.val.y, again.val.y)
    assert not torch.equal(first.train.x, other.train.x)
    assert np.array_equal(pixels(first, first.test.x), pixels(other, other.test.x))


def test_training_images_are_normalised(tmp_path: Path) -> None:
    """Mean 0 and deviation 1 a channel, over what is trained on."""
    make(tmp_path / "mine", "cifar10 python")
    x = load_data(str(tmp_path / "mine"), seed=1).train.x
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert x.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_fewer_training_images(tmp_path: Path) -> None:
    make(tmp_path / "mine", "idx")
    data = load_data(str(tmp_path / "mine"), seed=1, train_images=8)
    assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 12)
    with pytest.raises(InputError, match="37 training images of mine; 1 to 36 can be had"):
        load_data(str(tmp_path / "mine"), seed=1, train_images=37)


# ------------------------------------------------------------------------------------------------ bad files


class Danger:
    """Pickles into a call."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('a pickle was run')",)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    make(tmp_path / "mine", "cifar10 python")
    (tmp_path / "mine" / "data_batch_3").write_bytes(pickle.dumps({b"data": Danger()}, protocol=2))
    with pytest.raises(InputError, match=r"data_batch_3: not a CIFAR batch: it wants to call .*exec"):
        load_data(str(tmp_path / "mine"), seed=0)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "short idx": ("idx", lambda f: cut(f / "train-images-idx3-ubyte", 100), "84 bytes of data; its header says 40x6x6"),
    "no idx": ("idx", lambda f: (f / "train-labels-idx1-ubyte").write_bytes(b"hello"), "starts with 68 65 6c 6c"),
    "cut gz": (
        "idx.gz",
        lambda f: cut(f / "train-images-idx3-ubyte.gz", 60),
        "train-images-idx3-ubyte.gz: cannot be read",
    ),
    "no gz": ("idx.gz", lambda f: (f / "t10k-images-idx3-ubyte.gz").write_bytes(b"no"), "ubyte.gz: cannot be read"),
    "file missing": ("idx", lambda f: (f / "train-labels-idx1-ubyte").unlink(), "train-labels-idx1-ubyte is missing"),
    "fewer labels": (
        "idx",
        lambda f: (f / "t10k-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 1, 2))),
        "12 test images with 1 labels",
    ),
    "cut pickle": ("cifar100 python", lambda f: cut(f / "train", 50), "train: not a CIFAR batch"),
    "odd pickle": ("cifar10 python", lambda f: (f / "test_batch").write_bytes(pickle.dumps([1])), "holds a list"),
    "odd array": (
        "cifar10 python",
        lambda f: (f / "test_batch").write_bytes(pickle.dumps({"data": np.zeros((2, 9)), "labels": [0, 1]})),
        "uint8 data of n x 3072",
    ),
    "no names": (
        "cifar10 python",
        lambda f: (f / "batches.meta").write_bytes(pickle.dumps({})),
        "class names are needed",
    ),
    "odd size": ("cifar100 binary", lambda f: cut(f / "test.bin", 4000), "4000 bytes; a multiple of 3074 is needed"),
    "unknown class": (
        "cifar10 binary",
        lambda f: (f / "batches.meta.txt").write_text("a\nb\n"),
        "training labels from 0 to 3; 0 to 1 are its classes",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(tmp_path: Path, case: str) -> None:
    name, damage, message = DAMAGE[case]
    make(tmp_path / "mine", name)
    damage(tmp_path / "mine")
    with pytest.raises(InputError) as caught:
        load_data(str(tmp_path / "mine"), seed=0)
    assert message in str(caught.value)
    assert str(tmp_path / "mine") in str(caught.value)


def test_absent_data_says_what_is_wanted_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cifar10 is not here; looked in .*nowhere\. Give its folder: .*data_batch_1"):
        load_data("cifar10", seed=0, folders={"cifar10": (str(tmp_path / "nowhere"),)})
    with pytest.raises(InputError, match=r"no data set or folder 'cifra10'; known by name are digits, fashion_mnist"):
        load_data("cifra10", seed=0)
    with pytest.raises(InputError, match="no known image files in it; wanted are"):
        load_data(str(tmp_path), seed=0)


def test_too_few_images_to_split(tmp_path: Path) -> None:
    train, test = images(4, 1, 6, 1), images(4, 1, 6, 2)
    write_idx(tmp_path, train, test, compress=False)
    with pytest.raises(InputError, match="too few images to split: a class has only 1"):
        load_data(str(tmp_path), seed=0)
    with pytest.raises(InputError, match=r"validation share 1\.5: between 0 and 1 is needed"):
        load_data(str(tmp_path), seed=0, val_share=1.5)

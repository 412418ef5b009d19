"""Data sets in an .npz file: x_train, y_train, and x_val, y_val, x_test, y_test where they are not to be split off.

Beside them `task` (a name of `TASKS`; classification where none is said), `outputs` (what the network gives; of classes
as many as there are labels, where none are said) and `classes` (names). Unsigned bytes are pixels: [n, h, w], [n, h, w,
c] or [n, c, h, w] with c of 1 or 3. Other numbers are taken as they are.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from cosoc.search.training.parts import Given, Split, part_of
from cosoc.search.training.task import CLASSIFICATION, Task, named_task
from cosoc.sim.errors import InputError

PARTS = ("train", "val", "test")
NAMES = (*(f"{kind}_{part}" for part in PARTS for kind in "xy"), "task", "outputs", "classes")
CHANNELS = (1, 3)  # of images: grey, or red, green and blue


def from_npz(path: Path, max_bytes: int) -> Given:
    """The data set in a file. max_bytes: of one array. InputError where it is damaged, or says what nobody knows."""
    arrays = _read(path, max_bytes)
    for part in PARTS:
        missing = [name for name in (f"x_{part}", f"y_{part}") if name not in arrays]
        if missing and (part == "train" or len(missing) == 1):
            raise InputError(f"{path}: {missing[0]} is missing; it has {', '.join(arrays) or 'nothing'}")
    y = arrays["y_train"]
    classes = tuple(str(name) for name in arrays["classes"].ravel()) if "classes" in arrays else ()
    name = str(arrays["task"]) if "task" in arrays else CLASSIFICATION
    outputs = _count(path, arrays, classes, y)
    task = named_task(name, outputs, str(path))
    if task.name == CLASSIFICATION and y.ndim == 2 and y.shape[1] == 1:  # a column of labels, as some sets have them
        arrays = {key: one[:, 0] if key.startswith("y_") and one.ndim == 2 else one for key, one in arrays.items()}
        y = arrays["y_train"]
    images = arrays["x_train"].dtype == np.uint8
    parts = {part: _part(path, arrays, part, task, images) for part in PARTS if f"x_{part}" in arrays}
    labels = y.astype(np.int64) if task.name == CLASSIFICATION else None
    if task.name == CLASSIFICATION and not classes:
        classes = tuple(str(i) for i in range(outputs))
    return Given(
        path.stem, f"arrays in {path}", task, classes, parts["train"], parts.get("val"), parts.get("test"), labels,
        images,
    )  # fmt: skip


def _count(path: Path, arrays: Mapping[str, np.ndarray], classes: tuple[str, ...], y: np.ndarray) -> int:
    """How many outputs a network has."""
    if "outputs" in arrays:
        given = arrays["outputs"]
        if given.dtype.kind not in "iu" or given.size != 1:
            raise InputError(f"{path}: outputs is {given.dtype} {given.shape}; a whole number is needed")
        if classes and int(given.item()) != len(classes):
            raise InputError(f"{path}: outputs is {given.item()}, and classes has {len(classes)} names; give one")
        return int(given.item())
    if classes:
        return len(classes)
    if y.dtype.kind not in "iu" or not y.size:
        raise InputError(f"{path}: outputs is missing: how many values the network gives (y_train is {y.dtype})")
    return int(y.max()) + 1


def _part(path: Path, arrays: Mapping[str, np.ndarray], part: str, task: Task, images: bool) -> Split:
    x, called = arrays[f"x_{part}"], f"{path}: {part}"
    if (x.dtype == np.uint8) != images:
        raise InputError(f"{called}: x_{part} is {x.dtype}, and x_train {arrays['x_train'].dtype}; give one type")
    return part_of(_channels_first(x, called) if images else x, arrays[f"y_{part}"], task, called)


def _channels_first(x: np.ndarray, called: str) -> np.ndarray:
    """Images [n, c, h, w]. InputError where it cannot be told which dimension the channels are."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and (x.shape[1] in CHANNELS) != (x.shape[3] in CHANNELS):
        return x if x.shape[1] in CHANNELS else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    raise InputError(f"{called}: pixels {x.shape}; (n, h, w), (n, h, w, c) or (n, c, h, w) with c 1 or 3 is needed")


def _read(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of a file, none of them pickled, none larger than the file says of it, or than max_bytes."""
    out: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name not in NAMES:
                    raise InputError(f"{path}: holds {name!r}; known are {', '.join(NAMES)}")
                if name in out:
                    raise InputError(f"{path}: holds {name!r} twice")
                if info.file_size > max_bytes:
                    raise InputError(f"{path}: {name} takes {info.file_size:,} bytes; at most {max_bytes:,} are read")
                out[name] = _array(archive, info, f"{path}: {name}")
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: cannot be read as .npz: {error}") from None
    return out


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, called: str) -> np.ndarray:
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{called}: is of .npy version {version[0]}.{version[1]}; 1.0 and 2.0 are read")
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.kind not in "biufU":
            raise InputError(f"{called}: holds {dtype}; numbers or text are needed")
        size = math.prod(shape) * dtype.itemsize
        content = file.read(min(size, info.file_size) + 1)
    if len(content) != size:
        raise InputError(f"{called}: {len(content):,} bytes of data; its header says {size:,}")
    array = np.frombuffer(content, dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))

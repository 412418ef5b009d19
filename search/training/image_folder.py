"""Images in folders, one for each class: train/CLASS/*.png, and val/CLASS, test/CLASS where they are not split off.

Images are found at any depth below a class' folder, by their names' ends; other files stand there unread. They are read
with Pillow when they are asked for, in grey where the first of every class is grey, else in red, green and blue.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cosoc.search.training.parts import Given, Stored, stored
from cosoc.search.training.task import Task, classification
from cosoc.sim.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

PARTS = ("train", "val", "test")
ENDS = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
GREY, COLOURED = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's modes of 8 bits
_UNREADABLE = (OSError, ValueError, SyntaxError)  # what Pillow raises of damaged files
MAX_PIXELS = 1 << 26  # of one image; larger ones are scans of maps, or made to fill a memory


def is_image_folder(folder: Path) -> bool:
    """Whether a folder has images by class."""
    train = folder / "train"
    return train.is_dir() and any(_is_image(path) for inner in _folders(train) for path in inner.rglob("*"))


@dataclass(frozen=True)
class Images:
    """Files and their classes, as a data set. size: (h, w) of each; brought: those of another are brought to it, by
    cutting the longer side alike on both ends, and coloured ones made grey."""

    files: tuple[Path, ...]
    classes: tuple[int, ...]
    grey: bool
    size: tuple[int, int]
    brought: bool

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        path = self.files[number]
        with _opened(path) as image:
            if self.grey and not self.brought and image.mode not in GREY:
                raise InputError(f"{path}: is coloured, and the first image of every class is grey; {_ADVICE}")
            found, (h, w) = _converted(image, path, self.grey), self.size
            if found.size != (w, h) and not self.brought:
                here = f"{found.height} x {found.width} pixels (h x w)"
                raise InputError(f"{path}: {here}, and {self.files[0]} has {h} x {w}; {_ADVICE}")
            if found.size != (w, h):
                from PIL import Image, ImageOps

                found = ImageOps.fit(found, (w, h), Image.Resampling.BILINEAR)
            pixels = np.array(found)
        pixels = pixels[None] if self.grey else pixels.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(pixels)), self.classes[number]


def from_folder(folder: Path, shape: tuple[int, ...] | None) -> Given:
    """The data set in a folder. shape: (c, h, w) that images are brought to; None: they must be alike already."""
    if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise InputError(f"--input-shape {shape}: images of {folder} are (1, h, w) or (3, h, w)")
    for inner in _folders(folder):
        meant = next((part for part in PARTS if inner.name.lower().startswith(part) and inner.name != part), None)
        if meant is not None and any(map(_is_image, inner.rglob("*"))):
            raise InputError(f"{inner}: its images are in no part; {', '.join(PARTS)} are read, so call it {meant!r}")
    names = tuple(inner.name for inner in _folders(folder / "train"))
    task = classification(len(names))
    files = {part: _files(folder / part, names) for part in PARTS if (folder / part).is_dir()}
    if shape is None:
        grey, size = all(_is_grey(found[0]) for found in files["train"]), None
    else:
        grey, size = shape[0] == 1, (shape[1], shape[2])
    parts = {part: _part(folder / part, found, grey, size, task) for part, found in files.items()}
    train = parts["train"]
    for called, part in parts.items():
        if part.shape != train.shape:
            raise InputError(
                f"{folder / called}: images of {part.shape} (c, h, w), in train of {train.shape}; {_ADVICE}"
            )
    labels = np.repeat(np.arange(len(names)), [len(found) for found in files["train"]])
    return Given(
        folder.resolve().name, f"images in {folder}", task, names, train, parts.get("val"), parts.get("test"), labels,
        True, same=True,
    )  # fmt: skip


_ADVICE = "bring them to one size with --input-shape CHANNELS,HEIGHT,WIDTH"


def _files(folder: Path, names: tuple[str, ...]) -> list[list[Path]]:
    """The images of a part, class by class."""
    others = [inner.name for inner in _folders(folder) if inner.name not in names]
    if others:
        raise InputError(f"{folder}: has a folder {others[0]!r}; classes are the folders of train: {_some(names)}")
    found = [_images(folder / name) for name in names]
    for name, files in zip(names, found, strict=True):
        if not files and folder.name == "train":
            raise InputError(f"{folder / name}: no images in it ({', '.join(sorted(ENDS))})")
    return found


def _part(folder: Path, files: list[list[Path]], grey: bool, size: tuple[int, int] | None, task: Task) -> Stored:
    """size: (h, w) that images are brought to; None: that of the first, which all must have."""
    pairs = [(path, label) for label, found in enumerate(files) for path in found]
    if not pairs:
        raise InputError(f"{folder}: no images in it ({', '.join(sorted(ENDS))})")
    with _opened(pairs[0][0]) as first:
        own = first.height, first.width
    paths, labels = tuple(path for path, _ in pairs), tuple(label for _, label in pairs)
    images = Images(paths, labels, grey, own if size is None else size, size is not None)
    return stored(images.__getitem__, len(pairs), task, str(folder))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _folders(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(filter(_is_image, folder.rglob("*"))) if folder.is_dir() else []


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDS and path.is_file()


def _is_grey(path: Path) -> bool:
    with _opened(path) as image:
        return image.mode in GREY


def _opened(path: Path) -> Image.Image:
    """An image whose head has been read."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError("images in folders are read with Pillow: pip install 'cosoc[data]'") from None
    try:
        image = Image.open(path)
    except (*_UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from None
    if image.width * image.height <= MAX_PIXELS and image.mode in GREY + COLOURED:
        return image
    what, mode = f"{image.width} x {image.height} pixels", image.mode
    image.close()
    if mode not in GREY + COLOURED:
        raise InputError(f"{path}: pixels of Pillow's mode {mode}; 8 bits a channel are needed")
    raise InputError(f"{path}: {what}; at most {MAX_PIXELS:,} are read")


def _converted(image: Image.Image, path: Path, grey: bool) -> Image.Image:
    try:
        return image.convert("L" if grey else "RGB")
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from None

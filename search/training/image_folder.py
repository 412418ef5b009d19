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

ENDS = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
GREY, COLOURED = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's modes of 8 bits
_UNREADABLE = (OSError, ValueError, SyntaxError)  # what Pillow raises of damaged files
MAX_PIXELS = 1 << 26  # of one image; larger ones are scans of maps, or made to fill a memory


def is_image_folder(folder: Path) -> bool:
    """Whether a folder has images by class."""
    train = folder / "train"
    return train.is_dir() and any(_images(inner) for inner in _folders(train))


@dataclass(frozen=True)
class Images:
    """Files and their classes, as a data set. size: (h, w) that each is brought to, by cutting its longer side alike on
    both ends; None: they are left as they are, and must be alike."""

    files: tuple[Path, ...]
    classes: tuple[int, ...]
    grey: bool
    size: tuple[int, int] | None

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        path = self.files[number]
        with _opened(path) as image:
            if self.grey and self.size is None and image.mode not in GREY:
                raise InputError(f"{path}: is coloured, and the first image of every class is grey; {_ADVICE}")
            found = _converted(image, path, self.grey)
            if self.size is not None and found.size != (self.size[1], self.size[0]):
                from PIL import Image, ImageOps

                found = ImageOps.fit(found, (self.size[1], self.size[0]), Image.Resampling.BILINEAR)
            pixels = np.array(found)
        pixels = pixels[None] if self.grey else pixels.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(pixels)), self.classes[number]


def from_folder(folder: Path, shape: tuple[int, ...] | None) -> Given:
    """The data set in a folder. shape: (c, h, w) that images are brought to; None: they must be alike already."""
    if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise InputError(f"--input-shape {shape}: images of {folder} are (1, h, w) or (3, h, w)")
    names = tuple(inner.name for inner in _folders(folder / "train"))
    task = classification(len(names))
    firsts = [files[0] for name in names if (files := _images(folder / "train" / name))]
    grey = all(_is_grey(path) for path in firsts) if shape is None else shape[0] == 1
    size = None if shape is None else (shape[1], shape[2])
    parts = {
        part: _part(folder / part, names, grey, size, task)
        for part in ("train", "val", "test")
        if (folder / part).is_dir()
    }
    train, labels = parts["train"]
    for called, (part, _) in parts.items():
        if part.shape != train.shape:
            raise InputError(
                f"{folder / called}: images of {part.shape} (c, h, w), in train of {train.shape}; {_ADVICE}"
            )
    val, test = (parts[part][0] if part in parts else None for part in ("val", "test"))
    return Given(folder.resolve().name, f"images in {folder}", task, names, train, val, test, labels, True, same=True)


_ADVICE = "bring them to one size with --input-shape CHANNELS,HEIGHT,WIDTH"


def _part(
    folder: Path, names: tuple[str, ...], grey: bool, size: tuple[int, int] | None, task: Task
) -> tuple[Stored, np.ndarray]:
    """A part, and the class of each of its images."""
    others = [inner.name for inner in _folders(folder) if inner.name not in names]
    if others:
        raise InputError(f"{folder}: has a folder {others[0]!r}; classes are the folders of train: {_some(names)}")
    files, labels = list[Path](), list[int]()
    for label, name in enumerate(names):
        found = _images(folder / name)
        if not found and folder.name == "train":
            raise InputError(f"{folder / name}: no images in it ({', '.join(sorted(ENDS))})")
        files += found
        labels += [label] * len(found)
    images = Images(tuple(files), tuple(labels), grey, size)
    return stored(images.__getitem__, len(files), task, str(folder)), np.asarray(labels, np.int64)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _folders(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDS and p.is_file()) if folder.is_dir() else []


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

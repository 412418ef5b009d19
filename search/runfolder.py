"""A run's folder: everything that is needed to read its results, or to go on with it after a kill at any moment.

config.yaml         what was asked for; a resumed run must ask for the same
environment.json    versions
metrics.jsonl       a line an epoch, appended
checkpoint.pt       the phase in progress, replaced after every epoch
done/NAME.json      what a finished phase found;   weights/NAME.pt  its weights
mappings/NAME.yaml  result.json  front.png         the results
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from cosoc.sim.errors import InputError
from cosoc.sim.files.yamlfile import read_plain

SHOWN = 120  # characters of a setting, in a message


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which takes its name once the block has ended without an error: at any moment
    the old or the new content is there. InputError where it cannot be written (a full disk)."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written: {error.strerror or error}; what was finished before is intact")


def replace_text(path: Path, text: str) -> None:
    """Write a file so that at any moment the old or the new content is there."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def differences(was: Any, asked: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two configurations differ: (dotted key, the one's value, the other's), None for a missing key."""
    if isinstance(was, dict) and isinstance(asked, dict):
        for key in {**was, **asked}:
            yield from differences(was.get(key), asked.get(key), f"{at}.{key}" if at else str(key))
    elif was != asked:
        yield at, was, asked


def check_stored(path: Path) -> None:
    """InputError unless a file of torch.save is as torch writes it: a ZIP archive that compresses nothing and holds no
    byte twice. What it takes in memory is then bounded by its own size, so that no archive is a bomb."""
    if not zipfile.is_zipfile(path):
        raise InputError("it is no archive of torch.save")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size, held = path.stat().st_size, sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or held > size:
        raise InputError(f"its {len(entries)} entries unpack to {held:,} bytes; the file's own {size:,} are the most")


class RunFolder:
    """See the module docstring. Opening it checks that the folder is new, or is the same run's to be resumed."""

    def __init__(self, path: Path, config: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        asked = json.loads(json.dumps(config))
        file = path / "config.yaml"
        if resume and self._begun():
            self._check_same(file, asked)
        elif not resume and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: exists and is not empty; choose another --out, or --resume it")
        try:
            for folder in (path, path / "done", path / "weights", path / "mappings"):
                folder.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                names = ("cosoc", "torch", "numpy", "numba")
                environment = {"python": platform.python_version()} | {name: version(name) for name in names}
                environment["torch threads"] = str(torch.get_num_threads())
                replace_text(path / "environment.json", json.dumps(environment, indent=1) + "\n")
                replace_text(file, yaml.safe_dump(asked, sort_keys=False))
            if resume:
                self._forget_undone()
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None

    def _begun(self) -> bool:
        """Whether a configuration was written; a run killed before that has left nothing else but empty folders."""
        own = ("done", "weights", "mappings", "environment.json", "environment.json.part", "config.yaml.part")
        left = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else ["nothing"]
        return any(name not in own for name in left) or not left

    def _forget_undone(self) -> None:
        """Drop the metrics of epochs that no checkpoint kept: they will be run again."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        state = self._load(self.path / "checkpoint.pt") if (self.path / "checkpoint.pt").exists() else {}
        kept = [
            entry
            for entry in self.metrics()
            if self.finished(entry["phase"]) is not None
            or (entry["phase"] == state.get("phase") and entry["epoch"] < state["epoch"])
        ]
        replace_text(file, "".join(json.dumps(entry) + "\n" for entry in kept))

    def _check_same(self, file: Path, asked: dict[str, Any]) -> None:
        if not file.exists():
            raise InputError(f"{file}: no such file; there is no run to resume in {self.path}")
        was = read_plain(file)
        if not isinstance(was, dict):
            raise InputError(f"{file}: is not the configuration of a run")
        for key, found, given in differences(was, asked):
            had, wanted = (textwrap.shorten(repr(value), SHOWN, placeholder=" ...") for value in (found, given))
            raise InputError(f"{file}: the run has {key} {had}, now {wanted} is asked for; resume with the same")

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append a line to the metrics; a line torn by a kill is ended first."""
        file = self.path / "metrics.jsonl"
        torn = file.exists() and file.stat().st_size and file.read_bytes()[-1:] != b"\n"
        try:
            with file.open("a", encoding="utf-8") as out:
                out.write(("\n" if torn else "") + json.dumps(entry) + "\n")
        except OSError as error:
            raise _unwritable(file, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The logged lines, torn ones left out."""
        file, out = self.path / "metrics.jsonl", []
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return out

    def finished(self, phase: str) -> dict[str, Any] | None:
        """What a finished phase found; None if it is not finished."""
        file = self.path / "done" / f"{phase}.json"
        if not file.exists():
            return None
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def finish(self, phase: str, found: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> None:
        """Keep a phase's weights and what it found, and drop its checkpoint."""
        if weights is not None:
            self._save(self.path / "weights" / f"{phase}.pt", weights)
        replace_text(self.path / "done" / f"{phase}.json", json.dumps(found, indent=1) + "\n")
        (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def weights(self, phase: str) -> dict[str, Any]:
        """The weights that a finished phase left; only tensors are read, never code."""
        return self._load(self.path / "weights" / f"{phase}.pt")

    def checkpoint(self, phase: str, state: Mapping[str, Any]) -> None:
        """Keep the state of the phase in progress."""
        self._save(self.path / "checkpoint.pt", {"phase": phase, **state})

    def restore(self, phase: str) -> dict[str, Any] | None:
        """The state of `phase` if it was in progress."""
        file = self.path / "checkpoint.pt"
        if not file.exists():
            return None
        state = self._load(file)
        return state if state["phase"] == phase else None

    def _save(self, path: Path, content: Mapping[str, Any]) -> None:
        packed = io.BytesIO()  # torch itself reports a full disk as a RuntimeError about positions in its file
        torch.save(dict(content), packed)
        with replacing(path) as part:
            part.write_bytes(packed.getbuffer())

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            check_stored(path)
            loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except InputError as error:
            raise InputError(f"{path}: cannot be read back: {error}; remove it and resume") from None
        except Exception as error:  # torch raises several kinds for a damaged file
            raise InputError(f"{path}: cannot be read back ({type(error).__name__}); remove it and resume") from None
        return loaded

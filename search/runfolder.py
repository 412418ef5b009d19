"""A run's folder: everything that is needed to read its results, or to go on with it after a kill at any moment.

manifest.json       every file below with its digest and the phase that wrote it (`manifest`)
config.yaml         what was asked for; a resumed run must ask for the same
environment.json    versions
workload.yaml       the network;  split.json  of a run that trains: how its data are split
metrics.jsonl       a line an epoch
checkpoint.pt       the phase in progress, replaced after every epoch
done/NAME.json      what a finished phase found, and its lines of metrics.jsonl;   weights/NAME.pt  its weights
mappings/NAME.yaml  result.json  front.png         the results
speed.json          of a run that trains: items a second and memory, of the last process that did; not in the manifest
lock                held while a run is at work in the folder

A file that is not what a run wrote is named, and nothing is done. `redo` names a phase to be done again: that phase and
those behind it are forgotten, since what comes later may have used what came before.
"""

from __future__ import annotations

import io
import json
import os
import platform
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml

from cosoc.search import manifest
from cosoc.search.manifest import METRICS, START, Damaged, Files
from cosoc.sim.errors import InputError
from cosoc.sim.files.yamlfile import read_plain

SHOWN = 120  # characters of a setting, in a message
CONFIG, ENVIRONMENT, CHECKPOINT, LINES = "config.yaml", "environment.json", "checkpoint.pt", "metrics.jsonl"


def differences(was: Any, asked: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two configurations differ: (dotted key, the one's value, the other's), None for a missing key."""
    if isinstance(was, dict) and isinstance(asked, dict):
        for key in {**was, **asked}:
            yield from differences(was.get(key), asked.get(key), f"{at}.{key}" if at else str(key))
    elif was != asked:
        yield at, was, asked


def check_stored(content: bytes) -> None:
    """InputError unless a file of torch.save is as torch writes it: a ZIP archive that compresses nothing and holds no
    byte twice. What it takes in memory is then bounded by its own size, so that no archive is a bomb."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise InputError("it is no archive of torch.save")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    size, held = len(content), sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or held > size:
        raise InputError(f"its {len(entries)} entries unpack to {held:,} bytes; the file's own {size:,} are the most")


class RunFolder:
    """See the module docstring. Opening it locks it, and checks that it is new, or is the same run's to be resumed;
    leaving the block unlocks it. redo: of a resumed run, the phase to do again."""

    def __init__(self, path: Path, config: Mapping[str, Any], resume: bool, redo: str | None = None) -> None:
        self.path = path
        asked = json.loads(json.dumps(config))
        if redo is not None and not resume:
            raise InputError(f"--redo {redo}: goes with --resume; give both, or neither")
        try:
            _is_to_go_on(path, resume)
            path.mkdir(parents=True, exist_ok=True)
            self._lock: int | None = manifest.lock(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
        try:
            if redo == START:
                manifest.discard(path)
            self._open(asked, _is_to_go_on(path, resume), redo if redo != START else None)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
            raise

    def _open(self, asked: dict[str, Any], begun: bool, redo: str | None) -> None:
        manifest.make_folders(self.path)
        self.files = Files(self.path)
        if begun and CONFIG in self.files:
            self._check_same(asked)
        again = self.files.following(redo) if redo is not None else []
        self.files.check(but=again)
        self.files.write(dict.fromkeys(reversed(again)), redo or START)  # what a phase wrote last goes first
        self.files.settle()
        manifest.clear_parts(self.path)
        if CONFIG not in self.files:
            names = ("cosoc", "torch", "numpy", "numba")
            environment = {"python": platform.python_version()} | {name: version(name) for name in names}
            environment["torch threads"] = str(torch.get_num_threads())
            stated = yaml.safe_dump(asked, sort_keys=False)
            self.put(START, {ENVIRONMENT: json.dumps(environment, indent=1) + "\n", CONFIG: stated})
        if CHECKPOINT in self.files and f"done/{self._load(CHECKPOINT)['phase']}.json" in self.files:
            self.files.write({CHECKPOINT: None}, START)
        self._lines = self._kept_lines()
        self._put_lines()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.files.save()
        finally:
            self.close()

    def close(self) -> None:
        """Let others write here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_same(self, asked: dict[str, Any]) -> None:
        was = read_plain(self.files.path(CONFIG))
        for key, found, given in differences(was, asked):
            had, wanted = (textwrap.shorten(repr(value), SHOWN, placeholder=" ...") for value in (found, given))
            file = self.path / CONFIG
            raise InputError(f"{file}: the run has {key} {had}, now {wanted} is asked for; resume with the same")

    # -- any file ------------------------------------------------------------------------------------------

    def put(self, phase: str, contents: Mapping[str, str | bytes]) -> None:
        """Write files that a phase has made, by their names within the folder: after a kill, old or new."""
        self.files.write({n: c.encode() if isinstance(c, str) else c for n, c in contents.items()}, phase)

    def begin_with(self, name: str, text: str) -> None:
        """Write a file that the run begins with. InputError where the run began with another."""
        if name in self.files and self.files.text(name) != text:
            raise InputError(f"{self.path / name}: is another than what is asked for now; resume with the same")
        self.put(START, {name: text})

    # -- metrics -------------------------------------------------------------------------------------------

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append a line to the metrics."""
        self._lines.append(dict(entry))
        self._put_lines()

    def metrics(self) -> list[dict[str, Any]]:
        """The logged lines."""
        return list(self._lines)

    def _kept_lines(self) -> list[dict[str, Any]]:
        """The lines of finished phases, and of the epochs that a checkpoint kept: others will be run again."""
        kept: list[dict[str, Any]] = []
        for phase in self.files.phases():
            kept += self._done(phase)["log"]
        return kept + (self._load(CHECKPOINT)["log"] if CHECKPOINT in self.files else [])

    def _put_lines(self) -> None:
        if self._lines or LINES in self.files:
            self.put(METRICS, {LINES: "".join(json.dumps(entry) + "\n" for entry in self._lines)})

    def _lines_of(self, phase: str) -> list[dict[str, Any]]:
        return [entry for entry in self._lines if entry.get("phase") == phase]

    # -- phases --------------------------------------------------------------------------------------------

    def finished(self, phase: str) -> dict[str, Any] | None:
        """What a finished phase found; None if it is not finished."""
        found: dict[str, Any] | None = self._done(phase)["found"]
        return found

    def _done(self, phase: str) -> dict[str, Any]:
        name = f"done/{phase}.json"
        if name not in self.files:
            return {"found": None, "log": []}
        done: dict[str, Any] = json.loads(self.files.text(name))
        return done

    def finish(self, phase: str, found: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> None:
        """Keep a phase's weights and what it found, and drop its checkpoint."""
        done = json.dumps({"found": dict(found), "log": self._lines_of(phase)}, indent=1) + "\n"
        kept: dict[str, bytes | None] = {}
        if weights is not None:
            kept[f"weights/{phase}.pt"] = _packed(weights)
        self.files.write(kept | {f"done/{phase}.json": done.encode(), CHECKPOINT: None}, phase)

    def weights(self, phase: str) -> dict[str, Any]:
        """The weights that a finished phase left; only tensors are read, never code."""
        return self._load(f"weights/{phase}.pt")

    def checkpoint(self, phase: str, state: Mapping[str, Any]) -> None:
        """Keep the state of the phase in progress."""
        self.put(phase, {CHECKPOINT: _packed({"phase": phase, "log": self._lines_of(phase), **state})})

    def restore(self, phase: str) -> dict[str, Any] | None:
        """The state of `phase` if it was in progress."""
        if CHECKPOINT not in self.files:
            return None
        state = self._load(CHECKPOINT)
        return state if state["phase"] == phase else None

    def _load(self, name: str) -> dict[str, Any]:
        return stored(self.files, name)


def stored(files: Files, name: str) -> dict[str, Any]:
    """What a run has kept with torch.save in a file; only tensors and plain data are read, never code. Damaged where it
    cannot be read back."""
    content = files.read(name)
    try:
        check_stored(content)
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for what is not tensors
        why = str(error) if isinstance(error, InputError) else type(error).__name__
        raise Damaged(f"{files.folder / name}: cannot be read back ({why})", files.known[name].phase) from None
    return loaded


def _packed(content: Mapping[str, Any]) -> bytes:
    packed = io.BytesIO()
    torch.save(dict(content), packed)
    return packed.getvalue()


def _is_to_go_on(path: Path, resume: bool) -> bool:
    """Whether there is a run in a folder to go on with. InputError for a folder of something else."""
    if resume:
        return manifest.is_begun(path)
    if path.exists() and (not path.is_dir() or any(entry.name != manifest.LOCK for entry in path.iterdir())):
        raise InputError(f"{path}: exists and is not empty; choose another --out, or --resume it")
    return False

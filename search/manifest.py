"""The files of a run's folder, each with its digest in one manifest, and the lock of who writes there.

manifest.json has the number of its format and a line a file: the phase of the run that wrote it, and its digest. It is
replaced, whole, before a file takes its name, with the digests of what is to be there and of what it replaces ("": no
file). So at any moment, a kill's too, every file of the folder is one that the manifest knows, and a file that it does
not know has been changed by somebody else: it is named and never used.

`lock` is held by who writes in the folder, with `flock`, which ends with the process in whatever way that ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cosoc.sim.errors import InputError

FORMAT = 2  # 1: folders of before, which have no manifest
MANIFEST, LOCK, PART = "manifest.json", "lock", ".part"
ABSENT = ""  # the digest of no file
START, RESULT, METRICS = "start", "result", "metrics"  # what is no phase of the search, but can be done again
FOLDERS = ("done", "weights", "mappings")
# What a run's file may be called: nothing else in a folder is read, replaced or removed.
OWN = re.compile(
    r"config\.yaml|environment\.json|workload(\.\d+)?\.yaml|split\.json|metrics\.jsonl|checkpoint\.pt|result\.json|front\.png"
    rf"|({'|'.join(FOLDERS)})/[^/\\\0]+\.(json|pt|yaml)"
)


class Damaged(InputError):
    """A file of a run is not what the run wrote. what: its path and what it is instead; phase: what has to be done
    again."""

    def __init__(self, what: str, phase: str, more: int = 0) -> None:
        self.what, self.phase = what, phase
        also = f" (and {more} more)" if more else ""
        super().__init__(f"{what}{also}; --resume --redo {phase} does that again, and what follows from it")


@dataclass(frozen=True)
class Entry:
    """A file of a run. phase: that wrote it. sha256: its digest; beside it those of what it replaces, until that has
    been replaced for certain."""

    phase: str
    sha256: tuple[str, ...]


def digest_of(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# The lock


def lock(folder: Path) -> int:
    """Lock a folder for as long as the file descriptor that is returned is open. InputError where another process has
    locked it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o666)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        raise InputError(f"{folder}: another run is at work there; wait for its end, or choose another --out") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there, or in place of what is: a link is replaced, not followed."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o666), "wb") as out:
        out.write(content)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file, or in place of what is there: after a kill it is the old one or the new one. InputError where that
    cannot be done."""
    with _saying(path):
        try:
            write_new(_part(path), content)
            os.replace(_part(path), path)
        finally:
            _part(path).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# The files


class Files:
    """The files of a run's folder; see the module docstring. InputError for a folder whose manifest cannot be read, or
    has another format; to_read: and for one that has none."""

    def __init__(self, folder: Path, to_read: bool = False) -> None:
        self.folder = folder
        self.known = _read_manifest(folder)
        if to_read and not self.known:
            raise InputError(f"{folder / MANIFEST}: no such file; {folder} is not the folder of a search")

    # -- reading -------------------------------------------------------------------------------------------

    def __contains__(self, name: str) -> bool:
        """Whether the run wrote a file; a kill may have come before it took its name."""
        there = self.known.get(name)
        return there is not None and (ABSENT not in there.sha256 or os.path.lexists(self.folder / name))

    def read(self, name: str) -> bytes:
        """A file's content. Damaged where it is not what the run wrote, or the run wrote none such."""
        for last in (False, True):
            content, what = self._content(name)
            if what is None and content is not None:
                return content
            if not last:  # a run that is at work may have replaced it since
                with contextlib.suppress(InputError):
                    self.known = _read_manifest(self.folder)
        phase = self.known[name].phase if name in self.known else START
        raise Damaged(f"{self.folder / name}: {what or 'is missing'}", phase)

    def text(self, name: str) -> str:
        """A file's content as text; as `read`."""
        return self.read(name).decode("utf-8")

    def path(self, name: str) -> Path:
        """Where a file is, having looked that it is what the run wrote; as `read`."""
        self.read(name)
        return self.folder / name

    def _content(self, name: str) -> tuple[bytes | None, str | None]:
        """(content, None), (None, None) for no file where none may be, or (None, what is wrong)."""
        if name not in self.known:
            return None, "the run wrote no such file"
        allowed, path = self.known[name].sha256, self.folder / name
        try:
            kind = os.lstat(path).st_mode
            if stat.S_ISLNK(kind) or not stat.S_ISREG(kind):
                return None, "is no plain file, as the run wrote it"
            content = path.read_bytes()
        except FileNotFoundError:
            return None, None if ABSENT in allowed else "is missing"
        except OSError as error:
            return None, f"cannot be read: {error.strerror or error}"
        return (content, None) if digest_of(content) in allowed else (None, "is not what the run wrote")

    def phases(self) -> list[str]:
        """Phases in their order: the start, those of the search as they began, the result, the metrics."""
        between = dict.fromkeys(e.phase for e in self.known.values() if e.phase not in (START, RESULT, METRICS))
        return [START, *between, RESULT, METRICS]

    def check(self, but: Collection[str] = ()) -> None:
        """Look at every file but some. Damaged names the first by phase that is not what the run wrote."""
        looked_at = [name for name in self.known if name not in but]
        found = [(self.known[name].phase, name, what) for name in looked_at if (what := self._content(name)[1])]
        if found:
            order = self.phases()
            phase, name, what = min(found, key=lambda one: order.index(one[0]))
            raise Damaged(f"{self.folder / name}: {what}", phase, len(found) - 1)

    def following(self, phase: str) -> list[str]:
        """The files of a phase and of those behind it. InputError where there is no such phase."""
        order = self.phases()
        if phase not in order:
            raise InputError(f"--redo {phase}: the run in {self.folder} has no such phase; it has {', '.join(order)}")
        if phase in (RESULT, METRICS):
            again = {phase}
        else:
            again = set(order[order.index(phase) :]) - {METRICS}
        return [name for name, entry in self.known.items() if entry.phase in again]

    # -- writing: by who has the lock ----------------------------------------------------------------------

    def settle(self) -> None:
        """Of what a kill left between two states, keep the one that is there; forget files that never came to be. After
        `check`."""
        settled = {}
        for name, entry in self.known.items():
            content, _ = self._content(name)
            if content is not None:
                settled[name] = Entry(entry.phase, (digest_of(content),))
        if settled != self.known:
            self._save(settled)
        self.known = settled

    def save(self) -> None:
        """Write the manifest, each file with the one digest that it has now: the run has ended."""
        self._save(self.known)

    def write(self, contents: Mapping[str, bytes | None], phase: str) -> None:
        """Write files, or remove them (None): after a kill each is the old one or the new one. InputError where that
        cannot be done; what was there stays."""
        changed: dict[str, bytes | None] = {}
        becoming, after = dict(self.known), dict(self.known)
        for name, content in contents.items():
            if not OWN.fullmatch(name):
                raise InputError(f"{self.folder}: {name!r} cannot be the name of a file there")
            new = ABSENT if content is None else digest_of(content)
            old = self.known[name].sha256 if name in self.known else (ABSENT,)
            if old == (new,):
                continue
            changed[name] = content
            becoming[name], after[name] = Entry(phase, (new, *old)), Entry(phase, (new,))
            if content is None:
                del after[name]  # what is removed and comes again is the youngest
        if not changed:
            return
        written = {name: content for name, content in changed.items() if content is not None}
        try:
            for name, content in written.items():
                with _saying(self.folder / name):
                    write_new(_part(self.folder / name), content)
            self._save(becoming)
            for name in changed:
                with _saying(self.folder / name):
                    if name in written:
                        os.replace(_part(self.folder / name), self.folder / name)
                    else:
                        (self.folder / name).unlink(missing_ok=True)
            self.known = after
        finally:
            for name in written:
                with contextlib.suppress(OSError):
                    _part(self.folder / name).unlink(missing_ok=True)

    def _save(self, known: Mapping[str, Entry]) -> None:
        lines = (f"  {json.dumps(n)}: {json.dumps({'phase': e.phase, 'sha256': e.sha256})}" for n, e in known.items())
        text = f'{{\n "format": {FORMAT},\n "files": {{\n' + ",\n".join(lines) + "\n }\n}\n"
        replace_file(self.folder / MANIFEST, text.encode())


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


@contextlib.contextmanager
def _saying(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written: {reason}; what was finished before is intact") from error


def _read_manifest(folder: Path) -> dict[str, Entry]:
    """What the manifest knows; nothing where there is none. InputError where it is another thing."""
    path = folder / MANIFEST
    again = f"--resume --redo {START} begins the run anew"
    if not os.path.lexists(path):
        if os.path.lexists(folder / "config.yaml"):
            raise InputError(
                f"{path}: is missing: an older version wrote the run, or it was removed; take another --out"
            )
        return {}
    try:
        if path.is_symlink():
            raise ValueError("a link")
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] != FORMAT:
            raise InputError(f"{path}: has format {content['format']}; this version reads {FORMAT}; {again}")
        known = {name: Entry(one["phase"], tuple(one["sha256"])) for name, one in content["files"].items()}
        fit = all(OWN.fullmatch(name) and _is_entry(entry) for name, entry in known.items())
        if not fit or content["format"] != FORMAT or "config.yaml" not in known:
            raise ValueError("without what a run writes")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: is not the manifest of a run; {again}") from None
    return known


def _is_entry(entry: Entry) -> bool:
    strings = all(isinstance(one, str) for one in (entry.phase, *entry.sha256))
    return strings and len(entry.sha256) > 0


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def make_folders(folder: Path) -> None:
    """The folder of a run, with those in it. InputError where one of those is a link: a run writes in its own."""
    for inner in (folder, *(folder / name for name in FOLDERS)):
        if inner != folder and inner.is_symlink():
            raise InputError(f"{inner}: is a link; a run writes into folders of its own")
        inner.mkdir(parents=True, exist_ok=True)


def is_begun(folder: Path) -> bool:
    """Whether a run has left more than what one leaves that was killed before its first manifest. InputError for a
    folder of something else."""
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()}
    if MANIFEST in names or "config.yaml" in names:
        return True
    foreign = sorted(name for name in names - {*FOLDERS, LOCK} if not name.endswith(PART))
    if foreign:
        raise InputError(f"{folder / MANIFEST}: no such file; there is no run to resume in {folder}")
    return False


def look_at(folder: Path) -> None:
    """Look at a run that is to be resumed, before any work. InputError where it is none, Damaged where a file of it is
    not what it wrote."""
    if is_begun(folder):
        descriptor = lock(folder)
        try:
            Files(folder).check()
        finally:
            os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove the files of a run, and nothing else: what is left is a folder in which it can begin anew. InputError
    where no manifest says that a run was there."""
    if not os.path.lexists(folder / MANIFEST):
        raise InputError(f"{folder / MANIFEST}: no such file; there is no run to do again in {folder}")
    make_folders(folder)
    try:
        names = set(_read_manifest(folder))
    except InputError:
        names = {name for name, _ in _own(folder)}
    try:
        for name, path in _own(folder):
            if name in names or path.name.endswith(PART):
                path.unlink()
        (folder / MANIFEST).unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be cleared: {error.strerror or error}") from error


def clear_parts(folder: Path) -> None:
    """Remove what a kill left half-written."""
    for _, path in _own(folder):
        if path.name.endswith(PART):
            path.unlink()


def _own(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything that is called as a run's files are, half-written ones too."""
    for place in (folder, *(folder / name for name in FOLDERS)):
        for path in sorted(place.iterdir()):
            name = path.relative_to(folder).as_posix().removesuffix(PART)
            if (OWN.fullmatch(name) or name == MANIFEST + PART) and (path.is_symlink() or not path.is_dir()):
                yield name, path

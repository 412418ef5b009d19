"""Where a command's results and progress go: files replaced whole or not at all, a progress line, the terminal.

Every character that reaches a terminal goes through `put`, `say` or `reporting`: text from files is taken for text
there (no markup, no emoji codes), and what is not seen in it is escaped.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cosoc.sim.errors import InputError
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.progress import Report, untold
from cosoc.sim.shown import shown
from cosoc.timeleft import TimeLeft, told

# progress(done, total, what): called as often as the worker likes.

UNWRAPPED = 100_000  # columns of a line that nobody has to see on a screen
SAID = 4000  # characters of a message: more than any of ours, but what it quotes may be as long as a file
SOON_S = 1.0  # for which nothing is said of what is over at once as a rule
_LINE_EVERY_S = 5.0  # into a log, a line when the activity changes and at most this often otherwise


class Lost(Exception):
    """Standard output cannot be written; the message says why. closed: by who read it, as `head` does."""

    def __init__(self, error: OSError) -> None:
        self.closed = error.errno == errno.EPIPE
        super().__init__(f"standard output cannot be written: {error.strerror or error}")


class _Terminal(Console):
    """A console that takes text for text, and does not look for numbers and paths in it to colour: that takes minutes
    for a name of a hundred thousand digits."""

    def __init__(self, file: Any = None) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = UNWRAPPED  # who reads a pipe or a file wants lines as they are

    def render_str(self, text: str, **options: Any) -> Any:
        """What tables, titles and lines are made of, before it is measured."""
        plain = self.encoding.startswith("utf") and self.is_terminal
        return super().render_str(shown(text if plain else text.replace("\u00a0", " ")), **options)

    def on_broken_pipe(self) -> None:
        """Rich would end the process here."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class _Heedless(io.TextIOBase):
    """Standard error for progress: work goes on where nobody can be told of it."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stderr, "encoding", None) or "ascii"

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()

    def fileno(self) -> int:
        if sys.stderr is None:
            raise io.UnsupportedOperation("fileno")
        return sys.stderr.fileno()

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.flush()


def prepare_streams() -> None:
    """Characters that the terminal's encoding lacks are escaped, not refused."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def as_text(what: object, columns: int) -> str:
    """A table or group of them as text of so many columns, without colours; what a file calls something is escaped."""
    out = io.StringIO()
    Console(file=out, width=columns, markup=False, emoji=False, highlight=False, color_system=None).print(what)
    return "\n".join(shown(line.rstrip()) for line in out.getvalue().splitlines())


def put(what: object, end: str = "\n") -> None:
    """Print text (line by line), or a table or group of them, to standard output. Raises Lost where that fails."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        if isinstance(what, str):
            print("\n".join(map(shown, what.split("\n"))), end=end)
        else:
            out = _Terminal()
            for part in _uncut(what) if out.width == UNWRAPPED else [what]:
                out.print(part)
        sys.stdout.flush()
    except OSError as error:
        raise Lost(error) from error


def columns() -> int:
    """How wide what is put to standard output may be; UNWRAPPED where no screen shows it."""
    return _Terminal().width


def _uncut(what: object) -> Iterator[Any]:
    """A table, or what is in a group, with columns as wide as what they hold, and titles and captions as lines."""
    for part in what.renderables if isinstance(what, Group) else [what]:
        if not isinstance(part, Table):
            yield part
            continue
        for column in part.columns:
            column.max_width, column.no_wrap = None, True
        title, caption = part.title, part.caption
        part.title = part.caption = None
        yield from (one for one in (title, part, caption) if one is not None)


def abandon_output() -> None:
    """Let go of what could not be written, so that the end of the process does not try again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, sys.stdout.fileno())
        os.close(number)


def say(message: str) -> None:
    """One line on standard error, whatever the message holds. Of more than SAID characters the middle is left out: what
    was found stands at the beginning, and what is wrong with it often at the end."""
    heedless, line = _Heedless(), shown(" ".join(message.split()))
    if len(line) > SAID:
        line = f"{line[: SAID // 2]} ... ({len(line):,} characters) ... {line[-SAID // 2 :]}"
    heedless.write(line + "\n")
    heedless.flush()


def _part(path: Path) -> Path:
    """The file beside `path` that is written first, of a name that nobody can have laid a link at; it keeps the suffix,
    by which plotting chooses the format."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part{path.suffix}")


def _target(path: Path) -> tuple[Path, bool]:
    """Where a path leads, and whether that is written directly: a device or pipe."""
    if path.is_relative_to("/dev"):  # /dev/stdout may lead to a regular file, which is not ours to replace
        return path, True
    target = path.resolve()
    return target, target.exists() and not target.is_file()


def check_writable(option: str, path: Path) -> None:
    """InputError unless `replacing(path)` can be expected to work: asked before the work, not after it."""
    try:
        target, direct = _target(path)
        if target.is_dir():
            raise InputError(f"{option} {path}: is a folder; a file name is needed")
        if not target.parent.is_dir():
            raise InputError(f"{option} {path}: there is no folder {path.parent}; make it first")
        if direct:
            return
        part = _part(target)
        part.touch(exist_ok=False)
        part.unlink()
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written: {error.strerror or error}") from error


def check_outputs(files: dict[str, Path | None]) -> None:
    """Every output file can be written and none is named twice; asked before the work, not after it."""
    seen: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        check_writable(option, path)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(f"{other} and {option} both name {path}; give each its own file")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`; it takes that name once the block has ended without an error.

    A link is followed; a device or pipe (/dev/stdout) is written directly. InputError where writing fails.
    """
    target, direct = _target(path)
    part = target if direct else _part(target)
    try:
        if not direct:
            part.touch(exist_ok=False)
        yield part
        if not direct:
            os.replace(part, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if not direct:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by `text`."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file by `content` as strict JSON: no NaN, no infinity."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def reporting(quiet: bool) -> Iterator[Report]:
    """A progress report on standard error, with the time left: a bar on a terminal, now and then a line in a log,
    nothing if quiet."""
    console = _Terminal(_Heedless())
    if quiet:
        yield untold
    elif console.is_terminal:
        what, left = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[left]"))
        columns = (what, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left)
        bar = Progress(*columns, console=console)
        task, known = bar.add_task("", total=None, left=""), TimeLeft()

        def report(done: int, total: int, what: str) -> None:
            bar.start()  # with the first report: what is refused before it leaves no bar
            left_s = known.at(time.monotonic(), done, total)
            left = "" if left_s is None else f"about {told(left_s)} left"
            bar.update(task, completed=done, total=total, description=shown(what), left=left)

        try:
            yield report
        finally:
            bar.stop()
    else:
        yield _log_line(console)


@contextlib.contextmanager
def reporting_late(quiet: bool) -> Iterator[Report]:
    """The same, begun by the first report after SOON_S: for what is over at once as a rule."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        begun: list[Report] = []

        def report(done: int, total: int, what: str) -> None:
            if not begun and time.monotonic() - started < SOON_S:
                return
            if not begun:
                begun.append(stack.enter_context(reporting(quiet)))
            begun[0](done, total, what)

        yield report


def _log_line(console: Console) -> Report:
    start, known = time.monotonic(), TimeLeft()
    last_s, last_what = float("-inf"), ""

    def report(done: int, total: int, what: str) -> None:
        nonlocal last_s, last_what
        now = time.monotonic()
        left_s = known.at(now, done, total)
        if what == last_what and now - last_s < _LINE_EVERY_S and done < total:
            return
        last_s, last_what = now, what
        left = "" if left_s is None else f"  about {told(left_s)} left"
        console.print(f"{now - start:6.0f} s  {what}  {done}/{total}{left}", highlight=False)

    return report


SHOWN_TENSORS = 4  # of further inputs, and of states, above a table of layers


def workload_table(workload: Workload) -> Table:
    """A workload's layers with their sizes, and the sums of MACs and parameters."""
    c, iy, ix = workload.input_shape
    title = f"{workload.name}: {len(workload.layers)} layers, input {c} x {iy} x {ix}"
    for what, tensors in (("beside it", workload.received), ("states", workload.states)):
        if tensors:
            title += f", {what} {', '.join(f'{name} ({size:,})' for name, size in tensors[:SHOWN_TENSORS])}"
            title += f" and {len(tensors) - SHOWN_TENSORS} more" if len(tensors) > SHOWN_TENSORS else ""
    out = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), show_footer=True)
    out.add_column("layer", "total", overflow="fold")
    out.add_column("operator")
    for name in ("c", "k", "oy x ox", "filter"):
        out.add_column(name, justify="right")
    out.add_column("MAC", f"{workload.macs:,}", justify="right")
    out.add_column("parameters", f"{workload.params:,}", justify="right")
    for layer in workload:
        sizes = (str(layer.c), str(layer.k), f"{layer.oy} x {layer.ox}", _filter(layer))
        params = f"of {layer.weights_of}" if layer.weights_of else _count(layer.params)
        out.add_row(layer.name, _operator(layer), *sizes, _count(layer.macs), params)
    return out


def _count(n: int) -> str:
    return f"{n:,}" if n else ""


def _operator(layer: Layer) -> str:
    if layer.depthwise:
        return "depthwise"
    return f"{layer.op}/{layer.groups}" if layer.groups > 1 else layer.op


def _filter(layer: Layer) -> str:
    """`3 x 3 / 2` is a filter of 3 x 3 with stride 2; nothing for a pointwise operator."""
    if layer.op not in ("conv", "max_pool", "avg_pool"):
        return ""
    stride = "" if layer.stride_y == layer.stride_x == 1 else f" / {max(layer.stride_y, layer.stride_x)}"
    return f"{layer.fy} x {layer.fx}{stride}"

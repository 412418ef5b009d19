"""The results of a campaign: one sqlite file, in which a task is either finished, with all it found, or is not there.

Tables: tasks(id, kind, spec, status: done or failed, result, error, wall_s, sha256) with spec and result as JSON and a
digest over what stands before it; plan(content). Simulations are found again by the digest of their program and the
engine's, in their results. A row that is not what a campaign wrote is named and never used. Whoever writes has locked
the folder (`cosoc.search.manifest`).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cosoc.search import manifest
from cosoc.search.campaigns.plan import Task
from cosoc.search.manifest import START, Damaged, digest_of
from cosoc.sim.errors import InputError

RESULTS = "results.sqlite"  # in a campaign's folder
FORMAT = 2  # of the file, its user_version; 1 had none, and no digests
COLUMNS = ("id", "kind", "spec", "status", "result", "error", "wall_s")
BY_PROGRAM, BY_ENGINE = "json_extract(result, '$.digest')", "json_extract(result, '$.engine')"
SIMULATED = "kind = 'simulate' and status = 'done'"
SCHEMA = f"""
create table if not exists plan (content text not null);
create table if not exists tasks (
    id text primary key, kind text not null, spec text not null, status text not null,
    result text, error text, wall_s real not null, sha256 text not null
);
create index if not exists priced on tasks ({BY_PROGRAM}, {BY_ENGINE}) where {SIMULATED};
pragma user_version = {FORMAT};
"""
AROUND = (  # errors that say nothing against what is in the file
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM),
)
MAGIC = b"SQLite format 3\0"  # what every such file begins with; an empty file is one to be
BESIDE = ("", "-wal", "-shm", "-journal")  # names of the file and of sqlite's own beside it


def digest_of_row(row: tuple[Any, ...]) -> str:
    """Digest of a task's row, its columns without the digest."""
    return digest_of(json.dumps(row).encode())


class Store:
    """An open results file. Every finished task is committed at once. redo: the id of a task that is forgotten first,
    or `start`: all."""

    def __init__(self, path: Path, plan: str, resume: bool, redo: str | None = None) -> None:
        self.path = path
        if path.exists() and not resume:
            raise InputError(f"{path}: exists; --resume goes on with it, or choose another --out")
        if redo is not None and not (resume and path.exists()):
            raise InputError(f"--redo {redo}: goes with --resume, and with a campaign that has begun")
        self._held = ExitStack()
        with self._saying():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._held.callback(os.close, manifest.lock(path.parent))
        try:
            self._open(plan, redo)
        except BaseException:
            self.close()
            raise

    def _open(self, plan: str, redo: str | None) -> None:
        places = [self.path.with_name(self.path.name + end) for end in BESIDE]
        for place in places:
            if place.is_symlink():
                raise InputError(f"{place}: is a link; a campaign writes a file of its own")
        with self._saying():
            known = self._connected(redo)
            if known not in (None, plan):
                raise InputError(f"{self.path}: holds the results of another plan; choose another --out")
            if redo == START:
                self._connection.close()
                for place in places:
                    place.unlink(missing_ok=True)
                known = self._connected()
            if known is None:
                self._connection.execute("pragma journal_mode=wal")
                self._connection.executescript(f"begin; {SCHEMA} commit;")
                self._connection.execute("insert into plan values (?)", (plan,))
                self._connection.commit()
            if redo not in (None, START) and not self._forget(str(redo)):
                raise InputError(f"--redo {redo}: {self.path} has no such task; the ids are in its table tasks")

    def _connected(self, redo: str | None = None) -> str | None:
        """Open the file; its plan, None where it is empty, or is damaged and to be begun anew."""
        self._connection = sqlite3.connect(self.path, timeout=30)  # which makes the file
        self._held.callback(self._connection.close)
        try:
            return self._look()
        except Damaged:
            if redo == START:
                return None
            raise

    def _forget(self, task: str) -> bool:
        with self._connection:
            return self._connection.execute("delete from tasks where id = ?", (task,)).rowcount > 0

    def _look(self) -> str | None:
        return _looked(self._connection, self.path)

    @contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            text = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: cannot be written: {text}; what it holds is intact") from error

    def close(self) -> None:
        """Let others write here."""
        self._held.close()

    def finished(self) -> dict[str, str]:
        """Id and status of every task that has been finished."""
        return {row["id"]: row["status"] for row in self.rows()}

    def record(self, task: Task, outcome: dict[str, Any]) -> None:
        """Put down what came of a task; replaces an earlier failure."""
        result = outcome.get("result")
        status = "done" if result is not None else "failed"
        row = (task.id, task.kind, json.dumps(task.spec), status, json.dumps(result) if result is not None else None,
               outcome.get("error"), outcome["wall_s"])  # fmt: skip
        with self._saying(), self._connection:
            self._connection.execute(
                "insert or replace into tasks values (?, ?, ?, ?, ?, ?, ?, ?)", (*row, digest_of_row(row))
            )

    def rows(self) -> list[dict[str, Any]]:
        """All finished tasks, in the order in which they finished. Damaged where one is not what a campaign wrote."""
        return _rows(self._connection, self.path)


def _looked(connection: sqlite3.Connection, path: Path) -> str | None:
    """The plan in the file, None for a file that is empty. InputError for one of another format, Damaged for one that
    is no campaign's."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) not in (b"", MAGIC):
            raise Damaged(f"{path}: is not what the campaign wrote (no sqlite file)", START)
    try:
        tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
        found = connection.execute("pragma user_version").fetchone()[0]
        if not tables and not found:
            return None
        if found != FORMAT:
            raise InputError(f"{path}: has format {found or 1}; this version reads {FORMAT}; choose another --out")
        (state,) = connection.execute("pragma integrity_check(1)").fetchone()
        (plan,) = connection.execute("select content from plan").fetchone() or (None,)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in AROUND:
            raise
        state, plan = str(error), None
    if state != "ok":
        raise Damaged(f"{path}: is not what the campaign wrote ({' '.join(state.split())})", START)
    return plan


def _rows(connection: sqlite3.Connection, path: Path) -> list[dict[str, Any]]:
    query = f"select {', '.join(COLUMNS)}, sha256 from tasks order by rowid"
    out = []
    try:
        for *row, sha256 in connection.execute(query):
            if digest_of_row(tuple(row)) != sha256:
                raise Damaged(f"{path}: task {row[0]} is not what the campaign wrote", str(row[0]))
            named = dict(zip(COLUMNS, row, strict=True))
            out.append(named | {"spec": json.loads(row[2]), "result": json.loads(row[4] or "null")})
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{path}: is not what the campaign wrote ({error})", START) from None
    return out


def stored_rows(path: Path) -> list[dict[str, Any]]:
    """All finished tasks of a results file, which is only read; InputError where it cannot, Damaged as in `Store`."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            return [] if _looked(connection, path) is None else _rows(connection, path)
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def simulated_before(path: str, program: str, engine: str) -> dict[str, Any] | None:
    """What a task of the campaign has found for an equal program on an equal engine; None where none has, or where its
    row is not what the campaign wrote."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        query = f"select {', '.join(COLUMNS)}, sha256 from tasks"
        query += f" where {SIMULATED} and {BY_PROGRAM} = ? and {BY_ENGINE} = ?"
        row = connection.execute(query, (program, engine)).fetchone()
    finally:
        connection.close()
    if row is None or digest_of_row(row[:-1]) != row[-1]:
        return None
    found: dict[str, Any] = json.loads(row[COLUMNS.index("result")])
    return found

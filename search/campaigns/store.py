"""The results of a campaign: one sqlite file, in which a task is either finished, with all it found, or is not there.

Tables: tasks(id, kind, spec, status: done or failed, result, error, wall_s) with spec and result as JSON; memo(digest,
engine, and the fields of `Figures`), simulations by the digest of their program; plan(content).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from cosoc.search.campaigns.plan import Task
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures

FIGURES = tuple(field.name for field in fields(Figures))
SCHEMA = """
create table if not exists plan (content text not null);
create table if not exists tasks (
    id text primary key, kind text not null, spec text not null, status text not null,
    result text, error text, wall_s real not null
);
create table if not exists memo (
    digest text not null, engine text not null, latency_s real not null, energy_j real not null,
    peak_bytes integer not null, throughput real not null,
    primary key (digest, engine)
);
"""


class Store:
    """An open results file. Every finished task is committed at once."""

    def __init__(self, path: Path, plan: str, resume: bool) -> None:
        self.path = path
        if path.exists() and not resume:
            raise InputError(f"{path}: exists; --resume goes on with it, or choose another --out")
        with self._saying():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30)
            self._connection.execute("pragma journal_mode=wal")
            self._connection.executescript(SCHEMA)
            known = self._connection.execute("select content from plan").fetchone()
            if known is None:
                self._connection.execute("insert into plan values (?)", (plan,))
                self._connection.commit()
        if known is not None and known[0] != plan:
            self.close()
            raise InputError(f"{path}: holds the results of another plan; choose another --out")

    @contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            text = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: cannot be written: {text}; what it holds is intact") from error

    def close(self) -> None:
        self._connection.close()

    def finished(self) -> dict[str, str]:
        """Id and status of every task that has been finished."""
        return dict(self._connection.execute("select id, status from tasks").fetchall())

    def record(self, task: Task, outcome: dict[str, Any]) -> None:
        """Put down what came of a task; replaces an earlier failure."""
        result = outcome.get("result")
        status = "done" if result is not None else "failed"
        row = (task.id, task.kind, json.dumps(task.spec), status, json.dumps(result) if result is not None else None,
               outcome.get("error"), outcome["wall_s"])  # fmt: skip
        with self._saying(), self._connection:
            self._connection.execute("insert or replace into tasks values (?, ?, ?, ?, ?, ?, ?)", row)
            if task.kind == "simulate" and result is not None and not result["remembered"]:
                memo = tuple(result[key] for key in ("digest", "engine", *FIGURES))
                self._connection.execute("insert or ignore into memo values (?, ?, ?, ?, ?, ?)", memo)

    def rows(self) -> list[dict[str, Any]]:
        """All finished tasks, in the order in which they finished."""
        query = "select id, kind, spec, status, result, error, wall_s from tasks order by rowid"
        names = ("id", "kind", "spec", "status", "result", "error", "wall_s")
        rows = [dict(zip(names, row, strict=True)) for row in self._connection.execute(query)]
        return [row | {"spec": json.loads(row["spec"]), "result": json.loads(row["result"] or "null")} for row in rows]

"""How long the commands of README and docs take, each as it stands there: what durations beside them are from.

    python benchmarks/commands.py [--page README.md ...] [--only WORD ...] [--limit S] [--quick] [--json FILE]

The commands of a page run one after the other in a folder of their own, in which the files that the page shows (blocks
with a title) stand. A synopsis, with words in capitals where names go, is no command. cpu_s: of the process and its
workers, which other work on the machine changes little; wall_s: until it ended. Figures of commands that are not run
stay in FILE as they are; one that lacks a file which its page does not show has none. --quick: those of README that
results/commands.json has at less than LEAST seconds.

Every line whose cpu_s is LONG or more says in README and docs how long it takes (tests/test_commands.py).
"""

from __future__ import annotations

import json
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import arguments, state, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "commands.json"
LONG = 60.0  # seconds, from which on a page says how long a command takes
LEAST = 3.0
BAD_INPUT = 2
FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?[^\n]*\n(.*?)^```$', re.M | re.S)
INLINE = re.compile(r"`(cosoc [^`\n]+)`")
PLACEHOLDER = re.compile(r"\b[A-Z]+\b|\.\.\.|\[")


@dataclass(frozen=True)
class Command:
    """A command of a page. text: as it stands, with its comment; place: page:line."""

    text: str
    place: str

    @property
    def words(self) -> list[str]:
        """The words behind `cosoc`, without redirections."""
        words = shlex.split(self.text, comments=True)[1:]
        return words[: words.index(">")] if ">" in words else words

    @property
    def writes(self) -> list[str]:
        """Files and folders that it leaves."""
        words = shlex.split(self.text, comments=True)
        return [b for a, b in pairwise(words) if a in (">", "--out", "-o", "--json")]


def pages() -> list[Path]:
    """README and the pages of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown_files(page: Path) -> dict[str, str]:
    """Files that a page shows, by the titles of its blocks."""
    return {m[2]: m[3] for m in FENCE.finditer(page.read_text(encoding="utf-8")) if m[2]}


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page in its order: lines of blocks without a language, indented ones, and whole ones in text.
    Those of `console` blocks are run by tests/test_docs.py, with what they say."""
    language: str | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        place = f"{page.relative_to(ROOT)}:{number}"
        if line.startswith("```"):
            language = None if language is not None else line[3:].split(" ")[0]
            continue
        if language not in (None, ""):
            continue
        text = line.strip().removeprefix("$ ")
        found = [text] if text.startswith("cosoc ") and (language == "" or line.startswith("    ")) else []
        if language is None and not found:
            found = [one for one in INLINE.findall(line) if _is_whole(one)]
        for one in found:
            if not PLACEHOLDER.search(one.split(" #")[0]):
                yield Command(one, place)


def _is_whole(text: str) -> bool:
    """Whether a command in running text has what it works on, or only names the command or its options."""
    words = text.split()
    alone = {"list": 2, "doctor": 2, "validate": 2, "calibrate": 3, "sweep": 3, "explain": 3, "report": 3}
    return sum(not word.startswith("-") for word in words) >= alone.get(words[1], 4)


def timed(command: Command, folder: Path, limit_s: float) -> dict[str, Any]:
    """Run a command in a folder."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    try:
        line = [sys.executable, "-m", "cosoc", *command.words]
        done = subprocess.run(line, cwd=folder, capture_output=True, timeout=limit_s, check=False)
        status: int | str = done.returncode
    except subprocess.TimeoutExpired:
        status = f"over {limit_s:g} s"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"place": command.place, "status": status, "cpu_s": cpu_s, "wall_s": time.monotonic() - start}


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--page", nargs="*", help="pages by name [default: all]")
    parser.add_argument("--only", nargs="*", default=[], help="commands in which one of these stands")
    parser.add_argument("--limit", type=float, default=3600.0, metavar="S", help="of one command")
    options = parser.parse_args()
    state()
    last = RESULTS if options.quick else options.json or RESULTS
    known: dict[str, Any] = json.loads(last.read_text())["commands"] if last.exists() else {}
    found: dict[str, Any] = {} if options.quick else known
    failed = 0
    for page in pages():
        if (options.page and page.name not in options.page) or (options.quick and page.name != "README.md"):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for title, text in shown_files(page).items():
                (folder / title).parent.mkdir(exist_ok=True, parents=True)
                (folder / title).write_text(text, encoding="utf-8")
            for command in commands(page):
                key = shlex.join(["cosoc", *command.words])
                if options.only and not any(word in key for word in options.only):
                    continue
                if options.quick and not known.get(key, {}).get("cpu_s", LEAST) < LEAST:
                    continue
                one = timed(command, folder, options.limit)
                if one["status"] != BAD_INPUT:
                    found[key] = one
                print(f"{one['cpu_s']:8.1f} s of CPU {one['wall_s']:8.1f} s  {one['status']}  {key}", flush=True)
                failed += one["status"] != 0
                write_json(options.json, {"commands": found})
    write_json(options.json, {"commands": found})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

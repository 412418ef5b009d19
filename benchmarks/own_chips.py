"""Random SoCs of one's own x every command: what a stranger meets in the first hour.

    python benchmarks/own_chips.py [--chips 40] [--seed 0] [--trained] [--quick] [--json FILE]

A chip is a built-in SoC with some figures scaled (counts of cycles made odd, too), a core taken out, or a second one of
a kind added, so that two have one format; it is written to a file, as a user would. Each command is given it with a
small network. Right is: status 0, or 1 where the command says so, with something said; or 2 and one line. Counted as
failures: a traceback, any other status, an empty answer, more than one line. --trained adds the searches that train
(minutes). Every chip follows from the seed and its number.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import triples
import yaml
from common import arguments, state, write_json

from cosoc.cli import main
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import list_socs, load_soc
from cosoc.sim.model.soc import SoC

NETWORK = "digits_cnn"
TRIES = 60
BAD_INPUT = 2
WITH_FAILURES = ("sweep", "validate", "doctor")  # commands whose status may be 1


@dataclass(frozen=True)
class Answer:
    """What a command came to. failure: what is wrong with that; '' if nothing."""

    words: tuple[str, ...]
    status: int
    said: str
    failure: str


def own_chip(seed: int, number: int, folder: Path) -> Path:
    """The file of chip `number`."""
    for attempt in range(TRIES):
        rng = Random(f"{seed} chip {number} {attempt}")
        path = folder / f"own{number}.yaml"
        try:
            soc = triples.random_soc(rng, list_socs()[number % len(list_socs())])
            content = _changed(soc, rng)
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            load_soc(path)
        except InputError:
            continue
        return path
    raise RuntimeError(f"chip {number} of seed {seed}: no draw of {TRIES} hangs together")


def _changed(soc: SoC, rng: Random) -> dict[str, Any]:
    """The SoC as plain data, its cores more, fewer, or of odd counts."""
    content: dict[str, Any] = soc.model_dump(mode="json", by_alias=True, exclude_unset=True)
    content["name"] = "own"
    cores = content["cores"]
    others = [name for name in cores if name != content["host"]]
    what = rng.choice(("as it is", "a core less", "a core twice", "odd"))
    if what == "a core less" and others:
        del cores[rng.choice(others)]
    elif what == "a core twice":
        name = rng.choice(list(cores))
        cores[f"{name}_2"] = cores[name]
    elif what == "odd":
        for one in (*cores.values(), *content["dmas"].values()):
            for key in ("launch_cycles", "setup_cycles"):
                if one.get(key):
                    one[key] |= 1
    return content


def commands(chip: Path, rng: Random, trained: bool, slow: bool = True) -> Iterator[list[str]]:
    """Every command that takes a SoC, on the chip and the network. trained: searches that train, too. slow: what takes
    seconds, too."""
    soc, out = str(chip), chip.with_suffix("")
    yield ["show", "soc", soc]
    yield ["show", "mapping", soc, NETWORK]
    yield ["simulate", soc, NETWORK, "--explain"]
    yield ["simulate", soc, NETWORK, "--runtime", "overlapped", "--json", f"{out}.json", "--report", f"{out}.html"]
    yield ["explain", f"{out}.json"]
    yield ["compare", soc, NETWORK, "--mapping", "default", "--mapping", rng.choice(("all_8bit", "min_cost", "gpu"))]
    yield ["simulate", soc, NETWORK, "--ranges"]
    yield ["simulate", soc, NETWORK, "--pipelined", "--inferences", "3"]
    yield ["simulate", soc, NETWORK, "--with", NETWORK, "--batch", "2"]
    yield ["estimate", soc, NETWORK, "--samples", "5"]
    yield ["calibrate", soc, "--samples", "5"]
    yield ["search", soc, NETWORK, "--space", "tiles", "--time-budget", "0.1", "--out", f"{out}_tiles"]
    yield ["validate", "--soc", soc, "--data", _rows(chip)]
    if slow:
        yield ["sweep", _plan(chip, rng), "--out", f"{out}_sweep", "--workers", "1", "--csv", f"{out}.csv"]
        yield ["report", f"{out}_sweep", "--out", f"{out}_sweep.html"]
        yield ["show", "program", soc, NETWORK]  # of Gemmini half a million lines
    if trained:
        for space in ("channels", "channels+tiles", "operators"):
            name = f"{out}_{space.replace('+', '_')}"
            yield ["search", soc, NETWORK, "--space", space, "--epochs", "1", "--points", "1", "--out", name]


def _plan(chip: Path, rng: Random) -> str:
    """A plan over two values of one of the chip's figures."""
    content = load_soc(chip).model_dump(mode="json", by_alias=True)
    path, _, value = rng.choice(list(triples.figures(content)))
    plan = chip.with_name(f"{chip.stem}_plan.yaml")
    values = f"{{{path}: [{value}, {2 * value + 1}]}}"
    plan.write_text(f"simulate: {{soc: [{chip}], workload: [{NETWORK}], set: {values}}}\n", encoding="utf-8")
    return str(plan)


def _rows(chip: Path) -> str:
    rows = chip.with_name(f"{chip.stem}_rows.csv")
    rows.write_text(f"workload,mapping,seconds,source\n{NETWORK},default,0.001,mine\n", encoding="utf-8")
    return str(rows)


def answer(words: Sequence[str]) -> Answer:
    """Run a command in this process, and judge what it came to."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(words))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return Answer(tuple(words), -1, "", f"a traceback: {type(error).__name__}: {error} ({where})")
    said = err.getvalue()
    failure = ""
    if status == BAD_INPUT:
        lines = [line for line in said.splitlines() if not line.startswith(" ")]  # progress is indented
        failure = "" if len(lines) == 1 else f"status 2 and {len(lines)} lines"
    elif status not in ((0, 1) if words[0] in WITH_FAILURES else (0,)):
        failure = f"status {status}"
    elif not out.getvalue().strip() and "--out" not in words:
        failure = "says nothing"
    return Answer(tuple(words), status, said, failure)


def answers(seed: int, number: int, folder: Path, trained: bool, slow: bool = True) -> Iterator[Answer]:
    """What every command says to one chip."""
    chip = own_chip(seed, number, folder)
    for words in commands(chip, Random(f"{seed} words {number}"), trained, slow):
        yield answer(words)


def run(chips: int, seed: int, trained: bool) -> dict[str, Any]:
    """All chips; counts of statuses by command, and the failures."""
    statuses: dict[str, Counter[int]] = {}
    failures, refusals = [], Counter[str]()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(chips):
            for one in answers(seed, number, Path(folder), trained):
                statuses.setdefault(one.words[0], Counter())[one.status] += 1
                if one.failure:
                    failures.append(f"chip {number}: {' '.join(one.words)}: {one.failure}")
                    print(failures[-1].replace(folder, "."), flush=True)
                elif one.status == BAD_INPUT:
                    refusals[one.words[0]] += 1
    return {
        "chips": chips, "seed": seed, "trained": trained, "commands": sum(sum(c.values()) for c in statuses.values()),
        "statuses": {name: {str(k): n for k, n in sorted(found.items())} for name, found in statuses.items()},
        "refusals": dict(refusals), "failures": [one.replace(folder, ".") for one in failures],
        "wall_s": time.perf_counter() - start,
    }  # fmt: skip


def _main() -> int:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--chips", type=int, default=40)
    parser.add_argument("--trained", action="store_true", help="searches that train, too")
    options = parser.parse_args()
    state(options.seed)
    found = run(3 if options.quick else options.chips, options.seed, options.trained)
    print(f"{found['chips']} chips, {found['commands']} commands: {len(found['failures'])} failures, "
          f"{sum(found['refusals'].values())} refused in a line")  # fmt: skip
    write_json(options.json, {"quick": options.quick} | found)
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(_main())

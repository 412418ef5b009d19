"""Which share of small faults planted in sim/ do the tests find?

    python benchmarks/mutants.py [--mutants 500] [--seed 0] [--keep DIR] [--again] [--quick] [--json FILE]

The operators of cosmic-ray (another arithmetic operator or comparison, a number one more or less, a condition negated,
a loop without iterations and the like: `pip install cosmic-ray coverage`; nothing else of cosoc needs them) plant a
fault each at places drawn from all of sim/; each place draws its own rank, so that a sample stays where code stays.
Left out is what no run can show: annotations, decorators that compile or remember. A mutant's tests are those that run
its line, the fastest first, until one fails: 40 within 12 s, then the others within 10 s; of a survivor that a test has
mended since, that test. It is killed by a test that fails, takes six times its time and 5 s, or takes the process down.

A survivor is a fault that no test finds, or no fault: mutants.yaml says which of each that was read. All happens in a
copy of the tree in --keep, which holds what was recorded of the tests and what came of the mutants, and from which a
broken run goes on; --again runs survivors again, with the tests as they are now.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import arguments, skip, state, write_json

ROOT = Path(__file__).resolve().parent.parent
# Not those that start processes, which are not seen, nor those of training and campaigns, which run little of sim/.
TESTS = (
    "tests/sim/test_*.py", "tests/test_api.py", "tests/test_cli*.py", "tests/test_energy_boundary.py",
    "tests/test_fuzzed.py", "tests/test_golden_commands.py", "tests/test_memory_use.py", "tests/test_output.py",
    "tests/test_report_html.py", "tests/test_schema.py", "tests/test_strangers.py", "tests/search/test_exact_tiling.py",
    "tests/search/test_relax.py", "tests/search/test_share_table.py", "tests/search/test_terms.py",
    "tests/search/test_tiles.py",
)  # fmt: skip
QUICK = ("sim/lower/walk.py", "sim/exact.py", "sim/cores/digital_array.py"), ("tests/sim/test_walk.py",), 4
ALIVE = ("survived", "no test")
# equivalent: no run can tell; speed only; chosen: a bound or cut-off that others would be as right for; mended: by the
# test `by`; gap: a fault that tests should find, and do not.
VERDICTS = ("equivalent", "speed only", "chosen", "mended", "gap")
SETTLED = ("equivalent", "speed only", "chosen")
KEY = ("file", "within", "was", "becomes")  # what a mutant is told by when lines shift
Verdicts = dict[tuple[str, ...], dict[str, str]]


def copied(keep: Path) -> Path:
    """The tree as git knows it, as it stands: a copy in `keep`. A file that is the same keeps its times, by which
    compiled code knows it."""
    tree = keep / "tree"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    names = [name for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]
    for name in names:
        source, target = ROOT / name, tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            with contextlib.suppress(FileExistsError):
                target.symlink_to(os.readlink(source))
        elif not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copy2(source, target)
    return tree


def recorded(tree: Path, keep: Path, files: list[str]) -> Path:
    """Record what the test files run that are not recorded as they stand; the folder of the recordings, which are of
    the lines of sim/ as they stand, too."""
    from mutant_tests import TESTS as KNOWN
    from mutant_tests import digest

    sources = [digest(path) for path in sorted((tree / "sim").rglob("*.py"))]
    keep = keep / hashlib.sha256("".join(sources).encode()).hexdigest()[:12]
    keep.mkdir(parents=True, exist_ok=True)
    known = json.loads((keep / KNOWN).read_text()) if (keep / KNOWN).exists() else {}
    missing = [file for file in files if known.get(file, {}).get("digest") != digest(tree / file)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(tree), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, str(ROOT / "benchmarks" / "mutant_tests.py"), str(tree), str(keep), *missing]
    if missing:
        print(f"recording which lines {len(missing)} test files run", flush=True)
        subprocess.run(call, cwd=tree, env=environment, check=True)
    return keep


class Kept:
    """What came of mutants, in a file that grows by a line for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {record["id"]: record for record in map(json.loads, lines)}

    def add(self, record: dict[str, Any]) -> None:
        """The last record of a mutant counts."""
        self.known[record["id"]] = record
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def measure(
    tree: Path, keep: Path, lines: Path, files: list[str], number: int, seed: int, again: bool, known: Verdicts
) -> dict[str, Any]:
    """So many mutants of some files: a record of each, and counts. All go through their first round of tests, then
    survivors through the second; those of kernels last, as each is compiled. What is known when Ctrl-C comes counts.
    lines: folder of what was recorded of the tests. again: survivors once more, but those that are known to be no
    faults; the test that mended one comes first."""
    from mutant_runs import Recordings, prepare
    from mutation import Source, drawn, mutant, places

    sources = {file: Source(tree, file) for file in files}
    digests = {file: hashlib.sha256(source.text.encode()).hexdigest()[:12] for file, source in sources.items()}
    found = list(places(tree, files))
    prepare(tree)
    recordings, kept = Recordings(lines), Kept(keep / "mutants.jsonl")
    sample: dict[str, tuple[Any, ...]] = {}
    left_out: Counter[str] = Counter()
    report = progress(number)

    def first(name: str) -> None:
        record = kept.known.get(name)
        told = told_of(name) if record else {}
        settled = told.get("verdict") in SETTLED or name in renewed or not again
        fresh = record is None or (record["how"] in ALIVE and not settled)
        if fresh:
            renewed.add(name)
            by = [told["by"]] if "by" in told else []
            kept.add({"id": name} | tried(tree, *sample[name], recordings, 0, by))
        report([kept.known[one] for one in sample if one in kept.known], fresh)

    def told_of(name: str) -> dict[str, str]:
        return known.get(tuple(kept.known[name][key] for key in KEY), {})

    def second(name: str) -> None:
        record, told = kept.known[name], told_of(name)
        due = "by" in told or (record["rounds"] == 1 and told.get("verdict") not in SETTLED)
        if record["how"] in ALIVE and due:
            more = tried(tree, *sample[name], recordings, 1, [told["by"]] if "by" in told else [])
            sums = {figure: record[figure] + more[figure] for figure in ("tests", "cpu_s")}
            kept.add(record | more | sums | ({"how": record["how"]} if more["how"] == "no test" else {}))

    renewed: set[str] = set()
    try:
        for place, operator, way in drawn(found, seed):
            if len(sample) == number:
                break
            source = sources[place.file]
            name = f"{place.file} {digests[place.file]} {place.start} {place.end} {operator} {way}"
            reason = source.reason(place)
            if not reason and name not in kept.known and mutant(source, place, operator, way) is None:
                reason = "the same program, or none"
            if reason:
                left_out[reason] += 1
                continue
            sample[name] = source, place, operator, way
            if not source.around(place.start)[2]:
                first(name)
        kernels = [name for name, (source, place, *_) in sample.items() if source.around(place.start)[2]]
        others = [name for name in sample if name not in kernels]
        for name in sorted(others, key=lambda name: "by" not in told_of(name)):  # what was mended first
            second(name)
        for name in kernels:
            first(name)
            second(name)
    except KeyboardInterrupt:
        print("broken off: these are the mutants so far")
    counts = {"places": len(found), "mutations": sum(len(place.ways) for place in found), "left_out": dict(left_out)}
    records = [kept.known[name] for name in sample if name in kept.known]
    return counts | {"tests": len(recordings.cost_s), "asked_for": number, "records": records}


def tried(
    tree: Path, source: Any, place: Any, operator: str, way: int, recordings: Any, number: int, by: Sequence[str] = ()
) -> dict[str, Any]:
    """What comes of one mutant in a round of its tests, 0 or 1, or of the tests `by`."""
    from mutant_runs import run
    from mutation import mutant

    one = mutant(source, place, operator, way)
    assert one is not None
    tests, spent_s = list(by) or recordings.rounds(one)[number], cpu_s()
    said = run(tree, one, tests, recordings.cost_s) if tests else {"how": "no test", "by": "", "error": ""}
    out = {"file": one.file, "line": one.line, "within": one.within, "was": one.was, "becomes": one.becomes}
    out |= {"operator": operator, "compiled": one.compiled} | said
    return out | {"rounds": number + 1, "tests": len(tests), "cpu_s": round(cpu_s() - spent_s, 1)}


def progress(number: int) -> Callable[[list[dict[str, Any]], bool], None]:
    """A report that prints a line for every ten mutants, with the time left."""
    start, ran = time.monotonic(), 0

    def report(records: list[dict[str, Any]], new: bool) -> None:
        nonlocal ran
        ran += new
        if ran and new and len(records) % 10 == 0:
            killed = sum(one["how"] not in ALIVE for one in records)
            left = (time.monotonic() - start) / ran * (number - len(records))  # the second round apart
            print(f"{len(records)} of {number}, {killed} killed, about {left / 60:.0f} min left", flush=True)

    return report


def cpu_s() -> float:
    """Processor time of processes that have ended, s."""
    times = os.times()
    return times.children_user + times.children_system


# ---------------------------------------------------------------------------------------------------------------------
# Verdicts


def verdicts(path: Path) -> Verdicts:
    """What was found of survivors that were read, by file, function and lines before and after."""
    import yaml

    out = {}
    for entry in yaml.safe_load(path.read_text()) or []:
        keys = {*KEY, "verdict", "by" if entry.get("verdict") == "mended" else "why"}
        if set(entry) != keys or entry["verdict"] not in VERDICTS:
            raise ValueError(f"{path}: needs {', '.join(sorted(keys))}, a verdict of {VERDICTS}; found {entry}")
        out[tuple(entry[key] for key in KEY)] = entry
    return out


def stale(tree: Path, known: Verdicts) -> list[str]:
    """Verdicts of code that is no longer there."""
    out = []
    for entry in known.values():
        path = tree / entry["file"]
        if entry["was"] not in re.sub(r"\s+", " ", path.read_text() if path.exists() else ""):
            out.append(f"{entry['file']}, {entry['within']}: {entry['was']}")
    return out


def summary(found: dict[str, Any], known: Verdicts) -> dict[str, Any]:
    """The figures, and each survivor with its verdict."""
    records = found.pop("records")
    survivors, mended, wrong = [], [], []
    folders: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        alive = record["how"] in ALIVE
        folder = folders[record["file"].rpartition("/")[0]]
        folder[0] += not alive
        folder[1] += 1
        entry = known.get(tuple(record[key] for key in KEY), {"verdict": "unread", "why": ""})
        told = {key: record[key] for key in ("file", "line", "within", "was", "becomes", "operator")}
        verdict = {key: entry[key] for key in ("verdict", "why", "by") if key in entry}
        if alive:
            survivors.append(told | {"tests": record["tests"]} | verdict)
        elif entry["verdict"] == "mended":
            mended.append(told | {"by": record["by"]})
        elif entry["verdict"] in SETTLED:
            wrong.append(told | verdict | {"by": record["by"]})
    killed = len(records) - len(survivors)
    by_verdict = Counter(one["verdict"] for one in survivors)
    none = by_verdict["equivalent"] + by_verdict["speed only"]
    kernels = [one["how"] not in ALIVE for one in records if one["compiled"]]
    return found | {
        "mutants": len(records), "killed": killed, "of_kernels": f"{sum(kernels)} of {len(kernels)}",
        "killed_by": dict(Counter(one["how"] for one in records)),
        "share_killed": round(killed / max(1, len(records)), 4),
        "share_killed_of_faults": round(killed / max(1, len(records) - none), 4),
        "survivors_by_verdict": dict(by_verdict),
        "killed_of_folder": {name: "{} of {}".format(*folders[name]) for name in sorted(folders)},
        "median_tests": sorted(one["tests"] for one in records)[len(records) // 2] if records else 0,
        "cpu_s": round(sum(one["cpu_s"] for one in records)),
        "survivors": survivors, "mended": mended, "called_equivalent_but_killed": wrong,
    }  # fmt: skip


def main() -> int:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--mutants", type=int, default=500, help="how many")
    parser.add_argument("--keep", type=Path, help="where what is known stays, and a broken run goes on from")
    parser.add_argument("--again", action="store_true", help="run those again that survived")
    options = parser.parse_args()
    if any(importlib.util.find_spec(name) is None for name in ("cosmic_ray", "coverage")):
        skip("cosmic-ray and coverage: pip install cosmic-ray coverage")
    state(options.seed)
    known = verdicts(ROOT / "benchmarks" / "mutants.yaml")
    with tempfile.TemporaryDirectory() as folder:
        keep = (options.keep or Path(folder)).resolve()
        tree = copied(keep)
        tests = sorted({str(path.relative_to(tree)) for glob in TESTS for path in tree.glob(glob)})
        files, number = sorted(str(path.relative_to(tree)) for path in (tree / "sim").rglob("*.py")), options.mutants
        if options.quick:
            (files, tests, number) = list(QUICK[0]), list(QUICK[1]), QUICK[2]
        lines = recorded(tree, keep, tests)
        gone = stale(tree, known)
        figures = summary(measure(tree, keep, lines, files, number, options.seed, options.again, known), known)
    print(json.dumps({name: figure for name, figure in figures.items() if not isinstance(figure, list)}, indent=1))
    for one in figures["survivors"]:
        print(f"{one['file']}:{one['line']} {one['was']} -> {one['becomes']}: {one['verdict']}: {one.get('why', '')}")
    for one in figures["called_equivalent_but_killed"]:
        print(f"{one['file']}:{one['line']} is called {one['verdict']}, and {one['by']} kills it")
    for one in gone:
        print(f"mutants.yaml speaks of what is no longer there: {one}")
    write_json(options.json, {"seed": options.seed, "quick": options.quick, **figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Does any input, found by coverage, make a reader of files do anything but read it or refuse it in one line?

    python benchmarks/fuzz.py [--seconds 3600] [--readers NAME,...] [--corpus DIR] [--keep DIR] [--quick] [--json FILE]

The readers of workloads, mappings, SoCs, clusters, technologies, plans of campaigns, tables of latencies (CSV) and ONNX
files, each in a process of its own for its part of the seconds (of processor time), driven by libFuzzer through atheris
(`pip install atheris`; nothing else of cosoc needs it), beginning with the files that come with cosoc. Right is a
value, or InputError of one line. Counted, each place once: any other exception, more than one line, `LIMIT_S` seconds
of processor time. The inputs of such go to --keep; those that were mended stand in tests/fuzzed/READER/. inputs: tried;
edges: of our code that they reached together. --corpus goes on from inputs that earlier runs kept. --quick:
the first three readers, 3 s each, beside the ten that each takes to be instrumented.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from common import Hang, arguments, skip, state, write_json

LIMIT_S = 10
MEMORY_BYTES = 4 << 30
INSTRUMENTED = (
    "cosoc.sim.files", "cosoc.sim.importers", "cosoc.sim.model", "cosoc.sim.tiler", "cosoc.sim.cores",
    "cosoc.search.measured", "cosoc.search.campaigns.plan",
)  # fmt: skip
SUFFIX = {"onnx": ".onnx", "latencies": ".csv"}


def readers() -> dict[str, Callable[[Path], object]]:
    """What reads each kind of file."""
    from cosoc.search import measured
    from cosoc.search.campaigns.plan import load_plan
    from cosoc.sim.files.catalog import find_soc, find_technology, load_cluster, load_soc
    from cosoc.sim.files.mapping_file import load_mapping
    from cosoc.sim.files.workload_file import find_workload, load_workload

    soc, network = find_soc("diana"), find_workload("resnet18_segment")
    return {
        "workload": load_workload,
        "mapping": lambda file: load_mapping(file, network, soc),
        "soc": load_soc,
        "cluster": load_cluster,
        "technology": lambda file: find_technology(str(file)),
        "plan": load_plan,
        "latencies": measured.load,
        "onnx": lambda file: find_workload(str(file)),
    }


PLAN = b"""simulate:
  soc: [diana]
  workload: [resnet8]
  mapping: [all_8bit, min_cost]
  runtime: [serial, overlapped]
  set: {links.l2_read.bytes_per_period: [8, 16]}
search: {soc: [diana], workload: [resnet8], strengths: [0.1], seeds: [0], epochs: 1}
"""


def seeds(name: str) -> list[bytes]:
    """Good files to begin with."""
    from robustness import SOCS, sources  # imports cosoc, which a child does under instrumentation

    good = sources()
    if name in ("cluster", "technology"):
        folder = SOCS / {"cluster": "clusters"}.get(name, name)
        return [path.read_bytes() for path in sorted(folder.glob("*.yaml"))[:4]]
    if name == "plan":
        return [PLAN]
    return good["csv" if name == "latencies" else name]


def words(name: str) -> list[bytes]:
    """Keys and values of the good files, for the mutations."""
    found: set[bytes] = set()
    for content in seeds(name) if name != "onnx" else ():
        found.update(re.findall(rb"[A-Za-z_][\w.]*", content))
    return sorted(found)[:400]


# ----------------------------------------------------------------------------------------------- in the child


def work(name: str, corpus: str, keep: str, seconds: int, seed: int) -> None:
    """A child process: fuzz one reader; on standard output a line of JSON for each new failure, and one with the number
    of inputs when its processor time is over."""
    import atheris

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        read, known_words = readers()[name], words(name)
    from cosoc.sim.errors import InputError

    seen: set[str] = set()
    folder = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    file = Path(folder.name) / f"input{SUFFIX.get(name, '.yaml')}"

    def over(signum: int, frame: FrameType | None) -> None:
        raise Hang

    signal.signal(signal.SIGVTALRM, over)
    tried, began = 0, time.process_time()

    def one(content: bytes) -> None:
        nonlocal tried
        if time.process_time() >= began + seconds:
            print(json.dumps({"inputs": tried}), flush=True)
            folder.cleanup()
            os._exit(0)  # libFuzzer takes any other end for a crash
        tried += 1
        file.write_bytes(content)
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
        try:
            read(file)
        except InputError as error:
            if len(str(error).splitlines()) != 1:
                failed("not one line", str(error)[:200], content)
        except Hang:
            failed("hang", place(), content)
        except Exception as error:  # whatever it is, it is what is looked for
            failed(type(error).__name__, place(), content)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def place() -> str:
        frames = traceback.extract_tb(sys.exc_info()[2])
        ours = [frame for frame in frames if "cosoc" in frame.filename] or list(frames)
        return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"

    def failed(what: str, where: str, content: bytes) -> None:
        if f"{what} {where}" in seen:
            return
        seen.add(f"{what} {where}")
        kept = Path(keep) / f"{name}{len(seen)}{SUFFIX.get(name, '.yaml')}"
        kept.write_bytes(content)
        print(json.dumps({"reader": name, "what": what, "where": where, "kept": kept.name}), flush=True)

    with tempfile.NamedTemporaryFile("w", suffix=".dict", delete=False) as known:
        known.writelines(f'"{word.decode()}"\n' for word in known_words)
    flags = ["-max_len=20000", "-rss_limit_mb=0", "-timeout=3600", f"-seed={seed + 1}"]
    atheris.Setup([sys.argv[0], corpus, *flags, *([f"-dict={known.name}"] if known_words else [])], one)
    atheris.Fuzz()


# ---------------------------------------------------------------------------------------------- the parent


def fuzz(name: str, corpus: Path, keep: Path, seconds: int, seed: int) -> dict[str, Any]:
    """Fuzz one reader for so long: inputs, edges, failures."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(name)):
        (corpus / f"seed{number}").write_bytes(content)
    call = [sys.executable, __file__, "--work", name, str(corpus), str(keep), str(seconds), str(seed)]
    done = subprocess.run(call, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    told = [json.loads(line) for line in done.stdout.decode(errors="replace").splitlines() if line.startswith("{")]
    inputs = [line["inputs"] for line in told if "inputs" in line]
    failures = [line for line in told if "inputs" not in line]
    edges = re.findall(r"cov: (\d+)", said)
    if not inputs:
        last = (said.strip() or f"status {done.returncode}").splitlines()[-1]
        failures.append({"reader": name, "what": "the process died", "where": last[:300], "kept": ""})
    counts = {"inputs": sum(inputs), "edges": int(edges[-1]) if edges else 0}
    return {"seconds": seconds} | counts | {"failures": failures}


def main() -> int:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--seconds", type=int, default=3600, help="of processor time, for all readers together")
    parser.add_argument("--readers", default="workload,mapping,soc,cluster,technology,plan,latencies,onnx")
    parser.add_argument("--corpus", type=Path, help="folder of inputs to go on from, by reader")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        skip("atheris: pip install atheris")
    state(options.seed)
    options.keep.mkdir(parents=True, exist_ok=True)
    names = options.readers.split(",")[: 3 if options.quick else None]
    each = (9 if options.quick else options.seconds) // len(names)
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            out[name] = fuzz(name, (options.corpus or Path(folder)) / name, options.keep, each, options.seed)
            one = out[name]
            print(
                f"{name:10} {one['inputs']:9,} inputs, {one['edges']:6,} edges, {len(one['failures'])} failures",
                flush=True,
            )
            for failure in one["failures"]:
                print(f"  {failure['what']} at {failure['where']} {failure['kept']}", flush=True)
    write_json(options.json, {"seed": options.seed, "quick": options.quick, "readers": out})
    return 1 if any(one["failures"] for one in out.values()) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
    else:
        sys.exit(main())

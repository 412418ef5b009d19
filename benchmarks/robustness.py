"""Do damaged files end in one line and status 2, do invariants hold of whatever is simulated, does a kill cost nothing?

    python benchmarks/robustness.py [--inputs 10000] [--triples 200] [--changes 225] [--figures 1] [--kills 100]
                                    [--damages 10000] [--signals 120] [--environments 418] [--processes 2] [--quick]
                                    [--seed 0] [--json FILE]

Parts; 0 leaves one out, and its figures in FILE as they are. Triples of SoC, workload and mapping: triples.py. The same
after changes of known effect: metamorphic.py. Figures beyond reason, all of them or one in so many: absurd.py. Kills of
searches and campaigns: kills.py. Damaged run folders: damage.py. Signals: signals.py. Commands in hostile surroundings:
environments.py. These four go name by name, also by themselves, and FILE has what is done. Damaged inputs are dealt
with here:

Workload, mapping and SoC files, ONNX files and tables of latencies (CSV) are damaged at random and given to the command
line, in the process, ten seconds of processor time each. Right is status 0 (the damage did no harm), or status 2 and
one line. Counted as failures: a traceback, any other status, more than one line, ten seconds over, a crash of the
process. The file of a failure is kept in --keep DIR. Every damage follows from the seed and the input's number.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import absurd
import damage
import environments
import kills
import metamorphic
import signals
import triples
from common import Measure, arguments, noting, outcome, state, write_json

LIMIT_S, KILL_S = 10, 40
CHUNK = 200
MEMORY_BYTES = 8 << 30
QUICK = {"inputs": 100, "triples": 4}  # the other parts have a quick form of their own
PARTS = ("inputs", "triples", "changes", "figures", "kills", "damages", "signals", "environments")
# Parts that go name by name, each of which is noted as soon as it is done.
IN_PIECES: tuple[tuple[str, Collection[str], Measure], ...] = (
    ("kills", kills.COMMANDS, kills.measure),
    ("damages", damage.KINDS, damage.measure),
    ("signals", signals.COMMANDS, signals.measure),
    ("environments", environments.COMMANDS, environments.measure),
)
KINDS = ("workload", "mapping", "soc", "onnx", "csv")
HERE = Path(__file__).resolve().parent
SOCS = HERE.parent / "socs"

Random = random.Random

NUMBERS = ("0", "-1", "1", "3", "65536", "16777217", "2147483648", "9" * 30, "2.5", "1e9", ".nan", ".inf", "1_000")
WORDS = (
    *("", "~", "null", "true", "no", "x", "[]", "{}", "[1, 2]", "{a: 1}", '"', "'", "&a", "*a", "|", "%", "@"),
    *("!!python/object:os.system x", "\x00", "\t", "\u00e9\U0001f600", "input", "<<: x", "digital", "0x10", "a: b: c"),
)


# ------------------------------------------------------------------------------------------ damage


def damaged_text(text: str, rng: Random) -> bytes:
    """One to four small damages to a text file."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        text = rng.choice(TEXT_DAMAGES)(text, rng)
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.03:
        at = rng.randrange(len(content) + 1)
        content = content[:at] + bytes([rng.randrange(128, 256)]) + content[at:]
    return content


def _number(text: str, rng: Random) -> str:
    places = list(re.finditer(r"-?\d+(\.\d+)?", text))
    if not places:
        return text
    place = rng.choice(places)
    near = str(round(float(place.group()) * rng.choice((0.5, 2, 3, 1000)) + rng.choice((-1, 0, 1))))
    new = rng.choice((near, str(rng.randrange(1, 2000)), rng.choice(NUMBERS)))
    return text[: place.start()] + new + text[place.end() :]


def _word(text: str, rng: Random) -> str:
    places = list(re.finditer(r"[A-Za-z_][\w.]*", text))
    if not places:
        return text
    place, other = rng.choice(places), rng.choice(places)
    return text[: place.start()] + rng.choice((*WORDS, other.group())) + text[place.end() :]


def _lines(text: str, rng: Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(4)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(to, lines[at])
    elif what == 2:
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = " " * rng.randrange(1, 5) + lines[at] if rng.random() < 0.5 else lines[at].lstrip()
    return "".join(lines)


def _characters(text: str, rng: Random) -> str:
    at = rng.randrange(len(text) + 1)
    what = rng.randrange(3)
    if what == 0:
        return text[:at] + text[at + rng.randrange(1, 12) :]
    if what == 1:
        return text[:at] + rng.choice("{}[]:,-#&*!|>'\"%@`\n\t \x07\x00") + text[at:]
    return text[:at]


TEXT_DAMAGES: tuple[Callable[[str, Random], str], ...] = (_number, _number, _word, _word, _lines, _characters)


def damaged_onnx(content: bytes, rng: Random) -> bytes:
    """Bytes changed, or the graph."""
    if rng.random() < 0.4:
        return _damaged_bytes(content, rng)
    import onnx

    model = onnx.load_model_from_string(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _damage_graph(model.graph, rng)
    return bytes(model.SerializeToString())


def _damaged_bytes(content: bytes, rng: Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data))
        what = rng.randrange(4)
        if what == 0:
            data[at] = rng.randrange(256)
        elif what == 1:
            del data[at : at + rng.randrange(1, 9)]
        elif what == 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif rng.random() < 0.2:
            del data[max(at, 1) :]
        if not data:
            data = bytearray(b"\x00")
    return bytes(data)


OPS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Reshape", "Concat", "Split", "Slice", "MaxPool", "Resize", "If"),
    *("Softmax", "ReduceMean", "Transpose", "Gather", "Pad", "ConvTranspose", "LSTM", "Nonsense", "", "Expand"),
)
INTEGERS = (-1, 0, 1, 2, 3, 7, 255, 65536, 1 << 31, -(1 << 63), (1 << 63) - 1)


def _damage_graph(graph: Any, rng: Random) -> None:
    node = rng.choice(graph.node)
    names = [name for other in graph.node for name in (*other.input, *other.output)]
    what = rng.randrange(9)
    if what == 0:
        node.op_type = rng.choice(OPS)
    elif what == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice((*names, "", "nowhere"))
    elif what == 2 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice((*names, "", "new"))
    elif what == 3 and node.attribute:
        attribute = rng.choice(node.attribute)
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTEGERS)
        else:
            attribute.i = rng.choice(INTEGERS)
    elif what == 4 and node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]
    elif what == 5:
        del graph.node[rng.randrange(len(graph.node))]
    elif what == 6 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(INTEGERS)
        tensor.data_type = rng.choice((tensor.data_type, rng.randrange(30)))
    elif what == 7 and graph.input:
        dims = rng.choice(graph.input).type.tensor_type.shape.dim
        if dims:
            dims[rng.randrange(len(dims))].dim_value = rng.choice(INTEGERS)
    else:
        graph.node.append(node)
        graph.node[-1].name = rng.choice(("", "again", "\n\x00"))


# ------------------------------------------------------------------------------------------ the inputs


def _some(folder: Path, names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names.split()]


def sources() -> dict[str, list[bytes]]:
    """Good files of every kind, small enough to be simulated often."""
    out = {
        "workload": _some(SOCS / "workloads", "digits_cnn.yaml resnet8.yaml dscnn.yaml"),
        "soc": _some(SOCS, "diana.yaml rpi4.yaml gemmini_firesim.yaml"),
        "mapping": [path.read_bytes() for path in sorted((SOCS / "mappings" / "diana").glob("*.yaml"))],
        "onnx": [],
        "csv": [b"\n".join((HERE.parent / "sim" / "truth" / "boards.csv").read_bytes().splitlines()[:6]) + b"\n"],
    }
    spec = importlib.util.find_spec("onnx")
    for place in (spec.submodule_search_locations or []) if spec else []:
        light = Path(place) / "backend" / "test" / "data" / "light"
        out["onnx"] += _some(light, "light_squeezenet.onnx light_shufflenet.onnx light_inception_v1.onnx")
    return out


def arguments_for(kind: str, file: Path, mapped: str) -> list[str]:
    """The command that reads a file of that kind."""
    if kind == "csv":
        return ["calibrate", "--measured", str(file), "--quiet"]
    words = {
        "workload": ["diana", str(file)],
        "mapping": ["diana", mapped, "--mapping", str(file)],
        "soc": [str(file), "digits_cnn"],
        "onnx": ["diana", str(file)],
    }
    return ["simulate", *words[kind], "--quiet"]


SUFFIX = {"onnx": ".onnx", "csv": ".csv"}


def mutant(kind: str, number: int, seed: int, good: dict[str, list[bytes]]) -> bytes:
    rng = Random(f"{seed} {kind} {number}")
    source = rng.choice(good[kind])
    return damaged_onnx(source, rng) if kind == "onnx" else damaged_text(source.decode(), rng)


# ------------------------------------------------------------------------------------------ running them


def work(kind: str, first: int, last: int, seed: int, keep: str) -> None:
    """A child process: inputs `first` to `last`, a line each when begun and when ended, on standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    good, out = sources(), sys.stdout
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, last):
            content = mutant(kind, number, seed, good)
            file = Path(folder) / f"{kind}{number}{SUFFIX.get(kind, '.yaml')}"
            file.write_bytes(content)
            print(json.dumps([number]), file=out, flush=True)
            what, said = outcome(arguments_for(kind, file, "resnet18_segment"), LIMIT_S)
            if what not in ("fine", "refused"):
                (Path(keep) / file.name).write_bytes(content)
            file.unlink()
            print(json.dumps([number, what, said[-2000:]]), file=out, flush=True)


def chunk(job: tuple[str, int, int, int, str]) -> list[tuple[int, str, str]]:
    """All outcomes of a range of inputs; a child that dies or stands still is replaced behind the input it died of."""
    kind, first, last, seed, keep = job
    results: list[tuple[int, str, str]] = []
    while first < last:
        words = [sys.executable, __file__, "--work", kind, str(first), str(last), str(seed), keep]
        with tempfile.TemporaryFile("w+") as lines:
            child = subprocess.Popen(words, stdout=lines, stderr=subprocess.DEVNULL, cwd=HERE)
            died = "crash"
            try:
                child.wait(KILL_S + (last - first) * LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                died = "hang"
            lines.seek(0)
            told = [json.loads(line) for line in lines.read().splitlines()]
        results += [(n, what, said) for n, what, said in (t for t in told if len(t) == 3)]
        begun = max((t[0] for t in told), default=first)
        if any(n == begun for n, _, _ in results) and begun == last - 1:
            break
        if not any(n == begun for n, _, _ in results):
            results.append((begun, died, f"exit status {child.returncode}"))
            (Path(keep) / f"{kind}{begun}{SUFFIX.get(kind, '.yaml')}").write_bytes(mutant(kind, begun, seed, sources()))
        first = begun + 1
    return results


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--triples", type=int, default=200)
    parser.add_argument("--changes", type=int, default=225, help="triples that are changed")
    parser.add_argument("--figures", type=int, default=1, help="one in so many cases of figures beyond reason")
    parser.add_argument("--kills", type=int, default=100, help="of each: searches, campaigns")
    parser.add_argument("--damages", type=int, default=10_000, help="to run folders; of all that there are, at most")
    parser.add_argument("--signals", type=int, default=120, help="to commands")
    parser.add_argument("--environments", type=int, default=418, help="pairs of a command and an environment")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of files, with commas")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "robustness")
    options = parser.parse_args()
    if options.quick:
        for part in PARTS:
            setattr(options, part, min(getattr(options, part), QUICK.get(part, 0)))
    state(options.seed)
    options.keep.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    result: dict[str, Any] = {part: known[part] for part in PARTS if part in known}
    if options.triples:
        result["triples"] = {"seed": options.seed} | triples.measure(options.triples, options.seed)
        print("triples:", ", ".join(f"{value} {key}" for key, value in result["triples"].items()))
        write_json(options.json, result)
    if options.changes:
        result["changes"] = {"seed": options.seed} | metamorphic.measure(options.changes, options.seed)
        print("changes:", result["changes"]["changes"])
        write_json(options.json, result)
    if options.figures:
        found = absurd.measure(absurd.everything(), options.figures, options.seed)
        result["figures"] = {"seed": options.seed} | found
        print("figures:", absurd.told(found))
        write_json(options.json, result)
    for part, names, measure in IN_PIECES:
        if number := getattr(options, part):
            note = noting(result, options.json, part, options.seed)
            measure(number, options.seed, options.keep / part, names, options.processes, note)
    if options.inputs:
        result["inputs"] = {"seed": options.seed} | damaged_inputs(options)
        write_json(options.json, result)


def damaged_inputs(options: argparse.Namespace) -> dict[str, Any]:
    """Give so many damaged files of every kind to the command line, and count what comes of them."""
    good = sources()
    kinds = [kind for kind in options.kinds.split(",") if good[kind]]
    each = options.inputs // len(kinds)
    jobs = [(kind, i, min(i + CHUNK, each), options.seed, str(options.keep))
            for i in range(0, each, CHUNK) for kind in kinds]  # fmt: skip
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    failures: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for job, results in zip(jobs, pool.imap(chunk, jobs), strict=True):
            counts[job[0]].update(what for _, what, _ in results)
            for number, what, said in results:
                if what not in ("fine", "refused"):
                    failures.append({"kind": job[0], "number": number, "what": what, "said": said})
                    print(f"{job[0]} {number}: {what}: {(said.strip().splitlines() or [''])[-1][:150]}", flush=True)
    for kind, count in counts.items():
        print(f"{kind:9} {sum(count.values()):6}", ", ".join(f"{n} {what}" for what, n in count.most_common()))
    return {"counts": counts, "failures": failures}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        main()

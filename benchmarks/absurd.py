"""Every number of every SoC and cluster file at values beyond reason, given to the command line: a part of
robustness.py.

    python benchmarks/absurd.py [NAME ...] [--quick] [--json FILE] [--verbose]

The numbers are those of the parsed files, in lists and left at their defaults too (as in keys.py); each is set to
each of VALUES, and a network of every operator is simulated, on a cluster over two of its devices. So are the numbers
of a workload file, of a mapping file, and of options. Right is status 0, or status 2 and one line that
names the key. Counted as failures: a traceback, any other status, more than one line or none, a line that does not
name the key, LIMIT_S of processor time, or GROWTH_BYTES more memory than before.

All runs are one process's; one that dies of a value, or whose compiled loops do not come back, is replaced behind it.
"""

from __future__ import annotations

import functools
import json
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer.main
import yaml
from common import arguments, outcome, state, write_json
from keys import attention, chain, keys_of, zoo

from cosoc.sim.files import yamlfile
from cosoc.sim.files.catalog import find_cluster, find_soc, is_cluster, list_clusters, list_socs
from cosoc.sim.files.mapping_file import dump_mapping
from cosoc.sim.files.workload_file import dump_workload
from cosoc.sim.model.mapping import Mapping, Stage

VALUES = (
    *("1073741824", "2147483648", "9223372036854775807", "9223372036854775808", "1e30", "1e300", "1" + "0" * 5000),
    *("5e-324", "-0.0", "0", "-1", ".nan", ".inf"),
)
LIMIT_S, KILL_S = 10, 60
GROWTH_BYTES = 2 << 30
OTHERS = "others"
EVERY = 120  # of a quick run: one case in so many
Case = tuple[str, str, str]  # of a machine's file or a command, a key (dotted), a value


# ------------------------------------------------------------------------------------------ cases

WORKLOAD_KEYS = (
    *("k", "c", "oy", "ox", "iy", "ix", "fy", "fx", "stride_y", "stride_x", "pad_y", "pad_x", "dilation_y"),
    *("dilation_x", "groups", "weight_bits", "n", "input.c", "input.iy", "input.ix"),
)
MAPPING_KEYS = (
    "parts.digital",
    "parts.analog",
    "tile.k",
    "tile.c",
    "tile.oy",
    "tile.ox",
    "tile.fy",
    "tile.n",
    "unroll",
)
CLUSTER_KEYS = ("micro_batch", "replicas")
OPTIONS = {
    "simulate": ("--batch", "--inferences", "--period", "--seed"),
    "cluster": ("--inferences", "--carrier"),
    "pipelined": ("--inferences",),
}


def cases(names: Sequence[str]) -> Iterator[Case]:
    """Everything that is tried: the numbers of these machines, and under the name of OTHERS those of other inputs."""
    for name in names:
        if name == OTHERS:
            yield from other_cases()
            continue
        machine = find_cluster(name) if is_cluster(name) else find_soc(name)
        paths = [".".join(map(str, path)) for path, _ in keys_of(machine)]
        yield from ((name, path, value) for path in paths for value in VALUES)


def everything() -> tuple[str, ...]:
    """The names of all that is tried."""
    return (*list_socs(), *list_clusters(), OTHERS)


def other_cases() -> Iterator[Case]:
    """Numbers of workload and mapping files and of options."""
    for about, keys in (("workload", WORKLOAD_KEYS), ("mapping", MAPPING_KEYS), ("stages", CLUSTER_KEYS)):
        yield from ((f"a {about}", key, value) for key in keys for value in VALUES)
    for about, options in OPTIONS.items():
        yield from ((f"options of {about}", option, value) for option in options for value in VALUES)


# ------------------------------------------------------------------------------------------ one case


class Bench:
    """The files that the commands read, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nets = [folder / "zoo.yaml", folder / "attention.yaml", folder / "chain.yaml"]
        for path, network in zip(self.nets, (zoo(8, 5), attention(4, 8), chain(8, 4)), strict=True):
            path.write_text(dump_workload(network))

    @functools.cached_property
    def _stages(self) -> dict[str, Path]:
        return {}

    def stages(self, cluster: str) -> Path:
        """A mapping of the chain over two devices that a link joins."""
        if cluster not in self._stages:
            found = find_cluster(cluster)
            kinds = list(found.devices)
            pairs = [(a, b) for a in kinds for b in kinds if a != b and found.joins(a, b)] or [(kinds[0], kinds[0])]
            stages = (Stage(pairs[0][0], ("conv0",)), Stage(pairs[0][1], ("conv2",)))
            path = self.folder / f"{cluster}.stages.yaml"
            path.write_text(dump_mapping(Mapping("pair", "serial", stages=stages)))
            self._stages[cluster] = path
        return self._stages[cluster]

    def commands(self, case: Case) -> Iterator[list[str]]:
        """What is run for a case."""
        name, key, value = case
        zoo_file, attention_file, chain_file = map(str, self.nets)
        if name == "a workload":
            yield ["simulate", "diana", str(self._workload(key, value)), "--quiet"]
        elif name == "a mapping":
            yield ["simulate", "diana", chain_file, "--mapping", str(self._mapping(key, value)), "--quiet"]
        elif name == "a stages":
            stages = "[{device: cpu, behind: conv0, replicas: REPLICAS}, {device: cpu, behind: conv2}]"
            text = f"runtime: serial\nmicro_batch: MICRO_BATCH\nstages: {stages}\n".replace(key.upper(), value)
            text = text.replace("MICRO_BATCH", "1").replace("REPLICAS", "1")
            path = self.folder / "stages.yaml"
            path.write_text(text)
            yield ["simulate", "homogeneous_cpu_4", chain_file, "--mapping", str(path), "--quiet"]
        elif name.startswith("options"):
            yield self._with_option(name.split()[-1], f"{key}={value}")
        elif is_cluster(name):
            yield ["simulate", name, chain_file, "--mapping", str(self.stages(name)), "--set", f"{key}={value}", "-q"]
        else:
            setting = f"{key}={value}"
            head, _, last = key.rpartition(".")
            if last.isdigit():  # one entry of a list: the whole list is written
                node: Any = find_soc(name).model_dump(mode="json", by_alias=True)
                for part in head.split("."):
                    node = node[part]
                setting = f"{head}=[{', '.join(value if i == int(last) else str(v) for i, v in enumerate(node))}]"
            yield ["simulate", name, zoo_file, "--set", setting, "--quiet"]
            if "attention" in key:
                yield ["simulate", name, attention_file, "--set", setting, "--quiet"]

    def _workload(self, key: str, value: str) -> Path:
        text = self.nets[2].read_text()
        if key.startswith("input."):
            text = re.sub(rf"({key[6:]}): \d+", rf"\1: {value}", text, count=1)
        else:
            lines = text.splitlines()
            line = re.sub(rf"\b{key}: \d+, ", "", lines[-1])
            text = "\n".join([*lines[:-1], line[:-1] + f", {key}: {value}}}"]) + "\n"
        path = self.folder / "workload.yaml"
        path.write_text(text)
        return path

    def _mapping(self, key: str, value: str) -> Path:
        entry: dict[str, Any] = {"parts": {"digital": 2, "analog": 2}, "tile": {"oy": 4}, "unroll": 1}
        head, _, last = key.partition(".")
        if last:
            entry[head][last] = "VALUE"
        else:
            entry[head] = "VALUE"
        path = self.folder / "mapping.yaml"
        path.write_text(f"layers: {json.dumps({'conv1': entry})}\n".replace('"VALUE"', value))
        return path

    def _with_option(self, about: str, option: str) -> list[str]:
        chain_file = str(self.nets[2])
        if about == "cluster":
            mixed = "donna_hetero_cim"  # whose chips lack a carrier, if it is taken from them
            pair = [mixed, chain_file, "--mapping", str(self.stages(mixed)), "--set", "devices.cim.carrier_w=0"]
            return ["simulate", *pair, "--carrier=2", option, "--quiet"]
        if about == "pipelined":
            return ["simulate", "isaac", chain_file, "--pipelined", option, "--quiet"]
        more = ["--ranges"] if option.startswith("--seed") else []
        return ["simulate", "diana", chain_file, option, *more, "--quiet"]


def bounded(words: Sequence[str]) -> tuple[str, str]:
    """What came of a command, which ends the process where it does not come back to the interpreter."""
    signal.alarm(KILL_S)  # not handled
    try:
        return outcome(words, LIMIT_S)
    finally:
        signal.alarm(0)


def looked_at(bench: Bench, case: Case) -> tuple[str, str]:
    """The worst outcome of a case's commands, what was said with it."""
    for words in bench.commands(case):
        what, said = bounded(words)
        if what == "refused" and not names_key(case[1], said):
            what = "key not named"
        if what != "fine":
            break
    return what, said


def names_key(key: str, said: str) -> bool:
    """Whether a message names the key: its name (of one entry of a list, the list's), or what it is a figure of."""
    parts = [part for part in key.split(".") if not part.isdigit()]
    return any(part.removeprefix("--") in said for part in parts[-2:])


# ------------------------------------------------------------------------------------------ all of them


def work(first: int, names: Sequence[str], every: int, seed: int) -> None:
    """A child process: the cases from `first` on, a line of JSON when one is begun and when it has ended."""
    # What is unchanged of a file need not be read again for every value, nor the command line be made.
    typer.main.get_command = functools.cache(typer.main.get_command)
    yaml.compose = functools.lru_cache(256)(yaml.compose)  # type: ignore[assignment]
    yamlfile.read_text = functools.lru_cache(256)(yamlfile.read_text)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bounded(["simulate", "diana", str(bench.nets[0]), "--quiet"])
        bounded(["simulate", "gemmini", str(bench.nets[0]), "--quiet"])  # what is loaded once is not the values' own
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + GROWTH_BYTES, used + GROWTH_BYTES))
        for number, case in chosen(names, every, seed):
            if number < first:
                continue
            print(json.dumps([number]), flush=True)
            if case[0] == "a stages" or case[0].startswith("a "):
                yaml.compose.cache_clear()  # type: ignore[attr-defined]
                yamlfile.read_text.cache_clear()  # type: ignore[attr-defined]
            began = time.process_time()
            what, said = looked_at(bench, case)
            print(json.dumps([number, what, said[-2000:], time.process_time() - began]), flush=True)


def chosen(names: Sequence[str], every: int, seed: int) -> Iterator[tuple[int, Case]]:
    """The cases, numbered; of every so many one, drawn by the seed."""
    rng = random.Random(seed)
    for number, case in enumerate(cases(names)):
        if every == 1 or rng.randrange(every) == 0:
            yield number, case


def measure(names: Sequence[str], every: int, seed: int, verbose: bool = False) -> dict[str, Any]:
    """Try the cases, and count what comes of them. Failures are printed as they come."""
    todo = dict(chosen(names, every, seed))
    counts: dict[str, Counter[str]] = {}
    failures: list[dict[str, Any]] = []
    longest, first, began, done = 0.0, 0, time.monotonic(), 0

    def note(number: int, what: str, said: str) -> None:
        where, key, value = todo[number]
        counts.setdefault(where, Counter())[what] += 1
        last = (said.strip().splitlines() or [""])[-1][:200]
        if what not in ("fine", "refused"):
            failures.append({"of": where, "key": key, "value": value[:40], "what": what, "said": said})
            print(f"{where}: {key} = {value[:40]}: {what}: {last}", flush=True)
        elif verbose:
            print(f"{where}: {key} = {value[:40]}: {what}: {last}", flush=True)

    while first <= max(todo, default=-1):
        words = [sys.executable, __file__, "--work", str(first), str(every), str(seed), *names]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        open_case = -1
        for line in child.stdout:
            if not line.startswith("["):
                continue
            told = json.loads(line)
            open_case = told[0] if len(told) == 1 else -1
            if len(told) > 1:
                note(told[0], told[1], told[2])
                longest = max(longest, told[3])
                done += 1
                if done % 500 == 0:
                    left = (time.monotonic() - began) * (len(todo) - done) / done
                    print(f"figures: {done}/{len(todo)} cases, about {left:.0f} s left", flush=True)
        status = child.wait()
        if open_case >= 0:
            note(open_case, "hang" if status == -signal.SIGALRM else "crash", f"exit status {status}")
            first = open_case + 1
        elif status:
            raise RuntimeError(f"a process that tried figures ended with status {status} between two of them")
        else:
            break
    return {
        "values": len(VALUES), "one_in": every, "longest_cpu_s": round(longest, 2), "counts": counts,
        "failures": failures,
    }  # fmt: skip


def told(result: dict[str, Any]) -> str:
    """What came of all cases, in a line."""
    total: Counter[str] = sum(map(Counter, result["counts"].values()), Counter())
    each = ", ".join(f"{n} {what}" for what, n in total.most_common())
    return f"{sum(total.values())} cases of {len(result['counts'])} machines and inputs: {each}"


def main() -> None:
    parser = arguments(__doc__, seed=0)
    names = everything()
    parser.add_argument("machines", nargs="*", default=names, help="SoCs, clusters, `others`; all built-in ones")
    parser.add_argument("--verbose", action="store_true", help="say what came of every case")
    args = parser.parse_args()
    state(args.seed)
    result = measure(args.machines, EVERY if args.quick else 1, args.seed, args.verbose)
    print(told(result))
    known = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for key in ("counts", "failures"):  # those of other machines stay
        before = known.get(key, type(result[key])())
        result[key] = before | result[key] if key == "counts" else [
            one for one in before if one["of"] not in result["counts"]] + result[key]  # fmt: skip
    result["longest_cpu_s"] = max(result["longest_cpu_s"], known.get("longest_cpu_s", 0.0))
    write_json(args.json, {"seed": args.seed} | result)
    sys.exit(bool(result["failures"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(int(sys.argv[2]), sys.argv[5:], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()

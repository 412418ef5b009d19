"""What a change must not change, on random SoC x network x mapping: a part of robustness.py.

    python benchmarks/metamorphic.py [--triples 225] [--first 0] [--seed 0] [--only NAMES] [--quick] [--json FILE]

The triples are those of triples.py; each is simulated again after changes of which the effect is known (CHANGES):

- clocks: every clock twice as fast; half the time, to the tick;
- unused: with copies of its cores that nobody uses, and without the cores that compute nothing and what only they need;
  the same, to the tick;
- order: layers listed in another order in which every input precedes its readers, three of them. The list is the order
  in which layers run, and what may run ahead of its layer (launches, weights) hides behind another one then: the
  difference is reported, with the largest. Without launches and weights to bring it must be nothing, to the tick, as it
  must be in the serial runtime; caches and open rows, which remember what ran before, are left out of that;
- bursts: half and a quarter of the burst on DMAs of one lane. A burst takes whole beats of a link: what is to be
  explained is what it costs beyond its beats (BURSTS);
- more: twice the lanes, ports, rate, memory or processors under the same tiles; no slower than MORE but by a cause that
  upgrades.py knows;
- stream: two and three inferences; no more than as many times one, to the tick;
- text: the program through its text form; the same digest and, read back, the same run.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import triples
from common import arguments, state, write_json
from triples import Triple
from upgrades import CAUSES, RAISED

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import SoCFile
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import digest, from_text, to_text
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import Dma, SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.movers.cached_terms import cached_cores

BURSTS = 1.01  # beyond its beats: loads and stores of tiles meet in another order where bursts are shorter
MORE = 1.01
ORDERS = 3
MOST_ROWS = 100_000  # of a program that goes through its text form
QUICK = 6


@dataclass(frozen=True)
class Seen:
    """A change and its effect. ratio: of the times after and before, over what was known to be; most: that it may be.
    exact: whether it must be 1."""

    what: str
    ratio: float
    most: float = math.inf
    exact: bool = False

    @property
    def violates(self) -> bool:
        return self.ratio != 1 if self.exact else self.ratio > self.most


def ticks(soc: SoC, workload: Workload, mapping: Mapping, inferences: int = 1) -> int:
    """The makespan of a simulated run."""
    return int(engine_fast.run(lower(workload, mapping, soc, inferences)).makespan)


def changed(soc: SoC, content: dict[str, Any]) -> SoC:
    """The SoC whose file would have this content; InputError where it would be refused."""
    try:
        out = SoCFile.model_validate(content)
    except ValueError as error:
        raise InputError(str(error)) from None
    if wrong := out.problems():
        raise InputError(wrong[0][1])
    return out


def content_of(soc: SoC) -> dict[str, Any]:
    """What a file of the SoC would say."""
    return dict(soc.model_dump(mode="json", by_alias=True, exclude_unset=True))


# ------------------------------------------------------------------------------------------ changes


def clocks(triple: Triple, before: int, rng: Random) -> Iterator[Seen]:
    soc = changed(triple.soc, content_of(triple.soc) | {"tick_hz": 2 * triple.soc.tick_hz})
    slow, fast = (lower(triple.workload, triple.mapping, one) for one in (triple.soc, soc))
    seconds = engine_fast.run(fast).makespan / fast.tick_hz, before / slow.tick_hz
    yield Seen("clocks", seconds[0] / seconds[1] * 2, exact=True)


def unused(triple: Triple, before: int, rng: Random) -> Iterator[Seen]:
    soc, mapping = triple.soc, triple.mapping
    content = content_of(soc)
    for name, core in content["cores"].items():
        try:
            more = changed(soc, content | {"cores": content["cores"] | {f"spare_{name}": core}})
        except InputError:  # such as a memory that only one core may have
            continue
        yield Seen(f"unused, and a second {name}", ticks(more, triple.workload, mapping) / before, exact=True)
    used = {part.core for plan in mapping.layers.values() for part in plan.parts if part.channels} | {soc.host}
    if len(used) == len(soc.cores):
        return
    kept = _pruned(content | {"cores": {name: core for name, core in content["cores"].items() if name in used}})
    layers = {name: replace(plan, parts=tuple(p for p in plan.parts if p.core in used)) for name, plan in
              mapping.layers.items()}  # fmt: skip
    try:
        fewer = changed(soc, kept)
    except InputError:  # such as ports that only the cores which went could fill
        return
    now = ticks(fewer, triple.workload, replace(mapping, layers=layers))
    yield Seen("unused, and cores that compute nothing taken out", now / before, exact=True)


def _pruned(content: dict[str, Any]) -> dict[str, Any]:
    """A SoC file's content without what its problems say nobody uses."""
    while True:
        out = SoCFile.model_validate(content)
        at = next((path for path, what in out.problems() if what.endswith("remove it")), None)
        if at is None:
            return content
        section, name = str(at[0]), str(at[1])
        content = content | {section: {key: one for key, one in content[section].items() if key != name}}


def order(triple: Triple, before: int, rng: Random) -> Iterator[Seen]:
    remembers = bool(cached_cores(triple.soc)) or any(memory.dram for memory in triple.soc.memories.values())
    for _ in range(ORDERS):
        other = permuted(triple.workload, rng)
        if other == triple.workload:
            continue
        try:
            now = ticks(triple.soc, other, triple.mapping)
        except InputError:  # a piece must stand together in the list
            continue
        serial = triple.mapping.runtime == "serial"
        yield Seen("order", now / before, exact=serial and not remembers)
        if not serial and not remembers:
            soc = without_running_ahead(triple.soc)
            alone = [ticks(soc, workload, triple.mapping) for workload in (other, triple.workload)]
            yield Seen("order, nothing running ahead", alone[0] / alone[1], exact=True)


def without_running_ahead(soc: SoC) -> SoC:
    """The SoC without launches and without weights to bring."""
    none = {"launch_cycles": 0, "layer_launch_cycles": 0, "weight_memory": None, "keeps_weights": False}
    return soc.model_copy(update={"cores": {name: core.model_copy(update=none) for name, core in soc.cores.items()}})


def permuted(workload: Workload, rng: Random) -> Workload:
    """The same network, its layers in any order in which what is read comes first."""
    done, left, out = {INPUT, *(name for name, _ in workload.received)}, list(workload.layers), list[Layer]()
    while left:
        layer = rng.choice([layer for layer in left if set(layer.reads) <= done])
        left.remove(layer)
        out.append(layer)
        done.add(layer.name)
    return replace(workload, layers=tuple(out))


def bursts(triple: Triple, before: int, rng: Random) -> Iterator[Seen]:
    soc = triple.soc
    content = content_of(soc)
    for name, mover in soc.dmas.items():
        if not isinstance(mover, Dma) or mover.lanes > 1:
            continue
        for part in (2, 4):
            size = mover.burst_bytes // part
            if size < 1:
                continue
            dmas = content["dmas"] | {name: content["dmas"][name] | {"burst_bytes": size}}
            now = ticks(changed(soc, content | {"dmas": dmas}), triple.workload, triple.mapping)
            yield Seen(f"bursts of {name} / {part}", now / before / beats_cost(soc, name, size), BURSTS)


def beats_cost(soc: SoC, dma: str, size: int) -> float:
    """Most that bursts of so many bytes cost over those of the file, as the links' cycles are whole: at any link that
    the DMA goes over, cycles of its bursts over those of as many bytes in bursts of the file."""
    mover = soc.dma(dma)
    links = [soc.links[name] for route in soc.routes if route.dma == dma for name in route.links]

    def cycles_a_byte(link: Any, n_bytes: int) -> float:
        return math.ceil(n_bytes * link.period_cycles / link.bytes_per_period) / n_bytes

    return max(1.0, *(cycles_a_byte(link, size) / cycles_a_byte(link, mover.burst_bytes) for link in links))


def more(triple: Triple, before: int, rng: Random) -> Iterator[Seen]:
    figures = list(_raised(content_of(triple.soc)))
    for path, value in rng.sample(figures, min(len(figures), 6)):
        content = json.loads(json.dumps(content_of(triple.soc)))
        node = content
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = 2 * value
        try:
            now = ticks(changed(triple.soc, content), triple.workload, triple.mapping)
        except InputError:  # such as tiles that are not those of the larger array's library
            continue
        key = ".".join(path)
        known = [one.most for one in CAUSES if re.fullmatch(one.key, key) and _like(triple.workload.name, one.workload)]
        yield Seen(f"more {key}", now / before, max(known, default=MORE))


def _like(workload: str, pattern: str) -> bool:
    """Whether a cause that is known of some networks is one of this: random graphs have every kind of layer."""
    return workload == "graph" or re.fullmatch(pattern, workload) is not None


def _raised(content: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key in RAISED and isinstance(value, int) and not isinstance(value, bool):
                yield (*at, key), value
            else:
                yield from _raised(value, (*at, str(key)))


def stream(triple: Triple, before: int, rng: Random) -> Iterator[Seen]:
    for n in (2, 3):
        yield Seen(f"stream of {n}", ticks(triple.soc, triple.workload, triple.mapping, n) / (n * before), 1.0)


def text(triple: Triple, before: int, rng: Random) -> Iterator[Seen]:
    program = lower(triple.workload, triple.mapping, triple.soc)
    if len(program.rows) <= MOST_ROWS:
        again = from_text(to_text(program))
        same = digest(again) == digest(program)
        yield Seen("text", engine_fast.run(again).makespan / before if same else math.nan, exact=True)


CHANGES: dict[str, Callable[[Triple, int, Random], Iterator[Seen]]] = {
    "clocks": clocks, "unused": unused, "order": order, "bursts": bursts, "more": more, "stream": stream, "text": text,
}  # fmt: skip


# ------------------------------------------------------------------------------------------ all of them


def looked_at(number: int, seed: int, names: Sequence[str] = tuple(CHANGES)) -> tuple[str, list[Seen]]:
    """What a triple is, and everything that was seen of it."""
    triple, _ = triples.drawn(seed, number)
    before = ticks(triple.soc, triple.workload, triple.mapping)
    if not before:
        return "nothing to do", []
    seen = [one for name in names for one in CHANGES[name](triple, before, Random(f"{seed} {name} {number}"))]
    return f"{triple.soc.name} {triple.workload.name} {triple.kind} {triple.mapping.runtime}", seen


def measure(n: int, seed: int, first: int = 0, names: Sequence[str] = tuple(CHANGES)) -> dict[str, Any]:
    """Look at n triples from `first` on; violations are printed as they come."""
    began, found = time.monotonic(), dict[str, list[float]]()
    violations: list[dict[str, Any]] = []
    for number in range(first, first + n):
        what, seen = looked_at(number, seed, names)
        for one in seen:
            kind = re.split(r" of | / |(?<=more) ", one.what)[0].split(", and")[0]
            found.setdefault(kind, []).append(one.ratio)
            if one.violates:
                violations.append({"triple": number, "what": f"{what}: {one.what}", "ratio": one.ratio})
                print(f"{number}: {what}: {one.what}: {one.ratio:.5f}", flush=True)
        done = number - first + 1
        if done % 25 == 0:
            left = (time.monotonic() - began) * (n - done) / done
            print(f"metamorphic: {done}/{n} triples, about {left:.0f} s left", flush=True)
    changes = {
        kind: {"runs": len(ratios), "least": min(ratios), "most": max(ratios), "equal": sum(r == 1 for r in ratios)}
        for kind, ratios in found.items()
    }
    return {"triples": n, "changes": changes, "violations": violations}


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--triples", type=int, default=225)
    parser.add_argument("--first", type=int, default=0, help="number of the first triple")
    parser.add_argument("--only", default=",".join(CHANGES), help="of the changes, with commas")
    args = parser.parse_args()
    state(args.seed)
    result = measure(QUICK if args.quick else args.triples, args.seed, args.first, args.only.split(","))
    for kind, figures in result["changes"].items():
        print(f"{kind:30} {figures['runs']:5} runs, {figures['equal']:5} equal, {figures['least']:.5f} to "
              f"{figures['most']:.5f}")  # fmt: skip
    known = json.loads(args.json.read_text())["from"] if args.json and args.json.exists() else {}
    write_json(args.json, {"seed": args.seed, "from": known | {str(args.first): result}})  # other ones stay
    sys.exit(bool(result["violations"]))


if __name__ == "__main__":
    main()

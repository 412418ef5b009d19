"""Several networks at once on one chip, each mapped so that all of them together cost least. A `Space`.

Each network is searched alone, on the part of every memory that it has where all of them use it; what that proposes is
its pool. Then mappings are taken from the pools, one network after the other, for as long as the run of all of them,
simulated, gets better. What is small, or bounded, is of that run: latency until the last has ended, energy of all,
inferences of all a second; the peak is that of the network that takes most of the main memory, in which each has its
own part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cosoc.search.loop import Asked, search
from cosoc.search.oracle import Oracle, Pair
from cosoc.search.result import Result
from cosoc.search.runfolder import RunFolder
from cosoc.search.space import Candidate, Optimum
from cosoc.search.spaces.sections import mapping_from
from cosoc.search.spaces.tile_search import TileConfig
from cosoc.search.targets import within
from cosoc.sim.figures import Figures, objective
from cosoc.sim.files.mapping_file import dump_mapping, load_mapping
from cosoc.sim.files.workload_file import dump_workload
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.progress import Report
from cosoc.sim.report.together import Load
from cosoc.sim.simulate import part_of, simulate_together
from cosoc.sim.tiler import checked


def share_of(soc: SoC, networks: int) -> SoC:
    """The SoC with an equal part of every memory: what each of so many networks has where all use it."""
    return part_of(soc, dict.fromkeys(soc.memories, networks))


def beside(file: Path, number: int) -> Path:
    """Where the mapping of another network stands beside the first one's: NAME.2.yaml, NAME.3.yaml, ..."""
    return file.with_name(f"{file.stem}.{number}.yaml")


@dataclass
class TogetherOracle(Oracle):
    """Prices the first network's mapping together with those that stand beside its file. configs: of all networks."""

    configs: Sequence[TileConfig] = ()
    _beside: dict[str, tuple[NetworkMapping, ...]] = field(default_factory=dict)
    _runs: dict[str, Figures] = field(default_factory=dict)

    def together(self, mappings: Sequence[NetworkMapping]) -> Figures:
        """A run of all networks at once. InputError where one does not fit its part."""
        key = "\n".join(dump_mapping(replace(mapping, name="")) for mapping in mappings)
        if key not in self._runs:
            socs = share_of(self._soc, len(mappings))
            alone = [
                Oracle(socs, own.workload, self.engine).simulate(mapping)
                for own, mapping in zip(self.configs, mappings, strict=True)
            ]
            loads = [Load(own.workload, mapping) for own, mapping in zip(self.configs, mappings, strict=True)]
            found = simulate_together(self._soc, loads, self.engine)
            items = sum(own.workload.n for own in self.configs)
            peak = max(one.peak_bytes for one in alone)
            self._runs[key] = Figures(found.seconds, found.energy_j, peak, items / found.seconds)
        return self._runs[key]

    @property
    def _soc(self) -> SoC:
        assert isinstance(self.machine, SoC)
        return self.machine

    def simulate(self, mapping: NetworkMapping, workload: Any = None) -> Figures:
        """The first network's mapping, as it was read, with those beside it."""
        return self.together((mapping, *self._beside[mapping.name]))

    def whole(self, mapping: NetworkMapping) -> NetworkMapping:
        """The first network's mapping with all that it leaves open filled in, for its part of the memories."""
        return checked(mapping, self.workload, share_of(self._soc, len(self.configs)))

    def read(self, file: Path) -> NetworkMapping:
        """The first network's mapping in a file; those beside it are remembered by its name."""
        mapping = load_mapping(file, self.workload, self._soc)
        self._beside[mapping.name] = tuple(
            load_mapping(beside(file, number), own.workload, self._soc)
            for number, own in enumerate(self.configs[1:], 2)
        )
        return mapping


class TogetherSpace:
    """Mappings of several networks at once. configs: what is asked of each alone, on the whole SoC."""

    def __init__(self, configs: Sequence[TileConfig]) -> None:
        first, n = configs[0], len(configs)
        self.configs, self.aim = configs, within(objective(first.objective), first.targets)
        part, bounds = share_of(first.soc, n), tuple(one for one in first.targets if one.objective == "peak")
        budget = None if first.time_budget_s is None else first.time_budget_s / n
        own = [replace(config, soc=part, targets=bounds, time_budget_s=budget) for config in configs]
        self.spaces = [config.space() for config in own]
        self.part = part
        self.pools: list[list[NetworkMapping]] = []

    @property
    def name(self) -> str:
        """As `--space` has it."""
        return self.spaces[0].name

    def rounds(self) -> Sequence[str]:
        """Each network alone, then all together."""
        return ("alone", "together")

    def propose(self, name: str, oracle: Oracle, folder: RunFolder, report: Report) -> Sequence[Candidate]:
        """Do a round."""
        assert isinstance(oracle, TogetherOracle)
        if name == "together":
            return list(self._written(self._together(oracle, report), folder, name))
        for number, (config, space) in enumerate(zip(self.configs, self.spaces, strict=True)):
            self.pools.append(self._alone(config, space, number, folder, report))
        given = tuple(space.given for space in self.spaces)
        best = tuple(pool[0] for pool in self.pools)
        return list(self._written([("given", given, True), ("alone", best, True)], folder, name))

    def _alone(
        self, config: TileConfig, space: Any, number: int, folder: RunFolder, report: Report
    ) -> list[NetworkMapping]:
        """What a network's own search proposes on its part, the best first."""
        oracle, found = Oracle(self.part, config.workload), list[tuple[float, NetworkMapping]]()

        def step(done: int, total: int, what: str) -> None:
            report(number, len(self.spaces) + 1, f"{config.workload.name}, {what}")

        for name in space.rounds():
            for candidate in space.propose(name, oracle, folder, step):
                figures = oracle.simulate(candidate.mapping)
                found.append((float(self.aim(figures)), candidate.mapping))
                if candidate.estimated is not None:
                    oracle.pairs.append(Pair(candidate.mapping, candidate.estimated, figures))
        found.sort(key=lambda one: one[0])
        return [mapping for _, mapping in found]

    def _together(self, oracle: TogetherOracle, report: Report) -> list[tuple[str, tuple[NetworkMapping, ...], bool]]:
        """The best of the pools, one network after the other, while that gains."""
        best = tuple(pool[0] for pool in self.pools)
        least, better = float(self.aim(oracle.together(best))), True
        while better:
            better = False
            for at, pool in enumerate(self.pools):
                for other in pool:
                    tried = (*best[:at], other, *best[at + 1 :])
                    value = float(self.aim(oracle.together(tried)))
                    report(len(self.pools), len(self.pools) + 1, f"together: best {min(value, least):.6g}")
                    if value < least:
                        best, least, better = tried, value, True
        alone = tuple(pool[0] for pool in self.pools)
        return [("together", best, False)] if best != alone else []

    def _written(
        self, found: Sequence[tuple[str, tuple[NetworkMapping, ...], bool]], folder: RunFolder, phase: str
    ) -> Iterator[Candidate]:
        """Candidates of a round, with the mappings of all networks but the first in their files."""
        for number, config in enumerate(self.configs[1:], 2):
            folder.begin_with(f"workload.{number}.yaml", dump_workload(config.workload))
        for name, (first, *others), known in found:
            file, files = Path("mappings") / f"{name}.yaml", list[str]()
            for number, (config, mapping) in enumerate(zip(self.configs[1:], others, strict=True), 2):
                whole = checked(replace(mapping, name=f"{name}.{number}"), config.workload, self.part)
                folder.put(f"{phase}.figures", {str(beside(file, number)): dump_mapping(whole)})
                files.append(str(beside(file, number)))
            yield Candidate(name, replace(first, name=name), known=known, about={"beside": files})

    def learn(self, oracle: Oracle) -> None:
        """Nothing: what is proposed together is simulated."""

    def state(self) -> dict[str, Any]:
        """The pools."""
        return {"pools": [[asdict(mapping) for mapping in pool] for pool in self.pools]}

    def restore(self, name: str, state: Mapping[str, Any]) -> None:
        """Take up the pools."""
        self.pools = [[mapping_from(mapping) for mapping in pool] for pool in state["pools"]]

    def optimum(self) -> Optimum | None:
        """None is known: how networks wait for one another has no closed form."""
        return None

    def about(self) -> dict[str, Any]:
        """The networks beside the first."""
        return {"with": [config.workload.name for config in self.configs[1:]]}


def search_together(configs: Sequence[TileConfig], report: Report, space: TogetherSpace | None = None) -> Result:
    """Search (or go on with) mappings of several networks at once; results are in the first one's `out`. InputError
    where one has nothing to choose, or does not fit its part of the memories."""
    first = configs[0]
    stated = first.stated() | {"with": [config.stated() for config in configs[1:]]}
    asked = Asked(first.objective, first.seed, first.out, stated, first.resume, first.redo, first.targets)
    return search(
        space or TogetherSpace(configs), TogetherOracle(first.soc, first.workload, configs=configs), asked, report
    )

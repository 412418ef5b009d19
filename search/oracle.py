"""The one place that prices mappings: each program is simulated once, and estimates are kept beside simulations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cosoc.sim.figures import Figures
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine.program import digest
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.simulate import program_figures
from cosoc.sim.tiler import checked


@dataclass(frozen=True)
class Pair:
    """An estimate and the simulation of the same mapping."""

    mapping: Mapping
    estimated: Figures
    simulated: Figures

    @property
    def drift(self) -> float:
        """How far the estimated latency is from the simulated one, relative."""
        return abs(self.estimated.latency_s / self.simulated.latency_s - 1)


@dataclass
class Oracle:
    """Figures of mappings of one network on one machine. pairs: all that was both estimated and simulated."""

    machine: SoC
    workload: Workload
    engine: str = "fast"
    pairs: list[Pair] = field(default_factory=list)
    _known: dict[tuple[str, int], Figures] = field(default_factory=dict)

    def simulate(self, mapping: Mapping, workload: Workload | None = None) -> Figures:
        """What a mapping costs, simulated; remembered by the digest of its program. workload: a part of the network in
        place of the whole. InputError where the machine cannot run it as mapped."""
        network = workload or self.workload
        full = checked(mapping, network, self.machine)
        program = lower(network, full, self.machine)
        key = digest(program), network.n
        if key not in self._known:
            self._known[key] = program_figures(program, self.machine, network, full, self.engine)
        return self._known[key]

    @property
    def kind(self) -> str:
        """What the machine is called in results."""
        return "soc"

    def whole(self, mapping: Mapping) -> Mapping:
        """The mapping with all that it leaves open filled in."""
        return checked(mapping, self.workload, self.machine)

    def compare(self, mapping: Mapping, estimated: Figures) -> Pair:
        """Simulate what has been estimated, and keep the two."""
        pair = Pair(mapping, estimated, self.simulate(mapping))
        self.pairs.append(pair)
        return pair

    def read(self, file: Path) -> Mapping:
        """The mapping in a file."""
        return load_mapping(file, self.workload, self.machine)

"""The one place that prices mappings: each program is simulated once, and estimates are kept beside simulations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures
from cosoc.sim.files.mapping_file import dump_mapping, load_cluster_mapping, load_mapping
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.price import Simulated
from cosoc.sim.report.pipeline_result import ClusterResult
from cosoc.sim.simulate import cluster_figures, engine_run, simulate_cluster
from cosoc.sim.stages import Pricer, Prices, pricers
from cosoc.sim.tiler import TilingCache, placed


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
    """Figures of mappings of one network on one machine. pairs: all that was both estimated and simulated. inferences:
    that are streamed through a cluster. tilings: what has been chosen for layers on a SoC, so that only what changes
    from mapping to mapping is tiled and checked."""

    machine: SoC | Cluster
    workload: Workload
    engine: str = "fast"
    inferences: int = 1000
    pairs: list[Pair] = field(default_factory=list)
    tilings: TilingCache = field(default_factory=TilingCache)
    _simulated: Simulated | None = None
    _streams: dict[str, ClusterResult] = field(default_factory=dict)
    _prices: dict[str, Prices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        engine_run(self.engine)  # one that does not run is no fault of a mapping, which a search would take it for

    @property
    def kind(self) -> str:
        """What the machine is called in results."""
        return "cluster" if isinstance(self.machine, Cluster) else "soc"

    def simulate(self, mapping: Mapping, workload: Workload | None = None) -> Figures:
        """What a mapping costs, simulated; remembered by the digest of its program. workload: a part of the network in
        place of the whole, on a SoC. InputError where the machine cannot run it as mapped."""
        if isinstance(self.machine, Cluster):
            return cluster_figures(self.stream(mapping), self.machine, self.workload, mapping)
        if self._simulated is None:
            self._simulated = Simulated(self.machine, engine_run(self.engine), self.tilings)
        return self._simulated.figures(mapping, workload or self.workload)

    def stream(self, mapping: Mapping) -> ClusterResult:
        """A stream of inferences through a cluster; remembered by what the mapping says, and each stage by itself."""
        if not isinstance(self.machine, Cluster):
            raise InputError(f"{self.machine.name} is one SoC: it has no stages to stream through")
        text = dump_mapping(replace(mapping, name=""))
        if text not in self._streams:
            devices = self.devices(mapping)
            self._streams[text] = simulate_cluster(
                self.machine, self.workload, mapping, self.engine, self.inferences, devices
            )
        return self._streams[text]

    def devices(self, mapping: Mapping) -> dict[str, Pricer]:
        """Who prices a mapping's stages; what one of them has priced, the others know."""
        assert isinstance(self.machine, Cluster)
        return pricers(self.machine, self.workload, mapping, engine_run(self.engine), self._prices)

    def compare(self, mapping: Mapping, estimated: Figures) -> Pair:
        """Simulate what has been estimated, and keep the two."""
        pair = Pair(mapping, estimated, self.simulate(mapping))
        self.pairs.append(pair)
        return pair

    def whole(self, mapping: Mapping) -> Mapping:
        """The mapping with all that it leaves open filled in; on a cluster, as it is."""
        if isinstance(self.machine, Cluster):
            return mapping
        return placed(mapping, self.workload, self.machine, self.tilings).mapping

    def read(self, file: Path) -> Mapping:
        """The mapping in a file."""
        if isinstance(self.machine, Cluster):
            return load_cluster_mapping(file, self.workload, self.machine, known=self._prices)
        return load_mapping(file, self.workload, self.machine)

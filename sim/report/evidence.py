"""What the figures of a run's cores rest on: runtime, number format, networks that were measured, and the peak."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass

from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import form, make_tile
from cosoc.sim.model.workload import Workload

FEW = 2  # networks that a class's figure was fitted to, up to which a result says so
SHOWS = 0.005  # a class with a smaller share of the time is not named


@dataclass(frozen=True)
class ClassEvidence:
    """A class of operators on a core. networks: its figure was fitted to. layers: of the run; share: of its time."""

    name: str
    networks: int
    layers: int
    share: float


@dataclass(frozen=True)
class Evidence:
    """What the figures of a core rest on. basis: the runtime and number format that they are of. of_peak: the MACs of
    the run on it over what its peak would do in the whole run. classes: of operators that it runs here, the longest
    first."""

    core: str
    basis: str
    of_peak: float
    classes: tuple[ClassEvidence, ...]

    def __str__(self) -> str:
        """As in "gpu is ncnn fp16, 0.13% of its peak; attention (98% of the time) from one network"."""
        few = [one for one in self.classes if 0 < one.networks <= FEW and one.share >= SHOWS]
        counts = (f"{one.networks} networks" if one.networks > 1 else "one network" for one in few)
        named = [f"{one.name} ({one.share:.0%} of the time) from {n}" for one, n in zip(few, counts, strict=True)]
        peak = f", {_percent(self.of_peak)} of its peak" if self.of_peak else ""
        return "; ".join([f"{self.core} is {self.basis}{peak}", *named])


def _percent(share: float) -> str:
    """Two digits, and no exponent."""
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}" if share >= 0.00995 else f"{share:.2%}"


def evidence_of_run(
    workload: Workload, mapping: Mapping, soc: SoC, layer_ticks: MappingOf[str, int], makespan: int, cycles: float,
    inferences: int,
) -> tuple[Evidence, ...]:  # fmt: skip
    """Of each core that says what its figures rest on and runs something. layer_ticks: how long the run was at each
    layer; cycles: of the SoC in the whole run."""
    layers: dict[str, dict[str, list[str]]] = {}
    networks: dict[tuple[str, str], int] = {}
    macs: dict[str, int] = {}
    for layer in workload:
        for part in mapping.layers[layer.name].parts:
            if not part.channels:
                continue
            core = soc.core_of(part)
            own = form(layer, core)
            found = core.evidence(make_tile(own, part.channels, layer.oy, layer.ox))
            if found is not None:
                networks[part.core, found[0]] = found[1]
                layers.setdefault(part.core, {}).setdefault(found[0], []).append(layer.name)
                macs[part.core] = macs.get(part.core, 0) + own.macs * part.channels // own.k * inferences
    out = []
    for name, classes in layers.items():
        core = soc.cores[name]
        most = core.peak * max(cycles, 1)
        shares = {one: sum(layer_ticks.get(n, 0) for n in names) / max(makespan, 1) for one, names in classes.items()}
        parts = [ClassEvidence(one, networks[name, one], len(names), shares[one]) for one, names in classes.items()]
        longest = tuple(sorted(parts, key=lambda part: -part.share))
        out.append(Evidence(name, core.basis, macs[name] / most if most else 0.0, longest))
    return tuple(out)


def unmeasured(evidence: tuple[Evidence, ...], soc: SoC) -> tuple[str, ...]:
    """What of a run is of classes of operators that no measurement of the device covers, with its share of the time."""
    return tuple(
        f"no measurement of {soc.name} covers {part.name} on {one.core}: {part.layers} layers, {part.share:.0%} of the "
        "time, are by figures of other devices or assumed"
        for one in evidence
        for part in one.classes
        if not part.networks
    )

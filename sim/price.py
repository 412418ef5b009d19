"""What a program costs: the one place where a program is run for its figures alone."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from cosoc.sim.figures import Figures
from cosoc.sim.lower.emit import KnownSteps, lowered
from cosoc.sim.machine.program import Program, digest
from cosoc.sim.machine.trace import Run
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.memory_use import peak_bytes
from cosoc.sim.report.result import energy_j
from cosoc.sim.tiler import Placed, TilingCache, placed


def program_figures(program: Program, at: Placed, run: Run) -> Figures:
    """What a lowered inference costs on an engine. at: what it was lowered from."""
    trace = run(program, ())
    seconds = trace.makespan / program.tick_hz
    peak = peak_bytes(program, trace, at)
    return Figures(seconds, energy_j(program, trace, at.soc), peak, at.workload.n / seconds)


def time_and_energy(program: Program, at: Placed, run: Run) -> tuple[float, float]:
    """Its seconds and joules alone."""
    trace = run(program, ())
    return trace.makespan / program.tick_hz, energy_j(program, trace, at.soc)


@dataclass
class Simulated:
    """Figures of mappings on one SoC, each program run once: they are remembered by its digest. tilings: what has been
    chosen for layers, so that only what changes from mapping to mapping is tiled and checked. ops: how many were
    lowered in all."""

    soc: SoC
    run: Run
    tilings: TilingCache = field(default_factory=TilingCache)
    ops: int = 0
    _steps: KnownSteps = field(default_factory=KnownSteps)
    _figures: dict[Hashable, Figures] = field(default_factory=dict)

    def figures(self, mapping: Mapping, workload: Workload) -> Figures:
        """What a mapping costs. InputError where the machine cannot run it as mapped."""
        at = placed(mapping, workload, self.soc, self.tilings)
        at = replace(at, mapping=replace(at.mapping, name=""))  # its program would bear the name
        program = lowered(at, known=self._steps)
        self.ops += program.n_ops
        key = digest(program), workload.n
        if key not in self._figures:
            self._figures[key] = program_figures(program, at, self.run)
        return self._figures[key]

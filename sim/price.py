"""What a program costs: the one place where a program is run for its figures alone."""

from __future__ import annotations

from cosoc.sim.figures import Figures
from cosoc.sim.machine.program import Program
from cosoc.sim.machine.trace import Run
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.memory_use import peak_bytes
from cosoc.sim.report.result import energy_j


def program_figures(program: Program, soc: SoC, workload: Workload, mapping: Mapping, run: Run) -> Figures:
    """What a lowered inference costs on an engine; the mapping, complete, is the one that it was lowered from."""
    trace = run(program, ())
    seconds = trace.makespan / program.tick_hz
    peak = peak_bytes(program, trace, soc, workload, mapping)
    return Figures(seconds, energy_j(program, trace, soc), peak, workload.n / seconds)

"""What a program costs: the one place where a program is run for its figures alone."""

from __future__ import annotations

from cosoc.sim.figures import Figures
from cosoc.sim.machine.program import Program
from cosoc.sim.machine.trace import Run
from cosoc.sim.report.memory_use import peak_bytes
from cosoc.sim.report.result import energy_j
from cosoc.sim.tiler import Placed


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

"""A run carried out on integers, op by op, on whatever cores it is: see `tiles` and `arrays`."""

from __future__ import annotations

from cosoc.sim.integers.network import IntegerNetwork, Ints
from cosoc.sim.integers.regions import Tensor
from cosoc.sim.integers.tiles import DmaRun
from cosoc.sim.movers.cached_terms import cached_cores
from cosoc.sim.report.result import Result


def run_tiles(result: Result, network: IntegerNetwork, image: Ints) -> dict[str, Tensor]:
    """What every layer computes for a batch of images [n, c, iy, ix] when a run of one inference is carried out op by
    op, and from which tick on each element is there. TileFault where the schedule does not compute the network;
    InputError for operators whose integers are not known."""
    run = DmaRun(result, network, image)
    if not cached_cores(run.soc):
        for op in range(run.program.n_ops):
            run.op(op)
        return run.end()
    from cosoc.sim.integers.arrays import ArrayRun  # the figures of arrays take a moment to load

    arrays = ArrayRun(run)
    for op in range(run.program.n_ops):
        if not arrays.op(op):
            run.op(op)
    arrays.flush()
    return run.end()


__all__ = ["run_tiles"]

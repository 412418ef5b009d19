"""The whole arrow: SoC + workload + mapping -> Result, and the same over a cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from typing import Literal

from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures
from cosoc.sim.files.catalog import boundary_of
from cosoc.sim.lower.emit import lowered, stream
from cosoc.sim.lower.pipeline import replay
from cosoc.sim.lower.together import together
from cosoc.sim.machine.trace import Run
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import CachedMover, SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.price import program_figures
from cosoc.sim.progress import Report, untold
from cosoc.sim.report.pipeline_result import ClusterResult
from cosoc.sim.report.result import Result, report
from cosoc.sim.report.together import Load, TogetherResult, summed_up
from cosoc.sim.stages import Pricer, check_cluster_mapping, pipeline_of, pricers, stage_figures
from cosoc.sim.stages import peak_bytes as peak_of_devices
from cosoc.sim.tiler import checked, placed

Engine = Literal["fast", "reference"]
ENGINES: tuple[Engine, ...] = ("fast", "reference")


def engine_run(engine: str) -> Run:
    """The engine of that name, loaded when asked for: numba and simpy are slow to import. InputError for another, or
    where it does not run."""
    if engine == "fast":
        from cosoc.sim.machine import engine_fast

        engine_fast.demand_compiler()
        return engine_fast.run
    if engine == "reference":
        from cosoc.sim.machine import engine_reference

        return engine_reference.run
    raise InputError(f"no engine named {engine!r}; there is {', '.join(ENGINES)}")


def figures(soc: SoC, workload: Workload, mapping: Mapping, engine: str = "fast") -> Figures:
    """What one inference costs, simulated: the figures of `simulate` without a report of where they come from.

    Raises InputError where the machine cannot run it as mapped.
    """
    at = placed(mapping, workload, soc)
    return program_figures(lowered(at), at, engine_run(engine))


def simulate(
    soc: SoC, workload: Workload, mapping: Mapping, engine: str = "fast", inferences: int = 1,
    progress: Report = untold,
) -> Result:  # fmt: skip
    """Simulate `inferences` of the workload, one after the other, under the mapping. progress: is told what is done.

    Raises InputError where the machine cannot run it as mapped (every reason named), or on an unknown engine.
    """
    if inferences < 1:
        raise InputError(f"inferences is {inferences}, must be at least 1")
    run = engine_run(engine)
    at = placed(mapping, workload, soc)
    program = lowered(at, inferences, report=progress)
    layers = inferences * len(workload.layers)
    progress(layers, layers, f"{workload.name}: {program.n_ops:,} ops are run")
    start = time.perf_counter()
    trace = run(program, None)
    wall_s = time.perf_counter() - start
    progress(layers, layers, f"{workload.name}: {program.n_ops:,} ops are summed up")
    return report(program, trace, at, engine=engine, run=run, inferences=inferences, wall_s=wall_s)


def simulate_together(soc: SoC, loads: Sequence[Load], engine: str = "fast") -> TogetherResult:
    """Simulate several networks at once, each from tick 0 under its mapping.

    Cores, movers and links are shared in time. A memory that several of them use is shared in space: each has an equal
    part of it, for which its tiles are chosen. Raises InputError where a network does not fit its part, or the machine
    cannot run it as mapped (every reason named), or on an unknown engine.
    """
    run = engine_run(engine)
    used = [_memories_used(soc, load) for load in loads]
    users = Counter(memory for mine in used for memory in mine)
    programs, firsts = [], []
    for load in loads:
        if load.inferences < 1:
            raise InputError(f"inferences is {load.inferences}, must be at least 1")
        part = part_of(soc, users)
        at = placed(load.mapping, load.workload, part)
        program, first = stream(at, load.inferences, round(load.period_s * soc.tick_hz))
        programs.append(program)
        firsts.append(first)
    whole = together(" with ".join(load.workload.name for load in loads), programs)
    trace = run(whole.program, ())
    alone = [run(program, ()) for program in programs]
    return summed_up(soc, loads, firsts, programs, whole, trace, alone, engine)


def _memories_used(soc: SoC, load: Load) -> set[str]:
    """The memories that a network's tensors, weights and tiles are in, caches on their way included."""
    full = checked(load.mapping, load.workload, soc)
    out = {soc.main_memory} | ({soc.backing_memory} if soc.backing_memory else set())
    for name in {part.core for plan in full.layers.values() for part in plan.parts if part.channels}:
        core, mover = soc.cores[name], soc.mover_of(name)
        out |= {core.memory, core.weight_memory or core.memory, *(getattr(core, key) for key in core.own_memories())}
        out |= {mover.l2, mover.llc} if isinstance(mover, CachedMover) else set()
    return out


def part_of(soc: SoC, users: MappingOf[str, int]) -> SoC:
    """The SoC with the part of each memory that one of so many users has."""
    memories = {
        name: memory.model_copy(
            update={"reserved_bytes": memory.size_bytes - memory.capacity_bytes // max(users.get(name, 1), 1)}
        )
        for name, memory in soc.memories.items()
    }
    return soc.model_copy(update={"memories": memories})


def simulate_cluster(
    cluster: Cluster, workload: Workload, mapping: Mapping, engine: str = "fast", inferences: int = 1000,
    devices: MappingOf[str, Pricer] | None = None,
) -> ClusterResult:  # fmt: skip
    """Stream `inferences` of the workload through the stages that the mapping has on the cluster's devices.

    devices: pricers of the devices under this mapping, of a caller who has checked it.
    Raises InputError where the cluster cannot run it as mapped (every reason named), or on an unknown engine.
    """
    if inferences < 1:
        raise InputError(f"inferences is {inferences}, must be at least 1")
    run = engine_run(engine)
    if devices is None:
        check_cluster_mapping(mapping, workload, cluster)
    stages = stage_figures(cluster, workload, mapping, devices or pricers(cluster, workload, mapping, run))
    seen = replay(*pipeline_of(cluster, stages), inferences, mapping.micro_batch, run)
    return ClusterResult(
        cluster.name, workload.name, mapping.name, engine, mapping.runtime, inferences, stages, seen,
        boundary_of(cluster),
    )  # fmt: skip


def cluster_figures(result: ClusterResult, cluster: Cluster, workload: Workload, mapping: Mapping) -> Figures:
    """What a stream through a cluster costs: the latency of its first item (a micro-batch, through empty stages),
    energy of an inference and throughput in the steady state, bytes of the fullest device."""
    seen = result.seen
    return Figures(seen.fill_s, seen.energy_j, peak_of_devices(cluster, workload, mapping), seen.throughput)

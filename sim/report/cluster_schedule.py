"""The schedule of a stream through a cluster: items on devices and on their way, and each stage's own on its chip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cosoc.sim.files.catalog import device_soc
from cosoc.sim.lower.emit import lowered
from cosoc.sim.lower.pipeline import TICK_HZ, lower_pipeline
from cosoc.sim.machine.program import KINDS, unroll
from cosoc.sim.machine.trace import Run
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.workload import Workload, multiplied
from cosoc.sim.report.pipeline_result import ClusterResult
from cosoc.sim.report.result import report
from cosoc.sim.report.schedule import VERSION, put_schedule
from cosoc.sim.stages import pipeline_of, sections_of, within
from cosoc.sim.tiler import placed

_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def write_cluster_schedule(
    result: ClusterResult, cluster: Cluster, workload: Workload, mapping: Mapping, run: Run, path: Path | str
) -> None:
    """Write the schedule of a simulated stream to a file, op by op. run: the engine."""
    stages, hops = pipeline_of(cluster, result.stages)
    items = -(-result.inferences // mapping.micro_batch)
    program = unroll(lower_pipeline(stages, hops, items))
    trace = run(program, ())
    head = {
        "cosoc_schedule": VERSION, "cluster": result.cluster, "workload": result.workload, "mapping": result.mapping,
        "inferences": result.inferences, "tick_hz": TICK_HZ, "makespan_ticks": trace.makespan,
        "links": list(program.server_names),
    }  # fmt: skip
    with Path(path).open("w", encoding="utf-8") as file:
        file.write(_ENCODE(head)[:-1] + ',"stages":[')
        between = "\n"
        for number, layers in enumerate(sections_of(workload, mapping.stages)):
            device = mapping.stages[number].device
            at = placed(within(mapping, layers), multiplied(layers, mapping.micro_batch), device_soc(cluster, device))
            inside = lowered(at)
            alone = report(inside, run(inside, ()), at, engine=result.engine, run=run, inferences=1, wall_s=0.0)
            about = {
                "device": device, "units": list(stages[number].devices), "batch": mapping.micro_batch,
                "sent_bytes": hops[number].bytes if number < len(hops) else 0,
                "message_ticks": max(stages[number].work_ticks - round(alone.seconds * TICK_HZ), 0),
            }  # fmt: skip
            file.write(between + _ENCODE(about)[:-1] + ',"inside":')
            put_schedule(alone, file)
            file.write("}")
            between = ",\n"
        file.write('],"ops":[')
        between = "\n"
        stage_of = {f"stage {number}": number for number in range(len(stages))}
        first = program.layers.index("stage 0")
        seen = -1
        for op, row in enumerate(program.rows):
            stage = stage_of[program.layers[row["layer"]]]
            seen += int(row["layer"] == first and KINDS[row["kind"]] == "compute")
            out: dict[str, Any] = {
                "op": op, "unit": program.unit_names[row["unit"]], "kind": KINDS[row["kind"]], "stage": stage,
                "item": seen,
            }  # fmt: skip
            if row["bytes"]:
                servers = program.routes[row["route_at"] : row["route_at"] + row["route_n"]].tolist()
                out |= {"links": [program.server_names[server] for server in servers], "bytes": hops[stage].bytes}
            out |= {"start_tick": int(trace.issue[op]), "end_tick": int(trace.end[op])}
            deps = program.deps[row["dep_at"] : row["dep_at"] + row["dep_n"]].tolist()
            if after := [op - d for d in deps if d <= op]:
                out["after"] = after
            file.write(between + _ENCODE(out))
            between = ",\n"
        file.write("\n]}\n")


__all__ = ["write_cluster_schedule"]

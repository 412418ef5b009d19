"""Stream's own examples on Stream's own quad core, mapped and priced by both tools.

    python benchmarks/stream_quad.py [--stream PYTHON] [--quick] [--json FILE]

The chip is `tpu_like_quad_core` of stream-dse; `stream_quad.yaml` is the same as far as both describe it, and says
where not. Networks: two convolutions (of Stream's own tests) and ResNet-18 (that of its documentation). Simulated here:
all on the first array, Stream's division (channels evenly over all four arrays; where it divides rows, that is the
nearest that a mapping here can say), and what `default` chooses. PYTHON: of an environment with `stream-dse==2.1.1` and
`six`, which then prices its own proposal, its own mapping file of the two convolutions, and ours, each layer through
the DRAM, as here. ResNet-18 takes it minutes and is left out of --quick. Cycles of the two tools are of two models: what
is compared is which mapping each calls better, and by how much.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, state, write_json

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import figures

QUAD = Path(__file__).parent / "stream_quad.yaml"
ARRAYS = tuple(f"array{i}" for i in range(4))
AREA = {"oy": 32, "ox": 32, "iy": 32, "ix": 32, "fy": 3, "fx": 3, "pad_y": 1, "pad_x": 1}
TWO_CONV = Workload(
    "two_conv", (8, 32, 32),
    (Layer("Conv1", "conv", (INPUT,), k=16, c=8, **AREA), Layer("Conv2", "conv", ("Conv1",), k=32, c=16, **AREA)),
    ("Conv2",),
)  # fmt: skip

STREAM = """
import json, os, shutil, sys, time
from pathlib import Path
import stream, yaml, zigzag
from stream.api import evaluate_mapping
from stream.inputs.testing.mapping.make_2_conv_mapping import make_2_conv_mapping
from stream.inputs.testing.workload.make_2_conv import TwoConvWorkloadConfig, make_2_conv_workload
asked = json.loads(sys.argv[1])
hardware = str(Path(stream.__file__).parent / "inputs/examples/hardware/tpu_like_quad_core.yaml")
config = TwoConvWorkloadConfig(1, 32, 32, 8, 16, 32, 3, "i8", "i8")
if asked["network"] == "two_conv":
    network = make_2_conv_workload(config)
else:
    network = str(Path(zigzag.__file__).parent / "inputs/workload/resnet18.onnx")
mapping = None
if asked["mapping"] == "its file":
    mapping = make_2_conv_mapping(config)
elif asked["mapping"] != "its proposal":
    mapping = "ours.yaml"
    Path(mapping).write_text(yaml.dump(asked["mapping"], sort_keys=False))
start = time.process_time()
found = evaluate_mapping(hardware, network, "out", mapping)
proposed = [yaml.safe_load(path.read_text()) for path in sorted(Path("out").glob("group_*/mapping.yaml"))]
print("FOUND " + json.dumps({"cycles": sum(found.group_cycles), "groups": list(found.group_cycles),
                             "cpu_s": time.process_time() - start, "mapping": proposed}))
"""


def even(net: Workload) -> Mapping:
    """The channels of each convolution evenly over all arrays, as far as there are steps."""
    plans = {}
    for layer in (layer for layer in net if layer.op == "conv"):
        each = -(-layer.k // len(ARRAYS))
        ks = [min(each, layer.k - i * each) for i in range(len(ARRAYS))]
        plans[layer.name] = LayerPlan(tuple(Part(core, k) for core, k in zip(ARRAYS, ks, strict=True) if k > 0))
    return Mapping("even", "overlapped", plans)


def theirs(net: Workload, mapping: Mapping) -> dict[str, Any]:
    """A mapping of convolutions as a file of Stream: each layer on so many arrays, evenly divided, by itself."""
    layers, groups = list[dict[str, Any]](), list[list[str]]()
    for layer in net:
        cores = [ARRAYS.index(part.core) for part in mapping.layers[layer.name].parts]
        tiling = [[{"dim": "D6", "split": len(cores)}]] if len(cores) > 1 else []
        layers.append({"name": layer.name, "core_allocation": [cores], "inter_core_tiling": tiling})
        groups.append([layer.name])
    named = [{"name": own[0], "layers": own, "intra_core_tiling": [{"dim": f"{own[0]}.D0", "tile": 1}]}
             for own in groups]  # fmt: skip
    tensors = ("input", "weights_1", "weights_2", "output")
    return {"layers": layers, "fused_groups": named, "runtime_args": {name: {} for name in tensors}}


def ours(net: Workload) -> dict[str, Any]:
    """Cycles of the mappings, simulated here."""
    soc = find_soc(str(QUAD))
    start = time.process_time()
    mapping = named_mapping("default", net, soc)
    cpu_s = time.process_time() - start
    found = {"first array": named_mapping("all_8bit", net, soc), "even": even(net), "default": mapping}
    cycles = {name: round(figures(soc, net, one).latency_s * soc.tick_hz) for name, one in found.items()}
    parts = {name: {part.core: part.channels for part in plan.parts} for name, plan in mapping.layers.items()}
    sizes = {layer.name: layer.outputs for layer in net} | {INPUT: math.prod(net.input_shape)}
    read = {(name, layer.name): sizes[name] for layer in net for name in layer.inputs}
    moved = sum(layer.weights + layer.outputs for layer in net) + sum(read.values())
    macs = sum(layer.macs for layer in net)
    return {
        "cycles": cycles, "cpu_s": cpu_s, "default": parts, "pieces": [piece.layers for piece in mapping.pieces],
        "arithmetic_cycles": macs / (4 * 32 * 32), "dram_cycles": moved / soc.links["dram_port"].bytes_per_period,
    }  # fmt: skip


def priced(python: Path, network: str, mapping: Any) -> dict[str, Any]:
    """What Stream makes of a mapping, or why it makes nothing."""
    asked = json.dumps({"network": network, "mapping": mapping})
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([python, "-c", STREAM, asked], cwd=folder, capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not said:
        return {"error": (done.stderr.strip().splitlines() or ["nothing said"])[-1][:300]}
    found: dict[str, Any] = json.loads(said[0].removeprefix("FOUND "))
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stream", type=Path, metavar="PYTHON", help="of an environment with stream-dse and six")
    asked = parser.parse_args()
    state()
    rows = []
    for net in (TWO_CONV, find_workload("resnet18")):
        row: dict[str, Any] = {"network": net.name, "ours": ours(net)}
        rows.append(row)
        for name, cycles in row["ours"]["cycles"].items():
            print(f"{net.name:10} simulated here    {name:24} {cycles:12,} cycles", flush=True)
        print(
            f"{net.name:10} arithmetic {row['ours']['arithmetic_cycles']:,.0f}, the DRAM's port with each tensor "
            f"written and read once {row['ours']['dram_cycles']:,.0f}; chosen in {row['ours']['cpu_s']:.1f} CPU s"
        )
        if asked.stream is None or (asked.quick and net is not TWO_CONV):
            continue
        tried: dict[str, Any] = {"its proposal": "its proposal"}
        if net is TWO_CONV:
            chosen = named_mapping("default", net, find_soc(str(QUAD)))
            tried["its file"] = "its file"
            tried |= {"even, by layer": theirs(net, even(net)), "default, by layer": theirs(net, chosen)}
        row["stream"] = {}
        for name, mapping in tried.items():
            found = row["stream"][name] = priced(asked.stream, net.name, mapping)
            what = f"{found['cycles']:12,.0f} cycles" if "cycles" in found else found["error"]
            print(f"{net.name:10} priced by Stream  {name:24} {what}", flush=True)
            write_json(asked.json, {"networks": rows}, quiet=True)  # after each, so that a kill costs one
    write_json(asked.json, {"networks": rows})


if __name__ == "__main__":
    main()

"""What it costs to have one network or layer simulated by tools that pip can install, beside the same here.

    python benchmarks/peers.py [--only NAME,...] [--limit SECONDS] [--quick] [--json FILE]

Each peer is installed into an environment of its own in a temporary folder, with the packages that it needs and does
not ask for, runs once under a time limit, and is measured as a whole process: CPU seconds, wall time, peak memory. What
a peer simulates is named; cycles of different machines are not to be compared, the cost of getting them is. A peer that
cannot be installed or does not end is named with its reason. Minutes each, so --quick installs nothing: it runs the
first of those peers that stand beside cosoc already. Nothing is random.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments, skip, state, write_json


@dataclass(frozen=True)
class Peer:
    """A tool by the name of its module, the packages to install, the least Python it runs on, what to run (prints the
    cycles last), and what that is; ours: the arguments of `cosoc simulate` that do the same kind of work here."""

    name: str
    packages: tuple[str, ...]
    python: tuple[int, int]
    work: str
    script: str
    ours: tuple[str, ...]


ZIGZAG = """
from pathlib import Path
import zigzag
from zigzag.api import get_hardware_performance_zigzag
inputs = Path(zigzag.__file__).parent / "inputs"
found = get_hardware_performance_zigzag(
    *(str(inputs / name) for name in ("workload/resnet18.onnx", "hardware/tpu_like.yaml", "mapping/tpu_like.yaml")),
    opt="energy", lpf_limit=3, loma_show_progress_bar=False, dump_folder="out", pickle_filename="out/out.pickle")
print(found[1])
"""

STREAM = """
from pathlib import Path
import stream, zigzag
from stream.api import evaluate_mapping
hardware = Path(stream.__file__).parent / "inputs/examples/hardware/tpu_like_quad_core.yaml"
network = Path(zigzag.__file__).parent / "inputs/workload/resnet18.onnx"
found = evaluate_mapping(str(hardware), str(network), "out")
print(sum(found.group_cycles))
"""

# The sections and keys that scale-sim asks for; the array and the layer are of the size of the one run here.
SCALESIM = """
from pathlib import Path
from scalesim.scale_sim import scalesim
Path("array.cfg").write_text('''[general]
run_name = peer
[architecture_presets]
ArrayHeight = 16
ArrayWidth = 16
IfmapSramSzkB = 128
FilterSramSzkB = 128
OfmapSramSzkB = 64
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = ws
ReadRequestBuffer = 32
WriteRequestBuffer = 32
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 16
IfmapSRAMBankNum = 4
IfmapSRAMBankPort = 1
FilterCustomLayout = False
FilterSRAMBankBandwidth = 16
FilterSRAMBankNum = 4
FilterSRAMBankPort = 1
[sparsity]
SparsitySupport = false
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
''')
Path("layer.csv").write_text("layer,h,w,fh,fw,c,k,stride,sparsity,\\nconv,16,16,3,3,256,256,1,1:1,\\n")
Path("layout.csv").write_text("layer,\\n")
run = scalesim(save_disk_space=True, verbose=False, config="array.cfg", topology="layer.csv", layout="layout.csv")
run.run_scale(top_path="out")
print(Path("out/peer/COMPUTE_REPORT.csv").read_text().splitlines()[1].split(",")[2])
"""

PEERS = (
    Peer("zigzag", ("zigzag-dse==3.9.1", "six"), (3, 11), "ResNet-18, tpu_like, lpf_limit 3", ZIGZAG,
         ("gemmini", "resnet18")),
    Peer("stream", ("stream-dse==2.1.1", "six"), (3, 12), "ResNet-18, tpu_like_quad_core", STREAM,
         ("gemmini", "resnet18")),
    Peer("scalesim", ("scalesim==3.0.0", "numpy<2"), (3, 11), "conv 14x14, 256 to 256, 3x3, 16x16 array", SCALESIM,
         ("gemmini", "{conv}")),
)  # fmt: skip

CONV = """name: conv
input: {c: 256, iy: 14, ix: 14}
layers:
  - {name: conv, op: conv, inputs: [input], k: 256, c: 256, oy: 14, ox: 14, iy: 14, ix: 14, fy: 3, fx: 3,
     pad_y: 1, pad_x: 1}
outputs: [conv]
"""


class Failed(Exception):
    """A peer that could not be installed or run; the message says why."""


def interpreter(least: tuple[int, int]) -> str:
    """A Python of at least this version."""
    if sys.version_info >= least:
        return sys.executable
    for minor in range(least[1], least[1] + 5):
        found = shutil.which(f"python{least[0]}.{minor}")
        if found:
            return found
    raise Failed(f"no Python {least[0]}.{least[1]} or newer on the PATH")


def measured(command: list[str], folder: Path, limit: float) -> tuple[dict[str, float], str]:
    """CPU seconds, wall time and peak memory of a process and its children, and the last line it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    try:
        done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failed(f"had not ended after {limit:.0f} s") from None
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise Failed(f"exit status {done.returncode}: {lines[-1]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {"cpu_s": cpu, "wall_s": wall, "peak_mb": after.ru_maxrss / 1024}
    return figures, (done.stdout.strip().splitlines() or [""])[-1]


def run_peer(peer: Peer, folder: Path, limit: float, beside: bool) -> dict[str, Any]:
    """Install a peer into `folder`, or take the one that stands beside cosoc, and run it."""
    python = sys.executable if beside else str(folder / "env/bin/python")
    if not beside:
        subprocess.run([interpreter(peer.python), "-m", "venv", "env"], cwd=folder, check=True)
        print(f"  installing {', '.join(peer.packages)} ...", file=sys.stderr, flush=True)
        measured([python, "-m", "pip", "install", "--quiet", *peer.packages], folder, limit)
    print(f"  {peer.work} ...", file=sys.stderr, flush=True)
    figures, last = measured([python, "-c", peer.script], folder, limit)
    return figures | {"cycles": float(last)}


def run_ours(peer: Peer, folder: Path, limit: float) -> dict[str, Any]:
    """The same kind of work here, as a process from the command line; once before, so that kernels are compiled."""
    conv = folder / "conv.yaml"
    conv.write_text(CONV)
    words = [word.format(conv=conv) for word in peer.ours]
    command = [sys.executable, "-m", "cosoc", "simulate", *words, "--quiet", "--json", "ours.json"]
    measured(command, folder, limit)
    figures, _ = measured(command, folder, limit)
    return figures


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(peer.name for peer in PEERS), help="names, separated by commas")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for each installation and each run")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if peer.name in options.only.split(",")]
    if options.quick:
        peers = [peer for peer in peers if importlib.util.find_spec(peer.name)][:1]
        if not peers:
            skip("a peer beside cosoc: pip install zigzag-dse six; without --quick each is installed by itself")
    state()
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    rows = []
    print(f"{'peer':10} {'work':45} {'CPU s':>7} {'wall s':>7} {'MB':>6} {'here, CPU s':>11}")
    for peer in peers:
        row: dict[str, Any] = {"peer": peer.name, "packages": peer.packages, "work": peer.work, "ours": peer.ours}
        with tempfile.TemporaryDirectory() as folder:
            try:
                row["figures"] = run_peer(peer, Path(folder), options.limit, options.quick)
                row["here"] = run_ours(peer, Path(folder), options.limit)
                found, here = row["figures"], row["here"]
                print(f"{peer.name:10} {peer.work:45} {found['cpu_s']:7.1f} {found['wall_s']:7.1f} "
                      f"{found['peak_mb']:6.0f} {here['cpu_s']:11.2f}")  # fmt: skip
            except Failed as failure:
                row["failed"] = str(failure)
                print(f"{peer.name:10} {peer.work:45} {failure}")
        rows.append(row)
    write_json(options.json, {"peers": rows})


if __name__ == "__main__":
    main()

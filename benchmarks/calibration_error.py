"""How far the calibrated estimate is from the simulator on networks that it was not fitted to, beside ODiMO's formulas.

    python benchmarks/calibration_error.py [--quick] [--json FILE] [--seed S] [--soc NAME] [--space channels|tiles]

The estimate is fitted to mappings of some networks (of channels also of random layers and random chains of layers), and
held against mappings of others. Targets: whole networks 5 % mean error and a rank correlation of 0.98 within each
network, layers 8 %.
"""

from __future__ import annotations

import os
import time

from common import arguments, state, write_json
from rich.console import Console

from cosoc.search import calibrate
from cosoc.sim.files.catalog import find_soc

SAMPLES, QUICK = 1500, 240
TARGETS = {"network": {"mape": 0.05, "spearman": 0.98}, "layer": {"mape": 0.08}}


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--soc", default="diana")
    parser.add_argument("--space", choices=("channels", "tiles"))
    args = parser.parse_args()
    state(args.seed)
    start = time.perf_counter()
    samples = QUICK if args.quick else SAMPLES
    calibration = calibrate.calibrate(find_soc(args.soc), samples, args.seed, space=args.space)
    wall_s = time.perf_counter() - start
    Console().print(calibrate.table(calibration))
    found = calibrate.to_json(calibration)
    print(f"{samples} mappings sampled, simulated and fitted in {wall_s:.0f} s on {os.cpu_count()} cores")
    for kind, bounds in TARGETS.items():
        for name, bound in bounds.items():
            value = found["held_out"][kind][name]
            if value is None:
                print(f"{kind} {name}: too few samples")
                continue
            met = value <= bound if name == "mape" else value >= bound
            print(f"{kind} {name}: {value:.4f}, target {bound}: {'met' if met else 'MISSED'}")
    write_json(args.json, found | {"wall_s": wall_s})


if __name__ == "__main__":
    main()

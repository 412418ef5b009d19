"""How well the CPU and GPU devices meet published latencies, fitted and on networks and devices left out.

    python benchmarks/devices.py [--quick] [--json FILE]

Latencies are those of sim/truth/boards.csv. For each device the table has the error of the fit to all of them,
of fits without one network on that device, and of the fit without any network of that device. The device files hold
the fit to all; that the simulator gives the same times is checked for every latency (for the first of each device with
--quick). There is no randomness, hence no seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import arguments, state, write_json
from rich.console import Console

from cosoc.search import measured
from cosoc.sim.truth.boards import simulated_s

DATA = Path(__file__).parents[1] / "sim" / "truth" / "boards.csv"


def _simulated_s(row: measured.Measured) -> float:
    return simulated_s(row.device, row.runtime, row.network)


def main() -> None:
    options = arguments(__doc__).parse_args()
    state()
    rows = measured.load(DATA)
    predictions = measured.cross_validate(rows)
    fitted = measured.fit(rows)
    Console(width=120).print(measured.table(predictions))
    groups = measured.by_device(predictions)
    compared = [mine[0] for mine in groups.values()] if options.quick else list(predictions)
    worst = max(abs(_simulated_s(p.measured) / p.fitted_s - 1) for p in compared)
    print(f"simulated on the device files, {len(compared)} latencies: within {worst:.2%} of the fit")
    enough = [p for mine in groups.values() if len(mine) >= measured.ENOUGH for p in mine]
    over = [" ".join(key) for key, mine in groups.items()
            if len(mine) >= measured.ENOUGH and measured.mape(mine, "left_out_s") > 0.2]  # fmt: skip
    print(f"networks left out, all devices with {measured.ENOUGH} or more: {measured.mape(enough, 'left_out_s'):.1%}; "
          f"above 20 %: {', '.join(over) or 'none'}")  # fmt: skip
    result: dict[str, Any] = {
        "quick": options.quick,
        "devices": measured.to_json(predictions, fitted),
        "mape_network_left_out": measured.mape(enough, "left_out_s"),
        "simulated_over_fit_worst": worst,
    }
    write_json(options.json, result)


if __name__ == "__main__":
    main()

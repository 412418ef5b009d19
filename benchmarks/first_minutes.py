"""What does `import cosoc` cost, and what do the first things one asks of it?

Processes of their own, so that nothing is loaded before: CPU seconds, user's and system's, the least of several. The
interpreter's own start is measured alike and taken off the import.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

from common import arguments, state, write_json

CASES = {
    "interpreter": [sys.executable, "-c", "pass"],
    "import cosoc": [sys.executable, "-c", "import cosoc"],
    "cosoc --help": [sys.executable, "-m", "cosoc", "--help"],
    "cosoc list": [sys.executable, "-m", "cosoc", "list"],
    "a completion": [sys.executable, "-m", "cosoc", "complete", "--", "simulate", "dian"],
    "a result": [sys.executable, "-c", "import cosoc; print(cosoc.simulate('diana', 'resnet8'))"],
}
TIMES, QUICK_TIMES = 9, 3


def seconds(command: list[str], times: int) -> float:
    """The least of so many runs."""
    found = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(found)


def main() -> None:
    options = arguments(__doc__).parse_args()
    state()
    times = QUICK_TIMES if options.quick else TIMES
    found: dict[str, Any] = {name: seconds(command, times) for name, command in CASES.items()}
    found["import alone"] = found["import cosoc"] - found["interpreter"]
    for name, value in found.items():
        print(f"{name:13} {1e3 * value:8.1f} ms")
    write_json(options.json, {"times": times, "seconds": found})


if __name__ == "__main__":
    main()

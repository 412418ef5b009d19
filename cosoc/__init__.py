"""Simulate, calibrate and search mappings of neural networks on heterogeneous AI SoCs.

What is offered here is loaded when it is first asked for, so that the import itself takes no time.

>>> import cosoc
>>> print(cosoc.simulate("diana", "resnet8"))
resnet8 on diana, default, serial: 473.6 us, 7.489 uJ (123,123 ticks). The bottleneck is digital computing: ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cosoc.api import (
        calibrate,
        compare,
        evaluate,
        export,
        search,
        simulate,
        simulate_cluster,
        sweep,
        validate,
        wrap,
    )
    from cosoc.sim.errors import InputError

__all__ = [
    "InputError", "calibrate", "compare", "evaluate", "export", "search", "simulate", "simulate_cluster", "sweep",
    "validate", "wrap",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "search":  # a package that is called: see there
        return import_module("cosoc.search")
    if name not in __all__:
        raise AttributeError(f"module 'cosoc' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module("cosoc.sim.errors" if name == "InputError" else "cosoc.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Core models: one file each, listed in a plain dict by the name that SoC files use. Those of others: `own.py`."""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any

from pydantic import Field

from cosoc.sim.cores.analog_array import AnalogArray
from cosoc.sim.cores.cluster import Cluster
from cosoc.sim.cores.crossbar import Crossbar
from cosoc.sim.cores.depthwise_engine import DepthwiseEngine
from cosoc.sim.cores.digital_array import DigitalArray
from cosoc.sim.cores.dla import Dla
from cosoc.sim.cores.host_cpu import HostCpu
from cosoc.sim.cores.ne16 import Ne16
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.cores.systolic import Systolic
from cosoc.sim.cores.tensor_engine import TensorEngine
from cosoc.sim.cores.tensor_gpu import TensorGpu
from cosoc.sim.cores.vector_unit import VectorUnit
from cosoc.sim.model.soc import Core

CORES: dict[str, type[Core]] = {
    "analog_array": AnalogArray,
    "cluster": Cluster,
    "crossbar": Crossbar,
    "depthwise_engine": DepthwiseEngine,
    "digital_array": DigitalArray,
    "dla": Dla,
    "host_cpu": HostCpu,
    "ne16": Ne16,
    "roofline": Roofline,
    "systolic": Systolic,
    "tensor_engine": TensorEngine,
    "tensor_gpu": TensorGpu,
    "vector_unit": VectorUnit,
}

BuiltInCore: Any = Annotated[functools.reduce(operator.or_, CORES.values()), Field(discriminator="model")]

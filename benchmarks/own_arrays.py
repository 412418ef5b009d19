"""Chips of one's own, for benchmarks and tests: DIANA's digital array so many times, beside its pool and adder."""

from __future__ import annotations

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.model.soc import SoC

WIDENED = ("l2_read", "l2_write", "l1", "weight_port", "off_chip")


def arrays(n: int, wide: int = 1) -> SoC:
    """DIANA without its analog core, its digital array n times, each with a weight memory of its own. wide: factor on
    the bytes that its links carry and its DMAs ask for at once."""
    diana = find_soc("diana")
    memories = {name: memory for name, memory in diana.memories.items() if name != "analog_weights"}
    routes = [route for route in diana.routes if "analog_weights" not in (route.source, route.target)]
    (fill,) = (route for route in routes if route.target == "digital_weights")
    cores = {}
    for i in range(n):
        weights = f"digital{i}_weights" if i else "digital_weights"
        memories[weights] = diana.memories["digital_weights"]
        cores[f"digital{i}" if i else "digital"] = diana.cores["digital"].model_copy(update={"weight_memory": weights})
        if i:
            routes.append(fill.model_copy(update={"target": weights}))
    cores |= {name: diana.cores[name] for name in ("host", "pool", "simd")}
    links = {
        name: link.model_copy(update={"bytes_per_period": link.bytes_per_period * (wide if name in WIDENED else 1)})
        for name, link in diana.links.items()
        if name != "analog_feed"
    }
    dmas = {name: dma.model_copy(update={"burst_bytes": dma.burst_bytes * wide}) for name, dma in diana.dmas.items()}
    name = f"arrays{n}" + (f"_wide{wide}" if wide > 1 else "")
    changed = {"name": name, "cores": cores, "memories": memories, "routes": tuple(routes), "links": links}
    made: SoC = diana.model_copy(update=changed | {"dmas": dmas})
    return made

"""Chips of the tests' own: DIANA's digital array so many times, beside its pool and adder."""

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.model.soc import SoC


def arrays(n: int) -> SoC:
    """DIANA without its analog core, its digital array n times, each with a weight memory of its own."""
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
    changed = {"name": f"arrays{n}", "cores": cores, "memories": memories, "routes": tuple(routes)}
    made: SoC = diana.model_copy(update=changed)
    return made

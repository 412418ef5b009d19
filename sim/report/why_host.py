"""Why a layer runs on the host: what all other cores say against it."""

from __future__ import annotations

from dataclasses import replace

from cosoc.sim.model.mapping import LayerPlan
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.workload import Layer, Tile
from cosoc.sim.tiler import unsupported

PLAIN = 64  # channels of a layer that has nothing peculiar but its operator; its pixels are 8 x 8


def why_host(layer: Layer, plan: LayerPlan, soc: SoC) -> str:
    """Why a layer is on the host as mapped: what those cores say against it that run its operator in a plainer form, or
    that none does. '' where it is not there, where there is no other core, or where another could run it."""
    others = [name for name in soc.cores if name != soc.host]
    if not others or all(part.core != soc.host for part in plan.parts if part.channels):
        return ""
    against = {name: ", ".join(unsupported(layer, soc, name)) for name in others}
    if not all(against.values()):
        return ""
    able = [name for name in others if _runs_plainly(layer, soc.cores[name])]
    if not able:
        return f"no other core runs {layer.fn if layer.op == 'eltwise' and layer.fn else layer.op}"
    reasons = dict.fromkeys(against[name] for name in able)
    return "; ".join(f"{', '.join(n for n in able if against[n] == reason)} {reason}" for reason in reasons)


def _runs_plainly(layer: Layer, core: Core) -> bool:
    """Whether a core runs the operator of a layer, if not this one."""
    one = Tile(
        layer.op, PLAIN, PLAIN, 8, 8, operands=max(len(layer.inputs), 1) if layer.op in ("add", "eltwise") else 1
    )
    if layer.depthwise:
        one = replace(one, c=1, depthwise=True, groups=PLAIN)
    return any(not core.fits(replace(one, fy=taps, fx=taps)) for taps in (1, 3))


__all__ = ["why_host"]

"""Area, energy and leakage by what a chip is made of, in one technology; and figures of a chip at other sizes than
those that they were found at.

The laws, each with its constants in a technology's file:

- a product of a x b bits takes a b units of energy and of area, a sum of n bits n, a register and a multiply-add
  in FP16 their own;
- an SRAM of n bits is a square of n cells with a strip of periphery along two sides, so (sqrt(n cell) + strip)^2, and a
  byte of it costs what it costs in one of `sram_reference_bytes`, times the root of the size over that, as wires of a
  square do;
- a port of a link takes area by its bits; a byte on it energy by how far it goes, an edge of the chip;
- what is placed takes area / utilisation; what leaks goes with area, and what runs idle with area and clock.

A chip whose file states its powers and energies (`energies: file`) keeps them at the sizes they are of. At other
sizes each is multiplied by what the laws say at these over what they say at those (`sized`); a leakage, which files
often hold to be 0, has the difference added. A chip of one's own may have them all from the technology (`energies:
technology`, `modelled`). Off-chip memories and links are no part of any of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cosoc.sim.model.silicon import SUM_BITS, Silicon
from cosoc.sim.model.soc import Core, Dma, Link, Memory, Model, Name, SoC
from cosoc.sim.model.units import (
    Bytes,
    MicrometresOr0,
    MilliwattsPerMm2,
    Picojoules,
    PicojoulesPerByte,
    Share,
    SquareMicrometres,
    Volts,
)

UM2 = 1e-6  # mm^2
KEYS = ("power_mw", "operation_pj")  # of cores: of a cycle, or of an operation, of all of its parts


class Technology(Model):
    """What parts of a chip take in one technology, at `voltage_v`."""

    name: Name  # by which messages call it
    description: str = ""  # one line, for people
    voltage_v: Volts  # at which its energies are
    multiply_pj_per_bit2: Picojoules  # of a product of integers, by the product of their widths
    multiply_um2_per_bit2: SquareMicrometres  # of a multiplier, by the same
    add_pj_per_bit: Picojoules  # of a sum of integers
    add_um2_per_bit: SquareMicrometres  # of an adder
    float16_pj: Picojoules  # of a multiply-add in FP16
    float16_um2: SquareMicrometres  # of its unit
    register_pj_per_bit: Picojoules  # of a flip-flop in a cycle in which it works
    register_um2_per_bit: SquareMicrometres  # of a flip-flop
    processor_pj: Picojoules  # of an instruction of a small processor
    processor_um2: SquareMicrometres  # of such a processor, with the memory of its instructions
    sram_pj_per_byte: (
        PicojoulesPerByte  # of an access to a memory of sram_reference_bytes; others by the root of the size
    )
    sram_reference_bytes: Bytes  # of that memory
    sram_cell_um2: SquareMicrometres  # of a bit
    sram_strip_um: MicrometresOr0  # of periphery along two sides of a memory
    port_um2_per_bit: SquareMicrometres  # of a bit of a port of a link: wires, multiplexers, a register
    wire_pj_per_byte_mm: PicojoulesPerByte  # of a byte, over a millimetre
    # of a bit of memory that computes in place, with its converters; left out: the technology has none
    compute_cell_um2: SquareMicrometres | None = None
    utilisation: Share  # of what is placed, of its area
    leakage_mw_per_mm2: MilliwattsPerMm2  # of the area
    idle_mw_per_mm2_ghz: MilliwattsPerMm2  # of area and clock, whatever works

    def sram_mm2(self, size_bytes: int) -> float:
        """Area of a memory of so many bytes."""
        return (math.sqrt(8 * size_bytes * self.sram_cell_um2) + self.sram_strip_um) ** 2 * UM2 / self.utilisation

    def access_pj_per_byte(self, size_bytes: int) -> float:
        """Energy of a byte read from or written to a memory of so many bytes."""
        return self.sram_pj_per_byte * math.sqrt(size_bytes / self.sram_reference_bytes)

    def logic_mm2(self, of: Silicon) -> float:
        """Area of a core's own parts."""
        a, b = of.multiplier_bits
        um2 = of.multipliers * (a * b * self.multiply_um2_per_bit2 + SUM_BITS * self.add_um2_per_bit)
        um2 += of.adders * of.adder_bits * self.add_um2_per_bit
        um2 += of.float_multipliers * self.float16_um2 + of.register_bits * self.register_um2_per_bit
        um2 += of.processors * self.processor_um2 + of.cell_bits * (self.compute_cell_um2 or 0)
        return um2 * UM2 / self.utilisation

    def logic_pj(self, of: Silicon) -> float:
        """Energy of a cycle in which all of a core's parts work, without what it reads."""
        a, b = of.multiplier_bits
        pj = of.multipliers * (a * b * self.multiply_pj_per_bit2 + SUM_BITS * self.add_pj_per_bit)
        pj += of.adders * of.adder_bits * self.add_pj_per_bit
        pj += of.float_multipliers * self.float16_pj + of.register_bits * self.register_pj_per_bit
        return pj + of.processors * self.processor_pj

    def link_mm2(self, link: Link) -> float:
        """Area of a link's ports."""
        return 8 * link.bytes_per_period * link.ports * self.port_um2_per_bit * UM2 / self.utilisation


# ------------------------------------------------------------------------------------------ a chip's area
def areas_mm2(soc: SoC, technology: Technology) -> dict[str, float]:
    """Area of each memory, link and core that is on the chip, by `section.name`, as the laws have it; of a memory whose
    file states one, that. Weights of a core that computes in memory lie in its cells."""
    cells = {core.weight_memory for core in soc.cores.values() if _silicon(core).cell_bits}
    out = {
        f"memories.{name}": memory.area_mm2 or technology.sram_mm2(memory.size_bytes)
        for name, memory in soc.memories.items()
        if not memory.off_chip and name not in cells
    }
    out |= {f"links.{name}": technology.link_mm2(link) for name, link in soc.links.items() if not link.off_chip}
    return out | {f"cores.{name}": technology.logic_mm2(_silicon(core)) for name, core in soc.cores.items()}


def core_pj(soc: SoC, name: str, technology: Technology) -> float:
    """Energy of a cycle in which all of a core works, what it reads included."""
    core = soc.cores[name]
    of = _silicon(core)
    if of.cell_bits:  # whatever it reads, its cells are what an operation costs
        return of.cell_bits
    reads = ((of.read_bytes, core.memory), (of.weight_bytes, core.weight_memory or core.memory))
    return technology.logic_pj(of) + sum(
        n * technology.access_pj_per_byte(soc.memories[memory].size_bytes)
        for n, memory in reads
        if not soc.memories[memory].off_chip
    )


def made_of(soc: SoC) -> tuple[Silicon, ...]:
    """What the cores of a chip are made of, of those that say it."""
    return tuple(one for core in soc.cores.values() if (one := core.silicon()) is not None)


def _silicon(core: Core) -> Silicon:
    found = core.silicon()
    if found is None:
        raise TypeError(f"core model {core.model} does not say what it is made of")  # files are refused before
    return found


# ------------------------------------------------------------------------------------------ at other sizes
def sized(soc: SoC, found: SoC, technology: Technology) -> SoC:
    """A machine whose figures are those of its sizes. soc: as its file, with what was set, has it. found: with the
    sizes that its figures are of."""
    now, then = (sum(areas_mm2(one, technology).values()) for one in (soc, found))
    area = _area(soc, now, then)
    grown = _over(area, _area(soc, then, then))
    changes: dict[str, Any] = {
        "area_mm2": area,
        "base_power_mw": soc.base_power_mw * grown,
        "static_power_mw": max(0.0, soc.static_power_mw + technology.leakage_mw_per_mm2 * (now - then)),
        "memories": {
            name: _sized_memory(one, found.memories.get(name), technology) for name, one in soc.memories.items()
        },
        "links": {
            name: one if one.off_chip else one.model_copy(
                update={"energy_pj_per_byte": one.energy_pj_per_byte * math.sqrt(grown)}
            )
            for name, one in soc.links.items()
        },
        "dmas": {name: _sized_dma(soc, found, name) for name in soc.dmas},
        "cores": {name: _sized_core(soc, found, name, technology) for name in soc.cores},
        "figures_at": {},  # now they are of the sizes that stand there
    }  # fmt: skip
    return soc.model_copy(update={key: value for key, value in changes.items() if value != getattr(soc, key)})


def _area(soc: SoC, now: float, then: float) -> float:
    """Area, mm^2, where the laws say `now`, and `then` at the sizes that what the file states is of: what they do not
    know of (pads, what is not described) stays."""
    if not soc.area_mm2:
        return now
    known = min(1.0, _over(soc.area_mm2, then))  # where the laws say more than there is
    return soc.area_mm2 + known * (now - then)


def _over(now: float, then: float) -> float:
    """A ratio; 1 where a technology says that there is nothing."""
    return now / then if then else 1.0


def _sized_memory(memory: Memory, found: Memory | None, technology: Technology) -> Memory:
    if found is None or memory.off_chip or memory.size_bytes == found.size_bytes:
        return memory
    update = {"access_pj_per_byte": memory.access_pj_per_byte * math.sqrt(memory.size_bytes / found.size_bytes)}
    if memory.area_mm2:
        grown = _over(technology.sram_mm2(memory.size_bytes), technology.sram_mm2(found.size_bytes))
        update["area_mm2"] = memory.area_mm2 * grown
    return memory.model_copy(update=update)


def _sized_core(soc: SoC, found: SoC, name: str, technology: Technology) -> Core:
    core = soc.cores[name]
    if name not in found.cores:
        return core
    factor = _over(core_pj(soc, name, technology), core_pj(found, name, technology))
    update = {key: getattr(core, key) * factor for key in KEYS if hasattr(core, key)}
    return core.model_copy(update=update)


def _sized_dma(soc: SoC, found: SoC, name: str) -> Any:
    """A DMA's power goes with the bytes that it can move in a cycle."""
    dma = soc.dmas[name]
    if not isinstance(dma, Dma) or not dma.power_mw or name not in found.dmas:
        return dma
    factor = _width(soc, name) / _width(found, name)
    return dma.model_copy(update={"power_mw": dma.power_mw * factor}) if factor != 1 else dma


def _width(soc: SoC, dma: str) -> float:
    """Bytes a cycle, at most, over the slowest link of one of a mover's routes, times its lanes."""
    mover = soc.dmas[dma]
    routes = [[soc.links[link] for link in route.links] for route in soc.routes if route.dma == dma]
    widest = max(min(link.bytes_per_period / link.period_cycles for link in links) for links in routes)
    return widest * (mover.lanes if isinstance(mover, Dma) else 1)


# ------------------------------------------------------------------------------------------ without stated figures
def modelled(soc: SoC, technology: Technology) -> SoC:
    """A machine with all powers and energies on its chip as the laws have them, at its voltage."""
    area = _area(soc, *[sum(areas_mm2(soc, technology).values())] * 2)
    v2 = ((soc.nominal_voltage_v or technology.voltage_v) / technology.voltage_v) ** 2
    hz = soc.tick_hz
    mw = {name: core_pj(soc, name, technology) * v2 * hz * 1e-9 for name in soc.cores}
    wire = technology.wire_pj_per_byte_mm * math.sqrt(area) * v2
    return soc.model_copy(
        update={
            "area_mm2": area,
            "energies": "file",  # now it states them
            "base_power_mw": technology.idle_mw_per_mm2_ghz * area * v2 * hz * 1e-9,
            "static_power_mw": technology.leakage_mw_per_mm2 * area * math.sqrt(v2),
            "memories": {
                name: one if one.off_chip or name in counted(soc) else one.model_copy(
                    update={"access_pj_per_byte": technology.access_pj_per_byte(one.size_bytes) * v2}
                )
                for name, one in soc.memories.items()
            },
            "links": {
                name: one if one.off_chip else one.model_copy(update={"energy_pj_per_byte": wire})
                for name, one in soc.links.items()
            },
            "cores": {
                name: core if core.own_energies() else core.model_copy(update={"power_mw": mw[name]})
                for name, core in soc.cores.items()
            },
        }
    )  # fmt: skip


def counted(soc: SoC) -> frozenset[str]:
    """Memories whose accesses a core's own energies have."""
    own = [core for core in soc.cores.values() if core.own_energies()]
    return frozenset(core.memory for core in own) | {getattr(core, key) for core in own for key in core.own_memories()}


def peaks_mw(soc: SoC, technology: Technology) -> Mapping[str, float]:
    """Power of each core in a cycle in which all of it works, as the laws have it, at the chip's nominal voltage."""
    v2 = ((soc.nominal_voltage_v or technology.voltage_v) / technology.voltage_v) ** 2
    return {name: core_pj(soc, name, technology) * v2 * soc.tick_hz * 1e-9 for name in soc.cores}

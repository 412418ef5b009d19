"""The cycles of a compiled function on a processor that executes one instruction after the other: a part of
host_kernels.py by itself.

An emulator (unicorn) executes it; here is said when each of its instructions starts: one a cycle, no sooner than its
operands are there and the unit that it needs is free. Memory answers at once, as a scratchpad or a cache that hits.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

COMPILER = "riscv64-unknown-elf-gcc"
CODE, DATA, STACK, END = (
    0x10000,
    0x100000,
    0x600000,
    0x700000,
)  # program, operands, top of the stack, where it returns to
LAYOUT = (
    "SECTIONS { . = %#x; .text : { *(.text*) } .data : { *(.rodata* .srodata* .data* .sdata* .bss* .sbss* COMMON) } }"
)
FLOATS = 32  # where the registers of floating point begin in the table of when a register is there


@dataclass(frozen=True)
class Pipeline:
    """A processor that starts at most one instruction a cycle, in order. Latencies are cycles from the start of an
    instruction to that of the first one that can use its result; 1: the very next.

    multiply, multiply_high, divide: of both operands, and the unit is taken for as long. taken, jump: cycles lost
    behind a taken branch and a jump. mispredicted: where each branch has a two-bit counter, behind one that it foresees
    wrongly (0: there are none, and `taken` holds). sums, quotients: of floating point; quotients one at a time.
    """

    name: str
    march: str
    mabi: str
    load: int
    load_byte: int
    multiply: Callable[[int, int], int]
    multiply_high: Callable[[int, int], int]
    divide: Callable[[int, int], int]
    taken: int
    jump: int
    mispredicted: int
    sums: int
    quotients: int

    @property
    def bits(self) -> int:
        return int(self.march[2:4])


def zeros_before(value: int) -> int:
    """Leading zeros of the magnitude, of 32."""
    return max(0, 32 - abs(value).bit_length())


def compiled(source: Path, pipeline: Pipeline, level: str, folder: Path) -> tuple[bytes, dict[str, int]]:
    """(the program as it lies from CODE on, address of each function)."""
    layout, program, flat = folder / "layout.ld", folder / "program.elf", folder / "program.bin"
    layout.write_text(LAYOUT % CODE)
    target = (f"-march={pipeline.march}", f"-mabi={pipeline.mabi}", "--specs=picolibc.specs", "-nostartfiles")
    link = ("-T", str(layout), "-Wl,--no-warn-rwx-segments", "-Wl,-e,conv")
    subprocess.run([COMPILER, level, *target, *link, str(source), "-lm", "-o", str(program)], check=True)
    tool = COMPILER.replace("gcc", "objcopy")
    subprocess.run([tool, "-O", "binary", str(program), str(flat)], check=True)
    names = subprocess.run([COMPILER.replace("gcc", "nm"), str(program)], check=True, capture_output=True, text=True)
    symbols = [line.split() for line in names.stdout.splitlines()]
    return flat.read_bytes(), {name: int(address, 16) for address, kind, name in symbols if kind == "T"}


def has_compiler() -> bool:
    return shutil.which(COMPILER) is not None


class Clock:
    """When each instruction of a run starts on a pipeline. `start` is told of them in their order."""

    def __init__(self, pipeline: Pipeline, value: Callable[[int], int]) -> None:
        """value: what is in an integer register now, signed."""
        self.pipeline, self.value = pipeline, value
        self.now = 0  # cycle in which the next instruction may start
        self.count = 0
        self.there = [0] * (2 * FLOATS)  # when each register's value is
        self.unit_free = 0  # multiplier and divider
        self.branch: tuple[int, int] | None = None  # address of the last one, and of what follows it
        self.counters: dict[int, int] = {}

    def start(self, address: int, word: int) -> None:
        if self.branch is not None:
            self._branched(*self.branch, address)
        pipeline, opcode, kind, high = self.pipeline, word & 0x7F, word >> 12 & 7, word >> 25
        to, left, right = word >> 7 & 31, word >> 15 & 31, word >> 20 & 31
        reads, writes, latency, unit = [left], to, 1, False
        if opcode == 0x03:
            latency = pipeline.load_byte if kind in (0, 1, 4, 5) else pipeline.load
        elif opcode == 0x07:
            writes, latency = to + FLOATS, pipeline.load
        elif opcode in (0x23, 0x27):
            reads, writes = [left, right + (FLOATS if opcode == 0x27 else 0)], 0
        elif opcode == 0x63:
            reads, writes, self.branch = [left, right], 0, (address, address + 4)
        elif opcode in (0x6F, 0x67):
            reads = [left] if opcode == 0x67 else []
        elif opcode in (0x33, 0x3B):
            reads = [left, right]
            if high == 1:
                take = (pipeline.multiply, *[pipeline.multiply_high] * 3, *[pipeline.divide] * 4)[kind]
                latency, unit = take(self.value(left), self.value(right)), True
        elif opcode in (0x43, 0x47, 0x4B, 0x4F):
            reads, writes, latency = [left + FLOATS, right + FLOATS, (word >> 27) + FLOATS], to + FLOATS, pipeline.sums
        elif opcode == 0x53:
            of_integer = high >> 2 in (0x1A, 0x1E)  # a conversion from, a move of an integer
            to_integer = high >> 2 in (0x14, 0x18, 0x1C)  # a comparison, a conversion, a move to an integer
            alone = high >> 2 in (0x08, 0x0B, 0x1A, 0x1E, 0x18, 0x1C)
            reads = [left if of_integer else left + FLOATS, *([] if alone else [right + FLOATS])]
            writes, unit = to if to_integer else to + FLOATS, high >> 2 in (0x03, 0x0B)
            latency = pipeline.quotients if unit else pipeline.sums
        elif opcode in (0x37, 0x17):
            reads = []
        elif opcode not in (0x13, 0x1B, 0x73):
            raise ValueError(f"instruction {word:#010x} at {address:#x}: of a kind that no processor here has")
        start = max(self.now, *(self.there[one] for one in reads), self.unit_free if unit else 0, 0)
        self.count += 1
        self.now = start + 1 + (pipeline.jump if opcode in (0x6F, 0x67) else 0)
        if unit:
            self.unit_free = start + latency
        if writes:
            self.there[writes] = start + latency

    def _branched(self, branch: int, behind: int, address: int) -> None:
        """What the last branch has cost, now that is known where it went."""
        taken, self.branch = address != behind, None
        if not self.pipeline.mispredicted:
            self.now += self.pipeline.taken * taken
            return
        counter = self.counters.get(branch, 1)
        if (counter >= 2) != taken:
            self.now += self.pipeline.mispredicted
        self.counters[branch] = min(3, counter + 1) if taken else max(0, counter - 1)


@dataclass(frozen=True)
class Run:
    cycles: int
    instructions: int
    result: np.ndarray


def run(
    program: bytes, entry: int, pipeline: Pipeline, arguments: Sequence[np.ndarray | int | float], result: int
) -> Run:
    """Call a function with arrays (by their addresses) and numbers. result: which of the arguments it writes."""
    import unicorn
    from unicorn import riscv_const as registers

    wide = pipeline.bits == 64
    machine = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64 if wide else unicorn.UC_MODE_RISCV32)
    machine.mem_map(CODE & ~0xFFF, (END + 0x1000) - (CODE & ~0xFFF))
    machine.mem_write(CODE, program)
    machine.reg_write(registers.UC_RISCV_REG_MSTATUS, 0x6000)  # registers of floating point in use
    integers = [getattr(registers, f"UC_RISCV_REG_X{i}") for i in range(32)]
    hard_floats = pipeline.mabi[-1] in "fd"
    at, places, of_integers, of_floats = DATA, list[int](), list[int](), list[float]()
    for one in arguments:
        if isinstance(one, np.ndarray):
            machine.mem_write(at, one.tobytes())
            places.append(at)
            of_integers.append(at)
            at += -(-one.nbytes // 64) * 64
        elif isinstance(one, float) and hard_floats:
            of_floats.append(one)
        else:
            of_integers.append(struct.unpack("<i", struct.pack("<f", one))[0] if isinstance(one, float) else one)
    mask = (1 << pipeline.bits) - 1
    for i, number in enumerate(of_integers[:8]):
        machine.reg_write(integers[10 + i], number & mask)
    for i, one in enumerate(of_floats):
        boxed = struct.unpack("<I", struct.pack("<f", one))[0] | (0xFFFFFFFF << 32)
        machine.reg_write(getattr(registers, f"UC_RISCV_REG_F{10 + i}"), boxed)
    for i, number in enumerate(of_integers[8:]):
        machine.mem_write(STACK + i * pipeline.bits // 8, (number & mask).to_bytes(pipeline.bits // 8, "little"))
    machine.reg_write(integers[2], STACK)
    machine.reg_write(integers[1], END)

    def value(register: int) -> int:
        """As a signed number of 32 bits, which is all that is multiplied here."""
        raw = machine.reg_read(integers[register]) & 0xFFFFFFFF
        return raw - (1 << 32) if raw >> 31 else raw

    clock = Clock(pipeline, value)

    def each(machine: unicorn.Uc, address: int, size: int, _: None) -> None:
        if size != 4:
            raise ValueError(f"a compressed instruction at {address:#x}")
        offset = address - CODE
        clock.start(address, int.from_bytes(program[offset : offset + 4], "little"))

    machine.hook_add(unicorn.UC_HOOK_CODE, each)
    machine.emu_start(entry, END)
    written = next(one for i, one in enumerate(arguments) if i == result)
    assert isinstance(written, np.ndarray)
    place = places[sum(isinstance(one, np.ndarray) for one in arguments[:result])]
    found = np.frombuffer(bytes(machine.mem_read(place, written.nbytes)), written.dtype).reshape(written.shape)
    return Run(clock.now, clock.count, found)

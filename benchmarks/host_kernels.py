"""What do operators cost on the scalar processor of a chip: cycles a multiply-accumulate, and an element?

python benchmarks/host_kernels.py [--quick] [--json FILE]

Counted on compiled code: gcc compiles host_kernels.c for each processor, and host_pipeline.py says
when each instruction that it executes starts. What the functions compute is compared with the same in numpy. Needs
`pip install unicorn` and Debian's gcc-riscv64-unknown-elf and picolibc-riscv64-unknown-elf.

RI5CY, the processor of DIANA and of PULP's chips, goes by the table of cycle counts and the hazards in CV32E40P's user
manual (published), without the instructions of its own that gcc does not know: hardware loops, loads that move their
pointer, dot products. Rocket, the processor beside Gemmini, goes by rocket-chip's RocketCore.scala (a byte is there a
cycle after a word) and Multiplier.scala with the big core's eight bits a cycle and early out (published); its branches
are foreseen by a two-bit counter each, and how long its units of floating point take is said below (assumed).
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, skip, state, write_json
from host_pipeline import COMPILER, Pipeline, compiled, has_compiler, run, zeros_before
from numpy.lib.stride_tricks import sliding_window_view

SOURCE = Path(__file__).with_name("host_kernels.c")
LEVELS = ("-O2", "-O3")  # of gcc's optimisation
MULTIPLIER, SHIFT = 1 << 28, 5  # of the sums: 2^-9 in all
Array = np.ndarray


def rocket_multiply(left: int, right: int) -> int:
    """A cycle to start, one to end, and one for each eight of 32 bits; leading zeros end it early, but not at once."""
    return 2 + (4 if left < 0 else min(4, 1 + -(-left.bit_length() // 8)))


def rocket_divide(left: int, right: int) -> int:
    return 3 + max(1, abs(left).bit_length() - abs(right).bit_length())


RI5CY = Pipeline(
    "ri5cy", "rv32im", "ilp32",
    load=2, load_byte=2, multiply=lambda a, b: 1, multiply_high=lambda a, b: 5, divide=lambda a, b: 3 + zeros_before(b),
    taken=2, jump=1, mispredicted=0, sums=0, quotients=0,
)  # fmt: skip
ROCKET = Pipeline(
    "rocket", "rv64imafd", "lp64d",
    load=2, load_byte=3, multiply=rocket_multiply, multiply_high=lambda a, b: 10, divide=rocket_divide,
    taken=0, jump=0, mispredicted=3, sums=4, quotients=26,
)  # fmt: skip
WITH_FLOATS = {
    "march": "rv32imf",
    "mabi": "ilp32f",
    "sums": 2,
    "quotients": 12,
}  # one more stage, 11 cycles of division
PIPELINES = (RI5CY, replace(RI5CY, name="ri5cy with floats", **WITH_FLOATS), ROCKET)


@dataclass(frozen=True)
class Kernel:
    """A call: function, arguments (argument 0 is written), what that must hold then, and of how many units it is told:
    multiply-accumulates or elements that it reads. kind: what the model calls it. off: how far a result may be off."""

    kind: str
    label: str
    function: str
    given: tuple[Array | int | float, ...]
    expected: Array
    units: int
    off: int = 0


def scaled(sums: Array) -> Array:
    return np.clip((sums.astype(np.int64) * MULTIPLIER >> 32) >> SHIFT, -128, 127).astype(np.int8)


def conv(
    rng: np.random.Generator, function: str, label: str, k: int, c: int, side: int, f: int, groups: int = 1
) -> Kernel:
    """side x side outputs; c channels of each group."""
    inputs = rng.integers(-64, 64, (side + f - 1, side + f - 1, c * groups), np.int8)
    weights = rng.integers(-64, 64, (k, f, f, c), np.int8)
    bias = rng.integers(-1000, 1000, k, np.int32)
    windows = sliding_window_view(inputs, (f, f), (0, 1)).astype(np.int64)  # y x channel fy fx
    sums = np.empty((side, side, k), np.int64)
    for o in range(k):
        first = o // (k // groups) * c
        sums[..., o] = np.einsum("yxcji,jic->yx", windows[:, :, first : first + c], weights[o]) + bias[o]
    out = np.zeros((side, side, k), np.int8)
    sizes = (k, c, side, side, f, f, 1, side + f - 1, groups, MULTIPLIER, SHIFT)
    return Kernel("mac", label, function, (out, inputs, weights, bias, *sizes), scaled(sums), out.size * c * f * f)


def depthwise(rng: np.random.Generator, c: int, side: int, f: int) -> Kernel:
    inputs = rng.integers(-64, 64, (side + f - 1, side + f - 1, c), np.int8)
    weights, bias = rng.integers(-64, 64, (f, f, c), np.int8), rng.integers(-1000, 1000, c, np.int32)
    windows = sliding_window_view(inputs, (f, f), (0, 1)).astype(np.int64)
    expected = scaled(np.einsum("yxcji,jic->yxc", windows, weights) + bias)
    out = np.zeros_like(expected)
    given = (out, inputs, weights, bias, c, side, side, f, f, side + f - 1, MULTIPLIER, SHIFT)
    return Kernel("mac", f"depthwise {f}x{f}", "depthwise", given, expected, out.size * f * f)


def matmul(rng: np.random.Generator, rows: int, k: int, c: int) -> Kernel:
    a, b = rng.integers(-64, 64, (rows, c), np.int8), rng.integers(-64, 64, (k, c), np.int8)
    expected = scaled(a.astype(np.int64) @ b.astype(np.int64).T)
    given = (np.zeros_like(expected), a, b, rows, k, c, MULTIPLIER, SHIFT)
    return Kernel("mac", f"matmul, {c} deep", "matmul", given, expected, rows * k * c)


def pools(rng: np.random.Generator, c: int, side: int, f: int) -> list[Kernel]:
    inputs = rng.integers(-128, 128, (side * f, side * f, c), np.int8)
    windows = inputs.reshape(side, f, side, f, c).astype(np.int64)
    most, sums = windows.max((1, 3)).astype(np.int8), scaled(windows.sum((1, 3)))
    sizes = (c, side, side, f, f)
    given, means = (np.zeros_like(most), inputs, *sizes), (np.zeros_like(sums), inputs, *sizes, MULTIPLIER, SHIFT)
    return [
        Kernel("element", f"max_pool {f}x{f}", "max_pool", given, most, inputs.size),
        Kernel("element", f"avg_pool {f}x{f}", "avg_pool", means, sums, inputs.size),
    ]  # fmt: skip


def add(rng: np.random.Generator, n: int) -> Kernel:
    a, b = rng.integers(-128, 128, (2, n), np.int8)
    expected = np.clip((a.astype(np.int64) * 77 + b.astype(np.int64) * 51) >> 7, -128, 127).astype(np.int8)
    return Kernel("element", "add", "add", (np.zeros_like(expected), a, b, n, 77, 51, 7), expected, 2 * n)


def concat(rng: np.random.Generator, pixels: int, channels: int) -> list[Kernel]:
    a, b = rng.integers(-128, 128, (2, pixels, channels), np.int8)
    expected = np.concatenate([a, b], 1)
    given = (np.zeros_like(expected), a, b, pixels, channels, channels)
    ways = {"concat": "by the library", "concat_words": "by registers"}
    return [Kernel("copy", f"concat, {how}", name, given, expected, expected.size) for name, how in ways.items()]


def functions(rng: np.random.Generator, n: int) -> list[Kernel]:
    from math import erf

    x = rng.integers(-128, 128, n, np.int8)
    table = rng.integers(-128, 128, 256, np.int8)
    values = np.array([0.5 * v * (1 + erf(v * 0.5**0.5)) for v in x / 32.0]) * 32.0
    gelu = np.clip(np.trunc(values + np.where(values < 0, -0.5, 0.5)), -128, 127).astype(np.int8)
    out = np.zeros_like(x)
    return [
        Kernel("element", "any function, by table", "function", (out, x, table, n), table[x.astype(int) + 128], n),
        Kernel("exponential", "GELU in floats", "gelu_float", (out, x, n, 1 / 32.0, 32.0), gelu, n, off=1),
    ]


def softmax(rng: np.random.Generator, rows: int, n: int) -> list[Kernel]:
    x = rng.integers(-128, 128, (rows, n), np.int8)
    powers = np.exp(-np.arange(256) / 16.0)
    table = np.round(powers * 65536).astype(np.int32)
    distance = x.max(1, keepdims=True).astype(int) - x
    shares = powers[distance] / powers[distance].sum(1, keepdims=True)
    expected = (np.clip(np.round(shares * 255), 0, 255) - 128).astype(np.int8)
    kept, out = np.zeros(n, np.float32), np.zeros_like(x)
    in_floats = (out, x, kept, rows, n, 1 / 16.0)
    return [
        Kernel("row", f"softmax of {n}, by table", "softmax", (out, x, table, rows, n), expected, x.size, off=1),
        Kernel("exponential", f"softmax of {n}, in floats", "softmax_float", in_floats, expected, x.size, off=1),
    ]  # fmt: skip


def norm(rng: np.random.Generator, rows: int, n: int) -> list[Kernel]:
    x = rng.integers(-100, 100, (rows, n), np.int8)
    gains = rng.uniform(20, 40, n).astype(np.float32)
    shifts = rng.uniform(-10, 10, n).astype(np.float32)
    spread = np.sqrt(x.astype(float).var(1, keepdims=True) + 1e-5)
    values = (x - x.astype(float).mean(1, keepdims=True)) / spread * gains + shifts
    expected = np.clip(np.round(values), -128, 127).astype(np.int8)
    # (n x - sum) / root of n^2 variance, in 10 bits behind the point, by gains in 6 more
    whole = (np.round(gains * 64).astype(np.int32), np.round(shifts * 65536).astype(np.int32))
    out = np.zeros_like(x)
    return [
        Kernel("row", f"norm of {n}, integers", "norm", (out, x, *whole, rows, n), expected, x.size, off=2),
        Kernel(
            "exponential",
            f"norm of {n}, in floats",
            "norm_float",
            (out, x, gains, shifts, rows, n),
            expected,
            x.size,
            off=1,
        ),
    ]


def kernels() -> list[Kernel]:
    rng = np.random.default_rng(0)
    side, rows = 4, 2
    return [
        conv(rng, "conv", "conv 3x3, 32 channels", 16, 32, side, 3),
        conv(rng, "conv", "conv 1x1, 64 channels", 32, 64, side, 1),
        conv(rng, "conv", "conv 3x3, groups of 8", 32, 8, side, 3, groups=4),
        conv(rng, "conv_blocked", "conv 3x3, 32 channels, 2 x 2 at once", 16, 32, side, 3),
        depthwise(rng, 32, side, 3),
        matmul(rng, 16, 16, 64),
        matmul(rng, 16, 64, 16),
        add(rng, 1024),
        *pools(rng, 16, side, 2),
        *concat(rng, 32, 64),
        *functions(rng, 256),
        *softmax(rng, rows, 64),
        *softmax(rng, rows, 197),
        *norm(rng, rows, 192),
    ]


def counted(levels: Sequence[str]) -> list[dict[str, Any]]:
    """Each kernel on each processor, as each level of optimisation compiles it."""
    found = []
    for pipeline in PIPELINES:
        for level in levels:
            with tempfile.TemporaryDirectory() as folder:
                program, places = compiled(SOURCE, pipeline, level, Path(folder))
            for kernel in kernels():
                ran = run(program, places[kernel.function], pipeline, kernel.given, 0)
                off = int(np.abs(ran.result.astype(int) - kernel.expected.astype(int)).max())
                if off > kernel.off:
                    raise SystemExit(
                        f"{kernel.label} on {pipeline.name}, {level}: wrong by {off}, at most {kernel.off}"
                    )
                found.append({
                    "processor": pipeline.name, "options": level, "kind": kernel.kind, "kernel": kernel.label,
                    "units": kernel.units, "instructions": ran.instructions, "cycles": ran.cycles,
                    "cycles_per_unit": ran.cycles / kernel.units,
                })  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(__doc__).parse_args(argv)
    if importlib.util.find_spec("unicorn") is None:
        skip("unicorn: pip install unicorn")
    if not has_compiler():
        skip(f"{COMPILER}: Debian's gcc-riscv64-unknown-elf and picolibc-riscv64-unknown-elf")
    state()
    levels = LEVELS[:1] if args.quick else LEVELS
    found = counted(levels)
    columns = [(p.name, level) for p in PIPELINES for level in levels]
    print(
        f"{'cycles a MAC or element':38}"
        + "".join(f"{n[6:10] + ' ' + o if ' ' in n else n + ' ' + o:>12}" for n, o in columns)
    )
    for label in dict.fromkeys(one["kernel"] for one in found):
        row = {(o["processor"], o["options"]): o["cycles_per_unit"] for o in found if o["kernel"] == label}
        print(f"{label:38}" + "".join(f"{row[column]:12.2f}" for column in columns))
    write_json(args.json, {"quick": args.quick, "kernels": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

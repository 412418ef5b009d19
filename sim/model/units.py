"""What the figures of files may be, by unit: the types of the keys that hold them.

A bound stands where no machine that could be built is beyond it, with a wide margin, and where what follows from a
figure can still be counted; docs/errors.md lists them. A key outside is refused at its line, in its unit. Products
of figures that are each within may still be beyond counting, and are refused where a program is made
(`cosoc.sim.machine.program.validate`). A float is 0 or so large that it changes something; -0.0 is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True)
class Within:
    """The figures from `least` to `most`, and 0 if so said, of a unit."""

    unit: str
    least: float
    most: float
    or_zero: bool = False

    def __str__(self) -> str:
        zero = "0, or " if self.or_zero and self.least != 1 else ""
        least = 0 if self.or_zero and not zero else self.least
        return f"{zero}{_shown(least)} to {_shown(self.most)} {self.unit}".rstrip()

    def checked(self, value: Any) -> Any:
        """The value, if it is within; what pydantic reports at the key's place, if it is not."""
        if self.least <= value <= self.most:
            return value
        if self.or_zero and value == 0:
            return abs(value)  # -0.0 is 0
        raise PydanticCustomError("beyond", "must be {within}", {"within": str(self)})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"minimum": 0 if self.or_zero else self.least, "maximum": self.most}


def _shown(figure: float) -> str:
    """A bound as it is told: large powers of two as such."""
    whole = int(figure)
    if whole == figure and whole >= 1 << 10 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    return f"{figure:g}"


TINY = 1e-9  # of what a float counts: smaller figures than this change nothing
PART = 2.0**-20  # of what rates are counted in: MACs or bytes a cycle

# ------------------------------------------------------------------------------------------ time
Hertz = Annotated[int, Within("Hz", 1, 10**12)]
WholeCycles = Annotated[int, Within("cycles", 1, 1 << 30)]  # a second of a fast clock
WholeCyclesOr0 = Annotated[int, Within("cycles", 1, 1 << 30, or_zero=True)]
Cycles = Annotated[float, Within("cycles", TINY, 1 << 30, or_zero=True)]
Nanoseconds = Annotated[int, Within("ns", 1, 10**12, or_zero=True)]  # 1,000 s

# ------------------------------------------------------------------------------------------ bytes and bits
MOST_BYTES = 1 << 44  # of a memory: 16 TiB
Bytes = Annotated[int, Within("bytes", 1, MOST_BYTES)]
BytesOr0 = Annotated[int, Within("bytes", 1, MOST_BYTES, or_zero=True)]
BurstBytes = Annotated[int, Within("bytes", 1, 1 << 30)]
LineBytes = Annotated[int, Within("bytes", 1, 1 << 20)]  # lines, rows, alignments
BeatBytes = Annotated[int, Within("bytes", 1, 1 << 20)]  # of a period of a link
WordBytes = Annotated[int, Within("bytes", 1, 64)]  # of one number
WordBytesOr0 = Annotated[int, Within("bytes", 1, 64, or_zero=True)]
Bits = Annotated[int, Within("bits", 1, 64)]
BitsOr0 = Annotated[int, Within("bits", 1, 64, or_zero=True)]
BytesPerSecond = Annotated[int, Within("bytes/s", 1, 10**15)]
BytesPerSecondOr0 = Annotated[int, Within("bytes/s", 1, 10**15, or_zero=True)]

# ------------------------------------------------------------------------------------------ how many
Parallel = Annotated[int, Within("at once", 1, 1 << 20)]  # lanes, ports, rows, columns, processors
InFlight = Annotated[int, Within("in flight", 1, 1 << 12)]  # each of which an engine follows
Pieces = Annotated[int, Within("pieces", 1, 1 << 8)]  # each of which is an op of every job
MOST_ALONG = 1 << 24  # elements that a layer may have along a dimension
Elements = Annotated[int, Within("elements", 1, MOST_ALONG)]
ElementsOr0 = Annotated[int, Within("elements", 1, MOST_ALONG, or_zero=True)]
TileEdge = Annotated[int, Within("outputs along an edge", 1, 64)]
Times = Annotated[int, Within("times", 1, 1 << 20)]
Priority = Annotated[int, Within("as a priority", 1, 1 << 10, or_zero=True)]
Devices = Annotated[int, Within("devices", 1, 1 << 16)]
Items = Annotated[int, Within("items", 1, 1 << 20)]
PerCycle = Annotated[float, Within("a cycle", PART, 1 << 30)]  # MACs or bytes
OfPeak = Annotated[float, Within("of the peak", PART, 1 << 10)]
Factor = Annotated[float, Within("times", 1, 1 << 10)]
Positive = Annotated[int, Within("", 1, 1 << 40)]  # of what has no unit above: for core models of one's own
Count = Annotated[int, Within("", 1, 1 << 40, or_zero=True)]

# ------------------------------------------------------------------------------------------ energy, power, area
Picojoules = Annotated[float, Within("pJ", TINY, 1e9, or_zero=True)]  # of one operation: up to a millijoule
PicojoulesPerByte = Annotated[float, Within("pJ/byte", TINY, 1e9, or_zero=True)]
Milliwatts = Annotated[float, Within("mW", TINY, 1e9, or_zero=True)]  # up to a megawatt
Watts = Annotated[float, Within("W", TINY, 1e6, or_zero=True)]
Volts = Annotated[float, Within("V", 1e-3, 1000)]
SquareMillimetres = Annotated[float, Within("mm^2", TINY, 1e6, or_zero=True)]
SquareMicrometres = Annotated[float, Within("um^2", TINY, 1e9, or_zero=True)]
MicrometresOr0 = Annotated[float, Within("um", TINY, 1e6, or_zero=True)]
MilliwattsPerMm2 = Annotated[float, Within("mW/mm^2", TINY, 1e6, or_zero=True)]
Share = Annotated[float, Within("of the whole", 1e-3, 1)]

# ------------------------------------------------------------------------------------------ what is inexact
ConverterBits = Annotated[int, Within("bits", 2, 16)]  # signed: of one bit nothing but 0 is left
ConverterSteps = Annotated[float, Within("steps of a converter", TINY, 1 << 10, or_zero=True)]
OfFullScale = Annotated[float, Within("of the full scale", TINY, 10, or_zero=True)]
PerKelvin = Annotated[float, Within("per K", TINY, 1, or_zero=True)]
Kelvins = Annotated[float, Within("K", TINY, 1000, or_zero=True)]

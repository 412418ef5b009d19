"""The calibrated estimate as a file: theta, what it was fitted on, and its error on what it was not fitted on.

An estimate is good for the machine and the simulator that it was fitted to, and for no other: both are stated by
digest, and `load` refuses a file that was made for others.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cosoc import __version__
from cosoc.sim.cores import CORES
from cosoc.sim.errors import InputError
from cosoc.sim.files.yamlfile import read_json
from cosoc.sim.model.soc import SoC
from cosoc.sim.theta import Theta, factors_of

Calibrated = Literal["channels", "tiles"]  # spaces that an estimate is fitted for

# What of the search takes part in an estimate.
ESTIMATES = (
    "cosoc.search.relax",
    "cosoc.search.terms",
    "cosoc.search.fit",
    "cosoc.search.spaces.tiles_cached",
    "cosoc.search.spaces.tiles_dma",
)


@dataclass(frozen=True)
class Surrogate:
    """soc: name and digest; simulator: version and digest. space: whose mappings were sampled. theta: the fitted
    factors, those that the SoC has. samples, seed: of the calibration. held_out: its error table, {"network" | "layer":
    {"mape", "p95", "spearman", "kendall"}}, in parts (not percent; None where there were too few samples), in the
    overlapped runtime."""

    soc: str
    soc_digest: str
    simulator: str
    simulator_digest: str
    space: Calibrated
    theta: Mapping[str, float]
    samples: int
    seed: int
    held_out: Mapping[str, Mapping[str, float | None]]

    @property
    def factors(self) -> Theta:
        """Theta; the factors that the SoC does not have are the usual ones."""
        return Theta(**self.theta)


def soc_digest(soc: SoC) -> str:
    """Digest of everything that a SoC's description says, whatever its file looks like, and of the user's own core
    models in it."""
    own = {type(core).__module__ for core in soc.cores.values()} - {core.__module__ for core in CORES.values()}
    text = soc.model_dump_json(by_alias=True) + (digest(sorted(own)) if own else "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def simulator_digest() -> str:
    """Digest of the simulator as a whole, and of what makes estimates of its work: any change of these changes it."""
    files = sorted(source for source in _sources(resources.files("cosoc.sim"), "sim"))
    estimates = [(name, inspect.getsource(importlib.import_module(name))) for name in ESTIMATES]
    return hashlib.sha256(repr((files, estimates)).encode()).hexdigest()[:16]


def _sources(folder: Traversable, name: str) -> Iterator[tuple[str, str]]:
    """Name and text of every module in a folder of a package."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _sources(entry, f"{name}/{entry.name}")
        elif entry.name.endswith(".py"):
            yield f"{name}/{entry.name}", entry.read_text(encoding="utf-8")


def digest(names: Sequence[str]) -> str:
    """Digest of the sources of some modules."""
    sources = (inspect.getsource(importlib.import_module(name)) for name in names)
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:16]


def make(
    soc: SoC,
    space: Calibrated,
    theta: Theta,
    samples: int,
    seed: int,
    held_out: Mapping[str, Mapping[str, float | None]],
) -> Surrogate:
    """A surrogate for this SoC and the simulator as it is now."""
    factors = {name: getattr(theta, name) for name in factors_of(soc)}
    digests = soc_digest(soc), __version__, simulator_digest()
    return Surrogate(soc.name, *digests, space, factors, samples, seed, held_out)


def save(surrogate: Surrogate, path: Path) -> None:
    """Write a surrogate as JSON."""
    path.write_text(json.dumps(asdict(surrogate), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load(path: Path, soc: SoC) -> Surrogate:
    """Read a surrogate. InputError if it is none, or was fitted to another SoC or another simulator."""
    try:
        out = TypeAdapter(Surrogate).validate_python(read_json(path))
    except (ValidationError, InputError) as error:
        if not path.is_file():
            raise
        reason = str(error).removeprefix(f"{path}: ").replace("\n", " ")
        raise InputError(f"{path}: is not an estimate that `cosoc calibrate --out` wrote: {reason}") from error
    check(out, soc, str(path), f"run cosoc calibrate {soc.name} --out {path}")
    return out


def check(out: Surrogate, soc: SoC, path: str, again: str) -> None:
    """InputError unless an estimate is for this SoC and the simulator as it is now. path: what it is called; again:
    what makes another."""
    now = simulator_digest()
    if out.soc_digest != soc_digest(soc):
        raise InputError(
            f"{path}: was fitted to SoC {out.soc} ({out.soc_digest}), not to {soc.name} ({soc_digest(soc)}) as it is "
            f"described now; {again}"
        )
    if (out.simulator, out.simulator_digest) != (__version__, now):
        raise InputError(
            f"{path}: was fitted to simulator {out.simulator} ({out.simulator_digest}), not to this one, {__version__} "
            f"({now}); {again}"
        )
    wanted = factors_of(soc)
    if set(out.theta) != set(wanted):
        found = ", ".join(sorted(out.theta)) or "none"
        raise InputError(f"{path}: theta has the factors {found}; those of {soc.name} are {', '.join(wanted)}")

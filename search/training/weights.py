"""Weights that a network was trained to elsewhere: a state_dict of torch.save, or a .safetensors file.

Names in a file may stand under a prefix that the network has not (`module.` of a parallel trainer, `model.`,
`backbone.`), or the other way round: the prefix is taken under which most tensors fit. The classifier of another number
of classes stays as it is initialised. Whatever else does not fit is named, and nothing is loaded.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosoc.search.runfolder import check_stored
from cosoc.sim.errors import InputError

INNER = ("state_dict", "model_state_dict", "model", "net")  # where trainers' checkpoints keep the network's own
COUNTED = "num_batches_tracked"  # of a batch norm: how many batches it has seen, which nothing here depends on
AGAIN = "torch.save(model.state_dict(), FILE) of torch 1.6 or later writes one that is read"
NAMED = 6  # tensors in a message; of more the number is said

Tensors = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pretrained:
    """What a network takes from a file. tensors: by the network's names; fresh: the classifier's, which the file has
    not in its size; said: all of that in a sentence."""

    tensors: Tensors
    fresh: tuple[str, ...]
    said: str

    def load(self, net: nn.Module) -> None:
        """Put them into the network, and leave the others as they are."""
        net.load_state_dict(dict(self.tensors), strict=False)


def digest(path: Path) -> str:
    """What tells one file of weights from another. InputError where it cannot be read."""
    return f"sha256 {hashlib.sha256(_content(path)).hexdigest()}"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names, on the CPU; no code in it is run. InputError for what holds none."""
    content = _content(path)
    found = _safetensors(content, path) if path.suffix == ".safetensors" else _archive(content, path)
    for key in INNER:
        if not any(isinstance(value, Tensor) for value in found.values()) and isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        held = ", ".join(map(str, list(found)[:NAMED])) or "nothing"
        raise InputError(f"{path}: a state_dict is needed, names with tensors; found {held}")
    return tensors


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _archive(content: bytes, path: Path) -> Mapping[Any, Any]:
    """What torch.save wrote. Archives alone are read: what they take in memory is bounded by their size."""
    try:
        check_stored(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except InputError as error:
        raise InputError(f"{path}: {error}; {AGAIN}") from None
    except Exception as error:  # torch raises several kinds for what is not tensors
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = str(error).strip() or type(error).__name__
        if code is not None:
            reason = f"it names {code[1]}, which is not run; {AGAIN}"
        raise InputError(f"{path}: holds more than tensors, or is damaged: {reason.splitlines()[0]}") from None
    if isinstance(found, Mapping):
        return found
    raise InputError(f"{path}: a state_dict is needed, names with tensors; found a {type(found).__name__}")


def _safetensors(content: bytes, path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise InputError(f"{path}: reading it needs safetensors: pip install 'cosoc[weights]'") from None
    try:
        found: Mapping[str, Any] = load(content)
    except Exception as error:  # its own kind, and those of torch for a type that it has not
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: is not as safetensors writes it: {reason}") from None
    return found


def fitted(net: nn.Module, path: Path, outputs: int) -> Pretrained:
    """What a network of so many outputs takes from a file; the network stays as it is.

    InputError, naming tensors, where one is missing or has another shape, but for the classifier's (those whose first
    size is the number of outputs, of missing ones the last such module's), or a value is no number.
    """
    return fit(net, read(path), str(path), outputs)


def fit(net: nn.Module, given: Tensors, source: str, outputs: int) -> Pretrained:
    """`fitted` of tensors that have been read. source: what they are called in messages."""
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    renamed, how = _renamed({name: tuple(value.shape) for name, value in given.items()}, wanted)
    taken, fresh, missing, other = dict[str, Tensor](), list[str](), list[str](), list[str]()
    absent = [_module(name) for name, shape in wanted.items() if name not in renamed and shape[:1] == (outputs,)]
    for name, shape in wanted.items():
        found = given.get(renamed.get(name, ""))
        if found is not None and tuple(found.shape) == shape:
            taken[name] = found
        elif name.endswith(COUNTED):
            continue
        elif shape[:1] == (outputs,) and found is not None and tuple(found.shape[1:]) == shape[1:]:
            fresh.append(f"{name} (for {found.shape[0]} classes there, {outputs} here)")
        elif found is None and shape[:1] == (outputs,) and _module(name) == absent[-1]:
            fresh.append(name)  # of the last alone: others may have as many channels
        elif found is None:
            missing.append(name)
        else:
            other.append(f"{name} ({_sizes(found.shape)} there, {_sizes(shape)} here)")
    used = {renamed[name] for name in wanted if name in renamed}
    extra = [name for name in given if name not in used and not name.endswith(COUNTED)]
    lists = {"missing": missing, "of another shape": other, "not in the network": extra}
    if missing or other:
        faults = "; ".join(f"{what}: {_named(names)}" for what, names in lists.items() if names)
        raise InputError(f"{source}: does not fit {type(net).__name__}{how}: {faults}")
    broken = [name for name, value in taken.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError(f"{source}: holds infinities, or what is no number, in {_named(broken)}")
    said = f"{len(taken)} tensors of {source}{how}"
    said += f"; left as initialised: {_named(fresh)}" if fresh else ""
    said += f"; not in the network: {_named(extra)}" if extra else ""
    return Pretrained(taken, tuple(name.split(" ")[0] for name in fresh), said)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _renamed(given: Shapes, wanted: Shapes) -> tuple[dict[str, str], str]:
    """The file's name of each of the network's tensors that it has, and what was done to names, as a clause."""
    ways = [("", "")]
    ways += [(prefix, "") for prefix in _prefixes(given)] + [("", prefix) for prefix in _prefixes(wanted)]
    best: tuple[int, dict[str, str], str] = (-1, {}, "")
    for without, behind in ways:
        names = {}
        for name in given:
            bare = name.removeprefix(without)
            own = behind + bare if behind + bare in wanted else bare
            if own in wanted and (own not in names or name != bare):
                names[own] = name
        fit = sum(given[name] == wanted[own] for own, name in names.items())
        if fit > best[0]:  # the first of equal ones: as it is, then the shortest prefix
            how = f" without {without!r}" if without else f" behind {behind!r}" if behind else ""
            best = (fit, names, how)
    return best[1], best[2]


def _prefixes(names: Mapping[str, object]) -> list[str]:
    """What half of the names, or more, begin with, up to a dot; the shortest first."""
    counts = Counter(name[: at + 1] for name in names for at, letter in enumerate(name) if letter == ".")
    return sorted((prefix for prefix, n in counts.items() if 2 * n >= len(names)), key=len)


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "one value"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more

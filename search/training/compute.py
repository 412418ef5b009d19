"""Where and how networks are trained: the device, number formats of its arithmetic, and what it takes in time and
memory. What a run finds follows from its recipe; none of this is part of what a run is, but for `amp` and
`accumulate`, which change what is computed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cosoc.sim.errors import InputError

Device = Literal["cpu", "cuda", "mps"]
DEVICES: tuple[Device, ...] = get_args(Device)
Amp = Literal["bf16", "fp16"]
AMPS: tuple[Amp, ...] = get_args(Amp)
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}

Forward = Callable[[Tensor], Tensor]  # items [n, ...] -> outputs, in float32


@dataclass(frozen=True)
class Compute:
    """device: torch's, of this process; under torchrun each has its own of it. amp: the format of convolutions and
    products in training (evaluation is in float32); None: float32. workers: processes that make batches; 0: the device
    does, from data that lies there. compiled: by torch.compile. channels_last: the layout of images in memory.
    accumulate: parts that a step's batch goes through the network in, for less memory; batch norms see a part. jobs:
    processes that simulate beside training, where that is worth one; 0: none."""

    device: Device = "cpu"
    amp: Amp | None = None
    workers: int = 0
    compiled: bool = False
    channels_last: bool = False
    accumulate: int = 1
    jobs: int = 0

    def check(self, batch: int, processes: int) -> None:
        """InputError for what is not there, or batches that cannot be cut into equal parts. processes: of the run."""
        if self.device not in DEVICES:
            raise InputError(f"device {self.device!r}: {', '.join(DEVICES[:-1])} or {DEVICES[-1]} is needed")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda: torch finds no GPU here; leave it out, or install a torch built for one")
        if self.device == "mps" and not torch.backends.mps.is_available():
            raise InputError("device mps: torch finds no Apple GPU here; leave it out")
        if self.amp is not None and self.amp not in AMPS:
            raise InputError(f"amp {self.amp!r}: {' or '.join(AMPS)} is needed")
        if self.workers < 0 or self.accumulate < 1:
            raise InputError(f"workers {self.workers}, accumulate {self.accumulate}: at least 0 and 1 are needed")
        if self.jobs < 0:
            raise InputError(f"jobs {self.jobs}: at least 0 is needed")
        if batch % (self.accumulate * processes):
            parts = f"accumulate {self.accumulate}" + (f" in {processes} processes" if processes > 1 else "")
            raise InputError(f"batch {batch}: cannot be cut into equal parts for {parts}; a multiple is needed")

    def forward(self, net: nn.Module) -> Forward:
        """A network's forward pass as it is trained."""
        called = torch.compile(net) if self.compiled else net

        def forward(x: Tensor) -> Tensor:
            if self.channels_last and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            if self.amp is None:
                out: Tensor = called(x)
                return out
            with torch.autocast(self.device, FORMATS[self.amp]):
                out = called(x)
            return out.float()

        return forward

    def place(self, net: nn.Module) -> None:
        """Put a network onto the device, in the layout that it is trained in."""
        net.to(self.device)
        self._lay(net, torch.channels_last)

    def take_back(self, net: nn.Module) -> None:
        """Put a network back onto the CPU, laid out as ever."""
        net.cpu()
        self._lay(net, torch.contiguous_format)

    def _lay(self, net: nn.Module, layout: torch.memory_format) -> None:
        if self.channels_last:
            for module in net.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(memory_format=layout)  # type: ignore[call-overload]

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps small gradients of half precision from vanishing; does nothing elsewhere."""
        return torch.amp.GradScaler(self.device, enabled=self.amp == "fp16")

    def zero(self) -> Tensor:
        """A sum of losses to begin with, on the device, as precise as that has it."""
        return torch.zeros((), dtype=torch.float32 if self.device == "mps" else torch.float64, device=self.device)


def peak_bytes(device: str) -> int:
    """The most memory so far: of tensors on a GPU, of this process elsewhere."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        return 0  # Python has no way to ask there
    import resource

    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kept if sys.platform == "darwin" else kept * 1024


@dataclass
class Speed:
    """What training took. items: that steps were made of, over all processes; seconds: of these steps alone, without
    validation and files."""

    items: int = 0
    seconds: float = 0.0

    def add(self, items: int, seconds: float) -> None:
        """Some more."""
        self.items += items
        self.seconds += seconds

    def stated(self, device: str, processes: int) -> dict[str, float | int | str]:
        """As plain data; nothing where nothing was trained."""
        if not self.items:
            return {}
        return {
            "device": device, "processes": processes, "items": self.items, "seconds": self.seconds,
            "items_per_s": self.items / self.seconds, "peak_bytes": peak_bytes(device),
        }  # fmt: skip

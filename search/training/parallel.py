"""One run in several processes, each with its part of every batch, as `torchrun` starts them.

All processes do the same: search, judge, simulate; only steps of training are shared, by torch's
DistributedDataParallel. The first one has the run's folder, the others a copy of their own, which nobody keeps. What
follows from arithmetic that may differ between machines is the first one's (`agreed`). With equal parts a step is that
of one process on the whole batch: statistics of batch norms and first ranges of quantisers are over all parts.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from cosoc.search.manifest import LOCK
from cosoc.sim.errors import InputError

T = TypeVar("T")


def processes() -> int:
    """How many processes share the run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


@contextmanager
def together(device: str) -> Iterator[None]:
    """Join the other processes of a run that torchrun has started; alone where it has not."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or processes() > 1:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def agreed(value: T) -> T:
    """The first process's value, in all."""
    if processes() < 2:
        return value
    held: list[Any] = [value]
    distributed.broadcast_object_list(held, src=0)
    out: T = held[0]
    return out


@contextmanager
def folder_of_mine(out: Path, resume: bool, check: Callable[[], None]) -> Iterator[Path]:
    """The folder that this process writes into: the first one `out`, the others a copy that goes when the run ends.
    check: sees to `out`, in the first process; its InputError is raised in all."""
    error: str | None = None
    files: dict[str, bytes] = {}
    if rank() == 0:
        try:
            check()
            if resume and processes() > 1:
                there = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LOCK)
                files = {str(path.relative_to(out)): path.read_bytes() for path in there}
        except InputError as refusal:
            if processes() < 2:
                raise
            error = str(refusal)
    error, files = agreed((error, files))
    if error is not None:
        raise InputError(error)
    if rank() == 0:
        yield out
        return
    with tempfile.TemporaryDirectory() as own:
        for name, content in files.items():
            path = Path(own) / "run" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(own) / "run"


def stepping(step: nn.Module, device: str) -> nn.Module:
    """A module whose gradients are the mean over all processes; itself where there is one. Its parameters and buffers
    become those of the first process."""
    if processes() < 2 or not any(p.requires_grad for p in step.parameters()):
        return step
    on = [torch.cuda.current_device()] if device == "cuda" else None
    # Gates are buffers with a gradient, made anew each step: they must not be overwritten.
    shared: Any = nn.parallel.DistributedDataParallel
    keep = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in inspect.signature(shared).parameters)
    out: nn.Module = shared(step, on, find_unused_parameters=True, **{keep: False})
    return out


def largest(x: Tensor) -> Tensor:
    """The largest of a scalar over all processes."""
    if processes() > 1:
        x = x.clone()
        distributed.all_reduce(x, distributed.ReduceOp.MAX)
    return x


def mean(x: Tensor) -> Tensor:
    """The mean of a scalar over all processes, of which each has a part of the same size."""
    if processes() > 1:
        x = x.clone()
        distributed.all_reduce(x)
        x /= processes()
    return x


class _Summed(torch.autograd.Function):
    """The sum over all processes; the gradient of each part of it is that of the sum, from all who read it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        distributed.all_reduce(grad)
        return grad


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    training: bool, momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """torch's `batch_norm` with statistics over the items of all processes: [n, k, ...]."""
    if processes() < 2 or not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    dims, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
    count = x.numel() // x.shape[1] * processes()
    centre = _Summed.apply(x.mean(dims)) / processes()  # type: ignore[no-untyped-call]
    apart = x - centre.reshape(shape)
    var = _Summed.apply(apart.square().mean(dims)) / processes()  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(centre.to(running_mean), momentum)
            running_var.lerp_((var * (count / max(1, count - 1))).to(running_var), momentum)
    out: Tensor = apart * (var + eps).rsqrt().reshape(shape)
    if weight is not None:
        out = out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)


class _OverAll(nn.BatchNorm2d):
    """A batch norm over the items of all processes, of any number of dimensions."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.num_batches_tracked is None:
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, factor, self.eps)


def norms_over_all(net: nn.Module) -> None:
    """Make every batch norm of a network one over all processes, in place, with its parameters and statistics."""
    if processes() < 2:
        return
    for parent in list(net.modules()):
        for name, bn in list(parent.named_children()):
            if isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d)) and not isinstance(bn, _OverAll):
                new = _OverAll(bn.num_features, bn.eps, bn.momentum, bn.affine, bn.track_running_stats)
                new.weight, new.bias = bn.weight, bn.bias
                new.running_mean, new.running_var = bn.running_mean, bn.running_var
                new.num_batches_tracked = bn.num_batches_tracked
                setattr(parent, name, new.train(bn.training))

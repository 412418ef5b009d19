"""Networks with random weights, ranges and cores, as a search leaves them, but not trained."""

from __future__ import annotations

import copy
import functools

import torch
from torch import nn
from torch.nn import functional

from cosoc.search.spaces import operators
from cosoc.search.spaces.channels import Assignment, MixedNet, assignment, fix, make_contiguous, prepare
from cosoc.search.training.nets import EncoderBlock, Prefill, VisionTransformer, build
from cosoc.search.training.noise import set_ranges
from cosoc.search.training.quant import ActivationQuantiser
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.integers.network import IntegerNetwork, Ints, run_whole
from cosoc.sim.integers.regions import NEVER
from cosoc.sim.integers.run import run_tiles
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.result import Result

SHAPE = {
    "digits_cnn": (1, 8, 8), "resnet8": (3, 16, 16), "mobilenet_v1_025": (3, 32, 32), "dscnn": (1, 49, 10),
    "tiny_vit": (1, 8, 8), "tiny_vit_fused": (1, 8, 8), "tiny_tokens": (1, 1, 6), "bert_base_block": (128, 1, 5),
    "gpt3_block_prefill": (128, 1, 5), "gpt3_block_decode": (128, 1, 5),
}  # fmt: skip
HEADS_SHAPE = (32, 1, 9)  # of what `two_heads` reads
ROWS = 40  # of the table of `tiny_tokens`


class Tokens(nn.Module):
    """Rows of a table by numbers, and their places, through a block of three heads of four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ROWS, 12)
        self.position = nn.Parameter(torch.zeros(1, 6, 12))
        self.block = EncoderBlock(12, 3)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x.flatten(1).long()) + self.position
        out: torch.Tensor = self.fc(self.block(x)[:, 0])
        return out


def drawn(name: str, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Items of a network: normal numbers, or numbers of rows."""
    if name == "tiny_tokens":
        return torch.randint(ROWS, (n, *SHAPE[name]), generator=generator).float()
    return torch.randn(n, *SHAPE[name], generator=generator)


WAYS = ("unbind", "chunk", "index")  # to take queries, keys and values out of one tensor


class FusedBlock(EncoderBlock):
    """The same with queries, keys and values by one linear layer, out of which they are taken in one of WAYS."""

    def __init__(self, width: int, heads: int, way: str) -> None:
        super().__init__(width, heads)
        self.qkv, self.way = nn.Linear(width, 3 * width), way
        del self.q, self.k, self.v

    def attention(self, y: torch.Tensor) -> torch.Tensor:
        q, k, v = self.taken(self.qkv(y))
        out: torch.Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out

    def taken(self, all_three: torch.Tensor) -> list[torch.Tensor]:
        if self.way == "chunk":
            q, k, v = all_three.chunk(3, -1)
            return [one.unflatten(2, (self.heads, -1)).transpose(1, 2) for one in (q, k, v)]
        split = all_three.reshape(all_three.shape[0], all_three.shape[1], 3, self.heads, -1)
        if self.way == "index":
            return [split[:, :, i].transpose(1, 2) for i in range(3)]
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        return [q, k, v]


@torch.no_grad()
def fused(net: nn.Module, way: str) -> nn.Module:
    """A copy of a network with the same weights in such blocks."""
    net = copy.deepcopy(net)
    for name, block in [(name, one) for name, one in net.named_modules() if isinstance(one, EncoderBlock)]:
        other = FusedBlock(block.q.in_features, block.heads, way)
        state = block.state_dict()
        for part in ("weight", "bias"):
            state[f"qkv.{part}"] = torch.cat([state.pop(f"{one}.{part}") for one in "qkv"])
        other.load_state_dict(state)
        parent, _, own = name.rpartition(".")
        setattr(net.get_submodule(parent), own, other.train(block.training))
    return net


@functools.cache
def blocks(way: str) -> tuple[nn.Module, Workload]:
    """A block of two heads of sixteen channels on nine tokens; with three layers where no way is named."""
    torch.manual_seed(0)
    net = Prefill(32, 2).eval()
    made = fused(net, way) if way else net
    return made, from_module(made, HEADS_SHAPE, "two_heads")


def two_heads(way: str = "", seed: int = 0) -> tuple[MixedNet, Workload, torch.Tensor]:
    """That block on DIANA, with ranges of activations and random logits, in float64; and tokens."""
    net, workload = blocks(way)
    torch.manual_seed(seed)
    mixed = prepare(net, workload, find_soc("diana")).double()
    x = torch.randn(2, *HEADS_SHAPE, dtype=torch.float64)
    mixed.train()(x)
    with torch.no_grad():
        for layer in mixed.searchable().values():
            layer.logits.normal_()
    return mixed.eval(), workload, x


def built(name: str) -> nn.Module:
    """A built-in network, or `tiny_vit`: a block of three heads of four channels over four patches and a token; or
    that one, fused; or `tiny_tokens`."""
    if name == "tiny_vit_fused":
        return fused(built("tiny_vit"), "unbind")
    if not name.startswith("tiny"):
        return build(name, SHAPE[name][0])
    net = Tokens() if name == "tiny_tokens" else VisionTransformer(1, 10, 8, 4, 12, 1, 3)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4)
    return net


def warmed(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """With batch norms that have something to fold, so that signals do not vanish."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    net.train()(x)
    return net


def in_order(
    net: MixedNet, workload: Workload, chosen: Assignment, x: torch.Tensor
) -> tuple[Assignment, dict[str, torch.Tensor]]:
    """Have each core's channels put side by side, in place: the assignment then, and the orders. Outputs of x stay."""
    fix(net, chosen)
    before = net(x)
    ordered, orders = make_contiguous(net, workload, chosen)
    fix(net, ordered)
    assert torch.allclose(net(x), before, atol=1e-12)
    return ordered, orders


def decided(name: str, soc: SoC, seed: int, adc_bits: int = 0) -> tuple[MixedNet, Workload, dict[str, torch.Tensor]]:
    """A network with random weights and ranges, each channel on a random core, contiguous; not trained. adc_bits: of
    converters on analog columns, which clip some of their sums."""
    torch.manual_seed(seed)
    shape = SHAPE[name]
    net = warmed(built(name), drawn(name, 16))
    workload = from_module(net.eval(), shape, name)
    mixed = prepare(net, workload, soc)
    for layer in mixed.searchable().values():
        layer.logits.data.normal_()
    fix(mixed, assignment(mixed))
    with torch.no_grad():
        mixed.train()(drawn(name, 16))
        # As training does: the range of a sum begins at so many whole steps of its operands', which puts many sums
        # exactly halfway between two steps of its own.
        for module in mixed.modules():
            if isinstance(module, ActivationQuantiser):
                module.log_clip += 0.01 * torch.randn(())
    chosen, _ = make_contiguous(mixed.eval(), workload, assignment(mixed))
    fix(mixed, chosen)
    if adc_bits:
        set_ranges(mixed, adc_bits, drawn(name, 16))
    return mixed, workload, chosen


def cut(name: str, soc: str, template: operators.Template, seed: int) -> tuple[MixedNet, Workload, Mapping]:
    """The same by operators: every block's channels cut somewhere between its two."""
    torch.manual_seed(seed)
    shape, machine = SHAPE[name], find_soc(soc)
    supernet = operators.with_choices(build(name, shape[0]), shape, machine, template, name)
    warmed(supernet.net, drawn(name, 16))
    first = {n: operators.cut_steps(supernet.workload[n].k)[(i + 1) % 2] for i, n in enumerate(supernet.pairs)}
    first |= {n: supernet.workload[n].k // 2 for n in list(supernet.pairs)[:1]}
    mixed = operators.prepare(supernet, machine)
    chosen = assignment(mixed)
    chosen |= {n: (torch.arange(len(chosen[n])) >= k).long() for n, k in first.items()}
    fix(mixed, chosen)
    with torch.no_grad():
        mixed.train()(drawn(name, 16))
    mapping = operators.mapping_of(supernet, first, "overlapped", machine, "point")
    return mixed.eval(), supernet.workload, mapping


def differing(result: Result, network: IntegerNetwork, image: Ints) -> list[str]:
    """Layers whose tiles compute something else than the layer as a whole."""
    whole, made = run_whole(network, image), run_tiles(result, network, image)
    assert made
    return [name for name, one in made.items() if (one.values != whole[name])[one.ready < NEVER].any()]

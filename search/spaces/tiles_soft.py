"""Plans made soft: every choice of `cosoc.search.spaces.tiles_cached` as a number with a gradient, for many starts at
once, and Adam on the objective of all of them.

A tile is exp of a number that is free; what is computed with is the divisor nearest to it, by a straight-through
Gumbel-softmax over the logarithms of all divisors. Orders are a straight-through softmax over three; gates (fused with
the next layer), line buffers and resident weights are sigmoids, their temperature falling. Layers stand along the first
axis of every tensor, starts along the second; the costs are `cosoc.sim.movers.cached_terms`'s, evaluated once for all
layers as if single and once as if fused, and mixed by the gates. Terms add up along runs of open gates before cycles
are composed, so that layers of a group overlap.

What a gate opens need not be legal: penalties push towards it, and `cosoc.search.spaces.tiles_repair` takes what is
left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosoc.search import relax
from cosoc.search.exact.tiles import value
from cosoc.search.spaces.tiles_cached import CachedTiles
from cosoc.sim.figures import Objective
from cosoc.sim.movers.cached_terms import (
    NEST_DIMS,
    ORDERS,
    CachedTerms,
    Flow,
    Reloads,
    Tiles,
    cycles,
    energy_pj,
    mixed,
    reloads,
    roofline_cycles,
    roofline_energy_pj,
    rows_needed,
    stacked,
    terms,
)
from cosoc.sim.movers.fused_steps import layer_tiles

FIELDS = tuple(f.name for f in fields(CachedTerms))
SHARPNESS = 4.0  # logits fall by this, times the square of the distance in log units
RATE = 0.08  # of Adam
PENALTY = 4.0  # of a memory that is e times too small, in units of the objective's logarithm
COOLEST, HOTTEST = 0.1, 1.0
Y, X = 0, 1


@dataclass(frozen=True)
class Soft:
    """The free numbers. tiles [layers, 6, starts]: logarithms; orders [layers, 3, starts]; gates, keep, resident
    [layers, starts]: logits; the gate of a layer is that to the next."""

    tiles: Tensor
    orders: Tensor
    gates: Tensor
    keep: Tensor
    resident: Tensor

    def all(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)]


@dataclass(frozen=True)
class Choices:
    """What the free numbers say when read hard; numpy, shapes as in `Soft`, tiles as divisors, gates as numbers from 0
    to 1."""

    tiles: Any
    orders: Any
    gates: Any
    keep: Any
    resident: Any


class Relaxed:
    """One workload's plans as a tensor program."""

    def __init__(self, space: CachedTiles, device: str = "cpu") -> None:
        self.space, self.device = space, torch.device(device)
        positions = space.positions
        shapes = [space.shapes[i] for i in positions]
        self.n = len(positions)

        def column(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=self.device)[:, None]

        # Padding counts for tiles at an edge alone; the exact score knows it, the gradient can do without.
        self.shape = replace(stacked(shapes, column), most_pad=min(1, max(s.most_pad for s in shapes)))
        most = max(len(d) for i in positions for d in space.divisors[i])
        table = np.full((self.n, 6, most), np.inf)
        for row, i in enumerate(positions):
            for d, found in enumerate(space.divisors[i]):
                table[row, d, : len(found)] = np.log(found)
        self.there = torch.tensor(np.isfinite(table), device=self.device)[..., None]
        self.logs = torch.tensor(np.where(np.isfinite(table), table, 0.0), dtype=torch.float32, device=self.device)
        self.logs = self.logs[..., None]
        self.values = torch.round(torch.exp(self.logs))
        self.extent = torch.log(column([[getattr(s, d) for d in NEST_DIMS] for s in shapes])).squeeze(1)[..., None]
        self._edges(positions)

    def _edges(self, positions: list[int]) -> None:
        """Who reads whom within reach of a group, and which gates can open at all."""
        layers = self.space.workload.layers
        at = {layers[i].name: row for row, i in enumerate(positions)}
        outputs = set(self.space.workload.outputs)
        self.readers: list[list[int]] = [[] for _ in positions]
        self.outside = np.zeros(self.n)  # 1 where somebody reads a result who can never be in its group
        self.second = np.zeros(self.n)  # operands that always come from outside
        can = np.zeros(self.n)
        for row, i in enumerate(positions[:-1]):
            j = positions[row + 1]
            fusable = all(layers[p].op != "matmul" or layers[p].groups == 1 for p in (i, j))
            reach = range(j, min(i + self.space.max_group, len(layers)))
            can[row] = float(j == i + 1 and fusable and any(self.space.chain(i, last) is not None for last in reach))
            if not can[row] and j == i + 1 and fusable:  # a group may begin before
                can[row] = float(any(self.space.chain(f, j) for f in range(max(0, j - self.space.max_group + 1), i)))
        near = [int(can[r]) for r in range(self.n)]
        for row, i in enumerate(positions):
            layer = layers[i]
            self.outside[row] = float(layer.name in outputs)
            operands = layer.inputs if layer.op == "add" else layer.inputs[:1]
            for name in operands:
                p = at.get(name)
                if p is not None and row - p < self.space.max_group and all(near[p:row]):
                    self.readers[p].append(row)
                else:
                    self.second[row] += 1
        names = {layers[i].name: row for row, i in enumerate(positions)}
        for layer in layers:
            for k, name in enumerate(layer.inputs):
                p = names.get(name)
                reader = names.get(layer.name)
                inside = p is not None and reader in self.readers[p] and (layer.op == "add" or k == 0)
                if p is not None and not inside:
                    self.outside[p] = 1.0
        self.can = torch.tensor(can, dtype=torch.float32, device=self.device)[:, None]

    # ------------------------------------------------------------------------------------------ starts

    def start(self, starts: int, seed: int) -> Soft:
        """Random free numbers; a quarter of the starts begin with all gates closed."""
        draws = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=draws).to(self.device)

        share = torch.rand(self.n, 6, starts, generator=draws).to(self.device)
        tiles = self.extent * share**0.5
        gates = normal(self.n, starts) + 0.5
        gates[:, : starts // 4] -= 4
        soft = Soft(tiles, normal(self.n, 3, starts) * 0.5, gates, normal(self.n, starts), normal(self.n, starts))
        return Soft(*(t.requires_grad_() for t in soft.all()))

    def near(self, plans: Any, starts: int, seed: int, spread: float = 0.3) -> Soft:
        """Free numbers around given `Choices` of one start each, dealt out in turn."""
        draws = torch.Generator().manual_seed(seed)
        pick = [plans[s % len(plans)] for s in range(starts)]

        def stack(name: str) -> Tensor:
            values = np.stack([getattr(p, name) for p in pick], axis=-1)
            return torch.tensor(values, dtype=torch.float32, device=self.device)

        def noisy(t: Tensor, scale: float) -> Tensor:
            return (t + scale * torch.randn(t.shape, generator=draws).to(self.device)).requires_grad_()

        tiles = torch.log(stack("tiles"))
        return Soft(
            noisy(tiles, spread),
            noisy(3 * torch.nn.functional.one_hot(stack("orders").long(), 3).movedim(-1, 1).float(), spread),
            noisy(6 * stack("gates") - 3, 3 * spread),
            noisy(4 * stack("keep") - 2, 3 * spread),
            noisy(4 * stack("resident") - 2, 3 * spread),
        )

    # ------------------------------------------------------------------------------------------ choices

    def tiles(self, soft: Soft, heat: float, noise: Tensor | None) -> Tensor:
        """Divisors [layers, 6, starts], hard in value and soft in gradient."""
        logits = -SHARPNESS * (self.logs - soft.tiles[:, :, None, :]) ** 2
        if noise is not None:
            logits = logits + heat * noise
        logits = torch.where(self.there, logits, -1e9)
        weights = torch.softmax(logits / max(heat, COOLEST), 2)
        smooth = torch.exp((weights * self.logs).sum(2))
        hard = torch.gather(self.values.expand_as(logits), 2, logits.argmax(2, keepdim=True)).squeeze(2)
        return hard + (smooth - smooth.detach())

    def read(self, soft: Soft) -> Choices:
        """The choices without noise."""
        with torch.no_grad():
            tiles = self.tiles(soft, COOLEST, None).round().long().cpu().numpy()
            gates = (torch.sigmoid(soft.gates) * self.can).cpu().numpy()
            keep, resident = (torch.sigmoid(t).cpu().numpy() for t in (soft.keep, soft.resident))
            return Choices(tiles, soft.orders.argmax(1).cpu().numpy(), gates, keep, resident)

    # ------------------------------------------------------------------------------------------ costs

    def cost(self, soft: Soft, heat: float, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(energy in pJ, cycles, penalty) of every start."""
        found = self.tiles(soft, heat, noise)
        own = Tiles(*(found[:, d] for d in range(6)))
        gates = torch.sigmoid(soft.gates / heat) * self.can
        stays = torch.sigmoid(soft.resident / heat)
        links = _Links(self, gates, own, torch.sigmoid(soft.keep / heat))
        alone, lack = self._alone(soft, own, heat)
        grouped, fixed, streamed, acc_need = self._grouped(own, links, stays)
        member = links.member
        parts = [(1 - member) * getattr(alone, f) + member * getattr(grouped, f) for f in FIELDS]
        run, need = _along_runs(torch.stack([p.expand_as(member) for p in parts]), member * fixed, streamed, gates)
        head = 1 - torch.cat((torch.zeros_like(gates[:1]), gates[:-1]))
        total = CachedTerms(*run)
        machine = self.space.machine
        if self.space.model == "roofline":
            energy, time = roofline_energy_pj(CachedTerms(*parts), machine), roofline_cycles(total, machine, relax)
        else:
            energy = energy_pj(CachedTerms(*parts), machine, self.space.theta)
            time = cycles(total, machine, self.space.theta, relax, int(self.space.double))
        over = torch.relu(torch.log(need / machine.spad_rows + 1e-9)) * head
        over = over + member * torch.relu(torch.log(acc_need / (machine.acc_rows // 2)))
        penalty = ((1 - member) * lack + over).sum(0)
        return energy.sum(0), (head * time).sum(0), penalty

    def _alone(self, soft: Soft, own: Tiles, heat: float) -> tuple[CachedTerms, Tensor]:
        """Terms of every layer by itself, and how far its tile exceeds the memories (log)."""
        machine = self.space.machine
        weights = torch.softmax(soft.orders / heat, 1)
        hard = torch.nn.functional.one_hot(weights.argmax(1), 3).movedim(-1, 1).to(weights.dtype)
        chosen = hard + (weights - weights.detach())
        each = [reloads(self.shape, own, order, relax) for order in ORDERS]
        again = mixed(each, [chosen[:, o] for o in range(3)])
        found = terms(self.shape, own, again, machine, relax, Flow(dram_in=self.shape.operands))
        spad, acc = rows_needed(self.shape, own, machine, relax)
        lack = torch.relu(torch.log((spad + 1e-3) / self.space.spad_rows)) + torch.relu(
            torch.log((acc + 1e-3) / self.space.acc_rows)
        )
        return found, lack

    def _grouped(self, own: Tiles, links: _Links, stays: Tensor) -> tuple[CachedTerms, Tensor, Tensor, Tensor]:
        """Terms of every layer as a member of a group; rows of scratchpad it takes for good, and in passing; rows of
        accumulator for one block of channels."""
        machine, shape = self.space.machine, self.shape
        y, x = links.made
        tiles = layer_tiles(shape, y, x, machine, stays - 0.5, relax)
        work = replace(shape, oy=links.total[Y], ox=links.total[X])
        one = torch.ones_like(stays)
        again = Reloads(stays + (1 - stays) * links.steps, one, one)
        flow = Flow(links.dram_in, links.spad_in, links.dram_out, links.inside, links.keep)
        found = terms(work, tiles, again, machine, relax, flow)
        k_blocks = relax.ceildiv(shape.k, machine.side)
        wait = machine.drain_cycles + y * x * relax.ceildiv(tiles.k, machine.side)
        found = replace(found, execute=found.execute + links.inside * links.steps * wait)
        taps = shape.fy * shape.fx
        window = ((y - 1) * shape.stride_y + shape.reach_y) * ((x - 1) * shape.stride_x + shape.reach_x)
        channels = relax.where(shape.depthwise > 0, shape.k, shape.c)
        outer = torch.clamp(links.dram_in, max=1) * (1 - shape.add)
        fixed = links.inside * k_blocks * links.held[Y] * links.held[X]
        fixed = fixed + outer * relax.ceildiv(channels, machine.side) * window * (2 - 1 / links.steps)
        works = 1 - shape.add
        fixed = fixed + stays * k_blocks * shape.c * taps * works
        whole = torch.where((tiles.k > shape.k - 0.5) & (tiles.c > shape.c - 0.5), 1.0, 2.0)  # one tile needs no second
        streamed = (1 - stays) * whole * relax.ceildiv(tiles.k, machine.side) * tiles.c * taps * works
        return found, fixed, streamed, y * x

    def objective(self, soft: Soft, objective: Objective, heat: float, noise: Tensor | None, strict: float) -> Tensor:
        """The logarithm of the objective, and penalties, of every start."""
        energy, time, penalty = self.cost(soft, heat, noise)
        return torch.log(value(energy, time, objective)) + strict * PENALTY * penalty

    def descend(
        self, soft: Soft, objective: Objective, steps: int, seed: int, after: Callable[[int, Soft], bool] | None = None,
        spent: Callable[[], float] = lambda: 0.0,
    ) -> Soft:  # fmt: skip
        """Adam for so many steps, the temperature falling, penalties rising. after(step, soft) may end it by True;
        spent: the share of its time that has passed, by which it cools faster where steps are slow."""
        draws = torch.Generator(device="cpu").manual_seed(seed)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tensors of some thousand numbers: a second thread costs more than it does
        try:
            return self._descend(soft, objective, steps, draws, after, spent)
        finally:
            torch.set_num_threads(threads)

    def _descend(
        self, soft: Soft, objective: Objective, steps: int, draws: torch.Generator,
        after: Callable[[int, Soft], bool] | None, spent: Callable[[], float],
    ) -> Soft:  # fmt: skip
        adam = _Adam(soft.all())
        for step in range(steps):
            done = min(1.0, max(step / max(1, steps - 1), spent()))
            heat = HOTTEST * (COOLEST / HOTTEST) ** done
            uniform = torch.rand(self.logs.shape[:3] + soft.gates.shape[1:], generator=draws).to(self.device)
            noise = -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))
            loss = self.objective(soft, objective, heat, noise, 0.25 + 0.75 * done).sum()
            slopes = torch.autograd.grad(loss, soft.all())
            adam.step(slopes, RATE * (0.1 + 0.45 * (1 + math.cos(math.pi * done))))
            with torch.no_grad():
                soft.tiles.clamp_(min=0)
                soft.tiles.copy_(torch.minimum(soft.tiles, self.extent))
            if (after is not None and after(step, soft)) or done >= 1.0:
                break
        return soft


class _Adam:
    """Adam (Kingma and Ba 2015) with the usual moments; torch's own loads its compiler first, which takes seconds."""

    def __init__(self, free: list[Tensor]) -> None:
        self.free, self.n = free, 0
        self.mean = [torch.zeros_like(t) for t in free]
        self.square = [torch.zeros_like(t) for t in free]

    @torch.no_grad()
    def step(self, slopes: Sequence[Tensor], rate: float) -> None:
        """One step down; a slope that is no number counts as none."""
        self.n += 1
        for t, slope, mean, square in zip(self.free, slopes, self.mean, self.square, strict=True):
            g = torch.nan_to_num(slope)
            mean.lerp_(g, 0.1)
            square.lerp_(g * g, 0.001)
            t -= rate * (mean / (1 - 0.9**self.n)) / ((square / (1 - 0.999**self.n)).sqrt() + 1e-8)


class _Links:
    """What gates make of the edges: which tensors stay on the chip, how far a tile of a sink reaches back."""

    def __init__(self, owner: Relaxed, gates: Tensor, own: Tiles, keep: Tensor) -> None:
        n, shape = owner.n, owner.shape
        before = torch.cat((torch.zeros_like(gates[:1]), gates[:-1]))
        self.member = 1 - (1 - before) * (1 - gates)
        size = torch.stack((shape.oy, shape.ox))  # [2, layers, 1]
        tile = torch.stack((own.oy, own.ox))
        stride = torch.stack((shape.stride_y, shape.stride_x))
        taps = torch.stack((shape.reach_y, shape.reach_x))
        steps = torch.stack((relax.ceildiv(shape.oy, own.oy), relax.ceildiv(shape.ox, own.ox)))
        whole = own.ox.detach() >= shape.ox  # line buffers go with whole rows
        own_keep = keep * whole
        zero = torch.zeros_like(gates[0])
        kept: list[Tensor] = [zero] * n
        held, made, rate, counted = ([tile[:, i] for i in range(n)] for _ in range(4))
        inside: list[Tensor] = [zero] * n
        stays_out: list[Tensor] = [zero] * n
        arrives: list[list[Tensor]] = [[] for _ in range(n)]
        for p in range(n - 1, -1, -1):
            kept[p], counted[p] = own_keep[p], steps[:, p]
            share: list[tuple[int, Tensor]] = []
            opened, gone = zero + 1, zero + 1
            for q in owner.readers[p]:
                e = torch.prod(gates[p:q], 0)
                share.append((q, e))
                arrives[q].append(e)
                opened, gone = opened * (1 - e), gone * e
            inside[p] = 1 - opened
            stays_out[p] = gone * (1 - owner.outside[p]) if share else zero
            if share:
                q, e = share[0]
                best = made[q] * 0
                most = torch.stack([e for _, e in share]).amax(0) + 1e-6
                speed = best
                for q, e in share:
                    reach = (made[q] - 1) * stride[:, q] + taps[:, q]
                    best = torch.maximum(best, reach * e / most)
                    speed = torch.maximum(speed, rate[q] * stride[:, q] * e / most)
                q = share[0][0]
                g = inside[p]
                held[p] = (1 - g) * tile[:, p] + g * best
                rate[p] = (1 - g) * tile[:, p] + g * speed
                kept[p] = (1 - g) * own_keep[p] + g * kept[q]
                counted[p] = (1 - g) * steps[:, p] + g * counted[q]
            held[p] = torch.minimum(held[p], size[:, p])
            rows = torch.stack((kept[p], zero))
            made[p] = torch.clamp(rows * torch.minimum(rate[p], held[p]) + (1 - rows) * held[p], min=1.0)
        self.made = torch.stack(made, 1)  # [2, layers, starts]
        self.held = torch.stack(held, 1)
        self.keep, self.inside = torch.stack(kept), torch.stack(inside)
        count = torch.stack(counted, 1)
        self.steps = count[Y] * count[X]
        twice = (count - 1) * torch.relu(self.made - torch.stack(rate, 1))
        self.total = torch.minimum(size + twice, self.made * count)
        came = torch.stack([sum(a, zero) for a in arrives])
        fixed = torch.tensor([float(len(a)) for a in arrives], device=gates.device)[:, None]
        second = torch.tensor(owner.second, dtype=torch.float32, device=gates.device)[:, None]
        self.dram_in, self.spad_in = fixed - came + second, came * shape.add
        self.dram_out = 1 - torch.stack(stays_out)


def _along_runs(parts: Tensor, fixed: Tensor, streamed: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of terms [fields, layers, starts] from each layer to the end of its group, and rows of scratchpad needed."""
    run, rows, most = [parts[:, -1]], [fixed[-1]], [streamed[-1]]
    for i in range(len(gates) - 2, -1, -1):
        g = gates[i]
        run.append(parts[:, i] + g * run[-1])
        rows.append(fixed[i] + g * rows[-1])
        most.append(torch.maximum(streamed[i], g * most[-1]))
    total = torch.stack(run[::-1], 1)
    need = torch.stack(rows[::-1]) + torch.stack(most[::-1])
    before = torch.cat((torch.zeros_like(gates[:1]), gates[:-1]))
    return total, need * (1 - (1 - before) * (1 - gates))

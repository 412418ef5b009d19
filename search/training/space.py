"""The spaces that train: a point for every strength or target, and the manual mappings beside them.

The float network is warmed up once. A point is searched from there (weights and logits together, the cost in the loss),
discretised, repaired with the simulator, made contiguous, and fine-tuned. A manual mapping is fine-tuned for as many
epochs as a point's search and fine-tuning together. Where mappings decide what the network computes, points and manual
mappings alike are then trained from the start, for as many epochs each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosoc.search.loop import Asked, search
from cosoc.search.oracle import Oracle
from cosoc.search.result import Result
from cosoc.search.runfolder import RunFolder
from cosoc.search.space import Candidate, Optimum, Report
from cosoc.search.spaces.channels import Assignment, MixedNet, assignment, fix, to_mapping, uniform
from cosoc.search.spaces.opened import Opened, channel_space, operator_space
from cosoc.search.spaces.operators import Cut, Template
from cosoc.search.spaces.shares import CostModel, ShareCosts, Tangent
from cosoc.search.targets import Target
from cosoc.search.training.data import Data, Split, load_data
from cosoc.search.training.gates import Choice, Estimator, score_loss
from cosoc.search.training.opening import Device, check_channels, check_device, check_network, network, seeded
from cosoc.search.training.repair import Move, meet, repair, wide
from cosoc.search.training.train import Phase, Progress, accuracy, generator, train
from cosoc.sim.errors import InputError
from cosoc.sim.figures import objective
from cosoc.sim.model.mapping import Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.theta import Theta

SpaceName = Literal["channels", "operators"]

WARM_UP, SEARCH = 0.4, 0.35  # shares of a point's epochs; what is left fine-tunes
COOLEST = 0.2  # temperature of the gates at the end of a search, from 1
RATES = {"warm-up": 3e-3, "weights": 1e-3, "quantisers": 1e-3, "logits": 5e-2, "fine-tune": 1e-3}  # of Adam
COST_EVERY = 8  # steps between evaluations of the cost's gradient, where gates move slowly
PRIMING = 24  # random mappings that theta is fitted to before the search
SCORE_SAMPLES = 2  # simulated partitionings a step, for the score estimator


@dataclass(frozen=True)
class TrainingConfig:
    """What to search, and how.

    workload: a built-in network or package.module:factory; input_shape: only to check it against the data. space: what
    is chosen, the core of a channel or its operator too; template, cut: of the latter. strengths: weights of the cost
    (relative to the space's reference mapping: all 8 bit, all by the first operator) in the loss, one point each; or
    targets: one point that ends within them. epochs: of a point, warm-up included. train_images: at most so many.
    simulate_every: epochs between simulations of the discretised candidate; tolerance: drift of the estimate at which
    theta is refitted; theta: what it is at first, None where it is first fitted to random mappings. cost_model: what
    drives the search; reports are simulated in any case. adc_bits: 0 leaves the converter out. manual: names of the
    baselines, None for all that the space knows. inner: what is chosen with each candidate, as in a chain of spaces.
    """

    soc: SoC
    workload: str
    space: SpaceName = "channels"
    template: Template = "conv-dw"
    cut: Cut = "cumulative"
    data: str = "digits"
    input_shape: tuple[int, ...] | None = None
    objective: str = "latency"
    strengths: tuple[float, ...] = (0.1,)
    targets: tuple[Target, ...] = ()
    estimator: Estimator = "expectation"
    epochs: int = 40
    seed: int = 0
    out: Path = Path("run")
    resume: bool = False
    runtime: Runtime = "overlapped"
    batch: int = 64
    train_images: int | None = None
    simulate_every: int = 2
    tolerance: float = 0.05
    cost_model: CostModel = "simulator"
    theta: Theta | None = None
    adc_bits: int = 0
    manual: tuple[str, ...] | None = None
    inner: tuple[str, ...] = ()

    def stated(self) -> dict[str, Any]:
        """The configuration as plain data; `out` and `resume` are not part of what a run is."""
        plain = asdict(replace(self, soc=None, out=None))  # type: ignore[arg-type]
        kept = {key: value for key, value in plain.items() if key not in ("out", "resume")}
        return kept | {"soc": self.soc.model_dump(mode="json", by_alias=True, exclude_unset=True)}


def search_trained(config: TrainingConfig, report: Report) -> Result:
    """Run (or go on with) a search of channels or operators; the results are in `config.out`.

    report is called with (epochs done, epochs in all, phase). Raises InputError for what cannot be searched, before
    any training.
    """
    space = TrainedSpace(config)
    asked = Asked(config.objective, config.seed, config.out, config.stated(), config.resume, config.targets)
    return search(space, space.oracle, asked, report)


class TrainedSpace:
    """Channels or operators of a network that is trained: see the module docstring. A `Space`."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.value = objective(config.objective)
        if config.estimator == "score" and config.cost_model != "simulator":
            raise InputError(f"estimator score samples simulated costs; cost_model {config.cost_model} has none")
        if config.inner:
            raise InputError(f"space {'+'.join((config.space, *config.inner))}: tiles are the tiler's own so far")
        self.data = _limited(load_data(config.data, config.seed), config.train_images)
        self.opened = _opened(config, self.data)
        self.workload = self.opened.workload
        self.first_weights = copy.deepcopy(self.opened.float_net.state_dict())
        self.oracle = Oracle(config.soc, self.workload)
        self.costs = ShareCosts(self.workload, config.soc, config.runtime, config.cost_model, self.oracle)
        if config.theta is not None:
            self.costs.start(config.theta)
        else:
            self.costs.prime(PRIMING, config.seed)
        self.reference = self.costs.simulated(_counts(self.opened.reference))
        mixed = self.mixed()  # what cannot be quantised is refused here, before any training
        if (config.strengths or config.targets) and not mixed.searchable():
            able = ", ".join(dict.fromkeys(name for layer in mixed.layers.values() for name in layer.cores))
            raise InputError(
                f"{self.workload.name} on {config.soc.name}: no layer has two cores to choose between ({able} alone "
                f"can compute them), so there are no {config.space} to search; --space tiles+fusion searches tiles "
                "and fusion"
            )
        self.within_target = self._within_target()
        self.n_warm = max(1, round(WARM_UP * config.epochs))
        self.n_search = max(1, round(SEARCH * config.epochs))
        self.n_tune = max(1, config.epochs - self.n_warm - self.n_search)
        if config.targets:
            self.points = {"target_" + "_".join(map(str, config.targets)).replace("=", "_"): 0.1}
        else:
            self.points = {f"strength_{strength:g}": strength for strength in config.strengths}
        each = self.n_search + self.n_tune
        total = self.n_warm + (len(self.points) + len(self.opened.manual)) * each
        if self.opened.fixed is not None:  # all are trained anew
            total += (len(self.points) + len(self.opened.manual)) * self.n_warm + len(self.points) * self.n_search
        self.progress = Progress(total)
        self.folder: RunFolder

    # -- as a space ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.config.space

    def rounds(self) -> Sequence[str]:
        """The points, then the manual mappings."""
        return [*self.points, *self.opened.manual]

    def propose(self, name: str, oracle: Oracle, folder: RunFolder, report: Report) -> Sequence[Candidate]:
        """Train a point or a manual mapping."""
        self.folder, self.progress.report = folder, report
        if folder.finished("warm_up") is None or not self.progress.done:
            self.warm_up("warm_up", self.opened.draw)
        self.opened.float_net.load_state_dict(folder.weights("warm_up"))  # other rounds have trained it since
        if name in self.points:
            return [self.point(name, self.points[name])]
        return [self.tuned(name, self.opened.manual[name])]

    def learn(self, oracle: Oracle) -> None:
        """The estimate learns epoch by epoch, and starts anew with each point."""

    def state(self) -> dict[str, Any]:
        return {"epochs": self.progress.done}

    def restore(self, name: str, state: MappingOf[str, Any]) -> None:
        self.progress.done = state["epochs"]

    def optimum(self) -> Optimum | None:
        """None is known: an accuracy has no closed form."""
        return None

    def about(self) -> dict[str, Any]:
        config = self.config
        return {
            "data": self.data.name, "provenance": self.data.provenance, "runtime": config.runtime,
            "estimator": config.estimator, "wide": self.opened.wide, "reference": self.reference.plain(),
        }  # fmt: skip

    def _within_target(self) -> Assignment:
        """An assignment that meets the targets (empty without any); InputError if none is found, before any training.

        From each manual mapping, layers are split anew one at a time for as long as that gains time.
        """
        targets = self.config.targets
        if not targets:
            return {}
        net, found = self.mixed(), []
        for name, mapping in self.opened.starts.items():
            start = uniform(net, mapping)
            chosen, moves = meet(net, start, partial(self._missed, net), 1.0, self.opened.steps)
            found.append((self._missed(net, chosen), len(moves), name, chosen))
        least, moved, name, chosen = min(found, key=lambda one: one[:2])
        if least > 1.0:
            costs = self.costs.simulated(_of(net, chosen))
            reached = ", ".join(str(one.reached(costs)) for one in targets)
            raise InputError(
                f"target {', '.join(map(str, targets))}: {self.workload.name} on {self.config.soc.name} has {reached} "
                f"simulated under the nearest mapping that was found ({name}, {moved} layers split anew); ask for that "
                "or more"
            )
        return chosen

    def _missed(self, net: MixedNet, chosen: Assignment) -> float:
        """The simulated figures of an assignment over the targets, the worst of them; 1 and less where all are met."""
        costs = self.costs.simulated(_of(net, chosen))
        return max(float(1.0 + one.excess(costs)) for one in self.config.targets)

    # -- phases --------------------------------------------------------------------------------------------

    def warm_up(self, name: str, draw: Callable[[torch.Generator | None], None]) -> None:
        """Train the float network from its first weights, with what `draw` chooses for each step."""
        config, float_net = self.config, self.opened.float_net
        if self.folder.finished(name) is None:
            float_net.load_state_dict(self.first_weights)

            def loss_of(net: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator, done: float) -> Tensor:
                draw(draws)
                return functional.cross_entropy(net(x), y)

            def after(epoch: int) -> dict[str, Any]:
                draw(None)
                return {"val_accuracy": accuracy(float_net, self.data.val)}

            phase = Phase(name, self.n_warm, config.batch, config.seed)
            groups = [(list(float_net.parameters()), RATES["warm-up"])]
            train(phase, float_net, groups, self.data.train, loss_of, after, self.folder, self.progress, {})
            self.folder.finish(name, after(self.n_warm), float_net.state_dict())
        else:
            self.progress.advance(self.n_warm, name)
        float_net.load_state_dict(self.folder.weights(name))

    def mixed(self) -> MixedNet:
        """The warmed-up network, quantised, all channels undecided."""
        net = self.opened.quantised()
        net.set_adc(self.config.adc_bits)
        return net

    def point(self, name: str, strength: float) -> Candidate:
        """Search, discretise, repair, make contiguous, fine-tune; or train anew what has been found."""
        net = self.mixed()
        phase = f"{name}.search"
        found = self.folder.finished(phase)
        if found is None:
            found = self.searched(net, phase, strength)
        else:
            self.progress.advance(self.n_search, phase)
        net.load_state_dict(self.folder.weights(phase))
        chosen = {layer: torch.tensor(cores) for layer, cores in found["assignment"].items()}
        self.costs.restart(theta=Theta(**found["theta"]))
        about = {"strength": strength, "moves": found["moves"]}
        if self.opened.fixed is not None:
            return self.anew(name, to_mapping(net, chosen, self.config.runtime, name), about, self.opened.fixed)
        return self.finished_point(name, net, chosen, about, self.n_tune)

    def searched(self, net: MixedNet, name: str, strength: float) -> dict[str, Any]:
        """The search phase: train weights and logits, keep the repaired and contiguous assignment."""
        config, costs = self.config, self.costs
        # ODiMO's cycles are no cycles of the machine: each model is measured by its own figure for the reference.
        own = self.reference
        if config.cost_model != "simulator":
            own = costs.estimated(_counts(self.opened.reference))
        base = float(self.value(own))
        extra: dict[str, Any] = {"strength": strength, "visited": [], "theta": None}
        costs.restart()
        kept = self.folder.restore(name)
        if kept is not None:
            costs.restart(kept["extra"]["visited"], Theta(**kept["extra"]["theta"]) if kept["extra"]["theta"] else None)

        def relative(shares: MappingOf[str, MappingOf[str, Tensor]]) -> Tensor:
            out: Tensor = self.value(costs.figures(shares, self.opened.grain)) / base
            return out

        tangent = Tangent(relative, COST_EVERY if config.estimator == "expectation" else 1)

        def loss_of(module: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator, done: float) -> Tensor:
            net.set_gates(config.estimator, COOLEST**done, draws)
            cost = self.scored(net, relative, base, draws) if config.estimator == "score" else tangent(net.shares())
            loss: Tensor = functional.cross_entropy(net(x), y) + extra["strength"] * cost.to(x.dtype)
            return loss

        def after(epoch: int) -> dict[str, Any]:
            tangent.renew()  # so that a resumed run goes on as an unbroken one
            chosen = assignment(net)
            gates = {n: layer.gates for n, layer in net.layers.items()}
            fix(net, chosen)
            figures: dict[str, Any] = {"val_accuracy": accuracy(net, self.data.val), "strength": extra["strength"]}
            for n, layer in net.layers.items():
                layer.gates = gates[n].detach()
            last = epoch == self.n_search - 1
            if last or epoch % config.simulate_every == config.simulate_every - 1 or config.targets:
                counts = _of(net, chosen)
                pair = costs.compare(counts, config.tolerance)
                extra["visited"].append(counts)
                extra["theta"] = asdict(costs.theta)
                figures |= {"estimated": pair.estimated.plain(), "simulated": pair.simulated.plain()}
                figures["theta"] = asdict(costs.theta)
                if config.targets:  # a multiplier that rises while a target is missed, and falls behind it
                    missed = max(float(one.excess(pair.simulated)) for one in config.targets)
                    extra["strength"] = min(100.0, max(1e-3, extra["strength"] * 4 ** max(-1.0, min(1.0, 4 * missed))))
            return figures

        phase = Phase(name, self.n_search, config.batch, config.seed)
        groups = [
            (net.weight_parameters(), RATES["weights"]),
            (net.quant_parameters(), RATES["quantisers"]),
            (net.arch_parameters(), RATES["logits"]),
        ]
        train(phase, net, groups, self.data.train, loss_of, after, self.folder, self.progress, extra)
        chosen, moves = self.repaired(net, self.opened.settled(net, assignment(net)))
        chosen = self.opened.contiguous(net, chosen)
        found = {
            "assignment": {layer: cores.tolist() for layer, cores in chosen.items()},
            "moves": [asdict(move) for move in moves],
            "theta": asdict(costs.theta),
        }
        self.folder.finish(name, found, net.state_dict())
        return found

    def scored(self, net: MixedNet, relative: Any, base: float, draws: torch.Generator) -> Tensor:
        """The cost term of the score estimator: sampled partitionings are simulated."""
        layers = net.searchable()

        def simulate(choices: Any) -> list[float]:
            return [float(self.value(self.costs.simulated(_of(net, c)))) / base for c in choices]

        def surrogate(counts: MappingOf[str, Tensor]) -> Tensor:
            named = {n: dict(zip(layers[n].cores, k.unbind(), strict=True)) for n, k in counts.items()}
            out: Tensor = relative(named)
            return out

        logits = {n: layer.logits for n, layer in layers.items()}
        return score_loss(logits, simulate, surrogate, SCORE_SAMPLES, draws)

    def repaired(self, net: MixedNet, chosen: Assignment) -> tuple[Assignment, list[Move]]:
        """The assignment with every channel back in 8 bit (or by the first operator) that costs nothing there.

        With targets: brought within them, then given back what they leave room for.
        """
        if not self.config.targets:
            return repair(net, chosen, lambda c: self._cost(net, c), self.opened.steps)
        missed = partial(self._missed, net)
        chosen, moves = meet(net, chosen, missed, 1.0, self.opened.steps)
        if missed(chosen) > 1.0:  # stuck where no layer alone comes nearer
            chosen = self.within_target
        chosen, more = repair(net, chosen, lambda c: max(1.0, missed(c)), self.opened.steps)
        return chosen, moves + more

    def _cost(self, net: MixedNet, chosen: Assignment) -> float:
        """The simulated cost of an assignment, as the objective has it."""
        return float(self.value(self.costs.simulated(_of(net, chosen))))

    def tuned(self, name: str, mapping: Mapping) -> Candidate:
        """A manual mapping, trained with a point's budget."""
        self.costs.restart()
        if self.opened.fixed is not None:
            return self.anew(name, mapping, {}, self.opened.fixed)
        net = self.mixed()
        return self.finished_point(name, net, uniform(net, mapping), {}, self.n_search + self.n_tune)

    def anew(self, name: str, mapping: Mapping, about: dict[str, Any], fixed: Callable[[Mapping], None]) -> Candidate:
        """The network that a mapping fixes, trained from its first weights: found or given, all alike."""
        self.warm_up(f"{name}.warm_up", lambda draws: fixed(mapping))
        net = self.mixed()
        return self.finished_point(name, net, uniform(net, mapping), about, self.n_search + self.n_tune)

    def finished_point(
        self, name: str, net: MixedNet, chosen: Assignment, about: dict[str, Any], epochs: int
    ) -> Candidate:
        """Fine-tune a fixed assignment, and say what came of it."""
        phase_name = f"{name}.tune"
        fix(net, chosen)
        found = self.folder.finished(phase_name)
        if found is None:
            found = self.fine_tuned(net, phase_name, epochs)
        else:
            self.progress.advance(epochs, phase_name)
        counts, open_layers = _of(net, chosen), net.searchable()
        channels = sum(sum(counts[n].values()) for n in open_layers)
        on_wide = sum(counts[n][layer.cores[wide(layer)]] for n, layer in open_layers.items())
        return Candidate(
            name, to_mapping(net, chosen, self.config.runtime, name), self.costs.estimated(counts), found["accuracy"],
            known=name not in self.points,
            about={**about, "val_accuracy": found["val_accuracy"], "wide_share": on_wide / max(1, channels)},
        )  # fmt: skip

    def fine_tuned(self, net: MixedNet, name: str, epochs: int) -> dict[str, Any]:
        """Train what an assignment leaves to train; its accuracies."""

        def loss_of(module: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator, done: float) -> Tensor:
            return functional.cross_entropy(net(x), y)

        def after(epoch: int) -> dict[str, Any]:
            return {"val_accuracy": accuracy(net, self.data.val)}

        groups = [(net.weight_parameters(), RATES["fine-tune"]), (net.quant_parameters(), RATES["quantisers"])]
        phase = Phase(name, epochs, self.config.batch, self.config.seed)
        train(phase, net, groups, self.data.train, loss_of, after, self.folder, self.progress, {})
        found = {"accuracy": accuracy(net, self.data.test), "val_accuracy": accuracy(net, self.data.val)}
        self.folder.finish(name, found, net.state_dict())
        return found


def _limited(data: Data, images: int | None) -> Data:
    if images is None or images >= len(data.train.y):
        return data
    few = max(1, images // 4)  # validated every epoch, so no more than training takes
    val = Split(data.val.x[:few], data.val.y[:few])
    return replace(data, train=Split(data.train.x[:images], data.train.y[:images]), val=val)


def _opened(config: TrainingConfig, data: Data) -> Opened:
    name, shape = config.workload.replace(":", "."), data.input_shape
    net = network(config.workload, data, config.input_shape, config.seed)
    if config.space == "channels":
        return channel_space(net, shape, config.soc, config.runtime, name, config.manual)
    if config.estimator == "score":
        raise InputError("estimator score: draws channels one by one; space operators takes expectation or montecarlo")
    with seeded(config.seed, "blocks"):
        return operator_space(net, shape, config.soc, config.runtime, name, config.manual, config.template, config.cut)


def _counts(mapping: Mapping) -> dict[str, dict[str, int]]:
    return {name: {part.core: part.channels for part in given.parts} for name, given in mapping.layers.items()}


def _of(net: MixedNet, chosen: Assignment | Choice) -> dict[str, dict[str, int]]:
    """Channels on each core of each weighted layer."""
    out = {}
    for name, layer in net.layers.items():
        if name in chosen:
            counts = torch.bincount(chosen[name], minlength=len(layer.cores)).tolist()
            out[name] = dict(zip(layer.cores, counts, strict=True))
    return out

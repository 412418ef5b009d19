"""The spaces that train: points of a front, and the manual mappings beside them.

The float network is warmed up once. A point is looked for from there in two ways: exactly, by the front of costs and of
what each layer alone loses (`search.exact.shares`), and by gradient, which begins at the choice so found (weights and
logits together, the cost in the loss). All that either has come by, the best repaired with the simulator, is judged by
its estimated loss and its simulated cost together, and the best is trained (`search.training.points`). Points and
manual mappings are trained alike: from the warmed-up network, or where mappings decide what the network computes from
the start, for as many epochs each. Which points there are follows from strengths, or targets, or is left to the search.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cosoc.search.exact.shares import GRID, Front, Price, least, priced
from cosoc.search.loop import Asked, search
from cosoc.search.manifest import replace_file
from cosoc.search.oracle import Oracle
from cosoc.search.result import Result
from cosoc.search.runfolder import RunFolder
from cosoc.search.space import Candidate, Optimum
from cosoc.search.spaces.channels import Assignment, MixedNet, assignment, fix, to_mapping
from cosoc.search.spaces.inner_tiles import InnerTiles, decided
from cosoc.search.spaces.opened import CHEAPEST, Opened, channel_space, operator_space
from cosoc.search.spaces.operators import Cut, Template
from cosoc.search.spaces.shares import CostModel, Counts, ShareCosts
from cosoc.search.targets import Target
from cosoc.search.training.batches import Batch
from cosoc.search.training.beside import Beside
from cosoc.search.training.calibrated import CALIBRATION, Calibrated, Calibration, calibrated
from cosoc.search.training.choose import IMAGES, Judge, all_counts, counts_of, of_first_front
from cosoc.search.training.compute import Compute, Forward
from cosoc.search.training.data import Data, load_data
from cosoc.search.training.evaluate import metric
from cosoc.search.training.gates import Estimator
from cosoc.search.training.gradient import Manner, search_gates
from cosoc.search.training.losses import check_losses, loss_of
from cosoc.search.training.noise import Kind, Noise, noise_of, quiet
from cosoc.search.training.opening import (
    check_calibrated,
    check_channels,
    check_network,
    check_trained,
    check_training,
    network,
    pretrained,
    seeded,
)
from cosoc.search.training.optimise import Group
from cosoc.search.training.parallel import agreed, norms_over_all, processes
from cosoc.search.training.parts import Part, Split
from cosoc.search.training.points import Aim, Bound, bounds_of, key, next_bound, of_layers
from cosoc.search.training.points import Asked as AskedPoint
from cosoc.search.training.recipe import Recipe, find_recipe
from cosoc.search.training.repair import placed, wide
from cosoc.search.training.train import Phase, PhaseKind, Progress, generator, kept_draws, train
from cosoc.search.training.weights import digest
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective
from cosoc.sim.files.names import DEFAULT
from cosoc.sim.model.mapping import Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.progress import Report, untold
from cosoc.sim.theta import Theta

SpaceName = Literal["channels", "operators"]

SWEEPS, TOLD_EVERY = 4, 100  # over a descent's options, as a guess; mappings, or images, between two reports
INNER_GRAIN = 16  # channels; those of an array's pass
SPEED, SPLIT = "speed.json", "split.json"
PRIMING = 24  # random mappings that theta is fitted to before the search
LOOKED_AT = 8  # points of a front by sensitivity, where no bound says which


@dataclass(frozen=True)
class TrainingConfig:
    """What to search, and how.

    workload: a built-in network or package.module:factory; or what `module`, itself a network, is called. input_shape:
    only to check it against the data. space: what is chosen, the core of a channel or its operator too; template, cut:
    of the latter. weights: a file of those that training begins with (`weights`), in place of drawn ones and of a
    warm-up, which then only a classifier of other classes needs. calibrate_only: nothing is trained; calibration: by
    which images, for the points then, and for where training begins else. strengths: weights of the cost (relative to
    the space's reference mapping: all 8 bit, all by the first operator) in the loss, one point each; or targets: one
    point that ends within them; or, with neither, so many points between the reference and the cheapest mapping.
    recipe: how to train. epochs: of which it may have shares. seeds: how often each mapping is trained, each time from
    other weights. compute: where and how it is computed, which a resumed run may change but for number formats and
    parts of batches. train_images: at most so many. simulate_every: epochs between simulations of the discretised
    candidate; tolerance: drift of the estimate at which theta is refitted; theta: what it is at first, None where it is
    first fitted to random mappings. cost_model: what drives the search; reports are simulated in any case. adc_bits: 0
    leaves the converter out. train_noise: what of the analog cores' noise acts while quantised networks train;
    accuracies are those without. manual: names of the baselines, None for all that the space knows. inner: what is
    chosen with each candidate, as in a chain of spaces.
    """

    soc: SoC
    workload: str
    space: SpaceName = "channels"
    template: Template = "conv-dw"
    cut: Cut = "cumulative"
    weights: Path | None = None
    calibrate_only: bool = False
    calibration: Calibration = CALIBRATION
    data: str = "digits"
    input_shape: tuple[int, ...] | None = None
    objective: str = "latency"
    strengths: tuple[float, ...] = ()
    targets: tuple[Target, ...] = ()
    points: int = 5
    estimator: Estimator = "expectation"
    recipe: Recipe = field(default_factory=lambda: find_recipe(DEFAULT))
    epochs: int = 40
    seed: int = 0
    seeds: int = 1
    compute: Compute = field(default_factory=Compute)
    out: Path = Path("run")
    resume: bool = False
    redo: str | None = None
    runtime: Runtime = "overlapped"
    train_images: int | None = None
    simulate_every: int = 2
    tolerance: float = 0.05
    cost_model: CostModel = "simulator"
    theta: Theta | None = None
    adc_bits: int = 0
    train_noise: tuple[Kind, ...] = ()
    manual: tuple[str, ...] | None = None
    inner: tuple[str, ...] = ()
    module: nn.Module | None = None

    @property
    def noise(self) -> Noise:
        """What acts in training; InputError where the SoC has none such."""
        return noise_of(self.soc, self.train_noise)

    @property
    def converter_bits(self) -> int:
        """Of the converters in quantised networks; 0: none."""
        return self.adc_bits or self.noise.adc_bits

    def stated(self) -> dict[str, Any]:
        """The configuration as plain data; where it is done, and what is begun anew, are not part of what a run is."""
        plain = asdict(replace(self, soc=None, out=None, module=None, recipe=None))  # type: ignore[arg-type]
        kept = {key: value for key, value in plain.items() if key not in ("out", "resume", "redo", "module", "compute")}
        kept["weights"] = None if self.weights is None else digest(self.weights)  # the same, wherever they stand
        kept |= {"recipe": self.recipe.model_dump(mode="json", exclude_unset=True)}
        kept |= {"amp": self.compute.amp, "accumulate": self.compute.accumulate}
        return kept | {"soc": self.soc.model_dump(mode="json", by_alias=True, exclude_unset=True)}


def search_trained(config: TrainingConfig, report: Report) -> Result:
    """Run (or go on with) a search of channels or operators; the results are in `config.out`, and what training took
    in this process in SPEED there, which is no part of the result, as it is never the same twice.

    report is called with (epochs done, epochs in all, phase). Raises InputError for what cannot be searched, before
    any training.
    """
    space = TrainedSpace(config, report)
    asked = Asked(
        config.objective, config.seed, config.out, config.stated(), config.resume, config.redo, config.targets
    )
    with space.beside:
        result = search(space, space.oracle, asked, report)
    speed = space.progress.speed.stated(config.compute.device, processes())
    if speed:
        replace_file(config.out / SPEED, (json.dumps(speed, indent=1) + "\n").encode())
    return replace(result, speed=speed)


class TrainedSpace:
    """Channels or operators of a network that is trained: see the module docstring. A `Space`."""

    def __init__(self, config: TrainingConfig, report: Report = untold) -> None:
        self.config = config
        self.value = objective(config.objective)
        if config.estimator == "score" and config.cost_model != "simulator":
            raise InputError(f"estimator score samples simulated costs; cost_model {config.cost_model} has none")
        self.noise = config.noise
        self.data = data_of(config)
        config.compute.check(min(config.recipe.batch, len(self.data.train)), processes())
        check_losses(config.recipe, self.data.task, *self.data.val.items(torch.arange(1)))
        self.judged = judged_by(self.data)
        self.opened = opened(config, self.data)
        self.workload = self.opened.workload
        net, outputs = self.opened.float_net, self.data.task.n_outputs
        self.pretrained = pretrained(net, config.weights, config.space, outputs)
        norms_over_all(self.opened.float_net)
        self.first_weights = copy.deepcopy(self.opened.float_net.state_dict())
        mixed = self.mixed()  # what cannot be quantised is refused here, before any training
        self.settled = {
            name: on for name, on in all_counts(mixed, assignment(mixed)).items() if name not in mixed.searchable()
        }
        self.oracle = Oracle(config.soc, self.workload)
        self.costs = ShareCosts(self.workload, config.soc, config.runtime, config.cost_model, self.oracle)
        self.reference = self.simulated(self.reference_counts)
        inner = (config.objective, self.reference) if "tiles" in config.inner else None
        if inner is not None:
            self.costs.cut_by(InnerTiles(self.workload, config.soc, *inner))
            self.reference = self.simulated(self.reference_counts)
        self.points = self._names()
        self.manual = dict(self.opened.manual)
        if self._places_points:  # between two ends, which are trained whatever else is
            ends = {self.opened.reference.name: self.opened.reference, CHEAPEST: None}
            self.manual = ends | {name: given for name, given in self.manual.items() if name not in ends}
        self.n_warm, self.n_search, self.n_tune = self._epochs()
        if self.n_warm:
            items = min(config.recipe.batch, len(self.data.train)) // (config.compute.accumulate * processes())
            check_training(self.opened.float_net, config.workload, self.data, items)
        mappings = (len(self.points) + len(self.manual)) * config.seeds
        warm_ups = config.seeds if self.opened.fixed is None else 1 + mappings
        self.progress = Progress(warm_ups * self.n_warm + len(self.points) * self.n_search + mappings * self.n_tune)
        self.progress.report = report
        if self.pretrained is not None:
            report(0, self.progress.total, self.pretrained.said)
        self.within: Counts = self._within() if config.targets else {}
        self.cheapest: Counts = self._cheapest() if CHEAPEST in self.manual else {}
        if config.theta is not None:
            self.costs.start(config.theta)
        else:
            self.costs.prime(PRIMING, config.seed)
        alone = processes() < 2  # of a run in several processes each has a core to itself at most
        self.beside = Beside(self.costs, config.compute.jobs if alone else 0, inner)
        self.folder: RunFolder
        self.front: Front | None = None  # by costs and losses layer by layer; made when the network has been warmed up
        self.post: tuple[Calibrated, Front] | None = None  # of the same network, and its front by sensitivity
        self.trained: dict[str, dict[str, Any]] = {}  # by mapping: counts, figures of validation and test, bound asked
        self.counted: set[str] = set()  # warm-ups that the progress has

    def _epochs(self) -> tuple[int, int, int]:
        """Epochs of warm-up, search and fine-tuning. A network that has all weights has been warmed up, unless so many
        epochs are asked for; what is calibrated takes a step of the progress in place of epochs."""
        config, recipe = self.config, self.config.recipe
        if config.calibrate_only:
            several = config.seeds > 1 or bool(config.strengths)
            check_calibrated(config.workload, config.space, config.module is not None, self.pretrained, several)
            return 0, 0, 1
        if not recipe.epochs.warm_up:
            check_trained(recipe, config.workload, config.space, config.module is not None, self.pretrained)
        if self.pretrained is not None and not self.pretrained.fresh and recipe.epochs.warm_up < 1:
            without = recipe.epochs.model_copy(update={"warm_up": 0})
            recipe = recipe.model_copy(update={"epochs": without})
        return recipe.phases(config.epochs)

    def _names(self) -> dict[str, float | None]:
        """The points, each with its strength."""
        config = self.config
        if config.seeds < 1 or config.points < 0:
            raise InputError(f"seeds {config.seeds}, points {config.points}: at least 1 and 0 are needed")
        if config.targets:
            return {"target_" + "_".join(map(str, config.targets)).replace("=", "_"): None}
        if config.strengths:
            return {f"strength_{strength:g}": strength for strength in config.strengths}
        return {f"point_{i + 1}": None for i in range(config.points)}

    def _metric(self, net: nn.Module, part: Part) -> float:
        """What a network has of the task's metric."""
        return metric(net, part, self.data.task, self.config.compute.workers)

    @property
    def val(self) -> str:
        """What the metric of validation is called."""
        return f"val_{self.data.task.measured.name}"

    @property
    def _places_points(self) -> bool:
        """Whether the search says itself where its points are."""
        return bool(self.points) and not self.config.targets and not self.config.strengths

    @property
    def reference_counts(self) -> Counts:
        return of_layers(_counts(self.opened.reference), self.opened.open_layers)

    @property
    def grain(self) -> int:
        """Channels by which tiles are chosen anew while shares are soft; coarser where the best ones are looked for."""
        return max(self.opened.grain, INNER_GRAIN) if self.config.inner else self.opened.grain

    def simulated(self, counts: Counts) -> Figures:
        """What shares of the layers that have a choice cost, the others as they are."""
        return self.costs.simulated({**self.settled, **counts})

    def _priced(self, aim: Aim) -> Price:
        """Costs as the search's own model has them: it finds by that model, and reports simulations."""
        if self.config.cost_model == "simulator":
            return priced(lambda counts: aim.simulated(self.simulated(counts)))
        return priced(lambda counts: float(aim.cost(self.costs.estimated({**self.settled, **counts}))))

    def _least(self, price: Price, what: str) -> tuple[Counts, float]:
        """The least price of all shares, with progress, as there may be many to ask for."""
        asked, about = 0, SWEEPS * sum(min(len(options), GRID + 2) for options in self.opened.choices.values())

        def counted(counts: Counts) -> float:
            nonlocal asked
            asked += 1
            if asked % TOLD_EVERY == 0:
                self.progress.advance(0, f"{what}: {asked} of about {max(asked, about)} mappings simulated")
            return price(counts)

        return least(self.opened.choices, counted, [self.reference_counts])

    def _within(self) -> Counts:
        """Shares that meet the targets; InputError where none were found, before any training."""
        config = self.config
        aim = Aim(self.value, 1.0, 1.0, bounds=bounds_of(config.targets))
        found, missed = self._least(priced(lambda counts: aim.simulated(self.simulated(counts))), "meeting the target")
        if missed > 1.0:
            asked = ", ".join(map(str, config.targets))
            reached = ", ".join(str(one.reached(self.simulated(found))) for one in config.targets)
            raise InputError(
                f"target {asked}: {self.workload.name} on {config.soc.name} has {reached} "
                "simulated under the nearest mapping that was found; ask for that or more"
            )
        return found

    def _cheapest(self) -> Counts:
        """The cheapest shares by the objective; InputError where nothing is cheaper than the reference, between which
        points would lie, before any training."""
        config = self.config
        found, _ = self._least(self._priced(self._relative()), "the cheapest mapping")
        at, most = (float(self.value(figures)) for figures in (self.simulated(found), self.reference))
        if self._places_points and at >= most:
            raise InputError(
                f"{self.workload.name} on {config.soc.name}: no mapping was found with less {config.objective} than "
                f"{self.opened.reference.name}, so there is nothing to trade {self.data.task.measured.name} for; "
                "--space tiles+fusion searches tiles and fusion"
            )
        return found

    def _relative(self, strength: float | None = None, bounds: tuple[Bound, ...] = ()) -> Aim:
        """An aim whose costs are relative to the reference's."""
        # ODiMO's cycles are no cycles of the machine: each model is measured by its own figure for the reference.
        truth = own = float(self.value(self.reference))
        if self.config.cost_model != "simulator":
            own = float(self.value(self.costs.estimated({**self.settled, **self.reference_counts})))
        return Aim(self.value, own, truth, strength, bounds)

    # -- as a space ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return "+".join((self.config.space, *self.config.inner))

    def rounds(self) -> Sequence[str]:
        """The manual mappings, the ends of the front first, then the points."""
        return [*self.manual, *self.points]

    def propose(self, name: str, oracle: Oracle, folder: RunFolder, report: Report) -> Sequence[Candidate]:
        """Train a point or a manual mapping."""
        self.folder, self.progress.report = folder, report
        folder.begin_with(SPLIT, json.dumps(self.data.split(), indent=1) + "\n")
        self.warm_up("warm_up", self.opened.draw, self.config.seed)
        return self.point(name) if name in self.points else [self.known(name)]

    def learn(self, oracle: Oracle) -> None:
        """The estimate learns epoch by epoch, and starts anew with each point."""

    def state(self) -> dict[str, Any]:
        return {"epochs": self.progress.done, "trained": self.trained}

    def restore(self, name: str, state: MappingOf[str, Any]) -> None:
        self.progress.done, self.trained = state["epochs"], dict(state["trained"])
        self.counted = {self._shared_warm_up(self.config.seed + i) for i in range(self.config.seeds)}

    def optimum(self) -> Optimum | None:
        """None is known: what a trained network gets right has no closed form."""
        return None

    def about(self) -> dict[str, Any]:
        config = self.config
        return {
            "data": self.data.name, "provenance": self.data.provenance, "runtime": config.runtime,
            "estimator": config.estimator, "wide": self.opened.wide, "reference": self.reference.plain(),
            "reference_name": self.opened.reference.name, "device": config.compute.device,
            "recipe": None if config.calibrate_only else config.recipe.name,
            "weights": None if self.pretrained is None else self.pretrained.said,
            "calibrated": self._calibrated_from() if config.calibrate_only else None,
            "task": self.data.task.name, "metric": self.data.task.measured.plain(),
        }  # fmt: skip

    def _calibrated_from(self) -> dict[str, Any]:
        """How a run without training was calibrated, and how good the float network is, which it does not change."""
        task = self.data.task
        figure = self._metric(self.opened.float_net, self.data.test)
        how = asdict(self.config.calibration)
        how["images"] = min(how["images"], len(self.data.train))
        return how | {f"float_{task.measured.name}": figure}

    # -- phases --------------------------------------------------------------------------------------------

    def _shared_warm_up(self, seed: int) -> str:
        return "warm_up" if seed == self.config.seed else f"warm_up.seed_{seed}"

    def warm_up(self, name: str, draw: Callable[[torch.Generator | None], None], seed: int) -> None:
        """Train the float network from the first weights of a seed, with what `draw` chooses for each step."""
        config, float_net = self.config, self.opened.float_net
        if self.folder.finished(name) is None:
            if self.front is None and self.points and config.cost_model == "simulator":
                shares = of_first_front(self.opened)
                self.beside.ask([{**self.settled, **counts} for counts in shares], self._visits)
            float_net.load_state_dict(self._first_weights(seed))

            def loss(forward: Forward, batch: Batch, draws: torch.Generator, done: float) -> Tensor:
                draw(draws)
                return loss_of(self.data.task, config.recipe, forward(batch.x), batch)

            def after(epoch: int) -> dict[str, Any]:
                draw(None)
                return {self.val: self._metric(float_net, self.data.val)}

            if self.n_warm:
                weights = config.recipe.weights
                assert weights.rates.warm_up is not None  # as the recipe's check has it
                groups = [Group(list(float_net.parameters()), weights, weights.rates.warm_up)]
                phase = self._phase(name, "warm_up", self.n_warm, seed)
                train(phase, float_net, groups, self.data.train, loss, after, self.folder, self.progress, {})
                self._settle_norms(draw, seed)
            self.folder.finish(name, after(self.n_warm), float_net.state_dict())
        elif name not in self.counted:
            self.progress.advance(self.n_warm, name)
        self.counted.add(name)
        float_net.load_state_dict(self.folder.weights(name))

    @property
    def _visits(self) -> int:
        """Candidates that searches by gradient simulate, about."""
        return len(self.points) * self.n_search // self.config.simulate_every

    def _settle_norms(self, draw: Callable[[torch.Generator | None], None], seed: int) -> None:
        """Move the statistics of the warmed-up network's batch norms by some batches of the training part."""
        config, net = self.config, self.opened.float_net
        draws = generator(seed, "norms")
        config.compute.place(net.train())
        with torch.no_grad(), kept_draws(config.compute.device):
            torch.manual_seed(draws.initial_seed())
            for _ in range(config.recipe.norm_batches):
                draw(draws)
                index = torch.randint(len(self.data.train), (config.recipe.batch,), generator=draws)
                net(self.data.train.items(index)[0].to(config.compute.device))
        config.compute.take_back(net.eval())

    def _phase(self, name: str, kind: PhaseKind, epochs: int, seed: int) -> Phase:
        config = self.config
        return Phase(name, kind, epochs, seed, config.recipe, self.data.task, config.compute)

    def _teacher(self, mapping: Mapping) -> nn.Module | None:
        """The warmed-up network, where the recipe has it teach; by a mapping's operators, where it has several."""
        if self.config.recipe.distillation is None:
            return None
        if self.opened.fixed is not None:
            self.opened.fixed(mapping)
        return self.opened.float_net

    def _first_weights(self, seed: int) -> dict[str, Any]:
        """The weights that training begins with: of other seeds than the run's drawn anew, layer by layer, where they
        are warmed up."""
        float_net = self.opened.float_net
        float_net.load_state_dict(self.first_weights)
        if seed != self.config.seed and self.n_warm:
            with seeded(seed, "weights"):
                for module in float_net.modules():
                    reset = getattr(module, "reset_parameters", None)
                    if reset is not None:
                        reset()
            if self.pretrained is not None:  # what the file has not is drawn anew
                self.pretrained.load(float_net)
        return copy.deepcopy(float_net.state_dict())

    def mixed(self) -> MixedNet:
        """The warmed-up network, quantised, all channels undecided."""
        net = self.opened.quantised()
        net.set_adc(self.config.converter_bits)
        return net

    def point(self, name: str) -> list[Candidate]:
        """Search, choose, repair; then train what has been found. Nothing where the search places its points, and there
        is no room for another, or nothing new there."""
        aim, bound = self.aim(name)
        if aim is None:
            self.progress.advance(self.n_search + self._each, name)
            return []
        net, phase = self.mixed(), f"{name}.search"
        found = self.folder.finished(phase)
        if found is None:
            found = self.searched(net, name, aim)
        else:
            self.progress.advance(self.n_search, phase)
        net.load_state_dict(self.folder.weights(phase))
        self.costs.restart(theta=Theta(**found["theta"]))
        about = {"strength": found["strength"], "moves": found["moves"], "by": found["by"], "visited": found["seen"]}
        if bound is not None:
            about["bound"] = bound
        alike = [other for other, one in self.trained.items() if key(one["counts"]) == key(found["counts"])]
        if self._places_points and alike:
            self.trained[name] = self.trained[alike[0]] | {"bound": bound}
            self.progress.advance(self._each, name)
            return []
        return [self.mapped(name, found["counts"], net, about, bound)]

    def aim(self, name: str) -> tuple[Aim | None, float | None]:
        """What a point is searched for, and the bound on the objective that the search has set itself."""
        config, strength = self.config, self.points[name]
        if config.targets or strength is not None:
            return self._relative(strength, bounds_of(config.targets)), None
        asked = []
        for other, one in self.trained.items():
            cost = float(self.value(self.simulated(one["counts"])))
            if one["bound"] is not None or other in (self.opened.reference.name, CHEAPEST):
                asked.append(AskedPoint(one["bound"] or cost, cost, one[self.val]))
        bound = next_bound(asked)
        return None if bound is None else self._relative(bounds=(Bound(self.value, bound),)), bound

    def searched(self, net: MixedNet, name: str, aim: Aim) -> dict[str, Any]:
        """The search of a point: the front layer by layer says where to begin, the gradient goes on from there, and of
        all that has been come by, repaired, the best is kept."""
        config, layers = self.config, self.opened.open_layers
        judge = Judge(self.opened, self.simulated, self.judged, self.data.task)
        if config.calibrate_only:
            return self.chosen(net, name, aim, judge)
        starts = self.starts(judge, aim)
        manner = Manner(config.estimator, self.grain, config.simulate_every, config.tolerance)
        phase = self._phase(f"{name}.search", "search", self.n_search, config.seed)
        visited, strength = list[Counts](), aim.strength
        if self.n_search:
            teacher, start = self._teacher(self.opened.reference), starts[0][1]
            rest = (self.costs, self.beside, self.data, self.noise, self.folder, self.progress, teacher)
            ended = search_gates(net, aim, start, manner, phase, *rest)
            visited, strength = [of_layers(counts, layers) for counts in ended["visited"]], ended["strength"]
        sources = [*((counts, by) for counts, _, by in starts), *((counts, "gradient") for counts in visited)]
        for other in list(self.points)[: list(self.points).index(name)]:
            before = self.folder.finished(f"{other}.search")
            assert before is not None
            sources += [(counts, other) for counts in (before["counts"], *before["pool"])]
        found = agreed(judge.best(net, aim, sources, self.within if config.targets else self.cheapest))
        found |= {"theta": asdict(self.costs.theta), "pool": visited, "strength": strength}
        if aim.strength is not None:
            found["strength"] = aim.strength
        self.folder.finish(phase.name, found, net.state_dict())
        return found

    def starts(self, judge: Judge, aim: Aim) -> list[tuple[Counts, Assignment, str]]:
        """Where a point's search may begin, the best first: shares, which channels, and by what they were found: by
        losses measured layer by layer, and, where formats are chosen, by sensitivities."""
        config = self.config
        if self.front is None:
            self.front = judge.front(self.mixed(), self._priced(self._relative(bounds=bounds_of(config.targets))))
        net, found = self.mixed(), [(self._at(self.front, aim), "descent")]
        if config.space == "channels":
            post, front = self.calibrated()
            post.begin(net)
            if aim.bounds:
                found.append((self._at(front, aim), "sensitivity"))
            else:  # an empirical Fisher's losses are in order, but of no known scale
                costs = np.linspace(front.points[:, 0].min(), front.points[:, 0].max(), LOOKED_AT)
                found += [(front.within(float(most)), "sensitivity") for most in costs]
        else:
            for layer in net.searchable().values():
                layer.prefer()
        starts = [(counts, placed(net, {**self.settled, **counts}), by) for counts, by in found]
        if len(starts) == 1:
            return starts
        worth = [aim.worth(judge.loss(net, chosen), self.simulated(counts)) for counts, chosen, _ in starts]
        return agreed([starts[i] for i in sorted(range(len(worth)), key=worth.__getitem__)])

    def _at(self, front: Front, aim: Aim) -> Counts:
        """What a front has for an aim."""
        if aim.bounds:
            return front.within(1.0 if self.config.targets else aim.bounds[0].most / aim.truth)
        return front.weighted(aim.strength or 0.0)

    def calibrated(self) -> tuple[Calibrated, Front]:
        """The warmed-up network of the run's seed, calibrated, and the front of costs and sensitivities."""
        if self.post is None:
            config = self.config

            def told(done: int, total: int) -> None:
                if done % TOLD_EVERY == 0 or done == total:
                    self.progress.advance(0, f"sensitivities by {done} of {total} images")

            net, data = self.mixed(), self.data
            post = calibrated(self.opened, net, data.train, config.calibration, data.task.loss, config.seed, told)
            price = self._priced(self._relative(bounds=bounds_of(config.targets)))
            self.post = (post, post.front(net, price))
        return self.post

    def chosen(self, net: MixedNet, name: str, aim: Aim, judge: Judge) -> dict[str, Any]:
        """A point where nothing is trained: what the front by sensitivity has, repaired by simulation."""
        post, front = self.calibrated()
        post.begin(net)
        begin = self.opened.settled(net, placed(net, {**self.settled, **self._at(front, aim)}))
        repaired, moves = judge.repaired(net, begin, aim, self.within if self.config.targets else self.cheapest)
        found: dict[str, Any] = {"by": "sensitivity", "seen": 1, "pool": [], "strength": None}
        found |= {
            "counts": counts_of(net, repaired, self.opened.open_layers),
            "moves": [asdict(move) for move in moves],
        }
        found["theta"] = asdict(self.costs.theta)
        self.folder.finish(f"{name}.search", found, net.state_dict())
        return found

    @property
    def _each(self) -> int:
        """Epochs that a mapping is trained for, all seeds together, but for warm-ups that others share."""
        return self.config.seeds * (self.n_tune + (0 if self.opened.fixed is None else self.n_warm))

    def known(self, name: str) -> Candidate:
        """A manual mapping."""
        given = self.manual[name]
        counts = self.cheapest if given is None else of_layers(_counts(given), self.opened.open_layers)
        self.costs.restart()
        return self.mapped(name, counts, None, {}, None)

    def mapped(
        self, name: str, counts: Counts, searched: MixedNet | None, about: dict[str, Any], bound: float | None
    ) -> Candidate:
        """Train shares of channels as often as is asked, and say what came of it. searched: the network that they were
        found with, which knows which channels."""
        measured = self.data.task.measured
        alike = [one for one in self.trained.items() if key(one[1]["counts"]) == key(counts)]
        if alike:
            same, found = alike[0]
            about = {**about, "trained_as": same}
            self.progress.advance(self._each, name)
        else:
            runs = [self.training(name, counts, searched, i) for i in range(self.config.seeds)]
            found = {"counts": counts, self.val: mean(one[self.val] for one in runs)}
            found[measured.plural] = [one[measured.name] for one in runs]
        self.trained[name] = found | {"bound": bound}
        net = self.mixed()
        chosen = placed(net, counts)
        open_layers = net.searchable()
        channels = sum(sum(on.values()) for on in counts.values())
        on_wide = sum(counts[n].get(layer.cores[wide(layer)], 0) for n, layer in open_layers.items())
        whole = {**self.settled, **counts}
        mapping = to_mapping(net, chosen, self.config.runtime, name)
        if self.config.inner:
            config, tiled = self.config, self.costs.mapping({n: _present(on) for n, on in whole.items()}, name)
            fusion = "fusion" in config.inner
            mapping = decided(tiled, config.soc, self.workload, config.objective, config.targets, fusion, self.oracle)
        return Candidate(
            name, replace(mapping, name=name), self.costs.estimated(whole),
            mean(found[measured.plural]), known=name not in self.points, accuracies=tuple(found[measured.plural]),
            metric=measured,
            about={**about, self.val: found[self.val], "wide_share": on_wide / max(1, channels)},
        )  # fmt: skip

    def training(self, name: str, counts: Counts, searched: MixedNet | None, again: int) -> dict[str, Any]:
        """Train shares of channels from the warmed-up network; where they decide what the network computes, from its
        first weights. again: how often they have been trained; each time from other first weights."""
        seed = self.config.seed + again
        label = name if not again else f"{name}.seed_{seed}"
        fixed = self.opened.fixed
        if fixed is not None:
            mapping = to_mapping(self.mixed(), placed(self.mixed(), counts), self.config.runtime, name)
            self.warm_up(f"{label}.warm_up", lambda draws: fixed(mapping), seed)
        else:
            self.warm_up(self._shared_warm_up(seed), self.opened.draw, seed)
        if self.config.calibrate_only:
            return self.settled_by_images(f"{label}.tune", counts)
        net = self.mixed()
        for n, layer in net.searchable().items():
            if searched is None or again:
                layer.prefer()
            elif fixed is None:
                layer.logits.data.copy_(searched.layers[n].logits.detach())
        chosen = self.opened.contiguous(net, placed(net, counts))
        fix(net, chosen)
        found = self.folder.finished(f"{label}.tune")
        if found is None:
            teacher = self._teacher(to_mapping(net, chosen, self.config.runtime, name))
            return self.fine_tuned(net, f"{label}.tune", seed, teacher)
        self.progress.advance(self.n_tune, f"{label}.tune")
        return found

    def settled_by_images(self, name: str, counts: Counts) -> dict[str, Any]:
        """Calibrate some shares of channels; their metric, of test and validation."""
        found = self.folder.finished(name)
        if found is None:
            net, task = self.mixed(), self.data.task
            self.calibrated()[0].settle(net, {**self.settled, **counts})
            found = {task.measured.name: self._metric(net, self.data.test), self.val: self._metric(net, self.data.val)}
            self.folder.finish(name, found, net.state_dict())
        self.progress.advance(self.n_tune, name)
        return found

    def fine_tuned(self, net: MixedNet, name: str, seed: int, teacher: nn.Module | None) -> dict[str, Any]:
        """Train what an assignment leaves to train; its metric, of test and validation. teacher: as `train`'s."""
        recipe = self.config.recipe

        def loss(forward: Forward, batch: Batch, draws: torch.Generator, done: float) -> Tensor:
            self.noise.draw(net, draws)
            return loss_of(self.data.task, recipe, forward(batch.x), batch)

        def after(epoch: int) -> dict[str, Any]:
            quiet(net)
            return {self.val: self._metric(net, self.data.val)}

        groups = [
            Group(net.weight_parameters(), recipe.weights, recipe.weights.rates.fine_tune),
            Group(net.quant_parameters(), recipe.quantisers, recipe.quantisers.rates.fine_tune),
        ]
        phase = self._phase(name, "fine_tune", self.n_tune, seed)
        train(phase, net, groups, self.data.train, loss, after, self.folder, self.progress, {}, teacher)
        found = {
            self.data.task.measured.name: self._metric(net, self.data.test), self.val: self._metric(net, self.data.val),
        }  # fmt: skip
        found = agreed(found)
        self.folder.finish(name, found, net.state_dict())
        return found


def _present(on_cores: MappingOf[str, int]) -> dict[str, int]:
    """The cores that have channels, and how many."""
    return {core: k for core, k in on_cores.items() if k}


def data_of(config: TrainingConfig) -> Data:
    """The data that a configuration asks for."""
    return _limited(load_data(config.data, config.seed, input_shape=config.input_shape), config.train_images)


def judged_by(data: Data) -> Split:
    """Items of the validation part by which losses are estimated: IMAGES at most; of what is to be rebuilt the normal
    ones, as anomalies are not to be."""
    x, y = data.val.items(torch.arange(min(IMAGES, len(data.val))))
    if not data.task.reconstructs:
        return Split(x, y)
    normal = y[:, data.task.n_outputs] == 0
    if not bool(normal.any()):
        raise InputError(f"{data.name}: val has no normal items, by which losses are estimated; give some")
    return Split(x[normal], y[normal])


def _limited(data: Data, images: int | None) -> Data:
    if images is None or images >= len(data.train):
        return data
    # Validated every epoch, so no more than training takes; but a few would have no anomalies, or parts of clips.
    few = len(data.val) if data.task.reconstructs else min(len(data.val), max(1, images // 4))
    return replace(data, train=data.train.at(torch.arange(images)), val=data.val.at(torch.arange(few)))


def opened(config: TrainingConfig, data: Data) -> Opened:
    """The network with its choices open; InputError where it does not fit the data, or nothing can be chosen."""
    name, shape = config.workload.replace(":", "."), data.input_shape
    workload = None if config.module else check_network(config.workload, shape, data.task)
    choosing = bool(config.strengths or config.targets or config.points)
    if workload is not None and choosing and config.space == "channels":
        check_channels(workload, config.soc)
    net = network(config.workload, data, config.input_shape, config.seed, config.module)
    if config.space == "channels":
        made = channel_space(net, data.item, config.soc, config.runtime, name, config.manual)
        if choosing:
            check_channels(made.workload, config.soc)
        return made
    if config.estimator == "score":
        raise InputError("estimator score: draws channels one by one; space operators takes expectation or montecarlo")
    with seeded(config.seed, "blocks"):
        return operator_space(
            net, data.item, config.soc, config.runtime, name, config.manual, config.template, config.cut
        )


def _counts(mapping: Mapping) -> dict[str, dict[str, int]]:
    return {name: {part.core: part.channels for part in given.parts} for name, given in mapping.layers.items()}

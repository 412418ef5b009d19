"""How networks are trained: a recipe, read from a YAML file, by name those that come with cosoc (`socs/recipes`).

A run has up to three phases: the float network is warmed up, a point is searched (weights, ranges and gates at once),
and every mapping is fine-tuned. A recipe has the optimisers and rates of what is trained in each, for how long, what is
done to images and losses, and when a phase ends early. What is trained for (the loss, the metric) is the data's task.
Every key has an effect in the phases that it names, or is refused at its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cosoc.sim.errors import InputError
from cosoc.sim.files.mending import Place
from cosoc.sim.files.names import list_recipes, recipe_folder
from cosoc.sim.files.yamlfile import load_model
from cosoc.sim.model.soc import Model
from cosoc.sim.model.units import Within

MOST_EPOCHS = 100_000
MOST_BATCH = 1 << 20


def _epochs(value: float) -> float:
    if 0 <= value < 1 or (value == int(value) and value <= MOST_EPOCHS):
        return value
    raise PydanticCustomError("epochs", "a share below 1 of --epochs, or a whole number up to 100,000, is needed")


# What `--rate` calls the rates, and where they stand.
RATES = {
    "warm_up": ("weights.rates.warm_up",), "search": ("weights.rates.search",),
    "fine_tune": ("weights.rates.fine_tune",), "quantisers": ("quantisers.rates.search", "quantisers.rates.fine_tune"),
    "gates": ("gates.rate",),
}  # fmt: skip

PhaseEpochs = Annotated[float, AfterValidator(_epochs)]
Rate = Annotated[float, Within("a step", 1e-9, 100)]
Part = Annotated[float, Within("of the whole", 0, 1)]
Below1 = Annotated[float, Within("of the whole", 0, 0.99999)]
Patience = Annotated[int, Within("epochs", 0, MOST_EPOCHS)]
Kind = Literal["adam", "adamw", "sgd"]


class Epochs(Model):
    """For how long each phase trains: a whole number of epochs, or a share below 1 of `--epochs`, of at least one."""

    warm_up: PhaseEpochs  # of the float network; 0: it is trained already
    search: PhaseEpochs  # of a point's weights and gates together; 0: costs and losses layer by layer decide alone
    # of each mapping; left out: what the warm-up leaves of --epochs, and at least one more than a search
    fine_tune: PhaseEpochs | None = None


class Schedule(Model):
    """How rates go on from what they are at first, along a phase."""

    kind: Literal["constant", "cosine", "steps"] = "constant"  # stays, falls along half a cosine, or falls at once
    end: Part | None = None  # of a cosine: the rate at the end, of that at the beginning
    at: list[Below1] | None = None  # of steps: after which shares of the phase
    factor: Part | None = None  # of steps: the rate after one, of that before it
    ramp: Below1 = 0.0  # share of the phase in which rates rise to that from nothing, linearly


class Optimiser(Model):
    """How some of a network's parameters are trained."""

    optimiser: Kind  # Adam (Kingma and Ba 2015), AdamW (decay apart from the gradient), or gradient descent
    momentum: Below1 | None = None  # of gradient descent, Nesterov's where so said; left out: none
    nesterov: bool | None = None  # of gradient descent with momentum
    weight_decay: Part = 0.0  # of a parameter, to its gradient; of adamw: times the rate, off itself
    schedule: Schedule = Schedule()  # of the rates


class WeightRates(Model):
    """Rates that weights begin each phase with."""

    warm_up: Rate | None = None  # of the float network; needed where that is warmed up
    search: Rate | None = None  # of a point's search, beside the gates; needed where there is one
    fine_tune: Rate  # of the chosen mapping


class RangeRates(Model):
    """Rates that quantisers' ranges begin each phase with."""

    search: Rate | None = None  # of a point's search; needed where there is one
    fine_tune: Rate  # of the chosen mapping


class Weights(Optimiser):
    """Training of weights, biases and norms."""

    rates: WeightRates


class Quantisers(Optimiser):
    """Training of the ranges of quantised activations, and of scales of ternary weights."""

    rates: RangeRates


class Gates(Optimiser):
    """Training of what decides on cores and operators, in a search."""

    rate: Rate  # that gates begin with
    coolest: Annotated[float, Within("of that at first", 1e-6, 1)]  # temperature at the end of the search


class Augmentation(Model):
    """What is done to images in training, drawn anew for each."""

    crop_pixels: Annotated[int, Within("pixels", 0, 1024)] = 0  # that an image is moved by at most, zeros coming in
    flip: bool = False  # left to right, every other one
    mixup: Annotated[float, Within("as both parameters of Beta", 0, 100)] = 0.0  # images mixed in pairs; 0: not


class Distillation(Model):
    """The float network's outputs beside the task's loss, in search and fine-tuning (Hinton, Vinyals, Dean 2015)."""

    weight: Part  # of the distance to the float network in the loss; the task's has the rest
    temperature: Annotated[float, Within("as a temperature", 0.1, 100)]  # at which scores are compared


class EarlyStopping(Model):
    """After how many epochs without a better metric of the validation part a phase ends; 0: never. Warm-up and
    fine-tuning then have the weights of their best epoch."""

    warm_up: Patience = 0  # of the float network
    search: Patience = 0  # of a point's search, which goes on from its last weights
    fine_tune: Patience = 0  # of a mapping


class Recipe(Model):
    """How networks are trained; see the module docstring."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]  # by which messages call it
    description: str = ""  # one line, for people
    batch: Annotated[int, Within("items", 1, MOST_BATCH)]  # of a step, over all processes and parts of it
    epochs: Epochs
    weights: Weights
    quantisers: Quantisers
    gates: Gates | None = None  # of searches; needed where there are any
    augmentation: Augmentation = Augmentation()
    label_smoothing: Below1 = 0.0  # share of each target that all classes have alike (Szegedy et al. 2016)
    distillation: Distillation | None = None
    average: Below1 = 0.0  # weights are averaged over steps with this decay, in warm-up and fine-tuning; 0: as they are
    # of the warmed-up network's batch norms: so many batches are passed forward to move their statistics; 0: none
    norm_batches: Annotated[int, Within("batches", 0, 1_000_000)] = 0
    early_stopping: EarlyStopping = EarlyStopping()

    def phases(self, epochs: int) -> tuple[int, int, int]:
        """Epochs of warm-up, search and fine-tuning, where `--epochs` are so many."""
        warm, search = _whole(self.epochs.warm_up, epochs), _whole(self.epochs.search, epochs)
        if self.epochs.fine_tune is not None:
            return warm, search, _whole(self.epochs.fine_tune, epochs)
        return warm, search, max(search + 1, epochs - warm)

    @property
    def shares(self) -> bool:
        """Whether any phase is a share of `--epochs`."""
        given = self.epochs
        return any(one is None or 0 < one < 1 for one in (given.warm_up, given.search, given.fine_tune))


def _whole(asked: float, epochs: int) -> int:
    return max(1, round(asked * epochs)) if 0 < asked < 1 else int(asked)


def find_recipe(name_or_file: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """A recipe by name, or from a file. overrides: values by dotted path of its keys, as `--set` has them. InputError
    for what is neither, and at its line for what is wrong with it."""
    if name_or_file in list_recipes():
        return load_recipe(recipe_folder() / f"{name_or_file}.yaml", overrides)
    if not name_or_file.endswith((".yaml", ".yml")):
        there = ", ".join(list_recipes())
        raise InputError(f"no recipe named {name_or_file!r}; there is {there}, or a .yaml file")
    return load_recipe(Path(name_or_file), overrides)


def changed_recipe(name_or_file: str, batch: int | None = None, rates: Mapping[str, float] | None = None) -> Recipe:
    """A recipe with another batch, and other rates by the names of RATES. InputError for what it has none of."""
    overrides = {} if batch is None else {"batch": str(batch)}
    for name, rate in (rates or {}).items():
        if name not in RATES:
            raise InputError(f"rate {name}: {', '.join(RATES)} are known")
        overrides |= dict.fromkeys(RATES[name], repr(float(rate)))
    if overrides and find_recipe(name_or_file).gates is None and "gates" in (rates or {}):
        raise InputError(f"rate gates: recipe {name_or_file} has no search; leave it out")
    return find_recipe(name_or_file, overrides)


def load_recipe(path: Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read and check a recipe's file."""
    return load_model(path, Recipe, overrides, problems=lambda recipe, mended: list(_problems(recipe)))


def _problems(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """What would change nothing where it stands, or lacks what it goes with."""
    if recipe.epochs.fine_tune == 0:
        yield ("epochs", "fine_tune"), "found 0: ranges are found when training begins, so at least 1 is needed"
    yield from _phase_problems(recipe)
    for name in ("weights", "quantisers", "gates"):
        given: Optimiser | None = getattr(recipe, name)
        if given is None:
            continue
        if given.optimiser != "sgd":
            for key in ("momentum", "nesterov"):
                if getattr(given, key) is not None:
                    yield (name, key), f"means nothing with {given.optimiser}; leave it out, or use sgd"
        elif given.nesterov and not given.momentum:
            yield (name, "nesterov"), "needs a momentum above 0 beside it"
        needs = {"constant": (), "cosine": ("end",), "steps": ("at", "factor")}[given.schedule.kind]
        for key in ("end", "at", "factor"):
            there = getattr(given.schedule, key) is not None
            if there and key not in needs:
                yield (name, "schedule", key), f"means nothing with kind {given.schedule.kind}; leave it out"
            elif key in needs and not there:
                yield (name, "schedule"), f"{given.schedule.kind} needs {key} beside kind"


def _phase_problems(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """What is said of phases that there are none of, or not said of those that there are."""
    rates, ranges = recipe.weights.rates, recipe.quantisers.rates
    said: list[tuple[str, Place, object]] = [
        ("warm_up", ("weights", "rates", "warm_up"), rates.warm_up),
        ("search", ("weights", "rates", "search"), rates.search),
        ("search", ("quantisers", "rates", "search"), ranges.search),
        ("search", ("gates",), recipe.gates),
    ]
    for phase, place, value in said:
        if value is None and getattr(recipe.epochs, phase):
            yield place, f"is missing, and epochs.{phase} is not 0"
        elif value is not None and not getattr(recipe.epochs, phase):
            yield place, f"means nothing where epochs.{phase} is 0; leave it out"
    for phase in ("warm_up", "search"):
        if not getattr(recipe.epochs, phase) and getattr(recipe.early_stopping, phase):
            yield ("early_stopping", phase), f"means nothing where epochs.{phase} is 0; leave it out"
    if recipe.norm_batches and not recipe.epochs.warm_up:
        yield ("norm_batches",), "means nothing where epochs.warm_up is 0; leave it out"


def recipe_json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe's file."""
    schema: dict[str, Any] = Recipe.model_json_schema(by_alias=True)
    return schema

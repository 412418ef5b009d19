"""Keys of a plan's searches that say how a network is trained, or calibrated: those of `cosoc search`, one value each
for all tasks. What a plan's task has in another way, or cannot have, is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cosoc.sim.errors import InputError
from cosoc.sim.files.names import DEFAULT
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.soc import Model, refuse
from cosoc.sim.model.units import Positive

_ALONE = "each task is one process on the CPU, beside others"
_SWEEPS = "it is an option of cosoc sweep"
ELSEWHERE = {
    "points": "a task is one point of a front; give strengths",
    "targets": "a task is one point of a front; give strengths, or run cosoc search for each target",
    "target": "a task is one point of a front; give strengths, or run cosoc search for each target",
    "estimate": "each task fits its own, as SoCs differ",
    "beside": "a task has one network",
    "rate": "write rates: {NAME: R}",
    **dict.fromkeys(("device", "amp", "workers", "compile", "channels_last", "accumulate", "jobs"), _ALONE),
    **dict.fromkeys(("out", "resume", "redo", "carrier", "report"), _SWEEPS),
}
CALIBRATED = ("weights", "calibrate_only", "calibration_images", "clip")  # of channels alone
CUT = ("cut",)  # of operators alone
TRAINING = ("strengths", "epochs", "estimator", "recipe", "batch", "rates", "train_images", "train_noise")


class TrainedKeys(Model):
    """What `cosoc.search` calls so."""

    weights: str | None = None  # a file
    calibrate_only: bool = False
    calibration_images: Positive = 256
    clip: Literal["mse", "percentile"] = "mse"
    recipe: str = DEFAULT
    batch: Positive | None = None
    rates: dict[str, Annotated[float, Field(gt=0)]] = {}
    estimator: Literal["expectation", "montecarlo", "score"] = "expectation"
    cut: Literal["cumulative", "point"] = "cumulative"
    runtime: Runtime = "overlapped"
    cost_model: Literal["simulator", "odimo"] = "simulator"
    adc_bits: Annotated[int, Field(ge=0, le=16)] = 0
    train_images: Positive | None = None
    train_noise: str | None = None  # all, or kinds with commas

    @model_validator(mode="before")
    @classmethod
    def _of_a_plan(cls, found: Any) -> Any:
        if isinstance(found, dict) and (others := {key: found[key] for key in found if key in ELSEWHERE}):
            refuse("search", {key: (value, f"no key of a plan: {ELSEWHERE[key]}") for key, value in others.items()})
        return found

    def idle(self, firsts: set[str]) -> Mapping[str, tuple[Any, str]]:
        """Keys that are given and mean nothing to any of the plan's spaces, with what was found and why. firsts: what
        its chains of spaces begin with."""
        out = {}
        for key in sorted(self.model_fields_set & {*TrainedKeys.model_fields, *TRAINING}):
            known = {"channels"} if key in CALIBRATED else {"operators"} if key in CUT else {"channels", "operators"}
            of_tiles = key in TRAINING and key not in TrainedKeys.model_fields  # as ever: no axis of it
            if not known & firsts and not of_tiles:
                out[key] = (getattr(self, key), f"means nothing with space {', '.join(sorted(firsts))}; leave it out")
            elif self.calibrate_only and key in TRAINING and firsts == {"channels"}:
                out[key] = (getattr(self, key), "means nothing with calibrate_only, which trains nothing; leave it out")
        return out

    def stated(self, first: str) -> dict[str, Any]:
        """What a task of a space depends on of this, as plain data: what is not as it would be if it were left out."""
        but: tuple[str, ...] = CUT if first == "channels" else CALIBRATED
        if first == "channels" and self.calibrate_only:
            but = (*CUT, *TRAINING)
        names = [name for name in TrainedKeys.model_fields if name not in but]
        given = {name: (getattr(self, name), TrainedKeys.model_fields[name].default) for name in names}
        return {name: value for name, (value, default) in given.items() if value != default}


def config_keys(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `TrainingConfig` that a task states. InputError for a recipe that cannot be read, or noise that has
    no such kind."""
    from cosoc.search.training.calibrated import Calibration
    from cosoc.search.training.noise import kinds_of
    from cosoc.search.training.recipe import changed_recipe

    given = {key: spec[key] for key in TrainedKeys.model_fields if key in spec}
    recipe = changed_recipe(given.pop("recipe", DEFAULT), given.pop("batch", None), given.pop("rates", None))
    keys = TrainedKeys.model_fields
    images, clip = (given.pop(key, keys[key].default) for key in ("calibration_images", "clip"))
    if "weights" in given:
        given["weights"] = Path(given["weights"])
    if "train_noise" in given:
        given["train_noise"] = kinds_of(given["train_noise"])
    return given | {"recipe": recipe, "calibration": Calibration(images, clip)}


def wrong_name(part: TrainedKeys, key: str) -> None:
    """InputError where a key names what is not there: a recipe, a file of weights, a kind of noise."""
    if key == "recipe":
        from cosoc.search.training.recipe import changed_recipe

        changed_recipe(part.recipe, part.batch, part.rates)
    elif key == "weights" and part.weights is not None and not Path(part.weights).is_file():
        raise InputError(f"no file {part.weights}")
    elif key == "train_noise" and part.train_noise is not None:
        from cosoc.search.training.noise import kinds_of

        kinds_of(part.train_noise)

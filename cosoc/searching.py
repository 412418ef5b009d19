"""The search as a user asks for it: a chain of spaces, a machine and a network by name, path or as they are.

Which space, and so which configuration, follows from the chain and from whether there is a network to train. The
command line and `cosoc.search(...)` both come through here.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from cosoc.output import check_writable
from cosoc.sim.errors import InputError
from cosoc.sim.files.names import DEFAULT
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.progress import Report, untold

if TYPE_CHECKING:  # loaded where it is used: torch is slow to import
    from torch import nn

    from cosoc.inputs import ACluster, AMapping, ANetwork, ASoC, Example, Overrides
    from cosoc.search.result import Result
    from cosoc.search.surrogate import Surrogate
    from cosoc.search.targets import Target
    from cosoc.sim.model.mapping import Mapping as NetworkMapping
    from cosoc.sim.model.soc import SoC
    from cosoc.sim.model.workload import Workload
    from cosoc.sim.theta import Theta

EPOCHS = 40  # that a mapping is trained, where nothing else is said
DEFAULT_POINTS = 5  # of a front that is trained, between its ends
STREAMED = 1000  # inferences through a cluster, where none are stated
CALIBRATED_BY = 256  # images, where nothing is said

Estimator = Literal["expectation", "montecarlo", "score"]
Template = Literal["conv-dw", "dws-dw", "conv-dws"]
Cut = Literal["cumulative", "point"]
Trained = Literal["channels", "operators"]
CostModel = Literal["simulator", "odimo"]
Device = Literal["cpu", "cuda", "mps"]
Amp = Literal["bf16", "fp16"]
Clip = Literal["mse", "percentile"]


@dataclass(frozen=True)
class _Asked:
    """What every space is asked."""

    objective: str
    targets: tuple[Target, ...]
    seed: int
    out: Path
    resume: bool
    redo: str | None


def search(
    soc: ASoC | ACluster,
    workload: ANetwork,
    *,
    space: str = "channels",
    weights: Path | str | None = None,
    calibrate_only: bool = False,
    calibration_images: int = CALIBRATED_BY,
    clip: Clip = "mse",
    data: str = "digits",
    objective: str | None = None,
    targets: Sequence[str] = (),
    mapping: AMapping = DEFAULT,
    time_budget_s: float | None = None,
    estimate: Surrogate | Path | str | None = None,
    strengths: Sequence[float] = (),
    points: int | None = None,
    estimator: Estimator = "expectation",
    template: Template = "conv-dw",
    cut: Cut = "cumulative",
    recipe: str = DEFAULT,
    epochs: int | None = None,
    batch: int | None = None,
    rates: Mapping[str, float] | None = None,
    seeds: int = 1,
    train_images: int | None = None,
    cost_model: CostModel = "simulator",
    adc_bits: int = 0,
    train_noise: str | None = None,
    runtime: Runtime = "overlapped",
    device: Device = "cpu",
    amp: Amp | None = None,
    workers: int = 0,
    compiled: bool = False,
    channels_last: bool = False,
    accumulate: int = 1,
    jobs: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    redo: str | None = None,
    beside: Sequence[ANetwork] = (),
    inferences: int = STREAMED,
    example: Example | None = None,
    overrides: Overrides | None = None,
    carrier_w: float | None = None,
    report: Report = untold,
) -> Result:
    """Search mappings of a network on a SoC, or splits of it over a cluster; what it reports is simulated from the
    files that it leaves in `out` (runs/SOC-WORKLOAD, where nothing else is said).

    space: what is chosen: channels, operators, tiles, fusion, splits, or a chain such as `channels+tiles`. Channels and
    operators train the network on `data`, and then need one by name, `package.module:factory` or as a torch module;
    with epochs=0 costs alone decide where tiles are chosen, too. weights: a state_dict or .safetensors file of those
    that training begins with, in place of drawn ones. calibrate_only: nothing is trained: channels go by sensitivity,
    clips (by least squares, or a percentile) and biases by so many `calibration_images`. objective: what is to be small
    (latency; of tiles edp, of splits throughput). targets: what must hold, such as `latency=5ms`. mapping: where
    nothing is trained, whose cores are kept. estimate: what `calibrate` gave, to begin with. strengths, points,
    estimator, template, cut, seeds: as `TrainingConfig` has them. recipe and what follows it, but for seeds and
    runtime: the options of training, as `cosoc.search_options` explains them. beside: other networks at once, where
    nothing is trained.
    inferences: that each replay of splits streams. time_budget_s: of a search that trains nothing; of splits 600 where
    nothing is said, after which the best found stands beside a proven bound. example: of the input, see `inputs`.
    carrier_w: what a board draws beside a chip. train_noise: of analog cores, `all` or kinds with commas. jobs: none
    where nothing is said, as processes begin by importing the script, whose work may not be behind a check of
    `__name__`.
    report(done, total, what): called as it goes.

    Raises InputError for what cannot be searched, before anything is written. After KeyboardInterrupt `resume` goes on.
    """
    given_all = locals()
    from cosoc.search.spaces.chain import chain
    from cosoc.search.targets import targets as parsed_targets
    from cosoc.sim.figures import USUAL
    from cosoc.sim.figures import objective as parsed

    parts, bounds = chain(space), parsed_targets(targets)
    objective = objective or USUAL[parts[0]]
    parsed(objective)
    known = meant(parts, workload, epochs, calibrate_only)
    _refuse_idle(given_all, mode(space, calibrate_only, known), known)
    if strengths and bounds:
        raise InputError("--strengths and targets exclude each other; give one")
    if points is not None and (strengths or bounds):
        raise InputError("--points goes with neither --strengths nor targets, which say where points are; give one")
    folder = Path(out) if out is not None else default_folder(soc, workload)
    there = folder.exists()
    asked = _Asked(objective, bounds, seed, folder, resume, redo)
    theta = functools.partial(fitted_factors, estimate)
    try:
        if parts[0] == "splits":
            cluster = cast("ACluster", soc)
            return _splits(
                cluster, workload, parts[1:], inferences, example, overrides, carrier_w, time_budget_s, asked
            )(report)
        one = cast("ASoC", soc)
        if by_cost(parts, workload, epochs):
            given = (mapping, parts, template, runtime, time_budget_s, example, overrides)
            return _tiles(one, [workload, *beside], *given, theta, asked)(report)
        if epochs == 0:
            raise InputError(f"--epochs 0: --space {space} trains the network; {parts[0]}+tiles can do without")
        trained = cast(Trained, parts[0])
        from cosoc.search.training.compute import Compute
        from cosoc.search.training.parallel import folder_of_mine, together
        from cosoc.search.training.recipe import changed_recipe

        how = changed_recipe(recipe, batch, rates)
        if epochs is not None and not how.shares:
            raise InputError(f"epochs: recipe {how.name} says how many each phase has; leave it out")
        name, module = _trainable(workload, trained)
        from cosoc.inputs import one_input, soc_of
        from cosoc.search.training.calibrated import Calibration
        from cosoc.search.training.noise import kinds_of
        from cosoc.search.training.space import TrainingConfig, search_trained

        machine = soc_of(one, overrides)
        config = TrainingConfig(
            soc=machine, workload=name, module=module, space=trained, inner=parts[1:], template=template, cut=cut,
            weights=None if weights is None else Path(weights), calibrate_only=calibrate_only,
            calibration=Calibration(calibration_images, clip),
            input_shape=None if example is None else one_input(example).shape, data=data, objective=objective,
            strengths=tuple(strengths), targets=bounds, estimator=estimator, points=points or DEFAULT_POINTS,
            recipe=how, epochs=EPOCHS if epochs is None else epochs, seed=seed, seeds=seeds, runtime=runtime,
            resume=resume, redo=redo, theta=theta(machine), train_images=train_images, cost_model=cost_model,
            adc_bits=adc_bits, compute=Compute(device, amp, workers, compiled, channels_last, accumulate, jobs or 0),
            train_noise=() if train_noise is None else kinds_of(train_noise),
        )  # fmt: skip
        check = functools.partial(check_run_folder, folder, resume, redo)
        with together(device), folder_of_mine(folder, resume, check) as mine:
            return search_trained(replace(config, out=mine), report)
    except InputError:
        if not there:
            with contextlib.suppress(OSError):  # what holds a run stays
                folder.rmdir()
        raise


CALIBRATING = ("calibration_images", "clip")
TRAINING = ("strengths", "estimator", "recipe", "epochs", "batch", "rates", "seeds", "train_images", "device", "amp",
            "workers", "compiled", "channels_last", "accumulate", "train_noise")  # fmt: skip
COMMON = ("soc", "workload", "space", "objective", "targets", "seed", "out", "resume", "redo", "example", "overrides",
          "report")  # fmt: skip


def mode(space: str, calibrate_only: bool, known: frozenset[str]) -> str:
    """What decides which arguments mean something. known: those that do (`meant`)."""
    return "--calibrate-only" if calibrate_only and "calibrate_only" in known else f"--space {space}"


def meant(parts: Sequence[str], workload: ANetwork, epochs: int | None, calibrate_only: bool = False) -> frozenset[str]:
    """The arguments of `search` that mean something for a chain of spaces."""
    if parts[0] == "splits":
        return frozenset((*COMMON, "inferences", "carrier_w", "time_budget_s"))
    if by_cost(parts, workload, epochs):
        chained = {"channels": ["runtime"], "operators": ["runtime", "template"]}.get(parts[0], [])
        nothing_trained = ["epochs"] if epochs == 0 else []
        return frozenset((*COMMON, "mapping", "time_budget_s", "estimate", "beside", *nothing_trained, *chained))
    others = {"inferences", "time_budget_s", "mapping", "carrier_w", "beside"}
    if parts[0] != "channels":
        others |= {"weights", "calibrate_only", *CALIBRATING}
    else:
        others |= {"template", "cut", *(TRAINING if calibrate_only else CALIBRATING)}
    return frozenset(inspect.signature(search).parameters) - others


def _refuse_idle(given: dict[str, Any], mode: str, known: frozenset[str]) -> None:
    """InputError for an argument that is given and means nothing."""
    for name, parameter in inspect.signature(search).parameters.items():
        if name not in known and given[name] is not parameter.default and given[name] != parameter.default:
            raise InputError(f"{name}: means nothing with {mode}; leave it out")


def following() -> bool:
    """Whether torchrun has started this process beside a first one, which speaks for all."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def default_folder(soc: ASoC | ACluster, workload: ANetwork) -> Path:
    """Where a search leaves its results if nothing else is said: runs/SOC-WORKLOAD."""
    return Path("runs") / "-".join(Path(_called(one).replace(":", "_")).stem for one in (soc, workload))


def _called(one: object) -> str:
    if isinstance(one, (str, Path)):
        return str(one)
    return str(getattr(one, "name", type(one).__name__.lower()))


def by_cost(parts: Sequence[str], workload: ANetwork, epochs: int | None) -> bool:
    """Whether a chain on one chip is searched by cost alone: it chooses tiles, and has nothing to train: it begins with
    them, or the network is a file, which has shapes and no module, or a workload that is none of the built-in ones."""
    return "tiles" in parts and (parts[0] == "tiles" or epochs == 0 or not _is_module(workload))


def _is_module(workload: ANetwork) -> bool:
    from cosoc.search.training.nets import NETWORKS

    if isinstance(workload, (str, Path)):
        return ":" in str(workload) or str(workload) in NETWORKS
    return hasattr(workload, "named_modules")


def _trainable(workload: ANetwork, space: Trained) -> tuple[str, nn.Module | None]:
    """What a network that is trained is called, and itself where it is no name. InputError for a file: it has shapes,
    but no module to train."""
    name = _called(workload)
    if hasattr(workload, "named_modules"):
        return name, cast("nn.Module", workload)
    if not isinstance(workload, (str, Path)) or Path(workload).suffix.lower() in (".onnx", ".yaml", ".yml"):
        raise InputError(
            f"{name}: --space {space} trains the network, so it needs a torch module, not a file: give "
            "package.module:factory, such as mynet:build for a function build() in ./mynet.py that returns the "
            f"torch.nn.Module; --space tiles and {space}+tiles take files"
        )
    return name, None


def fitted_factors(estimate: Surrogate | Path | str | None, soc: SoC) -> Theta | None:
    """The factors of what `calibrate` gave; InputError unless they were fitted to this SoC and simulator."""
    if estimate is None:
        return None
    from cosoc.search import surrogate

    if isinstance(estimate, surrogate.Surrogate):
        surrogate.check(estimate, soc, "the estimate", f"run cosoc.calibrate again for {soc.name}")
        return estimate.factors
    return surrogate.load(Path(estimate), soc).factors


def _tiles(
    soc: ASoC, networks: Sequence[ANetwork], mapping: AMapping, parts: tuple[str, ...], template: Template,
    runtime: Runtime, budget_s: float | None, example: Example | None, overrides: Overrides | None,
    theta: Callable[[SoC], Theta | None], asked: _Asked,
) -> Callable[[Report], Result]:  # fmt: skip
    from cosoc.inputs import mapping_of, network_of, soc_of
    from cosoc.search.spaces.joint import Outer
    from cosoc.search.spaces.tile_search import TileConfig, search_tiles
    from cosoc.search.spaces.together_space import TogetherSpace, search_together

    machine = soc_of(soc, overrides)
    inputs = []
    for named in networks:
        network = network_of(named, example)
        given = mapping_of(mapping, network, machine, runtime if isinstance(mapping, (str, Path)) else None)
        inputs.append((machine, network, given))
    if parts[0] == "operators":
        named_too = zip(inputs, networks, strict=True)
        inputs = [_with_choices(*made, _called(named), mapping, template) for made, named in named_too]
    factors = theta(machine)
    configs = [
        TileConfig(
            one, network, given, asked.objective, budget_s, asked.seed, asked.out, asked.resume, asked.redo, factors,
            "fusion" in parts, cast(Outer, parts[0]), asked.targets,
        )
        for one, network, given in inputs
    ]  # fmt: skip
    # what is wrong with a space is said before a folder is made
    made = configs[0].space() if len(configs) == 1 else TogetherSpace(configs)
    check_run_folder(asked.out, asked.resume, asked.redo)
    if isinstance(made, TogetherSpace):
        return functools.partial(search_together, configs, space=made)
    return functools.partial(search_tiles, configs[0], space=made)


def _with_choices(
    soc: SoC, workload: Workload, given: NetworkMapping, name: str, mapping: AMapping, template: Template
) -> tuple[SoC, Workload, NetworkMapping]:
    """A built-in network with its blocks as choices; a workload that has alternatives, or is a file, as it is."""
    from cosoc.inputs import mapping_of
    from cosoc.search.training.nets import NETWORKS, build

    if name not in NETWORKS:
        return soc, workload, given
    from cosoc.search.spaces.operators import with_choices

    opened = with_choices(build(name), NETWORKS[name].input_shape, soc, template, name).workload
    return soc, opened, mapping_of(mapping, opened, soc, given.runtime)


def _splits(
    cluster: ACluster, workload: ANetwork, inner: tuple[str, ...], inferences: int, example: Example | None,
    overrides: Overrides | None, carrier_w: float | None, budget_s: float | None, asked: _Asked,
) -> Callable[[Report], Result]:  # fmt: skip
    from cosoc.inputs import cluster_of, network_of
    from cosoc.search.spaces.split_space import SECONDS, SplitConfig, SplitSpace, search_splits

    config = SplitConfig(
        cluster_of(cluster, overrides, carrier_w), network_of(workload, example), inferences, inner=inner,
        objective=asked.objective, targets=asked.targets, seed=asked.seed, out=asked.out, resume=asked.resume,
        redo=asked.redo, time_budget_s=SECONDS if budget_s is None else budget_s,
    )  # fmt: skip
    made = SplitSpace(config)  # what is wrong with it is said before a folder is made
    check_run_folder(asked.out, asked.resume, asked.redo)
    return functools.partial(search_splits, config, space=made)


def check_run_folder(folder: Path, resume: bool, redo: str | None) -> None:
    """Make the folder of a run, or see that the one there can be gone on with. InputError where neither can be."""
    from cosoc.search import manifest

    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--out {folder}: is a file; a folder is needed")
        used = folder.is_dir() and any(folder.iterdir())
        if used and not resume:
            raise InputError(f"--out {folder}: is not empty; --resume goes on with it, or name another folder")
        if resume and not used:
            raise InputError(f"--resume: there is no run in {folder}")
        if redo is not None and not resume:
            raise InputError(f"--redo {redo}: goes with --resume; give both, or neither")
        if resume and redo is None:
            manifest.look_at(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made: {error.strerror}") from None
    check_writable("--out", folder / "result.json")


__all__ = [
    "DEFAULT_POINTS", "STREAMED", "Cut", "Device", "Estimator", "Template", "Trained", "by_cost", "default_folder",
    "fitted_factors", "following", "meant", "search",
]  # fmt: skip

"""A finished run of channels or operators, read back: its data, and the network of each mapping as it was trained.

Files are read by the run's manifest. Code that a run names (`package.module:factory`) is imported only where the user
trusts it (`cosoc.sim.trust`); a network that was handed over as a module is asked for again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cosoc.search.manifest import Files
from cosoc.search.result import Found, found_from
from cosoc.search.runfolder import stored
from cosoc.search.spaces.channels import MixedNet, fix
from cosoc.search.spaces.opened import Opened
from cosoc.search.training.data import Data
from cosoc.search.training.space import SPLIT, TrainingConfig, data_of, opened
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import soc_from
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.yamlfile import read_json, read_plain
from cosoc.sim.importers.zoo import is_zoo
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.trust import check_trusted

# Of a configuration, what networks and data follow from: not how points were searched and trained.
BUILT_BY = ("workload", "space", "template", "cut", "data", "input_shape", "seed", "seeds", "runtime", "train_images",
            "adc_bits", "train_noise")  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A network that was trained. metric: of the test part, as the run measured it."""

    net: MixedNet
    metric: float


@dataclass(frozen=True)
class TrainedRun:
    """A finished run. config: what of it networks and data follow from; found: its mappings, points
    first; opened: the network with its choices open."""

    files: Files
    config: TrainingConfig
    data: Data
    opened: Opened
    found: tuple[Found, ...]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.files.folder

    def mapping(self, one: Found) -> Mapping:
        """What stands in a mapping's file."""
        return load_mapping(self.files.path(one.mapping), self.opened.workload, self.config.soc)

    def trainings(self, one: Found) -> list[Training]:
        """The networks of a mapping, on the CPU, in evaluation mode: one for each training."""
        by = one.about.get("trained_as", one.name)
        labels = [by, *(f"{by}.seed_{self.config.seed + i}" for i in range(1, self.config.seeds))]
        return [self._training(self.mapping(one), f"{label}.tune") for label in labels]

    def _training(self, mapping: Mapping, phase: str) -> Training:
        net = self.opened.quantised()
        net.set_adc(self.config.converter_bits)
        weights = stored(self.files, f"weights/{phase}.pt")
        try:
            net.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.folder}: the network that it names is not the one of its weights: {reason}"
            ) from None
        chosen = {}
        for name, layer in net.layers.items():
            plan = mapping.layers[name]
            counts = torch.tensor([plan.channels_on(core) for core in layer.cores])
            chosen[name] = torch.repeat_interleave(torch.arange(len(counts)), counts)
        fix(net, chosen)
        net.eval()
        done = read_json(self.files.path(f"done/{phase}.json"))
        return Training(net, float(done["found"][self.data.task.measured.name]))


def read_run(folder: Path, module: nn.Module | None = None) -> TrainedRun:
    """A finished run of `cosoc search` that trained a network. module: the network, where the run was given it as
    such. InputError for another folder, a run that has not ended, and code that nobody trusts."""
    files = Files(folder, to_read=True)
    plain = read_plain(files.path("config.yaml"))
    if not isinstance(plain, dict) or plain.get("space") not in ("channels", "operators") or "epochs" not in plain:
        raise InputError(f"{folder}: its search trained no network; one of channels or operators does")
    if "result.json" not in files:
        raise InputError(f"{folder}: the run has not ended; `cosoc search --resume` goes on with it")
    config = _config(plain, folder, module)
    data = data_of(config)
    _check_split(files, data)
    metric, result = data.task.measured, read_json(files.path("result.json"))
    found = [
        found_from(one, known, metric) for part, known in (("points", False), ("known", True)) for one in result[part]
    ]
    return TrainedRun(files, config, data, opened(config, data), tuple(found))


def _check_split(files: Files, data: Data) -> None:
    """InputError where the data are others by now: the test part could have items that were trained on."""
    was, now = json.loads(files.text(SPLIT)) if SPLIT in files else data.split(), data.split()
    for part in now:
        if was.get(part) != now[part]:
            had, has = (f"{one[part]['items']:,}" for one in (was, now))
            what = f"{had} items then, {has} now" if had != has else f"{has} items of other classes"
            raise InputError(f"{files.folder}: {data.name} is no longer the data that it trained on: {part}: {what}")


def _config(plain: MappingOf[str, Any], folder: Path, module: nn.Module | None) -> TrainingConfig:
    where = f"{folder / 'config.yaml'}: soc"
    kept: dict[str, Any] = {
        key: tuple(plain[key]) if isinstance(plain[key], list) else plain[key] for key in BUILT_BY if key in plain
    }
    data = kept["data"] if not Path(kept["data"]).exists() else ""  # a path may have a colon
    for spec in (data,) if module is not None else (kept["workload"], data):
        if ":" in spec and not is_zoo(spec):
            check_trusted(spec)
    return TrainingConfig(**kept, points=0, manual=(), soc=soc_from(plain["soc"], where), module=module, out=folder)

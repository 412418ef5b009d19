"""What a worker does with a task. All that goes in and comes out is plain data, so that it can cross a network."""

from __future__ import annotations

import functools
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from cosoc.search.campaigns.store import simulated_before
from cosoc.search.campaigns.trained import config_keys
from cosoc.search.manifest import Damaged
from cosoc.search.spaces.chain import chain
from cosoc.search.surrogate import simulator_digest
from cosoc.sim.errors import Deadlock, InputError
from cosoc.sim.figures import Figures
from cosoc.sim.files.catalog import bounded_cluster, device_soc, find_cluster, find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import KnownSteps, lowered
from cosoc.sim.machine.program import digest
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.energy import unit_power_mw
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.price import program_figures
from cosoc.sim.simulate import engine_run
from cosoc.sim.tiler import TilingCache, placed

FIGURES = tuple(field.name for field in fields(Figures))


@functools.cache
def engine_version() -> str:
    """A digest of what decides a program's result."""
    return simulator_digest()


def perform(kind: str, spec: Mapping[str, Any], folder: str, memo: str | None) -> dict[str, Any]:
    """Do a task: {"result": ...} or {"error": ...}, with wall_s. folder: of a search's run; memo: a database to look
    simulations up in. Never raises but for what ends a process."""
    start = time.perf_counter()
    try:
        found = _simulate(spec, memo) if kind == "simulate" else _search(spec, Path(folder))
        out: dict[str, Any] = {"result": found}
    except Damaged as error:  # of the search's own folder
        out = {"error": f"{error.what}; --resume --redo {Path(folder).name} runs the search anew"}
    except (InputError, Deadlock) as error:
        out = {"error": str(error)}
    except Exception as error:  # a task that fails in a new way must not stop the others
        out = {"error": f"{type(error).__name__}: {error}"}
    return out | {"wall_s": time.perf_counter() - start}


def perform_all(batch: Sequence[tuple[str, Mapping[str, Any], str]]) -> list[dict[str, Any]]:
    """Do tasks one after the other: (kind, spec, folder) each, nothing looked up."""
    return [perform(kind, spec, folder, None) for kind, spec, folder in batch]


@functools.lru_cache(maxsize=64)
def _soc(name: str, settings: tuple[tuple[str, str], ...]) -> SoC:
    return find_soc(name, dict(settings))


@functools.lru_cache(maxsize=64)
def _known(name: str, settings: tuple[tuple[str, str], ...]) -> tuple[TilingCache, KnownSteps]:
    """What tasks on one SoC have in common: tiles that were chosen, and steps that were walked."""
    return TilingCache(), KnownSteps()


@functools.lru_cache(maxsize=64)
def _workload(name: str) -> Workload:
    return find_workload(name)


def cluster_with(name: str, settings: Mapping[str, str]) -> Cluster:
    """A cluster with values of its file, and of its devices' SoC files (devices.NAME.set.PATH), replaced."""
    inside = {key: value for key, value in settings.items() if in_device(key)[0]}
    cluster = find_cluster(name, {key: value for key, value in settings.items() if key not in inside})
    devices = dict(cluster.devices)
    for key, value in inside.items():
        device, path = in_device(key)
        if device not in devices:
            raise InputError(f"{key}: {cluster.name} has no device {device!r}; it has {', '.join(devices)}")
        devices[device] = devices[device].model_copy(update={"set": {**devices[device].set, path: value}})
    return cluster.model_copy(update={"devices": devices})


def in_device(key: str) -> tuple[str, str]:
    """The device, and the path in its SoC's file, of a value devices.NAME.set.PATH; '' twice for another value."""
    device, path = key.split(".", 3)[1::2] if _IN_SOC.match(key) else ("", "")
    return device, path


_IN_SOC = re.compile(r"devices\.[^.]+\.set\.")


def peak_power_mw(soc: SoC) -> float:
    """What is always drawn, and the powers of all cores and DMAs at once."""
    return soc.idle_power_mw + sum(unit_power_mw(soc, unit) for unit in (*soc.cores, *soc.dmas))


def area_mm2(soc: SoC) -> float:
    """What the SoC file states, or its technology has of its parts; 0 where there is neither."""
    return soc.area_mm2 or sum(memory.area_mm2 for memory in soc.memories.values())


def boundary_of(spec: Mapping[str, Any]) -> str | None:
    """How far the energies of a task's SoC reach, which no other value of its file changes; InputError for a SoC that
    cannot be read."""
    stated = tuple((path, value) for path, value in spec["set"].items() if path == "energy_boundary")
    return _soc(spec["soc"], stated).energy_boundary


def socs_of(spec: Mapping[str, Any]) -> list[SoC]:
    """The SoC of a task, or those of all devices of its cluster; InputError for one that cannot be read."""
    if chain(spec.get("space", "tiles"))[0] != "splits":
        return [_soc(spec["soc"], tuple(spec["set"].items()))]
    cluster = cluster_with(spec["soc"], spec["set"])
    return [device_soc(cluster, name) for name, device in cluster.devices.items() for _ in range(device.count)]


def chip(socs: Sequence[SoC]) -> dict[str, float]:
    """Area and peak power of SoCs together. An area is 0 where one of them states none."""
    areas = [area_mm2(soc) for soc in socs]
    return {
        "area_mm2": sum(areas) if all(areas) else 0.0,
        "peak_power_mw": sum(peak_power_mw(soc) for soc in socs),
    }


def _simulate(spec: Mapping[str, Any], memo: str | None) -> dict[str, Any]:
    soc, workload = _soc(spec["soc"], tuple(spec["set"].items())), _workload(spec["workload"])
    tilings, steps = _known(spec["soc"], tuple(spec["set"].items()))
    at = placed(find_mapping(spec["mapping"], workload, soc, spec["runtime"]), workload, soc, tilings)
    program = lowered(at, known=steps)
    key = _priced(digest(program), soc)
    before = simulated_before(memo, key, engine_version()) if memo is not None else None
    remembered = before is not None
    if before is not None:
        found = {name: before[name] for name in FIGURES}
    else:
        found = asdict(program_figures(program, at, engine_run("fast")))
    return {
        **found,
        **chip([soc]),
        "energy_boundary": soc.energy_boundary,
        "digest": key,
        "engine": engine_version(),
        "remembered": remembered,
    }


def _priced(program: str, soc: SoC) -> str:
    """A digest of what decides a program's figures: itself, and the powers, which it has no part in."""
    powers = soc.idle_power_mw, [(unit, unit_power_mw(soc, unit)) for unit in (*soc.cores, *soc.dmas)]
    return hashlib.sha256(f"{program} {powers!r}".encode()).hexdigest()


def _search(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    common = {"objective": spec["objective"], "seed": spec["seed"], "out": folder}
    if folder.is_symlink() or folder.parent.is_symlink():
        raise InputError(f"{folder}: is a link; a campaign writes into folders of its own")
    common["resume"] = folder.exists() and any(folder.iterdir())
    first, *inner = chain(spec["space"])
    if first == "splits":
        from cosoc.search.spaces.split_space import SplitConfig, search_splits

        cluster, boundary = bounded_cluster(cluster_with(spec["soc"], spec["set"]))
        config = SplitConfig(cluster, _workload(spec["workload"]), spec["inferences"], inner=tuple(inner), **common)
        content = search_splits(config, _silent).content()
        return {"content": content, **chip(socs_of(spec)), "energy_boundary": boundary}
    soc = _soc(spec["soc"], tuple(spec["set"].items()))
    if first == "tiles":
        from cosoc.search.spaces.tile_search import TileConfig, search_tiles

        workload = _workload(spec["workload"])
        given = find_mapping(spec["mapping"], workload, soc, "overlapped")
        tiles = TileConfig(soc, workload, given, time_budget_s=spec["time_budget_s"], fusion=bool(inner), **common)
        content = search_tiles(tiles, _silent).content()
        return {"content": content, **chip([soc]), "energy_boundary": soc.energy_boundary}
    from cosoc.search.training.space import SpaceName, TrainingConfig, search_trained

    trained = TrainingConfig(
        soc, spec["workload"], cast(SpaceName, first), spec.get("template", "conv-dw"), data=spec["data"],
        strengths=(spec["strength"],) if "strength" in spec else (), epochs=spec.get("epochs", 0), manual=(),
        inner=tuple(inner), **config_keys(spec), **common,
    )  # fmt: skip
    content = search_trained(trained, _silent).content()
    return {"content": content, **chip([soc]), "energy_boundary": soc.energy_boundary}


def _silent(done: int, total: int, what: str) -> None:
    """Progress is that of the campaign, not of one task."""

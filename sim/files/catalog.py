"""SoCs and clusters by name or file: the built-in ones, and the user's."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from pydantic import SerializeAsAny, ValidationError

from cosoc.sim.cores.own import AnyCore
from cosoc.sim.errors import InputError
from cosoc.sim.files.mending import Mended, Place
from cosoc.sim.files.names import (
    cluster_folder,
    list_clusters,
    list_socs,
    list_technologies,
    soc_folder,
    technology_folder,
)
from cosoc.sim.files.yamlfile import Range, load_model, ranges_of, read_plain, read_text
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.soc import BOUNDARIES, Boundary, Core, Name, SoC, mixed
from cosoc.sim.model.technology import Technology, made_of, modelled, sized


class SoCFile(SoC):
    """A SoC whose cores are any of the known models, or of the user's: what a YAML file is read into."""

    cores: dict[Name, SerializeAsAny[AnyCore]]


def load_soc(path: Path, overrides: Mapping[str, str] | None = None) -> SoC:
    """Read and check a SoC file; `overrides` are dotted paths to values. InputError names file, line and column. Its
    figures are those at the voltage that it runs at."""
    return _at_its_sizes(path, overrides or {}).at_its_voltage()


def _at_its_sizes(path: Path, overrides: Mapping[str, str]) -> SoC:
    """A SoC with the figures of its sizes, where it names a technology: what a file states is of the sizes that it
    states, but for those under `figures_at`; what is set may be other sizes."""

    text = read_text(path)  # once, as a pipe can be

    def problems(soc: SoC, mended: Mended) -> list[tuple[Place, str]]:
        out = soc.problems(mended)
        if soc.technology is not None and not out and not mended.places:
            out += _sizes_problems(path, text, soc)
        return out

    soc = load_model(path, SoCFile, overrides, problems=problems, ranged=True, text=text)
    if soc.technology is None:
        return soc
    technology = find_technology(soc.technology)
    if soc.energies == "technology":
        return modelled(soc, technology)
    return sized(soc, _found(path, text, soc) if overrides or soc.figures_at else soc, technology)


def _found(path: Path, text: str, soc: SoC) -> SoC:
    """The SoC of a file at the sizes that its figures are of."""
    return _found_at(path, text, tuple((key, json.dumps(value)) for key, value in soc.figures_at.items()))


@functools.lru_cache(maxsize=64)
def _found_at(path: Path, text: str, sizes: tuple[tuple[str, str], ...]) -> SoC:
    """The same, once for all settings of a sweep."""
    return load_model(path, SoCFile, dict(sizes), problems=SoC.problems, text=text)


def _sizes_problems(path: Path, text: str, soc: SoC) -> list[tuple[Place, str]]:
    """What is wrong with the technology that a SoC names, or with the sizes that its figures are said to be of."""
    try:
        technology = find_technology(str(soc.technology))
    except InputError as error:
        return [(("technology",), line) for line in error.lines]
    out: list[tuple[Place, str]] = []
    if technology.compute_cell_um2 is None and any(core.cell_bits for core in made_of(soc)):
        out.append((("technology",), f"{technology.name} has no compute_cell_um2, and a core computes in memory"))
    for key, value in soc.figures_at.items():
        try:
            load_model(path, SoCFile, {key: json.dumps(value)}, text=text)
        except InputError as error:
            what = str(error).removeprefix(f"{path}:").removeprefix(f"--set {key}={json.dumps(value)}: ")
            out.append((("figures_at", key), re.sub(r"^\d+:\d+: ", "", what)))
    return out


@functools.cache
def _built_in(technology: str) -> Technology:
    return load_model(technology_folder() / f"{technology}.yaml", Technology, ranged=True)


def find_technology(name_or_path: str) -> Technology:
    """A built-in technology by name, or a technology file by path. InputError names file, line and column."""
    if name_or_path in list_technologies():
        return _built_in(name_or_path)
    if name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).exists():
        return load_model(Path(name_or_path), Technology, ranged=True)
    known = ", ".join(list_technologies())
    raise InputError(f"no technology named {name_or_path!r}; there is {known}, or give a .yaml file")


def soc_from(content: Any, what: str) -> SoC:
    """A SoC as a run holds it, as plain data. what: what errors call it. InputError where it is none."""
    try:
        soc = SoCFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{what}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for place, fault in soc.problems():
        raise InputError(f"{what}.{'.'.join(map(str, place))}: {fault}")
    return soc.at_its_voltage()


def find_soc(name_or_path: str, overrides: Mapping[str, str] | None = None) -> SoC:
    """A built-in SoC by name, or a SoC file by path."""
    return load_soc(_soc_path(name_or_path), overrides)


def file_content(name_or_path: str) -> Any:
    """The file of a SoC or cluster as plain data: what it states, without defaults."""
    return read_plain(_cluster_path(name_or_path) if is_cluster(name_or_path) else _soc_path(name_or_path))


def check_values(name_or_path: str, values: Mapping[str, str]) -> None:
    """InputError for the first of some values, by dotted path, that the file of a SoC or cluster has no key for, or
    whose key cannot have it. Whether they agree with one another is left to who loads it."""
    if is_cluster(name_or_path):
        load_model(_cluster_path(name_or_path), Cluster, values)
    else:
        load_model(_soc_path(name_or_path), SoCFile, values)


def soc_ranges(name_or_path: str, fixed: Container[str] = ()) -> tuple[Range, ...]:
    """The ranges that a SoC's file states, but of keys that are fixed, and of a core's noise, from which no time or
    energy follows."""
    return tuple(
        one
        for one in ranges_of(_soc_path(name_or_path))
        if one.path not in fixed and not re.match(r"cores\.[^.]+\.noise\.", one.path)
    )


def _soc_path(name_or_path: str) -> Path:
    if name_or_path in list_socs():
        return soc_folder() / f"{name_or_path}.yaml"
    if name_or_path in list_clusters():
        raise InputError(f"{name_or_path} is a cluster, and a SoC is needed here, such as one of its devices")
    if name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).exists():
        return Path(name_or_path)
    raise InputError(f"no SoC named {name_or_path!r}; there is {', '.join(list_socs())}, or give a .yaml file")


def load_cluster(path: Path, overrides: Mapping[str, str] | None = None) -> Cluster:
    """Read and check a cluster file and the SoC files that it names. InputError names file, line and column."""

    def problems(cluster: Cluster, mended: Mended) -> list[tuple[tuple[str | int, ...], str]]:
        out = cluster.problems(mended)
        readable = True
        for name, device in cluster.devices.items():
            try:
                device_soc(cluster, name)
            except InputError as error:
                readable = False
                out += [(("devices", name, "set" if device.set else "soc"), line) for line in error.lines]
        return out + _twice(cluster) if readable and not mended.entries("devices") else out

    return load_model(path, Cluster, overrides, problems=problems)


def _stated(cluster: Cluster) -> dict[str, Boundary | None]:
    """How far the energies of each device's SoC reach."""
    known = {device.kind: name for name, device in cluster.devices.items()}
    reaches = {kind: device_soc(cluster, name).energy_boundary for kind, name in known.items()}
    return {name: reaches[device.kind] for name, device in cluster.devices.items()}


def _twice(cluster: Cluster) -> list[tuple[tuple[str | int, ...], str]]:
    """Carriers of devices whose energies have them already."""
    stated = _stated(cluster)
    widest = max((BOUNDARIES.index(one) for one in stated.values() if one is not None), default=-1)
    return [
        (("devices", name, "carrier_w"), f"its energy is that of a {one} already, as the others'; remove the key")
        for name, one in stated.items()
        if cluster.devices[name].carrier_w and one is not None and BOUNDARIES.index(one) == widest
    ]


def bounded_cluster(cluster: Cluster, carrier_w: float | None = None) -> tuple[Cluster, Boundary | None]:
    """A cluster whose devices' energies all reach equally far, and how far; None where none of them says.

    A device that stops before the others needs a carrier, what the board draws that it is on: its own `carrier_w`, or
    this one. InputError where one is missing, or is given and nothing lacks it.
    """
    stated = _stated(cluster)
    silent = [name for name, one in stated.items() if one is None]
    if len(silent) == len(stated):
        if carrier_w is not None:
            raise InputError("--carrier: no device's SoC file states an energy_boundary; leave it out")
        return cluster, None
    if silent:
        soc = cluster.devices[silent[0]].soc
        raise InputError(f"{cluster.name}: the SoC of {silent[0]} ({soc}) states no energy_boundary; others do: add it")
    widest = max((one for one in stated.values() if one is not None), key=BOUNDARIES.index)
    lacking = [name for name, one in stated.items() if one != widest and not cluster.devices[name].carrier_w]
    if carrier_w is None:
        if lacking:
            raise InputError(
                f"{cluster.name}: {mixed(stated)}; give {lacking[0]} a carrier_w in the file, or --carrier W"
            )
        return cluster, widest
    if not lacking:
        raise InputError(
            f"--carrier: the energies of all devices of {cluster.name} reach to the {widest}; leave it out"
        )
    devices = {
        name: device.model_copy(update={"carrier_w": carrier_w}) if name in lacking else device
        for name, device in cluster.devices.items()
    }
    return cluster.model_copy(update={"devices": devices}), widest


def boundary_of(machine: SoC | Cluster) -> Boundary | None:
    """How far the energies of a SoC, or of all devices of a cluster, carriers included, reach; None where that is not
    known or not the same."""
    if isinstance(machine, SoC):
        return machine.energy_boundary
    try:
        return bounded_cluster(machine)[1]
    except InputError:
        return None


def device_soc(cluster: Cluster, device: str) -> SoC:
    """The SoC that a device of a cluster is."""
    name, settings = cluster.devices[device].soc, cluster.devices[device].set
    built_in = soc_folder() / f"{name}.yaml"
    path = built_in if Path(name).name == name and built_in.is_file() else Path(name)
    written = path.stat() if path.is_file() else None
    return _unchanged_soc(name, tuple(settings.items()), written and (written.st_mtime_ns, written.st_size))


@functools.lru_cache(maxsize=1024)
def _unchanged_soc(name: str, settings: tuple[tuple[str, str], ...], written: tuple[int, int] | None) -> SoC:
    """A SoC as a cluster asks for it, again and again: read once for as long as its file is as it was written."""
    return find_soc(name, dict(settings))


def find_cluster(name_or_path: str, overrides: Mapping[str, str] | None = None) -> Cluster:
    """A built-in cluster by name, or a cluster file by path."""
    return load_cluster(_cluster_path(name_or_path), overrides)


def _cluster_path(name_or_path: str) -> Path:
    if name_or_path in list_clusters():
        return cluster_folder() / f"{name_or_path}.yaml"
    if name_or_path in list_socs():
        raise InputError(f"{name_or_path} is one SoC, and a cluster is needed here, such as {list_clusters()[0]}")
    if name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).exists():
        return Path(name_or_path)
    raise InputError(f"no cluster named {name_or_path!r}; there is {', '.join(list_clusters())}, or give a .yaml file")


def is_cluster(name_or_path: str) -> bool:
    """Whether a built-in cluster has that name, or a file with that path names devices, as clusters do and SoCs do
    not. False for a file that cannot be read: who loads it says why."""
    if name_or_path in list_clusters():
        return True
    path = Path(name_or_path)
    if name_or_path in list_socs() or not path.is_file():
        return False
    try:
        content = read_plain(path)
    except InputError:
        return False
    return isinstance(content, dict) and "devices" in content and "cores" not in content


def cluster_json_schema() -> dict[str, Any]:
    """The JSON schema of a cluster file."""
    schema: dict[str, Any] = json.loads(json.dumps(Cluster.model_json_schema(by_alias=True)))
    return schema


def technology_json_schema() -> dict[str, Any]:
    """The JSON schema of a technology file."""
    schema: dict[str, Any] = json.loads(json.dumps(Technology.model_json_schema()))
    return schema


def json_schema() -> dict[str, Any]:
    """The JSON schema of a SoC file, for editors and other tools."""
    schema: dict[str, Any] = json.loads(json.dumps(SoCFile.model_json_schema(by_alias=True)))
    return schema


__all__ = [
    "Core", "SoCFile", "boundary_of", "bounded_cluster", "check_values", "cluster_folder", "cluster_json_schema",
    "device_soc", "file_content", "find_cluster", "find_soc", "find_technology", "is_cluster", "json_schema",
    "list_clusters", "list_socs", "load_cluster", "load_soc", "soc_folder", "soc_ranges", "technology_json_schema",
]  # fmt: skip

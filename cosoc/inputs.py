"""What is simulated or searched, as a user names it in Python: a name, a path, or the thing itself.

Names and paths mean what they mean on the command line (`files`). A network may be a torch module, too, with an example
of its input, batch first: a tensor, or its sizes; several by their names; or a `Reading`, which says more. What is a
thing already is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import bounded_cluster, find_cluster, find_soc
from cosoc.sim.files.mapping_file import find_cluster_mapping, find_mapping
from cosoc.sim.files.reading import Reading
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.importers.build import Input
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload, multiplied

if TYPE_CHECKING:  # slow to import
    from torch import Tensor, nn

Overrides: TypeAlias = MappingOf[str, object]  # dotted paths of a file's keys -> values, as `--set` takes them
ASoC: TypeAlias = str | Path | SoC
ACluster: TypeAlias = str | Path | Cluster
AMapping: TypeAlias = str | Path | Mapping
ANetwork: TypeAlias = "str | Path | Workload | nn.Module"
Example: TypeAlias = "Tensor | Sequence[int] | MappingOf[str, Tensor | Sequence[int]] | Reading"


def soc_of(given: ASoC, overrides: Overrides | None = None) -> SoC:
    """A SoC by name or path, its file's values overridden; or as it is. InputError for overrides of one as it is."""
    if isinstance(given, SoC):
        _as_it_is(given.name, overrides)
        return given
    return find_soc(str(given), _texts(overrides))


def cluster_of(given: ACluster, overrides: Overrides | None = None, carrier_w: float | None = None) -> Cluster:
    """The same for a cluster, whose energies can be added up. carrier_w: what a board draws beside a chip, W."""
    if isinstance(given, Cluster):
        _as_it_is(given.name, overrides)
        return bounded_cluster(given, carrier_w)[0]
    return bounded_cluster(find_cluster(str(given), _texts(overrides)), carrier_w)[0]


def _as_it_is(name: str, overrides: Overrides | None) -> None:
    if overrides:
        raise InputError(f"{name}: overrides are of a name or a file, and this is an object; name its file instead")


def _texts(overrides: Overrides | None) -> dict[str, str]:
    return {path: str(value) for path, value in (overrides or {}).items()}


def network_of(given: ANetwork, example: Example | None = None, batch: int = 1) -> Workload:
    """A network by name, path or `package.module:factory`, as a torch module, or as it is. example: its inputs, where a
    module, a factory or an ONNX file of open sizes needs them. batch: items that go through each layer together."""
    reading = None if example is None else reading_of(example)
    if isinstance(given, Workload):
        if reading is not None:
            raise InputError(f"{given.name} is a workload, which has its input's sizes; leave the example out")
        found = given
    elif isinstance(given, (str, Path)):
        found = find_workload(str(given), reading)
    else:
        found = _of_module(given, reading)
    return multiplied(found, batch)


def _of_module(module: nn.Module, reading: Reading | None) -> Workload:
    name = type(module).__name__
    if not hasattr(module, "named_modules"):
        raise InputError(f"a {name} is no network: a name, a path, a workload or a torch.nn.Module is needed")
    if reading is None or not reading.shapes or any(len(shape) < 2 for _, shape in reading.shapes):
        found = "none" if reading is None else "; ".join(",".join(map(str, shape)) for _, shape in reading.shapes)
        raise InputError(f"{name} needs an example of its input, batch first, such as (1, 3, 32, 32); found {found}")
    from cosoc.sim.importers.build import Input
    from cosoc.sim.importers.torch_export import from_module

    types = dict(reading.dtypes)
    inputs = [Input(key, shape[1:], types.get(key, "")) for key, shape in reading.shapes]
    network = from_module(module, inputs, name.lower(), cut_at=reading.cut_at)
    return multiplied(network, reading.batch)


def reading_of(example: Example) -> Reading:
    """An example as what a reader asks: sizes, and the types of whole numbers, such as token ids."""
    if isinstance(example, Reading):
        return example
    if isinstance(example, MappingOf):
        places: dict[str, Tensor | Sequence[int]] = dict(example)
    else:
        places = {"": example}
    shapes = tuple((name, sizes(one)) for name, one in places.items())
    types = ((name, str(getattr(one, "dtype", "")).removeprefix("torch.")) for name, one in places.items())
    return Reading(shapes, tuple((name, dtype) for name, dtype in types if dtype.startswith(("int", "uint", "bool"))))


def sizes(example: Tensor | Sequence[int]) -> tuple[int, ...]:
    """A tensor's sizes, or sizes as they are."""
    return tuple(int(size) for size in getattr(example, "shape", example))


def one_input(example: Example) -> Input:
    """The one input of a network that is trained, batch first. InputError for several, or one by name."""
    asked = reading_of(example)
    if len(asked.shapes) != 1 or asked.shapes[0][0]:
        raise InputError("a network that is trained has one input, such as (1, 3, 32, 32), without a name")
    return Input("", asked.shapes[0][1], dict(asked.dtypes).get("", ""))


def mapping_of(
    given: AMapping, workload: Workload, soc: SoC, runtime: Runtime | None = None, objective: str | None = None
) -> Mapping:
    """A mapping by rule, name or path, or as it is. objective: what a rule that chooses makes small. InputError for
    a runtime or an objective of one as it is."""
    if isinstance(given, Mapping):
        _own_runtime(given, runtime)
        if objective is not None:
            raise InputError(f"mapping {given.name} is given, so objective {objective} chooses nothing; leave it out")
        return given
    return find_mapping(str(given), workload, soc, runtime, objective)


def cluster_mapping_of(
    given: AMapping | None, workload: Workload, cluster: Cluster, runtime: Runtime | None = None
) -> Mapping:
    """The same for a cluster, where none has a name."""
    if isinstance(given, Mapping):
        _own_runtime(given, runtime)
        return given
    return find_cluster_mapping(None if given is None else str(given), workload, cluster, runtime)


def _own_runtime(mapping: Mapping, runtime: Runtime | None) -> None:
    if runtime is not None and runtime != mapping.runtime:
        raise InputError(f"mapping {mapping.name} says {mapping.runtime}; found runtime {runtime}; leave one out")


__all__ = [
    "ACluster", "AMapping", "ANetwork", "ASoC", "Example", "Overrides", "Reading", "cluster_mapping_of", "cluster_of",
    "mapping_of", "network_of", "one_input", "reading_of", "sizes", "soc_of",
]  # fmt: skip

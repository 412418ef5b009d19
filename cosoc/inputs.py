"""What is simulated or searched, as a user names it in Python: a name, a path, or the thing itself.

Names and paths mean what they mean on the command line (`files`). A network may be a torch module, too, with an example
of its input, batch of one first: a tensor, or its sizes. What is a thing already is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import bounded_cluster, find_cluster, find_soc
from cosoc.sim.files.mapping_file import find_cluster_mapping, find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload, batched

if TYPE_CHECKING:  # slow to import
    from torch import Tensor, nn

Overrides: TypeAlias = MappingOf[str, object]  # dotted paths of a file's keys -> values, as `--set` takes them
ASoC: TypeAlias = str | Path | SoC
ACluster: TypeAlias = str | Path | Cluster
AMapping: TypeAlias = str | Path | Mapping
ANetwork: TypeAlias = "str | Path | Workload | nn.Module"
Example: TypeAlias = "Tensor | Sequence[int]"


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
    """A network by name, path or `package.module:factory`, as a torch module, or as it is. example: its input, where a
    module, a factory or an ONNX file of open sizes needs one. batch: images that go through each layer together."""
    shape = None if example is None else sizes(example)
    if isinstance(given, Workload):
        if shape is not None:
            raise InputError(f"{given.name} is a workload, which has its input's sizes; leave the example out")
        return batched(given, batch)
    if isinstance(given, (str, Path)):
        return batched(find_workload(str(given), shape), batch)
    name = type(given).__name__
    if not hasattr(given, "named_modules"):
        raise InputError(f"a {name} is no network: a name, a path, a workload or a torch.nn.Module is needed")
    if shape is None or len(shape) < 2 or shape[0] != 1:
        found = "none" if shape is None else ",".join(map(str, shape))
        raise InputError(f"{name} needs an example of its input, a batch of one, such as (1, 3, 32, 32); found {found}")
    from cosoc.sim.importers.torch_export import from_module

    return batched(from_module(given, shape[1:], name.lower()), batch)


def sizes(example: Example) -> tuple[int, ...]:
    """An example's sizes."""
    return tuple(int(size) for size in getattr(example, "shape", example))


def mapping_of(given: AMapping, workload: Workload, soc: SoC, runtime: Runtime | None = None) -> Mapping:
    """A mapping by rule, name or path, or as it is. InputError for a runtime of one as it is."""
    if isinstance(given, Mapping):
        _own_runtime(given, runtime)
        return given
    return find_mapping(str(given), workload, soc, runtime)


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
    "ACluster", "AMapping", "ANetwork", "ASoC", "Example", "Overrides", "cluster_mapping_of", "cluster_of",
    "mapping_of", "network_of", "sizes", "soc_of",
]  # fmt: skip

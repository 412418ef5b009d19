"""Any torch module as a Workload: torch.export's undecomposed graph, operator by operator (`torch_operators`).

Layers are named by module path ("layer1.0.conv1"); operators written in a module's forward get that module's path and
the operator ("layer1.0.add"), numbered where that is not unique.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cosoc.sim.errors import InputError
from cosoc.sim.files.reading import Reading
from cosoc.sim.importers.build import Builder, Input, Shape, Value, grid_of_input
from cosoc.sim.importers.decoder import with_cache
from cosoc.sim.importers.torch_operators import Reader, base_of, in_place, shape_of
from cosoc.sim.importers.zoo import input_sizes, is_zoo
from cosoc.sim.importers.zoo import made as zoo_made
from cosoc.sim.model.workload import INPUT, Workload, batched

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import Node


def from_module(
    module: nn.Module, inputs: Shape | Sequence[Input], name: str, source: str = "", cut_at: str = ""
) -> Workload:
    """A torch module as a workload, in evaluation mode, for one item of a batch.

    inputs: what it takes; one shape stands for one input of its weights' type. A shape is without the batch: (tokens),
    (features), (channels, length), (channels, rows, columns) or (channels, planes, rows, columns). cut_at: the layer or
    module to end with. The module is left as it was. Raises InputError naming the operators and modules that cannot be
    read.
    """
    given = [one if isinstance(one, Input) else Input("", (one,)) for one in inputs]
    if given and not any(isinstance(one, Input) for one in inputs):
        given = [Input("", tuple(size for one in given for size in one.shape))]
    program = _export(module, given, name)
    live = _live_nodes(program.graph)
    signature = program.graph_signature
    places = [n for n in live if n.op == "placeholder" and n.name in signature.user_inputs]
    order = [node.name for node in places]
    if not places:
        raise InputError(f"{name}: its output does not depend on its input through any operator")
    names = {node: INPUT if i == 0 else order[i] for i, node in enumerate(places)}
    build = Builder({names[node]: grid_of_input(shape_of(node)[1:] or (1,), name) for node in places})
    states = _states(live, set(places), signature.inputs_to_buffers)
    outputs = live[-1].all_input_nodes
    reader = Reader(
        build, {path for path, child in module.named_modules() if _is_leaf(child)},
        {node: sum(user in live for user in node.users) for node in live}, _weights(module, signature), states,
        set(outputs),
    )  # fmt: skip
    for node, state in states.items():
        build.states[state] = grid_of_input(shape_of(node)[1:] or (1,), name)
        reader.values[node] = Value(state, sole=False, shape=shape_of(node))
    for node in live:
        if node in names:
            reader.values[node] = reader.seen(node, Value(names[node], sole=True))
        elif node.op == "call_function":
            reader.read(node)
    found = [reader.values[node] for node in outputs if node in reader.values]
    return build.finish(name, found, source, cut_at)


def _is_leaf(module: nn.Module) -> bool:
    return all(name == "parametrizations" for name, _ in module.named_children())


def _weights(module: nn.Module, signature: Any) -> dict[str, object]:
    """What tells one parameter from another, by the name of its placeholder: two names of one are one."""
    known = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {place: id(known[target]) for place, target in names.items() if target in known}


def _states(live: Sequence[Node], inputs: set[Node], buffers: dict[str, str]) -> dict[Node, str]:
    """The buffers into which something that depends on an input is written."""
    active = set(inputs)
    found: dict[Node, str] = {}
    for node in live:
        if node.op != "call_function" or not active.intersection(node.all_input_nodes):
            continue
        active.add(node)
        base = base_of(node.args[0]) if in_place(node) and node.args else None  # type: ignore[arg-type]
        if base is not None and base.op == "placeholder" and base.name in buffers:
            found[base] = buffers[base.name]
            active.add(base)
    return found


def _export(module: nn.Module, inputs: Sequence[Input], name: str) -> Any:
    import torch

    like = next(module.parameters(), torch.zeros(()))
    probes = {}
    for number, one in enumerate(inputs):
        said = one.dtype or ("int64" if not number and _takes_tokens(module) else "")
        dtype = getattr(torch, said, None) if said else like.dtype
        if not isinstance(dtype, torch.dtype):
            raise InputError(f"{name}: --input-dtype {one.dtype}: torch has no such type; int64 or float32 are two")
        probes[one.name or number] = torch.zeros(1, *one.shape, dtype=dtype, device=like.device)
    places = tuple(probe for key, probe in probes.items() if isinstance(key, int))
    named = {key: probe for key, probe in probes.items() if isinstance(key, str)}
    with _evaluating(module), _unlogged(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what an export for running would lose
        try:
            return torch.export.export(module, places, named or None, strict=False)
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            shown = "; ".join(",".join(str(size) for size in (1, *one.shape)) for one in inputs)
            raise InputError(f"{name}: torch.export cannot read it for input {shown}: {reason}") from error


def _takes_tokens(module: nn.Module) -> bool:
    """Whether a model of transformers says that it reads the numbers of tokens."""
    return getattr(module, "main_input_name", "") == "input_ids"


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, and no cache beside the results; afterwards every submodule is as it was."""
    modes = {child: child.training for child in module.modules()}
    config = getattr(module, "config", None)
    cache = getattr(config, "use_cache", None)
    module.eval()
    if cache:
        config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        if cache:
            config.use_cache = cache  # type: ignore[union-attr]
        for child, training in modes.items():
            child.training = training


@contextmanager
def _unlogged() -> Iterator[None]:
    """Nothing is logged for a while: what torch cannot export it would log as a traceback, and it raises as well."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _live_nodes(graph: Any) -> list[Node]:
    """Nodes on which the outputs depend, and what is changed in place, in the graph's order."""
    todo, live = [node for node in graph.nodes if node.op == "output" or in_place(node)], set()
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo += node.all_input_nodes
    return [node for node in graph.nodes if node in live]


def from_spec(spec: str, reading: Reading) -> Workload:
    """The workload of the module that `package.module:factory` makes, as the reading asks for it; of a network of
    torchvision or timm at the size that it is made for, unless the reading says another. Raises InputError."""
    own = input_sizes(spec) if not reading.shapes and is_zoo(spec) else None
    if own is not None:
        reading = replace(reading, shapes=(("", (1, *own)),))
    if not reading.shapes:
        raise InputError(f"{spec} needs an input shape, batch of one first, such as --input-shape 1,3,32,32")
    for _, shape in reading.shapes:
        if len(shape) < 2 or min(shape) < 1:
            shown = ",".join(str(size) for size in shape)
            raise InputError(f"input shape {shown}: the batch and then the sizes are needed, such as 1,3,32,32")
    types, items = dict(reading.dtypes), reading.batch
    unknown = [key for key in types if key not in dict(reading.shapes)]
    if unknown:
        raise InputError(f"--input-dtype {unknown[0]}=...: no --input-shape names that input")
    inputs = [Input(key, shape[1:], types.get(key, "")) for key, shape in reading.shapes]
    module, name = load_module(spec), spec.rpartition(":")[2]
    if reading.context:
        module = with_cache(module, reading.context, inputs[0].shape[0], name)
    return batched(from_module(module, inputs, name, source=spec, cut_at=reading.cut_at), items)


def load_module(spec: str, classes: int | None = None, channels: int | None = None) -> nn.Module:
    """The module that `package.module:factory` makes: a function or class without arguments, or a module object; what
    it makes is taken as it is. A network of torchvision or timm (`zoo`) is made for so many classes and input channels.
    Raises InputError."""
    from torch import nn

    made = zoo_made(spec, classes, channels) if is_zoo(spec) else made_by(spec)
    if not isinstance(made, nn.Module):
        raise InputError(f"{spec} makes a {type(made).__name__}; a torch.nn.Module is needed")
    return made


def made_by(spec: str) -> Any:
    """What `package.module:factory` makes when it is called, or itself where it is a torch module; the working
    directory is importable meanwhile. Raises InputError."""
    from torch import nn

    package, _, attribute = spec.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        try:
            imported = importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise InputError(f"{spec}: no module named {error.name!r} from {folder}") from error
        if not hasattr(imported, attribute):
            raise InputError(f"{spec}: {package} has no {attribute!r}")
        made = getattr(imported, attribute)
        return made if isinstance(made, nn.Module) else made()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{spec}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.remove(folder)

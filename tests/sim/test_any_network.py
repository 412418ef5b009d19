"""Networks beyond convolutions: is each operator the work that its definition says, by torch and by ONNX alike?

Multiplications are held against torch's own counter (`torch.utils.flop_counter`), which counts what is dispatched.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosoc.cli import main
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import dump_workload, faults, load_workload
from cosoc.sim.importers.build import Input
from cosoc.sim.importers.decoder import with_cache
from cosoc.sim.importers.onnx_file import from_onnx
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.cuts import only
from cosoc.sim.model.placement import lifetimes
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import stored_bytes


class Net(nn.Module):
    """A network out of named children and a function of them."""

    def __init__(self, forward: Callable[..., object], **children: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *given: Tensor) -> object:
        return self.function(self, *given)


def heads(x: Tensor, n: int) -> Tensor:
    return x.view(1, x.shape[1], n, -1).transpose(1, 2)


def shared_heads(m: nn.Module, x: Tensor) -> Tensor:
    """Four heads of queries, two of keys and values, written out as Llama does."""
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    k, v = (t[:, :, None].expand(1, 2, 2, x.shape[1], -1).reshape(1, 4, x.shape[1], -1) for t in (k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2), -1)
    return m.o((weights @ v).transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


def added_product(m: nn.Module, x: Tensor) -> Tensor:
    return torch.addmm(m.w.bias, x.view(-1, 8), m.w.weight.t())


def masked(m: nn.Module, x: Tensor) -> Tensor:
    """Fused attention with a mask of its own, which exporters write out as a sum before the softmax."""
    q, k, v = (heads(one(x), 2) for one in (m.q, m.k, m.v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(6, 6).tril().bool())


def by_heads(m: nn.Module, x: Tensor) -> Tensor:
    return torch.einsum("bhqd,bhkd->bhqk", heads(m.q(x), 2), heads(m.k(x), 2))


def swin(m: nn.Module, x: Tensor) -> Tensor:
    return torch.roll(m.c(x), (-1, -2), (2, 3))


def response(m: nn.Module, x: Tensor) -> Tensor:
    y = m.c(x)
    return y / (torch.linalg.vector_norm(y, dim=(2, 3), keepdim=True) + 1e-6)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs)


Made = Callable[[], nn.Module]
NETS: dict[str, tuple[Made, tuple[int, ...]]] = {
    "addmm": (lambda: Net(added_product, w=linear(8, 4)), (5, 8)),
    "einsum": (lambda: Net(by_heads, q=linear(8, 8), k=linear(8, 8)), (6, 8)),
    "masked": (lambda: Net(masked, q=linear(8, 8), k=linear(8, 8), v=linear(8, 8)), (6, 8)),
    "roll": (lambda: Net(swin, c=nn.Conv2d(3, 4, 1)), (3, 6, 6)),
    "log_softmax": (lambda: Net(lambda m, x: F.log_softmax(m.l(x), -1), l=linear(8, 4)), (3, 8)),
    "vector_norm": (lambda: Net(response, c=nn.Conv2d(3, 4, 1)), (3, 6, 6)),
    "shared_heads": (lambda: Net(shared_heads, q=linear(8, 8), k=linear(8, 4), v=linear(8, 4), o=linear(8, 8)), (6, 8)),
    "volume": (
        lambda: nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(8, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.Conv3d(8, 4, (3, 1, 1), (2, 1, 1), (1, 0, 0)),
        ),
        (3, 8, 16, 16),
    ),
}  # fmt: skip


def counted(module: nn.Module, *given: Tensor) -> int:
    """Multiplications that torch counts while the module runs: two operations each."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.eval()(*given)
    return counter.get_total_flops() // 2


def exported(module: nn.Module, given: tuple[Tensor, ...], path: Path, dynamo: bool = False, **names: object) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), given, str(path), dynamo=dynamo, verbose=False, **names)  # type: ignore[arg-type]
    return path


def unnamed(workload: Workload) -> list[Layer]:
    """Its layers by number, without what the source calls its operators."""
    taken = (INPUT, *(name for name, _ in (*workload.received, *workload.states)))
    number = {name: f"given {i}" for i, name in enumerate(taken)} | {"": ""}
    number |= {layer.name: str(i) for i, layer in enumerate(workload)}
    return [
        replace(
            layer, name=number[layer.name], inputs=tuple(number[name] for name in layer.inputs), fn="",
            weights_of=number[layer.weights_of], into=number[layer.into],
        )
        for layer in workload
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_multiplication_is_there_by_torch_and_by_onnx(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    module, given = make(), torch.zeros(1, *shape)
    found = from_module(module, shape, "net")
    assert faults(found) == []
    assert found.macs == counted(module, given)
    assert unnamed(from_onnx(exported(module, (given,), tmp_path / "net.onnx"))) == unnamed(found)


def test_keys_of_several_heads_are_read_once() -> None:
    """Two heads of keys for four of queries: each product has twice the rows, and nothing is copied."""
    make, shape = NETS["shared_heads"]
    scores = next(layer for layer in from_module(make(), shape, "net") if layer.op == "matmul")
    assert (scores.groups, scores.ox, scores.inputs) == (2, 2 * 6, ("q", "k"))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_its_steps(kind: type[nn.RNNBase], tmp_path: Path) -> None:
    """By the operators' definition each of t steps multiplies g gates of h from f features and from h of the state,
    whose first is a constant zero; its weights are g h (f + h) and biases, however many steps there are."""
    t, f, h = 4, 6, 8
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    module = kind(f, h, batch_first=True)  # type: ignore[call-arg]
    found = from_module(Net(lambda m, x: m.r(x)[0], r=module), (t, f), "net")
    assert faults(found) == []
    assert found.macs == t * gates * h * f + (t - 1) * gates * h * h
    assert found.params == sum(p.numel() for p in module.parameters())
    waits = [layer.name for layer in found if layer.op == "conv" and layer.ox == 1]
    assert len(waits) == t - 1, "a product of the state for every step but the first"
    path = exported(Net(lambda m, x: m.r(x)[0], r=module), (torch.zeros(1, t, f),), tmp_path / "net.onnx")
    assert unnamed(from_onnx(path)) == unnamed(found)


def test_a_sequence_of_one_step_is_joined_of_nothing() -> None:
    found = from_module(nn.RNN(4, 8, batch_first=True), (1, 4), "net")
    assert all(layer.op != "concat" for layer in found)


def test_both_directions_of_two_layers() -> None:
    t, f, h = 3, 4, 8
    module = nn.GRU(f, h, 2, batch_first=True, bidirectional=True)
    found = from_module(Net(lambda m, x: m.r(x)[0], r=module), (t, f), "net")
    first, second = (2 * (t * 3 * h * inputs + (t - 1) * 3 * h * h) for inputs in (f, 2 * h))
    assert found.macs == first + second
    assert found.params == sum(p.numel() for p in module.parameters())
    assert found[found.outputs[0]].outputs == t * 2 * h


# ------------------------------------------------------------------------------------------------ tokens


class Language(nn.Module):
    """Token ids to logits, with one table at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.place, self.mix = nn.Embedding(100, 8), nn.Embedding(16, 8), linear(8, 8)
        self.head = nn.Linear(8, 100, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.place(torch.arange(ids.shape[1]))
        return self.head(self.mix(x))  # type: ignore[no-any-return]


def test_an_embedding_picks_rows_and_its_table_is_stored_once(tmp_path: Path) -> None:
    found = from_module(Language(), [Input("", (6,), "int64")], "net")
    picked, *_, head = found.layers
    assert (picked.op, picked.rows, picked.k, picked.ox, picked.macs) == ("gather", 100, 8, 6, 0)
    assert (head.weights_of, head.macs) == (picked.name, 6 * 8 * 100)
    assert found.params == 100 * 8 + 8 * 8 + 8
    soc = find_soc("rpi4")
    placed = named_mapping("default", found, soc)
    alone = [stored_bytes([layer], placed, soc) for layer in found]
    assert stored_bytes(found, placed, soc) == sum(alone) - min(alone[0], alone[-1])
    path = tmp_path / "net.yaml"
    path.write_text(dump_workload(found))
    assert load_workload(path) == replace(found, source="")
    by_onnx = from_onnx(exported(Language(), (torch.zeros(1, 6, dtype=torch.int64),), tmp_path / "net.onnx"))
    plain = [replace(layer, weights_of="") for layer in unnamed(found)]  # the exporter stores a tied table twice
    assert [replace(layer, weights_of="") for layer in unnamed(by_onnx)] == plain


def test_a_type_that_torch_has_not() -> None:
    with pytest.raises(InputError, match="--input-dtype int63: torch has no such type"):
        from_module(Language(), [Input("", (6,), "int63")], "net")


# ------------------------------------------------------------------------------------------------ caches


class Step(nn.Module):
    """One token's attention over a context of 16: what it makes is written into its caches, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = linear(8, 8), linear(8, 8), linear(8, 8)
        self.register_buffer("keys", torch.zeros(1, 2, 16, 4))
        self.register_buffer("values", torch.zeros(1, 2, 16, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.keys.index_copy_(2, torch.tensor([15]), heads(self.k(x), 2))
        self.values[:, :, 15:].copy_(heads(self.v(x), 2))
        return F.scaled_dot_product_attention(heads(self.q(x), 2), self.keys, self.values)


def appended(m: nn.Module, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with caches that come in, and go out one token longer."""
    keys, values = torch.cat([keys, heads(m.k(x), 2)], 2), torch.cat([values, heads(m.v(x), 2)], 2)
    return F.scaled_dot_product_attention(heads(m.q(x), 2), keys, values), keys, values


def growing() -> nn.Module:
    return Net(appended, q=linear(8, 8), k=linear(8, 8), v=linear(8, 8))


PAST = [Input("", (1, 8)), Input("", (2, 15, 4)), Input("", (2, 15, 4))]


def by_buffers() -> Workload:
    return from_module(Step(), (1, 8), "net")


def by_inputs() -> Workload:
    return from_module(growing(), PAST, "net")


@pytest.mark.parametrize("read", [by_buffers, by_inputs])
def test_a_cache_lives_between_inferences(read: Callable[[], Workload]) -> None:
    """16 tokens of 2 heads of 4: 128 elements of keys, and of values, there from before the first layer until after the
    last; a step writes one token into each and reads all of both."""
    found = read()
    assert faults(found) == []
    assert [size for _, size in found.states] == [128, 128]
    assert found.macs == 3 * 8 * 8 + 2 * 16 * 8
    assert [layer.outputs for layer in found if layer.into] == [8, 8]
    scores, attend = (layer for layer in found if layer.op == "matmul")
    assert scores.k * scores.c // scores.groups == attend.k * attend.c // attend.groups == 128
    spans = lifetimes(found)
    assert all(spans[name] == (-1, len(found.layers)) for name, _ in found.states)


def test_a_cache_is_the_same_by_onnx(tmp_path: Path) -> None:
    given = tuple(torch.zeros(1, *one.shape) for one in PAST)
    names = {"input_names": ["x", "keys", "values"], "output_names": ["y", "more_keys", "more_values"]}
    path = exported(growing(), given, tmp_path / "net.onnx", **names)
    assert unnamed(from_onnx(path)) == unnamed(by_inputs())


@pytest.mark.parametrize("soc", ["diana", "gemmini", "gap9", "rpi4"])
def test_a_longer_context_takes_more_memory_and_time(soc: str) -> None:
    """Every chip runs a step with its caches, at a cost that grows with them; their bytes are held all the time."""
    machine, times = find_soc(soc), []
    for context in (16, 1024):
        step = Step()
        step.keys, step.values = torch.zeros(1, 2, context, 4), torch.zeros(1, 2, context, 4)
        found = from_module(step, (1, 8), "net")
        result = simulate(machine, found, named_mapping("default", found, machine))
        times.append(result.seconds)
    assert times[1] > times[0]


def test_a_part_of_a_network_owns_what_it_uses() -> None:
    """A device that has the second use of a table alone must store it; one without a layer of a cache has no cache."""
    found = from_module(Language(), [Input("", (6,), "int64")], "net")
    tail = only(found, [layer.name for layer in found.layers[1:]])
    assert tail.layers[-1].weights_of == "" and faults(tail) == []
    step = by_buffers()
    assert only(step, ["q"]).states == ()


# ------------------------------------------------------------------------------------------------ several at once


def test_what_cannot_be_read_is_said_at_once_and_can_be_cut_off() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = torch.sort(m.first(x))[0]
        return m.last(torch.sort(torch.fft.fft(m.second(y)).real)[0])  # type: ignore[no-any-return]

    net = Net(forward, first=linear(8, 8), second=linear(8, 8), last=linear(8, 2))
    with pytest.raises(InputError) as caught:
        from_module(net, (3, 8), "net")
    said = str(caught.value)
    assert "aten.sort in the network (2 times)" in said and "aten.fft_fft" in said and "\n" not in said
    assert said.endswith("take a part of the network without it, or end it before with --cut-at first")
    assert [layer.name for layer in from_module(net, (3, 8), "net", cut_at="first")] == ["first"]


def test_a_second_input_is_given_by_name() -> None:
    net = Net(lambda m, x, mask: m.a(x) * mask, a=linear(8, 8))
    found = from_module(net, [Input("", (6, 8)), Input("", (6, 1))], "net")
    assert [size for _, size in found.received] == [6]
    assert found.incoming[INPUT] == math.prod((6, 8))


def test_weights_used_twice_are_one() -> None:
    """A module that is called twice multiplies twice, and has its weights once; so has a layer with its own tensor."""
    shared = linear(8, 8)
    found = from_module(Net(lambda m, x: m.a(m.a(x)), a=shared), (3, 8), "net")
    assert (found.macs, found.params) == (2 * 3 * 64, 64 + 8)
    tied = nn.Sequential(linear(8, 8), linear(8, 8))
    tied[1].weight = tied[0].weight
    assert [layer.weights_of for layer in from_module(tied, (3, 8), "net")] == ["", "0"]


@pytest.mark.parametrize(("key", "value", "message"), [
    ("weights_of", "absent", "it must be an earlier layer that has weights of its own"),
    ("into", "absent", "it must be one of states"),
    ("rows", 7, "it is the rows of the table of a gather"),
])  # fmt: skip
def test_files_say_what_is_shared(key: str, value: object, message: str, tmp_path: Path) -> None:
    line = f"{{name: a, op: conv, inputs: [input], k: 8, c: 8, {key}: {value}}}"
    path = tmp_path / "net.yaml"
    path.write_text(f"name: net\ninput: {{c: 8}}\noutputs: [a]\nlayers:\n- {line}\n")
    with pytest.raises(InputError, match=message) as caught:
        load_workload(path)
    assert str(caught.value).startswith(f"{path}:5:")
    assert list(itertools.islice(faults(by_buffers()), 1)) == []


# ------------------------------------------------------------------------------------------------ as asked for


class CacheLayer:
    """A layer of a cache as transformers has it, as far as a model uses it."""

    def __init__(self, max_cache_len: int) -> None:
        self.max_cache_len = max_cache_len
        self.keys, self.values, self.cumulative_length = torch.zeros(0), torch.zeros(0), torch.tensor(0)

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(keys.shape[2]) + self.cumulative_length
        self.keys.index_copy_(2, places, keys)
        self.values.index_copy_(2, places, values)
        return self.keys, self.values


class StaticCache:
    def __init__(self, config: object, max_cache_len: int) -> None:
        self.layers = [CacheLayer(max_cache_len)]


class Config:
    """Four heads of queries on two of keys, four wide each."""

    hidden_size, num_attention_heads, num_key_value_heads, use_cache = 16, 4, 2, True

    def get_text_config(self, decoder: bool) -> Config:
        return self


class Decoder(nn.Module):
    """A language model of one layer, in the shape in which transformers has them."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.table = Config(), nn.Embedding(100, 16)
        self.q, self.k, self.v, self.head = linear(16, 16), linear(16, 8), linear(16, 8), linear(16, 100)

    def forward(self, input_ids: Tensor, past_key_values: StaticCache, use_cache: bool) -> tuple[Tensor]:
        x = self.table(input_ids)
        keys, values = past_key_values.layers[0].update(heads(self.k(x), 2), heads(self.v(x), 2))
        seen = F.scaled_dot_product_attention(heads(self.q(x), 4), keys, values, enable_gqa=True)
        return (self.head(seen.transpose(1, 2).reshape(x.shape)),)


@pytest.mark.parametrize("tokens", [1, 64])
def test_prefill_and_decode_at_a_context(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections for the tokens that come in; products of their 4 heads of 4 with all 64 tokens of the context."""
    context = 64
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    monkeypatch.setattr(sys.modules["transformers"], "StaticCache", StaticCache, raising=False)
    found = from_module(with_cache(Decoder(), context, tokens, "net"), [Input("", (tokens,))], "net")
    assert found.macs == tokens * 16 * (16 + 8 + 8 + 100) + 2 * tokens * context * 16
    assert [size for _, size in found.states] == [2 * context * 4] * 2
    assert [layer.outputs for layer in found if layer.into] == [tokens * 8] * 2
    with pytest.raises(InputError, match="65 tokens come in, with --context 64"):
        with_cache(Decoder(), context, 65, "net")


def test_a_context_is_for_models_that_take_one() -> None:
    with pytest.raises(InputError, match="--context is for models of transformers that take past_key_values"):
        with_cache(Language(), 64, 1, "net")


def test_the_command_reads_as_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens, a batch and an end from the command line; what means nothing for a file is refused in one line."""
    source = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 4))\n"
    (tmp_path / "tokens_for_test.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    asked = ["show", "workload", "tokens_for_test:make", "--input-shape", "3,6", "--input-dtype", "int64"]
    assert main([*asked, "--yaml"]) == 0
    (tmp_path / "net.yaml").write_text(capsys.readouterr().out)
    read = load_workload(tmp_path / "net.yaml")
    assert [(layer.op, layer.n) for layer in read] == [("gather", 3), ("conv", 3)]
    assert main([*asked, "--cut-at", "0", "--yaml"]) == 0
    assert capsys.readouterr().out.count("- {") == 1
    for more, said in (
        (["--cut-at", "2"], "no layer or module '2' to cut at; there is 0, 1"),
        (["--input-dtype", "x=int64"], "--input-dtype x=...: no --input-shape names that input"),
        (["--input-shape", "4,6"], "--input-shape: batches of 3, 4; all inputs have one and the same"),
    ):
        assert main([*asked, *more]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert main(["show", "workload", "resnet8", "--cut-at", "fc"]) == 2
    assert "resnet8 is read as it is" in capsys.readouterr().err


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_is_kept_however_it_is_stated(
    batch: int, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    """In the input's shape, in the file, by --batch, or two of them together: so many images, the same time to the
    tick."""
    file, shape = tmp_path / "net.yaml", ("--input-shape", f"{batch},3,32,32")
    module = "cosoc.search.training.nets:resnet8"
    status, text, _ = run("show", "workload", module, *shape, "--yaml")
    assert status == 0
    file.write_text(text)

    def ticks(*words: str) -> int:
        status, _, said = run("simulate", "diana", *words, "--quiet", "--json", str(tmp_path / "out.json"))
        assert status == 0, said
        found: int = json.loads((tmp_path / "out.json").read_text())["ticks"]
        return found

    single = ("--input-shape", "1,3,32,32")
    once, twice = ticks(module, *single, "--batch", str(batch)), ticks(module, *single, "--batch", str(2 * batch))
    assert once == ticks(module, *shape) == ticks(str(file))
    assert twice == ticks(module, *shape, "--batch", "2") == ticks(str(file), "--batch", "2") > once

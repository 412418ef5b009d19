"""Which networks of the usual collections are read, with every multiplication, and on which chips do they run?

    python benchmarks/zoo.py [NAME ...] [--soc NAME ...] [--resume] [--quick] [--json FILE]

58 networks of torchvision, timm, transformers and of torch alone, with random weights: nothing is downloaded. Those
packages are extras of this benchmark (pip install --no-deps torchvision timm, the first as it fits the installed torch,
and transformers); a network whose package is absent is said to be. MACs are held against `torch.utils.flop_counter`,
which counts what a module dispatches. Each network is then simulated on each SoC, every layer on its default core, or
refused with a reason. --resume keeps what FILE has already. No figure depends on anything random.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.build import Input
from cosoc.sim.importers.decoder import with_cache
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import default_core

SOCS = ("diana", "gemmini", "darkside", "gap9", "rpi4")
IMAGE = (3, 224, 224)
TOKENS = 128


@dataclass(frozen=True)
class Net:
    """One network. package: what must be there; make: what it gives; inputs: without the batch; context: tokens in its
    key-value cache. constant: multiplications that torch does though all that they multiply are weights."""

    name: str
    kind: str
    package: str
    make: Callable[[Any], Any]
    inputs: tuple[Input, ...] = (Input("", IMAGE),)
    context: int = 0
    constant: int = 0


def image(side: int) -> tuple[Input, ...]:
    return (Input("", (3, side, side)),)


def ids(tokens: int = TOKENS) -> tuple[Input, ...]:
    return (Input("", (tokens,), "int64"),)


def vision(name: str, kind: str, shape: tuple[Input, ...] = (Input("", IMAGE),), **options: Any) -> Net:
    def make(package: Any) -> Any:
        return package.models.get_model(name, weights=None, **options)

    return Net(name, kind, "torchvision", make, shape)


def timm(name: str, kind: str, side: int = 224, constant: int = 0) -> Net:
    def make(package: Any) -> Any:
        return package.create_model(name, pretrained=False)

    return Net(name, kind, "timm", make, image(side), constant=constant)


def hugging(
    name: str, kind: str, config: str, model: str, inputs: tuple[Input, ...], context: int = 0, **options: Any
) -> Net:
    def make(package: Any) -> Any:
        return getattr(package, model)(getattr(package, config)(**options))

    return Net(name, kind, "transformers", make, inputs, context)


def _whisper(package: Any) -> Any:
    return package.WhisperModel(package.WhisperConfig()).encoder


def _t5(package: Any) -> Any:
    return package.T5EncoderModel(package.T5Config(num_layers=6))


def _recurrent(kind: str, **options: Any) -> Callable[[Any], Any]:
    def make(torch: Any) -> Any:
        class Classifier(torch.nn.Module):  # type: ignore[misc, name-defined]
            """A sequence to one of 12 words, by the last step."""

            def __init__(self) -> None:
                super().__init__()
                self.steps = getattr(torch.nn, kind)(40, 128, batch_first=True, **options)
                self.head = torch.nn.Linear(128 * (2 if options.get("bidirectional") else 1), 12)

            def forward(self, x: Any) -> Any:
                return self.head(self.steps(x)[0][:, -1])

        return Classifier()

    return make


SMALL_LLAMA = {
    "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 32000, "max_position_embeddings": 2048,
}  # fmt: skip

NETS = (
    *(vision(name, "CNN") for name in (
        "alexnet", "vgg16", "squeezenet1_1", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "mnasnet1_0",
        "mobilenet_v3_large", "shufflenet_v2_x1_0", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny")),
    vision("googlenet", "CNN", init_weights=False),
    vision("inception_v3", "CNN", image(299), init_weights=False),
    vision("resnext50_32x4d", "grouped CNN"),
    vision("fcn_resnet50", "dilated CNN", weights_backbone=None),
    vision("deeplabv3_mobilenet_v3_large", "dilated CNN", weights_backbone=None),
    vision("lraspp_mobilenet_v3_large", "dilated CNN", weights_backbone=None),
    *(vision(name, "3-D CNN", (Input("", (3, 16, 112, 112)),)) for name in ("r3d_18", "mc3_18", "r2plus1d_18")),
    *(timm(name, "CNN") for name in (
        "ghostnet_100", "hrnet_w18_small", "repvgg_a0", "rexnet_100", "convnextv2_atto", "res2net50_26w_4s")),
    *(timm(name, "MLP") for name in ("mixer_s32_224", "resmlp_12_224", "poolformer_s12")),
    *(timm(name, "transformer") for name in (
        "vit_tiny_patch16_224", "deit_tiny_patch16_224", "cait_xxs24_224", "swin_tiny_patch4_window7_224", "pvt_v2_b0",
        "beit_base_patch16_224")),
    *(timm(name, "hybrid") for name in ("levit_128", "efficientformer_l1", "coatnet_0_rw_224", "tiny_vit_5m_224")),
    timm("edgenext_xx_small", "hybrid", constant=28 * 28 * 64 * 48),  # projects its encoding of places
    timm("xcit_nano_12_p16_224", "transformer", constant=14 * 14 * 64 * 128),  # projects its encoding of places
    timm("maxvit_tiny_tf_224", "hybrid", constant=168 * 49 * 13 * (13 + 49)),  # biases of 168 heads by place, by einsum
    timm("mobilevit_s", "hybrid", 256),
    timm("mobilevitv2_050", "hybrid", 256),
    hugging("gpt2 prefill", "LLM", "GPT2Config", "GPT2LMHeadModel", ids()),
    hugging("gpt2 decode at 1024", "LLM", "GPT2Config", "GPT2LMHeadModel", ids(1), 1024),
    hugging("llama prefill", "LLM", "LlamaConfig", "LlamaForCausalLM", ids(), 0, **SMALL_LLAMA),
    hugging("llama decode at 1024", "LLM", "LlamaConfig", "LlamaForCausalLM", ids(1), 1024, **SMALL_LLAMA),
    hugging("bert-base", "transformer", "BertConfig", "BertModel", ids()),
    hugging("roberta-base", "transformer", "RobertaConfig", "RobertaModel", ids()),
    hugging("albert", "transformer", "AlbertConfig", "AlbertModel", ids(), hidden_size=768, num_attention_heads=12,
            intermediate_size=3072),
    Net("t5 encoder", "transformer", "transformers", _t5, ids()),
    Net("whisper encoder", "speech", "transformers", _whisper, (Input("", (80, 3000)),)),
    hugging("wav2vec2", "speech", "Wav2Vec2Config", "Wav2Vec2Model", (Input("", (16000,)),), num_hidden_layers=6),
    Net("lstm keywords", "recurrent", "torch", _recurrent("LSTM"), (Input("", (49, 40)),), constant=4 * 128 * 128),
    Net("gru keywords", "recurrent", "torch", _recurrent("GRU", bidirectional=True), (Input("", (49, 40)),),
        constant=2 * 3 * 128 * 128),
)  # fmt: skip

QUICK = ("squeezenet1_1", "deit_tiny_patch16_224", "lstm keywords")


def loaded(name: str) -> Any:
    """A package; torchvision also where its compiled operators do not load, which no network here runs."""
    import torch

    if name != "torch" and importlib.util.find_spec("torchvision"):
        try:
            importlib.import_module("torchvision")
        except RuntimeError:  # they are declared while it loads
            for part in [part for part in sys.modules if part.partition(".")[0] == "torchvision"]:
                del sys.modules[part]
            for op in ("nms", "qnms"):
                with contextlib.suppress(RuntimeError):
                    torch.library.define(
                        f"torchvision::{op}", "(Tensor dets, Tensor scores, float threshold) -> Tensor"
                    )
            importlib.import_module("torchvision")
    return importlib.import_module(name)


def counted(module: Any, inputs: tuple[Input, ...]) -> int:
    """Multiplications that torch counts, without numbers being computed; attention as the products that it is."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    given = [torch.zeros(1, *one.shape, dtype=getattr(torch, one.dtype or "float32"), device="meta") for one in inputs]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        module.eval().requires_grad_(False).to("meta")(*given)
    return counter.get_total_flops() // 2


def figures(net: Net, socs: list[SoC]) -> dict[str, Any]:
    """One network on all SoCs; what is refused carries its reason instead."""
    row: dict[str, Any] = {"name": net.name, "kind": net.kind}
    try:
        package = loaded(net.package)
    except ImportError as error:
        return row | {"absent": f"{net.package}: {error}"}
    module = net.make(package).eval()
    if net.context:
        module = with_cache(module, net.context, net.inputs[0].shape[0], net.name)
    start = time.perf_counter()
    try:
        network = from_module(module, net.inputs, net.name)
    except InputError as error:
        return row | {"refused": str(error)}
    row |= {"read_s": time.perf_counter() - start, "layers": len(network.layers), "macs": network.macs}
    row |= {"params": network.params, "state_elements": sum(size for _, size in network.states)}
    row |= {"parameters_of_module": sum(parameter.numel() for parameter in module.parameters())}
    try:
        row["counted"] = counted(module, net.inputs) - net.constant
    except Exception as error:  # the counter runs the module; what goes wrong then is its own
        row["uncounted"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    del module
    return row | {"socs": {soc.name: on(soc, network) for soc in socs}}


def on(soc: SoC, network: Workload) -> dict[str, Any]:
    """Simulated, every layer on its default core."""
    start = time.perf_counter()
    try:
        cores = {layer.name: default_core(layer, soc) for layer in network}
        result = simulate(soc, network, named_mapping("default", network, soc))
    except InputError as error:
        return {"refused": str(error)}
    host = [layer for layer in network if cores[layer.name] == soc.host]
    why = Counter(kind(layer) for layer in host if layer.macs)
    return {
        "ms": result.seconds * 1e3,
        "uj": result.energy_j * 1e6,
        "host_macs": sum(layer.macs for layer in host),
        "host": dict(why),
        "wall_s": time.perf_counter() - start,
    }


def kind(layer: Any) -> str:
    """What of a layer with MACs an accelerator may not run."""
    if layer.op == "conv" and layer.groups > 1:
        return "depthwise" if layer.depthwise else "grouped"
    if max(layer.dilation_y, layer.dilation_x) > 1:
        return "dilated"
    return "uneven strides" if layer.stride_y != layer.stride_x else str(layer.op)


def table(rows: list[dict[str, Any]], socs: list[str]) -> Table:
    """A line a network: what was read, and milliseconds on each SoC or why not."""
    out = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("network", "kind", "layers", "M MAC", "counted", *(f"{soc} ms" for soc in socs), "what is not run"):
        out.add_column(name, justify="left" if name in ("network", "kind", "what is not run") else "right")
    for row in rows:
        head = [row["name"], row["kind"]]
        refused = row.get("refused") or row.get("absent")
        if refused:
            out.add_row(*head, "", "", "", *("" for _ in socs), refused)
            continue
        same = "=" if row.get("counted") == row["macs"] else f"{row.get('counted', 0) / 1e6:.2f}"
        found = [row["socs"].get(soc, {}) for soc in socs]
        times = [f"{got['ms']:.1f}" if "ms" in got else "-" for got in found]
        why = "; ".join(dict.fromkeys(got["refused"] for got in found if "refused" in got))
        out.add_row(*head, str(row["layers"]), f"{row['macs'] / 1e6:.2f}", same, *times, why)
    return out


def has(row: dict[str, Any] | None, soc: SoC) -> bool:
    """Whether a row says all that is asked of it."""
    return row is not None and ("socs" not in row or soc.name in row["socs"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many were read, with all MACs, and ran."""
    read = [row for row in rows if "macs" in row]
    run = {soc: sum("ms" in row["socs"].get(soc, {}) for row in read) for soc in SOCS}
    exact = sum(row.get("counted") == row["macs"] for row in read)
    return {"networks": len(rows), "read": len(read), "macs_as_counted": exact, "run": run}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks [default: all]")
    parser.add_argument("--soc", action="append", metavar="NAME", help=f"may be repeated [default: {', '.join(SOCS)}]")
    parser.add_argument("--resume", action="store_true", help="keep what the JSON file has")
    options = parser.parse_args()
    state()
    unknown = set(options.names) - {net.name for net in NETS}
    if unknown:
        parser.error(f"no network {', '.join(sorted(unknown))}; there is {', '.join(net.name for net in NETS)}")
    names = options.soc or list(SOCS[:2] if options.quick else SOCS)
    socs = [find_soc(name) for name in names]
    kept = {}
    if options.resume and options.json and options.json.exists():
        kept = {row["name"]: row for row in json.loads(options.json.read_text())["networks"]}
    wanted = options.names or (QUICK if options.quick else [net.name for net in NETS])
    todo = [(net, [soc for soc in socs if not has(kept.get(net.name), soc)]) for net in NETS if net.name in wanted]
    todo = [(net, missing) for net, missing in todo if missing]
    start = time.monotonic()
    for done, (net, missing) in enumerate(todo):
        left = (time.monotonic() - start) / done * (len(todo) - done) if done else 0.0
        print(f"{net.name}: {done} of {len(todo)}, about {left:.0f} s left", flush=True)
        found = figures(net, missing)
        before = kept.get(net.name, {}).get("socs", {})
        kept[net.name] = found | ({"socs": before | found["socs"]} if "socs" in found else {})
        rows = [kept[net.name] for net in NETS if net.name in kept]
        write_json(options.json, {"quick": options.quick, **summary(rows), "networks": rows})
    rows = [kept[net.name] for net in NETS if net.name in kept]
    Console(width=170).print(table(rows, names))
    print(", ".join(f"{key} {value}" for key, value in summary(rows).items()))


if __name__ == "__main__":
    main()

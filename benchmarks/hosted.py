"""What only the host can run: networks with convolutions in groups, dilated ones and such in one dimension, with these
on the host and where they run now; and the multiplications of all built-in networks that are left to it, by reason.

python benchmarks/hosted.py [NETWORK ...] [--quick] [--json FILE]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from common import arguments, state, write_json

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import layer_time
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.names import list_workloads
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.report.hosted import by_reason
from cosoc.sim.report.result import Result
from cosoc.sim.report.why_host import why_host
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import placed, with_parts
from cosoc.sim.work import layer_work

CHIPS = ("gemmini", "diana", "darkside")
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels and blocks of ResNet-50's four stages


@dataclass
class Net:
    """Layers as they are added, each behind the last one unless said otherwise. shape: (c, y, x) of the last."""

    name: str
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        self.input, self.layers, self.last = self.shape, list[Layer](), INPUT

    def add(self, op: str, k: int, oy: int, ox: int, inputs: tuple[str, ...] = (), **more: Any) -> str:
        c, iy, ix = self.shape
        name = f"{op}{len(self.layers)}"
        self.layers.append(Layer(name, op, inputs or (self.last,), k=k, c=c, oy=oy, ox=ox, iy=iy, ix=ix, **more))
        self.last, self.shape = name, (k, oy, ox)
        return name

    def conv(self, k: int, f: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1) -> str:
        """With as much padding as keeps the size at stride 1."""
        pad, (_, iy, ix) = (f - 1) * dilation // 2, self.shape
        steps = {"stride_y": stride, "stride_x": stride, "dilation_y": dilation, "dilation_x": dilation}
        sizes = -(-iy // stride), -(-ix // stride)
        return self.add("conv", k, *sizes, fy=f, fx=f, pad_y=pad, pad_x=pad, groups=groups, **steps)

    def done(self) -> Workload:
        return Workload(self.name, self.input, tuple(self.layers), (self.last,))


def bottlenecks(net: Net, width: int, groups: int, dilated: bool, stages: int = 4) -> None:
    """ResNet-50's stem and stages: a block's middle convolution has `width` times the stage's channels in `groups`;
    dilated: the last two stages keep their size, with 2 and 4 times the distance between taps."""
    net.conv(64, 7, 2)
    c, y, x = net.shape
    net.add("max_pool", c, y // 2, x // 2, fy=3, fx=3, stride_y=2, stride_x=2, pad_y=1, pad_x=1)
    for stage, (channels, blocks) in enumerate(STAGES[:stages]):
        for block in range(blocks):
            before, shape = net.last, net.shape
            late = dilated and stage > 1
            stride = 2 if block == 0 and stage and not late else 1
            distance = (2 ** (stage - 1) if block else 2 ** (stage - 2)) if late else 1
            net.conv(channels * width)
            net.conv(channels * width, 3, stride, distance, groups)
            main = net.conv(channels * 4)
            beside = before
            if block == 0:
                net.last, net.shape = before, shape
                beside = net.conv(channels * 4, 1, stride)
            k, y, x = net.shape
            net.add("add", k, y, x, (main, beside))


def resnext50(size: int = 224, stages: int = 4) -> Workload:
    """ResNeXt-50 32x4d (Xie et al., CVPR 2017)."""
    net = Net("resnext50", (3, size, size))
    bottlenecks(net, 2, 32, dilated=False, stages=stages)
    c, y, x = net.shape
    net.add("avg_pool", c, 1, 1, fy=y, fx=x)
    net.conv(1000)
    return net.done()


def fcn_resnet50(size: int = 224) -> Workload:
    """FCN on ResNet-50 whose last stages are dilated, as torchvision has it, up to its 21 maps."""
    net = Net("fcn_resnet50", (3, size, size))
    bottlenecks(net, 1, 1, dilated=True)
    net.conv(512, 3)
    net.conv(21)
    return net.done()


def whisper_encoder(frames: int = 3000, width: int = 384, heads: int = 6, blocks: int = 4) -> Workload:
    """The encoder of Whisper tiny: two convolutions over time, the second of stride 2, and transformer blocks."""
    net = Net("whisper_encoder", (80, 1, frames))
    tokens = frames // 2
    net.add("conv", width, 1, frames, fx=3, pad_x=1)
    net.add("conv", width, 1, tokens, fx=3, pad_x=1, stride_x=2)
    for _ in range(blocks):
        source = net.last
        normed = net.add("norm", width, 1, tokens)
        q, k, v = (net.add("conv", width, 1, tokens, (normed,)) for _ in range(3))
        net.add("matmul", heads * tokens, 1, tokens, (q, k), groups=heads)
        weights = net.add("softmax", heads * tokens, 1, tokens)
        net.add("matmul", width, 1, tokens, (weights, v), groups=heads)
        source = net.add("add", width, 1, tokens, (source, net.add("conv", width, 1, tokens)))
        net.add("norm", width, 1, tokens)
        net.add("conv", 4 * width, 1, tokens)
        net.add("eltwise", 4 * width, 1, tokens, fn="gelu")
        net.add("add", width, 1, tokens, (source, net.add("conv", width, 1, tokens)))
    return net.done()


def networks(quick: bool) -> list[Workload]:
    """Those networks; quick: small images and few frames."""
    if quick:
        return [resnext50(32, 2), fcn_resnet50(32), whisper_encoder(200, blocks=1)]
    return [resnext50(), fcn_resnet50(), whisper_encoder()]


def peculiar(layer: Layer) -> str:
    """What of a convolution once kept it on the host; '' if nothing."""
    if layer.op != "conv":
        return ""
    if layer.grouped:
        return "in groups"
    if max(layer.dilations) > 1:
        return "dilated"
    return "one dimension" if layer.stride_y != layer.stride_x else ""


def once(workload: Workload, soc: SoC, runs: Mapping) -> Mapping:
    """The mapping with what was the host's on the host: dilated layers and those in one dimension on Gemmini, and those
    in groups where the core computes groups one by one."""
    layers = dict(runs.layers)
    for layer in workload:
        core = with_parts(runs, workload, soc).layers[layer.name].parts[0].core
        as_it_is = not soc.cores[core].fits(make_tile(layer, layer.k, layer.oy, layer.ox))
        array = peculiar(layer) in ("dilated", "one dimension") and soc.is_cached(core)
        if peculiar(layer) and core != soc.host and (array or not as_it_is):
            layers[layer.name] = LayerPlan((Part(soc.host, layer.k),))
    return replace(runs, name="as once", layers=layers)


def estimates(result: Result, workload: Workload, mapping: Mapping, soc: SoC) -> dict[str, float]:
    """The closed form over the simulation, of layers that are no longer on the host: the median of each kind."""
    at, found = placed(mapping, workload, soc), dict[str, list[float]]()
    for part in result.by_layer:
        layer = workload[part.layer]
        plan = at.mapping.layers[layer.name]
        if not peculiar(layer) or plan.parts[0].core == soc.host:
            continue
        work = layer_work(layer, soc, [(p.core, p.channels) for p in plan.parts], plan, at.homes, exact)
        ticks = float(layer_time(layer, work, soc, mapping.runtime, at.homes, Theta(), exact).ticks)
        ratio = ticks * result.ticks_per_cycle / max(part.ticks_critical, 1)
        found.setdefault(peculiar(layer), []).append(ratio)
    return {kind: median(ratios) for kind, ratios in found.items()}


def compared(workload: Workload, chip: str) -> dict[str, Any] | None:
    """A network with its peculiar layers on the host, and as it runs now; None where nothing of it has moved."""
    soc = find_soc(chip)
    now = named_mapping("default", workload, soc)
    former = once(workload, soc, now)
    if former.layers == now.layers:
        return None
    before = simulate(soc, workload, former)
    after = simulate(soc, workload, now)
    ticks = sum(spent for spent, _ in by_reason(after).values())
    kinds: dict[str, int] = {}
    for layer in workload:
        if kind := peculiar(layer):
            kinds[kind] = kinds.get(kind, 0) + layer.macs
    return {
        "network": workload.name, "chip": chip, "macs": workload.macs, "peculiar_macs": kinds,
        "before_ms": before.seconds * 1e3, "now_ms": after.seconds * 1e3, "host_share": ticks / after.ticks,
        "host_reasons": {why: spent / after.ticks for why, (spent, _) in by_reason(after).items()},
        "estimate_over_simulated": estimates(after, workload, now, soc),
    }  # fmt: skip


def left_to_hosts(names: list[str]) -> list[dict[str, Any]]:
    """Multiplications that the host does of the built-in networks, by chip with another core and by reason."""
    rows = []
    for chip in list_socs():
        soc = find_soc(chip)
        if len(soc.cores) == 1:
            continue
        for name in names:
            workload = find_workload(name)
            try:
                parts = with_parts(Mapping("default", "overlapped"), workload, soc)
            except InputError:
                continue
            macs: dict[str, int] = {}
            for layer in workload:
                if layer.macs and (why := why_host(layer, parts.layers[layer.name], soc)):
                    macs[why] = macs.get(why, 0) + layer.macs
            if macs:
                rows.append({"chip": chip, "network": name, "macs": workload.macs, "host_macs": macs})
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("networks", nargs="*", help="resnext50, fcn_resnet50, whisper_encoder; all of them")
    args = parser.parse_args()
    state()
    rows = []
    print(f"{'network':16} {'chip':8} {'once ms':>10} {'now ms':>10} {'on the host':>12}  estimate / simulated")
    for workload in (net for net in networks(args.quick) if not args.networks or net.name in args.networks):
        for chip in CHIPS:
            try:
                row = compared(workload, chip)
            except InputError as error:
                rows.append({"network": workload.name, "chip": chip, "refused": str(error)})
                print(f"{workload.name:16} {chip:8} refused: {error}", flush=True)
                continue
            if row is None:
                print(f"{workload.name:16} {chip:8} as it was", flush=True)
                continue
            rows.append(row)
            ratios = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in row["estimate_over_simulated"].items())
            times = f"{row['before_ms']:10,.1f} {row['now_ms']:10,.1f} {row['host_share']:12.1%}"
            print(f"{workload.name:16} {chip:8} {times}  {ratios}", flush=True)
    left = left_to_hosts(list_workloads())
    print("\nMultiplications of built-in networks on the host")
    for row in left:
        for why, macs in row["host_macs"].items():
            print(f"{row['chip']:16} {row['network']:20} {macs / row['macs']:6.1%}  {why}")
    write_json(args.json, {"networks": rows, "left_to_hosts": left})


if __name__ == "__main__":
    main()

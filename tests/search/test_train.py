"""Training by a recipe: batches, losses, averages and stops against what they are by hand; and the same training in
parts, by workers, in two processes, and in a reduced format."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cosoc.search.runfolder import RunFolder
from cosoc.search.spaces.channels import MixedNet, prepare
from cosoc.search.spaces.shares import Shares, Tangent
from cosoc.search.training.batches import Batch, Plan, batches, made, plans
from cosoc.search.training.compute import Compute, Forward
from cosoc.search.training.gates import Estimator
from cosoc.search.training.losses import check_losses, loss_of
from cosoc.search.training.nets import VisionTransformer, build
from cosoc.search.training.optimise import Group
from cosoc.search.training.parts import Split
from cosoc.search.training.quant import ActivationQuantiser
from cosoc.search.training.recipe import Augmentation, Distillation, EarlyStopping, Recipe, find_recipe
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.search.training.task import classification, regression, segmentation
from cosoc.search.training.train import Phase, PhaseKind, Progress, generator, train
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.theta import Theta

CLASSES = 3
TASK = classification(CLASSES)
PLAIN = Compute()
DEFAULT = find_recipe("default", {"batch": "8"})


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def data(n: int = 20) -> Split:
    draws = torch.Generator().manual_seed(1)
    return Split(torch.randn(n, 1, 4, 4, generator=draws), torch.randint(CLASSES, (n,), generator=draws))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, CLASSES))


def trained(
    folder: Path, net: nn.Module, recipe: Recipe = DEFAULT, compute: Compute = PLAIN, epochs: int = 2,
    kind: PhaseKind = "warm_up", figures: tuple[float, ...] = (), killed_at: int | None = None, resume: bool = False,
) -> list[dict[str, float]]:  # fmt: skip
    """Train a network; what was logged. figures: that the validation part has, epoch by epoch. killed_at: an epoch that
    nothing of is kept."""

    def loss(forward: Forward, batch: Batch, draws: torch.Generator, done: float) -> Tensor:
        return loss_of(TASK, recipe, forward(batch.x), batch)

    def after(epoch: int) -> dict[str, float]:
        if epoch == killed_at:
            raise Killed
        first = next(net.parameters()).detach().flatten()[0]
        return {"val_accuracy": figures[epoch] if figures else 0.0, "first": float(first)}

    phase = Phase("phase", kind, epochs, 0, recipe, TASK, compute)
    groups = [Group(list(net.parameters()), recipe.weights, 0.01)]
    with RunFolder(folder, {}, resume=resume) as run:
        train(phase, net, groups, data(), loss, after, run, Progress(epochs), {})
        return run.metrics()


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


# ---------------------------------------------------------------------------------------------- batches


def test_moved_and_flipped_images_are_those_of_a_loop() -> None:
    """Pixel by pixel: (y, x) of the result is (y + dy, x + dx) of the image, mirrored first, 0 where there is none."""
    pool = data(6)
    moved = torch.tensor([[0, 0], [1, -1], [-2, 2], [2, 0], [0, -2], [-1, -1]])
    flipped = torch.tensor([False, True, False, True, True, False])
    found = made(pool, Plan(torch.arange(6), moved, flipped), "cpu").x
    for i in range(6):
        image = pool.x[i, 0].flip(1) if flipped[i] else pool.x[i, 0]
        for y in range(4):
            for x in range(4):
                at = y + int(moved[i, 0]), x + int(moved[i, 1])
                inside = 0 <= at[0] < 4 and 0 <= at[1] < 4
                assert found[i, 0, y, x] == (image[at] if inside else 0)


def test_mixed_images_are_weighted_sums_with_both_targets() -> None:
    pool = data(6)
    partner = torch.tensor([3, 4, 5, 0, 1, 2])
    batch = made(pool, Plan(torch.arange(6), partner=partner, share=0.75), "cpu")
    assert torch.equal(batch.x, 0.75 * pool.x + 0.25 * pool.x[partner])
    assert batch.other_y is not None and torch.equal(batch.other_y, pool.y[partner])


def test_what_is_drawn_follows_its_distributions() -> None:
    """Half of all images are flipped, offsets are equally likely, shares of Beta(0.2, 0.2) have the variance
    1 / (4 (2 x 0.2 + 1)); bounds are four standard errors."""
    change = Augmentation(crop_pixels=2, flip=True, mixup=0.2)
    todo = plans(torch.arange(40_000), 20, change, torch.Generator().manual_seed(0))
    flipped = torch.cat([one.flipped for one in todo if one.flipped is not None]).double()
    assert abs(float(flipped.mean()) - 0.5) < 4 * 0.5 / math.sqrt(len(flipped))
    moved = torch.cat([one.moved for one in todo if one.moved is not None]).flatten()
    counts = torch.bincount(moved + 2, minlength=5).double() / len(moved)
    assert (counts - 0.2).abs().max() < 4 * math.sqrt(0.16 / len(moved))
    shares = torch.tensor([one.share for one in todo])
    variance, fourth = 1 / (4 * 1.4), 1 / 16  # the fourth moment about 1/2 is at most that of a coin
    assert abs(float(((shares - 0.5) ** 2).mean()) - variance) < 4 * math.sqrt(fourth / len(shares))


@pytest.mark.parametrize("workers", [0, 1])
def test_parts_of_a_batch_are_the_batch(workers: int) -> None:
    """Two processes with two parts each see what one sees whole, in its order."""
    change = Augmentation(crop_pixels=1, flip=True, mixup=1.0)
    todo = plans(torch.randperm(20), 8, change, torch.Generator().manual_seed(0))
    pool = data()
    for rank in range(1 if workers else 2):
        for plan, parts in zip(todo, batches(pool, todo, 2, rank, 2, "cpu", workers), strict=True):
            whole = made(pool, plan, "cpu")
            mine = torch.cat([part.x for part in parts])
            assert torch.equal(mine, whole.x[4 * rank : 4 * rank + 4])


# ---------------------------------------------------------------------------------------------- losses


def test_losses_are_those_of_the_papers() -> None:
    """Cross-entropy with smoothed targets is torch's; a mixed pair's is the weighted sum; a teacher's is the
    cross-entropy to its softened scores less their entropy, times the squared temperature."""
    draws = torch.Generator().manual_seed(0)
    scores, taught = torch.randn(5, CLASSES, generator=draws), torch.randn(5, CLASSES, generator=draws)
    y, other = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 0, 1, 1])
    smooth = DEFAULT.model_copy(update={"label_smoothing": 0.1})
    expected = functional.cross_entropy(scores, y, label_smoothing=0.1)
    assert torch.allclose(loss_of(TASK, smooth, scores, Batch(scores, y)), expected)
    both = 0.3 * functional.cross_entropy(scores, y) + 0.7 * functional.cross_entropy(scores, other)
    assert torch.allclose(loss_of(TASK, DEFAULT, scores, Batch(scores, y, other, 0.3)), both)
    learning = DEFAULT.model_copy(update={"distillation": Distillation(weight=0.25, temperature=2.0)})
    p = torch.softmax(taught / 2, 1)
    apart = functional.cross_entropy(scores / 2, p) + (p * p.log()).sum(1).mean()
    found = loss_of(TASK, learning, scores, Batch(scores, y, taught=taught))
    assert torch.allclose(found, 0.75 * functional.cross_entropy(scores, y) + 0.25 * 4 * apart, atol=1e-6)
    with pytest.raises(InputError, match="distillation is of scores of classes, and the task is regression"):
        check_losses(learning, regression(1), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1))
    flipping = DEFAULT.model_copy(update={"augmentation": Augmentation(flip=True)})
    with pytest.raises(InputError, match=r"augmentation\.flip is of images \(c, h, w\), and items are \(16,\)"):
        check_losses(flipping, TASK, torch.zeros(1, 16), torch.zeros(1))
    with pytest.raises(InputError, match=r"augmentation\.flip moves images, and targets of segmentation lie in them"):
        check_losses(flipping, segmentation(CLASSES), torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(InputError, match=r"augmentation\.flip moves images, and targets of regression lie in them"):
        check_losses(flipping, regression(1), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2))  # depths, say
    check_losses(flipping, regression(2), torch.zeros(1, 1, 4, 4), torch.zeros(1, 2))


# ---------------------------------------------------------------------------------------------- the loop


def test_a_network_taught_by_itself_stays_where_it_is(tmp_path: Path) -> None:
    """Where the teacher has all the weight and its outputs are the network's own, the gradient is 0."""
    net = network()
    before, recipe = (
        weights(net),
        DEFAULT.model_copy(update={"distillation": Distillation(weight=1.0, temperature=1.0)}),
    )

    def loss(forward: Forward, batch: Batch, draws: torch.Generator, done: float) -> Tensor:
        return loss_of(TASK, recipe, forward(batch.x), batch)

    plain = recipe.weights.model_copy(update={"optimiser": "sgd"})
    phase = Phase("phase", "fine_tune", 1, 0, recipe, TASK, Compute())
    with RunFolder(tmp_path / "run", {}, resume=False) as run:
        groups = [Group(list(net.parameters()), plain, 0.5)]
        train(phase, net, groups, data(), loss, lambda epoch: {}, run, Progress(1), {}, network())
    assert torch.allclose(weights(net), before, atol=1e-6)


def test_an_average_is_the_geometric_one_of_all_steps(tmp_path: Path) -> None:
    """Descent by hand, step by step: the average begins behind the first, and goes (1 - decay) of its way to the
    weights after each other."""
    recipe = DEFAULT.model_copy(
        update={"average": 0.75, "weights": DEFAULT.weights.model_copy(update={"optimiser": "sgd"})}
    )
    plain = recipe.model_copy(update={"average": 0.0})
    with_average, twin = network(), network()
    trained(tmp_path / "a", with_average, recipe, epochs=1)
    expected, pool = weights(twin), data()
    order = torch.randperm(20, generator=generator(0, "phase", 0))
    for step in range(2):
        rate = 0.01 * (0.55 + 0.45 * math.cos(math.pi * step / 2))
        at = order[8 * step : 8 * step + 8]
        gradient = torch.autograd.grad(functional.cross_entropy(twin(pool.x[at]), pool.y[at]), list(twin.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(twin.parameters(), gradient, strict=True):
                parameter -= rate * slope
        expected = 0.75 * expected + 0.25 * weights(twin) if step else weights(twin)
    assert torch.allclose(weights(with_average), expected, atol=1e-6)
    raw = network()
    trained(tmp_path / "b", raw, plain, epochs=1)
    assert torch.allclose(weights(raw), weights(twin), atol=1e-6)


def test_an_average_has_the_ranges_of_the_first_batch(tmp_path: Path) -> None:
    """A quantiser knows its range from the first step on; its value before that is none, and no part of the average.
    Two steps at 0.01 move its logarithm by about 0.02 at most."""
    quantiser = ActivationQuantiser(8)

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.quantiser = network(), quantiser

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(self.quantiser(50 * x, True))
            return out

    trained(tmp_path / "a", Quantised(), DEFAULT.model_copy(update={"average": 0.99}), epochs=1)
    first = torch.randperm(20, generator=generator(0, "phase", 0))[:8]
    assert float(quantiser.log_clip.detach().exp()) == pytest.approx(
        float((50 * data().x[first]).abs().max()), rel=0.03
    )


def dropping() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(16, CLASSES))


@pytest.mark.parametrize("compute", [PLAIN, Compute(accumulate=2), Compute(amp="bf16")])
def test_a_network_with_dropout_is_trained_the_same_again(tmp_path: Path, compute: Compute) -> None:
    """Whatever was drawn before it, whoever makes the batches, and broken off or not; nobody else's draws change."""
    one, other, broken = dropping(), dropping(), dropping()
    trained(tmp_path / "a", one, compute=compute, epochs=3)
    torch.rand(3)
    at = torch.get_rng_state()
    trained(tmp_path / "b", other, compute=replace(compute, workers=1), epochs=3)
    assert torch.equal(torch.get_rng_state(), at)
    assert torch.equal(weights(one), weights(other))
    with pytest.raises(Killed):
        trained(tmp_path / "c", broken, compute=compute, epochs=3, killed_at=2)
    torch.rand(3)
    again = dropping()
    trained(tmp_path / "c", again, compute=compute, epochs=3, resume=True)
    assert torch.equal(weights(again), weights(one))


def test_a_phase_ends_early_with_its_best_weights(tmp_path: Path) -> None:
    """Figures that fall after the second of six epochs: two more are done, and the weights are the second's; a search
    ends as early, with its last."""
    recipe = DEFAULT.model_copy(update={"early_stopping": EarlyStopping(warm_up=2, search=2)})
    figures = (0.5, 0.6, 0.6, 0.4, 0.9, 0.9)
    net = network()
    log = trained(tmp_path / "a", net, recipe, epochs=6, figures=figures)
    assert len(log) == 4
    assert float(weights(net)[0]) == log[1]["first"]
    log = trained(tmp_path / "b", net, recipe, epochs=6, kind="search", figures=figures)
    assert len(log) == 4
    assert float(weights(net)[0]) == log[3]["first"]


@pytest.mark.parametrize("compute", [Compute(accumulate=4), Compute(workers=1), Compute(channels_last=True)])
def test_how_a_step_is_computed_changes_rounding_alone(tmp_path: Path, compute: Compute) -> None:
    """Without batch norms the mean over parts is the mean over the batch; 1e-5 is some hundred roundings of weights
    of up to 1 in float32, over four steps of Adam, which divides gradients by their own size."""
    one, other = network(), network()
    trained(tmp_path / "a", one)
    trained(tmp_path / "b", other, compute=compute)
    assert torch.allclose(weights(one), weights(other), atol=1e-5)


def test_a_killed_phase_goes_on_with_all_that_it_keeps(tmp_path: Path) -> None:
    """Averages, the best epoch and how long ago it was, the optimisers of both kinds; and in another layout, which is
    how another device takes a checkpoint up: by its values alone."""
    recipe = DEFAULT.model_copy(update={"average": 0.5, "early_stopping": EarlyStopping(warm_up=3)})
    figures = (0.5, 0.7, 0.6, 0.6, 0.4, 0.9)
    whole, broken = network(), network()
    trained(tmp_path / "a", whole, recipe, epochs=6, figures=figures)
    with pytest.raises(Killed):
        trained(tmp_path / "b", broken, recipe, epochs=6, figures=figures, killed_at=3)
    other = Compute(channels_last=True)
    log = trained(tmp_path / "b", network(), recipe, other, epochs=6, figures=figures, resume=True)
    assert len(log) == 5  # three behind the best of the second
    again = network()
    trained(tmp_path / "b", again, recipe, other, epochs=6, figures=figures, resume=True)
    assert torch.allclose(weights(again), weights(whole), atol=1e-6)


def test_what_a_run_is_does_not_say_where_it_is_computed(tmp_path: Path) -> None:
    """So that a resumed run may be somewhere else, but not in another number format."""
    here = search_config(tmp_path)
    there = replace(here, compute=Compute("cuda", workers=4, compiled=True, channels_last=True))
    assert there.stated() == here.stated()
    assert replace(here, compute=Compute(amp="bf16")).stated() != here.stated()


def test_a_reduced_format_is_used_and_is_near(tmp_path: Path) -> None:
    """Bfloat16 has 8 bits: four steps of Adam of at most 0.01 each go the same way but for small gradients."""
    one, other = network(), network()
    trained(tmp_path / "a", one)
    trained(tmp_path / "b", other, compute=Compute(amp="bf16"))
    apart = (weights(one) - weights(other)).abs()
    assert 0 < float(apart.mean()) < 0.01


class Reads(TorchDispatchMode):
    """Counts what the host reads of tensors: on a device each waits for all that was asked of it before."""

    OPS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.equal.default)

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += func in self.OPS
        return func(*args, **(kwargs or {}))


def mixed_network() -> MixedNet:
    """Two layers that both of DIANA's arrays can take."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))
    return prepare(net, from_module(net, (1, 4, 4), "small"), find_soc("diana"))


def mixed_transformer() -> MixedNet:
    """A class token and four patches through one block of two heads, all of it on both of DIANA's arrays."""
    torch.manual_seed(0)
    net = VisionTransformer(1, CLASSES, 8, 4, 32, 1, 2)
    return prepare(net, from_module(net, (1, 8, 8), "small"), find_soc("diana"))


def test_nothing_of_a_step_is_read_from_the_device() -> None:
    """Gates, quantisers, losses and the cost between two touches, forward and back; once ranges have been found, and a
    cut of operators would have to be read. That it is counted at all is seen where the tangent is taken."""
    mixed, pool, draws = mixed_network().train(), data(), torch.Generator().manual_seed(0)
    mixed(pool.x)

    def squared(shares: Shares) -> Tensor:
        return torch.stack([k * float(k.detach()) for on in shares.values() for k in on.values()]).sum()

    tangent = Tangent(squared, 8)

    def step() -> int:
        with Reads() as reads:
            mixed.set_gates("expectation", 0.5, draws)
            loss = loss_of(TASK, DEFAULT, mixed(pool.x), Batch(pool.x, pool.y))
            (loss + tangent(mixed.shares()).to(loss)).backward()  # type: ignore[no-untyped-call]
        return reads.found

    assert step() > 0
    assert [step() for _ in range(7)] == [0] * 7
    assert step() > 0


class Apart(TorchDispatchMode):
    """Names the operators that were given tensors of several devices. A scalar may lie anywhere, and copies are what
    brings the rest together."""

    COPIES = ("_to_copy", "copy_", "set_", "detach")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.dim()]
        if func.overloadpacket.__name__ not in self.COPIES and len({one.device for one in given}) > 1:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("network", "estimator"), [("plain", "montecarlo"), ("transformer", "expectation")])
def test_everything_of_a_step_lies_on_its_device(network: str, estimator: Estimator) -> None:
    """In place of a GPU a device that has shapes and no numbers (`meta`): whatever reads one raises, and whatever is
    left on the CPU is named. From images as they are drawn, turned, moved and mixed to the gradients."""
    mixed = mixed_network() if network == "plain" else mixed_transformer()
    recipe, compute, draws = find_recipe("odimo"), Compute("meta"), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    side = 4 if network == "plain" else 8
    pool = Split(torch.randn(8, 1, side, side, generator=draws), torch.randint(CLASSES, (8,), generator=draws))
    mixed.train()(pool.x)  # finds ranges
    with Apart() as apart:
        torch.ones(()) * torch.zeros(2, device="meta")
        torch.zeros(2, device="meta").index_select(0, torch.zeros(2, dtype=torch.int64))
    assert apart.found == ["aten.index_select.default"]  # what is looked for is found
    compute.place(mixed)
    change = Augmentation(crop_pixels=1, flip=True, mixup=0.5)
    with Apart() as apart:
        held = pool.to("meta")
        (plan,) = plans(torch.arange(8), 8, change, draws)
        batch = made(held, plan, "meta")
        mixed.set_gates(estimator, 0.5, draws)
        loss = loss_of(TASK, recipe, compute.forward(mixed)(batch.x), batch)
        for on in mixed.shares().values():
            loss = loss + sum(k.square() for k in on.values())
        loss.backward()
    assert apart.found == []
    learnt = [one.grad for one in mixed.parameters() if one.grad is not None]
    assert {one.device.type for one in (*learnt, *mixed.parameters(), *mixed.buffers())} == {"meta"}


@pytest.mark.filterwarnings("ignore")  # of what torch itself does while it traces
def test_a_search_network_is_one_graph_however_gates_move() -> None:
    """torch.compile with `fullgraph` refuses any read, and the counter any new graph; outputs are those without it."""
    mixed, pool, draws = mixed_network().train(), data(), torch.Generator().manual_seed(0)
    mixed(pool.x)
    made = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(mixed, backend=made, fullgraph=True)
    for temperature in (1.0, 0.5, 0.25):
        mixed.set_gates("expectation", temperature, draws)
        assert torch.equal(compiled(pool.x), mixed(pool.x))
    assert made.frame_count == 1


# ---------------------------------------------------------------------------------------------- two processes


def search_config(out: Path) -> TrainingConfig:
    """A search with batch norms, quantised ranges and gates, of one step or two an epoch."""
    return TrainingConfig(
        find_soc("diana"), "digits_cnn", strengths=(1.0,), epochs=2, train_images=64, manual=(), out=out, theta=Theta(),
        recipe=find_recipe("default", {"batch": "32"}),
    )  # fmt: skip


def silent(done: int, total: int, what: str) -> None:
    pass


def test_a_trained_network_is_mapped_without_a_warm_up(tmp_path: Path) -> None:
    """From the weights that it has, taught by itself: the one phase of its own is not there, its weights are; those of
    another seed, too, as nothing would train others."""
    trained_before = build("digits_cnn")
    recipe = find_recipe("imagenet-finetune", {"batch": "32", "epochs.search": "1", "epochs.fine_tune": "1"})
    search_trained(replace(search_config(tmp_path / "run"), recipe=recipe, module=trained_before, seeds=2), silent)
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [one["phase"] for one in log] == ["strength_1.search", "strength_1.tune", "strength_1.seed_1.tune"]
    for phase in ("warm_up", "warm_up.seed_1"):
        kept = torch.load(tmp_path / "run" / "weights" / f"{phase}.pt")
        assert all(torch.equal(kept[name], value) for name, value in trained_before.state_dict().items())


SHARED = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from cosoc.search.training.parallel import folder_of_mine, together
from cosoc.search.training.space import search_trained
from test_train import search_config, silent
out = Path(sys.argv[2])
with together("cpu"), folder_of_mine(out, False, lambda: None) as mine:
    search_trained(replace(search_config(out), out=mine), silent)
"""


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Each with half of every batch, statistics over both halves: a search end to end. Weights differ by roundings,
    which Adam, dividing by a gradient's size, makes the larger the smaller that is: 1e-3 is a third of one step of the
    warm-up, and the largest difference found is 1e-4. Where weights and activations are rounded to whole steps, a few
    fall to the other side, and a gradient near 0 may change its sign: of the search 1 in 100 may differ by more than
    1e-4, a tenth of a step. The mapping is the same, and losses of all phases are to 1e-3."""
    search_trained(search_config(tmp_path / "one"), silent)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", SHARED, str(Path(__file__).parent), str(tmp_path / "two")]
    started = [
        subprocess.Popen(words, env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [one.wait(timeout=200) for one in started] == [0, 0]
    finally:
        for one in started:
            one.kill()
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert one["points"][0]["simulated"] == two["points"][0]["simulated"]
    apart = {}
    for name in ("warm_up", "strength_1.search"):
        mine, other = (torch.load(tmp_path / run / "weights" / f"{name}.pt") for run in ("one", "two"))
        assert mine.keys() == other.keys()
        apart[name] = torch.cat([(mine[key].double() - other[key].double()).abs().flatten() for key in mine])
    assert float(apart["warm_up"].max()) < 1e-3
    assert float((apart["strength_1.search"] > 1e-4).double().mean()) < 0.01
    logs = ((tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("one", "two"))
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert json.loads((tmp_path / "two" / "speed.json").read_text())["processes"] == 2

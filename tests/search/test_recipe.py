"""Recipes: what is read is what is done, and what would do nothing is refused at its line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from cosoc.search.training.optimise import Group, Optimisers, of_rate
from cosoc.search.training.recipe import (
    Optimiser,
    Schedule,
    changed_recipe,
    find_recipe,
    list_recipes,
    recipe_folder,
)
from cosoc.searching import search
from cosoc.sim.errors import InputError


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_read_and_names_its_schema(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name and recipe.description
    first = (recipe_folder() / f"{name}.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schema/recipe.json"


def test_phases_of_the_default_share_the_epochs_out() -> None:
    """0.4 of them float, 0.35 a search beside, and what is left, but never less than a search and one more, tuned."""
    recipe = find_recipe("default")
    assert recipe.phases(40) == (16, 14, 24)
    assert recipe.phases(1) == (1, 1, 2)
    for epochs in range(3, 200):
        warm, point, tune = recipe.phases(epochs)
        assert warm + tune == epochs and point < tune


def test_odimos_is_what_its_scripts_say() -> None:
    """run_ic_fulltest.sh and search_r20.py of its release, as the file names them."""
    recipe = find_recipe("odimo")
    assert recipe.phases(7) == (0, 200, 200) and not recipe.shares
    assert [of_rate(recipe.weights.schedule, epoch / 200) for epoch in (0, 99, 100, 149, 150)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    assert recipe.gates is not None
    assert recipe.gates.coolest == pytest.approx(math.exp(-0.045 * 200), rel=1e-3)


DEFAULT = (recipe_folder() / "default.yaml").read_text()


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("batch: 64", "batch: 0", "batch: found 0: must be 1 to 2^20 items"),
        ("  search: 0.35", "  search: 1.5", "epochs.search: found 1.5: a share below 1 of --epochs"),
        ("  search: 0.35", "  search: 0", "weights.rates.search: means nothing where epochs.search is 0"),
        ("  search: 0.35", "  search: 0.35\n  fine_tune: 0", "epochs.fine_tune: found 0: ranges are found"),
        ("{warm_up: 3e-3, ", "{", "weights.rates.warm_up: is missing, and epochs.warm_up is not 0"),
        ("  coolest: 0.2", "  coolest: 0.2\n  momentum: 0.9", "gates.momentum: means nothing with adam"),
        ("{kind: cosine, end: 0.1}\n  rate:", "{kind: cosine}\n  rate:", "gates.schedule: cosine needs end"),
        ("{kind: cosine, end: 0.1}\n  rate:", "{end: 0.1}\n  rate:", "gates.schedule.end: means nothing with kind"),
        ("optimiser: adam\n  schedule: {kind: cosine, end: 0.1}\n  rates: {w",
         "optimiser: sgd\n  nesterov: true\n  rates: {w", "weights.nesterov: needs a momentum above 0"),
        ("batch: 64", "batch: 64\nflip: true", "flip: unknown key"),
    ],
)  # fmt: skip
def test_what_would_change_nothing_is_refused_at_its_line(tmp_path: Path, was: str, now: str, said: str) -> None:
    assert DEFAULT.count(was) == 1
    path = tmp_path / "mine.yaml"
    text = DEFAULT.replace(was, now)
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        find_recipe(str(path))
    line = next(one for one in refused.value.lines if said in one)
    number = int(line.removeprefix(f"{path}:").split(":")[0])
    key = said.split(":")[0].split(".")[-1]
    parent = said.split(":")[0].split(".")[-2:-1]
    assert any(one in text.splitlines()[number - 1] for one in (key, *parent, "rates"))


def test_options_stand_in_the_place_of_values() -> None:
    changed = changed_recipe("default", 32, {"search": 0.5, "quantisers": 0.25})
    plain = find_recipe("default")
    assert (changed.batch, changed.weights.rates.search) == (32, 0.5)
    assert (changed.quantisers.rates.search, changed.quantisers.rates.fine_tune) == (0.25, 0.25)
    assert changed.weights.rates.fine_tune == plain.weights.rates.fine_tune
    with pytest.raises(InputError, match=r"rate logits: warm_up, search, fine_tune, quantisers, gates are known"):
        changed_recipe("default", rates={"logits": 1.0})
    with pytest.raises(InputError, match=r"weights\.rates\.warm_up: means nothing where epochs\.warm_up is 0"):
        changed_recipe("odimo", rates={"warm_up": 1.0})
    with pytest.raises(InputError, match="no recipe named 'best'; there is cifar, default"):
        find_recipe("best")


def test_a_search_refuses_options_that_mean_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match="recipe: means nothing with --space tiles"):
        search("diana", "digits_cnn", space="tiles", recipe="cifar", out=out)
    with pytest.raises(InputError, match="epochs: recipe odimo says how many each phase has"):
        search("diana", "digits_cnn", recipe="odimo", epochs=3, out=out)
    with pytest.raises(InputError, match=r"batch 64: cannot be cut into equal parts for accumulate 3"):
        search("diana", "digits_cnn", accumulate=3, out=out)
    with pytest.raises(InputError, match="device mps: torch finds no Apple GPU here"):
        search("diana", "digits_cnn", device="mps", out=out)
    assert not out.exists()


def test_rates_follow_their_schedules() -> None:
    """Closed forms: half a cosine from 1 to its end; falls at shares of the phase; a straight ramp."""
    cosine = Schedule(kind="cosine", end=0.2, ramp=0.1)
    assert [of_rate(cosine, x) for x in (0.0, 0.05)] == pytest.approx(
        [0, 0.5 * (0.2 + 0.4 * (1 + math.cos(0.05 * math.pi)))], rel=1e-6
    )
    assert [of_rate(cosine, x) for x in (0.5, 1.0)] == pytest.approx([0.6, 0.2], rel=1e-6)
    steps = Schedule(kind="steps", at=[0.5, 0.75], factor=0.1)
    assert [of_rate(steps, x) for x in (0.0, 0.5, 0.8)] == pytest.approx([1, 0.1, 0.01])
    assert of_rate(Schedule(), 0.9) == 1


def test_each_group_is_trained_by_its_own_optimiser() -> None:
    """One step from a gradient of 1: descent with decay goes rate x (1 + decay x value), Adam goes its rate."""
    a, b = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    groups = [
        Group([a], Optimiser(optimiser="sgd", weight_decay=0.5), 0.1),
        Group([b], Optimiser(optimiser="adam"), 0.2),
    ]
    both = Optimisers(groups)
    both.at(0.0)
    (a + b).backward()  # type: ignore[no-untyped-call]
    both.step(torch.amp.GradScaler("cpu", enabled=False))
    assert [float(a.detach()), float(b.detach())] == pytest.approx([1 - 0.1 * 1.5, 0.8], rel=1e-6)


def test_momentum_goes_on_where_a_step_leaves_a_parameter_out() -> None:
    """A path that only the second step takes has moved by rate x gradient then, and the one that both take by
    rate x (1 + 0.5 + 1) gradients: a heavy ball's closed form."""
    a, b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    both = Optimisers([Group([a, b], Optimiser(optimiser="sgd", momentum=0.5), 0.1)])
    both.at(0.0)
    for used in (a, a + b):
        both.zero_grad()
        used.backward()  # type: ignore[no-untyped-call]
        both.step(torch.amp.GradScaler("cpu", enabled=False))
    assert [float(a.detach()), float(b.detach())] == pytest.approx([-0.25, -0.1], rel=1e-6)

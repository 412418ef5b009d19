"""Networks that begin at the numbers of tokens, with tables of embeddings: through every step of a search."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cosoc import wrap
from cosoc.search.spaces.channels import assignment, channel_groups, fix, make_contiguous, prepare, to_mapping
from cosoc.search.training.nets import Bert, PostNormBlock
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.build import Input
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.workload import INPUT, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta

DIANA = find_soc("diana")
WORDS, POSITIONS, TOKENS, WIDTH = 40, 12, 7, 32
TABLES = {"classification": False, "sequence_labelling": True}  # whether each token has scores


def bert(task: str) -> tuple[nn.Module, Workload]:
    """A block of two heads behind its tables, and scores of two classes."""
    torch.manual_seed(0)
    net = Bert(WORDS, POSITIONS, WIDTH, 2, 1, 2, TABLES[task]).eval()
    return net, from_module(net, [Input("", (TOKENS,), "int64")], "bert")


def test_tables_are_layers_before_the_blocks() -> None:
    """Rows of the table of words by the input, sums with what the other tables have for all inputs, a norm; the
    multiplications are those of the blocks on embedded tokens, and of the classifier."""
    _, workload = bert("classification")
    gather, positions, segments, norm = workload.layers[:4]
    assert (gather.op, gather.inputs, gather.rows, gather.k, gather.ox) == ("gather", (INPUT,), WORDS, WIDTH, TOKENS)
    assert (positions.inputs, positions.constants) == (("words",), TOKENS * WIDTH)
    assert (segments.inputs, segments.constants, norm.op) == ((positions.name,), WIDTH, "norm")
    block = from_module(PostNormBlock(WIDTH, 2), (TOKENS, WIDTH), "block")
    assert workload.macs == block.macs + 2 * WIDTH


@pytest.mark.parametrize("task", TABLES)
def test_a_network_of_tokens_is_quantised_decided_and_simulated(task: str) -> None:
    """Channels on random cores, put in order: the outputs for any tokens are what they were; the mapping is simulated
    with the host that looks rows up, in its cycles for what it copies."""
    net, workload = bert(task)
    mixed = prepare(net, workload, DIANA).double()
    tokens = torch.randint(WORDS, (3, TOKENS), generator=torch.Generator().manual_seed(0))
    mixed.train()(tokens)
    with torch.no_grad():
        for layer in mixed.searchable().values():
            layer.logits.normal_()
    groups = channel_groups(workload)  # what is normed and summed with the tables' rows keeps its order
    chosen = {
        name: cores.sort().values if groups[name] == groups[INPUT] else cores
        for name, cores in assignment(mixed.eval()).items()
    }
    fix(mixed, chosen)
    before = mixed(tokens)
    ordered, _ = make_contiguous(mixed, workload, chosen, (TOKENS,))
    fix(mixed, ordered)
    assert any(not torch.equal(ordered[name], cores) for name, cores in chosen.items())
    assert torch.allclose(mixed(tokens), before, atol=1e-12)
    assert before.shape == ((3, TOKENS, 2) if TABLES[task] else (3, 2))
    result = simulate(DIANA, workload, to_mapping(mixed, ordered, "overlapped", "found"))
    took = {part.layer: part.compute_ticks for part in result.by_layer}
    assert took["words"] == TOKENS * WIDTH * DIANA.cores["host"].cycles_per_copied_element  # type: ignore[attr-defined]


def test_a_search_learns_to_label_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which half of the vocabulary each token is of: its row says so, so nearly all are labelled rightly in the format
    of 8 bit."""
    tokens = torch.randint(WORDS, (320, TOKENS), generator=torch.Generator().manual_seed(0))
    module = type(sys)("halves_for_test")
    late = (tokens >= WORDS // 2).long()
    module.data = lambda: {  # type: ignore[attr-defined]
        "train": (tokens[:256], late[:256]), "test": (tokens[256:], late[256:]), "task": "sequence_labelling",
        "classes": ["early", "late"],
    }  # fmt: skip
    monkeypatch.setitem(sys.modules, "halves_for_test", module)
    config = TrainingConfig(
        DIANA, "bert", data="halves_for_test:data", module=bert("sequence_labelling")[0], epochs=4, strengths=(1.0,),
        theta=Theta(), manual=("all_8bit",), out=tmp_path / "run", recipe=find_recipe("default", {"batch": "8"}),
    )  # fmt: skip
    result = search_trained(config, lambda done, total, what: None)
    assert {one.name: one.accuracy for one in result.found}["all_8bit"] > 0.95


MINE = """
import torch
from torch import nn


def data():
    tokens = torch.randint(20, (600, 7), generator=torch.Generator().manual_seed(0))
    wins = ((tokens < 10).sum(1) > 3).long()
    return {"train": (tokens[:400], wins[:400]), "test": (tokens[400:], wins[400:]), "task": "classification",
            "classes": ["late", "early"]}


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.fc = nn.Embedding(20, 32), nn.Linear(32, 32), nn.Linear(32, 2)

    def forward(self, tokens):
        return self.fc(torch.relu(self.hidden(self.words(tokens).mean(1))))
"""


def test_a_bag_of_words_is_learned_from_own_data(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven words, which half of the vocabulary has more: the sum over rows of a table says, whatever their order;
    chance is one in two. What leaves for a device says the same of words, in integers."""
    monkeypatch.chdir(tmp_path)
    Path("bag_of_words.py").write_text(MINE)
    words = (
        "search diana bag_of_words:Bag --data bag_of_words:data --epochs 10 --batch 16 --strengths 1 --out run --quiet"
    )
    status, _, told = run(*words.split())
    assert status == 0, told
    found = json.loads(Path("run/result.json").read_text())
    assert {one["name"]: one["accuracy"] for one in found["known"]}["all_8bit"] > 0.9
    status, out, told = run("export", "run", "all_8bit", "--format", "json", "--out", "left", "--trust")
    assert status == 0, told
    left, trained = (float(one) for one in re.findall(r"([\d.]+)%", out))
    assert left == pytest.approx(trained, abs=0.5) and left > 90


def test_an_example_of_tokens_is_wrapped() -> None:
    """In a training loop of one's own: the type of the example says that numbers of rows come in."""
    net, workload = bert("classification")
    model = wrap(net, "diana", torch.zeros(1, TOKENS, dtype=torch.int64), primed=0)
    assert model.workload.layers == workload.layers
    assert model.eval()(torch.randint(WORDS, (2, TOKENS))).shape == (2, 2)

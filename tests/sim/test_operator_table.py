"""What operators take, as tables for simulators of whole systems: the times are the run's, and none is lost."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

import pytest

import cosoc
from cosoc.cli import main
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.report.operator_table import astra_sim, llmservingsim, plain, read_names

NAMES = """\
dense:
  layernorm: [["*norm1"], ["*norm2"]]
  qkv_proj: ["block.q", "block.k", "block.v"]
  o_proj: ["block.proj"]
  gate_up_proj: ["block.fc1"]
  act_fn: ["block.act"]
  down_proj: ["block.fc2"]
attention:
  attention: ["*scores", "*softmax", "*attend"]
left_out: ["slice", "*add*", "cat"]
"""
BLOCKS = ("gpt3_block_decode", "gpt3_block_prefill")  # of 2,048 tokens: one more behind them, and all at once


@pytest.fixture(scope="module")
def results() -> list[cosoc.Result]:
    return [cosoc.simulate("xavier_nx", name) for name in BLOCKS]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_of_a_decoder_s_block(results: list[cosoc.Result], tmp_path: Path) -> None:
    """Dense layers stand at 1 and at 2,048 tokens; attention as one sequence that decodes over 2,048 keys, and as a
    chunk of 2,048, of which a token sees 1,024 on average. Three projections are one call, two norms are two."""
    (tmp_path / "names.yaml").write_text(NAMES)
    layers = [part.layer for result in results for part in result.by_layer]
    tables = llmservingsim(results, read_names(tmp_path / "names.yaml", layers))
    assert set(tables) == {"dense.csv", "attention.csv"}
    dense = {(row["layer"], int(row["tokens"])): float(row["time_us"]) for row in rows(tables["dense.csv"])}
    names = ("act_fn", "down_proj", "gate_up_proj", "layernorm", "o_proj", "qkv_proj")
    assert list(dense) == [(name, tokens) for name in names for tokens in (1, 2048)]  # sorted, as its own are
    for result, tokens in zip(results, (1, 2048), strict=True):
        us = {part.layer: part.seconds_critical * 1e6 for part in result.by_layer}
        assert dense["qkv_proj", tokens] == pytest.approx(sum(us[f"block.{x}"] for x in "qkv"), rel=1e-5)
        assert dense["layernorm", tokens] == pytest.approx((us["block.norm1"] + us["block.norm2"]) / 2, rel=1e-5)
    header, decode, prefill = tables["attention.csv"].splitlines()
    assert header == "layer,prefill_chunk,prefill_key,n_decode,kv_decode,decode_q_len,time_us"
    assert decode.startswith("attention,0,0,1,2048,1,") and prefill.startswith("attention,2048,1024,0,0,1,")


def test_queries_of_which_each_sees_half_of_the_keys_have_nothing_before_them(tmp_path: Path) -> None:
    """Attention of 8 queries over 4 keys of another sequence: 4 of effective length, and not less than there are."""
    scores = Layer("scores", "matmul", ("q", "k"), 4, 8, ox=8, ix=8)
    layers = (Layer("q", "conv", ("input",), 8, 8, ox=8, ix=8), Layer("k", "conv", ("other",), 8, 8, ox=4, ix=4))
    network = Workload("across", (8, 1, 8), (*layers, scores), ("scores",), "", (("other", 32),))
    result = cosoc.simulate("rpi4", network)
    path = tmp_path / "names.yaml"
    path.write_text("attention: {attention: [scores]}\nleft_out: [q, k]\n")
    (row,) = rows(llmservingsim([result], read_names(path, ["q", "k", "scores"]))["attention.csv"])
    assert (row["prefill_chunk"], row["prefill_key"], row["n_decode"]) == ("8", "4", "0")


def test_equal_keys_are_averaged(results: list[cosoc.Result], tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text(NAMES)
    twice = [results[0], results[0]]
    names = read_names(tmp_path / "names.yaml", [part.layer for part in results[0].by_layer])
    assert llmservingsim(twice, names) == llmservingsim(twice[:1], names)


def test_astra_sim_s_times_are_whole_and_sum_to_the_run(results: list[cosoc.Result]) -> None:
    """Twelve columns as Chakra's converter reads them; the forward pass alone takes time."""
    for result in results:
        kind, n, *lines = astra_sim(result).splitlines()
        assert (kind, int(n)) == ("DATA", len(lines)) and len(lines) == len(result.by_layer)
        columns = [line.split() for line in lines]
        assert all(len(one) == 12 and one[1] == "-1" for one in columns)
        assert all([*one[3:]] == ["NONE", "0", "0", "NONE", "0", "0", "NONE", "0", "0"] for one in columns)
        times = [int(one[2]) for one in columns]
        for end, part in zip(itertools.accumulate(times), itertools.accumulate(
            part.seconds_critical for part in result.by_layer
        ), strict=True):  # fmt: skip
            assert end == pytest.approx(part * 1e6, abs=0.5)
        assert sum(times) == pytest.approx(result.seconds * 1e6, abs=0.5)


def test_a_plain_table_has_every_operator_with_its_time_and_macs(results: list[cosoc.Result]) -> None:
    found = rows(plain(results))
    for result in results:
        mine = [row for row in found if row["workload"] == result.workload]
        assert [row["layer"] for row in mine] == [part.layer for part in result.by_layer]
        assert sum(float(row["time_us"]) for row in mine) == pytest.approx(result.seconds * 1e6, rel=1e-4)
        assert sum(int(row["macs"]) for row in mine) == result.at.workload.macs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"slice", ', "", "names.yaml:1:1: says nothing of slice; name each layer, or put it under left_out"),
        ("block.proj", "block.prj", "names.yaml:4:11: dense.o_proj: found 'block.prj'; no layer of the networks"),
        ("block.proj", "block.fc1", "found 'block.fc1'; block.fc1 is in o_proj already"),
        ("attention:\n  attention", "attention:\n  attention: [slice]\n  mixed", "none of slice multiplies"),
        ("left_out", "leftout", "names.yaml:10:1: leftout: "),
    ],
)
def test_wrong_names_are_refused(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(NAMES.replace(old, new).replace('["slice", ', "[") if "slice]" in new else NAMES.replace(old, new))
    words = ["operator-table", "rpi4", BLOCKS[0], "--for", "llmservingsim", "--names", str(path), "-q"]
    assert main([*words, "--out", str(tmp_path / "perf" / "tp1")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "perf").exists()


def test_the_command_writes_a_folder_a_file_or_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.yaml").write_text(NAMES)
    words = ["operator-table", "xavier_nx", *BLOCKS, "-q"]
    served = [*words, "--for", "llmservingsim", "--names", str(tmp_path / "names.yaml"), "--out"]
    assert main([*served, str(tmp_path / "perf" / "tp1")]) == 0
    assert {path.name for path in (tmp_path / "perf" / "tp1").iterdir()} == {"dense.csv", "attention.csv"}
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("soc,workload,layer,op,")
    astra = tmp_path / "net.txt"
    assert main(["operator-table", "xavier_nx", BLOCKS[0], "-q", "--for", "astra-sim", "--out", str(astra)]) == 0
    assert astra.read_text().startswith("DATA\n16\nslice -1 ")
    for wrong, message in (
        ([*words, "--for", "astra-sim"], "found 2 networks; a file has one"),
        ([*words, "--for", "llmservingsim"], "--names is missing"),
        ([*words, "--names", "n.yaml"], "--names n.yaml: means nothing with --for csv"),
        (served[:-1], "--out is missing"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err

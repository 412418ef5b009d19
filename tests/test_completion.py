"""What the shell offers: every candidate is what a command takes there, and a real bash asks as the script says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cosoc.sim.files.names import list_clusters, list_socs, list_workloads
from cosoc.sim.files.yamlfile import read_plain

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], {"simulate", "search", "list", "completion"}),
        (["simulate", ""], {*list_socs(), *list_clusters()}),
        (["simulate", "diana", "resnet1"], {name for name in list_workloads() if name.startswith("resnet1")}),
        (["simulate", "diana", "resnet8", "--mapping", "s"], {"silicon"}),
        (["simulate", "diana", "resnet8", "--runtime", ""], {"serial", "overlapped"}),
        (["simulate", "--runtime=serial", "gap"], {"gap8", "gap9"}),
        (["simulate", "--runtime=s"], {"serial"}),
        (["simulate", "--runtime", "=", "s"], {"serial"}),
        (["simulate", "--runtime", "="], {"serial", "overlapped"}),
        (["compare", "diana", "resnet8", "--mapping", "all_8bit", "--mapping", "sil"], {"silicon"}),
        (["search", "diana", "dscnn", "--space", "tiles"], {"tiles", "tiles+fusion"}),
        (["search", "diana", "dscnn", "--objective", "e"], {"energy", "edp"}),
        (["show", ""], {"soc", "workload", "mapping", "program"}),
        (["show", "soc", "ge"], {"gemmini", "gemmini_firesim", "gemmini_large"}),
        (["validate", "diana", "gap9"], {"gap9_mlperf_tiny"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["simulate", "diana", "resnet8", "--runtim"], {"--runtime"}),
        (["simulate", "diana", "resnet8", "--json", ""], set()),
        (["nothing", "di"], set()),
    ],
    # the offered ones are sets, whose order is another in each process
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_word_is_completed_by_what_may_stand_there(words: list[str], offered: set[str], run: Run) -> None:
    status, out, err = run("complete", "--", *words)
    assert (status, err) == (0, "")
    found = set(out.split())
    assert found == offered if words[-1] or len(words) > 2 else found >= offered


def test_keys_are_those_that_set_takes(run: Run, tmp_path: Path) -> None:
    """Of a chip's file, and of the user's own: each number of it can be set."""
    own = tmp_path / "own.yaml"
    own.write_text(run("show", "soc", "diana")[1])
    for soc in ("diana", str(own)):
        keys = run("complete", "--", "simulate", soc, "resnet8", "--set", "links.l1.")[1].split()
        assert keys and all(key.startswith("links.l1.") and key.endswith("=") for key in keys)
        for key in keys:
            value = read_plain(own)["links"]["l1"][key.removeprefix("links.l1.").removesuffix("=")]
            assert run("show", "soc", soc, "--set", f"{key}{value}")[0] == 0
    assert run("complete", "--", "simulate", "none.yaml", "resnet8", "--set", "l")[1].split() == []


def test_another_shell_is_refused(run: Run) -> None:
    assert run("completion", "tcsh") == (2, "", "completion tcsh: bash, zsh, fish are known\n")


def installed(shell: str, run: Run, folder: Path) -> None:
    """A `cosoc` for the path of a shell, and the script that it reads."""
    (folder / "cosoc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cosoc "$@"\n')
    (folder / "cosoc").chmod(0o755)
    (folder / "script").write_text(run("completion", shell)[1])


def test_bash_completes(run: Run, tmp_path: Path) -> None:
    """Bash itself, with the script and a `cosoc` on its path."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    installed("bash", run, tmp_path)
    asks = (
        f"PATH={tmp_path}:$PATH; source {tmp_path}/script; compopt() {{ :; }}; COMP_WORDS=(cosoc simulate neurr); "
        'COMP_CWORD=2; _cosoc; echo "${COMPREPLY[@]}"; complete -p cosoc'
    )
    done = subprocess.run([bash, "-c", asks], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["neurram", "complete -o default -F _cosoc cosoc"]


def test_fish_completes(run: Run, tmp_path: Path) -> None:
    """Fish itself; an option and its value in one word too."""
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("no fish here")
    installed("fish", run, tmp_path)
    for line, offered in (("simulate neurr", "neurram"), ("simulate --runtime=s", "--runtime=serial")):
        asks = f"set PATH {tmp_path} $PATH; source {tmp_path}/script; complete -C 'cosoc {line}'"
        done = subprocess.run([fish, "--no-config", "-c", asks], capture_output=True, text=True, check=True, timeout=60)
        assert offered in done.stdout.split()


def test_list_has_a_line_on_every_chip_and_the_mappings_that_apply(run: Run) -> None:
    out = run("list")[1]
    lines = {words[0]: words[1:] for words in map(str.split, out.splitlines()) if words}
    assert all(len(lines[name]) > 1 for name in (*list_socs(), *list_clusters()))
    assert all(name in lines for name in list_workloads())
    assert {"all_ternary", "silicon", "default"} <= set(run("list", "diana")[1].split())
    assert not {"all_ternary", "gpu", "dla"} & set(run("list", "rpi5")[1].split())
    assert {"gpu", "dla"} <= set(run("list", "agx_orin_dla")[1].split())
    assert run("list", "nothing")[0] == 2

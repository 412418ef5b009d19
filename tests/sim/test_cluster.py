"""Cluster files: what they say, and how they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import cluster_folder, device_soc, find_cluster, is_cluster, list_clusters, load_cluster

GOOD = """\
name: two
devices:
  a: {soc: rpi4, count: 2}
  b: {soc: rpi5}
links:
  x: {kind: ethernet_switch, between: [a, b], bytes_per_s: 1000000, latency_ns: 5, burst_bytes: 100}
"""
WIFI = "  y: {kind: wifi, between: [b], bytes_per_s: 1000000, latency_ns: 5, burst_bytes: 100}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", list_clusters())
def test_built_in_clusters_load_and_name_their_schema(name: str) -> None:
    cluster = find_cluster(name)
    assert cluster.name == name
    first = (cluster_folder() / f"{name}.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schema/cluster.json"
    for device in cluster.devices:
        assert device_soc(cluster, device).cores


@pytest.mark.parametrize("name", list_clusters())
def test_every_number_of_a_cluster_has_its_evidence(name: str) -> None:
    words = ("published", "derived", "recalled", "assumed", "measured")
    for line in (cluster_folder() / f"{name}.yaml").read_text().splitlines():
        key, _, rest = line.partition(":")
        value, _, comment = rest.partition("#")
        if value.strip() and value.strip()[0].isdigit() and key.strip() not in ("count", "description"):
            assert comment.strip().startswith(words), line


def test_sizes_in_the_names_are_the_counts() -> None:
    for name in list_clusters():
        kind, _, count = name.rpartition("_")
        if count.isdigit():
            assert sum(device.count for device in find_cluster(name).devices.values()) == int(count), kind


def test_devices_of_an_entry_reach_one_another_and_others_through_their_link(tmp_path: Path) -> None:
    cluster = load_cluster(written(tmp_path, GOOD))
    assert cluster.joins("a", "a") == cluster.joins("a", "b") == cluster.joins("b", "a") == "x"


def test_overrides_reach_the_soc(tmp_path: Path) -> None:
    text = GOOD.replace("soc: rpi5", "soc: rpi5, set: {base_power_mw: '1.5'}")
    assert device_soc(load_cluster(written(tmp_path, text)), "b").base_power_mw == 1.5


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("  b: {soc: rpi5}", "  b: {soc: rpi5}\n  c: {soc: rpi5}"), 5, "no chain of links leads here from a"),
        (("[a, b]", "[a]"), 4, "no chain of links leads here from a"),
        (("[a, b]", "[a, b, d]"), 6, "no device named 'd'; there is a, b"),
        (("[a, b]", "[a, b, a]"), 6, "a is named twice"),
        (("soc: rpi5", "soc: rpi6"), 4, "no SoC named 'rpi6'"),
        (("soc: rpi5", "soc: rpi5, set: {nonsense: '1'}"), 4, "nonsense"),
        (("links:\n", "links:\n" + WIFI.replace("[b]", "[a, b]")), 7, "joins a and a, which y does already"),
        (("links:\n", "links:\n" + WIFI.replace("  y", "  x")), 7, "key given twice"),
        (("links:\n", "links:\n" + WIFI.replace("[b]", "[b, b]")), 6, "b is named twice"),
        (("kind: ethernet_switch", "kind: smoke_signals"), 6, "smoke_signals"),
        (("bytes_per_s: 1000000", "bytes_per_s: 0"), 6, "found 0: must be 1 to 1e+15 bytes/s"),
        (("count: 2", "cuont: 2"), 3, "did you mean count"),
    ],
)
def test_bad_files_are_refused_with_their_line(tmp_path: Path, change: tuple[str, str], line: int, says: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(InputError) as error:
        load_cluster(written(tmp_path, GOOD.replace(*change)))
    text = str(error.value)
    assert says in text and f"c.yaml:{line}:" in text and "\n" not in text


def test_a_device_that_a_wrong_name_may_have_meant_is_not_called_unreachable(tmp_path: Path) -> None:
    """No link names b, as one names d, which nothing is called: one fault and not two."""
    with pytest.raises(InputError) as error:
        load_cluster(written(tmp_path, GOOD.replace("[a, b]", "[a, d]")))
    (line,) = error.value.lines
    assert "c.yaml:6:" in line and "no device named 'd'; there is a, b" in line


def test_equal_devices_that_no_link_joins_are_refused(tmp_path: Path) -> None:
    text = GOOD.partition("  b:")[0] + "links: {}\n"
    with pytest.raises(InputError, match=r"c.yaml:3:\d+: devices.a: 2 devices that no link joins"):
        load_cluster(written(tmp_path, text))


def test_two_shared_media_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace("ethernet_switch, between: [a, b]", "wifi, between: [a, b]")
    text = text.replace("  b: {soc: rpi5}", "  b: {soc: rpi5}\n  c: {soc: rpi5}") + WIFI.replace("[b]", "[b, c]")
    with pytest.raises(InputError, match=r"second shared medium|joins b and b"):
        load_cluster(written(tmp_path, text))


def test_unknown_clusters_are_told_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"no cluster named 'nope'; there is .*pipeedge_16"):
        find_cluster("nope")


def test_a_file_with_the_name_of_a_soc_does_not_make_it_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names of what comes with cosoc come first, for SoCs as for clusters.
    monkeypatch.chdir(tmp_path)
    for name in ("diana", "other"):
        (tmp_path / name).write_text("devices: {}\n")
    assert not is_cluster("diana") and is_cluster("other") and not is_cluster("absent")


def test_a_path_that_leads_nowhere_is_a_path() -> None:
    """What ends like a file is looked for as one, and not as a name that nobody has."""
    with pytest.raises(InputError, match="no such file"):
        find_cluster("nowhere.yaml")
    with pytest.raises(InputError, match="no cluster named 'nowhere'"):
        find_cluster("nowhere")

"""Mapping strings as Gemmini's test programs execute them (gemmini-rocc-tests, gemmini-data-collection)."""

from __future__ import annotations

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.importers.dosa import DIMS, Problem, decode, decode_default
from cosoc.sim.movers.measured import Nest

CONV = Problem(k=64, c=3, p=112, q=112, r=7, s=7, stride=2)


def test_a_tile_is_all_that_stands_below_dram() -> None:
    nest = decode("L3[WIO] K8 Q28 - L2[WI] N1 K4X - L1[O] K2 S7 R7 Q4 P7 C3X - L0[W] P16", CONV)
    assert dict(zip(DIMS, nest.tile, strict=True)) == {"och": 8, "kch": 3, "krow": 7, "kcol": 7, "orow": 4, "ocol": 112}
    assert dict(zip(DIMS, nest.counts, strict=True)) == {
        "och": 8,
        "kch": 1,
        "krow": 1,
        "kcol": 1,
        "orow": 28,
        "ocol": 1,
    }
    assert (nest.in_rows, nest.extent[4], nest.n_tiles) == (224, 112, 224)


def test_the_first_loop_listed_is_the_outermost() -> None:
    nest = decode("L3[WIO] K8 Q28 - L2[WI] N1 K4X - L1[O] K2 S7 R7 Q4 P7 C3X - L0[W] P16", CONV)
    assert [DIMS[d] for d in nest.order][-2:] == ["och", "orow"]
    assert sorted(nest.order) == list(range(6))


@pytest.mark.parametrize(("spatial", "side"), [("K4X", 4), ("K5X", 8), ("K16X", 16), ("K1X", 4)])
def test_the_side_is_the_smallest_power_of_two_that_holds_the_spatial_factors(spatial: str, side: int) -> None:
    k = int(spatial[1:-1])
    nest = decode(f"L3[WIO] N1 - L2[WI] {spatial} - L1[O] C3X - L0[W] N1", Problem(k=k, c=3, p=1))
    assert nest.side == side


def test_gemm_tiles_are_floored_to_blocks_of_sixteen_of_the_strings_and_widened_to_the_array() -> None:
    problem = Problem(k=512, c=512, p=96)
    mapping = "L3[WIO] K8 C64 P2 - L2[WI] K{0}X - L1[O] K{1} C8X P48 - L0[W] N1"
    for side, factors, blocks in ((16, (16, 4), (4, 1, 3)), (64, (64, 1), (4, 1, 3))):
        nest = decode(mapping.format(*factors), problem)
        assert nest.side == side
        # 64 columns are 4 blocks of 16, 8 of the reduction still 1, 48 rows 3: of `side` each on the array.
        assert (nest.tile[0], nest.tile[1], nest.tile[5]) == tuple(side * n for n in blocks)


def test_blocks_of_large_gemm_tiles_are_of_sixteen() -> None:
    """256 columns are 16 blocks, not 17 of fifteen."""
    nest = decode("L3[WIO] C64 P2 - L2[WI] K16X - L1[O] K16 C8X P48 - L0[W] N1", Problem(k=256, c=512, p=96))
    assert nest.tile[0] == nest.side * 16


def test_an_even_kernel_makes_the_image_one_larger_than_the_layer() -> None:
    problem = Problem(k=16, c=16, p=8, q=8, r=2, s=2)
    nest = decode("L3[WIO] P2 - L2[WI] K16X - L1[O] C16X Q8 R2 S2 - L0[W] P4", problem)
    assert nest.extent[4:] == (9, 9)  # (8 + 2 * 1 - 2) / 1 + 1
    assert nest.counts[4:] == (2, 3)


def test_a_problem_that_is_not_square_runs_as_its_p_by_p_image() -> None:
    problem = Problem(k=16, c=1, p=24, q=6, r=3, s=3)
    nest = decode("L3[WIO] P4 - L2[WI] K16X - L1[O] R3 S3 Q6 - L0[W] P6", problem)
    assert nest.extent[4:] == (24, 24)
    assert nest.counts[4:] == (4, 4)


def test_a_mapping_that_does_not_fit_is_refused_with_every_reason() -> None:
    mapping = "L3[WIO] K8 - L2[WI] K4X - L1[O] C3X P112 - L0[W] N1"
    with pytest.raises(InputError) as error:
        decode(mapping, CONV, side=2)
    for reason in (
        "factors of K multiply to 32, the layer has 64",
        "of Q multiply to 1,",
        "of R ",
        "of S ",
        "2 x 2 PEs",
    ):
        assert reason in str(error.value)


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ("L3[WIO] Z8 - L2[WI] N1 - L1[O] N1 - L0[W] N1", "'Z8' is no loop"),
        ("L3[WIO] K0 - L2[WI] N1 - L1[O] N1 - L0[W] N1", "'K0' is no loop"),
        ("L3[WIO] K8 - L3[WI] N1 - L1[O] N1 - L0[W] N1", "each once"),
        ("L3[WIO] K8", "L2, L1 and L0 are needed"),
        ("K8 C4", "a level such as L3"),
        ("", "found '' where a level such as L3"),
        ("L3 Z8 - L2 K - L1 K0X - L0", "'Z8' is no loop .*; 'K' is no loop .*; 'K0X' is no loop"),
    ],
)
def test_what_cannot_be_read_is_named(mapping: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        decode(mapping, CONV)


def tile_of(nest: Nest) -> dict[str, int]:
    return dict(zip(DIMS, nest.tile, strict=True))


def test_the_librarys_tile_of_a_convolution() -> None:
    """R_S_P_Q_C_K_N in elements: kernel columns, rows, output columns, rows, channels in and out, images."""
    nest = decode_default("7_5_28_14_3_32_1", CONV, side=16)
    assert tile_of(nest) == {"och": 32, "kch": 3, "krow": 5, "kcol": 7, "orow": 14, "ocol": 28}
    # tiled_conv: rows, columns, output channels, kernel rows, kernel columns, input channels.
    assert [DIMS[d] for d in nest.order] == ["orow", "ocol", "och", "krow", "kcol", "kch"]
    assert nest.n_tiles == 8 * 4 * 2 * 2  # 112 / 14 rows, 112 / 28 columns, 64 / 32 channels, 7 / 5 kernel rows
    assert (nest.stride, nest.pad_y, nest.in_rows) == (2, 3, 224)


def test_the_librarys_tile_of_a_product_is_in_elements_and_has_its_rows_in_p() -> None:
    nest = decode_default("1_1_128_1_64_256_1", Problem(k=3072, c=768, p=512), side=16)
    assert tile_of(nest) == {"och": 256, "kch": 64, "krow": 1, "kcol": 1, "orow": 1, "ocol": 128}
    assert [DIMS[d] for d in nest.order][-3:] == ["ocol", "och", "kch"]  # tiled_matmul: i, j, k
    assert nest.n_tiles == 4 * 12 * 12


def test_a_librarys_tile_ends_where_the_layer_does() -> None:
    """A product's tile is whole blocks of 16, though there is 1 row and 1000 columns; a convolution's is cut."""
    gemm = decode_default("1_1_16_1_512_1008_1", Problem(k=1000, c=2048, p=1), side=16)
    assert gemm.counts == (1, 4, 1, 1, 1, 1) and gemm.n_tiles == 4
    conv = decode_default("7_7_128_128_16_64_1", CONV, side=16)
    assert conv.tile == conv.extent and conv.n_tiles == 1
    # 100 rows are no whole blocks: what the library counts is 7 of them.
    assert decode_default("1_1_100_1_64_64_1", Problem(k=64, c=64, p=200), side=16).tile[5] == 112


def test_figures_may_be_written_as_floating_point() -> None:
    plain, written = (decode_default(text, CONV, 16) for text in ("7_7_28_14_3_32_1", "7.0_7_2.8e1_14.0_3_3.2E+1_1"))
    assert plain == written


@pytest.mark.parametrize(
    ("tiling", "problem", "reason"),
    [
        ("1 2 4", CONV, "'1 2 4': needed are the 7 sizes R_S_P_Q_C_K_N"),
        ("7_7_28_14_3_32", CONV, "the 7 sizes"),
        ("7_7_28_14_3_32_1_1", CONV, "the 7 sizes"),
        ("7_7_28_14_3_0_1", CONV, "at least 1"),
        ("7_7_28_14_3_2.5_1", CONV, "whole numbers"),
        ("7_7_28_14_3_inf_1", CONV, "whole numbers"),
        ("7_7_28_14_3_K_1", CONV, "whole numbers"),
        ("7_7_28_14_3_32_2", CONV, "found N = 2, where the layer has 1"),
        ("1_1_16_4_16_16_1", Problem(16, 16, 16), "found Q = 4, where the layer has 1"),
        ("L3[WIO] K8", CONV, "the 7 sizes"),
        ("", CONV, "the 7 sizes"),
    ],
)
def test_a_librarys_tile_that_cannot_be_read_is_named(tiling: str, problem: Problem, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        decode_default(tiling, problem, side=16)

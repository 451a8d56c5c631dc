"""Dropout: the mask of every element, regardless of device, tower or batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import oracle
from samples import EACH_ELEMENT, normal
from tolerance import assert_same, same_bits
from trial import run

PASSES = pytest.mark.parametrize("op", ["dropout_fprop", "dropout_dgrad"])
DRAW: dict[str, Any] = {"keep": 0.3, "seed": 11, "step": 7, "layer": 2}


@PASSES
@pytest.mark.parametrize(
    "shape",
    [
        *((3, 10), (2, 3, 5, 7), (2, 3, 5, 4), (1, 1), (5,), (4, 1031)),
        *(pytest.param(shape, marks=pytest.mark.big) for shape in ((90, 1031), (3, 70001))),
    ],
    ids=str,
)
@EACH_ELEMENT
def test_mask(be: Any, op: str, shape: tuple[int, ...], dtype: Any) -> None:
    x = normal(*shape).astype(dtype)
    (y,) = run(be, op, x, **DRAW)
    assert_same(y, oracle.dropout(x, **DRAW), dtype=dtype)


@PASSES
@pytest.mark.parametrize(
    "change",
    [
        {"seed": 0},
        {"seed": 2**32},  # only the key's high word
        {"seed": 2**64 - 1},
        {"step": 0},
        {"step": 2**32 - 1},
        {"layer": 0},
        {"layer": 2**32 - 1},
        {"offset": 5, "total": 18},  # a tower; neither 5 nor 18 is a multiple of the block of 4
        {"offset": 4, "total": 20},
        {"offset": 3, "total": 2**33 + 1},  # element numbers that need the counter's high word
        {"offset": 2**40 + 1, "total": 2**41},
        {"first": 3},
        {"first": 2, "offset": 4, "total": 20},
        {"first": 2**40, "total": 2**22 + 1, "offset": 5},
        {"keep": 0.0},
        {"keep": 1.0},
        {"keep": 2.0**-33},  # less than one draw in 2^32: only a draw of 0 is kept
    ],
    ids=str,
)
def test_every_argument_counts(be: Any, op: str, change: dict[str, Any]) -> None:
    draw = {**DRAW, **change}
    x = normal(3, 13)
    (y,) = run(be, op, x, **draw)
    assert_same(y, oracle.dropout(x, **draw))


def test_keep_is_compared_in_all_32_bits(be: Any) -> None:
    """An element is kept if the probability is just above its draw; float32 is too coarse."""
    x = np.ones((1, 64), dtype=np.float32)
    draws = oracle.dropout_draws(x.shape, seed=11, step=7, layer=2)[0]
    for element in (0, 17, 63):
        below = int(draws[element]) / 2**32
        (y,) = run(be, "dropout_fprop", x, **{**DRAW, "keep": below})
        assert y[0, element] == 0
        for above in (below + 2.0**-33, below + 2.0**-32):
            (y,) = run(be, "dropout_fprop", x, **{**DRAW, "keep": above})
            assert y[0, element] == 1


@pytest.mark.parametrize("offset", [0, 4, 5])
@pytest.mark.parametrize("total", [16, 20, 21])
@EACH_ELEMENT
def test_whole_blocks_of_four(be: Any, offset: int, total: int, dtype: Any) -> None:
    """A block's four draws serve four neighbours, if image and tower begin at a block's start."""
    draw = {**DRAW, "offset": offset, "total": total}
    x = normal(3, 8).astype(dtype)
    (y,) = run(be, "dropout_fprop", x, **draw)
    assert_same(y, oracle.dropout(x, **draw), dtype=dtype)


def test_step_on_the_device(be: Any) -> None:
    """A captured graph reads the step number left by the last replay."""
    x = normal(3, 13)
    step = be.asarray(np.array(2**32 - 5, dtype=np.uint32))
    (y,) = run(be, "dropout_fprop", x, **{**DRAW, "step": step})
    assert_same(y, oracle.dropout(x, **{**DRAW, "step": 2**32 - 5}))


def test_a_tower_masks_what_the_whole_layer_would(be: Any) -> None:
    x = normal(4, 21)
    (whole,) = run(be, "dropout_fprop", x, **DRAW)
    for part in (slice(0, 10), slice(10, 21)):
        (tower,) = run(be, "dropout_fprop", x[:, part].copy(), **DRAW, offset=part.start, total=21)
        assert same_bits(tower, whole[:, part].copy())


def test_a_part_of_a_batch_is_masked_as_in_the_whole(be: Any) -> None:
    x = normal(5, 7)
    (whole,) = run(be, "dropout_fprop", x, **DRAW)
    for part in (slice(0, 2), slice(2, 5)):
        (some,) = run(be, "dropout_fprop", x[part].copy(), **DRAW, first=part.start)
        assert same_bits(some, whole[part].copy())


def test_dropped_means_zero(be: Any) -> None:
    """The mask selects rather than multiplies, so NaN and infinity are dropped as well."""
    x = np.full((2, 50), np.nan, dtype=np.float32)
    (y,) = run(be, "dropout_fprop", x, **DRAW)
    kept = oracle.dropout(np.ones_like(x), **DRAW) == 1
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(np.isnan(y), kept)
    assert (y[~kept] == 0).all()


def test_share_kept(be: Any) -> None:
    """Ten thousand draws at .3: within five standard deviations."""
    (y,) = run(be, "dropout_fprop", np.ones((10, 1000), np.float32), **DRAW)
    assert abs(y.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / y.size)


@PASSES
@EACH_ELEMENT
def test_in_place(be: Any, op: str, dtype: Any) -> None:
    x = normal(3, 13).astype(dtype)
    (apart,) = run(be, op, x, **DRAW)
    here = be.asarray(x.copy())
    assert getattr(be, op)(here, **DRAW, out=here) is here
    assert same_bits(be.to_numpy(here), apart)

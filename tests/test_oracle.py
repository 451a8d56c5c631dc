"""The oracle itself: known values, worked examples, and central differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bench import oracle
from bench.oracle import Floats
from differences import gradient
from samples import all_different, classes, few_values, normal, on_grid
from shapes import CONVS, LRN, LRNS, POOLS, RNORMS, Conv, Pool, RNorm


def assert_slope(gradient: Floats, slopes: Floats) -> None:
    """Check a gradient against central differences, accurate to about 1e-12 in float64."""
    assert_allclose(gradient, slopes, rtol=1e-9, atol=1e-9)


def small(cases: tuple[Any, ...], limit: int = 300) -> list[Any]:
    """The cases small enough for a difference at every element."""
    return [pytest.param(case, id=str(case)) for case in cases if np.prod(case.x) <= limit]


# ----------------------------------------------------------------------------------- worked by hand


def test_augment_by_hand() -> None:
    """Two pixels of a 3 x 4 image, mirrored, from row 1 and column 2; the centre is at (1, 1)."""
    x, mean = np.arange(12.0).reshape(1, 3, 4, 1), 100 * np.arange(12.0).reshape(3, 4, 1)
    how: dict[str, Any] = {
        "corners": np.array([[1, 2]]),
        "flips": np.array([1]),
        "shifts": np.array([[0.25]]),
        "size": (1, 2),
        "scale": 2.0,
    }
    y = oracle.augment(x, mean, **how).value
    assert_array_equal(y[0, 0, :, 0], [2 * (7 - 500 + 0.25), 2 * (6 - 600 + 0.25)])
    y = oracle.augment(x, mean, **how, mean_at_pixel=True).value
    assert_array_equal(y[0, 0, :, 0], [2 * (7 - 700 + 0.25), 2 * (6 - 600 + 0.25)])


def test_blocks_by_hand() -> None:
    """A 3 x 3 ramp in blocks of four, filled up with zeros that are dropped on the way back."""
    x = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    y = oracle.in_blocks(x, 2)
    assert_array_equal(y[0, 0], [[1, 2, 4, 5], [3, 0, 6, 0]])
    assert_array_equal(y[0, 1], [[7, 8, 0, 0], [9, 0, 0, 0]])
    assert_array_equal(oracle.out_of_blocks(y + (y == 0), x.shape, 2), x)


def test_conv_of_a_ramp() -> None:
    """A 3 x 3 ramp padded by one column on the left, and a 2 x 2 filter, by hand."""
    x = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    w = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    y = oracle.conv_fprop(x, w, np.array([10.0]), stride=1, pad=(0, 0, 1, 0)).value
    first_row = [10 + 2 * 1 + 4 * 4, 10 + 1 + 2 * 2 + 3 * 4 + 4 * 5, 10 + 2 + 2 * 3 + 3 * 5 + 4 * 6]
    assert_array_equal(y[0, 0, :, 0], first_row)


def test_conv1_of_the_paper_sees_three_columns_of_zeros() -> None:
    """224 pixels plus three zeros on the right and at the bottom make 227 pixels and 55 windows."""
    shape = oracle.conv_out_shape((1, 224, 224, 3), (96, 11, 11, 3), 4, (0, 3, 0, 3))
    assert (
        shape == oracle.conv_out_shape((1, 227, 227, 3), (96, 11, 11, 3), 4, 0) == (1, 55, 55, 96)
    )


def test_lrn_of_a_constant_map() -> None:
    """a / (2 + 2e-5 m a^2)^.75, m = 3, 4, 5, ... 5, 4, 3 maps in the window."""
    a = 30.0
    y = oracle.lrn_fprop(np.full((1, 1, 1, 7), a), size=5, alpha=2e-5, beta=0.75, k=2.0).value
    m = np.array([3, 4, 5, 5, 5, 4, 3])
    assert_allclose(y[0, 0, 0], a / (2 + 2e-5 * m * a * a) ** 0.75, rtol=1e-15)


def test_lrn_windows_of_even_size_start_half_the_size_before() -> None:
    """Size 4 around channel i: i - 2, i - 1, i, i + 1, cut at the group's edge."""
    x = 10.0 ** np.arange(6).reshape(1, 1, 1, 6)
    y = oracle.lrn_fprop(x, size=4, alpha=1.0, beta=1.0, k=0.0, groups=2).value
    sums = [x[0, 0, 0, s] ** 2 for s in (slice(0, 2), slice(0, 3), slice(0, 3))]
    assert_allclose(y[0, 0, 0, :3], [x[0, 0, 0, i] / sums[i].sum() for i in range(3)], rtol=1e-15)
    assert_allclose(y[0, 0, 0, 3], x[0, 0, 0, 3] / (x[0, 0, 0, 3:5] ** 2).sum(), rtol=1e-15)


def test_rnorm_of_a_constant_map() -> None:
    """The window holds 4 pixels in a corner, 6 at an edge, 9 inside."""
    y = oracle.rnorm_fprop(np.ones((1, 3, 4, 1)), size=3, alpha=1.0, beta=1.0, k=0.0).value
    assert_allclose(1 / y[0, :, :, 0], [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]], rtol=1e-15)


@pytest.mark.parametrize(
    ("length", "size", "stride", "ceil", "windows"),
    [
        (32, 3, 2, True, 16),
        (32, 3, 2, False, 15),
        (55, 3, 2, True, 27),
        (27, 3, 2, True, 13),
        (13, 3, 2, True, 6),
        (6, 1, 4, True, 2),  # a third would start at 8
        (4, 1, 4, True, 1),
        (2, 3, 2, True, 1),
    ],
)
def test_pool_sizes(length: int, size: int, stride: int, ceil: bool, windows: int) -> None:
    assert len(oracle.pool_starts(length, size, stride, ceil)) == windows


def test_maxpool_takes_the_first_of_equals_and_the_first_nan() -> None:
    x = np.array([[1.0, 7.0, 7.0], [7.0, 0.0, np.nan], [np.nan, 2.0, 2.0]]).reshape(1, 3, 3, 1)
    y, where = oracle.maxpool_fprop(x, size=2, stride=1, ceil=False)
    assert_array_equal(y[0, :, :, 0], [[7, np.nan], [np.nan, np.nan]])
    assert_array_equal(where[0, :, :, 0], [[1, 3], [2, 1]])


def test_avgpool_divides_by_the_pixels_inside() -> None:
    x = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    y = oracle.avgpool_fprop(x, size=2, stride=2).value
    assert_array_equal(y[0, :, :, 0], [[3, 4.5], [7.5, 9]])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_known_answers(counter: str, key: str, words: str) -> None:
    """The known answers published with Random123 by the authors of Philox (kat_vectors)."""
    k0, k1 = (int(word, 16) for word in key.split())
    drawn = oracle.philox4x32([int(word, 16) for word in counter.split()], (k0, k1))
    assert " ".join(f"{int(word):08x}" for word in drawn) == words


def test_dropout_draws_words_in_order() -> None:
    """Seed, step and layer 0: the first four elements of the first image are a known answer."""
    draws = oracle.dropout_draws((1, 5), seed=0, step=0, layer=0)
    assert [f"{int(d):08x}" for d in draws[0, :4]] == [
        "6627e8d5",
        "e169c58d",
        "bc57ac4c",
        "9b00dbd8",
    ]
    assert int(draws[0, 4]) == int(oracle.philox4x32((1, 0, 0, 0), (0, 0))[0])


def test_dropout_of_a_tower_is_a_part_of_the_whole() -> None:
    whole = oracle.dropout_draws((3, 10), seed=5, step=6, layer=7)
    tower = oracle.dropout_draws((3, 4), seed=5, step=6, layer=7, offset=6, total=10)
    assert_array_equal(tower, whole[:, 6:])


def test_softmax_of_equal_logits() -> None:
    loss, dlogits = oracle.softmax_cross_entropy(np.full((2, 4), 3.0), np.array([0, 3]))
    assert_allclose(loss.value, np.log(4), rtol=1e-15)
    assert_allclose(dlogits.value, (0.25 - np.eye(4)[[0, 3]]) / 2, rtol=1e-15)


@pytest.mark.parametrize(
    ("logits", "k", "error"),
    [
        ([5, 1, 2, 3, 4, 0], 1, 0),  # the label's logit, the first, is the largest
        ([3, 1, 4, 2, 0, 0], 1, 1),
        ([3, 1, 4, 5, 9, 8], 5, 0),  # four above
        ([3, 7, 4, 5, 9, 8], 5, 1),  # five above
        ([2, 2, 2, 0, 0, 0], 1, 2 / 3),  # three share one place
        ([0, 0, 0, 0, 0, 0], 1, 5 / 6),
        ([0, 0, 0, 0, 0, 0], 5, 1 / 6),
        ([1, 9, 9, 9, 1, 1], 5, 1 / 3),  # three share the two places left
        ([1, 9, 1, 1, 0, 0], 5, 0),  # three share four places
    ],
)
def test_topk_error_shares_places_among_ties(logits: list[float], k: int, error: float) -> None:
    assert oracle.topk_error(np.array([logits]), np.array([0]), k) == pytest.approx(
        error, abs=1e-15
    )


def test_sgd_keeps_the_old_momentum_across_a_drop_of_lr() -> None:
    """The 2012 buffer holds steps already scaled by lr; PyTorch's rule would give w = -0.21875."""
    constants = {"momentum": 0.5, "weight_decay": 0.5}
    one = np.ones(1)
    w, v = oracle.sgd_update(one, np.zeros(1), one, lr=0.5, **constants)
    assert (*w.value, *v.value) == (0.25, -0.75)
    w, v = oracle.sgd_update(w.value, v.value, one, lr=0.25, **constants)
    assert (*w.value, *v.value) == (-0.40625, -0.65625)


def test_exchange_scatter_add_cuts_and_adds() -> None:
    a, b = np.arange(6.0).reshape(1, 6), np.arange(6.0).reshape(1, 6) * 10
    assert_array_equal(
        oracle.exchange_scatter_add([a, b], start=2, channels=3).value, [[22, 33, 44]]
    )


# --------------------------------------------------------------------------- by central differences


@pytest.mark.every(5)
@pytest.mark.parametrize("case", small(CONVS))
def test_conv_gradients(case: Conv) -> None:
    x, w, dy = normal(*case.x, seed=1), normal(*case.w, seed=2), normal(*case.y, seed=3)
    dx = oracle.conv_dgrad(dy, w, x_shape=case.x, **case.geometry).value
    dw, db = oracle.conv_wgrad(x, dy, w_shape=case.w, **case.geometry)
    b = normal(case.w[0], seed=4)

    def y(x: Any, w: Any, b: Any) -> Floats:
        return oracle.conv_fprop(x, w, b, **case.geometry).value

    assert_slope(dx, gradient(lambda z: y(z, w, b), x, dy))
    assert_slope(dw.value, gradient(lambda z: y(x, z, b), w, dy))
    assert_slope(db.value, gradient(lambda z: y(x, w, z), b, dy))


def test_linear_gradients() -> None:
    x, w, b, dy = normal(3, 5), normal(4, 5, seed=1), normal(4, seed=2), normal(3, 4, seed=3)

    def y(x: Any, w: Any, b: Any) -> Floats:
        return oracle.linear_fprop(x, w, b).value

    dw, db = oracle.linear_wgrad(x, dy)
    dx = oracle.linear_dgrad(dy, w).value
    assert_slope(dx, gradient(lambda z: y(z, w, b), x, dy))
    assert_slope(dw.value, gradient(lambda z: y(x, z, b), w, dy))
    assert_slope(db.value, gradient(lambda z: y(x, w, z), b, dy))


def test_activation_gradients() -> None:
    x, dy = on_grid(4, 5), normal(4, 5, seed=1)
    slopes = gradient(oracle.relu_fprop, x, dy)
    assert_slope(oracle.relu_dgrad(oracle.relu_fprop(x), dy), slopes)
    slopes = gradient(np.tanh, x, dy)
    assert_slope(oracle.tanh_dgrad(np.tanh(oracle.double(x)), dy).value, slopes)


@pytest.mark.parametrize("case", small(LRNS, limit=150))
def test_lrn_gradient(case: LRN) -> None:
    x, dy = normal(*case.x, seed=1), normal(*case.x, seed=2)
    slopes = gradient(lambda z: oracle.lrn_fprop(z, **case.constants).value, x, dy)
    assert_slope(oracle.lrn_dgrad(x, dy, **case.constants).value, slopes)


@pytest.mark.parametrize("case", small(RNORMS, limit=150))
def test_rnorm_gradient(case: RNorm) -> None:
    x, dy = normal(*case.x, seed=1), normal(*case.x, seed=2)
    slopes = gradient(lambda z: oracle.rnorm_fprop(z, **case.constants).value, x, dy)
    assert_slope(oracle.rnorm_dgrad(x, dy, **case.constants).value, slopes)


@pytest.mark.parametrize("case", small(POOLS))
def test_pool_gradients(case: Pool) -> None:
    x, dy = all_different(*case.x), normal(*case.y, seed=1)
    back = {"x_shape": case.x, **case.geometry}
    slopes = gradient(lambda z: oracle.maxpool_fprop(z, **case.geometry)[0], x, dy)
    _, where = oracle.maxpool_fprop(x, **case.geometry)
    assert_slope(oracle.maxpool_dgrad(dy, where, **back).value, slopes)
    slopes = gradient(lambda z: oracle.avgpool_fprop(z, **case.geometry).value, x, dy)
    assert_slope(oracle.avgpool_dgrad(dy, **back).value, slopes)


def test_softmax_gradient() -> None:
    z, labels = normal(3, 7), classes(3, 7)
    slopes = gradient(lambda z: oracle.softmax_cross_entropy(z, labels)[0].value, z, np.ones(()))
    assert_slope(oracle.softmax_cross_entropy(z, labels)[1].value, slopes)


def test_magnitudes_bound_values() -> None:
    """The same expression on absolute values can only be larger; on positive data it is equal."""
    case = CONVS[0]
    x, w, b = normal(*case.x, seed=1), normal(*case.w, seed=2), few_values(case.w[0])
    y = oracle.conv_fprop(x, w, b, **case.geometry)
    assert (abs(y.value) <= y.magnitude).all() and (abs(y.value) < y.magnitude).any()
    y = oracle.conv_fprop(abs(x), abs(w), abs(b), **case.geometry)
    assert_array_equal(y.value, y.magnitude)

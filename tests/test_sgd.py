"""The paper's update rule, in place; and weights in two halves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bench import oracle
from pyalexnet.backends.elements import BFLOAT16
from samples import generator, normal
from tolerance import assert_close, same_bits
from trial import place, run

HALVES: dict[str, Any] = {"momentum": 0.5, "weight_decay": 0.5}


def update(be: Any, w: Any, v: Any, dw: Any, **constants: Any) -> tuple[Any, Any]:
    """w and v after an update, which is run twice from copies; dw must not change."""
    results = []
    for _ in range(2):
        on_device = [place(be, one) for one in (w, v, dw)]
        assert be.sgd_update(*on_device, **constants) is None
        assert same_bits(be.to_numpy(on_device[2]), dw)
        results.append([be.to_numpy(one) for one in on_device[:2]])
    for first, second in zip(*results, strict=True):
        assert same_bits(first, second)
    return results[0][0], results[0][1]


@pytest.mark.parametrize("shape", [(4, 3, 2, 6), (1,), (7, 149), (2, 70001)], ids=str)
@pytest.mark.parametrize("lr", [0.25, 0.013, 1e-6])
def test_rule(be: Any, shape: tuple[int, ...], lr: float) -> None:
    arrays = normal(*shape, seed=1), normal(*shape, seed=2), normal(*shape, seed=3)
    w, v = update(be, *arrays, lr=lr, **HALVES)
    exact_w, exact_v = oracle.sgd_update(*arrays, lr=lr, **HALVES)
    assert_close(w, exact_w)
    assert_close(v, exact_v)


@pytest.mark.parametrize(
    "constants",
    [
        {"momentum": 0.0, "weight_decay": 0.5},
        {"momentum": 0.5, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.0005},
    ],
    ids=str,
)
def test_each_constant(be: Any, constants: Any) -> None:
    arrays = normal(50, seed=1), normal(50, seed=2), normal(50, seed=3)
    w, v = update(be, *arrays, lr=0.25, **constants)
    exact_w, exact_v = oracle.sgd_update(*arrays, lr=0.25, **constants)
    assert_close(w, exact_w)
    assert_close(v, exact_v)


def test_old_momentum_survives_a_drop_of_lr(be: Any) -> None:
    """Powers of two, so exact: PyTorch's rule would give w = -0.21875 in the second step."""
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    w, v = update(be, one, zero, one, lr=0.5, **HALVES)
    assert_array_equal((w, v), ([0.25] * 3, [-0.75] * 3))
    w, v = update(be, w, v, one, lr=0.25, **HALVES)
    assert_array_equal((w, v), ([-0.40625] * 3, [-0.65625] * 3))


@pytest.mark.parametrize("on_device", [False, True], ids=["number", "array"])
def test_no_lr_freezes(be: Any, on_device: bool) -> None:
    """No decay, no coasting on old momentum, and not even a NaN gets in."""
    w, v, dw = normal(20, seed=1), normal(20, seed=2), normal(20, seed=3)
    v[3] = dw[4] = np.nan
    lr = be.asarray(np.zeros((), np.float32)) if on_device else 0.0
    new_w, new_v = update(be, w, v, dw, lr=lr, **HALVES)
    assert same_bits(new_w, w) and same_bits(new_v, v)


@pytest.mark.parametrize("shifts", [(0, 0, 0), (1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0)], ids=str)
def test_views_that_begin_anywhere(be: Any, shifts: tuple[int, int, int]) -> None:
    """Slices of one long array need not be aligned for loads of four floats."""
    arrays = normal(22, seed=1), normal(22, seed=2), normal(22, seed=3)
    expected = update(be, *arrays, lr=0.25, **HALVES)
    views = []
    for array, shift in zip(arrays, shifts, strict=True):
        views.append(be.empty((24,))[shift : shift + 22])
        views[-1][...] = be.asarray(array)
    be.sgd_update(*views, lr=0.25, **HALVES)
    for view, before in zip(views, expected, strict=False):
        assert same_bits(be.to_numpy(view).copy(), before)


def test_lr_on_the_device(be: Any) -> None:
    arrays = normal(50, seed=1), normal(50, seed=2), normal(50, seed=3)
    by_number = update(be, *arrays, lr=0.125, **HALVES)
    by_array = update(be, *arrays, lr=be.asarray(np.array(0.125, np.float32)), **HALVES)
    for one, other in zip(by_number, by_array, strict=True):
        assert same_bits(one, other)


# ------------------------------------------------------------------------------------ in two halves


def bits(*words: int) -> Any:
    return np.array(words, np.uint32).view(np.float32)


def any_numbers(*shape: int) -> Any:
    """Every exponent and sign, infinities and subnormal numbers among them; no NaN."""
    words = generator(5, *shape).integers(0, 2**32, shape, np.uint32)
    words[np.isnan(words.view(np.float32))] &= 0xFF800000
    return words.view(np.float32)


@pytest.mark.parametrize("shape", [(7, 149), (1,), (), (8,), (3, 5, 2, 3)], ids=str)
def test_halves_keep_every_bit(be: Any, shape: tuple[int, ...]) -> None:
    w = any_numbers(*shape)
    high, low = run(be, "split_weights", w)
    assert high.dtype == BFLOAT16 and low.dtype == np.uint16
    (joined,) = run(be, "join_weights", high, low)
    assert same_bits(joined, w)


def test_the_upper_half_is_the_nearest(be: Any) -> None:
    """Half a place rounds away from zero; less than half does not."""
    w = bits(0x3F808000, 0xBF808000, 0x3F807FFF, 0x3F818000, 0x7F7FFFFF, 0x00008000, 0x80000001)
    high, _ = run(be, "split_weights", w)
    due = (0x3F81, 0xBF81, 0x3F80, 0x3F82, 0x7F80, 0x0001, 0x8000)
    assert_array_equal(high.view(np.uint16), due)


def test_a_nan_stays_one_in_the_upper_half(be: Any) -> None:
    """The GPU returns 0x7fffffff, which rounding would turn into a zero."""
    w = bits(0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001, 0xFFFF8000)
    high, low = run(be, "split_weights", w)
    assert np.isnan(high.astype(np.float32)).all()
    (joined,) = run(be, "join_weights", high, low)
    assert np.isnan(joined).all()


@pytest.mark.parametrize("shape", [(4, 3, 2, 6), (1,), (7, 149)], ids=str)
@pytest.mark.parametrize("on_device", [False, True], ids=["number", "array"])
def test_an_update_in_halves_is_that_of_the_whole(
    be: Any, shape: tuple[int, ...], on_device: bool
) -> None:
    """To the bit, time after time: nothing is lost between the halves."""
    w, v = normal(*shape, seed=1), normal(*shape, seed=2)
    rate = np.array(0.013, np.float32)
    lr = be.asarray(rate) if on_device else 0.013
    whole, momentum = place(be, w), place(be, v)
    (high, low), own = be.split_weights(place(be, w)), place(be, v)
    for step in range(3):
        dw = place(be, normal(*shape, seed=3 + step))
        be.sgd_update(whole, momentum, dw, lr=lr, **HALVES)
        assert be.sgd_update(high, own, dw, lr=lr, **HALVES, low=low) is None
        assert same_bits(be.to_numpy(be.join_weights(high, low)), be.to_numpy(whole))
        assert same_bits(be.to_numpy(own), be.to_numpy(momentum))


def test_no_lr_freezes_halves(be: Any) -> None:
    high, low = be.split_weights(be.asarray(normal(20)))
    before = [be.to_numpy(half).copy() for half in (high, low)]
    v, dw = be.asarray(normal(20, seed=2)), be.asarray(np.full(20, np.nan, np.float32))
    be.sgd_update(high, v, dw, lr=0.0, **HALVES, low=low)
    for half, unchanged in zip((high, low), before, strict=True):
        assert same_bits(be.to_numpy(half), unchanged)


@pytest.mark.parametrize(
    "shifts", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 0), (1, 0, 0, 0)], ids=str
)
def test_halves_that_begin_anywhere(be: Any, shifts: tuple[int, ...]) -> None:
    w, v, dw = normal(22, seed=1), normal(22, seed=2), normal(22, seed=3)
    expected = update(be, w, v, dw, lr=0.25, **HALVES)
    views = []
    for array, shift in zip((*be.split_weights(be.asarray(w)), v, dw), shifts, strict=True):
        views.append(be.empty((24,), array.dtype)[shift : shift + 22])
        views[-1][...] = be.asarray(array)
    high, low, velocity, gradient = views
    be.sgd_update(high, velocity, gradient, lr=0.25, **HALVES, low=low)
    joined = be.join_weights(be.copy(high), be.copy(low))
    assert same_bits(be.to_numpy(joined), expected[0])
    assert same_bits(be.to_numpy(velocity).copy(), expected[1])

"""The paper's update rule, in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import oracle
from samples import normal
from tolerance import assert_close, same_bits
from trial import place

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
    """Slices of one long array need not begin where four floats can be loaded at once."""
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

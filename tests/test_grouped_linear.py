"""Linear layers in groups: a dense layer whose weights between groups are zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench import oracle
from bench.oracle import Exact
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import Linear, Memory, Pass
from samples import normal
from tolerance import FUNCTION, SUM, assert_close, same_bits
from trial import place
from variants import ONE_ORDER

# Inputs of a batch, outputs, groups: maps and vectors, all extents different.
CASES = [
    ((3, 2, 5, 4), 6, 2),
    ((3, 4, 3, 6), 9, 3),
    ((5, 8), 6, 2),
    ((2, 12), 9, 3),
    ((1, 2), 2, 2),
]

cases = pytest.mark.parametrize(("shape", "outputs", "groups"), CASES, ids=str)


def dense(w: Any, in_shape: tuple[int, ...], groups: int) -> NDArray[np.float64]:
    """Weights (out, in / groups) as (out, in), with zeros for the inputs of other groups."""
    *area, channels = in_shape
    own, rows = channels // groups, len(w) // groups
    whole = np.zeros((len(w), *area, channels))
    for group in range(groups):
        some = slice(group * rows, (group + 1) * rows)
        whole[some, ..., group * own : (group + 1) * own] = w[some].reshape(rows, *area, own)
    return whole.reshape(len(w), -1)


def packed(whole: Any, in_shape: tuple[int, ...], groups: int) -> Any:
    """The inverse of `dense`."""
    *area, channels = in_shape
    own, rows = channels // groups, len(whole) // groups
    maps = whole.reshape(len(whole), *area, channels)
    parts = [
        maps[g * rows : (g + 1) * rows, ..., g * own : (g + 1) * own].reshape(rows, -1)
        for g in range(groups)
    ]
    return np.concatenate(parts)


def parameters(layer: Linear, in_shape: tuple[int, ...]) -> tuple[Any, Any]:
    shapes = layer.param_shapes(in_shape)
    return normal(*shapes[layer.w], seed=1), normal(*shapes[layer.b], seed=2)


def run_of(be: Any, layer: Linear, w: Any, b: Any) -> Pass:
    """A pass with those parameters."""
    params = {layer.w: place(be, w), layer.b: place(be, b)}
    return Pass(be, params, {}, train=False, seed=0, step=0, masks={})


def test_dense_and_back() -> None:
    w = normal(6, 12)
    assert np.array_equal(packed(dense(w, (2, 3, 4), 2), (2, 3, 4), 2), w)
    assert np.count_nonzero(dense(w, (2, 3, 4), 2)) == w.size


@cases
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_forward_and_backward(
    be: Any, shape: tuple[int, ...], outputs: int, groups: int, activation: Any
) -> None:
    layer = Linear("fc", outputs, activation=activation, groups=groups)
    x, dy = normal(*shape), normal(shape[0], outputs, seed=3)
    w, b = parameters(layer, shape[1:])
    run, memory = run_of(be, layer, w, b), Memory()
    whole, rows = dense(w, shape[1:], groups), x.reshape(len(x), -1)

    y = be.to_numpy(layer.forward(place(be, x), memory, run))
    exact = oracle.linear_fprop(rows, whole, b, activation=activation)
    rounding = FUNCTION * abs(exact.value) if activation == "tanh" else 0.0
    assert_close(y, Exact(exact.value, exact.magnitude + rounding / SUM))

    # The op's own outputs decide where the gradient goes; they are within rounding of the exact.
    if activation == "relu":
        dz = Exact(oracle.relu_dgrad(y, dy), abs(oracle.double(dy)))
    elif activation == "tanh":
        dz = oracle.tanh_dgrad(y, dy)
    else:
        dz = Exact(oracle.double(dy), abs(oracle.double(dy)))
    # 1 - y^2 and its product with dy add three roundings before the sums.
    units = SUM + (3 if activation == "tanh" else 0)
    dx = be.to_numpy(layer.backward(place(be, dy), memory, run, need_dx=True))
    exact_dx = oracle.linear_dgrad(dz.value, whole).value
    assert dx.shape == shape
    size_dx = oracle.linear_dgrad(dz.magnitude, whole).magnitude
    assert_close(dx.reshape(rows.shape), Exact(exact_dx, size_dx), units)
    exact_dw, exact_db = oracle.linear_wgrad(rows, dz.value)
    size_dw, size_db = oracle.linear_wgrad(rows, dz.magnitude)
    dw = Exact(
        packed(exact_dw.value, shape[1:], groups), packed(size_dw.magnitude, shape[1:], groups)
    )
    assert_close(be.to_numpy(run.grads["fc.w"]), dw, units)
    assert_close(be.to_numpy(run.grads["fc.b"]), Exact(exact_db.value, size_db.magnitude), units)


@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@cases
def test_the_callers_arrays_are_filled(
    be: Any, shape: tuple[int, ...], outputs: int, groups: int
) -> None:
    """A second pass reuses the first one's buffers, and writes into the existing gradients."""
    layer = Linear("fc", outputs, groups=groups)
    w, b = parameters(layer, shape[1:])
    run, memory = run_of(be, layer, w, b), Memory()
    found = []
    for seed in (5, 5, 6):
        y = layer.forward(place(be, normal(*shape, seed=seed)), memory, run)
        dx = layer.backward(place(be, normal(shape[0], outputs, seed=3)), memory, run, True)
        arrays = (y, dx, run.grads["fc.w"], run.grads["fc.b"])
        found.append((arrays, [np.array(be.to_numpy(array)) for array in arrays]))
    (first, before), (second, again), (_, other) = found
    assert second[2] is first[2] and second[3] is first[3]
    assert all(same_bits(one, two) for one, two in zip(before, again, strict=True))
    assert not same_bits(before[0], other[0]) and not same_bits(before[2], other[2])
    assert same_bits(be.to_numpy(first[2]), other[2])


@cases
def test_sizes(shape: tuple[int, ...], outputs: int, groups: int) -> None:
    layer, whole = Linear("fc", outputs, groups=groups), Linear("fc", outputs)
    inputs = int(np.prod(shape[1:]))
    assert layer.out_shape(shape[1:]) == (outputs,)
    expected = {"fc.w": (outputs, inputs // groups), "fc.b": (outputs,)}
    assert layer.param_shapes(shape[1:]) == expected
    assert layer.macs(shape[1:]) * groups == whole.macs(shape[1:]) == inputs * outputs
    assert layer.neurons(shape[1:]) == outputs


def test_bound_of_uniform_weights_counts_a_groups_inputs() -> None:
    layer = Linear("fc", 400, std="fan_in", bias="fan_in", groups=2)
    for values in layer.initial((2, 5, 20), seed=1).values():
        assert abs(values).max() <= 0.1 < abs(values).max() * 1.01


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        (Linear("fc", 6, groups=3), "fc: 4 input channels do not divide into 3 groups"),
        (Linear("fc", 7, groups=2), "fc: 7 outputs do not divide into 2 groups"),
        (Linear("fc", 6, groups=0), "fc: groups is 0; at least 1 was expected"),
    ],
)
def test_refusals(layer: Linear, part: str) -> None:
    with pytest.raises(ArgumentError) as error:
        layer.out_shape((3, 3, 4))
    assert str(error.value).startswith(part)

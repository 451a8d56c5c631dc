"""How wgrad_sgd is tested, for convolutions and linear layers alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import oracle
from bench.oracle import Exact
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.ops.records import Learned
from samples import normal
from tolerance import SUM, assert_close, same_bits
from trial import assert_unchanged, place

LR = (0.25, 1e-3, 0.0)
W_RULE = {"momentum": 0.5, "weight_decay": 0.5}
B_RULE = {"momentum": 0.25, "weight_decay": 0.125}


def check_update(
    be: Any,
    layer: str,
    inputs: tuple[Any, Any],
    gradients: tuple[Exact, ...],
    dtype: Any,
    lr: float,
    **how: Any,
) -> None:
    """Check w, b and their momenta after `<layer>_wgrad_sgd` against the exact gradients."""
    shapes = [gradient.value.shape for gradient in gradients]
    before = [(normal(*shape, seed=6), normal(*shape, seed=7)) for shape in shapes]
    after = updated(be, layer, inputs, before, dtype, lr, **how)
    for (w, v), (new_w, new_v), gradient, rule in zip(
        before, after, gradients, (W_RULE, B_RULE), strict=True
    ):
        exact_w, exact_v = oracle.sgd_update(w, v, gradient, lr=lr, **rule)
        # The gradient is a sum, SUM units off; the rule's roundings add no more than that again.
        assert_close(new_w, exact_w, 2 * SUM)
        assert_close(new_v, exact_v, 2 * SUM)


def check_same_update(
    be: Any,
    layer: str,
    inputs: tuple[Any, Any],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    dtype: Any,
    **how: Any,
) -> None:
    """Check that `<layer>_wgrad_sgd` is `<layer>_wgrad` and then `sgd_update`, to the bit."""
    before = [(normal(*shape, seed=6), normal(*shape, seed=7)) for shape in shapes]
    for lr in LR:
        fused = updated(be, layer, inputs, before, dtype, lr, **how)
        shape = {"w_shape": shapes[0]} if layer == "conv" else {}
        on_device = [place(be, one) for one in inputs]
        gradients = getattr(be, f"{layer}_wgrad")(*on_device, **how, **shape)
        kinds = ((dtype, W_RULE), (np.float32, B_RULE))
        for (w, v), pair, dw, (kind, rule) in zip(before, fused, gradients, kinds, strict=True):
            learned = parameters(be, w, v, kind, lr, rule)
            be.sgd_update(learned.w, learned.v, dw, lr=lr, **rule, low=learned.low)
            assert all(map(same_bits, values(be, learned), pair))


def updated(
    be: Any,
    layer: str,
    inputs: tuple[Any, Any],
    before: list[tuple[Any, Any]],
    dtype: Any,
    lr: float,
    **how: Any,
) -> list[tuple[Any, Any]]:
    """(w, v) and (b, v) after an update, run twice from copies, once with lr on the device.

    Check that the inputs do not change. Under the checker only the latter, which reads more.
    """
    results = []
    on_the_device = be.asarray(np.array(lr, np.float32))
    for rate in (on_the_device,) if be.name == "simcheck" else (lr, on_the_device):
        on_device = [place(be, one) for one in inputs]
        (w, wv), (b, bv) = before
        weights = parameters(be, w, wv, dtype, rate, W_RULE)
        biases = parameters(be, b, bv, np.float32, rate, B_RULE)
        op = getattr(be, f"{layer}_wgrad_sgd")
        assert op(*on_device, weights, biases, **how) is None
        for one, where in zip(inputs, on_device, strict=True):
            assert_unchanged(be, op.__name__, one, where)
        results.append([values(be, weights), values(be, biases)])
    for first, second in zip(results[0], results[-1], strict=True):
        assert all(map(same_bits, first, second))
    return results[0]


def parameters(be: Any, w: Any, v: Any, dtype: Any, lr: Any, rule: dict[str, float]) -> Learned:
    """Copies of parameters on the device, in halves if they should be bfloat16."""
    whole, momentum = place(be, w), place(be, v)
    if dtype == BFLOAT16:
        high, low = be.split_weights(whole)
        return Learned(high, momentum, lr, **rule, low=low)
    return Learned(whole, momentum, lr, **rule)


def values(be: Any, learned: Learned) -> tuple[Any, Any]:
    """Parameters, with halves joined, and their momentum, on the host."""
    whole = learned.w if learned.low is None else be.join_weights(learned.w, learned.low)
    return be.to_numpy(whole), be.to_numpy(learned.v)

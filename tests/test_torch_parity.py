"""PyTorch on the CPU in float64, against the oracle and against every backend.

The oracle was written by the same authors as the ops, and could share a misreading with them;
PyTorch could not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bench import oracle
from bench.oracle import Exact, sides
from samples import all_different, classes, normal
from shapes import CONVS, LRN, LRNS, POOLS, Conv, Pool
from tolerance import SOFTMAX, SUM, assert_close, convolved, norm_units
from trial import place
from variants import ONE_ORDER

pytestmark = [pytest.mark.peer, pytest.mark.parametrize("be", ONE_ORDER, indirect=True)]

# Tensors in PyTorch's order of axes, in float64.
MAPS_TO_TORCH, MAPS_FROM_TORCH = (0, 3, 1, 2), (0, 2, 3, 1)


def maps(torch: Any, x: Any) -> Any:
    """NHWC (or KRSC) float32 as an NCHW float64 leaf."""
    return torch.tensor(x.transpose(MAPS_TO_TORCH), dtype=torch.float64, requires_grad=True)


def back(tensor: Any) -> Any:
    """NCHW as an NHWC NumPy array."""
    return tensor.detach().numpy().transpose(MAPS_FROM_TORCH)


def agree(be: Any, ours: Any, exact: Exact, peer: Any, units: float = SUM) -> None:
    """Check that PyTorch has the oracle's value, and that the op is within its tolerance of it."""
    assert_allclose(exact.value, peer, rtol=1e-11, atol=1e-12)
    assert_close(be.to_numpy(ours), Exact(peer, exact.magnitude), units)


@pytest.mark.parametrize("case", [c for c in CONVS if not c.big], ids=str)
def test_conv(be: Any, torch: Any, case: Conv) -> None:
    x, w, b, dy = (
        normal(*case.x, seed=1),
        normal(*case.w, seed=2),
        normal(case.w[0]),
        normal(*case.y),
    )
    top, bottom, left, right = sides(case.pad)
    x_peer, w_peer = maps(torch, x), maps(torch, w)
    b_peer = torch.tensor(b, dtype=torch.float64, requires_grad=True)
    padded = torch.nn.functional.pad(x_peer, (left, right, top, bottom))
    y_peer = torch.nn.functional.conv2d(
        padded, w_peer, b_peer, stride=oracle.pair(case.stride), groups=case.groups
    )
    y_peer.backward(maps(torch, dy))

    def due(exact: Exact, tiled: tuple[int, ...]) -> Exact:
        return convolved(be, exact, case.w, case.stride, tiled)

    on_x, on_w, on_b, on_dy = (place(be, one) for one in (x, w, b, dy))
    y = be.conv_fprop(on_x, on_w, on_b, **case.geometry)
    agree(be, y, due(oracle.conv_fprop(x, w, b, **case.geometry), case.y), back(y_peer))
    shape = {"x_shape": case.x, **case.geometry}
    dx = be.conv_dgrad(on_dy, on_w, **shape)
    agree(be, dx, due(oracle.conv_dgrad(dy, w, **shape), case.x), back(x_peer.grad))
    shape = {"w_shape": case.w, **case.geometry}
    dw, db = be.conv_wgrad(on_x, on_dy, **shape)
    exact_dw, exact_db = oracle.conv_wgrad(x, dy, **shape)
    agree(be, dw, due(exact_dw, case.y), back(w_peer.grad))
    agree(be, db, exact_db, b_peer.grad.numpy())


def test_linear(be: Any, torch: Any) -> None:
    x, w, b, dy = normal(6, 17), normal(9, 17), normal(9), normal(6, 9)
    x_peer, w_peer, b_peer = (
        torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in (x, w, b)
    )
    y_peer = torch.nn.functional.linear(x_peer, w_peer, b_peer)
    y_peer.backward(torch.tensor(dy, dtype=torch.float64))

    on_x, on_w, on_b, on_dy = (place(be, one) for one in (x, w, b, dy))
    y = be.linear_fprop(on_x, on_w, on_b)
    agree(be, y, oracle.linear_fprop(x, w, b), y_peer.detach().numpy())
    dx = be.linear_dgrad(on_dy, on_w)
    agree(be, dx, oracle.linear_dgrad(dy, w), x_peer.grad.numpy())
    dw, db = be.linear_wgrad(on_x, on_dy)
    exact_dw, exact_db = oracle.linear_wgrad(x, dy)
    agree(be, dw, exact_dw, w_peer.grad.numpy())
    agree(be, db, exact_db, b_peer.grad.numpy())


@pytest.mark.parametrize("case", [c for c in LRNS if c.groups == 1 and not c.big], ids=str)
def test_lrn(be: Any, torch: Any, case: LRN) -> None:
    """PyTorch divides alpha by the window's size; its even windows are off-centre the same way."""
    x, dy = normal(*case.x, seed=1), normal(*case.x, seed=2)
    x_peer = maps(torch, x)
    y_peer = torch.nn.functional.local_response_norm(
        x_peer, case.size, alpha=case.alpha * case.size, beta=case.beta, k=case.k
    )
    y_peer.backward(maps(torch, dy))

    on_x, on_dy = place(be, x), place(be, dy)
    y, units = be.lrn_fprop(on_x, **case.constants), norm_units(case.beta)
    agree(be, y, oracle.lrn_fprop(x, **case.constants), back(y_peer), units)
    dx = be.lrn_dgrad(on_x, on_dy, **case.constants)
    agree(be, dx, oracle.lrn_dgrad(x, dy, **case.constants), back(x_peer.grad), units)


@pytest.mark.parametrize("case", [c for c in POOLS if c.size <= min(c.x[1:3])], ids=str)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pool(be: Any, torch: Any, case: Pool, kind: str) -> None:
    x, dy = all_different(*case.x), normal(*case.y)
    x_peer = maps(torch, x)
    window = {"kernel_size": case.size, "stride": case.stride, "ceil_mode": case.ceil}
    if kind == "max":
        y_peer = torch.nn.functional.max_pool2d(x_peer, **window)
    else:
        y_peer = torch.nn.functional.avg_pool2d(x_peer, **window, count_include_pad=False)
    y_peer.backward(maps(torch, dy))

    on_x, on_dy = place(be, x), place(be, dy)
    shape = {"x_shape": case.x, **case.geometry}
    if kind == "max":
        y, where = be.maxpool_fprop(on_x, **case.geometry)
        dx = be.maxpool_dgrad(on_dy, where, **shape)
        exact_y, exact_where = oracle.maxpool_fprop(x, **case.geometry)
        exact = Exact(exact_y, abs(exact_y))
        exact_dx = oracle.maxpool_dgrad(dy, exact_where, **shape)
    else:
        y, exact = be.avgpool_fprop(on_x, **case.geometry), oracle.avgpool_fprop(x, **case.geometry)
        dx, exact_dx = be.avgpool_dgrad(on_dy, **shape), oracle.avgpool_dgrad(dy, **shape)
    agree(be, y, exact, back(y_peer))
    agree(be, dx, exact_dx, back(x_peer.grad))


def test_softmax_cross_entropy(be: Any, torch: Any) -> None:
    logits, labels = 5 * normal(7, 13), classes(7, 13)
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    loss_peer = torch.nn.functional.cross_entropy(z, torch.tensor(labels))
    loss_peer.backward()

    loss, dlogits, _, _ = be.softmax_cross_entropy(place(be, logits), labels)
    exact_loss, exact_dlogits = oracle.softmax_cross_entropy(logits, labels)
    agree(be, loss, exact_loss, loss_peer.detach().numpy(), SOFTMAX)
    agree(be, dlogits, exact_dlogits, z.grad.numpy(), SOFTMAX)


def test_sgd_while_lr_is_constant(be: Any, torch: Any) -> None:
    """The two rules differ only where the learning rate drops (test_sgd.py)."""
    w, gradients = normal(30), [normal(30, seed=seed) for seed in (1, 2, 3)]
    peer = torch.nn.Parameter(torch.tensor(w, dtype=torch.float64))
    optimizer = torch.optim.SGD([peer], lr=0.25, momentum=0.5, weight_decay=0.5)
    on_w, on_v = place(be, w), be.zeros(w.shape)
    size = abs(w.astype(np.float64))
    for gradient in gradients:
        peer.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        be.sgd_update(on_w, on_v, place(be, gradient), lr=0.25, momentum=0.5, weight_decay=0.5)
        size = size + abs(gradient)
    assert_close(be.to_numpy(on_w), Exact(peer.detach().numpy(), size))

"""Norms and pools in PyTorch, each in every form that might be its fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from . import Candidate
from .torch_tensors import Operations, Outputs, let_pass_of, nhwc

Norm: TypeAlias = Callable[..., Any]


def lrn(ops: Operations) -> Iterator[Candidate]:
    if ops.settings["groups"] == 1:
        yield from _norms(ops, {"local_response_norm": library_lrn, "shifted adds": shifted_lrn})


def rnorm(ops: Operations) -> Iterator[Candidate]:
    yield from _norms(ops, {"avg_pool2d of squares": pooled_rnorm, "shifted adds": shifted_rnorm})


def _norms(ops: Operations, forms: dict[str, Norm]) -> Iterator[Candidate]:
    settings = {name: ops.settings[name] for name in ("size", "alpha", "beta", "k")}
    for form, norm in forms.items():

        def make(nchw: bool, norm: Norm = norm) -> Callable[[], Any]:
            if ops.case.op.endswith("_fprop"):
                x = ops.maps("x", nchw)
                return lambda: norm(ops.torch, x, **settings)
            return _gradient(ops, lambda x: norm(ops.torch, x, **settings), nchw)

        yield from ops.both_layouts(form, make, lambda y: (nhwc(y),))


def library_lrn(torch: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    """PyTorch's own norm; it divides alpha by the size of the window."""
    return torch.nn.functional.local_response_norm(x, size, alpha * size, beta, k)


def shifted_lrn(torch: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    """The same by adding shifted squares, which keeps channels_last."""
    channels = x.shape[1]
    squares = torch.nn.functional.pad(x * x, (0, 0, 0, 0, size // 2, size - 1 - size // 2))
    total = squares[:, :channels]
    for shift in range(1, size):
        total = total + squares[:, shift : shift + channels]
    return _divided(torch, x, k + alpha * total, beta)


def pooled_rnorm(torch: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    """The norm over size x size pixels of a map, by PyTorch's average pool of the squares.

    With zeros around the map, the mean times the window's pixels is the sum of the clipped window.
    """
    before, after = size // 2, size - 1 - size // 2
    squares = torch.nn.functional.pad(x * x, (before, after, before, after))
    means = torch.nn.functional.avg_pool2d(squares, size, 1)
    return _divided(torch, x, k + alpha * size**2 * means, beta)


def shifted_rnorm(torch: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    """The same by adding shifted squares, rows first and then columns."""
    before, after = size // 2, size - 1 - size // 2
    height, width = x.shape[2:]
    squares = torch.nn.functional.pad(x * x, (before, after, before, after))
    rows = squares[:, :, :height]
    for shift in range(1, size):
        rows = rows + squares[:, :, shift : shift + height]
    total = rows[..., :width]
    for shift in range(1, size):
        total = total + rows[..., shift : shift + width]
    return _divided(torch, x, k + alpha * total, beta)


def _divided(torch: Any, x: Any, d: Any, beta: float) -> Any:
    """x d^-beta; by roots where beta is 3/4."""
    if beta == 0.75:
        root = torch.rsqrt(d)
        return x * root * torch.sqrt(root)
    return x * d**-beta


def _gradient(ops: Operations, forward: Callable[[Any], Any], nchw: bool) -> Callable[[], Any]:
    """The backward pass alone: the forward pass has been recorded."""
    torch = ops.torch
    x, dy = ops.maps("x", nchw).requires_grad_(), ops.maps("dy", nchw)
    with torch.enable_grad():
        y = forward(x)
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)[0]


def lrn_maxpool(ops: Operations) -> Iterator[Candidate]:
    """A norm and a pool, one after the other; backward from the given maxima."""
    settings = ops.settings
    if settings["groups"] != 1:
        return
    torch, window, forward = ops.torch, _window(settings), ops.case.op.endswith("_fprop")
    of_norm = {name: settings[name] for name in ("size", "alpha", "beta", "k")}
    passed = torch.ops.aten.threshold_backward
    forms: dict[str, Norm] = {"local_response_norm": library_lrn, "shifted adds": shifted_lrn}
    for form, norm in forms.items():

        def make(nchw: bool, norm: Norm = norm) -> Callable[[], Any]:
            x = ops.maps("x", nchw)
            if forward:

                def pooled() -> Any:
                    normed = norm(torch, x, **of_norm)
                    y = torch.ops.aten.max_pool2d_with_indices(normed, *window)[0]
                    return y.relu_() if settings["relu"] else y

                return pooled
            dy, where = ops.maps("dy", nchw), _torch_places(ops, nchw)
            y = ops.maps("y", nchw) if "y" in ops.arrays else None
            with torch.enable_grad():
                normed = norm(torch, x.requires_grad_(), **of_norm)

            def backward() -> Any:
                into = dy if y is None else passed(dy, y, 0)
                unpool = torch.ops.aten.max_pool2d_with_indices_backward
                dnormed = unpool(into, normed, *window, where)
                dx = torch.autograd.grad(normed, x, dnormed, retain_graph=True)[0]
                return passed(dx, x, 0) if settings["gated"] else dx

            return backward

        def outputs(got: Any) -> Outputs:
            return (nhwc(got), None) if forward else (nhwc(got),)

        yield from ops.both_layouts(f"{form}, max_pool2d", make, outputs)


def _window(settings: dict[str, Any]) -> tuple[Any, ...]:
    """A pool's arguments for PyTorch; among a norm's settings they have a prefix."""
    size, stride = (settings.get(f"pool_{name}", settings.get(name)) for name in ("size", "stride"))
    return [size] * 2, [stride] * 2, [0, 0], [1, 1], settings["ceil"]


def maxpool(ops: Operations) -> Iterator[Candidate]:
    torch, window = ops.torch, _window(ops.settings)

    def make(nchw: bool) -> Callable[[], Any]:
        if ops.case.op == "maxpool_fprop":
            x = ops.maps("x", nchw)
            return lambda: torch.ops.aten.max_pool2d_with_indices(x, *window)
        dy, where = ops.maps("dy", nchw), _torch_places(ops, nchw)
        n, h, w, c = ops.settings["x_shape"]
        x = torch.empty((n, h, w, c), dtype=dy.dtype, device=dy.device).permute(0, 3, 1, 2)
        x = x.contiguous() if nchw else x
        gate = ops.maps("gate", nchw) if "gate" in ops.arrays else None
        let_pass, unpool = let_pass_of(ops), torch.ops.aten.max_pool2d_with_indices_backward
        return lambda: let_pass(unpool(dy, x, *window, where), gate)

    if ops.case.op == "maxpool_fprop":
        yield from ops.both_layouts("max_pool2d", make, lambda got: (nhwc(got[0]), None))
    else:
        yield from ops.both_layouts("max_pool2d", make, lambda dx: (nhwc(dx),))


def _torch_places(ops: Operations, nchw: bool) -> Any:
    """Our places in the window as PyTorch's int64 places in the map."""
    (size, _), (stride, _), *_ = _window(ops.settings)
    where = ops.arrays["where"].astype(np.int64)
    down, right = where // size, where % size
    rows = down + stride * np.arange(where.shape[1]).reshape(1, -1, 1, 1)
    columns = right + stride * np.arange(where.shape[2]).reshape(1, 1, -1, 1)
    width = ops.case.outputs["dx"][2]
    places = ops.torch.tensor(rows * width + columns, device=ops.device)
    places = places.permute(0, 3, 1, 2)
    return places.contiguous() if nchw else places


def avgpool(ops: Operations) -> Iterator[Candidate]:
    torch, s = ops.torch, ops.settings
    window = ([s["size"]] * 2, [s["stride"]] * 2, [0, 0], s["ceil"], False, None)

    def make(nchw: bool) -> Callable[[], Any]:
        if ops.case.op == "avgpool_fprop":
            x = ops.maps("x", nchw)
            return lambda: torch.ops.aten.avg_pool2d(x, *window)
        dy = ops.maps("dy", nchw)
        n, h, w, c = s["x_shape"]
        x = torch.empty((n, h, w, c), dtype=dy.dtype, device=dy.device).permute(0, 3, 1, 2)
        x = x.contiguous() if nchw else x
        return lambda: torch.ops.aten.avg_pool2d_backward(dy, x, *window)

    yield from ops.both_layouts("avg_pool2d", make, lambda got: (nhwc(got),))

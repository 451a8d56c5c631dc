"""Single operations in PyTorch, each in every form that might be its fastest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.geometry import ConvGeometry

from ..cases import RULE, Arrays, Case
from ..gate import widened
from ..oracle import joined
from . import Candidate

Maker: TypeAlias = Callable[["Operations"], Iterator[Candidate]]
Outputs: TypeAlias = tuple[NDArray[Any] | None, ...]
Norm: TypeAlias = Callable[..., Any]


def candidates(
    torch: Any, device: str, case: Case, arrays: Arrays, precision: str
) -> Iterator[Candidate]:
    """The forms of a case in PyTorch, on tensors on `device`; none for an op that it lacks."""
    makers: dict[str, Maker] = {
        "lrn_maxpool": _lrn_maxpool,
        "conv_wgrad_sgd": _learning,
        "linear_wgrad_sgd": _learning,
        "conv": _conv,
        "linear": _linear,
        "lrn": _lrn,
        "rnorm": _rnorm,
        "maxpool": _maxpool,
        "avgpool": _avgpool,
        "relu": _relu,
        "dropout": _dropout,
        "softmax": _softmax,
        "sgd": _sgd,
    }
    for name, make in makers.items():  # the longer names first
        if case.op.startswith(name):
            yield from make(Operations(torch, device, case, arrays, precision))
            return


class Operations:
    """A case's arrays as tensors, and what all forms share."""

    def __init__(self, torch: Any, device: str, case: Case, arrays: Arrays, precision: str) -> None:
        self.torch, self.device, self.case = torch, device, case
        self.arrays = whole(arrays)
        self.precision = precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.settings = case.settings
        self.functional = torch.nn.functional

    def flat(self, name: str) -> Any:
        """An array with its axes in their own order."""
        return self.master(name).to(self.dtype)

    def master(self, name: str) -> Any:
        """The same in float32, the type of parameters and momenta in every precision."""
        return self.torch.tensor(self.arrays[name], device=self.device)

    def maps(self, name: str, nchw: bool = False) -> Any:
        """NHWC or KRSC as PyTorch's axes: channels_last in memory, or contiguous."""
        tensor = self.flat(name).permute(0, 3, 1, 2)
        return tensor.contiguous() if nchw else tensor

    def candidate(
        self, form: str, run: Callable[[], Any], outputs: Callable[[Any], Outputs]
    ) -> Any:
        """A form, run under the rules of its precision and without recording gradients."""
        torch = self.torch

        def ruled() -> Any:
            set_precision(torch, self.precision)
            with torch.no_grad():
                return run()

        return Candidate(f"PyTorch {form}", self.precision, ruled, outputs)

    def both_layouts(
        self,
        form: str,
        make: Callable[[bool], Callable[[], Any]],
        outputs: Callable[[Any], Outputs],
    ) -> Iterator[Candidate]:
        """The same call on channels_last and on contiguous tensors."""
        for layout in ("channels_last", "NCHW"):
            run = _lazily(partial(make, layout == "NCHW"))
            yield self.candidate(f"{form} {layout}".strip(), run, outputs)


def whole(arrays: Arrays) -> Arrays:
    """The arrays with bfloat16 as float32, to be passed to PyTorch, and weights in one piece."""
    found = {name: widened(array) for name, array in arrays.items()}
    for low in ("low", "w.low"):
        if low in found:
            found["w"] = joined(arrays["w"], found.pop(low))
    return found


def _lazily(make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """The result of `make`, made on the first call, so that a refusal fails that form alone."""
    made: list[Callable[[], Any]] = []

    def run() -> Any:
        if not made:
            made.append(make())
        return made[0]()

    return run


def set_precision(torch: Any, precision: str) -> None:
    """Set whether float32 products may use TF32, for everything that PyTorch runs from now on."""
    allowed = precision != "fp32"
    # Both are set: by default convolutions may, and matrix products may not.
    for products in (torch.backends.cuda.matmul, torch.backends.cudnn):
        if products.allow_tf32 != allowed:
            products.allow_tf32 = allowed


def host(tensor: Any) -> NDArray[Any]:
    """A tensor as a float32 array on the host."""
    return np.asarray(tensor.detach().float().cpu().numpy())


def nhwc(tensor: Any) -> NDArray[Any]:
    """A map in our order of axes."""
    return host(tensor.permute(0, 2, 3, 1))


# ------------------------------------------------------------------------------------ products


def _conv(ops: Operations) -> Iterator[Candidate]:
    settings = ops.settings
    geometry = ConvGeometry.of("bench", settings["stride"], settings["pad"], settings["groups"])
    top, bottom, left, right = geometry[2:6]
    if (top, left) != (bottom, right):
        return  # PyTorch would need a copy of the image first: no fair comparison
    groups = geometry.groups
    forms = {"": _one_conv} if groups == 1 else {f"groups={groups}": _one_conv}
    if groups > 1:
        forms[f"{groups} convs"] = _several_convs
    for form, conv in forms.items():
        yield from ops.both_layouts(form, conv(ops, geometry), _conv_outputs(ops))


def _conv_outputs(ops: Operations) -> Callable[[Any], Outputs]:
    if ops.case.op == "conv_wgrad":
        return lambda got: (nhwc(got[0]), host(got[1]))
    return lambda got: (nhwc(got),)


def _one_conv(ops: Operations, g: ConvGeometry) -> Callable[[bool], Callable[[], Any]]:
    return lambda nchw: _conv_call(ops, g, {n: _tensor(ops, n, nchw) for n in ops.arrays}, g.groups)


def _tensor(ops: Operations, name: str, nchw: bool) -> Any:
    return ops.flat(name) if name == "b" else ops.maps(name, nchw)


def _conv_call(
    ops: Operations, g: ConvGeometry, tensors: dict[str, Any], groups: int
) -> Callable[[], Any]:
    """One of PyTorch's convolutions, in the case's direction."""
    torch, functional, op = ops.torch, ops.functional, ops.case.op
    stride, pad = [g.stride_h, g.stride_w], [g.pad_top, g.pad_left]
    if op == "conv_fprop":
        x, w, b = tensors["x"], tensors["w"], tensors["b"]
        active = ops.settings["activation"] == "relu"

        def fprop() -> Any:
            y = functional.conv2d(x, w, b, stride, pad, groups=groups)
            return y.relu_() if active else y

        return fprop
    is_dgrad = op == "conv_dgrad"
    dy = tensors["dy"]
    shape = _nchw_shape(
        ops.settings["x_shape" if is_dgrad else "w_shape"], groups, g.groups, is_dgrad
    )
    other = torch.empty(shape, dtype=dy.dtype, device=dy.device)
    if dy.is_contiguous(memory_format=torch.channels_last):
        other = other.contiguous(memory_format=torch.channels_last)
    x, w = (other, tensors["w"]) if is_dgrad else (tensors["x"], other)
    mask = [is_dgrad, not is_dgrad, not is_dgrad]
    let_pass = _let_pass(ops)

    def backward() -> Any:
        dx, dw, db = torch.ops.aten.convolution_backward(
            dy, x, w, [w.shape[0]], stride, pad, [1, 1], False, [0, 0], groups, mask
        )
        return let_pass(dx, tensors.get("gate")) if is_dgrad else (dw, db)

    return backward


def _let_pass(ops: Operations) -> Callable[[Any, Any], Any]:
    """A gradient through a ReLU, times a factor, if there is a gate."""
    passed, factor = ops.torch.ops.aten.threshold_backward, ops.settings.get("factor", 1.0)

    def let_pass(dx: Any, gate: Any) -> Any:
        if gate is None:
            return dx
        return passed(dx, gate, 0) if factor == 1 else passed(dx, gate, 0).mul_(factor)

    return let_pass


def _nchw_shape(shape: tuple[int, ...], groups: int, of: int, is_x: bool) -> list[int]:
    """NHWC or KRSC as NCHW or KCRS, for one group of `of` if `groups` is 1."""
    n, h, w, c = shape
    part = 1 if groups == of else of
    return [n, c // part, h, w] if is_x else [n // part, c, h, w]


def _several_convs(ops: Operations, g: ConvGeometry) -> Callable[[bool], Callable[[], Any]]:
    """One convolution per group, their results concatenated."""
    torch = ops.torch
    axis = 0 if ops.case.op == "conv_wgrad" else 1

    def make(nchw: bool) -> Callable[[], Any]:
        parts = [
            _conv_call(ops, g, {n: _part(ops, n, i, g.groups, nchw) for n in ops.arrays}, 1)
            for i in range(g.groups)
        ]

        def run() -> Any:
            results = [part() for part in parts]
            if axis == 0:
                return tuple(torch.cat(one) for one in zip(*results, strict=True))
            return torch.cat(results, dim=axis)

        return run

    return make


def _part(ops: Operations, name: str, index: int, groups: int, nchw: bool) -> Any:
    """A group's share: filters of w and b, channels of x and dy; views, as a user would take."""
    return _tensor(ops, name, nchw).chunk(groups, dim=0 if name in ("w", "b") else 1)[index]


def _linear(ops: Operations) -> Iterator[Candidate]:
    functional, op = ops.functional, ops.case.op
    tensors = {name: ops.flat(name) for name in ops.arrays}
    if op == "linear_fprop":
        active = ops.settings["activation"] == "relu"

        def fprop() -> Any:
            y = functional.linear(tensors["x"], tensors["w"], tensors["b"])
            y = y.relu_() if active else y
            return y if mask is None else functional.dropout(y, 1 - mask.keep, True)

        mask = ops.settings.get("dropout")
        # Dropout draws other numbers: only the time is compared.
        yield ops.candidate("linear", fprop, lambda y: (None if mask else host(y),))
    elif op == "linear_dgrad":
        let_pass = _let_pass(ops)

        def dgrad() -> Any:
            return let_pass(tensors["dy"] @ tensors["w"], tensors.get("gate"))

        yield ops.candidate("mm", dgrad, lambda dx: (host(dx),))
    else:

        def wgrad() -> Any:
            return tensors["dy"].t() @ tensors["x"], tensors["dy"].sum(0)

        yield ops.candidate("mm", wgrad, lambda got: (host(got[0]), host(got[1])))


def _learning(ops: Operations) -> Iterator[Candidate]:
    """The gradients of a layer's parameters, and its update by the library's fused kernel.

    As under autocast, the gradients of a bfloat16 product become float32 before the update.
    """
    case, arrays = ops.case, {name: ops.arrays[name] for name in ("x", "dy")}
    settings = dict(case.settings)
    if case.op.startswith("conv_"):
        settings["w_shape"] = case.inputs["w"]
    given = {name: case.inputs[name] for name in arrays}
    results = {"dw": case.inputs["w"], "db": case.inputs["b"]}
    op = case.op.removesuffix("_sgd")
    plain = dataclasses.replace(case, op=op, inputs=given, outputs=results, settings=settings)
    for one in candidates(ops.torch, ops.device, plain, arrays, ops.precision):
        yield _with_update(ops, one)


def _with_update(ops: Operations, gradients: Candidate) -> Candidate:
    maps = ops.case.op.startswith("conv_")

    def parameter(name: str) -> Any:
        tensor = ops.master(name)
        if tensor.ndim < 4:
            return tensor
        tensor = tensor.permute(0, 3, 1, 2)
        return tensor.contiguous() if gradients.name.endswith("NCHW") else tensor

    learned = {name: parameter(name).requires_grad_() for name in ("w", "b")}
    momentum = {name: parameter(f"{name}.v") for name in learned}
    optimiser = _optimiser(ops, learned, momentum, fused=True)

    def run() -> None:
        for one, gradient in zip(learned.values(), gradients.run(), strict=True):
            one.grad = gradient.float()
        optimiser.step()

    def outputs(_: Any) -> Outputs:
        found: list[NDArray[Any]] = []
        for name, one in learned.items():
            on_host = nhwc if maps and name == "w" else host
            found += [on_host(one), _as_ours(on_host(_buffer(optimiser, one)))]
        return tuple(found)

    return dataclasses.replace(
        gradients, name=f"{gradients.name}, SGD(fused=True)", run=run, outputs=outputs
    )


# ------------------------------------------------------------------------------------ norms, pools


def _lrn(ops: Operations) -> Iterator[Candidate]:
    if ops.settings["groups"] == 1:
        yield from _norms(ops, {"local_response_norm": library_lrn, "shifted adds": shifted_lrn})


def _rnorm(ops: Operations) -> Iterator[Candidate]:
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


def _lrn_maxpool(ops: Operations) -> Iterator[Candidate]:
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


def _maxpool(ops: Operations) -> Iterator[Candidate]:
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
        let_pass, unpool = _let_pass(ops), torch.ops.aten.max_pool2d_with_indices_backward
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


def _avgpool(ops: Operations) -> Iterator[Candidate]:
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


# ------------------------------------------------------------------------------------ the rest


def _relu(ops: Operations) -> Iterator[Candidate]:
    if ops.case.op == "relu_fprop":
        x = ops.flat("x")
        yield ops.candidate("relu", lambda: ops.torch.relu(x), lambda y: (host(y),))
        return
    y, dy = ops.flat("y"), ops.flat("dy")
    backward = ops.torch.ops.aten.threshold_backward
    yield ops.candidate("threshold_backward", lambda: backward(dy, y, 0), lambda dx: (host(dx),))


def _dropout(ops: Operations) -> Iterator[Candidate]:
    x, drop = ops.flat(next(iter(ops.arrays))), 1 - ops.settings["keep"]
    functional = ops.functional
    # PyTorch draws other numbers and rescales: only the time is compared.
    yield ops.candidate("dropout", lambda: functional.dropout(x, drop, True), lambda _: (None,))


def _softmax(ops: Operations) -> Iterator[Candidate]:
    """Loss and gradient, without the two errors that ours computes too."""
    torch = ops.torch
    logits = ops.flat("logits").requires_grad_()
    labels = torch.tensor(ops.arrays["labels"], device=ops.device)

    def run() -> Any:
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(logits, labels)
            return loss, torch.autograd.grad(loss, logits)[0]

    yield ops.candidate("cross_entropy", run, lambda got: (host(got[0]), host(got[1]), None, None))


def _sgd(ops: Operations) -> Iterator[Candidate]:
    """The master weights are float32 in every precision: TF32 makes no difference."""
    if ops.precision == "tf32":
        return
    for form in ("fused", "foreach"):
        w = ops.master("w").requires_grad_()
        w.grad = ops.master("dw")
        optimiser = _optimiser(ops, {"w": w}, {"w": ops.master("v")}, **{form: True})

        def outputs(_: Any, w: Any = w, optimiser: Any = optimiser) -> Outputs:
            return host(w), _as_ours(host(_buffer(optimiser, w)))

        yield ops.candidate(f"SGD({form}=True)", optimiser.step, outputs)


def _optimiser(
    ops: Operations, learned: dict[str, Any], momentum: dict[str, Any], **form: bool
) -> Any:
    """Its rule keeps v without the rate: v = momentum v + (dw + decay w), w = w - lr v."""
    optimiser = ops.torch.optim.SGD(list(learned.values()), **RULE, **form)
    for name, one in learned.items():
        optimiser.state[one]["momentum_buffer"] = momentum[name] / -RULE["lr"]
    return optimiser


def _buffer(optimiser: Any, learned: Any) -> Any:
    return optimiser.state[learned]["momentum_buffer"]


def _as_ours(buffer: NDArray[Any]) -> NDArray[Any]:
    return -RULE["lr"] * buffer

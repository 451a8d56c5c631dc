"""Single operations in PyTorch, each in every form that might be its fastest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from numpy.typing import NDArray

from pyalexnet.ops.records import ConvGeometry

from ..cases import RULE, Arrays, Case
from . import Candidate, torch_norms
from .torch_tensors import Operations, Outputs, host, let_pass_of, nhwc

Maker: TypeAlias = Callable[["Operations"], Iterator[Candidate]]


def candidates(
    torch: Any, device: str, case: Case, arrays: Arrays, precision: str
) -> Iterator[Candidate]:
    """The forms of a case in PyTorch, on tensors on `device`; none for an op that it lacks."""
    makers: dict[str, Maker] = {
        "lrn_maxpool": torch_norms.lrn_maxpool,
        "conv_wgrad_sgd": _learning,
        "linear_wgrad_sgd": _learning,
        "conv": _conv,
        "linear": _linear,
        "lrn": torch_norms.lrn,
        "rnorm": torch_norms.rnorm,
        "maxpool": torch_norms.maxpool,
        "avgpool": torch_norms.avgpool,
        "relu": _relu,
        "dropout": _dropout,
        "softmax": _softmax,
        "sgd": _sgd,
    }
    for name, make in makers.items():  # the longer names first
        if case.op.startswith(name):
            yield from make(Operations(torch, device, case, arrays, precision))
            return


# ------------------------------------------------------------------------------------ products


def _conv(ops: Operations) -> Iterator[Candidate]:
    settings = ops.settings
    geometry = ConvGeometry.of("bench", settings["stride"], settings["pad"], settings["groups"])
    top, bottom, left, right = geometry[2:6]
    if (top, left) != (bottom, right):
        return  # PyTorch would need to copy the image first: not a fair comparison
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
    let_pass = let_pass_of(ops)

    def backward() -> Any:
        dx, dw, db = torch.ops.aten.convolution_backward(
            dy, x, w, [w.shape[0]], stride, pad, [1, 1], False, [0, 0], groups, mask
        )
        return let_pass(dx, tensors.get("gate")) if is_dgrad else (dw, db)

    return backward


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
        let_pass = let_pass_of(ops)

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

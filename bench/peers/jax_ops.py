"""Single operations in JAX, jitted: convolutions and response norms.

XLA's work can neither be captured in a CUDA graph nor timed by another library's events: each call
is waited for, and on a GPU its time includes the host's part, as its name there says.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.ops.records import ConvGeometry

from ..cases import Arrays, Case
from . import Candidate

# The precision that XLA may use for float32 products.
MATMUL = {"fp32": "highest", "tf32": "default", "bf16": "default"}


def candidates(
    jax: Any, device: str, case: Case, arrays: Arrays, precision: str
) -> Iterator[Candidate]:
    """The case on JAX's default device; none for an op that is neither convolution nor norm."""
    jnp = importlib.import_module("jax.numpy")
    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    waited = "" if device == "cpu" else ", with the host's part"
    inputs = None
    for form, made in _functions(jax, case):
        if inputs is None:
            inputs = [jnp.asarray(array, dtype) for array in arrays.values()]
        run = partial(_run, jax, jax.jit(made), inputs, precision)
        yield Candidate(f"JAX jit{form}{waited}", precision, run, _on_host, "jax")


def _run(jax: Any, jitted: Callable[..., Any], inputs: list[Any], precision: str) -> Any:
    with jax.default_matmul_precision(MATMUL[precision]):
        return jax.block_until_ready(jitted(*inputs))


def convolved(jax: Any, x: Any, w: Any, g: ConvGeometry) -> Any:
    """x (N, H, W, C) convolved with w (K, R, S, C / groups): (N, P, Q, K)."""
    return jax.lax.conv_general_dilated(
        x,
        w,
        (g.stride_h, g.stride_w),
        ((g.pad_top, g.pad_bottom), (g.pad_left, g.pad_right)),
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        feature_group_count=g.groups,
    )


def convolved_apart(jax: Any, x: Any, w: Any, g: ConvGeometry) -> Any:
    """The same with one convolution per group, their results concatenated."""
    jnp = importlib.import_module("jax.numpy")
    one = g._replace(groups=1)
    parts = zip(jnp.split(x, g.groups, 3), jnp.split(w, g.groups), strict=True)
    return jnp.concatenate([convolved(jax, *part, one) for part in parts], 3)


def normed(
    jax: Any,
    x: Any,
    axes: tuple[int, ...],
    groups: int,
    size: int,
    alpha: float,
    beta: float,
    k: float,
) -> Any:
    """The norm of maps (N, H, W, C) over `size` neighbours along `axes`, in groups of channels."""
    shape = (*x.shape[:3], groups, x.shape[3] // groups)
    # The groups' axis comes before the channels.
    along = tuple(4 if axis == 3 else axis for axis in axes)
    window = tuple(size if axis in along else 1 for axis in range(5))
    before = size // 2
    margins = tuple((before, size - 1 - before) if n > 1 else (0, 0) for n in window)
    squares, zero = (x * x).reshape(shape), np.zeros((), x.dtype)
    total = jax.lax.reduce_window(squares, zero, jax.lax.add, window, (1,) * 5, margins)
    return x * (k + alpha * total.reshape(x.shape)) ** -beta


def _functions(jax: Any, case: Case) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The case's computation as functions of its arrays: every form with its name."""
    kind, direction = case.op.split("_", 1)
    if direction not in ("fprop", "dgrad", "wgrad"):
        return
    if kind == "conv":
        groups = case.settings["groups"]
        yield f" groups={groups}" * (groups > 1), _conv(jax, case, direction, convolved)
        if groups > 1:
            yield f" {groups} convs", _conv(jax, case, direction, convolved_apart)
    elif kind in ("lrn", "rnorm"):
        yield "", _norm(jax, case, (3,) if kind == "lrn" else (1, 2), direction)


def _conv(
    jax: Any, case: Case, direction: str, convolved: Callable[..., Any]
) -> Callable[..., Any]:
    s = case.settings
    g = ConvGeometry.of("bench", s["stride"], s["pad"], s["groups"])
    jnp = importlib.import_module("jax.numpy")

    def fprop(x: Any, w: Any, b: Any) -> Any:
        y = convolved(jax, x, w, g) + b
        active = {None: lambda y: y, "relu": lambda y: jnp.maximum(y, 0), "tanh": jnp.tanh}
        return active[s["activation"]](y)

    def dgrad(dy: Any, w: Any, gate: Any = None) -> Any:
        x = jax.ShapeDtypeStruct(s["x_shape"], dy.dtype)
        dx = jax.linear_transpose(lambda x: convolved(jax, x, w, g), x)(dy)[0]
        return dx if gate is None else jnp.where(gate > 0, dx * s.get("factor", 1.0), 0)

    def wgrad(x: Any, dy: Any) -> Any:
        w = jax.ShapeDtypeStruct(s["w_shape"], dy.dtype)
        dw = jax.linear_transpose(lambda w: convolved(jax, x, w, g), w)(dy)[0]
        return dw, dy.sum((0, 1, 2))

    passes: dict[str, Callable[..., Any]] = {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}
    return passes[direction]


def _norm(jax: Any, case: Case, axes: tuple[int, ...], direction: str) -> Callable[..., Any]:
    s = case.settings
    settings = (s.get("groups", 1), s["size"], s["alpha"], s["beta"], s["k"])

    def fprop(x: Any) -> Any:
        return normed(jax, x, axes, *settings)

    def dgrad(x: Any, dy: Any) -> Any:
        return jax.vjp(fprop, x)[1](dy)[0]

    return fprop if direction == "fprop" else dgrad


def _on_host(got: Any) -> tuple[NDArray[Any], ...]:
    each = got if isinstance(got, tuple) else (got,)
    return tuple(np.asarray(one, np.float32) for one in each)

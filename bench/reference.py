"""The oracle as a backend like the others, so that whole networks run on it too.

It shares the interface of the backends that it checks, and nothing else. Results are rounded once,
at the end of an operation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Activation
from pyalexnet.backends.host import HostBackend
from pyalexnet.ops.records import BlockGeometry, ConvGeometry, Mask, PoolGeometry

from . import oracle
from .oracle import Exact

Numbers: TypeAlias = NDArray[Any]


class ReferenceBackend(HostBackend):
    """The operations as their formulas read, on arrays of the host."""

    name = "reference"

    def _run(self, op: str, *arguments: Any) -> None:
        own = getattr(self, f"_{op}", None)
        if own is not None:
            own(*arguments)
            return
        for result, exact in by_formula(op, arguments):
            result[...] = exact.value

    def _unit(self, dtype: np.dtype[Any], tensor: bool) -> str:
        return "fma"

    # Images

    def _augment(
        self,
        x: Numbers,
        mean: Numbers,
        corners: Numbers,
        flips: Numbers,
        shifts: Numbers,
        y: Numbers,
        size: tuple[int, int],
        g: BlockGeometry,
        scale: float,
        mean_at_pixel: bool,
    ) -> None:
        y[...] = oracle.augment(
            *(x, mean),
            corners=corners,
            flips=flips,
            shifts=shifts,
            size=size,
            scale=scale,
            mean_at_pixel=mean_at_pixel,
            block=g.block,
            pad=_pad(g),
        ).value

    def _images_to_depth(self, x: Numbers, y: Numbers, g: BlockGeometry) -> None:
        y[...] = oracle.in_blocks(oracle.padded(x, _pad(g)), g.block)

    def _filters_to_depth(self, w: Numbers, deep: Numbers, block: int) -> None:
        deep[...] = oracle.in_blocks(w, block)

    def _filters_from_depth(self, ddeep: Numbers, dw: Numbers, block: int) -> None:
        dw[...] = oracle.out_of_blocks(ddeep, dw.shape, block)

    # Products

    def _conv_fprop(
        self,
        x: Numbers,
        w: Numbers,
        b: Numbers | None,
        y: Numbers,
        g: ConvGeometry,
        unit: str,
        towers: int,
        activation: Activation,
        mask: Mask | None,
    ) -> None:
        _finish(oracle.conv_fprop(x, w, b, **_geometry(g), activation=activation), mask, y)

    def _conv_dgrad(
        self,
        dy: Numbers,
        w: Numbers,
        gate: Numbers | None,
        dx: Numbers,
        g: ConvGeometry,
        unit: str,
        factor: float,
    ) -> None:
        exact = oracle.conv_dgrad(dy, w, x_shape=dx.shape, **_geometry(g))
        dx[...] = oracle.let_pass(exact, gate, factor).value

    def _conv_wgrad(
        self, x: Numbers, dy: Numbers, dw: Numbers, db: Numbers, g: ConvGeometry, unit: str
    ) -> None:
        exact = oracle.conv_wgrad(x, dy, w_shape=dw.shape, **_geometry(g))
        dw[...], db[...] = (one.value for one in exact)

    def _conv_wgrad_sgd(self, x: Numbers, dy: Numbers, *arguments: Any) -> None:
        *learned, g, _, w_rule, b_rule = arguments
        gradients = oracle.conv_wgrad(x, dy, w_shape=learned[0].shape, **_geometry(g))
        self._learn(learned, gradients, w_rule, b_rule)

    def _linear_fprop(
        self,
        x: Numbers,
        w: Numbers,
        b: Numbers | None,
        y: Numbers,
        unit: str,
        towers: int,
        activation: Activation,
        mask: Mask | None,
    ) -> None:
        _finish(oracle.linear_fprop(x, w, b, activation=activation), mask, y)

    def _linear_dgrad(
        self,
        dy: Numbers,
        w: Numbers,
        gate: Numbers | None,
        dx: Numbers,
        unit: str,
        factor: float,
    ) -> None:
        dx[...] = oracle.let_pass(oracle.linear_dgrad(dy, w), gate, factor).value

    def _linear_wgrad(self, x: Numbers, dy: Numbers, dw: Numbers, db: Numbers, unit: str) -> None:
        dw[...], db[...] = (one.value for one in oracle.linear_wgrad(x, dy))

    def _linear_wgrad_sgd(self, x: Numbers, dy: Numbers, *arguments: Any) -> None:
        *learned, _, w_rule, b_rule = arguments
        self._learn(learned, oracle.linear_wgrad(x, dy), w_rule, b_rule)

    def _learn(
        self, learned: list[Any], gradients: tuple[Exact, Exact], w_rule: Any, b_rule: Any
    ) -> None:
        w, low, v, b, bv = learned
        dw, db = (one.value for one in gradients)
        self._sgd_update(w, low, v, dw, w_rule)
        self._sgd_update(b, None, bv, db, b_rule)

    # Activations

    def _relu_fprop(self, x: Numbers, y: Numbers) -> None:
        y[...] = oracle.relu_fprop(x)

    def _relu_dgrad(self, y: Numbers, dy: Numbers, dx: Numbers) -> None:
        dx[...] = oracle.relu_dgrad(y, dy)

    def _tanh_fprop(self, x: Numbers, y: Numbers) -> None:
        y[...] = oracle.tanh_fprop(x).value

    def _scale(self, x: Numbers, y: Numbers, factor: float) -> None:
        y[...] = oracle.double(x) * factor

    # Norms and pools

    def _maxpool_fprop(self, x: Numbers, y: Numbers, where: Numbers, g: PoolGeometry) -> None:
        y[...], where[...] = oracle.maxpool_fprop(x, **g._asdict())

    def _maxpool_dgrad(
        self, dy: Numbers, where: Numbers, gate: Numbers | None, dx: Numbers, g: PoolGeometry
    ) -> None:
        exact = oracle.maxpool_dgrad(dy, where, x_shape=dx.shape, **g._asdict())
        dx[...] = oracle.let_pass(exact, gate).value

    def _lrn_maxpool_fprop(self, x: Numbers, y: Numbers, where: Numbers, *how: Any) -> None:
        norm, g, relu = how
        exact, places = oracle.lrn_maxpool_fprop(x, **norm._asdict(), **_pool(g), relu=relu)
        y[...], where[...] = exact.value, places

    def _lrn_maxpool_dgrad(
        self, x: Numbers, y: Numbers | None, dy: Numbers, where: Numbers, dx: Numbers, *how: Any
    ) -> None:
        norm, g, gated = how
        between: Any = {**norm._asdict(), **_pool(g), "y": y, "gated": gated}
        dx[...] = oracle.lrn_maxpool_dgrad(x, dy, where, **between).value

    # Dropout, loss, learning

    def _dropout_fprop(self, x: Numbers, y: Numbers, mask: Mask) -> None:
        y[...] = oracle.dropout(x, **_draw(mask))

    _dropout_dgrad = _dropout_fprop

    def _softmax_cross_entropy(
        self,
        logits: Numbers,
        labels: Numbers,
        loss: Numbers,
        dlogits: Numbers,
        top1: Numbers,
        top5: Numbers,
    ) -> None:
        exact = oracle.softmax_cross_entropy(logits, labels)
        loss[...], dlogits[...] = (one.value for one in exact)
        top1[...], top5[...] = (oracle.topk_error(logits, labels, k) for k in (1, 5))

    def _sgd_update(
        self,
        w: Numbers,
        low: Numbers | None,
        v: Numbers,
        dw: Numbers,
        rule: tuple[Any, float, float],
    ) -> None:
        lr, momentum, weight_decay = rule
        whole = w if low is None else oracle.joined(w, low)
        rates = {"lr": float(lr), "momentum": momentum, "weight_decay": weight_decay}
        learned, moved = (one.value for one in oracle.sgd_update(whole, v, dw, **rates))
        v[...] = moved
        if low is None:
            w[...] = learned
        else:
            self._split_weights(learned.astype(np.float32), w, low)

    def _split_weights(self, w: Numbers, high: Numbers, low: Numbers) -> None:
        high.view(np.uint16)[...], low[...] = oracle.split(w)

    def _join_weights(self, high: Numbers, low: Numbers, w: Numbers) -> None:
        w[...] = oracle.joined(high, low)

    # Exchange

    def _exchange_gather(self, parts: Sequence[Numbers], whole: Numbers) -> None:
        whole[...] = oracle.exchange_gather(parts)

    def _exchange_scatter_add(self, dwholes: Sequence[Numbers], dpart: Numbers, start: int) -> None:
        channels = dpart.shape[-1]
        dpart[...] = oracle.exchange_scatter_add(dwholes, start=start, channels=channels).value


def by_formula(op: str, arguments: Sequence[Any]) -> list[tuple[Numbers, Exact]]:
    """An operation's results, each with its exact value, from the oracle's function of its name.

    The function takes the inputs by position, the fields of records by their names, other settings
    by keyword in the order in which they come, and `x_shape` for a gradient's shape.
    """
    formula: Callable[..., Any] = getattr(oracle, op)
    parameters = inspect.signature(formula).parameters.values()
    settings = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    inputs, rest = arguments[: (count := len(parameters) - len(settings))], arguments[count:]
    results = list(takewhile(lambda one: isinstance(one, np.ndarray), rest))
    records: list[Any] = [one for one in rest[len(results) :] if isinstance(one, tuple)]
    plain = [one for one in rest[len(results) :] if not isinstance(one, tuple)]
    how: dict[str, Any] = {"x_shape": results[-1].shape}
    for record in records:
        how |= record._asdict()
    how |= zip([name for name in settings if name not in how], plain, strict=False)
    exact = formula(*inputs, **{name: how[name] for name in settings if name in how})
    return list(zip(results, [exact] if isinstance(exact, Exact) else exact, strict=True))


def _pad(g: BlockGeometry | ConvGeometry) -> tuple[int, int, int, int]:
    return g.pad_top, g.pad_bottom, g.pad_left, g.pad_right


def _geometry(g: ConvGeometry) -> dict[str, Any]:
    return {"stride": (g.stride_h, g.stride_w), "pad": _pad(g), "groups": g.groups}


def _pool(g: PoolGeometry) -> dict[str, Any]:
    """The names of a pool after a norm."""
    return {"pool_size": g.size, "pool_stride": g.stride, "ceil": g.ceil}


def _draw(mask: Mask) -> dict[str, Any]:
    draw = {name: value for name, value in mask._asdict().items() if name != "factor"}
    return draw | {"step": int(mask.step)}


def _finish(exact: Exact, mask: Mask | None, y: Numbers) -> None:
    done = exact if mask is None else oracle.dropped(exact, factor=mask.factor, **_draw(mask))
    y[...] = done.value

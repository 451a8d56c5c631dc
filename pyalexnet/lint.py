"""What the memory accesses of the kernels would cost on a card, counted by the checker.

A warp's accesses by one instruction are one request. In global memory it moves 32-byte sectors; in
shared memory it takes passes over 32 banks of 4 bytes. docs/checker.md says how they are counted.

    python -m pyalexnet.lint          a call of every operation: lines that cost more than need be
    python -m pyalexnet.lint --all    every line
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pyalexnet.backends.base import Array
from pyalexnet.backends.sim import SimcheckBackend
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.ops.records import Learned, Mask

Call = Callable[[SimcheckBackend], object]

BOUND = 1.5  # times the fewest sectors or passes: lines that cost more are marked


@dataclass(frozen=True)
class Row:
    """The requests of warps to one array by one line of the source.

    Attributes:
        line: "file.cu:12".
        array: its name in the launcher or the kernel.
        space: "global" or "shared".
        access: "read" or "write".
        bytes: read or written by one lane at once.
        requests: executions by warps.
        transfers: total 32-byte sectors that they moved, or passes over the banks they took.
        ideal: the fewest that could have moved the same bytes.
    """

    line: str
    array: str
    space: str
    access: str
    bytes: int
    requests: int
    transfers: int
    ideal: int

    @property
    def each(self) -> float:
        """Sectors or passes per request."""
        return self.transfers / self.requests

    @property
    def ratio(self) -> float:
        """Sectors or passes as a multiple of the fewest possible; at least 1."""
        return self.transfers / self.ideal


def lint(calls: Iterable[Call]) -> list[Row]:
    """Make calls on the emulation with the checker and count the cost of their accesses.

    Args:
        calls: functions of the backend, each of which calls operations of it.

    Returns:
        A row for each line, array and kind of access, the worst ratio first.

    Raises:
        BackendUnavailable: the emulation with the checker was not built.
        KernelError: a kernel broke a rule.
    """
    backend = SimcheckBackend()
    with backend.lint() as counted:
        for call in calls:
            call(backend)
    rows = [Row(*fields) for fields in counted]
    return sorted(rows, key=lambda row: (-row.ratio, row.line, row.array, row.access))


# ---------------------------------------------------------------------- a call of every operation


def examples() -> dict[str, Call]:
    """A call of every operation by its name, with three convolutions like AlexNet's, but smaller.

    Images are few and small; channels, filters and strides, on which an access pattern depends,
    are those of the paper, or half as many. Each returns the operation's results.
    """
    return {
        "augment": _augment,
        "augment in blocks": lambda be: _augment(be, block=4, dtype=BFLOAT16),
        "images_to_depth": lambda be: be.images_to_depth(
            _x(be, 1, 32, 224, 3), block=4, dtype=BFLOAT16
        ),
        "filters_to_depth": lambda be: be.filters_to_depth(_x(be, 16, 11, 11, 3), block=4),
        "filters_from_depth": lambda be: be.filters_from_depth(
            _x(be, 16, 3, 3, 48), w_shape=(16, 11, 11, 3), block=4
        ),
        **_conv("conv1", (1, 47, 47, 3), (96, 11, 11), (10, 10), stride=4),
        **_conv("conv2", (1, 9, 9, 96), (256, 5, 5), (9, 9), pad=2, groups=2),
        **_conv("conv3", (2, 9, 9, 128), (192, 3, 3), (9, 9), pad=1),
        **_conv("conv1 bf16", (1, 12, 12, 48), (96, 3, 3), (10, 10), dtype=BFLOAT16),
        **_conv("conv2 bf16", (1, 9, 9, 96), (256, 5, 5), (9, 9), pad=2, groups=2, dtype=BFLOAT16),
        # Rows as long as conv2's but fewer filters, so that dgrad takes its path for a full batch.
        "conv_dgrad in patches": lambda be: be.conv_dgrad(
            _x(be, 1, 9, 27, 32, dtype=BFLOAT16),
            _x(be, 32, 5, 5, 48, dtype=BFLOAT16),
            x_shape=(1, 9, 27, 96),
            stride=1,
            pad=2,
            groups=2,
            gate=_x(be, 1, 9, 27, 96, dtype=BFLOAT16),
        ),
        **_conv("conv3 bf16", (2, 9, 9, 128), (192, 3, 3), (9, 9), pad=1, dtype=BFLOAT16),
        **_on_hopper(
            {
                **_conv("conv1 wgmma", (1, 12, 12, 48), (96, 3, 3), (10, 10), dtype=BFLOAT16),
                **_conv("conv3 wgmma", (2, 9, 9, 128), (192, 3, 3), (9, 9), pad=1, dtype=BFLOAT16),
                **_linear(" wgmma", BFLOAT16),
            }
        ),
        **_conv("conv1 fp32x3", (1, 12, 12, 48), (96, 3, 3), (10, 10), tensor=True),
        **_conv("conv2 fp32x3", (1, 9, 9, 96), (256, 5, 5), (9, 9), pad=2, groups=2, tensor=True),
        **_conv("conv3 fp32x3", (2, 9, 9, 128), (192, 3, 3), (9, 9), pad=1, tensor=True),
        **_linear("", FLOAT32),
        **_linear(" bf16", BFLOAT16),
        **_linear(" fp32x3", FLOAT32, tensor=True),
        **_neurons(),
        **_norms(),
        **_pools(),
        **_norms_with_pools("", FLOAT32),
        **_norms_with_pools(" bfloat16", BFLOAT16),
        "dropout_fprop": lambda be: be.dropout_fprop(_x(be, 8, 256), keep=0.5, **_DRAW),
        "dropout_dgrad": lambda be: be.dropout_dgrad(_x(be, 8, 256), keep=0.5, **_DRAW),
        "softmax_cross_entropy": lambda be: be.softmax_cross_entropy(
            _x(be, 32, 1000), be.asarray(np.arange(32))
        ),
        "sgd_update": _sgd_update,
        "split_weights": lambda be: be.split_weights(_x(be, 4096)),
        "join_weights": lambda be: be.join_weights(*be.split_weights(_x(be, 4096))),
        "exchange_gather": lambda be: be.exchange_gather([_x(be, 4, 9, 48), _x(be, 4, 9, 48)]),
        "exchange_scatter_add": lambda be: be.exchange_scatter_add(
            [_x(be, 4, 9, 96), _x(be, 4, 9, 96)], start=48, channels=48
        ),
    }


_MAPS = (2, 9, 9, 96)
_POOLED = (2, 4, 4, 96)
_ANY = (7, 2225)  # not a whole number of vectors
_DRAW = {"seed": 1, "step": 2, "layer": 3}


def _x(be: SimcheckBackend, *shape: int, dtype: np.dtype[Any] = FLOAT32) -> Array:
    """Numbers on the device, the same every time."""
    numbers = np.random.default_rng(len(shape)).standard_normal(shape, np.float32)
    return be.asarray(numbers.astype(dtype))


def _learned(be: SimcheckBackend, *shape: int, dtype: np.dtype[Any] = FLOAT32) -> Learned:
    """Parameters to be updated."""
    low = None if dtype == FLOAT32 else be.zeros(shape, np.uint16)
    return Learned(_x(be, *shape, dtype=dtype), be.zeros(shape), 0.1, 0.9, 0.1, low)


def _after(
    be: SimcheckBackend,
    update: Callable[..., None],
    x: Array,
    dy: Array,
    *learned: Learned,
    **how: Any,
) -> tuple[Array, ...]:
    """The parameters after an update: of each the weights, joined, and the momentum."""
    update(x, dy, *learned, **how)
    weights = (p.w if p.low is None else be.join_weights(p.w, p.low) for p in learned)
    return (*weights, *(p.v for p in learned))


def _sgd_update(be: SimcheckBackend) -> tuple[Array, ...]:
    w, v, dw = (_x(be, 4096) for _ in range(3))
    be.sgd_update(w, v, dw, lr=0.1, momentum=0.9, weight_decay=0.1)
    return w, v


def _augment(be: SimcheckBackend, **into: Any) -> Array:
    """Images like AlexNet's, but with fewer rows: cropped anywhere, and one of them mirrored."""
    x = np.random.default_rng(0).integers(0, 256, (2, 40, 256, 3), np.uint8)
    return be.augment(
        be.asarray(x),
        _x(be, *x.shape[1:]),
        corners=np.array([[3, 5], [8, 27]], np.int32),
        flips=np.array([0, 1], np.uint8),
        shifts=_x(be, 2, 3),
        size=(32, 224),
        **into,
    )


def _on_hopper(calls: dict[str, Call]) -> dict[str, Call]:
    """The same calls, by Hopper's own main loop."""

    def by_its_loop(call: Call, be: SimcheckBackend) -> object:
        with be.with_hopper(True):
            return call(be)

    return {name: partial(by_its_loop, call) for name, call in calls.items()}


def _conv(
    name: str,
    x: tuple[int, int, int, int],
    filters: tuple[int, int, int],
    out: tuple[int, int],
    *,
    stride: int = 1,
    pad: int = 0,
    groups: int = 1,
    dtype: np.dtype[Any] = FLOAT32,
    tensor: bool = False,
) -> dict[str, Call]:
    """The passes of a convolution; the first layer's input needs no gradient."""
    w = (*filters, x[3] // groups)
    y = (x[0], *out, filters[0])
    how: dict[str, Any] = {"stride": stride, "pad": pad, "groups": groups, "tensor": tensor}

    def numbers(be: SimcheckBackend, shape: tuple[int, ...]) -> Array:
        return _x(be, *shape, dtype=dtype)

    passes: dict[str, Call] = {
        f"conv_fprop {name}": lambda be: be.conv_fprop(
            numbers(be, x), numbers(be, w), _x(be, w[0]), **how
        ),
        f"conv_dgrad {name}": lambda be: be.conv_dgrad(
            numbers(be, y), numbers(be, w), x_shape=x, gate=numbers(be, x), **how
        ),
        f"conv_wgrad {name}": lambda be: be.conv_wgrad(
            numbers(be, x), numbers(be, y), w_shape=w, **how
        ),
        f"conv_wgrad_sgd {name}": lambda be: _after(
            *(be, be.conv_wgrad_sgd, numbers(be, x), numbers(be, y)),
            *(_learned(be, *w, dtype=dtype), _learned(be, w[0])),
            **how,
        ),
    }
    if name.startswith("conv1"):
        del passes[f"conv_dgrad {name}"]
    return passes


def _linear(suffix: str, dtype: np.dtype[Any], tensor: bool = False) -> dict[str, Call]:
    """The passes of a linear layer, followed by dropout."""

    def numbers(be: SimcheckBackend, *shape: int) -> Array:
        return _x(be, *shape, dtype=dtype)

    mask = Mask(keep=0.5, **_DRAW)
    return {
        f"linear_fprop{suffix}": lambda be: be.linear_fprop(
            numbers(be, 64, 256), numbers(be, 128, 256), _x(be, 128), dropout=mask, tensor=tensor
        ),
        f"linear_dgrad{suffix}": lambda be: be.linear_dgrad(
            numbers(be, 64, 128), numbers(be, 128, 256), gate=numbers(be, 64, 256), tensor=tensor
        ),
        f"linear_wgrad{suffix}": lambda be: be.linear_wgrad(
            numbers(be, 64, 256), numbers(be, 64, 128), tensor=tensor
        ),
        f"linear_wgrad_sgd{suffix}": lambda be: _after(
            *(be, be.linear_wgrad_sgd, numbers(be, 64, 256), numbers(be, 64, 128)),
            *(_learned(be, 128, 256, dtype=dtype), _learned(be, 128)),
            tensor=tensor,
        ),
    }


def _neurons() -> dict[str, Call]:
    return {
        "relu_fprop": lambda be: be.relu_fprop(_x(be, *_ANY)),
        "relu_dgrad": lambda be: be.relu_dgrad(_x(be, *_ANY), _x(be, *_ANY)),
        "tanh_fprop": lambda be: be.tanh_fprop(_x(be, *_ANY)),
        "tanh_dgrad": lambda be: be.tanh_dgrad(_x(be, *_ANY), _x(be, *_ANY)),
        "scale": lambda be: be.scale(_x(be, *_ANY), factor=0.5),
    }


def _norms() -> dict[str, Call]:
    how: dict[str, Any] = {"alpha": 1e-4, "beta": 0.75, "k": 2.0}
    return {
        "lrn_fprop": lambda be: be.lrn_fprop(_x(be, *_MAPS), size=5, **how),
        "lrn_dgrad": lambda be: be.lrn_dgrad(_x(be, *_MAPS), _x(be, *_MAPS), size=5, **how),
        "rnorm_fprop": lambda be: be.rnorm_fprop(_x(be, *_MAPS), size=3, **how),
        "rnorm_dgrad": lambda be: be.rnorm_dgrad(_x(be, *_MAPS), _x(be, *_MAPS), size=3, **how),
    }


def _pools() -> dict[str, Call]:
    def maxpool_dgrad(be: SimcheckBackend) -> Array:
        """Without a forward pass: the maximum of each window is drawn."""
        where = be.asarray(np.random.default_rng(0).integers(0, 9, _POOLED, np.uint8))
        return be.maxpool_dgrad(_x(be, *_POOLED), where, x_shape=_MAPS, size=3, stride=2)

    return {
        "maxpool_fprop": lambda be: be.maxpool_fprop(_x(be, *_MAPS), size=3, stride=2),
        "maxpool_dgrad": maxpool_dgrad,
        "avgpool_fprop": lambda be: be.avgpool_fprop(_x(be, *_MAPS), size=3, stride=2),
        "avgpool_dgrad": lambda be: be.avgpool_dgrad(
            _x(be, *_POOLED), x_shape=_MAPS, size=3, stride=2
        ),
    }


def _norms_with_pools(suffix: str, dtype: np.dtype[Any]) -> dict[str, Call]:
    """Norm and pool in one, between ReLUs, on maps of a type."""
    how: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "groups": 2}
    how |= {"pool_size": 3, "pool_stride": 2}

    def maps(be: SimcheckBackend, *shape: int) -> Array:
        return _x(be, *shape, dtype=dtype)

    def dgrad(be: SimcheckBackend) -> Array:
        where = be.asarray(np.random.default_rng(0).integers(0, 9, _POOLED, np.uint8))
        x, y, dy = maps(be, *_MAPS), maps(be, *_POOLED), maps(be, *_POOLED)
        return be.lrn_maxpool_dgrad(x, dy, where, **how, y=y, gated=True)

    return {
        f"lrn_maxpool_fprop{suffix}": lambda be: be.lrn_maxpool_fprop(
            maps(be, *_MAPS), **how, relu=True
        ),
        f"lrn_maxpool_dgrad{suffix}": dgrad,
    }


# ---------------------------------------------------------------------- the table

_HEADER = (
    f"  {'operation':<22}{'line':<20}{'array':<12}{'access':<18}"
    f"{'requests':>9}{'each':>7}{'ideal':>7}{'ratio':>7}"
)


def _text(name: str, row: Row) -> str:
    access = f"{row.space} {row.access} {row.bytes}"
    return (
        f"{'!' if row.ratio > BOUND else ' '} {name:<22}{row.line:<20}{row.array:<12}{access:<18}"
        f"{row.requests:>9}{row.each:>7.2f}{row.ideal / row.requests:>7.2f}{row.ratio:>7.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the cost of a call of every operation, the worst line first."""
    parser = argparse.ArgumentParser(prog="python -m pyalexnet.lint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--all", action="store_true", help="also the lines that cost the least")
    every = parser.parse_args(arguments).all
    rows = [(name, row) for name, call in examples().items() for row in lint([call])]
    shown = [(name, row) for name, row in rows if every or row.transfers > row.ideal]
    print(_HEADER)
    for name, row in sorted(shown, key=lambda one: -one[1].ratio):
        print(_text(name, row))
    print(
        f"{len(rows) - len(shown)} more took as few sectors or passes as can be. each: 32-byte "
        f"sectors of a global request,\npasses over the banks of a shared one. !: more than "
        f"{BOUND} times the fewest."
    )


if __name__ == "__main__":
    main()

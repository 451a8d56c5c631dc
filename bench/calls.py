"""A call of every operation, with convolutions like AlexNet's, but smaller.

Images are few and small; channels, filters and strides, on which an access pattern depends, are
those of the paper, or half as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.ops.records import Mask
from pyalexnet.step.plan import Precision

from .cases import RULE, Case, Shape

_MAPS, _POOLED = (2, 9, 9, 96), (2, 4, 4, 96)
_ANY = (7, 2225)  # not a whole number of vectors
_DRAW = {"seed": 1, "step": 2, "layer": 3}
_NORM: dict[str, Any] = {"alpha": 1e-4, "beta": 0.75, "k": 2.0}
_SIZES: dict[str, tuple[Shape, Shape, Shape, dict[str, Any]]] = {
    "conv1": ((1, 47, 47, 3), (96, 11, 11, 3), (1, 10, 10, 96), {"stride": 4, "pad": 0}),
    "conv2": ((1, 9, 9, 96), (128, 5, 5, 48), (1, 9, 9, 128), {"pad": 2, "groups": 2}),
    "conv3": ((1, 9, 9, 128), (192, 3, 3, 128), (1, 9, 9, 192), {"pad": 1}),
    "blocks": ((1, 12, 12, 48), (96, 3, 3, 48), (1, 10, 10, 96), {"pad": 0}),
}


def of_every_operation() -> dict[str, Case]:
    """By name: the operation, a convolution's layer, and its arithmetic."""
    return {case.name: case for case in _every()}


def _every() -> Iterator[Case]:
    yield from _images()
    forms: dict[str, Precision] = {"": "fp32", " bf16": "bf16", " wgmma": "bf16"}
    for kind, precision in (forms | {" fp32x3": "fp32x3"}).items():
        for layer in ("conv1", "conv2", "conv3"):
            if (layer, kind) != ("conv2", " wgmma"):
                yield from _conv(layer, kind, precision)
        yield from _linear(kind, precision)
    # Rows as long as conv2's but fewer filters, so that dgrad takes its path for a full batch.
    x, w, dy = (1, 9, 27, 96), (32, 5, 5, 48), (1, 9, 27, 32)
    how = {"x_shape": x, "stride": 1, "pad": 2, "groups": 2}
    arrays = {"dy": dy, "w": w, "gate": x}
    for suffix in " in patches", " in patches wgmma":
        yield _case("conv_dgrad", arrays, {"dx": x}, how, "bf16", suffix)
    yield from _maps()
    yield from _norms_with_pools("", "fp32")
    yield from _norms_with_pools(" bfloat16", "bf16")
    yield from _rest()


def _case(
    op: str,
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    settings: Mapping[str, Any] | None = None,
    precision: Precision = "fp32",
    suffix: str = "",
) -> Case:
    batch = next(iter(inputs.values()))[0]
    about = (f"{op}{suffix}", "", batch, op)
    return Case(*about, dict(inputs), dict(settings or {}), dict(outputs), 0.0, precision)


def _images() -> Iterator[Case]:
    """Images like AlexNet's, but with fewer rows: cropped anywhere, and one of them mirrored."""
    stored = (40, 256, 3)
    how: dict[str, Any] = {
        "corners": np.array([[3, 5], [8, 27]], np.int32),
        "flips": np.array([0, 1], np.uint8),
        "shifts": np.array([[0.5, -1, 2], [3, 0.25, -4]], np.float32),
        "size": (32, 224),
    }
    given: dict[str, Shape] = {"x": (2, *stored), "mean": stored}
    yield _case("augment", given, {"y": (2, 32, 224, 3)}, how)
    blocks = {"block": 4, "dtype": BFLOAT16}
    yield _case("augment", given, {"y": (2, 8, 56, 48)}, how | blocks, suffix=" in blocks")
    yield _case("images_to_depth", {"x": (1, 32, 224, 3)}, {"y": (1, 8, 56, 48)}, blocks)
    w, deep = (16, 11, 11, 3), (16, 3, 3, 48)
    yield _case("filters_to_depth", {"w": w}, {"deep": deep}, {"block": 4})
    back = {"w_shape": w, "block": 4}
    yield _case("filters_from_depth", {"ddeep": deep}, {"dw": w}, back)


def _products(
    kind: str, x: Shape, w: Shape, y: Shape, how: dict[str, Any], precision: Precision, suffix: str
) -> Iterator[Case]:
    """The passes of a layer, its update included."""
    b = w[:1]
    learned = {"w": w, "w.v": w, "b": b, "b.v": b}
    halves = {"w.low": w} if precision == "bf16" else {}
    how = how | ({"tensor": True} if precision == "fp32x3" else {})
    shapes = {} if kind == "linear" else {"dgrad": {"x_shape": x}, "wgrad": {"w_shape": w}}
    after = {"dropout": Mask(keep=0.5, **_DRAW)} if kind == "linear" else {}

    def case(
        pass_of: str, inputs: dict[str, Shape], outputs: dict[str, Shape], **more: Any
    ) -> Case:
        settings = how | shapes.get(pass_of, {}) | more
        return _case(f"{kind}_{pass_of}", inputs, outputs, settings, precision, suffix)

    yield case("fprop", {"x": x, "w": w, "b": b}, {"y": y}, **after)
    if "conv1" not in suffix:  # its input needs no gradient
        yield case("dgrad", {"dy": y, "w": w, "gate": x}, {"dx": x})
    yield case("wgrad", {"x": x, "dy": y}, {"dw": w, "db": b})
    yield case("wgrad_sgd", {"x": x, "dy": y, **learned, **halves}, learned)


def _conv(layer: str, kind: str, precision: Precision) -> Iterator[Case]:
    """In the tensor cores' forms conv1 reads blocks of pixels."""
    x, w, y, how = _SIZES["blocks" if layer == "conv1" and kind else layer]
    how = {"stride": 1, "groups": 1} | how
    return _products("conv", x, w, y, how, precision, f" {layer}{kind}")


def _linear(kind: str, precision: Precision) -> Iterator[Case]:
    return _products("linear", (64, 256), (128, 256), (64, 128), {}, precision, kind)


def _maps() -> Iterator[Case]:
    """Activations, norms, pools and dropout."""
    for op in ("relu", "tanh"):
        yield _case(f"{op}_fprop", {"x": _ANY}, {"y": _ANY})
        yield _case(f"{op}_dgrad", {"y": _ANY, "dy": _ANY}, {"dx": _ANY})
    yield _case("scale", {"x": _ANY}, {"y": _ANY}, {"factor": 0.5})
    for op, size in (("lrn", 5), ("rnorm", 3)):
        norm = {"size": size, **_NORM}
        yield _case(f"{op}_fprop", {"x": _MAPS}, {"y": _MAPS}, norm)
        yield _case(f"{op}_dgrad", {"x": _MAPS, "dy": _MAPS}, {"dx": _MAPS}, norm)
    for op, places in (("maxpool", {"where": _POOLED}), ("avgpool", {})):
        pool: dict[str, Any] = {"size": 3, "stride": 2}
        yield _case(f"{op}_fprop", {"x": _MAPS}, {"y": _POOLED, **places}, pool)
        back = {"x_shape": _MAPS, **pool}
        yield _case(f"{op}_dgrad", {"dy": _POOLED, **places}, {"dx": _MAPS}, back)
    draw = {"keep": 0.5, **_DRAW}
    yield _case("dropout_fprop", {"x": (8, 256)}, {"y": (8, 256)}, draw)
    yield _case("dropout_dgrad", {"dy": (8, 256)}, {"dx": (8, 256)}, draw)


def _norms_with_pools(suffix: str, precision: Precision) -> Iterator[Case]:
    """Norm and pool in one, between ReLUs, on maps of a type."""
    how = {"size": 5, **_NORM, "groups": 2, "pool_size": 3, "pool_stride": 2}
    pooled = {"y": _POOLED, "where": _POOLED}
    given = {"x": _MAPS, "dy": _POOLED, **pooled}
    forward, back = how | {"relu": True}, how | {"gated": True}
    yield _case("lrn_maxpool_fprop", {"x": _MAPS}, pooled, forward, precision, suffix)
    yield _case("lrn_maxpool_dgrad", given, {"dx": _MAPS}, back, precision, suffix)


def _rest() -> Iterator[Case]:
    logits, w, part, whole = (32, 1000), (4096,), (4, 9, 48), (4, 9, 96)
    losses: dict[str, Shape] = {"loss": (), "dlogits": logits, "top1": (), "top5": ()}
    yield _case("softmax_cross_entropy", {"logits": logits, "labels": (32,)}, losses)
    yield _case("sgd_update", {"w": w, "v": w, "dw": w}, {"w": w, "v": w}, dict(RULE))
    yield _case("split_weights", {"w": w}, {"high": w, "low": w})
    yield _case("join_weights", {"high": w, "low": w}, {"w": w})
    yield _case("exchange_gather", {"parts.0": part, "parts.1": part}, {"whole": whole})
    wholes: dict[str, Shape] = {"dwholes.0": whole, "dwholes.1": whole}
    share = {"start": 48, "channels": 48}
    yield _case("exchange_scatter_add", wholes, {"dpart": part}, share)
    yield _case("sum_parts", {"parts.0": part, "parts.1": part}, {"total": part})

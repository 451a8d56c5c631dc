"""A trained network as an ONNX model, and a check that onnxruntime computes the same with it.

The model reads N x C x H x W (float32, RGB) and yields N logits vectors, as other programs expect:
filters are KCRS, and the first linear layer's columns are in the order C, H, W. It uses only
operators whose meaning no version of ONNX or onnxruntime has changed; see `_pool` and `_norm`.

This is the only module that imports onnx and onnxruntime.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pyalexnet
from pyalexnet import files
from pyalexnet.backends.base import Shape
from pyalexnet.errors import ArgumentError, PyalexnetError
from pyalexnet.files import shown
from pyalexnet.install import pip_install
from pyalexnet.nets import presets
from pyalexnet.nets.layers import (
    LRN,
    AvgPool,
    Conv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    Relu,
    RNorm,
    Scale,
    Tanh,
)
from pyalexnet.ops.checks import integer
from pyalexnet.ops.records import ConvGeometry, PoolGeometry
from pyalexnet.step.rounding import rounding
from pyalexnet.trained.load import Trained

Floats = npt.NDArray[np.float32]

OPSET = 17
"""The default: of 2022, and read by all programs that are still updated."""

OLDEST_OPSET = 13
"""The first one whose operators are all as this module writes them."""

CHECKED_IMAGES = 4
"""Images with which a model of any batch size is checked."""


@dataclass(frozen=True)
class Agreement:
    """How close onnxruntime came to our own logits.

    difference: the largest, over `images` images and all classes. tolerance: the largest that
    float32 rounding explains, see `rounding`. largest: the largest logit, for scale.
    """

    images: int
    difference: float
    tolerance: float
    largest: float


def export(
    trained: Trained,
    path: Path,
    *,
    batch: int | None = None,
    opset: int = OPSET,
    preprocessing: bool = False,
    seed: int = 0,
) -> Agreement:
    """Write `trained` to the ONNX file `path`, once onnxruntime has agreed with it.

    Args:
        trained: the network to compare with, on the backend cpu, exact.
        batch: images per call of the model; None: any number.
        opset: version of ONNX's operators, `OLDEST_OPSET` or above.
        preprocessing: whether the model subtracts the mean itself; it then reads pixels from 0 to
            255, else pixels minus the mean.
        seed: of the images for the comparison.

    Raises:
        ArgumentError: an argument, or a layer that ONNX cannot express.
        PyalexnetError: a package is missing, onnxruntime computes something else, or `path` cannot
            be written; no new file is then left.
    """
    content = serialised(trained, batch=batch, opset=opset, preprocessing=preprocessing)
    agreement = compare(trained, content, batch=batch, preprocessing=preprocessing, seed=seed)
    if not agreement.difference <= agreement.tolerance:
        raise PyalexnetError(
            f"{shown(path)}: onnxruntime's logits differ from ours by {agreement.difference:.3g}; "
            f"at most {agreement.tolerance:.3g} was expected of float32, and no file was written."
        )
    files.write(path, content, PyalexnetError)
    return agreement


# ---------------------------------------------------------------------- the model


def serialised(trained: Trained, *, batch: int | None, opset: int, preprocessing: bool) -> bytes:
    """The ONNX file's bytes, passed by ONNX's checker, which also infers every shape."""
    onnx, _ = _libraries()
    if batch is not None:
        integer("export", "batch", batch, low=1)
    newest = onnx.defs.onnx_opset_version()
    integer("export", "opset", opset, low=OLDEST_OPSET, high=newest)
    spec = trained.net.spec
    height, width, channels = spec.input_shape
    count = "N" if batch is None else batch
    images, logits = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [count, *shape])
        for name, shape in (("images", (channels, height, width)), ("logits", (spec.classes,)))
    )
    graph = _Graph(onnx, trained)
    graph.build(preprocessing)
    operators = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, spec.name, [images], [logits], graph.constants),
        opset_imports=operators,
        # The oldest file format with these operators, for the most readers.
        ir_version=onnx.helper.find_min_ir_version_for(operators),
        producer_name="pyalexnet",
        producer_version=pyalexnet.__version__,
        doc_string=_about(trained, preprocessing),
    )
    onnx.helper.set_model_props(model, _metadata(trained, preprocessing))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _about(trained: Trained, preprocessing: bool) -> str:
    height, width, channels = trained.net.spec.input_shape
    colours = "RGB" if channels == 3 else "grey levels"
    mean = "the mean is subtracted inside" if preprocessing else "less the mean (see metadata)"
    return (
        f"{trained.net.spec.name}. images: N x {channels} x {height} x {width}, {colours} from 0 "
        f"to 255, {mean}. logits: N x {trained.net.spec.classes}, before the softmax."
    )


def _metadata(trained: Trained, preprocessing: bool) -> dict[str, str]:
    """Text for programs that read the model; lists and numbers are JSON."""
    stored, crop = trained.stored, trained.size
    default = presets.names()[0] if trained.meta.net == "alexnet" else ""
    return {
        "net": trained.meta.net,
        "net_args": json.dumps(trained.meta.net_args),
        "preset": trained.meta.net_args.get("preset", default),
        **trained.classes.described(),
        "step": str(trained.meta.step),
        "mean_subtracted": json.dumps(preprocessing),
        "channel_means": json.dumps([float(one) for one in trained.mean.mean(axis=(0, 1))]),
        "resize": json.dumps({"shorter_side": min(stored), "centre_crop": list(crop)}),
    }


class _Graph:
    """An ONNX graph under construction: nodes in order, and constants (ONNX's initializers)."""

    def __init__(self, onnx: Any, trained: Trained) -> None:
        self._onnx, self._trained = onnx, trained
        self._params: dict[str, Floats] = {
            name: np.asarray(trained.net.backend.to_numpy(value), np.float32)
            for name, value in trained.net.params.items()
        }
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def build(self, preprocessing: bool) -> None:
        """All layers of the network, from `images` to `logits`."""
        tip = "images"
        if preprocessing:
            mean = self._trained.centre(self._trained.mean).transpose(2, 0, 1)
            tip = self._node("Sub", tip, self._constant("mean", mean), name="pixels")
        for layer, in_shape, out_shape in self._trained.net.spec.walk():
            tip = self._layer(layer, tip, in_shape, out_shape)
        self.nodes[-1].output[0] = "logits"

    def _node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append a node with one output of the same name; returns the name."""
        self.nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes)
        )
        return name

    def _constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Append an initializer, with one axis at least; returns its name."""
        values = np.ascontiguousarray(value, dtype)
        self.constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def _layer(self, layer: Layer, x: str, in_shape: Shape, out_shape: Shape) -> str:
        name = layer.name
        match layer:
            case Conv():
                return self._conv(layer, x)
            case Linear():
                return self._linear(layer, x, in_shape)
            case Relu():
                return self._node("Relu", x, name=name)
            case Tanh():
                x = self._times(x, layer.scale_in, f"{name}.scale_in")
                x = self._node("Tanh", x, name=name)
                return self._times(x, layer.scale_out, f"{name}.scale_out")
            case Scale():
                return self._times(x, layer.factor, name)
            case Dropout():
                # In evaluation only the 2012 rule multiplies; the inverted one did so in training.
                return x if layer.inverted else self._times(x, layer.keep, name)
            case LRN() if layer.size % 2:
                return self._lrn(layer, x, in_shape)
            case LRN() | RNorm():
                return self._norm(layer, x, in_shape)
            case MaxPool() | AvgPool():
                return self._pool(layer, x, in_shape, out_shape)
        raise ArgumentError(
            f"export: {name} is a {type(layer).__name__}, which this export cannot express in ONNX."
        )

    def _conv(self, layer: Conv, x: str) -> str:
        g = ConvGeometry.of(layer.name, layer.stride, layer.pad, layer.groups)
        y = self._weighted(
            "Conv",
            layer,
            x,
            self._params[layer.w].transpose(0, 3, 1, 2),
            kernel_shape=[layer.size, layer.size],
            strides=[g.stride_h, g.stride_w],
            pads=[g.pad_top, g.pad_left, g.pad_bottom, g.pad_right],
            group=g.groups,
        )
        return self._activation(layer, y)

    def _linear(self, layer: Linear, x: str, in_shape: Shape) -> str:
        """A product; in groups, a convolution with filters as large as the maps."""
        height, width, channels = in_shape if len(in_shape) == 3 else (1, 1, *in_shape)
        rows = self._params[layer.w]
        w = rows.reshape(layer.outputs, height, width, -1).transpose(0, 3, 1, 2)
        flat = f"{layer.name}.flat"
        if layer.groups == 1:
            if len(in_shape) == 3:
                x = self._node("Flatten", x, name=flat, axis=1)
            y = self._weighted("Gemm", layer, x, w.reshape(rows.shape), transB=1)
        else:
            if len(in_shape) == 1:  # one pixel
                x = self._reshape(x, f"{layer.name}.pixel", channels, 1, 1)
            shape = {"kernel_shape": [height, width], "group": layer.groups}
            y = self._weighted("Conv", layer, x, w, **shape)
            y = self._node("Flatten", y, name=flat, axis=1)
        return self._activation(layer, y)

    def _weighted(
        self, kind: str, layer: Conv | Linear, x: str, w: Floats, **attributes: Any
    ) -> str:
        """A node with a layer's biases, and its weights `w` as ONNX has them."""
        weights = self._constant(f"{layer.name}.w", w)
        biases = self._constant(f"{layer.name}.b", self._params[layer.b])
        return self._node(kind, x, weights, biases, name=layer.name, **attributes)

    def _activation(self, layer: Conv | Linear, y: str) -> str:
        kind = layer.activation
        return y if kind is None else self._node(kind.title(), y, name=f"{layer.name}.{kind}")

    def _lrn(self, layer: LRN, x: str, in_shape: Shape) -> str:
        """ONNX's LRN, which divides alpha by the size, and whose windows match ours if odd.

        Groups are treated as separate images, which windows cannot cross.
        """
        height, width, channels = in_shape
        name, grouped = layer.name, layer.groups > 1
        if grouped:
            x = self._reshape(x, f"{name}.parts", channels // layer.groups, height, width)
        y = self._node(
            "LRN",
            x,
            name=f"{name}.normed" if grouped else name,
            size=layer.size,
            alpha=float(layer.alpha * layer.size),
            beta=float(layer.beta),
            bias=float(layer.k),
        )
        return self._reshape(y, name, channels, height, width) if grouped else y

    def _norm(self, layer: LRN | RNorm, x: str, in_shape: Shape) -> str:
        """x / (k + alpha * (sum of squares in the window))^beta, written out.

        The sum is a convolution with ones: ONNX has no norm within maps, onnxruntime no LRN of
        even size, and both have changed what an average pool divides by.
        """
        name, channels = layer.name, in_shape[2]
        before, behind = layer.size // 2, layer.size - 1 - layer.size // 2
        if isinstance(layer, RNorm):
            ones: npt.NDArray[Any] = np.ones((channels, 1, layer.size, layer.size))
            pads, groups = [before, before, behind, behind], channels
        else:
            part = channels // layer.groups
            offset = np.arange(part) - np.arange(part)[:, None]  # of channel j, seen from i
            window = (-before <= offset) & (offset <= behind)
            ones = np.tile(window, (layer.groups, 1))[:, :, None, None]
            pads, groups = [0, 0, 0, 0], layer.groups
        y = self._node("Mul", x, x, name=f"{name}.squares")
        y = self._node(
            "Conv",
            y,
            self._constant(f"{name}.window", ones),
            name=f"{name}.sums",
            kernel_shape=list(ones.shape[2:]),
            pads=pads,
            group=groups,
        )
        for kind, setting, value, result in (
            ("Mul", "alpha", layer.alpha, "weighed"),
            ("Add", "k", layer.k, "base"),
            ("Pow", "beta", layer.beta, "power"),
        ):
            number = self._constant(f"{name}.{setting}", value)
            y = self._node(kind, y, number, name=f"{name}.{result}")
        return self._node("Div", x, y, name=name)

    def _pool(self, layer: MaxPool | AvgPool, x: str, in_shape: Shape, out_shape: Shape) -> str:
        """A pool padded below and to the right for the windows that `ceil` keeps.

        So `ceil_mode` is not needed, whose windows outside the image and divisor differ between
        versions. Padding enters neither the maximum nor the mean.
        """
        g = PoolGeometry.of(layer.name, layer.size, layer.stride, layer.ceil)
        below, right = (
            max(0, (windows - 1) * g.stride + g.size - pixels)
            for windows, pixels in zip(out_shape[:2], in_shape[:2], strict=True)
        )
        largest = isinstance(layer, MaxPool)
        return self._node(
            "MaxPool" if largest else "AveragePool",
            x,
            name=layer.name,
            kernel_shape=[g.size, g.size],
            strides=[g.stride, g.stride],
            pads=[0, 0, below, right],
            **({} if largest else {"count_include_pad": 0}),
        )

    def _times(self, x: str, factor: float, name: str) -> str:
        if factor == 1:
            return x
        return self._node("Mul", x, self._constant(f"{name}.factor", factor), name=name)

    def _reshape(self, x: str, name: str, *shape: int) -> str:
        """x as (-1, *shape): the number of images, or of their parts, follows."""
        wanted = self._constant(f"{name}.shape", [-1, *shape], np.int64)
        return self._node("Reshape", x, wanted, name=name)


# ---------------------------------------------------------------------- the check


def compare(
    trained: Trained, content: bytes, *, batch: int | None, preprocessing: bool, seed: int = 0
) -> Agreement:
    """Logits of onnxruntime, with the model `content`, beside our own, for random images.

    A model for any batch size is run on all but one of them, then on that one.
    """
    _, onnxruntime = _libraries()
    count = CHECKED_IMAGES if batch is None else batch
    stored = pixels(count, trained.mean.shape, seed)
    ours = trained.logits(stored)
    seen = trained.centre(stored).astype(np.float32)
    less_mean = seen - trained.centre(trained.mean)
    images = (seen if preprocessing else less_mean).transpose(0, 3, 1, 2)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        parts = [images] if batch is not None else [images[:-1], images[-1:]]
        theirs = np.concatenate(
            [session.run(["logits"], {"images": np.ascontiguousarray(part)})[0] for part in parts]
        )
    except Exception as error:  # its exceptions have no common base class
        reason = textwrap.shorten(str(error), 200)
        raise PyalexnetError(
            f"export: onnxruntime {onnxruntime.__version__} cannot run the model ({reason})."
        ) from error
    return Agreement(
        count,
        float(np.max(np.abs(theirs.astype(np.float64) - ours))),
        rounding(trained.net, less_mean, seed),
        float(np.max(np.abs(ours))),
    )


def pixels(count: int, shape: Shape, seed: int) -> npt.NDArray[np.uint8]:
    """Random images (count, H, W, C): coarse patches with fine noise, for photograph-like signals.

    Noise of single pixels alone would average out in the first filters.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    height, width, channels = shape
    patch = max(1, min(height, width) // 8)
    coarse = generator.integers(
        0, 192, (count, -(-height // patch), -(-width // patch), channels), np.uint8
    )
    patches = coarse.repeat(patch, axis=1).repeat(patch, axis=2)[:, :height, :width]
    patches += generator.integers(0, 64, patches.shape, np.uint8)
    return patches


def _libraries() -> tuple[Any, Any]:
    """onnx and onnxruntime."""
    try:
        import onnx
        import onnx.numpy_helper
        import onnxruntime
    except ImportError as error:
        raise PyalexnetError(
            f"export needs onnx and onnxruntime ({error}): " + pip_install("'pyalexnet[onnx]'")
        ) from error
    return onnx, onnxruntime

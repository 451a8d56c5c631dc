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
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import pyalexnet
from pyalexnet import files
from pyalexnet.backends.base import Shape
from pyalexnet.errors import ArgumentError, PyalexnetError
from pyalexnet.files import shown
from pyalexnet.install import pip_install
from pyalexnet.nets import layers, presets
from pyalexnet.nets.layers import Layer
from pyalexnet.ops.checks import integer
from pyalexnet.ops.records import ConvGeometry
from pyalexnet.step.rounding import rounding
from pyalexnet.trained.load import Trained

Floats = npt.NDArray[np.float32]
_Weighted: TypeAlias = layers.Conv | layers.Linear
_Pool: TypeAlias = layers.MaxPool | layers.AvgPool

# The default: from 2022, and read by all programs that are still updated.
OPSET = 17

# The first version in which all operators are as this module writes them.
OLDEST_OPSET = 13

# Images with which a model of any batch size is checked.
CHECKED_IMAGES = 4


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
) -> Agreement:
    """Write `trained` to the ONNX file `path`, once onnxruntime has agreed with it.

    trained: the network to compare with, on the backend cpu, exact. batch: images per call of the
    model; None: any number. opset: version of ONNX's operators, `OLDEST_OPSET` or above.
    preprocessing: whether the model subtracts the mean itself; it then reads pixels from 0 to 255,
    else pixels minus the mean. No file is left if a layer cannot be expressed, or onnxruntime
    computes something else.
    """
    content = serialised(trained, batch=batch, opset=opset, preprocessing=preprocessing)
    agreement = compare(trained, content, batch=batch, preprocessing=preprocessing)
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
    graph = _Graph(onnx, trained, preprocessing)
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
    """A network as an ONNX graph: nodes in order, and constants (ONNX's initializers)."""

    def __init__(self, onnx: Any, trained: Trained, preprocessing: bool) -> None:
        """All layers of the network, from `images` to `logits`."""
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._onnx, self._params = onnx, trained.params
        tip = "images"
        if preprocessing:
            mean = trained.centre(trained.mean).transpose(2, 0, 1)
            tip = self._node("Sub", tip, self._constant("mean", mean), name="pixels")
        for layer, in_shape, out_shape in trained.net.spec.walk():
            tip = self._layer(layer, tip, in_shape, out_shape)
            if activation := getattr(layer, "activation", None):
                tip = self._node(activation.title(), tip, name=f"{layer.name}.{activation}")
        self.nodes[-1].output[0] = "logits"

    def _node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append a node with one output of the same name; returns the name."""
        make = self._onnx.helper.make_node
        self.nodes.append(make(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Append an initializer, with one axis at least; returns its name."""
        values = np.ascontiguousarray(value, dtype)
        self.constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def _layer(self, layer: Layer, x: str, in_shape: Shape, out_shape: Shape) -> str:
        """A layer without the activation in it."""
        name = layer.name
        match layer:
            case layers.Conv():
                g = ConvGeometry.of(name, layer.stride, layer.pad, layer.groups)
                pads = [g.pad_top, g.pad_left, g.pad_bottom, g.pad_right]
                strides = [g.stride_h, g.stride_w]
                return self._conv(layer, x, self._params[layer.w], strides=strides, pads=pads)
            case layers.Linear():
                return self._linear(layer, x, in_shape)
            case layers.Relu():
                return self._node("Relu", x, name=name)
            case layers.Tanh():
                x = self._times(x, layer.scale_in, f"{name}.scale_in")
                x = self._node("Tanh", x, name=name)
                return self._times(x, layer.scale_out, f"{name}.scale_out")
            case layers.Scale():
                return self._times(x, layer.factor, name)
            case layers.Dropout():
                return self._times(x, layer.factor(train=False), name)
            case layers.LRN() if layer.size % 2:
                return self._lrn(layer, x, in_shape)
            case layers.LRN() | layers.RNorm():
                return self._norm(layer, x, in_shape)
            case layers.MaxPool() | layers.AvgPool():
                return self._pool(layer, x, in_shape, out_shape)
        raise ArgumentError(
            f"export: {name} is a {type(layer).__name__}, which this export cannot express in ONNX."
        )

    def _linear(self, layer: layers.Linear, x: str, in_shape: Shape) -> str:
        """A product; in groups, a convolution with filters as large as the maps."""
        height, width, channels = in_shape if len(in_shape) == 3 else (1, 1, *in_shape)
        rows, flat = self._params[layer.w], f"{layer.name}.flat"
        filters = rows.reshape(layer.outputs, height, width, -1)
        if layer.groups > 1:
            if len(in_shape) == 1:  # one pixel
                x = self._reshape(x, f"{layer.name}.pixel", channels, 1, 1)
            return self._node("Flatten", self._conv(layer, x, filters), name=flat, axis=1)
        if len(in_shape) == 3:
            x = self._node("Flatten", x, name=flat, axis=1)
        w = filters.transpose(0, 3, 1, 2).reshape(rows.shape)
        return self._weighted("Gemm", layer, x, w, transB=1)

    def _conv(self, layer: _Weighted, x: str, filters: Floats, **where: Any) -> str:
        """A convolution with KRSC filters."""
        w, size = filters.transpose(0, 3, 1, 2), list(filters.shape[1:3])
        return self._weighted("Conv", layer, x, w, kernel_shape=size, group=layer.groups, **where)

    def _weighted(self, kind: str, layer: _Weighted, x: str, w: Floats, **attributes: Any) -> str:
        """A node with a layer's biases, and its weights `w` as ONNX has them."""
        weights, biases = self._constant(layer.w, w), self._constant(layer.b, self._params[layer.b])
        return self._node(kind, x, weights, biases, name=layer.name, **attributes)

    def _lrn(self, layer: layers.LRN, x: str, in_shape: Shape) -> str:
        """ONNX's LRN, which divides alpha by the size, and whose windows match ours if odd.

        Groups are treated as separate images, which windows cannot cross.
        """
        height, width, channels = in_shape
        name, grouped = layer.name, layer.groups > 1
        if grouped:
            x = self._reshape(x, f"{name}.parts", channels // layer.groups, height, width)
        alpha, beta, bias = float(layer.alpha * layer.size), float(layer.beta), float(layer.k)
        own = f"{name}.normed" if grouped else name
        y = self._node("LRN", x, name=own, size=layer.size, alpha=alpha, beta=beta, bias=bias)
        return self._reshape(y, name, channels, height, width) if grouped else y

    def _norm(self, layer: layers.LRN | layers.RNorm, x: str, in_shape: Shape) -> str:
        """x / (k + alpha * (sum of squares in the window))^beta, written out.

        The sum is a convolution with ones: ONNX has no norm within maps, onnxruntime no LRN of
        even size, and both have changed what an average pool divides by.
        """
        name, channels = layer.name, in_shape[2]
        before, behind = layer.size // 2, layer.size - 1 - layer.size // 2
        if isinstance(layer, layers.RNorm):
            ones: npt.NDArray[Any] = np.ones((channels, 1, layer.size, layer.size))
            pads, groups = [before, before, behind, behind], channels
        else:
            part = channels // layer.groups
            offset = np.arange(part) - np.arange(part)[:, None]  # of channel j, seen from i
            window = (-before <= offset) & (offset <= behind)
            ones = np.tile(window, (layer.groups, 1))[:, :, None, None]
            pads, groups = [0, 0, 0, 0], layer.groups
        y = self._node("Mul", x, x, name=f"{name}.squares")
        filters, size = self._constant(f"{name}.window", ones), list(ones.shape[2:])
        where: dict[str, Any] = {"kernel_shape": size, "pads": pads, "group": groups}
        y = self._node("Conv", y, filters, name=f"{name}.sums", **where)
        for kind, setting, result in (
            ("Mul", "alpha", "weighed"),
            ("Add", "k", "base"),
            ("Pow", "beta", "power"),
        ):
            number = self._constant(f"{name}.{setting}", getattr(layer, setting))
            y = self._node(kind, y, number, name=f"{name}.{result}")
        return self._node("Div", x, y, name=name)

    def _pool(self, layer: _Pool, x: str, in_shape: Shape, out_shape: Shape) -> str:
        """A pool padded below and to the right for the windows that `ceil` keeps.

        So `ceil_mode` is not needed, whose windows outside the image and divisor differ between
        versions. Padding enters neither the maximum nor the mean.
        """
        size, stride = layer.size, layer.stride
        below, right = (
            max(0, (windows - 1) * stride + size - pixels)
            for windows, pixels in zip(out_shape[:2], in_shape[:2], strict=True)
        )
        where: dict[str, Any] = {"kernel_shape": [size, size], "strides": [stride, stride]}
        where["pads"] = [0, 0, below, right]
        if isinstance(layer, layers.MaxPool):
            return self._node("MaxPool", x, name=layer.name, **where)
        return self._node("AveragePool", x, name=layer.name, count_include_pad=0, **where)

    def _times(self, x: str, factor: float, name: str) -> str:
        if factor == 1:
            return x
        return self._node("Mul", x, self._constant(f"{name}.factor", factor), name=name)

    def _reshape(self, x: str, name: str, *shape: int) -> str:
        """x as (-1, *shape); the number of images, or of their parts, is inferred."""
        wanted = self._constant(f"{name}.shape", [-1, *shape], np.int64)
        return self._node("Reshape", x, wanted, name=name)


# ---------------------------------------------------------------------- the check


def compare(
    trained: Trained, content: bytes, *, batch: int | None, preprocessing: bool
) -> Agreement:
    """Logits of onnxruntime, with the model `content`, beside our own, for random images.

    A model for any batch size is run on all but one of them, then on that one.
    """
    _, onnxruntime = _libraries()
    count = CHECKED_IMAGES if batch is None else batch
    stored = pixels(count, trained.mean.shape, seed=0)
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
    difference = float(np.max(np.abs(theirs.astype(np.float64) - ours)))
    tolerance, largest = rounding(trained.net, less_mean), float(np.max(np.abs(ours)))
    return Agreement(count, difference, tolerance, largest)


def pixels(count: int, shape: Shape, seed: int) -> npt.NDArray[np.uint8]:
    """Random images (count, H, W, C): coarse patches with fine noise, for photograph-like signals.

    Noise of single pixels alone would average out in the first filters.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    height, width, channels = shape
    patch = max(1, min(height, width) // 8)
    rows, columns = -(-height // patch), -(-width // patch)
    coarse = generator.integers(0, 192, (count, rows, columns, channels), np.uint8)
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

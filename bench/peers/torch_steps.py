"""A whole training step in PyTorch, from the same description of the network.

The peer gets inputs in its best form: images as channels_last (on a CPU as NCHW too), with the
first layer's uneven padding already done, as bfloat16 if it computes in that; its own dropout and
its own fused SGD.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.nets import layers
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.records import ConvGeometry

from . import torch_norms, torch_tensors

# The first compiles, the second captures.
_FIRST_RUNS = 2

# Images and labels of a batch to its loss.
_Learn: TypeAlias = Callable[[Any, Any], Any]

# torch.compile(mode="max-autotune") of the loss, and so of its gradient, with the update by the
# library's fused kernel; and of the whole step, update included. Each is one graph, or fails.
COMPILED = ("compile", "compile the whole step")
# The first of them in the compiler's default mode: without autotuning each product.
UNTUNED = "compile, default mode"


@dataclass(frozen=True)
class TorchForm:
    """How the peer is written and run.

    split: two convolutions for `groups=2`. shifted: norms by shifted adds. mode: "eager", "graph"
    (a CUDA graph of the whole step), `UNTUNED` or one of `COMPILED`. layout: of maps and filters.
    """

    precision: str
    split: bool
    shifted: bool
    mode: str = "eager"
    layout: str = "channels_last"

    def __str__(self) -> str:
        parts = [self.mode, self.precision, "split convs" if self.split else "groups"]
        parts.append("norms by shifted adds" if self.shifted else "library's norms")
        return ", ".join([*parts, self.layout])


def forms(
    spec: NetSpec, precision: str, layouts: Sequence[str] = ("channels_last",)
) -> Iterator[TorchForm]:
    """Every way to write the network that makes a difference to it."""
    grouped = any(isinstance(layer, layers.Conv) and layer.groups > 1 for layer in spec.layers)
    normed = any(isinstance(layer, layers.LRN | layers.RNorm) for layer in spec.layers)
    for split in (False, True) if grouped else (False,):
        for shifted in (False, True) if normed else (True,):
            for layout in layouts:
                yield TorchForm(precision, split, shifted, layout=layout)


class TorchStep:
    """A network's training step in PyTorch; `run(i)` trains on batch i of those given.

    The constructor runs it, which compiles whatever has to be.

    first_loss: of the first batch, without dropout and before any learning. memory: bytes that
    PyTorch's pool took for this step, batches and parameters included; None on a CPU.
    """

    def __init__(
        self,
        torch: Any,
        device: str,
        spec: NetSpec,
        params: Mapping[str, NDArray[np.float32]],
        batches: list[tuple[NDArray[np.float32], NDArray[np.int64]]],
        form: TorchForm,
    ) -> None:
        self._torch, self._spec, self._form, self._device = torch, spec, form, device
        self._is_compiled = form.mode == UNTUNED or form.mode in COMPILED
        if self._is_compiled:
            # Otherwise the ninth network would silently stay uncompiled: the limit is per function.
            torch.compiler.reset()
        before = self._reserved()
        self._params = {name: self._parameter(name, value) for name, value in params.items()}
        rate = spec.recipe.rate
        self._rule = {
            "lr": rate.lr_w,
            "momentum": spec.recipe.momentum,
            "weight_decay": rate.decay_w,
        }
        self._optimiser = torch.optim.SGD(list(self._params.values()), **self._rule, fused=True)
        self._batches = [self._on_device(*batch) for batch in batches]
        # A CUDA graph reads from the addresses at its capture.
        self._images, self._labels = (tensor.clone() for tensor in self._batches[0])
        self.first_loss = self._first_loss()
        self._train = self._made()
        for index in range(_FIRST_RUNS):
            self.run(index)
        self.memory = None if before is None else self._peak() - before

    def run(self, index: int) -> Any:
        """Train on one batch; the loss, a tensor."""
        images, labels = self._batches[index % len(self._batches)]
        if self._form.mode == "eager":
            return self._train(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        return self._train(self._images, self._labels)

    def _reserved(self) -> int | None:
        """Bytes in PyTorch's pool, after it has released unused blocks."""
        if self._device == "cpu":
            return None
        gc.collect()
        self._torch.cuda.empty_cache()
        return int(self._torch.cuda.memory_reserved(self._device))

    def _peak(self) -> int:
        """The same after one more step, with nothing released."""
        self._reserved()  # without what timing the algorithms took
        self.run(0)
        self._torch.cuda.synchronize(self._device)
        return int(self._torch.cuda.memory_reserved(self._device))

    def _first_loss(self) -> float:
        torch_tensors.set_precision(self._torch, self._form.precision)
        with self._torch.no_grad(), self._autocast():
            return float(self._loss(*self._batches[0], training=False))

    # How it is run

    def _made(self) -> _Learn:
        torch_tensors.set_precision(self._torch, self._form.precision)
        if self._is_compiled:
            return self._compiled()
        if self._form.mode == "graph":
            return self._graphed()
        return partial(self._step, self._learning(self._loss))

    def _compiled(self) -> _Learn:
        """The step, compiled when it is first called."""
        compiler = self._torch.compiler
        mode = "default" if self._form.mode == UNTUNED else "max-autotune"
        compiled = partial(self._torch.compile, mode=mode, dynamic=False, fullgraph=True)
        fixed = [*self._params.values(), self._images, self._labels]
        if self._form.mode == COMPILED[1]:
            momentum = [self._torch.zeros_like(w) for w in self._params.values()]
            fixed += momentum
            learn = compiled(self._whole(momentum))
        else:
            learn = self._learning(compiled(self._loss))
        for tensor in fixed:
            # Otherwise the compiled graph copies every parameter to its own memory in each step.
            self._torch._dynamo.mark_static_address(tensor)

        def step(images: Any, labels: Any) -> Any:
            compiler.cudagraph_mark_step_begin()
            return self._step(learn, images, labels)

        return step

    def _graphed(self) -> _Learn:
        from ..device import graph_of_torch

        out: list[Any] = []

        def whole() -> None:
            out[:] = [self._step(self._learning(self._loss), self._images, self._labels)]

        replay = graph_of_torch(self._torch, whole)

        def step(images: Any, labels: Any) -> Any:
            replay()
            return out[0]

        return step

    def _step(self, learn: _Learn, images: Any, labels: Any) -> Any:
        """The uncompiled part of a step, then `learn`, as `_learning` or a compiler made it."""
        torch_tensors.set_precision(self._torch, self._form.precision)
        # In a graph too: gradients are then created in its own pool, where they stay, not added to.
        self._optimiser.zero_grad(set_to_none=True)
        return learn(images, labels).detach()

    def _learning(self, loss_of: _Learn) -> _Learn:
        """Forward, backward and update, with the loss by `loss_of`."""

        def learn(images: Any, labels: Any) -> Any:
            with self._autocast():
                loss = loss_of(images, labels)
            loss.backward()
            self._optimiser.step()
            return loss

        return learn

    def _whole(self, momentum: list[Any]) -> _Learn:
        """The same in a form that compiles to one graph: `backward` and an optimiser's `step` would
        break it. The update is the optimiser's own function.
        """
        torch, learned = self._torch, list(self._params.values())
        torch._dynamo.config.trace_autograd_ops = True  # an older PyTorch refuses the name
        update = partial(import_module("torch.optim.sgd").sgd, foreach=True, **self._rule)

        def learn(images: Any, labels: Any) -> Any:
            with self._autocast():
                loss = self._loss(images, labels)
            grads = list(torch.autograd.grad(loss, learned))
            with torch.no_grad():
                update(learned, grads, momentum, dampening=0.0, nesterov=False, maximize=False)
            return loss.detach()

        return learn

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._form.precision != "bf16":
            return nullcontext()
        kind = self._device.split(":")[0]
        context: AbstractContextManager[Any] = self._torch.autocast(kind, self._torch.bfloat16)
        return context

    # The network

    def _parameter(self, name: str, value: NDArray[np.float32]) -> Any:
        tensor = self._torch.tensor(value, device=self._device)
        if value.ndim == 4:
            tensor = self._laid_out(tensor.permute(0, 3, 1, 2))
        return tensor.requires_grad_()

    def _laid_out(self, maps: Any) -> Any:
        torch = self._torch
        formats = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
        return maps.contiguous(memory_format=formats[self._form.layout])

    def _on_device(self, images: Any, labels: Any) -> tuple[Any, Any]:
        torch = self._torch
        tensor = torch.tensor(images, device=self._device).permute(0, 3, 1, 2)
        first = self._spec.layers[0]
        if isinstance(first, layers.Conv) and (margins := _uneven(first)):
            tensor = torch.nn.functional.pad(tensor, margins)
        if self._form.precision == "bf16":
            tensor = tensor.to(torch.bfloat16)
        return self._laid_out(tensor), torch.tensor(labels, device=self._device)

    def _loss(self, images: Any, labels: Any, training: bool = True) -> Any:
        x = images
        for index, layer in enumerate(self._spec.layers):
            x = self._forward(layer, x, index == 0, training)
        return self._torch.nn.functional.cross_entropy(x, labels)

    def _forward(self, layer: layers.Layer, x: Any, first: bool, training: bool) -> Any:
        torch, functional = self._torch, self._torch.nn.functional
        if isinstance(layer, layers.Conv):
            return self._activated(self._conv(layer, x, first), layer.activation)
        if isinstance(layer, layers.Linear):
            # Our order of features is H, W, C: from channels_last memory this copies nothing.
            rows = x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x
            y = functional.linear(rows, self._params[layer.w], self._params[layer.b])
            return self._activated(y, layer.activation)
        if isinstance(layer, layers.LRN):
            return self._normed(layer, x)
        if isinstance(layer, layers.RNorm):
            norm = torch_norms.shifted_rnorm if self._form.shifted else torch_norms.pooled_rnorm
            return norm(torch, x, layer.size, layer.alpha, layer.beta, layer.k)
        if isinstance(layer, layers.MaxPool):
            return functional.max_pool2d(x, layer.size, layer.stride, ceil_mode=layer.ceil)
        if isinstance(layer, layers.AvgPool):
            return functional.avg_pool2d(
                x, layer.size, layer.stride, ceil_mode=layer.ceil, count_include_pad=False
            )
        if isinstance(layer, layers.Dropout):
            # PyTorch rescales in training, the 2012 rule in evaluation: the same work.
            if training:
                return functional.dropout(x, 1 - layer.keep)
            return x if layer.inverted else x * layer.keep
        if isinstance(layer, layers.Relu):
            return functional.relu(x)
        if isinstance(layer, layers.Scale):
            return layer.factor * x
        if isinstance(layer, layers.Tanh):
            return layer.scale_out * torch.tanh(layer.scale_in * x)
        raise TypeError(f"{layer.name}: a {type(layer).__name__} has no form in PyTorch here.")

    def _activated(self, y: Any, activation: str | None) -> Any:
        if activation == "relu":
            return self._torch.nn.functional.relu(y)
        return self._torch.tanh(y) if activation == "tanh" else y

    def _conv(self, layer: layers.Conv, x: Any, first: bool) -> Any:
        functional = self._torch.nn.functional
        w, b = self._params[layer.w], self._params[layer.b]
        g = ConvGeometry.of(layer.name, layer.stride, layer.pad, layer.groups)
        pad, stride = (g.pad_top, g.pad_left), (g.stride_h, g.stride_w)
        if margins := _uneven(layer):
            x, pad = (x if first else functional.pad(x, margins)), (0, 0)
        if not (self._form.split and g.groups > 1):
            return functional.conv2d(x, w, b, stride, pad, groups=g.groups)
        shares = (x.chunk(g.groups, 1), w.chunk(g.groups), b.chunk(g.groups))
        parts = [functional.conv2d(*part, stride, pad) for part in zip(*shares, strict=True)]
        return self._torch.cat(parts, dim=1)

    def _normed(self, layer: layers.LRN, x: Any) -> Any:
        norm = torch_norms.shifted_lrn if self._form.shifted else torch_norms.library_lrn
        settings = (layer.size, layer.alpha, layer.beta, layer.k)
        parts = [norm(self._torch, part, *settings) for part in x.chunk(layer.groups, dim=1)]
        return parts[0] if len(parts) == 1 else self._torch.cat(parts, dim=1)


def _uneven(layer: layers.Conv) -> tuple[int, int, int, int] | None:
    """Margins (left, right, top, bottom) that PyTorch's convolution cannot pad by itself."""
    g = ConvGeometry.of(layer.name, layer.stride, layer.pad, layer.groups)
    if (g.pad_top, g.pad_left) == (g.pad_bottom, g.pad_right):
        return None
    return g.pad_left, g.pad_right, g.pad_top, g.pad_bottom

"""A whole training step in JAX, jitted as one function; XLA fuses norms and activations."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.nets import layers
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.records import ConvGeometry, PoolGeometry

from .jax_ops import MATMUL, convolved, convolved_apart, normed

Params: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class JaxForm:
    """How the peer is written. split: two convolutions for `groups=2`."""

    precision: str
    split: bool

    def __str__(self) -> str:
        return f"jit, {self.precision}, {'split convs' if self.split else 'groups'}"


def forms(spec: NetSpec, precision: str) -> Iterator[JaxForm]:
    """Every way to write the network that makes a difference to it."""
    grouped = any(isinstance(layer, layers.Conv) and layer.groups > 1 for layer in spec.layers)
    for split in (False, True) if grouped else (False,):
        yield JaxForm(precision, split)


class JaxStep:
    """A network's training step in JAX; `run(i)` trains on batch i of those given.

    first_loss: of the first batch, without dropout and before any learning. memory: bytes of the
    batches and of everything that the compiled step takes, as the compiler reports.
    """

    def __init__(
        self,
        jax: Any,
        spec: NetSpec,
        params: Mapping[str, NDArray[np.float32]],
        batches: list[tuple[NDArray[np.float32], NDArray[np.int64]]],
        form: JaxForm,
    ) -> None:
        self._jax, self._spec, self._form = jax, spec, form
        self._numpy = importlib.import_module("jax.numpy")
        self._params: Params = {n: self._numpy.asarray(v) for n, v in params.items()}
        self._momentum = {n: self._numpy.zeros_like(v) for n, v in self._params.items()}
        to = self._numpy.asarray
        element = self._numpy.bfloat16 if form.precision == "bf16" else self._numpy.float32
        self._batches = [(to(images, element), to(labels)) for images, labels in batches]
        self._key = jax.random.key(0)
        with jax.default_matmul_precision(MATMUL[form.precision]):
            loss = jax.jit(partial(self._loss, key=None))
            self.first_loss = float(loss(self._params, *self._batches[0]))
            jitted = jax.jit(self._step, donate_argnums=(0, 1, 2))
            state = (self._params, self._momentum, self._key)
            self._train = jitted.lower(*state, *self._batches[0]).compile()
        self.memory = self._peak()

    def run(self, index: int) -> Any:
        """Train on one batch; the loss, which may not be ready yet."""
        images, labels = self._batches[index % len(self._batches)]
        loss, self._params, self._momentum, self._key = self._train(
            self._params, self._momentum, self._key, images, labels
        )
        return loss

    def _peak(self) -> int | None:
        told = self._train.memory_analysis()
        if told is None:
            return None
        step = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
        waiting = sum(one.nbytes for batch in self._batches[1:] for one in batch)
        # Parameters and momentum are updated in place.
        return int(step - told.alias_size_in_bytes + waiting)

    def _step(self, params: Params, momentum: Params, key: Any, images: Any, labels: Any) -> Any:
        recipe = self._spec.recipe
        key, following = self._jax.random.split(key)
        loss, grads = self._jax.value_and_grad(self._loss)(params, images, labels, key)
        new_params, new_momentum = {}, {}
        for name, w in params.items():
            decay = recipe.decay(name) * w
            v = recipe.momentum * momentum[name] - recipe.lr(name, 0) * (decay + grads[name])
            new_params[name], new_momentum[name] = w + v, v
        return loss, new_params, new_momentum, following

    def _loss(self, params: Params, images: Any, labels: Any, key: Any) -> Any:
        jnp = self._numpy
        x = images
        if self._form.precision == "bf16":
            params = {name: w.astype(jnp.bfloat16) for name, w in params.items()}
        for index, layer in enumerate(self._spec.layers):
            drawn = None if key is None else self._jax.random.fold_in(key, index)
            x = self._forward(layer, x, params, drawn)
        log_p = self._jax.nn.log_softmax(x.astype(jnp.float32))
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))

    def _forward(self, layer: layers.Layer, x: Any, params: Params, key: Any) -> Any:
        jnp = self._numpy
        if isinstance(layer, layers.Conv):
            return self._activated(self._conv(layer, x, params), layer.activation)
        if isinstance(layer, layers.Linear):
            y = x.reshape(len(x), -1) @ params[layer.w].T + params[layer.b]
            return self._activated(y, layer.activation)
        if isinstance(layer, layers.LRN | layers.RNorm):
            axes, groups = ((3,), layer.groups) if isinstance(layer, layers.LRN) else ((1, 2), 1)
            settings = (layer.size, layer.alpha, layer.beta, layer.k)
            return normed(self._jax, x, axes, groups, *settings)
        if isinstance(layer, layers.MaxPool):
            return self._window(x, layer, -jnp.inf, self._jax.lax.max)
        if isinstance(layer, layers.AvgPool):
            total = self._window(x, layer, 0.0, self._jax.lax.add)
            return total / self._window(
                jnp.ones_like(x[:1, :, :, :1]), layer, 0.0, self._jax.lax.add
            )
        if isinstance(layer, layers.Dropout):
            return self._dropped(layer, x, key)
        if isinstance(layer, layers.Relu):
            return self._activated(x, "relu")
        if isinstance(layer, layers.Scale):
            return layer.factor * x
        if isinstance(layer, layers.Tanh):
            return layer.scale_out * jnp.tanh(layer.scale_in * x)
        raise TypeError(f"{layer.name}: a {type(layer).__name__} has no form in JAX here.")

    def _activated(self, y: Any, activation: str | None) -> Any:
        if activation == "relu":
            return self._numpy.maximum(y, 0)
        return self._numpy.tanh(y) if activation == "tanh" else y

    def _conv(self, layer: layers.Conv, x: Any, params: Params) -> Any:
        g = ConvGeometry.of(layer.name, layer.stride, layer.pad, layer.groups)
        convolve = convolved_apart if self._form.split else convolved
        return convolve(self._jax, x, params[layer.w], g) + params[layer.b]

    def _window(
        self, x: Any, layer: layers.MaxPool | layers.AvgPool, start: float, add: Any
    ) -> Any:
        """A reduction over the pool's windows, clipped at the border."""
        g = PoolGeometry.of(layer.name, layer.size, layer.stride, layer.ceil)
        counts = g.out_size(layer.name, x.shape[1], x.shape[2])
        margins = [
            (0, max(0, (count - 1) * g.stride + g.size - length))
            for count, length in zip(counts, x.shape[1:3], strict=True)
        ]
        cut = [
            min(length, (count - 1) * g.stride + g.size)
            for count, length in zip(counts, x.shape[1:3], strict=True)
        ]
        return self._jax.lax.reduce_window(
            x[:, : cut[0], : cut[1]],
            np.asarray(start, x.dtype),
            add,
            (1, g.size, g.size, 1),
            (1, g.stride, g.stride, 1),
            ((0, 0), *margins, (0, 0)),
        )

    def _dropped(self, layer: layers.Dropout, x: Any, key: Any) -> Any:
        if key is None:
            return x if layer.inverted else x * layer.keep
        kept = self._jax.random.bernoulli(key, layer.keep, x.shape)
        return self._numpy.where(kept, x / layer.keep if layer.inverted else x, 0)

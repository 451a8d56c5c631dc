"""A network in two towers, each on a device of its own, as the paper trained it (section 3.5).

A tower has half of every layer's filters or outputs, and so half of the maps. A layer in two groups
stays within its tower; a layer in one group first fetches the other tower's maps; the last layer
with weights, fc8 of AlexNet, runs on tower 0 alone and reads both. In the backward pass a tower
fetches the other's gradient of its maps and adds it to its own, tower 0's first.

The initial parameters and the dropout masks are those of the network on one device. So are the
outputs, bit for bit where kernels compute them; gradients differ in the last bits, since sums over
the filters of a layer are taken in two halves.

One thread feeds both devices, layer by layer, and waits for neither: the exchanges keep the order
(`Backend.exchange_gather`). Both towers may share a device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from pyalexnet.backends import backend as make_backend
from pyalexnet.backends.base import Array, Backend
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import Layer, Memory, Pass
from pyalexnet.step.net import Exchanged, Net, NetSpec

TOWERS = 2

# Where a layer's input comes from: "own", already in the tower; "both", the channels of the two
# towers side by side; "half", the tower's half of the channels of an image.
Source: TypeAlias = Literal["own", "both", "half"]


def _memories() -> tuple[Memory, ...]:
    return tuple(Memory() for _ in range(TOWERS))


@dataclass
class _Buffers:
    """What a stage keeps for one batch size, by tower.

    layers: of the layer itself. inputs: its input if not already in the tower (y), and the gradient
    of the tower's part of it (dx).
    """

    layers: tuple[Memory, ...] = field(default_factory=_memories)
    inputs: tuple[Memory, ...] = field(default_factory=_memories)


@dataclass(frozen=True)
class _Stage:
    """A layer as the towers run it.

    layer: as each tower runs it. towers: those that run it; only 0 from the last weights on.
    source: of its input. divided: whether each tower has its own part of the output.
    """

    layer: Layer
    towers: tuple[int, ...]
    source: Source
    divided: bool

    def forward(
        self, xs: Sequence[Array], buffers: _Buffers, runs: Sequence[Pass], exchanged: Exchanged
    ) -> list[Array]:
        """Its towers' outputs, from the previous stage's outputs `xs`."""
        if self.source == "both":
            xs = self._gather(xs, buffers, runs, exchanged)
        elif self.source == "half":
            xs = self._halve(xs, buffers, runs)
        return [
            self.layer.forward(x, buffers.layers[t], self._pass(runs[t]))
            for t, x in zip(self.towers, xs, strict=True)
        ]

    def backward(
        self,
        dys: Sequence[Array],
        buffers: _Buffers,
        runs: Sequence[Pass],
        exchanged: Exchanged,
        need_dx: bool,
    ) -> list[Array]:
        """Gradients of the previous stage's outputs, after `forward`."""
        dxs: list[Array] = [
            self.layer.backward(dy, buffers.layers[t], self._pass(runs[t]), need_dx)
            for t, dy in zip(self.towers, dys, strict=True)
        ]
        if need_dx and self.source == "both":
            return self._scatter(dxs, buffers, runs, exchanged)
        return dxs

    def _pass(self, run: Pass) -> Pass:
        """A layer that is not divided runs as in a network on one device."""
        return run if self.divided else dataclasses.replace(run, tower=0, towers=1)

    def _gather(
        self, parts: Sequence[Array], buffers: _Buffers, runs: Sequence[Pass], exchanged: Exchanged
    ) -> list[Array]:
        """The parts of both towers side by side, on every device that reads them."""
        crossed = [0] * TOWERS
        for t in self.towers:
            memory = buffers.inputs[t]
            memory.y = runs[t].backend.exchange_gather(parts, out=memory.y)
            crossed[t] = sum(part.nbytes for other, part in enumerate(parts) if other != t)
        exchanged.forward[self.layer.name] = (crossed[0], crossed[1])
        return [buffers.inputs[t].y for t in self.towers]

    def _scatter(
        self,
        dwholes: Sequence[Array],
        buffers: _Buffers,
        runs: Sequence[Pass],
        exchanged: Exchanged,
    ) -> list[Array]:
        """For each tower the gradient of its part, summed over all readers."""
        channels = dwholes[0].shape[-1] // TOWERS
        crossed = [0] * TOWERS
        for t, (memory, run) in enumerate(zip(buffers.inputs, runs, strict=True)):
            memory.dx = run.backend.exchange_scatter_add(
                dwholes, start=t * channels, channels=channels, out=memory.dx
            )
            crossed[t] = memory.dx.nbytes * sum(other != t for other in self.towers)
        exchanged.backward[self.layer.name] = (crossed[0], crossed[1])
        return [memory.dx for memory in buffers.inputs]

    def _halve(
        self, images: Sequence[Array], buffers: _Buffers, runs: Sequence[Pass]
    ) -> list[Array]:
        """Each tower's half of the channels of the images, which both have whole."""
        for t, memory in enumerate(buffers.inputs):
            channels = images[t].shape[-1] // TOWERS
            memory.y = runs[t].backend.exchange_scatter_add(
                [images[t]], start=t * channels, channels=channels, out=memory.y
            )
        return [memory.y for memory in buffers.inputs]


class Towers(Net):
    """A network's parameters on two devices, and what runs on them.

    Attributes:
        backend: tower 0's device, on which logits, losses and errors lie.
        parts: the two towers' parameters, by the whole network's names; the last layer's are tower
            0's alone.
        exchanged: traffic of the last pass; if the towers share a device, what it would be.
    """

    def __init__(
        self,
        spec: NetSpec,
        backend: str | Sequence[Backend] = "cpu",
        seed: int = 0,
        devices: tuple[int, ...] = (0, 1),
    ) -> None:
        """Draw the initial parameters of the whole network and copy each to its tower.

        Args:
            spec: the network; its LRNs and the layers that stay within a tower have two groups.
            backend: a name for `pyalexnet.backend`, or what it returned, for each tower.
            seed: 0 to 2^64 - 1.
            devices: the towers' device numbers, if `backend` is a name; the same one twice for
                both on one device.

        Raises:
            ArgumentError: the network cannot be divided.
        """
        self._stages = _stages(spec)
        self._rows = _rows(spec)
        self._devices = _devices(backend, devices)
        self._begin(spec, self._devices[0], seed)
        self.load(spec.initial(self.seed))

    @property
    def params(self) -> dict[str, Array]:
        """Copies of the whole network's parameters on the host; waits for the devices."""
        return self.joined([part.params for part in self.parts])

    def activations(
        self, images: Any, *, train: bool = False, step: int = 0
    ) -> Iterator[tuple[str, Array]]:
        runs = self._passes(train, step)
        xs = _on_each(self._images(images), runs)
        for stage in self._stages:
            xs = stage.forward(xs, _Buffers(), runs, Exchanged())
            yield stage.layer.name, self.backend.exchange_gather(xs) if stage.divided else xs[0]

    def loss_and_grads(
        self,
        images: Any,
        labels: Any,
        train: bool = False,
        step: int | Array = 0,
        *,
        out: dict[str, Array] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """As for a network on one device, with the gradients on the host; waits for them."""
        loss, parts = self.gradients(images, labels, train, step)
        grads = self.joined(parts)
        if out is None:
            return loss, grads
        for name, grad in grads.items():
            if name in out:
                out[name][...] = grad
            else:
                out[name] = grad
        return loss, {name: out[name] for name in grads}

    def joined(self, values: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Arrays given part by part, joined on the host; waits for the devices."""
        whole = {}
        for name in self.spec.param_shapes():
            pieces = [
                part.backend.to_numpy(mine[name])
                for part, mine in zip(self.parts, values, strict=True)
                if name in mine
            ]
            whole[name] = np.concatenate(pieces)
        return whole

    def divided(self, values: Mapping[str, Any]) -> tuple[dict[str, Array], ...]:
        self._check(values)
        return tuple(
            {
                name: own.copy(own.asarray(values[name][mine], np.float32))
                for name, mine in rows.items()
            }
            for own, rows in zip(self._devices, self._rows, strict=True)
        )

    def _backends(self) -> tuple[Backend, ...]:
        return self._devices

    def _forward(self, x: Array, runs: Sequence[Pass]) -> Array:
        self.exchanged = Exchanged()
        xs = _on_each(x, runs)
        for stage, buffers in zip(self._stages, self._memory(len(x)), strict=True):
            xs = stage.forward(xs, buffers, runs, self.exchanged)
        return xs[0]

    def _backward(self, dlogits: Array, runs: Sequence[Pass]) -> None:
        dys = [dlogits]
        stages = list(zip(self._stages, self._memory(len(dlogits)), strict=True))
        for index in range(len(stages) - 1, self._first_weights - 1, -1):
            stage, buffers = stages[index]
            need_dx = index > self._first_weights
            dys = stage.backward(dys, buffers, runs, self.exchanged, need_dx)

    def _new_memory(self) -> tuple[_Buffers, ...]:
        return tuple(_Buffers() for _ in self._stages)


def _devices(backend: str | Sequence[Backend], devices: tuple[int, ...]) -> tuple[Backend, Backend]:
    """The towers' devices; the same object twice if they share one."""
    if isinstance(backend, str):
        if len(devices) != TOWERS:
            raise ArgumentError(
                f"Towers: devices is {devices}; {TOWERS} numbers were expected, one for each tower."
            )
        first = make_backend(backend, devices[0])
        return first, first if devices[1] == devices[0] else make_backend(backend, devices[1])
    if len(backend) != TOWERS or type(backend[0]) is not type(backend[1]):
        names = ", ".join(one.name for one in backend)
        raise ArgumentError(
            f"Towers: backend is ({names}); {TOWERS} of one kind were expected, one for each tower."
        )
    return backend[0], backend[1]


def _stages(spec: NetSpec) -> tuple[_Stage, ...]:
    """The layers of `spec` as two towers run them."""
    last = _last_weights(spec)
    stages: list[_Stage] = []
    divided = False
    for index, (layer, in_shape, _) in enumerate(spec.walk()):
        if index >= last:
            stages.append(_Stage(layer, (0,), "both" if index == last else "own", divided=False))
            continue
        source: Source = "own"
        if layer.param_shapes(in_shape):
            if layer.reads_all and divided:
                source = "both"
            elif not (layer.reads_all or divided):
                source = "half"
            divided = True
        share = layer.share(TOWERS) if divided else layer
        stages.append(_Stage(share, tuple(range(TOWERS)), source, divided))
    return tuple(stages)


def _last_weights(spec: NetSpec) -> int:
    """Index of the last layer with weights, which is not divided."""
    weighted = [
        index
        for index, (layer, in_shape, _) in enumerate(spec.walk())
        if layer.param_shapes(in_shape)
    ]
    if len(weighted) < 2:
        raise ArgumentError(
            f"{spec.name}: {len(weighted)} of its layers have weights; at least two were expected, "
            "since the last one is not divided between towers."
        )
    return weighted[-1]


def _rows(spec: NetSpec) -> tuple[dict[str, slice], ...]:
    """For each tower, the rows (filters, outputs) of each parameter that it has."""
    rows: tuple[dict[str, slice], ...] = tuple({} for _ in range(TOWERS))
    last = _last_weights(spec)
    for index, (layer, in_shape, _) in enumerate(spec.walk()):
        for name, shape in layer.param_shapes(in_shape).items():
            if index == last:
                rows[0][name] = slice(0, shape[0])
                continue
            share = shape[0] // TOWERS
            for t, mine in enumerate(rows):
                mine[name] = slice(t * share, (t + 1) * share)
    return rows


def _on_each(images: Array, runs: Sequence[Pass]) -> list[Array]:
    """The images on every tower's device."""
    return [run.backend.asarray(images) for run in runs]

"""A plan bound to arrays of a device, to be run repeatedly on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Array, Backend
from pyalexnet.nets.calls import Call, Draw, Operand, Plan, Step, View, at, name_of
from pyalexnet.nets.layers import Layer
from pyalexnet.ops.records import Learned, Mask
from pyalexnet.step.towers import exchanged

_SCORES = ("loss", "top1_error", "top5_error")


@dataclass(frozen=True, eq=False)
class Update:
    """How a program changes parameters, by their names.

    Compared by identity, not by content: a step looks up its program by this object.
    rules: momentum and weight decay. momentum: buffers of each part's device, which it changes too.
    """

    rules: Mapping[str, tuple[float, float]]
    momentum: Sequence[dict[str, Array]]


class Program:
    """A plan with its arrays; `run` executes it once.

    arrays: by the plan's names; the caller fills those of `plan.source` and "labels". scores: (3,)
    loss, top-1 and top-5 error, where the plan has them. exchanged: bytes that cross between towers
    in a run. calls: the plan's calls, each bound to its arguments.
    """

    def __init__(
        self,
        plan: Plan,
        backends: Sequence[Backend],
        images: int,
        *,
        given: Mapping[str, Array],
        steps: Sequence[Array],
        seed: int,
        rules: Mapping[str, tuple[float, float]] | None = None,
        graph: bool = True,
    ) -> None:
        """Make the arrays that `given` lacks, and check every call once.

        backends: of each part's device. images: of a batch. given: arrays shared with others:
        parameters, momentum, rates. steps: for each device, a 0-d uint32 that the masks depend on;
        seed: of the masks. rules: as in `Update`. graph: whether a GPU may run it as a CUDA graph,
        if it is the only one.
        """
        self.plan = plan
        self._backends, self._images, self._rules = backends, images, rules or {}
        self._steps, self._seed = steps, seed
        self.exchanged = exchanged(plan, images)
        self.scores = backends[0].zeros((len(_SCORES),))
        scores = {name: self.scores[i : i + 1].reshape(()) for i, name in enumerate(_SCORES)}
        self.arrays: dict[str, Array] = {}
        for name, layout in plan.arrays.items():
            known = given.get(name, scores.get(name))
            if known is None:
                shape = (images, *layout.shape) if layout.per_image else layout.shape
                # Zeros: labels must already be valid classes when the calls are checked.
                known = backends[layout.tower].zeros(shape, layout.dtype)
            self.arrays[name] = known
        self.calls = tuple((call, self._bound(call)) for call in plan.calls)
        self.run: Callable[[], None] = self._go_through
        if all(backend is backends[0] for backend in backends):
            self.run = backends[0].record(self._go_through, graph=graph)

    def _go_through(self) -> None:
        for call, ready in self.calls:
            with self._backends[call.tower].aside() if call.aside else nullcontext():
                ready()

    def _bound(self, call: Call) -> Callable[[], Any]:
        """A call with its arrays and settings bound."""
        backend = self._backends[call.tower]
        reads = {name: self._array(operand) for name, operand in call.reads.items()}
        outputs = tuple(self._array(operand) for operand in call.writes)
        settings = self._settings(call)
        if outputs:
            settings["out"] = outputs[0] if len(outputs) == 1 else outputs
        op = getattr(backend, call.op)
        if call.exchanges:
            return partial(op, list(reads.values()), **settings)
        learns = {name: self._learned(parameter) for name, parameter in call.learns.items()}
        if call.op == "sgd_update":
            return partial(op, **reads, **learns[""]._asdict())
        return partial(op, **reads, **learns, **settings)

    def _array(self, operand: Operand) -> Array:
        array = self.arrays[name_of(operand)]
        if not isinstance(operand, View):
            return array
        batch = self.plan.arrays[operand.name].per_image
        rows = self._images * operand.rows
        return array.reshape((rows, *operand.shape) if batch else operand.shape)

    def _settings(self, call: Call) -> dict[str, Any]:
        settings = dict(call.settings)
        for name, value in call.settings.items():
            if name == "x_shape":
                settings[name] = (self._images, *value)
            elif isinstance(value, Draw):
                drawn = {**asdict(value), "seed": self._seed}
                settings[name] = Mask(**drawn, step=self._steps[call.tower])
        if mask := settings.pop("mask", None):  # of a dropout alone, which does not scale
            settings |= mask._asdict()
            del settings["factor"]
        return settings

    def _learned(self, name: str) -> Learned:
        rule = self._rules[name.partition("@")[0]]
        w, v, lr, low = (self.arrays.get(name + suffix) for suffix in ("", ".v", ".lr", ".low"))
        return Learned(w, v, lr, *rule, low)


def output_of(layer: Layer, x: Array, params: Mapping[str, Array], backend: Backend) -> Array:
    """The output of a layer alone for a float32 batch `x`, in evaluation.

    params: has the layer's own, by their names in a network.
    """
    step = Step()
    shape = x.shape[1:]
    for name, own in layer.param_shapes(shape).items():
        step.parameter(name, own)
    y = layer.forward(step, step.array("images", shape))
    plan = Plan(tuple(step.calls), step.arrays, "images", {layer.name: (y,)})
    given, steps = {**params, "images": x}, (backend.zeros((), np.uint32),)
    program = Program(plan, (backend,), len(x), given=given, steps=steps, seed=0)
    program.run()
    return program.arrays[y]


class Numbers:
    """The step and the learning rates of the parameters, on each device: a step's only arguments.

    On a device they lie in one array, so that one copy transfers them. steps: a 0-d uint32 array
    for each device. rates: 0-d float32 arrays by the names that they have in plans.
    """

    def __init__(self, backends: Sequence[Backend], parts: Sequence[Iterable[str]]) -> None:
        """Zeros for the devices and, of each, the names of its parameters; the first has all."""
        self._backends, names = backends, [*parts[0]]
        self._host = np.zeros(1 + len(names), np.uint32)
        self._host_rates = self._host[1:].view(np.float32)
        self._arrays = [backend.zeros(self._host.shape, np.uint32) for backend in backends]
        self.steps: tuple[Array, ...] = tuple(array[:1].reshape(()) for array in self._arrays)
        self.rates: dict[str, Array] = {}
        for tower, (array, own) in enumerate(zip(self._arrays, parts, strict=True)):
            rates = array[1:].view(np.float32)
            for name in own:
                place = names.index(name)
                self.rates[f"{at(name, tower)}.lr"] = rates[place : place + 1].reshape(())

    def set(self, step: int | Array, rates: NDArray[np.float64] | None = None) -> None:
        """Copy over the step, from the host or a device, and, if given, all rates in order."""
        if not isinstance(step, int):
            for backend, own in zip(self._backends, self.steps, strict=True):
                backend.assign(own, backend.asarray(step))
            return
        self._host[0] = step
        if rates is not None:
            self._host_rates[:] = rates
        for backend, array in zip(self._backends, self._arrays, strict=True):
            backend.assign(array, self._host)

"""A plan bound to arrays of a device, to be run repeatedly on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Array, Backend
from pyalexnet.ops.records import Learned, Mask
from pyalexnet.step.plan import Call, Draw, Operand, PerImage, Plan, View, name_of

_SCORES = ("loss", "top1_error", "top5_error")


@dataclass(frozen=True)
class Rule:
    """The constants of a parameter's update, apart from its learning rate."""

    momentum: float
    weight_decay: float


@dataclass(frozen=True, eq=False)
class Update:
    """How a program changes parameters, by their names.

    Compared by identity, not by content: a step looks up its program by this object.
    rules: all but the learning rates. momentum: buffers of the device, which it changes too.
    """

    rules: Mapping[str, Rule]
    momentum: Mapping[str, Array]


class Program:
    """A plan with its arrays; `run` executes it once.

    Attributes:
        plan: what runs.
        arrays: by the plan's names; the caller fills those of `plan.source` and "labels".
        scores: (3,) loss, top-1 and top-5 error, where the plan has them.
        calls: the plan's calls, each bound to its arguments.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        images: int,
        *,
        given: Mapping[str, Array],
        step: Array,
        seed: int,
        rules: Mapping[str, Rule] | None = None,
        graph: bool = True,
    ) -> None:
        """Make the arrays that `given` lacks, and check every call once.

        Args:
            plan: the calls.
            backend: of the device.
            images: of a batch.
            given: arrays shared with others: parameters, momentum, rates.
            step: 0-d uint32, which the masks depend on.
            seed: of the masks.
            rules: by parameter, where the plan updates them.
            graph: whether a GPU may run it as a CUDA graph.
        """
        self.plan = plan
        self._backend, self._images = backend, images
        self._step, self._seed = step, seed
        self._rules = rules or {}
        self.scores = backend.zeros((len(_SCORES),))
        scores = {name: self.scores[i : i + 1].reshape(()) for i, name in enumerate(_SCORES)}
        self.arrays: dict[str, Array] = {}
        for name, layout in plan.arrays.items():
            known = given.get(name, scores.get(name))
            shape = (images, *layout.shape) if layout.per_image else layout.shape
            # Zeros: labels must already be valid classes when the calls are checked.
            self.arrays[name] = backend.zeros(shape, layout.dtype) if known is None else known
        self.calls = tuple((call, self._bound(call)) for call in plan.calls)
        self.run: Callable[[], None] = backend.record(self._go_through, graph=graph)

    @property
    def logits(self) -> Array:
        """(N, classes), those of the last run."""
        return self.arrays[self.plan.logits]

    def _go_through(self) -> None:
        for call, ready in self.calls:
            with self._backend.aside() if call.aside else nullcontext():
                ready()

    def _bound(self, call: Call) -> Callable[[], Any]:
        """A call with its arrays and settings bound."""
        arguments = {name: self._array(operand) for name, operand in call.reads.items()}
        outputs = tuple(self._array(operand) for operand in call.writes)
        if outputs:
            arguments["out"] = outputs[0] if len(outputs) == 1 else outputs
        arguments |= self._settings(call)
        if call.op == "sgd_update":
            return partial(self._updated, self._learned(call.learns[""]), arguments["dw"])
        arguments |= {name: self._learned(parameter) for name, parameter in call.learns.items()}
        return partial(getattr(self._backend, call.op), **arguments)

    def _updated(self, learned: Learned, dw: Array) -> None:
        self._backend.sgd_update(
            learned.w,
            learned.v,
            dw,
            lr=learned.lr,
            momentum=learned.momentum,
            weight_decay=learned.weight_decay,
            low=learned.low,
        )

    def _array(self, operand: Operand) -> Array:
        array = self.arrays[name_of(operand)]
        if not isinstance(operand, View):
            return array
        batch = self.plan.arrays[operand.name].per_image
        return array.reshape((self._images, *operand.shape) if batch else operand.shape)

    def _settings(self, call: Call) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for name, value in call.settings.items():
            if isinstance(value, PerImage):
                settings[name] = (self._images, *value.shape)
            elif isinstance(value, Draw) and name == "mask":
                settings |= {"keep": value.keep, "layer": value.layer}
                settings |= {"seed": self._seed, "step": self._step}
            elif isinstance(value, Draw):
                settings[name] = Mask(
                    keep=value.keep,
                    seed=self._seed,
                    step=self._step,
                    layer=value.layer,
                    factor=value.factor,
                )
            else:
                settings[name] = value
        return settings

    def _learned(self, name: str) -> Learned:
        rule = self._rules[name]
        return Learned(
            w=self.arrays[name],
            v=self.arrays[f"{name}.v"],
            lr=self.arrays[f"{name}.lr"],
            momentum=rule.momentum,
            weight_decay=rule.weight_decay,
            low=self.arrays.get(f"{name}.low"),
        )


class Numbers:
    """The step and the learning rates of the parameters, on a device: a step's only arguments.

    They lie in one array, so that one copy transfers them.
    """

    def __init__(self, backend: Backend, parameters: tuple[str, ...]) -> None:
        self._backend = backend
        self._host = np.zeros(1 + len(parameters), np.uint32)
        self._host_rates = self._host[1:].view(np.float32)
        self._array = backend.zeros(self._host.shape, np.uint32)
        self.step: Array = self._array[:1].reshape(())
        rates = self._array[1:].view(np.float32)
        self.rates: dict[str, Array] = {
            f"{name}.lr": rates[i : i + 1].reshape(()) for i, name in enumerate(parameters)
        }

    def set(self, step: int, rates: NDArray[np.float64] | None = None) -> None:
        """Copy over the step and, if given, the rates in the parameters' order."""
        self._host[0] = step
        if rates is not None:
            self._host_rates[:] = rates
        self._backend.assign(self._array, self._host)

    def set_from(self, step: Array) -> None:
        """Copy the step from another array of the device."""
        self._backend.assign(self.step, step)

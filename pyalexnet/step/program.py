"""A plan bound to arrays of a device, to be run repeatedly on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from pyalexnet.ranks.communicator import Communicator
from pyalexnet.step.plan import SCORES
from pyalexnet.step.towers import exchanged


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

    arrays: by the plan's names; the caller fills those of `plan.source` and "labels". images: of a
    part. exchanged: bytes exchanged between towers in a run. calls: the plan's calls, each bound to
    its arguments.
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
        first: int = 0,
        communicator: Communicator | None = None,
    ) -> None:
        """Make the arrays missing from `given`, and check every call once.

        backends: of each part's device. images: of a part. given: arrays shared with others:
        parameters, momentum, rates. steps: for each part, a 0-d uint32 that the masks depend on;
        seed: of the masks. rules: as in `Update`. graph: whether a GPU may run it as CUDA graphs,
        if it is the only one. first: number of the first image in the whole batch. communicator:
        runs the collective calls.
        """
        self.plan, self.images = plan, images
        self._backends, self._rules = backends, rules or {}
        self._steps, self._seed, self._first = steps, seed, first
        self._communicator = communicator or Communicator()
        self._begun: dict[int, Callable[[], None]] = {}
        self.exchanged = exchanged(plan, images)
        self.arrays: dict[str, Array] = {}
        for name, layout in plan.arrays.items():
            known = given.get(name)
            if known is None:
                # Zeros: labels must already be valid classes when the calls are checked.
                known = backends[layout.part].zeros(layout.whole(images), layout.dtype)
            self.arrays[name] = known
        for part in range(len(backends)):
            if (scores := self.arrays.get(at("scores", part))) is not None:
                for place, name in enumerate(SCORES):
                    self.arrays[at(name, part)] = scores[place : place + 1].reshape(())
        self.calls = tuple((call, self._bound(call)) for call in plan.calls)
        alone = all(backend is backends[0] for backend in backends)
        ready = partial(backends[0].record, graph=graph) if alone else lambda work: work
        self._pieces = tuple(self._in_pieces(ready))

    def run(self) -> None:
        """Run all calls, in order."""
        for piece in self._pieces:
            piece()

    def _in_pieces(
        self, ready: Callable[[Callable[[], None]], Callable[[], None]]
    ) -> Iterator[Callable[[], None]]:
        """Functions that run the calls: collective ones singly, those in between together.

        ready: makes a run of calls ready to be repeated.
        """
        piece: list[tuple[Call, Callable[[], Any]]] = []
        begun: list[Call] = []
        for call, bound in self.calls:
            awaited = [each for each in begun if each.precedes(call)]
            if piece and (awaited or call.collective):
                yield ready(partial(self._go_through, piece))
                piece = []
            if awaited:
                yield partial(self._await, awaited)
            begun = [each for each in begun if each not in awaited]
            if call.collective:
                begun.append(call)
                yield partial(self._begin, call, bound)
            else:
                piece.append((call, bound))
        if piece:
            yield ready(partial(self._go_through, piece))
        if begun:
            yield partial(self._await, begun)

    def _go_through(self, piece: Sequence[tuple[Call, Callable[[], Any]]]) -> None:
        for call, bound in piece:
            with self._backends[call.part].aside() if call.aside else nullcontext():
                bound()

    def _begin(self, call: Call, bound: Callable[[], Any]) -> None:
        """Begin a collective call."""
        self._begun[id(call)] = self._backends[0].begin(bound)

    def _await(self, calls: Sequence[Call]) -> None:
        """Wait for collective calls."""
        for call in calls:
            self._begun.pop(id(call))()

    def _bound(self, call: Call) -> Callable[[], Any]:
        """A call with its arrays and settings bound."""
        if call.collective:
            return self._collective(call)
        backend = self._backends[call.part]
        reads = {name: self._array(operand) for name, operand in call.reads.items()}
        outputs = tuple(self._array(operand) for operand in call.writes)
        settings = self._settings(call)
        if outputs:
            settings["out"] = outputs[0] if len(outputs) == 1 else outputs
        op = getattr(backend, call.op)
        if call.joins:
            return partial(op, list(reads.values()), **settings)
        learns = {name: self._learned(parameter) for name, parameter in call.learns.items()}
        if call.op == "sgd_update":
            own = reads | learns[""]._asdict()
            if call.settings:
                own |= {name: self._own(own[name]) for name in ("dw", "w", "low")}
            return partial(op, **own) if own["v"].size else lambda: None
        return partial(op, **reads, **learns, **settings)

    def _collective(self, call: Call) -> Callable[[], Any]:
        if call.op != "exchange":
            return self._summed(call.op, self._array(call.reads["x"]))
        sent, came = map(self._array, call.reads.values()), map(self._array, call.writes)
        to, source = call.settings["to"], call.settings["source"]
        ways = [*zip(to, sent, strict=True)], [*zip(source, came, strict=True)]
        return partial(self._communicator.exchange, *ways)

    def _summed(self, op: str, x: Array) -> Callable[[], Any]:
        """A collective on an array, in place."""
        own = self._own(x)
        arguments = {"all_reduce": (x,), "reduce_scatter": (x, own), "all_gather": (own, x)}
        return partial(getattr(self._communicator, op), *arguments[op])

    def _own(self, x: Array | None) -> Array | None:
        """This rank's slice of an array."""
        return None if x is None else self._communicator.slices(x)[self._communicator.rank]

    def _array(self, operand: Operand) -> Array:
        array = self.arrays[name_of(operand)]
        if not isinstance(operand, View):
            return array
        layout, (number, turns) = self.plan.arrays[operand.name], operand.turn
        if not layout.per_image:
            return array.reshape(operand.shape)
        images = len(array) // turns
        seen = array[number * images : (number + 1) * images]
        return seen.reshape((images * operand.rows, *operand.shape))

    def _settings(self, call: Call) -> dict[str, Any]:
        settings = dict(call.settings)
        for name, value in call.settings.items():
            if name == "x_shape":
                settings[name] = (self.images, *value)
            elif isinstance(value, Draw):
                drawn = asdict(value)
                first = self._first + drawn.pop("shard") * self.images
                where = {"seed": self._seed, "step": self._steps[call.part], "first": first}
                settings[name] = Mask(**drawn, **where)
        if mask := settings.pop("mask", None):  # an unfused dropout, which does not scale
            settings |= mask._asdict()
            del settings["factor"]
        return settings

    def _learned(self, name: str) -> Learned:
        rule = self._rules[name.partition("@")[0]]
        w, v, lr, low = (self.arrays.get(name + suffix) for suffix in ("", ".v", ".lr", ".low"))
        return Learned(w, v, lr, *rule, low)


def output_of(layer: Layer, x: Array, params: Mapping[str, Array], backend: Backend) -> Array:
    """The output of a single layer for a float32 batch `x`, in evaluation.

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


class StepScalars:
    """The step number and the learning rates on each device: the only arguments of a step.

    On a device they share one array, so that one copy transfers them. steps: a 0-d uint32 array
    for each device. rates: 0-d float32 arrays by the names that they have in plans.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        parameters: Iterable[str],
        parts: Sequence[Iterable[str]],
    ) -> None:
        """Zeros for the devices and the names of all parameters, and of those of each device."""
        self._backends, names = backends, [*parameters]
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
        """Copy the step, from the host or a device, and, if given, all rates in order."""
        if not isinstance(step, int):
            for backend, own in zip(self._backends, self.steps, strict=True):
                backend.assign(own, backend.asarray(step))
            return
        self._host[0] = step
        if rates is not None:
            self._host_rates[:] = rates
        for backend, array in zip(self._backends, self._arrays, strict=True):
            backend.assign(array, self._host)

"""A network that runs by a plan: fused operations, bfloat16, a whole step at once.

`Net` goes layer by layer and is the one to read. This one gets the operations of a pass from
`plan.make`, makes a `Program` of them for each batch size, and runs that: on a GPU as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends import backend as make_backend
from pyalexnet.backends.base import Array, Backend
from pyalexnet.step import plan
from pyalexnet.step.net import Net, NetSpec, Part
from pyalexnet.step.plan import Converted, Goal, Precision, Source
from pyalexnet.step.program import Numbers, Program, Update

# Programs that are kept: for training and evaluation, and for the last, smaller batch of each.
_PROGRAMS = 6


class PlannedNet(Net):
    """A network on one device whose passes follow a plan.

    fp32x3 is fp32, except that convolutions and linear layers multiply on a GPU's tensor cores,
    each number as the sum of three bfloat16.

    In bf16, maps and the operands of products are bfloat16; sums, biases, gradients of parameters
    and momentum are float32. A weight is kept exactly, as its nearest bfloat16, which products
    read, and the remaining 16 bits; `params` and checkpoints are float32.

    Attributes:
        precision: "fp32", "fp32x3" or "bf16".
        fused: whether operations take layers together; if False, layers run one by one.
        converted: the layout of images that passes take without conversion.
        element: the type of maps, float32 or bfloat16.
    """

    precision: Precision
    fused: bool
    converted: Converted
    element: np.dtype[Any]

    def __init__(
        self,
        spec: NetSpec,
        backend: str | Backend = "cpu",
        seed: int = 0,
        device: int = 0,
        *,
        precision: Precision = "fp32",
        fused: bool = True,
        graph: bool = True,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Bring the initial parameters to the device.

        Args:
            spec: the network.
            backend: a name for `pyalexnet.backend`, or what it returned.
            seed: 0 to 2^64 - 1.
            device: number of the device, where `backend` is a name.
            precision: of maps and products.
            fused: whether operations take layers together.
            graph: whether a GPU runs a pass as one CUDA graph.
            params: the initial parameters, as `load` takes them; `spec.initial(seed)` if None.

        Raises:
            ArgumentError: there is no such precision.
        """
        plan.check_precision("PlannedNet", precision)
        self.precision, self.fused, self._graph = precision, fused, graph
        self.converted, self.element = plan.converted(spec, fused), plan.element(precision)
        own = backend if isinstance(backend, Backend) else make_backend(backend, device)
        self._begin(spec, own, seed)
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._filled: dict[int, Array] = {}
        self._numbers = Numbers(own, tuple(spec.param_shapes()))
        self.load(spec.initial(self.seed) if params is None else params)

    @property
    def converts(self) -> bool:
        """Whether images need converting at all."""
        return self.converted.shape != self.spec.input_shape or self.element != np.float32

    def images_for(self, count: int) -> Array:
        """The array (count, *converted.shape) that a pass over `count` images reads in place.

        Fill it, as `Backend.augment` does with the block and padding of `converted`, and pass it as
        `images` to save a copy.
        """
        if count not in self._filled:
            shape = (count, *self.converted.shape)
            self._filled[count] = self.backend.zeros(shape, self.element)
        return self._filled[count]

    # Parameters

    @property
    def params(self) -> dict[str, Array]:
        """Float32 arrays of the device by name; with bf16 these are copies."""
        (part,) = self.parts
        return {
            name: self.backend.join_weights(w, part.low[name]) if name in part.low else w
            for name, w in part.params.items()
        }

    def load(self, params: Mapping[str, Any]) -> None:
        """Copy `params`, which has every parameter by name, from the host or any device."""
        (values,) = self.divided(params)
        if not hasattr(self, "parts"):
            self.parts = (self._part(values),)
            return
        (part,), new = self.parts, self._part(values)
        for own, others in ((part.params, new.params), (part.low, new.low)):
            for name, array in own.items():  # programs hold these very arrays
                self.backend.assign(array, others[name])

    def _part(self, values: Mapping[str, Array]) -> Part:
        params, low = dict(values), {}
        if self.precision == "bf16":
            for name, w in values.items():
                if name.endswith(".w"):
                    params[name], low[name] = self.backend.split_weights(w)
        return Part(self.backend, params, low)

    # Passes

    def forward(self, images: Any) -> Array:
        x, source = self._as_given(images)
        program = self._program("logits", len(x), False, source)
        self._run(program, x)
        return self.backend.copy(program.logits)

    def activations(
        self, images: Any, *, train: bool = False, step: int = 0
    ) -> Iterator[tuple[str, Array]]:
        """Each operation's last layer and its output for `images`, in order.

        Outputs are arrays of the network, of its precision, and valid until its next pass.
        """
        x, source = self._as_given(images)
        program = self._program("logits", len(x), train, source)
        self._numbers.set(step)
        self._run(program, x)
        for name in program.plan.outputs:
            yield name, program.arrays[name]

    def gradients(
        self,
        images: Any,
        labels: Any,
        train: bool = False,
        step: int | Array = 0,
        *,
        out: Sequence[dict[str, Array]] | None = None,
    ) -> tuple[Array, tuple[dict[str, Array], ...]]:
        x, source = self._as_given(images)
        program = self._program("gradients", len(x), train, source)
        if isinstance(step, int):
            self._numbers.set(step)
        else:
            self._numbers.set_from(self.backend.asarray(step))
        self._run(program, x, labels)
        (grads,) = ({},) if out is None else out
        for name in self.spec.param_shapes():
            found = program.arrays[f"{name}.grad"]
            if name in grads:
                self.backend.assign(grads[name], found)
            else:
                grads[name] = self.backend.copy(found)
        return self._scored(program), (grads,)

    def train_step(
        self,
        images: Any,
        labels: Any,
        *,
        step: int,
        rates: NDArray[np.float64],
        update: Update,
    ) -> Array:
        """Forward, backward and update; a fused plan stores no gradients of weights.

        Args:
            images: as for `gradients`.
            labels: (N,) integers.
            step: number of the step.
            rates: learning rates in the order of `spec.param_shapes`.
            update: the rest of the rule, and the buffers of momentum. A program is made for each
                such object, so pass the same one at every step.

        Returns:
            The mean loss, 0-d.
        """
        x, source = self._as_given(images)
        program = self._program("update", len(x), True, source, update)
        self._numbers.set(step, rates)
        self._run(program, x, labels)
        return self._scored(program)

    def _as_given(self, images: Any) -> tuple[Array, Source]:
        """Images on the device, and whether they are converted already."""
        alike = getattr(images, "dtype", None) == self.element
        if self.converts and alike and images.shape[1:] == self.converted.shape:
            return images, "images"
        return self._images(images), "pixels"

    def _scored(self, program: Program) -> Array:
        """The loss, and `last_errors`, as arrays that the next pass does not overwrite."""
        scores = self.backend.copy(program.scores)
        self.last_errors = (scores[1, ...], scores[2, ...])
        return scores[0, ...]

    def _run(self, program: Program, images: Array, labels: Any = None) -> None:
        source = program.arrays[program.plan.source]
        if not self.backend.same_memory(source, images):
            self.backend.assign(source, images)
        if labels is not None:
            rows = program.arrays["labels"]
            checked = self.backend.checked_labels(labels, len(rows), self.spec.classes)
            self.backend.assign(rows, checked)
        program.run()

    def _program(
        self,
        goal: Goal,
        images: int,
        train: bool,
        source: Source,
        update: Update | None = None,
    ) -> Program:
        """The program of a pass; the oldest are dropped to make room."""
        key = (goal, images, train, source, update)
        if key not in self._programs:
            if len(self._programs) == _PROGRAMS:
                del self._programs[next(iter(self._programs))]
            self._programs[key] = self._new_program(*key)
        return self._programs[key]

    def _new_program(
        self,
        goal: Goal,
        images: int,
        train: bool,
        source: Source,
        update: Update | None,
    ) -> Program:
        made = plan.make(
            self.spec,
            goal=goal,
            precision=self.precision,
            fused=self.fused,
            train=train,
            source=source,
        )
        (part,) = self.parts
        given = {
            **part.params,
            **{f"{name}.low": low for name, low in part.low.items()},
            **{f"{name}.v": v for name, v in (update.momentum if update else {}).items()},
            **self._numbers.rates,
        }
        if source == "images":
            given["images"] = self.images_for(images)
        return Program(
            made,
            self.backend,
            images,
            given=given,
            step=self._numbers.step,
            seed=self.seed,
            rules=update.rules if update else None,
            graph=self._graph,
        )

"""A network on its device or devices: parameters, and passes that run by plans.

The operations of a pass come from `plan.make`; a `Program` of them is made for each batch size and
run again and again: on a GPU as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends import backend as make_backend
from pyalexnet.backends.base import Array, Backend
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Source, at
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.checks import integer
from pyalexnet.ranks.communicator import Communicator, Message
from pyalexnet.step import hybrid, plan, ranked, towers
from pyalexnet.step.fused import converted
from pyalexnet.step.program import Program, StepScalars, Update
from pyalexnet.step.shards import WHOLE, Shards

# How many programs are kept, for training, evaluation and the last, smaller batch of each; and how
# many arrays of images.
_KEPT = 6


@dataclass(frozen=True)
class Part:
    """The part of a network on one device: all of it, or a tower.

    params: its arrays by name, in the order of the layers; updates write into them. low: the lower
    halves of weights that are kept in two halves (`split_weights`), by name.
    """

    backend: Backend
    params: dict[str, Array]
    low: dict[str, Array] = field(default_factory=dict)


class Net:
    """A network's parameters on one device or in two towers, and its passes.

    fp32x3 is fp32, except that convolutions and linear layers multiply on a GPU's tensor cores,
    each number as the sum of three bfloat16.

    In bf16, maps and the operands of products are bfloat16; sums, biases, gradients of parameters
    and momentum are float32. A weight is kept exactly, as its nearest bfloat16, which products
    read, and the remaining 16 bits; `params` and checkpoints are float32.

    Attributes:
        spec, seed, precision, fused, communicator, shards: as given.
        backend: where it runs, and where logits, losses and errors are; with two towers, tower 0's.
        parts: the parameters by device, under the whole network's names; with two towers, only
            tower 0 has the last layer's.
        converted: the layout of images that passes take without conversion; converts: whether
            passes on one device convert other images.
        element: the type of maps, float32 or bfloat16.
        last_errors: (top-1, top-5) of the last pass with labels, 0-d arrays of the device, or NaN.
        exchanged: bytes exchanged between towers in the last pass, even if they share a device, or
            sent by this rank.
        division: how ranks divide the layers, as given.
    """

    def __init__(
        self,
        spec: NetSpec,
        backend: str | Backend | Sequence[Backend] = "cpu",
        seed: int = 0,
        device: int | tuple[int, ...] = 0,
        *,
        precision: plan.Precision = "fp32",
        fused: bool = False,
        graph: bool = True,
        params: Mapping[str, Any] | None = None,
        communicator: Communicator | None = None,
        shards: Shards = WHOLE,
        division: hybrid.Division | None = None,
    ) -> None:
        """Bring the initial parameters to the device or devices.

        Args:
            spec: the network; in two towers, LRNs and layers within a tower have two groups.
            backend: a name for `pyalexnet.backend`, or its result, for each tower.
            seed: of the initial weights and of the dropout masks, 0 to 2^64 - 1.
            device: its number, where `backend` is a name; for two towers two, which may be equal.
            precision: of maps and products: "fp32", "fp32x3" or "bf16".
            fused: whether one operation may compute several layers.
            graph: whether a GPU runs a pass as one CUDA graph.
            params: the initial parameters, as `load` takes them; `spec.initial(seed)` if None.
            communicator: connects the other ranks, each of which has this net.
            shards: how the batches of passes with labels are divided. Images and labels are then
                this rank's; loss, errors and gradients are those of the whole batch.
            division: how the ranks divide the layers, so that each has a part of the parameters:
                "towers", each of which takes all images, or a scheme of `hybrid`, with images
                and labels as of shards. All ranks then call the same methods; passes without
                labels are for `whole`.

        Raises:
            ArgumentError: there is no such precision, or the network cannot be divided.
        """
        self._backends = _backends(backend, device)
        self.communicator, self.shards = communicator or Communicator(), shards
        self.division, count = division, len(self._backends)
        if division:
            count = self.communicator.world_size
            hybrid.check(spec, division, count, divides=shards.divides)
            self.shards = hybrid.shards(division, count, shards)
        plan.check_precision("Net", precision, count)
        self.spec, self.backend = spec, self._backends[0]
        self.seed = integer("Net", "seed", seed, high=2**64 - 1)
        self.precision, self.fused, self._graph = precision, fused, graph
        self.converted, self.element = converted(spec, fused), plan.element(precision)
        unknown = self.backend.asarray(np.array(np.nan, np.float32))
        self.last_errors, self.exchanged = (unknown, unknown), 0
        needed = self.converted.shape != spec.input_shape or self.element != np.float32
        self.converts = needed and len(self._backends) == 1
        scheme = None if division == "towers" else division
        how: dict[str, Any] = {"towers": count, "scheme": scheme}
        if not scheme:
            towers.stages(spec, count)  # refuses what cannot be divided
        self._rows = hybrid.rows(spec, count) if scheme else towers.rows(spec, count)
        self._plan = partial(plan.make, spec, precision=precision, fused=fused, **how)
        self._program = lru_cache(_KEPT)(self._new_program)
        self._images = lru_cache(_KEPT)(self._new_images)
        self._whole: Net | None = None
        self._scalars = StepScalars(self._backends, spec.param_shapes(), self._own_rows)
        self.parts = self._placed(spec.initial(self.seed) if params is None else params)

    def images_for(self, count: int) -> Array:
        """The array (count, *converted.shape) that a pass over `count` images reads in place.

        Fill it as `Backend.augment` does, laid out as `converted`, and pass it as `images`.
        """
        return self._images(count)

    def whole(self) -> Net:
        """A net of all parameters for passes of any images: this one, or where ranks divide the
        layers a copy on each, current until the next update.
        """
        if not self.division:
            return self
        params = self.params
        if self._whole is None:
            how: dict[str, Any] = {"precision": self.precision, "fused": self.fused}
            how |= {"graph": self._graph, "params": params, "communicator": self.communicator}
            how["shards"] = Shards(ranks=self.communicator.world_size)
            self._whole = Net(self.spec, self.backend, self.seed, **how)
        self._whole.load(params)
        return self._whole

    # Parameters and arrays of their shapes: gradients, momentum

    @property
    def _own_rows(self) -> Sequence[Mapping[str, slice]]:
        """For each part here, its rows of the parameters."""
        return self._rows[self.communicator.rank :][:1] if self.division else self._rows

    @property
    def params(self) -> dict[str, Array]:
        """Float32 arrays by name, in the order of the layers: "conv1.w", "conv1.b", ...

        The device's own arrays, in bf16 copies; with two towers, copies on the host; for layers
        that ranks divide, copies on each (see `joined`).
        """
        return self.joined([_in_float32(part) for part in self.parts])

    def load(self, params: Mapping[str, Any]) -> None:
        """Copy `params`, which has every parameter by name, from the host or any device."""
        for part, other in zip(self.parts, self._placed(params), strict=True):
            for own, others in ((part.params, other.params), (part.low, other.low)):
                for name, array in own.items():  # programs hold these very arrays
                    part.backend.assign(array, others[name])

    def _placed(self, params: Mapping[str, Any]) -> tuple[Part, ...]:
        """Copies of the parameters on their devices, in bf16 as two halves."""
        parts = tuple(map(Part, self._backends, self.divided(params)))
        if self.precision == "bf16":
            for part in parts:
                for name in [name for name in part.params if name.endswith(".w")]:
                    halves = part.backend.split_weights(part.params[name])
                    part.params[name], part.low[name] = halves
        return parts

    def joined(self, values: Sequence[dict[str, Array]]) -> dict[str, Array]:
        """Arrays given part by part, by the names of its parameters, joined for the whole network.

        With one part, the arrays themselves; with two, copies on the host, for which it waits; with
        ranks, copies on every device, or the arrays themselves if each rank has all.
        """
        if self.division:
            return self._across(values[0])
        if len(values) == 1:
            return values[0]
        own = [(part.backend, mine) for part, mine in zip(self.parts, values, strict=True)]
        return {
            name: np.concatenate([be.to_numpy(mine[name]) for be, mine in own if name in mine])
            for name in self.spec.param_shapes()
        }

    def _across(self, values: dict[str, Array]) -> dict[str, Array]:
        """This rank's rows, joined with those of the others."""
        rank, size = self.communicator.rank, self.communicator.world_size
        found, sends, receives = {}, list[Message](), list[Message]()
        for name, shape in self.spec.param_shapes().items():
            rows = {owner: own[name] for owner, own in enumerate(self._rows) if name in own}
            if len(rows) == size and values[name].shape == shape:
                found[name] = values[name]
                continue
            whole = found[name] = self.backend.empty(shape)
            if rank in rows:
                self.backend.assign(whole[rows[rank]], values[name])
                sends += [(other, values[name]) for other in range(size) if other != rank]
            receives += [(owner, whole[own]) for owner, own in rows.items() if owner != rank]
        self.communicator.exchange(sends, receives)
        return found

    def divided(self, values: Mapping[str, Any]) -> tuple[dict[str, Array], ...]:
        """Copies of arrays of the parameters' names and shapes, each part's on its device."""
        shapes = self.spec.param_shapes()
        for name in (*values, *shapes):
            if name not in values or name not in shapes:
                state = "is missing" if name in shapes else "is no parameter of this network"
                raise ArgumentError(f"{name} {state}; {', '.join(shapes)} were expected.")
        for name, shape in shapes.items():
            if (found := np.shape(values[name])) != shape:
                raise ArgumentError(f"{name} has shape {found}; {shape} was expected.")
        return tuple(
            {
                name: be.copy(be.asarray(values[name][mine], np.float32))
                for name, mine in own.items()
            }
            for be, own in zip(self._backends, self._own_rows, strict=True)
        )

    @property
    def _in_slices(self) -> Iterable[str]:
        """The parameters whose momentum ranks divide."""
        if not self.shards.divides or self.communicator.world_size == 1:
            return ()
        return hybrid.common(self.spec) if self.division else self.spec.param_shapes()

    def sliced(self, values: dict[str, Array]) -> dict[str, Array]:
        """The part of a momentum that this rank keeps: all, or slices of what all ranks have."""
        own = self.communicator.rank
        slices = {name: self.communicator.slices(values[name]) for name in self._in_slices}
        return values | {name: self.backend.copy(each[own]) for name, each in slices.items()}

    def unsliced(self, values: dict[str, Array]) -> dict[str, Array]:
        """A part's momentum, joined from the slices that ranks keep."""
        found = {}
        for name in self._in_slices:
            found[name] = self.backend.empty(self.spec.param_shapes()[name])
            self.communicator.all_gather(values[name], found[name])
        return values | found

    # Passes

    def forward(self, images: Any) -> Array:
        """Logits (N, classes) in evaluation: dropout drops nothing.

        images: (N, H, W, C) float32, of the host or the device, 0 to 255 minus the mean; or as
        `converted` describes them.
        """
        program = self._run(images)
        # A copy: the next pass may overwrite the array.
        return self.backend.copy(program.arrays[program.plan.logits])

    def activations(self, images: Any, *, train: bool = False) -> Iterator[tuple[str, Array]]:
        """Each layer's name and output for `images`, in order; with `train`, dropout drops.

        If one operation computes several layers, only the last one's. Outputs have the network's
        precision, and are valid until its next pass.
        """
        self._scalars.set(0)
        program = self._run(images, train=train)
        for layer, names in program.plan.outputs.items():
            whole, *others = outputs = [program.arrays[name] for name in names]
            yield layer, self.backend.exchange_gather(outputs) if others else whole

    def loss_and_grads(
        self,
        images: Any,
        labels: Any,
        train: bool = False,
        step: int | Array = 0,
        *,
        out: dict[str, Array] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Mean loss over a batch, 0-d, and its gradient by every parameter, by name.

        On one device this does not wait for the result. With two towers, gradients are on the host.

        Args:
            images: as for `forward`.
            labels: (N,) integers of any type, of the host or the device.
            train: whether dropout drops; its masks depend on the net's seed and `step`.
            step: number of the training step, or a 0-d uint32 array of the device.
            out: gradients of an earlier call, to be overwritten with the new ones.
        """
        self._scalars.set(step)
        program = self._run(images, labels, train=train)
        own = [
            {name: program.arrays[f"{at(name, tower)}.grad"] for name in part.params}
            for tower, part in enumerate(self.parts)
        ]
        found, grads = self.joined(own), {} if out is None else out
        for name, grad in found.items():
            if name not in grads:
                grads[name] = grad if len(own) > 1 else self.backend.copy(grad)
            elif len(own) > 1:
                grads[name][...] = grad
            else:
                self.backend.assign(grads[name], grad)
        return self._scored(program), {name: grads[name] for name in found}

    def learn(
        self, images: Any, labels: Any, *, step: int, rates: NDArray[np.float64], update: Update
    ) -> Array:
        """Forward, backward and update; the mean loss, 0-d.

        images, labels, step: as for `loss_and_grads`; a fused plan stores no gradients of weights.
        rates: in the order of `spec.param_shapes`. update: the rest of the rule, and the momenta;
        each such object gets its own program, so pass the same one at every step.
        """
        self._scalars.set(step, rates)
        return self._scored(self._run(images, labels, train=True, update=update))

    def _scored(self, program: Program) -> Array:
        """The loss, and `last_errors`, as arrays that the next pass does not overwrite."""
        own = program.arrays.get("scores")  # tower 0 has them
        scores = self.backend.zeros((len(plan.SCORES),)) if own is None else self.backend.copy(own)
        if self.division == "towers":
            self.communicator.broadcast(scores)
        self.last_errors = (scores[1, ...], scores[2, ...])
        return scores[0, ...]

    def _run(
        self, images: Any, labels: Any = None, *, train: bool = False, update: Update | None = None
    ) -> Program:
        """Run a pass, with labels and update if given; returns its program, with the results."""
        goal: plan.Goal = "logits" if labels is None else "update" if update else "gradients"
        x, source = self._as_given(images)
        shards = self.shards if self.division or labels is not None else WHOLE
        count = self._of_shard(len(x), shards)
        program = self._program(goal, count, train, source, update)
        whole = len(self._backends) > 1  # each tower takes all images
        for part, backend in enumerate(self._backends * shards.own):
            own = program.arrays[at(source, part)]
            mine = x if whole else x[part * count : (part + 1) * count]
            if whole or not backend.same_memory(own, mine):
                backend.assign(own, mine)
        if labels is not None:
            checked = self.backend.checked_labels(labels, len(x), self.spec.classes)
            for shard in range(shards.own):
                own = checked[shard * count : (shard + 1) * count]
                self._label(program.arrays.get(at("labels", shard)), own)
        sent = self.communicator.sent
        program.run()
        self.exchanged = program.exchanged + self.communicator.sent - sent
        return program

    def _label(self, rows: Array | None, labels: Array) -> None:
        """Write this rank's labels among those of the batch, if it has any."""
        if rows is not None:
            if self.division:
                rows = self.shards.places(self.communicator.rank, rows.reshape(1, -1))
            self.backend.assign(rows, labels.reshape(rows.shape))

    def _of_shard(self, images: int, shards: Shards) -> int:
        """The images of a shard, of so many in all."""
        parts = max(shards.own, shards.slices)
        if images % parts:
            what = "slices" if shards.slices > 1 else "shards"
            found = f"{self.spec.name}: there are {images} images"
            raise ArgumentError(f"{found}; a multiple of {parts} {what} was expected.")
        return images // shards.own

    def _as_given(self, images: Any) -> tuple[Array, Source]:
        """Images on the device, if their shape is right, and whether they are converted already."""
        alike = getattr(images, "dtype", None) == self.element
        if self.converts and alike and images.shape[1:] == self.converted.shape:
            return images, "images"
        x, (h, w, c) = self.backend.asarray(images), self.spec.input_shape
        what = f"{self.spec.name}: images"
        if x.dtype != np.float32:
            wanted = "float32 was expected, 0 to 255 minus the mean"
            raise ArgumentError(f"{what} are {x.dtype}; {wanted}.")
        if x.shape[1:] != (h, w, c):
            raise ArgumentError(f"{what} has shape {x.shape}; (N, {h}, {w}, {c}) was expected.")
        if len(x) == 0:
            raise ArgumentError(f"{what} has shape {x.shape}, no image; at least 1 was expected.")
        return x, "pixels"

    def _new_images(self, count: int) -> Array:
        return self.backend.zeros((count, *self.converted.shape), self.element)

    def _new_program(
        self, goal: plan.Goal, images: int, train: bool, source: Source, update: Update | None
    ) -> Program:
        given = dict(self._scalars.rates)
        for tower, part in enumerate(self.parts):
            beside: dict[str, Mapping[str, Array]] = {"": part.params, ".low": part.low}
            if update:
                beside[".v"] = update.momentum[tower]
            for suffix, arrays in beside.items():
                given |= {f"{at(name, tower)}{suffix}": x for name, x in arrays.items()}
        shards = self.shards if self.division or goal != "logits" else WHOLE
        deals = shards.ranks > 1 and not self.division  # else the plan says which images it has
        if source == "images":
            whole = self.images_for(shards.own * images)
            for shard in range(shards.own):
                given[at(source, shard)] = whole[shard * images : (shard + 1) * images]
        made = self._plan(goal=goal, train=train, source=source, shards=shards)
        return Program(
            ranked.of_rank(made, self.communicator.rank) if self.division else made,
            self._backends * shards.own,
            images,
            given=given,
            steps=self._scalars.steps * shards.own,
            seed=self.seed,
            rules=update.rules if update else None,
            graph=self._graph,
            first=self.communicator.rank * shards.own * images if deals else 0,
            communicator=self.communicator,
        )


def _in_float32(part: Part) -> dict[str, Array]:
    """A part's parameters: its own arrays, or copies of those kept in two halves."""
    if not part.low:
        return part.params
    join = part.backend.join_weights
    return {n: join(w, part.low[n]) if n in part.low else w for n, w in part.params.items()}


def _backends(
    backend: str | Backend | Sequence[Backend], device: int | tuple[int, ...]
) -> tuple[Backend, ...]:
    """The devices; the same object twice if two towers share one."""
    if isinstance(backend, Backend):
        return (backend,)
    if isinstance(backend, str):
        make = cache(partial(make_backend, backend))
        backend = [make(number) for number in ((device,) if isinstance(device, int) else device)]
    if len(backend) not in (1, 2) or len({type(one) for one in backend}) != 1:
        names = ", ".join(f"{one.name} {one.device}" for one in backend)
        wanted = "one was expected, or 2 of one kind, one for each tower"
        raise ArgumentError(f"Net: backend is ({names}); {wanted}.")
    return tuple(backend)

"""A batch in shards: the parts of a step that have images of their own and share all parameters.

A rank's batch has one shard or more, that of all ranks the same number on each. A shard's gradients
are those of its images, divided by the number of all shards. They are added by a binary tree, over
the rank's own shards and then over the ranks: if the number of all shards is fixed and a rank has a
power of two of them, every sum is the same, bit for bit, however many ranks there are.

In a plan the calls of every layer appear once for each shard. Behind a layer's gradients stand a
call of `sum_parts` and, if there are other ranks, one of `all_reduce`, which runs aside while the
layers below go backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Array
from pyalexnet.nets.calls import Step
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.elements import FLOAT32
from pyalexnet.step.towers import Stage

MOST_SHARDS = 64  # of a rank, as `sum_parts` adds no more arrays
_SENT = ".sent"  # ends the name of a gradient as it is sent, if not in float32


@dataclass(frozen=True)
class Shards:
    """How a batch is divided.

    own: shards of each rank. ranks: how many there are. sent: the type of gradients between ranks:
    float32, or bfloat16, to which every sum that is sent is rounded. divides: whether each rank
    updates a slice of every parameter that all have, and keeps the momentum of that alone. slices:
    in how many pieces a rank's images lie in the batch.
    """

    own: int = 1
    ranks: int = 1
    sent: np.dtype[Any] = FLOAT32
    divides: bool = False
    slices: int = 1

    @property
    def all(self) -> int:
        return self.own * self.ranks

    def of_rank(self, rank: int, batches: NDArray[Any]) -> NDArray[Any]:
        """A rank's part of batches, the rows of a matrix, one after another."""
        own: NDArray[Any] = self.places(rank, batches).reshape(-1)
        return own

    def places(self, rank: int, batches: Array) -> Array:
        """A rank's part of batches, the rows of a matrix, as (batches, slices, images)."""
        slices = batches.reshape(len(batches), self.slices, self.ranks, -1)
        return slices[:, :, rank % self.ranks]


WHOLE = Shards()


def stages(spec: NetSpec, shards: int) -> list[Stage]:
    """The layers of `spec` as so many shards run them."""
    return [Stage(layer, tuple(range(shards)), sharded=True) for layer in spec.layers]


def averaged(step: Step, names: Iterable[str], shards: Shards) -> None:
    """Write the division by all shards of arrays of one, its loss and the gradient of that."""
    if shards.all > 1:
        for name in names:
            step.call("scale", {"x": name}, name, factor=1 / shards.all)


def reduced(
    step: Step, parts: Sequence[str], shards: Shards, sent: np.dtype[Any], *, divides: bool = False
) -> None:
    """Write the sum of each shard's array, over all ranks too, into the first.

    sent: their type. divides: whether a rank needs its slice of the sum only.
    """
    total = carrier = parts[0]
    step.on(step.arrays[total].part)
    if shards.ranks > 1 and sent != FLOAT32:
        carrier = step.beside(f"{total}{_SENT}", total, sent)
    if len(parts) > 1 or carrier != total:
        step.call("sum_parts", {str(shard): name for shard, name in enumerate(parts)}, carrier)
    if shards.ranks > 1 and divides:
        step.sliced.add(total)
        step.call("reduce_scatter", {"x": carrier}, carrier)
    elif shards.ranks > 1:
        step.call("all_reduce", {"x": carrier}, carrier)


def received(step: Step) -> None:
    """Write the sums that came in another type as float32."""
    for name in [name for name in step.arrays if name.endswith(_SENT)]:
        step.on(step.arrays[name].part).call("sum_parts", {"0": name}, name.removesuffix(_SENT))

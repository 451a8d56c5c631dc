"""A batch in shards: the parts of a step that have their own images and share all parameters.

Every rank has the same number of shards, at least one. A shard's gradients are those of its images,
divided by the number of all shards. They are added by a binary tree, over the rank's own shards and
then over the ranks: if the number of all shards is fixed and a rank has a power of two of them,
every sum is the same, bit for bit, however many ranks there are.

In a plan the calls of every layer appear once for each shard. After a layer's gradients come a call
of `sum_parts` and, if there are other ranks, one of `all_reduce`, which runs concurrently with the
backward pass of the layers below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Array
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Step
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.elements import FLOAT32
from pyalexnet.step.towers import Stage

_MOST = 64  # of a rank, as `sum_parts` adds no more arrays
_SENT = ".sent"  # ends the name of a gradient as it is sent, if not in float32


@dataclass(frozen=True)
class Shards:
    """How a batch is divided.

    own: shards of each rank. ranks: how many there are. sent: the type of gradients between ranks:
    float32, or bfloat16, to which every sum that is sent is rounded. divides: whether each rank
    updates only a slice of every shared parameter, and keeps only its momentum. slices: how many
    pieces of the batch a rank's images form.
    """

    own: int = 1
    ranks: int = 1
    sent: np.dtype[Any] = FLOAT32
    divides: bool = False
    slices: int = 1

    @classmethod
    def of(cls, who: str, ranks: int, count: int) -> Shards:
        """`count` shards over all ranks; `who` begins the sentence of a refusal."""
        own, rest = divmod(count, ranks)
        if rest or own.bit_count() != 1 or own > _MOST:
            factor = f"a power of two, at most {_MOST}"
            wanted = factor if ranks == 1 else f"{ranks} ranks times {factor}"
            raise ArgumentError(f"{who}: shards is {count}; {wanted}, was expected.")
        return cls(own, ranks)

    def check(self, who: str, batch: int) -> None:
        """Refuse a batch that does not divide."""
        what = "slices" if self.slices > 1 else "ranks" if self.own == 1 else "shards"
        if batch % (parts := self.all * self.slices):
            wanted = f"a multiple of {parts} {what} was expected"
            raise ArgumentError(f"{who}: batch_size is {batch}; {wanted}.")

    @property
    def all(self) -> int:
        return self.own * self.ranks

    def shown(self, batch: int) -> str:
        """A batch's images and how they are divided: "128 = 8 ranks x 16"."""
        counts = (("ranks", self.ranks), ("shards", self.own))
        parts = [f"{count} {what} x" for what, count in counts if count > 1]
        return " ".join((f"{batch} =", *parts, f"{batch // self.all}")) if parts else f"{batch}"

    def of_rank(self, rank: int, batches: NDArray[Any]) -> NDArray[Any]:
        """A rank's part of batches, the rows of a matrix, one after another."""
        own: NDArray[Any] = self.places(rank, batches).reshape(-1)
        return own

    def places(self, rank: int, batches: Array) -> Array:
        """A rank's part of batches, the rows of a matrix, as (batches, slices, images)."""
        count, images = batches.shape
        parts = self.slices, self.ranks
        return batches.reshape(count, *parts, images // math.prod(parts))[:, :, rank % self.ranks]


WHOLE = Shards()


def stages(spec: NetSpec, shards: int) -> list[Stage]:
    """The layers of `spec` as so many shards run them."""
    return [Stage(layer, tuple(range(shards)), sharded=True) for layer in spec.layers]


def averaged(step: Step, names: Iterable[str], shards: Shards) -> None:
    """Write the division of a shard's arrays (loss and its gradient) by the number of shards."""
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

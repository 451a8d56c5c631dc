"""The parts of a plan: calls of a backend's operations on named arrays.

Layers write them down on a `Step`, forward and then backward. Nothing is computed here.

A step may have parts, numbered from 0: two towers, which divide the layers, or shards, which divide
the batch and share the parameters; in a hybrid of ranks they divide first the batch, then layers.

Arrays are named after what they hold: "conv1" is the output of that layer, "pool1.where" what its
backward pass needs, "conv1.grad" the gradient of the loss by "conv1", "conv1.w" a parameter; those
of part 1 end in "@1", or have it before ".grad". Shapes leave out the batch where an array has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from pyalexnet.backends.base import Shape
from pyalexnet.ops.elements import BFLOAT16, FLOAT32


@dataclass(frozen=True)
class Layout:
    """Shape (without the batch, where `per_image`), type and part of an array.

    shares: how many parts' images it holds.
    """

    shape: Shape
    dtype: np.dtype[Any] = FLOAT32
    per_image: bool = True
    part: int = 0
    shares: int = 1

    def whole(self, images: int) -> Shape:
        """The array's own shape, for so many images of a part."""
        return (images * self.shares, *self.shape) if self.per_image else self.shape

    def nbytes(self, images: int) -> int:
        return math.prod(self.whole(images)) * self.dtype.itemsize


# One of several equal slices of an array's images: its number, and how many there are.
Turn: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class View:
    """An array seen in another shape, which leaves out the batch if there is one."""

    name: str
    shape: Shape
    rows: int = 1  # how many such shapes an image makes
    turn: Turn = (0, 1)  # the images that are seen


Operand: TypeAlias = str | View


def _overlap(one: Operand, other: Operand) -> bool:
    """Whether two operands have images of an array in common."""
    (i, n), (j, m) = (each.turn if isinstance(each, View) else (0, 1) for each in (one, other))
    return name_of(one) == name_of(other) and i * m < (j + 1) * n and j * n < (i + 1) * m


@dataclass(frozen=True)
class Draw:
    """A dropout mask: the fields of `ops.records.Mask` that the network determines.

    shard: the number of shards of the batch before these images.
    """

    keep: float
    layer: int
    factor: float = 1.0
    offset: int = 0
    total: int | None = None
    shard: int = 0


# Images of the network's input shape, or as `fused.converted` describes them.
Source: TypeAlias = Literal["pixels", "images"]


_ON_ONE_ARRAY = ("all_reduce", "reduce_scatter", "all_gather")  # collective operations


@dataclass(frozen=True)
class Call:
    """One operation: the method `op` of a backend, or of a communicator."""

    op: str
    reads: Mapping[str, Operand]  # arrays by argument
    writes: tuple[Operand, ...] = ()  # arrays for `out`, in the order in which they are returned
    # Parameters by argument, which it reads and changes, momentum included.
    learns: Mapping[str, str] = field(default_factory=dict)
    # The other arguments; a `Draw` becomes a mask, and `x_shape` gets the batch in front.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # Whether it may run concurrently with later calls, up to the first that touches its outputs;
    # after a backend's operation there is none. No later call writes its inputs.
    aside: bool = False
    part: int = 0  # whose device runs it

    @property
    def exchanges(self) -> bool:
        """Whether it reads arrays of any part."""
        return self.op.startswith("exchange_")

    @property
    def joins(self) -> bool:
        """Whether it reads a list of arrays."""
        return self.exchanges or self.op == "sum_parts"

    @property
    def collective(self) -> bool:
        """Whether all ranks run it together, by their communicators."""
        return self.op in (*_ON_ONE_ARRAY, "exchange")

    def operands(self) -> tuple[Operand, ...]:
        """Every array that it touches, except parameters."""
        return (*self.reads.values(), *self.writes)

    def precedes(self, later: Call) -> bool:
        """Whether a later call touches what it writes, or writes what it reads."""
        return any(
            _overlap(own, other)
            for owns, others in ((self.writes, later.operands()), (self.operands(), later.writes))
            for own in owns
            for other in others
        )


@dataclass(frozen=True)
class Plan:
    """Calls in their order, and the arrays that they name."""

    calls: tuple[Call, ...]
    arrays: Mapping[str, Layout]
    source: Source  # the array of the images, of every part
    # The outputs of each layer in order, an array for each part; layers that one operation computes
    # have one entry, under the last one's name. The last entry is the logits.
    outputs: Mapping[str, tuple[str, ...]]

    @property
    def logits(self) -> str:
        """The array of the network's output."""
        return [*self.outputs.values()][-1][0]

    def moved(self, call: Call, images: int) -> int:
        """Bytes of a call's arrays, each read or written once; updated parameters count twice."""
        learned = [name for each in call.learns.values() for name in self.learned(each)]
        return sum(self.nbytes(each, images) for each in (*call.operands(), *learned, *learned))

    def nbytes(self, operand: Operand, images: int) -> int:
        """Bytes of the array as the call sees it."""
        whole = self.arrays[name_of(operand)].nbytes(images)
        return whole // operand.turn[1] if isinstance(operand, View) else whole

    def flops(self, call: Call, images: int) -> float:
        """Floating-point operations of a product: two for every weight at each pixel of its output.

        Products with zeros count, around an image and in filters in blocks. Other operations: 0.
        """
        if not is_product(call.op):
            return 0.0
        y = call.writes[0] if call.op.endswith("_fprop") else call.reads["dy"]
        w = call.reads.get("w") or call.learns.get("w") or call.writes[0]
        return 2.0 * images * math.prod(self.shape(y)[:-1]) * math.prod(self.shape(w))

    def shape(self, operand: Operand) -> Shape:
        """Shape of the array as the call sees it, without the batch."""
        return operand.shape if isinstance(operand, View) else self.arrays[operand].shape

    def part(self, operand: Operand) -> int:
        """The part that an array belongs to."""
        return self.arrays[name_of(operand)].part

    def crosses(self, call: Call) -> bool:
        """Whether it reads arrays of parts other than its own."""
        return any(self.part(operand) != call.part for operand in call.reads.values())

    def learned(self, parameter: str) -> tuple[str, ...]:
        """The arrays that an update changes: the parameter, its lower half in bf16, momentum."""
        names = (parameter, f"{parameter}.low", f"{parameter}.v")
        return tuple(name for name in names if name in self.arrays)


def is_product(op: str) -> bool:
    """Whether an operation belongs to a convolution or a linear layer."""
    return op.startswith(("conv_", "linear_"))


def name_of(operand: Operand) -> str:
    """The array of an operand."""
    return operand.name if isinstance(operand, View) else operand


def like(operand: Operand, name: str) -> Operand:
    """The array `name`, in the shape in which `operand` sees its own."""
    return replace(operand, name=name) if isinstance(operand, View) else name


@dataclass(eq=False, kw_only=True)
class Step:
    """A training step, or part of one, as layers write it down: its calls, and their arrays."""

    masks: Mapping[str, int] = field(default_factory=dict)  # numbers of the dropout layers
    logits: str = ""  # name of the last layer, whose output is float32
    element: np.dtype[Any] = FLOAT32  # type of maps and of the weights that products read
    tensor: bool = False  # whether float32 products use tensor cores
    fused: bool = False  # whether operations take layers together
    train: bool = False  # whether dropout drops
    learns: bool = False  # whether the step ends with the update of the parameters
    reduces: bool = False  # whether gradients are summed over shards before that
    # Written so far.
    calls: list[Call] = field(default_factory=list)
    arrays: dict[str, Layout] = field(default_factory=dict)
    # The current part; how many towers its layer is divided between; and how many shards of the
    # batch come before its images.
    part: int = 0
    towers: int = 1
    shard: int = 0
    # How many parts' images new arrays hold, and which of these the calls work on.
    shares: int = 1
    turn: Turn = (0, 1)
    sliced: set[str] = field(default_factory=set)  # gradients that are whole on no rank
    # Names of gradients, by the names of the arrays that they belong to.
    grads: dict[str, str] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)  # arrays whose gradients nothing needs
    # For a ReLU's output: the factor of the gradient where the output is above 0, and whether the
    # call that computed the gradient has applied ReLU and factor.
    _rectified: dict[str, float] = field(default_factory=dict)
    _gated: set[str] = field(default_factory=set)

    def on(self, part: int, towers: int = 1, shard: int = 0) -> Step:
        """Assign the next calls to this part; returns the step."""
        self.part, self.towers, self.shard = part, towers, shard
        return self

    def here(self, name: str) -> str:
        """The part's array of this name: its own, or the one that all parts share."""
        own = at(name, self.part)
        return own if own in self.arrays else name

    # Arrays

    def array(
        self, name: str, shape: Shape, dtype: np.dtype[Any] | None = None, *, batch: bool = True
    ) -> str:
        """A new array of the part; returns its name."""
        own = at(name, self.part)
        self.arrays[own] = Layout(shape, dtype or self.element, batch, self.part, self.shares)
        return own

    def parameter(self, name: str, shape: Shape) -> None:
        """A parameter of the part, and what its update needs."""
        split = self.element == BFLOAT16 and name.endswith(".w")
        own = self.array(name, shape, BFLOAT16 if split else FLOAT32, batch=False)
        if split:
            self.beside(f"{own}.low", own, np.dtype(np.uint16))
        if self.learns:
            self.beside(f"{own}.v", own, FLOAT32)
            self.arrays[f"{own}.lr"] = Layout((), FLOAT32, False, self.part)

    def shape(self, operand: Operand) -> Shape:
        """As `Plan.shape`."""
        return operand.shape if isinstance(operand, View) else self.arrays[operand].shape

    def beside(self, name: str, of: str, dtype: np.dtype[Any]) -> str:
        """A new array of the same shape and part as another."""
        self.arrays[name] = replace(self.arrays[of], dtype=dtype)
        return name

    # Calls

    def call(
        self,
        op: str,
        reads: Mapping[str, Operand],
        *writes: Operand,
        learns: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """Write down a call.

        The update of a linear layer is bound by memory and an exchange between ranks by the link;
        both may run beside the convolutions after them, which are bound by arithmetic.
        """
        settings |= {"tensor": True} if self.tensor and is_product(op) else {}
        aside = op in (*_ON_ONE_ARRAY, "linear_wgrad_sgd")
        reads = {name: self._in_turn(operand) for name, operand in reads.items()}
        writes = tuple(map(self._in_turn, writes))
        self.calls.append(Call(op, reads, writes, learns or {}, settings, aside, self.part))

    def _in_turn(self, operand: Operand) -> Operand:
        """The images of an operand that the calls work on."""
        layout = self.arrays[name_of(operand)]
        if self.turn == (0, 1) or not layout.per_image:
            return operand
        view = operand if isinstance(operand, View) else View(operand, layout.shape)
        return replace(view, turn=self.turn)

    def output(
        self, layer: str, shape: Shape, op: str, reads: Mapping[str, Operand], **settings: Any
    ) -> str:
        """Write down the call that computes a layer's output; returns the output's name."""
        y = self.array(layer, shape)
        self.call(op, reads, y, **settings)
        return y

    def mask(self, layer: str, keep: float, channels: int, factor: float = 1.0) -> Draw:
        """The mask of a dropout layer, for images, or pixels, of so many channels.

        A tower draws its part of the mask of the whole layer.
        """
        draw = Draw(keep, self.masks[layer], factor, shard=self.shard)
        if self.towers == 1:
            return draw
        return replace(draw, offset=self.part * channels, total=self.towers * channels)

    # Gradients

    def grad(
        self,
        x: str,
        op: str,
        reads: Mapping[str, Operand],
        *,
        seen: Operand | None = None,
        gates: bool = False,
        scales: bool = False,
        **settings: Any,
    ) -> None:
        """Write down the call that computes the gradient of `x`, unless nothing needs it.

        seen: `x` as the call sees it. gates: whether the call can propagate the gradient through
        the ReLU that made `x`; scales: and through a factor after it.
        """
        if x in self.images:
            return
        own = x if seen is None else seen
        factor = self.gate(x, scales=scales) if gates else None
        if factor is not None:
            reads = {**reads, "gate": like(own, x)}
            settings |= {} if factor == 1 else {"factor": factor}
        self.call(op, reads, like(own, self.new_grad(x)), **settings)

    def new_grad(self, x: str) -> str:
        """A new array for the gradient of `x`; returns its name."""
        self.grads[x] = self.beside(f"{x}.grad", x, self.element)
        return self.grads[x]

    def rectified(self, y: str, factor: float = 1.0) -> None:
        """Note that `y` is a ReLU's output times `factor`, which its gradient needs, too."""
        self._rectified[y] = factor

    def gate(self, x: str, *, scales: bool = False) -> float | None:
        """The factor, if the call written next applies the gradient of the ReLU that made `x`."""
        factor = self._rectified.get(x) if self.fused else None
        if factor is None or not (scales or factor == 1):
            return None
        self._gated.add(x)
        return factor

    def ungated(self, y: str) -> float | None:
        """The factor of a ReLU's output whose gradient has yet to be taken through the ReLU."""
        return None if y in self._gated else self._rectified.get(y)

    def weights(
        self, op: str, reads: Mapping[str, Operand], w: Operand, b: str, **settings: Any
    ) -> None:
        """Write down the gradients of a layer's parameters, or their update in the same call.

        If images take turns, this comes after the last turn, for all of them.
        """
        number, turns = self.turn
        if number + 1 < turns:
            return
        self.turn = (0, 1)
        if self.fused and self.learns and not self.reduces and isinstance(w, str):
            self.call(f"{op}_sgd", reads, learns={"w": w, "b": b}, **settings)
        else:
            dw, db = like(w, self.weight_grad(name_of(w))), self.weight_grad(b)
            shape: dict[str, Any] = {"w_shape": self.shape(w)} if op == "conv_wgrad" else {}
            self.call(op, reads, dw, db, **settings, **shape)
        self.turn = (number, turns)

    def weight_grad(self, parameter: str) -> str:
        """A new array for the part's gradient of a parameter; returns its name."""
        own = f"{at(parameter.partition('@')[0], self.part)}.grad"
        self.arrays[own] = replace(self.arrays[parameter], dtype=FLOAT32, part=self.part)
        return own

    def update(self) -> None:
        """Write down the updates of the parameters whose gradients were written.

        Sums over ranks arrive from the last layer on. Slices that ranks have updated are joined.
        """
        for name, layout in [*self.arrays.items()][:: -1 if self.reduces else 1]:
            grad = f"{name}.grad"
            if f"{name}.v" not in self.arrays or grad not in self.arrays:
                continue
            slices: dict[str, Any] = {"sliced": True} if grad in self.sliced else {}
            self.on(layout.part).call("sgd_update", {"dw": grad}, learns={"": name}, **slices)
            for own in (name, f"{name}.low") if slices else ():
                if own in self.arrays:
                    self.call("all_gather", {"x": own}, own)


def at(name: str, part: int) -> str:
    """The name of a part's own array."""
    return f"{name}@{part}" if part else name

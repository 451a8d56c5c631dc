"""An AlexNet's parameters in other programs' layout, and conversion to ours and back.

They put the channels first: filters are (K, C / groups, R, S), and the columns of a linear layer
that reads maps run over (C, H, W). Ours are KRSC and (H, W, C).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.base import Shape
from pyalexnet.data.classes import Classes
from pyalexnet.errors import CheckpointError
from pyalexnet.files import about, contents, refusing
from pyalexnet.nets.layers import Linear
from pyalexnet.nets.spec import NetSpec

Floats = npt.NDArray[np.float32]
Arrays = dict[str, Floats]

# Largest file that is read, in bytes: four times the full network.
LARGEST = 2**30


@dataclass(frozen=True, eq=False)
class ForeignNet:
    """The contents of another program's file, in our terms.

    net_args: arguments of `nets.alexnet`, besides the number of classes, that make `spec`. params:
    by our names, in our shapes. mean: (Hs, Ws, 3) float32, RGB, grey levels: what that program
    subtracts. notes: sentences on what the file left open. classes: None if it does not say.
    """

    spec: NetSpec
    net_args: dict[str, Any]
    params: Arrays
    mean: Floats
    notes: tuple[str, ...] = ()
    classes: Classes | None = None


@dataclass(frozen=True, eq=False)
class Tensor:
    """An array in a file of another program.

    kind: that program's name of its type, for messages. floats: makes an array of it; None: it does
    not hold floats.
    """

    shape: Shape
    kind: str
    floats: Callable[[], npt.NDArray[Any]] | None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[bytes]:
    """A file's bytes; a refusal raised inside gets the path put before it.

    A CheckpointError if it is no regular file, empty, unreadable, or larger than `LARGEST`.
    """
    with refusing(CheckpointError, path, "read", ValueError):
        raw = contents(path, LARGEST)
    with about(path):
        yield raw


def _parameters(spec: NetSpec) -> Iterator[tuple[str, Shape, Shape]]:
    """Each parameter's name, its shape here, and the (H, W, C) of its filters or columns.

    The last is () if there are no channels to move.
    """
    for layer, in_shape, _ in spec.walk():
        for name, shape in layer.param_shapes(in_shape).items():
            reads_maps = isinstance(layer, Linear) and name == layer.w and len(in_shape) == 3
            maps = in_shape if reads_maps else shape[1:] if len(shape) == 4 else ()
            yield name, shape, maps


def foreign_shapes(spec: NetSpec) -> dict[str, Shape]:
    """The shapes of the parameters of `spec` in other programs, by our names."""
    return {
        name: (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else shape
        for name, shape, _ in _parameters(spec)
    }


def ours(spec: NetSpec, found: Mapping[str, Tensor], names: Mapping[str, str]) -> Arrays:
    """Parameters by our names, converted from another program's axis order to ours, in float32.

    found: tensors of floats by the file's names. names: the file's names by ours. A CheckpointError
    if a parameter is missing, of another shape or not finite, or all are too large; only tensors of
    the right shapes are made into arrays.
    """
    expected = foreign_shapes(spec)
    for name, shape in expected.items():
        tensor = found.get(names[name])
        if tensor is None:
            raise CheckpointError(f"{names[name]} is missing; it was expected.")
        if tensor.shape != shape:
            raise CheckpointError(f"{names[name]} has shape {tensor.shape}; {shape} was expected.")
    if 4 * sum(map(math.prod, expected.values())) > LARGEST:
        raise CheckpointError(
            f"says that it has {spec.classes} classes, which takes more than {LARGEST} bytes."
        )
    new: Arrays = {}
    for name, shape, maps in _parameters(spec):
        tensor = found[names[name]]
        assert tensor.floats is not None
        value = tensor.floats()
        if maps:
            height, width, channels = maps
            value = value.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        new[name] = np.array(value, np.float32, order="C").reshape(shape)
        if not np.isfinite(new[name]).all():
            raise CheckpointError(f"{name} is not finite everywhere.")
    return new


def theirs(spec: NetSpec, params: Mapping[str, Floats]) -> Arrays:
    """Our parameters in the axis order of other programs; the inverse of `ours`."""
    shapes = foreign_shapes(spec)
    new: Arrays = {}
    for name, _, maps in _parameters(spec):
        value = params[name]
        if maps:
            value = value.reshape(-1, *maps).transpose(0, 3, 1, 2)
        new[name] = np.ascontiguousarray(value).reshape(shapes[name])
    return new

"""An AlexNet's parameters in other programs' layout, and conversion to ours and back.

They put the channels first: filters are (K, C / groups, R, S), and the columns of a linear layer
that reads maps run over (C, H, W). Ours are KRSC and (H, W, C).
"""

from __future__ import annotations

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
from pyalexnet.files import contents, refusing, shown
from pyalexnet.nets.layers import Linear
from pyalexnet.step.net import NetSpec

Floats = npt.NDArray[np.float32]
Arrays = dict[str, Floats]

LARGEST = 2**30
"""Largest file that is read, in bytes: four times the full network."""


@dataclass(frozen=True, eq=False)
class Found:
    """The contents of another program's file, in our terms.

    Attributes:
        spec: the network of the parameters.
        net_args: arguments of `nets.alexnet`, besides the number of classes, that make it.
        params: by our names, in our shapes.
        mean: (Hs, Ws, 3) float32, RGB, grey levels: what that program subtracts.
        notes: sentences on what the file left open.
        classes: according to the file; None: it does not say.
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

    Attributes:
        shape: its axes.
        kind: that program's name of its type, for messages.
        floats: makes a float32 array of it; None: it does not hold floats.
    """

    shape: Shape
    kind: str
    floats: Callable[[], Floats] | None


def read(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        CheckpointError: it is not a regular file, is empty, cannot be read, or is larger than
            `LARGEST`.
    """
    with refusing(CheckpointError, path, "read", ValueError):
        return contents(path, LARGEST)


def _parameters(spec: NetSpec) -> Iterator[tuple[str, Shape, Shape]]:
    """Each parameter's name, its shape here, and the (H, W, C) of its filters or columns.

    The last is () where there are no channels to move.
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


def check(path: Path, found: Mapping[str, Shape], spec: NetSpec, names: Mapping[str, str]) -> None:
    """Refuse shapes that are not those of `spec`, before anything is allocated for them.

    found: by the file's names. names: the file's names by ours.

    Raises:
        CheckpointError: a parameter is missing or of another shape, or all are too large.
    """
    expected = foreign_shapes(spec)
    for name, shape in expected.items():
        theirs = names[name]
        if theirs not in found:
            raise CheckpointError(f"{shown(path)}: {theirs} is missing; it was expected.")
        if tuple(found[theirs]) != shape:
            raise CheckpointError(
                f"{shown(path)}: {theirs} has shape {tuple(found[theirs])}; {shape} was expected."
            )
    if 4 * sum(math.prod(shape) for shape in expected.values()) > LARGEST:
        raise CheckpointError(
            f"{shown(path)}: says that it has {spec.classes} classes, which takes more than "
            f"{LARGEST} bytes."
        )


def ours(path: Path, spec: NetSpec, params: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Parameters by our names, converted from another program's axis order to ours, in float32.

    Raises:
        CheckpointError: a number is not finite.
    """
    new: Arrays = {}
    for name, shape, maps in _parameters(spec):
        value = params[name]
        if maps:
            height, width, channels = maps
            value = value.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        new[name] = np.array(value, np.float32, order="C").reshape(shape)
        if not np.isfinite(new[name]).all():
            raise CheckpointError(f"{shown(path)}: {name} is not finite everywhere.")
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

"""How far products lie from float64: every layer and pass, at each precision that is float32.

At the network's full size, on standard normal numbers, few images. An error is counted in units of
2^-24 (half a place of a float32), once of the sum of the absolute products, the worst element, and
once of the result itself, in the Frobenius norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pyalexnet.backends import Backend
from pyalexnet.backends.geometry import ConvGeometry
from pyalexnet.net import NetSpec

from . import cases
from .cases import Arrays, Case
from .gate import first_outputs
from .reference import ReferenceBackend

IMAGES = 2
WAYS = {"fp32": False, "fp32x3": True}
"""By precision, what the operations' `tensor` is."""

_UNIT = 2.0**-24


@dataclass(frozen=True)
class Error:
    """Of one operation in one precision, in units: the worst element's, and the norm's."""

    worst: float
    norm: float


@dataclass(frozen=True)
class Row:
    """A layer's pass. terms: of a sum. errors: by precision."""

    name: str
    terms: int
    errors: dict[str, Error]


def rows(backend: Backend, spec: NetSpec) -> Iterator[Row]:
    """Every convolution and linear layer of a network, pass by pass."""
    for case in cases.of(spec, IMAGES):
        if case.op.startswith(("conv_", "linear_")):
            yield _row(backend, case)


def _row(backend: Backend, case: Case) -> Row:
    arrays = case.arrays()
    exact = _exact(case, arrays)
    sizes = _exact(case, {name: abs(array) for name, array in arrays.items()})
    errors = {}
    for precision, tensor in WAYS.items():
        (found, *_) = first_outputs(backend, _plain(case, tensor), arrays)
        off = abs(found - exact)
        errors[precision] = Error(
            float(np.max(off / sizes)) / _UNIT,
            float(np.linalg.norm(off) / np.linalg.norm(exact)) / _UNIT,
        )
    return Row(case.name, round(case.flops / 2 / exact.size), errors)


def _plain(case: Case, tensor: bool) -> Case:
    """The product alone: an activation would hide the errors of what it makes 0."""
    settings = {name: value for name, value in case.settings.items() if name != "activation"}
    outputs, flops = case.outputs, case.flops
    about = (case.name, case.net, case.batch, case.op, case.inputs)
    return Case(*about, settings | {"tensor": tensor}, outputs, flops)


def _exact(case: Case, arrays: Arrays) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The first output in float64, which nothing rounds."""
    shape, *others = case.outputs.values()
    y, reference = np.zeros(shape), ReferenceBackend()
    kind, _, pass_ = case.op.partition("_")
    where = [case.settings[name] for name in ("stride", "pad", "groups") if kind == "conv"]
    g = [ConvGeometry.of(case.op, *where)] if where else []
    run = getattr(reference, f"_{case.op}")
    if pass_ == "fprop":
        run(arrays["x"], arrays["w"], arrays["b"], y, *g, None, 1, None, False)
    elif pass_ == "dgrad":
        run(arrays["dy"], arrays["w"], None, 1.0, y, *g, False)
    else:
        run(arrays["x"], arrays["dy"], y, np.zeros(others[0]), *g, False)
    return y


def document(backend: Backend, spec: NetSpec) -> str:
    """The table."""
    names = [f"{name}: {what}" for what in ("worst", "norm") for name in WAYS]
    lines = [
        f"# Errors of {spec.name}'s products, {IMAGES} images, on {backend.name}",
        "",
        "In units of 2^-24: of the worst element, of the sum of its absolute products; of all, of",
        "the result, in the Frobenius norm.",
        "",
        f"| layer | terms | {' | '.join(names)} |",
        f"| --- | ---: |{' ---: |' * len(names)}",
    ]
    for row in rows(backend, spec):
        errors = [row.errors[name] for name in WAYS]
        numbers = [*(one.worst for one in errors), *(one.norm for one in errors)]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{row.name} gives what is not finite.")
        shown = " | ".join(f"{number:.2f}" for number in numbers)
        lines.append(f"| {row.name} | {row.terms:,} | {shown} |")
    return "\n".join(lines) + "\n"

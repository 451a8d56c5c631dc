"""How far products are from float64: every layer and pass, in each float32 arithmetic.

At the network's full size, on standard normal numbers, few images. Errors are in units of 2^-24
(half a place of a float32): relative to the sum of the absolute products, the worst element's and
the mean; and relative to the result, in the Frobenius norm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

import pyalexnet
from pyalexnet.backends import Backend
from pyalexnet.nets.spec import NetSpec

from . import cases, oracle
from .cases import Arrays, Case
from .gate import first_outputs
from .oracle import Exact

IMAGES = 2
Arithmetics: TypeAlias = Mapping[str, tuple[Backend, bool]]
"""By name: the backend, and the `tensor` argument of its operations."""

_UNIT = 2.0**-24


@dataclass(frozen=True)
class Error:
    """Errors of an operation in one arithmetic, in units: the worst, the mean, and the norm's."""

    worst: float
    mean: float
    norm: float


@dataclass(frozen=True)
class PassErrors:
    """A layer's pass. terms: of a sum. errors: by arithmetic."""

    name: str
    terms: int
    errors: dict[str, Error]


def of_kernels(backend: Backend) -> Arithmetics:
    """Each of a GPU's two arithmetic units."""
    return {"fp32": (backend, False), "fp32x3": (backend, True)}


def of_cpu(backend: Backend) -> Arithmetics:
    """As the formula says, and with Winograd's algorithm where the backend uses it."""
    exact = pyalexnet.backend(backend.name, backend.device, exact=True)
    return {"exact": (exact, False), "Winograd": (backend, False)}


def rows(arithmetics: Arithmetics, spec: NetSpec) -> Iterator[PassErrors]:
    """Every convolution and linear layer of a network by pass; then those that read blocks."""
    blocks = (one for one in cases.fused(spec, IMAGES, "fp32") if one.name.endswith("in blocks"))
    for case in (*cases.of(spec, IMAGES), *blocks):
        if case.op.startswith(("conv_", "linear_")):
            yield _row(arithmetics, case)


def _row(arithmetics: Arithmetics, case: Case) -> PassErrors:
    arrays = case.arrays()
    exact = _exact(case, arrays)
    errors = {}
    for name, (backend, tensor) in arithmetics.items():
        (found, *_) = first_outputs(backend, _plain(case, tensor), arrays)
        off = abs(found - exact.value)
        errors[name] = Error(
            float(np.max(off / exact.magnitude)) / _UNIT,
            float(np.mean(off / exact.magnitude)) / _UNIT,
            float(np.linalg.norm(off) / np.linalg.norm(exact.value)) / _UNIT,
        )
    return PassErrors(case.name, round(case.flops / 2 / exact.value.size), errors)


def _plain(case: Case, tensor: bool) -> Case:
    """The product alone: an activation would hide the errors of elements that it makes 0."""
    settings = {name: value for name, value in case.settings.items() if name != "activation"}
    outputs, flops = case.outputs, case.flops
    about = (case.name, case.net, case.batch, case.op, case.inputs)
    return Case(*about, settings | {"tensor": tensor}, outputs, flops)


def _exact(case: Case, arrays: Arrays) -> Exact:
    """The first output in float64, never rounded."""
    names = ("stride", "pad", "groups", "x_shape", "w_shape")
    how = {name: case.settings[name] for name in names if name in case.settings}
    found = getattr(oracle, case.op)(*arrays.values(), **how)
    return found if isinstance(found, Exact) else found[0]


def document(arithmetics: Arithmetics, spec: NetSpec) -> str:
    """The table."""
    kinds = [field.name for field in dataclasses.fields(Error)]
    names = [f"{name}: {kind}" for kind in kinds for name in arithmetics]
    on = ", ".join(dict.fromkeys(backend.name for backend, _ in arithmetics.values()))
    lines = [
        f"# Errors of {spec.name}'s products, {IMAGES} images, on {on}",
        "",
        "In units of 2^-24: of the worst element and in the mean, of the sum of its absolute",
        "products; of all, of the result, in the Frobenius norm.",
        "",
        f"| layer | terms | {' | '.join(names)} |",
        f"| --- | ---: |{' ---: |' * len(names)}",
    ]
    for row in rows(arithmetics, spec):
        numbers = [getattr(row.errors[name], kind) for kind in kinds for name in arithmetics]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{row.name} gives a result that is not finite.")
        shown = " | ".join(f"{number:.2f}" for number in numbers)
        lines.append(f"| {row.name} | {row.terms:,} | {shown} |")
    return "\n".join(lines) + "\n"

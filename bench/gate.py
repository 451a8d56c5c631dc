"""The gate before the stopwatch: an operation with a wrong answer is reported, and not timed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends import Backend

from .cases import Arrays, Case
from .reference import ReferenceBackend

# Largest relative error (Frobenius norm) by precision; what only chooses numbers has to be exact.
TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}
_POISON = 113


class Call:
    """A case on a backend: its arrays on the device, its outputs allocated once.

    `run` calls the operation; an update goes on from where the last one ended.
    """

    def __init__(self, backend: Backend, case: Case, arrays: Arrays) -> None:
        self._backend = backend
        self._case = case
        self._inputs = [backend.asarray(array.copy()) for array in arrays.values()]
        self._settings = dict(case.settings)
        first = self.run()
        if case.op != "sgd_update":
            self._settings["out"] = first[0] if len(first) == 1 else first

    def run(self) -> tuple[Any, ...]:
        """Call the operation once; its outputs, arrays of the device."""
        got = getattr(self._backend, self._case.op)(*self._inputs, **self._settings)
        if got is None:
            return tuple(self._inputs[:2])  # the update's w and v
        return got if isinstance(got, tuple) else (got,)

    def poison(self) -> None:
        """Spoil the outputs, so that an element that is not written shows."""
        for array in self.held():
            array.fill(np.nan if array.dtype.kind == "f" else _POISON)

    def held(self) -> tuple[Any, ...]:
        """The arrays that outputs are written to, as the last call left them."""
        out = self._settings.get("out", ())
        return out if isinstance(out, tuple) else (out,)

    def outputs(self) -> tuple[NDArray[Any], ...]:
        """Outputs of one call on the host, as copies."""
        return tuple(np.array(self._backend.to_numpy(one)) for one in self.run())


def check(backend: Backend, case: Case, arrays: Arrays, precision: str = "fp32") -> str | None:
    """What is wrong with a backend's answer to a case; None where nothing is.

    At the case's own size: some images against float64 (sums over the batch with the gradient of
    all other images 0), no element left unwritten, none that is not finite, the same bits twice.
    """
    probes = sorted({0, case.batch // 2, case.batch - 1})
    if case.op == "softmax_cross_entropy":
        probes = list(range(case.batch))  # the loss is a mean over all
    ours, exact = _probe(backend, case, arrays, probes)
    for name, mine, true in zip(case.outputs, ours, exact, strict=True):
        if wrong := difference(name, mine, true, TOLERANCE[precision]):
            return f"{wrong}, in float64"
    return _unstable(backend, case, arrays)


def difference(name: str, mine: NDArray[Any], true: NDArray[Any], tolerance: float) -> str | None:
    """How far an output lies from what is true, in words; None within the tolerance."""
    if mine.shape != true.shape:
        return f"{name} has shape {mine.shape}; {true.shape} was due"
    if mine.dtype.kind in "iu":
        count = int((mine != true).sum())
        return f"{name} has {count} wrong elements of {mine.size}" if count else None
    error, scale = _norm(mine - true), _norm(true)
    relative = error / scale if scale else error
    if relative <= tolerance:
        return None
    return f"{name} is off by {relative:.1e} of its norm; at most {tolerance:.0e} was due"


def _probe(
    backend: Backend, case: Case, arrays: Arrays, probes: list[int]
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Outputs of the whole case and in float64, both of the probed images alone."""
    whole, few = dict(arrays), _images(case, arrays, probes)
    if case.sums_images:
        whole["dy"] = np.zeros_like(arrays["dy"])
        whole["dy"][probes] = arrays["dy"][probes]
    call = Call(backend, case, whole)
    call.poison()
    # An update has no `out`; its first call has happened already.
    ours = call.outputs() if case.op != "sgd_update" else first_outputs(backend, case, arrays)
    named = _images(case, dict(zip(case.outputs, ours, strict=True)), probes)
    if case.op == "dropout_fprop":
        return list(named.values()), [_dropped(case, arrays, probes)]
    small = case
    if "x_shape" in case.settings:
        shape = (len(probes), *case.settings["x_shape"][1:])
        small = dataclasses.replace(case, settings={**case.settings, "x_shape": shape})
    return list(named.values()), list(first_outputs(ReferenceBackend(), small, few))


def first_outputs(backend: Backend, case: Case, arrays: Arrays) -> tuple[NDArray[Any], ...]:
    """Outputs of one call on fresh copies of the arrays, on the host."""
    inputs = [backend.asarray(array.copy()) for array in arrays.values()]
    got = getattr(backend, case.op)(*inputs, **case.settings)
    if got is None:
        got = tuple(inputs[:2])  # the update's w and v
    each = got if isinstance(got, tuple) else (got,)
    return tuple(np.array(backend.to_numpy(one)) for one in each)


def _dropped(case: Case, arrays: Arrays, probes: list[int]) -> NDArray[Any]:
    """The probed images with their own masks, which depend on their places in the batch."""
    features = int(np.prod(arrays["x"].shape[1:]))
    total = case.batch * features
    rows = []
    for image in probes:
        settings = {**case.settings, "offset": image * features, "total": total}
        rows.append(ReferenceBackend().dropout_fprop(arrays["x"][image : image + 1], **settings))
    return np.concatenate(rows)


def _images(case: Case, arrays: Mapping[str, NDArray[Any]], probes: list[int]) -> Arrays:
    return {
        name: array[probes] if name in case.per_image else array for name, array in arrays.items()
    }


def _unstable(backend: Backend, case: Case, arrays: Arrays) -> str | None:
    """Whether two calls on equal arguments differ, or give what is not finite."""
    if case.op == "sgd_update":
        first, second = (first_outputs(backend, case, arrays) for _ in range(2))
    else:
        call = Call(backend, case, arrays)
        first = call.outputs()
        call.poison()
        second = call.outputs()
    for name, one, other in zip(case.outputs, first, second, strict=True):
        if not np.isfinite(one).all():
            return f"{name} has elements that are not finite"
        if one.tobytes() != other.tobytes():
            return f"{name} differs between two calls on the same arrays"
    return None


def _norm(x: NDArray[Any]) -> float:
    """The Frobenius norm, summed in float64."""
    flat = x.ravel()
    squares = np.einsum("i,i->", flat, flat, dtype=np.float64, casting="same_kind")
    return math.sqrt(float(squares))

"""The gate before the stopwatch: an operation with a wrong answer is reported, and not timed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends import Backend
from pyalexnet.ops.elements import BFLOAT16, ELEMENTS

from .cases import Arrays, Case
from .oracle import joined
from .reference import ReferenceBackend

# Largest relative error (Frobenius norm) of a peer by its precision; operations that only select
# numbers have to be exact.
TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}
# Ours, whose inputs count as exact: a bfloat16 result has been rounded once, by half a unit of its
# 8 bits; a float32 one is a sum of exact products in any precision. Tensor cores cut sums of bf16
# products, towards zero: for each product by 1/32 of the last place, at most 2^-23 of the sum.
ROUNDED = 2.0**-8
SUMMED = TOLERANCE["fp32"]
CUT = 2.0**-28
_POISON = 0xFF  # NaN in both types of float


class Call:
    """A case on a backend: its arrays on the device, its outputs allocated once.

    `run` calls the operation; an update continues from where the last one ended.
    """

    def __init__(self, backend: Backend, case: Case, arrays: Arrays) -> None:
        self._backend = backend
        self._case = case
        inputs = {name: backend.asarray(array.copy()) for name, array in arrays.items()}
        self._changed = tuple(inputs[name] for name in changed(case)) if case.in_place else ()
        self._arguments = case.arguments(inputs)
        first = self.run()
        if not case.in_place:
            self._arguments["out"] = first[0] if len(first) == 1 else first

    def run(self) -> tuple[Any, ...]:
        """Call the operation once; its outputs, arrays of the device."""
        got = getattr(self._backend, self._case.op)(**self._arguments)
        if got is None:
            return self._changed
        return got if isinstance(got, tuple) else (got,)

    def poison(self) -> None:
        """Overwrite the outputs, so that an element that is not written shows."""
        for array in self.held():
            array.reshape(-1).view(np.uint8).fill(_POISON)

    def held(self) -> tuple[Any, ...]:
        """The arrays that outputs are written to, as the last call left them."""
        out = self._arguments.get("out", ())
        return out if isinstance(out, tuple) else (out,)

    def outputs(self) -> tuple[NDArray[Any], ...]:
        """Outputs of one call on the host, as copies."""
        got = [np.array(self._backend.to_numpy(one)) for one in self.run()]
        return _whole(self._case, got) if self._case.in_place else tuple(got)


def changed(case: Case) -> tuple[str, ...]:
    """The inputs that a case changes: its outputs, and the lower halves of weights among them."""
    return (*case.outputs, *(name for name in case.inputs if name.endswith("low")))


def _whole(case: Case, arrays: list[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """The outputs from the changed arrays, with the halves of weights joined."""
    found = dict(zip(changed(case), arrays, strict=True))
    halves = {"low": "w", "w.low": "w"}
    for low, high in halves.items():
        if low in found:
            found[high] = joined(found[high], found[low])
    return tuple(found[name] for name in case.outputs)


def check(backend: Backend, case: Case, arrays: Arrays) -> str | None:
    """What is wrong with a backend's answer to a case, or None.

    At the case's own size: some images against float64 (sums over the batch with the gradient of
    all other images 0), no element left unwritten, none that is not finite, the same bits twice.
    """
    probes = sorted({0, case.batch // 2, case.batch - 1})
    if case.op in ("softmax_cross_entropy", "augment"):
        probes = list(range(case.batch))  # the loss is a mean over all, and each has its corner
    ours, exact = _probe(backend, case, arrays, probes)
    for name, mine, true in zip(case.outputs, ours, exact, strict=True):
        tolerance = ROUNDED if mine.dtype == BFLOAT16 else _summed(case, len(probes))
        if wrong := difference(name, widened(mine), true, tolerance):
            return f"{wrong}, in float64"
    return _unstable(backend, case, arrays)


def _summed(case: Case, images: int) -> float:
    """How far sums in float32 may be off, where only some images count."""
    if case.precision != "bf16":
        return SUMMED
    terms = case.flops / 2 / math.prod(next(iter(case.outputs.values())))
    return SUMMED + CUT * terms * (images / case.batch if case.sums_images else 1)


def widened(x: NDArray[Any]) -> NDArray[Any]:
    """bfloat16 as float32, any other type unchanged."""
    return x.astype(np.float32) if x.dtype in ELEMENTS else x


def difference(name: str, mine: NDArray[Any], true: NDArray[Any], tolerance: float) -> str | None:
    """How far an output is from the true one, in words; None within the tolerance."""
    if mine.shape != true.shape:
        return f"{name} has shape {mine.shape}; {true.shape} was expected"
    if mine.dtype.kind in "iu" and true.dtype.kind in "iu":
        count = int((mine != true).sum())
        return f"{name} has {count} wrong elements of {mine.size}" if count else None
    error, scale = _norm(mine - true), _norm(true)
    relative = error / scale if scale else error
    if relative <= tolerance:
        return None
    return f"{name} is off by {relative:.1e} of its norm; at most {tolerance:.0e} was expected"


def _probe(
    backend: Backend, case: Case, arrays: Arrays, probes: list[int]
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Outputs for the probed images only: of a call on the whole case, and in float64."""
    whole = dict(arrays)
    if case.sums_images:
        whole["dy"] = np.zeros_like(arrays["dy"])
        whole["dy"][probes] = arrays["dy"][probes]
    if case.in_place:
        ours = first_outputs(backend, case, whole)  # such a call has no `out` to overwrite
    else:
        call = Call(backend, case, whole)
        call.poison()
        ours = call.outputs()
    named = _images(case, dict(zip(case.outputs, ours, strict=True)), probes)
    few = _images(case, arrays, probes)
    exact = _exact(case, few, probes)
    if case.op == "lrn_maxpool_fprop":
        # Two maxima may be closer than float32 can tell: either place is right if it holds one.
        named["where"], exact["where"] = (
            _found(case, few["x"], where) for where in (named["where"], exact["where"])
        )
    return list(named.values()), list(exact.values())


def first_outputs(backend: Backend, case: Case, arrays: Arrays) -> tuple[NDArray[Any], ...]:
    """Outputs of one call on fresh copies of the arrays, on the host."""
    inputs = {name: backend.asarray(array.copy()) for name, array in arrays.items()}
    got = getattr(backend, case.op)(**case.arguments(inputs))
    if got is None:
        left = [np.array(backend.to_numpy(inputs[name])) for name in changed(case)]
        return _whole(case, left)
    each = got if isinstance(got, tuple) else (got,)
    return tuple(np.array(backend.to_numpy(one)) for one in each)


def _exact(case: Case, few: Arrays, probes: list[int]) -> Arrays:
    """The outputs for the probed images in float64, from the inputs as they are, unrounded."""
    wide = {name: widened(array) for name, array in few.items()}
    if case.op == "join_weights":
        wide = few
    for low in ("low", "w.low"):
        if low in wide and "w" in wide:
            wide["w"] = joined(few["w"], wide.pop(low))
    settings = {name: value for name, value in case.settings.items() if name != "dtype"}
    inputs = {name: shape for name, shape in case.inputs.items() if name in wide}
    small = dataclasses.replace(case, inputs=inputs, settings=settings, batch=len(probes))
    if "x_shape" in settings:
        settings["x_shape"] = (len(probes), *settings["x_shape"][1:])
    if not case.drops:
        got = first_outputs(ReferenceBackend(), small, wide)
        return dict(zip(case.outputs, got, strict=True))
    rows = []
    for row, image in enumerate(probes):  # masks depend on the place in the batch
        one = dataclasses.replace(small, settings=_at_image(case, image))
        alone = _images(case, wide, [row])
        rows.append(first_outputs(ReferenceBackend(), one, alone)[0])
    return {name: np.concatenate(rows) for name in case.outputs}


def _at_image(case: Case, image: int) -> dict[str, Any]:
    """The settings that give a single image the mask it has within the batch."""
    mask = case.settings.get("dropout")
    if mask is None:
        return {**case.settings, "first": image}
    return {**case.settings, "dropout": mask._replace(first=image)}


def _found(case: Case, x: NDArray[Any], where: NDArray[Any]) -> NDArray[Any]:
    """The values at the places where an operation reports its maxima; NaN outside of the map."""
    names = ("size", "alpha", "beta", "k", "groups")
    normed = ReferenceBackend().lrn_fprop(widened(x), **{n: case.settings[n] for n in names})
    size, stride = case.settings["pool_size"], case.settings["pool_stride"]
    n, p, q, c = np.ix_(*map(range, where.shape))
    rows, columns = p * stride + where // size, q * stride + where % size
    inside = (rows < x.shape[1]) & (columns < x.shape[2]) & (where < size * size)
    at = (n, np.minimum(rows, x.shape[1] - 1), np.minimum(columns, x.shape[2] - 1), c)
    return np.where(inside, normed[at], np.float32(np.nan))


def _images(case: Case, arrays: Mapping[str, NDArray[Any]], probes: list[int]) -> Arrays:
    return {
        name: array[probes] if name in case.per_image else array for name, array in arrays.items()
    }


def _unstable(backend: Backend, case: Case, arrays: Arrays) -> str | None:
    """Whether two calls on equal arguments differ, or give results that are not finite."""
    if case.in_place:
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

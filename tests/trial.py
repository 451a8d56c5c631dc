"""The one way to run an op, so that every test of values also tests how it treats its arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.nets.calls import Plan, Step
from pyalexnet.nets.layers import Layer
from pyalexnet.ops.records import Learned
from pyalexnet.step.program import Program
from samples import garbage
from tolerance import same_bits

Array = NDArray[Any]
LARGE = 100_000
"""Elements of all arrays of a call, which take the emulation a second."""


def alone(
    be: Any, layer: Layer, x: Array, dy: Array, params: dict[str, Array] | None = None
) -> tuple[Array, Array, dict[str, Array]]:
    """A layer's output for the batch `x`, the gradient of `x`, and those of its parameters."""
    step = Step()
    given = {"x": x, **(params or {})}
    for name, value in given.items():
        if name != "x":
            step.parameter(name, value.shape)
    y = layer.forward(step, step.array("x", x.shape[1:]))
    layer.backward(step, "x", y, step.new_grad(y))
    plan = Plan(tuple(step.calls), step.arrays, "images", {layer.name: (y,)})
    placed = {name: place(be, value) for name, value in given.items()}
    steps = (be.zeros((), np.uint32),)
    program = Program(plan, (be,), len(x), given=placed, steps=steps, seed=0)
    be.assign(program.arrays[step.grads[y]], dy)
    program.run()
    found = {name: be.to_numpy(array) for name, array in program.arrays.items()}
    grads = {name: found[f"{name}.grad"] for name in given if name != "x"}
    return found[y], found["x.grad"], grads


def run(be: Any, op: str, *inputs: Any, **parameters: Any) -> tuple[Array, ...]:
    """Results of an op that returns new arrays, as a tuple of NumPy arrays, even if there is one.

    The op runs twice, first into arrays of its own, then into `out=` filled with garbage. Both runs
    must give the same bits, the second must return `out` itself, and no input may change. Under the
    checker it runs once: there any output is unreadable before it is written, and sim has the same
    kernels. So it does on sim if the arrays are large: smaller ones have shown the same.

    Args:
        be: the backend.
        op: the op's name.
        inputs: NumPy arrays, lists of them, or None, in the op's order.
        parameters: its keyword arguments; NumPy arrays are placed on the device like the inputs.
    """
    method = getattr(be, op)
    placed = [place(be, one) for one in inputs]
    parameters = {
        name: place(be, one) if isinstance(one, np.ndarray) else one
        for name, one in parameters.items()
    }
    first = [be.to_numpy(y) for y in as_tuple(method(*placed, **parameters))]
    size = sum(array.size for one in (*inputs, first) for array in arrays_of(one))
    if be.name != "simcheck" and (be.name != "sim" or size < LARGE):
        _again(be, method, placed, parameters, first)
    for one, where in zip(inputs, placed, strict=True):
        assert_unchanged(be, op, one, where)
    return tuple(first)


def _again(
    be: Any, method: Any, placed: list[Any], parameters: dict[str, Any], first: list[Array]
) -> None:
    """Run the op into `out=`."""
    op = method.__name__
    buffers = tuple(be.asarray(garbage(y)) for y in first)
    out = buffers if len(buffers) > 1 else buffers[0]
    returned = as_tuple(method(*placed, **parameters, out=out))
    for mine, theirs, before in zip(buffers, returned, first, strict=True):
        assert theirs is mine, f"{op} did not return the array given as out"
        again = be.to_numpy(mine)
        assert same_bits(again, before), f"{op} gave other bits the second time, into out"


def place(be: Any, one: Any) -> Any:
    """A private copy of an input on the backend's device; also of lists, Learned and None."""
    if one is None:
        return None
    if isinstance(one, list):
        return [place(be, part) for part in one]
    if isinstance(one, Learned):
        return one._replace(w=place(be, one.w), v=place(be, one.v), low=place(be, one.low))
    return be.asarray(np.array(one))


def assert_unchanged(be: Any, op: str, one: Any, where: Any) -> None:
    """Check that an input on the device still holds its original values."""
    if isinstance(one, list):
        for part, there in zip(one, where, strict=True):
            assert_unchanged(be, op, part, there)
    elif one is not None:
        assert same_bits(be.to_numpy(where), np.asarray(one)), f"{op} changed an input"


def arrays_of(one: Any) -> Iterator[Any]:
    """Every array of an input, or of a list of inputs."""
    if isinstance(one, list):
        for part in one:
            yield from arrays_of(part)
    elif isinstance(one, Learned):
        yield from arrays_of([one.w, one.v, one.low])
    elif one is not None:
        yield one


def as_tuple(result: Any) -> tuple[Any, ...]:
    """An op's result as a tuple."""
    return result if isinstance(result, tuple) else (result,)

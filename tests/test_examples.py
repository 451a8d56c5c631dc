"""What holds for every op alike: none is forgotten, and the order of threads changes no bit."""

from __future__ import annotations

from typing import Any

import pytest

from examples import EXAMPLES, RETURNING, Example
from pyalexnet.backends import Backend
from samples import garbage
from tolerance import same_bits
from trial import run
from variants import EMULATED

ARRAYS = {"asarray", "to_numpy", "empty", "zeros", "synchronize", "workspace"}


def test_every_op_has_an_example() -> None:
    methods = {name for name in vars(Backend) if callable(getattr(Backend, name))}
    assert {name for name in methods if not name.startswith("_")} - ARRAYS == set(EXAMPLES)


@pytest.mark.parametrize("example", RETURNING, ids=str)
@pytest.mark.parametrize("be", EMULATED, indirect=True)
def test_the_order_of_threads_changes_no_bit(be: Any, example: Example) -> None:
    """Blocks and threads of a kernel may run in any order; its sums may not."""
    results = []
    for seed in range(4):
        be.set_schedule(seed)
        results.append(run(be, example.op, *example.inputs.values(), **example.parameters))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize("example", RETURNING, ids=str)
def test_read_only_inputs_will_do(be: Any, example: Example) -> None:
    """A memory-mapped file, a frozen array: an op that changes no input must take them."""
    frozen = [freeze(be, value) for value in example.inputs.values()]
    getattr(be, example.op)(*frozen, **example.parameters)


@pytest.mark.parametrize("example", RETURNING, ids=str)
def test_views_that_begin_anywhere(be: Any, example: Example) -> None:
    """One element into an allocation, where no 16-byte load may begin; inputs and outputs."""
    method, inputs = getattr(be, example.op), list(example.inputs.values())
    expected = run(be, example.op, *inputs, **example.parameters)
    out = tuple(shifted(be, garbage(y)) for y in expected)
    placed = [shifted(be, value) for value in inputs]
    method(*placed, **example.parameters, out=out if len(out) > 1 else out[0])
    for y, before in zip(out, expected, strict=True):
        assert same_bits(be.to_numpy(y), before)


def shifted(be: Any, value: Any) -> Any:
    """The array on the device, one element past the beginning of its memory."""
    if isinstance(value, list):
        return [shifted(be, one) for one in value]
    memory = be.empty((value.size + 1,), value.dtype)
    view = memory[1:].reshape(value.shape)
    view[...] = be.asarray(value)
    return view


def freeze(be: Any, value: Any) -> Any:
    """An input on the device, read-only where the device's arrays know that."""
    if isinstance(value, list):
        return [freeze(be, one) for one in value]
    array = be.asarray(value.copy())
    if hasattr(array.flags, "writeable"):
        array.flags.writeable = False
    return array

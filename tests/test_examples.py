"""Properties of all ops: none is forgotten, and the order of threads changes no bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest

from cases import ALIGNED, EXAMPLES, OF_EACH_ELEMENT, TO_THE_ENDS, Call
from pyalexnet.backends import Backend
from pyalexnet.errors import ArgumentError
from samples import garbage
from tolerance import same_bits
from trial import run
from variants import EMULATED

pytestmark = pytest.mark.every(3)

# Methods that are not ops: for arrays, and for what is enqueued where.
ARRAYS = {
    *("asarray", "to_numpy", "empty", "zeros", "copy", "workspace", "lane", "assign"),
    *("same_memory", "checked_labels", "synchronize", "record", "aside", "begin"),
}


def test_every_op_is_in_the_table() -> None:
    methods = {name for name in dir(Backend) if callable(getattr(Backend, name))}
    ops = {name for name in methods if not name.startswith("_")} - ARRAYS
    ends = {call.op for call in TO_THE_ENDS}
    for what, found in (("an example", set(EXAMPLES)), ("a call to the ends", ends)):
        lacking = ", ".join(sorted(ops - found))
        assert not lacking, f"without {what} in cases.py: {lacking}"
    assert set(EXAMPLES) == ops == {call.op for call in TO_THE_ENDS}


@pytest.mark.parametrize("example", OF_EACH_ELEMENT)
@pytest.mark.parametrize("be", EMULATED, indirect=True)
def test_the_order_of_threads_changes_no_bit(be: Any, example: Call) -> None:
    """A kernel's blocks and threads may run in any order; its sums have a fixed order."""
    results = []
    for seed in range(4):
        be.set_schedule(seed)
        results.append(run(be, example.op, *example.inputs.values(), **example.keywords(be)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize("example", OF_EACH_ELEMENT)
def test_read_only_inputs_will_do(be: Any, example: Call) -> None:
    """A memory-mapped file, a frozen array: an op that changes no input must accept them."""
    frozen = [freeze(be, value) for value in example.inputs.values()]
    getattr(be, example.op)(*frozen, **example.keywords(be))


@pytest.mark.parametrize("example", OF_EACH_ELEMENT)
def test_views_that_begin_anywhere(be: Any, example: Call) -> None:
    """Vectors are loaded only if all arrays are aligned: a single one may prevent it."""
    inputs = list(example.inputs.values())
    expected = run(be, example.op, *inputs, **example.keywords(be))
    arrays = sum(len(value) if isinstance(value, list) else 1 for value in inputs) + len(expected)
    for shifted in (set(range(arrays)), *({one} for one in range(arrays))):
        number = count()

        def put(value: Any, shifted: set[int] = shifted, number: Iterator[int] = number) -> Any:
            if isinstance(value, list):
                return [put(one) for one in value]
            return view(be, value, offset=int(next(number) in shifted))

        placed, out = [put(value) for value in inputs], tuple(put(garbage(y)) for y in expected)
        call = partial(getattr(be, example.op), *placed, **example.keywords(be))
        if example.op in ALIGNED:
            with pytest.raises(ArgumentError, match="begins at an address that is no multiple of"):
                call(out=out if len(out) > 1 else out[0])
            continue
        call(out=out if len(out) > 1 else out[0])
        for y, before in zip(out, expected, strict=True):
            assert same_bits(be.to_numpy(y), before)


def view(be: Any, value: Any, offset: int) -> Any:
    """The array on the device, this many elements past the beginning of its memory."""
    memory = be.empty((value.size + offset,), value.dtype)
    array = memory[offset:].reshape(value.shape)
    array[...] = be.asarray(value)
    return array


def freeze(be: Any, value: Any) -> Any:
    """An input on the device, read-only if the device's arrays support that."""
    if isinstance(value, list):
        return [freeze(be, one) for one in value]
    array = be.asarray(value.copy())
    if hasattr(array.flags, "writeable"):
        array.flags.writeable = False
    return array

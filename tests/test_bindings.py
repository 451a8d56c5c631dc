"""The extension module called directly: whatever it accepts stays within its arrays.

The backends check arguments first, so these refusals are a second line of defence. They have to
hold on their own: a kernel with wrong sizes overwrites other memory, which the checker detects.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyalexnet
from cases import EXAMPLES, Call
from pyalexnet.errors import ArgumentError
from trial import place
from variants import SIMCHECK, parameters

CHECKED = pytest.mark.parametrize("be", parameters(SIMCHECK), indirect=True)
EACH_OP = pytest.mark.parametrize("example", EXAMPLES.values(), ids=str)
# What pybind11 and the bindings raise for invalid arguments. The checker's findings are
# RuntimeErrors.
REFUSED = (ValueError, TypeError)
Arguments = list[Any]
HERE = (0, 0, lambda nbytes: np.empty(nbytes, np.uint8))
"""Device 0, the default stream, and scratch."""


class Recorder:
    """Wraps an extension module and keeps the arguments of its last call."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.function: Any = None
        self.arguments: Arguments = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.module, name)

        def recording(*arguments: Any) -> Any:
            result = function(*arguments)  # which may make further calls, for its scratch
            self.function, self.arguments = function, list(arguments)
            return result

        return recording


def call_of(be: Any, example: Call, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Arguments]:
    """The extension's function behind an op, and arguments that it accepts."""
    recorder = Recorder(be._ext)
    monkeypatch.setattr(be, "_ext", recorder)
    inputs = [place(be, value) for value in example.inputs.values()]
    getattr(be, example.op)(*inputs, **example.parameters)
    monkeypatch.undo()
    return recorder.function, recorder.arguments


def replaced(arguments: Arguments, index: int, value: Any) -> Arguments:
    """The arguments with one of them replaced."""
    return [*arguments[:index], value, *arguments[index + 1 :]]


def arrays(arguments: Arguments) -> Iterator[tuple[np.ndarray[Any, Any], Any]]:
    """Every array among the arguments, and a function that replaces it."""
    for index, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray):
            yield argument, lambda other, i=index: replaced(arguments, i, other)
        elif isinstance(argument, (list, tuple)):
            for inner, array in enumerate(argument):
                if isinstance(array, np.ndarray):
                    yield array, partial(within, arguments, index, inner)


def within(arguments: Arguments, index: int, inner: int, value: Any) -> Arguments:
    """The arguments with one element of a list or a record replaced."""
    whole = arguments[index]
    changed = replaced(list(whole), inner, value)
    return replaced(arguments, index, changed if isinstance(whole, list) else tuple(changed))


@CHECKED
@EACH_OP
def test_arrays_of_another_kind_are_refused(
    be: Any, example: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, arguments = call_of(be, example, monkeypatch)
    for array, instead in arrays(arguments):
        swapped = array.dtype.newbyteorder() if array.itemsize > 1 else np.dtype(np.int8)
        bad = [be.asarray(array.astype(np.complex64)), be.asarray(array.astype(swapped))]
        if array.size > 1:
            bad.append(be.asarray(np.repeat(array[..., None], 2, axis=-1))[..., 0])
        for other in (*bad, object(), "x"):
            with pytest.raises(REFUSED):
                function(*instead(other))


@CHECKED
@EACH_OP
def test_arrays_of_other_sizes_are_refused_or_harmless(
    be: Any, example: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One element fewer and one more along each axis; one axis more and one fewer; none at all."""
    function, arguments = call_of(be, example, monkeypatch)
    refused = 0
    for array, instead in arrays(arguments):
        shapes = [(1, *array.shape), array.shape[1:]]
        for axis, length in enumerate(array.shape):
            for other in (0, length - 1, length + 1):
                shapes.append((*array.shape[:axis], other, *array.shape[axis + 1 :]))
        for shape in shapes:
            other_array = be.zeros(shape, array.dtype)
            try:
                function(*instead(other_array))
            except REFUSED:
                refused += 1
    assert refused > 0
    function(*arguments)  # the module still works after all the refusals


@CHECKED
@EACH_OP
def test_other_numbers_are_refused_or_harmless(
    be: Any, example: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strides, sizes, groups, offsets, and the number of the device."""
    function, arguments = call_of(be, example, monkeypatch)
    for number, instead in numbers(arguments):
        for other in (number - 1, number + 1, 0, -1, 2**31 - 1, 2**31, -(2**31), 2**63 - 1):
            try:
                function(*instead(other))
            except REFUSED:
                continue
    function(*arguments)


def numbers(arguments: Arguments) -> Iterator[tuple[int, Any]]:
    """Every integer among the arguments but the stream, and a function that replaces it."""
    for index, argument in enumerate(arguments):
        if isinstance(argument, int):
            yield argument, partial(replaced, arguments, index)
        elif isinstance(argument, tuple):
            for inner, number in enumerate(argument):
                if isinstance(number, int) and (index, inner) != (len(arguments) - 1, 1):
                    yield number, partial(within, arguments, index, inner)


@CHECKED
@pytest.mark.parametrize("op", ["softmax_cross_entropy", "rnorm_dgrad"])
@pytest.mark.parametrize(
    "handed",
    [
        lambda nbytes: None,
        lambda nbytes: np.empty(nbytes - 1, np.uint8),
        lambda nbytes: np.empty(nbytes, np.float32),
        lambda nbytes: np.empty((nbytes, 1), np.uint8),
        lambda nbytes: np.empty(2 * nbytes, np.uint8)[::2],
        lambda nbytes: np.empty(nbytes + 1, np.uint8)[1:],
        lambda nbytes: np.broadcast_to(np.uint8(0), nbytes),
    ],
)
def test_scratch_that_does_not_fit_is_refused(
    be: Any, op: str, handed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, (*arguments, (device, stream, _)) = call_of(be, EXAMPLES[op], monkeypatch)
    with pytest.raises(ValueError, match=rf"{op}: workspace "):
        function(*arguments, (device, stream, handed))


@CHECKED
@pytest.mark.parametrize(
    ("shape", "dtype"), [((2,), object), ((-1,), np.float32), ((2**40, 2**40), np.float32)]
)
def test_memory_that_cannot_be(be: Any, shape: tuple[int, ...], dtype: Any) -> None:
    with pytest.raises(ValueError, match="empty: "):
        be.empty(shape, dtype)


@pytest.mark.parametrize("size", [3, 17])
def test_a_forged_where_stays_within_the_image(be: Any, size: int) -> None:
    """`where` holds places outside the window, and outside the image in a clipped window."""
    x = be.zeros((1, size + 2, size + 1, 2))
    y, where = be.maxpool_fprop(x, size=size, stride=size)
    dy = be.asarray(np.ones(y.shape, np.float32))
    for place_named in (size * size - 1, size * size, np.iinfo(where.dtype).max):
        forged = be.asarray(np.full(where.shape, place_named, where.dtype))
        dx = be.maxpool_dgrad(dy, forged, x_shape=x.shape, size=size, stride=size)
        assert be.to_numpy(dx).sum() <= y.size


@pytest.fixture(params=["sim", "cpu"])
def module(request: pytest.FixtureRequest) -> Any:
    """The bindings alone."""
    backend: Any = pyalexnet.backend(request.param)
    return backend._ext


@pytest.mark.parametrize(
    ("stride", "pad", "towers", "what"),
    [
        (2**31 - 1, 0, 1, "rows that filters reach"),
        (1, 2**31 - 1, 1, "rows with padding"),
        (1, 0, 2**31 - 1, "filters of all towers"),
    ],
)
def test_more_than_the_kernels_can_count_is_refused(
    module: Any, stride: int, pad: int, towers: int, what: str
) -> None:
    """Counts are ints; one more would wrap around and read out of bounds."""
    x, w = np.zeros((1, 3, 3, 1), np.float32), np.zeros((1, 2, 2, 1), np.float32)
    y = np.empty((1, 2, 2, 1), np.float32)
    geometry = (stride, 1, pad, 0, 0, 0, 1)
    with pytest.raises(ValueError, match=rf"there are \d+ {what}"):
        module.conv_fprop(x, w, None, y, geometry, "fma", towers, None, None, HERE)


def test_more_outputs_of_all_towers_than_can_be_counted_are_refused(module: Any) -> None:
    x, w, y = (np.zeros(shape, np.float32) for shape in ((1, 3), (2, 3), (1, 2)))
    with pytest.raises(ValueError, match=r"there are \d+ filters of all towers"):
        module.linear_fprop(x, w, None, y, "fma", 2**30, None, None, HERE)


# ---------------------------------------------------------------------- what the stub says


STUB = Path(pyalexnet.__file__).parent / "_kernels.pyi"


def stubbed(name: str) -> dict[str, list[str]]:
    """Functions of a class of the stub and its bases, and the names of their arguments."""
    nodes = ast.parse(STUB.read_text()).body
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    found: dict[str, list[str]] = {}
    for base in classes[name].bases:
        if ast.unparse(base) in classes:
            found |= stubbed(ast.unparse(base))
    functions = [one for one in classes[name].body if isinstance(one, ast.FunctionDef)]
    own = {one.name: [argument.arg for argument in one.args.args[1:]] for one in functions}
    return found | {name: names for name, names in own.items() if not name.startswith("__")}


def documented(owner: Any) -> dict[str, list[str]]:
    """The same of a built module or its class, as pybind11 writes them in docstrings."""
    found = {}
    for name, function in vars(owner).items():
        if callable(function) and not isinstance(function, type) and not name.startswith("_"):
            signature = str(function.__doc__).partition("\n")[0]
            assert signature.startswith(f"{name}("), signature
            names = re.findall(r"[(,] ?(\w+): ", signature)
            found[name] = [one for one in names if one != "self"]
    return found


@pytest.mark.parametrize(
    ("module", "name"),
    [("_cpu", "CpuKernels"), ("_sim", "SimKernels"), ("_simcheck", "SimcheckKernels")],
)
def test_the_stub_names_every_function_and_argument(module: str, name: str) -> None:
    """But the operations, whose last argument says where they run."""
    built = documented(import_module(f"pyalexnet.{module}"))
    operations = {name for name, names in built.items() if names[-1:] == ["place"]}
    assert operations == {*EXAMPLES}
    assert stubbed(name) == {name: built[name] for name in built.keys() - operations}
    assert not any(re.fullmatch(r"arg\d+", one) for names in built.values() for one in names)
    assert stubbed("Recording") == documented(import_module(f"pyalexnet.{module}").Recording)


# ---------------------------------------------------------------------- found by fuzzing


@CHECKED
@EACH_OP
def test_misaligned_arrays_are_refused(
    be: Any, example: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy accepts any address, but a GPU faults on a misaligned one."""
    function, arguments = call_of(be, example, monkeypatch)
    for array, instead in arrays(arguments):
        if array.itemsize > 1:
            room = np.empty(array.nbytes + 1, np.uint8)[1:]
            with pytest.raises(ValueError, match="does not begin at a multiple of"):
                function(*instead(room.view(array.dtype).reshape(array.shape)))


@pytest.mark.parametrize("total", [-(2**63), -(2**63) + 3, 0, 3])
def test_fewer_features_in_all_than_in_an_image_are_refused(module: Any, total: int) -> None:
    """Subtracting from the smallest 64-bit integer would overflow."""
    x, y = np.zeros((2, 2, 4), np.float32)
    with pytest.raises(ValueError, match=r"offset is 0; the 4 features"):
        module.dropout_fprop(x, y, (0.5, 1, 2, 3, 0, total, 1.0, 0), HERE)


@pytest.mark.parametrize("step", [2**32, 2**63, 2**64, 10**400, -1, -(2**63) - 1])
def test_a_step_beyond_32_bits_is_refused(module: Any, step: int) -> None:
    x, y = np.zeros((2, 2, 4), np.float32)
    with pytest.raises(ValueError, match=f"step is {step}; 0 to 4,294,967,295"):
        module.dropout_fprop(x, y, (0.5, 1, step, 3, 0, 4, 1.0, 0), HERE)


def test_a_rate_beyond_every_float_is_refused(module: Any) -> None:
    w, v, dw = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="lr is too large"):
        module.sgd_update(w, None, v, dw, (10**400, 0.5, 0.5), HERE)


@pytest.mark.parametrize("name", ["\udcff", "RELU", b"relu", 1])
def test_an_unknown_activation_is_refused(module: Any, name: Any) -> None:
    x, w, y = np.zeros((3, 1, 1), np.float32)
    with pytest.raises(ValueError, match="activation is"):
        module.linear_fprop(x, w, None, y, "fma", 1, name, None, HERE)


@pytest.mark.parametrize("name", ["WGMMA", "", "tensor"])
def test_an_unknown_unit_is_refused(module: Any, name: str) -> None:
    x, w, y = np.zeros((3, 1, 1), np.float32)
    with pytest.raises(ValueError, match=f"unit is '{name}'; 'fma', 'mma', 'wgmma' or 'winograd'"):
        module.linear_fprop(x, w, None, y, name, 1, None, None, HERE)


def test_a_stream_that_is_none_is_refused(module: Any) -> None:
    """It used to be taken for a recording that does not exist."""
    x, y = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="stream is None"):
        module.relu_fprop(x, y, (0, None, None))


MOST = 2**31 - 1


@pytest.mark.parametrize("devices", [(-1, 0), (0, -1), (2, 0), (0, MOST), (10**6, 10**6)])
def test_peers_that_are_no_devices_are_refused(devices: tuple[int, int]) -> None:
    sim = import_module("pyalexnet._sim")
    with pytest.raises(ValueError, match=r"enable_peers: device is -?\d+; there are 2"):
        sim.enable_peers(*devices)


def test_a_backend_refuses_what_its_kernels_cannot_count() -> None:
    be: Any = pyalexnet.backend("sim")
    x, w = be.zeros((1, 3, 3, 1)), be.zeros((1, 2, 2, 1))
    with pytest.raises(ArgumentError, match="rows that filters reach"):
        be.conv_fprop(x, w, None, stride=(MOST, 1), pad=0)


@CHECKED
def test_parts_that_are_rows_of_one_array(be: Any) -> None:
    """Each row is an object with no other reference."""
    here = (be.device, 0, None)
    whole, dpart = be.empty((3, 4, 10)), be.empty((3, 4, 2))
    rows = be.asarray(np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5))
    for _ in range(100):  # rows freed too early were still intact most of the time
        be._ext.exchange_gather(rows, whole, here)
        be._ext.exchange_scatter_add(rows, dpart, 1, here)
    assert np.array_equal(whole, np.concatenate(list(rows), axis=-1))
    assert np.array_equal(dpart, rows[0, ..., 1:3] + rows[1, ..., 1:3])
    with pytest.raises(REFUSED):
        be._ext.exchange_scatter_add(np.zeros((1, 3, 4), np.uint32), dpart, 0, here)

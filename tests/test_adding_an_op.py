"""A pair of ops is added to a copy of the tree as CONTRIBUTING.md says: in four new files, and in
four that have a place for every op.

Compiled are its kernel, under the checker, and its binding; the module has no other op.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
from pathlib import Path

import pybind11
import pytest

import emulated
from test_suite_mutations import copied, run_on

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow

KERNEL = """\
// The product with a number, and its gradient.
#include "bf16.cuh"
#include "ops.h"

namespace pyalexnet {
namespace {

// A thread multiplies one element, a block 256 neighbours. Bound by bytes.
template <class T> __global__ void stretch_kernel(const T* x, T* y, float a, std::int64_t count) {
    const std::int64_t i = blockIdx.x * std::int64_t{256} + threadIdx.x;
    if (i < count) y[i] = narrow<T>(a * widen(x[i]));
}

template <class T>
void launch(const T* x, T* y, std::int64_t count, float a, Stream stream) {
    const simt::Grid grid(simt::blocks_for(count, 256), 256, stream);
    simt::launch<stretch_kernel<T>>(grid, x, y, a, count);
}

} // namespace

template <class T>
void stretch_fprop(const T* x, T* y, std::int64_t count, float a, Stream stream) {
    launch(x, y, count, a, stream);
}

template <class T>
void stretch_dgrad(const T* dy, T* dx, std::int64_t count, float a, Stream stream) {
    launch(dy, dx, count, a, stream);
}

PYALEXNET_FOR_ELEMENTS(stretch_fprop);
PYALEXNET_FOR_ELEMENTS(stretch_dgrad);

} // namespace pyalexnet
"""
BINDING = """\
#include "array.hpp"

namespace pyalexnet {
namespace {

void stretch_fprop_op(Call& call, handle x_, handle y_, float a) {
    with_map(call, x_, y_, {}, Access::in_place, [&](auto element, auto x, auto y) {
        call.launch(stretch_fprop<decltype(element)>, x, y, x.size(), a);
    });
}

void stretch_dgrad_op(Call& call, handle dy_, handle dx_, float a) {
    with_element(dy_, [&](auto element) {
        using T = decltype(element);
        const auto dy = call.input<T>("dy", dy_);
        const auto dx = call.output<T>("dx", dx_, dy.shape(), Access::in_place);
        call.launch(stretch_dgrad<T>, dy, dx, dy.size(), a);
    });
}

const Ops stretch([](py::module_& m) {
    define(m, "stretch_fprop", stretch_fprop_op, "x"_a, "y"_a, "a"_a);
    define(m, "stretch_dgrad", stretch_dgrad_op, "dy"_a, "dx"_a, "a"_a);
});

} // namespace
} // namespace pyalexnet
"""
OP = '''\
"""The product with a number."""

from __future__ import annotations

from pyalexnet.ops.checks import real
from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array


class StretchOps(Device):
    """The product with a number."""

    def stretch_fprop(self, x: Array, *, a: float, out: Array | None = None) -> Array:
        """y = a x."""
        return self._mapped("stretch_fprop", out, real("stretch_fprop", "a", a), x=x)

    def stretch_dgrad(self, dy: Array, *, a: float, out: Array | None = None) -> Array:
        """dx = a dy."""
        return self._mapped("stretch_dgrad", out, real("stretch_dgrad", "a", a), dy=dy)
'''
TEST = '''\
"""The product with a number."""

from __future__ import annotations

from typing import Any

import pytest

from bench import oracle
from samples import EACH_ELEMENT, normal
from tolerance import assert_close
from trial import run


@EACH_ELEMENT
@pytest.mark.parametrize("which", ["fprop", "dgrad"])
def test_values(be: Any, which: str, dtype: Any) -> None:
    x = normal(7, 40).astype(dtype)
    (y,) = run(be, f"stretch_{which}", x, a=-1.75)
    exact = getattr(oracle, f"stretch_{which}")(x, a=-1.75)
    assert_close(y, exact, dtype=dtype)
'''
NEW = {
    "kernels/stretch.cu": KERNEL,
    "bindings/stretch.cpp": BINDING,
    "pyalexnet/ops/stretch.py": OP,
    "tests/test_stretch.py": TEST,
}

LAUNCHERS = """\
// y = a x, and dx = a dy.
template <class T>
void stretch_fprop(const T* x, T* y, std::int64_t count, float a, Stream stream);
template <class T>
void stretch_dgrad(const T* dy, T* dx, std::int64_t count, float a, Stream stream);

"""
FORMULAS = '''\
def stretch_fprop(x: Numbers, *, a: float) -> Exact:
    """y = a x."""
    return Exact(a * double(x), abs(a * double(x)))


def stretch_dgrad(dy: Numbers, *, a: float) -> Exact:
    """dx = a dy."""
    return stretch_fprop(dy, a=a)


'''
EXAMPLES = """\
    yield Call("stretch_fprop", {"x": x}, {"a": 0.3})
    yield Call("stretch_dgrad", {"dy": dy}, {"a": 0.3})
"""
TO_THE_ENDS = """\
            yield Call("stretch_fprop", {"x": of(n)}, {"a": 0.5}, "y")
            yield Call("stretch_dgrad", {"dy": of(n)}, {"a": 0.5}, "dx")
"""
EDITED = {
    "kernels/ops.h": [
        (
            "// ---------------------------------------------------------------------- dropout",
            LAUNCHERS,
        )
    ],
    "pyalexnet/backends/base.py": [
        ("from pyalexnet.ops.softmax", "from pyalexnet.ops.stretch import StretchOps\n"),
        ("    SoftmaxOps,\n", "    StretchOps,\n"),
    ],
    "bench/oracle/products.py": [("def tanh_fprop(", FORMULAS)],
    "tests/cases.py": [
        ('    yield Call("relu_fprop", {"x": x})', EXAMPLES),
        ('            yield Call("relu_fprop", {"x": of(n)}', TO_THE_ENDS),
    ],
}
"""What is edited, and what comes before which text."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the ops, and a module that has only them."""
    root = copied(tmp_path_factory.mktemp("added"))
    for folder in ("kernels", "bindings"):
        shutil.copytree(ROOT / folder, root / folder)
    for name, text in NEW.items():
        assert not (root / name).exists(), name
        (root / name).write_text(text)
    for name, edits in EDITED.items():
        text = (root / name).read_text()
        for before, added in edits:
            assert text.count(before) == 1, f"{name}: {before}"
            text = text.replace(before, added + before)
        (root / name).write_text(text)
    own = [root / name for name in NEW if name.endswith((".cu", ".cpp"))]
    include = (pybind11.get_include(), sysconfig.get_path("include"))
    built = emulated.extension(root, own, [Path(one) for one in include])
    shutil.copy(built, root / "pyalexnet" / f"_simcheck{sysconfig.get_config_var('EXT_SUFFIX')}")
    return root


def test_it_takes_four_new_files_and_four_edits() -> None:
    assert len(NEW) <= 4
    assert len(EDITED) <= 4


def of_the_op(tree: Path) -> tuple[int, str]:
    """Under the checker: its values; that it is in the table; where arrays end; the bindings."""
    names = ("stretch", "examples", "bounds", "bindings", "oracle")
    tests = [f"test_{name}.py" for name in names]
    return run_on(tree, tests, "simcheck", "-k", "stretch or in_the_table")


def test_the_op_is_tested_by_what_tests_every_op(tree: Path) -> None:
    code, output = of_the_op(tree)
    assert code == 0, output
    assert int(re.findall(r"(\d+) passed", output)[0]) > 20, output


@pytest.mark.parametrize("added", [FORMULAS, EXAMPLES, TO_THE_ENDS])
def test_what_is_left_out_is_asked_for(tree: Path, added: str) -> None:
    (path,) = (
        tree / name for name, edits in EDITED.items() if added in [text for _, text in edits]
    )
    whole = path.read_text()
    assert whole.count(added) == 1
    path.write_text(whole.replace(added, ""))
    try:
        code, output = of_the_op(tree)
    finally:
        path.write_text(whole)
    assert code == 1, output
    assert "stretch" in output

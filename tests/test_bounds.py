"""No kernel can leave its arrays unreported, whatever the op and the array."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulated import KERNELS, program
from examples import EXAMPLES
from pyalexnet.errors import KernelError
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.ops.records import Learned, Mask
from samples import classes, normal
from trial import place
from variants import SIMCHECK, parameters

CHECKED = pytest.mark.parametrize("be", parameters(SIMCHECK), indirect=True)

# ---------------------------------------------------------------------- arrays that are too short


@dataclass(frozen=True)
class Call:
    """A call whose kernels use the last element of each of its arrays.

    Attributes:
        op: of the backend.
        arrays: their names in the bindings, including results and the workspace.
        inputs: shapes, whole arrays, or lists of shapes.
        parameters: by keyword; a NumPy number is passed as an array.
    """

    op: str
    arrays: str
    inputs: tuple[Any, ...]
    parameters: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}({self.arrays})"

    def run(self, be: Any) -> None:
        placed = [self._place(be, one) for one in self.inputs]
        parameters = {key: self._parameter(be, value) for key, value in self.parameters.items()}
        getattr(be, self.op)(*placed, **parameters)

    def _place(self, be: Any, one: Any) -> Any:
        if isinstance(one, list):
            return [self._place(be, part) for part in one]
        if isinstance(one, Learned):
            return place(be, one)._replace(lr=be.asarray(one.lr))
        return place(be, normal(*one) if isinstance(one, tuple) else one)

    def _parameter(self, be: Any, value: Any) -> Any:
        if isinstance(value, Mask):
            return value._replace(step=be.asarray(value.step))
        return be.asarray(value) if isinstance(value, (np.generic, np.ndarray)) else value


CONV = {"stride": 1, "pad": 1, "groups": 2}
X, W, Y = (2, 4, 5, 6), (4, 3, 3, 3), (2, 4, 5, 4)
POOL, WIDE_POOL = {"size": 3, "stride": 2}, {"size": 17, "stride": 1}
MAPS, POOLED = (2, 5, 7, 3), (2, 2, 3, 3)
WIDE_MAPS, WIDE_POOLED = (1, 18, 17, 2), (1, 2, 1, 2)
BYTES, WORDS = np.zeros(POOLED, np.uint8), np.zeros(WIDE_POOLED, np.uint16)
NORM = {"size": 3, "alpha": 1.0, "beta": 0.75, "k": 2.0}
RATES: dict[str, Any] = {"lr": np.float32(0.5), "momentum": 0.5, "weight_decay": 0.5}
DRAW: dict[str, Any] = {"keep": 1.0, "seed": 1, "step": np.uint32(4), "layer": 3}
MASK = Mask(**DRAW, factor=2.0)
# Channels and filters of a group in vectors of eight.
WIDE_X, WIDE_W, WIDE_Y = (2, 4, 5, 16), (16, 3, 3, 8), (2, 4, 5, 16)


def half(*shape: int) -> Any:
    """Numbers in bfloat16."""
    return normal(*shape).astype(BFLOAT16)


def gated(x: Any) -> dict[str, Any]:
    """The parameters of a gradient through the ReLU that produced x."""
    return {"x_shape": x.shape, "gate": x, "factor": 2.0}


def learned(of: Callable[..., Any], shape: tuple[int, ...]) -> tuple[Learned, Learned]:
    """Weights of a type, and biases, with learning rates on the device."""
    low = np.zeros(shape, np.uint16) if of is half else None
    w = Learned(of(*shape), normal(*shape), **RATES, low=low)
    return w, Learned(normal(shape[0]), normal(shape[0]), **RATES)


def names(of: Callable[..., Any]) -> str:
    """Their names in the bindings."""
    return f"w.w {'w.low ' if of is half else ''}w.v b.w b.v w.lr b.lr"


def maps_of(of: Callable[..., Any], c: int) -> list[Call]:
    """Calls on maps with this many channels, for a type of numbers."""
    x, y, codes = of(2, 5, 7, c), of(2, 2, 3, c), np.zeros((2, 2, 3, c), np.uint8)
    back = {"x_shape": x.shape, **POOL}
    return [
        Call("lrn_fprop", "x y", (x,), NORM),
        Call("lrn_dgrad", "x dy dx", (x, x), NORM),
        Call("rnorm_fprop", "x y", (x,), NORM),
        Call("rnorm_dgrad", "x dy dx workspace", (x, x), NORM),
        Call("maxpool_fprop", "x y where", (x,), POOL),
        Call("maxpool_dgrad", "dy where gate dx", (y, codes), back | {"gate": x}),
        Call("avgpool_fprop", "x y", (x,), POOL),
        Call("avgpool_dgrad", "dy dx", (y,), back),
    ]


def norms_with_pools(of: Callable[..., Any]) -> list[Call]:
    """Calls of lrn and maxpool in one, for a type of numbers."""
    x, y, codes = of(2, 5, 7, 16), of(2, 2, 3, 16), np.zeros((2, 2, 3, 16), np.uint8)
    both = {**NORM, "size": 5, "pool_size": 3, "pool_stride": 2}
    return [
        Call("lrn_maxpool_fprop", "x y where", (x,), both),
        Call("lrn_maxpool_dgrad", "x y dy where dx", (x, y, codes), both | {"y": abs(y)}),
    ]


# So deep that partial sums go through the workspace. There a row has a multiple of four columns;
# the calls have such a multiple too, so that the last element of the workspace is used.
DEEP = 530

# The last crop ends where its image does.
CROPS = {
    "corners": np.array([[0, 1], [2, 3]], np.int32),
    "flips": np.array([1, 0], np.uint8),
    "shifts": normal(2, 3),
    "mean_at_pixel": True,
}
STORED = np.zeros((2, 7, 8, 3), np.uint8)

CALLS = [
    Call(
        "augment",
        "x mean corners flips shifts y",
        (STORED, STORED.shape[1:]),
        CROPS | {"size": (5, 5)},
    ),
    Call(
        "augment",
        "x mean corners flips shifts y",
        (STORED, STORED.shape[1:]),
        CROPS | {"size": (5, 5), "block": 3, "pad": (1, 0, 0, 1), "dtype": BFLOAT16},
    ),
    Call("images_to_depth", "x y", ((2, 4, 6, 3),), {"block": 2}),
    Call("images_to_depth", "x y", ((2, 5, 6, 3),), {"pad": (0, 0, 2, 0), "dtype": BFLOAT16}),
    Call("filters_to_depth", "w deep", ((2, 4, 6, 3),), {"block": 2}),
    Call("filters_to_depth", "w deep", (half(2, 4, 6, 3),), {"block": 2}),
    Call("filters_from_depth", "ddeep dw", ((2, 2, 3, 12),), {"w_shape": (2, 4, 6, 3), "block": 2}),
    *(
        call
        for of, x, w, y in ((normal, X, W, Y), (half, X, W, Y), (half, WIDE_X, WIDE_W, WIDE_Y))
        for call in (
            Call("conv_fprop", "x w b y", (of(*x), of(*w), w[:1]), CONV),
            Call("conv_fprop", "x w b y step", (of(*x), of(*w), w[:1]), CONV | {"dropout": MASK}),
            Call("conv_dgrad", "dy w dx", (of(*y), of(*w)), {"x_shape": x, **CONV}),
            Call("conv_dgrad", "dy w gate dx", (of(*y), of(*w)), CONV | gated(of(*x))),
            Call("conv_wgrad", "x dy dw db", (of(*x), of(*y)), {"w_shape": w, **CONV}),
            Call("conv_wgrad_sgd", f"x dy {names(of)}", (of(*x), of(*y), *learned(of, w)), CONV),
        )
    ),
    Call("conv_fprop", "x w b y", (half(*X), half(*W), (4,)), CONV | {"dtype": np.float32}),
    Call(
        "conv_dgrad",
        "dy w gate dx",
        (half(1, 8, 32, 32), half(32, 3, 3, 16)),
        {"stride": 1, "pad": 1, **gated(half(1, 8, 32, 16))},
    ),
    *(
        call
        for of, n, i, o in ((normal, 3, 7, 5), (half, 3, 7, 5), (half, 3, 24, 16))
        for call in (
            Call("linear_fprop", "x w b y", (of(n, i), of(o, i), (o,))),
            Call("linear_dgrad", "dy w dx", (of(n, o), of(o, i))),
            Call("linear_dgrad", "dy w gate dx", (of(n, o), of(o, i)), {"gate": of(n, i)}),
            Call("linear_wgrad", "x dy dw db", (of(n, i), of(n, o))),
            Call(
                "linear_wgrad_sgd", f"x dy {names(of)}", (of(n, i), of(n, o), *learned(of, (o, i)))
            ),
        )
    ),
    *(
        call
        for of in (normal, half)
        for call in (
            Call("linear_fprop", "x w b y workspace", (of(3, DEEP), of(8, DEEP), (8,))),
            Call("linear_dgrad", "dy w dx workspace", (of(3, DEEP), of(DEEP, 8))),
            Call("linear_wgrad", "x dy dw db workspace", (of(DEEP, 7), of(DEEP, 5))),
            Call(
                "linear_wgrad_sgd",
                f"x dy {names(of)} workspace",
                (of(DEEP, 7), of(DEEP, 5), *learned(of, (5, 7))),
            ),
        )
    ),
    Call("lrn_fprop", "x y", (MAPS,), NORM),
    Call("lrn_dgrad", "x dy dx", (MAPS, MAPS), NORM),
    Call("rnorm_fprop", "x y", (MAPS,), NORM),
    Call("rnorm_dgrad", "x dy dx workspace", (MAPS, MAPS), NORM),
    Call("maxpool_fprop", "x y where", (MAPS,), POOL),
    Call("maxpool_fprop", "x y where", (WIDE_MAPS,), WIDE_POOL),
    Call("maxpool_dgrad", "dy where dx", (POOLED, BYTES), {"x_shape": MAPS, **POOL}),
    Call("maxpool_dgrad", "dy where dx", (WIDE_POOLED, WORDS), {"x_shape": WIDE_MAPS, **WIDE_POOL}),
    Call("avgpool_fprop", "x y", (MAPS,), POOL),
    Call("avgpool_dgrad", "dy dx", (POOLED,), {"x_shape": MAPS, **POOL}),
    *(
        call
        for of in (normal, half)
        for c in (3, 16)  # channels singly, and in vectors
        for call in maps_of(of, c)
    ),
    *(call for of in (normal, half) for call in norms_with_pools(of)),
    Call(
        "softmax_cross_entropy",
        "logits labels loss dlogits top1 top5 workspace",
        ((5, 9), classes(5, 9)),
    ),
]
for n in (8, 11):  # 16 bytes at a time, and with a remainder
    for of in (normal, half):
        CALLS += [
            Call("relu_fprop", "x y", (of(n),)),
            Call("relu_dgrad", "y dy dx", (of(n), of(n))),
            Call("scale", "x y", (of(n),), {"factor": 0.5}),
            Call("tanh_fprop", "x y", (of(n),)),
            Call("tanh_dgrad", "y dy dx", (of(n), of(n))),
            Call("dropout_fprop", "x y step", (of(2, n),), DRAW),
            Call("dropout_dgrad", "x y step", (of(2, n),), DRAW),
        ]
    low = np.zeros(n, np.uint16)
    CALLS += [
        Call("sgd_update", "w v dw lr", ((n,), (n,), (n,)), RATES),
        Call("sgd_update", "w low v dw lr", (half(n), (n,), (n,)), RATES | {"low": low}),
        Call("split_weights", "w high low", ((n,),)),
        Call("join_weights", "high low w", (half(n), low)),
    ]
for c in (4, 3):  # channels four at a time, and singly
    CALLS += [
        Call("exchange_gather", "parts[0] parts[1] whole", ([(3, 4), (3, c)],)),
        Call(
            "exchange_scatter_add",
            "dwholes[0] dwholes[1] dpart",
            ([(3, 8), (3, 8)],),
            {"start": 8 - c, "channels": c},
        ),
    ]


def test_every_op_has_its_call() -> None:
    assert {call.op for call in CALLS} == set(EXAMPLES)


@CHECKED
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_every_array_has_an_end(be: Any, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its last element put out of bounds, each array is named in a report."""
    counts: list[int] = []
    run = be._run

    def counting(op: str, *arguments: Any) -> None:
        flat = [one for a in arguments for one in (a if isinstance(a, (list, tuple)) else [a])]
        counts.append(sum(isinstance(one, np.ndarray) for one in flat))
        run(op, *arguments)

    def handing_out(nbytes: int) -> Any:
        counts[-1] += 1
        return workspace(nbytes)

    workspace = be.workspace
    monkeypatch.setattr(be, "_run", counting)
    monkeypatch.setattr(be, "workspace", handing_out)
    call.run(be)
    names = call.arrays.split()
    assert counts == [len(names)]
    for name in names:
        with shortened(be, name), pytest.raises(KernelError) as raised:
            call.run(be)
        end = rf"out-of-bounds (read|write) .*, 0 bytes after the end of {re.escape(name)} \("
        assert re.search(end, str(raised.value)), raised.value


@contextmanager
def shortened(be: Any, name: str) -> Iterator[None]:
    """The last element of the arrays of this name is out of bounds."""
    be._ext.shorten_buffer(name)
    try:
        yield
    finally:
        be._ext.shorten_buffer("")


# ---------------------------------------------------------------------- bounds that are wrong


@dataclass(frozen=True)
class Slip:
    """A wrong bound in a kernel: `old` becomes `new`; SLIP is 1 if this slip is chosen, else 0.

    Attributes:
        family: in slip_cases.cu; or several, each of which has to show it.
        file: of the kernel.
        old, new: text, wherever it occurs in the file.
        found: text due in the report.
    """

    family: str
    file: str
    old: str
    new: str
    found: str = "out-of-bounds"

    def __str__(self) -> str:
        return f"{self.file}: {self.new}"


PRODUCTS = "conv tensor split"
ON_TENSOR_CORES = "tensor split"
ALL_TENSOR_CORES = "tensor split hopper"
PATCH = "patch_dgrad.cuh"
LRN_POOL, LRN_ROWS, WINDOWS = "lrn_pool.cu", "lrn_rows.cuh", "pool_windows.cuh"
SLIPS = [
    Slip("augment", "augment.cu", "max(corner, 0)", "max(corner, 0 - SLIP)"),
    Slip("augment", "augment.cu", ", room); }", ", room + SLIP); }"),
    Slip("augment", "augment.cu", "at.column == width", "at.column == width + SLIP", "data race"),
    Slip("augment", "augment.cu", "height - first)", "height - first + SLIP)", "data race"),
    Slip("augment", "augment.cu", "within(w, g.width)", "within(w, g.width + SLIP)"),
    Slip("augment", "augment.cu", "within(h + r, g.height)", "within(h + r, g.height + SLIP)"),
    Slip("depth", "depth.cu", "row < g.height", "row < g.height + SLIP"),
    Slip("depth", "depth.cu", "column < g.width", "column < g.width + SLIP"),
    Slip("depth", "depth.cu", "column == g.columns", "column == g.columns + SLIP", "data race"),
    Slip("depth", "depth.cu", "at.column == g.width", "at.column == g.width + SLIP", "data race"),
    Slip(PRODUCTS, "operands.cuh", "i < gather.rows ?", "i < gather.rows + SLIP ?"),
    Slip(PRODUCTS, "operands.cuh", "i < gather.columns ?", "i < gather.columns + SLIP ?"),
    Slip(PRODUCTS, "operands.cuh", "(value) <", "(value + SLIP) < SLIP +"),
    Slip(PRODUCTS, "operands.cuh", "(row, g.shape.height)", "(row, g.shape.height + SLIP)"),
    Slip(PRODUCTS, "operands.cuh", "column, g.shape.width)", "column, g.shape.width + SLIP)"),
    Slip(PRODUCTS, "operands.cuh", "g.shape.out_height)", "g.shape.out_height + SLIP)"),
    Slip(PRODUCTS, "operands.cuh", "channel >= 0}", "channel >= 0 - SLIP}"),
    Slip(PRODUCTS, "epilogue.cuh", "at.count <= taps", "at.count <= taps + SLIP", "data race"),
    Slip(PRODUCTS, "four.cuh", "if (i < count) four", "if (i < count + SLIP) four"),
    Slip(PRODUCTS, "gemm.cuh", "* size.rows) return", "* size.rows + SLIP) return"),
    Slip(PRODUCTS, "gemm.cuh", "part < size.parts", "part < size.parts + SLIP"),
    Slip("conv", "gemm.cuh", "at < depth_end ?", "at < depth_end + SLIP ?"),
    Slip("conv", "gemm.cuh", "row >= size.rows)", "row >= size.rows + SLIP)"),
    Slip("conv", "gemm.cuh", "size.columns - column)", "size.columns - column + SLIP)"),
    Slip(ON_TENSOR_CORES, "tensor.cuh", "at < depth_end;", "at < depth_end + SLIP;"),
    Slip(ON_TENSOR_CORES, "tensor.cuh", "point < depth_end ?", "point < depth_end + SLIP ?"),
    Slip(ALL_TENSOR_CORES, "sums.cuh", "() - tile.column;", "() - tile.column + SLIP;"),
    Slip(ALL_TENSOR_CORES, "sums.cuh", "size.rows - tile.row)", "size.rows - tile.row + SLIP)"),
    Slip("hopper", "hopper.cuh", "at < depth_end)", "at < depth_end + SLIP)"),
    Slip("hopper", "hopper.cuh", "line >= kKnown)", "line >= kKnown + SLIP)"),
    Slip("patch", PATCH, "pixel >= p.patch.pixels", "pixel >= p.patch.pixels + SLIP", "under way"),
    Slip("patch", PATCH, "s.out_height) &&", "s.out_height + SLIP) &&"),
    Slip("patch", PATCH, "s.out_width) &&", "s.out_width + SLIP) &&"),
    Slip("patch", PATCH, "filter < p.g.group_filters)", "filter < p.g.group_filters + SLIP)"),
    Slip("patch", PATCH, "+ i < p.g.group_filters", "+ i < p.g.group_filters + SLIP"),
    Slip("patch", PATCH, "< p.g.group_channels)", "< p.g.group_channels + SLIP)"),
    Slip("patch", PATCH, "first < kFilters", "first < kFilters + SLIP", "data race"),
    Slip("patch", PATCH, "rows * s.width) pixel", "rows * s.width + SLIP) pixel", "under way"),
    Slip(
        "patch", PATCH, "taps - (kPatchStages - 2)", "taps - (kPatchStages - 2) + SLIP", "data race"
    ),
    Slip("patch", PATCH, "s.height - first_row)", "s.height - first_row + SLIP)", "data race"),
    Slip("pool", WINDOWS, "min(size, length - first)", "min(size, length - first + SLIP)"),
    Slip("pool", WINDOWS, "h / stride + 1, windows", "h / stride + 1, windows + SLIP"),
    Slip(
        "pool",
        "pool.cu",
        "at.column == g.out_width",
        "at.column == g.out_width + SLIP",
        "data race",
    ),
    Slip("pool", "pool.cu", "at.column == g.width", "at.column == g.width + SLIP", "data race"),
    Slip("lrn", LRN_ROWS, "c + d < 0", "c + d < 0 - SLIP"),
    Slip("lrn", LRN_ROWS, "c + d >= length", "c + d >= length + SLIP"),
    Slip("lrn", "lrn.cu", "&& i < rows.count", "&& i < rows.count + SLIP"),
    Slip(
        "lrn", LRN_ROWS, "i + d < staged", "i + d < staged + SLIP", "uninitialised read of passed"
    ),
    Slip("lrn", LRN_ROWS, "window.before, rows.count", "window.before, rows.count + SLIP"),
    Slip("lrn", LRN_ROWS, "if (i < tile_end)", "if (i < tile_end + SLIP)", "data race"),
    Slip("lrn_pool", LRN_POOL, "column < pixels &&", "column < pixels + SLIP &&"),
    Slip("lrn_pool", LRN_POOL, "column < outputs &&", "column < outputs + SLIP &&", "data race"),
    Slip("lrn_pool", LRN_POOL, "g.width - first_pixel)", "g.width - first_pixel + SLIP)"),
    Slip("lrn_pool", LRN_POOL, "rows.size, g.out_height", "rows.size, g.out_height + SLIP"),
    Slip("lrn_pool", LRN_POOL, "rows.size, g.height", "rows.size, g.height + SLIP"),
    Slip("lrn_pool", LRN_POOL, "w < g.width;", "w < g.width + SLIP;", "data race"),
    Slip("lrn_pool", LRN_POOL, "down.end < g.out_height", "down.end < g.out_height + SLIP"),
    Slip("lrn_pool", LRN_POOL, "place != 0", "place != 0 - SLIP"),
    Slip("lrn_pool", LRN_POOL, "group_vectors - 1", "group_vectors - 1 + SLIP"),
    Slip("rnorm", "rnorm.cu", "max(row - up, 0)", "max(row - up, 0 - SLIP)"),
    Slip("rnorm", "rnorm.cu", "row + down, maps.height", "row + down, maps.height + SLIP"),
    Slip("rnorm", "rnorm.cu", "max(at.column - up, 0)", "max(at.column - up, 0 - SLIP)"),
    Slip(
        "rnorm", "rnorm.cu", "at.column + down, maps.width", "at.column + down, maps.width + SLIP"
    ),
    Slip(
        "rnorm",
        "rnorm.cu",
        "min(kBand, maps.height - first)",
        "min(kBand, maps.height - first + SLIP)",
        "data race",
    ),
    Slip("softmax", "softmax.cu", "c < classes", "c < classes + SLIP", "data race"),
    Slip("softmax", "softmax.cu", "if (row >= rows)", "if (row >= rows + SLIP)"),
    Slip("elementwise", "activation.cu", "if (i >= count)", "if (i >= count + SLIP)"),
    Slip("elementwise", "sgd.cu", "max(count - first,", "max(count - first + SLIP,"),
    Slip("elementwise", "dropout.cu", "image >= images", "image >= images + SLIP"),
    Slip("elementwise", "dropout.cu", "min(features -", "min(features + SLIP -", "data race"),
    Slip("exchange", "exchange.cu", "if (i >= count)", "if (i >= count + SLIP)"),
]
EACH_SLIP = pytest.mark.parametrize(
    ("family", "number", "slip"),
    [
        pytest.param(family, number, slip, id=f"{family}: {slip}")
        for number, slip in enumerate(SLIPS, 1)
        for family in slip.family.split()
    ],
)
SLIP_HEADER = """#pragma once
extern int planted_slip;
inline int slip(int number) { return number == planted_slip ? 1 : 0; }
"""


@pytest.mark.parametrize("slip", SLIPS, ids=str)
def test_every_slip_has_its_place(slip: Slip) -> None:
    """Before the slow tests compile them all."""
    assert slip.old in (KERNELS / slip.file).read_text()


@pytest.fixture(scope="module")
def slipping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of the kernels with all the slips; a run chooses one."""
    base = tmp_path_factory.getbasetemp()
    folder = base / "slips"
    folder.mkdir()
    (folder / "slip.hpp").write_text(SLIP_HEADER)
    for file in (*KERNELS.glob("*.*"), Path(__file__).with_name("slip_cases.cu")):
        shutil.copy(file, folder)
    for number, slip in enumerate(SLIPS, 1):
        file = folder / slip.file
        text = file.read_text()
        assert slip.old in text, f"another slip has changed {slip.old} in {slip.file}"
        text = text.replace(slip.old, slip.new.replace("SLIP", f"slip({number})"))
        file.write_text(text)
    for name in {slip.file for slip in SLIPS}:
        file = folder / name
        file.write_text(file.read_text().replace("#include", '#include "slip.hpp"\n#include', 1))
    return program(folder, sorted(folder.glob("*.cu")), base / "emulation", checked=True)


def said(slipping: Path, family: str, number: int) -> str:
    done = subprocess.run(
        [slipping, family, str(number)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first waits for every instrumented kernel to compile
@pytest.mark.parametrize("family", sorted({one for slip in SLIPS for one in slip.family.split()}))
def test_without_a_slip_nothing_is_reported(slipping: Path, family: str) -> None:
    assert said(slipping, family, 0) == "no report\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first waits for every instrumented kernel to compile
@EACH_SLIP
def test_a_wrong_bound_is_noticed(slipping: Path, family: str, number: int, slip: Slip) -> None:
    report = said(slipping, family, number)
    assert slip.found in report and re.search(r" at \w+\.cuh?:\d+, ", report), report

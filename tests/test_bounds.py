"""No kernel can leave its arrays without a report: whatever the op, whichever the array."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulated import KERNELS, program
from examples import EXAMPLES
from pyalexnet.errors import KernelError
from samples import classes, normal
from variants import SIMCHECK, parameters

CHECKED = pytest.mark.parametrize("be", parameters(SIMCHECK), indirect=True)

# ---------------------------------------------------------------------- arrays that are too short


@dataclass(frozen=True)
class Call:
    """A call whose kernels use the last element of each of its arrays.

    Attributes:
        op: of the backend.
        arrays: what the bindings call them, those for results and the workspace included.
        inputs: shapes, whole arrays, or lists of shapes.
        parameters: by keyword; a NumPy number is passed as an array.
    """

    op: str
    arrays: str
    inputs: tuple[Any, ...]
    parameters: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}{self.inputs if self.op != 'softmax_cross_entropy' else ''}"

    def run(self, be: Any) -> None:
        placed = [self._place(be, one) for one in self.inputs]
        parameters = {
            key: be.asarray(value) if isinstance(value, np.generic) else value
            for key, value in self.parameters.items()
        }
        getattr(be, self.op)(*placed, **parameters)

    def _place(self, be: Any, one: Any) -> Any:
        if isinstance(one, list):
            return [self._place(be, part) for part in one]
        return be.asarray(normal(*one) if isinstance(one, tuple) else one)


CONV = {"stride": 1, "pad": 1, "groups": 2}
X, W, Y = (2, 4, 5, 6), (4, 3, 3, 3), (2, 4, 5, 4)
POOL, WIDE_POOL = {"size": 3, "stride": 2}, {"size": 17, "stride": 1}
MAPS, POOLED = (2, 5, 7, 3), (2, 2, 3, 3)
WIDE_MAPS, WIDE_POOLED = (1, 18, 17, 2), (1, 2, 1, 2)
BYTES, WORDS = np.zeros(POOLED, np.uint8), np.zeros(WIDE_POOLED, np.uint16)
NORM = {"size": 3, "alpha": 1.0, "beta": 0.75, "k": 2.0}
RATES = {"lr": np.float32(0.5), "momentum": 0.5, "weight_decay": 0.5}
DRAW = {"keep": 1.0, "seed": 1, "step": np.uint32(4), "layer": 3}
# So deep that the sums of its parts go through the workspace. There a row of them has a multiple of
# four columns; the calls have as many, so that the last element of the workspace is used.
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
    Call("conv_fprop", "x w b y", (X, W, (4,)), CONV),
    Call("conv_dgrad", "dy w dx", (Y, W), {"x_shape": X, **CONV}),
    Call("conv_wgrad", "x dy dw db", (X, Y), {"w_shape": W, **CONV}),
    Call("linear_fprop", "x w b y", ((3, 7), (5, 7), (5,))),
    Call("linear_dgrad", "dy w dx", ((3, 5), (5, 7))),
    Call("linear_wgrad", "x dy dw db", ((3, 7), (3, 5))),
    Call("linear_fprop", "x w b y workspace", ((3, DEEP), (8, DEEP), (8,))),
    Call("linear_dgrad", "dy w dx workspace", ((3, DEEP), (DEEP, 8))),
    Call("linear_wgrad", "x dy dw db workspace", ((DEEP, 7), (DEEP, 5))),
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
    Call(
        "softmax_cross_entropy",
        "logits labels loss dlogits top1 top5 workspace",
        ((5, 9), classes(5, 9)),
    ),
]
for n in (8, 11):  # four floats at a time; and with some left over
    CALLS += [
        Call("relu_fprop", "x y", ((n,),)),
        Call("relu_dgrad", "y dy dx", ((n,), (n,))),
        Call("scale", "x y", ((n,),), {"factor": 0.5}),
        Call("tanh_fprop", "x y", ((n,),)),
        Call("tanh_dgrad", "y dy dx", ((n,), (n,))),
        Call("sgd_update", "w v dw lr", ((n,), (n,), (n,)), RATES),
        Call("dropout_fprop", "x y step", ((2, n),), DRAW),
        Call("dropout_dgrad", "x y step", ((2, n),), DRAW),
    ]
for c in (4, 3):  # channels four at a time; and one by one
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
    """With its last element taken away from the kernels, each array is named in a report."""
    counts: list[int] = []
    run = be._run

    def counting(op: str, *arguments: Any) -> None:
        flat = [one for a in arguments for one in (a if isinstance(a, list) else [a])]
        counts.append(sum(isinstance(one, np.ndarray) for one in flat))
        run(op, *arguments)

    monkeypatch.setattr(be, "_run", counting)
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
    """A wrong bound in a kernel: `old` becomes `new`, where SLIP is 1 if this one is chosen or 0.

    Attributes:
        family: of slip_cases.cu.
        file: of the kernel.
        old, new: text, wherever it stands in the file.
        found: what the report has to say.
    """

    family: str
    file: str
    old: str
    new: str
    found: str = "out-of-bounds"

    def __str__(self) -> str:
        return f"{self.file}: {self.new}"


SLIPS = [
    Slip("augment", "augment.cu", "max(corner, 0)", "max(corner, 0 - SLIP)"),
    Slip("augment", "augment.cu", ", room); }", ", room + SLIP); }"),
    Slip(
        "augment", "augment.cu", "at.column == g.width", "at.column == g.width + SLIP", "data race"
    ),
    Slip("augment", "augment.cu", "g.height - first)", "g.height - first + SLIP)", "data race"),
    Slip("conv", "conv.cu", "row < g.shape.height", "row < g.shape.height + SLIP"),
    Slip("conv", "conv.cu", "column < g.shape.width", "column < g.shape.width + SLIP"),
    Slip("conv", "conv.cu", "row >= 0", "row >= 0 - SLIP"),
    Slip("conv", "conv.cu", "row >= g.shape.out_height", "row >= g.shape.out_height + SLIP"),
    Slip("conv", "conv.cu", "row < 0 ||", "row < 0 - SLIP ||"),
    Slip("conv", "conv.cu", "filter >= group_filters", "filter >= group_filters + SLIP"),
    Slip("conv", "conv.cu", "filter < group_filters", "filter < group_filters + SLIP"),
    Slip("conv", "conv.cu", "channel < g.group_channels", "channel < g.group_channels + SLIP"),
    Slip("conv", "conv.cu", "&& depth < depth_end", "&& depth < depth_end + SLIP"),
    Slip("conv", "conv.cu", "&& pixel < depth_end", "&& pixel < depth_end + SLIP"),
    Slip("conv", "gemm.cuh", "row >= size.rows", "row >= size.rows + SLIP"),
    Slip("conv", "gemm.cuh", "column + i >= columns", "column + i >= columns + SLIP", "data race"),
    Slip("conv", "gemm.cuh", "lines * size.columns) return", "lines * size.columns + SLIP) return"),
    Slip("conv", "gemm.cuh", "part < size.parts", "part < size.parts + SLIP"),
    Slip("pool", "pool.cu", "min(size, length - first)", "min(size, length - first + SLIP)"),
    Slip("pool", "pool.cu", "h / stride + 1, windows", "h / stride + 1, windows + SLIP"),
    Slip(
        "pool",
        "pool.cu",
        "at.column == g.out_width",
        "at.column == g.out_width + SLIP",
        "data race",
    ),
    Slip("pool", "pool.cu", "at.column == g.width", "at.column == g.width + SLIP", "data race"),
    Slip("lrn", "lrn.cu", "c + d < 0", "c + d < 0 - SLIP"),
    Slip("lrn", "lrn.cu", "c + d >= length", "c + d >= length + SLIP"),
    Slip("lrn", "lrn.cu", "&& i < rows.count", "&& i < rows.count + SLIP"),
    Slip("lrn", "lrn.cu", "i + d < staged", "i + d < staged + SLIP", "uninitialised read of t"),
    Slip("lrn", "lrn.cu", "window.before, rows.count", "window.before, rows.count + SLIP"),
    Slip("lrn", "lrn.cu", "if (i < tile_end)", "if (i < tile_end + SLIP)", "data race"),
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
    Slip("elementwise", "activation.cu", "i < split.count", "i < split.count + SLIP"),
    Slip("elementwise", "sgd.cu", "i < split.count", "i < split.count + SLIP"),
    Slip("elementwise", "dropout.cu", "feature < 0", "feature < 0 - SLIP"),
    Slip(
        "elementwise",
        "dropout.cu",
        "feature >= groups.features",
        "feature >= groups.features + SLIP",
        "data race",
    ),
    Slip("exchange", "exchange.cu", "if (i >= count)", "if (i >= count + SLIP)"),
]
SLIP_NAMES = [str(slip) for slip in SLIPS]
SLIP_HEADER = """#pragma once
extern int planted_slip;
inline int slip(int number) { return number == planted_slip ? 1 : 0; }
"""


@pytest.fixture(scope="module")
def slipping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of the kernels with all the slips, of which a run chooses one."""
    base = tmp_path_factory.getbasetemp()
    folder = base / "slips"
    folder.mkdir()
    (folder / "slip.hpp").write_text(SLIP_HEADER)
    for file in (*KERNELS.glob("*.*"), Path(__file__).with_name("slip_cases.cu")):
        shutil.copy(file, folder)
    for number, slip in enumerate(SLIPS, 1):
        file = folder / slip.file
        text = file.read_text()
        assert slip.old in text, f"{slip.file} no longer contains {slip.old}"
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


@pytest.mark.parametrize("family", sorted({slip.family for slip in SLIPS}))
def test_without_a_slip_nothing_is_reported(slipping: Path, family: str) -> None:
    assert said(slipping, family, 0) == "no report\n"


@pytest.mark.parametrize(("number", "slip"), list(enumerate(SLIPS, 1)), ids=SLIP_NAMES)
def test_a_wrong_bound_is_noticed(slipping: Path, number: int, slip: Slip) -> None:
    report = said(slipping, slip.family, number)
    assert slip.found in report and re.search(r" at \w+\.cuh?:\d+, ", report), report

"""No kernel can leave its arrays unreported, whatever the op and the array."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import TO_THE_ENDS, Call
from emulated import KERNELS, program
from pyalexnet.errors import KernelError
from variants import SIMCHECK, parameters

CHECKED = pytest.mark.parametrize("be", parameters(SIMCHECK), indirect=True)

# ---------------------------------------------------------------------- arrays that are too short


@pytest.mark.every(3)
@CHECKED
@pytest.mark.parametrize("call", TO_THE_ENDS, ids=lambda call: f"{call}({' '.join(call.arrays)})")
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
    assert counts == [len(call.arrays)]
    for name in call.arrays:
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
PATCH, HOPPER_PATCH = "patch_dgrad.cuh", "hopper_patch_dgrad.cuh"
BOTH_PATCHES = "patch hopper_patch"
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
    Slip(PRODUCTS, "operands.cuh", "then.rows), height)", "then.rows), height + SLIP)"),
    Slip(PRODUCTS, "operands.cuh", "columns), width)", "columns), width + SLIP)"),
    Slip(PRODUCTS, "operands.cuh", "channel >= 0}", "channel >= 0 - SLIP}"),
    Slip(PRODUCTS, "epilogue.cuh", "count <= of.taps", "count <= of.taps + SLIP", "data race"),
    Slip(PRODUCTS, "four.cuh", "if (i < count) four", "if (i < count + SLIP) four"),
    Slip(PRODUCTS, "gemm.cuh", "* size.rows) return", "* size.rows + SLIP) return"),
    Slip(PRODUCTS, "gemm.cuh", "part < size.parts", "part < size.parts + SLIP"),
    Slip("conv", "gemm.cuh", "at < depth_end ?", "at < depth_end + SLIP ?"),
    Slip("conv", "gemm.cuh", "row >= size.rows)", "row >= size.rows + SLIP)"),
    Slip("conv", "gemm.cuh", "size.columns - column)", "size.columns - column + SLIP)"),
    Slip(ON_TENSOR_CORES, "tensor.cuh", "at < depth_end;", "at < depth_end + SLIP;"),
    Slip(ON_TENSOR_CORES, "tensor.cuh", "point < depth_end ?", "point < depth_end + SLIP ?"),
    Slip(ALL_TENSOR_CORES, "sums.cuh", "- tile.column -", "- tile.column + SLIP -"),
    Slip(ALL_TENSOR_CORES, "sums.cuh", "size.rows - tile.row)", "size.rows - tile.row + SLIP)"),
    Slip("hopper", "hopper.cuh", "at < depth_end)", "at < depth_end + SLIP)"),
    Slip(
        "hopper",
        "hopper.cuh",
        "< slices && to < cluster",
        "< slices + SLIP * 4 && to < cluster",
        "its block",
    ),
    Slip(
        "patch",
        PATCH,
        "pixel >= patch.shape.pixels",
        "pixel >= patch.shape.pixels + SLIP",
        "under way",
    ),
    Slip(BOTH_PATCHES, PATCH, "s.out_height) &&", "s.out_height + SLIP) &&"),
    Slip(BOTH_PATCHES, PATCH, "s.out_width) &&", "s.out_width + SLIP) &&"),
    Slip(BOTH_PATCHES, PATCH, "filter < g.group_filters)", "filter < g.group_filters + SLIP)"),
    Slip(BOTH_PATCHES, PATCH, "+ i < g.group_filters", "+ i < g.group_filters + SLIP"),
    Slip(BOTH_PATCHES, PATCH, "< g.group_channels)", "< g.group_channels + SLIP)"),
    Slip("patch", PATCH, "chunk < Slice::kChunks", "chunk < Slice::kChunks + SLIP", "data race"),
    Slip("patch", PATCH, "rows * s.width) pixel", "rows * s.width + SLIP) pixel", "under way"),
    Slip(
        "patch", PATCH, "taps - (kPatchStages - 2)", "taps - (kPatchStages - 2) + SLIP", "data race"
    ),
    Slip("patch", PATCH, "s.height - first_row)", "s.height - first_row + SLIP)", "data race"),
    Slip("hopper_patch", HOPPER_PATCH, "found.image < images", "found.image < images + SLIP"),
    Slip(
        "hopper_patch",
        HOPPER_PATCH,
        "behind) / kStageTaps;",
        "behind) / kStageTaps + SLIP;",
        "uninitialised read",
    ),
    Slip(
        "hopper_patch",
        HOPPER_PATCH,
        "tap >= behind",
        "tap + 2 * SLIP >= behind",
        "wgmma still reads",
    ),
    Slip(
        "hopper_patch",
        HOPPER_PATCH,
        "place.row >= s.height",
        "place.row >= s.height + SLIP",
        "data race",
    ),
    Slip(
        "hopper_patch",
        HOPPER_PATCH,
        "place.column >= s.width",
        "place.column >= s.width + SLIP",
        "data race",
    ),
    Slip("hopper_patch", HOPPER_PATCH, "min(p.g.in_pixels,", "min(p.g.in_pixels + SLIP,"),
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
    Slip("exchange", "exchange.cu", "min(count - at,", "min(count - at + SLIP,"),
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
    folder = tmp_path_factory.mktemp("slips")
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
    return program(sorted(folder.glob("*.cu")), checked=True, folder=folder)


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

"""Every barrier of the kernels is needed, and the checker notices when one is missing.

The emulation leaves out one barrier at a time, in a call that depends on it: each call has to end
in a report that names the kernel. A barrier whose absence went unnoticed would be either redundant
or beyond the checker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import EXAMPLES, TO_THE_ENDS
from pyalexnet.errors import KernelError
from pyalexnet.ops.elements import BFLOAT16
from samples import normal
from variants import SIMCHECK, parameters

KERNELS = Path(__file__).parent.parent / "kernels"
CHECKED = pytest.mark.parametrize("be", parameters(SIMCHECK), indirect=True)


BARRIER = re.compile(
    r"\b(?:__sync(?:threads|warp)|cluster_sync|(?:cp_async|wgmma)_wait<[^;]*>|mbarrier_wait"
    r"|wgmma_fence|fence_proxy_async|mbarrier_fence_init)\("
)


def barriers_of(file: Path) -> list[str]:
    """Every barrier of a kernel file as the checker names it, from top to bottom.

    Waits for copies and products count as barriers, and so do the fences between them.
    """
    code = (line.partition("//")[0] for line in file.read_text().splitlines())
    return [
        f"kernels/{file.name}:{number}"
        for number, line in enumerate(code, 1)
        if BARRIER.search(line)
    ]


NOTICED = (
    r"data race|uninitialised read|a (?:cp\.async|load_tile) is under way|a wgmma still reads"
    r"|no (?:wgmma_fence|fence_proxy_async|mbarrier_fence_init)"
)
FILES = sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh")])
BARRIERS = {file.name: barriers_of(file) for file in FILES}


@dataclass(frozen=True)
class Call:
    """A call whose kernel reaches every barrier of a file; the report has to contain `kernel`."""

    name: str
    file: str
    kernel: str
    run: Callable[[Any], Any]

    def __str__(self) -> str:
        return self.name


def product(
    op: str,
    tile: str,
    rows: int,
    columns: int,
    depth: int,
    dtype: Any = np.float32,
    tensor: bool = False,
) -> Call:
    """A linear layer, with the kernels of a convolution, as a product of these sizes."""
    problem = {"fprop": "ConvFprop", "dgrad": "ConvDgrad", "wgrad": "ConvWgrad"}[op]
    shapes = {
        "fprop": ((rows, depth), (columns, depth)),
        "dgrad": ((rows, depth), (depth, columns)),
        # On the float32 units one column of the product belongs to the bias.
        "wgrad": ((depth, columns - (dtype == np.float32 and not tensor)), (depth, rows)),
    }[op]
    bias = (None,) if op == "fprop" else ()

    def run(be: Any) -> Any:
        inputs = [be.asarray(normal(*shape).astype(dtype)) for shape in shapes]
        return getattr(be, f"linear_{op}")(*inputs, *bias, tensor=tensor)

    name = f"linear_{op}, tile {tile}, depth {depth}"
    return Call(name, "gemm.cuh", rf"gemm_kernel<.*{problem}<.*>, Tile<{tile}", run)


def tensor_product(
    op: str, tile: str, rows: int, columns: int, depth: int, dtype: Any = BFLOAT16
) -> Call:
    """The same on the tensor cores, in bfloat16 or in float32 in three planes."""
    made = product(op, tile, rows, columns, depth, dtype, tensor=True)
    kernel = "tensor_" + made.kernel.replace("Tile<", "TensorTile<")
    name = f"{made.name}, {np.dtype(dtype)} on tensor cores"
    return replace(made, name=name, file="tensor.cuh", kernel=kernel)


def hopper_product(op: str, tile: str, rows: int, columns: int, depth: int) -> Call:
    """The same by Hopper's own loop."""
    made = product(op, tile, rows, columns, depth, BFLOAT16)

    def run(be: Any) -> Any:
        with be.with_hopper(True):
            return made.run(be)

    kernel = "hopper_" + made.kernel.replace("Tile<", "HopperTile<")
    kernel = kernel.replace("_kernel", "_(pair_)?kernel")
    return replace(made, name=f"{made.name}, wgmma", file="hopper.cuh", kernel=kernel, run=run)


def lrn(name: str, channels: int, size: int, window: str) -> Call:
    def run(be: Any) -> Any:
        x, dy = (be.asarray(normal(1, 1, 3, channels, seed=seed)) for seed in (1, 2))
        return be.lrn_dgrad(x, dy, size=size, alpha=1.0, beta=0.75, k=2.0)

    return Call(f"lrn_dgrad, {name}", "lrn_rows.cuh", rf"lrn_dgrad_kernel<.*{window}", run)


def lrn_maxpool(be: Any) -> Any:
    """Both passes, over several columns and vectors of channels."""
    x, dy = (be.asarray(normal(1, 5, 7, 16, seed=1)), be.asarray(normal(1, 2, 3, 16, seed=2)))
    how: dict[str, Any] = {"size": 5, "alpha": 1.0, "beta": 0.75, "k": 2.0}
    how |= {"pool_size": 3, "pool_stride": 2}
    _, where = be.lrn_maxpool_fprop(x, **how)
    return be.lrn_maxpool_dgrad(x, dy, where, **how)


def patch_dgrad(channels: int) -> Call:
    """Two patches with this many channels, for a filter of nine taps."""

    def run(be: Any) -> Any:
        dy = be.asarray(normal(1, 5, 27, 40, seed=1).astype(BFLOAT16))
        w = be.asarray(normal(40, 3, 3, channels, seed=2).astype(BFLOAT16))
        return be.conv_dgrad(dy, w, x_shape=(1, 5, 27, channels), stride=1, pad=1)

    kernel = rf"tensor_patch_dgrad_kernel<.*PatchTile<{channels}"
    return Call(f"conv_dgrad in patches, {channels} channels", "patch_dgrad.cuh", kernel, run)


def hopper_patch_dgrad(channels: int) -> Call:
    """The same by wgmma: three patches, the last in the place of the first."""

    def run(be: Any) -> Any:
        dy = be.asarray(normal(1, 5, 27, 72, seed=1).astype(BFLOAT16))
        w = be.asarray(normal(72, 2, 3, channels, seed=2).astype(BFLOAT16))
        with be.with_hopper(True):
            return be.conv_dgrad(dy, w, x_shape=(1, 5, 27, channels), stride=1, pad=(1, 0, 1, 1))

    kernel = rf"hopper_patch_dgrad_kernel<.*HopperPatchTile<{channels}"
    name = f"conv_dgrad in patches, {channels} channels, wgmma"
    return Call(name, "hopper_patch_dgrad.cuh", kernel, run)


# Several slices of the depth each; the last three also split the depth into parts.
TILES = (("128, 128", 120, 110), ("64, 64", 60, 50), ("128, 32", 120, 20))
# With more slices than stages; the columns and the depth are multiples of eight.
TENSOR_TILES = (("128, 128", 120, 112), ("64, 64", 56, 48), ("256, 64", 248, 56))
SPLIT_TILES = (("128, 64", 120, 56), ("64, 64", 56, 48))
# More slices than stages, the last of them in the memory that the sums will use.
HOPPER_TILES = (
    ("256, 192", 248, 184),
    ("192, 192", 184, 176),
    ("128, 256", 120, 200),
    ("256, 128", 248, 112),
    ("192, 96", 184, 88),
    ("256, 64", 248, 56),
)
# Those of each pass: wgmma takes whole swizzled tiles of a B along its lines, not 96 of them.
HOPPER_PRODUCTS = [
    (op, *tile)
    for op in ("fprop", "dgrad", "wgrad")
    for tile in HOPPER_TILES
    if op == "fprop" or tile[0] != "192, 96"
]
SPLIT = [
    *(
        tensor_product(op, *tile, 200, np.float32)
        for op in ("fprop", "dgrad", "wgrad")
        for tile in SPLIT_TILES
    ),
    tensor_product("wgrad", "64, 64", 24, 32, 536, np.float32),
    tensor_product("wgrad", "64, 64", 23, 31, 101, np.float32),
]
# Two and three tiles on the side whose operand is gathered, so two pairs of blocks.
CLUSTERED = [
    hopper_product("fprop", "256, 64", 700, 48, 312),
    hopper_product("dgrad", "256, 64", 440, 48, 312),
    hopper_product("wgrad", "128, 256", 56, 440, 312),
    hopper_product("fprop", "192, 96", 500, 88, 312),
    hopper_product("wgrad", "192, 192", 184, 376, 312),
]
HOPPER = [
    *(hopper_product(*of, 312) for of in HOPPER_PRODUCTS),
    *(hopper_product(op, "256, 64", 200, 32, 1080) for op in ("fprop", "dgrad", "wgrad")),
    *CLUSTERED,
]
CALLS = [
    *(
        tensor_product(op, *tile, 200)
        for op in ("fprop", "dgrad", "wgrad")
        for tile in TENSOR_TILES
    ),
    *(tensor_product(op, "64, 64", 24, 32, 536) for op in ("fprop", "dgrad", "wgrad")),
    *HOPPER,
    *SPLIT,
    *(product(op, *tile, 40) for op in ("fprop", "dgrad", "wgrad") for tile in TILES),
    *(product(op, "64, 64", 20, 30, 530) for op in ("fprop", "dgrad", "wgrad")),
    *(patch_dgrad(channels) for channels in (32, 48, 64)),
    *(hopper_patch_dgrad(channels) for channels in (48, 64)),
    lrn("a window of five", 8, 5, "Five"),
    lrn("a window wider than a stage", 560, 1100, "Reach"),
    Call("lrn_maxpool", "lrn_pool.cu", r"lrn_maxpool_(fprop|dgrad)_kernel", lrn_maxpool),
    *(
        Call(call.op, *call.barriers, call.run)
        for call in (*EXAMPLES.values(), *TO_THE_ENDS)
        if call.barriers
    ),
]

# Barriers that a call reaches but does not need: (call, number of the barrier in its file), why.
NOT_NEEDED = {
    ("lrn_dgrad, a window of five", 1): "five channels fit one stage, and no other overwrites it",
    **{
        (call.name, number): "waits for copies, and float32 goes through registers"
        for call in SPLIT
        for number in (0, 2, 4)
    },
}


@CHECKED
@pytest.mark.parametrize("call", CLUSTERED, ids=str)
def test_blocks_share_tiles_in_clusters(be: Any, call: Call) -> None:
    """Without the cluster's barrier a report names the other block's memory."""
    (barrier,) = (
        barrier
        for barrier in BARRIERS["hopper.cuh"]
        if "cluster_sync"
        in KERNELS.joinpath("hopper.cuh")
        .read_text()
        .splitlines()[int(barrier.partition(":")[2]) - 1]
    )
    with without(be, barrier), pytest.raises(KernelError, match=r"of rank [01]"):
        call.run(be)


@contextmanager
def without(be: Any, barrier: str) -> Iterator[None]:
    """The emulation skips a barrier."""
    be._ext.leave_out_barrier(barrier)
    try:
        yield
    finally:
        be._ext.leave_out_barrier("")


@pytest.mark.every(7)
@CHECKED
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_missing_barrier_is_noticed(be: Any, call: Call) -> None:
    call.run(be)
    for number, barrier in enumerate(BARRIERS[call.file]):
        with without(be, barrier):
            if (call.name, number) in NOT_NEEDED:
                call.run(be)
                continue
            with pytest.raises(KernelError, match=NOTICED) as raised:
                call.run(be)
        assert re.search(call.kernel, str(raised.value)), raised.value
    call.run(be)


@CHECKED
def test_the_documents_show_what_the_checker_says(be: Any) -> None:
    """README.md shows the race after LRN's backward loop, docs/checker.md both of its barriers."""
    call = next(call for call in CALLS if "wider than a stage" in call.name)
    said = []
    for barrier in BARRIERS[call.file]:
        with without(be, barrier), pytest.raises(KernelError) as raised:
            call.run(be)
        said.append(str(raised.value))
    readme, checker = (
        " ".join((KERNELS.parent / name).read_text().split())
        for name in ("README.md", "docs/checker.md")
    )
    assert said[-1] in readme and all(report in checker for report in said)


@pytest.mark.slow
@CHECKED
def test_every_barrier_is_met_and_has_its_call(be: Any) -> None:
    files = {call.file for call in CALLS}
    assert files == {name for name, barriers in BARRIERS.items() if barriers}
    for call in CALLS:
        call.run(be)
    assert set(be._ext.barriers_met()) == {one for some in BARRIERS.values() for one in some}


@CHECKED
def test_a_missing_barrier_leaves_the_output_alone(be: Any) -> None:
    """Values written by a kernel before it was caught do not reach the output."""
    x, w = be.asarray(normal(40, 40)), be.asarray(normal(30, 40))
    y = be.asarray(np.full((40, 30), 7, np.float32))
    with without(be, BARRIERS["gemm.cuh"][0]), pytest.raises(KernelError):
        be.linear_fprop(x, w, None, out=y)
    assert (be.to_numpy(y) == 7).all()

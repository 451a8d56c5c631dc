"""Convolution as matrix products of patch rows and the rows of the filters."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.base import Activation
from pyalexnet.backends.cpu.cores import Cores
from pyalexnet.backends.cpu.elementwise import rectify
from pyalexnet.backends.cpu.patches import Window, patch_rows
from pyalexnet.backends.cpu.pieces import PARTS, Block, blocks, spans

Floats: TypeAlias = npt.NDArray[np.float32]

# Bytes of a block, about what a core's second-level cache holds. Less makes the threads get in each
# other's way: between two loops of NumPy only one of them can run.
_BLOCK_BYTES = 2**21
# OpenBLAS multiplies without copying its operands first up to so many multiplications, which is a
# fifth faster than what it does beyond, unless the matrices have too few rows.
_SMALL_PRODUCT = 10**6
_SMALL_ROWS = 48


def convolve(
    cores: Cores,
    x: Floats,
    filters: Floats,
    y: Floats,
    window: Window,
    b: Floats | None = None,
    activation: Activation = None,
) -> None:
    """y = f(b + sum over r of (patch rows of x) filters[r]).

    Args:
        x: (N, H, W, C), of any strides.
        filters: (R, S * C, K).
        y: (N, P, Q, K), of any strides.
        b: (K,), or None for zeros.
    """
    q, k = y.shape[2:]
    parts = _blocks(x, y, window, filters.nbytes)

    def work(piece: int) -> None:
        block = parts[piece]
        slabs, height = _slabs(block.rows * block.images, q, filters[0].size)
        total = cores.scratch("total", (slabs, height, k))
        product = cores.scratch("product", total.shape)
        for r, rows in enumerate(patch_rows(cores, x, block, q, window)):
            np.matmul(rows.reshape(slabs, height, -1), filters[r], out=product if r else total)
            if r:
                total += product
        finish(cores, total, b, activation)
        np.copyto(_by_place(block, y), total.reshape(block.rows, block.images, q, k))

    cores.run(len(parts), work)


def convolve_wgrad(
    cores: Cores, x: Floats, dy: Floats, dw: Floats, db: Floats, window: Window
) -> None:
    """dw[k, r] = sum over places of dy[k] (patch row r of x); db = sum of dy.

    Args:
        x: (N, H, W, C), of any strides.
        dy: (N, P, Q, K), of any strides.
        dw: (K, R, S * C).
        db: (K,).
    """
    q, k = dy.shape[2:]
    parts = _blocks(x, dy, window, dw.nbytes)
    runs = spans(len(parts), -(-len(parts) // PARTS))
    # This thread's memory, but all write to it: run i of the batch has row i to itself.
    dws = cores.scratch("dw of each run", (len(runs), *dw.shape))
    dbs = cores.scratch("db of each run", (len(runs), k))

    def work(run: int) -> None:
        dws[run].fill(0)
        dbs[run].fill(0)
        for block in parts[slice(*runs[run])]:
            outputs = cores.scratch("outputs", (block.rows, block.images, q, k))
            np.copyto(outputs, _by_place(block, dy))
            dbs[run] += sum_rows(cores, outputs.reshape(-1, k))
            slabs, height = _slabs(block.rows * block.images, q, dw[:, 0].size)
            factor = outputs.reshape(slabs, height, k).transpose(0, 2, 1)
            product = cores.scratch("product", (slabs, *dw.shape))
            for r, rows in enumerate(patch_rows(cores, x, block, q, window)):
                np.matmul(factor, rows.reshape(slabs, height, -1), out=product[:, :, r])
            for slab in product:
                dws[run] += slab

    def add_up(share: int) -> None:
        filters = slice(*shares[share])
        np.sum(dws[:, filters], axis=0, out=dw[filters])
        np.sum(dbs[:, filters], axis=0, out=db[filters])

    shares = spans(k, -(-k // PARTS))
    cores.run(len(runs), work)
    cores.run(len(shares), add_up)


def finish(cores: Cores, rows: Floats, b: Floats | None, activation: Activation) -> None:
    """Add the bias to each row and apply the activation, in place."""
    if b is not None:
        rows += b
    if activation == "relu":
        rectify(cores, rows, rows)
    elif activation == "tanh":
        np.tanh(rows, out=rows)


def sum_rows(cores: Cores, rows: Floats) -> Floats:
    """Sum of (M, K) over the rows, by halves: a running sum would lose digits."""
    while len(rows) > 1:
        half = len(rows) // 2
        total: Floats = cores.scratch("half sums", (half, rows.shape[1]))
        np.add(rows[:half], rows[half : 2 * half], out=total)
        if len(rows) % 2:
            total[0] += rows[-1]
        rows = total
    first: Floats = rows[0]
    return first


def _blocks(x: Floats, y: Floats, window: Window, filter_bytes: int) -> list[Block]:
    """Cut the output: a block has patch rows, a sum, and what that grows by."""
    n, p, q, k = y.shape
    patch_row = min(window.r, window.stride_h) * window.s * x.shape[3]
    row_bytes = q * (patch_row + 2 * k) * x.itemsize
    # The filters are loaded once a block, which is not to weigh.
    return blocks(n, p, row_bytes, max(_BLOCK_BYTES, 2 * filter_bytes))


def _slabs(lines: int, q: int, cost: int) -> tuple[int, int]:
    """Cut `lines` of q rows into slabs that multiply fast: their number, and the rows of each.

    Args:
        cost: multiplications that a row takes part in.
    """
    for together in range(min(lines, _SMALL_PRODUCT // (q * cost)), _SMALL_ROWS // q, -1):
        if lines % together == 0:
            return lines // together, together * q
    return 1, lines * q


def _by_place(block: Block, maps: Floats) -> Floats:
    """A block of (N, P, Q, K) as (P, N, Q, K), the order of patch rows."""
    return block.of(maps).transpose(1, 0, 2, 3)

"""Rows of patches, which make a convolution a few matrix products.

A patch row is the run of S * C numbers that one row of a filter meets at one place. A convolution
is the sum over the filter's R rows of (patch rows) x (that row of every filter): each patch row is
written once and read R times, where whole patches would be written R times over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.cpu.cores import Cores
from pyalexnet.backends.cpu.pieces import Block
from pyalexnet.backends.geometry import ConvGeometry

Floats: TypeAlias = npt.NDArray[np.float32]


class Window(NamedTuple):
    """A window of r x s pixels; the first one stands `top` rows above the image, `left` beside it.

    Negative values of `top` and `left` put it inside the image.
    """

    r: int
    s: int
    stride_h: int
    stride_w: int
    top: int
    left: int


class Phase(NamedTuple):
    """Pixels of dx that one and the same subset of the filters' pixels reaches."""

    dx: Floats  # (N, H', W', C), strided
    w: Floats  # (K, R', S', C / groups), strided; R' or S' may be 0
    window: Window  # of stride 1, over dy


def patch_rows(cores: Cores, x: Floats, block: Block, q: int, window: Window) -> list[Floats]:
    """What each row of the filters meets at every place of a block; zero outside the image.

    Args:
        x: (N, H, W, C), of any strides.
        block: the images and the output rows wanted.
        q: windows in a row.

    Returns:
        for each r a matrix (block.rows * block.images * q, S * C), its rows in this order; scratch
        of the calling thread.
    """
    r, s, stride_h, stride_w, top, left = window
    n, c = block.images, x.shape[3]
    # Image rows that lie a stride apart are written together, so that each matrix is one run.
    phases = min(r, stride_h)
    depth = block.rows + (r - 1) // stride_h
    height = (depth - 1) * stride_h + phases
    padded = cores.scratch("padded", (n, height, (q - 1) * stride_w + s, c))
    images = x[block.image : block.image + n]
    _pad(images, padded, top - block.row * stride_h, left)
    image, row, pixel, item = padded.strides
    overlapping: Floats = np.ndarray(
        (phases, depth, n, q, s * c),
        np.float32,
        padded,
        strides=(row, row * stride_h, image, pixel * stride_w, item),
    )
    rows = cores.scratch("patch rows", overlapping.shape)
    np.copyto(rows, overlapping)
    return [rows[i % stride_h, i // stride_h :][: block.rows].reshape(-1, s * c) for i in range(r)]


def phases(dx: Floats, w: Floats, g: ConvGeometry) -> Iterator[Phase]:
    """Cut a convolution's gradient with respect to x into convolutions of dy with stride 1.

    Row h of x meets row r of a filter where h + top - r is a multiple of the stride, so that the
    rows of x a stride apart share their filter rows; columns likewise.
    """
    for h in range(min(g.stride_h, dx.shape[1])):
        rows, top = _shared(h, w.shape[1], g.stride_h, g.pad_top)
        for v in range(min(g.stride_w, dx.shape[2])):
            columns, left = _shared(v, w.shape[2], g.stride_w, g.pad_left)
            part = w[:, rows, columns]
            window = Window(part.shape[1], part.shape[2], 1, 1, top, left)
            yield Phase(dx[:, h :: g.stride_h, v :: g.stride_w], part, window)


def _shared(first: int, size: int, stride: int, pad: int) -> tuple[slice, int]:
    """The rows of a filter that meet row `first` of x, and by how many dy's rows start later."""
    skipped, remainder = divmod(first + pad, stride)
    rows = slice(remainder, size, stride)
    return rows, len(range(size)[rows]) - 1 - skipped


def _pad(images: Floats, padded: Floats, top: int, left: int) -> None:
    """Put `images` `top` rows down and `left` pixels in, as far as they fit; zero the rest."""
    height, width = images.shape[1:3]
    inside = padded[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    if inside.shape != padded.shape:
        padded.fill(0)
    rows, pixels = inside.shape[1:3]
    h, w = max(-top, 0), max(-left, 0)
    np.copyto(inside, images[:, h : h + rows, w : w + pixels])

"""Images before the first layer: augmentation, and blocks of pixels laid into channels."""

from __future__ import annotations

from itertools import product
from math import ceil as round_up

import numpy as np

from .exact import Exact, Floats, Numbers, Sides, padded


def augment_operands(
    x: Numbers,
    mean: Numbers,
    *,
    corners: Numbers,
    flips: Numbers,
    shifts: Numbers,
    size: tuple[int, int],
    mean_at_pixel: bool = False,
) -> tuple[Floats, Floats, Floats]:
    """The pixel, the mean and the shift that make each element of the crops (N, H, W, C)."""
    (N, Hs, Ws, C), (H, W) = x.shape, size
    pixels, means, added = (np.zeros((N, H, W, C)) for _ in range(3))
    for n, h, w in product(range(N), range(H), range(W)):
        top, left = corners[n]
        r, q = top + h, left + (W - 1 - w if flips[n] else w)
        centre = (Hs - H) // 2 + h, (Ws - W) // 2 + w
        pixels[n, h, w] = x[n, r, q]
        means[n, h, w] = mean[r, q] if mean_at_pixel else mean[centre]
        added[n, h, w] = shifts[n]
    return pixels, means, added


def augment(
    x: Numbers,
    mean: Numbers,
    *,
    corners: Numbers,
    flips: Numbers,
    shifts: Numbers,
    size: tuple[int, int],
    scale: float = 1.0,
    mean_at_pixel: bool = False,
    block: int = 1,
    pad: Sides = 0,
) -> Exact:
    """(pixel - mean + shift) * scale over crops, mirrored or not; in blocks, zeros around them."""
    pixels, means, added = augment_operands(
        x,
        mean,
        corners=corners,
        flips=flips,
        shifts=shifts,
        size=size,
        mean_at_pixel=mean_at_pixel,
    )
    magnitude = (abs(pixels) + abs(means) + abs(added)) * abs(scale)
    crops = (pixels - means + added) * scale
    return Exact(in_blocks(padded(crops, pad), block), in_blocks(padded(magnitude, pad), block))


def in_blocks(x: Numbers, block: int) -> Floats:
    """y[n,i,j,(a block + b) C + c] = x[n, block i + a, block j + b, c], and 0 outside x."""
    N, H, W, C = x.shape
    y = np.zeros((N, round_up(H / block), round_up(W / block), block * block * C))
    for a, b in product(range(block), range(block)):
        pixels, first = x[:, a::block, b::block], (a * block + b) * C
        y[:, : pixels.shape[1], : pixels.shape[2], first : first + C] = pixels
    return y


def out_of_blocks(y: Numbers, x_shape: tuple[int, ...], block: int) -> Floats:
    """The inverse of in_blocks, without the zeros that it added."""
    _, H, W, C = x_shape
    x = np.zeros(x_shape)
    for a, b in product(range(block), range(block)):
        rows, columns, first = len(range(a, H, block)), len(range(b, W, block)), (a * block + b) * C
        x[:, a::block, b::block] = y[:, :rows, :columns, first : first + C]
    return x

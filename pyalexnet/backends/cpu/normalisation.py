"""Response normalisation: y = x d^-beta, where d = k + alpha (sum of x^2 over a window).

Arrays are (M, ..., C) here: windows run over the axes between the first and the last. Across
channels that is (pixels, channels of a group, 1), within a map (N, H, W, C).
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.cpu.cores import Cores

Floats: TypeAlias = npt.NDArray[np.float32]


class Settings(NamedTuple):
    """What the formula leaves open."""

    size: int
    alpha: float
    beta: float
    k: float


def normalise(cores: Cores, x: Floats, y: Floats, settings: Settings) -> None:
    """Write y; all of x at once."""
    _scale(cores, x, _base(cores, x, settings), settings.beta, y)


def normalise_dgrad(cores: Cores, x: Floats, dy: Floats, dx: Floats, settings: Settings) -> None:
    """Write dx = dy d^-beta - x sum over j of 2 alpha beta dy_j x_j d_j^(-beta - 1)."""
    size, alpha, beta, _ = settings
    base = _base(cores, x, settings)
    _scale(cores, dy, base, beta, dx)
    # What each place passes on to those in its window. In this order nothing overflows that the
    # result does not: 2 alpha beta x / d is at most beta (alpha / k)^.5.
    passed = np.divide(x, base, out=base)
    passed *= 2 * alpha * beta
    passed *= dx
    # The places whose window holds this one form a window themselves, mirrored.
    sums = _window_sums(cores, passed, None, size, size - 1 - size // 2)
    np.multiply(sums, x, out=passed)
    dx -= passed


def _base(cores: Cores, x: Floats, settings: Settings) -> Floats:
    base: Floats = cores.scratch("base", x.shape)
    sums = _window_sums(cores, x, x, settings.size, settings.size // 2)
    np.multiply(sums, settings.alpha, out=base)
    base += settings.k
    return base


def _scale(cores: Cores, x: Floats, base: Floats, beta: float, y: Floats) -> None:
    """Write y = x base^-beta; where square roots do, they are twice as fast.

    base^.75 is within the range wherever base is; base^beta need not be.
    """
    power: Floats = cores.scratch("power", base.shape)
    if beta != 0.75:
        np.multiply(x, np.power(base, -beta, out=power), out=y)
        return
    root = np.sqrt(base, out=cores.scratch("root", base.shape))
    np.sqrt(root, out=power)
    power *= root
    np.divide(x, power, out=y)


def _window_sums(cores: Cores, x: Floats, factor: Floats | None, size: int, before: int) -> Floats:
    """Sums of x, or x * factor, over the windows that start `before` places ahead, clipped.

    Zeros around the axes, as many as a window sees, leave no window a special case. One shift of
    the flat memory then adds a place of every window at once.

    Returns:
        of x's shape, strided; scratch of the calling thread.
    """
    lengths = x.shape[1:-1]
    ahead = [min(before, length - 1) for length in lengths]
    behind = [min(size - 1 - before, length - 1) for length in lengths]
    axes = list(zip(ahead, lengths, behind, strict=True))
    shape = (len(x), *(sum(parts) for parts in axes), x.shape[-1])
    padded: Floats = cores.scratch("padded", shape)
    padded.fill(0)
    inside = padded[(slice(None), *(slice(zeros, zeros + length) for zeros, length, _ in axes))]
    if factor is None:
        np.copyto(inside, x)
    else:
        np.multiply(x, factor, out=inside)
    sums, end = padded.reshape(-1), padded.size
    for axis, (first, _, last) in enumerate(axes):
        reach = math.prod(shape[axis + 2 :])
        end -= (first + last) * reach
        total: Floats = cores.scratch(f"sums along axis {axis}", (padded.size,))
        np.copyto(total[:end], sums[:end])
        for start in range(reach, (first + last) * reach + 1, reach):
            total[:end] += sums[start : start + end]
        sums = total
    return sums.reshape(shape)[(slice(None), *(slice(length) for length in lengths))]

"""Shapes of convolutions, pools and norms that expose mistakes.

All sizes of a case differ where possible, so that a swapped axis changes the result; strides
differ from paddings and both from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bench.oracle import Pair, Sides, conv_out_shape, pool_out_shape


@dataclass(frozen=True)
class Conv:
    """A convolution of images x (N, H, W, C) with K filters of R x S pixels."""

    name: str
    x: tuple[int, int, int, int]
    filters: tuple[int, int, int]
    stride: Pair = 1
    pad: Sides = 0
    groups: int = 1
    big: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def w(self) -> tuple[int, int, int, int]:
        """(K, R, S, C / groups)."""
        K, R, S = self.filters
        return K, R, S, self.x[3] // self.groups

    @property
    def y(self) -> tuple[int, int, int, int]:
        """(N, P, Q, K)."""
        return conv_out_shape(self.x, self.w, self.stride, self.pad)

    @property
    def geometry(self) -> dict[str, Any]:
        """The keyword arguments that all three passes take."""
        return {"stride": self.stride, "pad": self.pad, "groups": self.groups}


CONVS = (
    Conv("all sizes different", (2, 7, 5, 6), (4, 3, 2), stride=(3, 2), pad=(2, 1, 0, 3)),
    Conv("two groups", (2, 7, 5, 6), (4, 3, 2), stride=2, pad=(1, 0, 2, 1), groups=2),
    Conv("three groups", (2, 5, 7, 6), (9, 2, 3), stride=(1, 2), pad=(0, 1, 1, 0), groups=3),
    Conv("a channel a group", (2, 5, 4, 3), (6, 3, 2), pad=(1, 1, 0, 1), groups=3),
    Conv("one image", (1, 6, 7, 5), (3, 2, 3), stride=(2, 3), pad=(1, 2, 2, 0)),
    Conv("image as large as the filter", (3, 3, 2, 4), (5, 3, 2)),
    Conv("image smaller than the filter", (2, 2, 1, 3), (4, 3, 4), pad=(0, 1, 2, 1)),
    Conv("stride beyond the filter", (2, 9, 8, 3), (4, 2, 1), stride=(4, 3)),
    Conv("last rows unread", (2, 8, 9, 3), (4, 3, 3), stride=(4, 5)),
    Conv("padding beyond the filter", (2, 3, 4, 2), (3, 2, 2), stride=(1, 2), pad=(3, 2, 0, 4)),
    Conv("top only", (1, 4, 5, 2), (3, 3, 2), pad=(2, 0, 0, 0)),
    Conv("bottom only", (1, 4, 5, 2), (3, 3, 2), pad=(0, 2, 0, 0)),
    Conv("left only", (1, 5, 4, 2), (3, 2, 3), pad=(0, 0, 2, 0)),
    Conv("right only", (1, 5, 4, 2), (3, 2, 3), pad=(0, 0, 0, 2)),
    Conv("one pixel filter", (2, 4, 3, 7), (5, 1, 1)),
    Conv("one of everything", (1, 1, 1, 1), (1, 1, 1)),
    Conv("conv1 cut small", (2, 20, 16, 3), (8, 11, 11), stride=4, pad=(0, 3, 0, 3)),
    Conv("many filters and channels", (2, 5, 4, 70), (130, 3, 3), pad=1),
    Conv("a hundred and more of all", (3, 8, 5, 110), (125, 1, 1)),
    Conv("many pixels", (3, 13, 11, 5), (6, 5, 3), pad=(2, 2, 1, 1)),
    Conv("many images", (37, 4, 3, 3), (5, 2, 2), stride=(2, 1), pad=(1, 0, 0, 1)),
    Conv("channels and filters in vectors", (2, 6, 5, 16), (24, 3, 2), pad=(1, 0, 1, 2)),
    Conv("vectors in two groups", (2, 7, 6, 32), (48, 3, 3), 2, (2, 1, 0, 1), groups=2),
    Conv("vectors of channels alone", (1, 5, 7, 24), (5, 2, 3), pad=1),
    Conv("vectors of filters alone", (1, 7, 5, 3), (40, 3, 2), pad=1),
    Conv("many in vectors", (3, 7, 6, 72), (136, 3, 3), pad=1, big=True),
    Conv("many in two groups", (3, 13, 12, 68), (132, 3, 5), (2, 1), (1, 2, 2, 0), 2, big=True),
    Conv("cifar conv2", (3, 16, 16, 32), (32, 5, 5), pad=2, big=True),
    Conv("Winograd's tiles of 3x3 cut", (3, 7, 10, 32), (48, 3, 3), pad=(0, 1, 2, 1), groups=2),
    Conv("Winograd's tiles of 5x5 cut", (2, 6, 9, 16), (24, 5, 5), pad=(2, 1, 0, 2)),
    Conv("more pixels than 2^16", (30, 48, 47, 8), (2, 1, 3), pad=(0, 0, 1, 1), big=True),
)


def in_vectors(convs: tuple[Conv, ...]) -> tuple[Conv, ...]:
    """Those with channels or filters in multiples of eight, as tensor cores need them."""
    return tuple(conv for conv in convs if "vectors" in conv.name)


ALEXNET = (
    Conv("conv1", (1, 224, 224, 3), (96, 11, 11), stride=4, pad=(0, 3, 0, 3)),
    Conv("conv2", (1, 27, 27, 96), (256, 5, 5), pad=2, groups=2),
    Conv("conv3", (1, 13, 13, 256), (384, 3, 3), pad=1),
    Conv("conv4", (1, 13, 13, 384), (384, 3, 3), pad=1, groups=2),
    Conv("conv5", (1, 13, 13, 384), (256, 3, 3), pad=1, groups=2),
)


@dataclass(frozen=True)
class Pool:
    """A pool over maps x (N, H, W, C)."""

    name: str
    x: tuple[int, int, int, int]
    size: int
    stride: int
    ceil: bool = True
    big: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def y(self) -> tuple[int, int, int, int]:
        """(N, P, Q, C)."""
        return pool_out_shape(self.x, self.size, self.stride, self.ceil)

    @property
    def geometry(self) -> dict[str, Any]:
        """The keyword arguments that all passes take."""
        return {"size": self.size, "stride": self.stride, "ceil": self.ceil}


POOLS = (
    Pool("overlapping", (2, 7, 5, 6), 3, 2),
    Pool("clipped by the border", (2, 8, 6, 4), 3, 2),
    Pool("the same without ceil", (2, 8, 6, 3), 3, 2, ceil=False),
    Pool("heavily overlapping", (1, 6, 9, 4), 4, 1),
    Pool("stride beyond the window", (2, 9, 8, 3), 2, 3),
    Pool("last windows dropped", (2, 6, 10, 3), 1, 4),
    Pool("one dropped, one clipped", (1, 4, 7, 5), 2, 5),
    Pool("window as large as the image", (3, 4, 4, 2), 4, 3),
    Pool("window larger than the image", (2, 4, 3, 6), 5, 3),
    Pool("one pixel windows", (2, 3, 4, 5), 1, 1),
    Pool("sixteen wide, a byte just holds it", (1, 16, 17, 2), 16, 3),
    Pool("seventeen wide, a byte is too small", (1, 18, 17, 2), 17, 2),
    Pool("many channels", (1, 5, 4, 131), 3, 2),
    Pool("channels by sixteen bytes", (2, 6, 7, 16), 3, 2),
    Pool("the same in wide windows", (1, 18, 17, 8), 17, 2),
    Pool("cifar pool1", (4, 32, 32, 32), 3, 2, big=True),
)


@dataclass(frozen=True)
class LRN:
    """A norm across the channels of maps x (N, H, W, C)."""

    name: str
    x: tuple[int, int, int, int]
    size: int
    groups: int = 1
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 2.0
    big: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def constants(self) -> dict[str, Any]:
        """The keyword arguments of both passes."""
        return {
            "size": self.size,
            "alpha": self.alpha,
            "beta": self.beta,
            "k": self.k,
            "groups": self.groups,
        }


LRNS = (
    LRN("the paper's window", (2, 3, 4, 11), 5),
    LRN("in two groups", (2, 3, 4, 12), 5, groups=2),
    LRN("in three groups", (2, 1, 5, 12), 3, groups=3, k=1.0),
    LRN("even window", (2, 3, 2, 9), 4),
    LRN("even window in groups", (1, 3, 2, 14), 6, groups=2),
    LRN("window of one", (2, 3, 2, 5), 1),
    LRN("window of two", (2, 3, 2, 5), 2),
    LRN("window wider than the maps", (2, 3, 2, 4), 13),
    LRN("one channel", (2, 3, 2, 1), 5),
    LRN("another power", (1, 4, 3, 7), 3, alpha=0.3, beta=1.25, k=0.5),
    LRN("square root", (1, 4, 3, 7), 3, alpha=0.3, beta=0.5, k=1.0),
    LRN("the paper's constants", (1, 4, 3, 8), 5, alpha=1e-4),
    LRN("more than a block of them", (2, 5, 9, 18), 5),
    LRN("window wider than a block", (1, 1, 2, 1100), 1061),
    LRN("many channels", (1, 3, 2, 131), 9),
    LRN("conv1's maps", (2, 27, 27, 96), 5, groups=2, big=True),
)


@dataclass(frozen=True)
class RNorm:
    """A norm within each map of x (N, H, W, C)."""

    name: str
    x: tuple[int, int, int, int]
    size: int
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 2.0
    big: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def constants(self) -> dict[str, Any]:
        """The keyword arguments of both passes."""
        return {"size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}


@dataclass(frozen=True)
class LRNPool:
    """A norm across channels followed by a max-pool, of maps x (N, H, W, C)."""

    name: str
    norm: LRN
    pool: Pool

    def __str__(self) -> str:
        return self.name

    @property
    def x(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return self.pool.x

    @property
    def y(self) -> tuple[int, int, int, int]:
        """(N, P, Q, C)."""
        return self.pool.y

    @property
    def big(self) -> bool:
        return self.pool.big

    @property
    def constants(self) -> dict[str, Any]:
        """The keyword arguments of both passes."""
        pool = {"pool_size": self.pool.size, "pool_stride": self.pool.stride}
        return self.norm.constants | pool | {"ceil": self.pool.ceil}

    @property
    def where_dtype(self) -> type:
        """The narrowest unsigned integer that holds a place in the window."""
        return np.uint8 if self.pool.size <= 16 else np.uint16


RNORMS = (
    RNorm("cifar-18pct's window", (2, 7, 5, 3), 3),
    RNorm("the source's window", (2, 6, 7, 2), 5, k=1.0),
    RNorm("even window", (2, 5, 4, 3), 4),
    RNorm("window of one", (2, 3, 4, 5), 1),
    RNorm("window of two", (1, 4, 3, 5), 2),
    RNorm("window larger than the image", (2, 2, 3, 4), 9),
    RNorm("one pixel", (3, 1, 1, 4), 3),
    RNorm("another power", (1, 4, 5, 3), 3, alpha=0.3, beta=1.25, k=0.5),
    RNorm("cifar-18pct's constants", (1, 5, 4, 3), 3, alpha=5e-5 / 9, k=1.0),
    RNorm("more rows than a band", (1, 19, 3, 2), 5),
    RNorm("many channels", (1, 3, 4, 131), 3),
    RNorm("cifar-18pct's maps", (9, 16, 16, 32), 3, big=True),
)


_NORMS_AND_POOLS: tuple[tuple[str, int, int, dict[str, Any], Pool], ...] = (
    ("channels by eight in groups", 5, 2, {}, Pool("", (2, 7, 9, 16), 3, 2)),
    ("one group, clipped windows", 5, 1, {}, Pool("", (2, 8, 6, 24), 3, 2)),
    ("one vector a group", 5, 3, {}, Pool("", (1, 6, 5, 24), 3, 2, ceil=False)),
    ("windows apart", 5, 1, {}, Pool("", (2, 9, 8, 8), 2, 3)),
    ("windows side by side", 5, 2, {}, Pool("", (1, 6, 7, 16), 2, 2)),
    ("windows that overlap by two", 5, 2, {}, Pool("", (1, 9, 8, 16), 4, 2)),
    ("windows larger than the image", 5, 1, {}, Pool("", (2, 4, 3, 8), 5, 3)),
    ("windows as large as may be", 5, 2, {}, Pool("", (1, 18, 17, 16), 8, 3)),
    ("many rows and columns", 5, 2, {"alpha": 0.3}, Pool("", (1, 47, 41, 16), 3, 2)),
    ("channels as many as may be", 5, 1, {}, Pool("", (1, 9, 8, 1024), 8, 2)),
    ("conv1's maps", 5, 2, {}, Pool("", (2, 55, 55, 96), 3, 2, big=True)),
    ("conv2's maps", 5, 2, {}, Pool("", (2, 27, 27, 256), 3, 2, big=True)),
)
"""The case's name, the norm's size, groups and other constants, the pool."""

_NO_NORMS_AND_POOLS: tuple[tuple[str, int, int, dict[str, Any], Pool], ...] = (
    ("pool_size is 9", 5, 2, {}, Pool("", (1, 18, 17, 16), 9, 2)),
    ("pool_size is 17", 5, 2, {}, Pool("", (1, 18, 17, 16), 17, 2)),
    ("x has 1032 channels", 5, 1, {}, Pool("", (1, 4, 3, 1032), 3, 2)),
    ("groups is 2, each of 6 channels", 5, 2, {}, Pool("", (2, 5, 6, 12), 3, 2)),
    ("groups is 1, each of 11 channels", 5, 1, {}, Pool("", (1, 7, 5, 11), 3, 2)),
    ("size is 4", 4, 2, {"k": 1.0}, Pool("", (2, 5, 6, 16), 3, 2)),
    ("size is 13", 13, 1, {}, Pool("", (1, 5, 6, 8), 3, 2)),
    ("beta is 1.25", 5, 1, {"beta": 1.25, "k": 0.5}, Pool("", (1, 5, 6, 8), 3, 2)),
    ("k is ", 5, 1, {"k": 1e-39}, Pool("", (1, 5, 6, 8), 3, 2)),
)
"""Likewise, but named after what the refusal begins with."""


def _norms_and_pools(
    table: tuple[tuple[str, int, int, dict[str, Any], Pool], ...],
) -> tuple[LRNPool, ...]:
    return tuple(
        LRNPool(name, LRN(name, pool.x, size, groups, **constants), pool)
        for name, size, groups, constants, pool in table
    )


LRN_POOLS = _norms_and_pools(_NORMS_AND_POOLS)
NO_LRN_POOLS = _norms_and_pools(_NO_NORMS_AND_POOLS)
"""Norms and pools that run one after the other alone."""


def each(cases: tuple[Any, ...]) -> list[Any]:
    """Cases as parameters, with the big ones marked."""
    return [
        pytest.param(case, id=str(case), marks=[pytest.mark.big] if case.big else [])
        for case in cases
    ]

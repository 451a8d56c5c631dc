"""Principal axes of the colours of a set of photographs, for the colour jitter of section 4.1.

The paper writes of eigenvalues; its numbers only make sense with their square roots, which the
original's batches.meta calls `pca_stdevs`: a step of .1 along the main axis is 12 grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FEWEST = 1000
"""Training images from which a set's own colours are used.

The pixels of an image are correlated, so the number of images counts: the variance along an axis is
then known to about sqrt(2 / 1000) = 4 %, and each pixel of the mean to 70 / sqrt(1000) = 2 grey
levels.
"""

PIECE = 2**16
"""Pixels that `Moments.of` widens to float64 at a time; they stay in the cache."""


@dataclass(frozen=True, eq=False)
class Colour:
    """Principal axes of RGB pixels, 0 to 255, about their mean.

    Attributes:
        vectors: (3, 3) float64; rows are R, G, B, columns are the axes, each of length 1.
        sigmas: (3,) float64, ascending: the standard deviation along each axis, grey levels.
    """

    vectors: npt.NDArray[np.float64]
    sigmas: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Exact sums over RGB pixels, up to 10^14 of them: the order of addition does not matter.

    Attributes:
        pixels: how many.
        sums: (3,) int64, of R, G and B.
        products: (3, 3) int64, of RR, RG, RB, GR, ... BB.
    """

    pixels: int = 0
    sums: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    products: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 3), np.int64))

    @classmethod
    def of(cls, images: npt.NDArray[np.uint8]) -> Moments:
        """The sums over `images` (..., 3)."""
        pixels, total = images.reshape(-1, 3), cls()
        for start in range(0, len(pixels), PIECE):
            # Integers below 2^16 * 255^2 < 2^53: float64, and so BLAS, adds them exactly.
            piece = pixels[start : start + PIECE].astype(np.float64)
            sums, products = piece.sum(axis=0), piece.T @ piece
            total += cls(len(piece), sums.astype(np.int64), products.astype(np.int64))
        return total

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.pixels + other.pixels, self.sums + other.sums, self.products + other.products
        )

    def means(self) -> tuple[float, ...]:
        """Of R, G and B, grey levels."""
        return tuple((self.sums / self.pixels).tolist())

    def colour(self) -> Colour:
        """The principal axes of these pixels.

        An axis may point either way; as in `imagenet`, its largest component is negative.
        """
        # Python's integers: the products of sums have more than 64 bits.
        n, sums, products = self.pixels, self.sums.astype(object), self.products.astype(object)
        covariance = ((n * products - np.outer(sums, sums)) / n**2).astype(np.float64)
        variances, vectors = np.linalg.eigh(covariance)
        largest = vectors[np.abs(vectors).argmax(axis=0), range(3)]
        return Colour(-np.sign(largest) * vectors, np.sqrt(np.maximum(variances, 0.0)))


def imagenet() -> Colour:
    """The axes of ImageNet's training photographs (cuda-convnet2, make-data/input_meta)."""
    return Colour(
        np.array(
            [
                [0.41796, -0.71258, -0.56351],
                [-0.81698, -0.02354, -0.57618],
                [0.39731, 0.70120, -0.59200],
            ]
        ),
        np.array([19.7208, 37.0939, 121.7801]),
    )


def imagenet_means() -> tuple[float, float, float]:
    """Mean R, G and B of ImageNet's training photographs, grey levels (as `imagenet`)."""
    return 127.30, 119.72, 104.91


def of_set(moments: Moments, images: int) -> Colour:
    """The axes of a set of that many training images; ImageNet's if fewer than `FEWEST`."""
    return moments.colour() if images >= FEWEST else imagenet()

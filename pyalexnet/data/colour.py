"""Principal axes of the colours of a set of photographs, for the colour jitter of section 4.1.

The paper writes of eigenvalues; its numbers only make sense with their square roots, which the
original's batches.meta calls `pca_stdevs`: a step of .1 along the main axis is 12 grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# Training images from which a set's own colours are used. The pixels of an image are correlated, so
# the number of images counts: the variance along an axis is then known to about sqrt(2 / 1000) =
# 4 %, and each pixel of the mean to 70 / sqrt(1000) = 2 grey levels.
FEWEST = 1000

PIECE = 2**16  # pixels that `Moments.of` widens to float64 at a time; they stay in the cache

# Of ImageNet's training photographs (cuda-convnet2, make-data/input_meta), ascending.
_AXES = ((0.41796, -0.81698, 0.39731), (-0.71258, -0.02354, 0.7012), (-0.56351, -0.57618, -0.592))
_SIGMAS = (19.7208, 37.0939, 121.7801)
IMAGENET_MEANS = (127.30, 119.72, 104.91)  # R, G and B, grey levels


@dataclass(frozen=True, eq=False)
class Colour:
    """Principal axes of RGB pixels, 0 to 255, about their mean."""

    vectors: npt.NDArray[np.float64]  # (3, 3): rows are R, G, B, columns the axes, of length 1
    sigmas: npt.NDArray[np.float64]  # (3,), ascending: standard deviations along them, grey levels


@dataclass(frozen=True, eq=False)
class Moments:
    """Exact sums over RGB images, up to 10^14 pixels: the order of addition does not matter."""

    images: int = 0
    sums: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))  # (..., 3)
    products: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 3), np.int64))

    @classmethod
    def of(cls, images: npt.NDArray[np.uint8]) -> Moments:
        """The sums of each pixel of `images` (N, ..., 3), and of all their RR, RG, ... BB."""
        pixels, products = images.reshape(-1, 3), np.zeros((3, 3), np.int64)
        for start in range(0, len(pixels), PIECE):
            # Integers below 2^16 * 255^2 < 2^53: float64, and so BLAS, adds them exactly.
            piece = pixels[start : start + PIECE].astype(np.float64)
            products += (piece.T @ piece).astype(np.int64)
        return cls(len(images), images.sum(axis=0, dtype=np.int64), products)

    def __add__(self, other: Moments) -> Moments:
        images, sums = self.images + other.images, self.sums + other.sums
        return Moments(images, sums, self.products + other.products)

    @property
    def total(self) -> tuple[int, npt.NDArray[np.int64]]:
        """The pixels of all images, and their sums of R, G and B."""
        return self.images * (self.sums.size // 3), self.sums.reshape(-1, 3).sum(axis=0)

    def means(self) -> tuple[float, ...]:
        """Of R, G and B, grey levels."""
        pixels, sums = self.total
        return tuple((sums / pixels).tolist())

    def colour(self) -> Colour:
        """The principal axes; as in `imagenet`, the largest component of each is negative."""
        n, sums = self.total
        # Python's integers: the products of sums have more than 64 bits.
        sums, products = sums.astype(object), self.products.astype(object)
        covariance = ((n * products - np.outer(sums, sums)) / n**2).astype(np.float64)
        variances, vectors = np.linalg.eigh(covariance)
        largest = vectors[np.abs(vectors).argmax(axis=0), range(3)]
        return Colour(-np.sign(largest) * vectors, np.sqrt(np.maximum(variances, 0.0)))


def imagenet() -> Colour:
    """The axes of ImageNet's training photographs."""
    return Colour(np.array(_AXES).T.copy(), np.array(_SIGMAS))


def of_set(moments: Moments) -> Colour:
    """The axes of a set's training images; ImageNet's if they are fewer than `FEWEST`."""
    return moments.colour() if moments.images >= FEWEST else imagenet()

"""Whether a training loss is stuck at chance: the loss of guessing by the labels' frequencies.

A network that lets nothing of the image through cannot do better than chance, and can do worse:
dropout's noise on the logits raises the loss above it. If a network learns slowly, its loss falls,
even if by less than it varies between batches. So losses are compared by their means over blocks of
steps, and by the standard errors of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pyalexnet.data.dataset import Labels

_BLOCKS = 5
# Logits of pure noise with deviation s cost s^2 / 2 above chance; a loss higher than that at s = 1
# has another cause: it diverges.
_LIFT = 0.5
# In standard errors. Few, since the two mistakes are not equal: stopping a run that learns loses
# it; a run that does not learn is examined again a block later.
_SIGNIFICANT = 1.5


def chance(labels: Labels) -> float:
    """The entropy of the labels' frequencies in nats: ln(classes) where they are equal."""
    _, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@dataclass
class Losses:
    """Recent losses of a run, in blocks: all that a resumed run needs; JSON-able."""

    # For each block, the oldest first: mean, and its standard error squared.
    blocks: list[tuple[float, float]] = field(default_factory=list)
    # Of the block that is not yet full.
    steps: int = 0
    images: int = 0
    loss: float = 0.0
    square: float = 0.0

    def stop(self, images: int, loss: float, chance: float, steps: int) -> bool:
        """Count a step on `images`; whether the loss has been at chance for `steps` steps.

        chance: the loss of guessing, nats, see the function of that name; 0 means a single class,
        with nothing to learn. steps: 0 lets the run go on. Losses that are not finite are handled
        elsewhere.
        """
        if steps == 0 or not math.isfinite(loss):
            return False
        self.steps += 1
        self.images += images
        self.loss += images * loss
        self.square += images * loss * loss
        if self.steps < math.ceil(steps / _BLOCKS):
            return False
        self._close()
        return len(self.blocks) == _BLOCKS and chance > 0 and self._at_chance(chance)

    def _close(self) -> None:
        """Close the full block: begin a new one, and drop the oldest."""
        mean = self.loss / self.images
        spread = max(self.square / self.images - mean * mean, 0.0)
        self.blocks = [*self.blocks, (mean, spread / max(self.steps - 1, 1))][-_BLOCKS:]
        self.steps, self.images, self.loss, self.square = 0, 0, 0.0, 0.0

    def _at_chance(self, chance: float) -> bool:
        """Whether the losses are neither below chance, nor far above it, nor falling."""
        means, variances = np.array(self.blocks).T
        above = means.mean() - chance
        error = math.sqrt(variances.sum()) / _BLOCKS
        fall = means[:2].mean() - means[-2:].mean()
        fall_error = math.sqrt(variances[:2].sum() + variances[-2:].sum()) / 2
        return bool(-_SIGNIFICANT * error <= above <= _LIFT and fall <= _SIGNIFICANT * fall_error)

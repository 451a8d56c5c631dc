"""Stochastic gradient descent with momentum and weight decay, as in the paper's section 5.

v = momentum v - weight_decay lr w - lr dw, then w = w + v. The buffer v holds steps, with the
learning rate in them: when the rate drops, those before the drop still act at their old size, which
PyTorch's rule does not do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyalexnet.backends.base import Array
from pyalexnet.net import Net, copied
from pyalexnet.recipe import Recipe


class SGD:
    """The optimiser of a net's parameters.

    Attributes:
        net: whose parameters it updates, in place.
        recipe: learning rates, decays and momentum; may be replaced between two steps.
        momentum: the buffers v by parameter name, arrays of the device.
    """

    net: Net
    recipe: Recipe
    momentum: dict[str, Array]

    def __init__(self, net: Net, recipe: Recipe | None = None) -> None:
        """Begin with buffers of zeros; without a recipe, with the net's own."""
        self.net = net
        self.recipe = net.spec.recipe if recipe is None else recipe
        self.momentum = {name: net.backend.zeros(w.shape) for name, w in net.params.items()}

    def step(self, grads: Mapping[str, Array], epoch: float) -> None:
        """Update every parameter at the rates of `epoch` (from 0, fractions included).

        A parameter whose rate is 0 is frozen: nothing of it changes, its buffer included.
        """
        for name, w in self.net.params.items():
            self.net.backend.sgd_update(
                w,
                self.momentum[name],
                grads[name],
                lr=self.recipe.lr(name, epoch),
                momentum=self.recipe.momentum,
                weight_decay=self.recipe.decay(name),
            )

    def load(self, momentum: Mapping[str, Any]) -> None:
        """Take copies of `momentum`, which has every buffer by name, of the host or any device."""
        self.momentum = copied(self.net.backend, momentum, self.momentum)

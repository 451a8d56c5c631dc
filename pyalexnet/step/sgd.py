"""Stochastic gradient descent with momentum and weight decay, as in the paper's section 5.

v = momentum v - weight_decay lr w - lr dw, then w = w + v. The buffer v holds steps, with the
learning rate in them: when the rate drops, earlier steps still act at their old size, unlike
in PyTorch's rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyalexnet.backends.base import Array
from pyalexnet.nets.recipe import Recipe
from pyalexnet.step.net import Net
from pyalexnet.step.program import Update


class SGD:
    """The optimiser of the parameters of `net`, which it updates in place."""

    def __init__(self, net: Net, recipe: Recipe | None = None) -> None:
        """Begin with buffers of zeros; without a recipe, with the net's own."""
        self.net = net
        buffers = tuple(
            net.sliced({name: part.backend.zeros(w.shape) for name, w in part.params.items()})
            for part in net.parts
        )
        self._update = Update({}, buffers)
        self.recipe = net.spec.recipe if recipe is None else recipe

    @property
    def recipe(self) -> Recipe:
        """Learning rates, decays and momentum; may be replaced between two steps."""
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        # Here and in `load`, so that a step need not check for changes.
        names = self.net.spec.param_shapes()
        self._recipe, courses = recipe, [recipe.course(name) for name in names]
        self._bases = {  # of the parameters that follow a schedule; 0 for the others
            schedule: np.array([base if own == schedule else 0.0 for base, own in courses])
            for schedule in {own for _, own in courses}
        }
        rules = {name: (recipe.momentum, recipe.decay(name)) for name in names}
        if rules != self._update.rules:  # new rates alone need no new program
            self._update = Update(rules, self._update.momentum)

    @property
    def momentum(self) -> dict[str, Array]:
        """The buffers v by parameter name, laid out as `net.params`."""
        return self.net.joined([self.net.unsliced(own) for own in self._update.momentum])

    def step(self, images: Any, labels: Any, *, step: int, epoch: float, drops: int = 0) -> Array:
        """Forward, backward and update of every parameter; the mean loss, 0-d.

        A parameter whose rate is 0 is frozen: neither it nor its buffer changes.

        images, labels, step: as for `Net.loss_and_grads`. epoch: epochs done, from 0, fractions
        included; it determines the rates. drops: how often a `Plateau` schedule has divided them.
        """
        rates = np.sum([b * own.factor(epoch, drops) for own, b in self._bases.items()], axis=0)
        return self.net.learn(images, labels, step=step, rates=rates, update=self._update)

    def load(self, momentum: Mapping[str, Any]) -> None:
        """Copy `momentum`, which has every buffer by name, from the host or any device."""
        own = tuple(self.net.sliced(each) for each in self.net.divided(momentum))
        self._update = Update(self._update.rules, own)

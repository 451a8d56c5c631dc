"""How a network is trained: learning rates, weight decay, momentum, batch size and schedule.

The paper's section 5 gives every layer one rate; the files that made its numbers give the weights
and the biases of each layer their own. A `Recipe` has one `Rate` for all layers and, by layer name,
the exceptions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pyalexnet.backends.checks import integer, positive, real
from pyalexnet.errors import ArgumentError


@dataclass(frozen=True)
class Steps:
    """A learning rate's course: each `(epoch, factor)` multiplies it by `factor` from `epoch` on.

    Factors do not accumulate: `Steps(((25, 0.1), (51, 0.01)))` divides by 10 twice. Before the
    first step the factor is 1. A factor of 0 freezes.
    """

    steps: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for epoch, factor in self.steps:
            real("schedule", "an epoch", epoch, low=0)
            real("schedule", "a factor", factor, low=0)
        starts = [epoch for epoch, _ in self.steps]
        if starts != sorted(starts):
            raise ArgumentError(f"schedule: epochs are {starts}; ascending ones were expected.")

    def factor(self, epoch: float) -> float:
        """What the rate is multiplied by at `epoch`, counted from 0, fractions included."""
        return next((factor for start, factor in reversed(self.steps) if epoch >= start), 1.0)

    def stretched(self, ratio: float) -> Steps:
        """The same course over `ratio` times as many epochs."""
        return Steps(tuple((start * ratio, factor) for start, factor in self.steps))


@dataclass(frozen=True)
class Rate:
    """Learning rates and weight decays of a layer's weights (`_w`) and biases (`_b`).

    A schedule of None is the recipe's. The decay is applied times the current learning rate
    (paper, section 5). A learning rate of 0 freezes: neither decay nor momentum acts.
    """

    lr_w: float
    lr_b: float
    decay_w: float
    decay_b: float = 0.0
    schedule_w: Steps | None = None
    schedule_b: Steps | None = None

    def __post_init__(self) -> None:
        for name in ("lr_w", "lr_b", "decay_w", "decay_b"):
            real("rate", name, getattr(self, name), low=0)

    def scaled(self, factor: float) -> Rate:
        """Both learning rates times `factor`, save that of biases with their own schedule."""
        lr_b = self.lr_b * factor if self.schedule_b is None else self.lr_b
        return dataclasses.replace(self, lr_w=self.lr_w * factor, lr_b=lr_b)

    def stretched(self, ratio: float) -> Rate:
        """The same rates, their own schedules over `ratio` times as many epochs."""
        return dataclasses.replace(
            self,
            schedule_w=self.schedule_w and self.schedule_w.stretched(ratio),
            schedule_b=self.schedule_b and self.schedule_b.stretched(ratio),
        )


@dataclass(frozen=True)
class Recipe:
    """All that a training run needs beside a network and data.

    rate: of every layer that `rates` does not name. schedule: of every rate without its own.
    """

    epochs: float
    batch_size: int
    momentum: float
    rate: Rate
    schedule: Steps = Steps()
    rates: Mapping[str, Rate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive("recipe", "epochs", self.epochs)
        integer("recipe", "batch_size", self.batch_size, low=1)
        real("recipe", "momentum", self.momentum, low=0, high=1)

    def lr(self, parameter: str, epoch: float) -> float:
        """Learning rate of `parameter` ("conv1.w") at `epoch`, counted from 0, with fractions."""
        rate, is_bias = self._of(parameter)
        own = rate.schedule_b if is_bias else rate.schedule_w
        schedule = self.schedule if own is None else own
        return (rate.lr_b if is_bias else rate.lr_w) * schedule.factor(epoch)

    def decay(self, parameter: str) -> float:
        """Weight decay of `parameter` ("conv1.w")."""
        rate, is_bias = self._of(parameter)
        return rate.decay_b if is_bias else rate.decay_w

    def override(
        self,
        *,
        epochs: float | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
    ) -> Recipe:
        """This recipe with the values given.

        epochs: the schedules stretch along. lr: becomes the weights' rate; all other rates change
        in proportion, save those of biases with their own schedule. weight_decay: of the weights
        of every layer.
        """
        new = self
        if epochs is not None:
            ratio = positive("recipe", "epochs", epochs) / self.epochs
            new = new._each_rate(lambda rate: rate.stretched(ratio))
            new = dataclasses.replace(new, epochs=epochs, schedule=self.schedule.stretched(ratio))
        if lr is not None:
            if self.rate.lr_w == 0:
                raise ArgumentError("recipe: lr has no rates to scale; those of the recipe are 0.")
            factor = real("recipe", "lr", lr, low=0) / self.rate.lr_w
            new = new._each_rate(lambda rate: rate.scaled(factor))
        if weight_decay is not None:
            decay = real("recipe", "weight_decay", weight_decay, low=0)
            new = new._each_rate(lambda rate: dataclasses.replace(rate, decay_w=decay))
        return dataclasses.replace(
            new,
            batch_size=self.batch_size if batch_size is None else batch_size,
            momentum=self.momentum if momentum is None else momentum,
        )

    def _of(self, parameter: str) -> tuple[Rate, bool]:
        layer, _, kind = parameter.rpartition(".")
        return self.rates.get(layer, self.rate), kind == "b"

    def _each_rate(self, change: Callable[[Rate], Rate]) -> Recipe:
        rates = {layer: change(rate) for layer, rate in self.rates.items()}
        return dataclasses.replace(self, rate=change(self.rate), rates=rates)

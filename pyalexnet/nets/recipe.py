"""How a network is trained: learning rates, weight decay, momentum, batch size and schedule.

The paper's section 5 gives every layer one rate; the configuration files behind its results give
the weights and the biases of each layer their own. A `Recipe` has one `Rate` for all layers and, by
layer name, the exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.schedule import Plateau, Schedule, Steps, parse
from pyalexnet.ops.checks import integer, positive, real


@dataclass(frozen=True)
class Rate:
    """Learning rates and weight decays of a layer's weights (`_w`) and biases (`_b`).

    A schedule of None is the recipe's; only the recipe's may be a `Plateau`. The decay is
    multiplied by the current learning rate (paper, section 5). A learning rate of 0 freezes:
    neither decay nor momentum acts.
    """

    lr_w: float
    lr_b: float
    decay_w: float
    decay_b: float = 0.0
    schedule_w: Schedule | None = None
    schedule_b: Schedule | None = None

    def __post_init__(self) -> None:
        for name in ("lr_w", "lr_b", "decay_w", "decay_b"):
            real("rate", name, getattr(self, name), low=0)
        for schedule in (self.schedule_w, self.schedule_b):
            if isinstance(schedule, Plateau):
                raise ArgumentError(
                    f"rate: a layer's own schedule is {schedule}; one that does not wait for a "
                    "plateau was expected, as a run waits for one at a time: the recipe's."
                )

    @property
    def frozen(self) -> bool:
        """Whether neither weights nor biases are ever trained."""
        return self.lr_w == 0 and self.lr_b == 0

    def scaled(self, factor: float) -> Rate:
        """Both learning rates times `factor`, except that of biases with their own schedule."""
        lr_b = self.lr_b * factor if self.schedule_b is None else self.lr_b
        return replace(self, lr_w=self.lr_w * factor, lr_b=lr_b)

    def stretched(self, ratio: float) -> Rate:
        """The same rates, with their own schedules over `ratio` times as many epochs."""
        w, b = (each and each.stretched(ratio) for each in (self.schedule_w, self.schedule_b))
        return replace(self, schedule_w=w, schedule_b=b)


@dataclass(frozen=True)
class Augment:
    """How training sees stored images (paper, section 4.1); evaluation sees their centre."""

    stored: int = 256  # side of the square image in pixels that the network's input is cropped from
    flip: bool = True  # whether it is mirrored, with probability 1/2
    # Consecutive images of a batch that share a crop and mirroring; the original program's loader
    # drew for 32 at a time (`convdata_jpeg.py`).
    chunk: int = 1
    # Deviation of the colour jitter along each principal axis of the colours, as a multiple of the
    # colours' own deviation along it.
    jitter: float = 0.0
    jitter_shrinks: bool = False  # whether pixels are then divided by 1 + jitter, as it did
    jitter_until: float | None = None  # the epoch at which jitter ends; None: never
    # The mean to subtract: "centre", the centre of the mean image wherever the crop was (that
    # program's rule); "pixel", the mean of the crop's own pixels (Caffe's); "channel", one number
    # per channel (torchvision's).
    mean: Literal["centre", "pixel", "channel"] = "centre"

    def __post_init__(self) -> None:
        integer("augment", "stored", self.stored, low=1)
        integer("augment", "chunk", self.chunk, low=1)
        real("augment", "jitter", self.jitter, low=0)
        if self.jitter_until is not None:
            real("augment", "jitter_until", self.jitter_until, low=0)
        if self.mean not in ("centre", "pixel", "channel"):
            raise ArgumentError(
                f"augment: mean is {self.mean!r}; centre, pixel or channel was expected."
            )

    def jitter_at(self, epoch: float) -> float:
        """The jitter of training at `epoch`, counted from 0, fractions included."""
        over = self.jitter_until is not None and epoch >= self.jitter_until
        return 0.0 if over else self.jitter

    def stretched(self, ratio: float) -> Augment:
        """The same over `ratio` times as many epochs."""
        until = None if self.jitter_until is None else self.jitter_until * ratio
        return replace(self, jitter_until=until)


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run needs besides a network and data."""

    epochs: float
    batch_size: int
    momentum: float
    rate: Rate  # of every layer that `rates` does not name
    schedule: Schedule = field(default_factory=Steps)  # of every rate without its own
    rates: Mapping[str, Rate] = field(default_factory=dict)
    augment: Augment | None = None  # how training sees stored images; None: as they are

    def __post_init__(self) -> None:
        positive("recipe", "epochs", self.epochs)
        integer("recipe", "batch_size", self.batch_size, low=1)
        if not 0 <= real("recipe", "momentum", self.momentum) < 1:
            raise ArgumentError(
                f"recipe: momentum is {self.momentum:g}; at least 0 and less than 1 was expected."
            )

    def lr(self, parameter: str, epoch: float, drops: int = 0) -> float:
        """Learning rate of `parameter` ("conv1.w").

        epoch: counted from 0, with fractions. drops: of `PlateauState`, for a `Plateau`.
        """
        base, schedule = self.course(parameter)
        return base * schedule.factor(epoch, drops)

    def course(self, parameter: str) -> tuple[float, Schedule]:
        """Learning rate of `parameter` before its schedule, and the schedule."""
        rate, is_bias = self._of(parameter)
        base, own = (rate.lr_b, rate.schedule_b) if is_bias else (rate.lr_w, rate.schedule_w)
        return base, own or self.schedule

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
        schedule: Schedule | str | None = None,
        bias_schedule: Schedule | str | None = None,
        layer_lr: Mapping[str, float] | None = None,
        bias_lr: float | None = None,
    ) -> Recipe:
        """This recipe with the values given, applied in the order of the arguments.

        epochs: the schedules stretch along. lr: becomes the weights' rate; all other rates change
        in proportion, except those of biases with their own schedule. weight_decay: of the weights
        of every layer. schedule: of every layer's weights, and of the biases without their own.
        bias_schedule: of every layer's biases. Both may be texts, see `schedule.parse`. layer_lr:
        the weights' rate by layer, that of their biases in proportion; 0 freezes the layer.
        bias_lr: of every layer that is not frozen.
        """
        new = self if epochs is None else self._stretched(epochs)
        if batch_size is not None:
            new = replace(new, batch_size=batch_size)
        if lr is not None:
            if self.rate.lr_w == 0:
                raise ArgumentError("recipe: lr has no rates to scale; those of the recipe are 0.")
            factor = real("recipe", "lr", lr, low=0) / self.rate.lr_w
            new = new._each_rate(lambda rate: rate.scaled(factor))
        if momentum is not None:
            new = replace(new, momentum=momentum)
        if weight_decay is not None:
            decay = real("recipe", "weight_decay", weight_decay, low=0)
            new = new._each_rate(lambda rate: replace(rate, decay_w=decay))
        if schedule is not None:
            new = new._each_rate(lambda rate: replace(rate, schedule_w=None))
            new = replace(new, schedule=new._parsed(schedule))
        if bias_schedule is not None:
            own = new._parsed(bias_schedule)
            new = new._each_rate(lambda rate: replace(rate, schedule_b=own))
        rates = {layer: new._layer_rate(layer, lr_w) for layer, lr_w in (layer_lr or {}).items()}
        new = replace(new, rates={**new.rates, **rates})
        if bias_lr is not None:
            lr_b = real("recipe", "bias_lr", bias_lr, low=0)
            new = new._each_rate(lambda rate: rate if rate.frozen else replace(rate, lr_b=lr_b))
        return new

    def _stretched(self, epochs: float) -> Recipe:
        ratio = positive("recipe", "epochs", epochs) / self.epochs
        new = self._each_rate(lambda rate: rate.stretched(ratio))
        augment = self.augment and self.augment.stretched(ratio)
        schedule = self.schedule.stretched(ratio)
        return replace(new, epochs=epochs, schedule=schedule, augment=augment)

    def _parsed(self, schedule: Schedule | str) -> Schedule:
        return parse(schedule, self.epochs) if isinstance(schedule, str) else schedule

    def _layer_rate(self, layer: str, lr: float) -> Rate:
        """A layer's rate with `lr` for its weights, and its biases' in proportion."""
        rate = self.rates.get(layer, self.rate)
        # A frozen layer does not give the proportion.
        model = next((one for one in (rate, self.rate) if one.lr_w > 0), None)
        proportion = model.lr_b / model.lr_w if model else 1.0
        lr_w = real("recipe", f"the lr of {layer}", lr, low=0)
        return replace(rate, lr_w=lr_w, lr_b=lr_w * proportion)

    def _of(self, parameter: str) -> tuple[Rate, bool]:
        layer, _, kind = parameter.rpartition(".")
        return self.rates.get(layer, self.rate), kind == "b"

    def _each_rate(self, change: Callable[[Rate], Rate]) -> Recipe:
        rates = {layer: change(rate) for layer, rate in self.rates.items()}
        return replace(self, rate=change(self.rate), rates=rates)

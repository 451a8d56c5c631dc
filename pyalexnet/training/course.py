"""A run's progress along its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pyalexnet.errors import CheckpointError
from pyalexnet.files import refused
from pyalexnet.nets.recipe import Recipe
from pyalexnet.nets.schedule import Plateau, PlateauState
from pyalexnet.runs.config import flat, validated
from pyalexnet.trained.evaluate import Sums
from pyalexnet.training.chance import Losses

# Fields of a `Position` that the checkpoints of early versions lack.
_CAME_LATER = {"plateau", "losses", "closed"}


@dataclass
class Position:
    """A run's position; with the parameters and the momentum, all that resuming needs."""

    step: int = 0  # updates done; also the counter of the dropout masks
    epoch: int = 0  # epochs done, their test included
    seen: int = 0  # images of the current epoch trained on so far
    epoch_sums: Sums = field(default_factory=Sums)  # over the current epoch
    window_sums: Sums = field(default_factory=Sums)  # since the last step line of the log
    best_step: int | None = None
    best_error: float = 1.0
    plateau: PlateauState = field(default_factory=PlateauState)
    losses: Losses = field(default_factory=Losses)  # recent ones, for the rule on runs at chance
    closed: bool = False
    """Whether the current epoch has been tested as far as it goes: a run may end within one."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Position:
        """Rebuild one from the result of `asdict`; old ones lack later fields."""
        what = f"the checkpoint does not say where its run stood; it has {list(values)}"
        with refused(CheckpointError, what, ValueError):
            at = validated(cls, values)
            known = {name: asdict(cls())[name] for name in _CAME_LATER} | dict(values)
            if odd := flat(known).keys() ^ flat(asdict(at)).keys():
                raise ValueError(f"{min(odd)} is missing or unknown")
            if min(at.step, at.epoch, at.seen) < 0:
                raise ValueError("one of its counts is negative")
        return at


class Course:
    """The epochs, steps and rates of a run on `images` training images.

    at: its position. batch_size: the recipe's, or all images if there are fewer.
    steps_an_epoch: updates; images that do not fill a last batch are left out.
    """

    def __init__(self, recipe: Recipe, images: int) -> None:
        self.recipe, self.images = recipe, images
        self.batch_size = min(recipe.batch_size, images)
        self.steps_an_epoch = images // self.batch_size
        self.at = Position()

    @property
    def steps(self) -> int:
        """Updates of the whole run, those done included."""
        later = max(self.recipe.epochs - self.at.epoch - 1, 0)
        return self.at.step + self.steps_left + self._steps_in(later)

    @property
    def steps_left(self) -> int:
        """Updates left in the current epoch; the last epoch may be a fraction of one."""
        part = min(self.recipe.epochs - self.at.epoch, 1)
        target = self._steps_in(part) * self.batch_size
        return max(target - self.at.seen, 0) // self.batch_size

    def _steps_in(self, epochs: float) -> int:
        """Updates in so many epochs, at least one in a fraction of one."""
        return max(round(epochs * self.steps_an_epoch), 1 if epochs > 0 else 0)

    @property
    def finished(self) -> bool:
        closed = self.at.closed and self.steps_left == 0
        return self.outlived or closed or self.at.epoch >= self.recipe.epochs

    @property
    def outlived(self) -> bool:
        """Whether a `Plateau` schedule has ended the run: its lowest rate no longer helps."""
        return isinstance(self.recipe.schedule, Plateau) and self.at.plateau.ended

    @property
    def progress(self) -> float:
        """Epochs done, including the fraction of the current one."""
        return self.at.epoch + self.at.seen / self.images

    @property
    def lr(self) -> float:
        """The recipe's learning rate for the next step; layers may have their own."""
        return self._lr(self.progress)

    @property
    def last_lr(self) -> float:
        """The recipe's learning rate in the last step of the current epoch."""
        return self._lr(self.at.epoch + (self.at.seen - self.batch_size) / self.images)

    def _lr(self, epoch: float) -> float:
        factor = self.recipe.schedule.factor(epoch, self.at.plateau.drops)
        return self.recipe.rate.lr_w * factor

    def heed_plateau(self, test_error: float) -> str:
        """Divide the rate, or end the run, where the schedule sees no improvement; says so."""
        schedule, before = self.recipe.schedule, self.at.plateau
        if not isinstance(schedule, Plateau):
            return ""
        now = self.at.plateau = schedule.after(before, test_error)
        if now.drops > before.drops:
            rate = self._lr(self.at.epoch + 1)
            return f"the test error has stopped improving: lr is now {rate:.3g}"
        return "the test error has stopped improving at the lowest rate" if now.ended else ""

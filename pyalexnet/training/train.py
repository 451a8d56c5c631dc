"""The training loop: from a network, data and a configuration to the contents of the run folder.

Everything random is drawn from counters (seed, epoch, step), so a run's position, parameters and
momentum are all that resuming needs: a run stopped at any step and resumed ends bit for bit as one
that was not.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from pyalexnet.backends import Array
from pyalexnet.data import Dataset, order, views
from pyalexnet.data.dataset import Labels
from pyalexnet.data.loader import Loader, Pixels
from pyalexnet.data.views import Views
from pyalexnet.errors import (
    ArgumentError,
    CheckpointError,
    PyalexnetError,
    TrainingError,
)
from pyalexnet.nets.schedule import Plateau, PlateauState
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint, Meta
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import EpochReport, Motion, RunFolder, Scores, StepReport, StopReport
from pyalexnet.step.net import Net
from pyalexnet.step.planned import PlannedNet
from pyalexnet.step.sgd import SGD
from pyalexnet.trained import signals
from pyalexnet.trained.evaluate import Sums, evaluate
from pyalexnet.training.chance import ChanceRule, Losses, chance
from pyalexnet.training.interrupt import Interrupt
from pyalexnet.training.watching import Watcher

_DIVERGED = 1e4
"""Nats. Losses of runs that learn stay below a hundred, spikes included. Some runs far beyond come
back, but to chance, with layers that let nothing through."""

_SECONDS_BETWEEN_SAVES = 600.0
"""The most work lost when a machine goes down in the middle of a long epoch."""


@dataclass
class Position:
    """Where a run stands; with the parameters and the momentum, all that resuming needs."""

    step: int = 0
    """Updates done; also the counter of the dropout masks."""
    epoch: int = 0
    """Epochs done, their test included."""
    seen: int = 0
    """Images of the current epoch trained on so far."""
    epoch_sums: Sums = field(default_factory=Sums)
    """Over the current epoch."""
    window_sums: Sums = field(default_factory=Sums)
    """Since the last step line of the log."""
    best_step: int | None = None
    best_error: float = 1.0
    plateau: PlateauState = field(default_factory=PlateauState)
    """Progress of a `Plateau` schedule."""
    losses: Losses = field(default_factory=Losses)
    """Recent ones, for the rule that stops a run at chance."""
    closed: bool = False
    """Whether the current epoch has been tested as far as it goes: a run may end within one."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Position:
        """Rebuild one from the result of `asdict`.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            parts: dict[str, Any] = {
                name: Sums(**values[name]) for name in ("epoch_sums", "window_sums")
            }
            parts["plateau"] = PlateauState(**values.get("plateau", {}))
            parts["losses"] = Losses.from_mapping(values.get("losses", asdict(Losses())))
            untyped = asdict(cls(**{**values, **parts}))
            at = pydantic.TypeAdapter(cls).validate_python(untyped)
            if min(at.step, at.epoch, at.seen) < 0:
                raise ValueError("one of its counts is negative")
        except (KeyError, TypeError, ValueError) as error:
            first = str(error).partition("\n")[0]  # pydantic's messages take several lines
            raise CheckpointError(
                f"the checkpoint does not say where its run stood ({first}); it has {list(values)}."
            ) from error
        return at


@dataclass(frozen=True)
class Outcome:
    """How `Trainer.fit` ended."""

    finished: bool
    """All epochs are done."""
    interrupt: int | None
    """The signal that stopped it, if one did."""
    test: Scores | None
    """The final parameters on the test split; None after a signal."""
    seconds: float


@dataclass
class Pace:
    """Training speed; only the time between `start` and the last `count` is counted."""

    images: int = 0
    seconds: float = 0.0
    _last: float = 0.0

    def start(self) -> None:
        """Begin, or continue after a pause."""
        self._last = time.perf_counter()

    def count(self, images: int) -> None:
        """Add images that were trained on until now."""
        now = time.perf_counter()
        self.images += images
        self.seconds += now - self._last
        self._last = now

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0


def _read_by(net: Net) -> dict[str, Any]:
    """The layout in which a loader should write images so that the network reads them in place."""
    if not (isinstance(net, PlannedNet) and net.converts):
        return {}
    seen = net.converted
    return {
        "block": seen.block,
        "pad": seen.pad,
        "dtype": net.element,
        "into": net.images_for,
    }


class Trainer:
    """A network in training; `fit` runs it, everything else is its state.

    The caller enters `interrupt`, so that a signal is kept until it can be handled.

    Losses and errors stay on a GPU until a line of the log or a checkpoint needs them. On the CPU
    nothing is gained by waiting: there each step's loss and gradients are checked before the
    update.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        net: Net,
        mean: Pixels,
        folder: RunFolder,
        watchers: Iterable[Watcher] = (),
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.net = net
        self.mean = mean
        self.folder = folder
        self.at = Position()
        self.sgd = SGD(net, config.recipe)
        self.watchers = tuple(watchers)
        self.interrupt = Interrupt()
        self.batch_size = min(config.recipe.batch_size, len(dataset.train))
        augment = config.recipe.augment
        self._colour = dataset.colour() if augment and augment.jitter else None
        self.loader = Loader(
            backend=net.backend,
            mean=net.backend.asarray(mean),
            size=net.spec.input_shape[:2],
            mean_at_pixel=augment is not None and augment.mean == "pixel",
            workers=config.workers,
            **_read_by(net),
        )
        self._chance = ChanceRule(chance(dataset.train.labels), config.chance_steps)
        self._sits_at_chance = False
        self._grads: tuple[dict[str, Array], ...] | None = None
        self._unread: list[tuple[int, Array, Array, Array]] = []
        self._window, self._epoch, self._whole = Pace(), Pace(), Pace()
        self._test: Scores | None = None
        self._test_seconds = 0.0
        self.fresh = True  # the parameters are the initial ones, at step 0
        self._saved: dict[str, Any] | None = None
        self._saved_at = 0.0

    # Where the run stands

    @property
    def steps_an_epoch(self) -> int:
        """Updates in an epoch; images that do not fill a last batch are left out of it."""
        return len(self.dataset.train) // self.batch_size

    @property
    def steps(self) -> int:
        """Updates of the whole run, those done included."""
        later = max(self.config.recipe.epochs - self.at.epoch - 1, 0)
        return self.at.step + self._steps_left() + self._steps_in(later)

    @property
    def finished(self) -> bool:
        closed = self.at.closed and self._steps_left() == 0
        return self.outlived or closed or self.at.epoch >= self.config.recipe.epochs

    @property
    def more_epochs(self) -> float:
        """Epochs to suggest for continuing a finished run."""
        return 2 * self.config.recipe.epochs

    @property
    def outlived(self) -> bool:
        """Whether a `Plateau` schedule has ended the run: its lowest rate no longer helps."""
        return isinstance(self.config.recipe.schedule, Plateau) and self.at.plateau.ended

    @property
    def progress(self) -> float:
        """Epochs done, including the fraction of the current one."""
        return self.at.epoch + self.at.seen / len(self.dataset.train)

    @property
    def lr(self) -> float:
        """The recipe's learning rate for the next step; layers may have their own."""
        return self._lr(self.progress)

    @property
    def last_lr(self) -> float:
        """The recipe's learning rate in the last step of the current epoch."""
        return self._lr(self.at.epoch + (self.at.seen - self.batch_size) / len(self.dataset.train))

    def _lr(self, epoch: float) -> float:
        recipe = self.config.recipe
        return recipe.rate.lr_w * recipe.schedule.factor(epoch, self.at.plateau.drops)

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the lowest test error; None before the end of the first epoch."""
        if self.at.best_step is None:
            return None
        return self.folder.checkpoints / f"step-{self.at.best_step:08d}"

    def restore(self, position: Position, momentum: Mapping[str, Array]) -> None:
        """Continue from a checkpoint's position; the net already has its parameters."""
        self.at = position
        self.sgd.load(momentum)
        self._saved = asdict(position)

    def check_stop(self, step: int | None) -> None:
        """Refuse to stop at a step that is past.

        Raises:
            ArgumentError: the step is past.
        """
        if step is not None and step <= self.at.step:
            raise ArgumentError(
                f"steps is {step}; more than the {self.at.step} that are done was expected."
            )

    # The loop

    def fit(self, stop_at: int | None = None) -> Outcome:
        """Train until the last epoch, step `stop_at` or a signal; then save and draw.

        Raises:
            TrainingError: a loss, gradient or parameter is not finite; nothing is saved then.
            CheckpointError: a checkpoint cannot be written; the ones before stay.
            ArgumentError: there is nothing to do before `stop_at`.
        """
        self.check_stop(stop_at)
        self._tell(lambda watcher: watcher.begin(self.at.step))
        try:
            with self._telling_failure():
                return self._fit(stop_at)
        finally:
            self._tell(Watcher.close)

    def _fit(self, stop_at: int | None) -> Outcome:
        started = time.perf_counter()
        self._saved_at = started
        while not (self.finished or self.interrupt or self.at.step == stop_at):
            self._train_epoch(stop_at)
            if self._sits_at_chance:
                self._save()
                raise self._at_chance()
            if self._steps_left() == 0 and not self.interrupt:
                self._end_epoch()
        if not self.interrupt:
            self._test = self._test or self._evaluate()
        self._save()
        received = None if self.finished else self.interrupt.received  # None: it came too late
        outcome = Outcome(
            finished=self.finished,
            interrupt=received,
            test=None if received else self._test,
            seconds=time.perf_counter() - started,
        )
        ended = received.name if received else "finished" if self.finished else "steps"
        report = StopReport(self.at.step, ended, outcome.test)
        self._tell(lambda watcher: watcher.stop(report))
        return outcome

    def first_losses(self) -> tuple[float, float]:
        """Expected and measured loss of the next batch, dropout off.

        Logits that do not depend on the image and have variance s^2 over the classes cost
        ln(classes) + s^2 / 2 on average; that is ln(classes) only where s is small.
        """
        with self._telling_failure():
            images, labels = self._some_images(self.batch_size)
        backend = self.net.backend
        logits = self.net.forward(images)
        loss = backend.softmax_cross_entropy(logits, labels)[0]
        spread = float(backend.to_numpy(logits).var(axis=1).mean())
        return math.log(self.net.spec.classes) + spread / 2, float(backend.to_numpy(loss))

    def _steps_left(self) -> int:
        """Updates left in the current epoch; the last epoch may be a fraction of one."""
        part = min(self.config.recipe.epochs - self.at.epoch, 1)
        target = self._steps_in(part) * self.batch_size
        return max(target - self.at.seen, 0) // self.batch_size

    def _steps_in(self, epochs: float) -> int:
        """Updates in so many epochs, at least one in a fraction of one."""
        return max(round(epochs * self.steps_an_epoch), 1 if epochs > 0 else 0)

    def _epoch_batches(self, first: int, stop: int, size: int) -> Generator[tuple[Array, Labels]]:
        """The current epoch's images from `first` to `stop` in batches of `size`."""
        train = self.dataset.train
        indices = order(len(train), self.config.seed, self.at.epoch)
        return self.loader.batches(train, indices[first:stop], size, self.look, first=first)

    def _some_images(self, count: int) -> tuple[Array, Labels]:
        """The current epoch's first images."""
        with contextlib.closing(self._epoch_batches(0, count, count)) as feed:
            return next(feed)

    def look(self, images: Labels, positions: Labels) -> Views:
        """How training sees images of the current epoch: see `views.training`."""
        height, width, channels = self.dataset.train.image_shape
        stored, size = (height, width), self.net.spec.input_shape[:2]
        augment = self.config.recipe.augment
        if augment is None:
            return views.centre(len(images), stored, size, channels)
        return views.training(
            augment,
            self._colour,
            seed=self.config.seed,
            epoch=self.at.epoch,
            images=images,
            positions=positions,
            stored=stored,
            size=size,
            channels=channels,
            progress=self.at.epoch + int(positions[0]) / len(self.dataset.train),
        )

    def _train_epoch(self, stop_at: int | None) -> None:
        """Train on the rest of the current epoch."""
        count = self._steps_left()
        if stop_at is not None:
            count = min(count, stop_at - self.at.step)
        for pace in (self._window, self._epoch, self._whole):
            pace.start()
        stop = self.at.seen + count * self.batch_size
        with contextlib.closing(self._epoch_batches(self.at.seen, stop, self.batch_size)) as feed:
            for images, labels in feed:
                self._step(images, labels)
                if self._stops() or self._sits_at_chance:
                    break
                if time.perf_counter() - self._saved_at > _SECONDS_BETWEEN_SAVES:
                    self._save()

    def _stops(self) -> bool:
        """Handle the signals received: save if one asks for it; return whether to stop."""
        if self.interrupt.save:
            self._save()
        return bool(self.interrupt)

    def _step(self, images: Array, labels: Labels) -> None:
        if isinstance(self.net, PlannedNet) and self.net.fused:
            self._fused_update(images, labels)
        else:
            self._update(images, labels)
        self.at.step += 1
        self.at.seen += self.batch_size
        self.at.closed = False
        self._test = None
        self._report_step()

    def _update(self, images: Array, labels: Labels) -> None:
        """Gradients, then the update."""
        loss, self._grads = self.net.gradients(
            images, labels, train=True, step=self.at.step, out=self._grads
        )
        self._unread.append((self.at.step + 1, loss, *self.net.last_errors))
        if isinstance(loss, np.ndarray | np.generic):
            self._read_losses(images)
            self._check_gradients()
        self.sgd.step(self._grads, self.progress, self.at.plateau.drops)
        if isinstance(loss, np.ndarray | np.generic):
            self._check_update()

    def _fused_update(self, images: Array, labels: Labels) -> None:
        """Both in one; values that are not finite are found afterwards, and never saved."""
        loss = self.sgd.fused_step(
            images,
            labels,
            step=self.at.step,
            epoch=self.progress,
            drops=self.at.plateau.drops,
        )
        self._unread.append((self.at.step + 1, loss, *self.net.last_errors))
        if isinstance(loss, np.ndarray | np.generic):
            self._read_losses()
            self._check_update()

    def _report_step(self) -> None:
        due = self.at.step % self.config.print_freq == 0
        if due:
            self._read_losses()
        for pace in (self._window, self._epoch, self._whole):
            pace.count(self.batch_size)
        if self.at.window_sums.images:
            report = StepReport(
                epoch=self.at.epoch + 1,
                epochs=math.ceil(self.config.recipe.epochs),
                progress=self.progress,
                step=self.at.step,
                steps=self.steps,
                train=self.at.window_sums.mean(),
                lr=self.last_lr,
                images_per_second=self._window.images_per_second,
                seconds_left=self._seconds_left(),
                batch=self.at.seen // self.batch_size,
                seconds=self._window.seconds,
                exchanged=self.net.exchanged.total,
            )
            self._tell(lambda watcher: watcher.step(report, due=due))
        if due:
            self.at.window_sums = Sums()
            self._window = Pace()
            self._window.start()

    def _seconds_left(self) -> float:
        images = (self.steps - self.at.step) * self.batch_size
        tests = math.ceil(self.config.recipe.epochs) - self.at.epoch
        pace = self._whole.images_per_second  # 0 if a coarse clock has not advanced yet
        return images / pace + tests * self._test_seconds if pace else 0.0

    def _end_epoch(self) -> None:
        """Test, log and save; a signal during the test leaves the epoch to the resumed run."""
        self._read_losses()
        test = self._evaluate()
        if test is None:
            return
        best = self.at.best_step is None or test.top1_error < self.at.best_error
        if best:
            self.at.best_step, self.at.best_error = self.at.step, test.top1_error
        self._report_epoch(test, best)
        self._test = test
        if self.config.recipe.epochs - self.at.epoch < 1:
            self.at.closed = True  # a run continued later trains on the rest of the epoch
        else:
            self._heed_plateau(test)
            self.at.epoch += 1
            self.at.seen = 0
            self.at.epoch_sums = Sums()
            self._epoch = Pace()
        self._save()

    def _heed_plateau(self, test: Scores) -> None:
        """Divide the rate, or end the run, where the schedule sees no improvement."""
        schedule, before = self.config.recipe.schedule, self.at.plateau
        if not isinstance(schedule, Plateau):
            return
        now = self.at.plateau = schedule.after(before, test.top1_error)
        if now.drops > before.drops:
            rate = self._lr(self.at.epoch + 1)
            self._say(f"  the test error has stopped improving: lr is now {rate:.3g}")
        if now.ended:
            self._say("  the test error has stopped improving at the lowest rate")

    def _report_epoch(self, test: Scores, best: bool) -> None:
        report = EpochReport(
            epoch=self.at.epoch + 1,
            epochs=math.ceil(self.config.recipe.epochs),
            step=self.at.step,
            train=self.at.epoch_sums.mean(),
            test=test,
            lr=self.last_lr,
            seconds=self._epoch.seconds,
            best=best,
            layers=self._motions(),
        )
        self._tell(lambda watcher: watcher.epoch(report))

    def _motions(self) -> dict[str, Motion]:
        """Mean |w| and mean |dw| of each layer's weights; the momentum buffer is the last step."""

        def mean_magnitude(array: Array) -> float:
            return float(np.abs(self.net.backend.to_numpy(array)).mean(dtype=np.float64))

        steps = self.sgd.momentum  # two towers' are joined only once
        return {
            name.removesuffix(".w"): Motion.of(mean_magnitude(weights), mean_magnitude(steps[name]))
            for name, weights in self.net.params.items()
            if name.endswith(".w")
        }

    def _evaluate(self) -> Scores | None:
        started = time.perf_counter()
        scores = evaluate(
            self.net,
            self.dataset.test,
            self.loader,
            self.batch_size,
            stop=self._stops,
        )
        self._test_seconds = time.perf_counter() - started
        if scores is not None and not math.isfinite(scores.loss):
            what = f"the loss on the test images is {scores.loss}"
            raise self._failure(self.at.step, what, self._culprit(self._some_images(1)[0]))
        return scores

    def _tell(self, happened: Callable[[Watcher], None]) -> None:
        for watcher in self.watchers:
            happened(watcher)

    def _say(self, line: str) -> None:
        self._tell(lambda watcher: watcher.say(line))

    # What must be finite

    def _read_losses(self, images: Array | None = None) -> None:
        """Copy the losses and errors from the device and add them up, in order of the steps.

        Args:
            images: the last loss's batch, if at hand and the parameters have not changed since.

        Raises:
            TrainingError: a loss is not finite, or beyond `_DIVERGED`.
        """
        to_numpy = self.net.backend.to_numpy
        for step, *values in self._unread:
            loss, top1, top5 = (float(to_numpy(value)) for value in values)
            if not abs(loss) < _DIVERGED:  # also catches NaN
                raise self._failure(step, f"the loss is {loss}", self._culprit(images))
            for sums in (self.at.epoch_sums, self.at.window_sums):
                sums.add(self.batch_size, loss, top1, top5)
            self._sits_at_chance |= self._chance.stops(self.at.losses, self.batch_size, loss)
        self._unread.clear()

    def _check_gradients(self) -> None:
        """On the CPU, refuse gradients that would spoil the parameters."""
        for grads in self._grads or ():
            for name, gradient in grads.items():
                if not np.isfinite(gradient).all():
                    raise self._failure(self.at.step + 1, f"the gradient of {name} is not finite")

    def _check_update(self) -> None:
        """On the CPU, refuse parameters that an update's rate or momentum has spoilt."""
        for part in self.net.parts:
            for name, values in part.params.items():
                if not np.isfinite(values).all():
                    raise self._failure(self.at.step + 1, f"the update of {name} is not finite")

    def _culprit(self, images: Array | None) -> str:
        """The first parameter, else the first layer's output, that is not finite."""
        to_numpy = self.net.backend.to_numpy
        for name, values in self.net.params.items():
            if not np.isfinite(to_numpy(values)).all():
                return f"{name} holds values that are not finite"
        if images is None:
            return "every parameter is finite"
        largest = {}
        for name, outputs in self.net.activations(images):
            largest[name] = float(np.abs(to_numpy(outputs)).max())
            if not math.isfinite(largest[name]):
                return f"{name} is the first layer whose outputs are not finite"
        name = max(largest, key=lambda layer: largest[layer])
        return f"the largest output is {largest[name]:.1e}, of {name}"

    def _at_chance(self) -> TrainingError:
        """The loss has been at chance for too long: which layer is to blame, and what to do."""
        images, _ = self._some_images(signals.IMAGES)
        return TrainingError(
            signals.chance_sentence(
                self.net,
                images,
                step=self.at.step,
                steps=self.config.chance_steps,
                loss=self.at.losses.blocks[-1][0],
                chance=self._chance.chance,
                run=self.folder.path,
            )
        )

    def _failure(self, step: int, what: str, where: str = "") -> TrainingError:
        """Training cannot go on: where, why, and what to try."""
        smaller = f"--lr {self.config.recipe.rate.lr_w / 10:g}"
        advice = f"try a smaller learning rate, for instance {smaller}"
        if self._saved:
            advice = (
                f"the checkpoint of step {self._saved['step']} is as it was, to go on from it: "
                f"pyalexnet train --resume {self.folder.path} {smaller}"
            )
        found = f"{what}; {where}" if where else what
        return TrainingError(f"step {step}, lr {self.lr:g}: {found}; {advice}.")

    # What is saved

    def _save(self) -> None:
        """Write a checkpoint of the run's position, unless the last one has the same.

        Raises:
            TrainingError: a parameter or a momentum is not finite.
            RunError: the run folder is gone.
            CheckpointError: it cannot be written.
        """
        self.interrupt.save = False
        self._read_losses()
        where = asdict(self.at)
        if where == self._saved:
            return
        self.folder.check_held()
        params, momentum = self._host(self.net.params), self._host(self.sgd.momentum)
        for kind, arrays in (("parameter", params), ("momentum of", momentum)):
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    raise self._failure(self.at.step, f"the {kind} {name} is not finite")
        spec = self.net.spec
        meta = Meta(
            net=spec.name,
            classes=spec.classes,
            class_names=self.dataset.classes.names,
            class_ids=self.dataset.classes.ids,
            input_shape=spec.input_shape,
            step=self.at.step,
            epoch=self.at.epoch,
            net_args=self.config.all_net_args,
            config=asdict(self.config),
            metrics=where,
        )
        checkpoint.save(self.folder.checkpoints, Checkpoint(params, momentum, self.mean, meta))
        self._saved = where
        self._saved_at = time.perf_counter()
        checkpoint.prune(
            self.folder.path, self.config.keep, best=self.at.best_step, step=self.at.step
        )
        self._tell(Watcher.saved)

    def _host(self, arrays: Mapping[str, Array]) -> dict[str, np.ndarray[Any, Any]]:
        return {name: self.net.backend.to_numpy(array) for name, array in arrays.items()}

    @contextlib.contextmanager
    def _telling_failure(self) -> Iterator[None]:
        """Tell the watchers of an error that ends the run."""
        try:
            yield
        except (PyalexnetError, MemoryError, OSError) as error:
            failure = StopReport(self.at.step, str(error) or repr(error), failed=True)
            self._tell(lambda watcher: watcher.stop(failure))
            raise

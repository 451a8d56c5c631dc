"""The training loop: from a network, data and a configuration to the contents of the run folder.

Everything random is drawn from counters (seed, epoch, step), so a run's position, parameters and
momentum are all that resuming needs: a run stopped at any step and resumed ends bit for bit as one
that was not.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet.backends import Array
from pyalexnet.data import Dataset
from pyalexnet.data.dataset import Labels, Pixels
from pyalexnet.data.loader import Loader
from pyalexnet.errors import ArgumentError, PyalexnetError, TrainingError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint, Meta
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import EpochReport, Motion, RunFolder, Scores, StepReport, StopReport
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from pyalexnet.trained import signals
from pyalexnet.trained.evaluate import Sums, evaluate
from pyalexnet.training.chance import ChanceRule, chance
from pyalexnet.training.course import Course, Position
from pyalexnet.training.failure import culprit
from pyalexnet.training.feed import Feed
from pyalexnet.training.interrupt import Interrupt
from pyalexnet.training.pace import Pace
from pyalexnet.training.watching import Watcher

_DIVERGED = 1e4
"""Nats. Losses of runs that learn stay below a hundred, spikes included. Some runs far beyond come
back, but to chance, with layers that let nothing through."""

_SECONDS_BETWEEN_SAVES = 600.0
"""The most work lost when a machine goes down in the middle of a long epoch."""


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


def _read_by(net: Net) -> dict[str, Any]:
    """The layout in which a loader should write images so that the network reads them in place."""
    if not net.converts:
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
    nothing is gained by waiting: there each step's loss and parameters are checked at once.
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
        self.course = Course(config.recipe, len(dataset.train))
        self.sgd = SGD(net, config.recipe)
        self.watchers = tuple(watchers)
        self.interrupt = Interrupt()
        self.batch_size = self.course.batch_size
        augment = config.recipe.augment
        self.loader = Loader(
            backend=net.backend,
            mean=net.backend.asarray(mean),
            size=net.spec.input_shape[:2],
            mean_at_pixel=augment is not None and augment.mean == "pixel",
            workers=config.workers,
            **_read_by(net),
        )
        self._feed = Feed(dataset, config.recipe.augment, config.seed, self.loader)
        self._chance = ChanceRule(chance(dataset.train.labels), config.chance_steps)
        self._sits_at_chance = False
        self._unread: list[tuple[int, Array, Array, Array]] = []
        self._window, self._epoch, self._whole = Pace(), Pace(), Pace()
        self._test: Scores | None = None
        self._test_seconds = 0.0
        self.fresh = True  # the parameters are the initial ones, at step 0
        self._saved: dict[str, Any] | None = None
        self._saved_at = 0.0

    # Where the run stands

    @property
    def at(self) -> Position:
        return self.course.at

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the lowest test error; None before the end of the first epoch."""
        if self.at.best_step is None:
            return None
        return self.folder.checkpoints / f"step-{self.at.best_step:08d}"

    def restore(self, position: Position, momentum: Mapping[str, Array]) -> None:
        """Continue from a checkpoint's position; the net already has its parameters."""
        self.course.at = position
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
        while not (self.course.finished or self.interrupt or self.at.step == stop_at):
            self._train_epoch(stop_at)
            if self._sits_at_chance:
                self._save()
                raise self._at_chance()
            if self.course.steps_left == 0 and not self.interrupt:
                self._end_epoch()
        if not self.interrupt:
            self._test = self._test or self._evaluate()
        self._save()
        finished = self.course.finished
        received = None if finished else self.interrupt.received  # if so, it came too late
        outcome = Outcome(
            finished=finished,
            interrupt=received,
            test=None if received else self._test,
            seconds=time.perf_counter() - started,
        )
        ended = received.name if received else "finished" if finished else "steps"
        report = StopReport(self.at.step, ended, outcome.test)
        self._tell(lambda watcher: watcher.stop(report))
        return outcome

    def first_losses(self) -> tuple[float, float]:
        """Expected and measured loss of the next batch, dropout off.

        Logits that do not depend on the image and have variance s^2 over the classes cost
        ln(classes) + s^2 / 2 on average; that is ln(classes) only where s is small.
        """
        with self._telling_failure():
            images, labels = self._feed.some(self.at.epoch, self.batch_size)
        backend = self.net.backend
        logits = self.net.forward(images)
        loss = backend.softmax_cross_entropy(logits, labels)[0]
        spread = float(backend.to_numpy(logits).var(axis=1).mean())
        return math.log(self.net.spec.classes) + spread / 2, float(backend.to_numpy(loss))

    def _train_epoch(self, stop_at: int | None) -> None:
        """Train on the rest of the current epoch."""
        count = self.course.steps_left
        if stop_at is not None:
            count = min(count, stop_at - self.at.step)
        for pace in (self._window, self._epoch, self._whole):
            pace.start()
        batches = self._feed.batches(self.at.epoch, self.at.seen, self.batch_size, count)
        with contextlib.closing(batches):
            for images, labels in batches:
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
        self._update(images, labels)
        self.at.step += 1
        self.at.seen += self.batch_size
        self.at.closed = False
        self._test = None
        self._report_step()

    def _update(self, images: Array, labels: Labels) -> None:
        """Values that are not finite are found afterwards, and never saved."""
        loss = self.sgd.step(
            images,
            labels,
            step=self.at.step,
            epoch=self.course.progress,
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
                progress=self.course.progress,
                step=self.at.step,
                steps=self.course.steps,
                train=self.at.window_sums.mean(),
                lr=self.course.last_lr,
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
        images = (self.course.steps - self.at.step) * self.batch_size
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
            if sentence := self.course.heed_plateau(test.top1_error):
                self._tell(lambda watcher: watcher.say(f"  {sentence}"))
            self.at.epoch += 1
            self.at.seen = 0
            self.at.epoch_sums = Sums()
            self._epoch = Pace()
        self._save()

    def _report_epoch(self, test: Scores, best: bool) -> None:
        report = EpochReport(
            epoch=self.at.epoch + 1,
            epochs=math.ceil(self.config.recipe.epochs),
            step=self.at.step,
            train=self.at.epoch_sums.mean(),
            test=test,
            lr=self.course.last_lr,
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
            raise self._failure(self.at.step, what, self._culprit())
        return scores

    def _tell(self, happened: Callable[[Watcher], None]) -> None:
        for watcher in self.watchers:
            happened(watcher)

    # What must be finite

    def _read_losses(self) -> None:
        """Copy the losses and errors from the device and add them up, in order of the steps.

        Raises:
            TrainingError: a loss is not finite, or beyond `_DIVERGED`.
        """
        to_numpy = self.net.backend.to_numpy
        for step, *values in self._unread:
            loss, top1, top5 = (float(to_numpy(value)) for value in values)
            if not abs(loss) < _DIVERGED:  # also catches NaN
                raise self._failure(step, f"the loss is {loss}", self._culprit())
            for sums in (self.at.epoch_sums, self.at.window_sums):
                sums.add(self.batch_size, loss, top1, top5)
            self._sits_at_chance |= self._chance.stops(self.at.losses, self.batch_size, loss)
        self._unread.clear()

    def _check_update(self) -> None:
        """On the CPU, refuse parameters that an update's rate or momentum has spoilt."""
        for part in self.net.parts:
            for name, values in part.params.items():
                if not np.isfinite(values).all():
                    raise self._failure(self.at.step + 1, f"the update of {name} is not finite")

    def _culprit(self) -> str:
        images, _ = self._feed.some(self.at.epoch, 1)
        return culprit(self.net, images)

    def _at_chance(self) -> TrainingError:
        """The loss has been at chance for too long: which layer is to blame, and what to do."""
        images, _ = self._feed.some(self.at.epoch, signals.IMAGES)
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
        return TrainingError(f"step {step}, lr {self.course.lr:g}: {found}; {advice}.")

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

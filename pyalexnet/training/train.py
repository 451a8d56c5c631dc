"""The training loop: from a network, data and a configuration to the contents of the run folder.

Everything random is drawn from counters (seed, epoch, step), so a run's position, parameters and
momentum are all that resuming needs: a run stopped at any step and resumed ends bit for bit like
one that was never stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet.backends import Array
from pyalexnet.data import order, views
from pyalexnet.data.dataset import Dataset, Labels, Pixels
from pyalexnet.data.loader import Loader
from pyalexnet.errors import ArgumentError, PyalexnetError, TrainingError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import EpochReport, Motion, RunFolder, Scores, StepReport, StopReport
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from pyalexnet.trained import signals
from pyalexnet.trained.evaluate import Sums, evaluate
from pyalexnet.training.chance import chance
from pyalexnet.training.course import Course, Position
from pyalexnet.training.interrupt import SAVE, Interrupt
from pyalexnet.training.watching import Watcher

# Nats. Losses of runs that learn stay below a hundred, spikes included. Some runs far beyond
# recover, but only to chance, with layers that let nothing through.
_DIVERGED = 1e4
# The most work lost when a machine goes down in the middle of a long epoch.
_SECONDS_BETWEEN_SAVES = 600.0


@dataclass
class _Pace:
    """Images trained on, and the time taken."""

    images: int = 0
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0


class Trainer:
    """A network in training; `fit` runs it, everything else is its state.

    The caller enters `interrupt`, so that a signal is kept until it can be handled.

    Losses and errors stay on a GPU until a line of the log or a checkpoint needs them. On the CPU
    nothing is gained by waiting: there each step's loss and parameters are checked at once.
    """

    def __init__(
        self, config: Config, dataset: Dataset, net: Net, mean: Pixels, folder: RunFolder
    ) -> None:
        self.config, self.dataset, self.net, self.mean = config, dataset, net, mean
        self.folder = folder
        self.course = Course(config.recipe, len(dataset.train))
        self.sgd = SGD(net, config.recipe)
        self.watchers: Sequence[Watcher] = ()
        self.interrupt = Interrupt()
        self.batch_size = self.course.batch_size
        self._own = self.batch_size // net.shards.ranks
        augment, seen, in_place = config.recipe.augment, net.converted, dict[str, Any]()
        if net.converts:  # images are written into the array that the network reads
            in_place = {"block": seen.block, "pad": seen.pad, "dtype": net.element}
            in_place["into"] = net.images_for
        by_pixel = augment is not None and augment.mean == "pixel"
        place = net.backend, net.backend.asarray(mean), net.spec.input_shape[:2]
        self.loader = Loader(*place, by_pixel, config.workers, **in_place)
        self._colour = dataset.colour() if augment and augment.jitter else None
        self._chance = chance(dataset.train.labels)
        self._sits_at_chance = False
        self._unread: list[tuple[int, Array, Array, Array]] = []
        self._window, self._epoch, self._whole = _Pace(), _Pace(), _Pace()
        self._ticked = 0.0
        self._test: Scores | None = None
        self._test_seconds = 0.0
        self.fresh = True  # the parameters are the initial ones, at step 0
        self._saved: dict[str, Any] | None = None
        self._saved_at = 0.0

    # The run's position

    @property
    def at(self) -> Position:
        return self.course.at

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the lowest test error; None before the end of the first epoch."""
        step = self.at.best_step
        return None if step is None else self.folder.checkpoints / f"step-{step:08d}"

    def restore(self, position: Position, momentum: Mapping[str, Array]) -> None:
        """Continue from a checkpoint's position; the net already has its parameters."""
        self.course.at = position
        self.sgd.load(momentum)
        self._saved = asdict(position)

    def check_stop(self, step: int | None) -> None:
        """Refuse to stop at a step that is already done."""
        if self._is_done(step):
            wanted = f"more than the {self.at.step} that are done was expected"
            raise ArgumentError(f"steps is {step}; {wanted}.")

    def _is_done(self, step: int | None) -> bool:
        """If the run stopped before an epoch's test, that belongs to the epoch's last step."""
        untested = self.course.steps_left == 0 and not self.course.finished
        return step is not None and step < self.at.step + (not untested)

    # The loop

    def fit(self, stop_at: int | None = None) -> StopReport:
        """Train until the last epoch, step `stop_at` or a signal; then save and draw.

        Raises:
            TrainingError: a loss, gradient or parameter is not finite; nothing is saved then.
            CheckpointError: a checkpoint cannot be written; earlier ones stay.
            ArgumentError: there is nothing to do before `stop_at`.
        """
        self.check_stop(stop_at)
        self._tell(lambda watcher: watcher.begin(self.at.step))
        try:
            with self._telling_failure():
                return self._fit(stop_at)
        finally:
            self._tell(Watcher.close)

    def _fit(self, stop_at: int | None) -> StopReport:
        started = self._saved_at = time.perf_counter()
        while not (self.course.finished or self._stops() or self._is_done(stop_at)):
            self._train_epoch(stop_at)
            if self._sits_at_chance:
                self._save()
                raise self._at_chance()
            if self.course.steps_left == 0 and not self._stops():
                self._end_epoch()
        if not self._stops():
            self._test = self._test or self._evaluate()
        self._save()
        finished = self.course.finished
        received = None if finished else self.interrupt.heeded  # after the end it is too late
        test = None if received else self._test
        ended = received.name if received else "finished" if finished else "steps"
        report = StopReport(self.at.step, ended, test, time.perf_counter() - started)
        with self.net.communicator.at_length():
            self._tell(lambda watcher: watcher.stop(report))
        return report

    def first_losses(self) -> tuple[float, float]:
        """Expected and measured loss of the next batch, dropout off.

        Logits that do not depend on the image and have variance s^2 over the classes cost
        ln(classes) + s^2 / 2 on average; that is ln(classes) only where s is small.
        """
        with self._telling_failure():
            images, labels = self._first_images(self._own)
        backend, logits = self.net.backend, self.net.whole().forward(images)
        loss = backend.softmax_cross_entropy(logits, labels)[0]
        spread = float(backend.to_numpy(logits).var(axis=1).mean())
        return math.log(self.net.spec.classes) + spread / 2, float(backend.to_numpy(loss))

    def _train_epoch(self, stop_at: int | None) -> None:
        """Train on the rest of the current epoch."""
        at, count = self.at, self.course.steps_left
        if stop_at is not None:
            count = min(count, stop_at - at.step)
        self._ticked = time.perf_counter()
        positions = np.arange(at.seen, at.seen + count * self.batch_size)
        rank = self.net.communicator.rank
        own = self.net.shards.of_rank(rank, positions.reshape(-1, self.batch_size))
        with contextlib.closing(self._batches(own, self._own)) as batches:
            for images, labels in batches:
                self._step(images, labels)
                if self._stops(between_saves=_SECONDS_BETWEEN_SAVES) or self._sits_at_chance:
                    break

    def _batches(self, positions: Labels, size: int) -> Generator[tuple[Array, Labels]]:
        """Batches of `size` of the epoch's images at these positions in its order."""
        train = self.dataset.train
        indices = order(len(train), self.config.seed, self.at.epoch)[positions]
        return self.loader.batches(train, indices, size, self._look, positions=positions)

    def _first_images(self, count: int) -> tuple[Array, Labels]:
        """The first images of the epoch, on every rank the same."""
        with contextlib.closing(self._batches(np.arange(count), count)) as batches:
            return next(batches)

    def _look(self, images: Labels, positions: Labels) -> views.Views:
        """How training sees images: see `views.training`."""
        *stored, channels = self.dataset.train.image_shape
        shape: dict[str, Any] = {"stored": stored, "size": self.loader.size, "channels": channels}
        augment, epoch = self.config.recipe.augment, self.at.epoch
        if augment is None:
            return views.centre(len(images), **shape)
        which: dict[str, Any] = {"seed": self.config.seed, "epoch": epoch, "images": images}
        which |= {"positions": positions, "progress": self.course.progress}
        return views.training(augment, self._colour, **which, **shape)

    def _stops(self, between_saves: float = math.inf) -> bool:
        """Save if a signal to a rank or rank 0's clock asks for it; whether a signal says stop."""
        asked, ranks = self.interrupt.asked, self.net.communicator
        if ranks.rank == 0 and time.perf_counter() - self._saved_at > between_saves:
            asked = max(asked, SAVE)
        if self.interrupt.heed(ranks.most(asked)):
            self._save()
        return self.interrupt.heeded is not None

    def _step(self, images: Array, labels: Labels) -> None:
        """Update; values that are not finite may be found afterwards, and are never saved."""
        at, course = self.at, self.course
        drops = at.plateau.drops
        loss = self.sgd.step(images, labels, step=at.step, epoch=course.progress, drops=drops)
        self._unread.append((at.step + 1, loss, *self.net.last_errors))
        if isinstance(loss, np.ndarray | np.generic):
            self._read_losses()
            for part in self.net.parts:  # the update's rate or momentum may have spoilt it
                self._check_finite(at.step + 1, "the update of", part.params)
        at.step += 1
        at.seen += self.batch_size
        at.closed = False
        self._test = None
        self._report_step()

    def _report_step(self) -> None:
        due = self.at.step % self.config.print_freq == 0
        if due:
            self._read_losses()
        before, self._ticked = self._ticked, time.perf_counter()
        for pace in (self._window, self._epoch, self._whole):
            pace.images += self.batch_size
            pace.seconds += self._ticked - before
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
                exchanged=self.net.exchanged,
            )
            self._tell(lambda watcher: watcher.step(report, due=due))
        if due:
            self.at.window_sums = Sums()
            self._window = _Pace()

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
            self._epoch = _Pace()
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
        size = self._own // self.net.shards.own
        scores = evaluate(self.net.whole(), self.dataset.test, self.loader, size, stop=self._stops)
        self._test_seconds = time.perf_counter() - started
        if scores is not None and not math.isfinite(scores.loss):
            what = f"the loss on the test images is {scores.loss}"
            raise self._failure(self.at.step, f"{what}; {self._culprit()}")
        return scores

    def _tell(self, happened: Callable[[Watcher], None]) -> None:
        for watcher in self.watchers:
            happened(watcher)

    # What must be finite

    def _read_losses(self) -> None:
        """Copy the losses and errors from the device and add them up, in order of the steps."""
        to_numpy = self.net.backend.to_numpy
        for step, *values in self._unread:
            loss, top1, top5 = (float(to_numpy(value)) for value in values)
            if not abs(loss) < _DIVERGED:  # also catches NaN
                raise self._failure(step, f"the loss is {loss}; {self._culprit()}")
            for sums in (self.at.epoch_sums, self.at.window_sums):
                sums.add(self.batch_size, loss, top1, top5)
            rule = self._chance, self.config.chance_steps
            self._sits_at_chance |= self.at.losses.stop(self.batch_size, loss, *rule)
        self._unread.clear()

    def _check_finite(self, step: int, what: str, arrays: Mapping[str, Array]) -> None:
        """Refuse arrays of the host that hold values that are not finite."""
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                raise self._failure(step, f"{what} {name} is not finite")

    def _culprit(self) -> str:
        """The first parameter, else the first layer's output for an image, that is not finite."""
        net, to_numpy = self.net.whole(), self.net.backend.to_numpy
        for name, values in net.params.items():
            if not np.isfinite(to_numpy(values)).all():
                return f"{name} holds values that are not finite"
        images, _ = self._first_images(1)
        largest = {}
        for name, outputs in net.activations(images):
            largest[name] = float(np.abs(to_numpy(outputs)).max())
            if not math.isfinite(largest[name]):
                return f"{name} is the first layer whose outputs are not finite"
        name = max(largest, key=lambda layer: largest[layer])
        return f"the largest output is {largest[name]:.1e}, of {name}"

    def _at_chance(self) -> TrainingError:
        """The loss has been at chance for too long: the layer to blame, and what to do."""
        images, _ = self._first_images(signals.IMAGES)
        known: dict[str, Any] = {"step": self.at.step, "steps": self.config.chance_steps}
        known |= {"loss": self.at.losses.blocks[-1][0], "chance": self._chance}
        known["run"] = self.folder.path
        return TrainingError(signals.chance_sentence(self.net.whole(), images, **known))

    def _failure(self, step: int, what: str) -> TrainingError:
        """Training cannot go on: where, why, and what to try."""
        smaller = f"--lr {self.config.recipe.rate.lr_w / 10:g}"
        advice = f"try a smaller learning rate, for instance {smaller}"
        if self._saved:
            kept = f"the checkpoint of step {self._saved['step']} is unchanged; to continue from it"
            advice = f"{kept}: pyalexnet train --resume {self.folder.path} {smaller}"
        return TrainingError(f"step {step}, lr {self.course.lr:g}: {what}; {advice}.")

    # What is saved

    def _save(self) -> None:
        """Write a checkpoint of the run's position, unless the last one has the same."""
        self.interrupt.save = False
        self._read_losses()
        where = asdict(self.at)
        if where == self._saved:
            return
        self.folder.check_held()
        params, momentum = (
            {name: self.net.backend.to_numpy(array) for name, array in arrays.items()}
            for arrays in (self.net.params, self.sgd.momentum)
        )
        self._check_finite(self.at.step, "the parameter", params)
        self._check_finite(self.at.step, "the momentum of", momentum)
        spec, classes, at = self.net.spec, self.dataset.classes, self.at
        meta = checkpoint.Meta(
            net=spec.name,
            classes=spec.classes,
            class_names=classes.names,
            class_ids=classes.ids,
            input_shape=spec.input_shape,
            step=at.step,
            epoch=at.epoch,
            net_args=self.config.all_net_args,
            config=self.config.of_any_ranks,
            metrics=where,
        )
        state = checkpoint.Checkpoint(params, momentum, self.mean, meta)
        with self.net.communicator.at_length():
            self.folder.save(state, self.config.keep, at.best_step)
            self._saved, self._saved_at = where, time.perf_counter()
            self._tell(lambda watcher: watcher.saved(params))
            self.net.communicator.barrier()

    @contextlib.contextmanager
    def _telling_failure(self) -> Iterator[None]:
        """Tell the watchers of an error that ends the run."""
        try:
            yield
        except (PyalexnetError, MemoryError, OSError) as error:
            failure = StopReport(self.at.step, str(error) or repr(error), failed=True)
            self._tell(lambda watcher: watcher.stop(failure))
            raise

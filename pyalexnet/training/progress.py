"""The output of a training run while it runs; the only place that formats progress.

On a terminal there is a live display below the permanent lines; anywhere else (a pipe, a file,
`TERM=dumb`) there are plain lines without control codes. A reader that goes away (`| head -1`)
silences the display and never stops the training.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from pyalexnet.nets.layers import LRN
from pyalexnet.nets.recipe import Augment, Recipe
from pyalexnet.runs import logline
from pyalexnet.runs.run import EpochReport, StepReport
from pyalexnet.training import interrupt

if TYPE_CHECKING:
    from pyalexnet.training.train import Outcome, Trainer

_SECONDS_BETWEEN_LINES = 5.0


class Reporter:
    """Plain lines on a stream. Usable as a context manager; `LiveReporter` adds the display."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream: IO[str] | None = stream if stream is not None else sys.stdout
        self._told_loss = False
        self.lost: Exception | None = None
        """The error with which the stream stopped accepting output, if it did."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def say(self, line: str = "") -> None:
        """Write a permanent line."""
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._silence(error)

    def warn(self, sentence: str) -> None:
        """Write a line about something that went wrong and does not stop the run."""
        self.say(f"warning: {sentence}")

    def answer(self, sentence: str) -> None:
        """Show the answer to a signal at once, from its handler."""
        interrupt.tell(sentence)

    def step(self, report: StepReport, *, due: bool) -> None:
        """Show the state of training; `due` is true once every print interval."""
        if due:
            self._told_loss = True
            self.say(_step_line(report))

    def epoch(self, report: EpochReport) -> None:
        """Show the line of a finished epoch and how far each layer moved."""
        self._told_loss = True
        self.say(_epoch_line(report))
        for line in logline.layer_lines(report.layers):
            self.say(f"  {line}")

    def opening(self, trainer: Trainer) -> None:
        """Say what will be trained, on what, where and how."""
        for line in _opening(trainer):
            self.say(line)

    def closing(self, trainer: Trainer, outcome: Outcome) -> None:
        """Say what the results are, on which data, where they lie and how to continue."""
        if not self._told_loss and trainer.at.epoch_sums.images:
            self.say(_short_line(trainer))
        for line in _closing(trainer, outcome):
            self.say(line)

    def progress(self, what: str) -> Callable[[int, int], None]:
        """A function to call with (done, total) during `what`, before the training."""
        begun = time.monotonic()
        next_due = begun + _SECONDS_BETWEEN_LINES

        def show(done: int, total: int) -> None:
            nonlocal next_due
            if time.monotonic() >= next_due:
                next_due = time.monotonic() + _SECONDS_BETWEEN_LINES
                self.say(f"{what}: {_done_of(done, total, begun)}")

        return show

    def _silence(self, error: Exception) -> None:
        """The reader is gone, or the disk behind the stream is full: discard further output."""
        stream, self._stream, self.lost = self._stream, None, error
        if stream is not None:
            silence(stream)


class Silent(Reporter):
    """Says nothing; for use from a program."""

    def say(self, line: str = "") -> None:
        return None


class LiveReporter(Reporter):
    """A bar and the current numbers below the permanent lines, redrawn a few times a second."""

    def __init__(self, console: Console) -> None:
        super().__init__(console.file)
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, left="", visible=False)
        self._numbers = Text()
        self._answer = ""
        self._live = Live(
            Group(self._numbers, self._bar), console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._live.stop()
        except (OSError, ValueError) as error:
            self._silence(error)

    def say(self, line: str = "") -> None:
        if self._stream is None:
            return
        try:
            self._console.print(Text(line), soft_wrap=True)
        except (OSError, ValueError) as error:
            self._silence(error)

    def progress(self, what: str) -> Callable[[int, int], None]:
        begun = time.monotonic()

        def show(done: int, total: int) -> None:
            left = _done_of(done, total, begun) if done < total else ""
            self._bar.update(
                self._task,
                total=total,
                completed=done,
                description=what,
                left=left,
                visible=done < total,
            )

        return show

    def answer(self, sentence: str) -> None:
        self._answer = sentence  # the display redraws itself, so nothing waits here
        self._numbers.plain = sentence

    def step(self, report: StepReport, *, due: bool) -> None:
        self._bar.update(
            self._task,
            total=report.steps,
            completed=report.step,
            description=f"epoch {report.epoch}/{report.epochs}  step {report.step}/{report.steps}",
            left=f"ETA {logline.duration(report.seconds_left)}",
            visible=True,
        )
        self._numbers.plain = self._answer or "  ".join(_step_numbers(report))


def reporter(*, plain: bool = False) -> Reporter:
    """The live display if standard output is a terminal that can show it, else plain lines."""
    if sys.stdout is None:  # started with it closed (`>&-`)
        return Silent()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for names outside the terminal's encoding
    console = Console(file=sys.stdout, highlight=False)
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return Reporter()
    return LiveReporter(console)


def silence(stream: IO[str]) -> None:
    """Redirect a broken stream to the null device, also for the interpreter's flush at exit."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, io.UnsupportedOperation):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def percent(fraction: float) -> str:
    """`0.1234` as `12.34 %`."""
    return f"{100 * fraction:.2f} %"


def _opening(trainer: Trainer) -> Iterator[str]:
    config, recipe, net = trainer.config, trainer.config.recipe, trainer.net
    train, test = trainer.dataset.train, trainer.dataset.test
    size = "x".join(str(side) for side in net.spec.input_shape)
    yield (
        f"net       {config.net}: {net.num_parameters:,} parameters, "
        f"{net.spec.macs() / 1e6:.1f} million multiply-accumulates an image"
    )
    yield from _overrides(trainer)
    yield (
        f"data      {trainer.dataset.name}: {len(train):,} training and {len(test):,} test images, "
        f"{size}, {net.spec.classes} classes"
    )
    yield f"          {trainer.dataset.note}"
    if recipe.augment is not None:
        yield f"views     {_views(recipe.augment)}"
    place = config.backend + (", exact" if config.exact else "")
    if config.devices:
        first, second = config.devices
        norms = any(isinstance(layer, LRN) for layer in net.spec.layers)
        edges = "; norms across maps end at a tower's edge" if norms else ""
        yield f"backend   {place}, a tower each on devices {first} and {second}{edges}"
    else:
        way = ", fused" if config.fused else ""
        way += f", {config.precision}" if config.precision != "fp32" else ""
        yield f"backend   {place}, device {config.device}{way}"
    yield (
        f"recipe    {recipe.epochs:g} epochs of {trainer.steps_an_epoch} steps, batch "
        f"{trainer.batch_size}, lr {recipe.rate.lr_w:g}, momentum {recipe.momentum:g}, weight "
        f"decay {recipe.rate.decay_w:g}, schedule {recipe.schedule}, seed {config.seed}"
    )
    if trainer.batch_size < recipe.batch_size:
        yield f"          there are only {trainer.batch_size} training images for a batch"
    yield f"run       {trainer.folder.path} (Ctrl-C saves and stops)"
    if trainer.at.step:
        yield f"resumed   at step {trainer.at.step} of {trainer.steps}"
        return
    expected, measured = trainer.first_losses()
    told = f"; {expected:.4f} was expected of a fresh network (ln {net.spec.classes} + half the "
    yield (
        f"loss      {measured:.4f} before the first step"
        f"{told + 'variance of the logits)' if trainer.fresh else ''}"
    )


def _overrides(trainer: Trainer) -> Iterator[str]:
    """The preset, and every value chosen differently."""
    config, own = trainer.config, trainer.net.spec.recipe
    if config.net == "alexnet":
        yield f"preset    {config.net_args.get('preset', 'source')}"
    if trainer.at.step:
        return  # changes at a resume have been reported already
    changes = [
        f"{name} {_chosen(value)}" for name, value in config.net_args.items() if name != "preset"
    ]
    if own.epochs != config.recipe.epochs:
        changes.append(f"epochs {own.epochs:g} -> {config.recipe.epochs:g}, schedules stretched")
    if own.rate.lr_w != config.recipe.rate.lr_w:
        changes.append(f"lr {own.rate.lr_w:g} -> {config.recipe.rate.lr_w:g}, all rates with it")
    usual = _settings(own.override(epochs=config.recipe.epochs, lr=config.recipe.rate.lr_w))
    given = _settings(config.recipe)
    for name in usual | given:
        old, new = (of.get(name, "none") for of in (usual, given))
        if old != new:
            changes.append(f"{name} {old} -> {new}")
    if changes:
        yield f"changed   {'; '.join(changes)}"


def _settings(recipe: Recipe) -> dict[str, str]:
    """A recipe's values by dotted name, as a user would write them."""
    rates = {"rate": recipe.rate} | {f"rates.{name}": rate for name, rate in recipe.rates.items()}
    parts: dict[str, Any] = {"augment": recipe.augment} | rates
    found = {
        f"{part}.{each.name}": _chosen(getattr(values, each.name))
        for part, values in parts.items()
        if values is not None
        for each in dataclasses.fields(values)
    }
    own = {name: getattr(recipe, name) for name in ("batch_size", "momentum", "schedule")}
    return found | {name: _chosen(value) for name, value in own.items()}


def _chosen(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ",".join(map(_chosen, value)) or "none"
    if isinstance(value, Mapping):  # a layer as a table
        return str(value["name"])
    return f"{value:g}" if isinstance(value, float) else str(value)


def _views(augment: Augment) -> str:
    """How training sees its images."""
    shared = "" if augment.chunk == 1 else f", one for {augment.chunk} images"
    jitter = f", colour jitter {augment.jitter:g} sigma" if augment.jitter else ""
    until = f" until epoch {augment.jitter_until:g}" if augment.jitter_until is not None else ""
    flip = " and mirrored" if augment.flip else ""
    return (
        f"random crops out of {augment.stored}x{augment.stored}{flip}{shared}"
        f"{jitter}{until if jitter else ''}; mean by {augment.mean}"
    )


def _closing(trainer: Trainer, outcome: Outcome) -> Iterator[str]:
    folder = trainer.folder.path
    if outcome.interrupt is not None:
        name = signal.Signals(outcome.interrupt).name
        by = "Ctrl-C" if name == "SIGINT" else name
        yield f"stopped by {by} after step {trainer.at.step}"
    elif outcome.test is not None:
        how = "finished" if outcome.finished else "stopped"
        yield (
            f"{how} after step {trainer.at.step} in {logline.duration(outcome.seconds)}: "
            f"test accuracy {percent(1 - outcome.test.top1_error)} "
            f"(top-1 error {percent(outcome.test.top1_error)}, loss {outcome.test.loss:.4f})"
        )
        if trainer.at.best_step not in (None, trainer.at.step):
            yield (
                f"best      step {trainer.at.best_step}: test accuracy "
                f"{percent(1 - trainer.at.best_error)} (of the tests after an epoch); evaluate "
                "and others take it unless --which last is given"
            )
    yield f"data      {trainer.dataset.note}"
    yield f"run       {folder}"
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "lock":
            yield f"          {path.name}"
    for path in sorted(trainer.folder.checkpoints.iterdir()):
        best = " (best)" if path == trainer.best_checkpoint else ""
        yield f"          {path.relative_to(folder)}{best}"
    more = f" --epochs {trainer.more_epochs:g}" if outcome.finished else ""
    yield f"to go on  pyalexnet train --resume {shlex.quote(str(folder))}{more}"


def _step_numbers(report: StepReport) -> tuple[str, ...]:
    return (
        f"loss {report.train.loss:.4f}",
        f"top-1 error {percent(report.train.top1_error)}",
        f"{report.images_per_second:,.0f} images/s",
        f"lr {report.lr:.3g}",
    )


def _step_line(report: StepReport) -> str:
    line = logline.step_line(
        report.epoch,
        report.batch,
        report.train,
        report.seconds,
        report.lr,
        report.images_per_second,
        report.seconds_left,
    )
    return line + (f", {report.exchanged / 1e6:.2f} MB exchanged" if report.exchanged else "")


def _epoch_line(report: EpochReport) -> str:
    return (
        f"epoch {report.epoch}/{report.epochs} done: "
        f"train loss {report.train.loss:.4f}, top-1 error {percent(report.train.top1_error)}; "
        f"test loss {report.test.loss:.4f}, top-1 error {percent(report.test.top1_error)}"
        f"{' (best)' if report.best else ''}; lr {report.lr:.3g}; {report.seconds:.1f} s"
    )


def _short_line(trainer: Trainer) -> str:
    """The line of a run that ended before its first line was due."""
    train = trainer.at.epoch_sums.mean()
    return (
        f"epoch {trainer.at.epoch + 1} so far: train loss {train.loss:.4f}, top-1 error "
        f"{percent(train.top1_error)}"
    )


def _done_of(done: int, total: int, begun: float) -> str:
    """`30 of 90, ETA 0:20`, where the 30 took the ten seconds since `begun`."""
    seconds_left = (time.monotonic() - begun) * (total - done) / max(done, 1)
    return f"{done:,} of {total:,}, ETA {logline.duration(seconds_left)}"

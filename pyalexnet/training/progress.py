"""The output of a training run while it runs; plain lines, or a live display.

On a terminal there is a live display below the permanent lines; anywhere else (a pipe, a file,
`TERM=dumb`) there are plain lines without control codes. A reader that goes away (`| head -1`)
silences the display and never stops the training.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from pyalexnet.runs import logline
from pyalexnet.runs.run import EpochReport, StepReport
from pyalexnet.training import interrupt
from pyalexnet.training.watching import Watcher

_SECONDS_BETWEEN_LINES = 5.0


class Reporter(Watcher):
    """Plain lines on a stream. Usable as a context manager; `LiveReporter` adds the display.

    told_loss: whether a line has reported the loss. lost: the error with which the stream stopped
    accepting output, if it did.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream: IO[str] | None = stream if stream is not None else sys.stdout
        self.told_loss = False
        self.lost: Exception | None = None
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to undo."""

    def say(self, line: str = "") -> None:
        """Write a permanent line."""
        if self._stream is not None:
            with self._writing():
                self._stream.write(line + "\n")
                self._stream.flush()

    def warn(self, sentence: str) -> None:
        """Write a line about something that went wrong and does not stop the run."""
        self.say(f"warning: {sentence}")

    def warn_once(self, sentence: str) -> None:
        """`warn`, if it has not been said before."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self.warn(sentence)

    def answer(self, sentence: str) -> None:
        """Show the answer to a signal at once, from its handler."""
        interrupt.tell(sentence)

    def step(self, report: StepReport, *, due: bool) -> None:
        if due:
            self.told_loss = True
            self.say(logline.step_line(report))

    def epoch(self, report: EpochReport) -> None:
        self.told_loss = True
        self.say(logline.epoch_line(report))
        for line in logline.layer_lines(report.layers):
            self.say(f"  {line}")

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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Discard further output if the reader is gone, or the disk behind the stream full."""
        try:
            yield
        except (OSError, ValueError) as error:
            stream, self._stream, self.lost = self._stream, None, error
            if stream is not None:
                silence(stream)


class Silent(Reporter):
    """Says nothing; for use from a program."""

    def say(self, line: str = "") -> None:
        return None

    def answer(self, sentence: str) -> None:
        return None


class LiveReporter(Reporter):
    """A bar and the current numbers below the permanent lines, redrawn a few times a second."""

    def __init__(self, console: Console) -> None:
        super().__init__(console.file)
        self._console, self._numbers, self._answer = console, Text(), ""
        left = TextColumn("{task.fields[left]}")
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), left)
        self._bar = Progress(*columns, console=console, expand=True)
        self._task = self._bar.add_task("", total=None, left="", visible=False)
        shown = Group(self._numbers, self._bar)
        self._live = Live(shown, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._writing():
            self._live.stop()

    def say(self, line: str = "") -> None:
        if self._stream is not None:
            with self._writing():
                self._console.print(Text(line), soft_wrap=True)

    def progress(self, what: str) -> Callable[[int, int], None]:
        begun = time.monotonic()

        def show(done: int, total: int) -> None:
            self._draw(done, total, what, _done_of(done, total, begun), visible=done < total)

        return show

    def answer(self, sentence: str) -> None:
        self._answer = sentence  # the display redraws itself, so nothing waits here
        self._numbers.plain = sentence

    def step(self, report: StepReport, *, due: bool) -> None:
        what = f"epoch {report.epoch}/{report.epochs}  step {report.step}/{report.steps}"
        self._draw(report.step, report.steps, what, f"ETA {logline.duration(report.seconds_left)}")
        train, speed = report.train, f"{report.images_per_second:,.0f} images/s"
        errors = f"loss {train.loss:.4f}  top-1 error {logline.percent(train.top1_error)}"
        self._numbers.plain = self._answer or f"{errors}  {speed}  lr {report.lr:.3g}"

    def _draw(self, done: int, total: int, what: str, left: str, *, visible: bool = True) -> None:
        now: dict[str, Any] = {"completed": done, "total": total, "visible": visible}
        self._bar.update(self._task, description=what, left=left, **now)


def reporter(*, plain: bool = False, silent: bool = False) -> Reporter:
    """The live display if standard output is a terminal that can show it, else plain lines."""
    if silent or sys.stdout is None:  # the latter if started with it closed (`>&-`)
        return Silent()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for names outside the terminal's encoding
    console = Console(file=sys.stdout, highlight=False)
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return Reporter()
    return LiveReporter(console)


def silence(stream: IO[str]) -> None:
    """Redirect a broken stream to the null device, also for the interpreter's flush at exit."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _done_of(done: int, total: int, begun: float) -> str:
    """`30 of 90, ETA 0:20`, where the 30 took the ten seconds since `begun`."""
    seconds_left = (time.monotonic() - begun) * (total - done) / max(done, 1)
    return f"{done:,} of {total:,}, ETA {logline.duration(seconds_left)}"

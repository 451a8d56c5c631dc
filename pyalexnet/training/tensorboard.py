"""A run's numbers for TensorBoard."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyalexnet.errors import ArgumentError, reason
from pyalexnet.install import pip_install
from pyalexnet.runs.run import EpochReport, Scores, StepReport
from pyalexnet.training.watching import Warn, Watcher

_SECONDS_BETWEEN_WRITES = 10


def require() -> None:
    """Refuse to continue without tensorboardX."""
    if find_spec("tensorboardX") is None:
        command = pip_install('"pyalexnet[tensorboard]"')
        raise ArgumentError(f"tensorboard: tensorboardX is missing; {command} brings it.")


class Board(Watcher):
    """An event file in a folder; TensorBoard shows it, and those beside it: `--logdir runs`.

    Each number is recorded at the step of the run at which it was measured. A resumed run writes
    its own file, at whose first step TensorBoard drops the overtaken numbers of earlier files from
    that step on. Once the disk is full, `warn` is called and nothing more is written.

    tensorboardX's SummaryWriter passes events to a thread, which dies when the disk is full, after
    which its callers wait forever; this class writes in the caller's thread.
    """

    def __init__(self, folder: Path, warn: Warn) -> None:
        self._folder, self._warn = folder, warn
        self._writer: Any = None
        self._written = 0.0

    def begin(self, step: int) -> None:
        require()
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        # Without the step, two starts within a second would share a file.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.step-{step}"
        self._written = time.monotonic()
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(self._folder / name))
            # The next number belongs to a later step than `step`.
            first = step + 1 if step else 0
            self._add(first, file_version="brain.Event:2")
            if step:
                self._add(first, session_log=SessionLog(status=SessionLog.START))

    def step(self, report: StepReport, *, due: bool) -> None:
        if due:
            speed = {"lr": report.lr, "images_per_second": report.images_per_second}
            self._write(report.step, _scores("train", report.train) | speed)

    def epoch(self, report: EpochReport) -> None:
        numbers = _scores("epoch_train", report.train) | _scores("epoch_test", report.test)
        for layer, motion in report.layers.items():
            numbers[f"mean_w/{layer}"] = motion.weight
            numbers[f"mean_dw/{layer}"] = motion.update
            numbers[f"ratio_dw_w/{layer}"] = motion.ratio
        self._write(report.step, numbers)

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            with self._writing():
                writer.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Flush at times; give up where the disk is full."""
        try:
            yield
            if self._writer and time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
                self._writer.flush()
                self._written = time.monotonic()
        except OSError as error:
            self._warn(f"TensorBoard gets no more numbers of this run: {reason(error)}.")
            self.close()

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        from tensorboardX.summary import scalar

        if self._writer:
            with self._writing():
                for name, value in numbers.items():
                    self._add(step, summary=scalar(name, value))

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), step=step, **content)
        self._writer.write(event.SerializeToString())


def _scores(which: str, scores: Scores) -> dict[str, float]:
    return {f"{name}/{which}": value for name, value in asdict(scores).items()}

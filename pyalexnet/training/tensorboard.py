"""A run's numbers for TensorBoard."""

from __future__ import annotations

import socket
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyalexnet.errors import ArgumentError
from pyalexnet.install import pip_install
from pyalexnet.runs.run import EpochReport, Scores, StepReport

_SECONDS_BETWEEN_WRITES = 10


def require() -> None:
    """Refuse to go on without tensorboardX.

    Raises:
        ArgumentError: it is not installed.
    """
    if find_spec("tensorboardX") is None:
        raise ArgumentError(
            "tensorboard: tensorboardX is missing; "
            + pip_install('"pyalexnet[tensorboard]"')
            + " brings it."
        )


class Board:
    """An event file in a folder; TensorBoard shows it, and those beside it: `--logdir runs`.

    Each number is recorded at the step of the run at which it was measured. A resumed run writes
    its own file, at whose first step TensorBoard drops the overtaken numbers of earlier files from
    that step on.

    tensorboardX's SummaryWriter passes events to a thread, which dies when the disk is full, after
    which its callers wait forever; this class writes in the caller's thread.

    Raises:
        ArgumentError: tensorboardX is not installed.
        OSError: the file cannot be written; `step` and `epoch` may raise it too.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        """`step`: steps done by the run."""
        require()
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # Without the step, two starts within a second would share a file.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.step-{step}"
        self._writer: Any = RecordWriter(str(folder / name))
        self._written = time.monotonic()
        # The next number belongs to a later step than `step`.
        first = step + 1 if step else 0
        self._add(first, file_version="brain.Event:2")
        if step:
            self._add(first, session_log=SessionLog(status=SessionLog.START))

    def step(self, report: StepReport) -> None:
        """Training scores since the last such report, learning rate and speed."""
        self._scores("train", report.train, report.step)
        self._number("lr", report.lr, report.step)
        self._number("images_per_second", report.images_per_second, report.step)
        self._write_at_times()

    def epoch(self, report: EpochReport) -> None:
        """Scores of the finished epoch, and how far each layer moved."""
        self._scores("epoch_train", report.train, report.step)
        self._scores("epoch_test", report.test, report.step)
        for layer, motion in report.layers.items():
            self._number(f"mean_w/{layer}", motion.weight, report.step)
            self._number(f"mean_dw/{layer}", motion.update, report.step)
            self._number(f"ratio_dw_w/{layer}", motion.ratio, report.step)
        self._write_at_times()

    def close(self) -> None:
        """Write the remaining events and close the file."""
        self._writer.close()

    def _scores(self, which: str, scores: Scores, step: int) -> None:
        self._number(f"loss/{which}", scores.loss, step)
        self._number(f"top1_error/{which}", scores.top1_error, step)
        self._number(f"top5_error/{which}", scores.top5_error, step)

    def _number(self, name: str, value: float, step: int) -> None:
        from tensorboardX.summary import scalar

        self._add(step, summary=scalar(name, value))

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), step=step, **content)
        self._writer.write(event.SerializeToString())

    def _write_at_times(self) -> None:
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self._writer.flush()
            self._written = time.monotonic()

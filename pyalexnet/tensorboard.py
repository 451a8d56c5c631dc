"""A run's numbers for TensorBoard."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyalexnet.errors import ArgumentError
from pyalexnet.run import EpochReport, Scores, StepReport

_SECONDS_BETWEEN_WRITES = 10


def require() -> None:
    """Refuse to go on without tensorboardX.

    Raises:
        ArgumentError: it is not installed.
    """
    if find_spec("tensorboardX") is None:
        raise ArgumentError(
            'tensorboard: tensorboardX is missing; pip install "pyalexnet[tensorboard]" brings it.'
        )


class Board:
    """Event files in a folder; TensorBoard shows it, and those beside it: `--logdir runs`.

    Each number stands at the step of the run that it was measured at. A resumed run writes a file
    of its own, at whose first step TensorBoard forgets what the earlier ones have from there on:
    that was overtaken.

    Raises:
        ArgumentError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        """`step`: steps that the run has done."""
        require()
        from tensorboardX import SummaryWriter

        # The next number belongs to a later step than `step`.
        # Two starts within a second would share a file, but for its suffix.
        self._writer: Any = SummaryWriter(
            str(folder),
            purge_step=step + 1 if step else None,
            flush_secs=_SECONDS_BETWEEN_WRITES,
            filename_suffix=f".step-{step}",
        )

    def step(self, report: StepReport) -> None:
        """Training scores since the last such report, learning rate and speed."""
        self._scores("train", report.train, report.step)
        self._add("lr", report.lr, report.step)
        self._add("images_per_second", report.images_per_second, report.step)

    def epoch(self, report: EpochReport) -> None:
        """Scores of the epoch that is over, and how far each layer moved."""
        self._scores("epoch_train", report.train, report.step)
        self._scores("epoch_test", report.test, report.step)
        for layer, motion in report.layers.items():
            self._add(f"mean_w/{layer}", motion.weight, report.step)
            self._add(f"mean_dw/{layer}", motion.update, report.step)
            self._add(f"ratio_dw_w/{layer}", motion.ratio, report.step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _scores(self, which: str, scores: Scores, step: int) -> None:
        self._add(f"loss/{which}", scores.loss, step)
        self._add(f"top1_error/{which}", scores.top1_error, step)
        self._add(f"top5_error/{which}", scores.top5_error, step)

    def _add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

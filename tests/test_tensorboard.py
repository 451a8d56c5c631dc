"""What TensorBoard would read of a run: its event files, parsed by tensorboardX's classes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyalexnet.errors import ArgumentError
from pyalexnet.runs.run import EpochReport, Motion, Scores, StepReport
from pyalexnet.training import tensorboard
from pyalexnet.training.tensorboard import Board

pytestmark = pytest.mark.peer  # tensorboardX comes with the extra


def step_report(step: int, loss: float) -> StepReport:
    return StepReport(
        epoch=1,
        epochs=3,
        progress=0.5,
        step=step,
        steps=60,
        train=Scores(loss, 0.75, 0.25),
        lr=0.01,
        images_per_second=640.0,
        seconds_left=5.0,
        batch=step,
        seconds=1.0,
        exchanged=0,
    )


def epoch_report(step: int) -> EpochReport:
    return EpochReport(
        epoch=1,
        epochs=3,
        step=step,
        train=Scores(2.0, 0.5, 0.125),
        test=Scores(1.5, 0.375, 0.0625),
        lr=0.01,
        seconds=2.0,
        best=True,
        layers={"conv1": Motion.of(0.5, 0.25), "fc8": Motion.of(2.0, 0.5)},
    )


def begun(folder: Path, step: int = 0) -> Board:
    """A board that may not warn, after so many steps."""
    board = Board(folder, pytest.fail)
    board.begin(step)
    return board


def events(path: Path) -> Iterator[Any]:
    """The events of a file: each has its length, a checksum, its bytes and another checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += 12 + length + 4


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """Each number by step as TensorBoard shows it: a start discards that step and later ones."""
    numbers: dict[str, dict[int, float]] = {}
    # Their names are alike up to the second of their creation; then comes the first step.
    for path in sorted(folder.iterdir(), key=lambda one: int(one.name.rpartition("-")[2])):
        for event in events(path):
            if event.HasField("session_log"):
                assert event.session_log.status == 1  # START
                for values in numbers.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                numbers.setdefault(value.tag, {})[event.step] = value.simple_value
    return numbers


def test_numbers_stand_at_their_steps(tmp_path: Path) -> None:
    board = begun(tmp_path)
    board.step(step_report(5, 2.25), due=True)
    board.step(step_report(10, 2.125), due=True)
    board.epoch(epoch_report(12))
    board.close()
    assert shown(tmp_path) == {
        "loss/train": {5: 2.25, 10: 2.125},
        "top1_error/train": {5: 0.75, 10: 0.75},
        "top5_error/train": {5: 0.25, 10: 0.25},
        "lr": {step: pytest.approx(0.01) for step in (5, 10)},
        "images_per_second": {5: 640, 10: 640},
        "loss/epoch_train": {12: 2.0},
        "top1_error/epoch_train": {12: 0.5},
        "top5_error/epoch_train": {12: 0.125},
        "loss/epoch_test": {12: 1.5},
        "top1_error/epoch_test": {12: 0.375},
        "top5_error/epoch_test": {12: 0.0625},
        "mean_w/conv1": {12: 0.5},
        "mean_dw/conv1": {12: 0.25},
        "ratio_dw_w/conv1": {12: 0.5},
        "mean_w/fc8": {12: 2.0},
        "mean_dw/fc8": {12: 0.5},
        "ratio_dw_w/fc8": {12: 0.25},
    }


def test_a_resumed_run_replaces_what_it_overtakes(tmp_path: Path) -> None:
    """The first start reached step 15; its checkpoint was at step 10."""
    first = begun(tmp_path)
    for step in (5, 10, 15):
        first.step(step_report(step, 2.0), due=True)
    first.close()
    second = begun(tmp_path, 10)
    second.step(step_report(20, 1.0), due=True)
    second.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert shown(tmp_path)["loss/train"] == {5: 2.0, 10: 2.0, 20: 1.0}


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=r'pip install "pyalexnet\[tensorboard\]"'):
        begun(tmp_path / "board")
    assert not (tmp_path / "board").exists()

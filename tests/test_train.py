"""The training loop: its inputs, its output, what it keeps, and what makes it stop."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyalexnet import data
from pyalexnet.errors import CheckpointError, DataError, TrainingError
from pyalexnet.nets.schedule import Steps
from pyalexnet.runs import checkpoint
from pyalexnet.runs.run import Log
from pyalexnet.step.sgd import SGD
from pyalexnet.trained.evaluate import evaluate
from pyalexnet.training.course import Position
from pyalexnet.training.progress import Silent
from pyalexnet.training.summary import opening
from pyalexnet.training.train import Trainer
from training import (
    BATCH,
    CLASSES,
    STEPS_AN_EPOCH,
    TEST,
    TRAIN,
    Hook,
    began,
    fitted,
    last,
    lines,
    photographs,
    resumed,
    small_net,
)


@pytest.fixture(autouse=True)
def small_and_without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have their own tests, and take longer than the training."""
    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)
    monkeypatch.setattr("pyalexnet.nets.get", lambda _: small_net)


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "quarters.npz")


def test_it_learns(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=6, lr=0.02)
    outcome = fitted(trainer)
    assert outcome.finished
    assert outcome.test is not None
    assert outcome.test.top1_error <= 0.1 < 1 - 1 / CLASSES
    errors = [line["test"]["top1_error"] for line in lines(trainer.folder.path, "epoch")]
    assert len(errors) == 6
    assert trainer.at.best_error == min(errors)
    assert trainer.at.best_step == STEPS_AN_EPOCH * (errors.index(min(errors)) + 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(DataError("a shard is gone."), "a shard is gone."), (MemoryError(), "MemoryError()")],
)
def test_data_that_break_before_the_first_step_are_in_the_log(
    error: Exception,
    reason: str,
    quarters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss of the first batch is reported before training begins."""

    def broken(*_: Any) -> None:
        raise error

    trainer = began(tmp_path, quarters)
    monkeypatch.setattr(data.Split, "read", broken)
    with trainer.folder, pytest.raises(type(error)):
        list(opening(trainer))
    (line,) = lines(trainer.folder.path, "stop")
    assert line == {"kind": "stop", "step": 0, "reason": reason}


def test_two_runs_are_bitwise_equal_and_another_seed_is_not(quarters: Path, tmp_path: Path) -> None:
    runs = []
    for seed in (3, 3, 4):
        trainer = began(tmp_path, quarters, epochs=1, seed=seed)
        fitted(trainer)
        runs.append(last(trainer.folder.path).params["fc4.w"].tobytes())
    assert runs[0] == runs[1] != runs[2]


def test_each_epoch_visits_its_own_order_and_drops_the_rest(
    quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = began(tmp_path, quarters, epochs=2, seed=9)
    met: list[np.ndarray[Any, Any]] = []
    original = SGD.step

    def recorded(sgd: SGD, images: Any, labels: Any, **more: Any) -> Any:
        met.append(np.array(labels))
        return original(sgd, images, labels, **more)

    monkeypatch.setattr(SGD, "step", recorded)
    fitted(trainer)
    labels = trainer.dataset.train.labels
    expected = [
        labels[data.order(TRAIN, seed=9, epoch=epoch)][: STEPS_AN_EPOCH * BATCH] for epoch in (0, 1)
    ]
    assert np.array_equal(np.concatenate(met), np.concatenate(expected))


def test_log_has_every_interval_and_epoch(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=2, print_freq=4)
    fitted(trainer)
    run = trainer.folder.path
    assert [line["step"] for line in lines(run, "step")] == [4, 8, 12]
    assert [line["progress"] for line in lines(run, "step")] == [0.64, 1.32, 1.96]
    assert [line["step"] for line in lines(run, "epoch")] == [6, 12]
    assert [line["reason"] for line in lines(run, "stop")] == ["finished"]
    epoch = lines(run, "epoch")[-1]
    saved = last(run)
    assert list(epoch["layers"]) == ["conv1", "conv2", "fc3", "fc4"]
    for name, motion in epoch["layers"].items():
        weight = np.abs(saved.params[f"{name}.w"].astype(np.float64)).mean()
        update = np.abs(saved.momentum[f"{name}.w"].astype(np.float64)).mean()
        assert motion["weight"] == pytest.approx(weight, rel=1e-6)
        assert motion["update"] == pytest.approx(update, rel=1e-6)
        assert motion["ratio"] == pytest.approx(update / weight, rel=1e-6)


def test_training_scores_are_means_over_the_images(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=1, print_freq=2)
    fitted(trainer)
    steps, epoch = lines(trainer.folder.path, "step"), lines(trainer.folder.path, "epoch")[0]
    for score in ("loss", "top1_error", "top5_error"):
        mean = np.mean([line["train"][score] for line in steps])
        assert epoch["train"][score] == pytest.approx(mean, rel=1e-12)


def test_evaluation_weighs_a_smaller_last_batch(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=1)
    fitted(trainer)
    net, test = trainer.net, trainer.dataset.test
    scores = evaluate(net, test, trainer.loader, BATCH)
    assert TEST % BATCH
    logits = net.forward(test.images.astype(np.float32) - trainer.mean).astype(np.float64)
    own = logits[np.arange(TEST), test.labels]
    losses = np.log(np.exp(logits).sum(axis=1)) - own
    errors = (logits > own[:, None]).any(axis=1)
    assert scores is not None
    assert scores.loss == pytest.approx(losses.mean(), rel=1e-6)
    assert scores.top1_error == pytest.approx(errors.mean(), rel=1e-6)
    assert losses[:16].mean() != pytest.approx(losses.mean(), rel=1e-4)


def test_expected_first_loss(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters)
    trainer.net.params["fc4.w"][:] = 0
    expected, measured = trainer.first_losses()
    assert expected == pytest.approx(math.log(CLASSES), rel=1e-6)
    assert measured == pytest.approx(math.log(CLASSES), rel=1e-6)
    trainer.net.params["fc4.b"][:] = [1, -1, 1, -1]  # a variance of 1, for every image
    expected, measured = trainer.first_losses()
    assert expected == pytest.approx(math.log(CLASSES) + 0.5, rel=1e-6)
    trainer.folder.close()


@pytest.mark.parametrize(
    ("epochs", "steps"), [(1, 6), (0.5, 3), (1.5, 9), (2.34, 14), (0.01, 1)], ids=str
)
def test_fractions_of_epochs(epochs: float, steps: int, quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=epochs)
    assert trainer.course.steps == steps
    assert fitted(trainer).finished
    assert trainer.at.step == last(trainer.folder.path).meta.step == steps


def test_batch_larger_than_the_set(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=2, batch_size=1000)
    fitted(trainer)
    assert trainer.batch_size == TRAIN
    assert trainer.at.step == 2


def test_rates_follow_the_schedule(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=3, lr=0.04, print_freq=1)
    fitted(trainer)
    schedule = trainer.config.recipe.schedule
    assert isinstance(schedule, Steps)
    ((start, factor),) = schedule.steps
    for line in lines(trainer.folder.path, "step"):
        before = line["progress"] - BATCH / TRAIN
        assert line["lr"] == pytest.approx(0.04 * (factor if before >= start - 1e-9 else 1))
    assert [line["lr"] for line in lines(trainer.folder.path, "epoch")] == [0.04, 0.04, 0.02]
    assert {line["lr"] for line in lines(trainer.folder.path, "step")} == {0.04, 0.04 * factor}


def test_keeps_the_newest_and_the_best(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters, epochs=6, lr=0.02, keep=2)
    fitted(trainer)
    names = {path.name for path in trainer.folder.checkpoints.iterdir()}
    assert trainer.best_checkpoint is not None
    assert names == {"step-00000030", "step-00000036", trainer.best_checkpoint.name}


def test_skipped_images_are_listed_in_the_run_folder(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(60):
            pixels = draws.integers(0, 256, (14, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    (folder / "torn.png").write_bytes((folder / "000.png").read_bytes()[:200])
    trainer = began(tmp_path / "runs", tmp_path / "photos", epochs=1)
    fitted(trainer)
    assert trainer.net.spec.input_shape == (12, 12, 3)
    (listed,) = (trainer.folder.path / "bad_files.jsonl").read_text().splitlines()
    assert "torn.png" in listed
    assert not (tmp_path / "runs" / "bad_files.jsonl").exists()


# What is not finite


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_spoilt_weight_stops_in_the_same_step(value: float, quarters: Path, tmp_path: Path) -> None:
    def spoil(step: int) -> None:
        if step == 8:
            trainer.net.params["conv2.w"][1, 2, 0, 3] = value

    trainer = began(tmp_path, quarters, Hook(spoil))
    with pytest.raises(TrainingError) as caught:
        fitted(trainer)
    for part in ("step 9", "conv1.w holds", "lr 0.01", "--lr 0.001", "checkpoint of step 6"):
        assert part in str(caught.value)
    assert last(trainer.folder.path).meta.step == 6
    assert lines(trainer.folder.path, "stop")[-1]["reason"] == str(caught.value)
    fitted(resumed(trainer.folder.path))


def test_overflow_is_never_saved(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters)
    for name, value in (("conv1.w", 1), ("conv2.w", 1), ("fc3.w", 1e38)):
        trainer.net.params[name][:] = value
    with pytest.raises(TrainingError, match=r"step 1, .*loss is nan; conv1.w holds values"):
        fitted(trainer)
    assert list(trainer.folder.checkpoints.iterdir()) == []


def test_infinite_loss_of_finite_outputs(quarters: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, quarters)
    trainer.net.params["fc4.b"][:] = [3e38, -3e38, 3e38, -3e38]
    with pytest.raises(TrainingError, match=r"loss is inf; the largest output is 3.0e\+38, of fc4"):
        fitted(trainer)


def test_spoilt_update_is_never_saved(
    quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = began(tmp_path, quarters)
    original = SGD.step

    def spoilt(*arguments: Any, **more: Any) -> Any:
        loss = original(*arguments, **more)
        if trainer.at.step == 2:
            trainer.net.params["fc3.b"][5] = math.nan
        return loss

    monkeypatch.setattr(SGD, "step", spoilt)
    with pytest.raises(TrainingError, match=r"step 3, .*update of fc3\.b"):
        fitted(trainer)
    assert not list((trainer.folder.path / "checkpoints").iterdir())


def test_spoilt_momentum_is_never_saved(quarters: Path, tmp_path: Path) -> None:
    def spoil(step: int) -> None:
        if step == 12:
            trainer.sgd.momentum["conv2.b"][0] = math.inf

    trainer = began(tmp_path, quarters, Hook(spoil))
    with pytest.raises(TrainingError, match=r"step 12, .*momentum of conv2\.b"):
        fitted(trainer)
    assert last(trainer.folder.path).meta.step == 6


class OnDevice:
    """A scalar that has to be fetched before it can be read, as on a GPU."""

    def __init__(self, value: float) -> None:
        self.value = value


def test_losses_of_a_device_are_read_when_a_line_is_due(
    quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = began(tmp_path, quarters, print_freq=4)
    original, to_numpy = SGD.step, trainer.net.backend.to_numpy
    read_at: list[int] = []

    def on_device(*arguments: Any, **more: Any) -> Any:
        loss = original(*arguments, **more)
        return OnDevice(math.nan if trainer.at.step == 9 else float(loss))

    def asked(value: Any) -> Any:
        if isinstance(value, OnDevice):
            read_at.append(trainer.at.step)
            return np.array(value.value)
        return to_numpy(value)

    monkeypatch.setattr(SGD, "step", on_device)
    monkeypatch.setattr(trainer.net.backend, "to_numpy", asked)
    with pytest.raises(TrainingError, match=r"step 10, .*loss is nan"):
        fitted(trainer)
    assert sorted(set(read_at)) == [4, 6, 8, 12]  # each interval, each checkpoint
    assert last(trainer.folder.path).meta.step == 6


# A disk that is full


def test_full_disk_at_a_log_line_warns_once(
    quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []

    class Listener(Silent):
        def warn(self, sentence: str) -> None:
            warned.append(sentence)

    trainer = began(tmp_path, quarters, Listener(), epochs=1, print_freq=1)
    before = (trainer.folder.path / "log.jsonl").read_bytes()
    write = os.write

    def full(file: int, content: bytes) -> int:
        if content.startswith(b'{"kind"'):
            return write(file, content[:10])  # the disk takes ten more bytes, then none
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    assert fitted(trainer).finished
    monkeypatch.undo()
    assert len(warned) == 1
    assert "No space left on device" in warned[0]
    assert (trainer.folder.path / "log.jsonl").read_bytes() == before
    assert last(trainer.folder.path).meta.step == STEPS_AN_EPOCH


def test_full_disk_at_a_checkpoint_stops(
    quarters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = began(tmp_path, quarters)
    real = checkpoint.save

    def full(folder: Path, state: checkpoint.Checkpoint) -> Path:
        if state.meta.step > STEPS_AN_EPOCH:
            raise CheckpointError("no space")
        return real(folder, state)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(CheckpointError):
        fitted(trainer)
    assert last(trainer.folder.path).meta.step == STEPS_AN_EPOCH
    assert lines(trainer.folder.path, "stop")[-1]["reason"] == "no space"


def test_torn_line_is_dropped_when_the_log_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"kind": "step"}\n{"kind": "st')
    log = Log(path)
    log.write("stop", {"step": 1})
    log.close()
    assert path.read_bytes().startswith(b'{"kind": "step"}\n{"kind": "stop"')


def test_position_of_something_else_is_refused() -> None:
    with pytest.raises(CheckpointError, match="does not say where"):
        Position.from_mapping({"step": 1})


def test_activations_end_in_the_logits(quarters: Path, tmp_path: Path) -> None:
    trainer: Trainer = began(tmp_path, quarters)
    images = trainer.dataset.test.images.astype(np.float32) - trainer.mean
    outputs = {name: np.array(values) for name, values in trainer.net.activations(images)}
    assert list(outputs) == [layer.name for layer in trainer.net.spec.layers]
    assert np.array_equal(outputs["fc4"], trainer.net.forward(images))
    trainer.folder.close()

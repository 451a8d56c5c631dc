"""A run that was stopped, at any step and in any way, ends as one that never was."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyalexnet.errors import ArgumentError, DataError, PyalexnetError, RunError
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import History
from pyalexnet.trained.evaluate import evaluate
from pyalexnet.training.interrupt import ANSWER, Interrupt
from pyalexnet.training.progress import Silent
from training import (
    OPTIONS,
    STEPS_AN_EPOCH,
    Hook,
    Lines,
    assert_same,
    began,
    command,
    environment,
    fitted,
    last,
    lines,
    photographs,
    pyalexnet,
    resumed,
)

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "quarters.npz")


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 epochs that never stopped."""
    trainer = began(tmp_path_factory.mktemp("straight"), data)
    fitted(trainer)
    return trainer.folder.path


@pytest.mark.every(9)
@pytest.mark.parametrize("stops", [[1], [4], [STEPS_AN_EPOCH], [7], [2, 5, 6, 11, 17]], ids=str)
def test_resumed_run_is_bitwise_equal(
    stops: list[int], data: Path, straight: Path, tmp_path: Path
) -> None:
    trainer = began(tmp_path, data)
    fitted(trainer, stops[0])
    run = trainer.folder.path
    for stop in [*stops[1:], None]:
        trainer = resumed(run)
        fitted(trainer, stop)
    assert trainer.at.step == 3 * STEPS_AN_EPOCH
    assert_same(run, straight)


@pytest.mark.every(9)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 6, 9])
def test_signal_finishes_the_step_and_saves(
    number: signal.Signals, step: int, data: Path, straight: Path, tmp_path: Path
) -> None:
    def strike(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    trainer = began(tmp_path, data, Hook(strike))
    outcome = fitted(trainer)
    assert outcome.interrupt == number
    assert last(trainer.folder.path).meta.step == step
    fitted(resumed(trainer.folder.path))
    assert_same(trainer.folder.path, straight)


def test_signal_during_the_test_of_an_epoch(
    data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = began(tmp_path, data)
    real = evaluate

    def struck(*arguments: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **more)

    monkeypatch.setattr("pyalexnet.training.train.evaluate", struck)
    assert fitted(trainer).interrupt == signal.SIGTERM
    assert last(trainer.folder.path).meta.step == STEPS_AN_EPOCH
    assert lines(trainer.folder.path, "epoch") == []
    monkeypatch.undo()
    trainer = resumed(trainer.folder.path)
    fitted(trainer, STEPS_AN_EPOCH)  # nothing is left of the epoch but its test
    assert len(lines(trainer.folder.path, "epoch")) == 1
    with pytest.raises(ArgumentError, match="more than the 6 that are done was expected"):
        trainer.check_stop(STEPS_AN_EPOCH)
    fitted(resumed(trainer.folder.path))
    assert_same(trainer.folder.path, straight)


def test_second_ctrl_c_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_command_stopped_from_outside(
    number: signal.Signals, code: int, data: Path, straight: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command("train", "--data", data, *OPTIONS),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("2.2..."):
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=60)
    answer = f"{ANSWER}\n" if number == signal.SIGINT else ""
    assert (process.returncode, errors) == (code, answer)
    run = (tmp_path / "runs" / "latest").resolve()
    assert last(run).meta.step == STEPS_AN_EPOCH if code == -9 else STEPS_AN_EPOCH + 1
    done = pyalexnet("train", "--resume", "latest", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, values in last(straight).params.items():
        assert values.tobytes() == last(run).params[name].tobytes(), name
    assert History.read(run / "log.jsonl") == History.read(straight / "log.jsonl")


def test_epochs_at_resume_move_the_end_and_nothing_else(data: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path / "long", data, epochs=3)
    schedule = trainer.config.recipe.schedule
    fitted(trainer)
    shorter = began(tmp_path / "short", data, epochs=3)
    fitted(shorter, 8)
    run = shorter.folder.path
    fitted(resumed(run, epochs=2))
    assert last(run).meta.step == 2 * STEPS_AN_EPOCH
    fitted(resumed(run, epochs=3))
    assert Config.load(run / "config.toml").recipe.schedule == schedule
    for name, values in last(trainer.folder.path).params.items():
        assert values.tobytes() == last(run).params[name].tobytes(), name


@pytest.mark.parametrize("how", ["option", "config.toml"])
def test_values_changed_at_resume_count_and_are_logged(
    how: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = began(tmp_path, data)
    fitted(trainer, 3)
    run = trainer.folder.path
    reporter = Lines()
    if how == "option":
        trainer = resumed(run, reporter, momentum=0.25)
    else:
        config = run / "config.toml"
        config.write_text(config.read_text().replace("momentum = 0.9", "momentum = 0.25"))
        trainer = resumed(run, reporter)
    used = []
    update = trainer.net.backend.sgd_update

    def watched(*arrays: Any, **rates: Any) -> Any:
        used.append(rates["momentum"])
        return update(*arrays, **rates)

    monkeypatch.setattr(trainer.net.backend, "sgd_update", watched)
    fitted(trainer, 4)
    assert used == [0.25] * len(trainer.net.params)
    assert any("recipe.momentum: 0.9 -> 0.25" in line for line in reporter.said)
    assert lines(run, "resume")[-1]["changes"] == {"recipe.momentum": [0.9, 0.25]}
    assert Config.load(run / "config.toml").recipe.momentum == 0.25


def test_other_data_are_refused(data: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, data)
    fitted(trainer, 1)
    other = photographs(tmp_path / "other.npz", seed=1)
    with pytest.raises(DataError, match="mean of the training images differs"):
        resumed(trainer.folder.path, data=str(other))
    moved = tmp_path / "moved.npz"
    moved.write_bytes(data.read_bytes())
    fitted(resumed(trainer.folder.path, data=str(moved)), 2)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [({"net": "cifar-80sec"}, "cannot change"), ({"seed": -1}, "seed"), ({"lr": -1.0}, "-1")],
)
def test_values_that_cannot_be_are_refused(
    choices: dict[str, Any], reason: str, data: Path, tmp_path: Path
) -> None:
    trainer = began(tmp_path, data)
    fitted(trainer, 1)
    config = (trainer.folder.path / "config.toml").read_text()
    with pytest.raises(PyalexnetError, match=reason):
        resumed(trainer.folder.path, **choices)
    assert (trainer.folder.path / "config.toml").read_text() == config
    fitted(resumed(trainer.folder.path), 2)  # the folder was released


def test_finished_run_says_how_to_go_on(data: Path, straight: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--epochs"):
        resumed(straight)
    trainer = began(tmp_path, data)
    fitted(trainer, 4)
    with pytest.raises(ArgumentError, match="more than the 4"):
        fitted(resumed(trainer.folder.path), 4)


def test_damaged_checkpoint_is_passed_over(data: Path, straight: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, data)
    fitted(trainer, 8)
    run = trainer.folder.path
    victim = run / "checkpoints" / "step-00000008" / "params.safetensors"
    contents = bytearray(victim.read_bytes())
    contents[-1] ^= 1
    victim.write_bytes(contents)
    warned: list[str] = []

    class Listener(Silent):
        def warn(self, sentence: str) -> None:
            warned.append(sentence)

    trainer = resumed(run, Listener())
    assert trainer.at.step == STEPS_AN_EPOCH
    assert any("params.safetensors" in sentence for sentence in warned)
    fitted(trainer)
    for name, values in last(straight).params.items():
        assert values.tobytes() == last(run).params[name].tobytes(), name
    assert History.read(run / "log.jsonl") == History.read(straight / "log.jsonl")


def test_fresh_folder_has_nothing_to_resume(data: Path, tmp_path: Path) -> None:
    trainer = began(tmp_path, data)
    trainer.folder.close()
    with pytest.raises(PyalexnetError, match="holds no checkpoint"):
        resumed(trainer.folder.path)


def test_the_mean_travels_in_the_checkpoint(data: Path, straight: Path) -> None:
    images = np.load(data)["images"].astype(np.float64)
    assert np.array_equal(last(straight).mean, images.mean(axis=0).astype(np.float32))
    assert dataclasses.asdict(last(straight).meta)["class_names"] == ("0", "1", "2", "3")

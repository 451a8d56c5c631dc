"""Runs stopped at random: by steps, by signals, in saves and tests, with any number of workers."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyalexnet.data import colour, prepare
from pyalexnet.data.pack import Storage
from pyalexnet.data.prepare import Options
from pyalexnet.runs import checkpoint
from pyalexnet.runs.run import History, StopReport
from pyalexnet.step.sgd import SGD
from pyalexnet.trained.evaluate import evaluate
from pyalexnet.training.interrupt import ANSWER, SAVING, STOPPING, Interrupt
from pyalexnet.training.train import Trainer
from samples import generator
from training import (
    OPTIONS,
    STEPS_AN_EPOCH,
    Hook,
    assert_same,
    began,
    command,
    environment,
    fitted,
    heed_ctrl_c,
    last,
    lines,
    photographs,
    pyalexnet,
    resumed,
    without_pictures,
)

SEED = 2
WORKERS = (0, 1, 4)
STEPS = 3 * STEPS_AN_EPOCH

Tried = Callable[..., None]


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "quarters.npz")


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 epochs that never stopped."""
    trainer = began(tmp_path_factory.mktemp("straight"), data, workers=1)
    fitted(trainer)
    return trainer.folder.path


@pytest.fixture
def draws() -> random.Random:
    print(f"seed {SEED}")
    return random.Random(SEED)


def in_pieces(trainer: Trainer, steps: int, draws: random.Random) -> tuple[Path, int]:
    """Train to `steps` with stops at random, and other workers each time; return the stops."""
    run = trainer.folder.path
    stops = sorted(draws.sample(range(1, steps), draws.randint(2, 5)))
    fitted(trainer, stops[0])
    for stop in [*stops[1:], steps]:
        again = resumed(run, workers=draws.choice(WORKERS))
        fitted(again, stop)
    return run, len(stops)


# Steps


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, pytest.param(40, marks=pytest.mark.faults)])
def test_stops_after_random_steps(
    runs: int, data: Path, straight: Path, tmp_path: Path, draws: random.Random, tried: Tried
) -> None:
    stops = 0
    for number in range(runs):
        trainer = began(tmp_path / str(number), data, workers=WORKERS[number % 3])
        run, count = in_pieces(trainer, STEPS, draws)
        assert_same(run, straight)
        stops += count
    tried("stopped at random steps, 0, 1 and 4 workers", stops, "bit for bit, log lines too")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of a few JPEGs, larger than alexnet's input, in several shards."""
    base = tmp_path_factory.mktemp("pack")
    for part, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("ant", "bee")):
            folder = base / "set" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                coarse = generator(count, label, number).integers(0, 200, (8, 9, 3), np.uint8)
                image = Image.fromarray(coarse + np.uint8(50 * label)).resize((250, 240))
                image.save(folder / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "LARGEST_SHARD", 5)
        patch.setattr(colour, "FEWEST", 10)
        prepare.prepare(base / "set", base / "pack", Options(Storage(232, "jpeg", 90)), workers=1)
    return base / "pack"


@pytest.mark.parametrize("runs", [1, pytest.param(8, marks=pytest.mark.faults)])
def test_stops_with_augmentation(
    runs: int, pack: Path, tmp_path: Path, draws: random.Random, tried: Tried
) -> None:
    """A narrow alexnet on a pack: crops, mirroring and colours match an uninterrupted run."""
    steps, stops = 8, 0

    def begin(name: str, workers: int) -> Trainer:
        return began(
            tmp_path / name,
            pack,
            net="alexnet",
            preset="paper",
            width=1 / 32,
            jitter=0.1,
            workers=workers,
            epochs=2,
            batch_size=3,
            lr=1e-4,
            print_freq=1,
        )

    whole = begin("straight", 4)
    augment = whole.config.recipe.augment
    assert augment is not None and augment.stored == 232 and augment.jitter == 0.1
    fitted(whole, steps)
    for number in range(runs):
        run, count = in_pieces(begin(str(number), WORKERS[number % 3]), steps, draws)
        assert_same(run, whole.folder.path)
        stops += count
    tried("stopped at random steps, augmented, on a pack", stops, "bit for bit, log lines too")


@pytest.mark.parametrize("runs", [1, pytest.param(8, marks=pytest.mark.faults)])
def test_stops_with_two_towers(
    runs: int, tmp_path: Path, draws: random.Random, tried: Tried
) -> None:
    data = photographs(tmp_path / "coloured.npz", side=67, channels=3)
    steps, stops = 16, 0

    def begin(name: str) -> Trainer:
        return began(
            tmp_path / name,
            data,
            net="alexnet",
            preset="paper",
            width=1 / 16,
            devices=(0, 0),
            batch_size=5,
            lr=0.001,
            print_freq=1,
        )

    whole = begin("straight")
    assert len(whole.net.parts) == 2
    fitted(whole, steps)
    for number in range(runs):
        run, count = in_pieces(begin(str(number)), steps, draws)
        assert_same(run, whole.folder.path)
        stops += count
    tried("stopped at random steps, two towers", stops, "bit for bit, log lines too")


# Signals


def strike(number: int) -> None:
    os.kill(os.getpid(), number)


def struck_after(trainer: Trainer, seconds: float, number: int) -> tuple[StopReport, int]:
    """Train; a signal comes after this many seconds of the process's work, if it lasts that long.

    The second value is the number of signals that came.
    """
    strikes: list[int] = []

    def now(*_: object) -> None:
        strikes.append(number)
        strike(number)

    before = signal.signal(signal.SIGPROF, now)
    try:
        with trainer.folder, trainer.interrupt:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                return trainer.fit(), len(strikes)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        signal.signal(signal.SIGPROF, before)


@pytest.mark.every(9)
@pytest.mark.parametrize("strikes", [1, pytest.param(20, marks=pytest.mark.faults)])
@pytest.mark.parametrize("number", [*STOPPING, *SAVING], ids=lambda number: number.name)
def test_signals_at_random_moments(
    number: signal.Signals,
    strikes: int,
    data: Path,
    straight: Path,
    tmp_path: Path,
    draws: random.Random,
    tried: Tried,
) -> None:
    """Every process of a run may get one; the run they leave ends like one that got none."""
    runs = came = 0
    while came < strikes:
        runs += 1
        trainer = began(tmp_path / str(runs), data)
        outcome, now = struck_after(trainer, draws.uniform(0.001, 0.15), number)
        while outcome.interrupt:
            came += now
            assert outcome.interrupt == number
            assert last(trainer.folder.path).meta.step == trainer.at.step
            trainer = resumed(trainer.folder.path)
            outcome, now = struck_after(trainer, draws.uniform(0.001, 0.15), number)
        came += now
        assert outcome.finished
        assert_same(trainer.folder.path, straight)
    tried(f"{number.name} at random moments", came, "saved; bit for bit as if none had come")


def counted(real: Callable[..., Any], at: int, number: int) -> Callable[..., Any]:
    """`real`, with a signal before call number `at`."""
    calls = iter(range(10**6))

    def call(*arguments: Any, **more: Any) -> Any:
        if next(calls) == at:
            strike(number)
        return real(*arguments, **more)

    return call


@pytest.mark.every(4)
@pytest.mark.parametrize("number", [*STOPPING, *SAVING], ids=lambda number: number.name)
@pytest.mark.parametrize("at", [0, 3, 5, 8])
def test_signal_inside_a_save(
    at: int,
    number: signal.Signals,
    data: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before one of a save's six syncs; the save is completed."""
    trainer = began(tmp_path, data)
    run = trainer.folder.path
    monkeypatch.setattr(os, "fsync", counted(os.fsync, at, number))
    outcome = fitted(trainer)
    monkeypatch.undo()
    if number in SAVING:
        assert outcome.finished
    else:
        assert outcome.interrupt == number
        assert trainer.at.step == last(run).meta.step == STEPS_AN_EPOCH * (at // 6 + 1)
        trainer = resumed(run)
        without_pictures(trainer)
        fitted(trainer)
    assert_same(run, straight)


@pytest.mark.every(3)
@pytest.mark.parametrize("number", SAVING, ids=lambda number: number.name)
@pytest.mark.parametrize("step", [1, 4, 6, 9])
def test_signal_to_save_saves_after_the_step_and_training_goes_on(
    step: int, number: signal.Signals, data: Path, straight: Path, tmp_path: Path
) -> None:
    """By the next step there is a checkpoint; a process killed then has lost nothing."""
    found: list[int] = []
    copy = tmp_path / "copy"

    def hook(done: int) -> None:
        if done == step:
            strike(number)
        if done == step + 1 and not found:
            found.append(last(run).meta.step)
            shutil.copytree(run, copy)

    trainer = began(tmp_path / "runs", data, Hook(hook))
    run = trainer.folder.path
    assert fitted(trainer).finished
    assert found == [step]
    assert_same(run, straight)
    fitted(resumed(copy))
    assert History.read(copy / "log.jsonl") == History.read(straight / "log.jsonl")
    assert last(copy).params["fc6.w"].tobytes() == last(straight).params["fc6.w"].tobytes()


@pytest.mark.every(9)
@pytest.mark.parametrize("number", [*STOPPING, *SAVING], ids=lambda number: number.name)
@pytest.mark.parametrize("batch", [0, 2])
def test_signal_in_the_test_of_an_epoch(
    batch: int,
    number: signal.Signals,
    data: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal to save acts at the next test batch; a run killed after that tests once more."""
    trainer = began(tmp_path / "runs", data)
    run = trainer.folder.path
    seen: list[tuple[int, int]] = []

    def struck(*arguments: Any, stop: Callable[[], bool]) -> Any:
        def then_look() -> bool:
            stops = stop()
            saved = sorted((run / "checkpoints").glob("step-*"))
            seen.extend((each.step, each.epoch) for each in map(_meta, saved))
            return stops

        return evaluate(*arguments, stop=counted(then_look, batch, number))

    monkeypatch.setattr("pyalexnet.training.train.evaluate", struck)
    if number in STOPPING:
        assert fitted(trainer).interrupt == number
        assert last(run).meta.step == STEPS_AN_EPOCH
        assert lines(run, "epoch") == []
        monkeypatch.setattr("pyalexnet.training.train.evaluate", evaluate)
        fitted(resumed(run))
    else:
        assert fitted(trainer).finished
        assert seen[0] == (STEPS_AN_EPOCH, 0), "saved before the test was over"
    assert_same(run, straight)


def _meta(path: Path) -> checkpoint.Meta:
    return checkpoint.load(path).meta


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_signal_in_the_last_save_finds_nothing_to_stop(
    number: signal.Signals,
    data: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 143 would make a scheduler resume a finished run, which is refused."""
    trainer = began(tmp_path, data)
    monkeypatch.setattr(os, "fsync", counted(os.fsync, 6 * 3 - 1, number))
    outcome = fitted(trainer)
    assert (outcome.finished, outcome.interrupt) == (True, None)
    assert outcome.test is not None
    assert lines(trainer.folder.path, "stop")[-1]["reason"] == "finished"
    assert_same(trainer.folder.path, straight)


@pytest.mark.parametrize("number", [*STOPPING, *SAVING], ids=lambda number: number.name)
def test_signal_before_the_first_step(
    number: signal.Signals, data: Path, straight: Path, tmp_path: Path
) -> None:
    trainer = began(tmp_path, data)
    run = trainer.folder.path
    with trainer.folder, trainer.interrupt:
        strike(number)
        outcome = trainer.fit()
    if number in STOPPING:
        assert (outcome.interrupt, last(run).meta.step) == (number, 0)
        fitted(resumed(run))
    assert_same(run, straight)


def test_second_ctrl_c_leaves_the_step_and_saves_nothing(
    data: Path, straight: Path, tmp_path: Path
) -> None:
    def hook(done: int) -> None:
        if done == STEPS_AN_EPOCH + 2:
            strike(signal.SIGINT)
            strike(signal.SIGINT)

    trainer = began(tmp_path, data, Hook(hook))
    run = trainer.folder.path
    with pytest.raises(KeyboardInterrupt):
        fitted(trainer)
    assert last(run).meta.step == STEPS_AN_EPOCH
    fitted(resumed(run))
    assert History.read(run / "log.jsonl") == History.read(straight / "log.jsonl")
    assert last(run).meta.metrics == last(straight).meta.metrics


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_one_ctrl_c_is_the_first_whatever_came_before(first: signal.Signals) -> None:
    with Interrupt() as interrupt:
        strike(first)
        try:
            strike(signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("nothing was saved")
        assert interrupt.received == (first if first in STOPPING else signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            strike(signal.SIGINT)


def test_handlers_are_given_back() -> None:
    before = {number: signal.getsignal(number) for number in (*STOPPING, *SAVING)}
    with Interrupt():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert before == {number: signal.getsignal(number) for number in before}


# What is said at once


def test_first_ctrl_c_is_answered_while_the_step_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    step = SGD.step

    def struck(*arguments: Any, **more: Any) -> Any:
        strike(signal.SIGINT)
        said.append(capfd.readouterr().err)
        return step(*arguments, **more)

    monkeypatch.setattr(SGD, "step", struck)
    trainer = began(tmp_path, data)
    assert fitted(trainer).interrupt == signal.SIGINT
    assert said == [f"{ANSWER}\n"]
    assert last(trainer.folder.path).meta.step == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [*STOPPING, *SAVING], ids=lambda number: number.name)
def test_only_ctrl_c_is_answered_and_once(number: signal.Signals) -> None:
    said: list[str] = []
    with Interrupt() as interrupt:
        interrupt.tell = said.append
        strike(number)
        assert said == ([ANSWER] if number == signal.SIGINT else [])
        with pytest.raises(KeyboardInterrupt) if said else contextlib.nullcontext():
            strike(number)
    assert len(said) < 2


@pytest.mark.parametrize("how", ["closed", "none", "memory", "no reader", "full"])
def test_who_cannot_be_told_is_stopped_all_the_same(
    how: str, monkeypatch: pytest.MonkeyPatch, full: int
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    closed, nobody, filled = io.StringIO(), os.fdopen(writing, "w"), os.fdopen(os.dup(full), "w")
    closed.close()
    streams = {"closed": closed, "none": None, "memory": io.StringIO(), "no reader": nobody}
    monkeypatch.setattr(sys, "stderr", (streams | {"full": filled})[how])
    with nobody, filled, Interrupt() as interrupt:
        strike(signal.SIGINT)
        assert interrupt.received == signal.SIGINT


# The command

STOPPED = "stopped by Ctrl-C\n"
EARLY = "stopped by Ctrl-C before anything was begun\n"


def started(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


def first_lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Up to the first line of training."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if line[:1].isdigit():
            return


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGUSR2, 0), (signal.SIGHUP, 0)]
)
def test_command_that_gets_a_signal(
    number: signal.Signals, code: int, data: Path, straight: Path, tmp_path: Path
) -> None:
    process = started("train", "--data", data, *OPTIONS, cwd=tmp_path)
    assert list(first_lines(process))
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    assert ("stopped by SIGUSR1" in output) == (number == signal.SIGUSR1)
    run = (tmp_path / "runs" / "latest").resolve()
    if code:
        assert pyalexnet("train", "--resume", "latest", cwd=tmp_path).returncode == 0
    for name, values in last(straight).params.items():
        assert values.tobytes() == last(run).params[name].tobytes(), name
    assert History.read(run / "log.jsonl") == History.read(straight / "log.jsonl")


@pytest.mark.faults
@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_command_stopped_at_random_moments(
    number: signal.Signals, data: Path, tmp_path: Path, draws: random.Random, tried: Tried
) -> None:
    """From the start of the interpreter; before training starts there is nothing to save."""
    times, steps, early = 8, [0], 0
    options = (*OPTIONS, "--epochs=4000", f"--data={data}", "--chance-steps=0", "--seed=3")
    out = tmp_path / "struck"
    for _ in range(times):
        saves = out / "latest" / "checkpoints"
        saved = any(saves.glob("step-*"))
        how = ("--resume", "latest") if saved else options
        process = started("train", *how, "--runs", out, cwd=tmp_path)
        time.sleep(draws.uniform(0.1, 2.5))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (128 + number, -number), errors
        early += process.returncode == -number
        said = ("", f"{ANSWER}\n", EARLY, STOPPED) if number == signal.SIGINT else ("",)
        assert errors in said or process.returncode == -number
        if any(saves.glob("step-*")):
            steps.append(last(out / "latest").meta.step)
    assert steps == sorted(steps)
    assert len(set(steps)) > times / 3
    end = steps[-1] + 10
    whole = tmp_path / "whole"
    for place, how in ((out, ("--resume", "latest")), (whole, options)):
        done = pyalexnet("train", *how, f"--steps={end}", "--runs", place, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = last(out / "latest"), last(whole / "latest")
    assert one.meta.metrics == two.meta.metrics
    for name, values in one.params.items():
        assert values.tobytes() == two.params[name].tobytes(), name
    assert History.read(out / "latest" / "log.jsonl") == History.read(
        whole / "latest" / "log.jsonl"
    )
    result = f"exit {128 + number}, bit for bit; {early} before training"
    tried(f"{number.name} to `pyalexnet train` at random moments, then --resume", times, result)


@pytest.mark.faults
def test_command_that_is_told_to_save_at_random_moments(
    data: Path, straight: Path, tmp_path: Path, draws: random.Random, tried: Tried
) -> None:
    """Many in a row, and then a kill: it lost less than an epoch."""
    times = 60
    options = (*OPTIONS, "--epochs=4000", f"--data={data}", "--chance-steps=0")
    process = started("train", *options, cwd=tmp_path)
    assert list(first_lines(process))
    for _ in range(times):
        time.sleep(draws.uniform(0, 0.05))
        process.send_signal(draws.choice(SAVING))
    assert process.poll() is None
    process.kill()
    process.communicate()
    run = (tmp_path / "runs" / "latest").resolve()
    step = last(run).meta.step
    for name in ("runs", "whole"):
        how = ("--resume", "latest") if name == "runs" else options
        done = pyalexnet("train", *how, f"--steps={step + 5}", "--runs", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = last(run), last(tmp_path / "whole" / "latest")
    assert one.meta.metrics == two.meta.metrics
    for key, values in one.params.items():
        assert values.tobytes() == two.params[key].tobytes(), key
    tried("SIGHUP and SIGUSR2 to `pyalexnet train`, then kill -9", times, "bit for bit")

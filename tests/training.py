"""Small training runs: data that can be learnt in seconds, runs in this and in other processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet.nets.layers import LRN, Conv, Dropout, Linear, MaxPool
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import Steps
from pyalexnet.nets.spec import NetSpec
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint
from pyalexnet.runs.run import StepReport, StopReport
from pyalexnet.training import start
from pyalexnet.training.pictures import Pictures
from pyalexnet.training.progress import Reporter, Silent
from pyalexnet.training.train import Trainer

# 50 training images in batches of 8 make 6 steps per epoch; 20 test images are 2.5 batches.
CLASSES, TRAIN, TEST, BATCH, STEPS_AN_EPOCH = 4, 50, 20, 8, 6

CHOICES = {
    "backend": "cpu",
    "fused": False,
    "epochs": 3,
    "batch_size": BATCH,
    "lr": 0.01,
    "print_freq": 2,
}
OPTIONS = ("--backend=cpu", "--unfused", "--epochs=3", "-b8", "--lr=0.01", "--print-freq=2")


def small_net(classes: int = CLASSES, input_shape: tuple[int, int, int] = (12, 12, 1)) -> NetSpec:
    """Every kind of layer, few parameters."""
    layers = (
        Conv("conv1", 8, 5, pad=2, activation="relu", std=0.005),
        MaxPool("pool1", 3, 2),
        LRN("norm1", 5, alpha=0.02, beta=0.75, k=1),
        Conv("conv2", 16, 3, pad=1, groups=2, activation="relu", std=0.15),
        MaxPool("pool2", 3, 2),
        Linear("fc3", 32, activation="relu", std=0.1),
        Dropout("drop3", keep=0.8),
        Linear("fc4", classes, std=0.1),
    )
    slow = Rate(lr_w=1e-5, lr_b=0.01, decay_w=5e-4)
    recipe = Recipe(
        epochs=3,
        batch_size=BATCH,
        momentum=0.9,
        rate=Rate(lr_w=0.01, lr_b=0.02, decay_w=5e-4),
        rates={"conv1": slow},
        schedule=Steps(((2, 0.5),)),
    )
    return NetSpec("small", input_shape, classes, layers, recipe)


def photographs(path: Path, *, side: int = 12, channels: int = 1, seed: int = 0) -> Path:
    """An .npz of noisy images; the brightest quarter is the class."""
    draws = np.random.default_rng(seed)

    def split(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        labels = np.arange(count) % CLASSES
        images = draws.integers(0, 120, (count, side, side, channels), dtype=np.uint8)
        half = side // 2
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 2)
            image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
        return images, labels

    (images, labels), (test_images, test_labels) = split(TRAIN), split(TEST)
    np.savez(path, images=images, labels=labels, test_images=test_images, test_labels=test_labels)
    return path


def made(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that were made; None is no choice."""
    return {name: value for name, value in choices.items() if value is not None}


def began(out: Path, data: Path, reporter: Reporter | None = None, **choices: Any) -> Trainer:
    """A new run in `out`, not yet trained."""
    given = made({**CHOICES, "data": str(data), **choices})
    return start.new(given, out=out, config=None, reporter=reporter or Silent())


def fitted(trainer: Trainer, steps: int | None = None) -> StopReport:
    """Train as the command does, and release the folder."""
    with trainer.folder, trainer.interrupt:
        return trainer.fit(steps)


def resumed(run: Path, reporter: Reporter | None = None, **choices: Any) -> Trainer:
    """The run, resumed from its newest checkpoint."""
    return start.resumed(run, made(choices), reporter=reporter or Silent())


def last(run: Path) -> Checkpoint:
    """The newest checkpoint of a run."""
    return checkpoint.load(checkpoint.newest(run))


def without_pictures(trainer: Trainer) -> None:
    """They take longer than the training of a few steps."""
    trainer.watchers = tuple(one for one in trainer.watchers if not isinstance(one, Pictures))


def lines(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """The lines of those kinds in a run's log, without clock times."""
    clocks = {"time", "seconds", "seconds_left", "images_per_second"}
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in record.items() if name not in clocks}
        for record in records
        if record["kind"] in kinds
    ]


def assert_same(run: Path, other: Path) -> None:
    """Check that two runs ended bit for bit alike, with the same log on the way."""
    assert_same_end(run, other)
    assert lines(run, "step", "epoch") == lines(other, "step", "epoch")


def assert_same_end(run: Path, other: Path) -> None:
    """Check that two runs ended bit for bit alike."""
    one, two = last(run), last(other)
    for name in one.params:
        assert one.params[name].tobytes() == two.params[name].tobytes(), name
        assert one.momentum[name].tobytes() == two.momentum[name].tobytes(), name
    assert one.meta.metrics == two.meta.metrics


class Hook(Silent):
    """Calls a function with the number of each step that is done."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def step(self, report: StepReport, *, due: bool) -> None:
        self.function(report.step)


class Lines(Reporter):
    """Keeps what is reported."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, line: str = "") -> None:
        self.said.append(line)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pyalexnet", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that imports this package."""
    here = str(Path(start.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}


def heed_ctrl_c() -> None:
    """For `preexec_fn`: processes started in the background, even these tests, may ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def pyalexnet(*arguments: str | Path, cwd: Path, **options: Any) -> Any:
    """Run the command to its end, with its output as text."""
    options = {"env": environment(), "capture_output": True, "text": True, **options}
    return subprocess.run(command(*arguments), cwd=cwd, timeout=120, check=False, **options)

"""One run of a claim: a network trained with one seed, in a folder of its own, and its result.

`python -m bench.evidence.training FOLDER` continues the run that FOLDER/run.json describes, from
its newest checkpoint; it ends bit for bit as if it had never been stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import pyalexnet
from pyalexnet import data, files
from pyalexnet.data import Dataset
from pyalexnet.errors import RunError, TrainingError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.config import Config, validated
from pyalexnet.runs.run import History, RunFolder, StepReport
from pyalexnet.step.net import Net
from pyalexnet.trained import signals
from pyalexnet.trained.load import Trained
from pyalexnet.trained.scoring import judge
from pyalexnet.training.course import Position
from pyalexnet.training.start import mean_of
from pyalexnet.training.train import Trainer
from pyalexnet.training.watching import Record, Watcher

from ..environment import commit, cores, cpu
from .measures import Epoch, Result, chroma_shares, energies
from .networks import arguments, build

# Photographs that are not in a pack are stored at this size.
_STORED = (128, 128)


@dataclass(frozen=True)
class Run:
    """Everything that decides a run's numbers; `key` identifies it.

    settings: those of `networks.build`, and: `stop_below`, a training error in % below which an
    epoch is the last; `ten_crop`, whether the end is also tested on ten crops.
    """

    settings: dict[str, Any]
    data: str
    seed: int
    backend: str

    @property
    def key(self) -> str:
        """Its name: equal runs of several claims are trained only once."""
        return f"{self.settings['net']}-{self.seed}-{_digest(asdict(self))}"

    @property
    def numbers(self) -> str:
        """A key without paths and machine, by which a record continues elsewhere."""
        return _digest({"settings": self.settings, "seed": self.seed})


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


class _Orphan(Watcher):
    """Saves and stops the run if the process that started it is gone."""

    def __init__(self) -> None:
        self._parent = os.getppid()

    def step(self, report: StepReport, *, due: bool) -> None:
        if os.getppid() != self._parent:
            os.kill(os.getpid(), signal.SIGTERM)


def prepare(run: Run, out: Path) -> Path:
    """The run's folder in `out`, with its description."""
    folder = out / run.key
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(run), indent=1) + "\n"
    files.write(folder / "run.json", text.encode(), RunError)
    return folder


def result(folder: Path) -> Result | None:
    """The result of a finished run; None if it is not finished."""
    try:
        values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return validated(Result, values)


def train(folder: Path) -> None:
    """Train the run of a folder, or the rest of it, and write its result."""
    run = validated(Run, json.loads((folder / "run.json").read_text(encoding="utf-8")))
    dataset = _dataset(run.data)
    trainer, failed = _trainer(run, dataset, folder), ""
    with trainer.folder, trainer.interrupt:
        try:
            if not _fitted(trainer, folder, run.settings.get("stop_below", 0.0)):
                return
        except TrainingError as error:
            failed = str(error)
        found = _found(trainer, folder, run, failed)
    text = json.dumps(asdict(found), allow_nan=False) + "\n"
    files.write(folder / "result.json", text.encode(), RunError)


@cache
def _dataset(path: str) -> Dataset:
    return data.load(path, image_size=_STORED)


def _trainer(run: Run, dataset: Dataset, folder: Path) -> Trainer:
    """A trainer at the newest checkpoint, or at the start."""
    backend = pyalexnet.backend(run.backend)
    spec = build(run.settings, len(dataset.classes), dataset.train.image_shape)
    start: checkpoint.Checkpoint | None = None
    if any((folder / "checkpoints").glob("step-*")):
        start = checkpoint.load(checkpoint.newest(folder))
    config = Config(
        net=spec.name,
        data=run.data,
        backend=backend.name,
        seed=run.seed,
        recipe=spec.recipe,
        net_args=arguments(run.settings),
        print_freq=1000,
        keep=1,
        workers=1,
        chance_steps=0,
        fused=backend.name in ("cuda", "cpu"),
    )
    params = spec.initial(run.seed) if start is None else start.params
    net = Net(spec, backend, run.seed, params=params, fused=config.fused)
    trainer = Trainer(config, dataset, net, mean_of(dataset, spec.recipe), RunFolder(folder))
    trainer.folder.write_config(config)
    trainer.watchers = (Record(trainer.folder.log, lambda sentence: print(sentence)), _Orphan())
    if start is not None:
        trainer.restore(Position.from_mapping(start.meta.metrics), start.momentum)
    return trainer


def _fitted(trainer: Trainer, folder: Path, stop_below: float) -> bool:
    """Train epoch by epoch to the end; whether it was reached."""
    course = trainer.course
    while not course.finished:
        epochs = epochs_of(folder)
        if epochs and 100 * epochs[-1][2] < stop_below:
            break
        report = trainer.fit(course.at.step + course.steps_left)
        if report.interrupt is not None:
            return False
    return True


def epochs_of(folder: Path) -> tuple[Epoch, ...]:
    """A run's epochs so far."""
    log = folder / "log.jsonl"
    epochs = History.read(log).epochs if log.exists() else ()
    return tuple(
        (float(done), train.loss, train.top1_error, test.loss, test.top1_error)
        for done, train, test in epochs
    )


def _found(trainer: Trainer, folder: Path, run: Run, failed: str) -> Result:
    spec, dataset, backend = trainer.net.spec, trainer.dataset, trainer.net.backend
    first = next(name for name in spec.param_shapes() if name.endswith(".w"))
    learnt = np.asarray(backend.to_numpy(trainer.net.params[first]))
    # The median epoch's time, for all: an interrupted epoch measured only a part of its own.
    log = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    each = {line["epoch"]: line["seconds"] for line in log if line["kind"] == "epoch"}.values()
    ten = None
    if run.settings.get("ten_crop") and not failed:
        trained = _trained(trainer, trainer.net)
        ten = judge([trained], [dataset.test], ten_crop=True).alone[0].top1_error
    return Result(
        data=dataset.name,
        images=(len(dataset.train), len(dataset.test)),
        classes=spec.classes,
        parameters=spec.num_parameters,
        epochs=epochs_of(folder),
        chroma=chroma_shares(learnt),
        filters=tuple((round(energy, 6), round(chroma, 6)) for energy, chroma in energies(learnt)),
        signal=_signal(trainer, Net(spec, backend, run.seed)),
        ten_crop=ten,
        failed=failed,
        seconds=len(each) * statistics.median(each) if each else 0.0,
        commit=commit(),
        machine=f"{cores()} cores of {cpu()}",
    )


def _trained(trainer: Trainer, net: Net) -> Trained:
    """The network in the form that evaluation takes."""
    meta = checkpoint.Meta(
        net=net.spec.name,
        classes=net.spec.classes,
        class_names=trainer.dataset.class_names,
        input_shape=net.spec.input_shape,
        step=trainer.at.step,
        epoch=trainer.at.epoch,
    )
    augment = trainer.config.recipe.augment
    return Trained(None, trainer.folder.path, net, meta, trainer.mean, augment)


def _signal(trainer: Trainer, fresh: Net) -> dict[str, float]:
    """The share of each layer's output that depends on the image, before training."""
    train = trainer.dataset.train
    chosen = np.linspace(0, len(train) - 1, min(signals.IMAGES, len(train))).astype(np.int64)
    images = _trained(trainer, fresh).look(train.take(chosen))
    return {row.layer: row.share for row in signals.survey(fresh, images)}


if __name__ == "__main__":
    train(Path(sys.argv[1]))

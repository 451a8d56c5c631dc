"""From a user's choices to a `Trainer`: of a new run, or of one that goes on."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet import backends, checkpoint, data, nets
from pyalexnet.backends.checks import positive
from pyalexnet.checkpoint import Checkpoint
from pyalexnet.data import Dataset
from pyalexnet.data.dataset import shown
from pyalexnet.errors import ArgumentError, DataError, RunError
from pyalexnet.net import Net, NetSpec
from pyalexnet.progress import Reporter
from pyalexnet.recipe import Recipe
from pyalexnet.run import Config, RunFolder, check_writable, environment
from pyalexnet.train import Position, Trainer


@dataclass(frozen=True)
class Choices:
    """What a user chose; None where he did not."""

    net: str | None = None
    data: str | None = None
    backend: str | None = None
    device: int | None = None
    seed: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    print_freq: int | None = None
    keep: int | None = None


def new(choices: Choices, *, out: Path, config: Path | None, reporter: Reporter) -> Trainer:
    """A run that begins, in a new folder of `out`.

    Args:
        choices: go before `config`.
        out: made if it is not there; looked at before anything that takes time.
        config: config.toml of a run to be repeated.

    Raises:
        PyalexnetError: a choice, the data or `out` is refused; no run folder is left behind.
    """
    check_writable(out)
    base = None if config is None else Config.load(config)
    name = choices.net or (base.net if base else nets.names()[0])
    seed = _first(choices.seed, base and base.seed, 0)
    where = _first(choices.data and _stored(choices.data), base and base.data, "")
    bad_files = out / "bad_files.jsonl"
    bad_files.unlink(missing_ok=True)
    dataset = _load(where, name, seed, bad_files, reporter)
    spec = _spec(name, dataset)
    backend = backends.backend(
        _first(choices.backend, base and base.backend, "auto"),
        _first(choices.device, base and base.device, 0),
    )
    recipe = base.recipe if base and base.net == name else spec.recipe
    settings = Config(
        net=name,
        data=where,
        backend=backend.name,
        device=backend.device,
        seed=seed,
        print_freq=_first(choices.print_freq, base and base.print_freq, 20),
        keep=_first(choices.keep, base and base.keep, 3),
        recipe=_override(recipe, choices, epochs=choices.epochs),
    )
    net = Net(spec, backend, seed)
    mean = dataset.train.mean()
    folder = RunFolder.create(out, net=name, data=dataset.name)
    if bad_files.exists():
        bad_files.replace(folder.path / bad_files.name)
    trainer = Trainer(settings, dataset, net, mean, folder, reporter)
    _record(trainer)
    trainer.log("start", {"step": 0, "data": dataset.note})
    return trainer


def resumed(run: Path, choices: Choices, *, reporter: Reporter) -> Trainer:
    """The run in the folder `run`, where its newest good checkpoint stands.

    Its config.toml counts, as it is now, and `choices` before it; what differs from the values it
    was trained with is said and logged. `choices.epochs` moves the end only, not the schedule.

    Raises:
        PyalexnetError: the folder is in use, cannot be written or holds no good checkpoint, a
            value is refused, or the data are not those of the run.
    """
    folder = RunFolder(run)
    try:
        return _resumed(folder, choices, reporter)
    except BaseException:
        folder.close()
        raise


def _resumed(folder: RunFolder, choices: Choices, reporter: Reporter) -> Trainer:
    run = folder.path
    saved = checkpoint.load(checkpoint.newest(run, reporter.warn))
    trained = Config.from_mapping(saved.meta.config, f"a checkpoint of {run}")
    settings = _changed(Config.load(run / "config.toml"), choices)
    if settings.net != trained.net:
        raise ArgumentError(
            f"net is {settings.net!r}; {run} trains {trained.net!r}, and a run cannot change that."
        )
    dataset = _load(settings.data, settings.net, settings.seed, run / "bad_files.jsonl", reporter)
    _check_same_data(dataset, saved, run)
    backend = backends.backend(settings.backend, settings.device)
    settings = dataclasses.replace(settings, backend=backend.name, device=backend.device)
    net = Net(_spec(settings.net, dataset), backend, settings.seed)
    net.load(saved.params)
    trainer = Trainer(settings, dataset, net, saved.mean, folder, reporter)
    trainer.restore(Position.from_mapping(saved.meta.metrics), saved.momentum)
    if trainer.finished:
        raise RunError(
            f"{run} is finished, {trainer.at.epoch} of {settings.recipe.epochs:g} epochs are done; "
            f"for more give --epochs {2 * trainer.at.epoch}."
        )
    changes = trained.changes(settings)
    trainer.log("resume", {"step": trainer.at.step, "changes": changes})
    for name, (old, new) in changes.items():
        reporter.say(f"changed   {name}: {old} -> {new}")
    _record(trainer)
    return trainer


def _record(trainer: Trainer) -> None:
    """Write what the run is made with into its folder."""
    trainer.folder.write_config(trainer.config)
    trainer.folder.add_environment(environment(trainer.config.backend))


def _changed(config: Config, choices: Choices) -> Config:
    """`config` with the values chosen."""
    recipe = _override(config.recipe, choices)
    if choices.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=choices.epochs)
    return dataclasses.replace(
        config,
        net=_first(choices.net, config.net),
        data=config.data if choices.data is None else _stored(choices.data),
        backend=_first(choices.backend, config.backend),
        device=_first(choices.device, config.device),
        seed=_first(choices.seed, config.seed),
        print_freq=_first(choices.print_freq, config.print_freq),
        keep=_first(choices.keep, config.keep),
        recipe=recipe,
    )


def _override(recipe: Recipe, choices: Choices, *, epochs: float | None = None) -> Recipe:
    if choices.lr is not None:
        positive("run", "lr", choices.lr)  # the recipe would complain of what it makes of it
    return recipe.override(
        epochs=epochs,
        batch_size=choices.batch_size,
        lr=choices.lr,
        momentum=choices.momentum,
        weight_decay=choices.weight_decay,
    )


def _load(stored: str, net: str, seed: int, bad_files: Path, reporter: Reporter) -> Dataset:
    """The data set; a folder's images are brought to the network's own input size."""
    dataset = data.load(
        os.fsdecode(stored.encode()) if stored else None,
        image_size=nets.get(net)().input_shape[:2],
        seed=seed,
        bad_files=bad_files,
        progress=reporter.progress("reading images"),
    )
    return dataclasses.replace(dataset, name=shown(dataset.name))


def _stored(where: str) -> str:
    """The data's path as config.toml keeps it: absolute (not so a name like cifar10), in UTF-8."""
    path = str(Path(where).absolute()) if where and Path(where).exists() else where
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"data is {where!r}; a path in UTF-8 was expected, as config.toml is to hold it."
        ) from error


def _spec(net: str, dataset: Dataset) -> NetSpec:
    """The network for the data's classes and image size."""
    height, width, channels = dataset.train.images.shape[1:]
    try:
        return nets.get(net)(
            classes=len(dataset.class_names), input_shape=(height, width, channels)
        )
    except ArgumentError as error:
        raise ArgumentError(
            f"{net} cannot take the {height}x{width}x{channels} images of {dataset.name}: {error}"
        ) from error


def _check_same_data(dataset: Dataset, saved: Checkpoint, run: Path) -> None:
    """Refuse data that the run was not trained on; the mean, which is exact, is their mark."""
    mean = dataset.train.mean()
    if tuple(saved.meta.class_names) != dataset.class_names:
        what = "the names of their classes differ"
    elif saved.mean.shape != mean.shape:
        what = f"images are {mean.shape}, {saved.mean.shape} were expected"
    elif not np.array_equal(saved.mean, mean):
        what = "the mean of the training images differs"
    else:
        return
    raise DataError(f"{dataset.note}: these are not the data that {run} was trained on; {what}.")


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)

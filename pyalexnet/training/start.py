"""From a user's choices to a `Trainer`, for a new run or a resumed one."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet import backends, data, nets
from pyalexnet.backends import Backend
from pyalexnet.backends.checks import positive
from pyalexnet.data import Dataset
from pyalexnet.data.dataset import shown
from pyalexnet.data.pack import is_pack
from pyalexnet.errors import ArgumentError, DataError, RunError
from pyalexnet.nets.recipe import Recipe
from pyalexnet.nets.schedule import rates_from
from pyalexnet.nets.spec import NetSpec
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint
from pyalexnet.runs.run import Config, RunFolder, check_writable, environment
from pyalexnet.step.net import Net
from pyalexnet.step.plan import Precision
from pyalexnet.trained.load import Trained
from pyalexnet.training import tensorboard
from pyalexnet.training.progress import Reporter
from pyalexnet.training.train import Position, Trainer

MOST_WORKERS = 8
"""Most threads that read images by default: enough for a GPU, and polite."""


@dataclass(frozen=True)
class Choices:
    """The user's choices; None, or empty, where none was made.

    net_args: arguments of the network's function by name. layer_lr: texts LAYER=LR. recipe: further
    arguments of `Recipe.override` by name. augment: fields of `Augment` by name. init_from: a run
    or checkpoint whose parameters a new run begins with. classes_in_order: also those of its last
    layer, if the data have as many classes, matched by position whatever they are called.
    """

    net: str | None = None
    net_args: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    backend: str | None = None
    device: int | None = None
    devices: tuple[int, ...] | None = None
    exact: bool | None = None
    seed: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    layer_lr: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = None
    print_freq: int | None = None
    keep: int | None = None
    chance_steps: int | None = None
    tensorboard: bool | None = None
    precision: Precision | None = None
    fused: bool | None = None
    init_from: str | None = None
    classes_in_order: bool = False


def new(choices: Choices, *, out: Path, config: Path | None, reporter: Reporter) -> Trainer:
    """A new run, in a new folder of `out`.

    Args:
        choices: take precedence over `config`.
        out: created if missing; checked before anything that takes time.
        config: config.toml of a run to be repeated.

    Raises:
        PyalexnetError: a choice, the data or `out` is refused; no run folder is left behind.
    """
    check_writable(out)
    base = None if config is None else _config(config)
    parent = Trained.load(choices.init_from, runs=out, backend="cpu") if choices.init_from else None
    where = _first(choices.data and _stored(choices.data), base and base.data, "")
    name = choices.net or (base and base.net) or _default_net(where, parent)
    repeated = base if base and base.net == name else None
    seed = _first(choices.seed, base and base.seed, 0)
    devices = _first(choices.devices, repeated and repeated.devices, ())
    net_args = _net_args(name, repeated, parent) | dict(choices.net_args)
    draft = _draft(name, net_args)
    recipe = repeated.recipe if repeated else draft.recipe
    recipe = _override(recipe, choices, draft, epochs=choices.epochs)
    exact = _first(choices.exact, base and base.exact, False)
    places = _backends(
        _first(choices.backend, base and base.backend, "auto"),
        devices or (_first(choices.device, base and base.device, 0),),
        exact,
    )
    backend = places[0]
    bad_files = out / "bad_files.jsonl"
    bad_files.unlink(missing_ok=True)
    dataset = _load(where, draft, recipe, seed, bad_files, reporter)
    known = _as_parent(dataset, parent, choices)
    dataset = known or dataset
    settings = Config(
        net=name,
        data=where,
        backend=backend.name,
        device=backend.device,
        seed=seed,
        print_freq=_first(choices.print_freq, base and base.print_freq, 20),
        keep=_first(choices.keep, base and base.keep, 3),
        recipe=_fitting(recipe, draft, dataset),
        net_args=net_args,
        devices=devices,
        workers=_first(choices.workers, base and base.workers, default_workers()),
        chance_steps=_first(choices.chance_steps, base and base.chance_steps, 500),
        tensorboard=_first(choices.tensorboard, base and base.tensorboard, False),
        precision=_first(choices.precision, base and base.precision, "fp32"),
        fused=_first(choices.fused, base and base.fused, _fuses(backend) and not devices),
        exact=exact,
    )
    if settings.tensorboard:
        tensorboard.require()
    net = _network(settings, dataset, places)
    begun = parent and _begin_with(net, parent, same_classes=known is not None)
    folder = RunFolder.create(out, net=name, data=dataset.name)
    if bad_files.exists():
        bad_files.replace(folder.path / bad_files.name)
    trainer = Trainer(settings, dataset, net, mean_of(dataset, settings.recipe), folder, reporter)
    _record(trainer)
    trainer.log("start", {"step": 0, "data": dataset.note, "init_from": begun})
    if begun:
        trainer.fresh = False
        reporter.say(f"begins    {begun}")
    return trainer


def resumed(
    run: Path, choices: Choices, *, reporter: Reporter, steps: int | None = None
) -> Trainer:
    """The run in the folder `run`, at its newest good checkpoint.

    Its current config.toml applies, overridden by `choices`; differences from the values it was
    trained with are reported and logged. `choices.epochs` moves the end only, not the schedule.
    `steps` is where it is to stop. A refusal changes nothing in the folder.

    Raises:
        PyalexnetError: the folder is in use, cannot be written or holds no good checkpoint, a
            value is refused, or the data are not those of the run.
    """
    folder = RunFolder(run)
    try:
        return _resumed(folder, choices, reporter, steps)
    except BaseException:
        folder.close()
        raise


def _resumed(folder: RunFolder, choices: Choices, reporter: Reporter, steps: int | None) -> Trainer:
    run = folder.path
    if choices.classes_in_order:
        raise ArgumentError(
            f"run: classes_in_order is given for {run}, which goes on; it was expected with a "
            "network in init_from."
        )
    saved = checkpoint.load(checkpoint.newest(run, reporter.warn))
    if "data" not in saved.meta.config:
        raise RunError(
            f"{run} was not trained here, so there is nothing to go on with; a new run can begin "
            f"with it: pyalexnet train --init-from {run} --data DATA."
        )
    trained = Config.from_mapping(saved.meta.config, f"a checkpoint of {run}")
    settings = _config(run / "config.toml")
    draft = _draft(settings.net, settings.net_args | dict(choices.net_args))
    settings = _changed(settings, choices, draft)
    _check_same_network(settings, trained, run)
    places = _backends(settings.backend, settings.devices or (settings.device,), settings.exact)
    dataset = _load(
        settings.data, draft, settings.recipe, settings.seed, run / "bad_files.jsonl", reporter
    )
    dataset = _same_data(dataset, settings.recipe, saved, run)
    settings = dataclasses.replace(
        settings,
        backend=places[0].name,
        device=places[0].device,
        recipe=_fitting(settings.recipe, draft, dataset),
    )
    if settings.tensorboard:
        tensorboard.require()
    net = _network(settings, dataset, places)
    net.load(saved.params)
    trainer = Trainer(settings, dataset, net, saved.mean, folder, reporter)
    trainer.restore(Position.from_mapping(saved.meta.metrics), saved.momentum)
    if trainer.outlived:
        raise RunError(
            f"{run} is finished: at the lowest rate of {settings.recipe.schedule} its test error "
            "no longer improved; for more give another --schedule."
        )
    if trainer.finished:
        raise RunError(
            f"{run} is finished, all of its {settings.recipe.epochs:g} epochs are done; for more "
            f"give --epochs {trainer.more_epochs:g}."
        )
    trainer.check_stop(steps)
    changes = trained.changes(settings)
    trainer.log("resume", {"step": trainer.at.step, "changes": changes})
    for name, (old, new) in changes.items():
        reporter.say(f"changed   {name}: {old} -> {new}")
    if "recipe.epochs" in changes and choices.recipe.get("schedule") is None:
        reporter.say(f"schedule  stays as it is, lr is {trainer.lr:.3g} now; --schedule changes it")
    _record(trainer)
    return trainer


def _backends(name: str, devices: Sequence[int], exact: bool) -> tuple[Backend, ...]:
    """A backend per device, made before anything that takes time; equal devices share one."""
    there = {device: backends.backend(name, device, exact=exact) for device in devices}
    return tuple(there[device] for device in devices)


def _config(path: Path) -> Config:
    """A run's configuration; a run from before the backend cpu existed continues on cpu."""
    config = Config.load(path)
    if config.backend != backends.PREDECESSOR:
        return config
    return dataclasses.replace(config, backend="cpu")


def _default_net(where: str, parent: Trained | None) -> str:
    """The network if none is named: a parent's own; alexnet for a pack of photographs."""
    if parent:
        return parent.meta.net
    return "alexnet" if where and is_pack(Path(os.fsdecode(where.encode()))) else nets.names()[0]


def _net_args(net: str, repeated: Config | None, parent: Trained | None) -> dict[str, Any]:
    """A network's arguments if none are chosen: those of another run, or none."""
    if repeated:
        return repeated.net_args
    if parent is None or parent.meta.net != net:
        return {}
    return {name: value for name, value in parent.meta.net_args.items() if name != "towers_norm"}


def default_workers() -> int:
    """Threads that read images ahead: as many as there are cores, within reason."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


def mean_of(dataset: Dataset, recipe: Recipe) -> npt.NDArray[np.float32]:
    """The mean to subtract from a set's stored images, (H, W, C); see `Augment.mean`."""
    mean = dataset.mean()
    if recipe.augment is None or recipe.augment.mean != "channel":
        return mean
    channels = mean.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(channels, mean.shape))


def _record(trainer: Trainer) -> None:
    """Write the run's configuration and environment into its folder."""
    trainer.folder.write_config(trainer.config)
    trainer.folder.add_environment(environment(trainer.config.backend))


def _changed(config: Config, choices: Choices, draft: NetSpec) -> Config:
    """`config` with the values chosen."""
    recipe = config.recipe
    if choices.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=choices.epochs)
    recipe = _override(recipe, choices, draft)
    return dataclasses.replace(
        config,
        net=_first(choices.net, config.net),
        net_args=config.net_args | dict(choices.net_args),
        data=config.data if choices.data is None else _stored(choices.data),
        backend=_first(choices.backend, config.backend),
        device=_first(choices.device, config.device),
        exact=_first(choices.exact, config.exact),
        devices=_first(choices.devices, config.devices),
        seed=_first(choices.seed, config.seed),
        workers=_first(choices.workers, config.workers),
        print_freq=_first(choices.print_freq, config.print_freq),
        keep=_first(choices.keep, config.keep),
        chance_steps=_first(choices.chance_steps, config.chance_steps),
        tensorboard=_first(choices.tensorboard, config.tensorboard),
        precision=_first(choices.precision, config.precision),
        fused=_first(choices.fused, config.fused),
        recipe=recipe,
    )


def _override(
    recipe: Recipe, choices: Choices, draft: NetSpec, *, epochs: float | None = None
) -> Recipe:
    if choices.lr is not None:
        positive("run", "lr", choices.lr)  # the recipe's refusal would name a derived value
    weighted = [layer.name for layer, shape, _ in draft.walk() if layer.param_shapes(shape)]
    layer_lr = rates_from(choices.layer_lr, weighted)
    new = recipe.override(
        epochs=epochs,
        batch_size=choices.batch_size,
        lr=choices.lr,
        momentum=choices.momentum,
        weight_decay=choices.weight_decay,
        layer_lr=layer_lr or None,
        **choices.recipe,
    )
    if not choices.augment:
        return new
    if new.augment is None:
        raise ArgumentError(
            f"{next(iter(choices.augment))} was given, and the network sees its images whole; "
            "alexnet was expected, which augments them."
        )
    return dataclasses.replace(new, augment=dataclasses.replace(new.augment, **choices.augment))


def _draft(net: str, net_args: Mapping[str, Any]) -> NetSpec:
    """The network before its data are known: its input size, and its recipe."""
    make = nets.get(net)
    for name in net_args:
        if name not in inspect.signature(make).parameters:
            raise ArgumentError(f"{net} has no option {name}; alexnet was expected, which has.")
    return make(**net_args)


def _load(
    stored: str, draft: NetSpec, recipe: Recipe, seed: int, bad_files: Path, reporter: Reporter
) -> Dataset:
    """The data set; a folder's images are resized to the size that inputs are cropped from."""
    augment = recipe.augment
    size = draft.input_shape[:2] if augment is None else (augment.stored, augment.stored)
    dataset = data.load(
        os.fsdecode(stored.encode()) if stored else None,
        image_size=size,
        seed=seed,
        bad_files=bad_files,
        progress=reporter.progress("reading images"),
    )
    return dataclasses.replace(dataset, name=shown(dataset.name))


def _stored(where: str) -> str:
    """The data's path for config.toml: absolute, unless a name like cifar10, and in UTF-8."""
    path = str(Path(where).absolute()) if where and Path(where).exists() else where
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"data is {where!r}; a path in UTF-8 was expected, as config.toml is to hold it."
        ) from error


def _fitting(recipe: Recipe, draft: NetSpec, dataset: Dataset) -> Recipe:
    """`recipe` for the set's images: those no larger than the input are seen whole."""
    height, width, _ = dataset.train.image_shape
    if recipe.augment is None:
        return recipe
    whole = height < draft.input_shape[0] or width < draft.input_shape[1]
    augment = None if whole else dataclasses.replace(recipe.augment, stored=min(height, width))
    return dataclasses.replace(recipe, augment=augment)


def _network(config: Config, dataset: Dataset, places: Sequence[Backend]) -> Net:
    """The network for the data's classes and image size, on its device or devices."""
    _check_towers(config)
    height, width, channels = dataset.train.image_shape
    try:
        make, args = nets.get(config.net), config.all_net_args
        shape = (height, width)
        if config.recipe.augment is not None:
            shape = make(**args).input_shape[:2]
        spec = make(classes=len(dataset.class_names), input_shape=(*shape, channels), **args)
    except ArgumentError as error:
        raise ArgumentError(
            f"{config.net} cannot take the {height}x{width}x{channels} images of {dataset.name}: "
            f"{error}"
        ) from error
    return Net(spec, places, config.seed, precision=config.precision, fused=config.fused)


def _check_towers(config: Config) -> None:
    if not config.devices:
        return
    if "towers_norm" not in inspect.signature(nets.get(config.net)).parameters:
        raise ArgumentError(
            f"towers is 2 and net {config.net}, which cannot be divided; alexnet was expected."
        )
    if config.net_args.get("one_tower"):
        raise ArgumentError("towers is 2 and one_tower was chosen too; one of them was expected.")


def _as_parent(dataset: Dataset, parent: Trained | None, choices: Choices) -> Dataset | None:
    """The set with its classes numbered as a parent's; None if the parent's classes differ.

    Raises:
        ArgumentError: they are to be matched by position, and there is no parent, or it has
            another number of classes.
    """
    if choices.classes_in_order:
        count = None if parent is None else len(parent.classes)
        if count != len(dataset.classes):
            found = "none is" if count is None else f"one of {count} is"
            raise ArgumentError(
                f"run: classes_in_order is given and {found} in init_from; a network of "
                f"{len(dataset.classes)} classes was expected there, as the data have."
            )
        return dataset
    return None if parent is None else dataset.numbered_as(parent.classes)


def _begin_with(net: Net, parent: Trained, *, same_classes: bool) -> str:
    """Load a trained network's parameters, except a last layer for other classes; says which."""
    found, own = parent.net.params, net.params
    *_, last = (layer.name for layer, shape, _ in net.spec.walk() if layer.param_shapes(shape))
    kept = []
    for name, value in own.items():
        in_last = name.startswith(f"{last}.")
        fits = name in found and found[name].shape == value.shape
        if fits and (same_classes or not in_last):
            continue
        if not in_last:
            has = f"has shape {found[name].shape}" if name in found else "is missing"
            raise ArgumentError(
                f"init_from: {name} {has} in {parent.path}; {value.shape} was expected, as only "
                f"{last} may differ."
            )
        kept.append(name)
    net.load({name: value if name in kept else found[name] for name, value in own.items()})
    begun = f"with the parameters of {parent.path}"
    if not kept:
        return begun
    alike = net.spec.classes == len(parent.classes)
    why = " (--classes-in-order takes them in their order)" if alike else ""
    return f"{begun}, {last} anew as its classes are others{why}"


def _check_same_network(settings: Config, trained: Config, run: Path) -> None:
    """Refuse to continue with another network; only its dropout may change."""
    if settings.net != trained.net:
        raise ArgumentError(
            f"net is {settings.net!r}; {run} trains {trained.net!r}, and a run cannot change that."
        )
    for name in settings.net_args.keys() | trained.net_args.keys():
        old, new = (values.net_args.get(name) for values in (trained, settings))
        if old != new and name != "dropout":
            raise ArgumentError(
                f"{name} is {new!r}; {run} trains a network of {old!r}, and a run cannot change "
                "that."
            )


def _same_data(dataset: Dataset, recipe: Recipe, saved: Checkpoint, run: Path) -> Dataset:
    """The data with the run's numbering of the classes; their mean, which is exact, tells them.

    Raises:
        DataError: the run was not trained on them.
    """
    mean = mean_of(dataset, recipe)
    classes = saved.meta.known_classes
    known = dataset.numbered_as(classes)
    if known is None:
        what = f"their classes differ: {dataset.classes.difference(classes)}"
    elif saved.mean.shape != mean.shape:
        what = f"images are {mean.shape}, {saved.mean.shape} were expected"
    elif not np.array_equal(saved.mean, mean):
        what = "the mean of the training images differs"
    else:
        return known
    raise DataError(f"{dataset.note}: these are not the data that {run} was trained on; {what}.")


def _fuses(backend: Backend) -> bool:
    """Whether a run uses a fused plan by default; not where emulated, as it would take longer."""
    return backend.name in ("cuda", "cpu")


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)

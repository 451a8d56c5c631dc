"""From a user's choices to a `Trainer`, for a new run or a resumed one."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet import backends, data, nets
from pyalexnet.backends import Backend
from pyalexnet.data import Dataset
from pyalexnet.data.pack import is_pack
from pyalexnet.errors import ArgumentError, DataError, RunError
from pyalexnet.files import shown
from pyalexnet.nets.recipe import Augment, Recipe
from pyalexnet.nets.schedule import rates_from
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.checks import positive
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import RunFolder, check_writable, environment
from pyalexnet.step.net import Net
from pyalexnet.trained.load import Trained
from pyalexnet.training import tensorboard
from pyalexnet.training.course import Position
from pyalexnet.training.pictures import Pictures
from pyalexnet.training.progress import Reporter
from pyalexnet.training.train import Trainer
from pyalexnet.training.watching import Record, Watcher

_SETTINGS = {each.name for each in dataclasses.fields(Config)} - {"net_args", "recipe"}
_OF_AUGMENT = {each.name for each in dataclasses.fields(Augment)}
_OF_RECIPE = set(inspect.signature(Recipe.override).parameters) - {"self"}
_BEGINNING = {"init_from", "classes_in_order"}

Choices: TypeAlias = Mapping[str, Any]
"""What a user chose, by name; no name where nothing was chosen. A name is that of

- a field of `Config`, or of `Augment`;
- an argument of `Recipe.override`, with layer_lr as texts LAYER=LR;
- `init_from`, a run or checkpoint whose parameters a new run begins with, or `classes_in_order`:
  also those of its last layer, if the data have as many classes, matched by position whatever they
  are called;
- or else an argument of the network's function.
"""


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
    begin = choices.get("init_from")
    parent = Trained.load(begin, runs=out, backend="cpu") if begin else None
    settings, draft = _of_new(choices, base, parent)
    places = _backends(settings)
    if base is None and "fused" not in choices:
        settings = dataclasses.replace(settings, fused=_fuses(places[0]))
    bad_files = out / "bad_files.jsonl"
    bad_files.unlink(missing_ok=True)
    dataset = _load(settings, draft, bad_files, reporter)
    known = _as_parent(dataset, parent, choices)
    dataset = known or dataset
    settings = _settled(settings, places[0], draft, dataset)
    net = _network(settings, dataset, places)
    begun = parent and _begin_with(net, parent, same_classes=known is not None)
    folder = RunFolder.create(out, net=settings.net, data=dataset.name)
    if bad_files.exists():
        bad_files.replace(folder.path / bad_files.name)
    record = Record(folder.log, reporter.warn_once)
    watchers = _watchers(settings, dataset, net, folder, reporter, record)
    trainer = Trainer(settings, dataset, net, mean_of(dataset, settings.recipe), folder, watchers)
    _write_settings(trainer)
    record.write("start", {"step": 0, "data": dataset.note, "init_from": begun})
    if begun:
        trainer.fresh = False
        reporter.say(f"begins    {begun}")
    return trainer


def resumed(
    run: Path, choices: Choices, *, reporter: Reporter, steps: int | None = None
) -> Trainer:
    """The run in the folder `run`, at its newest good checkpoint.

    Its current config.toml applies, overridden by `choices`; differences from the values it was
    trained with are reported and logged. The choice `epochs` moves the end only, not the schedule.
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
    if choices.get("classes_in_order"):
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
    draft = _draft(settings.net, settings.net_args | _net_args(choices))
    settings = _chosen(settings, choices, draft, stretch=False)
    _check_same_network(settings, trained, run)
    places = _backends(settings)
    dataset = _load(settings, draft, run / "bad_files.jsonl", reporter)
    dataset = _same_data(dataset, settings.recipe, saved, run)
    settings = _settled(settings, places[0], draft, dataset)
    net = _network(settings, dataset, places)
    net.load(saved.params)
    record = Record(folder.log, reporter.warn_once)
    watchers = _watchers(settings, dataset, net, folder, reporter, record)
    trainer = Trainer(settings, dataset, net, saved.mean, folder, watchers)
    trainer.restore(Position.from_mapping(saved.meta.metrics), saved.momentum)
    if trainer.course.outlived:
        raise RunError(
            f"{run} is finished: at the lowest rate of {settings.recipe.schedule} its test error "
            "no longer improved; for more give another --schedule."
        )
    if trainer.course.finished:
        raise RunError(
            f"{run} is finished, all of its {settings.recipe.epochs:g} epochs are done; for more "
            f"give --epochs {trainer.course.more_epochs:g}."
        )
    trainer.check_stop(steps)
    changes = trained.changes(settings)
    record.write("resume", {"step": trainer.at.step, "changes": changes})
    for name, (old, new) in changes.items():
        reporter.say(f"changed   {name}: {old} -> {new}")
    if "recipe.epochs" in changes and "schedule" not in choices:
        reporter.say(
            f"schedule  stays as it is, lr is {trainer.course.lr:.3g} now; --schedule changes it"
        )
    _write_settings(trainer)
    return trainer


def _backends(settings: Config) -> tuple[Backend, ...]:
    """A backend per device, made before anything that takes time; equal devices share one."""
    devices = settings.devices or (settings.device,)
    there = {
        device: backends.backend(settings.backend, device, exact=settings.exact)
        for device in devices
    }
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


def mean_of(dataset: Dataset, recipe: Recipe) -> npt.NDArray[np.float32]:
    """The mean to subtract from a set's stored images, (H, W, C); see `Augment.mean`."""
    mean = dataset.mean()
    if recipe.augment is None or recipe.augment.mean != "channel":
        return mean
    channels = mean.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(channels, mean.shape))


def _watchers(
    settings: Config,
    dataset: Dataset,
    net: Net,
    folder: RunFolder,
    reporter: Reporter,
    record: Record,
) -> list[Watcher]:
    """What follows a run: the log before the pictures, which are drawn from it."""
    warn, title = reporter.warn_once, f"{settings.net} on {dataset.name}"
    watchers: list[Watcher] = [reporter, record, Pictures(folder, net, title, warn)]
    if settings.tensorboard:
        watchers.append(tensorboard.Board(folder.path / "tensorboard", warn))
    return watchers


def _write_settings(trainer: Trainer) -> None:
    """Write the run's configuration and environment into its folder."""
    trainer.folder.write_config(trainer.config)
    trainer.folder.add_environment(environment(trainer.config.backend))


def _of_new(
    choices: Choices, base: Config | None, parent: Trained | None
) -> tuple[Config, NetSpec]:
    """A new run's choices, and its network before its data are known.

    What is not chosen is as in `base`, the configuration of another run: all of it if the networks
    are of one name.
    """
    where = _stored(choices["data"]) if "data" in choices else base.data if base else ""
    net = choices.get("net") or (base.net if base else _default_net(where, parent))
    if base and base.net == net:
        draft = _draft(net, base.net_args | _net_args(choices))
        return _chosen(base, choices, draft), draft
    inherited = parent.meta.net_args if parent and parent.meta.net == net else {}
    net_args = {name: value for name, value in inherited.items() if name != "towers_norm"}
    draft = _draft(net, net_args | _net_args(choices))
    own: dict[str, Any] = {"net": net, "net_args": net_args, "recipe": draft.recipe}
    settings = dataclasses.replace(base, **own, devices=()) if base else Config(**own)
    return _chosen(settings, choices, draft), draft


def _chosen(config: Config, choices: Choices, draft: NetSpec, *, stretch: bool = True) -> Config:
    """`config` with the choices. stretch: whether schedules are stretched to other epochs."""
    settings = _some(choices, _SETTINGS)
    if "data" in settings:
        settings["data"] = _stored(settings["data"])
    recipe = _some(choices, _OF_RECIPE)
    if not stretch and "epochs" in recipe:
        moved = dataclasses.replace(config.recipe, epochs=recipe.pop("epochs"))
        config = dataclasses.replace(config, recipe=moved)
    return dataclasses.replace(
        config,
        **settings,
        net_args=config.net_args | _net_args(choices),
        recipe=_override(config.recipe, recipe, _some(choices, _OF_AUGMENT), draft),
    )


def _some(choices: Choices, names: Set[str]) -> dict[str, Any]:
    """The choices of those names."""
    return {name: value for name, value in choices.items() if name in names}


def _net_args(choices: Choices) -> dict[str, Any]:
    """The choices that are arguments of the network's function."""
    others = _SETTINGS | _OF_RECIPE | _OF_AUGMENT | _BEGINNING
    return _some(choices, choices.keys() - others)


def _override(recipe: Recipe, given: Choices, augment: Choices, draft: NetSpec) -> Recipe:
    """`recipe` with those of its values, and of its augmentation's, that are given."""
    if "lr" in given:
        positive("run", "lr", given["lr"])  # the recipe's refusal would name a derived value
    weighted = [layer.name for layer, shape, _ in draft.walk() if layer.param_shapes(shape)]
    layer_lr = rates_from(given.get("layer_lr", ()), weighted)
    new = recipe.override(**{**given, "layer_lr": layer_lr})
    if not augment:
        return new
    if new.augment is None:
        raise ArgumentError(
            f"{next(iter(augment))} was given, and the network sees its images whole; "
            "alexnet was expected, which augments them."
        )
    return dataclasses.replace(new, augment=dataclasses.replace(new.augment, **augment))


def _draft(net: str, net_args: Mapping[str, Any]) -> NetSpec:
    """The network before its data are known: its input size, and its recipe."""
    make = nets.get(net)
    for name in net_args:
        if name not in inspect.signature(make).parameters:
            raise ArgumentError(f"{net} has no option {name}; alexnet was expected, which has.")
    return make(**net_args)


def _load(settings: Config, draft: NetSpec, bad_files: Path, reporter: Reporter) -> Dataset:
    """The data set; a folder's images are resized to the size that inputs are cropped from."""
    augment, stored = settings.recipe.augment, settings.data
    size = draft.input_shape[:2] if augment is None else (augment.stored, augment.stored)
    dataset = data.load(
        os.fsdecode(stored.encode()) if stored else None,
        image_size=size,
        seed=settings.seed,
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


def _settled(settings: Config, place: Backend, draft: NetSpec, dataset: Dataset) -> Config:
    """`settings` once machine and data are known: images no larger than the input are seen whole.

    Raises:
        ArgumentError: TensorBoard's events were asked for and cannot be written.
    """
    if settings.tensorboard:
        tensorboard.require()
    recipe = settings.recipe
    height, width, _ = dataset.train.image_shape
    if recipe.augment is not None:
        whole = height < draft.input_shape[0] or width < draft.input_shape[1]
        stored = min(height, width)
        augment = None if whole else dataclasses.replace(recipe.augment, stored=stored)
        recipe = dataclasses.replace(recipe, augment=augment)
    return dataclasses.replace(settings, backend=place.name, device=place.device, recipe=recipe)


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
    if choices.get("classes_in_order"):
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

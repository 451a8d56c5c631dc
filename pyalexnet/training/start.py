"""From a user's choices to a `Trainer`, for a new run or a resumed one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pyalexnet import backends, data, nets
from pyalexnet.data.dataset import Dataset, Pixels, by_channel
from pyalexnet.data.pack import is_pack
from pyalexnet.errors import ArgumentError, DataError, RunError
from pyalexnet.files import shown
from pyalexnet.nets.recipe import Augment, Recipe
from pyalexnet.nets.schedule import rates_from
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.checks import positive
from pyalexnet.ranks import launch
from pyalexnet.ranks.communicator import Communicator
from pyalexnet.runs import checkpoint
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import Elsewhere, RunFolder, check_writable, environment
from pyalexnet.step.net import Net
from pyalexnet.step.shards import Shards
from pyalexnet.trained.load import Trained
from pyalexnet.training import tensorboard, together
from pyalexnet.training.course import Position
from pyalexnet.training.pictures import Pictures
from pyalexnet.training.progress import Reporter
from pyalexnet.training.train import Trainer
from pyalexnet.training.watching import Record

_SETTINGS = {each.name for each in fields(Config)} - {"net_args", "recipe"}
_OF_AUGMENT = {each.name for each in fields(Augment)}
_OF_RECIPE = set(inspect.signature(Recipe.override).parameters) - {"self"}
_BEGINNING = {"init_from", "classes_in_order"}

Choices: TypeAlias = Mapping[str, Any]
"""The user's choices by name, without names that were not chosen. A name is that of

- a field of `Config`, or of `Augment`;
- an argument of `Recipe.override`, with layer_lr as texts LAYER=LR;
- `init_from`, a run or checkpoint whose parameters a new run begins with, or `classes_in_order`:
  also those of its last layer, if the data have as many classes, matched by position whatever they
  are called;
- or else an argument of the network's function.
"""


def new(
    choices: Choices,
    *,
    out: Path,
    config: Path | None,
    reporter: Reporter,
    ranks: Communicator | None = None,
) -> Trainer:
    """A new run, in a new folder of `out`, which is made if it is missing.

    config: config.toml of a run to be repeated, over which `choices` take precedence. A refusal of
    a choice, the data or `out` leaves no run folder behind. ranks: which train together.
    """
    ranks = ranks or Communicator()
    settings, parent, bad_files, known = None, None, None, None
    begin, leads = choices.get("init_from"), ranks.rank == 0
    if leads:
        check_writable(out)
        base = None if config is None else _config(config)
        parent = Trained.load(begin, runs=out, backend="cpu") if begin else None
        settings = _of_new(choices, base, parent)
        bad_files = out / "bad_files.jsonl"
        bad_files.unlink(missing_ok=True)
    settings = together.config_of_first(ranks, settings)
    draft, places = _draft(settings.net, settings.net_args), _backends(settings, ranks)
    if config is None and "fused" not in choices:  # emulated, it would take longer
        settings = replace(settings, fused=places[0].name in ("cuda", "cpu"))
    dataset = _load(settings, draft, bad_files, reporter)
    if leads:
        known = _as_parent(dataset, parent, choices)
    dataset = together.dataset_of_first(ranks, known or dataset)
    settings, spec = _built(settings, draft, dataset, places)
    initial = spec.initial(settings.seed)
    begun = parent and _begin_with(spec, initial, parent, same_classes=known is not None)
    if begin:
        initial = together.arrays_of_first(ranks, initial if leads else None)
    shards = together.shards(ranks, settings, len(dataset.train))
    net = _net(settings, spec, places, initial, ranks, shards)
    mean = mean_of(dataset, settings.recipe)
    together.agree_on_start(ranks, initial, mean, dataset)
    folder = RunFolder.create(out, net=settings.net, data=dataset.name) if leads else None
    if folder and bad_files and bad_files.exists():
        bad_files.replace(folder.path / bad_files.name)
    trainer = Trainer(settings, dataset, net, mean, together.folder_of_first(ranks, folder))
    _begin(trainer, reporter, "start", {"data": dataset.note, "init_from": begun})
    if begun:
        trainer.fresh = False
        reporter.say(f"begins    {begun}")
    return trainer


def resumed(
    run: Path,
    choices: Choices,
    *,
    reporter: Reporter,
    steps: int | None = None,
    ranks: Communicator | None = None,
) -> Trainer:
    """The run in the folder `run`, at its newest good checkpoint.

    Its current config.toml applies, overridden by `choices`; differences from the values it was
    trained with are reported and logged. The choice `epochs` moves the end only, not the schedule.
    `steps` is the step to stop at. A refusal changes nothing in the folder.
    """
    ranks = ranks or Communicator()
    folder = together.folder_of_first(ranks, RunFolder(run) if ranks.rank == 0 else None)
    try:
        return _resumed(folder, choices, reporter, steps, ranks)
    except BaseException:
        folder.close()
        raise


def _resumed(
    folder: RunFolder, choices: Choices, reporter: Reporter, steps: int | None, ranks: Communicator
) -> Trainer:
    run, saved, settings, bad_files = folder.path, None, None, None
    if choices.get("classes_in_order"):
        wanted = "it was expected with a network in init_from"
        raise ArgumentError(f"run: classes_in_order is given for {run}, which resumes; {wanted}.")
    if ranks.rank == 0:
        saved = checkpoint.load(checkpoint.newest(run, reporter.warn))
        if "data" not in saved.meta.config:
            advice = f"a new run can begin with it: pyalexnet train --init-from {run} --data DATA"
            found = f"{run} was not trained here, so there is nothing to resume"
            raise RunError(f"{found}; {advice}.")
        settings = _chosen(_config(run / "config.toml"), choices, stretch=False)
        bad_files = run / "bad_files.jsonl"
    saved = together.checkpoint_of_first(ranks, saved)
    settings = together.config_of_first(ranks, settings)
    trained = Config.from_mapping(saved.meta.config, f"a checkpoint of {run}")
    _check_same_network(settings, trained, run)
    draft, places = _draft(settings.net, settings.net_args), _backends(settings, ranks)
    dataset = _load(settings, draft, bad_files, reporter)
    dataset = _same_data(dataset, mean_of(dataset, settings.recipe), saved, run)
    settings, spec = _built(settings, draft, dataset, places)
    together.agree_on_start(ranks, saved.params, saved.mean, dataset)
    shards = together.shards(ranks, settings, len(dataset.train))
    net = _net(settings, spec, places, saved.params, ranks, shards)
    trainer = Trainer(settings, dataset, net, saved.mean, folder)
    trainer.restore(Position.from_mapping(saved.meta.metrics), saved.momentum)
    if trainer.course.outlived:
        why = f"at the lowest rate of {settings.recipe.schedule} its test error no longer improved"
        raise RunError(f"{run} is finished: {why}; for more give another --schedule.")
    if trainer.course.finished:
        done = settings.recipe.epochs
        more = f"for more give --epochs {2 * done:g}"
        raise RunError(f"{run} is finished, all of its {done:g} epochs are done; {more}.")
    trainer.check_stop(steps)
    changes = trained.changes(settings)
    _begin(trainer, reporter, "resume", {"changes": changes})
    for name, (old, new) in changes.items():
        reporter.say(f"changed   {name}: {old} -> {new}")
    if "recipe.epochs" in changes and "schedule" not in choices:
        now = f"lr is {trainer.course.lr:.3g} now"
        reporter.say(f"schedule  stays as it is, {now}; --schedule changes it")
    return trainer


def _begin(trainer: Trainer, reporter: Reporter, kind: str, values: Mapping[str, Any]) -> None:
    """Record what is about to run, and attach its watchers: the log before the pictures of it."""
    config, folder, warn = trainer.config, trainer.folder, reporter.warn_once
    if isinstance(folder, Elsewhere):
        return
    record = Record(folder.log, warn)
    pictures = Pictures(folder, trainer.net.spec, f"{config.net} on {trainer.dataset.name}", warn)
    board = [tensorboard.Board(folder.path / "tensorboard", warn)] if config.tensorboard else []
    trainer.watchers = (reporter, record, pictures, *board)
    folder.write_config(config)
    folder.add_environment(environment(config.backend))
    record.write(kind, {"step": trainer.at.step, **values})


def _backends(settings: Config, ranks: Communicator) -> tuple[backends.Backend, ...]:
    """A backend per device, made before anything that takes time; equal devices share one."""
    make = cache(partial(backends.backend, settings.backend, exact=settings.exact))
    own = launch.device_of(ranks, settings.backend, settings.device)
    return tuple(make(device) for device in settings.devices or (own,))


def _config(path: Path) -> Config:
    """A run's configuration; a run from before the backend cpu existed continues on cpu."""
    config = Config.load(path)
    return replace(config, backend="cpu") if config.backend == backends.PREDECESSOR else config


def mean_of(dataset: Dataset, recipe: Recipe) -> Pixels:
    """The mean to subtract from a set's stored images, (H, W, C); see `Augment.mean`."""
    mean = dataset.mean()
    return by_channel(mean) if recipe.augment and recipe.augment.mean == "channel" else mean


def _of_new(choices: Choices, base: Config | None, parent: Trained | None) -> Config:
    """A new run's choices.

    Values not chosen are those of `base`, another run's configuration (recipe and options only of
    the same net). A net not chosen is that of `base`, of the parent or, for a pack, alexnet.
    """
    photographs = "data" in choices and is_pack(Path(choices["data"]))
    usual = "alexnet" if photographs else nets.names()[0]
    net = choices.get("net") or (base.net if base else parent.meta.net if parent else usual)
    if base is None or base.net != net:
        inherited = parent.meta.net_args if parent and parent.meta.net == net else {}
        args = {name: value for name, value in inherited.items() if name != "towers_norm"}
        recipe = _draft(net, args | _net_args(choices)).recipe
        own: dict[str, Any] = {"net": net, "net_args": args, "recipe": recipe, "devices": ()}
        base = replace(base, **own) if base else Config(**own)
    config = _chosen(base, choices)
    divisible = "towers_norm" in inspect.signature(nets.get(config.net)).parameters
    if config.parallel == "towers" and divisible:  # permanently: one rank may continue the run
        config = replace(config, net_args=config.net_args | {"towers_norm": True})
    return config


def _chosen(config: Config, choices: Choices, *, stretch: bool = True) -> Config:
    """`config` with the choices. stretch: whether schedules are stretched to other epochs."""
    own, given, augment = (_some(choices, of) for of in (_SETTINGS, _OF_RECIPE, _OF_AUGMENT))
    recipe, net_args = config.recipe, config.net_args | _net_args(choices)
    draft = _draft(config.net, net_args)
    if "data" in own:
        own["data"] = _stored(own["data"])
    if not stretch and "epochs" in given:
        recipe = replace(recipe, epochs=given.pop("epochs"))
    if "lr" in given:
        positive("run", "lr", given["lr"])  # the recipe's refusal would name a derived value
    layers = dict.fromkeys(name.rpartition(".")[0] for name in draft.param_shapes())
    given["layer_lr"] = rates_from(given.get("layer_lr", ()), layers)
    recipe = recipe.override(**given)
    if augment and recipe.augment is None:
        found = f"{next(iter(augment))} was given, and the network sees its images whole"
        raise ArgumentError(f"{found}; alexnet was expected, which augments them.")
    if recipe.augment is not None:
        recipe = replace(recipe, augment=replace(recipe.augment, **augment))
    return replace(config, **own, net_args=net_args, recipe=recipe)


def _some(choices: Choices, names: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in choices.items() if name in names}


def _net_args(choices: Choices) -> dict[str, Any]:
    """The choices that are arguments of the network's function."""
    return _some(choices, choices.keys() - _SETTINGS - _OF_RECIPE - _OF_AUGMENT - _BEGINNING)


def _draft(net: str, net_args: Mapping[str, Any]) -> NetSpec:
    """The network before its data are known: its input size, and its recipe."""
    make = nets.get(net)
    for name in net_args:
        if name not in inspect.signature(make).parameters:
            raise ArgumentError(f"{net} has no option {name}; alexnet, which has it, was expected.")
    return make(**net_args)


def _load(settings: Config, draft: NetSpec, bad_files: Path | None, reporter: Reporter) -> Dataset:
    """The dataset; a folder's images are resized to the size that inputs are cropped from."""
    augment, stored = settings.recipe.augment, settings.data
    dataset = data.load(
        os.fsdecode(stored.encode()) if stored else None,
        image_size=draft.input_shape[:2] if augment is None else (augment.stored, augment.stored),
        seed=settings.seed,
        bad_files=bad_files,
        progress=reporter.progress("reading images"),
    )
    return replace(dataset, name=shown(dataset.name))


def _stored(where: str) -> str:
    """The data's path for config.toml: absolute, unless a name like cifar10, and in UTF-8."""
    path = str(Path(where).absolute()) if where and Path(where).exists() else where
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        wanted = "a path in UTF-8 was expected, so that config.toml can hold it"
        raise ArgumentError(f"data is {where!r}; {wanted}.") from error


def _built(
    config: Config, draft: NetSpec, dataset: Dataset, places: Sequence[backends.Backend]
) -> tuple[Config, NetSpec]:
    """The network for a dataset, and `config` completed from data and machine.

    Images no larger than the network's input are seen whole.
    """
    if config.tensorboard:
        tensorboard.require()
    height, width, channels = dataset.train.image_shape
    augment = config.recipe.augment
    if augment is not None:
        whole = height < draft.input_shape[0] or width < draft.input_shape[1]
        augment = None if whole else replace(augment, stored=min(height, width))
    recipe, place = replace(config.recipe, augment=augment), places[0]
    config = replace(config, backend=place.name, device=place.device, recipe=recipe)
    make, args = nets.get(config.net), config.all_net_args
    towers = config.devices or config.parallel == "towers"
    if towers and "towers_norm" not in inspect.signature(make).parameters:
        found = f"towers is 2 and net {config.net}, which cannot be divided"
        raise ArgumentError(f"{found}; alexnet was expected.")
    if towers and args.get("one_tower"):
        raise ArgumentError("towers is 2 and one_tower was chosen too; one of them was expected.")
    try:
        shape = (height, width) if augment is None else make(**args).input_shape[:2]
        spec = make(classes=len(dataset.class_names), input_shape=(*shape, channels), **args)
    except ArgumentError as error:
        what = f"the {height}x{width}x{channels} images of {dataset.name}"
        raise ArgumentError(f"{config.net} cannot take {what}: {error}") from error
    return config, spec


def _net(
    config: Config,
    spec: NetSpec,
    places: Sequence[backends.Backend],
    params: checkpoint.Arrays,
    ranks: Communicator,
    shards: Shards,
) -> Net:
    how: dict[str, Any] = {"precision": config.precision, "fused": config.fused, "shards": shards}
    how["division"] = config.division
    how["communicator"] = launch.connected(ranks, places[0])
    return Net(spec, places, config.seed, params=params, **how)


def _as_parent(dataset: Dataset, parent: Trained | None, choices: Choices) -> Dataset | None:
    """The set with its classes numbered as a parent's; None if the parent's classes differ."""
    if not choices.get("classes_in_order"):
        return None if parent is None else dataset.numbered_as(parent.classes)
    if parent is None:
        wanted = "a network with the classes of the data was expected there"
        raise ArgumentError(f"run: classes_in_order is given and none is in init_from; {wanted}.")
    return parent.numbered(dataset, in_order=True)


def _begin_with(
    spec: NetSpec, own: checkpoint.Arrays, parent: Trained, *, same_classes: bool
) -> str:
    """Take a trained network's parameters, except a last layer for other classes; says which."""
    found, kept = parent.params, set()
    last = [*own][-1].rpartition(".")[0]
    for name, value in own.items():
        in_last = name.startswith(f"{last}.")
        fits = name in found and found[name].shape == value.shape
        if not (fits or in_last):
            has = f"has shape {found[name].shape}" if name in found else "is missing"
            wanted = f"{value.shape} was expected, as only {last} may differ"
            raise ArgumentError(f"init_from: {name} {has} in {parent.path}; {wanted}.")
        if not fits or (in_last and not same_classes):
            kept.add(name)
    own.update({name: found[name] for name in own if name not in kept})
    begun = f"with the parameters of {parent.path}"
    if not kept:
        return begun
    alike = spec.classes == len(parent.classes)
    why = " (--classes-in-order takes them in their order)" if alike else ""
    return f"{begun}, {last} anew as its classes are others{why}"


def _check_same_network(settings: Config, trained: Config, run: Path) -> None:
    """Refuse to continue with another network; only its dropout may change."""
    new, old = ({"net": one.net, **one.net_args} for one in (settings, trained))
    for name in new | old:
        if new.get(name) != old.get(name) and name != "dropout":
            is_fixed = f"{run} trains a network of {old.get(name)!r}, and a run cannot change that"
            raise ArgumentError(f"{name} is {new.get(name)!r}; {is_fixed}.")


def _same_data(dataset: Dataset, mean: Pixels, saved: checkpoint.Checkpoint, run: Path) -> Dataset:
    """The data, if their mean, which is exact, is the run's, with its numbering of the classes."""
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

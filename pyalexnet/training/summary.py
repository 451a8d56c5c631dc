"""A run's summary at its beginning and at its end."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from pyalexnet.nets.layers import LRN
from pyalexnet.nets.recipe import Augment, Recipe
from pyalexnet.runs.logline import duration, percent
from pyalexnet.runs.run import StopReport
from pyalexnet.training.train import Trainer


def opening(trainer: Trainer) -> Iterator[str]:
    """What will be trained, on what data, where and how."""
    config, recipe, spec = trainer.config, trainer.config.recipe, trainer.net.spec
    macs = f"{spec.macs() / 1e6:.1f} million multiply-accumulates an image"
    yield f"net       {config.net}: {spec.num_parameters:,} parameters, {macs}"
    yield from _overrides(trainer)
    data, size = trainer.dataset, "x".join(map(str, spec.input_shape))
    images = f"{len(data.train):,} training and {len(data.test):,} test images"
    yield f"data      {data.name}: {images}, {size}, {spec.classes} classes"
    yield f"          {data.note}"
    if recipe.augment is not None:
        yield f"views     {_views(recipe.augment)}"
    place = config.backend + (", exact" if config.exact else "")
    norms = any(isinstance(layer, LRN) for layer in spec.layers)
    edges = "; norms across maps end at a tower's edge" if norms else ""
    if config.devices:
        first, second = config.devices
        place += f", a tower each on devices {first} and {second}{edges}"
    else:
        way = ", fused" if config.fused else ""
        way += f", {config.precision}" if config.precision != "fp32" else ""
        place += f", device {config.device}{way}"
    yield f"backend   {place}"
    if config.parallel == "towers":
        yield f"ranks     2, each with a tower{edges}"
    elif config.division:
        yield from _hybrid(trainer)
    rate, steps, shards = recipe.rate, trainer.course.steps_an_epoch, trainer.net.shards
    course = f"{recipe.epochs:g} epochs of {steps} steps, batch {shards.shown(trainer.batch_size)}"
    rule = f"lr {rate.lr_w:g}, momentum {recipe.momentum:g}, weight decay {rate.decay_w:g}"
    yield f"recipe    {course}, {rule}, schedule {recipe.schedule}, seed {config.seed}"
    if trainer.batch_size < recipe.batch_size:
        yield f"          there are only {trainer.batch_size} training images for a batch"
    if shards.ranks > 1 and trainer.batch_size != spec.recipe.batch_size:
        yield f"          {config.net}'s own batch is {spec.recipe.batch_size}; rates stay as given"
    yield f"run       {trainer.folder.path} (Ctrl-C saves and stops)"
    if trainer.at.step:
        yield f"resumed   at step {trainer.at.step} of {trainer.course.steps}"
        return
    expected, measured = trainer.first_losses()
    said = f"loss      {measured:.4f} before the first step"
    if trainer.fresh:
        why = f"ln {spec.classes} + half the variance of the logits"
        said += f"; {expected:.4f} was expected of a fresh network ({why})"
    yield said


def _hybrid(trainer: Trainer) -> Iterator[str]:
    ranks, spec = trainer.net.communicator.world_size, trainer.net.spec
    parts = f"a part of the batch, then of the linear layers; scheme {trainer.config.scheme}"
    yield f"ranks     {ranks}, each with {parts}"
    if spec.classes % ranks:
        last = [*spec.param_shapes()][-1].rpartition(".")[0]
        yield f"          {last} is whole on each: {spec.classes} classes do not divide by {ranks}"


def _overrides(trainer: Trainer) -> Iterator[str]:
    """The preset, and every value chosen differently."""
    config, own = trainer.config, trainer.net.spec.recipe
    if config.net == "alexnet":
        yield f"preset    {config.net_args.get('preset', 'source')}"
    if trainer.at.step:
        return  # changes at a resume have been reported already
    args = config.net_args.items()
    changes = [f"{name} {_chosen(value)}" for name, value in args if name != "preset"]
    epochs, lr = config.recipe.epochs, config.recipe.rate.lr_w
    if own.epochs != epochs:
        changes.append(f"epochs {own.epochs:g} -> {epochs:g}, schedules stretched")
    if own.rate.lr_w != lr:
        changes.append(f"lr {own.rate.lr_w:g} -> {lr:g}, all rates with it")
    usual, given = _settings(own.override(epochs=epochs, lr=lr)), _settings(config.recipe)
    pairs = {name: (usual.get(name, "none"), given.get(name, "none")) for name in usual | given}
    changes += [f"{name} {old} -> {new}" for name, (old, new) in pairs.items() if old != new]
    if changes:
        yield f"changed   {'; '.join(changes)}"


def _settings(recipe: Recipe) -> dict[str, str]:
    """A recipe's values by dotted name, as a user would write them."""
    rates = {f"rates.{name}.": rate for name, rate in recipe.rates.items()}
    parts = {"augment.": recipe.augment, "rate.": recipe.rate, **rates, "": recipe}
    found = {
        f"{part}{name}": value
        for part, values in parts.items()
        for name, value in (vars(values) if values else {}).items()
    }
    whole = ("augment", "rate", "rates", "epochs")
    return {name: _chosen(value) for name, value in found.items() if name not in whole}


def _chosen(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ",".join(map(_chosen, value)) or "none"
    if isinstance(value, Mapping):  # a layer as a table
        return str(value["name"])
    return f"{value:g}" if isinstance(value, float) else str(value)


def _views(augment: Augment) -> str:
    """How training sees its images."""
    parts = f"random crops out of {augment.stored}x{augment.stored}"
    parts += " and mirrored" if augment.flip else ""
    parts += "" if augment.chunk == 1 else f", one for {augment.chunk} images"
    if augment.jitter:
        parts += f", colour jitter {augment.jitter:g} sigma"
        until = augment.jitter_until
        parts += "" if until is None else f" until epoch {until:g}"
    return f"{parts}; mean by {augment.mean}"


def closing(trainer: Trainer, outcome: StopReport, *, told_loss: bool) -> Iterator[str]:
    """The results, the data, the files, and how to continue.

    told_loss: whether earlier lines have reported the loss.
    """
    folder, at, test = trainer.folder.path, trainer.at, outcome.test
    if not told_loss and at.epoch_sums.images:
        train = at.epoch_sums.mean()
        errors = f"top-1 error {percent(train.top1_error)}"
        yield f"epoch {at.epoch + 1} so far: train loss {train.loss:.4f}, {errors}"
    if outcome.interrupt is not None:
        by = "Ctrl-C" if outcome.interrupt == signal.SIGINT else outcome.reason
        yield f"stopped by {by} after step {at.step}"
    elif test is not None:
        how = "finished" if outcome.finished else "stopped"
        took = f"{how} after step {at.step} in {duration(outcome.seconds)}"
        scores = f"top-1 error {percent(test.top1_error)}, loss {test.loss:.4f}"
        yield f"{took}: test accuracy {percent(1 - test.top1_error)} ({scores})"
        if at.best_step not in (None, at.step):
            best = f"step {at.best_step}: test accuracy {percent(1 - at.best_error)}"
            taken = "evaluate and others take it unless --which last is given"
            yield f"best      {best} (of the tests after an epoch); {taken}"
    yield f"data      {trainer.dataset.note}"
    yield f"run       {folder}"
    for path in trainer.folder.files():
        best = " (best)" if path == trainer.best_checkpoint else ""
        yield f"          {path.relative_to(folder)}{best}"
    more = f" --epochs {2 * trainer.config.recipe.epochs:g}" if outcome.finished else ""
    yield f"to go on  pyalexnet train --resume {shlex.quote(str(folder))}{more}"

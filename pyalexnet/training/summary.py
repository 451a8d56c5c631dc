"""What a run says of itself at its beginning and at its end."""

from __future__ import annotations

import dataclasses
import shlex
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from pyalexnet.nets.layers import LRN
from pyalexnet.nets.recipe import Augment, Recipe
from pyalexnet.runs import logline
from pyalexnet.training.progress import percent
from pyalexnet.training.train import Outcome, Trainer


def opening(trainer: Trainer) -> Iterator[str]:
    """What will be trained, on what, where and how."""
    config, recipe, net = trainer.config, trainer.config.recipe, trainer.net
    train, test = trainer.dataset.train, trainer.dataset.test
    size = "x".join(str(side) for side in net.spec.input_shape)
    yield (
        f"net       {config.net}: {net.num_parameters:,} parameters, "
        f"{net.spec.macs() / 1e6:.1f} million multiply-accumulates an image"
    )
    yield from _overrides(trainer)
    yield (
        f"data      {trainer.dataset.name}: {len(train):,} training and {len(test):,} test images, "
        f"{size}, {net.spec.classes} classes"
    )
    yield f"          {trainer.dataset.note}"
    if recipe.augment is not None:
        yield f"views     {_views(recipe.augment)}"
    place = config.backend + (", exact" if config.exact else "")
    if config.devices:
        first, second = config.devices
        norms = any(isinstance(layer, LRN) for layer in net.spec.layers)
        edges = "; norms across maps end at a tower's edge" if norms else ""
        yield f"backend   {place}, a tower each on devices {first} and {second}{edges}"
    else:
        way = ", fused" if config.fused else ""
        way += f", {config.precision}" if config.precision != "fp32" else ""
        yield f"backend   {place}, device {config.device}{way}"
    yield (
        f"recipe    {recipe.epochs:g} epochs of {trainer.steps_an_epoch} steps, batch "
        f"{trainer.batch_size}, lr {recipe.rate.lr_w:g}, momentum {recipe.momentum:g}, weight "
        f"decay {recipe.rate.decay_w:g}, schedule {recipe.schedule}, seed {config.seed}"
    )
    if trainer.batch_size < recipe.batch_size:
        yield f"          there are only {trainer.batch_size} training images for a batch"
    yield f"run       {trainer.folder.path} (Ctrl-C saves and stops)"
    if trainer.at.step:
        yield f"resumed   at step {trainer.at.step} of {trainer.steps}"
        return
    expected, measured = trainer.first_losses()
    told = f"; {expected:.4f} was expected of a fresh network (ln {net.spec.classes} + half the "
    yield (
        f"loss      {measured:.4f} before the first step"
        f"{told + 'variance of the logits)' if trainer.fresh else ''}"
    )


def _overrides(trainer: Trainer) -> Iterator[str]:
    """The preset, and every value chosen differently."""
    config, own = trainer.config, trainer.net.spec.recipe
    if config.net == "alexnet":
        yield f"preset    {config.net_args.get('preset', 'source')}"
    if trainer.at.step:
        return  # changes at a resume have been reported already
    changes = [
        f"{name} {_chosen(value)}" for name, value in config.net_args.items() if name != "preset"
    ]
    if own.epochs != config.recipe.epochs:
        changes.append(f"epochs {own.epochs:g} -> {config.recipe.epochs:g}, schedules stretched")
    if own.rate.lr_w != config.recipe.rate.lr_w:
        changes.append(f"lr {own.rate.lr_w:g} -> {config.recipe.rate.lr_w:g}, all rates with it")
    usual = _settings(own.override(epochs=config.recipe.epochs, lr=config.recipe.rate.lr_w))
    given = _settings(config.recipe)
    for name in usual | given:
        old, new = (of.get(name, "none") for of in (usual, given))
        if old != new:
            changes.append(f"{name} {old} -> {new}")
    if changes:
        yield f"changed   {'; '.join(changes)}"


def _settings(recipe: Recipe) -> dict[str, str]:
    """A recipe's values by dotted name, as a user would write them."""
    rates = {"rate": recipe.rate} | {f"rates.{name}": rate for name, rate in recipe.rates.items()}
    parts: dict[str, Any] = {"augment": recipe.augment} | rates
    found = {
        f"{part}.{each.name}": _chosen(getattr(values, each.name))
        for part, values in parts.items()
        if values is not None
        for each in dataclasses.fields(values)
    }
    own = {name: getattr(recipe, name) for name in ("batch_size", "momentum", "schedule")}
    return found | {name: _chosen(value) for name, value in own.items()}


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
    shared = "" if augment.chunk == 1 else f", one for {augment.chunk} images"
    jitter = f", colour jitter {augment.jitter:g} sigma" if augment.jitter else ""
    until = f" until epoch {augment.jitter_until:g}" if augment.jitter_until is not None else ""
    flip = " and mirrored" if augment.flip else ""
    return (
        f"random crops out of {augment.stored}x{augment.stored}{flip}{shared}"
        f"{jitter}{until if jitter else ''}; mean by {augment.mean}"
    )


def closing(trainer: Trainer, outcome: Outcome, *, told_loss: bool) -> Iterator[str]:
    """The results, on which data, where they lie and how to continue.

    told_loss: whether lines before these have said how the loss is.
    """
    folder, train = trainer.folder.path, trainer.at.epoch_sums
    if not told_loss and train.images:
        scores = train.mean()
        yield (
            f"epoch {trainer.at.epoch + 1} so far: train loss {scores.loss:.4f}, top-1 error "
            f"{percent(scores.top1_error)}"
        )
    if outcome.interrupt is not None:
        name = signal.Signals(outcome.interrupt).name
        by = "Ctrl-C" if name == "SIGINT" else name
        yield f"stopped by {by} after step {trainer.at.step}"
    elif outcome.test is not None:
        how = "finished" if outcome.finished else "stopped"
        yield (
            f"{how} after step {trainer.at.step} in {logline.duration(outcome.seconds)}: "
            f"test accuracy {percent(1 - outcome.test.top1_error)} "
            f"(top-1 error {percent(outcome.test.top1_error)}, loss {outcome.test.loss:.4f})"
        )
        if trainer.at.best_step not in (None, trainer.at.step):
            yield (
                f"best      step {trainer.at.best_step}: test accuracy "
                f"{percent(1 - trainer.at.best_error)} (of the tests after an epoch); evaluate "
                "and others take it unless --which last is given"
            )
    yield f"data      {trainer.dataset.note}"
    yield f"run       {folder}"
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "lock":
            yield f"          {path.name}"
    for path in sorted(trainer.folder.checkpoints.iterdir()):
        best = " (best)" if path == trainer.best_checkpoint else ""
        yield f"          {path.relative_to(folder)}{best}"
    more = f" --epochs {trainer.more_epochs:g}" if outcome.finished else ""
    yield f"to go on  pyalexnet train --resume {shlex.quote(str(folder))}{more}"

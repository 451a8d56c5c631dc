"""Agreement of ranks before training: rank 0 reads and decides, the others follow, all compare.

So only rank 0 needs access to the run's folder and the files that a run begins with; every rank
reads the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import pyalexnet
from pyalexnet.backends.cpu import chosen_set
from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Dataset
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.ranks import launch
from pyalexnet.ranks.communicator import Communicator
from pyalexnet.runs.checkpoint import Array, Arrays, Checkpoint, Meta
from pyalexnet.runs.config import PARALLEL, Config, validated
from pyalexnet.runs.run import Elsewhere, RunFolder
from pyalexnet.step import hybrid
from pyalexnet.step.shards import Shards
from pyalexnet.training.course import Course


def agree_on_options(ranks: Communicator, options: Mapping[str, Any]) -> None:
    """Refuse command lines, versions and kernels that differ between ranks."""
    if ranks.world_size == 1:  # a run on a GPU need not load the CPU's kernels
        return
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}
    own = {"pyalexnet's version": pyalexnet.__version__, "the instruction set": chosen_set()}
    launch.agree(ranks, own | given)


def agree_on_start(ranks: Communicator, initial: Arrays, mean: Array, data: Dataset) -> None:
    """Refuse initial parameters and data that differ between ranks."""
    if ranks.world_size == 1:  # no digests of hundreds of megabytes without anyone to compare
        return
    facts = {"the initial parameters": [*initial.values()], "the mean of the images": [mean]}
    facts |= {"the labels": [data.train.labels, data.test.labels]}
    launch.agree(ranks, {name: launch.digest(*arrays) for name, arrays in facts.items()})


def config_of_first(ranks: Communicator, config: Config | None) -> Config:
    """Rank 0's configuration."""
    values = ranks.gather(None if config is None else asdict(config))[0]
    return config or Config.from_mapping(values, "rank 0")


def dataset_of_first(ranks: Communicator, dataset: Dataset) -> Dataset:
    """The data with their classes numbered as rank 0's."""
    ids, names = ranks.gather([dataset.classes.ids, dataset.classes.names])[0]
    classes = Classes(tuple(ids), tuple(names))
    found = dataset if classes == dataset.classes else dataset.numbered_as(classes)
    if found is None:
        what = f"the classes differ from rank 0's: {dataset.classes.difference(classes)}"
        raise DataError(f"{dataset.note}: {what}.")
    return found


def folder_of_first(ranks: Communicator, folder: RunFolder | None) -> RunFolder:
    """Rank 0's folder; other ranks write nothing to it."""
    path = ranks.gather(None if folder is None else str(folder.path))[0]
    return folder or Elsewhere(Path(path))


def checkpoint_of_first(ranks: Communicator, saved: Checkpoint | None) -> Checkpoint:
    """The checkpoint that rank 0 has read."""
    meta = ranks.gather(None if saved is None else asdict(saved.meta))[0]
    params = arrays_of_first(ranks, saved.params if saved else None)
    momentum = arrays_of_first(ranks, saved.momentum if saved else None)
    mean = arrays_of_first(ranks, {"mean": saved.mean} if saved else None)["mean"]
    return saved or Checkpoint(params, momentum, mean, validated(Meta, meta))


def arrays_of_first(ranks: Communicator, arrays: Arrays | None) -> Arrays:
    """Rank 0's float32 arrays."""
    known = {name: array.shape for name, array in (arrays or {}).items()}
    shapes = ranks.gather(known)[0]
    if arrays is None:
        arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    for array in arrays.values():
        ranks.broadcast(array)
    return arrays


def shards(ranks: Communicator, config: Config, images: int) -> Shards:
    """How batches out of so many training images are divided; refuses those that do not divide."""
    count, batch = ranks.world_size, Course(config.recipe, images).batch_size
    if count > 1 and not config.parallel:
        wanted = f"one of {', '.join(PARALLEL)} was expected"
        raise ArgumentError(f"run: parallel is not given and there are {count} ranks; {wanted}.")
    found = Shards.of("run", count, config.shards or count)
    sent = BFLOAT16 if config.bf16_gradients else FLOAT32
    found = replace(found, sent=sent, divides=config.divide_momentum)
    if config.division:
        found = hybrid.shards(config.division, count, replace(found, ranks=1))
    found.check("run", batch)
    return found

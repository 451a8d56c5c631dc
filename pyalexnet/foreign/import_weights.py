"""A run folder made from another program's file, as if the network had been trained here.

`evaluate`, `predict`, `export` and `train --init-from` then accept it like any other run.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet.data import tables
from pyalexnet.data.classes import Classes
from pyalexnet.errors import ArgumentError, CheckpointError, RunError
from pyalexnet.files import ODD_JSON, refused, refusing, shown
from pyalexnet.foreign import caffe, formats, torchvision, weights
from pyalexnet.foreign.weights import ForeignNet
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint, Meta
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import RunFolder, environment

# ImageNet's id of a class, and the name of its folder.
_SYNSET = re.compile(r"n\d{8}")


def import_run(
    file: Path,
    run: Path,
    *,
    form: str = "auto",
    class_names: Path | None = None,
    mean: Path | None = None,
    state_dict: str | None = None,
) -> ForeignNet:
    """Make the run folder `run` of the network in `file`; returns what was found.

    file: torchvision's state dict or a checkpoint with one (.safetensors or PyTorch's own format,
    whatever the ending), or a .caffemodel. run: missing or empty; nothing is left there if a file
    is refused. form: "torchvision", "caffe", or "auto" to decide by the file's first bytes.
    class_names: a file of the classes in the order of the outputs, see `_lines` and `_index`; None:
    as in the file of weights, else numbers from 0. mean: Caffe's mean image, a .binaryproto.
    state_dict: which of a checkpoint's; None: the only one, or the one that is no average.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunError(f"{shown(run)} exists; a folder that does not was expected.")
    if any((file / name).is_file() for name in ("config.toml", checkpoint.STATE)):
        raise ArgumentError(
            f"import: {shown(file)} is a run or checkpoint of pyalexnet, which every command takes "
            "as it is; another program's file was expected."
        )
    form = _form(file, form)
    if form == "torchvision":
        if mean is not None:
            raise ArgumentError(
                f"import: mean is {shown(mean)}; none was expected, as torchvision's is known."
            )
        found = torchvision.read(file, state_dict)
    else:
        if state_dict is not None:
            raise ArgumentError(
                f"import: state_dict is {state_dict!r}; none was expected, as a .caffemodel has no "
                "second one."
            )
        found = caffe.read(file, mean)
    write_run(run, found, _classes(class_names, found))
    return found


def write_run(run: Path, found: ForeignNet, classes: Classes) -> None:
    """Write `run` as a run that has not trained a step yet; completely or not at all."""
    temporary = run.with_name(f".tmp-{os.getpid()}-{run.name}")
    spec, net_args = found.spec, found.net_args
    config = Config(net=spec.name, backend="cpu", recipe=spec.recipe, net_args=net_args, workers=1)
    told = dataclasses.asdict(config)
    del told["data"]  # the training data are unknown, and evaluation must ask for data
    rest: dict[str, Any] = {"net_args": net_args, "config": told, "class_ids": classes.ids}
    meta = Meta(spec.name, spec.classes, classes.names, spec.input_shape, step=0, epoch=0, **rest)
    momentum = {name: np.zeros_like(value) for name, value in found.params.items()}
    saved = Checkpoint(found.params, momentum, found.mean, meta)
    try:
        with refusing(RunError, run, "written"):
            temporary.mkdir(parents=True)
            with RunFolder(temporary) as folder:
                folder.write_config(config)
                folder.add_environment(environment(config.backend))
                checkpoint.save(folder.checkpoints, saved)
            temporary.rename(run)  # onto nothing, or an empty folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _form(file: Path, form: str) -> str:
    if form == "auto":
        with weights.opened(file) as raw:
            return "caffe" if formats.of(raw) == "caffe" else "torchvision"
    if form not in ("torchvision", "caffe"):
        raise ArgumentError(
            f"import: format is {form!r} for {shown(file)}; torchvision (.safetensors, .pth) or "
            "caffe (.caffemodel) was expected."
        )
    return form


def _classes(path: Path | None, found: ForeignNet) -> Classes:
    """The classes according to the file at `path`, or else the network's own file."""
    known = found.classes or Classes.numbered(found.spec.classes)
    if path is None:
        return known
    with weights.opened(path) as raw:
        said = "class names in UTF-8, one a line, were expected, and it cannot be read"
        with refused(CheckpointError, said, ValueError):
            text = tables.utf_8(raw).decode("utf-8")
        ids, names = _index(text) if text.lstrip()[:1] in ("{", "[") else _lines(text)
        if len(names) != len(known):
            raise CheckpointError(
                f"has {len(names)} names; {len(known)} were expected, one for each class."
            )
        with refused(CheckpointError, "cannot be used", ArgumentError):
            return Classes(tuple(ids) or known.ids, tuple(names))


def _lines(text: str) -> tuple[list[str], list[str]]:
    """Names, a line each; and ids, if each line begins with an id and a tab, or a synset."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    tabs = all("\t" in line for line in lines)
    if not tabs and not all(_SYNSET.fullmatch(line.split()[0]) for line in lines):
        return [], lines
    pairs = [line.split("\t" if tabs else None, 1) for line in lines]
    return [pair[0].strip() for pair in pairs], [pair[-1].strip() for pair in pairs]


def _index(text: str) -> tuple[list[str], list[str]]:
    """The same from JSON, or a Python dict or list; ids are [] if there are only names.

    Keras's imagenet_class_index.json is {"0": ["n01440764", "tench"], ...}; others have a name
    instead of the pair, a number for each name (PyTorch's class_to_idx), or a list.
    """
    said = '{"0": [ID, NAME], ...} was expected, and it is no index of classes'
    with refused(CheckpointError, said, *ODD_JSON, SyntaxError, MemoryError):
        try:
            index = json.loads(text)
        except json.JSONDecodeError:
            index = ast.literal_eval(text)
        entries = _by_number(index) if isinstance(index, dict) else list(index)
        if all(isinstance(entry, str) for entry in entries):
            return [], entries
        pairs = [tuple(entry) for entry in entries if isinstance(entry, list | tuple)]
        texts = all(isinstance(one, str) for pair in pairs for one in pair)
        if len(pairs) < len(entries) or not texts:
            raise TypeError("a name, or an id and a name, was expected for each class")
        ids, names = zip(*pairs, strict=True)
        return list(ids), list(names)


def _by_number(index: dict[Any, Any]) -> list[Any]:
    """Values in the order of their numeric keys; keys, as ids, if the values are the numbers."""
    entries: Any = index.items()
    if all(type(value) is int for value in index.values()):
        entries = ((number, (key, key)) for key, number in entries)
    found = {str(number): entry for number, entry in entries}
    return [found[str(number)] for number in range(len(index))]

"""Damaged and forged checkpoints: refused in a sentence, or a `Checkpoint` as its types say."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzzing import Edit, Graft, edited, edits, grafted, grafts, refused, watch
from pyalexnet import nets
from pyalexnet.backends import backend
from pyalexnet.errors import PyalexnetError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint, Meta
from pyalexnet.trained.load import Trained
from samples import normal

TENSORS = ("params.safetensors", "momentum.safetensors", "mean.safetensors")
STATE = "state.json"
OUTCOMES = {"refused", "read", "used"}
SAMPLE = 100
NAMES = (
    *("net", "classes", "class_ids", "class_names", "input_shape", "step", "epoch", "net_args"),
    *("metrics", "recipe", "augment", "bytes", "sha256", "format", "dtype", "shape", "dropout"),
    *(
        "data_offsets",
        "__metadata__",
        "mean",
        "conv1.w",
        "alexnet",
        "F16",
        "I64",
        "BF16",
        "best_step",
    ),
)


@dataclass(frozen=True)
class Damage:
    """Damage to a file of tensors: to its header as JSON, then to its bytes."""

    name: str
    header: list[Graft]
    content: list[Edit]


@dataclass(frozen=True)
class Case:
    """Damaged files; `sealed`: every size and SHA-256 is corrected, as a forger would."""

    damages: list[Damage]
    state: list[Graft]
    raw_state: list[Edit]
    sealed: bool


def cases() -> SearchStrategy[Case]:
    damages = st.lists(
        st.builds(Damage, st.sampled_from(TENSORS), grafts(2, NAMES), st.just([]) | edits(1)),
        max_size=2,
    )
    none: SearchStrategy[Any] = st.just([])
    return st.one_of(
        st.builds(Case, damages, none, none, st.booleans()),
        st.builds(Case, none, grafts(1, NAMES), none, st.just(True)),
        st.builds(Case, none, grafts(3, NAMES), none, st.just(True)),
        st.builds(Case, damages, grafts(2, NAMES), edits(2, 4096), st.booleans()),
    )


def check(case: Case) -> str:
    whole = original()
    made = files(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / whole.name
        path.mkdir()
        for name, content in made.items():
            if content == (whole / name).read_bytes():
                os.link(whole / name, path / name)
            else:
                (path / name).write_bytes(content)
        same = all(content == (whole / name).read_bytes() for name, content in made.items())
        return _examine(path, same or case.sealed, same)


def _examine(path: Path, may_be_read: bool, must_be_read: bool) -> str:
    try:
        with watch():
            found = checkpoint.load(path)
    except PyalexnetError as error:
        assert not must_be_read
        return refused(error)
    assert may_be_read
    hold_types(found)
    try:
        with watch():
            Trained.load(path, backend=place())
    except PyalexnetError as error:
        refused(error)
        return "read"
    return "used"


def hold_types(found: Checkpoint) -> None:
    """Check that everything has its annotated type."""
    for array in (*found.params.values(), *found.momentum.values(), found.mean):
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.writeable
    meta = found.meta
    assert type(meta.net) is str
    assert isinstance(meta.class_names, tuple) and isinstance(meta.input_shape, tuple)
    assert all(type(name) is str for name in meta.class_names)
    assert len(meta.input_shape) == 3
    for number in (meta.classes, meta.step, meta.epoch, *meta.input_shape):
        assert type(number) is int, number
    for mapping in (meta.net_args, meta.config, meta.metrics):
        assert isinstance(mapping, dict)


def files(case: Case) -> dict[str, bytes]:
    """The contents of the four files of a case."""
    whole = original()
    made = {name: (whole / name).read_bytes() for name in TENSORS}
    for damage in case.damages:
        made[damage.name] = edited(reheaded(made[damage.name], damage.header), damage.content)
    document = json.loads((whole / STATE).read_bytes())
    if case.sealed:
        document["files"] = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in made.items()
        }
    document = grafted(document, case.state)
    if case.sealed and isinstance(document, dict):
        rest = {key: value for key, value in document.items() if key != "sha256"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    rendered = json.dumps(document, indent=1, sort_keys=True) + "\n"
    made[STATE] = edited(rendered.encode(), case.raw_state)
    return made


def reheaded(raw: bytes, changes: list[Graft]) -> bytes:
    """A safetensors file with changes in its header."""
    length = int.from_bytes(raw[:8], "little")
    if not changes or 8 + length > len(raw):
        return raw
    try:
        header = json.dumps(grafted(json.loads(raw[8 : 8 + length]), changes)).encode()
    except ValueError:
        return raw  # earlier damage left no JSON
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


@functools.cache
def original() -> Path:
    """A whole checkpoint that `Trained` takes."""
    spec = nets.alexnet_tiny(classes=2, input_shape=(8, 8, 3))
    params: dict[str, Any] = {name: normal(*shape) for name, shape in spec.param_shapes().items()}
    meta = Meta(
        net="alexnet-tiny",
        classes=2,
        class_names=("cat", "Katzenb\xe4r"),
        input_shape=(8, 8, 3),
        step=7,
        epoch=1,
        net_args={"dropout": 0.5},
        config={"data": "", "seed": 3, "recipe": {"epochs": 6.0, "augment": None}},
        metrics={"best_step": 7, "top1": 0.5},
    )
    state = Checkpoint(params, params, normal(8, 8, 3), meta)
    folder = Path(tempfile.mkdtemp())
    shutil.rmtree(folder, ignore_errors=True)
    return checkpoint.save(folder, state)


@functools.cache
def place() -> Any:
    return backend("cpu")

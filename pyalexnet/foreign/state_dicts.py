"""Finding the state dict in a training script's checkpoint: its name, and its prefix.

The scripts (PyTorch's ImageNet example, torchvision's references, timm, Lightning, NVIDIA's and
OpenMMLab's) write the state dict alone, or beside an optimizer's in a table, under `state_dict`,
`model` or their own name, perhaps with a second one of averaged weights; and each name may have the
prefix of a wrapping module: `module.` of DataParallel, `_orig_mod.` of torch.compile, `model.`,
`backbone.`. A state dict is recognised here only by the names of its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import shown
from pyalexnet.foreign.weights import Tensor

_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Modules that wrap another and behave like it."""

_COUNTERS = ("n_averaged",)
"""Tensors beside the parameters that are not parameters: from torch.optim.swa_utils."""

_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|teacher)([._]|$)")

_OPTIMIZERS = re.compile(r"optim|^opt$|momentum|exp_avg|^grad", re.IGNORECASE)
"""Matches tables whose tensors have parameters' names but are not parameters."""

_ITSELF = "the file itself"


@dataclass
class _Candidate:
    """A state dict: `table` holds it, and `names` maps the parameters' names to the file's."""

    table: Mapping[str, Any]
    names: dict[str, str] = field(default_factory=dict)
    surplus: list[str] = field(default_factory=list)


def chosen(
    path: Path, found: Any, wanted: Collection[str], which: str | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The parameters of one state dict, by their names in `wanted`, and notes.

    Args:
        path: of the file, for messages.
        found: tables of `Tensor` and other values, or anything else.
        wanted: names of the parameters of the network to find.
        which: name of the state dict; None: the only one, or the first that is not an average.

    Raises:
        CheckpointError: there is none, or a tensor in it is not a parameter or not of floats.
        ArgumentError: there is none of the name `which`.
    """
    candidates = {
        name: candidate
        for where, table in _tables(found, "")
        for name, candidate in _candidates(path, where, table, wanted)
    }
    if not candidates:
        raise CheckpointError(f"{shown(path)}: {_without(found, wanted)}")
    name = _choice(path, list(candidates), which)
    others = ", ".join(other or _ITSELF for other in [*candidates][:10] if other != name)
    note = f"The file has the state dicts {name or _ITSELF} and {others}; {name or _ITSELF} is "
    note += "taken, and --state-dict takes another."
    return _parameters(path, candidates[name]), (note,) if others and which is None else ()


def _tables(found: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every table that has tensors, with its dotted name."""
    if not isinstance(found, Mapping):
        return
    if any(isinstance(value, Tensor) for value in found.values()):
        yield where, found
    for name, value in found.items():
        if not _OPTIMIZERS.search(name):
            yield from _tables(value, f"{where}.{name}" if where else name)


def _candidates(
    path: Path, where: str, table: Mapping[str, Any], wanted: Collection[str]
) -> Iterator[tuple[str, _Candidate]]:
    """State dicts in a table, which may have several with prefixes, by their dotted names."""
    own: dict[str, _Candidate] = {}
    rest: list[tuple[str, str]] = []
    for name, value in table.items():
        plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        known = next((one for one in wanted if f".{plain}".endswith(f".{one}")), None)
        if known is None:
            if isinstance(value, Tensor) and plain.rpartition(".")[2] not in _COUNTERS:
                rest.append((name, plain))
            continue
        prefix = plain.removesuffix(known).rstrip(".")
        names = own.setdefault(prefix, _Candidate(table)).names
        if known in names:
            raise CheckpointError(
                f"{shown(path)}: {name} is there twice, as {names[known]} too; one was expected."
            )
        names[known] = name
    for prefix, candidate in own.items():
        others = tuple(f"{other}." for other in own if other != prefix)
        candidate.surplus = [name for name, plain in rest if not plain.startswith(others)]
        yield ".".join(filter(None, (where, prefix))), candidate


def _choice(path: Path, names: list[str], which: str | None) -> str:
    if which is None:
        return next((name for name in names if not _AVERAGED.search(name)), names[0])
    if which not in names:
        known = ", ".join(name or _ITSELF for name in names[:10])
        raise ArgumentError(
            f"import: state_dict is {which!r}; one that {shown(path)} has was expected: {known}."
        )
    return which


def _parameters(path: Path, candidate: _Candidate) -> dict[str, Tensor]:
    for name in candidate.surplus:
        raise CheckpointError(
            f"{shown(path)}: {name} is no parameter of torchvision's AlexNet; its 16 and nothing "
            "else were expected."
        )
    for name in candidate.names.values():
        value = candidate.table[name]
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{shown(path)}: {name} is a {type(value).__name__}; a dense tensor of floats was "
                "expected."
            )
        if value.floats is None:
            raise CheckpointError(
                f"{shown(path)}: {name} is {value.kind}; a dense tensor of floats was expected."
            )
    return {known: candidate.table[name] for known, name in candidate.names.items()}


def _without(found: Any, wanted: Collection[str]) -> str:
    """The contents of a file that has no state dict of the network, in words."""
    if not isinstance(found, Mapping):
        return (
            f"holds a {type(found).__name__}; a state dict was expected, as "
            "torch.save(model.state_dict(), FILE) writes."
        )
    tensors = (
        name
        for _, table in _tables(found, "")
        for name, value in table.items()
        if isinstance(value, Tensor)
    )
    if (first := next(tensors, None)) is not None:
        return (
            f"{first} is no parameter of torchvision's AlexNet; {min(wanted)} and so on were "
            "expected."
        )
    kinds = [f"{name!r} a {type(value).__name__}" for name, value in found.items()][:5]
    return f"has no tensors, but {', '.join(kinds) or 'nothing'}; a state dict was expected."

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
from typing import Any, TypeAlias

from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.foreign.pth import Opaque
from pyalexnet.foreign.weights import Tensor

# Modules that wrap another and behave like it.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

# Tensors beside the parameters that are not parameters: from torch.optim.swa_utils.
_COUNTERS = ("n_averaged",)

_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|teacher)([._]|$)")

# Matches tables whose tensors have parameters' names but are not parameters.
_OPTIMIZERS = re.compile(r"optim|^opt$|momentum|exp_avg|^grad", re.IGNORECASE)

_ITSELF = "the file itself"


# A state dict: each parameter's name in the file and value; names of entries that are not
# parameters.
_Candidate: TypeAlias = tuple[dict[str, tuple[str, Any]], list[str]]


def chosen(
    found: Any, wanted: Collection[str], which: str | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The parameters of one state dict, by their names in `wanted`, and notes.

    found: tables of `Tensor` and other values, or anything else. which: name of the state dict;
    None: the only one, or the first that is not an average.
    """
    candidates = {
        name: candidate
        for where, table in _tables(found, "")
        for name, candidate in _candidates(where, table, wanted)
    }
    if not candidates:
        raise CheckpointError(_without(found, wanted))
    names = [name or _ITSELF for name in candidates]
    plain = [name for name in candidates if not _AVERAGED.search(name)]
    name = [*plain, *candidates][0] if which is None else which
    if name not in candidates:
        raise ArgumentError(
            f"import: state_dict is {which!r}; one that the file has was expected: "
            f"{', '.join(names[:10])}."
        )
    taken = name or _ITSELF
    others = ", ".join(other for other in names[:10] if other != taken)
    note = f"The file has the state dicts {taken} and {others}; {taken} is taken, and --state-dict "
    note += "takes another."
    return _parameters(*candidates[name]), (note,) if others and which is None else ()


def table_of(value: Any) -> Mapping[str, Any]:
    """Values by name, whether held in a table or an object; none of anything else."""
    told = value.told if isinstance(value, Opaque) else value
    return told if isinstance(told, Mapping) else {}


def _tables(found: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every table that has tensors, with its dotted name."""
    table = table_of(found)
    if any(isinstance(value, Tensor) for value in table.values()):
        yield where, table
    for name, value in table.items():
        if not _OPTIMIZERS.search(name):
            yield from _tables(value, f"{where}.{name}" if where else name)


def _candidates(
    where: str, table: Mapping[str, Any], wanted: Collection[str]
) -> Iterator[tuple[str, _Candidate]]:
    """State dicts in a table, which may have several with prefixes, by their dotted names."""
    own: dict[str, dict[str, tuple[str, Any]]] = {}
    rest: list[tuple[str, str]] = []
    for name, value in table.items():
        plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        known = next((one for one in wanted if f".{plain}".endswith(f".{one}")), None)
        if known is None:
            if isinstance(value, Tensor) and plain.rpartition(".")[2] not in _COUNTERS:
                rest.append((name, plain))
            continue
        values = own.setdefault(plain.removesuffix(known).rstrip("."), {})
        if known in values:
            other = values[known][0]
            raise CheckpointError(f"{name} is there twice, as {other} too; one was expected.")
        values[known] = name, value
    for prefix, values in own.items():
        others = tuple(f"{other}." for other in own if other != prefix)
        surplus = [name for name, plain in rest if not plain.startswith(others)]
        yield ".".join(filter(None, (where, prefix))), (values, surplus)


def _parameters(values: dict[str, tuple[str, Any]], surplus: list[str]) -> dict[str, Tensor]:
    for name in surplus:
        raise CheckpointError(
            f"{name} is no parameter of torchvision's AlexNet; its 16 and nothing else were "
            "expected."
        )
    for name, value in values.values():
        if not isinstance(value, Tensor) or value.floats is None:
            kind = value.kind if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise CheckpointError(f"{name} is {kind}; a dense tensor of floats was expected.")
    return {known: value for known, (_, value) in values.items()}


def _without(found: Any, wanted: Collection[str]) -> str:
    """The contents of a file that has no state dict of the network, in words."""
    if not isinstance(found, Mapping):
        return (
            f"holds a {type(found).__name__}; a state dict was expected, as "
            "torch.save(model.state_dict(), FILE) writes."
        )
    for _, table in _tables(found, ""):
        first = next(name for name, value in table.items() if isinstance(value, Tensor))
        return (
            f"{first} is no parameter of torchvision's AlexNet; {min(wanted)} and so on were "
            "expected."
        )
    kinds = [f"{name!r} a {type(value).__name__}" for name, value in found.items()][:5]
    return f"has no tensors, but {', '.join(kinds) or 'nothing'}; a state dict was expected."

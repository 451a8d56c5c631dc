"""PyTorch's files: their tensors, without running any of their code.

A .pth is a pickle, and objects that a training script puts beside the tensors, such as the
argparse.Namespace of its options, are pickled as calls of classes. PyTorch's `weights_only` refuses
classes that it does not know. Here each becomes a stand-in that only keeps its attributes, so that
neither the file's code runs nor that of the class it names.

This is the only module that imports torch.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import printable, shown
from pyalexnet.foreign import weights
from pyalexnet.foreign.weights import Floats, Tensor

_TORCH = (2, 10)
"""Before this version, a hostile file could corrupt the heap despite weights_only
(CVE-2026-24747)."""

_TO_CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; s.save_file(torch.load(sys.argv[1], '
    'weights_only=True), sys.argv[2])" FILE.pth FILE.safetensors'
)

_PICKLES = 4
"""Pickles before the tensors in the format from before 2020."""

_TABLES = re.compile("dict|cfgnode|munch|box", re.IGNORECASE)
"""Matches names of dict classes: defaultdict, AttributeDict, yacs' CfgNode ..."""

_LISTS = ("collections.deque",)
"""List classes: pickles append to their instances, which PyTorch allows for plain lists only."""

_DEEPEST = 8
"""Deepest nesting of tables that is searched."""


class Opaque:
    """Stands for an object of another program; it keeps only the attributes.

    told: its attributes, if it has any.
    """

    told: Mapping[str, Any]

    def __new__(cls, *_: object, **__: object) -> Opaque:
        made = super().__new__(cls)
        made.told = {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.told = state if isinstance(state, dict) else {}


class _Table:
    """Stands for a class of dict: calling it makes a plain one."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


class _List:
    """Stands for a class of list: calling it makes a plain one."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return []


def read(path: Path, raw: bytes) -> Any:
    """The contents of a .pth: tables by name, `Tensor`, `Opaque`, and plain values.

    Raises:
        CheckpointError: the file is damaged, or PyTorch refuses it; the sentence says why.
        ArgumentError: no PyTorch is installed that reads one safely.
    """
    torch = _torch(path)
    stand_ins = [(_stand_in(name), name) for name in sorted(_names(path, raw))]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # about protocols other than PyTorch's own
            found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # its readers can raise anything
        raise CheckpointError(f"{shown(path)}: PyTorch refused it: {_reason(error)}") from error
    return _plain(torch, found, _DEEPEST, set())


def _reason(error: Exception) -> str:
    """PyTorch's message, without its advice on how to be less safe."""
    said = str(error).rpartition("WeightsUnpickler error:")[2]
    advice = ("Weights only load failed", "Check the documentation")
    paragraphs = [" ".join(one.split()) for one in said.split("\n\n")]
    told = next((one for one in paragraphs if one and not one.startswith(advice)), "")
    told = told.partition(" Please use ")[0]
    told = "".join(letter if letter.isprintable() else "?" for letter in told[:300])
    return f"{told or 'it gives no reason'} ({type(error).__name__})."


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        installed = "none is installed"
    else:
        version = torch.__version__.split(".")
        if (int(version[0]), int(version[1])) >= _TORCH:
            return torch
        installed = f"this is {torch.__version__}"
    raise ArgumentError(
        f"{shown(path)} is a pickle, which only PyTorch 2.10 or newer reads without running code "
        f"out of it, and {installed}; install it, or convert the file where it is: {_TO_CONVERT}"
    )


def _names(path: Path, raw: bytes) -> set[str]:
    """The classes and functions named in a file's pickles, by PyTorch's names."""
    names: set[str] = set()
    for pickle in _pickles(path, raw):
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).rpartition(" ")
                    names.add(".".join(_in_python_3(module, name)))
        except Exception:  # damaged, which PyTorch reports
            break
    return names


def _in_python_3(module: str, name: str) -> tuple[str, str]:
    """Python 3's names for those of protocol 2: `__builtin__.long` is `builtins.int`."""
    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name


def _pickles(path: Path, raw: bytes) -> list[io.BytesIO]:
    """The pickles of a file; a file with several in sequence is returned once for each."""
    stream = io.BytesIO(raw)
    try:
        archive = zipfile.ZipFile(stream)
    except Exception:  # the format from before 2020, or damaged, which PyTorch reports
        stream.seek(0)
        return [stream] * _PICKLES
    with archive:
        members = archive.infolist()
        _check_members(path, members)
        try:
            return [io.BytesIO(archive.read(one)) for one in members if _is_pickle(one)]
        except Exception:  # damaged, which PyTorch reports
            return []


def _is_pickle(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith("/data.pkl")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse a zip that is not a .pth of plain members; others could unpack to more memory."""
    if any("/code/" in member.filename for member in members):
        raise CheckpointError(
            f"{shown(path)}: is a program of TorchScript, which is not run; a state dict was "
            "expected, as torch.save(torch.jit.load(FILE).state_dict(), OTHER) writes."
        )
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > weights.LARGEST:
            raise CheckpointError(
                f"{shown(path)}: {member.filename!r} in it is compressed; plain members were "
                "expected, as PyTorch writes them."
            )
    if not any(map(_is_pickle, members)):
        first = f", the first of which is {members[0].filename!r}" if members else ""
        raise CheckpointError(
            f"{shown(path)}: is a zip archive of {len(members)} files{first}; one with a data.pkl "
            "was expected, as PyTorch writes."
        )


def _stand_in(name: str) -> Any:
    """An inert class in place of the one of that name."""
    if name in _LISTS:
        return _List
    if _TABLES.search(name.rpartition(".")[2]):
        return _Table
    # Classes of the module builtins are printed by their bare names.
    return type(printable(name), (Opaque,), {"__module__": "builtins"})


def _plain(torch: Any, value: Any, deepest: int, seen: set[int]) -> Any:
    """Tables by name, each once, and tensors as `Tensor`; other values are unchanged."""
    if isinstance(value, torch.Tensor):
        return _tensor(torch, value)
    if isinstance(value, Opaque):
        value.told = _plain(torch, value.told, deepest, seen)
    if not isinstance(value, dict):
        return value
    if id(value) in seen or not deepest:
        return {}
    seen.add(id(value))
    return {
        printable(name): _plain(torch, inner, deepest - 1, seen)
        for name, inner in value.items()
        if isinstance(name, str)
    }


def _tensor(torch: Any, value: Any) -> Tensor:
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return Tensor(tuple(value.shape), "no dense tensor", None)
    kind = str(value.dtype).removeprefix("torch.")

    def floats() -> Floats:
        return np.asarray(value.detach().float().numpy(), np.float32)

    return Tensor(tuple(value.shape), kind, floats if value.is_floating_point() else None)

"""Files of PyTorch: their tensors, and nothing that they would run.

A .pth is a pickle, and what a training script puts beside the tensors, such as the
argparse.Namespace of its options, is pickled as calls of classes. PyTorch's `weights_only` refuses
those that it does not know. Here each of them becomes a stand-in that does nothing but keep its
attributes, so that neither the file's code runs nor that of the class which it names.

Of all modules only this one imports torch.
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

from pyalexnet.data.dataset import shown
from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.foreign import weights
from pyalexnet.foreign.weights import Floats, Tensor

_TORCH = (2, 10)
"""Before it, weights_only did not keep a hostile file from the heap (CVE-2026-24747)."""

_TO_CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; s.save_file(torch.load(sys.argv[1], '
    'weights_only=True), sys.argv[2])" FILE.pth FILE.safetensors'
)

_PICKLES = 4
"""Of the format of before 2020, those that come before the tensors."""

_TABLES = re.compile("dict|cfgnode|munch|box", re.IGNORECASE)
"""Names of classes that are dicts: defaultdict, AttributeDict, yacs' CfgNode ..."""

_LISTS = ("collections.deque",)
"""Classes of which a pickle appends to what they make, as PyTorch does to plain lists alone."""

_DEEPEST = 8
"""Tables in tables that are looked into."""


class Opaque:
    """Stands for an object of another program, of which nothing is known but what it was made of.

    told: its attributes, where it has any.
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
    """What is in a .pth: tables by name, `Tensor`, `Opaque`, and plain values.

    Raises:
        CheckpointError: the file is damaged, or PyTorch refuses it; the sentence says why.
        ArgumentError: there is no PyTorch that reads one safely.
    """
    torch = _torch(path)
    stand_ins = [(_stand_in(name), name) for name in sorted(_names(path, raw))]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # of protocols other than PyTorch's own
            found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # its readers raise whatever the bytes lead to
        raise CheckpointError(f"{shown(path)}: PyTorch refused it: {_reason(error)}") from error
    return _plain(torch, found, _DEEPEST, set())


def _reason(error: Exception) -> str:
    """What PyTorch says, without its advice on how to be less safe."""
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
    """The classes and functions that a file's pickles name, as PyTorch calls them."""
    names: set[str] = set()
    for pickle in _pickles(path, raw):
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).rpartition(" ")
                    names.add(".".join(_in_python_3(module, name)))
        except Exception:  # damaged, which PyTorch is to say
            break
    return names


def _in_python_3(module: str, name: str) -> tuple[str, str]:
    """What protocol 2 writes as Python 2 called it: `__builtin__.long` is `builtins.int`."""
    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name


def _pickles(path: Path, raw: bytes) -> list[io.BytesIO]:
    """The pickles of a file, or one that has several behind each other as often as it has."""
    stream = io.BytesIO(raw)
    try:
        archive = zipfile.ZipFile(stream)
    except Exception:  # the format of before 2020, or damaged, which PyTorch says
        stream.seek(0)
        return [stream] * _PICKLES
    with archive:
        members = archive.infolist()
        _check_members(path, members)
        try:
            return [io.BytesIO(archive.read(one)) for one in members if _is_pickle(one)]
        except Exception:  # damaged, which PyTorch is to say
            return []


def _is_pickle(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith("/data.pkl")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """A .pth is a zip of plain members; one that unfolds into more memory is none."""
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
    """A class that does nothing, for the one of that name."""
    if name in _LISTS:
        return _List
    if _TABLES.search(name.rpartition(".")[2]):
        return _Table
    # Of that module a class is called by nothing but its name.
    return type(weights.printable(name), (Opaque,), {"__module__": "builtins"})


def _plain(torch: Any, value: Any, deepest: int, seen: set[int]) -> Any:
    """Tables by name, each once, and tensors as `Tensor`; what else there is stays."""
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
        weights.printable(name): _plain(torch, inner, deepest - 1, seen)
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

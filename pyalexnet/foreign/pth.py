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
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import printable
from pyalexnet.foreign import weights
from pyalexnet.foreign.weights import Tensor

# Before this version, a hostile file could corrupt the heap despite weights_only (CVE-2026-24747).
_TORCH = (2, 10)

_TO_CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; s.save_file(torch.load(sys.argv[1], '
    'weights_only=True), sys.argv[2])" FILE.pth FILE.safetensors'
)

# Number of pickles before the tensors in the format used before 2020.
_PICKLES = 4

# Matches names of dict classes: defaultdict, AttributeDict, yacs' CfgNode ...
_TABLES = re.compile("dict|cfgnode|munch|box", re.IGNORECASE)

# Deepest nesting of tables that is searched.
_DEEPEST = 8


class Opaque:
    """Stands for an object of another program; it keeps only its attributes, in `told`."""

    told: dict[Any, Any]

    def __new__(cls, *_: object, **__: object) -> Opaque:
        made = super().__new__(cls)
        made.told = {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.told = state if isinstance(state, dict) else {}


class _Table:
    """Stands for a class of dict: calling it makes a plain one, as only those get items."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


def read(raw: bytes) -> Any:
    """The contents of a .pth: tables by name, `Tensor`, `Opaque`, and plain values.

    A CheckpointError says why PyTorch refuses it; an ArgumentError that none reads it safely.
    """
    torch = _torch()
    stand_ins = [(_stand_in(name), name) for name in sorted(_names(raw))]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # about protocols other than PyTorch's own
            found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # its readers can raise anything
        raise CheckpointError(f"PyTorch refused it: {_reason(error)}") from error
    return _plain(torch, found, _DEEPEST, set())


def _reason(error: Exception) -> str:
    """PyTorch's message, without its advice on how to be less safe."""
    said = str(error).rpartition("WeightsUnpickler error:")[2]
    advice = ("Weights only load failed", "Check the documentation")
    paragraphs = [" ".join(one.split()) for one in said.split("\n\n")]
    told = next((one for one in paragraphs if one and not one.startswith(advice)), "")
    told = printable(told.partition(" Please use ")[0], 300)
    return f"{told or 'it gives no reason'} ({type(error).__name__})."


def _torch() -> Any:
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
        "import: FILE is a pickle, which only PyTorch 2.10 or newer reads without running code out "
        f"of it, and {installed}; install it, or convert the file where it is: {_TO_CONVERT}"
    )


def _names(raw: bytes) -> set[str]:
    """The classes and functions named in a file's pickles, by PyTorch's names."""
    names: set[str] = set()
    try:
        for pickle in _pickles(raw):
            for opcode, argument, _ in pickletools.genops(pickle):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).rpartition(" ")
                    # Python 3's name for one of protocol 2: `__builtin__.long` is `builtins.int`.
                    usual = IMPORT_MAPPING.get(module, module), name
                    names.add(".".join(NAME_MAPPING.get((module, name), usual)))
    except CheckpointError:
        raise
    except Exception:  # damaged, which PyTorch reports
        pass
    return names


def _pickles(raw: bytes) -> Iterator[io.BytesIO]:
    """The pickles of a file; a file with several in sequence is returned once for each."""
    stream = io.BytesIO(raw)
    if not raw.startswith(b"PK"):  # the format from before 2020
        yield from [stream] * _PICKLES
        return
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        _check_members(members)
        for member in members:
            if member.filename.endswith("/data.pkl"):
                yield io.BytesIO(archive.read(member))


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    """Refuse a zip that is not a .pth of plain members; others could unpack to more memory."""
    names = [member.filename for member in members]
    if any("/code/" in name for name in names):
        raise CheckpointError(
            "is a TorchScript program, which is not run; a state dict was expected, as "
            "torch.save(torch.jit.load(FILE).state_dict(), OTHER) writes."
        )
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > weights.LARGEST:
            raise CheckpointError(
                f"{member.filename!r} in it is compressed; plain members were expected, as PyTorch "
                "writes them."
            )
    if not any(name.endswith("/data.pkl") for name in names):
        first = f", the first called {names[0]!r}" if names else ""
        raise CheckpointError(
            f"is a zip archive of {len(names)} files{first}; one with a data.pkl was expected, as "
            "PyTorch writes."
        )


def _stand_in(name: str) -> Any:
    """An inert class in place of the one of that name."""
    if name == "collections.deque":  # pickles append to it, which PyTorch allows for lists only
        return lambda *_: []
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
    shape = tuple(value.shape)
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return Tensor(shape, "no dense tensor", None)
    kind = str(value.dtype).removeprefix("torch.")
    if not value.is_floating_point():
        return Tensor(shape, kind, None)
    return Tensor(shape, kind, lambda: np.asarray(value.detach().float().numpy(), np.float32))

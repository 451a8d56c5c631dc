"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012) in hand-written CUDA, and in kernels for CPUs."""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which takes longer to import than everything else here
if TYPE_CHECKING:
    from typing import Any

    from pyalexnet import errors, nets
    from pyalexnet.backends import backend
    from pyalexnet.step.net import Net

    __version__: str

__all__ = ["Net", "__version__", "backend", "errors", "nets"]


def __getattr__(name: str) -> Any:
    """Import a name on first use: the command can answer before NumPy is imported."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept: a save needs the version, which cannot be looked up again once the disk fails.
    globals()[name] = found = _found(name)
    return found


def _found(name: str) -> Any:
    from importlib import import_module

    if name in ("errors", "nets"):
        return import_module(f"pyalexnet.{name}")
    if name == "__version__":
        return _version()
    where = {"Net": "step.net", "backend": "backends"}[name]
    return getattr(import_module(f"pyalexnet.{where}"), name)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("pyalexnet")
    except metadata.PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"

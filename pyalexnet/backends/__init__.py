"""The backends by name: one set of operations, several implementations.

`cpu` runs kernels written for the CPU; `cuda` runs the CUDA kernels on an NVIDIA GPU; `sim` runs
these emulated on the CPU, and `simcheck` does so under the race and memory checker.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from pyalexnet.backends.base import Array, Backend
from pyalexnet.errors import ArgumentError, BackendUnavailable

__all__ = ["Array", "Backend", "backend", "names", "why_unavailable"]

PREDECESSOR = "numpy"
"""The backend that older runs and checkpoints name; cpu has replaced it."""

_CLASSES = {
    "cpu": ("cpu", "CpuBackend"),
    "sim": ("sim", "SimBackend"),
    "simcheck": ("sim", "SimcheckBackend"),
    "cuda": ("cuda", "CudaBackend"),
}


def names() -> tuple[str, ...]:
    """Names that `backend` knows besides "auto"; `why_unavailable` says which work here."""
    return tuple(_CLASSES)


def backend(name: str = "auto", device: int = 0, *, exact: bool = False) -> Backend:
    """Make the backend `name` on device number `device`.

    Args:
        name: "auto" is cuda where it works, else cpu; it is never one of the emulated ones.
        exact: whether every convolution multiplies and adds as the formula says. All backends but
            cpu always do; cpu otherwise uses Winograd's algorithm where that is faster.

    Raises:
        ArgumentError: there is no such backend, or no such device.
        BackendUnavailable: the backend cannot run here; the text says why and what to install.
    """
    if name == "auto":
        return backend("cpu" if why_unavailable("cuda", device) else "cuda", device, exact=exact)
    if name == PREDECESSOR:
        raise ArgumentError(
            f"backend: name is {name!r}, which was removed; cpu was expected, which took its place."
        )
    if name not in _CLASSES:
        known = ", ".join(["auto", *_CLASSES])
        raise ArgumentError(f"backend: name is {name!r}; one of {known} was expected.")
    module, class_name = _CLASSES[name]
    make = getattr(import_module(f"pyalexnet.backends.{module}"), class_name)
    return cast(Backend, make(device, exact=exact) if name == "cpu" else make(device))


def why_unavailable(name: str, device: int = 0) -> str | None:
    """Say in a sentence why the backend `name` cannot run here; None where it can."""
    try:
        backend(name, device)
    except BackendUnavailable as error:
        return str(error)
    return None

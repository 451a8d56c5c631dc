"""The libraries to compare with: PyTorch and JAX, each in its best forms."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidate:
    """One form of one peer.

    precision: "fp32" (strict), "tf32" or "bf16". run: what is timed; its result goes to `outputs`,
    which returns the case's outputs as NumPy arrays in our layouts, None for those that the peer
    does not compute or draws other random numbers for. library: "torch" or "jax".
    """

    name: str
    precision: str
    run: Callable[[], Any]
    outputs: Callable[[Any], tuple[NDArray[Any] | None, ...]]
    library: str = "torch"


@dataclass(frozen=True)
class Peers:
    """The libraries found; `missing` says why each of the others is not compared with."""

    torch: Any
    jax: Any
    missing: dict[str, str]

    def only(self, libraries: tuple[str, ...]) -> Peers:
        """The same, restricted to these."""
        missing = {name: why for name, why in self.missing.items() if name in libraries}
        torch, jax = (
            module if name in libraries else None
            for name, module in (("torch", self.torch), ("jax", self.jax))
        )
        return Peers(torch, jax, missing)

    def versions(self) -> dict[str, str]:
        """The versions of the libraries found."""
        found = {"torch": self.torch, "jax": self.jax}
        return {name: str(module.__version__) for name, module in found.items() if module}


def find(device: str, libraries: tuple[str, ...] = ("torch", "jax")) -> Peers:
    """Import the libraries that are installed and can use `device` ("cpu", "cuda:0"), tuned."""
    missing: dict[str, str] = {}
    # Otherwise JAX reserves most of the GPU's memory when it is first used.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    torch, jax = (
        _imported(name, missing) if name in libraries else None for name in ("torch", "jax")
    )
    if torch and device != "cpu" and not torch.cuda.is_available():
        missing["torch"], torch = f"PyTorch {torch.__version__} sees no GPU", None
    if jax and device != "cpu" and jax.default_backend() != "gpu":
        missing["jax"], jax = f"JAX {jax.__version__} sees no GPU", None
    if torch:
        torch.backends.cudnn.benchmark = True  # cuDNN times its algorithms and takes the fastest
    return Peers(torch, jax, missing)


def _imported(name: str, missing: dict[str, str]) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing[name] = f"not installed ({error})"
        return None

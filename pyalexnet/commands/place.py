"""Where a command computes."""

from __future__ import annotations

from pyalexnet.errors import ArgumentError


def place(backend: str | None, device: str | None) -> tuple[str | None, int | None]:
    """Backend and device number; --device also takes PyTorch's cpu, cuda and cuda:1."""
    if device is None or device.isdecimal():
        return backend, None if device is None else int(device)
    name, _, number = device.partition(":")
    named = {"cpu": "numpy", "cuda": "cuda"}.get(name)
    if named is None or not (number or "0").isdecimal():
        raise ArgumentError(f"--device is {device!r}; a number, cpu, cuda or cuda:1 was expected.")
    if backend not in (None, "auto", named):
        raise ArgumentError(f"--device is {device} and --backend {backend}; one was expected.")
    return named, int(number or "0")

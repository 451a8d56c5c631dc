"""Where a command computes."""

from __future__ import annotations

import re

from pyalexnet.errors import ArgumentError


def place(backend: str | None, device: str | None) -> tuple[str | None, int | None]:
    """Backend and device number; --device also takes PyTorch's cpu, cuda and cuda:1, and gpu."""
    if device is None or is_number(device):
        return backend, None if device is None else int(device)
    name, _, number = device.partition(":")
    named = {"cpu": "cpu", "cuda": "cuda", "gpu": "cuda"}.get(name)
    if named is None or not is_number(number or "0"):
        raise ArgumentError(f"--device is {device!r}; a number, cpu, cuda or cuda:1 was expected.")
    if backend not in (None, "auto", named):
        raise ArgumentError(f"--device is {device} and --backend {backend}; one was expected.")
    return named, int(number or "0")


def is_number(text: str) -> bool:
    """Whether the text may be a device's number; a backend says which exist."""
    return re.fullmatch("[0-9]{1,9}", text) is not None

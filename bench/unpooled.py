"""A pytest plugin for runs under compute-sanitizer: every array gets memory of its own.

Within a pool's block, an access past the end of an array lands in the next one, unnoticed.
"""

from __future__ import annotations

import importlib


def pytest_configure() -> None:
    """Take CuPy's memory from the driver, array by array."""
    importlib.import_module("cupy").cuda.set_allocator(None)

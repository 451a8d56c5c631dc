"""Read by Python as it starts, if this folder is on PYTHONPATH: makes it import the _cpu modules
from the folder PYALEXNET_SANITIZED instead of the installed ones (make sanitize)."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


class Sanitized:
    """Finds them."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith("pyalexnet._cpu"):
            return None
        return PathFinder.find_spec(name, [os.environ["PYALEXNET_SANITIZED"]])


sys.meta_path.insert(0, Sanitized)

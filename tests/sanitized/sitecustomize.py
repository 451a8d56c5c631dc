"""Read by Python as it starts, where this folder is on PYTHONPATH: the modules _cpu that lie in the
folder PYALEXNET_SANITIZED are taken, and not those that are installed (make sanitize)."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


class Sanitized:
    """Knows them."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith("pyalexnet._cpu"):
            return None
        return PathFinder.find_spec(name, [os.environ["PYALEXNET_SANITIZED"]])


sys.meta_path.insert(0, Sanitized)

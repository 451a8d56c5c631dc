"""Import a built `_cuda` and ask it for its devices; where there is no driver it has to say so.

Usage: import_cuda_module.py FOLDER, where FOLDER holds the module.
"""

from __future__ import annotations

import importlib
import sys


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    module = importlib.import_module("_cuda")
    try:
        print(f"_cuda imports and sees {module.device_count()} device(s)")
    except module.KernelError as error:
        if "driver" not in str(error) and "device" not in str(error):
            raise
        print(f"_cuda imports and says: {error}")


if __name__ == "__main__":
    main(sys.argv[1])

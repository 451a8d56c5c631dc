"""`python -m bench`."""

from __future__ import annotations

import sys

from pyalexnet.__main__ import run

if __name__ == "__main__":
    run(f"{__package__}.cli", lambda cli: sys.exit(cli.main(sys.argv[1:])))

"""The command that installs what is missing into the environment that is running."""

from __future__ import annotations

import shlex
import shutil
import sys
import sysconfig
from pathlib import Path


def pip_install(what: str) -> str:
    """`pip install what`; where another environment's pip would answer to that, this Python's."""
    pip = shutil.which("pip")
    own = pip is not None and Path(pip).parent == Path(sysconfig.get_path("scripts"))
    return f"{'pip' if own else f'{shlex.quote(sys.executable)} -m pip'} install {what}"

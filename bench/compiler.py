"""Registers, spills and shared memory of every kernel, as the CUDA compiler reports them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .results import KernelResources

_TIMEOUT = 300
# Real cards differ little in registers: one stands for all.
_ARCHITECTURE = "sm_90"
_REPORT = re.compile(
    r"Compiling entry function '(?P<kernel>\S+)'"
    r".*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")


def nvcc() -> str | None:
    """Path of the CUDA compiler; None where there is none."""
    roots = (os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))
    places = [str(Path(root, "bin")) for root in roots if root]
    wheels = sorted(Path(sysconfig.get_paths()["purelib"], "nvidia").glob("*/bin"))
    places += [*os.get_exec_path(), "/usr/local/cuda/bin", *map(str, wheels)]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def resources(kernels: Path) -> list[KernelResources]:
    """Compile every `*.cu` of a folder, and read what the compiler says of each kernel.

    Raises:
        RuntimeError: there is no compiler, or it refuses a file.
    """
    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("no nvcc was found")
    files = sorted(kernels.glob("*.cu"))
    if not files:
        raise RuntimeError(f"{kernels} has no .cu files; the sources come with a checkout only")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(lambda file: _report(compiler, file, kernels), files))
    return [one for report in reports for one in parse(report)]


def parse(report: str) -> Iterator[KernelResources]:
    """The kernels in the output of `nvcc -Xptxas -v`, under readable names."""
    found = list(_REPORT.finditer(report))
    names = _readable([match["kernel"] for match in found])
    for match, name in zip(found, names, strict=True):
        shared = _SHARED.search(match["rest"])
        spilled = int(match["stores"]) + int(match["loads"])
        yield KernelResources(
            name, int(match["registers"]), spilled, int(shared[1]) if shared else 0
        )


def _report(compiler: str, file: Path, include: Path) -> str:
    command = [compiler, "-std=c++17", f"-arch={_ARCHITECTURE}", "-Xptxas", "-v", f"-I{include}"]
    done = subprocess.run(
        [*command, "-c", str(file), "-o", os.devnull],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    if done.returncode:
        raise RuntimeError(f"nvcc refuses {file.name}: {done.stderr.strip().splitlines()[:1]}")
    return done.stderr


def _readable(names: list[str]) -> list[str]:
    """Demangled, without namespaces and argument lists."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return names
    done = subprocess.run(
        [tool], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return [_short(name) for name in done.stdout.splitlines()]


def _short(name: str) -> str:
    """`void pyalexnet::(anonymous namespace)::f<pyalexnet::T<1> >(int)` as `f<T<1>>`."""
    name = name.removeprefix("void ")
    name = re.sub(r"(\w+|\(anonymous namespace\))::", "", name).replace("> >", ">>")
    return name.partition("(")[0]

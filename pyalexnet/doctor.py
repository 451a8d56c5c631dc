"""What this machine has for pyalexnet, and the commands that install what it lacks."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet import backends, data
from pyalexnet.backends import cpu
from pyalexnet.backends.cores import usable_cores
from pyalexnet.data import download
from pyalexnet.errors import PyalexnetError, reason
from pyalexnet.install import CUDA_MODULE, pip_install

_GIGABYTE = 10**9


@dataclass(frozen=True)
class Finding:
    """One thing looked for: what was found, or what to do if it is missing."""

    subject: str
    found: bool
    detail: str
    remedy: str = ""
    essential: bool = False


def examine(runs: Path) -> Iterator[Finding]:
    """Look at everything in turn; `runs` is where runs would go."""
    python = f"{platform.python_version()} at {sys.executable}"
    remedy = "sudo apt install python3.11 python3.11-venv"
    yield Finding("Python", sys.version_info >= (3, 11), python, remedy, essential=True)
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    detail = str(header) if header.is_file() else f"{header} is missing; needed to build"
    yield Finding("Python headers", header.is_file(), detail, "sudo apt install python3-dev")
    yield _compiler()
    make = shutil.which("make")
    yield Finding("make", make is not None, make or "not found", "sudo apt install make")
    yield _nvcc()
    yield _driver()
    yield _cupy()
    yield _module()
    yield _tried("MPI", _mpi)
    yield _tried("NCCL", _nccl)
    yield _tried("instruction set", _instruction_sets)
    yield _tried("threads", _threads)
    for name in backends.names():
        yield _tried(f"backend {name}", partial(_self_test, name), essential=name == "cpu")
    again = pip_install("--force-reinstall pyalexnet")
    yield _tried("built-in data", _built_in_data, remedy=again, essential=True)
    yield _cifar10()
    drawing = importlib.util.find_spec("matplotlib") is not None
    detail = importlib.metadata.version("matplotlib") if drawing else "not installed; no pictures"
    yield Finding("matplotlib", drawing, detail, pip_install("matplotlib"))
    yield _disk(runs)


def line(finding: Finding) -> str:
    """A finding as text; the command that fixes a "no" is on a second line."""
    mark = "yes" if finding.found else "NO" if finding.essential else "no"
    text = f"{mark:<4} {finding.subject:<18} {finding.detail}"
    return text if finding.found else f"{text}\n{'':<23} fix: {finding.remedy}"


def _tried(
    subject: str, look: Callable[[], str], *, remedy: str = "", essential: bool = False
) -> Finding:
    """A finding from the result of `look`, or else from its refusal.

    remedy: if "", it is the refusal's second half, after the semicolon.
    """
    try:
        return Finding(subject, True, look(), essential=essential)
    except PyalexnetError as error:
        detail = str(error)
    if not remedy:
        lacking, _, remedy = detail.rstrip(".").rpartition("; ")
        detail = lacking or detail
    return Finding(subject, False, detail, remedy, essential)


def _compiler() -> Finding:
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if shutil.which(name):
            version = _output(name, "--version") or [name]
            return Finding("C++ compiler", True, version[0])
    return Finding("C++ compiler", False, "none found; needed to build", "sudo apt install g++")


def _nvcc() -> Finding:
    roots = filter(None, map(os.environ.get, ("CUDA_HOME", "CUDA_PATH")))
    places = [
        *(Path(root, "bin") for root in roots),
        *os.get_exec_path(),
        "/usr/local/cuda/bin",
        *sorted(Path(sysconfig.get_paths()["purelib"], "nvidia").glob("*/bin")),
    ]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(map(str, places)))
    if nvcc is None:
        remedy = "PYALEXNET_NVCC_WHEEL=1 make train"
        return Finding("CUDA toolkit", False, "no nvcc found; needed to build for a GPU", remedy)
    version = re.search(r"release ([\d.]+)", "\n".join(_output(nvcc, "--version")))
    return Finding("CUDA toolkit", True, f"{version[1] if version else 'nvcc'} at {nvcc}")


def _driver() -> Finding:
    remedy = "if this machine has an NVIDIA GPU: sudo apt install nvidia-driver"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return Finding("NVIDIA driver", False, reason(error), remedy)
    version, devices = ctypes.c_int(), ctypes.c_int()
    status = driver.cuInit(0)
    if status or driver.cuDriverGetVersion(ctypes.byref(version)):
        return Finding("NVIDIA driver", False, f"cuInit returns {status}", "nvidia-smi")
    driver.cuDeviceGetCount(ctypes.byref(devices))
    major, minor = version.value // 1000, version.value % 1000 // 10
    return Finding("NVIDIA driver", True, f"CUDA {major}.{minor}, {devices.value} GPU")


def _cupy() -> Finding:
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            return Finding("CuPy", True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    remedy = pip_install('"pyalexnet[cuda13]"   (or [cuda12], to match your nvcc)')
    return Finding("CuPy", False, "not installed; the backend cuda needs it", remedy)


def _module() -> Finding:
    """Whether the GPU's extension module exists; the backend's own finding says if it works."""
    found = importlib.util.find_spec("pyalexnet._cuda") is not None
    why = "not built: that happens if there is a GPU and nvcc is installed, or on request"
    remedy = f"{pip_install(CUDA_MODULE)}   (in a checkout, with nvcc)"
    return Finding("module _cuda", found, "built" if found else why, remedy)


def _mpi() -> str:
    """MPI as a separate process finds it, since another library than the launcher's may end it."""
    look = "from pyalexnet.ranks import launch; print(launch.library())"
    how: dict[str, Any] = {"capture_output": True, "text": True}
    how["close_fds"] = False  # MPICH's launcher speaks through one
    done = subprocess.run((sys.executable, "-c", look), check=False, **how)
    output: str = done.stderr if done.returncode else done.stdout
    said = output.strip().rpartition("\n")[2]
    if done.returncode:
        raise PyalexnetError(said.partition("RunError: ")[2] or f"{said}; mpirun --version")
    return said


def _nccl() -> str:
    if importlib.util.find_spec("cupy") is None:
        raise PyalexnetError(f"ranks with GPUs need it, and CuPy; {pip_install('cupy-cuda13x')}.")
    from pyalexnet.ranks import nccl

    return nccl.version()


def _instruction_sets() -> str:
    """The instruction set of the backend cpu, and the others that it could use."""
    taken, there = cpu.chosen_set(), cpu.instruction_sets()
    others = ", ".join(isa for isa in there if isa != taken)
    return taken + (f"; to use another, set {cpu.ISA} to one of {others}" if others else "")


def _threads() -> str:
    cores = usable_cores()
    return f"{cores.count}: {cores.why}"


def _self_test(name: str) -> str:
    """Convolve 1..9 with a 2x2 filter of ones and a bias of 1."""
    backend = backends.backend(name)
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    w, b = np.ones((1, 2, 2, 1), np.float32), np.ones(1, np.float32)
    device = (backend.asarray(array) for array in (x, w, b))
    y = backend.to_numpy(backend.conv_fprop(*device, stride=1, pad=0)).ravel().tolist()
    known = [13.0, 17.0, 25.0, 29.0]
    if y != known:
        remedy = pip_install("--force-reinstall --no-cache-dir pyalexnet")
        raise PyalexnetError(f"a convolution gave {y}, not {known}; {remedy}.")
    return "works: a test convolution is correct"


def _built_in_data() -> str:
    found = data.load(None, image_size=None)
    return f"{found.name}, {len(found.train.labels):,} + {len(found.test.labels):,} photographs"


def _cifar10() -> Finding:
    try:
        return Finding("CIFAR-10", True, str(download.fetched("cifar10")))
    except PyalexnetError:
        detail = "not downloaded; not needed for the built-in data"
        return Finding("CIFAR-10", False, detail, "pyalexnet data get cifar10")


def _disk(runs: Path) -> Finding:
    remedy = "pyalexnet train --runs FOLDER_ELSEWHERE"
    place = next(each for each in (runs.absolute(), *runs.absolute().parents) if each.exists())
    if not os.access(place, os.W_OK):
        return Finding("disk", False, f"{place} cannot be written", remedy)
    free = shutil.disk_usage(place).free
    return Finding("disk", free > _GIGABYTE, f"{free / _GIGABYTE:.1f} GB free at {place}", remedy)


def _output(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]

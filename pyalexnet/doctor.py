"""What this machine has for pyalexnet, and the commands that install what it lacks.

Also, for a run: where the image signal dies in its network.
"""

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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyalexnet import backends, data
from pyalexnet.backends import cpu
from pyalexnet.backends.cores import usable_cores
from pyalexnet.data import download
from pyalexnet.errors import ArgumentError, PyalexnetError, reason
from pyalexnet.install import CUDA_MODULE, pip_install

if TYPE_CHECKING:
    from pyalexnet.data.dataset import Progress
    from pyalexnet.trained.load import Trained
    from pyalexnet.trained.signals import Row, Verdict

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
    yield _python()
    yield _headers()
    yield _compiler()
    yield _tool("make", "sudo apt install make")
    yield _nvcc()
    yield _driver()
    yield _cupy()
    yield _module()
    yield _instruction_set()
    yield _threads()
    for name in backends.names():
        yield _backend(name)
    yield _built_in_data()
    yield _cifar10()
    yield _matplotlib()
    yield _disk(runs)


def line(finding: Finding) -> str:
    """A finding as text; the command that fixes a "no" is on a second line."""
    mark = "yes" if finding.found else "NO" if finding.essential else "no"
    text = f"{mark:<4} {finding.subject:<18} {finding.detail}"
    return text if finding.found else f"{text}\n{'':<23} fix: {finding.remedy}"


@dataclass(frozen=True)
class Diagnosis:
    """How the signal of a run's images passes through its network.

    at: "start" or "last". step: steps that the parameters were trained for.
    """

    run: str
    net: str
    at: str
    step: int
    rows: tuple[Row, ...]
    verdict: Verdict


def diagnose(
    run: str,
    at: str = "start",
    *,
    path: str | Path | None = None,
    backend: str = "auto",
    device: int = 0,
    exact: bool = False,
    runs: Path = Path("runs"),
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Where the signal of a run's training images dies in its network.

    Args:
        run: its folder, "latest" for the newest one in `runs`, or a checkpoint's folder.
        at: "start", the initial parameters, drawn again from the run's seed; "last", those of the
            last checkpoint.
        path: another data set, whose images are used instead.
        backend: a name for `pyalexnet.backend`.
        device: its number.
        exact: whether its convolutions follow the formula, even where another way is faster.
        runs: folder of the run folders.
        say: called with a sentence for each damaged checkpoint that was skipped.
        progress: called with (images read, images) while the data are read.

    Raises:
        ArgumentError: `at` is neither.
        PyalexnetError: the run, a checkpoint of it or its data cannot be read.
    """
    # Imported here, so that the doctor also works on machines that lack their requirements.
    from pyalexnet.step.net import Net
    from pyalexnet.trained.load import Trained
    from pyalexnet.trained.signals import survey, verdict

    if at not in ("start", "last"):
        raise ArgumentError(f"at is {at!r}; start or last was expected.")
    place = backends.backend(backend, device, exact=exact)
    trained = Trained.load(run, backend=place, which="last", runs=runs, say=say)
    net = trained.net
    if at == "start":
        net = Net(net.spec, net.backend, seed=trained.meta.config.get("seed", 0))
    rows = survey(net, _spread_images(trained, path, progress))
    step = 0 if at == "start" else trained.meta.step
    return Diagnosis(trained.name, net.spec.name, at, step, rows, verdict(rows))


def _spread_images(trained: Trained, path: str | Path | None, progress: Progress | None) -> object:
    """Images spread over the training set, which may be sorted by class."""
    from pyalexnet.trained.signals import IMAGES

    split = trained.dataset(path, progress).train
    indices = np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(np.int64)
    stored = np.empty((len(indices), *trained.mean.shape), np.uint8)
    split.read(indices, stored)
    return trained.look(stored)


def _python() -> Finding:
    return Finding(
        "Python",
        sys.version_info >= (3, 11),
        f"{platform.python_version()} at {sys.executable}",
        "sudo apt install python3.11 python3.11-venv",
        essential=True,
    )


def _headers() -> Finding:
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    detail = str(header) if header.is_file() else f"{header} is missing; needed to build"
    return Finding("Python headers", header.is_file(), detail, "sudo apt install python3-dev")


def _compiler() -> Finding:
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if shutil.which(name):
            version = _output(name, "--version") or [name]
            return Finding("C++ compiler", True, version[0])
    return Finding("C++ compiler", False, "none found; needed to build", "sudo apt install g++")


def _tool(name: str, remedy: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, path or "not found", remedy)


def _nvcc() -> Finding:
    places = [Path(root, "bin") for name in ("CUDA_HOME", "CUDA_PATH") if (root := _setting(name))]
    places += [Path(part) for part in os.get_exec_path()]
    places += [Path("/usr/local/cuda/bin")]
    places += sorted(Path(sysconfig.get_paths()["purelib"], "nvidia").glob("*/bin"))
    nvcc = shutil.which("nvcc", path=os.pathsep.join(map(str, places)))
    if nvcc is None:
        remedy = "PYALEXNET_NVCC_WHEEL=1 make train"
        return Finding("CUDA toolkit", False, "no nvcc found; needed to build for a GPU", remedy)
    version = re.search(r"release ([\d.]+)", "\n".join(_output(nvcc, "--version")))
    return Finding("CUDA toolkit", True, f"{version[1] if version else 'nvcc'} at {nvcc}")


def _driver() -> Finding:
    remedy = "with an NVIDIA GPU in this machine: sudo apt install nvidia-driver"
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
    remedy = pip_install('"pyalexnet[cuda13]"   (or [cuda12], like your nvcc)')
    return Finding("CuPy", False, "not installed; the backend cuda needs it", remedy)


def _module() -> Finding:
    """On the module of kernels compiled for a GPU; the backend's own finding says if it works."""
    found = importlib.util.find_spec("pyalexnet._cuda") is not None
    detail = "built" if found else "not built: it is where there were a GPU and nvcc, or on request"
    remedy = f"{pip_install(CUDA_MODULE)}   (in a checkout, with nvcc)"
    return Finding("module _cuda", found, detail, remedy)


def _instruction_set() -> Finding:
    """On the instruction set of the backend cpu, and the others that it could use."""
    try:
        taken, there = cpu.chosen_set(), cpu.instruction_sets()
    except PyalexnetError as error:
        return _refused("instruction set", error)
    others = ", ".join(isa for isa in there if isa != taken)
    instead = f"; {cpu.ISA} can name {others} instead" if others else ""
    return Finding("instruction set", True, taken + instead)


def _threads() -> Finding:
    """On the threads of the backend cpu."""
    try:
        cores = usable_cores()
    except PyalexnetError as error:
        return _refused("threads", error)
    return Finding("threads", True, f"{cores.count}: {cores.why}")


def _refused(subject: str, error: PyalexnetError, *, essential: bool = False) -> Finding:
    """A finding from an error's sentence of two halves: what is missing, and what to do."""
    reason, _, remedy = str(error).rstrip(".").rpartition("; ")
    return Finding(subject, False, reason or str(error), remedy, essential)


def _backend(name: str) -> Finding:
    subject = f"backend {name}"
    essential = name == "cpu"
    try:
        wrong = _self_test(name)
    except PyalexnetError as error:
        return _refused(subject, error, essential=essential)
    if wrong:
        remedy = pip_install("--force-reinstall --no-cache-dir pyalexnet")
        return Finding(subject, False, wrong, remedy, essential)
    return Finding(subject, True, "works: a convolution gave the known values", "", essential)


def _self_test(name: str) -> str:
    """Convolve 1..9 with a 2x2 filter of ones and a bias of 1; say what is wrong with it."""
    backend = backends.backend(name)
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    w, b = np.ones((1, 2, 2, 1), np.float32), np.ones(1, np.float32)
    device = (backend.asarray(array) for array in (x, w, b))
    y = backend.to_numpy(backend.conv_fprop(*device, stride=1, pad=0)).ravel().tolist()
    known = [13.0, 17.0, 25.0, 29.0]
    return "" if y == known else f"a convolution gave {y}, not {known}"


def _built_in_data() -> Finding:
    try:
        found = data.load(None, image_size=None)
    except PyalexnetError as error:
        remedy = pip_install("--force-reinstall pyalexnet")
        return Finding("built-in data", False, str(error), remedy, essential=True)
    counts = f"{len(found.train.labels):,} + {len(found.test.labels):,} photographs"
    return Finding("built-in data", True, f"{found.name}, {counts}", essential=True)


def _cifar10() -> Finding:
    try:
        return Finding("CIFAR-10", True, str(download.fetched("cifar10")))
    except PyalexnetError:
        remedy = "pyalexnet data get cifar10"
        return Finding("CIFAR-10", False, "not fetched; not needed for the built-in data", remedy)


def _matplotlib() -> Finding:
    if importlib.util.find_spec("matplotlib") is None:
        remedy = pip_install("matplotlib")
        return Finding("matplotlib", False, "not installed; no pictures", remedy)
    return Finding("matplotlib", True, importlib.metadata.version("matplotlib"))


def _disk(runs: Path) -> Finding:
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{free / _GIGABYTE:.1f} GB free at {place}"
    if not os.access(place, os.W_OK):
        detail = f"{place} cannot be written"
    good = free > _GIGABYTE and os.access(place, os.W_OK)
    return Finding("disk", good, detail, "pyalexnet train --runs FOLDER_ELSEWHERE")


def _setting(name: str) -> str | None:
    return os.environ.get(name) or None


def _output(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]

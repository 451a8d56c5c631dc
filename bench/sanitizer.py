"""compute-sanitizer over the kernels' tests, once a planted mistake has shown that it looks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import compiler

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")

_ROOT = Path(__file__).resolve().parent.parent
# What compute-sanitizer exits with where it found something; nothing else here does.
_FOUND = 86
_PLANTED_TIMEOUT = 60
_COMPILE_TIMEOUT = 120
_LINES = 40
# Tests of single kernels at odd sizes; whole networks and large maps would take minutes each.
_TESTS = (
    "activation",
    "augment",
    "conv",
    "depth",
    "dropout",
    "linear",
    "lrn",
    "pool",
    "rnorm",
    "sgd_rule",
    "softmax",
)


@dataclass(frozen=True)
class Finding:
    """What came of one tool, in a word.

    clean, found: it saw all tests through. failed: a test failed, or none ran. blind: it did not
    find the mistake planted for it. late: it took longer than it was given. missing: not here.
    """

    tool: str
    state: str
    text: str

    @property
    def wrong(self) -> bool:
        """Whether the kernels, or the tool, have a fault; too little time is none of either."""
        return self.state in ("found", "failed", "blind")


def findings(tests: Path, seconds: float, build: Path) -> Iterator[Finding]:
    """Run every tool over the kernels' tests on the GPU, each for at most `seconds`.

    tests: folder of the tests. build: folder for the planted program.
    """
    program = shutil.which("compute-sanitizer", path=_places())
    planted = planted_program(build)
    for tool in TOOLS:
        if program is None:
            yield Finding(tool, "missing", "compute-sanitizer is not installed")
        elif isinstance(planted, str):
            yield Finding(tool, "missing", planted)
        else:
            yield _finding(program, tool, planted, tests, seconds)


def planted_program(build: Path) -> Path | str:
    """Compile the planted mistakes into a folder; a sentence where that is not possible."""
    nvcc = compiler.nvcc()
    if nvcc is None:
        return "the planted mistakes cannot be compiled: no nvcc was found"
    build.mkdir(parents=True, exist_ok=True)
    program = build / "planted"
    source = Path(__file__).with_name("planted.cu")
    done = subprocess.run(
        [nvcc, "-lineinfo", "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        timeout=_COMPILE_TIMEOUT,
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        return f"the planted mistakes cannot be compiled: {lines[0] if lines else nvcc}"
    return program


def judged(tool: str, code: int | None, text: str) -> Finding:
    """A run's exit code as a finding; None where it was stopped."""
    tail = "\n".join(text.strip().splitlines()[-_LINES:])
    if code is None:
        return Finding(tool, "late", tail)
    if code == 0:
        return Finding(tool, "clean", tail)
    return Finding(tool, "found" if code == _FOUND else "failed", tail)


def _finding(program: str, tool: str, planted: Path, tests: Path, seconds: float) -> Finding:
    code, text = _run(command(program, tool, [str(planted), tool]), _PLANTED_TIMEOUT)
    if code != _FOUND:
        return Finding(tool, "blind", f"it did not find its planted mistake (exit {code})\n{text}")
    return judged(tool, *_run(command(program, tool, kernel_tests(tests)), seconds))


def command(program: str, tool: str, inner: Sequence[str]) -> list[str]:
    """compute-sanitizer's command line around another."""
    rules = ["--error-exitcode", str(_FOUND), "--target-processes", "all", "--print-limit", "20"]
    return [program, "--tool", tool, *rules, *inner]


def kernel_tests(tests: Path) -> list[str]:
    """The command that runs the kernels' tests on the GPU alone."""
    files = [str(tests / f"test_{name}.py") for name in _TESTS]
    chosen = ["-m", "gpu and not big and not slow", "-q", "-x", "--timeout", "0"]
    plugins = ["-p", "no:cacheprovider", "-p", "bench.unpooled"]
    return [sys.executable, "-m", "pytest", *plugins, *chosen, *files]


def _run(arguments: list[str], seconds: float) -> tuple[int | None, str]:
    """Exit code and output; no code where the time ran out."""
    try:
        done = subprocess.run(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            cwd=_ROOT,
        )
    except subprocess.TimeoutExpired as error:
        return None, _text(error.stdout)
    return done.returncode, done.stdout


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _places() -> str:
    """Folders that compute-sanitizer may lie in: PATH, and the toolkit beside nvcc."""
    nvcc = compiler.nvcc()
    beside = [str(Path(nvcc).resolve().parent)] if nvcc else []
    return os.pathsep.join([*os.get_exec_path(), *beside, "/usr/local/cuda/bin"])

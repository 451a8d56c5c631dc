"""compute-sanitizer over the kernels, once a planted mistake has shown that it works.

It runs on subjects: families of kernels (bench/families.py), and test files with odd sizes. Every
run is separate, with a time limit, and ends together with everything that it started.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from . import compiler, process
from .process import Ended, Job

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")

_ROOT = Path(__file__).resolve().parent.parent
# compute-sanitizer's exit code when it found something; nothing else here uses it.
_FOUND = 86
_PLANTED_TIMEOUT = 60.0
_LINES = 40
_AT_ONCE = 3
# Tests of single kernels at odd sizes, the newest first; whole networks and large maps would take
# minutes each.
_TESTS = (
    "hopper_loop",
    "patch_dgrad",
    "lrn_pool",
    "exchange",
    "plan",
    "linear",
    "conv",
    "pool",
    "lrn",
    "rnorm",
    "softmax",
    "sgd_rule",
    "depth",
    "augment",
    "activation",
    "dropout",
)


@dataclass(frozen=True)
class Subject:
    """A subject for a tool: its name, and the command that runs it."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """The result of one tool on one subject, in a word.

    clean, found: it ran to the end. failed: the subject's own checks failed, or none ran. blind: it
    did not find the mistake planted for it. late: it overran its time. left out: no time was left.
    missing: it is not installed.
    """

    tool: str
    subject: str
    state: str
    text: str

    @property
    def wrong(self) -> bool:
        """Whether the kernels, or the tool, are at fault; lack of time is no fault."""
        return self.state in ("found", "failed", "blind")

    def __str__(self) -> str:
        return f"compute-sanitizer {self.tool}, {self.subject}: {self.state}"


def families(names: Sequence[str]) -> list[Subject]:
    """Families of kernels, every array in memory of its own."""
    own = (sys.executable, "-m", "bench.families", "--unpooled")
    return [Subject(name, (*own, name)) for name in names]


def files(tests: Path) -> list[Subject]:
    """Files of the kernels' tests, on the GPU alone."""
    chosen = ("-m", "gpu and not big and not slow", "-q", "-x", "--timeout", "0")
    plugins = ("-p", "no:cacheprovider", "-p", "bench.unpooled")
    pytest = (sys.executable, "-m", "pytest", *plugins, *chosen)
    return [Subject(f"test_{name}", (*pytest, str(tests / f"test_{name}.py"))) for name in _TESTS]


def findings(
    runs: Sequence[tuple[str, Subject]],
    seconds: float,
    logs: Path,
    build: Path,
    environment: Mapping[str, str] | None = None,
) -> Generator[Finding, None, None]:
    """Run tools on subjects, in this order and several at a time, all within `seconds`.

    runs: tools with their subjects. logs: folder for their output. build: for the planted program.
    environment: the subjects', as for `process.run`.
    """
    end = process.now() + seconds
    program = shutil.which("compute-sanitizer", path=_places())
    planted = planted_program(build, seconds)
    if program is None or isinstance(planted, str):
        why = planted if isinstance(planted, str) else "compute-sanitizer is not installed"
        yield from (Finding(tool, subject.name, "missing", why) for tool, subject in runs)
        return
    tools = dict.fromkeys(tool for tool, _ in runs)
    mistakes = [
        Job(tool, command(program, tool, (str(planted), tool)), _PLANTED_TIMEOUT, build / tool)
        for tool in tools
    ]
    unproven = []
    with closing(process.run(mistakes, _ROOT, end - process.now(), len(mistakes))) as running:
        for ended in running:
            if ended.code != _FOUND:
                unproven.append(ended.job.name)
                text = f"{ended.said()}\nit did not find it (exit {ended.code})"
                state = "late" if ended.code is None else "blind"
                yield Finding(ended.job.name, "its planted mistake", state, text)
    seeing = [(tool, subject) for tool, subject in runs if tool not in unproven]
    left = end - process.now()
    jobs = [
        Job(
            f"{tool} {subject.name}",
            command(program, tool, subject.command),
            left / 2,  # so that the longest leaves time for the others
            logs / f"sanitizer-{tool}-{subject.name}.txt",
        )
        for tool, subject in seeing
    ]
    subjects = dict(zip((job.name for job in jobs), seeing, strict=True))
    with closing(process.run(jobs, _ROOT, left, _AT_ONCE, environment)) as running:
        for ended in running:
            tool, subject = subjects[ended.job.name]
            yield judged(tool, subject.name, ended)


def planted_program(build: Path, seconds: float) -> Path | str:
    """Compile the planted mistakes into a folder; a sentence if that is not possible."""
    nvcc = compiler.nvcc()
    if nvcc is None:
        return "the planted mistakes cannot be compiled: no nvcc was found"
    program, source = build / "planted", Path(__file__).with_name("planted.cu")
    compiled = (nvcc, "-lineinfo", "-o", str(program), str(source))
    job = Job("nvcc", compiled, seconds, build / "nvcc.txt")
    (ended,) = process.run([job], _ROOT, seconds)
    if ended.code != 0:
        lines = ended.said().strip().splitlines()
        return f"the planted mistakes cannot be compiled: {lines[0] if lines else nvcc}"
    return program


def judged(tool: str, subject: str, ended: Ended) -> Finding:
    """The finding for a run that ended."""
    if not ended.begun:
        return Finding(tool, subject, "left out", "")
    tail = "\n".join(ended.said().strip().splitlines()[-_LINES:])
    if ended.code is None:
        return Finding(tool, subject, "late", tail)
    if ended.code == 0:
        return Finding(tool, subject, "clean", tail)
    return Finding(tool, subject, "found" if ended.code == _FOUND else "failed", tail)


def command(program: str, tool: str, inner: Sequence[str]) -> tuple[str, ...]:
    """compute-sanitizer's command line for another."""
    rules = ("--error-exitcode", str(_FOUND), "--target-processes", "all", "--print-limit", "20")
    return (program, "--tool", tool, *rules, *inner)


def _places() -> str:
    """Folders that compute-sanitizer may be in: PATH, and the toolkit that nvcc is in."""
    nvcc = compiler.nvcc()
    beside = [str(Path(nvcc).resolve().parent)] if nvcc else []
    return os.pathsep.join([*os.get_exec_path(), *beside, "/usr/local/cuda/bin"])

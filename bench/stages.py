"""The stages of `make gpu` as data, the most informative first, and how each is judged.

Each is a program, or several, in process groups of their own with a limit: a program that hangs or
overruns ends only its own stage. Their output goes into the record's folder `logs` as it comes, and
their findings into the record.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from . import families, process, record, sanitizer
from .environment import cores
from .process import Ended, Job
from .results import Check, StageRow, StepRow, compared, label

_ROOT = Path(__file__).resolve().parent.parent
_LEAST = 8.0
_CARD_SECONDS = 60.0
_FAMILIES_AT_ONCE = 4
_TEST_PROCESSES = 6
# Time limit of a single test: a share of its stage's time, within bounds.
_TEST_SHARE, _TEST_LEAST, _TEST_MOST = 0.3, 20.0, 300.0
_MISSING = {"torch": "PyTorch", "jax": "JAX"}
# For the programs of every stage: unbuffered output, a traceback on a crash, and JAX leaves memory
# to others.
_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "PYALEXNET_TEST_BACKENDS": "cuda",
}


@dataclass(frozen=True)
class Session:
    """Where stages work: the record's folder, one for compiled files, and the kind of card."""

    where: Path
    build: Path
    hopper: bool

    def log(self, name: str) -> Path:
        """The file for a program's output."""
        return self.where / "logs" / f"{name.replace(' ', '-')}.txt"


@dataclass
class Verdict:
    """The outcome of a stage, in sentences: what is wrong, left out, and to be reported.

    stopped: whether one of its programs ran out of time.
    """

    wrong: list[str] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)
    told: list[str] = dataclasses.field(default_factory=list)
    stopped: bool = False

    def stop(self, name: str, ended: Ended) -> None:
        """Note that a program ran out of time."""
        self.stopped = True
        self.left_out.append(f"{name}: stopped after {ended.seconds:.0f} s{_last(ended)}.")


@dataclass(frozen=True)
class Stage(ABC):
    """share: of the whole time, at most. needs: libraries that it cannot do without."""

    name: str
    share: float
    needs: tuple[str, ...] = ()

    @abstractmethod
    def run(self, session: Session, seconds: float, found: Verdict) -> None:
        """Run it within `seconds`; findings go into `found` as they come."""

    def limit(self, total: float, left: float) -> float:
        """Its seconds: its share of the total, or what is left if less; 0 if that is too little."""
        seconds = min(max(self.share * total, _LEAST), left)
        return seconds if seconds >= _LEAST else 0.0

    def lacks(self) -> str | None:
        """Why it cannot be done here, in a sentence."""
        for name in self.needs:
            if not installed(name):
                return f"{self.name}: {_MISSING[name]} is not installed."
        return None


class Families(Stage):
    """Every family of kernels once against float64."""

    def run(self, session: Session, seconds: float, found: Verdict) -> None:
        chosen = [one.name for one in families.families() if one.runs_on(session.hopper)]
        own = (sys.executable, "-m", "bench.families")
        jobs = [Job(one, (*own, one), seconds / 2, session.log(f"family {one}")) for one in chosen]
        at_once = min(_FAMILIES_AT_ONCE, cores())
        with closing(process.run(jobs, _ROOT, seconds, at_once, _ENVIRONMENT)) as running:
            for ended in running:
                checks = _checks(ended)
                with record.edited(session.where) as results:
                    results.checks += checks
                explained = any(check.wrong for check in checks)
                _judge(f"family {ended.job.name}", ended, explained, found)


class Part(Stage):
    """The part of the bench's suite for a GPU that has the stage's name."""

    def run(self, session: Session, seconds: float, found: Verdict) -> None:
        before = record.read(session.where)
        own = ("-m", "bench", "--gpu", "--part", self.name, "--into", str(session.where))
        job = Job(self.name, (sys.executable, *own), seconds, session.log(self.name))
        (ended,) = process.run([job], _ROOT, seconds, environment=_ENVIRONMENT)
        if ended.code is None:
            found.stop(self.name, ended)
        after = record.read(session.where)
        if ended.code == 0 or (ended.code == 1 and len(after.failures) > len(before.failures)):
            pass  # the record's rows say what is wrong
        elif ended.code is not None:
            found.wrong.append(f"{self.name} ended with exit code {ended.code}{_last(ended)}.")
        found.told = [_told(row) for row in after.steps[len(before.steps) :]]


@dataclass(frozen=True)
class Tests(Stage):
    """Tests marked gpu: in some files, or in all others. A test that hangs ends its worker."""

    files: tuple[str, ...] = ()
    others: bool = False
    marked: str = "gpu and not slow"

    def run(self, session: Session, seconds: float, found: Verdict) -> None:
        own, log = self.command(_ROOT / "tests", seconds), session.log(self.name)
        job = Job(self.name, own, seconds, log)
        threads = str(max(1, cores() // _TEST_PROCESSES))
        limits = ("PYALEXNET_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
        each = {**_ENVIRONMENT, **dict.fromkeys(limits, threads)}
        (ended,) = process.run([job], _ROOT, seconds, environment=each)
        text = ended.said()
        if ended.code is None:
            found.stop(self.name, ended)
            if re.search(r"^(FAILED|ERROR) ", text, re.MULTILINE):
                found.wrong.append(f"{self.name}: tests failed before they were stopped.")
        elif reason := why_tests_failed(self.name, ended.code, text):
            found.wrong.append(reason)
        found.told = text.strip().splitlines()[-1:]

    def command(self, tests: Path, seconds: float) -> tuple[str, ...]:
        """pytest's command line."""
        paths = [str(tests / f"test_{name}.py") for name in self.files]
        chosen = [str(tests), *(f"--ignore={path}" for path in paths)] if self.others else paths
        limit = min(max(_TEST_SHARE * seconds, _TEST_LEAST), _TEST_MOST)
        rules = ("--timeout", f"{limit:.0f}", "--timeout-method", "thread", "-n")
        quiet = ("-q", "--no-header", "--tb", "short", "--durations", "10")
        plugins = ("-p", "no:cacheprovider", "-p", "bench.failures")
        processes = str(min(_TEST_PROCESSES, cores()))
        return (
            *(sys.executable, "-m", "pytest", "-m", self.marked, *quiet, *plugins),
            *(*rules, processes, "--dist", "worksteal", *chosen),  # across files
        )


@dataclass(frozen=True)
class Sanitized(Stage):
    """compute-sanitizer on the families of kernels, or on the tests' files."""

    on_files: bool = False

    def run(self, session: Session, seconds: float, found: Verdict) -> None:
        logs = session.where / "logs"
        late: dict[str, list[str]] = {}
        runs = self.runs(session.hopper)
        looking = sanitizer.findings(runs, seconds, logs, session.build, _ENVIRONMENT)
        with closing(looking):
            for one in looking:
                if one.wrong:
                    last = one.text.strip().splitlines()[-1:] or [""]
                    found.wrong.append(f"{one} ({last[0].strip()}).")
                elif one.state == "clean":
                    found.told.append(str(one))
                else:
                    why = one.text if one.state == "missing" else one.state
                    late.setdefault(f"{one.tool}, {why}", []).append(one.subject)
        found.left_out = [f"{self.name}, {why}: {', '.join(names)}." for why, names in late.items()]

    def runs(self, hopper: bool) -> list[tuple[str, sanitizer.Subject]]:
        """Tools with their subjects: first accesses out of bounds, then races."""
        if self.on_files:
            return [*itertools.product(sanitizer.TOOLS, sanitizer.files(_ROOT / "tests"))]
        chosen = [one.name for one in families.families() if one.runs_on(hopper)]
        every = [*itertools.product(sanitizer.TOOLS, sanitizer.families(chosen))]
        return sorted(every, key=lambda run: (run[0], run[1].name) not in _FIRST)


# Sanitizer runs that come first: a family for each kind of memory, with the tools for it.
_FIRST = (
    *itertools.product(("memcheck",), ("mma", "wgmma-fprop", "plain")),
    *itertools.product(("racecheck",), ("mma", "plain")),
    ("synccheck", "wgmma-fprop"),
)

_LOOPS = ("hopper_loop", "plan", "patch_dgrad", "sgd")
_PRODUCTS = ("conv", "linear", "grouped_linear")

STAGES: tuple[Stage, ...] = (
    Families("families", 0.18),
    Part("kernels", 0.13, ("torch",)),
    Part("bf16", 0.19),
    Tests("tests of loops", 0.09, files=_LOOPS),
    Tests("tests of products", 0.12, files=_PRODUCTS),
    Tests("other tests", 0.12, files=(*_LOOPS, *_PRODUCTS), others=True),
    Sanitized("sanitizer", 0.14),
    Part("fp32", 0.2),
    Part("compile", 0.37, ("torch",)),
    Part("jax", 0.2, ("jax",)),
    Part("operations", 0.3),
    Part("steps", 0.5),
    Sanitized("sanitizer on tests", 0.3, on_files=True),
    Tests("slow tests", 0.2, others=True, marked="gpu and slow"),
    Part("ceilings", 0.1),
    Part("loader", 0.1),
    Part("large operations", 0.3),
    Part("compiled steps", 1.0, ("torch",)),
    Part("compiler", 0.2),
)
"""All stages. The shares are limits, not a plan: nine minutes are enough up to about fp32, two
hours for all but the last."""


def done(stage: Stage, session: Session, total: float, left: float) -> tuple[StageRow, list[str]]:
    """Do a stage, or leave it out; its row, and what there is to report.

    From the start of the stage until its end, the record says that the run was stopped in it.
    """
    limit = stage.limit(total, left)
    why = stage.lacks() or (None if limit else f"{stage.name}: no time was left.")
    if why:
        return StageRow(stage.name, "left out", left_out=(why,)), []
    stopped = (f"{stage.name}: the run was stopped in it.",)
    keep(session, StageRow(stage.name, "stopped", 0.0, limit, left_out=stopped))
    begun = process.now()
    found = Verdict()
    try:
        stage.run(session, limit, found)
    except Exception as error:  # in this program, not in the stage's: go on
        found.wrong.append(f"{stage.name} cannot be judged: {type(error).__name__}: {error}.")
    except KeyboardInterrupt:
        seconds, left_out = process.now() - begun, (*stopped, *found.left_out)
        row = StageRow(stage.name, "stopped", seconds, limit, tuple(found.wrong), left_out)
        keep(session, row)
        raise
    state = "stopped" if found.stopped else "done"
    row = StageRow(
        *(stage.name, state, process.now() - begun, limit),
        *(tuple(found.wrong), tuple(found.left_out)),
    )
    return row, found.told


def keep(session: Session, row: StageRow) -> None:
    """Put a stage's row into the record."""
    with record.edited(session.where) as results:
        results.stages = [row if one.name == row.name else one for one in results.stages]


@dataclass(frozen=True)
class DetectedCard:
    """The card, and the software that the cuda backend runs on."""

    name: str
    hopper: bool
    versions: dict[str, str]


def card(build: Path) -> DetectedCard | str:
    """The card that `bench.families` finds; else why cuda cannot run, as the end of a line."""
    job = Job("import", (sys.executable, "-m", "bench.families"), _CARD_SECONDS, build / "card.txt")
    (ended,) = process.run([job], _ROOT, _CARD_SECONDS, environment=_ENVIRONMENT)
    text = ended.said().strip()
    if ended.code == 0:
        return DetectedCard(**json.loads(text.splitlines()[-1]))
    if ended.code is None:
        return f"the cuda backend did not answer in {ended.seconds:.0f} s{_last(ended)}."
    return (text.splitlines() or ["the cuda backend says nothing."])[-1].removeprefix("error: ")


def missing() -> Iterator[str]:
    """The libraries to be compared with that are not installed."""
    return (name for name in _MISSING if not installed(name))


def installed(name: str) -> bool:
    """Whether a library can be imported, without importing it."""
    return importlib.util.find_spec(name) is not None


def why_tests_failed(name: str, code: int, text: str) -> str | None:
    """A sentence if tests failed, or none ran; None if all is well."""
    if code not in (0, 5):
        return f"{name} failed (pytest's exit code is {code})."
    if not re.search(r"\b[1-9]\d* passed", text):
        return f"{name}: none ran."
    return None


def _judge(name: str, ended: Ended, explained: bool, found: Verdict) -> None:
    """Findings from a family's exit code besides its checks: a wrong check explains code 1, with
    which any crashed program ends, too.
    """
    if not ended.begun:
        found.left_out.append(f"{name}: no time was left.")
    elif ended.overran:
        found.wrong.append(f"{name} did not end in {ended.seconds:.0f} s{_last(ended)}.")
    elif ended.code is None:
        found.stop(name, ended)
    elif ended.code != 0 and not (ended.code == 1 and explained):
        found.wrong.append(f"{name} ended with exit code {ended.code}{_last(ended)}.")


def _checks(ended: Ended) -> list[Check]:
    lines = [line for line in ended.said().splitlines() if line.startswith("{")]
    found = []
    for line in lines:
        try:
            found.append(Check(**json.loads(line)))
        except (ValueError, TypeError):  # its process was ended in the middle of a line
            continue
    return found


def _last(ended: Ended) -> str:
    """The last line of its output, as the end of a sentence."""
    lines = [line.strip() for line in ended.said().splitlines() if line.strip()]
    return f"; its last words: {lines[-1][:200].rstrip('.')}" if lines else ""


def _told(row: StepRow) -> str:
    time = f"{row.ours.median * 1e3:.3f} ms, {compared(row)}" if row.ours else "FAILED"
    return f"{label(row)}: {time}"

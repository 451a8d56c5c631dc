"""`python -m bench.gpu`: kernels, tests, sanitizer and bench on a GPU, kept as one record.

Stages run in order, the most informative first (bench/stages.py), within --minutes in all, counted
from the start of `make`. The record is written along the way, however they end; it lists what was
left out, which is printed last.

Exit codes: 0 all well, though perhaps not all done; 1 a test failed, the sanitizer found something,
an answer was wrong or a program hung or crashed; 2 no GPU can be used here, or packages are missing
(nothing is recorded then); 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyalexnet.install import pip_install, why_incomplete

from . import cards, environment, process, record, stages, suites
from .results import Results, StageRow

_ROOT = Path(__file__).resolve().parent.parent
_MINUTES = 120.0
# The part of the stages' time that is kept for the end.
_CLOSING = 3.0


def main(arguments: Sequence[str]) -> int:
    """Check the GPU's module and time it; the record is written whatever the checks say."""
    options = parser().parse_args(arguments)
    begun = process.now() - max(0.0, time.time() - options.begun)
    if reason := why_incomplete("test"):
        return _refused(reason)
    session = None
    try:
        with TemporaryDirectory() as build, _interruptible():
            card = stages.card(Path(build))
            if isinstance(card, str):
                return _refused(card)
            session = _begun(options, card, Path(build))
            _run(session, 60 * options.minutes, begun)
    except KeyboardInterrupt:
        _say("interrupted")
        if session is not None:
            _closed(session)
        return 130
    return 1 if _closed(session) else 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    made.add_argument(
        "--minutes", type=_minutes, default=_MINUTES, help=f"for all of it ({_MINUTES:g})"
    )
    made.add_argument(
        "--begun", type=float, default=math.inf, help="when, in seconds since 1970 (now)"
    )
    made.add_argument("--record", type=Path, default=_ROOT / "bench" / "records")
    return made


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} came; a number above 0 was expected.")
    return minutes


def _begun(options: argparse.Namespace, card: stages.DetectedCard, build: Path) -> stages.Session:
    """Begin a record in which nothing has been done."""
    about = {**environment.describe(card.versions), "device": card.name}
    about |= {"Hopper's main loop": "in use" if card.hopper else "this card has none"}
    about |= environment.clocks("before")
    results = Results("GPU", f"make gpu MINUTES={options.minutes:g}", about)
    suites.compute(cards.get(cards.names()[0]), results)
    results.missing = dict.fromkeys(stages.missing(), "not installed")
    results.stages = [
        StageRow(one.name, "left out", left_out=(f"{one.name}: the run ended before it.",))
        for one in stages.STAGES
    ]
    if results.missing:
        for sentence in results.left_out[: len(results.missing)]:
            _say(f"{sentence} {pip_install('.[gpu-peers]')}")
    where = record.fresh(options.record, about["date"], card.name)
    record.write(where, results)
    _say(f"{card.name}: at most {options.minutes:g} minutes; the record is {where}")
    return stages.Session(where, build, card.hopper)


def _run(session: stages.Session, total: float, begun: float) -> None:
    for stage in stages.STAGES:
        left = total - _CLOSING - (process.now() - begun)
        row, told = stages.done(stage, session, total, left)
        stages.keep(session, row)
        for sentence in (*told, *(f"wrong: {one}" for one in row.wrong)):
            _say(f"  {sentence}")
        if row.state != "left out":
            rest = max(0.0, total - (process.now() - begun))
            _say(f"{row.name}: {row.state} in {row.seconds:.0f} s; {rest:.0f} s are left")


def _closed(session: stages.Session) -> list[str]:
    """End the record, and return what is wrong. What was left out is printed last."""
    with record.edited(session.where) as results:
        results.environment |= environment.clocks("after")
    for failure in results.failures:
        _say(f"wrong: {failure}")
    for sentence in results.left_out:
        _say(f"left out: {sentence}")
    _say(f"the record is {session.where}")
    return results.failures


def _refused(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 2


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(one, interrupt) for one in signals]
    try:
        yield
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

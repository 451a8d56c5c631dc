"""`python -m bench.gpu`: tests, sanitizer and bench on a GPU, kept as one record.

Exit codes: 0 all well, 1 a test failed, the sanitizer found something or an answer was wrong, 2 no
GPU can be used here (nothing is recorded then).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyalexnet.backends import why_unavailable

from . import cli, sanitizer

_ROOT = Path(__file__).resolve().parent.parent
_TESTS_TIMEOUT = 1800
# Seconds of each of the sanitizer's four tools.
_QUICK, _LONG = 40.0, 600.0


@dataclass(frozen=True)
class Tests:
    """What pytest and the sanitizer said; `wrong` are sentences."""

    text: str
    wrong: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Check the GPU's module, then time it; the record is written whatever the checks say."""
    options = parser().parse_args(arguments)
    if reason := why_unavailable("cuda"):
        print(f"error: {reason}", file=sys.stderr)
        return 2
    tests = checked(_ROOT / "tests", _QUICK if options.quick else _LONG)
    for sentence in tests.wrong:
        print(f"wrong: {sentence}", file=sys.stderr)
    passed_on = ["--gpu", "--record", str(options.record), *(["--quick"] if options.quick else [])]
    command = "make gpu QUICK=1" if options.quick else "make gpu"
    results = cli.bench(cli.parser().parse_args(passed_on), command, tests.text)
    for failure in results.failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if tests.wrong or results.failures else 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    made.add_argument("--quick", action="store_true", help="all within eight minutes")
    made.add_argument("--record", type=Path, default=_ROOT / "bench" / "records")
    return made


def checked(tests: Path, seconds: float) -> Tests:
    """Run the tests marked gpu, and the sanitizer for at most `seconds` a tool."""
    code, text = gpu_tests(tests)
    parts, wrong = [f"$ pytest -m gpu\n{text}"], []
    if reason := why_tests_failed(code, text):
        wrong.append(reason)
    with tempfile.TemporaryDirectory() as build:
        for finding in sanitizer.findings(tests, seconds, Path(build)):
            parts.append(
                f"$ compute-sanitizer --tool {finding.tool}: {finding.state}\n{finding.text}"
            )
            print(f"compute-sanitizer {finding.tool}: {finding.state}", file=sys.stderr)
            if finding.wrong:
                wrong.append(f"compute-sanitizer {finding.tool}: {finding.state}.")
    return Tests("\n\n".join(parts) + "\n", tuple(wrong))


def gpu_tests(tests: Path) -> tuple[int, str]:
    """Exit code and output of the tests marked gpu."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--durations=10", str(tests)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TESTS_TIMEOUT,
        cwd=tests.parent,
    )
    return done.returncode, done.stdout


def why_tests_failed(code: int, text: str) -> str | None:
    """A sentence where the tests failed, or where none ran; None where all is well."""
    if code:
        return f"pytest -m gpu failed (exit {code})."
    if not re.search(r"\b[1-9]\d* passed", text):
        return "pytest -m gpu ran no test."
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

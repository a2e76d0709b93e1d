"""GET /live: who watches is told, is bounded, and is let go."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest

from stream_rnn.http import live
from stream_rnn.http.bounded import Bounds
from stream_rnn.http.live import MAX_WATCHERS, live_stream
from stream_rnn.http.server import HttpServer
from stream_rnn.runtime.feed import Feed

QUICK = Bounds(poll_s=0.01, patience_s=1.0)  # who does not read is dropped soon
PATIENT = Bounds(poll_s=0.01, patience_s=60.0)
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy


@pytest.fixture
def feed() -> Feed:
    return Feed(lambda: {"task": "a test"})


@pytest.fixture
def server(feed: Feed) -> Iterator[HttpServer]:
    routes = live_stream(feed, lambda: ["too far behind"])
    with HttpServer("127.0.0.1:0", routes, bounds=PATIENT) as server:
        yield server


def wait_for(n: int, feed: Feed) -> None:
    until = time.monotonic() + PATIENCE_S
    while feed.watchers != n:
        assert time.monotonic() < until, f"{feed.watchers} watchers, not {n}"
        time.sleep(0.005)


def tell_until_nobody_watches(feed: Feed) -> None:
    """The first frame goes into a socket that is closed, one after it is refused."""
    until = time.monotonic() + PATIENCE_S
    while feed.watchers:
        assert time.monotonic() < until, f"{feed.watchers} watchers"
        feed.put(b"{}")
        time.sleep(0.05)


class Watcher:
    """A client that reads event by event."""

    def __init__(self, server: HttpServer) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        self.connection.request("GET", "/live")
        self.answer = self.connection.getresponse()

    def next(self) -> tuple[str, object]:
        lines: list[str] = []
        while line := self.answer.readline().decode().rstrip("\n"):
            lines.append(line)
        said = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
        return said["event"], json.loads(said["data"])

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.fixture
def watch(server: HttpServer) -> Iterator[Watcher]:
    with contextlib.closing(Watcher(server)) as watcher:
        yield watcher


def test_a_watcher_is_told_what_it_watches_first_and_then_each_frame(
    feed: Feed, watch: Watcher
) -> None:
    assert watch.answer.headers["Content-Type"] == "text/event-stream"
    assert watch.next() == ("about", {"task": "a test"})
    for n in range(3):
        feed.put(b'{"n": %d}' % n)
    assert [watch.next() for _ in range(3)] == [("frame", {"n": n}) for n in range(3)]


def test_a_watcher_that_comes_later_gets_the_frames_kept(feed: Feed, server: HttpServer) -> None:
    feed.put(b'{"n": 0}')
    with contextlib.closing(Watcher(server)) as watcher:
        assert [watcher.next()[0], watcher.next()] == ["about", ("frame", {"n": 0})]


def test_while_no_frame_comes_the_reasons_do(
    watch: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.05)
    watch.next()
    assert watch.next() == ("ready", ["too far behind"])


def test_the_feed_knows_who_watches(feed: Feed, server: HttpServer) -> None:
    assert feed.watchers == 0
    watcher = Watcher(server)
    wait_for(1, feed)
    watcher.close()
    tell_until_nobody_watches(feed)


def test_one_watcher_too_many_is_told_so(feed: Feed, server: HttpServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_WATCHERS):
            stack.enter_context(contextlib.closing(Watcher(server)))
        wait_for(MAX_WATCHERS, feed)
        with contextlib.closing(Watcher(server)) as further:
            assert (further.answer.status, further.answer.headers["Retry-After"]) == (503, "5")


def seated(server: HttpServer) -> Watcher:
    """Who left is no watcher any more a moment before the seat is free."""
    until = time.monotonic() + PATIENCE_S
    while (watcher := Watcher(server)).answer.status != 200:
        assert time.monotonic() < until, "no seat"
        watcher.close()
        time.sleep(0.01)
    return watcher


def test_a_watcher_that_leaves_gives_its_seat_back(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_WATCHERS", 1)
    with HttpServer("127.0.0.1:0", live_stream(feed, list), bounds=PATIENT) as server:
        for _ in range(2):
            watcher = seated(server)
            wait_for(1, feed)
            watcher.close()
            tell_until_nobody_watches(feed)


def test_head_takes_no_seat(feed: Feed, server: HttpServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("HEAD", "/live")
    assert connection.getresponse().status == 200
    connection.close()
    assert feed.watchers == 0


def test_a_watcher_that_does_not_read_is_dropped(feed: Feed) -> None:
    with (
        HttpServer("127.0.0.1:0", live_stream(feed, list), bounds=QUICK) as server,
        socket.socket() as slow,
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        wait_for(1, feed)
        for _ in range(8):
            feed.put(b"x" * 200_000)
        wait_for(0, feed)


def test_a_watcher_that_reads_a_little_at_a_time_is_dropped_too(feed: Feed) -> None:
    with (
        HttpServer("127.0.0.1:0", live_stream(feed, list), bounds=QUICK) as server,
        socket.socket() as slow,
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        wait_for(1, feed)
        for _ in range(8):
            feed.put(b"x" * 500_000)
        n_bytes = 0
        while feed.watchers:
            with contextlib.suppress(ConnectionResetError):  # dropped just now
                n_bytes += len(slow.recv(8000))  # each keeps it busy, and is never idle for long
            time.sleep(0.01)
        assert n_bytes < 8 * 500_000, "it got everything: nothing was shown"


def test_a_slow_watcher_does_not_slow_the_next_one(feed: Feed, server: HttpServer) -> None:
    with socket.socket() as slow, contextlib.closing(Watcher(server)) as watcher:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        wait_for(2, feed)
        watcher.next()
        for _ in range(8):
            feed.put(json.dumps("x" * 200_000).encode())
        assert [watcher.next()[0] for _ in range(8)] == ["frame"] * 8
        assert feed.watchers == 2  # the slow one is still being waited for


def test_closing_the_server_ends_the_streams_at_once(feed: Feed) -> None:
    with HttpServer("127.0.0.1:0", live_stream(feed, list), bounds=PATIENT) as server:
        watchers = [Watcher(server) for _ in range(3)]
        wait_for(3, feed)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < PATIENCE_S / 2
        assert feed.watchers == 0
        for watcher in watchers:
            watcher.next()
            assert watcher.answer.read() == b""  # a clean end
            watcher.close()


def test_a_page_of_another_origin_cannot_watch(feed: Feed, server: HttpServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("GET", "/live", headers={"Origin": "https://evil.example"})
    assert connection.getresponse().status == 403
    connection.close()
    assert feed.watchers == 0

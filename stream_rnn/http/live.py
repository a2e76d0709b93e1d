"""The live page at /, its files, and the event stream it draws: GET /live.

Server-sent events. First `about`, with what does not change; then one `frame` per half second, as
the loop makes them while somebody watches; `ready` with the reasons, as a sign of life, while no
frame comes. docs/http.md lists the fields.
"""

from __future__ import annotations

import importlib.resources
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Protocol

import msgspec

from stream_rnn.http.routes import Answer, Request, Route, Routes, Stream, text

MAX_WATCHERS = 8
LOOK_EVERY_S = 0.1  # for the next frame
HEARTBEAT_S = 2.0

_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Feed(Protocol):
    """Where the frames come from. Called by the server's threads."""

    def join(self) -> None:
        """Somebody watches from now on."""

    def leave(self) -> None:
        """They do no more."""

    def about(self) -> dict[str, object]:
        """What does not change while the daemon runs."""

    def since(self, n: int) -> tuple[int, list[bytes]]:
        """The number of the next frame, and the JSON of those kept from the n-th on."""


def page() -> Routes:
    """The page and its files, read once. They tell nothing about the stream, so all may have them.

    The data comes from /live, which may want the token.
    """
    folder = importlib.resources.files("stream_rnn.http") / "static"
    routes: dict[str, Route] = {}
    for file in folder.iterdir():
        kind = _KINDS.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/static/{file.name}"
            routes[path] = _file(Answer(HTTPStatus.OK, kind, file.read_bytes()))
    return routes


def _file(answer: Answer) -> Route:
    return Route(lambda request: answer, public=True)


def live_stream(
    feed: Feed, ready: Callable[[], list[str]], clock: Callable[[], float] = time.monotonic
) -> Routes:
    """GET /live, for at most `MAX_WATCHERS` at a time."""
    seats = threading.BoundedSemaphore(MAX_WATCHERS)

    def handle(request: Request) -> Answer | Stream:
        if not seats.acquire(blocking=False):
            words = f"{MAX_WATCHERS} are watching already; close one of the pages\n"
            return text(HTTPStatus.SERVICE_UNAVAILABLE, words, ("Retry-After", "5"))
        seats.release()  # taken for good when the stream begins
        return Stream("text/event-stream", pieces)

    def pieces(closing: threading.Event) -> Iterator[bytes]:
        if not seats.acquire(blocking=False):
            return
        feed.join()
        try:
            yield from _events(feed, ready, closing, clock)
        finally:
            feed.leave()
            seats.release()

    return {"/live": Route(handle)}


def _events(
    feed: Feed, ready: Callable[[], list[str]], closing: threading.Event, clock: Callable[[], float]
) -> Iterator[bytes]:
    yield b"retry: 2000\n" + _event(b"about", msgspec.json.encode(feed.about(), enc_hook=str))
    n, said = 0, clock()
    while not closing.wait(LOOK_EVERY_S):
        n, frames = feed.since(n)
        if frames:
            said = clock()
            yield b"".join(_event(b"frame", frame) for frame in frames)
        elif clock() - said >= HEARTBEAT_S:
            said = clock()
            yield b": still here\n" + _event(b"ready", msgspec.json.encode(ready()))


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"  # JSON holds no line break

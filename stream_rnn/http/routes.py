"""What is asked, what is answered, and which paths there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

import msgspec

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler is told of a request; it has passed the guard.

    Attributes:
        path: without the query, which no page looks at.
        accept: the Accept header.
        body: of a POST, complete.
    """

    path: str
    accept: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `headers` go beside Content-Type and Content-Length."""

    code: int
    kind: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer without an end.

    Attributes:
        kind: its content type.
        pieces: called once, with the event that is set when the server closes; yields pieces as
            they come, and returns soon after the event. It is closed when the reader is gone.
    """

    kind: str
    pieces: Callable[[threading.Event], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Route:
    """What one path does.

    Attributes:
        handle: called on a thread of the server's; it may read, and must not wait for the loop.
        method: "GET" also answers HEAD. "POST" takes JSON, and the token, always.
        public: never asks for the token: it tells nothing about the stream.
        max_body_bytes: of a POST.
        kept: the connection may stay open for the next request (POST only).
    """

    handle: Callable[[Request], Answer | Stream]
    method: Literal["GET", "POST"] = "GET"
    public: bool = False
    max_body_bytes: int = 0
    kept: bool = False

    @property
    def allowed(self) -> str:
        """As the header Allow lists it."""
        return "GET, HEAD" if self.method == "GET" else self.method


Routes = Mapping[str, Route]
"""Path -> what it does."""


def text(code: int, words: str, *headers: tuple[str, str]) -> Answer:
    """An answer in words for a person."""
    return Answer(code, TEXT, words.encode(), headers)


def json(value: object, code: int = HTTPStatus.OK) -> Answer:
    """An answer as JSON; NaN becomes null, and what JSON does not know its text."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    return Answer(code, JSON, msgspec.json.format(encoded, indent=2) + b"\n")

"""One line in, one line out: what a client may say, and within which bounds."""

from __future__ import annotations

import socket
import time
from typing import Any

import msgspec

MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 4 << 20  # a status names every partition
MOST_PATIENCE_S = 3600.0
DEFAULT_PATIENCE_S = 5.0

Answer = dict[str, Any]
"""`ok`: whether it was done; `text`: what was done, or why not, and the remedy; `usage`: whether
the request itself was wrong; more by verb: `step`, `path`, `status`."""


class BadLine(Exception):
    """What came is no request; the text says why, for whoever sent it."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks.

    Attributes:
        verb: what is to be done.
        argument: of the verbs that take one.
        patience_s: how long the client waits for the answer.
    """

    verb: str
    argument: str = ""
    patience_s: float = DEFAULT_PATIENCE_S


def parse(line: bytes) -> Request:
    """A request; raises BadLine on anything else."""
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine(
            f'expected one line of JSON like {{"verb": "status"}}: {str(error)[:200]}'
        ) from None
    if not 0.0 < request.patience_s <= MOST_PATIENCE_S:
        raise BadLine(
            f"patience_s must be above 0 and at most {MOST_PATIENCE_S:g}, got {request.patience_s}"
        )
    return request


def encode(answer: Answer) -> bytes:
    """An answer as a line; what JSON does not know becomes its text."""
    return msgspec.json.encode(answer, enc_hook=str) + b"\n"


def read_line(connection: socket.socket, limit: int, patience_s: float) -> bytes:
    """Bytes up to the first newline or the end; raises BadLine beyond `limit`, TimeoutError."""
    until = time.monotonic() + patience_s
    data = bytearray()
    while b"\n" not in data:
        left_s = until - time.monotonic()
        if left_s <= 0.0:
            raise TimeoutError
        connection.settimeout(left_s)
        piece = connection.recv(min(limit + 1 - len(data), 65536))
        if not piece:
            break
        data += piece
        if len(data) > limit:
            raise BadLine(f"a line of more than {limit} bytes")
    return bytes(data.partition(b"\n")[0])

"""One question over HTTP, within a number of bytes and a moment, whoever answers."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time

from stream_rnn.http.bounded import Limited
from stream_rnn.top.place import Place

PATIENCE_S = 3.0
MOST_BYTES = 4 << 20  # a page of metrics is about 20 KiB
_STATUS_LINE_BYTES = 1024


class NoAnswer(Exception):
    """Nobody answered, or not as a daemon does; the text says why and what to do."""


def ask(
    place: Place, path: str, patience_s: float | None = None, most_bytes: int = MOST_BYTES
) -> bytes:
    """The body of a page. Any thread; a redirection is not followed.

    Args:
        place: whom to ask.
        path: of the page.
        patience_s: for the whole answer, connecting included; by default `PATIENCE_S`.
        most_bytes: of the answer.

    Raises:
        NoAnswer: whatever kept it from us.
    """
    patience_s = PATIENCE_S if patience_s is None else patience_s
    until = time.monotonic() + patience_s
    try:
        with _connected(place, patience_s) as connection:
            _send(connection, place, path, until)
            limited = Limited(connection)
            limited.allow(most_bytes, until - time.monotonic())
            return _body(io.BufferedReader(limited), path)
    except ConnectionRefusedError:
        raise NoAnswer("nobody listens there; is the daemon running, with [metrics]?") from None
    except TimeoutError:
        raise NoAnswer(f"no whole answer within {patience_s:g} s") from None
    except socket.gaierror as error:
        raise NoAnswer(f"{place.host}: {error.strerror or 'no such host'}") from None
    except ssl.SSLError as error:
        why = getattr(error, "reason", None) or str(error)
        raise NoAnswer(
            f"TLS: {why[:200]}; --cacert FILE names who signs, http:// is plain"
        ) from None
    except ConnectionError:
        raise NoAnswer("the connection broke off; if it speaks TLS, say https://") from None
    except OSError as error:
        raise NoAnswer(f"{error.filename or 'the connection'}: {error.strerror or error}") from None
    except http.client.LineTooLong:
        raise NoAnswer(f"{path} is larger than {most_bytes >> 10} KiB: no daemon's") from None
    except (http.client.HTTPException, ValueError):
        raise NoAnswer("what answers does not speak HTTP; if it speaks TLS, say https://") from None


def _connected(place: Place, patience_s: float) -> socket.socket:
    context = place.context()
    connection = socket.create_connection((place.host, place.port), timeout=patience_s)
    if context is None:
        return connection
    try:
        secured = context.wrap_socket(connection, server_hostname=place.host)
    except BaseException:
        connection.close()
        raise
    try:
        place.require_shown(secured)
    except BaseException:
        secured.close()
        raise
    return secured


def _send(connection: socket.socket, place: Place, path: str, until: float) -> None:
    lines = [f"GET {path} HTTP/1.0", f"Host: {place.address}", "User-Agent: stream-rnn-top"]
    if place.token is not None:
        lines.append(f"Authorization: Bearer {place.token}")
    patience_s = until - time.monotonic()
    if patience_s <= 0.0:
        raise TimeoutError
    connection.settimeout(patience_s)
    connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))


def _body(answer: io.BufferedReader, path: str) -> bytes:
    words = answer.readline(_STATUS_LINE_BYTES).split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise http.client.BadStatusLine("")
    headers = http.client.parse_headers(answer)
    if words[1] != b"200":
        raise NoAnswer(_refused(words[1].decode("ascii")[:3], path))
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdigit() and len(length) < 18):
        return answer.read()
    body = answer.read(int(length))
    if len(body) < int(length):
        raise NoAnswer(f"{path} ended early")
    return body


def _refused(code: str, path: str) -> str:
    match code:
        case "401":
            return "it asks for the token: --token env:NAME or --token file:PATH"
        case "403":
            return "it answers by another name only (403); ask it by its own address"
        case "404":
            return f"it has no {path} (404): is that a stream-rnn daemon?"
        case _:
            return f"{path} answered {code}"

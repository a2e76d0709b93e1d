"""A request as bytes -> a status and an answer as bytes, whatever came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from stream_rnn.codec import JsonCodec
from stream_rnn.readers.request import FAILED, MALFORMED, TOO_LARGE, Answer, Refused
from stream_rnn.spi import DecodeError

MAX_BYTES = 64 * 1024


def answered(ask: Callable[[], Answer], failed: Callable[[Exception], None]) -> tuple[int, bytes]:
    """What `ask` comes to, as it is sent; raises nothing.

    Args:
        ask: its Refused becomes the status and the reason.
        failed: told of any other exception; who asked learns its class only.

    Returns:
        The status as in HTTP, and one line of JSON.
    """
    try:
        return 200, _line(ask().body())
    except Refused as refused:
        return refused.status, _line(refused.body())
    except Exception as error:  # who asks must get an answer, and the daemon's owner the reason
        failed(error)
        text = f"{type(error).__name__}, see the daemon's log"
        return FAILED, _line({"error": text, "issue": "failed"})


def decoded(body: bytes, max_bytes: int) -> Mapping[str, Any]:
    """One JSON object; raises Refused (400, or 413 beyond `max_bytes`)."""
    if len(body) > max_bytes:
        what = f"{len(body)} bytes, at most {max_bytes} are read ([readers] max_bytes)"
        raise Refused(TOO_LARGE, "too_large", what)
    try:
        return JsonCodec(max_bytes).decode(body)
    except DecodeError as error:
        raise Refused(MALFORMED, "undecodable", str(error)) from error


def _line(value: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"  # NaN becomes null

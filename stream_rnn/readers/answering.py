"""A request as bytes -> a status and an answer as bytes, whatever came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from stream_rnn.codec import JsonCodec
from stream_rnn.readers.request import FAILED, MALFORMED, TOO_LARGE, Answer, Refused
from stream_rnn.spi import DecodeError

MAX_BYTES = 64 * 1024


def answer(
    predict: Callable[[Mapping[str, Any]], Answer],
    body: bytes,
    max_bytes: int = MAX_BYTES,
    failed: Callable[[Exception], None] = lambda error: None,
) -> tuple[int, bytes]:
    """Ask `predict` what stands in `body`; raises nothing.

    Args:
        predict: told the decoded request; its Refused becomes the status and the reason.
        body: one JSON object.
        max_bytes: a larger body is refused unread.
        failed: told of any other exception; who asks learns its class only.

    Returns:
        The status as in HTTP, and one line of JSON.
    """
    try:
        return 200, _line(predict(_decoded(body, max_bytes)).body())
    except Refused as refused:
        return refused.status, _line(refused.body())
    except Exception as error:  # who asks must get an answer, and the daemon's owner the reason
        failed(error)
        text = f"{type(error).__name__}, see the daemon's log"
        return FAILED, _line({"error": text, "issue": "failed"})


def _decoded(body: bytes, max_bytes: int) -> Mapping[str, Any]:
    if len(body) > max_bytes:
        what = f"{len(body)} bytes, at most {max_bytes} are read ([readers] max_bytes)"
        raise Refused(TOO_LARGE, "too_large", what)
    try:
        return JsonCodec(max_bytes).decode(body)
    except DecodeError as error:
        raise Refused(MALFORMED, "undecodable", str(error)) from error


def _line(value: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"  # NaN becomes null

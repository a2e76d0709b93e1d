"""What a reader asks, what it is told, and why it may not be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stream_rnn.spi import Record

MALFORMED, UNUSABLE, TOO_LARGE, BUSY, FAILED, UNPUBLISHED = 400, 422, 413, 429, 500, 503
MAX_RECORDS = 256  # in one request
MAX_STEPS = 1024  # of all its records together: a byte of text is one; some 0.2 s of one thread
RETRY_S = 1

_KEYS = {"record", "records", "key"}


class Refused(Exception):
    """A request that gets no prediction; its text is for the person who asked.

    Attributes:
        status: as in HTTP: 400 malformed, 413 too large, 422 a record that cannot be used, 429 too
            many at a time, 500 an accident of ours, 503 nothing published yet.
        issue: in one word, as in a dead letter.
    """

    def __init__(self, status: int, issue: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.issue = issue

    def body(self) -> dict[str, Any]:
        """As it is sent."""
        told: dict[str, Any] = {"error": str(self), "issue": self.issue}
        if self.status in (BUSY, UNPUBLISHED):
            told["retry_after_s"] = RETRY_S
        return told


@dataclass(frozen=True, slots=True)
class Request:
    """Records of one stream, in order; the prediction is that of the last one.

    Attributes:
        records: at least one.
        key: of their stream, where the producer's key tells streams apart and no field does.
    """

    records: Sequence[Record]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction, and what it was made from.

    Attributes:
        prediction: as in a line of a sink.
        key: of the stream.
        lane: "known", or "fresh" for a key without a lane: predicted from the initial state.
        step: ticks that were learned when the state was copied.
        age_s: seconds since then.
    """

    prediction: Any
    key: str | None
    lane: Literal["known", "fresh"]
    step: int
    age_s: float

    def body(self) -> dict[str, Any]:
        """As it is sent."""
        return {
            "prediction": self.prediction,
            "key": self.key,
            "lane": self.lane,
            "step": self.step,
            "age_s": round(self.age_s, 6),
        }


def parse(asked: Mapping[str, Any]) -> Request:
    """A request of plain values; raises Refused (400) naming what is wrong with it."""
    unknown = sorted(str(name)[:40] for name in asked if name not in _KEYS)
    if unknown:
        raise _malformed(f"unknown key {unknown[0]!r} (known: record, records, key)")
    if ("record" in asked) == ("records" in asked):
        raise _malformed('expected {"record": {...}} or {"records": [{...}, ...]}')
    records = asked["records"] if "records" in asked else [asked["record"]]
    name = "records" if "records" in asked else "record"
    if not isinstance(records, list) or not records:
        raise _malformed("records: expected a list of at least one object")
    if len(records) > MAX_RECORDS:
        raise _malformed(f"records: at most {MAX_RECORDS} in a request, got {len(records)}")
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            place = f"records[{i}]" if name == "records" else name
            raise _malformed(f"{place}: expected an object, got {type(record).__name__}")
    key = asked.get("key")
    if key is not None and not isinstance(key, str):
        raise _malformed(f"key: expected text, got {type(key).__name__}")
    return Request(records, key)


def _malformed(message: str) -> Refused:
    return Refused(MALFORMED, "malformed", message)

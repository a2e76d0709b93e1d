"""Whatever is asked, there is an answer: a status, and words that name the remedy."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_rnn import app
from stream_rnn.engine.engine import Engine
from stream_rnn.readers.readers import Readers
from stream_rnn.spi import Event

GRU = {
    "cell": {"kind": "gru", "units": 3},
    "credit": {"kind": "tbptt", "window": 2},
    "optimizer": {"kind": "sgd"},
}
REGRESSION = {
    "task": {"kind": "regression", "target": "y"},
    "features": {"numeric": ["z"]},
    "lanes": {"key": "k", "end": "last"},
}
BYTES = {"task": {"kind": "next_symbol", "field": "t", "unit": "byte"}}
GOOD = {"y": 1.0, "z": 2.0, "k": "a"}


def built(tables: dict[str, Any], **readers: Any) -> tuple[Engine, Readers]:
    """An engine that has seen a few events, and readers of it as it is now."""
    base = {"source": {"kind": "synthetic"}, "readers": readers, "learner": GRU}
    job = app.build(base | tables)
    assert job.readers is not None
    for i in range(5):
        data = json.dumps({"y": i, "z": -i, "k": "a", "t": "word"}).encode()
        job.engine.feed(Event("s", i, data))
    job.readers._asked = True
    job.readers.publish_if_asked()
    return job.engine, job.readers


@pytest.fixture(scope="module")
def readers() -> Readers:
    return built(REGRESSION)[1]


def told(readers: Readers, asked: Any) -> tuple[int, dict[str, Any]]:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    status, line = readers.answer(body)
    assert line.endswith(b"\n")
    return status, json.loads(line)


def test_an_answer_says_what_it_was_made_from(readers: Readers) -> None:
    status, line = told(readers, {"record": GOOD})
    assert status == 200
    assert list(line) == ["prediction", "key", "lane", "step", "age_s"]
    assert (line["key"], line["lane"], line["step"]) == ("a", "known", 5)
    assert line["age_s"] >= 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (b"", "expected a JSON object"),
        (b"[" * 10_000, "expected a JSON object"),
        (b'{"record": {"y": NaN}}', "expected a JSON object"),
        (b'{"record": {}} {}', "expected a JSON object"),
        ({}, 'expected {"record": {...}} or {"records": [{...}, ...]}'),
        ({"record": {}, "records": []}, 'expected {"record": {...}}'),
        ({"record": 3}, "record: expected an object, got int"),
        ({"record": None}, "record: expected an object, got NoneType"),
        ({"records": []}, "records: expected a list of at least one object"),
        ({"records": {"0": GOOD}}, "records: expected a list of at least one object"),
        ({"records": [GOOD, "x"]}, "records[1]: expected an object, got str"),
        ({"records": [GOOD] * 257}, "at most 256 in a request, got 257"),
        ({"record": GOOD, "key": 3}, "key: expected text, got int"),
        ({"record": GOOD, "horizon": 3}, "unknown key 'horizon' (known: record, records, key)"),
    ],
)
def test_what_is_no_request_is_malformed(readers: Readers, asked: Any, words: str) -> None:
    status, line = told(readers, asked)
    assert status == 400
    assert words in line["error"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"z": None},
        {"z": "high"},
        {"z": 1e30},
        {"y": "low"},
        {"k": None},
        {"k": "x" * 300},
        {"last": 3},
        {"k": "other", "z": None},
    ],
    ids=str,
)
def test_a_bad_record_is_refused_in_the_words_of_its_dead_letter(wrong: Any) -> None:
    engine, readers = built(REGRESSION)
    record = GOOD | wrong
    status, line = told(readers, {"record": record})
    engine.feed(Event("s", 9, json.dumps(record).encode()))
    (letter,) = engine.letters
    assert status == 422
    assert (line["error"], line["issue"]) == (letter["reason"], letter["issue"])


def test_of_several_records_the_bad_one_is_named(readers: Readers) -> None:
    status, line = told(readers, {"records": [GOOD, GOOD | {"z": None}]})
    assert status == 422
    assert line["error"].startswith("records[1]: field 'z' is missing")


def test_a_model_that_has_come_apart_predicts_nothing() -> None:
    engine, readers = built(REGRESSION)
    engine.learner.head.V_PF.fill_(float("nan"))
    engine.ordinal += 1  # as if an event had done it
    readers._next_at, readers._asked = 0.0, True
    readers.publish_if_asked()
    status, line = told(readers, {"record": GOOD})
    assert (status, line["issue"]) == (422, "unsound")
    assert "the step came out non-finite or absurd" in line["error"]


def test_records_of_several_streams_are_refused(readers: Readers) -> None:
    status, line = told(readers, {"records": [GOOD, GOOD | {"k": "b"}]})
    assert status == 422
    assert "several streams" in line["error"]


def test_a_key_beside_the_record_is_refused_where_a_field_holds_it(readers: Readers) -> None:
    status, line = told(readers, {"record": GOOD, "key": "a"})
    assert status == 422
    assert "the key stands in field 'k' of a record ([lanes] key)" in line["error"]


def test_a_body_beyond_the_limit_is_not_read() -> None:
    _, readers = built(REGRESSION, max_bytes=100)
    status, line = told(readers, b" " * 101)
    assert status == 413
    assert "at most 100 are read ([readers] max_bytes)" in line["error"]


def test_a_long_text_is_refused_before_it_is_taken_apart() -> None:
    _, readers = built(BYTES)
    assert told(readers, {"records": [{"t": "x" * 600}] * 2})[0] == 422
    status, line = told(readers, {"record": {"t": "x" * 1025}})
    assert status == 422
    assert "1025 steps, at most 1024 are taken in one request" in line["error"]
    assert told(readers, {"record": {"t": "xyz"}})[0] == 200


def test_an_accident_is_told_by_its_class_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, readers = built(REGRESSION)
    readers._newest.hidden.clear()  # type: ignore[union-attr]
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            status, line = told(readers, {"record": GOOD})
            assert (status, line["error"]) == (500, "IndexError, see the daemon's log")
    assert len(caplog.records) == 1
    assert readers.counts["failed"] == 3


def test_every_request_is_counted_by_what_became_of_it() -> None:
    _, readers = built(REGRESSION)
    for asked in ({"record": GOOD}, {"record": {}}, {}, b"?"):
        told(readers, asked)
    assert readers.counts == {
        "answered": 1,
        "refused": 3,
        "busy": 0,
        "unpublished": 0,
        "failed": 0,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["record", "records", "key", "y", "z", "k"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(JSON, st.binary(max_size=40))
def test_nothing_that_comes_is_without_an_answer(
    readers: Readers, value: Any, noise: bytes
) -> None:
    for body in (json.dumps(value).encode(), noise, b'{"record": ' + noise + b"}"):
        status, line = readers.answer(body)
        assert status in (200, 400, 422)
        assert isinstance(json.loads(line), dict)

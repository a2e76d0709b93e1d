import contextlib
import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_rnn.codec import JsonCodec, MsgpackCodec, TextCodec, codec_by_name
from stream_rnn.spi import DecodeError, SettingError

_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
_values = st.recursive(_leaves, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8)
_records = st.dictionaries(st.text(), _values)


@given(_records)
@settings(max_examples=40)
def test_json_records_round_trip(record: dict[str, Any]) -> None:
    assert JsonCodec().decode(msgspec.json.encode(record)) == record


@given(_records)
@settings(max_examples=40)
def test_msgpack_records_round_trip(record: dict[str, Any]) -> None:
    assert MsgpackCodec().decode(msgspec.msgpack.encode(record)) == record


@given(st.text())
def test_text_round_trips(text: str) -> None:
    assert TextCodec().decode(text.encode()) == {"text": text}


@pytest.mark.parametrize(
    "codec", [JsonCodec(), MsgpackCodec(), TextCodec()], ids=lambda c: type(c).__name__
)
@given(data=st.binary())
def test_any_bytes_give_a_record_or_a_decode_error(codec: Any, data: bytes) -> None:
    with contextlib.suppress(DecodeError):  # anything else fails the test
        assert isinstance(codec.decode(data), dict)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b"3",
        b"null",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1} 2',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"{'a': 1}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 200_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_json_that_is_no_object_of_plain_values_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="JSON object"):
        JsonCodec().decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93\x01\x02\x03",
        b"\x81\x01\x02",
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\x81\xa1a\xc7\x01\x05x",
        b"\x81\xa1a\x01\x01",
        b"\x81\xa1a" + b"\x91" * 200_000,
    ],
    ids=["nothing", "array", "integer key", "false length", "extension", "trailing", "deep"],
)
def test_msgpack_that_is_no_map_of_plain_values_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="MessagePack map"):
        MsgpackCodec().decode(data)


def test_msgpack_leaves_the_judgement_of_nan_to_the_features() -> None:
    assert math.isnan(MsgpackCodec().decode(msgspec.msgpack.encode({"a": math.nan}))["a"])


def test_the_last_of_repeated_json_names_counts() -> None:
    assert JsonCodec().decode(b'{"a": 1, "a": 2}') == {"a": 2}


def test_the_message_shows_the_beginning_and_never_megabytes() -> None:
    with pytest.raises(DecodeError, match=r"got 5000000 bytes b'xxx.*\.\.\.") as caught:
        JsonCodec().decode(b"x" * 5_000_000)
    assert len(str(caught.value)) < 400


def test_a_payload_beyond_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(DecodeError, match="at most 10 bytes, got 11 bytes"):
        JsonCodec(max_bytes=10).decode(b'{"abc": 12}')
    assert JsonCodec(max_bytes=11).decode(b'{"abc": 12}') == {"abc": 12}


def test_codecs_are_found_by_name() -> None:
    assert codec_by_name("json").decode(b"{}") == {}
    assert codec_by_name("msgpack").decode(b"\x80") == {}
    assert codec_by_name("text").decode(b"x") == {"text": "x"}


def test_an_unknown_codec_names_the_known_ones() -> None:
    expected = re.escape("codec: unknown codec 'yaml', expected one of json, msgpack, text")
    with pytest.raises(SettingError, match=expected):
        codec_by_name("yaml")


def test_a_limit_below_one_byte_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^max_bytes: must be at least 1, got 0"):
        JsonCodec(max_bytes=0)


def test_a_byte_order_mark_is_called_by_its_name() -> None:
    with pytest.raises(DecodeError, match="begins with a byte order mark; write UTF-8 without one"):
        JsonCodec().decode(b'\xef\xbb\xbf{"a": 1}')

"""Bytes -> record: JSON, MessagePack and plain text, with hostile input in mind."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable
from typing import Any

import msgspec

from stream_rnn.spi import Codec, DecodeError, Record, SettingError, worded

MAX_BYTES = 64 * 1024 * 1024
_SHOWN_BYTES = 48
_BOM = "it begins with a byte order mark; write UTF-8 without one"


class _Checked:
    """Calls a decoder, with everything that hostile bytes can make it raise as a DecodeError.

    Args:
        read: bytes -> record.
        max_bytes: of an event.
        expected: in words.
    """

    def __init__(self, read: Callable[[bytes], Record], max_bytes: int, expected: str) -> None:
        if max_bytes < 1:
            raise SettingError(f"max_bytes: must be at least 1, got {max_bytes}")
        self._read = read
        self._max_bytes = max_bytes
        self._expected = expected

    def decode(self, data: bytes) -> Record:
        expected = self._expected
        if len(data) > self._max_bytes:
            most = f"at most {self._max_bytes} bytes"
            raise DecodeError(f"expected {expected} of {most}, got {_shown(data)}")
        try:
            return self._read(data)
        except RecursionError:
            raise DecodeError(f"{expected} nested too deeply: {_shown(data)}") from None
        # UnicodeDecodeError and integers with thousands of digits are plain ValueErrors.
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            reason = str(error)[:200] if not data.startswith(BOM_UTF8) else _BOM
            raise DecodeError(f"expected {expected}, got {_shown(data)}: {reason}") from None


class JsonCodec(_Checked):
    """One JSON object per event (RFC 8259).

    NaN and Infinity literals, numbers beyond a double, text that is not UTF-8 and anything behind
    the object are refused. Of a repeated name the last value counts, as in most JSON readers.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        read = msgspec.json.Decoder(dict[str, Any]).decode
        super().__init__(read, max_bytes, "a JSON object")


class MsgpackCodec(_Checked):
    """One MessagePack map with string keys per event.

    Unlike JSON it can carry NaN and infinity, which pass: values are judged with the features.
    Extension types other than timestamps are refused.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        read = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_refuse_extension).decode
        super().__init__(read, max_bytes, "a MessagePack map")


class TextCodec(_Checked):
    """UTF-8 text per event, as the record `{"text": ...}`."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(_text_record, max_bytes, "UTF-8 text")


CODECS: dict[str, Callable[[int], Codec]] = {
    "json": JsonCodec,
    "msgpack": MsgpackCodec,
    "text": TextCodec,
}


def codec_by_name(name: str, max_bytes: int = MAX_BYTES) -> Codec:
    """The codec a configuration or a source's `codec` attribute names.

    Raises:
        SettingError: there is none of that name.
    """
    if name not in CODECS:
        raise SettingError(f"codec: unknown codec {name!r}, expected one of {', '.join(CODECS)}")
    return CODECS[name](max_bytes)


def _shown(data: bytes) -> str:
    """The length and the beginning; an error message must not carry megabytes."""
    more = "..." if len(data) > _SHOWN_BYTES else ""
    return f"{len(data)} {worded(len(data), 'byte')} {bytes(data[:_SHOWN_BYTES])!r}{more}"


def _text_record(data: bytes) -> Record:
    return {"text": data.decode("utf-8")}


def _refuse_extension(code: int, data: memoryview) -> object:
    raise ValueError(f"extension type {code} is not supported")

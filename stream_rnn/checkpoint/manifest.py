"""The manifest of a snapshot: what its files must be; guarded by a checksum of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from stream_rnn.checkpoint.files import CheckpointError, UnknownFormat, open_regular

FORMAT = 2  # 2 only where `migrated_from` is there, so that older programs read the others
MAX_MANIFEST_BYTES = 16 << 20  # a tensor's line takes 100 bytes; read whole, before any checksum
MAX_JSON_DEPTH = 100

TENSORS, HOST, MANIFEST = "state.safetensors", "host.json", "manifest.json"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class File(msgspec.Struct, forbid_unknown_fields=True):
    """What a file must be, to the byte."""

    sha256: str
    bytes: Count


class TensorInfo(msgspec.Struct, forbid_unknown_fields=True):
    """Dtype by torch's name, and shape."""

    dtype: str
    shape: list[Count]


class Manifest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Everything about a snapshot but its tensors and its host state."""

    format: Annotated[int, msgspec.Meta(ge=1, le=FORMAT)]
    step: Count
    epoch: Count
    created: str
    parent: Count | None
    fingerprint: str
    positions: dict[str, dict[str, int | str]]
    execution: dict[str, str]
    files: dict[str, File]
    tensors: dict[str, TensorInfo]
    config: dict[str, Any]
    migrated_from: dict[str, Any] | None = None


def read_manifest(folder: Path) -> Manifest:
    """Read and verify the manifest of a snapshot folder; no other file is looked at.

    Raises:
        CheckpointError: damaged or forged; UnknownFormat: newer than this program.
    """
    path = folder / MANIFEST
    with open_regular(path) as descriptor:
        if os.fstat(descriptor).st_size > MAX_MANIFEST_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, not a manifest")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = parse_json(file.read(MAX_MANIFEST_BYTES), path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    version = content.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise UnknownFormat(
            f"{path}: format {version}, this program reads up to {FORMAT}; use the newer "
            "version of stream-rnn that wrote it"
        )
    guard = content.pop("sha256", None)
    if guard != _guard(content):
        raise CheckpointError(f"{path}: its checksum does not match its content")
    try:
        return msgspec.convert(content, Manifest)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: {error}") from error


def encode_manifest(manifest: Manifest, folder: Path) -> bytes:
    """The manifest as JSON for people, guarded; CheckpointError names `folder` if it is too large.

    What it holds of other types (dates, paths) becomes text.
    """
    # Through JSON and back, so that the guard covers what a reader will see (nan becomes null).
    content = msgspec.json.decode(msgspec.json.encode(manifest, enc_hook=str))
    msgspec.convert(content, Manifest)
    guarded = msgspec.json.encode({**content, "sha256": _guard(content)})
    if len(guarded) > MAX_MANIFEST_BYTES // 4:  # a quarter, for the indentation
        raise CheckpointError(f"{folder / MANIFEST}: {len(guarded)} bytes of manifest are too many")
    return msgspec.json.format(guarded, indent=2)


def _guard(content: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """What the decoder raises within becomes a CheckpointError that names `path`."""
    try:
        yield
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: JSON nested deeper than {MAX_JSON_DEPTH}") from error


def parse_json(data: bytes, path: Path) -> object:
    """Parse JSON of modest depth; CheckpointError names `path`."""
    with _decoding(path):
        value: object = msgspec.json.decode(data)
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_JSON_DEPTH):
        containers = (v.values() if isinstance(v, dict) else v for v in level)
        level = [c for v in containers for c in v if isinstance(c, dict | list)]
        if not level:
            return value
    raise CheckpointError(f"{path}: JSON nested deeper than {MAX_JSON_DEPTH}")


def check_json(data: bytes, path: Path) -> None:
    """Raise CheckpointError where `parse_json` would of what an encoder wrote.

    It makes no objects, for which the thread that learns would wait: there may be a million.
    """
    with _decoding(path):
        data.decode()
        msgspec.json.decode(data, type=msgspec.Raw)
    if _depth(data) > MAX_JSON_DEPTH:
        raise CheckpointError(f"{path}: JSON nested deeper than {MAX_JSON_DEPTH}")


def _depth(data: bytes) -> int:
    """How many brackets are open at once in well-formed JSON, at most."""
    # it takes 0.1 s to import: a command that saves nothing does without it
    import numpy as np

    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    letters = np.frombuffer(data, np.uint8)
    is_text = np.logical_xor.accumulate(letters == ord('"'))
    folded = letters | 0x20  # square brackets become braces
    steps = (folded == ord("{")).view(np.int8) - (folded == ord("}")).view(np.int8)
    steps[is_text] = 0
    return int(np.cumsum(steps, dtype=np.int16).max(initial=0))

"""A snapshot taken out of its folder: the parameters alone, or all of it with its hashes."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stream_rnn.checkpoint.files import CheckpointError, explained, remove, write_durably
from stream_rnn.checkpoint.manifest import HOST, MANIFEST, TENSORS
from stream_rnn.checkpoint.snapshot import Loaded

if TYPE_CHECKING:
    from torch import Tensor

PASSING = ("credit", "fidelity", "owed")
"""Parts of a recurrence's names whose tensors belong to learning, not to what was learned."""


def parameters_of(loaded: Loaded) -> dict[str, Tensor]:
    """What predicts: weights of recurrence and read-out; no hidden state, credit or optimizer.

    Told by the names: per-lane tensors carry the letter of their first axis, B.
    """
    found = {}
    for name, tensor in loaded.tensors.items():
        part, *inner, last = name.split(".")
        if part == "head" or (part == "recurrence" and not set(inner) & set(PASSING)):
            axes = last.rpartition("_")[2]
            if not axes.startswith("B") and axes[:1].isupper():
                found[name] = tensor
    return found


def means_of(loaded: Loaded) -> dict[str, Tensor]:
    """The same names, with the running mean of each tensor whose update keeps one (FPTT).

    A snapshot's names stand in the order of `state_dict`, so in that of the parameters.

    Raises:
        CheckpointError: no update keeps a mean, or none yet.
    """
    found, n_means = parameters_of(loaded), 0
    for part, update in (("recurrence.", "update."), ("head.", "head_update.")):
        own = [name for name in found if name.startswith(part)]
        means = [t for name, t in loaded.tensors.items() if name.startswith(f"{update}mean.")]
        if means and [t.shape for t in means] != [found[name].shape for name in own]:
            raise CheckpointError(f"{loaded.path}: the means of {update} are not those of {part}")
        found |= zip(own, means, strict=False)  # none, or one for each
        n_means += len(means)
    if not n_means:
        raise CheckpointError(
            f"{loaded.path}: no running means: optimizers other than fptt keep none, and a fresh "
            "one has none yet"
        )
    return found


def export_parameters(loaded: Loaded, path: Path, *, mean: bool = False) -> list[Path]:
    """Write `path` (safetensors) and beside it a JSON of what they are; returns both.

    Args:
        loaded: the snapshot.
        path: of the parameters.
        mean: their running means instead, where the update keeps any.

    Raises:
        CheckpointError: one of them exists already, or cannot be written; there are no means.
    """
    from safetensors.torch import save

    described = {
        "parameters": "running means" if mean else "as learned",
        "step": loaded.step,
        "created": loaded.created,
        "fingerprint": loaded.fingerprint,
        "positions": loaded.positions,
        "model": loaded.config,
    }
    beside = path.with_suffix(".json")
    text = msgspec.json.format(msgspec.json.encode(described, enc_hook=str), indent=2)
    found = means_of(loaded) if mean else parameters_of(loaded)
    _write_new(path, save({name: tensor.contiguous() for name, tensor in found.items()}))
    try:
        _write_new(beside, text)
    except CheckpointError:
        remove(path)
        raise
    return [path, beside]


def export_whole(loaded: Loaded, path: Path) -> list[Path]:
    """Write the snapshot's folder as a tar with a SHA256SUMS; unpacked in a state folder it is one.

    Raises:
        CheckpointError: `path` exists already, or cannot be written.
    """
    folder = loaded.path
    sums = ""
    packed = io.BytesIO()
    with explained(folder), tarfile.open(fileobj=packed, mode="w") as tar:
        for name in (TENSORS, HOST, MANIFEST):
            data = (folder / name).read_bytes()
            sums += f"{hashlib.sha256(data).hexdigest()}  {name}\n"
            _add(tar, f"{folder.name}/{name}", data)
        _add(tar, f"{folder.name}/SHA256SUMS", sums.encode())
    _write_new(path, packed.getvalue())
    return [path]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o600
    tar.addfile(entry, io.BytesIO(data))


def _write_new(path: Path, data: bytes) -> None:
    if os.path.lexists(path):
        raise CheckpointError(f"{path}: exists already; name another file, or remove it first")
    with explained(path):
        write_durably(path, data)

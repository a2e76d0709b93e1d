"""A publication as bytes for another process of ours, and back: plain values and raw numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from stream_rnn.lanes import Lanes
from stream_rnn.readers.publication import Publication
from stream_rnn.tasks import Task

_ALIGN = 16  # numbers are read where they stand
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64)}


class _Head(msgspec.Struct, array_like=True):
    """What stands before the numbers."""

    step: int
    ordinal: int
    at: float
    n_parameters: int
    tensors: list[tuple[str, list[int]]]  # number type and shape
    known: Any  # the task's, and the table of the lanes; as JSON in bytes where that is needed


def pieces(
    task: Task,
    lanes: Lanes,
    tensors: Sequence[Tensor],
    n_parameters: int,
    *,
    step: int,
    ordinal: int,
    at: float,
) -> list[bytes | memoryview]:
    """The bytes of a publication, in turn; those of tensors on the host are not copied."""
    known: Any = [task.known(), lanes.state_dict()]
    shapes = [(str(each.dtype), list(each.shape)) for each in tensors]
    head = _Head(step, ordinal, at, n_parameters, shapes, known)
    try:
        first = msgspec.msgpack.encode(head)
    except UnicodeEncodeError:  # half a character, from a codec that lets it in: JSON escapes it
        head.known = json.dumps(known).encode()
        first = msgspec.msgpack.encode(head)
    length = len(first).to_bytes(8, "little")
    made: list[bytes | memoryview] = [length, first, bytes(-(8 + len(first)) % _ALIGN)]
    for each in tensors:
        numbers = _bytes(each) if each.numel() else b""
        made += [numbers, bytes(-len(numbers) % _ALIGN)]
    return made


def publication(body: bytearray, task: Task, lanes: Callable[[], Lanes]) -> Publication:
    """What `pieces` was told; keeps `body`.

    Args:
        body: as it was written, which a checksum says.
        task: without scores, and nobody else's.
        lanes: makes the table for it, empty.
    """
    end = 8 + int.from_bytes(body[:8], "little")
    head = msgspec.msgpack.decode(memoryview(body)[8:end], type=_Head)
    known = json.loads(head.known) if isinstance(head.known, bytes) else head.known
    task.load_known(known[0])
    table = lanes()
    table.load_state_dict(known[1])
    tensors: list[Tensor] = []
    at = end
    for name, shape in head.tensors:
        at += -at % _ALIGN
        n = math.prod(shape)
        dtype = _DTYPES[name]
        flat = (
            torch.frombuffer(body, dtype=dtype, count=n, offset=at)
            if n
            else torch.zeros(0, dtype=dtype)
        )
        tensors.append(flat.view(shape))
        at += n * dtype.itemsize
    return Publication(
        parameters=tensors[: head.n_parameters],
        hidden=tensors[head.n_parameters :],
        task=task,
        lanes=table,
        step=head.step,
        ordinal=head.ordinal,
        at=head.at,
    )


def _bytes(tensor: Tensor) -> memoryview:
    numbers: Any = tensor.detach().cpu().contiguous().numpy()  # sync: on another device
    return memoryview(numbers).cast("B")

"""A producer in a process of its own: it feeds a daemon, and knows how many events of which kind.

What it says is the truth that the daemon's counters are held against. It stays at most `AHEAD`
events before the daemon, so that no queue is what is measured.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import zmq

from stream_rnn.producer import Producer

Kind = Literal["file", "router", "push"]
AHEAD = 20_000  # events
CHUNK = 250  # between two looks at how far the daemon is
ROTATE_BYTES = 8 << 20
LAST_S = 60.0  # for the acknowledgment of the last event


class Counts(ctypes.Structure):
    """Shared by both processes; each field has one writer, and is one aligned word."""

    _fields_ = (
        ("produced", ctypes.c_int64),
        ("undecodable", ctypes.c_int64),
        ("unusable", ctypes.c_int64),
        ("done", ctypes.c_int64),
        ("handled", ctypes.c_int64),  # by the daemon
        ("failed", ctypes.c_int64),
    )


def event(i: int, with_bad: bool = True) -> tuple[bytes, str]:
    """The i-th event, and which count it belongs to; two of a thousand are bad."""
    if with_bad and i % 1000 == 500:
        return b'{"value": 1, broken', "undecodable"
    if with_bad and i % 1000 == 700:
        return b'{"t": %d}' % i, "unusable"
    value = math.sin(i / 20) + (i * 7919) % 101 / 101
    return json.dumps({"t": i, "value": round(value, 6)}).encode(), "good"


@contextmanager
def producing(
    kind: Kind,
    place: str,
    n_events: int | None,
    seconds: float | None,
    with_bad: bool = True,
) -> Iterator[Counts]:
    """Events into `place` from another process while the context lasts; killed at its end."""
    context = get_context("spawn")
    # without a lock: the daemon must not wait for its producer
    counts: Counts = context.Value(Counts, lock=False)  # type: ignore[assignment]
    process: BaseProcess = context.Process(
        target=_produce, args=(kind, place, counts, n_events, seconds, with_bad), daemon=True
    )
    process.start()
    try:
        yield counts
        process.join(5.0)
    finally:
        process.kill()
        process.join()


def _produce(
    kind: Kind,
    place: str,
    counts: Counts,
    n_events: int | None,
    seconds: float | None,
    with_bad: bool,
) -> None:
    try:
        with ExitStack() as stack:
            send, finish = _WAYS[kind](place, stack)
            _pour(send, counts, n_events, seconds, with_bad)
            counts.done = 1
            finish()
    except BaseException:
        counts.failed = 1
        raise


def _pour(
    send: Callable[[list[bytes]], None],
    counts: Counts,
    n_events: int | None,
    seconds: float | None,
    with_bad: bool,
) -> None:
    last = math.inf if n_events is None else n_events
    until = math.inf if seconds is None else time.monotonic() + seconds
    i = 0
    while i < last and time.monotonic() < until:
        if i - counts.handled > AHEAD:
            time.sleep(0.002)
            continue
        # a whole chunk, so that the last event is a good one
        chunk = [event(j, with_bad) for j in range(i, i + CHUNK)]
        send([data for data, _ in chunk])
        i += CHUNK
        counts.undecodable += sum(kind == "undecodable" for _, kind in chunk)
        counts.unusable += sum(kind == "unusable" for _, kind in chunk)
        counts.produced = i


def _to_file(
    place: str, stack: ExitStack
) -> tuple[Callable[[list[bytes]], None], Callable[[], None]]:
    """Appends, and rotates as logrotate does."""
    path = Path(place)
    file = path.open("ab", buffering=0)

    def send(lines: list[bytes]) -> None:
        nonlocal file
        if file.tell() > ROTATE_BYTES:
            file.close()
            path.replace(f"{path}.1")
            file = path.open("ab", buffering=0)
        file.write(b"".join(line + b"\n" for line in lines))

    def close() -> None:
        file.close()  # the newest one

    stack.callback(close)
    return send, lambda: None


def _to_router(
    place: str, stack: ExitStack
) -> tuple[Callable[[list[bytes]], None], Callable[[], None]]:
    producer = stack.enter_context(Producer(place, "feeder"))

    def send(lines: list[bytes]) -> None:
        for line in lines:
            producer.send(line)

    def finish() -> None:
        if not producer.flush(LAST_S):
            raise TimeoutError("the last events were not acknowledged")

    return send, finish


def _to_pull(
    place: str, stack: ExitStack
) -> tuple[Callable[[list[bytes]], None], Callable[[], None]]:
    context = stack.enter_context(zmq.Context())
    socket = stack.enter_context(context.socket(zmq.PUSH))
    socket.connect(place)

    def send(lines: list[bytes]) -> None:
        for line in lines:
            socket.send(line)

    return send, lambda: None


_WAYS = {"file": _to_file, "router": _to_router, "push": _to_pull}

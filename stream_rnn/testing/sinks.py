"""A sink into a list, and what every sink must do, tried out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from stream_rnn.spi import NotConnected, Record, Sink


class ListSink(Sink):
    """A sink into a list. `records` holds what was written, `n_flushed` how much of it is safe."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.n_flushed = 0
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def write(self, records: Sequence[Record]) -> None:
        if not self.is_open:
            raise NotConnected("the list sink is not open")
        self.records.extend(records)

    def flush(self) -> None:
        self.n_flushed = len(self.records)

    def close(self) -> None:
        self.flush()
        self.is_open = False


def check_sink(
    make: Callable[[], Sink],
    read: Callable[[], list[Record]],
    *,
    patience_s: float = 60.0,
) -> None:
    """Assert that what `make` builds keeps the contract of `Sink`.

    Args:
        make: builds a sink, not opened, always for the same destination, empty at first.
        read: everything that has arrived at the destination so far, in order.
        patience_s: how long a flushed record may take to arrive.
    """
    records: list[Record] = [
        {"n": n, "value": n / 2, "text": 'a "line"\nbreak, \u00e4', "nothing": None, "flag": True}
        for n in range(60)
    ]
    sink = make()
    assert sink.describe().strip(), "describe() must say in one line where records go"
    sink.close()  # a sink whose open() never came is closed all the same
    sink = make()
    sink.open()
    sink.write([])
    sink.write(records[:1])
    sink.write(records[1:10])
    sink.flush()
    _check_arrived(read, records[:10], "after flush", patience_s)
    _write_while_flushing(sink, records[10:30])
    sink.flush()
    _check_arrived(read, records[:30], "written while another thread flushed", patience_s)
    sink.write(records[30:40])
    sink.close()
    sink.close()
    _check_arrived(read, records[:40], "after close without flush", patience_s)
    sink = make()
    sink.open()
    sink.write(records[40:50])
    sink.open()  # as after NotConnected
    sink.write(records[50:])
    sink.close()
    _check_arrived(read, records, "opened again: append, do not overwrite", patience_s)


def _write_while_flushing(sink: Sink, records: Sequence[Record]) -> None:
    """The loop thread writes while the snapshot thread flushes."""
    failures: list[BaseException] = []
    is_done = threading.Event()

    def flush_on() -> None:
        try:
            while not is_done.is_set():
                sink.flush()
        except BaseException as error:  # reported by the thread that asserts
            failures.append(error)

    thread = threading.Thread(target=flush_on)
    thread.start()
    try:
        for record in records:
            sink.write([record])
    finally:
        is_done.set()
        thread.join()
    assert not failures, f"flush() from another thread failed: {failures[0]!r}"


def _check_arrived(
    read: Callable[[], list[Record]], expected: list[Record], when: str, patience_s: float
) -> None:
    deadline = time.monotonic() + patience_s
    got = read()
    while len(got) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.01)
        got = read()
    for n, (record, wanted) in enumerate(zip(got, expected, strict=False)):
        assert record == wanted, f"{when}: record {n} is {record!r}, expected {wanted!r}"
    assert len(got) == len(expected), f"{when}: {len(got)} records arrived of {len(expected)}"

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.stdio import StdinSource, StdoutSink
from stream_rnn.spi import EndOfStream, Lag, NotConnected, SettingError
from stream_rnn.testing import check_sink, check_source


class Pipe:
    """A pipe whose source and sink believe it to be the standard streams."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def source(self, max_line_bytes: int = 1000) -> StdinSource:
        class PipeSource(StdinSource):
            fd = self.reader

        return PipeSource(max_line_bytes)

    def sink(self) -> StdoutSink:
        class PipeSink(StdoutSink):
            fd = self.writer

        return PipeSink()

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close_writer()
    pipe.close_reader()


def test_the_source_conforms() -> None:
    lines = [b'{"n": %d}' % n for n in range(20)]
    pipes: list[Pipe] = []

    def make() -> StdinSource:
        pipes.append(Pipe())
        os.write(pipes[-1].writer, b"\n".join(lines))
        pipes[-1].close_writer()
        return pipes[-1].source()

    check_source(make, expected=lines, slack_s=30.0)
    for pipe in pipes:
        pipe.close_reader()


def test_numbering_continues_after_the_position_resumed_from(pipe: Pipe) -> None:
    os.write(pipe.writer, b"a\n\nb\n")
    with pipe.source() as source:
        source.open({"stdin": 41})
        assert [(e.position, e.data) for e in source.poll(9, 1.0).events] == [
            (42, b"a"),
            (43, b"b"),
        ]


def test_an_unfinished_line_waits_for_its_end(pipe: Pipe) -> None:
    with pipe.source() as source:
        source.open(None)
        os.write(pipe.writer, b"a")
        assert not source.poll(9, 0.01).events
        os.write(pipe.writer, b"b\nc")
        assert [e.data for e in source.poll(9, 1.0).events] == [b"ab"]
        assert source.lag() is None
        pipe.close_writer()
        assert [e.data for e in source.poll(9, 1.0).events] == [b"c"]
        assert source.lag() == Lag(events=0)
        with pytest.raises(EndOfStream):
            source.poll(9, 1.0)


def test_a_line_beyond_the_limit_is_cut_and_counted(pipe: Pipe) -> None:
    payload = b"x" * 200_000 + b"\nnext\n" + b"1234567890\n"
    thread = threading.Thread(target=os.write, args=(pipe.writer, payload))
    thread.start()
    with pipe.source(max_line_bytes=10) as source:
        source.open(None)
        events = [source.poll(1, 5.0).events[0] for _ in range(3)]
        assert [event.data for event in events] == [b"x" * 10, b"next", b"1234567890"]
        assert source.counters() == {"long_lines": 1}
    thread.join()


def test_closed_standard_streams_are_refused() -> None:
    pipe = Pipe()
    source, sink = pipe.source(), pipe.sink()
    pipe.close_reader()
    pipe.close_writer()
    with pytest.raises(SettingError, match="standard input is closed"):
        source.open(None)
    with pytest.raises(SettingError, match="standard output is closed"):
        sink.open()
    with pytest.raises(NotConnected):
        source.poll(1, 0.0)


def test_the_sink_conforms(pipe: Pipe) -> None:
    got = b""

    def read() -> list[dict[str, object]]:
        nonlocal got
        os.set_blocking(pipe.reader, False)
        while True:
            try:
                got += os.read(pipe.reader, 65536)
            except BlockingIOError:
                return [json.loads(line) for line in got.splitlines()]

    check_sink(pipe.sink, read)


def test_a_reader_that_left_ends_the_stream_once_and_draining_succeeds(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    sink = pipe.sink()
    sink.open()
    pipe.close_reader()
    with pytest.raises(EndOfStream, match="reader of standard output is gone"):
        sink.write([{"n": 1}])
    sink.write([{"n": 2}])
    sink.flush()
    sink.close()
    assert caplog.text.count("is gone") == 1


def test_a_slow_reader_of_a_non_blocking_pipe_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    sink = pipe.sink()
    sink.open()
    got: list[bytes] = []

    def read() -> None:
        time.sleep(0.05)
        while sum(map(len, got)) < 300_011:
            got.append(os.read(pipe.reader, 65536))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    sink.write([{"text": "x" * 300_000}])
    thread.join(60)
    assert json.loads(b"".join(got)) == {"text": "x" * 300_000}


def test_the_real_standard_streams_are_descriptors_0_and_1() -> None:
    program = (
        "from connectors.stdio import StdinSource, StdoutSink\n"
        "source, sink = StdinSource(), StdoutSink()\n"
        "source.open(None); sink.open()\n"
        "events = source.poll(9, 60.0).events\n"
        "sink.write([{'data': e.data.decode()} for e in events])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=b"hello\nworld\n",
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == b'{"data":"hello"}\n{"data":"world"}\n'

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import zmq

from connectors.zeromq import ZeromqSink, ZeromqSource
from stream_rnn.spi import Event, NotConnected, SettingError
from stream_rnn.testing import check_sink, check_source

LINES = [b'{"n": %d}' % n for n in range(20)]
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy


class Context:
    """The other end: sockets that are closed after the test."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        self._sockets.append(self._context.socket(kind))
        self._sockets[-1].set(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        self._sockets[-1].set(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        return self._sockets[-1]

    def close(self) -> None:
        for peer in self._sockets:
            peer.close(linger=0)
        self._context.term()


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    yield context
    context.close()


def _bound(context: Context, kind: int) -> tuple[zmq.Socket[bytes], str]:
    peer = context.socket(kind)
    port = peer.bind_to_random_port("tcp://127.0.0.1")
    return peer, f"tcp://127.0.0.1:{port}"


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def _take(source: ZeromqSource, n: int, patience_s: float = PATIENCE_S) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + patience_s
    while len(events) < n and time.monotonic() < deadline:
        events.extend(source.poll(n - len(events), 0.1).events)
    return events


def _counts(source: ZeromqSource) -> dict[str, int]:
    return {name: count for name, count in source.counters().items() if count}


def test_the_pulling_source_conforms(context: Context) -> None:
    def make() -> ZeromqSource:
        peer, address = _bound(context, zmq.PUSH)

        class Fed(ZeromqSource):  # PUSH can send only once somebody is there
            def open(self, resume: Any) -> None:
                super().open(resume)
                for line in LINES:
                    peer.send(line)

        return Fed(address)

    def make_same_address() -> ZeromqSource:
        source = make()
        source._address = "tcp://producer:1"  # the partition, which a restart finds unchanged
        return source

    check_source(make_same_address, expected=LINES, slack_s=30.0)


def test_a_bound_source_takes_from_several_producers(context: Context) -> None:
    address = _free_address()
    with ZeromqSource(address, bind=True) as source:
        source.open(None)
        for name in (b"1", b"2"):
            peer = context.socket(zmq.PUSH)
            peer.connect(address)
            peer.send(name)
        assert sorted(event.data for event in _take(source, 2)) == [b"1", b"2"]


def test_a_subscriber_gets_its_topic_only_and_says_which(context: Context) -> None:
    peer, address = _bound(context, zmq.XPUB)
    with ZeromqSource(address, pattern="sub", topic="flow") as source:
        source.open(None)
        assert peer.recv() == b"\x01flow"
        peer.send_multipart([b"noise", b"0"])
        peer.send_multipart([b"flow.north", b"1"])
        (event,) = _take(source, 1)
    assert (event.data, event.headers) == (b"1", {"topic": "flow.north"})


def _number_frame(number: int) -> list[bytes]:
    return [number.to_bytes(8, "big"), b"{}"]


def _json_field(number: int) -> list[bytes]:
    return [b'{"deep": {"seq": [1, 2]}, "seq": %d, "x": [0.5]}' % number]


def _msgpack_field(number: int) -> list[bytes]:
    return [msgspec.msgpack.encode({"deep": {"seq": [1]}, "seq": number, "x": [0.5]})]


NUMBERINGS = [("frame", _number_frame), ("field:seq", _json_field), ("field:seq", _msgpack_field)]


@pytest.mark.parametrize(
    ("sequence", "message"), NUMBERINGS, ids=["frame", "json field", "msgpack field"]
)
@pytest.mark.parametrize(
    ("numbers", "counts"),
    [
        ([5, 6, 7], {}),
        ([5, 6, 9, 10], {"sequence_gaps": 2}),
        ([0, 2, 4], {"sequence_gaps": 2}),
        ([5, 6, 6, 7], {"sequence_reordered": 1}),
        ([5, 7, 6, 8], {"sequence_gaps": 1, "sequence_reordered": 1}),
        ([5, 6, 0, 1], {"sequence_restarts": 1}),
        ([5, 6, 1, 2], {"sequence_restarts": 1}),
        ([5, 2**62, 2**62 + 1], {"sequence_restarts": 1}),
    ],
    ids=str,
)
def test_numbers_tell_what_was_lost(
    context: Context,
    sequence: str,
    message: Callable[[int], list[bytes]],
    numbers: list[int],
    counts: dict[str, int],
) -> None:
    peer, address = _bound(context, zmq.PUSH)
    with ZeromqSource(address, sequence=sequence) as source:
        source.open(None)
        for number in numbers:
            peer.send_multipart(message(number))
        events = _take(source, len(numbers))
        assert [event.data for event in events] == [message(number)[-1] for number in numbers]
        assert _counts(source) == counts


def test_a_gap_across_a_reconnect_is_seen(context: Context) -> None:
    peer, address = _bound(context, zmq.PUSH)
    with ZeromqSource(address, sequence="frame") as source:
        source.open(None)
        peer.send_multipart(_number_frame(7))
        (event,) = _take(source, 1)
        source.open({event.partition: event.position})
        later: list[Event] = []
        for number in range(10, 2000):  # some may still go to the connection that was left
            peer.send_multipart(_number_frame(number))
            if later := _take(source, 1, 0.05):
                break
        assert later[0].position == event.position + 1
        assert _counts(source) == {"sequence_gaps": number - 8}


@pytest.mark.parametrize(
    ("sequence", "frames"),
    [
        ("frame", [b"{}"]),
        ("frame", [b"short", b"{}"]),
        ("field:seq", [b""]),
        ("field:seq", [b'{"other": 1}']),
        ("field:seq", [b'{"seq": "1"}']),
        ("field:seq", [b'{"seq": -1}']),
        ("field:seq", [b'{"x":' + b"[" * 100_000]),
        ("field:seq", [b"\xc1"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_messages_without_a_number_are_counted_and_delivered(
    context: Context, sequence: str, frames: list[bytes]
) -> None:
    peer, address = _bound(context, zmq.PUSH)
    with ZeromqSource(address, sequence=sequence) as source:
        source.open(None)
        peer.send_multipart(frames)
        (event,) = _take(source, 1)
        assert event.data == frames[-1]
        assert _counts(source) == {"unnumbered": 1}


def test_a_topic_stands_before_the_number(context: Context) -> None:
    peer, address = _bound(context, zmq.XPUB)
    with ZeromqSource(address, pattern="sub", sequence="frame") as source:
        source.open(None)
        peer.recv()
        for number in (1, 3):
            peer.send_multipart([b"topic", *_number_frame(number)])
        assert [dict(event.headers) for event in _take(source, 2)] == [{"topic": "topic"}] * 2
        assert _counts(source) == {"sequence_gaps": 1}


def test_a_message_of_too_many_frames_is_dropped_and_counted(context: Context) -> None:
    peer, address = _bound(context, zmq.PUSH)
    with ZeromqSource(address) as source:
        source.open(None)
        peer.send_multipart([b"x"] * 10_000)
        peer.send(b"next")
        (event,) = _take(source, 1)
        assert event.data == b"next"
        assert _counts(source) == {"malformed": 1}


def test_a_message_of_50_mb_comes_through(context: Context) -> None:
    peer, address = _bound(context, zmq.PUSH)
    with ZeromqSource(address) as source:
        source.open(None)
        peer.send(b"x" * 50_000_000)
        peer.send(b"next")
        assert [len(event.data) for event in _take(source, 2)] == [50_000_000, 4]


def test_a_message_beyond_the_limit_is_refused_and_the_source_goes_on(context: Context) -> None:
    address = _free_address()
    with ZeromqSource(address, bind=True, max_message_bytes=1000) as source:
        source.open(None)
        peer = context.socket(zmq.PUSH)
        peer.set(zmq.RECONNECT_IVL, 10)
        peer.connect(address)
        peer.send(b"x" * 1001)
        got: list[Event] = []
        for _ in range(5000):  # libzmq drops the connection, and what was queued on it
            peer.send(b"x" * 1000)
            if got := list(source.poll(1, 0.02).events):
                break
    assert [len(event.data) for event in got] == [1000]


def test_a_batch_of_large_messages_is_bounded_by_bytes(context: Context) -> None:
    peer, address = _bound(context, zmq.PUSH)
    with ZeromqSource(address) as source:
        source.open(None)
        for _ in range(4):
            peer.send(b"x" * 40_000_000)
        first = _take(source, 1)
        time.sleep(0.2)
        sizes = [len(source.poll(1000, PATIENCE_S).events)]
        assert len(first) == 1
        assert sizes[0] <= 2


@pytest.mark.parametrize(
    "address",
    [
        "tcp://*:5555",
        "tcp://0.0.0.0:5555",
        "tcp://[::]:5555",
        "tcp://192.168.1.4:5555",
        "tcp://eth0:5555",
        "tcp://127.example.com:5555",
    ],
)
def test_binding_beyond_loopback_needs_a_word(address: str) -> None:
    for connector in (ZeromqSource, ZeromqSink):
        with pytest.raises(SettingError, match=r"^address: binding to .* set insecure = true"):
            connector(address, bind=True)
        connector(address, bind=True, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_binding_to_loopback_is_fine(host: str) -> None:
    ZeromqSource(f"tcp://{host}:5555", bind=True)


def test_localhost_can_be_bound() -> None:
    address = _free_address().replace("127.0.0.1", "localhost")
    with ZeromqSource(address, bind=True) as source:
        source.open(None)


@pytest.mark.parametrize("address", ["", "127.0.0.1:5555", "tcp://h", "tcp://h:0", "tcp://h:70000"])
def test_a_malformed_address_is_refused_with_the_form(address: str) -> None:
    with pytest.raises(SettingError, match=r'^address: expected "tcp://HOST:PORT"'):
        ZeromqSource(address)


def test_an_address_in_use_is_refused_with_the_remedy(context: Context) -> None:
    _, address = _bound(context, zmq.PULL)
    expected = pytest.raises(SettingError, match=r"^address: cannot bind .*choose another port")
    with ZeromqSource(address, bind=True) as source, expected:
        source.open(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topic": "x"}, "topic: only pattern"),
        ({"sequence": "seq"}, "sequence: expected"),
        ({"sequence": "field:"}, "sequence: expected"),
        ({"receive_hwm": 0}, "receive_hwm: must"),
        ({"max_message_bytes": 0}, "max_message_bytes: must"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        ZeromqSource(**settings)


def test_nobody_there_is_an_empty_poll_within_the_timeout() -> None:
    with ZeromqSource(_free_address()) as source:
        source.open(None)
        began = time.monotonic()
        assert not source.poll(10, 0.05).events
        assert 0.04 < time.monotonic() - began < PATIENCE_S / 2
    with pytest.raises(NotConnected):
        source.poll(10, 0.05)


def test_the_pushing_sink_conforms(context: Context) -> None:
    puller, address = _bound(context, zmq.PULL)
    got: list[dict[str, Any]] = []

    def read() -> list[dict[str, Any]]:
        while puller.poll(0):
            got.append(json.loads(puller.recv()))
        # Two connections, of the sink closed and the sink opened, may arrive in any order.
        return sorted(got, key=lambda record: record["n"])

    check_sink(lambda: ZeromqSink(address), read)


def test_a_publishing_sink_puts_the_topic_before_the_record(context: Context) -> None:
    address = _free_address()
    with contextlib.closing(
        ZeromqSink(address, pattern="pub", bind=True, topic="predictions")
    ) as sink:
        sink.open()
        subscriber = context.socket(zmq.SUB)
        subscriber.subscribe("pred")
        subscriber.connect(address)
        for _ in range(3000):
            sink.write([{"n": 1}])
            if subscriber.poll(20):
                break
        assert subscriber.recv_multipart() == [b"predictions", b'{"n":1}']


def test_a_sink_without_reader_drops_counts_and_says_so_once(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "connectors.zeromq")
    address = _free_address()
    with contextlib.closing(ZeromqSink(address, bind=True, send_hwm=1)) as sink:
        sink.open()
        began = time.monotonic()
        sink.write([{"n": n} for n in range(1000)])
        assert time.monotonic() - began < PATIENCE_S / 2
        assert sink.counters() == {"dropped": 1000}
        assert caplog.text.count("records are dropped") == 1
        puller = context.socket(zmq.PULL)
        puller.connect(address)
        for _ in range(3000):
            sink.write([{"n": -1}])
            if puller.poll(20):
                break
        assert puller.recv() == b'{"n":-1}'
        assert caplog.text.count("records leave again") == 1


def test_closing_a_sink_whose_reader_never_came_does_not_hang() -> None:
    sink = ZeromqSink(_free_address())
    sink.open()
    sink.write([{"n": 1}])
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < PATIENCE_S / 2
    with pytest.raises(NotConnected):
        sink.write([{"n": 2}])


@pytest.mark.slow
def test_a_long_backlog_behind_a_full_queue_does_not_end_the_process() -> None:
    """A reader that stalls for longer than a heartbeat waits lost messages, or libzmq aborted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    script = f"""
import threading, time, zmq
from connectors.zeromq import ZeromqSource

address = "tcp://127.0.0.1:{port}"

def produce():
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set(zmq.SNDHWM, 1)
        socket.connect(address)
        for n in range(20_000):
            socket.send(b"x" * 4096)

source = ZeromqSource(address, bind=True, receive_hwm=1)
source.open(None)
threading.Thread(target=produce, daemon=True).start()
time.sleep(26)
n, give_up = 0, time.monotonic() + 300
while n < 20_000 and time.monotonic() < give_up:
    n += len(source.poll(256, 1.0).events)
source.close()
print(n)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=500, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "20000"), done.stderr

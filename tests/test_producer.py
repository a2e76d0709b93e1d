"""Between producer and source nothing is lost and nothing comes twice, whatever breaks."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from connectors.zeromq_router import ZeromqRouterSource
from stream_rnn.producer import ACK, DATA, HELLO, WELCOME, Producer, Refused
from stream_rnn.spi import Event, Position

ROOT = Path(__file__).parents[1]
BEAT_S = 0.1
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy


class Daemon:
    """A source that is polled all the time and remembers what it applied and what is durable."""

    def __init__(self, address: str, resume: Position | None = None, **arguments: Any) -> None:
        self.events: list[Event] = []
        self.resume: dict[str, Any] = dict(resume or {})
        self.source = ZeromqRouterSource(address, **arguments)
        self.source.open(resume)
        self.most = 256  # events per poll
        self.saves = True
        self._lock = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            with self._lock:
                batch = self.source.poll(self.most, 0.01)
                self.events += batch.events
                if self.saves and batch.resume != self.resume:
                    self.resume = dict(batch.resume)
                    self.source.ack(self.resume)

    def stall(self) -> threading.Lock:
        """A tick that takes long: nothing is polled while the lock is held."""
        return self._lock

    def numbers(self, name: str = "p") -> list[int]:
        return [int(e.position) for e in self.events if e.partition == f"producer/{name}"]

    def wait_for(self, n: int, patience_s: float = PATIENCE_S) -> None:
        until = time.monotonic() + patience_s
        while len(self.events) < n and time.monotonic() < until:
            time.sleep(0.005)
        assert len(self.events) >= n, f"{len(self.events)} of {n} events came"

    def close(self) -> None:
        """As a kill does: what is not durable is forgotten. May be called again."""
        self._stopping = True
        self._thread.join()
        self.source.close()


class Proxy:
    """A TCP connection that can be cut, left half open, and made slow."""

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.delay_s = 0.0
        self.frozen: set[int] = set()
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            number = len(self._threads)
            self._pairs[number] = (near, far)
            for one, other in ((near, far), (far, near)):
                self._threads.append(
                    threading.Thread(target=self._carry, args=(number, one, other))
                )
                self._threads[-1].start()

    def _carry(self, number: int, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(4096):
                time.sleep(self.delay_s)
                if number not in self.frozen:
                    other.sendall(data)
        except OSError:
            pass  # cut
        self._shut(one, other)

    def cut(self) -> None:
        for pair in self._pairs.values():
            self._shut(*pair)

    def _shut(self, *pair: socket.socket) -> None:
        for each in pair:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # shut before

    def freeze(self) -> None:
        """From now on these connections swallow everything and stay open."""
        self.frozen |= set(self._pairs)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for pair in self._pairs.values():
            for each in pair:
                each.close()


@pytest.fixture
def address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Closes what it is given, the newest first."""
    given: list[Any] = []

    def keep(each: Any) -> Any:
        given.append(each)
        return each

    yield keep
    for each in reversed(given):
        each.close()


Closing = Callable[[Any], Any]


def producer_of(address: str, name: str = "p", **arguments: Any) -> Producer:
    return Producer(address, name, heartbeat_s=BEAT_S, **arguments)


def send(producer: Producer, first: int, last: int) -> None:
    for n in range(first, last + 1):
        assert producer.send(b"event %d" % n, timeout_s=PATIENCE_S) == n


def wait_until(is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)


# ---------------------------------------------------------------------- alone


def test_the_file_works_outside_of_the_package_and_without_torch(tmp_path: Path) -> None:
    shutil.copy(ROOT / "stream_rnn" / "producer.py", tmp_path / "producer.py")
    code = "import sys, producer; print(*sorted(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert not {"torch", "stream_rnn", "msgspec"} & set(run.stdout.split())


def test_importing_it_from_the_package_brings_no_torch() -> None:
    code = "import sys, stream_rnn.producer; print(*sorted(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = {name for name in run.stdout.split() if name.startswith("stream_rnn")}
    assert ours == {"stream_rnn", "stream_rnn.producer"}
    assert "torch" not in run.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "a b"}, "id: expected"),
        ({"address": "127.0.0.1:1"}, "address: expected"),
        ({"buffer_events": 0}, "buffer_events"),
        ({"curve_server_key": "x"}, "all or none"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Producer(**{"address": "tcp://127.0.0.1:5555", "id": "p"} | arguments)


def test_without_a_source_it_waits_no_longer_than_it_is_told(
    address: str, closing: Closing
) -> None:
    producer = closing(producer_of(address))
    for wait in (producer.connect, lambda t: producer.send(b"x", timeout_s=t)):
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="did not answer"):
            wait(0.05)
        assert time.monotonic() - began < PATIENCE_S / 2


def test_a_program_that_forgets_to_close_ends(address: str) -> None:
    code = f"""
from stream_rnn.producer import Producer
p = Producer({address!r}, "p")
p.send(b"x", seq=1)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False)
    assert run.returncode == 0


def test_a_closed_producer_takes_nothing(address: str) -> None:
    producer = producer_of(address)
    producer.close()
    with pytest.raises(RuntimeError, match="closed"):
        producer.send(b"x", seq=1)


# ---------------------------------------------------------------------- with a source


def test_every_event_arrives_once_and_in_order(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    with producer_of(address) as producer:
        send(producer, 1, 5000)
    assert daemon.numbers() == list(range(1, 5001))
    assert [event.data for event in daemon.events[:2]] == [b"event 1", b"event 2"]
    assert producer.acknowledged == 5000


def test_flush_waits_for_the_snapshot(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    daemon.saves = False
    producer = closing(producer_of(address))
    send(producer, 1, 10)
    daemon.wait_for(10)
    assert not producer.flush(0.2)
    assert (producer.acknowledged, producer.n_kept) == (0, 10)
    daemon.saves = True
    assert producer.flush(PATIENCE_S)
    assert (producer.acknowledged, producer.n_kept) == (10, 0)


def test_an_acknowledgment_that_answers_an_older_hello_still_counts(
    address: str, closing: Closing
) -> None:
    """A source's last word before it ends must not be lost because the producer had asked anew."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.set(zmq.LINGER, 0)
        router.bind(address)
        producer = closing(producer_of(address))
        sender = threading.Thread(target=lambda: send(producer, 1, 3))
        sender.start()
        while True:
            route, *frames = router.recv_multipart()
            if frames[0].startswith(HELLO):
                turn = int.from_bytes(frames[0][13:21], "big")
                router.send_multipart([route, WELCOME + status(turn, last=0, acked=0)])
            elif frames[0].startswith(DATA) and frames[0].endswith(b"\x03"):
                break
        sender.join()
        router.send_multipart([route, ACK + status(turn - 1, last=3, acked=3)])
        producer.flush(60)
        assert producer.acknowledged == 3


def status(turn: int, last: int, acked: int) -> bytes:
    return struct.pack(">QQQQQQQ", turn, last, acked, last, 1000, 1 << 20, 1 << 20)


def test_a_full_buffer_blocks_until_a_snapshot_makes_room(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    daemon.saves = False
    producer = closing(producer_of(address, buffer_events=5))
    send(producer, 1, 5)
    with pytest.raises(TimeoutError, match="5 events are kept"):
        producer.send(b"x", timeout_s=0.1)
    daemon.saves = True
    send(producer, 6, 20)


def test_the_buffer_is_bounded_in_bytes_too(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    daemon.saves = False
    producer = closing(producer_of(address, buffer_bytes=100))
    assert producer.send(b"x" * 1000) == 1  # one event always fits
    with pytest.raises(TimeoutError):
        producer.send(b"x", timeout_s=0.1)


@pytest.mark.parametrize(
    "limit", [{"credit": 10}, {"memory_bytes": 100}, {"memory_bytes": 1}], ids=str
)
def test_a_stalled_daemon_receives_no_more_than_the_credit(
    address: str, closing: Closing, limit: dict[str, int]
) -> None:
    daemon = closing(Daemon(address, **limit))
    producer = closing(producer_of(address))
    with daemon.stall():
        pass  # it polls
    producer.connect(PATIENCE_S)
    with daemon.stall():
        for n in range(1, 201):
            producer.send(b"event %3d" % n)
        time.sleep(0.2)
        assert producer._sent <= 100 // 9
    daemon.wait_for(200)
    assert daemon.numbers() == list(range(1, 201))
    assert daemon.source.counters()["over_credit"] == 0


def test_a_slow_consumer_slows_the_producer_and_loses_nothing(
    address: str, closing: Closing
) -> None:
    daemon = closing(Daemon(address, credit=8))
    daemon.most = 1
    producer = closing(producer_of(address, buffer_events=20))
    send(producer, 1, 300)
    daemon.wait_for(300)
    assert daemon.numbers() == list(range(1, 301))


def test_a_daemon_that_is_busy_for_long_is_waited_for(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    producer = closing(producer_of(address))
    send(producer, 1, 10)
    daemon.wait_for(10)
    with daemon.stall():
        time.sleep(8 * BEAT_S)  # silent for longer than the producer's patience
        send(producer, 11, 20)
    daemon.wait_for(20)
    send(producer, 21, 30)
    daemon.wait_for(30)
    assert daemon.numbers() == list(range(1, 31))


def test_two_producers_are_kept_apart(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    one, two = closing(producer_of(address, "one")), closing(producer_of(address, "two"))
    for n in range(1, 501):
        assert one.send(b"1") == n
        assert two.send(b"2") == n
    assert one.flush(PATIENCE_S)
    assert two.flush(PATIENCE_S)
    for name, data in (("one", b"1"), ("two", b"2")):
        assert daemon.numbers(name) == list(range(1, 501))
        assert {e.data for e in daemon.events if e.partition.endswith(name)} == {data}


def test_threads_may_share_a_producer(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    producer = closing(producer_of(address, buffer_events=50))
    threads = [
        threading.Thread(target=lambda: [producer.send(b"x") for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert producer.flush(PATIENCE_S)
    assert daemon.numbers() == list(range(1, 801))


def test_the_older_of_two_live_producers_with_one_id_is_told(
    address: str, closing: Closing
) -> None:
    closing(Daemon(address))
    old = closing(producer_of(address))
    send(old, 1, 3)
    assert old.flush(PATIENCE_S)
    new = closing(producer_of(address))
    assert new.connect(PATIENCE_S) == 3
    wait_until(lambda: old.refused is not None)
    with pytest.raises(Refused, match="superseded"):
        old.send(b"x")
    assert new.send(b"event 4") == 4
    assert new.flush(PATIENCE_S)


def test_an_event_larger_than_the_source_takes_is_refused_at_once(
    address: str, closing: Closing
) -> None:
    closing(Daemon(address, max_message_bytes=100))
    producer = closing(producer_of(address))
    producer.connect(PATIENCE_S)
    with pytest.raises(ValueError, match="event of 101 bytes: the source takes 100"):
        producer.send(b"x" * 101)
    assert producer.send(b"x" * 100) == 1
    assert producer.flush(PATIENCE_S)


def test_an_event_kept_that_is_too_large_is_told_instead_of_sent_for_ever(
    address: str, closing: Closing
) -> None:
    producer = closing(producer_of(address))
    producer.send(b"x" * 101, seq=1)
    daemon = closing(Daemon(address, max_message_bytes=100))
    with pytest.raises(Refused, match="too_large"):
        producer.flush(PATIENCE_S)
    assert daemon.source.counters()["malformed"] == 0


def test_curve_carries_events_and_keeps_others_out(
    address: str, closing: Closing, tmp_path: Path
) -> None:
    (server, server_secret), (public, secret), (other, other_secret) = (
        tuple(key.decode() for key in zmq.curve_keypair()) for _ in range(3)
    )
    path = tmp_path / "keys"
    path.write_text(public)
    daemon = closing(Daemon(address, curve_secret_key=server_secret, curve_keys=str(path)))

    def producer(public: str, secret: str, name: str) -> Producer:
        made: Producer = closing(
            producer_of(
                address,
                name,
                curve_server_key=server,
                curve_public_key=public,
                curve_secret_key=secret,
            )
        )
        return made

    known = producer(public, secret, "known")
    send(known, 1, 100)
    assert known.flush(PATIENCE_S)
    with pytest.raises(TimeoutError):
        producer(other, other_secret, "other").connect(0.5)
    assert daemon.numbers("known") == list(range(1, 101))


# ---------------------------------------------------------------------- what breaks


def test_a_cut_connection_loses_and_doubles_nothing(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    proxy = closing(Proxy(address))
    producer = closing(producer_of(proxy.address))
    for round_ in range(5):
        send(producer, 400 * round_ + 1, 400 * (round_ + 1))
        proxy.cut()
    assert producer.flush(PATIENCE_S)
    assert daemon.numbers() == list(range(1, 2001))


def test_a_half_open_connection_is_noticed_and_left(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    proxy = closing(Proxy(address))
    producer = closing(producer_of(proxy.address))
    send(producer, 1, 100)
    daemon.wait_for(100)
    proxy.freeze()
    send(producer, 101, 200)
    assert producer.flush(PATIENCE_S)
    assert daemon.numbers() == list(range(1, 201))


def test_a_slow_line_changes_nothing(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address, credit=50))
    proxy = closing(Proxy(address))
    proxy.delay_s = 0.02
    producer = closing(producer_of(proxy.address))
    send(producer, 1, 500)
    assert producer.flush(PATIENCE_S)
    assert daemon.numbers() == list(range(1, 501))
    assert daemon.source.counters()["over_credit"] == 0


def test_a_killed_daemon_gets_again_what_was_in_no_snapshot(address: str, closing: Closing) -> None:
    first = closing(Daemon(address))
    producer = closing(producer_of(address))
    send(producer, 1, 300)
    assert producer.flush(PATIENCE_S)
    first.saves = False
    send(producer, 301, 500)
    first.wait_for(500)
    first.close()
    send(producer, 501, 600)
    second = closing(Daemon(address, first.resume))
    assert producer.flush(PATIENCE_S)
    assert second.numbers() == list(range(301, 601))


def test_an_older_snapshot_than_the_one_acknowledged_is_a_gap_told_to_both(
    address: str, closing: Closing, caplog: pytest.LogCaptureFixture
) -> None:
    first = closing(Daemon(address))
    producer = closing(producer_of(address))
    send(producer, 1, 300)
    assert producer.flush(PATIENCE_S)
    first.close()
    second = closing(Daemon(address, {"producer/p": 200}))
    send(producer, 301, 310)  # kept while there is room
    with pytest.raises(Refused, match=r"gap: events 201 to 300 of producer p are missing"):
        producer.flush(PATIENCE_S)
    assert second.events == []
    second.close()
    third = closing(Daemon(address, {"producer/p": 200}, on_gap="accept"))
    wait_until(lambda: producer.refused is None)
    assert producer.flush(PATIENCE_S)
    assert third.numbers() == list(range(301, 311))
    assert third.source.counters()["gap_events"] == 100


# ---------------------------------------------------------------------- a producer that dies


def test_a_caller_with_a_log_goes_on_behind_what_is_durable(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address))
    first = closing(producer_of(address))
    for seq in range(1, 101):
        first.send(b"event %d" % seq, seq)
    assert first.flush(PATIENCE_S)
    daemon.saves = False
    for seq in range(101, 151):
        first.send(b"event %d" % seq, seq)
    daemon.wait_for(150)
    first.close()
    second = closing(producer_of(address))
    assert second.connect(PATIENCE_S) == second.resume_after == 100  # 150 are taken, 100 durable
    for seq in range(second.resume_after + 1, 201):
        second.send(b"event %d" % seq, seq)
    daemon.wait_for(200)
    assert daemon.numbers() == list(range(1, 201))


def test_both_dead_and_the_log_still_brings_everything_back(address: str, closing: Closing) -> None:
    """The case that needs `resume_after` to be what is durable, not what was taken."""
    daemon = closing(Daemon(address))
    daemon.saves = False
    first = closing(producer_of(address))
    for seq in range(1, 51):
        first.send(b"event %d" % seq, seq)
    daemon.wait_for(50)
    first.close()
    second = closing(producer_of(address))
    second.connect(PATIENCE_S)
    daemon.close()
    for seq in range((second.resume_after or 0) + 1, 101):
        second.send(b"event %d" % seq, seq)
    daemon = closing(Daemon(address))
    assert second.flush(PATIENCE_S)
    assert daemon.numbers() == list(range(1, 101))


def test_replaying_a_whole_log_passes_over_what_is_durable(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address, {"producer/p": 60}))
    producer = closing(producer_of(address))
    for seq in range(1, 101):
        producer.send(b"event %d" % seq, seq)
    assert producer.flush(PATIENCE_S)
    assert daemon.numbers() == list(range(61, 101))


@pytest.mark.parametrize("seq", [0, -1, 7, 9])
def test_a_number_that_does_not_follow_is_refused(address: str, closing: Closing, seq: int) -> None:
    producer = closing(producer_of(address))
    for n in range(1, 8):
        producer.send(b"x", n)
    with pytest.raises(ValueError, match="seq: "):
        producer.send(b"x", seq)


def test_a_number_beyond_what_the_source_needs_is_refused(address: str, closing: Closing) -> None:
    closing(Daemon(address, {"producer/p": 5}))
    producer = closing(producer_of(address))
    producer.connect(PATIENCE_S)
    with pytest.raises(ValueError, match="seq: 6 is the next one the source needs, got 7"):
        producer.send(b"x", 7)


def test_a_producer_without_memory_numbers_on(address: str, closing: Closing) -> None:
    daemon = closing(Daemon(address, {"producer/p": 41}))
    producer = closing(producer_of(address))
    assert producer.send(b"x", timeout_s=PATIENCE_S) == 42
    daemon.wait_for(1)
    assert daemon.numbers() == [42]


KILLED = """
import os, signal, sys
from stream_rnn.producer import Producer
p = Producer(sys.argv[1], "p", spool=sys.argv[2], heartbeat_s=0.1)
while True:
    n = p.send(b"event")
    if n == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_producer_finds_its_events_in_its_spool(
    address: str, closing: Closing, tmp_path: Path
) -> None:
    daemon = closing(Daemon(address))
    daemon.saves = False
    spool = tmp_path / "spool"
    for last in (500, 1200):
        command = [sys.executable, "-c", KILLED, address, str(spool), str(last)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    with producer_of(address, spool=spool) as producer:
        assert producer.n_kept == 1200
        daemon.saves = True
        assert producer.send(b"event") == 1201
    assert daemon.numbers() == list(range(1, 1202))
    assert spool.stat().st_size == len(b"SRSPOOL1")


@pytest.mark.parametrize("damage", ["torn", "flipped", "zeros"])
def test_a_damaged_end_of_a_spool_is_cut_off_and_kept_beside(
    address: str, tmp_path: Path, damage: str, closing: Closing
) -> None:
    daemon = closing(Daemon(address))
    daemon.saves = False
    spool = tmp_path / "spool"
    producer = closing(producer_of(address, spool=spool, fsync=True))
    send(producer, 1, 10)
    producer.close()
    daemon.close()
    content = spool.read_bytes()
    size = (len(content) - 8 - 1) // 10  # the last event is longer by one digit
    torn = {
        "torn": content[:-3],
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "zeros": content[: -size - 1] + bytes(size + 1),
    }[damage]
    spool.write_bytes(torn)
    again = closing(producer_of(address, spool=spool))
    assert again.n_kept == 9
    assert torn.endswith((tmp_path / "spool.damaged").read_bytes())
    daemon = closing(Daemon(address))
    assert again.send(b"event 10", timeout_s=PATIENCE_S) == 10
    again.close()
    third = closing(producer_of(address, spool=spool))
    assert third.n_kept <= 10
    assert third.flush(PATIENCE_S)
    assert daemon.numbers() == list(range(1, 11))


def test_a_spool_shrinks_as_events_become_durable(
    address: str, closing: Closing, tmp_path: Path
) -> None:
    daemon = closing(Daemon(address))
    spool = tmp_path / "spool"
    producer = closing(producer_of(address, spool=spool))
    most = 0
    for n in range(1000):
        producer.send(b"x" * 10_000)
        most = max(most, spool.stat().st_size)
        assert n % 50 or producer.flush(PATIENCE_S)
    assert producer.flush(PATIENCE_S)
    assert most < 1 << 20 | 3 * 50 * 10_100
    daemon.saves = False
    assert [producer.send(b"y"), producer.send(b"y")] == [1001, 1002]
    producer.close()
    assert closing(producer_of(address, spool=spool)).n_kept == 2


def test_a_spool_has_one_owner(address: str, closing: Closing, tmp_path: Path) -> None:
    closing(producer_of(address, spool=tmp_path / "spool"))
    with pytest.raises(OSError, match="another producer has"):
        producer_of(address, spool=tmp_path / "spool")


def test_a_file_that_is_no_spool_is_left_alone(address: str, tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ada,")
    with pytest.raises(ValueError, match="is no spool"):
        producer_of(address, spool=path)
    assert path.read_text() == "Dear Ada,"

"""The source's side of docs/zeromq-protocol.md, spoken to by hand."""

import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.zeromq_router import ZeromqRouterSource
from stream_rnn.producer import Producer
from stream_rnn.spi import Event, Guarantee, NotConnected, Position, SettingError
from stream_rnn.testing import check_source

LINES = [b'{"n": %d}' % n for n in range(6)]
NONCE, OTHER = b"first   ", b"second  "
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy
Status = dict[str, int]
Until = Callable[..., None]


def free_address() -> str:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as probe:
        return f"tcp://127.0.0.1:{probe.bind_to_random_port('tcp://127.0.0.1')}"


class Peer:
    """A producer that says exactly what it is told to."""

    def __init__(self, address: str, **options: Any) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.turn = 0
        for name, value in options.items():
            self.socket.set(getattr(zmq, name), value)
        self.socket.connect(address)

    def hello(
        self, oldest: int = 0, newest: int = 0, name: bytes = b"p", nonce: bytes = NONCE
    ) -> None:
        self.turn += 1
        head = b"SRP1H" + struct.pack(">8sQQQ", nonce, self.turn, oldest, newest)
        self.socket.send_multipart([head, name])

    def data(self, *numbers: int) -> None:
        for seq in numbers:
            self.socket.send_multipart([b"SRP1D" + seq.to_bytes(8, "big"), b"event %d" % seq])

    def ping(self, sent: int = 0, newest: int = 0) -> None:
        self.socket.send(b"SRP1P" + struct.pack(">QQ", sent, newest))

    def heard(self) -> list[tuple[str, Any]]:
        """What has come: ("W", status), ("E", code)..."""
        said: list[tuple[str, Any]] = []
        while self.socket.poll(0):
            head, *rest = self.socket.recv_multipart()
            assert head[:4] == b"SRP1"
            names = ("turn", "last", "acked", "taken", "credit", "share", "largest")
            status = (
                dict(zip(names, struct.unpack(">7Q", head[5:]), strict=True)) if head[5:] else 0
            )
            said.append((head[4:5].decode(), rest[0].decode() if rest else status))
        return said

    def close(self) -> None:
        self.socket.close()
        self.context.term()


class Place:
    """A source and its peers."""

    def __init__(self) -> None:
        self.address = free_address()
        self._closed: list[Any] = []

    def source(self, resume: Position | None = None, **arguments: Any) -> ZeromqRouterSource:
        source = ZeromqRouterSource(self.address, **arguments)
        self._closed.append(source)
        source.open(resume)
        return source

    def peer(self, **options: Any) -> Peer:
        peer = Peer(self.address, **options)
        self._closed.append(peer)
        return peer

    def close(self) -> None:
        for each in reversed(self._closed):
            each.close()


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


def take(source: ZeromqRouterSource, n: int, counters: dict[str, int] | None = None) -> list[Event]:
    """Poll until `n` events came and these counters stand so; then what else there is, at once."""
    events: list[Event] = []
    until = time.monotonic() + PATIENCE_S
    while len(events) < n or any(source.counters()[c] < v for c, v in (counters or {}).items()):
        assert time.monotonic() < until, f"{len(events)} of {n} came; {source.counters()}"
        events += source.poll(1000, 0.02).events
    return [*events, *source.poll(1000, 0.02).events]


def answer(source: ZeromqRouterSource, peer: Peer, n: int = 1) -> list[tuple[str, Any]]:
    """Poll until the peer has heard `n` things."""
    said: list[tuple[str, Any]] = []
    until = time.monotonic() + PATIENCE_S
    while len(said) < n:
        assert time.monotonic() < until, f"heard {said}"
        assert not source.poll(0, 0.02).events
        said += peer.heard()
    return said


def numbers(events: list[Event]) -> list[int]:
    return [int(event.position) for event in events]


# ---------------------------------------------------------------------- the contract


def test_the_source_conforms(place: Place) -> None:
    producers: list[Producer] = []

    def make() -> ZeromqRouterSource:
        while producers:
            producers.pop().close()
        producer = Producer(place.address, "kit", heartbeat_s=0.5)
        for seq, line in enumerate(LINES, 1):
            producer.send(line, seq)
        producers.append(producer)
        return ZeromqRouterSource(place.address)

    try:
        check_source(make, expected=LINES, slack_s=30.0)
    finally:
        while producers:
            producers.pop().close()


def test_an_event_stands_under_its_producers_name_and_number(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello(name=b"sensor-7")
    peer.data(1, 2)
    assert take(source, 2) == [
        Event("producer/sensor-7", 1, b"event 1"),
        Event("producer/sensor-7", 2, b"event 2"),
    ]
    assert source.poll(10, 0).resume == {"producer/sensor-7": 2}


def test_it_promises_replay_and_less_where_gaps_are_accepted() -> None:
    assert ZeromqRouterSource().guarantee is Guarantee.REPLAYABLE
    assert ZeromqRouterSource(on_gap="accept").guarantee is Guarantee.ACKABLE


def test_poll_before_open_says_so() -> None:
    with pytest.raises(NotConnected):
        ZeromqRouterSource().poll(1, 0.0)


# ---------------------------------------------------------------------- hello


def test_a_welcome_tells_where_the_snapshot_stands(place: Place) -> None:
    source, peer = place.source({"producer/p": 41}, credit=7), place.peer()
    peer.hello()
    ((kind, status),) = answer(source, peer)
    assert kind == "W"
    assert (status["last"], status["acked"], status["taken"], status["credit"]) == (41, 41, 41, 7)


def test_who_did_not_say_hello_is_asked_who_it_is(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.data(1)
    peer.ping()
    assert answer(source, peer) == [("S", 0)]
    assert take(source, 0, {"strangers": 1}) == []
    assert source.counters()["strangers"] == 1


def test_a_new_connection_is_greeted_at_once(place: Place) -> None:
    source, peer = place.source(), place.peer(PROBE_ROUTER=1)
    assert answer(source, peer) == [("S", 0)]


def test_a_newer_life_of_a_producer_supersedes_the_older_one(place: Place) -> None:
    source, old, new = place.source(), place.peer(), place.peer()
    old.hello()
    answer(source, old)
    new.hello(nonce=OTHER)
    assert [(kind, status["turn"]) for kind, status in answer(source, new, 2)] == [
        ("A", 0),
        ("W", 1),
    ]
    assert answer(source, old) == [("E", "superseded")]
    old.data(1)
    new.data(1)
    assert len(take(source, 1)) == 1
    old.hello()  # back from behind a cut cable
    assert answer(source, old)[-1] == ("E", "superseded")
    assert source.counters()["superseded"] == 1


def test_the_same_life_on_another_connection_goes_on(place: Place) -> None:
    source, old, new = place.source(), place.peer(), place.peer()
    old.hello()
    old.data(1, 2)
    assert len(take(source, 2)) == 2
    assert answer(source, old)[0][0] == "W"
    new.turn = old.turn
    new.hello(1, 2)
    ((kind, status),) = answer(source, new)
    assert (kind, status["last"]) == ("W", 2)
    assert [kind for kind, _ in old.heard() if kind == "E"] == []
    old.turn -= 1
    old.hello(1, 2)  # comes late, from a connection that is no more
    new.data(3)
    assert numbers(take(source, 1)) == [3]


def test_the_last_word_of_a_dead_producer_does_not_supersede_its_successor(place: Place) -> None:
    source, new = place.source(), place.peer()
    new.hello(nonce=OTHER)
    answer(source, new)
    old = Peer(place.address)
    old.hello()
    time.sleep(0.1)  # it is in our queue
    old.close()
    time.sleep(0.1)  # and its connection is gone
    new.data(1)
    assert numbers(take(source, 1)) == [1]
    new.data(2)
    assert numbers(take(source, 1)) == [2]
    assert source.counters()["superseded"] == 0


def test_one_producer_more_than_allowed_is_turned_away(place: Place) -> None:
    source, one, two = place.source(max_producers=1), place.peer(), place.peer()
    one.hello(name=b"one")
    answer(source, one)
    two.hello(name=b"two")
    assert answer(source, two) == [("E", "full")]
    assert source.counters()["turned_away"] == 1


@pytest.mark.parametrize("name", [b"", b"a b", b"\xff", b"x" * 129, b"a\n"], ids=repr)
def test_an_id_that_cannot_be_printed_is_refused(place: Place, name: bytes) -> None:
    source, peer = place.source(), place.peer()
    peer.hello(name=name)
    assert answer(source, peer) == [("E", "malformed")]


def test_another_version_of_the_protocol_is_told(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.socket.send_multipart([b"SRP2H", b"whatever"])
    assert answer(source, peer) == [("E", "version")]


# ---------------------------------------------------------------------- events


def test_doubles_are_dropped_and_counted(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello()
    peer.data(1, 2, 1, 2, 3)
    assert numbers(take(source, 3)) == [1, 2, 3]
    assert source.counters()["doubles"] == 2


def test_what_is_beyond_a_missing_event_is_asked_for_again(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello()
    answer(source, peer)
    peer.data(1, 3, 4)
    assert numbers(take(source, 1, {"out_of_order": 2})) == [1]
    peer.data(2, 3, 4)
    assert numbers(take(source, 3)) == [2, 3, 4]
    peer.ping(sent=4, newest=4)
    said = answer(source, peer, 2)
    while said[-1][1]["last"] < 4:
        said += answer(source, peer)
    asked = [status["last"] for kind, status in said if kind == "W"]
    assert asked == [1]  # once, not for each of them
    assert source.counters()["out_of_order"] == 2


def test_a_lost_tail_is_noticed_by_the_next_ping(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello()
    answer(source, peer)
    peer.data(1)
    assert numbers(take(source, 1)) == [1]
    peer.ping(sent=2, newest=2)
    said = answer(source, peer)
    while not (asked := [status for kind, status in said if kind == "W"]):
        said = answer(source, peer)
    assert [status["last"] for status in asked] == [1]


def test_a_ping_is_answered_even_if_nothing_is_new(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello()
    answer(source, peer)
    for _ in range(2):
        peer.ping()
        assert [kind for kind, _ in answer(source, peer)] == ["A"]


def test_only_a_durable_snapshot_acknowledges(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello()
    peer.data(*range(1, 11))
    take(source, 10)
    peer.ping(10, 10)
    said = answer(source, peer)
    while said[-1][1]["taken"] < 10:
        said += answer(source, peer)
    assert {status["acked"] for _, status in said} == {0}
    source.ack({"producer/p": 7, "producer/unknown": 3})
    while (status := answer(source, peer)[-1][1])["acked"] == 0:
        continue  # said before
    assert (status["acked"], status["taken"]) == (7, 10)


def test_events_taken_and_not_saved_are_not_acknowledged_by_opening_again(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello()
    answer(source, peer)
    peer.data(1, 2, 3)
    assert numbers(take(source, 3)) == [1, 2, 3]
    source.ack({"producer/p": 1})
    source.open({"producer/p": 3})  # as after a broken connection: where the loop stands
    peer.hello(1, 3)
    said: list[tuple[str, Any]] = []
    while not any(kind == "W" for kind, _ in said):
        said = answer(source, peer)
    (status,) = (status for kind, status in said if kind == "W")
    assert (status["last"], status["acked"]) == (3, 1)


def test_credit_comes_back_as_events_are_polled(place: Place, until: Until) -> None:
    source, peer = place.source(credit=4), place.peer()
    peer.hello()
    answer(source, peer)
    peer.data(1, 2, 3, 4)
    until(lambda: source.poll(1, 0.05).events)
    ((kind, status),) = answer(source, peer)
    assert (kind, status["taken"], status["acked"]) == ("A", 1, 0)


def test_who_ignores_the_credit_fills_no_memory(place: Place, until: Until) -> None:
    source, peer = place.source(credit=5), place.peer()
    peer.hello()
    answer(source, peer)
    peer.data(*range(1, 51))

    def refused() -> int:
        assert not source.poll(0, 0.02).events
        return source.counters()["over_credit"] + source.counters()["out_of_order"]

    until(lambda: refused() >= 45)
    assert numbers(take(source, 5)) == [1, 2, 3, 4, 5]
    assert refused() == 45
    assert source.counters()["over_credit"] >= 40


def test_memory_is_bounded_in_bytes_whatever_the_credit(place: Place, until: Until) -> None:
    source, peer = place.source(memory_bytes=20), place.peer()
    peer.hello()
    peer.data(*range(1, 41))  # of 7 or 8 bytes each
    time.sleep(0.1)
    sizes: list[int] = []

    def taken() -> int:
        events = source.poll(1, 0.1).events
        sizes.extend(source._ready_bytes + len(event.data) for event in events)
        return len(sizes)

    until(lambda: taken() == 40)
    assert max(sizes) < 20 + 8


def test_the_lag_is_what_producers_hold_and_no_poll_took(place: Place) -> None:
    source, peer = place.source(), place.peer()
    assert source.lag() is None
    peer.hello(1, 9)
    peer.data(1, 2)
    take(source, 2)
    lag = source.lag()
    assert lag is not None
    assert (lag.events, lag.seconds) == (7, None)


# ---------------------------------------------------------------------- gaps


def test_a_producer_that_lacks_what_is_missing_is_refused(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    source, peer = place.source({"producer/p": 10}), place.peer()
    for _ in range(3):
        peer.hello(15, 20)
        assert answer(source, peer) == [("E", "gap")]
    peer.data(15)
    peer.hello(15, 20)
    assert answer(source, peer)[-1] == ("E", "gap")  # so the event before it was looked at, too
    assert source.poll(10, 0).events == []
    assert source.counters()["gaps_refused"] == 1
    assert caplog.text.count("events 11 to 14 of producer p are missing") == 1
    assert source.poll(1, 0).resume == {"producer/p": 10}


def test_a_gap_is_crossed_and_counted_where_that_is_wanted(place: Place) -> None:
    source, peer = place.source({"producer/p": 10}, on_gap="accept", credit=3), place.peer()
    peer.hello(15, 20)
    ((kind, status),) = answer(source, peer)
    assert (kind, status["last"], status["taken"]) == ("W", 14, 14)
    peer.data(15)
    assert numbers(take(source, 1)) == [15]
    assert source.counters()["gap_events"] == 4


def test_a_producer_without_memory_is_told_where_to_go_on(place: Place) -> None:
    source, peer = place.source({"producer/p": 10}), place.peer()
    peer.hello(0, 0)
    assert answer(source, peer)[0][1]["last"] == 10
    peer.data(11)
    assert numbers(take(source, 1)) == [11]


# ---------------------------------------------------------------------- coming and going


def test_a_silent_producer_counts_as_gone(
    place: Place, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    source, peer = place.source(silent_s=30.0), place.peer()
    peer.hello()
    answer(source, peer)
    assert source.lag() is not None
    source._silent_s = 0.2

    def is_gone() -> bool:
        source.poll(1, 0.1)
        return source.lag() is None

    until(is_gone)
    assert "producer p is silent" in caplog.text


def test_a_settled_and_silent_id_is_forgotten_if_wanted(place: Place, until: Until) -> None:
    resume = {"producer/settled": 5, "producer/open": 5}
    source = place.source(resume, expire_s=0.1)
    source._producers["open"].acked = 4
    until(lambda: len(source.poll(1, 0.1).resume) < 2)
    assert source.poll(1, 0).resume == {"producer/open": 5}


def test_an_id_is_remembered_for_ever_by_default(place: Place) -> None:
    source = place.source({"producer/p": 5}, silent_s=0.05)
    time.sleep(0.4)
    assert source.poll(1, 0.05).resume == {"producer/p": 5}


# ---------------------------------------------------------------------- hostile input


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[ZeromqRouterSource, Peer, Peer]]:
    place = Place()
    source = place.source(credit=50, memory_bytes=10_000, max_producers=4)
    hostile, honest = place.peer(), place.peer()
    honest.hello(name=b"honest")
    answer(source, honest)
    yield source, hostile, honest
    place.close()


FRAMES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            bytes.__add__,
            st.sampled_from([b"SRP1H", b"SRP1D", b"SRP1P", b"SRP1W", b"SRP1E", b"SRP9D", b"SRP1"]),
            st.one_of(
                st.binary(max_size=30),
                st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4).map(
                    lambda values: b"".join(value.to_bytes(8, "big") for value in values)
                ),
            ),
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames=FRAMES)
def test_no_message_can_stop_the_source(
    target: tuple[ZeromqRouterSource, Peer, Peer], frames: list[bytes]
) -> None:
    source, hostile, honest = target
    hostile.socket.send_multipart(frames)
    honest.ping()
    until = time.monotonic() + PATIENCE_S
    while not (said := honest.heard()) and time.monotonic() < until:
        source.poll(10, 0.002)
    assert [kind for kind, _ in said] == ["A"]


def test_an_honest_producer_is_served_beside_a_hostile_one(place: Place) -> None:
    source, honest, hostile = place.source(), place.peer(), place.peer()
    honest.hello()
    for n in range(3000):
        hostile.socket.send_multipart([b"SRP1D%d" % n, b"x", b"y"])
    began = time.monotonic()
    source.poll(1, 0.05)
    assert time.monotonic() - began < PATIENCE_S / 2
    honest.data(1, 2, 3)
    assert numbers(take(source, 3, {"malformed": 3000})) == [1, 2, 3]
    assert source.counters()["malformed"] == 3000


def test_more_frames_than_any_message_has_are_not_kept(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello()
    peer.socket.send_multipart([b"x"] * 10_000)
    peer.data(1)
    assert numbers(take(source, 1)) == [1]
    assert source.counters()["malformed"] == 1


def test_an_event_too_large_is_not_taken(place: Place) -> None:
    source, peer = place.source(max_message_bytes=10), place.peer()
    peer.hello()
    peer.socket.send_multipart([b"SRP1D" + (1).to_bytes(8, "big"), b"x" * 11])
    peer.data(1)
    assert [event.data for event in take(source, 1)] == [b"event 1"]


# ---------------------------------------------------------------------- settings and CURVE


@pytest.mark.parametrize(
    "address", ["tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://[::]:5555", "tcp://192.168.1.4:5555"]
)
def test_other_machines_are_let_in_with_keys_or_by_a_word(address: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^address: binding to .* curve_secret_key"):
        ZeromqRouterSource(address)
    ZeromqRouterSource(address, insecure=True)
    secret = zmq.curve_keypair()[1].decode()
    ZeromqRouterSource(address, curve_secret_key=secret, curve_keys=str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "127.0.0.1:5555"}, "address: expected"),
        ({"credit": 0}, "credit: must"),
        ({"memory_bytes": 0}, "memory_bytes: must"),
        ({"max_message_bytes": 1 << 31}, "max_message_bytes: must"),
        ({"max_producers": 0}, "max_producers: must"),
        ({"expire_s": 0.0}, "expire_s: must"),
        ({"silent_s": -1.0}, "silent_s: must"),
        ({"curve_keys": "x"}, "curve_secret_key: .* give both or none"),
        ({"curve_secret_key": "x"}, "curve_keys: .* give both or none"),
        ({"curve_secret_key": "x", "curve_keys": "x"}, "curve_secret_key: expected a CURVE key"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        ZeromqRouterSource(**arguments)


def test_a_secret_that_is_no_key_is_not_shown() -> None:
    with pytest.raises(SettingError) as raised:
        ZeromqRouterSource(curve_secret_key="hush hush", curve_keys="x")
    assert "hush" not in str(raised.value)


def test_an_address_in_use_is_refused_with_the_remedy(place: Place) -> None:
    place.source()
    with pytest.raises(SettingError, match=r"^address: cannot bind .*choose another port"):
        place.source()


@pytest.mark.parametrize("content", [None, "", "# nobody\n", "no key\n"], ids=repr)
def test_a_file_without_keys_is_refused(place: Place, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    secret = zmq.curve_keypair()[1].decode()
    with pytest.raises(SettingError, match=r"^curve_keys: "):
        place.source(curve_secret_key=secret, curve_keys=str(path))


@pytest.fixture
def keys() -> Callable[[], tuple[str, str]]:
    def pair() -> tuple[str, str]:
        public, secret = zmq.curve_keypair()
        return public.decode(), secret.decode()

    return pair


def test_curve_lets_in_who_is_named_and_nobody_else(
    place: Place, tmp_path: Path, keys: Callable[[], tuple[str, str]]
) -> None:
    (server, server_secret), (public, secret), (other, other_secret) = keys(), keys(), keys()
    path = tmp_path / "keys"
    path.write_text(f"# producers\n{public}  the one\n\n")
    source = place.source(curve_secret_key=server_secret, curve_keys=str(path))

    def peer(public: str, secret: str) -> Peer:
        return place.peer(
            CURVE_SERVERKEY=server.encode(),
            CURVE_PUBLICKEY=public.encode(),
            CURVE_SECRETKEY=secret.encode(),
        )

    known, unknown, plain = peer(public, secret), peer(other, other_secret), place.peer()
    for each in (known, unknown, plain):
        each.hello()
        each.data(1)
    assert numbers(take(source, 1, {"curve_refused": 1})) == [1]
    assert answer(source, known)[0][0] == "W"
    assert (unknown.heard(), plain.heard()) == ([], [])
    path.write_text(f"{public}\n{other}\n")  # let in without a restart
    late = peer(other, other_secret)
    late.hello(name=b"late")
    assert answer(source, late)[0][0] == "W"
    path.write_text("nonsense")  # the keys stay as they are
    later = peer(other, other_secret)
    later.hello(name=b"later")
    assert answer(source, later)[0][0] == "W"


# ---------------------------------------------------------------------- the end


def test_a_producer_that_reads_late_has_the_last_acknowledgment(place: Place) -> None:
    """With ZMQ_IMMEDIATE libzmq drops what was received and not read when a connection ends."""
    source, peer = place.source(), place.peer(IMMEDIATE=1)
    peer.hello()
    answer(source, peer)
    peer.data(1, 2)
    take(source, 2)
    source.ack({"producer/p": 2})
    leaving = threading.Thread(target=source.close)
    leaving.start()
    time.sleep(0.2)  # busy with something else
    said: list[tuple[str, Any]] = []
    until = time.monotonic() + PATIENCE_S
    while "S" not in [letter for letter, _ in said]:
        assert time.monotonic() < until, f"heard {said}"
        said += peer.heard()
    peer.hello()
    leaving.join()
    assert [status["acked"] for letter, status in said if letter == "A"][-1] == 2


def test_a_source_waits_for_nobody_who_has_left(place: Place) -> None:
    source, peer = place.source(), place.peer()
    peer.hello()
    answer(source, peer)
    peer.close()
    leaving = threading.Thread(target=source.close)
    leaving.start()
    leaving.join(PATIENCE_S)
    assert not leaving.is_alive()


@pytest.mark.parametrize("option", [{}, {"IMMEDIATE": 1}])
def test_a_silent_producer_holds_up_no_source_that_leaves(
    place: Place, option: dict[str, int]
) -> None:
    source, peer = place.source(), place.peer(**option)
    peer.hello()
    answer(source, peer)
    peer.data(*range(1, 100))
    leaving = threading.Thread(target=source.close)
    leaving.start()
    leaving.join(PATIENCE_S)
    assert not leaving.is_alive()

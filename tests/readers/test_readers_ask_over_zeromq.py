"""The readers' socket: what asks in time gets an answer, what is malformed harms nobody."""

from __future__ import annotations

import json
import socket as plain
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import zmq

from stream_rnn import asking
from stream_rnn.cli import Temporary
from stream_rnn.config import ConfigError
from stream_rnn.readers.zeromq import TURN, ReadersSocket, ask
from stream_rnn.spi import SettingError

MAX_BYTES = 1000


def echo(body: bytes) -> tuple[int, bytes]:
    """Says what it was asked; empty is malformed."""
    return (200, b'{"asked": %s}\n' % body) if body else (400, b'{"error": "expected"}\n')


def busy() -> tuple[int, bytes]:
    """Says that there is no time."""
    return 429, b"{}\n"


@pytest.fixture
def server() -> Iterator[ReadersSocket]:
    server = ReadersSocket("tcp://127.0.0.1:0", echo, busy, MAX_BYTES)
    server.open()
    yield server
    server.close()


@pytest.fixture
def dealer(server: ReadersSocket) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.LINGER, 0)
        dealer.set(zmq.RCVTIMEO, 60_000)
        dealer.connect(server.address)
        yield dealer


def test_a_request_is_answered(server: ReadersSocket) -> None:
    assert ask(server.address, b"{}", 60.0) == (200, b'{"asked": {}}\n')


def test_a_dealer_may_ask_several_things_before_it_reads(dealer: zmq.Socket[bytes]) -> None:
    for i in range(5):
        dealer.send(b"%d" % i)
    answers = [dealer.recv_multipart() for _ in range(5)]
    assert answers == [[b"200", b'{"asked": %d}\n' % i] for i in range(5)]


def test_what_stands_before_an_empty_frame_comes_back(dealer: zmq.Socket[bytes]) -> None:
    dealer.send_multipart([b"7", b"", b"1"])
    assert dealer.recv_multipart() == [b"7", b"", b"200", b'{"asked": 1}\n']


@pytest.mark.parametrize(
    "frames", [[b""], [b"", b"1", b"2"], [b"1", b"2"], [b"x"] * 500, [b"", b""]], ids=len
)
def test_what_is_no_request_is_told_so_and_the_next_one_is_answered(
    dealer: zmq.Socket[bytes], frames: list[bytes]
) -> None:
    dealer.send_multipart(frames)
    assert b"400" in dealer.recv_multipart()
    dealer.send(b"3")
    assert dealer.recv_multipart()[-1] == b'{"asked": 3}\n'


def test_who_sends_too_much_is_disconnected_and_others_are_served(
    server: ReadersSocket, dealer: zmq.Socket[bytes]
) -> None:
    dealer.set(zmq.RCVTIMEO, 200)
    dealer.send(b"x" * (MAX_BYTES + 1))
    with pytest.raises(zmq.Again):
        dealer.recv()
    assert ask(server.address, b"1", 60.0)[0] == 200


def test_bytes_that_are_no_zeromq_harm_nobody(server: ReadersSocket) -> None:
    host, port = server.address.removeprefix("tcp://").split(":")
    with plain.create_connection((host, int(port))) as line:
        line.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 10)
        assert ask(server.address, b"1", 60.0)[0] == 200


def test_who_never_reads_his_answers_stops_nobody(
    server: ReadersSocket, dealer: zmq.Socket[bytes]
) -> None:
    for _ in range(2000):
        dealer.send(b"1" * 900)
    assert ask(server.address, b"1", 60.0)[0] in (200, 429)


def test_when_answers_take_long_most_of_many_requests_are_sent_away_at_once() -> None:
    all_sent = threading.Event()

    def slow(body: bytes) -> tuple[int, bytes]:
        assert all_sent.wait(60)
        time.sleep(0.02)
        return 200, body

    with (
        closing(ReadersSocket("tcp://127.0.0.1:0", slow, busy, MAX_BYTES)) as server,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        server.open()
        dealer.set(zmq.LINGER, 0)
        dealer.set(zmq.RCVTIMEO, 60_000)
        dealer.connect(server.address)
        for _ in range(200):
            dealer.send(b"1")
        all_sent.set()
        statuses = [dealer.recv_multipart()[0] for _ in range(200)]
    assert statuses.count(b"429") > 100  # all of them would take 4 s
    assert statuses.count(b"200") >= TURN


def test_closing_releases_the_port(server: ReadersSocket) -> None:
    start = time.monotonic()
    server.close()
    server.close()
    assert time.monotonic() - start < 30
    again = ReadersSocket(server.address, echo, busy, MAX_BYTES)
    again.open()
    again.close()


def test_a_port_in_use_is_told(server: ReadersSocket) -> None:
    with pytest.raises(SettingError, match=r"cannot be listened on .* choose another port"):
        ReadersSocket(server.address, echo, busy, MAX_BYTES).open()


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:1", "tcp://*:1", "tcp://192.0.2.1:1"])
def test_other_machines_reach_it_only_where_that_was_said(address: str) -> None:
    with pytest.raises(SettingError, match="set insecure = true"):
        ReadersSocket(address, echo, busy, MAX_BYTES)
    ReadersSocket(address, echo, busy, MAX_BYTES, insecure=True)


def test_the_command_prints_the_answer(
    server: ReadersSocket, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    asking.predict(server.address, '{"y": 1}', 5.0)
    assert json.loads(capsys.readouterr().out) == {"asked": {"record": {"y": 1}}}
    config = tmp_path / "job.toml"
    config.write_text(f'[readers]\naddress = "{server.address}"\n')
    asking.predict(str(config), '{"records": [{"y": 1}]}', 5.0)
    assert json.loads(capsys.readouterr().out) == {"asked": {"records": [{"y": 1}]}}


def test_the_command_says_when_nobody_answers_or_nobody_could(tmp_path: Any) -> None:
    with plain.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Temporary, match="is the daemon running"):
            asking.predict(address, "{}", 0.05)
    config = tmp_path / "job.toml"
    config.write_text("[readers]\n")
    with pytest.raises(ConfigError, match=r"\[readers\] has no address"):
        asking.predict(str(config), "{}", 0.05)
    with pytest.raises(ConfigError, match="expected"):
        asking.predict("http://127.0.0.1:1", "{}", 0.05)

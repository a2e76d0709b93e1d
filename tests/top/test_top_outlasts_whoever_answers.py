"""Contains tests for `stream-rnn top` in front of servers that are no daemon, or mean harm."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from stream_rnn.top import head, panels
from stream_rnn.top.answer import look
from stream_rnn.top.asking import NoAnswer, ask
from stream_rnn.top.head import Heard
from stream_rnn.top.history import KEPT, History
from stream_rnn.top.ink import fit
from stream_rnn.top.place import Place, parse
from stream_rnn.top.series import MOST_SERIES, Series

Respond = Callable[[socket.socket, threading.Event], None]


@contextmanager
def server(respond: Respond) -> Iterator[Place]:
    """Answers every connection by `respond`, each on a thread, until the block ends."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                respond(connection, over)
            except OSError:
                return  # the client had enough, as it should

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield parse(f"127.0.0.1:{listener.getsockname()[1]}")
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def answer(body: bytes, head: bytes = b"HTTP/1.0 200 OK\r\n\r\n") -> Respond:
    return lambda connection, over: connection.sendall(head + body)


def endless(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    while not over.is_set():
        connection.sendall(b"stream_rnn_step 1\n" * 4096)


def endless_head(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.0 200 OK\r\n")
    while not over.is_set():
        connection.sendall(b"X: " + b"a" * 65000 + b"\r\n")


def drip(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    while not over.wait(0.01):
        connection.sendall(b"#")


def silence(connection: socket.socket, over: threading.Event) -> None:
    over.wait()


@pytest.mark.parametrize("respond", [drip, silence], ids=lambda each: each.__name__)
def test_an_answer_that_does_not_end_is_given_up_in_time(respond):
    with server(respond) as place:
        start = time.monotonic()
        with pytest.raises(NoAnswer, match=r"no whole answer within 0.3 s"):
            ask(place, "/status", patience_s=0.3)
        assert time.monotonic() - start < 30.0  # as whoever answers goes on for ever


@pytest.mark.parametrize("respond", [endless, endless_head], ids=lambda each: each.__name__)
def test_an_answer_without_bounds_is_refused(respond):
    with server(respond) as place, pytest.raises(NoAnswer, match=r"is larger than|does not speak"):
        ask(place, "/metrics", most_bytes=1 << 20)


@pytest.mark.parametrize(
    ("respond", "why"),
    [
        (answer(b"SSH-2.0-OpenSSH_9.2\r\n", head=b""), "does not speak HTTP"),
        (answer(b"", head=b""), "does not speak HTTP"),
        (answer(b"\x00\xff" * 5000, head=b""), "does not speak HTTP"),
        (answer(b"x", b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n"), "ended early"),
        (answer(b"", b"HTTP/1.1 401 No\r\n\r\n"), "--token env:NAME"),
        (answer(b"", b"HTTP/1.1 302 x\r\nLocation: file:///etc/passwd\r\n\r\n"), "answered 302"),
        (answer(b"", b"HTTP/1.1 404 x\r\n\r\n"), "is that a stream-rnn daemon"),
        (answer(b"up 1\nnode_load1 0.5\n"), "no stream_rnn_ series"),
        (answer(b"stream_rnn_step 1\n"), "/status is no JSON"),
        (answer(b"[" * 100_000 + b"\nstream_rnn_step 1\n"), "/status is no JSON"),
    ],
)
def test_who_is_no_daemon_is_told_from_one(respond, why):
    with server(respond) as place, pytest.raises(NoAnswer, match=why):
        look(place)


HOSTILE_WORDS = "\x1b[2J\x1b]0;owned\x07[bold red]x[/][@click=app.quit]y[/] \u202eabc \r\n z"


def test_nothing_that_is_told_is_obeyed(scripted, watching):
    hostile = dict.fromkeys(("task", "source", "rule", "fallback_reason"), HOSTILE_WORDS)
    letter = {"id": HOSTILE_WORDS, "stage": HOSTILE_WORDS, "reason": HOSTILE_WORDS}
    scripted.status |= {**hostile, "fallback_level": 3, "letters": [letter]}
    scripted.status |= {"ready": [HOSTILE_WORDS], "execution": {"path": HOSTILE_WORDS}}
    scripted.metrics.baseline_loss = {HOSTILE_WORDS: 1.0}

    async def play(screen):
        text = await screen.until("[bold red]x[/]")  # as it was written
        assert "[@click=app.quit]y[/]" in text
        assert not {each for each in text if not each.isprintable()} - {"\n"}

    watching(scripted.place, play)


GIGANTIC = (10**400, -(10**400), 1e308, -1e308, 1e-320, "NaN", None, [], {}, True)


@pytest.mark.parametrize("size", [(80, 24), (25, 6), (8, 1)], ids=str)
@pytest.mark.parametrize("value", GIGANTIC, ids=lambda value: repr(value)[:12])
def test_a_number_of_any_size_and_kind_is_survived(scripted, value, size):
    scripted.status = dict.fromkeys(scripted.status, value)
    scripted.status |= dict.fromkeys(("frozen_since_step", "sources", "ready", "letters"), value)
    scripted.status["model"] = {"learner": {"cell": [{"kind": 3, "units": value}, value]}}
    number = value if isinstance(value, float) else float("inf")
    m = scripted.metrics
    m.prequential_loss = m.lag_events = m.lag_seconds = m.snapshot_bytes = number
    m.parameters = m.snapshot_seconds = m.epoch = m.lanes_capacity = number
    m.snapshot_age_seconds = lambda: number
    m.events_applied, m.baseline_loss = number, {"persistence": number, "mean": -number}
    answer, history = look(scripted.place), History()
    for at in range(5):
        history.add(answer, at)
    heard = Heard(answer, 1.0)
    lines = [*head.lines(heard, "http://x/", size[0]), *(fit(each, 80) for each in heard.trouble)]
    for draw in panels.all_of(answer, history, answer.letters, time.time()).values():
        drawn = draw(*size, size[1] > 4)
        assert len(drawn) == size[1]
        lines += drawn
    assert {line.cell_len for line in lines} <= {size[0], 80}


def test_a_screen_is_left_at_once_while_nobody_answers(watching):
    async def play(screen):
        await screen.until("○ asking")
        await screen.press("q")

    with server(silence) as place:
        start = time.monotonic()
        watching(place, play)
        assert time.monotonic() - start < 30.0  # its patience is 60 s here


def test_what_is_kept_does_not_grow_with_what_is_told(scripted):
    page = b"".join(b'stream_rnn_x{a="%d"} 1\n' % n for n in range(3 * MOST_SERIES))
    assert len(Series(page).all("x")) == MOST_SERIES
    kept = History()
    with_numbers = look(scripted.place)
    for at in (0.0, 1.0, 1e9, 2e9):
        kept.add(with_numbers, at)
    assert len(kept.points) == KEPT

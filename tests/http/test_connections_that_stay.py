"""POST connections that are kept: one thread for all, known heads, everything else as before."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from stream_rnn.http import kept
from stream_rnn.http.bounded import Bounds
from stream_rnn.http.pages import predicting
from stream_rnn.http.routes import Route, text
from stream_rnn.http.server import HttpServer

TOKEN = "0123456789abcdef0123456789abcdef"
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy
LONG = b'"%s"' % (b"x" * kept.QUICK_BYTES)


class Echo:
    """Answers with the body; says on which threads it was asked."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def __call__(self, body: bytes) -> tuple[int, bytes]:
        self.threads.append(threading.current_thread().name)
        return 200, body


@pytest.fixture
def echo() -> Echo:
    return Echo()


def server_of(echo: Echo, **options: object) -> HttpServer:
    bounds = Bounds(**{"poll_s": 0.01, "patience_s": PATIENCE_S, "kept_s": PATIENCE_S} | options)  # type: ignore[arg-type]
    routes = {**predicting(echo), "/livez": Route(lambda request: text(200, "ok\n"))}
    return HttpServer("127.0.0.1:0", routes, token=TOKEN, bounds=bounds)


@pytest.fixture
def server(echo: Echo) -> Iterator[HttpServer]:
    with server_of(echo) as server:
        yield server


def post(body: bytes, *more: str, token: str = TOKEN) -> bytes:
    lines = ["POST /predict HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


class Client:
    """One connection, read answer by answer."""

    def __init__(self, server: HttpServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._came = b""

    def read(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next answer; status 0: the connection was closed."""
        while b"\r\n\r\n" not in self._came:
            if not self._more():
                return 0, b"", b""
        head, _, rest = self._came.partition(b"\r\n\r\n")
        (length,) = (
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"Content-Length" in line
        )
        while len(rest) < length:
            assert self._more()
            rest = self._came.partition(b"\r\n\r\n")[2]
        self._came = rest[length:]
        return int(head.split()[1]), head, rest[:length]

    def _more(self) -> bool:
        try:
            piece = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._came += piece
        return bool(piece)

    def ask(self, body: bytes, *more: str, token: str = TOKEN) -> tuple[int, bytes]:
        self.socket.sendall(post(body, *more, token=token))
        code, _, answer = self.read()
        return code, answer

    @property
    def is_closed(self) -> bool:
        return self.read()[0] == 0


@pytest.fixture
def connect() -> Iterator[Callable[[HttpServer], Client]]:
    with contextlib.ExitStack() as stack:

        def connected(server: HttpServer) -> Client:
            client = Client(server)
            stack.callback(client.socket.close)
            return client

        yield connected


Connect = Callable[[HttpServer], Client]


@pytest.fixture
def client(server: HttpServer, connect: Connect) -> Client:
    """One that was answered and stays."""
    made = connect(server)
    assert made.ask(b"0") == (200, b"0")
    return made


def test_all_that_stay_share_one_thread(
    server: HttpServer, echo: Echo, connect: Connect, until: Callable[..., None]
) -> None:
    clients = [connect(server) for _ in range(5)]
    for client in clients:
        assert client.ask(b"0") == (200, b"0")
    until(lambda: "http connection" not in [each.name for each in threading.enumerate()])
    echo.threads.clear()
    for n in range(20):
        for client in clients:
            assert client.ask(b"%d" % n) == (200, b"%d" % n)
    assert set(echo.threads) == {"http kept"}


def test_a_long_body_gets_a_thread_of_its_own_and_the_connection_stays(
    client: Client, echo: Echo
) -> None:
    for _ in range(3):
        assert client.ask(LONG) == (200, LONG)
        assert echo.threads[-1] == "http connection"
        assert client.ask(b"1") == (200, b"1")


def test_requests_that_come_byte_by_byte_are_answered(client: Client) -> None:
    for each in post(b"12") + post(b"3"):
        client.socket.sendall(bytes([each]))
    assert [client.read()[::2] for _ in range(2)] == [(200, b"12"), (200, b"3")]


@pytest.mark.parametrize("bodies", [[b"%d" % n for n in range(50)], [b"1", LONG, b"2", LONG, b"3"]])
def test_requests_that_come_together_are_answered_in_order(
    server: HttpServer, connect: Connect, bodies: list[bytes]
) -> None:
    client = connect(server)  # from the first one on
    client.socket.sendall(b"".join(map(post, bodies)))
    assert [client.read()[::2] for _ in bodies] == [(200, body) for body in bodies]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (post(b"1", token=TOKEN[::-1]), 401),
        (post(b"1").replace(b"Host: localhost", b"Host: evil.example"), 403),
        (post(b"1", "Origin: http://evil.example"), 403),
        (post(b"1").replace(b"application/json", b"text/plain"), 415),
        (post(b"1", "Transfer-Encoding: chunked"), 411),
        (post(b"1", "Content-Length: 1"), 411),
        (post(b"1").replace(b"Length: 1", b"Length: x"), 400),
        (post(b"1").replace(b"Length: 1", b"Length: 99999999999"), 413),
        (post(b"1").replace(b"/predict", b"/nothing"), 404),
        (post(b"1").replace(b"POST", b"GET"), 405),
        (b"\x16\x03\x01 what is this\r\n\r\n", 400),
        (post(b"1", f"X: {'x' * 70000}"), 431),
    ],
)
def test_what_a_new_connection_is_refused_one_that_stays_is_refused_too(
    client: Client, request_: bytes, code: int
) -> None:
    client.socket.sendall(request_)
    assert client.read()[0] in {code, 414} if code == 431 else client.read()[0] == code
    assert client.is_closed


def test_a_head_whose_lines_end_as_the_parser_allows_ends_there(client: Client) -> None:
    """Whoever sees a different end sees a different request behind it."""
    bare = post(b"1").replace(b"\r\n", b"\n")
    mixed = post(b"2").replace(b"\r\n\r\n", b"\n\r\n")
    smuggled = post(b"3", "X: 1").replace(b"X: 1\r\n\r\n", b"X: 1\n\n")
    client.socket.sendall(bare + mixed + smuggled + post(b"4"))
    assert [client.read()[2] for _ in range(4)] == [b"1", b"2", b"3", b"4"]


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(client: Client) -> None:
    head = post(b"1", "Expect: 100-continue")[:-1]
    client.socket.sendall(head)
    assert client.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.socket.sendall(b"1")
    assert client.read()[::2] == (200, b"1")
    assert client.ask(b"2") == (200, b"2")


def test_a_request_without_a_body_leaves_the_next_one_whole(client: Client) -> None:
    client.socket.sendall(post(b"") + post(b"5"))
    assert [client.read()[::2] for _ in range(2)] == [(200, b""), (200, b"5")]


def test_a_client_that_wants_to_go_is_let_go(client: Client) -> None:
    client.socket.sendall(post(b"1", "Connection: close"))
    code, head, _ = client.read()
    assert (code, b"Connection: close" in head) == (200, True)
    assert client.is_closed


@pytest.mark.parametrize("half", [post(b"12")[:40], post(b"12")[:-1]])
def test_half_a_request_is_waited_for_no_longer_than_a_whole_one(
    echo: Echo, connect: Connect, half: bytes
) -> None:
    with server_of(echo, kept=1, patience_s=0.2) as server:
        for _ in range(2):  # its place is free again
            client = connect(server)
            assert client.ask(b"0") == (200, b"0")
            client.socket.sendall(half)
            assert client.is_closed


def test_who_asks_and_does_not_read_is_let_go(server: HttpServer, connect: Connect) -> None:
    client = connect(server)
    many = post(b'"%s"' % (b"x" * 900)) * 100_000  # the answers are more than systems hold
    with pytest.raises(ConnectionError):
        client.socket.sendall(many)
    other = connect(server)
    assert other.ask(b"1") == (200, b"1")


def test_no_more_heads_are_known_than_said(
    client: Client, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KNOWN", 4)
    for n in range(30):
        assert client.ask(b"1", f"X-Request: {n}") == (200, b"1")
    assert server._listener is not None
    assert 1 <= len(server._listener._kept._heads) <= 4


def test_an_accident_closes_one_connection_and_not_the_others(
    server: HttpServer,
    client: Client,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = connect(server)
    assert other.ask(b"1") == (200, b"1")
    assert server._listener is not None
    judge = server._listener.judge

    def fails(head: bytes) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(judge, "repeatable", fails)
        client.socket.sendall(post(b"1", "X: never seen"))
        assert client.is_closed
    assert "ZeroDivisionError" in caplog.text
    assert other.ask(b"1") == (200, b"1")


def test_who_asks_while_the_server_leaves_is_told_to_go(client: Client, server: HttpServer) -> None:
    assert server._listener is not None
    server._listener.closing.set()
    client.socket.sendall(post(b"1"))
    code, head, _ = client.read()
    assert (code, b"Connection: close" in head) == (200, True)
    assert client.is_closed


def test_where_the_one_thread_cannot_be_started_one_connection_is_closed_and_the_next_stays(
    echo: Echo, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def cannot(self: threading.Thread) -> None:
        if self.name == "http kept":
            raise RuntimeError("can't start new thread")
        start(self)

    with server_of(echo, kept=1) as server:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot)
            client = connect(server)
            assert client.ask(b"0") == (200, b"0")
            assert client.is_closed
        client = connect(server)  # its place is free
        assert [client.ask(b"%d" % n) for n in range(3)] == [(200, b"%d" % n) for n in range(3)]


def test_where_no_thread_can_be_started_the_others_are_served(
    client: Client,
    server: HttpServer,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., None],
) -> None:
    other = connect(server)
    assert other.ask(b"1") == (200, b"1")
    until(lambda: "http connection" not in [each.name for each in threading.enumerate()])

    def cannot(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        client.socket.sendall(post(LONG))
        assert client.is_closed
        assert other.ask(b"2") == (200, b"2")
    assert other.ask(LONG) == (200, LONG)

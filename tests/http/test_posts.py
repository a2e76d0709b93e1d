"""POST: only where a route says so, only with the token, only JSON, only within bounds."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from stream_rnn.http.bounded import Bounds
from stream_rnn.http.pages import MAX_PREDICT_BYTES, predicting
from stream_rnn.http.routes import Request, Route, text
from stream_rnn.http.server import HttpServer

TOKEN = "0123456789abcdef0123456789abcdef"
RIGHT = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy
RECORD = b'{"record": {"y": 1}}'
Answer = tuple[int, http.client.HTTPMessage, bytes]


def echo(body: bytes) -> tuple[int, bytes]:
    wanted = json.loads(body)
    if "fail" in wanted:
        raise ZeroDivisionError("secret detail")
    return wanted.get("code", 200), body


def server_of(**options: object) -> HttpServer:
    bounds = Bounds(**{"poll_s": 0.01, "patience_s": PATIENCE_S, "kept_s": PATIENCE_S} | options)  # type: ignore[arg-type]
    routes = {**predicting(echo), "/livez": Route(lambda request: text(200, "ok\n"))}
    return HttpServer("127.0.0.1:0", routes, token=TOKEN, bounds=bounds)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with server_of() as server:
        yield server


def post(server: HttpServer, body: bytes = RECORD, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    given = RIGHT | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/predict", body, {k: v for k, v in given.items() if v})
    answer = connection.getresponse()
    said = answer.status, answer.headers, answer.read()
    connection.close()
    return said


def raw(server: HttpServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def head(*more: str, path: str = "/predict") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}"]
    return "\r\n".join([*lines, "Content-Type: application/json", *more, "", ""]).encode()


def drip(client: socket.socket) -> None:
    """Each byte well within the server's patience."""
    for _ in range(1000):
        client.sendall(b" ")
        time.sleep(0.05)


def test_a_post_with_the_token_is_answered(server: HttpServer) -> None:
    code, headers, body = post(server)
    assert (code, headers["Content-Type"], body) == (200, "application/json", RECORD)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}0", f"Basic {TOKEN}", TOKEN, "Bearer é"],
)
def test_without_the_right_token_nobody_posts(server: HttpServer, authorization: str) -> None:
    code, headers, body = post(server, Authorization=authorization)
    assert (code, headers["WWW-Authenticate"]) == (401, 'Bearer realm="stream-rnn"')
    assert TOKEN.encode() not in body


def test_two_tokens_are_none(server: HttpServer) -> None:
    request = head("Authorization: Bearer wrong", f"Content-Length: {len(RECORD)}") + RECORD
    assert raw(server, request).startswith(b"HTTP/1.0 401 ")


def test_a_server_without_a_token_takes_no_post() -> None:
    with HttpServer("127.0.0.1:0", predicting(echo), bounds=Bounds(poll_s=0.01)) as server:
        assert post(server)[0] == 401
        assert post(server, Authorization="Bearer ")[0] == 401


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_what_an_html_form_can_send_is_refused(server: HttpServer, kind: str) -> None:
    assert post(server, Content_Type=kind)[0] == 415


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil", "x"])
def test_a_page_of_another_origin_cannot_post(server: HttpServer, origin: str) -> None:
    assert post(server, Origin=origin)[0] == 403


def test_a_page_of_our_own_may_post(server: HttpServer) -> None:
    host = f"localhost:{server.port}"
    assert post(server, Host=host, Origin=f"http://{host}")[0] == 200


def test_a_page_of_another_port_of_this_machine_cannot_post(server: HttpServer) -> None:
    host = f"localhost:{server.port}"
    assert post(server, Host=host, Origin="http://localhost:1")[0] == 403


def test_a_rebound_name_cannot_post_even_with_the_token(server: HttpServer) -> None:
    assert post(server, Host="evil.example", Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], 411),
        (["Transfer-Encoding: chunked"], 411),
        (["Content-Length: 2", "Transfer-Encoding: chunked"], 411),
        (["Content-Length: 2", "Content-Length: 3"], 411),
        (["Content-Length: -1"], 400),
        (["Content-Length: +2"], 400),
        (["Content-Length: 1e3"], 400),
        ([f"Content-Length: {MAX_PREDICT_BYTES + 1}"], 413),
        (["Content-Length: " + "9" * 5000], 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_length_that_cannot_be_trusted_is_refused(
    server: HttpServer, lines: list[str], code: int
) -> None:
    assert raw(server, head(*lines) + b"{}").startswith(b"HTTP/1.0 %d " % code)


def test_the_refusal_arrives_though_a_long_body_is_still_being_sent(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_rnn.http.connection.LINGER_S", PATIENCE_S)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(head(f"Content-Length: {MAX_PREDICT_BYTES + 1}"))
        for _ in range(4):  # a connection that was closed would break at the second piece
            client.sendall(b" " * 1000)
            time.sleep(0.05)
        assert client.recv(1000).startswith(b"HTTP/1.0 413 ")


def test_who_goes_on_sending_a_refused_body_is_cut_off(server: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(head("Content-Length: 999999999999"))
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            client.sendall(b" " * (1 << 25))


def test_a_body_as_long_as_allowed_is_taken(server: HttpServer) -> None:
    assert post(server, RECORD.ljust(MAX_PREDICT_BYTES))[0] == 200


def test_a_body_that_ends_early_is_not_answered(server: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(head("Content-Length: 100") + b"{}")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""


def test_a_body_that_comes_byte_by_byte_is_cut_off() -> None:
    with (
        server_of(patience_s=0.2) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client,
    ):
        client.sendall(head("Content-Length: 10000"))
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            drip(client)


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(server: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        length = f"Content-Length: {len(RECORD)}"
        client.sendall(head(length, "Expect: 100-continue", "Connection: close"))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(RECORD)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        assert answer.endswith(RECORD)


def test_a_page_that_reads_takes_no_post_and_one_that_posts_no_get(server: HttpServer) -> None:
    request = head("Content-Length: 0", path="/livez")
    assert b"405 Method Not Allowed" in raw(server, request)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("GET", "/predict", headers=RIGHT)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    connection.close()


def test_who_is_busy_says_when_to_come_back(server: HttpServer) -> None:
    code, headers, _ = post(server, b'{"code": 503}')
    assert (code, headers["Retry-After"]) == (503, "1")
    assert "Retry-After" not in post(server, b'{"code": 422}')[1]


def test_what_fails_inside_is_a_500_without_the_detail(server: HttpServer) -> None:
    code, _, body = post(server, b'{"fail": true}')
    assert code == 500
    assert b"ZeroDivisionError" in body
    assert b"secret detail" not in body


def test_the_handler_gets_the_whole_body() -> None:
    got: list[Request] = []

    def handle(request: Request) -> object:
        got.append(request)
        return text(200, "ok\n")

    route = Route(handle, "POST", max_body_bytes=100)  # type: ignore[arg-type]
    with HttpServer("127.0.0.1:0", {"/predict": route}, token=TOKEN) as server:
        post(server)
    assert got[0].body == RECORD


# Connections that stay ------------------------------------------------------------------------


def again(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    connection.request("POST", "/predict", RECORD, RIGHT)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers["Connection"]


def test_a_connection_that_posts_is_kept_for_the_next_post(server: HttpServer) -> None:
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    ) as connection:
        assert again(connection) == (200, None)
        at = connection.sock.getsockname()
        assert [again(connection) for _ in range(20)] == [(200, None)] * 20
        assert connection.sock.getsockname() == at


@pytest.mark.parametrize("how", ["HTTP/1.0", "close"])
def test_a_client_that_does_not_want_to_stay_is_let_go(server: HttpServer, how: str) -> None:
    request = head(f"Content-Length: {len(RECORD)}", *(["Connection: close"] * (how == "close")))
    if how == "HTTP/1.0":
        request = request.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert b"Connection: close" in raw(server, request + RECORD)  # it read to the end


def test_a_refused_request_ends_a_connection_that_was_kept(server: HttpServer) -> None:
    good = head(f"Content-Length: {len(RECORD)}") + RECORD
    answer = raw(server, good + good.replace(b"Bearer 0", b"Bearer 1") + good)
    assert [line.split()[1] for line in answer.split(b"HTTP/1.")[1:]] == [b"200", b"401"]


def livez(server: HttpServer) -> bytes:
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    ) as page:
        try:
            page.request("GET", "/livez")
            return page.getresponse().read()
        except ConnectionError:
            return b"no room"


def test_no_more_connections_are_kept_than_allowed_and_pages_have_room(
    until: Callable[..., None],
) -> None:
    with server_of(kept=3, connections=4) as server, contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(
                contextlib.closing(
                    http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
                )
            )
            for _ in range(4)
        ]
        assert [again(each)[1] for each in connections] == [None, None, None, "close"]
        until(lambda: livez(server) == b"ok\n")  # once the fourth one's place is free


def test_a_kept_connection_that_says_nothing_is_closed_and_its_place_given_back() -> None:
    with server_of(kept=1, kept_s=0.1) as server:
        for _ in range(3):
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
            ) as connection:
                assert again(connection) == (200, None)
                assert connection.sock.recv(1) == b""


def test_close_does_not_wait_for_connections_that_are_kept() -> None:
    with server_of() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        again(connection)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < PATIENCE_S / 2
        connection.close()

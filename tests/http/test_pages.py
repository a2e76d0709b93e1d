import contextlib
import http.client
import json
import re
import socket
import threading
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from stream_rnn.http.bounded import Bounds
from stream_rnn.http.live import page
from stream_rnn.http.pages import pages
from stream_rnn.http.rendering import HEADERS
from stream_rnn.http.server import HttpServer
from stream_rnn.metrics import Metrics
from stream_rnn.spi import SettingError

MAX_CONNECTIONS = Bounds().connections
MAX_REQUEST_BYTES = Bounds().request_bytes
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy


class Daemon:
    """What the page asks; tests change it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.facts: dict[str, object] = {"step": 7, "loss": float("nan")}
        self.dead: list[str] = []
        self.unready: list[str] = []
        self.error: Exception | None = None

    def status(self) -> dict[str, object]:
        if self.error is not None:
            raise self.error
        return self.facts

    def server(self, address: str = "127.0.0.1:0", **options: Any) -> HttpServer:
        routes = pages(self.registry, self.status, lambda: self.dead, lambda: self.unready)
        options.setdefault("bounds", Bounds(poll_s=0.01, patience_s=PATIENCE_S))
        return HttpServer(address, {**page(), **routes}, **options)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def server(daemon):
    with daemon.server() as server:
        yield server


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.code, self.headers, self.body = response.status, response.headers, response.read()


def ask(server: HttpServer, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers=headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def raw(server: HttpServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def drip(connection: socket.socket) -> None:
    """Send a request that never ends, each byte well within the server's patience."""
    for _ in range(1000):
        connection.sendall(b"G")
        time.sleep(0.05)


def test_metrics_are_served_as_prometheus_text(server, daemon):
    daemon.metrics.events_applied += 3
    answer = ask(server, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"stream_rnn_events_applied_total 3.0\n" in answer.body


def test_metrics_are_served_as_openmetrics_to_who_accepts_it(server):
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    answer = ask(server, "/metrics", Accept=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith(b"# EOF\n")


def test_a_hostile_accept_header_is_not_echoed(server):
    answer = ask(server, "/metrics", Accept="application/openmetrics-text; version=9.9.evil")
    assert answer.code == 200
    assert "evil" not in str(answer.headers)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_daemon_without_complaints_is_ok(server, path):
    answer = ask(server, path)
    assert (answer.code, answer.body) == (200, b"ok\n")


def test_readyz_lists_what_fails(server, daemon):
    daemon.unready = ["source: not connected for 12 s", "snapshot: 90 s old"]
    answer = ask(server, "/readyz")
    assert answer.code == 503
    assert json.loads(answer.body) == {"failing": daemon.unready}


def test_a_daemon_that_is_not_ready_is_still_alive(server, daemon):
    daemon.unready = ["source: not connected"]
    assert ask(server, "/livez").code == 200


def test_livez_lists_what_fails(server, daemon):
    daemon.dead = ["loop: no tick for 61 s"]
    answer = ask(server, "/livez")
    assert (answer.code, json.loads(answer.body)) == (503, {"failing": daemon.dead})


def test_status_is_json_in_which_not_a_number_is_null(server):
    assert json.loads(ask(server, "/status").body) == {"step": 7, "loss": None}


def test_the_index_links_to_every_page(server):
    links = re.findall(rb'(?:href|src)="(/[^"]+)"', ask(server, "/").body)
    assert {b"/status", b"/metrics", b"/livez", b"/readyz"} <= set(links)
    assert {ask(server, link.decode()).code for link in links} == {200}


def test_a_query_does_not_change_the_page(server):
    assert ask(server, "/livez?verbose=1").code == 200


@pytest.mark.parametrize(
    "path", ["/nothing", "/metrics/", "/../etc/passwd", "http://localhost/metrics"]
)
def test_other_paths_are_not_found(server, path):
    assert ask(server, path).code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "close_request"])
def test_other_methods_are_refused(server, method):
    answer = ask(server, "/status", method)
    assert (answer.code, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/status", "/readyz", "/nothing"])
def test_head_answers_like_get_without_the_body(server, path):
    full, head = ask(server, path), ask(server, path, "HEAD")
    assert (head.code, head.body) == (full.code, b"")
    assert head.headers["Content-Length"] == full.headers["Content-Length"]


def test_a_function_that_raises_becomes_a_500_that_names_the_error(server, daemon):
    daemon.error = ZeroDivisionError("secret detail")
    answer = ask(server, "/status")
    assert answer.code == 500
    assert b"ZeroDivisionError" in answer.body
    assert b"secret detail" not in answer.body


def test_a_failing_page_is_logged_once_until_it_has_recovered(server, daemon, caplog):
    daemon.error = ZeroDivisionError("detail")
    ask(server, "/status")
    ask(server, "/status")
    assert [record.message for record in caplog.records] == ["/status cannot be answered"]
    daemon.error = None
    ask(server, "/status")
    daemon.error = ZeroDivisionError("again")
    ask(server, "/status")
    assert len(caplog.records) == 2


def test_a_failing_page_leaves_the_others_standing(server, daemon):
    daemon.error = RuntimeError()
    assert [ask(server, path).code for path in ("/status", "/metrics", "/status")] == [
        500,
        200,
        500,
    ]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9464", "[::1", ""]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(server, host):
    assert ask(server, "/status", Host=host).code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9464", "127.0.0.1:1", "[::1]:9464"])
def test_the_names_of_this_machine_are_answered(server, host):
    assert ask(server, "/status", Host=host).code == 200


def test_a_second_host_header_does_not_smuggle_a_name_in(server):
    answer = raw(server, b"GET /status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 403 ")


def test_a_client_of_http_1_0_without_a_host_is_answered(server):
    assert raw(server, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"ok\n")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /" + b"x" * (MAX_REQUEST_BYTES - 5), 414),
        (b"GET /livez HTTP/1.1\r\nX: ".ljust(MAX_REQUEST_BYTES, b"y"), 431),
        (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET /livez HTTP/7.7\r\n\r\n", 505),
        (b"GET /livez extra HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01 \xff\xfe x\r\n\r\n", 400),
    ],
    ids=["long-line", "long-headers", "many-headers", "version", "syntax", "tls"],
)
def test_requests_out_of_bounds_are_refused(server, request_, code):
    assert raw(server, request_).startswith(b"HTTP/1.0 %d " % code)


def test_a_client_that_sends_byte_by_byte_is_cut_off(daemon):
    with (
        daemon.server(bounds=Bounds(patience_s=0.2, poll_s=0.01)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client,
        pytest.raises(OSError, match=r"reset|[Bb]roken pipe"),
    ):
        drip(client)


def handlers() -> int:
    """Threads that answer a connection right now."""
    return sum(thread.name == "http connection" for thread in threading.enumerate())


def settle(n_handlers: int) -> int:
    """Wait until `n_handlers` connections are being answered; return how many are."""
    until = time.monotonic() + PATIENCE_S
    while handlers() != n_handlers and time.monotonic() < until:
        time.sleep(0.01)
    return handlers()


def test_a_connection_too_many_is_closed_at_once(server):
    assert settle(0) == 0  # those of the tests before have gone
    with contextlib.ExitStack() as idle:
        for _ in range(MAX_CONNECTIONS):
            idle.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
            )
        assert settle(MAX_CONNECTIONS) == MAX_CONNECTIONS
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as further:
            assert further.recv(1) == b""
        assert handlers() == MAX_CONNECTIONS  # it was not for their places


def test_connections_that_said_nothing_give_their_place_back(server):
    for _ in range(2 * MAX_CONNECTIONS):
        socket.create_connection(("127.0.0.1", server.port)).close()
    assert settle(0) == 0
    assert ask(server, "/livez").code == 200


def test_port_zero_takes_a_free_port_and_tells_it(server):
    assert server.port > 0


def test_close_releases_the_port_and_a_second_close_does_nothing(daemon):
    first = daemon.server()
    first.open()
    first.close()
    first.close()
    with daemon.server(f"127.0.0.1:{first.port}") as second:
        assert ask(second, "/livez").code == 200


def test_a_port_in_use_is_named_with_the_remedy(server, daemon):
    expected = f"address: 127.0.0.1:{server.port} is in use by another process; choose another port"
    with pytest.raises(SettingError, match=re.escape(expected)):
        daemon.server(f"127.0.0.1:{server.port}").open()


def test_an_address_of_another_machine_is_named_with_the_remedy(daemon):
    server = daemon.server("192.0.2.1:9464", insecure=True)
    with pytest.raises(SettingError, match=r"address: 192\.0\.2\.1:9464 cannot be listened on"):
        server.open()


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "127.0.0.1.example.com:0"]
)
def test_an_address_others_can_reach_needs_insecure(daemon, address):
    with pytest.raises(SettingError, match="insecure = true"):
        daemon.server(address)


def test_an_insecure_server_answers_to_any_name(daemon):
    with daemon.server("0.0.0.0:0", insecure=True) as server:
        assert ask(server, "/livez", Host="stream-rnn.example:9464").code == 200


def test_ipv6_loopback_is_served(daemon):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with daemon.server("[::1]:0") as server:
        connection = http.client.HTTPConnection("::1", server.port, timeout=PATIENCE_S)
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize("path", ["/livez", "/status", "/no such page"])
def test_every_answer_carries_what_protects_a_browser(server, path):
    answer = ask(server, path.replace(" ", "%20"))

    assert {name: answer.headers[name] for name, _ in HEADERS} == dict(HEADERS)
    assert answer.headers["Connection"] == "close"
    assert int(answer.headers["Content-Length"]) == len(answer.body)

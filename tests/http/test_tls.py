"""TLS: a certificate that is used, renewed, or refused with the reason; slow hands hold nobody."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream_rnn.http.bounded import Bounds
from stream_rnn.http.pages import pages, predicting
from stream_rnn.http.server import HttpServer
from stream_rnn.http.tls import LOOK_EVERY_S, Certificate
from stream_rnn.spi import SettingError

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed (apt-get install openssl)"
)
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy
ROUTES = pages(CollectorRegistry(), dict, list, list)


def certify(folder: Path, name: str, *more: str) -> tuple[str, str]:
    """A certificate for localhost that signs itself, and its key."""
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(chain), *(more or ("-nodes",))]
    subprocess.run(command, check=True, capture_output=True)
    return str(chain), str(key)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certify(tmp_path_factory.mktemp("tls"), "first")


def server_of(pair: tuple[str, str], **bounds: float) -> HttpServer:
    given = Bounds(**{"poll_s": 0.01, "patience_s": PATIENCE_S} | bounds)  # type: ignore[arg-type]
    return HttpServer("127.0.0.1:0", ROUTES, certificate=pair[0], key=pair[1], bounds=given)


def trusting(pair: tuple[str, str]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=pair[0])


def livez(server: HttpServer, pair: tuple[str, str]) -> bytes:
    connection = http.client.HTTPSConnection(
        "localhost", server.port, timeout=PATIENCE_S, context=trusting(pair)
    )
    connection.request("GET", "/livez")
    body = connection.getresponse().read()
    connection.close()
    return body


def test_a_page_is_served_encrypted_to_who_trusts_the_certificate(pair: tuple[str, str]) -> None:
    with server_of(pair) as server:
        assert server.scheme == "https"
        assert livez(server, pair) == b"ok\n"


def test_one_file_may_hold_the_certificate_and_its_key(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_text(Path(pair[0]).read_text() + Path(pair[1]).read_text())
    with HttpServer("127.0.0.1:0", ROUTES, certificate=str(both)) as server:
        assert livez(server, pair) == b"ok\n"


def test_a_connection_that_posts_is_kept_encrypted(pair: tuple[str, str]) -> None:
    token, bounds = "0123456789abcdef0123456789abcdef", Bounds(poll_s=0.01, patience_s=PATIENCE_S)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    routes = predicting(lambda body: (200, body))
    chain, key = pair
    with HttpServer(
        "127.0.0.1:0", routes, token=token, certificate=chain, key=key, bounds=bounds
    ) as server:
        connection = http.client.HTTPSConnection(
            "localhost", server.port, timeout=PATIENCE_S, context=trusting(pair)
        )
        with contextlib.closing(connection):
            for n in range(3):
                connection.request("POST", "/predict", b"%d" % n, headers)
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b"%d" % n)
                assert answer.headers["Connection"] is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_versions_of_the_protocol_are_refused(pair: tuple[str, str]) -> None:
    context = trusting(pair)
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        server_of(pair) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_a_client_that_does_not_shake_hands_holds_nobody_up(pair: tuple[str, str]) -> None:
    with (
        server_of(pair) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S),
    ):
        assert livez(server, pair) == b"ok\n"


def test_a_client_that_does_not_shake_hands_is_cut_off(pair: tuple[str, str]) -> None:
    with (
        server_of(pair, patience_s=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as silent,
    ):
        assert silent.recv(1) == b""


def test_a_client_that_speaks_no_tls_is_cut_off_at_once(pair: tuple[str, str]) -> None:
    with (
        server_of(pair) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as plain,
    ):
        plain.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := plain.recv(100):  # a TLS alert, then the end
                answer += piece
        assert b"HTTP" not in answer


def test_the_answer_ends_with_a_farewell(pair: tuple[str, str]) -> None:
    with (
        server_of(pair) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as plain,
        trusting(pair).wrap_socket(
            plain, server_hostname="localhost", suppress_ragged_eofs=False
        ) as client,
    ):
        client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        answer = b""
        while piece := client.recv(65536):  # raises where the end could be anybody's
            answer += piece
        assert answer.endswith(b"ok\n")


def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    chain, key = certify(tmp_path, "renewed")
    now = 0.0

    def clock() -> float:
        return now

    certificate = Certificate(chain, key, clock=clock)
    before = certificate.context()
    certify(tmp_path, "renewed")
    assert certificate.context() is before  # it does not look at every connection
    now = LOOK_EVERY_S
    assert certificate.context() is not before


def test_half_a_renewal_leaves_the_old_certificate_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chain, key = certify(tmp_path, "renewed")
    now = 0.0
    certificate = Certificate(chain, key, clock=lambda: now)
    before = certificate.context()
    certify(tmp_path, "other")
    Path(chain).write_text((tmp_path / "other.pem").read_text())
    now = LOOK_EVERY_S
    assert certificate.context() is before
    assert "the renewed certificate is not used" in caplog.text
    Path(key).write_text((tmp_path / "other.key").read_text())
    now *= 2
    assert certificate.context() is not before


def no_certificate(tmp_path: Path, pair: tuple[str, str]) -> tuple[str | None, str | None]:
    return None, pair[1]


def not_there(tmp_path: Path, pair: tuple[str, str]) -> tuple[str | None, str | None]:
    return str(tmp_path / "nowhere.pem"), pair[1]


def no_pem(tmp_path: Path, pair: tuple[str, str]) -> tuple[str | None, str | None]:
    (tmp_path / "text.pem").write_text("no PEM")
    return str(tmp_path / "text.pem"), pair[1]


def another_key(tmp_path: Path, pair: tuple[str, str]) -> tuple[str | None, str | None]:
    return pair[0], certify(tmp_path, "second")[1]


def encrypted(tmp_path: Path, pair: tuple[str, str]) -> tuple[str | None, str | None]:
    return certify(tmp_path, "third", "-passout", "pass:secret")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_certificate, "key: it needs its certificate"),
        (not_there, "nowhere.pem cannot be read (No such file or directory)"),
        (no_pem, "text.pem and key"),
        (another_key, "expected a PEM chain and its own key"),
        (encrypted, "key: it is encrypted"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused_with_the_reason(
    make: Callable[[Path, tuple[str, str]], tuple[str | None, str | None]],
    words: str,
    pair: tuple[str, str],
    tmp_path: Path,
) -> None:
    chain, key = make(tmp_path, pair)
    with pytest.raises(SettingError, match=re.escape(words)):
        HttpServer("127.0.0.1:0", ROUTES, certificate=chain, key=key)

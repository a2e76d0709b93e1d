"""`stream-rnn health`, against the real server and against what else may have its port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream_rnn import probe
from stream_rnn.cli import _exit_code, cli
from stream_rnn.http.pages import pages
from stream_rnn.http.server import HttpServer

ROOT = Path(__file__).parents[1]


def served(live: list[str], ready: list[str], **settings: str) -> HttpServer:
    routes = pages(CollectorRegistry(), dict, lambda: live, lambda: ready)
    return HttpServer("127.0.0.1:0", routes, **settings)  # type: ignore[arg-type]


def asked(*arguments: str) -> int:
    return _exit_code(lambda: cli.main(["health", *arguments], standalone_mode=False))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is slow because the machine is does not count as silent."""
    monkeypatch.setattr(probe, "PATIENCE_S", 60.0)


@pytest.fixture
def another_program() -> Iterator[Callable[[bytes], str]]:
    """Listens, and answers one connection with the bytes given, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def start(answer: bytes) -> str:
            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield start


def test_a_daemon_that_is_well_ends_it_with_0(capsys):
    with served([], ["the source is not connected"]) as page:
        assert asked(f"127.0.0.1:{page.port}") == 0
    assert capsys.readouterr().out == "ok\n"


def test_a_daemon_that_is_not_ends_it_with_1_and_the_reasons(capsys):
    with served(["the loop has not turned for 70 s"], []) as page:
        assert asked(f"127.0.0.1:{page.port}") == 1
    assert capsys.readouterr().err == "Error: the loop has not turned for 70 s\n"


def test_readiness_is_asked_for_by_name(capsys):
    with served([], ["the source is not connected"]) as page:
        assert asked("--ready", f"127.0.0.1:{page.port}") == 1
    assert capsys.readouterr().err == "Error: the source is not connected\n"


def test_an_address_for_everybody_is_asked_on_this_machine():
    with served([], []) as page:
        assert probe.ask(f"0.0.0.0:{page.port}", "/livez") == []


def test_a_daemon_that_speaks_tls_is_asked_by_tls(tmp_path):
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=elsewhere"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with served([], [], certificate=certificate, key=key) as page:
        assert probe.ask(f"https://127.0.0.1:{page.port}", "/livez") == []
        assert probe.ask(f"127.0.0.1:{page.port}", "/livez") != []


def test_where_nobody_listens_the_reason_names_the_address():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    (reason,) = probe.ask(address, "/livez")
    assert reason.startswith(f"{address}/livez does not answer: ")


@pytest.mark.parametrize(
    "body",
    [b"", b"no JSON", b"[1]", b'{"failing": "text"}', b'{"failing": []}', b"[" * 60_000, b"\xff"],
    ids=["nothing", "text", "list", "no-list", "no-reasons", "deep", "no-utf-8"],
)
def test_another_program_at_the_port_is_told_by_its_status(another_program, body):
    head = b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert probe.ask(another_program(head + body), "/livez") == ["status 503"]


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200]
)
def test_an_answer_that_is_no_http_is_a_reason_and_no_traceback(another_program, answer):
    (reason,) = probe.ask(another_program(answer), "/livez")
    assert "does not answer" in reason


def test_one_that_says_nothing_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(probe, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (reason,) = probe.ask(f"127.0.0.1:{listener.getsockname()[1]}", "/livez")
    assert "timed out" in reason


def test_a_malformed_address_is_a_configuration_error(capsys):
    assert asked("9464") == 78
    assert 'e.g. "127.0.0.1:9464"' in capsys.readouterr().err


CONFIG = """
source = { kind = "jsonl", path = "events.jsonl" }
task = { kind = "forecast", target = "y" }
"""


def test_a_configuration_names_the_daemon_to_ask(tmp_path, capsys):
    config = tmp_path / "config.toml"
    with served(["the loop has not turned for 70 s"], []) as page:
        table = f'[metrics]\naddress = "127.0.0.1:{page.port}"\ntoken = "env:NOT_SET_HERE"\n'
        config.write_text(CONFIG + table)
        assert asked(str(config)) == 1
        assert asked("--ready", str(config)) == 0
    captured = capsys.readouterr()
    assert captured.err == "Error: the loop has not turned for 70 s\n"
    assert captured.out == "ok\n"


def test_a_configuration_with_a_certificate_is_asked_by_tls(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(CONFIG + '[metrics]\naddress = "0.0.0.0:9000"\ncertificate = "c.pem"\n')
    assert probe.address_of(str(config)) == "https://0.0.0.0:9000"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (CONFIG, "without a [metrics] table"),
        (CONFIG + "[metrics]\naddress = 'x'\n", "[metrics] address: expected"),
        (CONFIG + "[metrics]\naddress = '127.0.0.1:0'\n", "that its start tells"),
        (CONFIG + "[metrics]\nport = 1\n", "[metrics] unknown key 'port'"),
        (None, "no such file; name a configuration or an address"),
    ],
    ids=["no-table", "no-address", "port-0", "no-key", "no-file"],
)
def test_a_configuration_that_tells_no_address_is_refused(tmp_path, capsys, text, why):
    config = tmp_path / "config.toml"
    if text is not None:
        config.write_text(text)
    assert asked(str(config)) == 78
    assert why in capsys.readouterr().err


def test_a_folder_is_refused_with_what_to_name_instead(tmp_path, capsys):
    assert asked(str(tmp_path)) == 78
    assert "a folder; name the configuration or an address" in capsys.readouterr().err


def test_it_is_quick_because_it_loads_no_torch():
    code = (
        "import sys; from stream_rnn.cli import _exit_code, cli; "
        "_exit_code(lambda: cli.main(['health', '127.0.0.1:1'], standalone_mode=False)); "
        "sys.exit('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert said.returncode == 0

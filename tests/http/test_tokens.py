"""Who may read: everybody on this machine; others only with the token, or if nobody cares."""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream_rnn.assembly.settings import MetricsTable
from stream_rnn.config import ConfigError
from stream_rnn.daemon import serve
from stream_rnn.http.bounded import Bounds
from stream_rnn.http.guard import require_token, token_in
from stream_rnn.http.live import page
from stream_rnn.http.pages import pages, predicting
from stream_rnn.http.server import HttpServer
from stream_rnn.spi import SettingError

TOKEN = "0123456789abcdef0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OPEN = ("/livez", "/readyz", "/", "/static/live.js")
GUARDED = ("/metrics", "/status", "/nothing")


def get(server: HttpServer, path: str, headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers=headers or {})
    status = connection.getresponse().status
    connection.close()
    return status


def server_of(address: str, **options: object) -> HttpServer:
    routes = {**page(), **pages(CollectorRegistry(), dict, list, list)}
    return HttpServer(address, routes, bounds=Bounds(poll_s=0.01, patience_s=60.0), **options)  # type: ignore[arg-type]


def test_reading_from_other_machines_takes_the_token() -> None:
    with server_of("0.0.0.0:0", token=TOKEN) as server:
        assert {get(server, path) for path in GUARDED} == {401}
        assert [get(server, path, BEARER) for path in GUARDED] == [200, 200, 404]


def test_probes_and_the_page_without_its_data_are_open_to_all() -> None:
    with server_of("0.0.0.0:0", token=TOKEN) as server:
        assert {get(server, path) for path in OPEN} == {200}


@pytest.mark.parametrize(
    ("address", "insecure"), [("127.0.0.1:0", False), ("0.0.0.0:0", True)], ids=["local", "open"]
)
def test_reading_is_free_on_this_machine_and_where_every_machine_is_trusted(
    address: str, insecure: bool
) -> None:
    with server_of(address, token=TOKEN, insecure=insecure) as server:
        assert get(server, "/status") == 200


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "with a space in its middle", "ü" * 32])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    with pytest.raises(SettingError, match=r"^token: ") as error:
        require_token(token)
    assert not token or token not in str(error.value).partition("got")[2]


def test_a_weak_token_is_a_configuration_error() -> None:
    table = MetricsTable("127.0.0.1:0", token="hunter2")
    with pytest.raises(ConfigError, match=re.escape("[metrics] token: expected at least 16")):
        serve(table, CollectorRegistry(), dict, list, list)


def test_a_token_is_not_in_the_tables_text() -> None:
    assert TOKEN not in repr(MetricsTable(token=TOKEN))


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    token = token_in(tmp_path / "token")
    assert len(token) >= 32
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert token_in(tmp_path / "token") == token
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_token_that_others_can_read_is_replaced(tmp_path: Path, mode: int) -> None:
    token = token_in(tmp_path / "token")
    (tmp_path / "token").chmod(mode)
    assert token_in(tmp_path / "token") != token
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_a_link_or_a_pipe_in_its_place_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(TOKEN)
    (tmp_path / "elsewhere").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert token_in(tmp_path / "link") != TOKEN
    assert token_in(tmp_path / "pipe")
    assert (tmp_path / "elsewhere").read_text() == TOKEN


def test_a_damaged_token_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("")
    (tmp_path / "token").chmod(0o600)
    assert len(token_in(tmp_path / "token")) >= 32


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"token: .*nowhere/token cannot be written.*env:NAME"):
        token_in(tmp_path / "nowhere" / "token")


def asked_with(server: HttpServer, token: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/predict", b"{}", headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_daemon_makes_a_token_where_predictions_are_asked_for(tmp_path: Path) -> None:
    table = MetricsTable("127.0.0.1:0")
    given = table, CollectorRegistry(), dict, list, list
    with closing(serve(*given, predict=lambda body: (200, body), state_dir=tmp_path)) as server:
        assert asked_with(server, (tmp_path / "token").read_text().strip()) == 200


def test_a_port_in_use_leaves_no_token_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        table = MetricsTable(f"127.0.0.1:{taken.getsockname()[1]}")
        given = table, CollectorRegistry(), dict, list, list
        with pytest.raises(ConfigError, match="in use"):
            serve(*given, predict=lambda body: (200, body), state_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_predictions_there_is_no_token_and_no_such_page(tmp_path: Path) -> None:
    table = MetricsTable("127.0.0.1:0", token=TOKEN)
    with closing(serve(table, CollectorRegistry(), dict, list, list, state_dir=tmp_path)) as server:
        assert asked_with(server, TOKEN) == 404
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_travels_in_clear_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    table = MetricsTable("0.0.0.0:0", token=TOKEN)
    serve(table, CollectorRegistry(), dict, list, list).close()
    assert "the token travels in clear" in caplog.text
    assert TOKEN not in caplog.text


def test_every_route_that_posts_wants_the_token() -> None:
    assert not any(route.public for route in predicting(lambda body: (200, body)).values())

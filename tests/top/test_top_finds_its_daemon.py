"""Contains tests for whom `stream-rnn top` asks, with which token, and what it believes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stream_rnn.cli import CONFIGURATION, _exit_code, cli
from stream_rnn.config import ConfigError
from stream_rnn.http.pages import pages
from stream_rnn.http.server import HttpServer
from stream_rnn.spi import SettingError
from stream_rnn.top.asking import NoAnswer, ask
from stream_rnn.top.command import command, destination
from stream_rnn.top.place import parse

TOKEN = "0123456789abcdef0123456789abcdef"
MINIMAL = """
source = { kind = "jsonl", path = "events.jsonl" }
task = { kind = "forecast", target = "y" }
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("127.0.0.1:9000", "http://127.0.0.1:9000/"),
        ("learner.example", "http://learner.example:9464/"),
        ("https://learner.example:9000/", "https://learner.example:9000/"),
        ("[::1]:9000", "http://[::1]:9000/"),
        ("[::1]", "http://[::1]:9464/"),
        ("0.0.0.0:9464", "http://127.0.0.1:9464/"),
        ("[::]:9464", "http://[::1]:9464/"),
    ],
)
def test_an_address_is_read_as_a_person_writes_it(written, url):
    assert parse(written).url == url


@pytest.mark.parametrize(
    "written",
    [
        "",
        "ftp://x:1",
        "x:port",
        "x:99999",
        "x:0",
        "user:secret@x:1",
        "x:1/status",
        "x y:1",
        "x\r\nEvil: 1:80",
        "ü.example:1",
        "x" * 5000,
        "x:" + "9" * 5000,
    ],
    ids=lambda written: repr(written)[:20],
)
def test_what_is_no_address_is_refused_with_an_example(written):
    with pytest.raises(SettingError, match=r"127\.0\.0\.1:9464"):
        parse(written)


# Configurations -------------------------------------------------------------------------------


def test_a_configuration_names_address_token_and_state():
    Path("c.toml").write_text(
        MINIMAL + f'state = {{ dir = "kept" }}\nmetrics = {{ address = "0.0.0.0:9000", '
        f'token = "{TOKEN}", certificate = "c.pem" }}\n'
    )
    place, state, letters = destination("c.toml", None)
    assert (place.url, place.token) == ("https://127.0.0.1:9000/", TOKEN)
    assert (place.certificate, state) == (Path("c.pem"), Path("kept"))
    assert letters == Path("kept/dead_letters.jsonl")
    assert TOKEN not in repr(place)  # it stands in every crash report


def test_the_dead_letters_are_where_the_configuration_says():
    Path("c.toml").write_text(MINIMAL + "[metrics]\n[dead_letter]\npath = 'bad.jsonl'\n")
    assert destination("c.toml", None)[2] == Path("bad.jsonl")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (MINIMAL, r"without a \[metrics\] table"),
        (MINIMAL + "[metrics]\naddress = 'x'\n", r"\[metrics\] address: expected"),
        (MINIMAL + "[metrics]\naddress = '127.0.0.1:0'\n", "the one that its start tells"),
        (MINIMAL + "[metrics]\nport = 1\n", r"\[metrics\] unknown key 'port'"),
        ("no toml", "not valid TOML"),
    ],
)
def test_a_configuration_that_tells_no_address_is_refused(text, why):
    Path("c.toml").write_text(text)
    with pytest.raises(ConfigError, match=why):
        destination("c.toml", None)


def test_a_folder_is_refused_with_what_to_name_instead():
    Path("state").mkdir()
    with pytest.raises(ConfigError, match="name the configuration, or an address with --state"):
        destination("state", None)


def test_a_file_that_is_not_there_is_no_address():
    with pytest.raises(ConfigError, match="no such file"):
        destination("config.toml", None)


# The command ----------------------------------------------------------------------------------


def test_without_a_terminal_it_says_what_a_script_can_do(capfd):
    assert _exit_code(lambda: cli.main(["top"], standalone_mode=False)) == CONFIGURATION
    assert "curl http://127.0.0.1:9464/status" in capfd.readouterr().err


def test_a_token_on_the_command_line_is_refused():
    with pytest.raises(ConfigError, match="env:NAME or file:PATH") as refused:
        command(None, None, TOKEN, None)
    assert TOKEN not in str(refused.value)


def test_a_token_that_is_none_is_refused_without_being_told(monkeypatch):
    monkeypatch.setenv("TOKEN", "two words\r\nEvil: 1")
    with pytest.raises(ConfigError, match="no token") as refused:
        command(None, None, "env:TOKEN", None)
    assert "Evil" not in str(refused.value)


def test_without_the_library_it_says_how_to_get_it():
    code = (
        "import sys; sys.modules['textual'] = None\n"
        "from stream_rnn.top import command\n"
        "command._require_terminal = lambda place: None\n"
        "command.command(None, None, None, None)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "ConfigError: top draws with textual" in ran.stderr
    assert "pip install 'stream-rnn[top]'" in ran.stderr


# Tokens and certificates ----------------------------------------------------------------------


def daemon(address: str = "127.0.0.1:0", **options: str) -> HttpServer:
    from prometheus_client import CollectorRegistry

    return HttpServer(address, pages(CollectorRegistry(), dict, list, list), **options)


def test_the_token_opens_a_daemon_that_asks_for_it():
    with daemon("0.0.0.0:0", token=TOKEN) as server:
        place = parse(f"127.0.0.1:{server.port}")
        with pytest.raises(NoAnswer, match="--token"):
            ask(place, "/status")
        assert ask(replace(place, token=TOKEN), "/status") == b"{}\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ours.pem and theirs.pem, each for 127.0.0.1 and signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (apt-get install openssl)")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ours", "theirs"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def test_a_certificate_is_believed_by_its_signer_or_by_itself_only(certificates):
    ours, theirs = certificates / "ours.pem", certificates / "theirs.pem"
    with daemon(certificate=str(ours), key=str(certificates / "ours.key")) as server:
        place = parse(f"https://127.0.0.1:{server.port}")
        assert ask(replace(place, authority=ours), "/status") == b"{}\n"
        assert ask(replace(place, certificate=ours), "/status") == b"{}\n"
        for doubted in (
            place,
            replace(place, authority=theirs),
            replace(place, certificate=theirs),
            replace(place, certificate=certificates / "ours.key"),
        ):
            with pytest.raises(NoAnswer, match="TLS: "):
                ask(doubted, "/status")


def test_plain_http_to_a_daemon_with_tls_is_told_how_to_ask(certificates):
    files = {"certificate": str(certificates / "ours.pem"), "key": str(certificates / "ours.key")}
    with daemon(**files) as server, pytest.raises(NoAnswer, match="say https://"):
        ask(parse(f"127.0.0.1:{server.port}"), "/status")

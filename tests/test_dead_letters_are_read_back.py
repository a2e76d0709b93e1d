"""`stream-rnn dlq`: a table, JSON, the original bytes; hostile files change nothing about it."""

import base64
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.jsonl import JsonlSink, JsonlSource
from stream_rnn import app
from stream_rnn.cli import cli
from stream_rnn.config import ConfigError
from stream_rnn.letters import Damaged, Letter, files_of, plain, read
from stream_rnn.spi import Event

ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202etxt\r\n"


def letter(n: int, data: bytes, keep: int = 4096, **more: Any) -> dict[str, Any]:
    return {
        "id": f"p:{n}",
        "partition": "p",
        "position": n,
        "stage": "decode",
        "issue": "undecodable",
        "reason": "no JSON",
        "timestamp": None,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "data_base64": base64.b64encode(data[:keep]).decode(),
    } | more


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, *letters: dict[str, Any], name: str = "dead_letters.jsonl") -> None:
    with (folder / name).open("ab") as file:
        file.writelines(json.dumps(each).encode() + b"\n" for each in letters)


def dlq(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["dlq", *map(str, arguments)])


def test_a_table_tells_when_which_and_why(state: Path) -> None:
    write(state, letter(1, b"{oops", timestamp=1_700_000_000.0), letter(2, b"x", stage="learn"))
    result = dlq("ls", state)
    head, first, second = result.stdout.splitlines()
    assert head.split() == ["when", "id", "stage", "issue", "reason", "first", "bytes"]
    assert first.startswith("2023-11-14 22:13:20  p:1 ")
    assert first.endswith("{oops")
    assert second.split()[:3] == ["-", "p:2", "learn"]
    assert "2 of 2 dead letters" in result.stderr


def test_a_letter_tells_when_it_was_written_before_the_time_of_its_event(state: Path) -> None:
    stamp = {"written_at": 1_700_000_000.0}
    write(state, letter(1, b"x", **stamp), letter(2, b"x", timestamp=1.0, **stamp))
    _, *rows = dlq("ls", state).stdout.splitlines()
    assert [row.split()[:3] for row in rows] == [
        ["2023-11-14", "22:13:20", "p:1"],
        ["2023-11-14", "22:13:20", "p:2"],
    ]


def test_stages_and_the_newest_ones_can_be_chosen(state: Path) -> None:
    write(state, *(letter(n, b"x", stage="poison" if n % 2 else "decode") for n in range(10)))
    lines = dlq("ls", state, "--json", "--stage", "poison", "--last", 2).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["p:7", "p:9"]


def test_rotated_files_come_first(state: Path) -> None:
    write(state, letter(3, b"x"))
    write(state, letter(2, b"x"), name="dead_letters.jsonl.1")
    write(state, letter(1, b"x"), name="dead_letters.jsonl.2")
    lines = dlq("ls", state, "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["p:1", "p:2", "p:3"]


def test_the_original_bytes_are_written_once_and_what_was_cut_is_told(state: Path) -> None:
    whole, binary = b'{"y": 1}', bytes(range(11, 256))
    write(
        state,
        letter(1, whole),
        letter(1, whole),  # repeated after a crash
        letter(2, b"x" * 99, keep=10),
        letter(3, binary),
        letter(4, b"two\nlines"),
        letter(5, b"changed", sha256="0" * 64),
    )
    out = state / "again.jsonl"
    result = dlq("replay", state, "--out", out)
    assert out.read_bytes() == whole + b"\n" + binary + b"\n"
    assert "2 events written" in result.stderr
    assert "2 cannot be replayed: not kept whole" in result.stderr
    assert "1 cannot be replayed: empty, or a line end" in result.stderr
    with JsonlSource(str(out)) as source:
        source.open(None)
        assert [event.data for event in source.poll(9, 0.0).events] == [whole, binary]


def test_letters_of_a_real_run_come_back_byte_for_byte(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'source = { kind = "synthetic" }\n'
        'task = { kind = "forecast", target = "y" }\n'
        f'state = {{ dir = "{tmp_path}/state" }}\n'
    )
    tables = {"source": {"kind": "synthetic"}, "task": {"kind": "forecast", "target": "y"}}
    engine = app.build(tables).engine
    bad = [b"no JSON", b'{"y": "text"}', b'{"y": 1e300}']
    for i, data in enumerate(bad):
        engine.feed(Event("p", i, data))
    sink = JsonlSink(str(tmp_path / "state" / "dead_letters.jsonl"))
    sink.open()
    sink.write(engine.letters)
    sink.close()
    assert dlq("replay", config).stdout_bytes.splitlines() == bad


def test_an_existing_file_is_not_overwritten(state: Path) -> None:
    out = state / "precious"
    out.write_text("untouched")
    result = dlq("replay", state, "--out", out)
    assert isinstance(result.exception, ConfigError)
    assert out.read_text() == "untouched"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_terminal_is_never_given_what_it_would_obey(state: Path, as_json: bool) -> None:
    fields = dict.fromkeys(("id", "stage", "issue", "reason"), ESCAPES)
    write(state, letter(1, ESCAPES.encode(), **fields))
    shown = dlq("ls", state, *(["--json"] if as_json else [])).stdout
    assert all(c == "\n" or c.isprintable() for c in shown)
    assert "\\u001b[2J" in shown if as_json else "\\x1b[2J" in shown


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON",
        b"[" * 100_000,
        b'"text"',
        b"{}",
        b'{"id": 7, "stage": "decode"}',
        b'{"id": "\xff", "stage": "decode"}',
        b'{"id": "a", "stage": "decode", "timestamp": 1e999}',
    ],
)
def test_a_line_that_is_no_letter_is_counted_and_passed_over(state: Path, line: bytes) -> None:
    (state / "dead_letters.jsonl").write_bytes(line + b"\n")
    write(state, letter(1, b"x"))
    result = dlq("ls", state)
    assert result.exit_code == 0
    assert "1 of 1 dead letters; 1 lines passed over" in result.stderr
    assert "1 events written" in dlq("replay", state).stderr


@given(line=st.binary(max_size=300) | st.text(max_size=100).map(lambda t: t.encode()))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_a_letter_or_passed_over(state: Path, line: bytes) -> None:
    path = state / "dead_letters.jsonl"
    path.write_bytes(line)
    assert all(isinstance(each, Letter | Damaged) for each in read([path]))


@given(
    text=st.text(max_size=80),
    size=st.integers(-5, 99),
    stamp=st.floats() | st.none(),
    data=st.text(),
)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_letter_can_be_shown(
    state: Path, text: str, size: int, stamp: float | None, data: str
) -> None:
    (state / "dead_letters.jsonl").write_text("")
    odd = {"id": text, "reason": text, "size_bytes": size, "data_base64": data}
    write(state, letter(1, b"x", timestamp=stamp, **odd))
    for arguments in (["ls", state], ["ls", state, "--json"], ["replay", state]):
        result = dlq(*arguments)
        assert result.exception is None
    assert all(c == "\n" or c.isprintable() for c in dlq("ls", state).stdout)


def test_a_link_and_a_pipe_are_not_read(state: Path, tmp_path: Path) -> None:
    path = state / "dead_letters.jsonl"
    path.symlink_to("/etc/passwd")
    assert isinstance(dlq("ls", state).exception, ConfigError)
    path.unlink()
    os.mkfifo(path)
    assert isinstance(dlq("ls", state).exception, ConfigError)


@pytest.mark.parametrize("command", ["ls", "replay"])
def test_another_user_s_folder_is_named_with_the_remedy(
    state: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked = os.stat

    def denied(path: Any, **more: Any) -> os.stat_result:  # root may look into what is 0000
        if Path(path).parent == state:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return asked(path, **more)

    monkeypatch.setattr(os, "stat", denied)
    refused = dlq(command, state).exception
    assert isinstance(refused, ConfigError)
    assert "this user may not read or write it; be the daemon's user or root" in str(refused)


def test_without_letters_it_says_so(state: Path) -> None:
    result = dlq("ls", state)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "0 of 0 dead letters" in result.stderr
    assert files_of(state / "dead_letters.jsonl") == []


def test_plain_text_is_cut_to_its_width() -> None:
    assert plain("x" * 100, 10) == "xxxxxxx..."
    assert plain("\x00" * 5, 10) == "\\x00\\x0..."


def test_all_dead_letters_together_are_bounded(tmp_path: Path) -> None:
    sink = JsonlSink(str(tmp_path / "dead_letters.jsonl"), max_bytes=10_000, keep=2)
    sink.open()
    for n in range(2000):
        sink.write([letter(n, b"x" * 40)])
    sink.close()
    files = files_of(tmp_path / "dead_letters.jsonl")
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= 30_000

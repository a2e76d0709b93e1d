"""The constructor is the schema."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from stream_rnn import config
from stream_rnn.config import ConfigError


@dataclass(frozen=True)
class Part:
    size: int = 1


class Thing:
    def __init__(
        self,
        name: str,
        count: int = 1,
        ratio: float = 0.5,
        mode: Literal["a", "b"] = "a",
        part: Part | None = None,
        tags: list[str] | None = None,
        *,
        outside: object = None,
    ) -> None:
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        self.all = (name, count, ratio, mode, part, tags, outside)


class Plain:
    pass


class Unannotated:
    def __init__(self, path, follow=False):  # type: ignore[no-untyped-def]
        self.all = (path, follow)


@dataclass(frozen=True)
class Table:
    size: int = 3
    more: dict[str, int] = field(default_factory=dict)


def build(**table: Any) -> Thing:
    return config.build("[thing]", table, Thing, outside="given")


def test_a_table_becomes_an_object() -> None:
    thing = build(kind="x", name="n", count=2, ratio=1, mode="b", part={"size": 7}, tags=["t"])
    assert thing.all == ("n", 2, 1.0, "b", Part(7), ["t"], "given")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "[thing] 'name' is missing (name = ..., str)"),
        ({"name": 1}, "[thing] name: expected str, got int (1)"),
        ({"name": "n", "count": "2"}, "[thing] count: expected int, got str ('2')"),
        ({"name": "n", "count": True}, "[thing] count: expected int, got bool (True)"),
        ({"name": "n", "mode": "c"}, """[thing] mode: expected "a", "b", got 'c' ('c')"""),
        ({"name": "n", "tags": ["t", 1]}, "[thing] tags: expected str, got int - at $[1]"),
        ({"name": "n", "part": {"size": "x"}}, "expected int, got str - at $.size"),
        ({"name": "n", "part": {"sise": 1}}, "[thing] part unknown key 'sise'; did you mean"),
        ({"name": "n", "count": -1}, "[thing] count must not be negative, got -1"),
        ({"name": "n", "cuont": 1}, "[thing] unknown key 'cuont'; did you mean 'count'? (known: "),
        ({"name": "n", "outside": 1}, "[thing] unknown key 'outside'"),
        ({"name": "n", "self": 1}, "[thing] unknown key 'self'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**table)
    assert message in str(caught.value)


def test_a_class_without_a_constructor_has_no_keys() -> None:
    assert isinstance(config.build("[plain]", {"kind": "x"}, Plain), Plain)
    with pytest.raises(ConfigError, match=r"unknown key 'a' \(known: none\)"):
        config.build("[plain]", {"a": 1}, Plain)


def test_a_constructor_without_annotations_takes_what_comes() -> None:
    built = config.build("[source]", {"path": [1], "follow": 2}, Unannotated)
    assert built.all == ([1], 2)
    with pytest.raises(ConfigError, match="'path' is missing"):
        config.build("[source]", {}, Unannotated)


def test_a_dataclass_is_a_table_too() -> None:
    assert config.build("[t]", {"more": {"a": 1}}, Table) == Table(3, {"a": 1})


def test_secrets_come_from_the_environment_and_from_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STREAM_RNN_TEST_NAME", "from the environment")
    monkeypatch.setenv("STREAM_RNN_TEST_COUNT", "12")
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    assert build(name="env:STREAM_RNN_TEST_NAME").all[0] == "from the environment"
    assert build(name=f"file:{secret}").all[0] == "from a file"
    assert build(name="n", count="env:STREAM_RNN_TEST_COUNT").all[1] == 12


def test_a_file_that_is_no_text_is_no_secret(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        build(name=f"file:{secret}")


def test_a_url_is_not_taken_for_a_secret() -> None:
    assert build(name="file://here").all[0] == "file://here"


def test_what_looks_like_a_secret_is_starred() -> None:
    shown = config.redacted(
        {"password": "a", "api_key": "b", "deep": [{"auth_token": "c"}], "key": "d", "n": 1}
        | {"secret": "env:NAME"}
    )
    assert shown == {
        "password": "********",
        "api_key": "********",
        "deep": [{"auth_token": "********"}],
        "key": "d",
        "n": 1,
        "secret": "env:NAME",
    }


def test_an_unused_connectors_library_is_not_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from stream_rnn import config\n"
        "from stream_rnn.spi import Source\n"
        "config.resolve('[source]', 'jsonl', Source, 'stream_rnn.sources')\n"
        "assert 'zmq' not in sys.modules and 'river' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_configuration_of_gigabytes_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "big.toml"
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="is no configuration"):
        config.load(path)


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[state]\ndir = 'd'\n")
    assert config.load(path) == {"state": {"dir": "d"}}


def test_a_file_that_is_not_utf_8_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes("[state]\n".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"config\.toml: not valid TOML: .*; save it as UTF-8"):
        config.load(path)

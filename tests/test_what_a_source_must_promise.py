"""`--require` and `[limits] require`: a source that promises less is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream_rnn import app
from stream_rnn.cli import CONFIGURATION, _exit_code, cli
from stream_rnn.config import ConfigError
from stream_rnn.spi import EndOfStream, Guarantee
from stream_rnn.testing import ScriptedSource

TABLES: dict[str, Any] = {
    "task": {"kind": "forecast", "target": "y"},
    "learner": {"cell": {"kind": "gru", "units": 2}, "credit": {"kind": "rtrl"}},
}
ZEROMQ = {"kind": "zeromq", "address": "tcp://127.0.0.1:5999"}


def scripted(guarantee: Guarantee) -> ScriptedSource:
    return ScriptedSource([EndOfStream()], guarantee)


@pytest.mark.parametrize(
    ("guarantee", "level", "refused"),
    [
        (Guarantee.REPLAYABLE, "exactly-once-effect", False),
        (Guarantee.REPLAYABLE, "at-least-once", False),
        (Guarantee.ACKABLE, "exactly-once-effect", True),
        (Guarantee.ACKABLE, "at-least-once", False),
        (Guarantee.FIRE_AND_FORGET, "exactly-once-effect", True),
        (Guarantee.FIRE_AND_FORGET, "at-least-once", True),
        (Guarantee.FIRE_AND_FORGET, None, False),
    ],
    ids=str,
)
def test_a_source_is_held_to_the_level_required(
    guarantee: Guarantee, level: str | None, refused: bool
) -> None:
    if not refused:
        app.require(scripted(guarantee), level)
        return
    with pytest.raises(ConfigError, match=f"require = '{level}'.*promises .* only, for it"):
        app.require(scripted(guarantee), level)


def test_the_configuration_may_require_it() -> None:
    with pytest.raises(ConfigError) as error:
        app.build(TABLES | {"source": ZEROMQ, "limits": {"require": "at-least-once"}})
    assert str(error.value).startswith("[limits] require = 'at-least-once': the source (")
    assert "promises at-most-once only, for it can neither rewind" in str(error.value)


def test_the_command_line_may_require_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(
        'source = { kind = "zeromq", address = "tcp://127.0.0.1:5999" }\n'
        'task = { kind = "forecast", target = "y" }\n'
        'learner = { cell = { kind = "gru", units = 2 }, credit = { kind = "rtrl" } }\n'
    )
    args = ["run", "c.toml", "--require", "exactly-once-effect"]
    assert _exit_code(lambda: cli.main(args, standalone_mode=False)) == CONFIGURATION
    assert "--require = 'exactly-once-effect': the source (" in capsys.readouterr().err
    assert not Path("state").exists()


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"\[limits\] require"):
        app.build(TABLES | {"source": ZEROMQ, "limits": {"require": "exactly-once"}})


def test_the_banner_says_why_a_source_promises_what_it_does() -> None:
    banner = app.build(TABLES | {"source": ZEROMQ}).banner
    assert "    because    it can neither rewind nor bring an event again" in banner

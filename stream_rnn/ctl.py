"""`stream-rnn ctl`: what a person says to a running daemon, and what it answers.

Imports no torch: an answer comes at once.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from stream_rnn import config
from stream_rnn.assembly import settings
from stream_rnn.config import ConfigError
from stream_rnn.console import printable
from stream_rnn.control.client import NoAnswer, ask

VERBS = {
    "status": "what it does, as JSON; answers even while the loop hangs",
    "checkpoint": "take a snapshot; answers when it is durable",
    "pause": "stop polling; the source stays open, snapshots go on",
    "resume": "poll again, after a pause or the circuit breaker",
    "freeze": "predict only, nothing is learned; outlives a restart",
    "unfreeze": "learn again",
    "drain": "learn what was received, take a snapshot, exit 0",
    "set": "KEY=VALUE, until the next start: state.every_s, limits.poll_events, ...",
}
PATIENCE_S = {"checkpoint": 60.0, "freeze": 60.0, "unfreeze": 60.0, "drain": 120.0}
OTHERWISE_S = 5.0
FAILED = 1


def command(target: Path, verb: str, argument: str | None, patience_s: float | None) -> None:
    """Ask, print what was answered, and exit with 1 if it was not done.

    Raises:
        ConfigError: the request is wrong, or there is no such state folder.
        NoAnswer: nobody answered.
    """
    if (verb == "set") != (argument is not None):
        raise ConfigError(
            f"ctl {verb}: "
            + ("KEY=VALUE is missing" if verb == "set" else f"takes no argument, got {argument!r}")
        )
    patience_s = patience_s or PATIENCE_S.get(verb, OTHERWISE_S)
    answer = ask(_directory(target), verb, argument or "", patience_s)
    text = str(answer.get("text", ""))
    if answer.get("ok") is not True:
        if answer.get("usage"):
            raise ConfigError(text)
        if answer.get("late"):
            raise NoAnswer(text)
        raise click.ClickException(printable(text))
    if "status" in answer:
        text = json.dumps(answer["status"], indent=2)
    click.echo("\n".join(printable(line) for line in text.splitlines()))


def _directory(target: Path) -> Path:
    """The state folder: `target` itself, or the one its configuration names."""
    if config.is_folder(target):
        return target
    tables = config.load(target)
    settings.require_sound(tables)
    return Path(settings.build_state(tables).dir)

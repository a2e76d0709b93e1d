"""`stream-rnn predict`: ask the readers of a running daemon, without loading what it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from stream_rnn import config
from stream_rnn.cli import Temporary
from stream_rnn.config import ConfigError
from stream_rnn.readers.zeromq import ask
from stream_rnn.spi import SettingError


def predict(target: str, record: str, timeout_s: float) -> None:
    """Print the answer; exit codes: 0 answered, 1 refused, 75 nobody answers, 78 wrong address.

    Args:
        target: the daemon's configuration, or the address of its readers.
        record: a JSON object; a whole request, if it holds "record" or "records".
        timeout_s: patience.
    """
    address = target if "://" in target else _address(Path(target))
    try:
        status, body = ask(address, _request(record), timeout_s)
    except SettingError as error:
        raise ConfigError(f"[readers] {error}") from error
    except TimeoutError as error:
        raise Temporary(f"{error}; is the daemon running?") from error
    text = body.decode("utf-8", "backslashreplace").rstrip()
    if status != 200:
        raise click.ClickException(text)
    click.echo(text)


def _address(path: Path) -> str:
    table = config.load(path).get("readers")
    address = table.get("address") if isinstance(table, dict) else None
    if not isinstance(address, str):
        raise ConfigError(
            f'{path}: [readers] has no address; add address = "tcp://127.0.0.1:5570" and restart '
            "the daemon, or name the address"
        )
    return address


def _request(record: str) -> bytes:
    try:
        given: Any = msgspec.json.decode(record)
    except (msgspec.DecodeError, RecursionError) as error:
        raise click.UsageError(f"RECORD is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise click.UsageError(f"RECORD: expected a JSON object, got {type(given).__name__}")
    is_request = given.keys() & {"record", "records"}
    return msgspec.json.encode(given if is_request else {"record": given})

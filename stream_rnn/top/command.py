"""`stream-rnn top [ADDRESS|CONFIG]`: whom to ask, from what a person typed.

Imports neither torch nor, before a screen is drawn, the library that draws it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from stream_rnn import config
from stream_rnn.assembly import settings
from stream_rnn.config import ConfigError
from stream_rnn.spi import SettingError, require_port
from stream_rnn.top.place import DEFAULT, Place, parse


def command(target: str | None, state: Path | None, token: str | None, cacert: Path | None) -> None:
    """Draw the screen until a person leaves it.

    Args:
        target: an address or a configuration file; None: where a daemon serves by default.
        state: its state folder on this machine; a configuration names it itself.
        token: "env:NAME" or "file:PATH".
        cacert: PEM file with those who may have signed the daemon's certificate.

    Raises:
        ConfigError: one of them cannot be used, there is no terminal, or the library is missing.
    """
    place, state, letters = destination(target or DEFAULT, state)
    if token is not None:
        place = replace(place, token=_token(token))
    if cacert is not None:
        if not cacert.is_file():
            raise ConfigError(f"--cacert {cacert}: no such file; give the issuer's PEM file")
        place = replace(place, authority=cacert, certificate=None)
    _require_terminal(place)
    try:
        from stream_rnn.top.poller import Poller
        from stream_rnn.top.screen import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        raise ConfigError(
            "top draws with textual, which is not installed: pip install 'stream-rnn[top]'"
        ) from None
    Top(place, Poller(place, letters), state).run()


def destination(target: str, state: Path | None) -> tuple[Place, Path | None, Path | None]:
    """The place, the state folder and the file of dead letters, as far as they are known.

    Raises:
        ConfigError: it is neither an address nor the configuration of a daemon that serves.
    """
    path = Path(target)
    if config.is_folder(path):
        raise ConfigError(
            f"top {target}: a folder; name the configuration, or an address with --state {target}"
        )
    letters = None if state is None else state / settings.LETTERS
    if path.is_file():
        return _configured(path, state, letters)
    if path.suffix == ".toml":
        raise ConfigError(f"top {target}: no such file; name a configuration or an address")
    try:
        return parse(target), state, letters
    except SettingError as error:
        raise ConfigError(f"top: {error}, and there is no such file either") from error


def _configured(
    path: Path, state: Path | None, letters: Path | None
) -> tuple[Place, Path | None, Path | None]:
    tables: dict[str, Any] = config.load(path)
    settings.require_sound(tables)
    table = settings.build_metrics(path, tables)
    if state is None:
        state = Path(settings.build_state(tables).dir)
        kept = config.build("[dead_letter]", tables.get("dead_letter", {}), settings.DeadLetters)
        letters = kept.file(str(state))
    try:
        require_port(table.address)  # as the daemon reads it: with a port, without a scheme
        place = parse(table.address)
    except SettingError as error:
        raise ConfigError(f"[metrics] {error}") from error
    certificate = None if table.certificate is None else Path(table.certificate)
    is_tls = certificate is not None
    place = replace(place, token=table.token, is_tls=is_tls, certificate=certificate)
    return place, state, letters


def _token(written: str) -> str:
    """What `env:NAME` or `file:PATH` holds."""
    token = config.resolve_secret("top", "--token", written)
    if token is written:
        raise ConfigError(
            "--token: give env:NAME or file:PATH; what stands on a command line every user sees"
        )
    text = str(token)
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(f"--token {written}: what it holds is no token")
    return text


def _require_terminal(place: Place) -> None:
    # the screen is drawn on stderr, as stdout may be a pipe
    is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    if not is_terminal or os.environ.get("TERM", "dumb") == "dumb":
        raise ConfigError(
            f"top draws a screen and needs a terminal; for a script: curl {place.url}status"
        )

"""`stream-rnn dlq`: what could not be used, as a table, and written out to be fed again."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from stream_rnn import config
from stream_rnn.assembly import settings
from stream_rnn.checkpoint.files import CheckpointError, explained
from stream_rnn.config import ConfigError
from stream_rnn.letters import Damaged, Letter, as_json, files_of, plain, read

_WIDTHS = {"when": 19, "id": 34, "stage": 8, "issue": 12, "reason": 60, "first bytes": 40}


def ls(target: Path, stages: Collection[str], as_lines: bool, last: int | None) -> None:
    """`stream-rnn dlq ls`: one row, or one JSON object, for each letter."""
    chosen: deque[Letter] = deque(maxlen=last)
    n_damaged = n = 0
    for each in _letters(target):
        if isinstance(each, Damaged):
            n_damaged += 1
        elif not stages or each.stage in stages:
            n += 1
            if last is None:  # as they come: there may be more than fit into memory
                _show(each, as_lines, is_first=n == 1)
            else:
                chosen.append(each)
    for i, letter in enumerate(chosen):
        _show(letter, as_lines, is_first=i == 0)
    shown = n if last is None else len(chosen)
    click.echo(f"{shown} of {n} dead letters{_damaged(n_damaged)}", err=True)


def replay(target: Path, stages: Collection[str], out: Path | None) -> None:
    """`stream-rnn dlq replay`: the original bytes, a line each, for the jsonl source.

    An event is written once, however often it was repeated; one that was not kept whole, or that
    holds a line end, cannot be and is counted.
    """
    if out is None and sys.stdout.isatty():
        raise ConfigError("dlq replay: the events are bytes as they came; name a file with --out")
    written = cut = unfit = n_damaged = 0
    seen: set[str] = set()
    with _open(out) as file:
        for each in _letters(target):
            if isinstance(each, Damaged):
                n_damaged += 1
                continue
            if each.id in seen or (stages and each.stage not in stages):
                continue
            seen.add(each.id)
            data = each.whole()
            if data is None:
                cut += 1
            elif not data.strip() or b"\n" in data:
                unfit += 1
            else:
                file.write(data + b"\n")
                written += 1
    click.echo(f"{written} events written{'' if out is None else f' to {out}'}", err=True)
    if cut:
        click.echo(
            f"{cut} cannot be replayed: not kept whole, or damaged since; [dead_letter] keep_bytes "
            "says how much of an event is kept",
            err=True,
        )
    if unfit:
        click.echo(f"{unfit} cannot be replayed: empty, or a line end within", err=True)
    if n_damaged:
        click.echo(f"{n_damaged} lines passed over: no dead letters", err=True)


def _letters(target: Path) -> Iterator[Letter | Damaged]:
    try:
        with explained(target):
            files = files_of(_path(target))
        yield from read(files)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def _path(target: Path) -> Path:
    """The dead-letter file of a configuration or a state folder."""
    if target.is_dir():
        return target / settings.LETTERS
    tables = config.load(target)
    table = config.build("[dead_letter]", tables.get("dead_letter", {}), settings.DeadLetters)
    return table.file(settings.build_state(tables).dir)


def _show(letter: Letter, as_lines: bool, is_first: bool) -> None:
    if as_lines:  # ASCII: what a terminal would obey is spelled out
        click.echo(json.dumps(as_json(letter)))
        return
    if is_first:
        click.echo("  ".join(name.ljust(width) for name, width in _WIDTHS.items()).rstrip())
    beginning = letter.kept()[:64].decode("utf-8", "backslashreplace")
    values = (_when(letter), letter.id, letter.stage, letter.issue, letter.reason, beginning)
    cells = zip(values, _WIDTHS.values(), strict=True)
    click.echo("  ".join(plain(text, width).ljust(width) for text, width in cells).rstrip())


def _when(letter: Letter) -> str:
    """When it was written (UTC); of a letter that does not say so, the event's own time."""
    moment = letter.timestamp if letter.written_at is None else letter.written_at
    if moment is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return str(moment)


def _damaged(n: int) -> str:
    return f"; {n} lines passed over: no dead letters" if n else ""


@contextmanager
def _open(out: Path | None) -> Iterator[BinaryIO]:
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        file = out.open("xb")
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}; name a file that is not there") from None
    with file:
        yield file

"""The connectors of the tutorial, run verbatim from examples/."""

import json
import runpy
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.spi import SettingError
from stream_rnn.testing import check_sink, check_source

EXAMPLES = Path(__file__).parents[2] / "examples"
SqliteSource = runpy.run_path(str(EXAMPLES / "custom_source.py"))["SqliteSource"]
SqliteSink = runpy.run_path(str(EXAMPLES / "custom_sink.py"))["SqliteSink"]


def test_the_custom_source_conforms(tmp_path: Path) -> None:
    database = tmp_path / "events.db"
    payloads = [b'{"n": %d}' % n for n in range(12)]
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB)")
        db.executemany("INSERT INTO events (payload) VALUES (?)", [(p,) for p in payloads])
    check_source(lambda: SqliteSource(str(database)), expected=payloads, slack_s=30.0)


def test_the_custom_source_names_a_missing_file(tmp_path: Path) -> None:
    expected = pytest.raises(SettingError, match=r"^database: there is no file")
    with SqliteSource(str(tmp_path / "no.db")) as source, expected:
        source.open(None)


def test_the_custom_sink_conforms(tmp_path: Path) -> None:
    database = tmp_path / "predictions.db"

    def read() -> list[dict[str, Any]]:
        with closing(sqlite3.connect(database)) as db:
            rows = db.execute("SELECT payload FROM predictions ORDER BY rowid").fetchall()
        return [json.loads(payload) for (payload,) in rows]

    check_sink(lambda: SqliteSink(str(database)), read)


@pytest.mark.parametrize("name", ["custom_source.py", "custom_sink.py"])
def test_an_example_stays_short_enough_to_read_at_once(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 50

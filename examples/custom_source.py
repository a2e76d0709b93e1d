"""A source of your own: rows of an SQLite table (id INTEGER PRIMARY KEY AUTOINCREMENT, payload).

In the configuration: kind = "examples.custom_source:SqliteSource", database = "events.db".
"""

import sqlite3
import time
from pathlib import Path

from stream_rnn.spi import Batch, Event, Guarantee, Position, SettingError, Source


class SqliteSource(Source):
    guarantee = Guarantee.REPLAYABLE  # rows stay where they are: we can start after any of them

    def __init__(self, database: str, table: str = "events") -> None:
        if not table.isidentifier():
            raise SettingError(f"table: expected a plain name, got {table!r}")
        self.database, self.table, self.db = database, table, None

    def open(self, resume: Position | None) -> None:
        self.close()
        if not Path(self.database).exists():
            raise SettingError(f"database: there is no file {self.database}")
        self.db = sqlite3.connect(self.database, check_same_thread=False)
        self.last = int((resume or {}).get(self.table, 0))

    def poll(self, max_events: int, timeout_s: float) -> Batch:
        query = f"SELECT id, payload FROM {self.table} WHERE id > ? ORDER BY id LIMIT ?"
        rows = self.db.execute(query, (self.last, max_events)).fetchall()
        if rows:
            self.last = rows[-1][0]
        else:
            time.sleep(min(timeout_s, 0.1))  # an empty batch is normal: the next poll looks again
        events = [Event(self.table, number, payload) for number, payload in rows]
        return Batch(events, {self.table: self.last})

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None

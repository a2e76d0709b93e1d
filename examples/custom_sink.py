"""A sink of your own: predictions into an SQLite table.

In the configuration: kind = "examples.custom_sink:SqliteSink", database = "predictions.db".
"""

import json
import sqlite3
from collections.abc import Sequence

from stream_rnn.spi import Record, Sink


class SqliteSink(Sink):
    def __init__(self, database: str) -> None:
        self.database, self.db = database, None

    def open(self) -> None:
        self.close()
        self.db = sqlite3.connect(self.database, check_same_thread=False)
        self.db.execute("CREATE TABLE IF NOT EXISTS predictions (payload TEXT)")

    def write(self, records: Sequence[Record]) -> None:
        with self.db:  # committed, hence on disk, when write returns: nothing is left to flush
            rows = [(json.dumps(record),) for record in records]
            self.db.executemany("INSERT INTO predictions VALUES (?)", rows)

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None

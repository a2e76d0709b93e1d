"""Another configuration takes over what a state folder has learned: `run --migrate`.

What is carried and what starts afresh is a table in docs/delivery.md; it follows from names: of
layers, inputs, outputs, lanes and fields. Positions and counts always go on.
"""

from stream_rnn.migration.side import Migrated, Refused, Side, migrate

__all__ = ["Migrated", "Refused", "Side", "migrate"]

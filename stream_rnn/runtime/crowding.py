"""More keys than lanes: streams that lose their state before their next event."""

from __future__ import annotations

import logging

from stream_rnn.lanes import Lanes

LOOK_EVERY = 1000  # events
SHARE = 0.5  # of them: a key that comes twice and never again is no crowd

_log = logging.getLogger(__name__)


class Crowding:
    """Says once that most events take a lane from another key: hardly anything can be scored then.

    Args:
        lanes: which key has which.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._is_said = False
        self.restart(0)

    def restart(self, applied: int) -> None:
        """Count from here on: what was before is another process's."""
        self._applied, self._evictions = applied, self._lanes.evictions

    def look(self, applied: int) -> None:
        """So many events have been applied by now."""
        events, evictions = applied - self._applied, self._lanes.evictions - self._evictions
        if events < LOOK_EVERY or self._is_said:
            return
        self.restart(applied)
        if evictions > SHARE * events:
            self._is_said = True
            _log.warning(
                "[lanes] capacity = %d is too few: %d of the last %d events took a lane from "
                "another key, whose state is lost; hardly anything can be scored or remembered. "
                "Give it more lanes than keys that come in turns, or another key",
                *(self._lanes.capacity, evictions, events),
            )

"""Where predictions and dead letters go: opened, written in order, reconnected, flushed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack

from stream_rnn.engine.engine import Engine
from stream_rnn.metrics import Metrics
from stream_rnn.runtime.patience import Loop, Patience
from stream_rnn.spi import EndOfStream, NotConnected, Record, Sink

_log = logging.getLogger(__name__)

SHOWN_LETTERS = 5
MAX_ID_CHARS = 200
MAX_REASON_CHARS = 300


class Outputs:
    """The sinks of one run, written by the loop's thread.

    Args:
        engine: what it has ready is taken from it.
        sinks: get every prediction.
        dead_letters: gets every event that could not be used.
        metrics: count the dead letters and the time.
        loop: waits meanwhile, and is told when nobody reads any more.
    """

    def __init__(
        self,
        engine: Engine,
        sinks: Sequence[Sink],
        dead_letters: Sink,
        metrics: Metrics,
        loop: Loop,
    ) -> None:
        self.sinks = list(sinks)
        self.dead_letters = dead_letters
        self._engine = engine
        self._metrics = metrics
        self._loop = loop
        self.newest_letters: tuple[Record, ...] = ()  # in short, the newest last; replaced whole

    def open(self, stack: ExitStack) -> None:
        """Connect them all; `stack` closes them. Raises NotConnected if told to stop meanwhile."""
        for sink in (*self.sinks, self.dead_letters):
            stack.callback(sink.close)
            self._open(sink)

    def write(self) -> None:
        """Write what the engine has ready; raises NotConnected if told to stop meanwhile."""
        start = time.perf_counter()
        outputs, self._engine.outputs = self._engine.outputs, []
        letters, self._engine.letters = self._engine.letters, []
        for sink in self.sinks:
            if outputs:
                self._write(sink, outputs)
        if letters:
            written_at = time.time()
            stamped = [{"written_at": written_at, **letter} for letter in letters]
            self._write(self.dead_letters, stamped)
            for letter in letters:
                self._metrics.dead_letters[letter["stage"]] += 1
            newest = tuple(in_short(letter) for letter in letters[-SHOWN_LETTERS:])
            self.newest_letters = (*self.newest_letters, *newest)[-SHOWN_LETTERS:]
        self._metrics.stage_seconds["emit"] += time.perf_counter() - start

    def flush(self) -> None:
        """On the snapshot writer's thread: what the snapshot contains is delivered before it."""
        for sink in (*self.sinks, self.dead_letters):
            sink.flush()

    def _write(self, sink: Sink, records: list[Record]) -> None:
        """Write, reconnecting as long as it takes (a stop gives up: the events will come again)."""
        patience: Patience | None = None
        while True:
            try:
                sink.write(records)
            except NotConnected as error:
                patience = patience or Patience(self._loop, snapshots=False)
                self._wait(patience, sink, error)
                self._open(sink)
                continue
            except EndOfStream as error:
                if not self._loop.stopping:
                    _log.warning("%s: %s; draining", sink.describe(), error)
                self._loop.stop()
            return

    def _open(self, sink: Sink) -> None:
        patience = Patience(self._loop, snapshots=False)
        while True:
            try:
                sink.open()
            except NotConnected as error:
                self._wait(patience, sink, error)
                continue
            return

    def _wait(self, patience: Patience, sink: Sink, error: NotConnected) -> None:
        """Without a snapshot meanwhile: it would hold events whose predictions are not written."""
        if self._loop.stopping:
            raise error
        _log.warning("%s: %s; trying again in %.1f s", sink.describe(), error, patience.wait_s)
        patience.wait()


def in_short(letter: Record) -> Record:
    """Of a dead letter: which, where, why; without the event's own bytes."""
    return {
        "id": str(letter["id"])[:MAX_ID_CHARS],
        "stage": letter["stage"],
        "issue": letter["issue"],
        "reason": str(letter["reason"])[:MAX_REASON_CHARS],
    }

"""The lines that leave the daemon: predictions, and dead letters for events it cannot use."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from stream_rnn.engine.block import Item
from stream_rnn.features.values import MAX_CHARS
from stream_rnn.spi import Event, Record
from stream_rnn.tasks import Task


class Lines:
    """Writes the lines of one stream.

    Args:
        task: knows how a target is published.
        source: name that prefixes ids, "" for a single source.
        keep_bytes: of the original payload in a dead letter.
    """

    def __init__(self, task: Task, source: str, keep_bytes: int) -> None:
        self._task = task
        self._source = source
        self._keep_bytes = keep_bytes

    def id_of(self, event: Event) -> str:
        """Names the event, and the prediction made at it, for good."""
        return self.ids_of((event,))[0]

    def ids_of(self, events: Iterable[Event]) -> list[str]:
        """The same of several."""
        source = f"{self._source}/" if self._source else ""
        return [f"{source}{event.partition}:{event.position}" for event in events]

    def predictions(self, items: Sequence[Item]) -> list[Record]:
        """The prediction made at each event, and those that it settled: the last, the mean loss."""
        settled_targets = [item.scored[-1].target for item in items if item.scored]
        targets = iter(self._task.publish_targets(settled_targets))
        lines: list[Record] = []
        for item in items:
            settled: dict[str, Any] | None = None
            event, scored = item.event, item.scored
            if scored:
                settled = {
                    "id": scored[-1].id,
                    "target": next(targets),
                    "loss": scored[-1].loss,
                }
                if len(scored) > 1:
                    settled["loss"] = sum(each.loss for each in scored) / len(scored)
                    settled["n"] = len(scored)
            lines.append(
                {
                    "id": item.id,
                    "key": item.key,
                    "partition": event.partition,
                    "position": event.position,
                    "prediction": item.prediction,
                    "step": item.step,
                    "replayed": item.replayed,
                    "scored": settled,
                }
            )
        return lines

    def letter(self, event: Event, stage: str, issue: str, reason: str) -> Record:
        """Why the event was not used, with what is needed to tell which it was."""
        kept = event.data[: self._keep_bytes]
        return {
            "id": self.id_of(event),
            "partition": event.partition,
            "position": event.position,
            "stage": stage,
            "issue": issue,
            "reason": reason,
            "key": None if event.key is None else event.key[:MAX_CHARS],
            "timestamp": event.timestamp,
            "size_bytes": len(event.data),
            "sha256": hashlib.sha256(event.data).hexdigest(),
            "data_base64": base64.b64encode(kept).decode("ascii"),
        }

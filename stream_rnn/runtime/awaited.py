"""Snapshots that somebody waits for: asked for on the loop's thread, answered when durable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from stream_rnn.checkpoint.snapshot import SavedInfo
from stream_rnn.checkpoint.writer import Failure
from stream_rnn.engine.engine import Engine
from stream_rnn.runtime.checkpointing import Checkpointing

_log = logging.getLogger(__name__)

Answer = dict[str, Any]


@dataclass
class _Wish:
    """`after`: a snapshot taken later than so many will do. `answer`: None for a signal."""

    after: int
    text: str
    answer: Future[Answer] | None


class Awaited:
    """Who waits for a snapshot that holds what is now.

    Args:
        engine, checkpointing: looked at for the answers.
        snapshot: takes one, if one can be taken now.
    """

    def __init__(
        self, engine: Engine, checkpointing: Checkpointing, snapshot: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._checkpointing = checkpointing
        self._snapshot = snapshot
        self._wishes: list[_Wish] = []

    def __len__(self) -> int:
        return len(self._wishes)

    def add(self, text: str, answer: Future[Answer] | None) -> None:
        """Answer once what is now is durable; `text` says what was done before that."""
        if not self._checkpointing.keeps:
            _tell(answer, failed(f"{text}, but this run keeps no snapshots"))
        elif self._checkpointing.everything_is_durable:
            _tell(answer, done(f"{text}; {self.newest()}", **self.facts()))
        else:
            self._wishes.append(_Wish(self._checkpointing.n_taken, text, answer))

    def settle(self, snapshots: bool) -> None:
        """Take a snapshot where none was taken since a wish; answer whose is finished."""
        checkpointing = self._checkpointing
        if snapshots and any(each.after == checkpointing.n_taken for each in self._wishes):
            self._snapshot()
        waiting = []
        for each in self._wishes:
            if checkpointing.n_finished <= each.after:
                waiting.append(each)
            else:
                _tell(each.answer, self._outcome(each.text))
        self._wishes = waiting

    def abandon(self) -> list[Future[Answer]]:
        """Forget them all; returns whom to tell."""
        left = [each.answer for each in self._wishes if each.answer is not None]
        self._wishes = []
        return left

    def newest(self) -> str:
        """The newest durable snapshot, for people."""
        return f"newest snapshot {self._checkpointing.newest or 'none: nothing was learned yet'}"

    def facts(self) -> Answer:
        """Where things stand, for programs."""
        path = self._checkpointing.newest
        return {"step": self._engine.step, "path": None if path is None else str(path)}

    def _outcome(self, text: str) -> Answer:
        result = self._checkpointing.result
        if isinstance(result, Failure):
            return failed(f"{text}, but the snapshot is NOT durable: {result.error}")
        assert isinstance(result, SavedInfo)
        facts = self.facts() | {"saved_step": result.step, "bytes": result.size_bytes}
        return done(f"{text}; step {result.step} is durable in {result.path}", **facts)


def _tell(answer: Future[Answer] | None, said: Answer) -> None:
    if answer is not None:
        answer.set_result(said)
    elif said["ok"]:
        _log.info("%s", said["text"])
    else:
        _log.error("%s", said["text"])


def done(text: str, **facts: object) -> Answer:
    """It was done."""
    return {"ok": True, "text": text, **facts}


def failed(text: str) -> Answer:
    """It was asked for rightly, and could not be done."""
    return {"ok": False, "text": text}


def wrong(text: str) -> Answer:
    """It was asked for wrongly."""
    return {"ok": False, "usage": True, "text": text}

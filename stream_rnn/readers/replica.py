"""A network of one lane that stands in for the learner's: one reader at a time moves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from stream_rnn.engine.frames import Frames, numerics
from stream_rnn.features.values import BadEvent
from stream_rnn.learner import Learner
from stream_rnn.readers.publication import Publication
from stream_rnn.readers.request import MAX_STEPS, UNUSABLE, Answer, Refused, Request
from stream_rnn.spi import Event


class Replica:
    """Predicts from a publication, with parts of its own; never touches the learner's.

    Not thread-safe: a replica serves one request at a time, on any thread.

    Args:
        learner: built like the one that learns, of one lane and horizon 0, on the host.
    """

    def __init__(self, learner: Learner) -> None:
        learner.teaches = "nothing"
        self._learner = learner
        self._frames = Frames(learner, 1, learner.recurrence.n_inputs)
        self._hidden = (learner.recurrence.hidden(False), learner.recurrence.hidden(True))
        self._holds: Publication | None = None  # whose parameters these are

    def answer(self, publication: Publication, request: Request, now: float) -> Answer:
        """The prediction for the last record; raises Refused (422) for one of no use."""
        with numerics(), torch.no_grad():
            return self._answer(publication, request, now)

    def _answer(self, publication: Publication, request: Request, now: float) -> Answer:
        keys, ends = _streams(publication, request)
        n_steps = 0
        lane = publication.lanes.find(keys[0])
        is_known = lane is not None
        if lane is None:
            lane = publication.lanes.capacity  # beyond the table: nothing is remembered of it
        task = publication.task.reading(lane)
        self._stand(publication, lane if is_known else None)
        prediction = None
        for i, record in enumerate(request.records):
            with _place(request, i):
                n_steps += task.n_steps(record)
                if n_steps > MAX_STEPS:
                    what = f"{n_steps} steps, at most {MAX_STEPS} are taken in one request"
                    raise Refused(UNUSABLE, "too_long", what)
                if not is_known and i == 0:
                    task.check(record)
                steps = task.steps(record, lane)
            for step in steps:
                outputs = self._look(step.x)
            prediction = task.publish(task.natural(outputs, steps[-1]), steps[-1])
            if ends[i]:
                self._put(None)
                task.forget_episode(lane)
        return Answer(
            prediction,
            keys[0],
            "known" if is_known else "fresh",
            publication.step,
            age_s=max(0.0, now - publication.at),
        )

    def _stand(self, publication: Publication, lane: int | None) -> None:
        """Know what was learned, and stand where the lane does; None: at the start."""
        if publication is not self._holds:
            self._holds = None  # an exception between two copies leaves a mixture
            for mine, theirs in zip(
                self._learner.parameters(), publication.parameters, strict=True
            ):
                mine.copy_(theirs)
            self._holds = publication
        self._put(None if lane is None else [state[lane] for state in publication.hidden])

    def _put(self, rows: Sequence[Tensor] | None) -> None:
        for states in self._hidden:
            for i, state in enumerate(states):
                if rows is None:
                    state.zero_()
                else:
                    state[0] = rows[i]

    def _look(self, x: Sequence[float]) -> list[float]:
        self._frames.put(0, 0, x, None)
        prediction_BP, rejected_B = self._learner.look(self._frames.frame())
        outputs: list[float] = prediction_BP[0].tolist()
        if bool(rejected_B[0]):
            reason = "the step came out non-finite or absurd; nothing can be predicted from it"
            raise Refused(UNUSABLE, "unsound", reason)
        return outputs


@contextmanager
def _place(request: Request, i: int) -> Iterator[None]:
    """What is wrong with record `i` of several says which it is."""
    try:
        yield
    except BadEvent as error:
        prefix = f"records[{i}]: " if len(request.records) > 1 else ""
        raise Refused(UNUSABLE, error.issue, f"{prefix}{error}") from error


def _streams(publication: Publication, request: Request) -> tuple[list[str | None], list[bool]]:
    """The key of each record, which must be one stream's, and whether it ends its episode."""
    lanes = publication.lanes
    if request.key is not None and lanes.key is not None:
        raise Refused(
            UNUSABLE,
            "bad_key",
            f"the key stands in field {lanes.key!r} of a record ([lanes] key); leave `key` out",
        )
    keys: list[str | None] = []
    ends: list[bool] = []
    for i, record in enumerate(request.records):
        with _place(request, i):
            keys.append(lanes.key_of(Event("", 0, b"", request.key), record))
            ends.append(lanes.ends(record))
    if len(set(keys)) > 1:
        raise Refused(UNUSABLE, "bad_key", "records of several streams; ask for each by itself")
    return keys, ends

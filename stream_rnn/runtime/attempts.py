"""Events that kill: what is being attempted is marked, and after three deaths it is left out.

A death counts only if the mark says that the process died in an attempt, and only as long as
nothing beyond that event was survived in between. So an outside kill -9 costs no good event, even
if it comes often: it would have to hit the same event three times in a row.
"""

from __future__ import annotations

import logging

from stream_rnn.checkpoint.attempt import AttemptMark
from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.checkpoint.quarantine import DEATHS, REPEATS, Quarantine, Verdict, identity_of
from stream_rnn.spi import Event

_log = logging.getLogger(__name__)

REASON = (
    f"its processing ended the process {DEATHS} times in a row; it is not attempted any more "
    "(quarantine.json in the state folder)"
)


class Attempts:
    """Keeps the mark for the engine, and knows what not to attempt.

    Args:
        mark: open; what it found is counted here.
        quarantine: of the same state folder.
        counts: whether events come again after a death; if not, what killed is gone, and the mark
            only tells which predictions were possibly emitted before.
        keep: snapshots kept: a verdict is forgotten once that many lie beyond it.
    """

    def __init__(
        self, mark: AttemptMark, quarantine: Quarantine, *, counts: bool, keep: int
    ) -> None:
        self._mark = mark
        self._quarantine = quarantine
        self._counts = counts
        self._keep = keep
        self._beyond: dict[int, int] = {}  # id(verdict) -> snapshots of this process beyond it
        self._poison: dict[int, Verdict] = {}
        self._alone = range(0)
        self._suspects = range(0)
        self._is_begun = False

    def open(self, block: int) -> None:
        """Count the last process's death, say what follows from it; raises CheckpointError.

        Args:
            block: events at most in a block.
        """
        mark, quarantine = self._mark, self._quarantine
        if self._counts:
            quarantine.open()
            verdict = quarantine.count(mark.run, mark.died_in, mark.reached)
            self._poison = {each.identity: each for each in quarantine.poison}
            self._announce(verdict, block)
        mark.forget()

    def _announce(self, verdict: Verdict | None, block: int) -> None:
        if verdict is not None:
            _log.error(
                "the process died %d times in a row while it worked on event %d: the event is "
                "quarantined in %s and becomes a dead letter (stage poison)",
                DEATHS,
                verdict.ordinal,
                self._quarantine.path,
            )
        suspect = self._quarantine.suspect
        if suspect is None:
            return
        which = f"event {suspect.first}"
        if suspect.last > suspect.first:
            which = f"events {suspect.first}..{suspect.last}"
        among = range(suspect.first, suspect.last + 1)
        self._suspects = among
        if len(among) > block:
            more = "tried again block by block, which leaves the same bits"
        elif suspect.deaths < REPEATS or block == 1:
            more = "tried again as it was"
        else:
            self._alone = among
            more = "fed one by one this time, which leaves bit-identity with an undisturbed run"
        _log.warning(
            "the process died %d time(s) in a row while it worked on %s; %s",
            suspect.deaths,
            which,
            more,
        )

    def poison(self, ordinal: int, event: Event) -> str | None:
        """Why the event must not be attempted, if so; the first time it is written down."""
        if not self._poison:
            return None
        verdict = self._poison.get(identity_of(event))
        if verdict is None:
            return None
        if verdict.partition is None:
            verdict.partition, verdict.position = event.partition, event.position
            self._quarantine.write()  # before anything goes on
            _log.error("event %s:%s is left out: %s", event.partition, event.position, REASON)
        return REASON

    def is_alone(self, ordinal: int) -> bool:
        """Whether the event must be learned in a block of its own."""
        return ordinal in self._alone

    def is_suspect(self, ordinal: int) -> bool:
        """Whether the event's block must be learned in a run of its own."""
        return ordinal in self._suspects

    def together(self, first: int, n: int) -> int:
        """How many of `n` events, from ordinal `first` on, need no look of their own."""
        if self._poison:
            return 0  # it may be any
        suspects = self._suspects
        if not suspects or first > suspects[-1]:
            return n
        return max(0, min(n, suspects[0] - first))

    def decoding(self, ordinal: int, event: Event, n: int = 1) -> None:
        """`n` events from `ordinal` on are looked at from now on; `event` is the first."""
        if self._counts:
            self._mark.begin(ordinal, n, identity_of(event))
            self._is_begun = n == 1

    def decoded(self) -> None:
        """They wait: nothing is attempted for now."""
        self._is_begun = False
        self._mark.pause()

    def learning(self, first: int, n: int, event: Event) -> None:
        """`n` events from ordinal `first` on are learned from now on; `event` is the first."""
        self._mark.reach(first + n - 1)
        if self._counts and not (n == 1 and self._is_begun):
            self._mark.begin(first, n, identity_of(event))

    def done(self, ordinal: int) -> None:
        """Nothing is attempted any more, and the event at `ordinal` was survived."""
        self._is_begun = False
        self._mark.done(ordinal)

    def disarm(self) -> None:
        """Deaths count no more: the process was told to stop, and may be helped along. Any thread.

        Called by signal handlers, so between any two stores of the loop's: at worst the attempt at
        hand still counts.
        """
        self._counts = False
        self._mark.pause()

    def forget_before(self, ordinal: int) -> None:
        """A snapshot that holds everything up to `ordinal` is durable."""
        if not self._quarantine.poison:
            return
        over = []
        for verdict in self._quarantine.poison:
            if verdict.ordinal <= ordinal:
                n = self._beyond[id(verdict)] = self._beyond.get(id(verdict), 0) + 1
                if n >= self._keep:  # not even an older snapshot brings it back
                    over.append(verdict)
        if not over:
            return
        try:
            self._quarantine.drop(over)
        except CheckpointError as error:  # tried again with the next snapshot
            _log.warning("%s", error)
            return
        for verdict in over:
            del self._beyond[id(verdict)], self._poison[verdict.identity]

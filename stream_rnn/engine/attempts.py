"""What the engine tells of each attempt, so that an event that kills the process is found out."""

from __future__ import annotations

from typing import Protocol

from stream_rnn.spi import Event


class Attempts(Protocol):
    """Told by the engine, on its thread; see `runtime.attempts`.

    `decoding` comes first, for one event or several; `decoded` if they may then wait for others;
    `learning` when its run is complete; `done` after that. What happens outside of these is not the
    event's fault.
    """

    def poison(self, ordinal: int, event: Event) -> str | None:
        """Why the event must not be attempted, if so."""

    def is_alone(self, ordinal: int) -> bool:
        """Whether the event must be learned in a block of its own."""

    def is_suspect(self, ordinal: int) -> bool:
        """Whether the event's block must be learned in a run of its own."""

    def together(self, first: int, n: int) -> int:
        """How many of `n` events, from ordinal `first` on, need no look of their own."""

    def decoding(self, ordinal: int, event: Event, n: int = 1) -> None:
        """`n` events from `ordinal` on are looked at from now on; `event` is the first."""

    def decoded(self) -> None:
        """They wait: nothing is attempted for now."""

    def learning(self, first: int, n: int, event: Event) -> None:
        """`n` events from ordinal `first` on are learned from now on; `event` is the first."""

    def done(self, ordinal: int) -> None:
        """Nothing is attempted any more, and the event at `ordinal` was survived."""


class Unwatched:
    """Nobody keeps account: there is no state folder, and what kills the process is gone."""

    def poison(self, ordinal: int, event: Event) -> str | None:
        """No event is."""
        return None

    def is_alone(self, ordinal: int) -> bool:
        """No event is."""
        return False

    def is_suspect(self, ordinal: int) -> bool:
        """No event is."""
        return False

    def together(self, first: int, n: int) -> int:
        """All of them."""
        return n

    def decoding(self, ordinal: int, event: Event, n: int = 1) -> None:
        """Nothing to note."""

    def decoded(self) -> None:
        """Nothing to note."""

    def learning(self, first: int, n: int, event: Event) -> None:
        """Nothing to note."""

    def done(self, ordinal: int) -> None:
        """Nothing to note."""

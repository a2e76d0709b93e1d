"""Waiting for what is not connected: longer each time, without stopping the loop."""

from __future__ import annotations

from typing import Protocol

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0


class Loop(Protocol):
    """What those who wait need of the loop around them."""

    stopping: bool

    @property
    def draining(self) -> bool:
        """Whether to leave once what was received is learned and durable."""

    def stop(self) -> None:
        """Nobody reads any more: drain."""

    def nap(self, seconds: float, *, snapshots: bool = True) -> None:
        """Wait, but stay alive."""


class Patience:
    """Waits from 0.1 s to 10 s.

    Args:
        loop: stays alive meanwhile, and comes back early when it is told to stop.
        snapshots: whether it may make snapshots meanwhile.
    """

    def __init__(self, loop: Loop, *, snapshots: bool = True) -> None:
        self.wait_s = FIRST_WAIT_S  # of the next time
        self._loop = loop
        self._snapshots = snapshots

    def wait(self, at_most_s: float = LONGEST_WAIT_S) -> None:
        """Wait once more."""
        self._loop.nap(min(self.wait_s, at_most_s), snapshots=self._snapshots)
        self.wait_s = min(self.wait_s * 2, LONGEST_WAIT_S)

    def renew(self) -> None:
        """Something came: begin with the shortest wait again."""
        self.wait_s = FIRST_WAIT_S

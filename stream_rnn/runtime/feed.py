"""Frames for those who watch: put by the loop's thread while somebody does, read by any thread.

A ring without a lock: one thread writes, a slot is replaced whole, and a reader that was overtaken
sees it by the number in the slot. Nobody waits for anybody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

KEPT = 240  # frames: two minutes, which a page that is loaded again shows at once


class Feed:
    """The newest frames of a run.

    Args:
        about: what does not change while the daemon runs; called by the readers' threads.
        kept: frames remembered.

    Attributes:
        watchers: how many watch; the loop looks at it and does nothing while it is 0.
    """

    def __init__(self, about: Callable[[], dict[str, object]], kept: int = KEPT) -> None:
        self.about = about
        self.watchers = 0
        self._lock = threading.Lock()  # of `watchers`; the loop only reads it
        self._ring: list[tuple[int, bytes]] = [(-1, b"")] * kept
        self._next = 0

    def join(self) -> None:
        """Somebody watches from now on. Any thread."""
        with self._lock:
            self.watchers += 1

    def leave(self) -> None:
        """They do no more. Any thread."""
        with self._lock:
            self.watchers -= 1

    def put(self, frame: bytes) -> None:
        """One more frame, as JSON. The loop's thread."""
        self._ring[self._next % len(self._ring)] = (self._next, frame)
        self._next += 1

    def since(self, n: int) -> tuple[int, list[bytes]]:
        """The number of the next frame, and those kept from the n-th on, in order. Any thread."""
        end = self._next
        slots = (self._ring[k % len(self._ring)] for k in range(max(n, end - len(self._ring)), end))
        return end, [frame for number, frame in slots if n <= number < end]

"""What the loop needs of those who answer readers."""

from __future__ import annotations

from typing import Protocol


class Publisher(Protocol):
    """Who answers readers from copies of the state."""

    def publish_if_asked(self) -> None:
        """Between two events, on the loop's thread; copies only if somebody asked."""

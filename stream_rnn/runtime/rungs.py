"""What the loop needs of the ladder it moves on: the rungs, and what is taught."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

WHY = {
    "unsound": "the credit was unsound",
    "noise": "the credit was too noisy",
    "slow": "ticks took longer than their budget",
    "lag": "too far behind the source",
    "calm": "calm again",
}


class Teaching(Protocol):
    """Where others than the ladder ask for less to be learned."""

    @property
    def restricted_by(self) -> Mapping[str, str]:
        """Who asks for less than everything."""

    def ask(self, reason: str, teaches: Literal["all", "nothing"]) -> None:
        """Teach at most this, as far as `reason` is concerned."""


class Ladder(Protocol):
    """The rungs that are changed from outside."""

    level: int

    @property
    def teaching(self) -> Teaching:
        """What is taught."""

    def move(self, level: int) -> None:
        """Change to that rung, between two ticks."""

    def noise(self) -> float | None:
        """Variance share of the credit in use, None where it has none; synchronizes the device."""

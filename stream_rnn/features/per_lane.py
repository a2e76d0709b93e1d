"""What is remembered of each lane: a dictionary that is saved as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class PerLane(dict[int, T]):
    """Lane -> a value of any kind that goes through JSON and back.

    Args:
        saved: a value -> plain JSON-able values.
        restored: its inverse, which believes nothing.
        copied: a value of its own, without that check; by default by way of `saved`.
    """

    def __init__(
        self,
        saved: Callable[[T], Any],
        restored: Callable[[Any], T],
        copied: Callable[[T], T] | None = None,
    ) -> None:
        super().__init__()
        self._saved = saved
        self._restored = restored
        self._copied = copied or (lambda value: restored(saved(value)))

    def copied(self, lane: int | None = None) -> PerLane[T]:
        """The same values, sharing nothing that changes; of one lane only, if one is named."""
        twin = PerLane(self._saved, self._restored, self._copied)
        if lane is None:
            twin.update({each: self._copied(value) for each, value in self.items()})
        elif lane in self:
            twin[lane] = self._copied(self[lane])
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return {str(lane): self._saved(value) for lane, value in self.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        if not all(lane.isdecimal() for lane in state):
            raise ValueError("state of the lanes: their numbers must not be negative")
        self.clear()
        self.update({int(lane): self._restored(plain) for lane, plain in state.items()})

"""The page of whole numbers that the readers' process writes and the daemon reads."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

from typing_extensions import override

from stream_rnn.metrics import READ

WISH, STATE, BEAT_S, COUNTS = range(4)  # words; from COUNTS on one for each outcome
SERVING = 1  # STATE, once it answers


class Counts(MutableMapping[str, int]):
    """Requests by outcome, counted in shared memory by one process and shown by another."""

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words

    @override
    def __getitem__(self, outcome: str) -> int:
        return self._words[COUNTS + READ.index(outcome)]

    @override
    def __setitem__(self, outcome: str, n: int) -> None:
        self._words[COUNTS + READ.index(outcome)] = n

    @override
    def __delitem__(self, outcome: str) -> None:
        raise TypeError("an outcome is counted for ever")

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(READ)

    @override
    def __len__(self) -> int:
        return len(READ)

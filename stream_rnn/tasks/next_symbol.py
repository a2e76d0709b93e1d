"""The next symbol: which token or byte comes after those seen."""

from __future__ import annotations

from typing import Literal

from typing_extensions import override

from stream_rnn.features.encoder import Features
from stream_rnn.features.values import BadEvent, category
from stream_rnn.spi import Record
from stream_rnn.tasks.steps import Step
from stream_rnn.tasks.symbols import Symbols


class NextSymbol(Symbols):
    r"""Predict the next symbol of a sequence: one token per event, or every byte of a text field.

    A text is learned byte by byte, one update per byte; its prediction is that of the byte after
    its last one.

    Args:
        features: further inputs; none by default.
        field: the token, or the text.
        unit: "token" or "byte".
        end: appended to every text before it is cut into bytes, e.g. "\n".
        max_bytes: a longer text is dead-lettered: an event is learned as a whole, and meanwhile the
            daemon can neither stop nor take a snapshot.
        vocabulary: all tokens; None: learned as they come.
        max_symbols: room for tokens learned as they come.
        lanes: streams.
        warmup: targets that the cumulative scores leave out.
    """

    def __init__(
        self,
        features: Features,
        field: str = "text",
        unit: Literal["token", "byte"] = "token",
        end: str = "",
        vocabulary: list[str] | None = None,
        max_symbols: int = 256,
        max_bytes: int = 65_536,
        *,
        lanes: int = 1,
        warmup: int = 0,
    ) -> None:
        if unit == "byte":
            vocabulary = [chr(i) for i in range(256)]
        super().__init__(features, vocabulary, max_symbols, 1, lanes, warmup)
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        features.expect(field)
        self.field = field
        self.unit = unit
        self.max_bytes = max_bytes
        self.end = end
        self.inputs = self.room + features.width

    @override
    def check(self, record: Record) -> None:
        self._read(record)
        super().check(record)

    def _read(self, record: Record) -> list[int]:
        """The numbers of the event's symbols; that of a new token is one beyond the known."""
        if self.unit == "token":
            return [self._index(category(record, self.field), self.field)]
        text = record.get(self.field)
        if not isinstance(text, str):
            issue, kind = "missing" if text is None else "wrong_type", type(text).__name__
            raise BadEvent(issue, f"field {self.field!r}: expected text, got {kind}")
        indices = list((text + self.end).encode("utf-8", "surrogatepass"))
        if not indices:
            raise BadEvent("missing", f"field {self.field!r} is empty")
        if len(indices) > self.max_bytes:
            what = f"{len(indices)} bytes of text, at most {self.max_bytes} are learned at once"
            raise BadEvent("wrong_type", f"field {self.field!r}: {what}")
        return indices

    @override
    def n_steps(self, record: Record) -> int:
        return len(self._read(record))

    @override
    def steps(self, record: Record, lane: int) -> list[Step]:
        indices = self._read(record)
        rest = self.features.encode(record, lane)
        if self.unit == "token":
            self._admit(indices[0], category(record, self.field))
        known = len(self.symbols)
        return [Step(self._one_hot(i) + rest, [float(i)], i, known=known) for i in indices]

    @override
    def input_names(self) -> list[str]:
        return self._labels("symbol") + super().input_names()

    @override
    def describe(self) -> str:
        return f"next {self.unit} of {self.field} ({self.room} symbols)"

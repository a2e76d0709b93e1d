"""What the daemon said at one moment: the words of /status and the numbers of /metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from stream_rnn.spi import is_finite_number
from stream_rnn.top import letters
from stream_rnn.top.asking import NoAnswer, ask
from stream_rnn.top.letters import Letter
from stream_rnn.top.place import Place
from stream_rnn.top.series import Series
from stream_rnn.top.words import clean

MOST_REASONS = 8
MOST_SOURCES = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One look at a daemon. Everything in it came from whoever answered.

    Attributes:
        status: of /status, as decoded.
        series: of /metrics.
    """

    status: dict[str, object] = field(default_factory=dict)
    series: Series = field(default_factory=lambda: Series(b""))

    def words(self, key: str) -> str:
        """A text of /status, fit for a screen; "" if it is missing."""
        return clean(self.status.get(key))

    def number(self, key: str) -> float | None:
        """A finite number of /status."""
        value = self.status.get(key)
        return float(value) if is_finite_number(value) else None  # type: ignore[arg-type]

    def table(self, key: str) -> dict[str, object]:
        """A table of /status."""
        value = self.status.get(key)
        return value if isinstance(value, dict) else {}

    @property
    def reasons(self) -> list[str]:
        """Why the daemon is not ready; none: it is."""
        found = self.status.get("ready")
        if not isinstance(found, list):
            return []
        return [clean(each) for each in found[:MOST_REASONS] if isinstance(each, str)]

    @property
    def promises(self) -> list[tuple[str, str]]:
        """Each source with the level of its guarantee."""
        told = self.status.get("sources")
        if isinstance(told, list) and told:
            tables = [each for each in told[:MOST_SOURCES] if isinstance(each, dict)]
            return [(clean(each.get("name"), 40), clean(each.get("level"), 40)) for each in tables]
        infos = [labels for labels, value in self.series.all("guarantee_info") if value]
        found = [(clean(i.get("source"), 40), clean(i.get("level"), 40)) for i in infos]
        return found[:MOST_SOURCES]

    @property
    def loss(self) -> float | None:
        """Of the model; infinite is known, NaN is not."""
        return self.series.one("prequential_loss")

    @property
    def baseline(self) -> tuple[str, float] | None:
        """The baseline with the least loss."""
        known = [
            (loss, clean(name, 24))
            for name, loss in self.series.by("baseline_loss", "baseline").items()
            if math.isfinite(loss)
        ]
        return min(known)[::-1] if known else None

    @property
    def letters(self) -> tuple[Letter, ...] | None:
        """The newest dead letters of this run; None if it does not tell them."""
        return letters.told(self.status.get("letters"))


def look(place: Place) -> Answer:
    """Ask for both pages.

    Raises:
        NoAnswer: one of them did not come, or does not look like a daemon's.
    """
    series = Series(ask(place, "/metrics"))
    if not series:
        raise NoAnswer("its /metrics has no stream_rnn_ series: is that a stream-rnn daemon?")
    try:
        status = msgspec.json.decode(ask(place, "/status"))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise NoAnswer("its /status is no JSON: is that a stream-rnn daemon?") from None
    if not isinstance(status, dict):
        raise NoAnswer("its /status is no JSON object: is that a stream-rnn daemon?")
    return Answer(status, series)

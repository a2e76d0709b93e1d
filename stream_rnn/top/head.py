"""The lines at the top: which daemon, its state in words, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from stream_rnn.top.answer import Answer
from stream_rnn.top.ink import BAD, GOOD, INK, MUTED, OTHER, apart, row
from stream_rnn.top.poller import Look
from stream_rnn.top.words import age, clean

STALE_S = 3.0  # three questions without an answer


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known by now.

    Attributes:
        answer: the newest one there was; None: never any.
        age_s: how old it is, or how long there was none.
        problem: why the newest question had no answer; "" if it had one.
        paused: whether a person holds the display.
    """

    answer: Answer | None
    age_s: float
    problem: str = ""
    paused: bool = False

    @property
    def is_stale(self) -> bool:
        """Whether what is shown was true a while ago."""
        return self.answer is not None and self.age_s > STALE_S

    @property
    def trouble(self) -> list[Text]:
        """What a person should know before all else."""
        if self.problem and (self.answer is None or self.is_stale):
            return [row(("✕ ", BAD), (clean(self.problem), INK))]
        reasons = [] if self.answer is None else self.answer.reasons
        return [row(("▲ ", BAD), (reason, INK)) for reason in reasons]


def heard(look: Look | None, last: Look | None, begun: float, now: float, paused: bool) -> Heard:
    """From the newest look and the last one with an answer; times in seconds, monotonic."""
    since = begun if last is None else last.at
    answer = None if last is None else last.answer
    return Heard(answer, now - since, "" if look is None else look.problem, paused)


def lines(heard: Heard, address: str, width: int) -> list[Text]:
    """The two lines at the top."""
    answer = heard.answer
    task = "" if answer is None else answer.words("task")
    where = [address]
    if answer is not None:
        versions = answer.series.all("build_info")
        version = clean(versions[0][0].get("version"), 20) if versions else ""
        where += [answer.words("source"), f"version {version}" if version else ""]
    return [
        apart(row(("stream-rnn", "bold " + INK), ("  " + task, INK)), _state(heard), width),
        apart(row((" · ".join(filter(None, where)), MUTED)), row(""), width),
    ]


def _state(heard: Heard) -> Text:
    """In a word, with a shape."""
    if heard.answer is None:
        if heard.problem:
            return row((f"✕ no answer for {age(heard.age_s)}", "bold " + BAD))
        return row(("○ asking", MUTED))
    if heard.is_stale:
        return row((f"✕ no answer for {age(heard.age_s)}", "bold " + BAD))
    if heard.paused:
        return row(("‖ display paused", "bold " + OTHER))
    if heard.answer.reasons:
        return row(("▲ not ready", "bold " + BAD))
    return row(("● ready", "bold " + GOOD))

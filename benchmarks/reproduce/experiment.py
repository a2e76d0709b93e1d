"""What an experiment is: sizes, a trial that advances tick by tick, and the published figures.

A tick is one `Learner.step`: one event in every lane. An update-locked rule makes one update in
`every` ticks, every other rule one per tick; figures are therefore compared at equal ticks (the
same data) and at equal updates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from stream_rnn.learner import Learner

if TYPE_CHECKING:
    from benchmarks.reproduce.runner import Record

Point = dict[str, float]
"""One record of a run: `ticks`, `updates`, and what the experiment measures."""


class Named(Protocol):
    """What a run must know of its rule: the full name, and ticks to an update."""

    @property
    def name(self) -> str: ...

    @property
    def every(self) -> int: ...


class Refused(Exception):
    """What was asked for cannot be run: names the option, what came, the remedy."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that decides the figures of a run, besides its rule and its seed.

    Attributes:
        units: N of the recurrent network, of each layer.
        lanes: B.
        lr: learning rate of Adam, for the recurrence and for the read-out.
        clip: largest norm of the recurrence's gradient; None: no limit.
        rank: r of the rule "ok" where the name gives none.
        window: n of the rule "tbptt-lock" where the name gives none.
        updates: how many updates a run makes.
        record_every: ticks between two points of the curve.
        marks: where the table is read; multiples of `record_every`.
        rules: what runs unless asked otherwise.
        seeds: likewise.
        falling: over so many last updates the learning rate falls to zero in a straight line.
    """

    units: int
    lanes: int
    lr: float
    clip: float | None
    rank: int
    window: int
    updates: int
    record_every: int
    marks: tuple[int, ...]
    rules: tuple[str, ...]
    seeds: tuple[int, ...]
    falling: int = 0

    def lasting(self, updates: int | None) -> Setting:
        """The same with another length; the marks within it stay, and its end becomes one."""
        if updates is None:
            return self
        if updates < 1:
            raise Refused(f"--updates must be at least 1, got {updates}")
        marks = (*(mark for mark in self.marks if mark < updates), updates)
        return replace(self, updates=updates, marks=marks)

    def ending(self, falling: int | None) -> Setting:
        """The same with a learning rate that falls at the end."""
        if falling is None:
            return self
        if not 1 <= falling <= self.updates:
            raise Refused(
                f"--falling must be from 1 to the {self.updates:,} updates made, got {falling}"
            )
        return replace(self, falling=falling)

    def identity(self) -> dict[str, float | None]:
        """What must agree for a run to be continued; a longer run continues a shorter one."""
        names = ("units", "lanes", "lr", "clip", "rank", "window", "record_every")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Published:
    """Figures of others, to stand beside ours.

    Attributes:
        who: rule, authors, what was counted.
        values: updates -> one figure per run.
    """

    who: str
    values: Mapping[int, tuple[float, ...]]


class Trial(ABC):
    """One learner on its task, in the middle of a run."""

    learner: Learner

    @abstractmethod
    def tick(self) -> None:
        """Advance every lane by one event, through `Learner.step`."""

    @abstractmethod
    def point(self) -> Point:
        """What is measured now; changes nothing that influences the future."""

    def set_lr(self, lr: float) -> None:
        """Learn at this rate from here on."""
        raise Refused("--falling: the learning rate of this experiment does not move; leave it out")

    @abstractmethod
    def task_state(self) -> dict[str, Tensor]:
        """What the task needs to go on from here, besides the learner."""

    @abstractmethod
    def load_task_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what `task_state` gave."""


class Experiment(ABC):
    """A task with its sizes.

    Args:
        data: where the data lie; None for tasks that make their own.

    Attributes:
        title: heading of the table.
        metric: the entry of a `Point` that the table and the picture show.
        label: what the metric is, in words.
        digits: of the metric in the table.
        sizes: "small" and "full".
        takes: by size, what its rules and seeds take on two cores with --jobs 2.
        published: by size.
        also_drawn: other entries of a `Point` that get a picture each, and what they are in words.
    """

    title: ClassVar[str]
    metric: ClassVar[str]
    label: ClassVar[str]
    digits: ClassVar[int]
    sizes: ClassVar[Mapping[str, Setting]]
    takes: ClassVar[Mapping[str, str]]
    published: ClassVar[Mapping[str, tuple[Published, ...]]]
    also_drawn: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def __init__(self, data: Path | None) -> None: ...

    @abstractmethod
    def rule(self, name: str, setting: Setting) -> Named:
        """The rule called `name`; raises Refused with what is known."""

    @abstractmethod
    def start(self, setting: Setting, rule: str, seed: int, device: str) -> Trial:
        """A fresh trial, the same for the same arguments."""

    def caption(self, setting: Setting) -> str:
        """What was run and what an update is, above the table."""
        return (
            f"RHN {setting.units}, {setting.lanes} lanes, Adam {setting.lr:.2e}, "
            f"clip {setting.clip or 'none'}, one update per tick (one event in each lane) but for "
            "tbptt-lock-n, which makes one in n ticks."
        )

    def notes(self, records: Sequence[Record]) -> list[str]:
        """Lines below the table, from the whole curves."""
        return []

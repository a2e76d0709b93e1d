"""What to do when events come faster than they are learned: the `[overload]` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Policy = Literal["block", "drop_oldest", "drop_newest", "sample", "predict_only", "degrade"]

SHEDDING = ("drop_oldest", "drop_newest", "sample")
"""Policies that give events up; the others slow the source down or learn less from each event."""


@dataclass(frozen=True)
class Overload:
    """`[overload]`: what happens when more than `limit` events wait to be learned.

    "block" lets the source wait; nothing is lost that the protocol does not lose. Every other
    policy depends on how fast the machine is: a run that used it is outside bit-identity. What is
    shed counts as applied, is counted (`stream_rnn_shed_total`) and never dead-lettered; with
    `[features] gap = true` the model is told.

    Attributes:
        policy: "block" lets the source wait; "drop_oldest" and "drop_newest" give up what is beyond
            the limit; "sample" keeps a share of what comes meanwhile; "predict_only" predicts and
            learns nothing from the oldest while too many wait; "degrade" moves down the ladder of
            `fallback` rules (`lag_limit_events` of its governor is this limit, unless given).
        limit: events that may wait. Policies that shed nothing, and "sample", let the source wait
            from twice as many on.
        keep: share of the events that "sample" keeps, by a hash of where each one stands.
    """

    policy: Policy = "block"
    limit: int = 10_000
    keep: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= 10_000_000:
            raise ValueError(f"limit must be in 1..10000000, got {self.limit}")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep must be in 0..1, got {self.keep}")

    @property
    def sheds(self) -> bool:
        """Whether events may be given up."""
        return self.policy in SHEDDING

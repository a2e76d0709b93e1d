"""What numeric and class scores share: counters, baselines of the same events, rows to show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct

from stream_rnn.scores.baselines import Baselines
from stream_rnn.scores.saved import Count, plain, require_at_least, require_same
from stream_rnn.spi import SettingError

ABSURD = 1e100  # beyond it squares and sums of squares would leave the range of a double

B = TypeVar("B", bound=Baselines[Any])


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of a table. `None` = not defined (yet), e.g. a relative error of zero targets.

    Attributes:
        name: the metric, with the target's name behind it where there are several.
        model: over all `n` events the model was scored on.
        baselines: over the events that this baseline and the model both were scored on.
        paired: the model over the very same events, per baseline; what comparisons use.
        n: events behind `model`.
        higher_is_better: as for accuracy.
        gain: how an improvement is told: relative, in percentage points, or as a difference (nats).
    """

    name: str
    model: float | None
    baselines: dict[str, float | None]
    n: int
    paired: dict[str, float | None] = field(default_factory=dict)
    higher_is_better: bool = False
    gain: Literal["percent", "points", "difference"] = "percent"


class SavedScores(Struct, forbid_unknown_fields=True, kw_only=True):
    """What every kind of scores saves."""

    warmup: int
    seen: Count
    rejected: Count
    baselines: dict[str, Any]


class Scores(ABC, Generic[B]):
    """Judges forecasts; `update`, of its own form in each kind, is called once per target.

    Args:
        baselines: what the model is compared with.
        fading: weight of the past per scored event in `live` and `recent`.
        warmup: the cumulative scores leave the first so many targets out, counted over all lanes.
    """

    def __init__(self, baselines: B, fading: float, warmup: int) -> None:
        require_at_least("scores", 0, warmup=warmup)
        if not 0 < fading < 1:
            raise SettingError(f"scores: fading must be between 0 and 1, got {fading}")
        self.baselines = baselines
        self.fading = fading
        self.warmup = warmup
        self.seen = 0  # targets
        self.rejected = 0  # not scored: target, forecast or loss not finite, or absurd

    @abstractmethod
    def live(self) -> tuple[float | None, dict[str, float | None]]:
        """Exponentially weighted mean loss: the model's, and each baseline's."""

    def shown(self) -> tuple[str, float | None, dict[str, float | None]]:
        """`live`, or what says more, with its name before it: what a person is shown first."""
        return "loss", *self.live()

    @abstractmethod
    def summary(self) -> list[Row]:
        """Cumulative rows, after the warm-up."""

    @abstractmethod
    def recent(self) -> list[Row]:
        """The same rows, exponentially weighted; `n` is the weight of the events remembered."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything counted, as JSON-able values."""

    @abstractmethod
    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError, and nothing changed, when it does not fit."""

    def reset_lane(self, lane: int) -> None:
        """Forget the baselines of `lane`; the scores stay."""
        self.baselines.reset_lane(lane)

    def _counted(self) -> dict[str, Any]:
        """The fields of `SavedScores`; the baselines come with `_plain`."""
        return {
            "warmup": self.warmup,
            "seen": self.seen,
            "rejected": self.rejected,
            "baselines": {},
        }

    def _plain(self, saved: SavedScores) -> dict[str, Any]:
        """A copy of `saved` as JSON-able values, and of the baselines, which need no second one."""
        return plain(saved) | {"baselines": self.baselines.state_dict()}

    def _take(self, saved: SavedScores, **settings: tuple[object, object]) -> None:
        """Take the counters and baselines back, if `settings` (saved, now) agree."""
        require_same("the scores", **settings, warmup=(saved.warmup, self.warmup))
        self.baselines.load_state_dict(saved.baselines)
        self.seen, self.rejected = saved.seen, saved.rejected

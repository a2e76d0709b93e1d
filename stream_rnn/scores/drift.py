"""Drift: the prequential loss rose for good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from stream_rnn.scores.base import ABSURD
from stream_rnn.scores.saved import Count, require_at_least, require_same, restored
from stream_rnn.spi import SettingError


class Drift:
    """ADWIN on the prequential loss: counts when the loss rose for good, not when it fell.

    Args:
        dump: a River object -> plain values; `None` = `stream_rnn.river_state.dump`.
        load: fills a River object from those; `None` = `stream_rnn.river_state.load`.
        cooldown: an alarm within that many events of the last one counted is merged into it: ADWIN
            fires several times for one change.
        delta: ADWIN's significance.
    """

    def __init__(
        self,
        dump: Callable[[Any], dict[str, Any]] | None = None,
        load: Callable[[Any, dict[str, Any]], None] | None = None,
        cooldown: int = 1000,
        delta: float = 0.002,
    ) -> None:
        # River takes 0.6 s to import: `--help` and a run without drift detection do without it.
        from river.drift import ADWIN

        require_at_least("drift", 0, cooldown=cooldown)
        if not 0 < delta < 1:
            raise SettingError(f"drift: delta must be between 0 and 1, got {delta}")
        if dump is None or load is None:
            from stream_rnn import river_state

            dump, load = dump or river_state.dump, load or river_state.load
        self._dump, self._load = dump, load
        self._new: Callable[[], Any] = partial(ADWIN, delta=delta)
        self._adwin: Any = self._new()
        self.cooldown = cooldown
        self.delta = delta
        self.alarms = 0  # monotone
        self._quiet = 0  # events left of the cool-down

    def update(self, loss: float) -> bool:
        """Take one event's loss; True when this event raises a new alarm."""
        alarms = self.alarms
        self.update_many((loss,))
        return self.alarms > alarms

    def update_many(self, losses: Sequence[float]) -> None:
        """Take the losses of events, in order."""
        adwin = self._adwin
        # what its estimation is made of; asked for each loss it would take as long as the update
        total, width, is_cut = adwin.total, adwin.width, adwin.drift_detected
        for loss in losses:
            if not abs(loss) < ABSURD:
                raise ValueError(
                    f"drift: expected a finite loss, got {loss}; pass scored events only"
                )
            if self._quiet:
                self._quiet -= 1
            begins_anew = is_cut
            adwin.update(loss)
            is_cut = adwin.drift_detected
            if not (is_cut or begins_anew):
                total, width = total + loss, width + 1
                continue
            if is_cut and not self._quiet and adwin.estimation > (total / width if width else 0.0):
                self.alarms += 1
                self._quiet = self.cooldown
            total, width = adwin.total, adwin.width

    def state_dict(self) -> dict[str, Any]:
        """Detector and counters, as JSON-able values."""
        adwin = self._dump(self._adwin)
        return {"delta": self.delta, "alarms": self.alarms, "quiet": self._quiet, "adwin": adwin}

    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError or the error of `load`, and nothing changed."""
        place = "the drift detector"
        saved = restored(state, _SavedDrift, place)
        require_same(place, delta=(saved.delta, self.delta))
        adwin = self._new()
        self._load(adwin, saved.adwin)
        self._adwin = adwin
        self.alarms, self._quiet = saved.alarms, min(saved.quiet, self.cooldown)


class _SavedDrift(Struct, forbid_unknown_fields=True):
    delta: float
    alarms: Count
    quiet: Count
    adwin: dict[str, Any]

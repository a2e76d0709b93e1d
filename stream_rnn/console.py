"""What a person sees while the daemon learns: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from typing_extensions import override

from stream_rnn.spi import worded

_log = logging.getLogger(__name__)

LIVE_S = 0.2  # five times per second: faster is not read, and costs the loop
PLAIN_S = 10.0
_CLEAR = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class Progress:
    """What the line says; `None` is unknown and prints as "-".

    Attributes:
        events: applied by this process.
        events_per_s: over the last moments.
        loss: of the model, exponentially weighted.
        baseline_loss: of the baseline, on the same events.
        baseline: its name, e.g. "persistence".
        rule: the credit rule in use.
        lag: events that the source holds and that are not applied.
        snapshot_age_s: of the newest durable snapshot.
        figure: what `loss` and `baseline_loss` are called.
        paused: who holds the polling, e.g. "ctl" or "breaker"; "" while nobody does.
    """

    events: int
    events_per_s: float
    loss: float | None
    baseline_loss: float | None
    baseline: str
    rule: str
    lag: float | None
    snapshot_age_s: float | None
    figure: str = "loss"
    paused: str = ""


class Console:
    """Shows progress without ever stopping the loop; safe to call from any thread.

    Args:
        stream: where to; a stream that breaks is given up, learning goes on.
        interactive: whether it is a terminal; by default found out.
        clock: seconds, monotonic.
        every_s: least time between two lines; by default 0.2 s live and 10 s plain.
        columns: width of the terminal; by default asked at every line.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        interactive: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float | None = None,
        columns: Callable[[], int] | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        if interactive is None:
            interactive = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.interactive = interactive
        self._every_s = every_s if every_s is not None else (LIVE_S if interactive else PLAIN_S)
        self._clock, self._columns = clock, columns or self._ask_columns
        self._lock = threading.RLock()
        self._latest: Progress | None = None
        self._drawn: Progress | None = None
        self._next = -math.inf
        self._broken = False

    def due(self) -> bool:
        """Whether `show` would draw now: spares the loop from building what nobody sees."""
        return self._clock() >= self._next

    def show(self, progress: Progress) -> None:
        """Draw, or only remember when it is too early. Called by the loop as often as it likes."""
        with self._lock:
            self._latest = progress
            if self.due():
                self._next = self._clock() + self._every_s
                self._draw()

    def note(self, text: str) -> None:
        """Print lines that stay, above the live line."""
        lines = "".join(f"{printable(line)}\n" for line in text.splitlines())
        with self._lock:
            if self.interactive and self._drawn is not None:
                lines = f"{_CLEAR}{lines}{self._live_line(self._drawn)}"
            self._write(lines)

    def done(self) -> None:
        """Print the newest progress for good. Called at the end; a second call does nothing."""
        with self._lock:
            if self._latest is not self._drawn:
                self._draw()
            if self.interactive and self._drawn is not None:
                self._write("\n")
            self._latest = self._drawn = None

    def _draw(self) -> None:
        if self._latest is None:
            return
        self._drawn = self._latest
        if self.interactive:
            self._write(_CLEAR + self._live_line(self._latest))
        else:
            self._write(line(self._latest) + "\n")

    def _live_line(self, progress: Progress) -> str:
        # one column stays free: a full last column makes some terminals wrap
        return line(progress, self._columns() - 1)

    def _ask_columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):  # not a terminal after all; a detached one says 0
            return 80

    def _write(self, text: str) -> None:
        if self._broken:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:  # the terminal is gone, or the stream was closed
            self._broken = True
            _log.warning("no more progress is shown: %s", error)


class NoteHandler(logging.Handler):
    """Logs above the live line instead of through it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self._console.note(self.format(record))


def line(progress: Progress, columns: int | None = None) -> str:
    """The line, at most `columns` wide: what matters least falls away, whole, never cut in two."""
    age_s = _known(progress.snapshot_age_s)
    fields = {
        "events": f"{human(progress.events)} {worded(progress.events, 'event')}",
        "paused": f"paused: {printable(progress.paused)}",
        "rate": f"{human(progress.events_per_s)}/s",
        "loss": compared(progress.loss, progress.baseline_loss, progress.baseline, progress.figure),
        "rule": printable(progress.rule) or "-",
        "lag": f"lag {human(progress.lag)}",
        "saved": "saved -" if age_s is None else f"saved {duration(age_s)} ago",
    }
    if not progress.paused:
        del fields["paused"]
    text = "  ".join(fields.values())
    if columns is None or len(text) <= columns:
        return text
    fields["saved"] = fields["saved"].removesuffix(" ago")
    for least in ("", "rule", "saved", "lag", "rate", "loss", "paused"):
        fields.pop(least, None)
        text = "  ".join(fields.values())
        if len(text) <= columns:
            return text
    return ""  # half a number would be a wrong number


def compared(
    loss: float | None, baseline_loss: float | None, baseline: str, figure: str = "loss"
) -> str:
    """E.g. "loss 0.031, 39% below persistence"; losses not positive stand side by side."""
    ours, theirs, name = _known(loss), _known(baseline_loss), printable(baseline)
    text = f"{figure} {human(ours)}"
    if ours is None or theirs is None or not name:
        return text
    if not (0.0 < ours < math.inf and 0.0 < theirs < math.inf):
        return f"{text}, {name} {human(theirs)}"
    ratio = ours / theirs
    if ratio >= 2.0:
        return f"{text}, {human(ratio)}x {name}"
    percent = round(100.0 * (ratio - 1.0))
    if percent == 0:
        return f"{text}, like {name}"
    return f"{text}, {abs(percent)}% {'below' if percent < 0 else 'above'} {name}"


def human(number: float | None) -> str:
    """Three digits a person can read: 842, 12.3k, 0.0312; "-" when unknown."""
    value = _known(number)
    if value is None:
        return "-"
    if math.isinf(value) or value == 0.0:
        return f"{value:g}" if value else "0"
    rounded = float(f"{value:.3g}")  # first, so that 999,950 is 1M and not 1000k
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= size:
            return f"{rounded / size:.3g}{letter}" if abs(rounded) < 1e15 else f"{rounded:.2e}"
    return f"{rounded:.3g}"


def duration(seconds: float) -> str:
    """One unit is enough: 4 s, 12 min, 3 h, 5 d."""
    if not math.isfinite(seconds):
        return "-"
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{int(max(seconds, 0.0))} s"


def _known(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else number


def printable(text: str) -> str:
    """Fit for a terminal, which obeys escape sequences: what came from a stream may hold some."""
    return "".join(each if each.isprintable() else "?" for each in text)

"""Numbers and texts fit for a screen: bounded in width, and nothing in them is obeyed."""

from __future__ import annotations

import math

from stream_rnn import console

UNKNOWN = "-"
_LONG_AGO_S = 86_400.0 * 9_999


def clean(value: object, most: int = 300) -> str:
    """A text from anybody, in one line: what a terminal would obey becomes "?"."""
    text = value if isinstance(value, str) else ""
    shown = console.printable(text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def human(number: float | None) -> str:
    """Three digits: 842, 12.3k, 0.0312."""
    return console.human(number)


def counted(number: float | None) -> str:
    """A count with all its digits while they can be read: 1,234,567."""
    if number is None or not math.isfinite(number):
        return UNKNOWN
    return f"{number:,.0f}" if abs(number) < 1e12 else human(number)


def age(seconds: float | None) -> str:
    """4 s, 12 min, 3 h, 5 d."""
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    return console.duration(seconds) if abs(seconds) < _LONG_AGO_S else f"{human(seconds)} s"


def instant(seconds: float | None) -> str:
    """A short time: 830 µs, 1.52 ms, 2.1 s."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds == 0.0:
        return "0"
    for size, unit in ((1e-3, "µs"), (1.0, "ms")):
        if abs(seconds) < 0.9995 * size:
            return f"{human(seconds * (1e6 if unit == 'µs' else 1e3))} {unit}"
    return f"{human(seconds)} s"


def amount(n_bytes: float | None) -> str:
    """512 B, 1.2 MB, 75 GB."""
    if n_bytes is None or not math.isfinite(n_bytes):
        return UNKNOWN
    text = human(n_bytes)
    letter = text[-1] if text[-1] in "kMGT" else ""
    return f"{text.removesuffix(letter)} {letter}B" if letter else f"{text} B"


def plural(number: float | None, one: str, many: str = "") -> str:
    """`1 event`, `3 events`."""
    return f"{counted(number)} {one if number == 1 else many or one + 's'}"

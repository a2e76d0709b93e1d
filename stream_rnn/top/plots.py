"""Curves in dots (2 x 4 in a character) and columns (8 steps in a character), with their scale."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from stream_rnn.top.ink import MUTED, row

GUTTER = 7  # cells for the numbers of the scale
SECONDS_PER_CELL = 2
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column, from the top
_COLUMNS = " ▁▂▃▄▅▆▇█"
_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot; `dashed` tells it from another without color."""

    values: Values
    style: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """From the bottom to the top of a plot."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """0 at the bottom, 1 at the top; what is beyond is at the edge."""
        # halved: the difference of two huge numbers may be beyond every float
        span = self.high / 2 - self.low / 2
        return min(max((value / 2 - self.low / 2) / span, 0.0), 1.0) if span > 0.0 else 0.0


def scale_of(values: Values, floor: float | None = 0.0) -> Scale:
    """A scale with round ends around the known values; `floor` is in it unless it is None."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if floor is not None:
        known.append(floor)
    low, high = (_below(min(known)), _above(max(known))) if known else (0.0, 1.0)
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    return Scale(low, high)


def curves(drawn: Sequence[Curve], scale: Scale, width: int, height: int) -> list[Text]:
    """Lines of dots, the first curve above the others; the newest value is at the right."""
    if height < 1:
        return []
    n_columns, n_dots = 2 * width, 4 * height
    masks = [[0] * width for _ in range(height)]
    styles = [[""] * width for _ in range(height)]
    for curve in reversed(drawn):
        newest = _newest(curve.values, n_columns)
        last: int | None = None
        for column, value in enumerate(newest):
            if value is None or not math.isfinite(value):
                last = None
                continue
            dot = round(scale.share(value) * (n_dots - 1))
            start = dot if last is None else last + (dot > last) - (dot < last)
            last = dot
            if curve.dashed and column % 4 > 1:
                continue
            for each in range(min(start, dot), max(start, dot) + 1):
                line = height - 1 - each // 4
                masks[line][column // 2] |= _DOTS[column % 2][3 - each % 4]
                styles[line][column // 2] = curve.style
    return [
        row(
            *(
                (chr(0x2800 + mask) if mask else " ", style)
                for mask, style in zip(*both, strict=True)
            )
        )
        for both in zip(masks, styles, strict=True)
    ]


def columns(values: Values, style: str, scale: Scale, width: int, height: int) -> list[Text]:
    """Columns from the bottom, of `SECONDS_PER_CELL` values each, the newest at the right."""
    means = _means(_newest(values, SECONDS_PER_CELL * width))
    levels = [
        -1 if mean is None else max(1, round(scale.share(mean) * 8 * height)) for mean in means
    ]
    return [
        row(("".join(_COLUMNS[min(max(n - 8 * line, 0), 8)] for n in levels), style))
        for line in reversed(range(height))
    ]


def scaled(rows: Sequence[Text], top: str, bottom: str) -> list[Text]:
    """A plot with the numbers of its scale at the left."""
    names = [""] * len(rows)
    if names:
        names[-1] = bottom
        names[0] = top
    return [
        row((f"{name[: GUTTER - 1]:>{GUTTER - 1}} ", MUTED), each)
        for name, each in zip(names, rows, strict=True)
    ]


def _newest(values: Values, n: int) -> list[float | None]:
    newest = list(values[-n:]) if n else []
    return [None] * (n - len(newest)) + newest


def _means(values: Sequence[float | None]) -> list[float | None]:
    means: list[float | None] = []
    for start in range(0, len(values), SECONDS_PER_CELL):
        slot = values[start : start + SECONDS_PER_CELL]
        known = [value for value in slot if value is not None and math.isfinite(value)]
        means.append(sum(value / len(known) for value in known) if known else None)
    return means


def _above(value: float) -> float:
    """The next round number, so that a scale does not tremble."""
    if value < 0.0:
        return -_round(-value)[0]
    return _round(value)[1]


def _below(value: float) -> float:
    return 0.0 - _above(-value)


def _round(value: float) -> tuple[float, float]:
    """The round numbers below and above one that is not negative."""
    power = 0.0 if value < 1e-300 else 10.0 ** math.floor(math.log10(value))
    steps = [min(step * power, sys.float_info.max) for step in _STEPS]
    down = max((step for step in steps if step <= value), default=value)
    return down, min((step for step in steps if step >= value), default=value)


def span(width: int) -> str:
    """How long a plot that wide reaches back."""
    seconds = SECONDS_PER_CELL * max(width, 0)
    return f"{seconds} s" if seconds < 120 else f"{seconds / 60:.2g} min"

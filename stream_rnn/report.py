"""What an evaluation shows: a table of scores beside baselines, a bounded trace, and its picture.

Longer than most: the picture needs the words of the table and the points of the recorder.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct

from stream_rnn.scores import Row
from stream_rnn.scores.saved import Count, Finite, require_at_least, require_same, restored
from stream_rnn.spi import SettingError, worded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 80
NUMBER_WIDTH = 12  # a number of the table, its star, and a space
GAIN_WIDTH = 13
NOISE = 1e-12  # of the number beside it: what rounding leaves where nothing is wrong
# Okabe and Ito's palette: told apart under every common color blindness, and by line style too.
TRUTH, MODEL, BASELINE = "#444444", "#0072B2", "#D55E00"


def table(rows: Sequence[Row]) -> str:
    """Plain text for a terminal of 80 columns: `*` marks the best, the last column what is gained.

    The gain compares model and best baseline on the same events: relative, in points of accuracy,
    or as a difference in nats. What is but rounding beside the other numbers of its row is 0.
    """
    if not rows:
        return "nothing scored yet"
    columns = list(dict.fromkeys(name for row in rows for name in row.baselines))
    fixed = 1 + NUMBER_WIDTH * (1 + len(columns)) + GAIN_WIDTH
    longest = max(len("metric"), *(len(row.name) for row in rows))
    width = min(longest, max(WIDTH - fixed, 12))
    lines = [_line("metric", width, ["model ", *(f"{name} " for name in columns)], "vs best")]
    lines.append("-" * len(lines[0]))
    for row in rows:
        best = _best(row)
        numbers = [row.model, *(row.baselines.get(name) for name in columns)]
        largest = max((abs(value) for value in numbers if value is not None), default=0.0)
        cells = [
            _cell(0.0 if _is_noise(value, largest) else value, best == name)
            for name, value in zip(("", *columns), numbers, strict=True)
        ]
        lines.append(_line(_shortened(row.name, width), width, cells, gain(row)))
    n = rows[0].n
    note = f"{n:,} scored {worded(n, 'event')}; * best; vs best = gain over the best baseline"
    return "\n".join([*lines, note, *_unshared(rows)])


def gain(row: Row) -> str:
    """The model against its best baseline on the same events, e.g. "+23.4%"; "" if unknown."""
    name = _best_baseline(row)
    if name is None:
        return ""
    model, baseline = row.paired[name], row.baselines[name]
    if model is None or baseline is None:
        return ""
    better = model - baseline if row.higher_is_better else baseline - model
    if row.gain == "points":
        return f"{100 * better:+.1f} pt"
    if row.gain == "difference":
        return f"{_signed(better, 3)} nats"
    if not baseline or _is_noise(baseline, model):
        return ""
    return f"{_signed(100 * better / abs(baseline), 1)}%"


def headline(rows: Sequence[Row]) -> str:
    """The first row in words, e.g. "MAE 4.71: 23.4% better than the best baseline, seasonal"."""
    row = next((row for row in rows if row.model is not None), None)
    if row is None:
        return "nothing scored yet"
    value = f"{row.name} {number(row.model)}"
    name, told = _best_baseline(row), gain(row)
    if name is None or not told:
        return f"{value}, {row.n:,} {worded(row.n, 'event')}"
    which = f"the best baseline, {name}" if len(row.baselines) > 1 else f"the {name} baseline"
    return f"{value}: {told[1:]} {'worse' if told[0] == '-' else 'better'} than {which}"


def number(value: float | None) -> str:
    """Four significant digits, thousands grouped; "-" for `None`."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 1e8 or 0 < size < 1e-4:
        return f"{value:.3e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")


class Point(NamedTuple):
    """One event as plotted. The averages are exponentially weighted means, `None` = unknown."""

    event: int
    prediction: float | None
    target: float
    loss: float | None
    baseline_loss: float | None
    accuracy: float | None = None
    baseline_accuracy: float | None = None


class _SavedRecorder(Struct, forbid_unknown_fields=True):
    capacity: int
    last: int
    stride: Count
    seen: Count
    recent: list[list[Finite | None]]
    history: list[list[Finite | None]]


class Recorder:
    """A bounded trace of a stream of any length.

    Keeps the newest `last` points and an evenly thinned history of at most `capacity` points: when
    it is full, every second point goes and the stride doubles.
    """

    def __init__(self, capacity: int = 2000, last: int = 400) -> None:
        require_at_least("recorder", 2, capacity=capacity, last=last)
        self.capacity = capacity
        self.last = last
        self._stride = 1
        self._seen = 0
        self._recent: deque[Point] = deque(maxlen=last)
        self._history: list[Point] = []

    def add(self, point: Point) -> None:
        """Take the next event of the plotted lane in; called in order.

        Values that are not finite are unknown; an event without a finite target is left out.
        """
        if not math.isfinite(point.target):
            return
        if not all(value is None or math.isfinite(value) for value in point):
            known = (value if _is_finite(value) else None for value in point[3:])
            prediction = point.prediction if _is_finite(point.prediction) else None
            point = Point(point.event, prediction, point.target, *known)
        if self._seen % self._stride == 0:
            if len(self._history) == self.capacity:
                del self._history[1::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self._history.append(point)
        self._seen += 1
        self._recent.append(point)

    def recent(self) -> list[Point]:
        """The newest points, every one of them."""
        return list(self._recent)

    def history(self) -> list[Point]:
        """Points from the first event to the newest, evenly spaced but for the last step."""
        if self._recent and self._history[-1] != self._recent[-1]:
            return [*self._history, self._recent[-1]]
        return list(self._history)

    def state_dict(self) -> dict[str, Any]:
        """The whole trace, as JSON-able values."""
        recent, history = ([list(p) for p in trace] for trace in (self._recent, self._history))
        saved = _SavedRecorder(self.capacity, self.last, self._stride, self._seen, recent, history)
        plain: dict[str, Any] = msgspec.to_builtins(saved)
        return plain

    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError, and nothing changed, when it does not fit."""
        place = "the recorder"
        saved = restored(state, _SavedRecorder, place)
        require_same(place, capacity=(saved.capacity, self.capacity), last=(saved.last, self.last))
        fits = len(saved.recent) == min(saved.seen, self.last)
        steps = -(-saved.seen // max(saved.stride, 1))
        if not fits or len(saved.history) != min(steps, self.capacity) or saved.stride < 1:
            raise ValueError(f"state of {place}: the trace does not have the length it claims")
        recent = [_point(values, place) for values in saved.recent]
        self._history = [_point(values, place) for values in saved.history]
        self._recent = deque(recent, maxlen=self.last)
        self._stride, self._seen = saved.stride, saved.seen


def plot(
    path: Path | str,
    recorder: Recorder,
    title: str,
    rows: Sequence[Row] = (),
    target: str = "value",
    loss: str = "loss",
    baseline: str = "persistence",
    *,
    guess: str = "majority",
    forecasts: Recorder | None = None,
    stream: str = "",
    made: str = "forecast, made in advance",
) -> None:
    """Write the picture (`.png`), or a self-contained page with picture and table (`.html`).

    Numeric targets: truth and forecast over the last events. Class targets (points that carry an
    accuracy): rolling accuracy. Below, the loss over the whole stream beside the baseline's.

    Args:
        path: replaced at once, never half written.
        recorder: the trace; at least one point.
        title: first line of the picture; the second says what the model beats and by how much.
        rows: the scores, the row for the second line first.
        target: the target's name and unit, e.g. "flow [l/s]".
        loss: the loss's name and unit.
        baseline: the baseline whose loss was recorded.
        guess: the baseline whose accuracy was recorded.
        forecasts: the trace of the forecasts, where `recorder` is of several streams.
        stream: the stream they are of, where there are several.
        made: what a prediction is called.

    Raises:
        SettingError: matplotlib is missing, nothing was recorded, or the ending is another.
    """
    path = Path(path)
    if path.suffix not in (".png", ".html"):
        raise SettingError(f'plot: expected a path ending in .png or .html, got "{path}"')
    if not recorder.recent():
        raise SettingError("plot: no event was recorded; let the stream run longer")
    is_page = path.suffix == ".html"  # which has the title itself
    first = "" if is_page else title
    words = _Words(target, loss, baseline, guess, stream, made)
    image = _picture(recorder, forecasts or recorder, first, rows, words)
    data = _page(image, title, rows).encode() if is_page else image
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


class _Words(NamedTuple):
    """What a picture calls things, as `plot` was told."""

    target: str
    loss: str
    baseline: str
    guess: str
    stream: str
    made: str


def _picture(
    recorder: Recorder, forecasts: Recorder, title: str, rows: Sequence[Row], words: _Words
) -> bytes:
    try:
        # Optional and slow to import. Not pyplot: it keeps figures in a global list.
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise SettingError(
            f'plot: matplotlib is missing ({error}); pip install "stream-rnn[plot]"'
        ) from error
    # Names come from configurations and streams: a "$" in them is a "$", not mathematics.
    with rc_context({"text.parse_math": False, "font.size": 10.5}):
        top = 0.98 if title else 1.02  # of the title; the next line is below it
        room = (0, 0, 1, top - 0.07)
        layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.12, hspace=0.05, rect=room)
        figure = Figure(figsize=(10, 7), dpi=100, layout=layout)
        upper, lower = figure.subplots(2, 1)
        if any(point.accuracy is not None for point in recorder.history()):
            _draw_accuracy(upper, recorder, words.guess)
        else:
            _draw_forecast(upper, forecasts, words)
        _draw_loss(lower, recorder, words.loss, words.baseline)
        first, second = _shortened(title, 80), headline(rows) if rows else ""
        figure.text(0.012, top, first, va="top", fontsize=14, weight="bold")
        figure.text(0.012, top - 0.04, _shortened(second, 100), va="top", fontsize=12, color=TRUTH)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")  # an Agg canvas, whatever the configured backend
    return buffer.getvalue()


def _draw_forecast(axes: Axes, recorder: Recorder, words: _Words) -> None:
    points = recorder.recent()
    events = [point.event for point in points]
    axes.plot(events, [point.target for point in points], color=TRUTH, lw=1.1, label="truth")
    _line_of(axes, points, lambda point: point.prediction, MODEL, "-", words.made)
    of = f" of {_shortened(words.stream, 24)}, the first of several" if words.stream else ""
    _finish(axes, f"The last {len(points):,} events{of}", words.target)


def _draw_accuracy(axes: Axes, recorder: Recorder, baseline: str) -> None:
    points = recorder.history()
    _line_of(axes, points, lambda point: point.accuracy, MODEL, "-", "model")
    _line_of(axes, points, lambda point: point.baseline_accuracy, BASELINE, "--", baseline)
    axes.set_ylim(-0.02, 1.02)
    _finish(axes, "Rolling accuracy", "accuracy")


def _draw_loss(axes: Axes, recorder: Recorder, loss: str, baseline: str) -> None:
    points = recorder.history()
    _line_of(axes, points, lambda point: point.loss, MODEL, "-", "model")
    _line_of(axes, points, lambda point: point.baseline_loss, BASELINE, "--", baseline)
    values = [v for p in points for v in (p.loss, p.baseline_loss) if v is not None]
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        label_plainly(axes)
    what = f"{loss[:1].upper()}{loss[1:]}"
    _finish(axes, f"{_shortened(what, 40)}, exponentially weighted mean (lower is better)", loss)


def label_plainly(axes: Axes) -> None:
    """Numbers as text: the default labels of a log axis are mathematics, which is not parsed."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _line_of(
    axes: Axes,
    points: Sequence[Point],
    value: Callable[[Point], float | None],
    color: str,
    style: str,
    label: str,
) -> None:
    known = [(point.event, y) for point in points if (y := value(point)) is not None]
    if known:
        events, values = zip(*known, strict=True)
        axes.plot(events, values, color=color, ls=style, lw=1.5, label=_shortened(label, 40))


def _finish(axes: Axes, title: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("event")
    axes.set_ylabel(_shortened(y_label, 40))
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda event, _: f"{event:,.0f}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)


def _page(image: bytes, title: str, rows: Sequence[Row]) -> str:
    words = f"{title}: {headline(rows)}"
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n"
        "<style>body{font:16px system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}"
        "img{max-width:100%}pre{overflow-x:auto;background:#f6f6f6;padding:1em}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n"
        f'<img alt="{html.escape(words)}" '
        f'src="data:image/png;base64,{base64.b64encode(image).decode()}">\n'
        f"<pre>{html.escape(table(rows))}</pre>\n</html>\n"
    )


def _unshared(rows: Sequence[Row]) -> list[str]:
    """Why there is no gain, where the best baseline makes no error."""
    for row in rows:
        name = _best_baseline(row)
        if name and row.gain == "percent" and row.model is not None and not gain(row):
            return ["vs best is empty where that baseline makes no error: there is no share of 0"]
    return []


def _is_noise(value: float | None, beside: float) -> bool:
    return value is not None and abs(value) < NOISE * abs(beside)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _point(values: list[float | None], place: str) -> Point:
    if len(values) != len(Point._fields) or values[0] is None or values[2] is None:
        raise ValueError(f"state of {place}: expected {Point._fields}, got {values}")
    return Point(int(values[0]), values[1], values[2], *values[3:])


def _best_baseline(row: Row) -> str | None:
    known = {name: value for name, value in row.baselines.items() if value is not None}
    if not known:
        return None
    return (max if row.higher_is_better else min)(known, key=lambda name: known[name])


def _best(row: Row) -> str | None:
    """The best column: "" = the model, `None` = none known."""
    name = _best_baseline(row)
    if row.model is None:
        return name
    if name is None:
        return ""
    model, baseline = row.paired.get(name), row.baselines[name]
    if model is None or baseline is None:
        return ""
    ahead = model > baseline if row.higher_is_better else model < baseline
    return "" if ahead else name


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}" if abs(value) < 1000 else f"{value:+.2e}"


def _cell(value: float | None, is_best: bool) -> str:
    return number(value) + ("*" if is_best else " ")


def _line(name: str, width: int, cells: Sequence[str], last: str) -> str:
    numbers = "".join(f"{cell:>{NUMBER_WIDTH}}" for cell in cells)
    return f"{name:<{width}}{numbers} {last:>{GAIN_WIDTH}}".rstrip()


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."

"""The panels: from the newest answer and its history to lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from stream_rnn import console
from stream_rnn.top import facts, plots
from stream_rnn.top.answer import Answer
from stream_rnn.top.history import History, Point
from stream_rnn.top.ink import BAD, GOOD, INK, MODEL, MUTED, OTHER, framed, inside, row
from stream_rnn.top.letters import Letter
from stream_rnn.top.plots import Curve, Scale, Values
from stream_rnn.top.words import age, human, instant, plural

Draw = Callable[[int, int, bool], list[Text]]
"""Width, height, whether in a box -> lines."""

SOLID, DASHES = "━", "┅"


def all_of(
    answer: Answer | None, history: History, found: Sequence[Letter] | None, now: float
) -> dict[str, Draw]:
    """Every panel by its name; what they draw stays as it is now.

    Args:
        answer: the newest; None: there was none yet, and nothing is made up.
        history: of the numbers that are plotted.
        found: dead letters; None: nobody tells them.
        now: Unix seconds.
    """
    if answer is None:
        titles = {"loss": "Loss", "rate": "Events per second", "lag": "Lag", "tick": "Tick"}
        titles |= {"learning": "Learning", "keeping": "Keeping", "events": "Events"}
        titles |= {"letters": "Dead letters"}
        return {name: _lines(row((title, "bold")), ()) for name, title in titles.items()}
    return {
        "loss": loss(answer, history),
        "rate": rate(answer, history),
        "lag": lag(answer, history),
        "tick": tick(answer, history),
        "learning": _lines(row(("Learning", "bold")), facts.learning(answer)),
        "keeping": _lines(row(("Keeping", "bold")), facts.keeping(answer, now)),
        "events": events(answer),
        "letters": letters(found),
    }


def loss(answer: Answer, history: History) -> Draw:
    """The loss against the best baseline."""
    ours, theirs = answer.loss, answer.baseline
    name, value = theirs or ("", None)
    model = (f"{SOLID} {human(ours)}", MODEL)
    full, short = [model], [model]
    if value is not None:
        full.append((f"  {DASHES} {name} {human(value)}", OTHER))
        short.append((f"  {DASHES} {human(value)}", OTHER))
        words = console.compared(ours, value, name).partition(", ")[2].removesuffix(f" {name}")
        if ours is not None and not words.startswith(name):
            verdict = (f"  {words}", GOOD if ours < value else BAD if ours > value else INK)
            full.append(verdict)
            short.append(verdict)
    lines = (lambda p: p.loss, MODEL, False), (lambda p: p.baseline, OTHER, True)
    figure = answer.words("figure")
    title = "Loss" if figure in ("", "loss") else figure
    return _plotted(_titles(title, full, short), history, lines, floor=None)


def tick(answer: Answer, history: History) -> Draw:
    """How long learning from one event takes."""
    half, most = instant(history.now.p50_s), instant(history.now.p99_s)
    titles = _titles(
        "Tick",
        [(f"{SOLID} p50 {half}", MODEL), (f"  {DASHES} p99 {most}", OTHER)],
        [(f"{SOLID} {half}", MODEL), (f"  {DASHES} {most}", OTHER)],
    )
    lines = (lambda p: p.p50_s, MODEL, False), (lambda p: p.p99_s, OTHER, True)
    return _plotted(titles, history, lines, words=instant)


def rate(answer: Answer, history: History) -> Draw:
    """Events applied per second."""
    titles = _titles("Events per second", [(human(answer.number("events_per_s")), MODEL)])
    return _columned(titles, history, lambda point: point.rate, human)


def lag(answer: Answer, history: History) -> Draw:
    """How far behind the source."""
    events, seconds = answer.series.one("lag_events"), answer.series.one("lag_seconds")
    known = [] if events is None else [plural(events, "event")]
    known += [] if seconds is None else [age(seconds)]
    value = (" · ".join(known), MODEL) if known else ("the source does not say", MUTED)
    titles = _titles("Lag", [value])
    if events is None and seconds is not None:
        return _columned(titles, history, lambda point: point.lag_s, age)
    return _columned(titles, history, lambda point: point.lag_events, human)


def letters(found: Sequence[Letter] | None) -> Draw:
    """The newest events that could not be used, the newest first."""
    rows = [
        row((f"{each.stage:<9} ", OTHER), (each.reason, INK), ("  " + each.id, MUTED))
        for each in reversed(found or ())
    ]
    if not rows:
        rows = [row(("none" if found is not None else "this daemon does not tell them", MUTED))]
    return _lines(row(("Dead letters", "bold"), ("  the newest first", MUTED)), rows)


def events(answer: Answer) -> Draw:
    """The counters, as many in a line as there is room for."""

    def draw(width: int, height: int, boxed: bool) -> list[Text]:
        cells, _ = inside(width, height, boxed)
        rows = facts.flowed(facts.events(answer), cells)
        return framed(row(("Events", "bold")), "", rows, width, height, boxed)

    return draw


def _lines(title: Text, rows: Sequence[Text]) -> Draw:
    return lambda width, height, boxed: framed(title, "", rows, width, height, boxed)


_Line = tuple[Callable[[Point], float | None], str, bool]
_Part = tuple[str, str]


def _titles(name: str, *variants: Sequence[_Part]) -> list[Text]:
    """From the fullest to the shortest."""
    return [row((f"{name}  ", "bold"), *parts) for parts in variants]


def _plotted(
    titles: Sequence[Text],
    history: History,
    lines: Sequence[_Line],
    floor: float | None = 0.0,
    words: Callable[[float], str] = human,
) -> Draw:
    points = list(history.points)
    drawn = [Curve([value(p) for p in points], style, dashed) for value, style, dashed in lines]

    def rows(scale: Scale, width: int, height: int) -> list[Text]:
        return plots.curves(drawn, scale, width, height)

    return _scaled(titles, [curve.values for curve in drawn], history.fresh, floor, words, rows)


def _columned(
    titles: Sequence[Text],
    history: History,
    value: Callable[[Point], float | None],
    words: Callable[[float], str],
) -> Draw:
    values = [value(point) for point in history.points]

    def rows(scale: Scale, width: int, height: int) -> list[Text]:
        return plots.columns(values, MODEL, scale, width, height)

    return _scaled(titles, [values], history.fresh, 0.0, words, rows)


def _scaled(
    titles: Sequence[Text],
    drawn: Sequence[Values],
    fresh: int,
    floor: float | None,
    words: Callable[[float], str],
    rows: Callable[[Scale, int, int], list[Text]],
) -> Draw:
    """A plot whose scale follows the `fresh` newest values, as far as they are seen."""

    def draw(width: int, height: int, boxed: bool) -> list[Text]:
        cells, n_rows = inside(width, height, boxed)
        title = next((each for each in titles if each.cell_len <= cells - 1), titles[-1])
        cells = max(cells - plots.GUTTER, 0)
        n = min(fresh, plots.SECONDS_PER_CELL * cells)
        seen = [value for values in drawn for value in (values[-n:] if n else ())]
        if all(value is None for value in seen):
            return framed(title, "", [], width, height, boxed)
        scale = plots.scale_of(seen, floor)
        plot = plots.scaled(rows(scale, cells, n_rows), words(scale.high), words(scale.low))
        return framed(title, plots.span(cells), plot, width, height, boxed)

    return draw

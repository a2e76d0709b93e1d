"""Draw the dashboards from a running Prometheus, without a Grafana: what an operator would see.

    python -m deploy.grafana.preview http://127.0.0.1:9090 out/ [minutes]

For development: it needs matplotlib. Layout, titles, units, colors, thresholds and mappings are
those of the JSON; the looks are only near Grafana's.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from deploy.grafana.generate import FOLDER
from deploy.grafana.parts import COLUMNS, Json
from deploy.grafana.queries import ask, put_in

CELL_X, CELL_Y = 0.66, 0.36  # inches of a column and a row of Grafana's grid
BACK, PANEL, TEXT, DIM = "#111217", "#181b1f", "#d8d9da", "#8e8e8e"
NAMED = {
    "green": "#73BF69",
    "orange": "#FF9830",
    "red": "#F2495C",
    "blue": "#5794F2",
    "purple": "#B877D9",
    "text": TEXT,
}
PALETTE = ("#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#96D98D")
STEP_S = 1.0


def preview(prometheus: str, folder: Path, minutes: float) -> None:
    """One PNG per dashboard."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(FOLDER.glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        with rc_context({"text.color": TEXT, "font.size": 7.5, "text.parse_math": False}):
            _page(dashboard, prometheus, minutes).savefig(folder / f"{path.stem}.png", dpi=100)


def _page(dashboard: Json, prometheus: str, minutes: float) -> Figure:
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"]) + 1
    figure = Figure(figsize=(COLUMNS * CELL_X, rows * CELL_Y), facecolor=BACK)
    figure.text(0.008, 1 - 0.5 / rows, dashboard["title"], va="center", size=12, weight="bold")
    now = time.time()
    span = (now - 60 * minutes, now)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, w = place["x"] / COLUMNS + 0.003, place["w"] / COLUMNS - 0.006
        y = 1 - (1 + place["y"] + place["h"]) / rows + 0.08 / rows
        h = (place["h"] - 0.16) / rows
        if panel["type"] == "row":
            figure.text(x + 0.004, y + h / 2, f"v {panel['title']}", va="center", size=9)
            continue
        figure.add_artist(_filled(figure, (x, y, w, h), PANEL))
        figure.text(x + 0.004, y + h - 0.45 / rows, panel["title"], va="center", size=8.5)
        inner = (x + 0.035, y + 1.75 / rows, w - 0.045, h - 2.75 / rows)
        _DRAWN[panel["type"]](figure, inner, (x, y, w, h), panel, prometheus, span)
    return figure


def _filled(figure: Figure, box: Box, color: str) -> Rectangle:
    x, y, w, h = box
    return Rectangle(
        (x, y),
        w,
        h,
        facecolor=color,
        transform=figure.transFigure,
        zorder=-1,  # behind the axes
    )


Box = tuple[float, float, float, float]
Span = tuple[float, float]


def _results(panel: Json, prometheus: str, span: Span | None) -> list[tuple[str, Json]]:
    """(legend, series) of each query, over `span` or of now."""
    found = []
    for target in panel["targets"]:
        expr = put_in(target["expr"])
        if span is None:
            series = ask(prometheus, "query", query=expr)
        else:
            times = {"start": span[0], "end": span[1], "step": STEP_S}
            series = ask(prometheus, "query_range", query=expr, **times)
        found += [(_legend(target["legendFormat"], each["metric"]), each) for each in series]
    return found


def _legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)


def _draw_graph(
    figure: Figure, inner: Box, _: Box, panel: Json, prometheus: str, span: Span
) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    axes = _axes(figure, inner, span)
    results = _results(panel, prometheus, span)
    lines = []
    for i, (name, series) in enumerate(results):
        times, values = zip(*((float(t), float(v)) for t, v in series["values"]), strict=True)
        lines.append((name, _color(panel, name, PALETTE[i % len(PALETTE)]), times, values))
    if custom["stacking"]["mode"] == "normal" and lines:
        grid = sorted({t for line in lines for t in line[2]})
        layers = [[dict(zip(t, v, strict=True)).get(at, 0.0) for at in grid] for *_, t, v in lines]
        colors = [line[1] for line in lines]
        axes.stackplot(grid, layers, colors=colors, alpha=0.7, labels=[line[0] for line in lines])
    else:
        for name, color, times, values in lines:
            axes.plot(times, values, color=color, lw=1, label=name)
    if custom["scaleDistribution"]["type"] == "log" and _has_positive(lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    elif "min" in defaults:
        axes.set_ylim(bottom=defaults["min"])
    if custom["thresholdsStyle"]["mode"] == "line":
        low, high = axes.get_ylim()
        for step in defaults["thresholds"]["steps"][1:]:
            if low < step["value"] < high:
                axes.axhline(step["value"], color=NAMED[step["color"]], lw=0.8, ls="--")
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, defaults["unit"]))
    axes.minorticks_off()
    if lines:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.14),
            ncols=max(1, int(panel["gridPos"]["w"] / 4)),
            frameon=False,
            fontsize=6.5,
            labelcolor=TEXT,
        )
    else:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=DIM, size=11)


def _has_positive(lines: list[tuple[str, str, Any, Any]]) -> bool:
    return any(value > 0 for *_, values in lines for value in values)


def _draw_heatmap(
    figure: Figure, inner: Box, _: Box, panel: Json, prometheus: str, span: Span
) -> None:
    axes = _axes(figure, inner, span)
    series = [(float(name), each) for name, each in _results(panel, prometheus, span)]
    series.sort(key=lambda pair: pair[0])
    grid = sorted({float(t) for _, each in series for t, _ in each["values"]})
    below = [0.0] * len(grid)
    cells: list[list[float]] = []
    bounds: list[float] = []
    for bound, each in series:
        counts = {float(t): float(v) for t, v in each["values"]}
        total = [counts.get(at, math.nan) for at in grid]
        cells.append([max(n - b, 0) or math.nan for n, b in zip(total, below, strict=True)])
        below, bounds = total, [*bounds, bound]
    if cells:
        axes.pcolormesh(grid, range(len(cells)), cells, cmap="Blues_r", shading="nearest")
        axes.set_yticks(range(len(bounds)), [shown(bound, "s") for bound in bounds], size=6)


def _draw_stat(figure: Figure, _: Box, box: Box, panel: Json, prometheus: str, __: Span) -> None:
    x, y, w, h = box
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    results = _results(panel, prometheus, None)
    if not results:
        figure.text(x + w / 2, y + h * 0.4, defaults["noValue"], ha="center", va="center", size=16)
    for i, (name, series) in enumerate(results):
        value = float(series["value"][1])
        text = shown(value, defaults["unit"], defaults.get("decimals"))
        color = "text"
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is None or value >= step["value"]:
                color = step["color"]
        for mapping in defaults.get("mappings", []):
            if (told := mapping["options"].get(f"{value:g}")) is not None:
                text, color = told["text"], told["color"]
        if math.isnan(value):
            text, color = defaults["noValue"], "text"
        if options["textMode"] == "name":
            text, color = name, "text"
        share = w / len(results)
        left = x + i * share
        is_filled = options["colorMode"] == "background" and color != "text"
        if is_filled:
            figure.add_artist(_filled(figure, (left, y, share, h * 0.72), NAMED[color]))
        ink = "white" if is_filled else NAMED[color]
        size = 17 if len(text) < 14 else 11
        middle = left + share / 2
        figure.text(middle, y + h * 0.37, text, ha="center", va="center", size=size, color=ink)


def _draw_table(figure: Figure, _: Box, box: Box, panel: Json, prometheus: str, __: Span) -> None:
    x, y, w, h = box
    found = [series["metric"] for _, series in _results(panel, prometheus, None)]
    columns = sorted({name for labels in found for name in labels if name != "__name__"})
    if not found:
        figure.text(x + w / 2, y + h / 2, "nothing", ha="center", va="center", color=DIM, size=11)
    for row, labels in enumerate([{name: name for name in columns}, *found][:9]):
        for column, name in enumerate(columns):
            left = x + 0.01 + column * w / max(len(columns), 1)
            ink = DIM if row == 0 else TEXT
            figure.text(left, y + h * (0.78 - 0.1 * row), labels.get(name, ""), size=8, color=ink)


_DRAWN = {
    "timeseries": _draw_graph,
    "heatmap": _draw_heatmap,
    "stat": _draw_stat,
    "table": _draw_table,
}


def _axes(figure: Figure, inner: Box, span: Span) -> Axes:
    axes = figure.add_axes(inner, facecolor=PANEL)
    axes.grid(color="#2c3235", lw=0.6)
    axes.tick_params(colors=DIM, length=0, labelsize=6.5)
    axes.spines[:].set_visible(False)
    axes.set_xlim(*span)
    axes.xaxis.set_major_formatter(lambda at, _: time.strftime("%H:%M:%S", time.localtime(at)))
    axes.locator_params(axis="x", nbins=5)
    return axes


def _color(panel: Json, name: str, otherwise: str) -> str:
    for each in panel["fieldConfig"]["overrides"]:
        pattern = each["matcher"]["options"]
        is_ours = re.search(pattern[1:-1], name) if pattern[0] == "/" else pattern == name
        if is_ours:
            color: str = each["properties"][0]["value"]["fixedColor"]
            return NAMED.get(color, color)
    return otherwise


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """A number with its unit, much as Grafana writes it."""
    if math.isinf(value):
        return "+Inf"
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f}%"
    if unit == "dateTimeFromNow":
        return f"{(time.time() - value / 1000) / 60:.0f} minutes ago"
    if unit == "s" and value:
        for size, name in (
            (86400, " day"),
            (3600, " hour"),
            (60, " min"),
            (1, " s"),
            (1e-3, " ms"),
        ):
            if abs(value) >= size:
                return f"{value / size:.3g}{name}"
        return f"{value * 1e6:.3g} us"
    if unit == "bytes":
        power = min(int(math.log(abs(value), 1024)), 4) if abs(value) >= 1 else 0
        return f"{value / 1024**power:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}"
    for size, name in ((1e9, " Bil"), (1e6, " Mil"), (1e3, " K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{name}"
    text = f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"
    return f"{text} ops/s" if unit == "ops" else text


if __name__ == "__main__":
    place, out, *rest = sys.argv[1:]
    preview(place, Path(out), float(rest[0]) if rest else 5.0)

"""What the dashboards are put together from: panels as Grafana's JSON wants them, and their layout.

Plain dictionaries, because that is what a dashboard is. `{$}` in an expression stands for the job
and the instances chosen on top of the dashboard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

CHOSEN = 'job=~"$job",instance=~"$instance"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA = 39  # Grafana 10.3 and later; older ones migrate what they know
COLUMNS = 24

# One meaning, one color, on all dashboards.
GOOD, FAIR, BAD, MODEL, BASELINE, CALM = "green", "orange", "red", "blue", "purple", "text"
YES_NO = {"0": ("no", BAD), "1": ("yes", GOOD)}


@dataclass(frozen=True)
class Query:
    """One series (or several) of a panel; `legend` as Grafana fills it in: `{{instance}}`."""

    expr: str
    legend: str = "{{instance}}"


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: what is shown.
        description: what it means, and what to do when it looks wrong.
        queries: what is asked; text alone is a query with the default legend.
        kind: of Grafana: timeseries, stat, table, heatmap.
        unit: of Grafana: s, bytes, ops, percentunit, short, none, dateTimeAsIso.
        steps: (from which value on, color); the first one's value is ignored.
        texts: value -> (text, color).
        colors: name of a series (a regular expression between slashes) -> color.
        width, height: in Grafana's grid of 24 columns.
        stacked: series on top of each other.
        log: a logarithmic axis.
        at_least: where the axis begins.
        names: a stat shows the name of the series, not its value.
        decimals: None leaves them to Grafana.
    """

    title: str
    description: str
    queries: Sequence[Query | str]
    kind: str = "timeseries"
    unit: str = "short"
    steps: Sequence[tuple[float, str]] = ()
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    colors: dict[str, str] = field(default_factory=dict)
    width: int = 8
    height: int = 7
    stacked: bool = False
    log: bool = False
    at_least: float | None = 0
    names: bool = False
    decimals: int | None = None

    def json(self) -> Json:
        """The panel without its place."""
        defaults: Json = {"unit": self.unit, "color": {"mode": "palette-classic"}}
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        if self.at_least is not None and self.kind == "timeseries":
            defaults["min"] = self.at_least
        steps = [{"color": color, "value": value} for value, color in self.steps]
        steps = steps or [{"color": CALM, "value": None}]
        steps[0]["value"] = None
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        if self.texts:
            told = {
                value: {"text": text, "color": color, "index": i}
                for i, (value, (text, color)) in enumerate(self.texts.items())
            }
            defaults["mappings"] = [{"type": "value", "options": told}]
        custom, options = self._looks(defaults)
        defaults["custom"] = custom
        return {
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "targets": [self._target(i, each) for i, each in enumerate(self.queries)],
            "fieldConfig": {"defaults": defaults, "overrides": self._overrides()},
            "options": options,
            **({"transformations": _TABLE} if self.kind == "table" else {}),
        }

    def _looks(self, defaults: Json) -> tuple[Json, Json]:
        if self.kind == "stat":
            defaults["color"] = {"mode": "thresholds"}
            defaults["noValue"] = "-"
            return {}, {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "value" if self.names or not self.steps else "background",
                "textMode": "name" if self.names else "value",
                "graphMode": "none",
                "justifyMode": "center",
                "orientation": "auto",
                "wideLayout": True,
            }
        if self.kind == "heatmap":
            return {"scaleDistribution": {"type": "linear"}}, {
                "calculate": False,
                "yAxis": {"unit": self.unit, "axisPlacement": "left"},
                "color": {"mode": "scheme", "scheme": "Blues", "scale": "exponential", "steps": 64},
                "cellGap": 1,
                "filterValues": {"le": 1e-9},
                "tooltip": {"show": True, "mode": "single", "yHistogram": True},
                "legend": {"show": True},
                "rowsFrame": {"layout": "auto"},
            }
        if self.kind == "table":
            defaults["noValue"] = "nothing"
            return {"align": "left", "filterable": False}, {"showHeader": True, "cellHeight": "sm"}
        return {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if self.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if self.log else {"type": "linear"},
            "thresholdsStyle": {"mode": "line" if self.steps else "off"},
        }, {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def _overrides(self) -> list[Json]:
        def matcher(name: str) -> Json:
            return {"id": "byRegexp" if name.startswith("/") else "byName", "options": name}

        fixed = [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": color}}
            for color in self.colors.values()
        ]
        pairs = zip(self.colors, fixed, strict=True)
        return [{"matcher": matcher(name), "properties": [color]} for name, color in pairs]

    def _target(self, i: int, query: Query | str) -> Json:
        query = Query(query) if isinstance(query, str) else query
        instant = self.kind in ("stat", "table")
        formats = {"heatmap": "heatmap", "table": "table"}
        return {
            "refId": chr(ord("A") + i),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": chosen(query.expr),
            "legendFormat": query.legend,
            "format": formats.get(self.kind, "time_series"),
            "instant": instant,
            "range": not instant,
        }


_TABLE = [
    {"id": "labelsToFields", "options": {"mode": "columns"}},
    {
        "id": "organize",
        "options": {"excludeByName": {"Time": True, "Value": True, "__name__": True}},
    },
]


def chosen(expr: str) -> str:
    """The expression for the job and the instances that were chosen."""
    return expr.replace("{$", "{" + CHOSEN)


def stat(title: str, description: str, *queries: Query | str, **more: Any) -> Panel:
    """The value of now, large."""
    return Panel(title, description, queries, kind="stat", **{"width": 4, "height": 4} | more)


def graph(title: str, description: str, *queries: Query | str, **more: Any) -> Panel:
    """Values over time."""
    return Panel(title, description, queries, **more)


def laid_out(rows: Iterable[tuple[str, Sequence[Panel]]]) -> list[Json]:
    """Titled rows of panels, from left to right and from top to bottom, each with its place."""
    placed: list[Json] = []
    top = 0
    for title, panels in rows:
        heading: Json = {"type": "row", "title": title, "collapsed": False, "panels": []}
        placed.append(heading | {"gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}})
        left, top, height = 0, top + 1, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                left, top, height = 0, top + height, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            placed.append(panel.json() | {"gridPos": place})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return [panel | {"id": number} for number, panel in enumerate(placed, 1)]

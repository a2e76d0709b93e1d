"""Write the dashboards: `python -m deploy.grafana.generate`, from the top of the repository.

The JSON beside this file is what Grafana loads; what to edit are `overview.py`, `learning.py`,
`performance.py` and `state.py`. A series of `stream_rnn.metrics` that none of them shows gets a
plain panel at the end of the state dashboard, so that nothing is exported unseen.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from deploy.grafana import learning, overview, performance, state
from deploy.grafana.parts import SCHEMA, SOURCE, Json, Panel, chosen, graph, laid_out
from stream_rnn.metrics import Description, describe

FOLDER = Path(__file__).parent / "dashboards"
TAG = "stream-rnn"
PAGES = {"overview": overview, "learning": learning, "performance": performance, "state": state}


def dashboards() -> dict[str, Json]:
    """File name -> dashboard."""
    rows = {name: list(page.ROWS) for name, page in PAGES.items()}
    text = json.dumps([panel.json() for page in rows.values() for _, ps in page for panel in ps])
    others = [_plain(each) for each in describe() if not _is_in(text, each.name)]
    if others:
        rows["state"].append(("Not yet placed", others))
    return {
        f"{name}.json": _dashboard(name, page.TITLE, page.DESCRIPTION, laid_out(rows[name]))
        for name, page in PAGES.items()
    }


def _is_in(text: str, name: str) -> bool:
    return re.search(rf"\b{name}(_bucket|_sum|_count)?\b", text) is not None


def _plain(series: Description) -> Panel:
    if series.type == "histogram":
        expr = f"histogram_quantile(0.99, rate({series.name}_bucket{{$}}[$__rate_interval]))"
    elif series.type == "counter":
        expr = f"rate({series.name}{{$}}[$__rate_interval])"
    else:
        expr = f"{series.name}{{$}}"
    return graph(series.name.removeprefix("stream_rnn_"), series.help, expr, at_least=None)


def _dashboard(name: str, title: str, description: str, panels: list[Json]) -> Json:
    return {
        "uid": f"stream-rnn-{name}",
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels: what happened at the same time?
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "stream-rnn",
                "tags": [TAG],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
            }
        ],
        "templating": {"list": _variables()},
        "annotations": {"list": _annotations()},
        "panels": panels,
    }


def _variables() -> list[Json]:
    def labels(name: str, label: str, query: str, **more: object) -> Json:
        return {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,  # with the time range
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            **more,
        }

    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "multi": False,
            "includeAll": False,
            "current": {},
        },
        labels("job", "Job", "label_values(stream_rnn_build_info, job)"),
        labels(
            "instance",
            "Instance",
            'label_values(stream_rnn_build_info{job=~"$job"}, instance)',
            allValue=".+",  # those that are down now, too
        ),
    ]


def _annotations() -> list[Json]:
    minute = "[1m]"  # the same as the step below: each event falls into one of them
    marks = {
        "Restarts": ("red", f"changes(process_start_time_seconds{{$}}{minute}) > 0", ""),
        "Fallback moves": (
            "orange",
            f"increase(stream_rnn_fallback_moves_total{{$}}{minute}) > 0",
            "{{direction}}: {{reason}}",
        ),
        "Drift alarms": ("purple", f"increase(stream_rnn_drift_alarms_total{{$}}{minute}) > 0", ""),
    }
    return [
        {
            "name": name,
            "enable": True,
            "iconColor": color,
            "datasource": SOURCE,
            "expr": chosen(expr),
            "step": "60s",
            "titleFormat": name,
            "textFormat": text or "{{instance}}",
            "tagKeys": "instance",
        }
        for name, (color, expr, text) in marks.items()
    ]


def main(folder: Path = FOLDER) -> None:
    """Write all of them into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, dashboard in dashboards().items():
        text = json.dumps(dashboard, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))

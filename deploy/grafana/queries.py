"""What a dashboard asks, as Prometheus understands it: Grafana's variables are put in."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from deploy.grafana.parts import Json

INTERVAL = "20s"  # for $__rate_interval: four scrapes of 5 s, as Grafana chooses


class Asked(NamedTuple):
    """One query of a dashboard."""

    dashboard: str
    place: str
    expr: str


def queries(dashboard: Json) -> Iterator[Asked]:
    """Of panels and annotations."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            place = f"{panel['title']} ({target['refId']})"
            yield Asked(dashboard["uid"], place, target["expr"])
    for annotation in dashboard["annotations"]["list"]:
        yield Asked(dashboard["uid"], f"annotation {annotation['name']}", annotation["expr"])


def put_in(expr: str, interval: str = INTERVAL, job: str = ".+", instance: str = ".+") -> str:
    """The expression with Grafana's variables replaced."""
    for name, value in (("$__rate_interval", interval), ("$job", job), ("$instance", instance)):
        expr = expr.replace(name, value)
    if "$" in expr:
        raise ValueError(f"unknown variable in {expr!r}; known: $__rate_interval $job $instance")
    return expr


def ask(prometheus: str, path: str, **parameters: str | float) -> list[Json]:
    """The result of one call of Prometheus' HTTP API, e.g. path "query" with `query`."""
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        told = json.load(answer)
    result: list[Json] = told["data"]["result"]
    return result

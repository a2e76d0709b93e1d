"""The dashboards are those of the generator, and sound as far as can be told without a Grafana."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from deploy.grafana import generate
from deploy.grafana.parts import laid_out, stat
from deploy.grafana.queries import put_in, queries
from stream_rnn.metrics import Description, describe

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
PATHS = sorted(FOLDER.glob("*.json"))
UNITS = {"short", "s", "bytes", "ops", "percentunit", "dateTimeFromNow"}
OTHERS = {"up", "ALERTS", "scrape_duration_seconds"}  # Prometheus' own
PROCESS = {"cpu_seconds_total", "resident_memory_bytes", "start_time_seconds"}
PROCESS |= {"open_fds", "max_fds"}


def loaded(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in loaded(path)["panels"] if panel["type"] != "row"]


def series_in(expr: str) -> set[str]:
    """Names of series in an expression: what stands before a brace."""
    return set(re.findall(r"([a-zA-Z_:][\w:]*)\{", expr))


def exported() -> set[str]:
    names = {each.name for each in describe()}
    buckets = {f"{each.name}_bucket" for each in describe() if each.type == "histogram"}
    return names | buckets | OTHERS | {f"process_{name}" for name in PROCESS}


every_dashboard = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def test_the_committed_dashboards_are_the_generated_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.grafana.generate", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in PATHS}
    assert written == committed, "run: python -m deploy.grafana.generate"


@every_dashboard
def test_every_panel_has_a_number_of_its_own(path: Path) -> None:
    numbers = [panel["id"] for panel in loaded(path)["panels"]]
    assert len(numbers) == len(set(numbers)) > 5


@every_dashboard
def test_no_two_panels_overlap_and_none_leaves_the_grid(path: Path) -> None:
    places = [panel["gridPos"] for panel in loaded(path)["panels"]]
    assert all(p["x"] >= 0 and p["x"] + p["w"] <= 24 for p in places)
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (a, b)


@every_dashboard
def test_every_panel_asks_the_chosen_prometheus(path: Path) -> None:
    for panel in panels(path):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${datasource}" for source in sources), panel["title"]
        assert panel["targets"], panel["title"]


@every_dashboard
def test_every_query_is_of_the_chosen_job_and_instances(path: Path) -> None:
    for asked in queries(loaded(path)):
        selectors = re.findall(r"\{(.*?)\}", asked.expr)
        assert selectors, asked
        assert all('job=~"$job",instance=~"$instance"' in each for each in selectors), asked


@every_dashboard
def test_every_panel_says_what_it_means_in_a_unit_that_grafana_has(path: Path) -> None:
    for panel in panels(path):
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]


@every_dashboard
def test_thresholds_rise(path: Path) -> None:
    for panel in panels(path):
        first, *others = [
            step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        ]
        assert first is None, panel["title"]
        assert others == sorted(others), panel["title"]


@every_dashboard
def test_every_series_asked_for_is_exported(path: Path) -> None:
    for asked in queries(loaded(path)):
        assert series_in(asked.expr) <= exported(), asked


def test_a_misspelled_series_would_be_found() -> None:
    assert not series_in('rate(stream_rnn_events_aplied_total{job=~"$job"}[1m])') <= exported()


def test_every_exported_series_is_on_some_panel() -> None:
    asked = {
        name for path in PATHS for each in queries(loaded(path)) for name in series_in(each[2])
    }
    asked = {name.removesuffix("_bucket") for name in asked}
    assert {each.name for each in describe()} <= asked


def test_a_new_series_gets_a_panel_without_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Description("stream_rnn_brand_new_total", "counter", (), "Something nobody has drawn.")
    monkeypatch.setattr(generate, "describe", lambda: [*describe(), new])
    panel = generate.dashboards()["state.json"]["panels"][-1]
    assert panel["description"] == new.help
    assert panel["targets"][0]["expr"].startswith("rate(stream_rnn_brand_new_total{job=~")


def test_every_section_of_the_runbook_that_a_panel_names_is_there() -> None:
    known = set(re.findall(r"(?m)^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text()))
    text = " ".join(panel["description"] for path in PATHS for panel in panels(path))
    named = set(re.findall(r"runbook, (\w+)", text))
    assert len(named) > 5
    assert named <= known


def test_panels_that_do_not_fit_beside_each_other_begin_a_new_line() -> None:
    wide = stat("title", "description", "up{$}", width=16)
    heading, first, second = laid_out([("row", [wide, wide])])
    assert (heading["gridPos"]["y"], first["gridPos"]["y"], second["gridPos"]["y"]) == (0, 1, 5)


def test_a_variable_that_nobody_fills_in_is_an_error() -> None:
    assert put_in("rate(x[$__rate_interval])", "5s") == "rate(x[5s])"
    with pytest.raises(ValueError, match="unknown variable"):
        put_in("rate(x[$__range])")


def test_provisioning_names_the_folder_and_a_data_source_by_variable() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    assert "${STREAM_RNN_DASHBOARDS}" in (folder / "dashboards" / "stream-rnn.yml").read_text()
    assert "${PROMETHEUS_URL}" in (folder / "datasources" / "prometheus.yml").read_text()

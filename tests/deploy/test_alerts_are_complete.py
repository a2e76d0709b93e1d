"""Alerts, their cases, their sections in the runbook and the series they ask for fit together."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_rnn.metrics import describe

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
CASES = ROOT / "deploy" / "prometheus" / "tests" / "alerts.yml"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
SEVERITIES = {"critical", "warning", "info"}


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)")
    return path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return subprocess.CompletedProcess(command, said.returncode, said.stdout + said.stderr)


def alerts(text: str) -> Iterator[tuple[str, str]]:
    """(name, what stands below it) of each alert; no YAML reader is needed for our own file."""
    _, *blocks = re.split(r"(?m)^ +- alert: ", text)
    assert blocks
    for block in blocks:
        name, _, body = block.partition("\n")
        yield name, body


ALERTS = dict(alerts(RULES.read_text(encoding="utf-8")))
NAMES = sorted(ALERTS)


def unknown_series(rules: str) -> set[str]:
    """Series in the rules that the daemon does not export, nor a rule records."""
    known = {each.name for each in describe()}
    known |= {f"{each.name}_bucket" for each in describe() if each.type == "histogram"}
    known |= set(re.findall(r"record: (\S+)", rules))
    expressions = re.sub(r"#.*|(?m:^ *- name:.*$)", "", rules)
    expressions = re.sub(r"(summary|description|runbook_url): .*", "", expressions)
    return set(re.findall(r"\bstream_rnn[\w:]+", expressions)) - known


def test_promtool_accepts_the_rules() -> None:
    said = run(tool("promtool"), "check", "rules", RULES)
    assert said.returncode == 0, said.stdout


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    said = run(tool("promtool"), "test", "rules", CASES)
    assert said.returncode == 0, said.stdout


def test_an_alert_that_cannot_fire_fails_its_cases(tmp_path: Path) -> None:
    head, *blocks = re.split(r"(?m)^(?= +- alert: )", RULES.read_text(encoding="utf-8"))
    dumb = [re.sub(r"expr: (>-\n(?: {10}.*\n)+|.*\n)", "expr: vector(0) > 1\n", b) for b in blocks]
    (tmp_path / "rules.yml").write_text("".join([head, *dumb]), encoding="utf-8")
    (tmp_path / "tests").mkdir()
    shutil.copy(CASES, tmp_path / "tests")
    said = run(tool("promtool"), "test", "rules", tmp_path / "tests" / CASES.name)
    missed = set(re.findall(r'exp: \{alertname="(\w+)"\}', said.stdout))
    assert missed == set(NAMES), said.stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    text = CASES.read_text(encoding="utf-8")
    assert re.search(rf"name: '{name}: ", text), f"no case in which {name} must fire"
    assert re.search(rf"name: '{name}, not: ", text), f"no case in which {name} must not fire"


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_severity_words_and_a_section_in_the_runbook(name: str) -> None:
    body = ALERTS[name]
    severity = re.search(r"severity: (\w+)", body)
    assert severity is not None
    assert severity[1] in SEVERITIES
    assert "summary: " in body
    assert "description: " in body
    assert f"runbook_url: docs/runbook.md#{name.lower()}\n" in body


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"(?m)^## (.+)$", text)) == NAMES
    for section in re.split(r"(?m)^## ", text)[1:]:
        for part in ("**Means.**", "**Look.**", "**Do.**"):
            assert section.count(part) == 1, section.partition("\n")[0]


def test_the_rules_ask_for_series_that_are_exported() -> None:
    assert unknown_series(RULES.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("right", ["stream_rnn_lag_events", "stream_rnn:events_applied:rate5m"])
def test_a_misspelled_series_is_found(right: str) -> None:
    rules = RULES.read_text(encoding="utf-8")
    wrong = right + "s"
    assert unknown_series(re.sub(rf"> 60 \* {right}|{right} > 100", wrong, rules)) == {wrong}


def test_amtool_accepts_the_example_for_alertmanager() -> None:
    said = run(tool("amtool"), "check-config", ALERTMANAGER)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize(
    ("severity", "receiver"), [("critical", "at-once"), ("warning", "by-day"), ("info", "log")]
)
def test_an_alert_goes_where_its_severity_says(severity: str, receiver: str) -> None:
    command = [tool("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER}"]
    said = run(*command, f"severity={severity}", "alertname=X")
    assert said.stdout.split()[0] == receiver  # what follows warns of a missing inhibition test


def test_the_alerts_that_keep_others_quiet_exist() -> None:
    text = ALERTMANAGER.read_text(encoding="utf-8")
    named = {
        name for names in re.findall(r'alertname!?=~?"([\w|]+)"', text) for name in names.split("|")
    }
    assert len(named) > 5
    assert named <= set(NAMES)

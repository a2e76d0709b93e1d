"""deploy/docker/compose.yml, its configurations, and the feed together with a real daemon."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from stream_rnn import app, config

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
COMPOSE = DOCKER / "compose.yml"
STACK: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
PATIENCE_S = 240.0

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def test_compose_accepts_every_line(judge):
    said = judge("docker-compose", "-f", COMPOSE, "config", "-q")
    assert (said.returncode, said.stderr) == (0, "")


def test_compose_would_find_a_misspelled_line(judge, tmp_path):
    wrong = tmp_path / "compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("mem_limit: 1g", "memory_limit: 1g"))
    assert "memory_limit" in judge("docker-compose", "-f", wrong, "config", "-q").stderr


@each_service
def test_ports_are_open_on_this_machine_only(service):
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service.get("ports", []))


@each_service
def test_a_service_has_few_rights_and_a_bounded_size(service):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    assert service["logging"]["options"]["max-size"]


@each_service
def test_a_service_comes_back_after_a_crash(service):
    assert service["restart"] == "unless-stopped"


@each_service
def test_what_a_service_mounts_is_there_and_read_only_or_a_volume(service):
    for mount in service.get("volumes", []):
        source, _, rest = mount.partition(":")
        if source.startswith("."):
            assert (DOCKER / source).exists(), source
            assert rest.endswith(":ro"), mount
        else:
            assert source in STACK["volumes"], mount


def test_only_the_producer_is_not_asked_whether_it_is_well():
    # the daemon's own question is in its image
    asked = {name for name, each in SERVICES.items() if "test" in each.get("healthcheck", {})}
    assert asked == {"prometheus", "grafana"}
    assert SERVICES["producer"]["healthcheck"] == {"disable": True}
    assert "healthcheck" not in SERVICES["daemon"]


def test_events_have_a_network_without_a_way_out():
    assert STACK["networks"]["stream"] == {"internal": True}
    assert SERVICES["producer"]["networks"] == ["stream"]


def test_grafana_has_no_password_that_could_stay_at_its_default():
    settings = SERVICES["grafana"]["environment"]
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_grafana_finds_its_dashboards_and_prometheus():
    grafana = SERVICES["grafana"]
    folder = grafana["environment"]["STREAM_RNN_DASHBOARDS"]
    assert f"../grafana/dashboards:{folder}:ro" in grafana["volumes"]
    assert grafana["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"


def test_prometheus_asks_the_daemon_where_it_answers():
    (job,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    _, port = config.load(DOCKER / "config.toml")["metrics"]["address"].split(":")
    assert job["static_configs"] == [{"targets": [f"daemon:{port}"]}]
    assert f"127.0.0.1:{port}:{port}" in SERVICES["daemon"]["ports"]


def test_prometheus_accepts_its_configuration_with_the_rules(judge, tmp_path):
    shutil.copy(DOCKER / "prometheus.yml", tmp_path)
    shutil.copy(ROOT / "deploy" / "prometheus" / "rules.yml", tmp_path)
    said = judge("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_daemon_accepts_its_configuration():
    job = app.build(config.load(DOCKER / "config.toml"))
    assert not Path(job.state.dir).is_absolute()  # below the volume


@pytest.fixture(scope="module")
def feed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("feed", DOCKER / "feed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_hour_of_the_feed_is_always_the_same(feed):
    assert [feed.event(n) for n in (1, 2, 1_000_000)] == [feed.event(n) for n in (1, 2, 1_000_000)]
    assert feed.event(1) != feed.event(2)
    assert feed.event(1_000_001) == feed.event(1)


def test_the_feed_has_the_fields_that_the_daemon_learns(feed):
    assert set(json.loads(feed.event(7))) == {"timestamp", "load"}


def free_ports() -> list[int]:
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        return [a.getsockname()[1], b.getsockname()[1]]


@contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until_predicted(folder: Path, n: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    path = folder / "predictions.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < n:
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_every_hour_of_the_feed_is_learned_once_although_both_sides_are_killed(tmp_path):
    events, page = free_ports()
    text = (DOCKER / "config.toml").read_text().replace("insecure = true", "")
    text = text.replace("0.0.0.0:5555", f"127.0.0.1:{events}").replace("every_s = 5", "every_s = 1")
    (tmp_path / "config.toml").write_text(text.replace("0.0.0.0:9464", f"127.0.0.1:{page}"))
    feed = (str(DOCKER / "feed.py"), f"tcp://127.0.0.1:{events}", "--rate", "200")
    daemon = ("-m", "stream_rnn", "run", "config.toml")
    with running(tmp_path, *feed):
        with running(tmp_path, *daemon) as killed:
            until_predicted(tmp_path, 300)
            killed.send_signal(signal.SIGKILL)
        with running(tmp_path, *daemon):
            until_predicted(tmp_path, 900)
    with running(tmp_path, *feed), running(tmp_path, *daemon) as stopped:
        until_predicted(tmp_path, 1500)
        stopped.terminate()
        assert stopped.wait(PATIENCE_S) == 0
    lines = [json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    hours = sorted({line["position"] for line in lines})
    assert hours == list(range(1, len(hours) + 1))
    last: dict[int, int] = {line["position"]: line["step"] for line in lines}
    assert [last[hour] for hour in hours] == hours

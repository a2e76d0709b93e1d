"""A daemon, Prometheus, Alertmanager and a receiver, all real: panels have data, faults ring.

One run for all of it, in the order of the tests; a minute's `for` is some seconds here.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.grafana.queries import ask, put_in, queries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PATIENCE_S = 240.0
FOR_S = 8  # at least; the machine may be slow, and a missed scrape is no fault
EMPTY_IS_RIGHT = {
    "Alerts (A)": "nothing is pending in a healthy run",
    "annotation Fallback moves": "no move in a healthy run",
    "annotation Drift alarms": "the stream does not change",
}
CONFIG = """
source = {{ kind = "cuttable:CuttableSource", path = "events.jsonl", follow = true }}
metrics = {{ address = "127.0.0.1:{port}" }}
dead_letter = {{ path = "dead_letters.jsonl" }}
sink = [{{ kind = "jsonl", path = "predictions.jsonl" }}]
task = {{ kind = "forecast", target = "y" }}
state = {{ dir = "state", every_s = 1 }}
[learner]
cell = {{ kind = "gru", units = 4 }}
credit = {{ kind = "rtrl" }}
optimizer = {{ kind = "adam", lr = 0.01 }}
"""
SOURCE = """
from pathlib import Path
from connectors.jsonl import JsonlSource
from stream_rnn.spi import NotConnected

class CuttableSource(JsonlSource):
    def __init__(self, path: str, follow: bool = False) -> None:
        super().__init__(path, follow=follow)

    def open(self, resume):
        self.require_whole()
        super().open(resume)

    def poll(self, max_events, timeout_s):
        self.require_whole()
        return super().poll(max_events, timeout_s)

    def require_whole(self):
        if Path("cut").exists():
            raise NotConnected("the cable is cut")
"""


def needed(*names: str) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{missing} not installed (Debian: prometheus, prometheus-alertmanager)")


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


def in_seconds(rules: str) -> str:
    """The rules with a second for each minute, so that nobody has to wait for an hour."""
    rules = re.sub(r"\[1h\]", "[60s]", rules)
    rules = re.sub(r"\[(\d+)m\]", r"[\1s]", rules)
    rules = re.sub(r"for: 1h", "for: 60s", rules)
    rules = re.sub(r"for: (\d+)m", lambda m: f"for: {max(FOR_S, int(m[1]))}s", rules)
    return rules.replace("unsaved_seconds > 300", "unsaved_seconds > 15")


class Receiver(HTTPServer):
    """What Alertmanager's webhook calls: the names of the alerts that were told, newest state."""

    def __init__(self) -> None:
        self.firing: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in told["alerts"]:
                    change = set.add if alert["status"] == "firing" else set.discard
                    change(receiver.firing, alert["labels"]["alertname"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()


class Site:
    """All processes of one run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.receiver = Receiver()
        self.port, self.prometheus_port, self.alertmanager_port = (free_port() for _ in range(3))
        self.prometheus = f"http://127.0.0.1:{self.prometheus_port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.bad = ""  # a line that the feed puts in at every tenth event
        self._stop = threading.Event()
        self._feed = threading.Thread(target=self._feeding, daemon=True)
        (folder / "config.toml").write_text(CONFIG.format(port=self.port))
        (folder / "cuttable.py").write_text(SOURCE)

    def start(self) -> None:
        self._feed.start()
        self.daemon = self.start_daemon()
        page = (
            f"http://127.0.0.1:{self.port}/livez"  # a start takes longer than the alert's patience
        )
        self.until(lambda: urllib.request.urlopen(page, timeout=60).close() is None, page)
        rules = (DEPLOY / "prometheus" / "rules.yml").read_text()
        (self.folder / "rules.yml").write_text(in_seconds(rules))
        config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        config = re.sub(
            r"(scrape_interval|scrape_timeout|evaluation_interval): \d+s", r"\1: 1s", config
        )
        config = config.replace(":9464", f":{self.port}").replace(
            ":9093", f":{self.alertmanager_port}"
        )
        (self.folder / "prometheus.yml").write_text(config)
        config = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
        config = re.sub(r"group_wait: \d+s", "group_wait: 0s", config)
        config = re.sub(r"group_interval: \d+m", "group_interval: 1s", config)
        config = config.replace(":9095/", f":{self.receiver.server_port}/")
        config = config.replace("send_resolved: false", "send_resolved: true")
        (self.folder / "alertmanager.yml").write_text(config)
        self.run(
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            f"--web.listen-address=127.0.0.1:{self.prometheus_port}",
        )
        self.run(
            "prometheus-alertmanager",
            "--config.file=alertmanager.yml",
            "--storage.path=am",
            f"--web.listen-address=127.0.0.1:{self.alertmanager_port}",
            "--cluster.listen-address=",
        )

    def start_daemon(self) -> subprocess.Popen[bytes]:
        return self.run(sys.executable, "-m", "stream_rnn", "run", "config.toml")

    def run(self, *command: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT), str(self.folder)])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def _feeding(self) -> None:
        n = 0
        with (self.folder / "events.jsonl").open("a") as file:
            while not self._stop.wait(0.05):
                n += 1
                line = self.bad if self.bad and n % 10 == 0 else json.dumps({"y": n % 5})
                file.write(line + "\n")
                file.flush()

    def ask(self, expr: str) -> list[dict[str, object]]:
        try:
            return ask(self.prometheus, "query", query=expr)
        except urllib.error.HTTPError as error:
            if error.code != 400:  # it is only starting
                raise
            raise AssertionError(f"{expr}: {error.read().decode()}") from error

    def until(self, is_so: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError):  # not yet listening
                if is_so():
                    return
            log = (self.folder / "log").read_text(errors="replace")[-1500:]
            firing = self.receiver.firing
            assert time.monotonic() < end, f"not within {PATIENCE_S:g} s: {what}; {firing}\n{log}"
            time.sleep(0.2)

    def has_data(self, expr: str) -> None:
        """Some rates need two scrapes after a start."""
        self.until(lambda: self.ask(expr), expr)

    def rings(self, *names: str) -> None:
        self.until(lambda: set(names) <= self.receiver.firing, f"{names} ring")

    def calms_down(self) -> None:
        self.until(lambda: not self.receiver.firing, "everything is resolved")

    def close(self) -> None:
        self._stop.set()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        if self._feed.is_alive():
            self._feed.join()
        self.receiver.shutdown()
        self.receiver.server_close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    needed("prometheus", "prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("site")
    state = folder / "state"
    state.mkdir()
    # its own small disk, so that it can be filled; where that is not allowed one test is left out
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(state)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    site = Site(folder)
    try:
        site.start()
        site.until(lambda: site.ask("stream_rnn_snapshot_bytes > 0"), "a snapshot")
        yield site
    finally:
        site.close()
        if is_mounted:
            subprocess.run(["umount", str(state)], check=True)


def test_a_healthy_run_rings_nothing(site: Site) -> None:
    # Prometheus looks for its targets every 5 s only: until then they are absent, rightly
    site.until(lambda: site.ask("count_over_time(up[60s]) > 12"), "12 scrapes")
    site.has_data("rate(stream_rnn_scored_total[10s]) > 1")
    rang = site.ask('max_over_time(ALERTS{alertstate="firing"}[10s])')
    assert [each["metric"] for each in rang] == []
    assert site.receiver.firing == set()


def test_every_panel_and_annotation_has_data(site: Site) -> None:
    site.daemon.kill()  # the marks of a restart need one
    site.daemon.wait()
    site.daemon = site.start_daemon()
    site.until(lambda: site.ask("changes(process_start_time_seconds[1m]) > 0"), "the restart")
    site.until(lambda: site.ask("stream_rnn_snapshot_bytes > 0"), "a snapshot after it")
    site.until(lambda: site.ask("rate(stream_rnn_scored_total[5s]) > 0"), "scores after it")
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for asked in queries(json.loads(path.read_text())):
            if asked.place not in EMPTY_IS_RIGHT:
                site.has_data(put_in(asked.expr, "5s"))


def test_every_series_of_the_rules_has_data(site: Site) -> None:
    rules = re.sub(r"#.*", "", (site.folder / "rules.yml").read_text())
    for record in re.findall(r"record: (\S+)", rules):
        site.has_data(record)
    names = set(re.findall(r"\bstream_rnn[\w:]*(?:\{.*?\})?", rules.partition("groups:")[2]))
    names -= {"stream_rnn"}
    assert len(names) > 20
    for name in sorted(names):
        site.has_data(name)


def test_a_misspelled_query_would_have_no_data(site: Site) -> None:
    assert site.ask("rate(stream_rnn_events_aplied_total[5s])") == []


def test_bad_events_ring(site: Site) -> None:
    site.bad = '{"y": 1e30}'
    site.rings("DeadLettersRising", "NonFiniteRejections")
    site.bad = ""
    site.calms_down()


def test_a_cut_source_rings(site: Site) -> None:
    (site.folder / "cut").touch()
    site.rings("SourceDisconnected")
    (site.folder / "cut").unlink()
    site.calms_down()


def test_a_full_disk_rings_and_is_survived(site: Site) -> None:
    if not (site.folder / "state").is_mount():
        pytest.skip("needs leave to mount a tmpfs that can be filled (root)")
    # not a read-only mount: root may write anywhere, and a busy one cannot be changed
    filler = site.folder / "state" / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 512):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            file.write(b"x")
    site.rings("SnapshotFailing", "StateDiskNearlyFull")
    assert site.daemon.poll() is None
    filler.unlink()
    site.calms_down()


def test_a_stopped_process_rings(site: Site) -> None:
    site.daemon.send_signal(signal.SIGSTOP)
    site.rings("DaemonDown")
    site.daemon.send_signal(signal.SIGCONT)
    site.calms_down()

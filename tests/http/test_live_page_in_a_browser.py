"""The live page of a real daemon in a real browser, driven through its debugging pipe."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import select
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"
    ),
]
CONFIG = """
source = { kind = "jsonl", path = "events.jsonl", follow = true }
task = { kind = "forecast", target = "y" }
[learner]
cell = { kind = "gru", units = 8 }
credit = { kind = "rtrl" }
[metrics]
address = "127.0.0.1:PORT"
"""
TOKEN = "0123456789abcdef0123456789abcdef"
# a browser takes its orders from descriptor 3 and answers on 4
ON_A_PIPE = (
    "import fcntl, os, sys; r, w, *command = sys.argv[1:];"
    "r, w = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in (r, w));"
    "os.dup2(r, 3); os.dup2(w, 4); os.execv(command[0], command)"
)


class Browser:
    """A headless chromium that resolves no name; notes what it fetches and complains of."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += [
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            "--disable-dev-shm-usage",
        ]
        command += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]
        command[-1] += ", EXCLUDE 127.0.0.1"
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_A_PIPE, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._n = 0
        self._session: str | None = None
        self._target: str | None = None
        self.fetched: list[str] = []
        self.complaints: list[str] = []

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def say(self, method: str, **params: Any) -> dict[str, Any]:
        self._n += 1
        order: dict[str, Any] = {"id": self._n, "method": method, "params": params}
        if self._session is not None:
            order["sessionId"] = self._session
        os.write(self._out, json.dumps(order).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._n:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self, patience_s: float = 120.0) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], patience_s)[0], "the browser says nothing"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser is gone"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        said: dict[str, Any] = json.loads(line)
        params = said.get("params", {})
        if "method" in said and said.get("sessionId") != self._session:
            return said  # of a page that was left
        match said.get("method"):
            case "Network.requestWillBeSent":
                self.fetched.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
        return said

    def open(self, url: str) -> None:
        self._session = None
        before, self._target = (
            self._target,
            self.say("Target.createTarget", url="about:blank")["targetId"],
        )
        if before is not None:
            self.say("Target.closeTarget", targetId=before)
        attached = self.say("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.say(f"{domain}.enable")
        self.fetched.clear()
        self.complaints.clear()
        self.say("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        result = self.say("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self, name: str) -> str:
        return str(self.value(f"document.getElementById({name!r})?.textContent ?? ''"))

    def wait(self, what: Callable[[], bool], patience_s: float = 120.0) -> None:
        until = time.monotonic() + patience_s
        while not what():
            shown = self.value("document.body.innerText")
            assert time.monotonic() < until, f"waited in vain; the page says:\n{shown}"
            time.sleep(0.05)

    def look(self, width: int, height: int, scheme: str, motion: str = "no-preference") -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.say("Emulation.setDeviceMetricsOverride", **size, mobile=width < 500)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.say("Emulation.setEmulatedMedia", features=features)

    def picture(self) -> bytes:
        return base64.b64decode(self.say("Page.captureScreenshot")["data"])

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.say(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **more,
            )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


class Daemon:
    """`stream-rnn run` as a process of its own, following a file."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", more: str = "") -> None:
        self.folder, self._n = folder, 0
        self.append(300)
        (folder / "config.toml").write_text(CONFIG.replace("127.0.0.1:PORT", f"{address}:0") + more)
        self._log = folder / "log"
        start = "import stream_rnn.daemon as d; from stream_rnn import cli; serve = d.serve\n"
        start += "def told(*a, **k):\n"
        start += "    s = serve(*a, **k); open('port', 'w').write(f'{s.port}\\n'); return s\n"
        start += "d.serve = told; import sys; sys.argv[1:] = ['run', 'config.toml']; cli.main()"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", start],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stderr=log,
                stdout=log,
            )
        until = time.monotonic() + 300.0
        while not (folder / "port").exists() or not (folder / "port").read_text().endswith("\n"):
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{int((folder / 'port').read_text())}/"

    def append(self, n: int) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            for i in range(self._n, self._n + n):
                is_bad = i % 100 == 50
                y = "<img src=x onerror=alert(1)>" if is_bad else 5 * math.sin(i / 4) + i % 3
                file.write(json.dumps({"y": y}) + "\n")
        self._n += n

    @property
    def applied(self) -> int:
        return self._n - self._n // 100

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = re.search(rf"^stream_rnn_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, name
        return float(found[1])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("daemon"))
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


def caught_up(browser: Browser, daemon: Daemon) -> None:
    browser.wait(lambda: browser.text("events") == f"{daemon.applied:,} since the start")


def three_digits(value: float) -> str:
    return f"{float(f'{value:.3g}'):g}"


def test_the_page_shows_what_the_metrics_say(browser: Browser, daemon: Daemon) -> None:
    browser.open(daemon.url)
    for _ in range(2):
        caught_up(browser, daemon)
        assert daemon.metric("events_applied_total") == daemon.applied
        loss = daemon.metric("prequential_loss")
        rivals = ("persistence", "mean")
        name, best = min(
            ((n, daemon.metric(f'baseline_loss{{baseline="{n}"}}')) for n in rivals),
            key=lambda each: each[1],
        )
        expected = f"{name}: {three_digits(loss)} against {three_digits(best)}"
        browser.wait(lambda: browser.text("loss") == expected)  # noqa: B023
        percent = round(100 * (loss / best - 1))
        big = {0: "equal"}.get(percent, f"{abs(percent)} % {'below' if percent < 0 else 'above'}")
        assert browser.text("gain") == big
        assert browser.text("rule") == "rtrl"
        assert browser.text("guarantee") == "replayable"
        browser.wait(lambda: browser.text("state") == "live")
        assert browser.text("step").replace(",", "") == f"step {daemon.metric('step'):.0f}"
        daemon.append(200)


def test_nothing_is_fetched_from_elsewhere_and_nothing_complains(
    browser: Browser, daemon: Daemon
) -> None:
    browser.open(daemon.url)
    caught_up(browser, daemon)
    assert browser.fetched
    assert [url for url in browser.fetched if not url.startswith(daemon.url)] == []
    assert browser.complaints == []
    assert browser.value("document.cookie") == ""


def test_the_policy_lets_nothing_in(browser: Browser, daemon: Daemon) -> None:
    browser.open(daemon.url)
    caught_up(browser, daemon)
    browser.value("document.body.append(Object.assign(new Image, {src: 'http://127.0.0.2:9/x'}))")
    script = "Object.assign(document.createElement('script'), {textContent: 'window.got = 1'})"
    browser.value(f"document.body.append({script})")
    browser.wait(lambda: len([c for c in browser.complaints if "Content Security" in c]) >= 2)
    assert browser.value("window.got") is None


def test_a_dead_letter_is_shown_as_text(browser: Browser, daemon: Daemon) -> None:
    browser.open(daemon.url)
    caught_up(browser, daemon)
    browser.wait(lambda: "onerror=alert(1)" in browser.text("letters"))
    assert browser.value("document.querySelectorAll('#letters img').length") == 0
    assert browser.value("document.querySelectorAll('#letters tbody tr').length") == min(
        5, daemon.applied // 99
    )


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844), (360, 740)], ids=str)
def test_the_page_fits_its_window_in_light_and_dark(
    width: int, height: int, browser: Browser, daemon: Daemon, tmp_path: Path
) -> None:
    browser.open(daemon.url)
    pictures = []
    for scheme in ("light", "dark"):
        browser.look(width, height, scheme)
        caught_up(browser, daemon)
        browser.wait(
            lambda: browser.value("document.querySelectorAll('.uplot canvas').length") == 4
        )
        too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.value(too_wide) == 0
        pictures.append(browser.picture())
        (tmp_path / f"{width}-{scheme}.png").write_bytes(pictures[-1])
    assert pictures[0] != pictures[1]


def test_the_page_can_be_used_with_the_keyboard_alone(browser: Browser, daemon: Daemon) -> None:
    browser.open(daemon.url)
    browser.look(1280, 800, "light")
    caught_up(browser, daemon)
    met = []
    for _ in range(6):
        browser.press("Tab", 9)
        met.append(browser.value("document.activeElement.id || document.activeElement.name"))
        if met[-1] == "pause":
            break
    assert met == ["window", "pause"]
    browser.press("Enter", 13, "\r")
    assert browser.value("document.getElementById('pause').ariaPressed") == "true"
    daemon.append(100)
    time.sleep(1.0)
    assert browser.text("events") == f"{daemon.applied - 99:,} since the start"
    browser.press("Enter", 13, "\r")
    caught_up(browser, daemon)


def test_plots_are_described_to_who_cannot_see_them(browser: Browser, daemon: Daemon) -> None:
    browser.open(daemon.url)
    caught_up(browser, daemon)
    label = "document.querySelector('#plot-loss [role=img]').getAttribute('aria-label')"
    browser.wait(lambda: str(browser.value(label)).startswith("Loss: "))


def test_nothing_moves_where_less_motion_is_asked_for(browser: Browser, daemon: Daemon) -> None:
    browser.open(daemon.url)
    browser.look(1280, 800, "light", motion="reduce")
    caught_up(browser, daemon)
    assert browser.value("document.getAnimations().length") == 0
    browser.look(1280, 800, "light")
    browser.wait(lambda: browser.value("document.getAnimations().length") == 1)


def test_a_daemon_that_stops_is_noticed_and_not_held_up_by_the_page(
    browser: Browser, tmp_path: Path
) -> None:
    daemon = Daemon(tmp_path)
    try:
        browser.open(daemon.url)
        caught_up(browser, daemon)
        daemon.process.terminate()
        browser.wait(lambda: browser.text("state") == "not connected")
        assert daemon.process.wait(300) == 0
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        daemon.process.kill()
        daemon.process.wait()


def test_a_loop_that_does_not_turn_is_noticed(browser: Browser, daemon: Daemon) -> None:
    browser.open(daemon.url)
    caught_up(browser, daemon)
    daemon.process.send_signal(19)  # SIGSTOP
    browser.wait(lambda: browser.text("state").startswith("silent for "))
    daemon.process.send_signal(18)  # SIGCONT
    browser.wait(lambda: browser.text("state") == "live")


def test_a_page_of_a_daemon_with_a_token_asks_for_it(browser: Browser, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "0.0.0.0", f'token = "{TOKEN}"\n')
    try:
        browser.open(daemon.url)
        browser.wait(lambda: browser.value("document.getElementById('ask')?.hidden") is False)
        assert browser.text("events") == "-"
        for token, is_right in (("wrong", False), (TOKEN, True)):
            browser.value(f"document.getElementById('token').value = {token!r}")
            browser.value("document.getElementById('ask').requestSubmit()")
            if not is_right:
                browser.wait(lambda: not browser.value("document.getElementById('refused').hidden"))
        caught_up(browser, daemon)
        browser.open(f"{daemon.url}#token={TOKEN}")
        caught_up(browser, daemon)
        assert browser.value("location.href") == daemon.url
    finally:
        daemon.process.kill()
        daemon.process.wait()

"""The live page's files: nothing from elsewhere, nothing inline, what is not ours as it came."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stream_rnn.http.live import page
from stream_rnn.http.rendering import HEADERS
from stream_rnn.http.routes import Answer, Request

STATIC = Path(__file__).parents[2] / "stream_rnn" / "http" / "static"
OURS = sorted(path for path in STATIC.iterdir() if path.suffix in (".html", ".css", ".js"))
OURS = [path for path in OURS if not path.name.startswith("uplot")]
VENDORED = next(STATIC.glob("VENDORED.*"))
HTML = (STATIC / "index.html").read_text()


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text())
    assert [each for each in addresses if each != "http://www.w3.org/2000/svg"] == []


def test_the_page_has_no_script_and_no_style_of_its_own() -> None:
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=|javascript:", HTML) == []


@pytest.mark.parametrize("path", [p for p in OURS if p.suffix == ".js"], ids=lambda p: p.name)
def test_what_came_is_never_read_as_html(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text) == []
    assert "document.cookie" not in text


def test_the_browser_is_told_to_fetch_from_here_only() -> None:
    policy = dict(HEADERS)["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy


def test_every_file_that_the_page_names_is_served() -> None:
    routes = page()
    named = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', HTML))
    for path in STATIC.glob("*.js"):
        named |= {f"/static/{name}" for name in re.findall(r'from "\./([^"]+)"', path.read_text())}
    assert len(named) > 6
    assert named <= routes.keys()


def test_licenses_and_notes_stay_in_the_package_and_are_not_pages() -> None:
    assert {"/", *(f"/static/{path.name}" for path in STATIC.iterdir())} - page().keys() == {
        "/static/index.html",
        f"/static/{VENDORED.name}",
        "/static/uplot.LICENSE",
    }


def test_a_file_is_served_as_what_it_is() -> None:
    kinds = {}
    for path, route in page().items():
        answer = route.handle(Request(path))
        assert isinstance(answer, Answer)
        kinds[path.rpartition(".")[2]] = answer.kind.partition(";")[0]
    assert kinds == {
        "/": "text/html",
        "css": "text/css",
        "js": "text/javascript",
        "svg": "image/svg+xml",
    }


def test_what_is_vendored_is_what_was_vendored() -> None:
    listed = re.findall(r"^    (\w{64})  (uplot[\w.]+)$", VENDORED.read_text(), re.M)
    assert {name for _, name in listed} == {path.name for path in STATIC.glob("uplot*")}
    for digest, name in listed:
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest


NUMBERS = """
import { human, duration, instant, gain } from "FOLDER/words.js";
console.log(JSON.stringify([
  [842, 12345, 0.03124, 999950, -5, 0, null, 1.2e-7].map(human),
  [4.9, 61, 7300, 200000, null].map(duration),
  [0.00083, 0.0015234, 2.13, 0].map(instant),
  gain(0.5, { a: 1, b: 2, c: null }), gain(3, { a: 1 }), gain(1.2, { a: 1 }), gain(1, { a: 1.001 }),
  gain(-1, { a: 2 }), gain(null, { a: 1 }), gain(2, {}),
]));
"""


def test_numbers_read_as_on_the_terminal(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed (apt-get install nodejs)")
    (tmp_path / "words.js").write_text((STATIC / "words.js").read_text())
    script = tmp_path / "numbers.mjs"
    script.write_text(NUMBERS.replace("FOLDER", "."))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    said = subprocess.run(["node", str(script)], capture_output=True, text=True, check=True).stdout
    humans, durations, instants, *gains = json.loads(said)
    assert humans == ["842", "12.3k", "0.0312", "1M", "-5", "0", "-", "1.2e-7"]
    assert durations == ["4 s", "1 min", "2 h", "2 d", "-"]
    assert instants == ["830 µs", "1.52 ms", "2.13 s", "0"]
    assert [(each["big"], each["verdict"]) for each in gains] == [
        ("50 % below", "good"),
        ("3 times", "bad"),
        ("20 % above", "bad"),
        ("equal", ""),
        ("-1", "good"),
        ("-", ""),
        ("2", ""),
    ]
    assert gains[0]["against"] == "a: 0.5 against 1"

"""Contains tests for README.md and the pages beside it: what they say can be done, can be done."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from stream_rnn import app, commands
from stream_rnn.cli import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


CONFIGS = [
    pytest.param(block, id=f"{page.name}-{n}")
    for page in PAGES
    for n, block in enumerate(blocks(page, "toml"))
]
COMMANDS = [
    pytest.param(line.split("#")[0].strip(), id=f"{page.name}: {line.split('#')[0].strip()}")
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith(("make ", "stream-rnn "))
]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the stream that README makes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # README's own sink is found from a checkout
    maker = next(block for block in blocks(README, "sh") if "power.jsonl" in block)
    subprocess.run(["sh", "-e", "-c", maker], check=True, timeout=30)
    return tmp_path


@pytest.mark.parametrize("text", CONFIGS)
def test_every_configuration_in_the_documents_builds(text: str, workplace: Path) -> None:
    job = app.build(tomllib.loads(text))
    assert job.engine.task.inputs > 0


def test_the_configuration_of_the_readme_runs_on_the_stream_of_the_readme(workplace: Path) -> None:
    text = blocks(README, "toml")[0].replace("127.0.0.1:9464", "127.0.0.1:0")
    Path("config.toml").write_text(text)
    commands.run(Path("config.toml"), 20, fresh=False)
    commands.run(Path("config.toml"), 10, fresh=False)  # and goes on
    written = Path("state/predictions.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    shown = json.loads(blocks(README, "json")[0])
    assert shown.keys() == lines[-1].keys()
    assert shown["scored"].keys() == lines[-1]["scored"].keys()


def test_the_sink_of_the_readme_receives_the_predictions(workplace: Path) -> None:
    text = next(block for block in blocks(README, "toml") if "SqliteSink" in block)
    Path("config.toml").write_text(text)
    commands.run(Path("config.toml"), 5, fresh=False)
    assert Path("predictions.db").stat().st_size > 0


def test_the_sink_of_the_readme_is_the_one_in_examples() -> None:
    (sink,) = (block for block in blocks(README, "python") if "(Sink)" in block)
    assert sink in (ROOT / "examples" / "custom_sink.py").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_the_documents_exists(command: str) -> None:
    program, what, *rest = command.split()
    if program == "make":
        assert f"\n{what}:" in (ROOT / "Makefile").read_text()
    elif not what.startswith("-"):
        assert what in cli.commands
        named = cli.commands[what]
        if isinstance(named, click.Group):
            named = named.commands[rest[0]]
        options = {name for option in named.params for name in option.opts}
        assert {word for word in rest if word.startswith("--")} <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    named = re.findall(r"(?<![\w/.])((?:docs|examples|deploy|benchmarks)/[\w./-]*\w)", text)
    missing = [name for name in links if not (page.parent / name).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_the_series_that_the_documents_show_exist() -> None:
    known = (ROOT / "docs" / "metrics.md").read_text()
    shown = {
        name for page in PAGES for name in re.findall(r"stream_rnn_[a-z_]+[a-z]", page.read_text())
    }
    assert {name for name in shown if f"`{name}`" not in known} == set()


def test_no_page_promises_exactly_once_delivery() -> None:
    promising = [p.name for p in PAGES if re.search(r"exactly.once\s+delivery", p.read_text())]
    assert promising == []


def test_contributing_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 120


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "adr").glob("*.md")), ids=lambda p: p.stem)
def test_a_decision_record_is_half_a_page(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.name[:3]}: ")
    assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequence"))
    assert len(text.split()) <= 250

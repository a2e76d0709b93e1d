"""What a page points to is there: files, anchors, keys, series, commands, options, tests."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from stream_rnn.assembly import settings
from stream_rnn.cli import cli

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "deploy/*/README.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(((?!https?:)[^)\s]+)\)")
KEY = re.compile(r"`\[\[?(\w+)(?:\.\w+)?\]\]? (\w+)\b(?!\.)")
COMMAND = re.compile(r"(?<![\w./-])stream-rnn (?!-)([a-z][\w-]*)([^`\n|;&)]*)")
FILE = re.compile(
    r"(?<![\w/.])((?:docs|examples|deploy|benchmarks|tests)/[a-z0-9_./-]*\.(?:py|md|toml|yml|json|png))"
)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


@pytest.fixture(params=ALL, ids=lambda page: str(page.relative_to(ROOT)))
def any_page(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    made: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 1
        unique = slug
        while unique in made:
            unique, number = f"{slug}-{number}", number + 1
        made.add(unique)
    return made


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(page.read_text()):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def known_keys() -> dict[str, set[str]]:
    """Table -> every key that the reference has under it, with those of what it holds."""
    keys: dict[str, set[str]] = {}
    table = ""
    for line in (ROOT / "docs" / "configuration.md").read_text().splitlines():
        heading = re.match(r"## `\[\[?(\w+)", line)
        table = heading[1] if heading else table
        key = re.match(r"\| `(\w+)` \|", line)
        nested = re.match(r"### `(\w+) = ", line)
        for found in (key, nested):
            if found:
                keys.setdefault(table, set()).add(found[1])
    for table in settings.TABLES:
        keys.setdefault(table, set()).add("kind")
    return keys


def unknown_commands(text: str) -> list[str]:
    """`stream-rnn WHAT --OPTION` in a text, as far as there is no such command or option."""
    unknown = []
    for what, rest in COMMAND.findall(text):
        command: click.Command | None = cli.commands.get(what)
        if isinstance(command, click.Group):
            below = rest.split()[:1]
            command = command.commands.get(below[0]) if below else None
            known = command is not None or not below or not below[0].isalpha()
        else:
            known = command is not None
        options = {name for each in command.params for name in each.opts} if command else set()
        wrong = [
            option for option in OPTION.findall(rest.partition("#")[0]) if option not in options
        ]
        if not known or (command and wrong):
            unknown.append(f"{what}{rest}".strip())
    return unknown


def code(page: Path) -> str:
    """Blocks and spans: prose may say "a stream-rnn daemon"."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


def test_every_link_and_anchor_leads_somewhere(any_page: Path) -> None:
    assert broken_links(any_page) == []


def test_every_file_that_is_named_is_there(any_page: Path) -> None:
    text = any_page.read_text()
    named = set(FILE.findall(text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_key_that_is_named_exists(any_page: Path) -> None:
    known = known_keys()
    named = set(KEY.findall(any_page.read_text()))
    assert {(table, key) for table, key in named if key not in known.get(table, ())} == set()


def test_every_series_that_is_named_exists(any_page: Path) -> None:
    known = (ROOT / "docs" / "metrics.md").read_text()
    shown = set(re.findall(r"stream_rnn_[a-z_0-9]+[a-z0-9]", any_page.read_text()))
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    assert {name for name in shown if f"`{name}" not in known} == set()


def test_every_command_and_option_exists(any_page: Path) -> None:
    if any_page.name == "CHANGELOG.md":
        pytest.skip("it tells of the past, too")
    assert unknown_commands(code(any_page)) == []


def test_every_make_target_exists(any_page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)\b", any_page.read_text(), re.MULTILINE))
    assert {name for name in named if f"\n{name}:" not in makefile} == set()


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` & c\n[x](page.md#a-b--c) [y](#nowhere) [z](none.md)\n# A\n# A\n[k](#a-1)"
    )
    assert broken_links(page) == ["#nowhere", "none.md"]
    assert unknown_commands("stream-rnn run a.toml --fresh\nstream-rnn fly") == ["fly"]
    assert unknown_commands("stream-rnn run --slowly x") == ["run --slowly x"]
    assert unknown_commands("stream-rnn ckpt ls x; stream-rnn ckpt burn x") == ["ckpt burn x"]
    assert KEY.findall("`[limits] gone_s` and `[learner.governor] every = 3`, `[state]`") == [
        ("limits", "gone_s"), ("learner", "every"),
    ]  # fmt: skip
    assert "gone_s" in known_keys()["limits"]
    assert "fly" not in known_keys()["limits"]


def test_no_page_promises_exactly_once_delivery(any_page: Path) -> None:
    assert not re.search(r"exactly.once\s+delivery", any_page.read_text())


def test_no_page_names_a_place_of_the_writers_machine(any_page: Path) -> None:
    assert re.findall(r"/(?:home|root|Users|work)/\w+", any_page.read_text()) == []


def test_contributing_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 120


def test_the_readme_shows_what_it_is_before_anything_else() -> None:
    first = (ROOT / "README.md").read_text().splitlines()[:24]
    assert any(line.startswith("![") for line in first)
    assert "stream-rnn run config.toml" in "\n".join(first)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "adr").glob("*.md")), ids=lambda p: p.stem)
def test_a_decision_record_is_half_a_page(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.name[:3]}: ")
    assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequence"))
    assert len(text.split()) <= 250

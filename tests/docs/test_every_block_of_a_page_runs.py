"""The documentation is tried: each block of each page, in order, as a reader would paste it."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_rnn import app

BASIS = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "value"},
}
"""What a fragment of a configuration leaves out."""

SHOWN = ("text", "json", "")
RUN_ELSEWHERE = re.compile(r"<!-- page run by: (\S+) -->\n")
KNOWN = ("sh", "toml", "python", "action", *SHOWN)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a page is a dozen starts, each waiting for torch
def test_every_block_of_the_page_does_what_the_page_says(
    page: Path, root: Path, read: Callable[[str], list[Any]], compare: Any, terminal: Any
) -> None:
    elsewhere = RUN_ELSEWHERE.match(page.read_text())
    if elsewhere is not None:
        assert page.name in (root / elsewhere[1]).read_text(), f"{elsewhere[1]} does not run it"
        return
    printed: str | None = None
    for block in read(page.read_text()):
        try:
            printed = outcome(block, printed, root, compare, terminal)
        except Exception as error:
            raise AssertionError(f"{page.name}:{block.line}: {error}") from error


def outcome(block: Any, printed: str | None, root: Path, compare: Any, terminal: Any) -> str | None:
    """What the block printed, or None; what is shown is compared with what was printed last."""
    if block.note("not run") is not None:
        return None
    if block.language == "action":
        terminal.stop(block.text)
        return None
    if block.language in SHOWN:
        if printed is not None and block.note("not compared") is None:
            assert compare(block.text, printed) == [], f"is shown and was not printed:\n{printed}"
        return printed
    if not all(shutil.which(needed) for needed in block.all("needs")):
        return None
    text = terminal.here(block.text)
    if block.language == "toml":
        tables = tomllib.loads(text)
        if not block.note("file"):
            tables = BASIS | tables
        assert app.build(tables).engine.task.inputs > 0
    part = block.note("part of")
    if part is not None:
        assert block.text in (root / part).read_text(), f"{part} says something else"
        return None
    name = block.note("file")
    if name is not None:
        (terminal.folder / name).write_text(text)
        return None
    if block.language == "python":
        (terminal.folder / "block.py").write_text(text)
        return str(terminal.run("python block.py"))
    if block.language != "sh":
        return None
    options = block.note("with")
    if options is not None:
        text, changed = bounded(text, options)
        assert changed, "nothing here takes these options"
    until = block.note("background until")
    if until is not None:
        return str(terminal.background(text, until))
    return str(terminal.run(text))


def bounded(text: str, options: str) -> tuple[str, int]:
    pattern = r"^(\s*stream-rnn (?:run|demo|evaluate)\b(?:[^#|&\n]*[^#|&\s])?)"
    return re.subn(pattern, rf"\1 {options}", text, flags=re.MULTILINE)


def test_every_block_is_run_or_says_why_not(page: Path, read: Callable[[str], list[Any]]) -> None:
    silent = []
    for block in read(page.read_text()):
        reason = block.note("not run")
        says_why = reason is not None and len(reason.split()) >= 2
        if not says_why and (reason is not None or block.language not in KNOWN):
            silent.append(f"line {block.line}: {block.language}")
    assert silent == []


PAGE = """\
text
<!-- file: a.toml -->

```toml
a = 1
```
<!-- needs: cp -->
<!-- with: --max-events 5 -->
```sh
stream-rnn run a.toml
```
<!-- kill -9 -->
"""


def test_a_block_comes_with_the_comments_directly_before_it(
    read: Callable[[str], list[Any]],
) -> None:
    first, second, third = read(PAGE)
    assert (first.language, first.text, first.note("file")) == ("toml", "a = 1\n", "a.toml")
    assert (second.note("needs"), second.note("file")) == ("cp", None)
    assert bounded(second.text, "--max-events 5")[0] == "stream-rnn run a.toml --max-events 5\n"
    assert (third.language, third.text) == ("action", "kill -9")


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ("step 4 of 5\n", []),
        ("loss    1.5\n...\nthe end\n", []),
        ("the ...\n", []),
        ("the end\nloss 1.5\n", ["loss 1.5"]),
        ("loss infinite\n", ["loss infinite"]),
    ],
)
def test_output_is_compared_in_order_without_its_numbers(
    shown: str, missing: list[str], compare: Callable[[str, str], list[str]]
) -> None:
    assert compare(shown, "step 12 of 5\nloss 0.25e-3\nmore\nthe end\n") == missing


def test_a_command_that_fails_is_seen(terminal: Any) -> None:
    assert "1" in terminal.run("expr 0 + 1")
    with pytest.raises(AssertionError, match="a command failed"):
        terminal.run("echo before\ncat nowhere\necho behind")


def test_a_variable_and_a_folder_stay_from_block_to_block(terminal: Any) -> None:
    terminal.run("mkdir below; cd below; name=value")
    assert terminal.run("basename $(pwd); echo $name").split() == ["below", "value"]

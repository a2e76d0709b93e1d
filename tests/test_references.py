"""Contains tests for references: what code and pages point to is in this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
FOLDERS = ("stream_rnn", "connectors", "tests", "examples", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MADE_UP = (Path(__file__).resolve(), *(ROOT / "tests" / "docs").glob("*.py"))  # pages of their own
FILES = [path for path in FILES if path not in MADE_UP]
ALGORITHMS = ROOT / "docs" / "algorithms.md"
REFERENCE = re.compile(r"([\w./-]+\.md)(?:[\s#]+(\d+(?:\.\d+)*)\b)?")


def sections(page: Path) -> set[str]:
    """The numbers of its headings: {"6", "6.1", ...}."""
    return set(re.findall(r"^#+ (\d+(?:\.\d+)*)\.? ", page.read_text(), re.MULTILINE))


def wrong_references(text: str) -> list[str]:
    """`docs/NAME.md N` without such a page or heading; a section needs the page's whole path."""
    wrong = []
    for name, number in REFERENCE.findall(text):
        if number:
            page = ROOT / name
            if not page.is_file() or number not in sections(page):
                wrong.append(f"{name} {number}")
        elif not any(f"/{page.relative_to(ROOT)}".endswith(f"/{name}") for page in PAGES):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_page_and_section_that_the_code_names_is_there(path: Path) -> None:
    assert wrong_references(path.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_section_that_a_page_names_is_there(page: Path) -> None:
    numbered = [wrong for wrong in wrong_references(page.read_text()) if " " in wrong]
    assert numbered == []


@pytest.mark.parametrize(
    "text",
    [
        "docs/nowhere.md",
        "docs/algorithms.md 99",
        "docs/algorithms.md\n    # 6.99",
        "algorithms.md 6.1",
    ],
)
def test_a_reference_to_nowhere_is_found(text: str) -> None:
    assert len(wrong_references(text)) == 1
    assert (
        wrong_references("docs/algorithms.md 6.1, algorithms.md, docs/algorithms.md\n 6.1.") == []
    )


def test_every_test_that_stands_behind_a_claim_is_there() -> None:
    named = set(re.findall(r"tests/[\w/]+\.py", ALGORITHMS.read_text()))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_page_of_algorithms_points_to_its_own_sections() -> None:
    text = ALGORITHMS.read_text()
    named = set(re.findall(r"\((\d+\.\d+)\)", text)) | set(re.findall(r"[Ss]ections? (\d+)", text))
    assert len(named) > 3
    assert named <= sections(ALGORITHMS)

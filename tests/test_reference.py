"""Contains tests for `stream_rnn/reference.py` and the page it writes."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any, Literal

import pytest

from stream_rnn import reference
from stream_rnn.assembly import settings
from stream_rnn.cells import CELLS
from stream_rnn.credit import RULES
from stream_rnn.features.cycles import Calendar
from stream_rnn.features.encoder import Features
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.tasks import TASKS
from stream_rnn.update import UPDATES

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def plug_ins() -> list[type[Any]]:
    groups = ("stream_rnn.sources", "stream_rnn.sinks")
    points = [point for group in groups for point in importlib.metadata.entry_points(group=group)]
    return [point.load() for point in points if point.value.startswith("connectors.")]


DOCUMENTED = [
    *plug_ins(),
    *(made for table in (TASKS, CELLS, RULES, UPDATES) for made in table.values()),
    *(
        Features,
        Calendar,
        settings.State,
        settings.DeadLetters,
        settings.Limits,
        settings.MetricsTable,
    ),
    *(settings.LanesTable, settings.LearnerTable, LeastSquaresHead),
]


def test_the_page_in_docs_is_current() -> None:
    hint = "run `python -m stream_rnn.reference > docs/configuration.md`"
    assert PAGE.read_text() == reference.page(), hint


@pytest.mark.parametrize("made", DOCUMENTED, ids=lambda made: made.__name__)
def test_every_key_has_a_meaning(made: type[Any]) -> None:
    assert [key.name for key in reference.keys(made) if not key.meaning] == []


@pytest.mark.parametrize("made", DOCUMENTED, ids=lambda made: made.__name__)
def test_what_comes_from_elsewhere_is_no_key(made: type[Any]) -> None:
    names = {key.name for key in reference.keys(made)}
    assert not names & {"self", "generator", "signs", "n_lanes", "n_inputs"}


def test_every_table_has_a_section() -> None:
    page = reference.page()
    written = {"table": "\n## `[{}]`", "tables": "\n## `[[{}]]`"}
    missing = [
        name for name, form in settings.TABLES.items() if written[form].format(name) not in page
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (str | None, "text"),
        (list[str | int], "list of (text or integer)"),
        (dict[str, list[int]], "table of list of integer"),
        (dict[str, Any], "table"),
        (Literal["a", "b"], '"a" or "b"'),
        (tuple[str, ...], "list of text"),
    ],
)
def test_a_type_is_named_in_the_words_of_the_configuration(hint: Any, words: str) -> None:
    assert reference.type_name(hint) == words

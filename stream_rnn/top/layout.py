"""Who gets how many lines: what matters most stays on the smallest screen."""

from __future__ import annotations

from dataclasses import dataclass

HEAD, KEYS = 2, 1
NARROW, WIDE = 70, 150  # columns: facts below one another; beside each other
BOXED_HEIGHT = 32
FACTS, FEW_FACTS, EVENTS, LETTERS = 5, 3, 2, 8  # rows inside the panels


@dataclass(frozen=True, slots=True)
class Layout:
    """Heights of the panels, titles and frames included; 0: it is left out.

    Attributes:
        boxed: panels have a line all around.
        plot: of each row of plots, of which there are two.
        facts: of what is learned, and of what is kept.
        events: of the counters.
        letters: of the dead letters.
        fact_columns: panels beside each other: 3 with the counters, 2, or 1.
    """

    boxed: bool
    plot: int
    facts: int
    events: int
    letters: int
    fact_columns: int


def layout(width: int, height: int, n_reasons: int) -> Layout:
    """The layout of a screen with so many columns and lines, and so many lines of trouble."""
    boxed = height >= BOXED_HEIGHT and width >= NARROW
    edge = 2 if boxed else 1
    fact_columns = 3 if width >= WIDE else 2 if width >= NARROW else 1
    free = height - HEAD - KEYS - n_reasons
    events = 0 if fact_columns == 3 else edge + EVENTS
    facts = edge + (FEW_FACTS if fact_columns == 1 else FACTS)
    n_facts = 2 if fact_columns == 1 else 1
    least = 2 * (edge + 1)  # two rows of plots
    if free - events - n_facts * facts < least:
        events = 0
    if free - events - n_facts * facts < least:
        facts = 0
    rest = max(free - events - n_facts * facts, 0)
    letters = min(edge + LETTERS, max(edge + 2, rest // 4))
    if rest - letters < 2 * (edge + 2):
        letters = 0
    plot = (rest - letters) // 2
    if letters:
        letters = rest - 2 * plot
    return Layout(boxed, plot, facts, events, letters, fact_columns)

"""Colors and frames. A color never says anything that a word or a shape does not say as well."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

# on GROUND: INK 15:1, MUTED 7:1, all others at least 6:1
GROUND, INK, MUTED, LINE = "#121416", "#e7e9eb", "#9aa1a9", "#4a525b"
MODEL, OTHER, GOOD, BAD = "#6cb4ee", "#e2a15a", "#6fc692", "#ff9d76"

Part = str | Text | tuple[str, str]


def row(*parts: Part) -> Text:
    """Parts one after another, each with its style; nothing in them is markup."""
    return Text.assemble(*parts, no_wrap=True, end="")


def fit(text: Text, width: int) -> Text:
    """Exactly `width` cells: cut with an ellipsis, or filled up."""
    text = text.copy()
    text.truncate(max(width, 0), overflow="ellipsis", pad=True)
    return text


def apart(left: Text, right: Text, width: int) -> Text:
    """`left` at the left, `right` at the right edge, which is kept whole."""
    free = width - right.cell_len
    return fit(right, width) if free < 8 else fit(left, free).append_text(right)


def inside(width: int, height: int, boxed: bool) -> tuple[int, int]:
    """What a frame of that size leaves for its rows: cells and rows."""
    return (max(width - 4, 0), max(height - 2, 0)) if boxed else (width, max(height - 1, 0))


def framed(
    title: Text, corner: str, rows: Sequence[Text], width: int, height: int, boxed: bool
) -> list[Text]:
    """Rows below a ruled title, or in a box.

    Args:
        title: at the left of the first line.
        corner: at its right, if there is room.
        rows: what is inside; too many are left out, too few filled up.
        width: of all of it.
        height: of all of it.
        boxed: with a line all around.
    """
    lead, tail = ("╭─ ", "╮") if boxed else ("", "")
    room = width - len(lead) - len(tail) - 1
    head = title.copy()
    head.truncate(max(room, 0), overflow="ellipsis")
    end = f" {corner} ─" if corner and head.cell_len + len(corner) + 8 <= room else ""
    rule = "─" * (room - head.cell_len - len(end))
    lines = [row((lead, LINE), head, (" " + rule, LINE), (end, MUTED), (tail, LINE))]
    cells, n_rows = inside(width, height, boxed)
    shown = [fit(each, cells) for each in (*rows, *[row("")] * n_rows)[:n_rows]]
    if boxed:
        lines += [row(("│ ", LINE), each, (" │", LINE)) for each in shown]
        lines.append(row(("╰" + "─" * (width - 2) + "╯", LINE)))
    else:
        lines += shown
    return [fit(each, width) for each in lines[:height]]

"""The table as a picture: ticks over units beside their floors, throughput over lanes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_rnn.bench.machine import Machine
from stream_rnn.bench.rows import Row
from stream_rnn.config import ConfigError
from stream_rnn.report import label_plainly

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require(path: Path) -> None:
    """Refuse early what could not be drawn at the end; raises ConfigError."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        text = 'the picture needs matplotlib: pip install "stream-rnn[plot]", or leave --plot out'
        raise ConfigError(f"--plot {path}: {text}") from error
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.resolve().parent}")


def draw(path: Path, here: Machine, measured: Sequence[Row]) -> None:
    """The kind of picture is what the path ends in (.png, .svg, .pdf)."""
    figure_of(here, measured).savefig(path, dpi=110)


def figure_of(here: Machine, measured: Sequence[Row]) -> Figure:
    """A column for each rule.

    Above, one lane's ticks; below, where a size was measured with several numbers of lanes, the
    throughput over them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    single = [row for row in measured if row.case.n_lanes == 1]
    several = over_lanes(measured)
    rules = list(dict.fromkeys(row.case.rule for row in [*single, *several]))
    n_rows, n_columns = 1 + bool(several), max(1, len(rules))
    figure = Figure(figsize=(4 * n_columns, 4.2 * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(n_rows, n_columns, sharey="row", squeeze=False)
    for panel, rule in zip(grid[0], rules, strict=False):
        for i, mine in enumerate(_by_cell(single, rule)):
            units, color = [row.case.n_units for row in mine], f"C{i}"
            panel.plot(units, [r.many for r in mine], "o-", color=color, label=mine[0].case.cell)
            panel.plot(units, [r.floor for r in mine], ":", color=color)
            panel.plot(units, [r.tick for r in mine], "--", color=color, alpha=0.4)
        panel.axhline(here.small_us, color="gray", linewidth=0.8)
        panel.set(title=rule, xlabel="units")
        _axes(panel, {row.case.n_units for row in single})
    grid[0][0].set_ylabel("microseconds a tick, one lane")
    for panel, rule in zip(grid[1] if several else (), rules, strict=False):
        for i, mine in enumerate(_by_cell(several, rule)):
            lanes, color = [row.case.n_lanes for row in mine], f"C{i}"
            rate = [1e6 / row.event for row in mine]
            panel.plot(lanes, rate, "o-", color=color, label=mine[0].case.cell)
        panel.set(title=rule, xlabel="lanes")
        _axes(panel, {row.case.n_lanes for row in several})
    if several:
        grid[1][0].set_ylabel(f"events a second, {several[0].case.n_units} units")
    told = "ticks: many a call (solid), one a call (dashed), floor (dotted); "
    told += "gray: one small torch operation"
    if several:
        told += "; below: events of all lanes together, many ticks a call"
    figure.suptitle(textwrap.fill(told, 50 * n_columns), fontsize="medium")
    return figure


def over_lanes(measured: Sequence[Row]) -> list[Row]:
    """Rows of the one size with the most numbers of lanes (the largest of those); none: no two."""
    lanes: dict[int, set[int]] = {}
    for row in measured:
        lanes.setdefault(row.case.n_units, set()).add(row.case.n_lanes)
    size = max(lanes, key=lambda n_units: (len(lanes[n_units]), n_units), default=0)
    if len(lanes.get(size, ())) < 2:
        return []
    return [row for row in measured if row.case.n_units == size]


def _by_cell(chosen: Sequence[Row], rule: str) -> list[list[Row]]:
    """The rows of a rule, a list for each cell: by units, then lanes."""
    mine = [row for row in chosen if row.case.rule == rule]
    ordered = sorted(mine, key=lambda row: (row.case.n_units, row.case.n_lanes))
    cells = dict.fromkeys(row.case.cell for row in mine)
    return [[row for row in ordered if row.case.cell == cell] for cell in cells]


def _axes(panel: Any, ticks: set[int]) -> None:
    panel.set(xscale="log", yscale="log")
    panel.set_xticks(sorted(ticks))
    panel.xaxis.set_major_formatter("{x:.0f}")
    label_plainly(panel)
    panel.minorticks_off()
    if panel.get_legend_handles_labels()[0]:
        panel.legend()
    panel.set_visible(bool(panel.lines))

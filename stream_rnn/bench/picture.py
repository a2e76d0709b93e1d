"""The table as a picture: ticks and their floors over the number of units, a panel per rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stream_rnn.bench.machine import Machine
from stream_rnn.bench.rows import Row
from stream_rnn.config import ConfigError


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
    """One lane's rows; the kind of picture is what the path ends in (.png, .svg, .pdf)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    single = [row for row in measured if row.case.n_lanes == 1]
    rules = list(dict.fromkeys(row.case.rule for row in single))
    figure = Figure(figsize=(4 * max(1, len(rules)), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(1, len(rules)), sharey=True, squeeze=False)[0]
    for panel, rule in zip(panels, rules, strict=False):
        for i, cell in enumerate(dict.fromkeys(r.case.cell for r in single if r.case.rule == rule)):
            mine = sorted(
                (r for r in single if (r.case.rule, r.case.cell) == (rule, cell)),
                key=lambda row: row.case.n_units,
            )
            units, color = [row.case.n_units for row in mine], f"C{i}"
            panel.plot(units, [r.many for r in mine], "o-", color=color, label=cell)
            panel.plot(units, [r.floor for r in mine], ":", color=color)
            panel.plot(units, [r.tick for r in mine], "--", color=color, alpha=0.4)
        panel.axhline(here.small_us, color="gray", linewidth=0.8)
        panel.set(title=rule, xscale="log", yscale="log", xlabel="units")
        panel.set_xticks(sorted({row.case.n_units for row in single}))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.minorticks_off()
        panel.legend()
    panels[0].set_ylabel("microseconds a tick, one lane")
    figure.suptitle(
        "ticks: many a call (solid), one a call (dashed), floor (dotted); "
        "gray: one small torch operation",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)

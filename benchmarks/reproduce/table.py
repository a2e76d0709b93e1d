"""What came out of the runs: a table beside the published figures, and a picture of every seed."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.reproduce.experiment import Experiment, Setting
from benchmarks.reproduce.runner import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart under every common color blindness
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKDOWN = "md"  # ending of the file for people
EQUAL = (("ticks", "equal events"), ("updates", "equal updates"))


def rows(
    experiment: Experiment, setting: Setting, size: str, records: Sequence[Record]
) -> list[dict[str, Any]]:
    """One row per rule, mark and way of comparing; the published ones last."""
    found: list[dict[str, Any]] = []
    rules = list(dict.fromkeys(record.rule for record in records))
    for mark in setting.marks:
        for key, name in EQUAL:
            for rule in rules:
                runs = sorted((r for r in records if r.rule == rule), key=lambda r: r.seed)
                if key == "updates" and runs[0].every == 1:
                    continue  # the same figures as at equal events
                came = [(r.seed, r.at(key, mark, experiment.metric)) for r in runs]
                seeds = {seed: value for seed, value in came if value is not None}
                if not seeds:
                    continue
                both = "equal events and updates" if runs[0].every == 1 else name
                found.append(
                    {
                        "rule": rule,
                        "at": mark,
                        "compared": both,
                        "events": mark * setting.lanes * (runs[0].every if key == "updates" else 1),
                        "seeds": seeds,
                        "missing": len(runs) - len(seeds),
                        **_summary(list(seeds.values())),
                    }
                )
        for published in experiment.published.get(size, ()):
            if mark in published.values:
                values = published.values[mark]
                found.append(
                    {"rule": published.who, "at": mark, "compared": "published"}
                    | {"values": values, **_summary(values)}
                )
    return found


def markdown(experiment: Experiment, setting: Setting, size: str, records: Sequence[Record]) -> str:
    """The table, with what was run above it and how long it took below it."""
    digits = experiment.digits
    lines = [
        f"## {experiment.title}, {size}",
        "",
        f"{experiment.label}. {experiment.caption(setting)}",
        "",
        "| Updates | Rule | Compared at | Every seed | Mean | SD |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows(experiment, setting, size, records):
        values = row["seeds"].values() if "seeds" in row else row["values"]
        each = ", ".join(f"{value:.{digits}f}" for value in values)
        if row.get("missing"):
            each += f" ({row['missing']} not there yet)"
        spread = "" if row["sd"] is None else f"{row['sd']:.{digits + 1}f}"
        lines.append(
            f"| {row['at']:,} | {row['rule']} | {row['compared']} | {each} "
            f"| {row['mean']:.{digits}f} | {spread} |"
        )
    for note in experiment.notes(records):
        lines += ["", note]
    lines += ["", "Processor time: " + "; ".join(_times(records)) + "."]
    return "\n".join(lines) + "\n"


def write(
    experiment: Experiment, setting: Setting, size: str, records: Sequence[Record], out: Path
) -> str:
    """The table as Markdown and JSON and the picture, into `out`; returns the table."""
    text = markdown(experiment, setting, size, records)
    (out / f"table.{MARKDOWN}").write_text(text, encoding="utf-8")
    found = rows(experiment, setting, size, records)
    (out / "table.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    draw(experiment, setting, size, records, out / "plot.png")
    for metric, label in experiment.also_drawn.items():
        draw(experiment, setting, size, records, out / f"plot-{metric}.png", metric, label)
    return text


def draw(
    experiment: Experiment,
    setting: Setting,
    size: str,
    records: Sequence[Record],
    path: Path,
    metric: str | None = None,
    label: str | None = None,
) -> None:
    """A thin line for every seed, over events and over updates; of another metric where given."""
    from matplotlib.figure import Figure

    others = () if metric else experiment.published.get(size, ())
    metric, label = metric or experiment.metric, label or experiment.label
    rules = list(dict.fromkeys(record.rule for record in records))
    is_locked = any(record.every > 1 for record in records)
    keys = EQUAL if is_locked else EQUAL[1:]
    figure = Figure(figsize=(6 * len(keys), 4.5), layout="constrained")
    for panel, (key, name) in enumerate(keys):
        axes: Axes = figure.add_subplot(1, len(keys), panel + 1)
        for record in records:
            color, style = _look(rules.index(record.rule))
            shown = [p for p in record.points if p[key] <= setting.updates]
            axes.plot(
                [p[key] for p in shown],
                [p[metric] for p in shown],
                color=color,
                linestyle=style,
                linewidth=0.9,
                alpha=0.8,
            )
        for rule in rules:  # one entry each, whatever the number of seeds
            color, style = _look(rules.index(rule))
            axes.plot([], [], color=color, linestyle=style, label=rule)
        for published in others:
            for mark, values in published.values.items():
                if mark <= setting.updates:
                    axes.plot([mark] * len(values), values, "k_", markersize=9)
        if others:
            axes.plot([], [], "k_", label="published")
        axes.set_xlabel("ticks (one event in each lane)" if key == "ticks" else "updates")
        axes.set_ylabel(label)
        title = f"{experiment.title}, {size}: {name if is_locked else 'every seed'}"
        axes.set_title(textwrap.fill(title, 58))
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _look(index: int) -> tuple[str, str]:
    """Color and line style of the rule with that number."""
    again, color = divmod(index, len(COLORS))
    return COLORS[color], ("-", "--", ":")[again % 3]


def _summary(values: Sequence[float]) -> dict[str, float | None]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd}


def _times(records: Sequence[Record]) -> list[str]:
    told = []
    for rule in dict.fromkeys(record.rule for record in records):
        runs = [r for r in records if r.rule == rule and r.ticks]
        seconds, ticks = sum(r.cpu_seconds for r in runs), sum(r.ticks for r in runs)
        if ticks:
            each = seconds / len(runs)
            told.append(f"{rule} {1e3 * seconds / ticks:.2f} ms a tick, {each:,.0f} s a seed")
    return told

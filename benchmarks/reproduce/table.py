"""What came out of the runs: a table beside the published figures, and a picture of every seed."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.reproduce.experiment import Experiment, Setting
from benchmarks.reproduce.progress import spelled
from benchmarks.reproduce.runner import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, with a wine red for its yellow: told apart under every common color
# blindness
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
MARKDOWN = "md"  # ending of the file for people
EQUAL = (("ticks", "equal events"), ("updates", "equal updates"))
FULL = "full"
NOT_COMPARABLE = "published, of the full size: not comparable"


def rows(
    experiment: Experiment, setting: Setting, size: str, records: Sequence[Record]
) -> list[dict[str, Any]]:
    """One row per rule, mark and way of comparing; the published ones last at each.

    Where nothing was published of this size, the full one's figures stand there, and say so.
    """
    rules = list(dict.fromkeys(record.rule for record in records))
    compared, others = "published", experiment.published.get(size, ())
    if not others and size != FULL:
        compared, others = NOT_COMPARABLE, experiment.published.get(FULL, ())
    found: list[dict[str, Any]] = []
    for mark in sorted({*setting.marks, *(at for other in others for at in other.values)}):
        if mark in setting.marks:
            for rule in rules:
                runs = sorted((r for r in records if r.rule == rule), key=lambda r: r.seed)
                found += _rows_of(rule, runs, mark, experiment.metric, setting.lanes)
        for other in others:
            if values := other.values.get(mark):
                found.append(
                    {"rule": other.who, "at": mark, "compared": compared}
                    | {"values": values, **_summary(values)}
                )
    return found


def _rows_of(
    rule: str, runs: Sequence[Record], mark: int, metric: str, lanes: int
) -> list[dict[str, Any]]:
    """What a rule has reached after so many ticks, and after so many updates."""
    found: list[dict[str, Any]] = []
    every = runs[0].every
    # without a lock both are the same figures
    ways = EQUAL if every > 1 else (("ticks", "equal events and updates"),)
    for key, compared in ways:
        came = [(r.seed, r.at(key, mark, metric)) for r in runs]
        if seeds := {seed: value for seed, value in came if value is not None}:
            found.append(
                {
                    "rule": rule,
                    "at": mark,
                    "compared": compared,
                    "events": mark * lanes * (every if key == "updates" else 1),
                    "seeds": seeds,
                    "missing": len(runs) - len(seeds),
                    **_summary(list(seeds.values())),
                }
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
    lines += ["", *_times(records)]
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
    seeds = sorted({record.seed for record in records})
    which = f"seed {seeds[0]}" if len(seeds) == 1 else "every seed"
    figure = Figure(figsize=(6 * len(keys) + 1.5, 4.5), layout="constrained")
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
        title = f"{experiment.title}, {size}: {name if is_locked else which}"
        axes.set_title(textwrap.fill(title, 58))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False)
    figure.savefig(path, dpi=120)


def _look(index: int) -> tuple[str, str]:
    """Color and line style of the rule with that number."""
    again, color = divmod(index, len(COLORS))
    return COLORS[color], ("-", "--", ":")[again % 3]


def _summary(values: Sequence[float]) -> dict[str, float | None]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd}


def _times(records: Sequence[Record]) -> list[str]:
    """A table of what each rule took, and all together."""
    lines = [
        "| Time taken | Runs | Processor, ms a tick | Processor, a run | Wall, a run "
        "| Processor, in all | Wall, in all |",
        "|---|---|---|---|---|---|---|",
    ]
    made = [record for record in records if record.ticks]
    for rule in dict.fromkeys(record.rule for record in made):
        runs = [record for record in made if record.rule == rule]
        n, ticks = len(runs), sum(record.ticks for record in runs)
        cpu, wall = sum(r.cpu_seconds for r in runs), sum(r.seconds for r in runs)
        lines.append(
            f"| {rule} | {n} | {1e3 * cpu / ticks:.2f} | {spelled(cpu / n)} | {spelled(wall / n)} "
            f"| {spelled(cpu)} | {spelled(wall)} |"
        )
    cpu, wall = sum(r.cpu_seconds for r in made), sum(r.seconds for r in made)
    lines.append(f"| all | {len(made)} | | | | {spelled(cpu)} | {spelled(wall)} |")
    note = "Wall time of all is that of one run after another; several at a time take less."
    return [*lines, "", note]

"""How far the runs have come: a bar on a terminal, a line about each tenth of a run elsewhere."""

from __future__ import annotations

import json
import shutil
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TextIO

import click
from typing_extensions import override

from benchmarks.reproduce.experiment import Experiment
from benchmarks.reproduce.runner import Record

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # what click.progressbar gives has no other name

BETWEEN_S = 0.2  # two drawings of a bar
BETWEEN_SENT_S = 1.0
BESIDE = 36  # columns of the bar of all runs, with label and percentage; its text has the others


@dataclass(frozen=True)
class Standing:
    """How far a run has come.

    Attributes:
        run: its rule and seed.
        ticks: made so far; more than the goal, if the run was once made longer.
        goal: ticks to be made.
        seconds: spent so far, over all its processes.
        measured: the newest point's metric; empty before the first one.
    """

    run: str
    ticks: int
    goal: int
    seconds: float
    measured: str

    @property
    def is_ended(self) -> bool:
        """Whether the run is at its goal."""
        return self.ticks >= self.goal

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at the speed so far; None before the first tick."""
        missing = max(self.goal - self.ticks, 0)
        return self.seconds / self.ticks * missing if self.ticks else None


def run_name(rule: str, seed: int) -> str:
    """What a run is called here."""
    return f"{rule} seed {seed}"


def standing_of(experiment: Experiment, record: Record, goal: int) -> Standing:
    """What a record says, its metric written as in the table."""
    name, digits = experiment.metric, experiment.digits
    measured = f"{name} {record.points[-1][name]:.{digits}f}" if record.points else ""
    run = run_name(record.rule, record.seed)
    return Standing(run, record.ticks, goal, record.seconds, measured)


def spelled(seconds: float) -> str:
    """A length of time, to two digits or so."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"


class Display(ABC):
    """Shows standings as they come."""

    @abstractmethod
    def show(self, standing: Standing) -> None:
        """Of a run that has begun, made a tick, or was found at its end."""

    def close(self) -> None:
        """Nothing more will come; leaves the terminal as it was."""


class Lines(Display):
    """A line about each tenth of a run: for a file or a pipe."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    @override
    def show(self, standing: Standing) -> None:
        tenth = 10 * standing.ticks // standing.goal
        if tenth <= self._tenths.get(standing.run, 0):
            return
        self._tenths[standing.run] = tenth
        told = [
            f"{standing.ticks:,} of {standing.goal:,} ticks",
            standing.measured,
            f"{1e3 * standing.seconds / standing.ticks:.2f} ms a tick",
            _left(standing.left_s),
        ]
        click.echo(f"{standing.run}: {', '.join(filter(None, told))}", err=True)


class Sent(Display):
    """A line of JSON a second on stdout, for the process that started this one."""

    def __init__(self) -> None:
        self._sent: Standing | None = None

    @override
    def show(self, standing: Standing) -> None:
        if _is_due(self._sent, standing, BETWEEN_SENT_S):
            self._sent = standing
            print(json.dumps(asdict(standing)), flush=True)


def received(line: str) -> Standing:
    """What `Sent` wrote."""
    return Standing(**json.loads(line))


class Bar(Display):
    """A bar for each run; they come one after another.

    Args:
        terminal: where they are drawn.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._shown: Standing | None = None
        self._bar: ProgressBar[str] | None = None

    @override
    def show(self, standing: Standing) -> None:
        if not _is_due(self._shown, standing, BETWEEN_S):
            return
        if self._bar is None or self._shown is None or self._shown.run != standing.run:
            self.close()
            self._bar = _bar(f"{standing.run:<20}", standing.goal, self._terminal)
        self._shown = standing
        time = f"in {spelled(standing.seconds)}" if standing.is_ended else _left(standing.left_s)
        self._bar.update(standing.ticks - self._bar.pos, f"{standing.measured:<9}  {time:>13}")

    @override
    def close(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()


class Bars(Display):
    """One bar for all runs, of which several are made at a time.

    Args:
        goals: the ticks of every run.
        n_jobs: how many are made at a time.
        terminal: where it is drawn.
    """

    def __init__(self, goals: Mapping[str, int], n_jobs: int, terminal: TextIO) -> None:
        self._goals, self._n_jobs = goals, n_jobs
        self._standings: dict[str, Standing] = {}
        self._bar = _bar("all runs", sum(goals.values()), terminal, width=18)
        self._bar.render_progress()

    @override
    def show(self, standing: Standing) -> None:
        self._standings[standing.run] = standing
        ticks = sum(min(s.ticks, s.goal) for s in self._standings.values())
        running = [s for s in self._standings.values() if not s.is_ended]
        told = [f"{len(self._standings) - len(running)} of {len(self._goals)} ended"]
        told += [_left(self.left_s()), *(f"{s.run} {s.measured}".rstrip() for s in running)]
        room = max(shutil.get_terminal_size().columns - BESIDE, 0)
        self._bar.update(ticks - self._bar.pos, ", ".join(filter(None, told))[:room])

    @override
    def close(self) -> None:
        self._bar.render_finish()

    def left_s(self) -> float | None:
        """Seconds to the end of all runs; None before the first tick.

        A tick of a run that has not begun is taken to last as long as the others', on average.
        """
        tick_s = [s.seconds / s.ticks for s in self._standings.values() if s.ticks]
        if not tick_s:
            return None
        left = []
        for run, goal in self._goals.items():
            standing = self._standings.get(run)
            known = standing.left_s if standing else None
            left.append(statistics.fmean(tick_s) * goal if known is None else known)
        return max(*left, sum(left) / self._n_jobs)


def _bar(label: str, length: int, terminal: TextIO, width: int = 0) -> ProgressBar[str]:
    return click.progressbar(
        length=length,
        label=label,
        show_eta=False,  # counts from this process' first tick; a run may have begun before
        item_show_func=lambda told: told,
        bar_template="%(label)s [%(bar)s] %(info)s",
        file=terminal,
        update_min_steps=0,
        width=width,  # 0: what the terminal has left
    )


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{spelled(seconds)} left"


def _is_due(before: Standing | None, now: Standing, between_s: float) -> bool:
    if before is None or before.run != now.run or now.is_ended:
        return True
    return now.seconds - before.seconds >= between_s

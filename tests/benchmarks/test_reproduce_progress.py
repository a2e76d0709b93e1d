"""What is shown of runs that are being made."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce.copy_task import CopyTask
from benchmarks.reproduce.jobs import run_all
from benchmarks.reproduce.progress import (
    Bar,
    Bars,
    Lines,
    Sent,
    Standing,
    received,
    spelled,
    standing_of,
)
from benchmarks.reproduce.runner import run

KF = Standing("kf seed 0", ticks=0, goal=200, seconds=0, measured="")
TINY = replace(
    CopyTask.sizes["small"], units=4, lanes=2, rank=2, updates=40, record_every=10, marks=(40,)
)


def at(ticks: int, measured: str = "T 3.0", run: Standing = KF) -> Standing:
    """Half a second a tick."""
    return replace(run, ticks=ticks, seconds=ticks / 2, measured=measured)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What stands on it: the last text written to each line."""
        drawn = (line.split("\r")[-1] for line in self.getvalue().split("\n"))
        return [re.sub(r"\x1b\[\?25[hl]", "", text).rstrip() for text in drawn]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_a_run_is_told_before_its_first_tick_and_after_each(tmp_path: Path) -> None:
    told: list[Standing] = []
    experiment = CopyTask(None)

    def make(updates: int) -> None:
        run(
            experiment,
            TINY.lasting(updates),
            "kf",
            0,
            tmp_path,
            tell=lambda record, goal: told.append(standing_of(experiment, record, goal)),
        )

    make(12)
    assert [(s.run, s.ticks, s.goal) for s in told] == [("kf seed 0", t, 12) for t in range(13)]
    assert [s.measured for s in told] == [""] * 10 + ["T 1.0"] * 3
    told.clear()
    make(14)
    assert [s.ticks for s in told] == [12, 13, 14]
    assert told[0].seconds > 0
    told.clear()
    make(14)
    assert [(s.ticks, s.is_ended) for s in told] == [(14, True)]


def test_a_line_is_written_about_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for ticks in range(31):
        lines.show(at(ticks))
    assert capsys.readouterr().err == (
        "kf seed 0: 20 of 200 ticks, T 3.0, 500.00 ms a tick, 90 s left\n"
    )


def test_runs_side_by_side_have_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    lines, other = Lines(), replace(KF, run="uoro seed 0")
    for ticks in (19, 20, 21):
        lines.show(at(ticks))
        lines.show(at(ticks, run=other))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["kf seed 0", "uoro seed 0"]


def test_a_bar_shows_the_newest_figure_and_the_time_left(terminal: Terminal) -> None:
    bar = Bar(terminal)
    bar.show(KF)
    for ticks in range(1, 101):
        bar.show(at(ticks, f"T {ticks // 20}.0"))
    (line,) = terminal.lines()
    assert re.fullmatch(r"kf seed 0 +\[(#+)(-+)\]  50%  T 5.0 +50 s left", line)
    assert abs(line.count("#") - line.count("-")) <= 1
    assert len(line) == 80


def test_a_bar_is_not_drawn_at_every_tick(terminal: Terminal) -> None:
    bar = Bar(terminal)
    for ticks in range(100):
        bar.show(replace(KF, ticks=ticks, seconds=ticks / 100))
    assert terminal.getvalue().count("\r") < 10


def test_every_run_leaves_its_full_bar_and_the_next_one_begins_below(terminal: Terminal) -> None:
    bar = Bar(terminal)
    bar.show(KF)
    bar.show(at(200))
    bar.show(replace(KF, run="uoro seed 0"))
    bar.close()
    first, second, end = terminal.lines()
    assert re.fullmatch(r"kf seed 0 +\[#+\] 100%  T 3.0 +in 100 s", first)
    assert re.fullmatch(r"uoro seed 0 +\[-+\]   0%", second)
    assert end == ""
    assert terminal.getvalue().endswith("\x1b[?25h\n")  # the cursor is back


def test_a_continued_run_begins_where_it_was(terminal: Terminal) -> None:
    bar = Bar(terminal)
    bar.show(at(50))
    assert " 25%  T 3.0" in terminal.lines()[0]
    assert terminal.lines()[0].endswith("75 s left")


def test_one_bar_stands_for_all_runs_made_side_by_side(terminal: Terminal) -> None:
    other = replace(KF, run="uoro seed 0", goal=100)
    bars = Bars({"kf seed 0": 200, "uoro seed 0": 100, "kf seed 1": 100}, 2, terminal)
    assert bars.left_s() is None
    bars.show(at(100))
    assert bars.left_s() == 75  # 50, and of those not begun 50 each, by two
    bars.show(at(100, "T 2.0", other))
    (line,) = terminal.lines()
    assert re.fullmatch(
        r"all runs \[#{9}-{9}\]  50%  1 of 3 ended, 50 s left, kf seed 0 T 3.0", line
    )


def test_a_run_longer_than_asked_for_has_ended_and_counts_once(terminal: Terminal) -> None:
    bars = Bars({"kf seed 0": 200, "uoro seed 0": 200}, 2, terminal)
    bars.show(at(300))
    assert bars.left_s() == 100  # of the other one alone
    (line,) = terminal.lines()
    assert "  50%  1 of 2 ended" in line


def test_the_time_left_is_that_of_the_longest_run_at_least(terminal: Terminal) -> None:
    bars = Bars({"kf seed 0": 200, "uoro seed 0": 20}, 4, terminal)
    bars.show(at(20))
    assert bars.left_s() == 90


def test_a_text_too_long_for_the_terminal_is_cut(terminal: Terminal) -> None:
    runs = [replace(KF, run=f"tbptt-lock-10 seed {seed}") for seed in range(9)]
    bars = Bars({s.run: s.goal for s in runs}, 9, terminal)
    for standing in runs:
        bars.show(at(100, run=standing))
    (line,) = terminal.lines()
    assert len(line) <= 80
    assert "[#########---------]" in line


def test_a_process_tells_the_one_above_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    sent = Sent()
    sent.show(KF)
    for ticks in range(1, 201):
        sent.show(at(ticks))
    told = [received(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [KF, *(at(ticks) for ticks in range(2, 201, 2))]


def test_the_end_of_a_run_is_always_sent(capsys: pytest.CaptureFixture[str]) -> None:
    sent = Sent()
    sent.show(at(199))
    sent.show(at(200))
    assert received(capsys.readouterr().out.splitlines()[-1]) == at(200)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (150, "2.5 min"),
        (3600, "60 min"),
        (9000, "2.5 h"),
        (90_000, "25 h"),
        (200_000, "2.3 days"),
        (2e6, "23 days"),
    ],
)
def test_a_time_is_spelled_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert spelled(seconds) == text


def test_without_a_terminal_the_command_writes_lines(tmp_path: Path) -> None:
    arguments = ["copy", "--rules", "kf", "--seeds", "0", "--updates", "30"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path)])
    assert "kf seed 0: 30 of 30 ticks, T 1.0" in result.stderr
    assert "\x1b" not in result.output


@pytest.mark.slow
def test_processes_are_heard(tmp_path: Path) -> None:
    heard: list[str] = []
    common = ["copy", "--worker", "--updates", "30", "--out", str(tmp_path), "--rules", "kf"]
    codes = run_all([[*common, "--seeds", str(seed)] for seed in (0, 1)], 2, heard.append)
    assert codes == [0, 0]
    ended = {s.run for s in map(received, heard) if s.is_ended}
    assert ended == {"kf seed 0", "kf seed 1"}

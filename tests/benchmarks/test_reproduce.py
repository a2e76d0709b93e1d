"""Runs that are killed and go on, the table, and the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.reproduce.__main__ import EXPERIMENTS, main, seeds_of
from benchmarks.reproduce.copy_task import CopyTask
from benchmarks.reproduce.experiment import Point, Published, Refused
from benchmarks.reproduce.ptb import Ptb
from benchmarks.reproduce.rules import rule_of
from benchmarks.reproduce.runner import Record, read_record, run
from benchmarks.reproduce.table import NOT_COMPARABLE, draw, markdown, rows

ROOT = Path(__file__).resolve().parents[2]
TINY = replace(
    CopyTask.sizes["small"], units=4, lanes=2, rank=2, updates=40, record_every=10, marks=(20, 40)
)
TEXT = "how much wood would a woodchuck chuck if a woodchuck could chuck wood\n" * 6


def corpus_in(folder: Path) -> Path:
    for part in ("train", "valid"):
        (folder / f"ptb.{part}.txt").write_text(TEXT)
    return folder


@pytest.mark.parametrize("rule", ["ok", "uoro", "tbptt-lock-3"])
@pytest.mark.parametrize("name", ["copy", "ptb"])
def test_a_run_that_was_cut_twice_ends_with_the_same_bytes(
    name: str, rule: str, tmp_path: Path
) -> None:
    experiment = EXPERIMENTS[name](corpus_in(tmp_path) if name == "ptb" else None)
    whole = run(experiment, TINY, rule, 0, tmp_path / "whole")
    for length in (13, 29):
        ticks = iter(range(length))
        run(experiment, TINY, rule, 0, tmp_path / "cut", stop=lambda t=ticks: next(t, None) is None)
    cut = run(experiment, TINY, rule, 0, tmp_path / "cut")
    assert cut.points == whole.points
    assert cut.ticks == whole.ticks == 40 * whole.every
    ends = [next((tmp_path / way).rglob("state.safetensors")) for way in ("cut", "whole")]
    assert tensors_of(ends[0]) == tensors_of(ends[1])


def tensors_of(path: Path) -> dict[str, bytes]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118


def test_a_killed_run_loses_only_what_came_after_the_last_save(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def killed(record: Record, goal: int) -> None:
        if record.ticks == 30:
            raise Killed

    now = iter(range(1000))  # a second per look at the clock: once at the start, once per tick
    with pytest.raises(Killed):
        run(
            CopyTask(None),
            TINY,
            "kf",
            0,
            tmp_path,
            tell=killed,
            save_every_s=12,
            clock=lambda: float(next(now)),
        )
    saved = read_record(tmp_path / "kf" / "seed-0")
    assert saved is not None
    assert saved.ticks == 24
    assert run(CopyTask(None), TINY, "kf", 0, tmp_path).ticks == 40


def test_a_longer_run_continues_a_shorter_one(tmp_path: Path) -> None:
    short = run(CopyTask(None), TINY, "kf", 0, tmp_path / "a")
    long = run(CopyTask(None), TINY.lasting(60), "kf", 0, tmp_path / "a")
    assert long.points[: len(short.points)] == short.points
    assert long.ticks == 60
    assert long.points == run(CopyTask(None), TINY.lasting(60), "kf", 0, tmp_path / "b").points


def test_other_settings_do_not_continue_a_run(tmp_path: Path) -> None:
    run(CopyTask(None), TINY, "kf", 0, tmp_path)
    with pytest.raises(Refused, match=r"other settings \(lr\); use another --out"):
        run(CopyTask(None), replace(TINY, lr=0.5), "kf", 0, tmp_path)


def test_a_damaged_state_is_refused_with_the_remedy(tmp_path: Path) -> None:
    run(CopyTask(None), TINY, "kf", 0, tmp_path)
    state = tmp_path / "kf" / "seed-0" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(Refused, match="remove it to start the run anew"):
        run(CopyTask(None), TINY, "kf", 0, tmp_path)


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    first = run(CopyTask(None), TINY, "kf", 0, tmp_path / "a")
    again = run(CopyTask(None), TINY, "kf", 0, tmp_path / "b")
    other = run(CopyTask(None), TINY, "kf", 1, tmp_path / "a")
    assert first.points == again.points
    assert first.points[-1]["bits"] != other.points[-1]["bits"]


def record_of(rule: str, seed: int, every: int, values: dict[int, float]) -> Record:
    """A run whose T* at each tick is given."""
    points: list[Point] = [
        {"ticks": t, "updates": t // every, "T": value} for t, value in values.items()
    ]
    ticks = max(values)
    return Record(rule, seed, {}, "cpu", every, ticks, points=points, cpu_seconds=ticks / 1000)


class Known(CopyTask):
    published = {"small": (Published("theirs", {40: (9.0, 11.0)}),)}  # noqa: RUF012


RECORDS = [
    record_of("kf", 1, 1, {20: 2, 40: 5}),
    record_of("kf", 0, 1, {20: 2, 40: 4}),
    record_of("tbptt-lock-2", 0, 2, {20: 1, 40: 3, 80: 6}),
    record_of("tbptt-lock-2", 1, 2, {20: 1, 40: 3}),
]


def test_the_table_compares_at_equal_events_and_at_equal_updates() -> None:
    found = [row for row in rows(Known(None), TINY, "small", RECORDS) if row["at"] == 40]
    told = {(row["rule"], row["compared"]): (row["mean"], row["sd"]) for row in found}
    assert told == {
        ("kf", "equal events and updates"): (4.5, pytest.approx(0.5**0.5)),
        ("tbptt-lock-2", "equal events"): (3, 0),
        ("tbptt-lock-2", "equal updates"): (6, None),
        ("theirs", "published"): (10, pytest.approx(2**0.5)),
    }
    seeds = {row["rule"]: row["seeds"] for row in found if "seeds" in row}
    assert seeds["kf"] == {0: 4, 1: 5}


def test_the_table_names_every_seed_and_those_missing() -> None:
    lines = markdown(Known(None), TINY, "small", RECORDS).splitlines()
    assert "| 40 | kf | equal events and updates | 4.0, 5.0 | 4.5 | 0.71 |" in lines
    assert "| 40 | tbptt-lock-2 | equal updates | 6.0 (1 not there yet) | 6.0 |  |" in lines
    assert "| 40 | theirs | published | 9.0, 11.0 | 10.0 | 1.41 |" in lines


def test_below_the_table_stands_what_every_rule_took_and_all_together() -> None:
    records = [replace(record, seconds=300 * record.ticks) for record in RECORDS]
    text = markdown(Known(None), TINY, "small", [*records, Record("ok-4", 0, {}, "cpu", 1)])
    lines = text.splitlines()
    assert "| kf | 2 | 1.00 | 0 s | 3.3 h | 0 s | 6.7 h |" in lines
    assert "| tbptt-lock-2 | 2 | 1.00 | 0 s | 5.0 h | 0 s | 10 h |" in lines
    assert "| all | 4 | | | | 0 s | 17 h |" in lines
    assert "ok-4" not in text  # it has not begun


class KnownFull(CopyTask):
    published = {"full": (Published("theirs", {20: (3.0,), 90: (9.0, 11.0)}),)}  # noqa: RUF012


def test_a_small_table_shows_what_was_published_of_the_full_size_as_not_comparable() -> None:
    found = rows(KnownFull(None), TINY, "small", RECORDS)
    theirs = [(row["at"], row["compared"], row["mean"]) for row in found if row["rule"] == "theirs"]
    told = "published, of the full size: not comparable"
    assert theirs == [(20, told, 3.0), (90, told, 10.0)]
    assert found[-1]["at"] == 90
    line = "| 90 | theirs | published, of the full size: not comparable | 9.0, 11.0 | 10.0 | 1.41 |"
    assert line in markdown(KnownFull(None), TINY, "small", RECORDS).splitlines()


def test_a_shorter_run_of_the_full_size_still_shows_the_published_end() -> None:
    found = rows(KnownFull(None), TINY, "full", RECORDS)
    theirs = [(row["at"], row["compared"]) for row in found if row["rule"] == "theirs"]
    assert theirs == [(20, "published"), (90, "published")]


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_experiment_has_published_figures_to_stand_beside_it(name: str) -> None:
    assert EXPERIMENTS[name].published["full"]


@pytest.mark.parametrize("experiment", [CopyTask, Ptb])
def test_the_full_sizes_set_ok_beside_its_rivals(experiment: type[CopyTask | Ptb]) -> None:
    setting = experiment.sizes["full"]
    names = [rule_of(rule, setting).name for rule in setting.rules]
    assert names == [f"ok-{setting.rank}", "kf", "uoro", "tbptt-lock-25"]


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_the_help_says_how_long_every_size_takes(name: str) -> None:
    lines = CliRunner().invoke(main, ["--help"]).output.splitlines()
    takes = EXPERIMENTS[name].takes
    told = [*takes.items()]
    assert [size for size, _ in told] == ["small", "full"]
    (line,) = (line for line in lines if line.split()[:2] == [name, "small"])
    assert all(f"{size} {time}" in line for size, time in told)


@pytest.mark.parametrize("experiment", [CopyTask, Ptb])
@pytest.mark.parametrize("size", ["small", "full"])
def test_the_table_is_read_where_points_are_made(
    experiment: type[CopyTask | Ptb], size: str
) -> None:
    setting = experiment.sizes[size]
    assert all(mark % setting.record_every == 0 for mark in setting.marks)
    assert setting.marks[-1] == setting.updates


def test_the_command_writes_table_and_picture(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["copy", "--rules", "kf,tbptt-lock-2", "--seeds", "0-1", "--updates", "30"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "| 30 | tbptt-lock-2 | equal updates |" in next(out.glob("*.md")).read_text()
    found = json.loads((out / "table.json").read_text())
    assert {row["rule"] for row in found if row["compared"] != NOT_COMPARABLE} == {
        "kf",
        "tbptt-lock-2",
    }
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")


def figure_of(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The picture of the runs, as it is saved."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    saved: list[Any] = []
    monkeypatch.setattr(figure, "savefig", lambda self, *_, **__: saved.append(self))
    draw(CopyTask(None), TINY, "small", records, Path("plot.png"), "T", "T* reached")
    return saved[0]


def ran(rule: str, seed: int, every: int = 1) -> Record:
    points = [{"ticks": t, "updates": t // every, "T": t / 10} for t in (0, 20, 40)]
    return Record(rule, seed, {}, "cpu", every, points=points)


def test_the_picture_tells_eight_rules_apart_by_color(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figure_of([ran(f"rule-{i}", 0) for i in range(8)], monkeypatch)
    assert len({line.get_color() for line in figure.axes[0].lines}) == 8


def test_the_legend_of_the_picture_hides_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figure_of([ran("ok", seed, every) for seed in (0, 1) for every in (1, 2)], monkeypatch)
    figure.canvas.draw()
    (legend,) = (axes.get_legend() for axes in figure.axes if axes.get_legend())
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(("seeds", "told"), [((3,), "seed 3"), ((0, 1), "every seed")])
def test_the_picture_says_which_seeds_it_shows(
    seeds: tuple[int, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = figure_of([ran("ok", seed) for seed in seeds], monkeypatch)
    assert figure.axes[0].get_title().endswith(f"small: {told}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ptb"], "--data PATH is needed"),
        (["ptb", "--data", "/nowhere/at/all"], "no readable ptb.train.txt"),
        (["copy", "--data", "/nowhere"], "makes its own data"),
        (["copy", "--rules", "magic"], "unknown rule 'magic'"),
        (["copy", "--seeds", "4-1"], "--seeds"),
        (["copy", "--updates", "0"], "--updates must be at least 1"),
    ],
)
def test_what_cannot_be_run_is_told_with_exit_code_78(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 78
    assert message in result.output


def test_seeds_are_ranges_and_lists() -> None:
    assert seeds_of("0-3") == (0, 1, 2, 3)
    assert seeds_of("7,1-2,7") == (7, 1, 2)
    for wrong in ("", "a", "1-", "-1", "1,,2", "1-2-3"):
        with pytest.raises(Refused, match="--seeds"):
            seeds_of(wrong)


@pytest.mark.slow
def test_processes_are_stopped_saved_and_continued(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.reproduce", "copy", "--rules", "kf", "--seeds"]
    command += ["0,1", "--updates", "2000", "--jobs", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--save-every-s", "0.05"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    saves = [tmp_path / "kf" / f"seed-{seed}" / "result.json" for seed in (0, 1)]
    try:
        deadline = time.monotonic() + 300
        while not all(path.exists() for path in saves):
            assert time.monotonic() < deadline, "nothing was saved"
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143
    finally:
        process.kill()
        process.wait()
    stopped = [read_record(path.parent) for path in saves]
    assert all(record is not None and 0 < record.ticks < 2000 for record in stopped)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=900)
    ended = read_record(saves[0].parent)
    assert ended is not None
    assert ended.ticks == 2000
    alone = asdict(
        run(CopyTask(None), CopyTask.sizes["small"].lasting(2000), "kf", 0, tmp_path / "b")
    )
    assert asdict(ended)["points"] == alone["points"]

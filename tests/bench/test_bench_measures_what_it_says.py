"""Clock, allocations, stages, and the command as a user sees it."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from stream_rnn.bench import stages
from stream_rnn.bench.cases import OWN, Case, cases, left_out
from stream_rnn.bench.clock import medians_us
from stream_rnn.bench.machine import Machine
from stream_rnn.bench.picture import figure_of
from stream_rnn.bench.rows import Row, allocations
from stream_rnn.cli import cli
from stream_rnn.config import ConfigError

CONNECTORS = {"JsonlSink": "connectors.jsonl"}
OURS = {"Engine": "stream_rnn.engine.engine", "Runtime": "stream_rnn.runtime.loop"}


def test_candidates_take_turns_of_two_calls() -> None:
    order: list[str] = []
    runs = {name: (1, lambda name=name: order.append(name)) for name in "ab"}
    medians_us(runs, 0.0, rounds=2)
    assert order == list("ab" + "aabb" * 2 * 3)


def test_the_first_call_of_a_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, itertools.count()

    def run() -> None:
        nonlocal now
        is_first = next(calls) % 2 == 1  # number 0 is the one before the rounds
        now += 1.0 if is_first else 1e-6

    monkeypatch.setattr("stream_rnn.bench.clock.time.thread_time", lambda: now)
    assert medians_us({"each": (1, run)}, 0.0, rounds=2)["each"] == pytest.approx(1.0, rel=1e-3)


def test_a_run_of_several_is_told_per_one() -> None:
    def once() -> None:
        torch.mm(a, a)

    a = torch.randn(128, 128)
    took = medians_us({"1": (1, once), "10": (10, lambda: [once() for _ in range(10)])}, 0.2)
    assert took["10"] == pytest.approx(took["1"], rel=1.0)  # not tenfold


def test_allocations_are_those_of_tensors() -> None:
    a = torch.randn(32)
    assert allocations(a.neg_) == 0
    assert allocations(lambda: [a.clone() for _ in range(3)]) == 3


@pytest.mark.parametrize("name", stages.FUNCTIONS)
def test_a_function_that_a_stage_is_known_by_exists(name: str) -> None:
    owner, _, method = name.partition(".")
    module = importlib.import_module((OURS | CONNECTORS)[owner])
    assert callable(getattr(getattr(module, owner), method))


@pytest.mark.parametrize("start", stages.STAGES)
def test_a_file_that_a_stage_is_known_by_exists(start: str) -> None:
    root = Path(stages.__file__).parents[2]
    assert (root / start).is_dir() or (root / f"{start}.py").is_file()


def test_files_belong_to_the_stage_of_the_longest_name_that_fits() -> None:
    root = Path(stages.__file__).parents[2]
    assert stages.stage_of(f"{root}/stream_rnn/engine/frames.py") == "step"
    assert stages.stage_of(f"{root}/stream_rnn/engine/engine.py") == stages.REST
    assert stages.stage_of("/usr/lib/python3/json/decoder.py") is None


def test_an_event_of_the_daemon_goes_through_every_stage_but_what_is_too_short_to_see() -> None:
    for n in (1_500, 6_000, 24_000):  # sampled: what takes a microsecond is not seen in a few
        daemon = stages.measure("file", n)
        if daemon.cpu_us["features"] > 0 and daemon.cpu_us["step"] > 0:
            break
    assert daemon.events_per_s > 0
    assert list(daemon.cpu_us) == list(stages.ORDER)
    assert daemon.cpu_us["features"] > 0
    assert daemon.cpu_us["step"] > 0
    assert sum(daemon.cpu_us.values()) <= 1.5e6 / daemon.events_per_s


def test_what_is_left_out_is_said() -> None:
    for size in ("quick", "default"):
        said = left_out(size)
        assert said.startswith(f"{len(cases('full')) - len(cases(size))} of {len(cases('full'))} ")
        assert "rhn" in said
    assert left_out("full").startswith("nothing")


def test_rows_are_chosen_by_their_names() -> None:
    assert cases("default", ("lstm ok(1)", "N=128 ")) == [Case("lstm", "ok(1)", 128)]
    assert {case.n_lanes for case in cases("default", ("B=8 ",))} == {8}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("bench")
    out, picture = folder / "bench.json", folder / "bench.png"
    command = ["bench", "--quick", "--only", "tanh kf N=32"]
    run = CliRunner().invoke(cli, [*command, "--json", str(out), "--plot", str(picture)])
    assert run.exit_code == 0, run.output
    return run.output, json.loads(out.read_text()), picture


def test_the_table_has_a_row_and_the_cost_of_a_small_operation_beside_it(
    report: tuple[str, dict[str, Any], Path],
) -> None:
    printed, found, _ = report
    assert f"one small in-place torch operation: {found['small_operation_us']:.2f} us" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("tanh kf")]
    assert line.split()[2:4] == ["32", "1"]


def test_the_json_holds_what_the_table_does(report: tuple[str, dict[str, Any], Path]) -> None:
    (row,) = report[1]["rows"]
    assert (row["cell"], row["rule"], row["N"], row["B"]) == ("tanh", "kf", 32, 1)
    ratio = row["credit_step_us"] / row["product_us"]
    assert row["credit_step_over_product"] == pytest.approx(ratio)
    assert row["over_floor"] == pytest.approx(row["tick_of_many_us"] / row["floor_us"])
    rates = report[1]["products_gflops"]
    best = max(rates.values()) * 1e3
    assert row["floor_us"] >= 2 * 32 * 32 * 32 / best * 0.999
    assert {"torch.mm", "numpy"} <= rates.keys()


def test_the_picture_is_drawn(report: tuple[str, dict[str, Any], Path]) -> None:
    assert report[2].read_bytes().startswith(b"\x89PNG")


def row_of(n_units: int, n_lanes: int, cell: str = "lru", rule: str = OWN) -> Row:
    """Of a machine on which lanes double what they give until there are 8."""
    many = 2.0 * n_lanes / min(n_lanes, 8)
    times = {"product": None, "credit_step": 3.0, "tick": 4.0, "many": many, "ticks_a_call": 64}
    rest = {"allocations": 0.0, "floor": 1.0, "bound": "memory", "forward": 0.0, "update": 0.5}
    return Row(Case(cell, rule, n_units, n_lanes), **(times | rest))  # type: ignore[arg-type]


HERE = Machine(0.9, {"torch.mm": 1e5}, {1 << 20: 1e4})


def test_the_picture_shows_throughput_over_lanes() -> None:
    rows = [row_of(n_units, 1) for n_units in (32, 64, 128)]
    rows += [row_of(64, n_lanes) for n_lanes in (64, 2, 8)]
    rows += [row_of(32, n_lanes, "tanh", "rtrl") for n_lanes in (1, 8)]  # of another size
    figure = figure_of(HERE, rows)
    below = figure.axes[2]
    assert below.get_xlabel() == "lanes"
    assert below.get_ylabel() == "events a second, 64 units"
    (measured,) = below.lines
    assert list(measured.get_xdata()) == [1, 2, 8, 64]
    assert list(measured.get_ydata()) == pytest.approx([5e5, 1e6, 4e6, 4e6])
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]


def test_the_axes_of_the_picture_have_labels_between_the_powers_of_ten() -> None:
    rows = [row_of(64, n_lanes) for n_lanes in (1, 2, 8, 64)]
    figure = figure_of(HERE, rows)
    figure.canvas.draw()
    below = figure.axes[1]
    low, high = below.get_ylim()
    shown = [
        tick.get_text() for tick in below.get_yticklabels() if low <= tick.get_position()[1] <= high
    ]
    assert shown == ["500,000", "1,000,000", "2,000,000"]


def test_without_several_numbers_of_lanes_there_is_nothing_below() -> None:
    figure = figure_of(HERE, [row_of(32, 1), row_of(64, 1), row_of(128, 8)])
    assert [axes.get_xlabel() for axes in figure.axes] == ["units"]


@pytest.mark.parametrize(("cell", "rule"), [("lru", OWN), ("lstm", "ok(1)"), ("gru", "tbptt(10)")])
def test_the_full_set_doubles_the_lanes_from_one_to_64(cell: str, rule: str) -> None:
    lanes = [c.n_lanes for c in cases("full") if (c.cell, c.rule, c.n_units) == (cell, rule, 64)]
    assert sorted(lanes) == [1, 2, 4, 8, 16, 32, 64]


def test_a_name_that_is_none_is_refused_with_one_that_is() -> None:
    run = CliRunner().invoke(cli, ["bench", "--only", "lstn"])
    assert isinstance(run.exception, ConfigError)
    assert 'no row is called so; a name is like "lstm' in str(run.exception)


@pytest.mark.skipif(
    (os.cpu_count() or 1) < 2 or not Path("/proc/self/task").is_dir(),
    reason="needs two processors, and Linux to count threads",
)
def test_every_library_that_is_compared_has_one_thread() -> None:
    code = """
import os
from click.testing import CliRunner
from stream_rnn.cli import cli
CliRunner().invoke(cli, ["bench", "--only", "lstn"])
import numpy, torch
numpy.ones((512, 512)) @ numpy.ones((512, 512))
torch.ones(512, 512) @ torch.ones(512, 512)
print(len(os.listdir("/proc/self/task")))
"""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"

"""The ladder in a run: every edge, whatever led to it; nothing is lost and a restart goes on alike.

Trouble is scripted in the data: the recurrence calls the credit of a "bad" event unsound, on every
rung.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from stream_rnn.cells import Gru
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.store import Store
from stream_rnn.codec import JsonCodec
from stream_rnn.console import Console
from stream_rnn.credit import Fallback, Ok, Tbptt
from stream_rnn.engine.engine import Engine
from stream_rnn.features.encoder import Features
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.health import Governor
from stream_rnn.ladder import Ladder
from stream_rnn.lanes import Lanes
from stream_rnn.learner import Learner
from stream_rnn.metrics import Metrics
from stream_rnn.recurrence import Dense
from stream_rnn.runtime.checkpointing import Identity, Schedule
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import EndOfStream, Record
from stream_rnn.tasks import Regression
from stream_rnn.testing import ListSink, ScriptedSource
from stream_rnn.update import Adam

RULES, BELOW = ("ok", "tbptt"), ("readout", "frozen")
BAD = 1  # the input that is 1 for an event that means trouble; numeric ones come first
DOWN_AND_UP = [0, 1, 2, 3, 2, 1, 0]
EVERY_EDGE = {"trips": 1, "cooldown": 8}
BAD_AT = (9, 16, 23)  # leads down; the locked rung owes when it is left
CUTS = (11, 18, 28, 60, 100, 130)  # on every rung, on the way down and up
N_EVENTS = 150
Make = Callable[..., Runtime]


class Touchy(Dense):
    """Calls the credit of an event unsound that says so."""

    def forward(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        self._bad_B = x_BI[:, BAD] > 0.5
        return super().forward(x_BI, live_B)

    def healthy(self) -> Tensor:
        return super().healthy() & ~self._bad_B


def records(n: int, bad: tuple[int, ...] = ()) -> list[Record]:
    """Three keys for two lanes, so that lanes are idle and taken over; one event cannot be used."""
    return [
        {
            "state": "bad" if i in bad else "good",
            "x": math.sin(i / 2) * 10,
            "y": None if i == 40 else "what" if i == 50 else math.sin(i / 2 + 1) + i % 5,
            "id": "abc"[i * i % 3],
        }
        for i in range(n)
    ]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with maker(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """A run over every edge that nobody interrupted."""
    with maker(tmp_path_factory.mktemp("whole")) as make:
        runtime = make(EVERY_EDGE, [*records(N_EVENTS, BAD_AT), EndOfStream()])
        told = watched(runtime)
        runtime.run()
        assert way(told) == DOWN_AND_UP
        assert {told[cut - 1][0] for cut in CUTS} == {0, 1, 2, 3}
        yield runtime


@contextmanager
def maker(tmp_path: Path) -> Iterator[Make]:
    """Builds runtimes that share a state folder, one at a time."""
    stores: list[Store] = []

    def make(
        governor: dict[str, Any],
        script: list[Any],
        every_events: int | None = None,
        poll_events: int = 256,
    ) -> Runtime:
        for each in stores:
            each.close()
        store = Store(tmp_path / "state", keep=100)
        store.open()
        stores.append(store)
        features = Features(["x"], {"state": ["bad"]})
        task = Regression(features, "y", loss="squared", previous_target=False, lanes=2)
        generator = torch.Generator().manual_seed(0)
        cell, loss = Gru(task.inputs, 4), SquaredError()
        fallback = Fallback([Ok(cell, 2, generator, rank=1), Tbptt(cell, 2, window=6, every=5)])
        W_ZM, V_PF = (
            cell.initial_weight(generator),
            initial_readout(4, task.inputs, loss, generator),
        )
        recurrence = Touchy(cell, fallback, W_ZM)
        head = Head(4, task.inputs, loss, V_PF)
        learner = Learner(recurrence, head, Adam(lr=0.01), Adam(lr=0.01))
        ladder = Ladder(learner, [fallback], RULES, BELOW)
        runtime = Runtime(
            ScriptedSource(script),
            Engine(JsonCodec(), task, Lanes("id", 2), learner),
            [ListSink()],
            ListSink(),
            Governor(ladder.levels, noisy=ladder.noisy, **governor),
            ladder,
            lambda: ladder.rule,
            store,
            schedule=Schedule(None, every_events),
            identity=Identity("test", {}, {}),
            metrics=Metrics(CollectorRegistry(), baselines=tuple(task.scores.live()[1])),
            console=Console(io.StringIO()),
            poll_events=poll_events,
        )
        newest = store.newest()
        if newest is not None:
            runtime.restore(newest)
        return runtime

    yield make
    for each in stores:
        each.close()


def watched(runtime: Runtime) -> list[tuple[int, dict[str, bool]]]:
    """The level after each tick, and for each tensor that no move may change: is it the same."""
    told: list[tuple[int, dict[str, bool]]] = []
    on_tick = runtime.engine.on_tick
    learner = runtime.engine.learner

    def kept() -> dict[str, Tensor]:
        state = learner.lane_state | {"W": learner.parameters()[0], "V": learner.parameters()[1]}
        return {name: t.clone() for name, t in state.items() if not name.startswith("credit.")}

    def tick(each: Any) -> None:
        before = kept()
        on_tick(each)
        after = kept()
        level = runtime.governor.level
        told.append((level, {name: before[name].equal(after[name]) for name in before}))

    runtime.engine.on_tick = tick
    return told


def written(runtime: Runtime) -> list[Record]:
    sink = runtime.outputs.sinks[0]
    assert isinstance(sink, ListSink)
    return sink.records


def refused(runtime: Runtime) -> list[Record]:
    assert isinstance(runtime.outputs.dead_letters, ListSink)
    return runtime.outputs.dead_letters.records


def way(told: list[tuple[int, Any]]) -> list[int]:
    """The levels in order, repetitions left out."""
    levels = [0, *(level for level, _ in told)]
    return [b for a, b in zip([-1, *levels], levels, strict=False) if a != b]


def assert_sound(runtime: Runtime, told: list[tuple[int, dict[str, bool]]], n: int) -> None:
    assert [line["position"] for line in written(runtime)] == [i for i in range(n) if i != 50]
    assert [letter["position"] for letter in refused(runtime)] == [50]
    assert all(all(same.values()) for _, same in told)
    assert all(p.isfinite().all() for p in runtime.engine.learner.parameters())
    predictions = [line["prediction"] for line in written(runtime)]
    assert all(math.isfinite(p) for p in predictions)
    assert len(set(predictions)) > n / 2


def test_unsound_credit_takes_every_edge_down_and_calm_every_edge_up(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = make(EVERY_EDGE, [*records(N_EVENTS, BAD_AT), EndOfStream()])
    told = watched(runtime)
    with caplog.at_level(logging.WARNING, "stream_rnn.runtime.rungs"):
        runtime.run()
    assert way(told) == DOWN_AND_UP
    assert_sound(runtime, told, N_EVENTS)
    moves = {key: n for key, n in runtime.metrics.fallback_moves.items() if n}
    assert moves == {("down", "unsound"): 3, ("up", "calm"): 3}
    names = [*RULES, *BELOW]
    for (start, end), record in zip(pairwise(DOWN_AND_UP), caplog.records, strict=True):
        reason = "the credit was unsound" if end > start else "calm again"
        expected = rf"fallback: {names[start]} -> {names[end]} at tick \d+ \({reason}\)"
        assert re.fullmatch(expected, record.getMessage())


def test_each_move_is_in_a_snapshot_at_once(make: Make, tmp_path: Path) -> None:
    script = [*records(12, BAD_AT[:1]), RuntimeError("a bug")]
    with pytest.raises(RuntimeError, match="a bug"):
        make(EVERY_EDGE, script).run()  # an exception never checkpoints, and no schedule is given
    (path,) = snapshot.snapshots(tmp_path / "state")
    loaded = snapshot.read(path)
    assert loaded.step == BAD_AT[0] + 1
    assert json.loads(loaded.host)["governor"]["path"] == [0, 1]


def test_a_run_without_moves_asks_for_no_snapshot(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        make(EVERY_EDGE, [*records(12), RuntimeError("a bug")]).run()
    assert snapshot.snapshots(tmp_path / "state") == []


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"at{cut}")
def test_a_restart_on_any_rung_goes_on_bit_for_bit(
    make: Make, whole: Runtime, cut: int, how: str
) -> None:
    stream = records(N_EVENTS, BAD_AT)
    if how == "stopped":
        first = make(EVERY_EDGE, [*stream, EndOfStream()])
        first.run(max_events=cut)
    else:
        first = make(EVERY_EDGE, [*stream[:cut], RuntimeError("killed")], every_events=7)
        with pytest.raises(RuntimeError, match="killed"):
            first.run()
    second = make(EVERY_EDGE, [*stream, EndOfStream()])
    started_on = second.governor.level
    assert second.ladder is not None
    assert second.ladder.level == started_on
    second.run()
    lines = {line["id"]: line | {"replayed": False} for line in written(first) + written(second)}
    assert list(lines.values()) == [line | {"replayed": False} for line in written(whole)]
    mine, other = second.engine.learner.state_dict(), whole.engine.learner.state_dict()
    assert mine.keys() == other.keys()
    assert not [name for name in other if not mine[name].equal(other[name])]
    assert second.governor.state_dict() == whole.governor.state_dict()
    assert json.dumps(second.engine.state_dict()) == json.dumps(whole.engine.state_dict())


def test_noise_of_the_estimator_leads_to_the_rule_without(make: Make) -> None:
    noisy = {"noise_limit": 1e-9, "every": 5, "readings": 2, "cooldown": 1000}
    runtime = make(noisy, [*records(60), EndOfStream()])
    told = watched(runtime)
    runtime.run()
    assert [level for level, _ in told] == [0] * 9 + [1] * (len(told) - 9)
    assert runtime.metrics.fallback_moves["down", "noise"] == 1
    assert_sound(runtime, told, 60)


def test_a_budget_no_tick_can_keep_leads_all_the_way_down(make: Make) -> None:
    slow = {"tick_budget_us": 1e-3, "every": 5, "readings": 2}
    runtime = make(slow, [*records(60), EndOfStream()])
    told = watched(runtime)
    runtime.run()
    assert way(told) == [0, 1, 2, 3]
    assert runtime.metrics.fallback_moves["down", "slow"] == 3
    assert runtime.metrics.fallback_exhausted["slow"] == runtime.governor.exhausted["slow"] > 0
    assert_sound(runtime, told, 60)


def test_a_backlog_leads_down_and_its_end_up_again(make: Make) -> None:
    """The source tells how many events are left."""
    lagging = {"lag_limit_events": 150, "every": 5, "readings": 2, "cooldown": 11}
    runtime = make(lagging, [*records(220), EndOfStream()], poll_events=1)
    told = watched(runtime)
    runtime.run()
    assert way(told) == DOWN_AND_UP
    assert runtime.metrics.fallback_moves["down", "lag"] == 3
    assert_sound(runtime, told, 220)


def test_the_rungs_are_seen_from_outside(make: Make) -> None:
    runtime = make(EVERY_EDGE | {"cooldown": 1000}, [*records(30, BAD_AT), EndOfStream()])
    runtime.run()
    status = runtime.watch.status()
    assert (status["fallback_level"], status["rule"]) == (3, "frozen")
    assert (status["fallback_reason"], status["teaches"]) == ("unsound", "nothing")
    assert runtime.metrics.fallback_level == 3
    assert runtime.metrics.update_skips["fallback"] > 0

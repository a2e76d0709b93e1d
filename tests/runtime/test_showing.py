"""What a live page is told: the numbers of /metrics, only while somebody watches, for nothing."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.runtime.feed import Feed
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import EndOfStream
from stream_rnn.testing import ListSink, ScriptedSource

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "y", "horizon": 2},
    "learner": {"cell": {"kind": "gru", "units": 4}, "credit": {"kind": "ok", "rank": 1}},
    "state": {"dir": "unused"},
}
CLASSES = {"task": {"kind": "next_symbol", "field": "y", "vocabulary": ["a", "b", "c"]}}


class Clock:
    """Half a second passes at each look: whatever may be due is due."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def runtime_of(events: list[Any], registry: CollectorRegistry, **tables: Any) -> Runtime:
    job = app.build(TABLES | tables)
    job.source, job.dead_letters = ScriptedSource([*events, EndOfStream()]), ListSink()
    job.sinks = [ListSink()]
    runtime = make_runtime(job, None, registry, Console(io.StringIO()))
    runtime.clock = runtime.watch._clock = Clock()
    return runtime


def numbers(n: int) -> list[Any]:
    return [{"y": n % 5} for n in range(n)]


def frames(runtime: Runtime) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in runtime.watch.feed.since(0)[1]]


def test_a_frame_says_what_the_metrics_say() -> None:
    registry = CollectorRegistry()
    runtime = runtime_of([*numbers(40), b"bad"], registry)
    runtime.watch.feed.join()
    runtime.run()
    last = frames(runtime)[-1]

    def metric(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"stream_rnn_{name}", labels)

    assert last["events"] == metric("events_applied_total") == 40
    assert last["loss"] == pytest.approx(metric("prequential_loss"), rel=1e-12)
    for name, loss in last["baselines"].items():
        assert loss == pytest.approx(metric("baseline_loss", baseline=name), rel=1e-12)
    assert last["step"] == metric("step")
    assert last["fallback_level"] == metric("fallback_level")
    assert last["rejected"]["decode"] == metric("events_rejected_total", stage="decode") == 1
    assert metric("credit_info", rule=last["rule"]) == 1


def test_of_targets_in_different_units_the_relative_error_is_told() -> None:
    """A mean of losses would be the larger unit's alone."""
    task = {"kind": "forecast", "target": ["small", "large"], "horizon": 1}
    events = [{"small": n % 3, "large": 1e6 * (n % 5)} for n in range(60)]
    registry = CollectorRegistry()
    runtime = runtime_of(events, registry, task=task)
    runtime.watch.feed.join()
    runtime.run()
    last, told = frames(runtime)[-1], runtime.watch.about()
    assert told["figure"] == runtime.watch.status()["figure"] == "NRMSE"
    assert 0 < last["loss"] < 5
    assert registry.get_sample_value("stream_rnn_prequential_loss") == last["loss"]
    assert 0 < last["baselines"]["persistence"] < 5
    assert runtime_of([], CollectorRegistry()).watch.about()["figure"] == "loss"


def test_nothing_is_collected_while_nobody_watches() -> None:
    runtime = runtime_of(numbers(40), CollectorRegistry())
    runtime.run()
    assert frames(runtime) == []
    assert runtime.engine.on_score is None
    assert not runtime.watch._showing._ticks


def test_watching_changes_nothing_that_is_learned() -> None:
    learned = []
    for watchers in (0, 1):
        runtime = runtime_of(numbers(60), CollectorRegistry())
        for _ in range(watchers):
            runtime.watch.feed.join()
        runtime.run()
        assert bool(frames(runtime)) == bool(watchers)
        learned.append(runtime.engine)
    alone, watched = learned
    state = alone.learner.state_dict()
    assert all(watched.learner.state_dict()[name].equal(state[name]) for name in state)
    assert json.dumps(watched.state_dict()) == json.dumps(alone.state_dict())


def test_a_long_poll_is_shown_while_it_is_worked_off() -> None:
    runtime = runtime_of(numbers(50), CollectorRegistry())
    runtime.engine.learn_in_runs(1)  # event by event, as where a tick takes long
    runtime.watch.feed.join()
    runtime.run()  # one poll brings them all
    assert len({frame["events"] for frame in frames(runtime)}) > 10


def test_the_scored_predictions_come_in_order_each_once() -> None:
    seen: list[tuple[float, float]] = []
    runtime = runtime_of(numbers(60), CollectorRegistry())
    runtime.engine.on_score = lambda p, t, *_: seen.append((p[0], t[0]))  # type: ignore[index]
    runtime.watch.feed.join()
    runtime.run()
    told = [tuple(pair) for frame in frames(runtime) for pair in frame["scored"]["pairs"]]
    assert len(told) > 40
    assert told == seen[-len(told) :]
    assert frames(runtime)[-1]["scored"]["until"] == len(seen) == 58


def test_who_opens_the_page_late_is_told_the_newest_scored_predictions() -> None:
    runtime = runtime_of(numbers(200), CollectorRegistry())
    runtime.run()
    runtime.watch.feed.join()
    for _ in range(2):
        runtime.watch.publish()
    scored = frames(runtime)[-1]["scored"]
    assert scored["until"] == 198
    assert [truth for _, truth in scored["pairs"]] == [n % 5 for n in range(200)][-128:]


def test_who_listened_to_scores_before_listens_still_when_the_watcher_has_gone() -> None:
    runtime = runtime_of(numbers(60), CollectorRegistry())
    seen: list[float] = []

    def listen(prediction: Any, target: Any, loss: float, stream: str) -> None:
        seen.append(loss)
        if len(seen) == 30:
            runtime.watch.feed.leave()

    runtime.engine.on_score = listen
    runtime.watch.feed.join()
    runtime.run()
    assert len(seen) == 58
    assert runtime.engine.on_score is listen


def test_of_classes_the_probability_of_the_one_that_came_is_told() -> None:
    runtime = runtime_of([{"y": "abc"[n % 3]} for n in range(40)], CollectorRegistry(), **CLASSES)
    runtime.watch.feed.join()
    runtime.run()
    pairs = [pair for frame in frames(runtime) for pair in frame["scored"]["pairs"]]
    assert {truth for _, truth in pairs} == {1.0}
    assert all(0.0 < probability < 1.0 for probability, _ in pairs)


def test_the_newest_dead_letters_are_told_in_short() -> None:
    bad = [b"x" * 100, *({"y": f"<b>{n}</b>" + "y" * 999} for n in range(9))]
    runtime = runtime_of([*numbers(3), *bad, *numbers(3)], CollectorRegistry())
    runtime.poll_events = 1
    runtime.watch.feed.join()
    runtime.run()
    letters = frames(runtime)[-1]["letters"]
    assert [letter["id"] for letter in letters] == [f"script:{n}" for n in range(8, 13)]
    assert {letter["stage"] for letter in letters} == {"features"}
    assert all(letter.keys() == {"id", "stage", "issue", "reason"} for letter in letters)
    assert all(len(letter["reason"]) <= 300 for letter in letters)


def test_the_durations_of_a_frame_are_those_of_its_ticks() -> None:
    runtime = runtime_of(numbers(40), CollectorRegistry())
    runtime.watch.feed.join()
    runtime.run()
    told = [(f["tick_p50_s"], f["tick_p99_s"]) for f in frames(runtime) if f["tick_p50_s"]]
    assert told
    assert all(0.0 < p50 <= p99 for p50, p99 in told)


def test_a_loss_that_is_not_finite_is_null_and_a_reason() -> None:
    runtime = runtime_of(numbers(3), CollectorRegistry())
    runtime.watch.feed.join()
    scores = runtime.engine.task.scores
    scores.live = lambda: (float("nan"), {"persistence": float("inf")})  # type: ignore[method-assign]
    runtime.run()
    last = frames(runtime)[-1]
    assert last["loss"] is None
    assert last["baselines"]["persistence"] is None
    assert "the loss is not finite" in last["ready"]


# The ring --------------------------------------------------------------------------------------


def feed_of(kept: int = 4, about: Callable[[], dict[str, object]] = dict) -> Feed:
    return Feed(about, kept)


def test_the_ring_keeps_the_newest_frames() -> None:
    feed = feed_of(kept=4)
    for n in range(10):
        feed.put(b"%d" % n)
    assert feed.since(0) == (10, [b"6", b"7", b"8", b"9"])
    assert feed.since(8) == (10, [b"8", b"9"])
    assert feed.since(10) == (10, [])


def test_an_empty_ring_has_no_frames() -> None:
    assert feed_of().since(0) == (0, [])


def test_a_reader_that_is_overtaken_leaves_out_what_it_missed() -> None:
    feed = feed_of(kept=3)
    for n in range(3):
        feed.put(b"%d" % n)
    feed._ring[0] = (3, b"3")  # the writer is in the middle of `put`: replaced, not yet counted
    assert feed.since(0) == (3, [b"1", b"2"])
    feed.put(b"3")
    assert feed.since(3) == (4, [b"3"])


def test_one_thread_writes_while_another_reads() -> None:
    feed, done = feed_of(kept=3), threading.Event()

    def write() -> None:
        for n in range(30_000):
            feed.put(b"%d" % n)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    got: list[int] = []
    n = 0
    while not done.is_set() or n < 30_000:
        n, some = feed.since(n)
        got += map(int, some)
    writer.join()
    assert got == sorted(set(got))
    assert got[-1] == 29_999


def test_metrics_and_status_call_the_promise_the_same() -> None:
    registry = CollectorRegistry()
    level = runtime_of([], registry).watch.status()["sources"][0]["level"]
    labels = {"source": "source", "level": level}
    assert registry.get_sample_value("stream_rnn_guarantee_info", labels) == 1

"""What the daemon tells of itself while it runs: polls, waiting, the loop, saving, room."""

import io
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.checkpoint import room
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.runtime.checkpointing import Schedule
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import Batch, EndOfStream, NotConnected, Source
from stream_rnn.testing import ListSink, ScriptedSource

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "y"},
    "lanes": {"key": "id", "capacity": 1},
    "learner": {
        "cell": {"kind": "gru", "units": 4},
        "credit": {"kind": "ok", "rank": 1},
        "optimizer": {"kind": "adam", "lr": 0.01},
    },
}
Make = Callable[..., Runtime]


class SlowSource(ScriptedSource):
    """Takes its time for each poll."""

    def poll(self, max_events: int, timeout_s: float) -> Any:
        time.sleep(0.02)
        return super().poll(max_events, timeout_s)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A runtime with a state folder; it goes on where the one before it ended."""
    stores: list[Store] = []

    def make(source: Source, registry: CollectorRegistry | None = None) -> Runtime:
        for each in stores:
            each.close()
        job = app.build(TABLES | {"state": {"dir": str(tmp_path / "state"), "every_s": 1e9}})
        job.source, job.sinks, job.dead_letters = source, [ListSink()], ListSink()
        store = Store(tmp_path / "state")
        store.open()
        stores.append(store)
        runtime = make_runtime(job, store, registry or CollectorRegistry(), Console(io.StringIO()))
        newest = store.newest()
        if newest is not None:
            runtime.restore(newest)
        return runtime

    yield make
    for each in stores:
        each.close()


def records(n: int) -> list[dict[str, Any]]:
    """The fourth of each five is not as configured, every second one is of another stream."""
    return [{"y": "x" if i % 5 == 3 else math.sin(i), "id": "ab"[i % 2]} for i in range(n)]


def test_polls_are_counted_by_what_they_brought(make: Make) -> None:
    runtime = make(ScriptedSource([*records(20), EndOfStream()]))
    runtime.poll_events = 8
    runtime.run()
    assert runtime.metrics.polls["full"] == 2
    assert runtime.metrics.polls["part"] == 1


def test_the_time_of_a_poll_that_drained_the_source_is_waiting(make: Make) -> None:
    runtime = make(SlowSource([*records(10), EndOfStream()]))
    runtime.run()
    assert runtime.metrics.stage_seconds["wait"] > 0.02
    assert runtime.metrics.stage_seconds["receive"] == 0.0


def test_the_time_of_a_poll_that_left_some_behind_is_receiving(make: Make) -> None:
    runtime = make(SlowSource(records(10)))
    runtime.run(max_events=5)
    assert runtime.metrics.stage_seconds["receive"] > 0.02
    assert runtime.metrics.stage_seconds["wait"] == 0.0


def test_the_time_without_a_source_is_waiting(make: Make) -> None:
    runtime = make(ScriptedSource([*records(5), NotConnected("gone"), EndOfStream()]))
    runtime.run()
    assert runtime.metrics.reconnects == 1
    assert runtime.metrics.stage_seconds["receive"] == 0.0


def test_a_restart_does_not_count_the_past_again(make: Make) -> None:
    first = make(ScriptedSource([*records(20), EndOfStream()]))
    first.run()
    evictions = first.metrics.lane_evictions
    assert evictions > 5
    assert first.metrics.feature_issues["wrong_type"] == 4
    second = make(ScriptedSource([*records(40), EndOfStream()]))
    assert second.engine.lanes.evictions == evictions
    second.watch.publish(final=True)
    assert second.metrics.lane_evictions == 0
    assert second.metrics.feature_issues["wrong_type"] == 0
    second.run()
    assert second.metrics.feature_issues["wrong_type"] == 4


def test_it_is_ready_as_the_page_says(make: Make, registry: CollectorRegistry) -> None:
    runtime = make(ScriptedSource([*records(5), EndOfStream()]), registry)
    assert registry.get_sample_value("stream_rnn_ready") == 0  # not yet connected
    runtime.run()
    assert runtime.watch.ready() == []
    assert registry.get_sample_value("stream_rnn_ready") == 1


def test_what_is_unsaved_has_an_age_until_it_is_saved(
    make: Make, registry: CollectorRegistry
) -> None:
    ages: list[float | None] = []
    runtime = make(ScriptedSource([*records(5), EndOfStream()]), registry)
    tick = runtime.engine.on_tick

    def on_tick(each: Any) -> None:
        tick(each)
        ages.append(registry.get_sample_value("stream_rnn_unsaved_seconds"))

    runtime.engine.on_tick = on_tick
    runtime.run()
    assert all(age is not None and age > 0 for age in ages[1:])
    assert registry.get_sample_value("stream_rnn_unsaved_seconds") == 0


def test_a_silence_does_not_count_as_unsaved_once_something_comes(make: Make) -> None:
    now, polls, ages = 0.0, 0, list[float]()

    class Silent(ScriptedSource):
        """One event that is saved, hours of nothing, one event more."""

        def poll(self, max_events: int, timeout_s: float) -> Batch:
            nonlocal now, polls
            polls += 1
            if polls == 2:
                assert runtime.checkpointing._writer is not None
                runtime.checkpointing._writer.drain(60.0)
                runtime.checkpointing.schedule = Schedule(None, 1000)
            if polls in (2, 3, 4, 5):
                now += 1800.0
                return Batch((), {})
            return super().poll(1, timeout_s)

    runtime = make(Silent([*records(2), EndOfStream()]))
    runtime.checkpointing.schedule = Schedule(None, 1)
    runtime.checkpointing._clock = lambda: now
    tick = runtime.engine.on_tick

    def on_tick(each: Any) -> None:
        tick(each)
        ages.append(runtime.checkpointing.unsaved_s())

    runtime.engine.on_tick = on_tick
    runtime.run()
    assert polls > 5
    assert ages[-1] < 3600.0  # "no snapshot for 7200 s" would be a false alarm


def test_a_loop_that_hangs_in_one_call_ages(make: Make, registry: CollectorRegistry) -> None:
    make(ScriptedSource([]), registry)
    before = registry.get_sample_value("stream_rnn_loop_age_seconds")
    time.sleep(0.02)
    after = registry.get_sample_value("stream_rnn_loop_age_seconds")
    assert before is not None
    assert after is not None
    assert after >= before + 0.02


def test_the_noise_of_an_estimator_is_published(make: Make) -> None:
    one_stream = [{"y": i % 5, "id": "a"} for i in range(40)]
    runtime = make(ScriptedSource([*one_stream, EndOfStream()]))
    runtime.run()
    assert runtime.metrics.credit_noise is not None
    assert runtime.metrics.credit_noise > 0


def test_the_room_of_the_state_folder_is_that_of_its_disk(
    make: Make, registry: CollectorRegistry, tmp_path: Path
) -> None:
    make(ScriptedSource([]), registry)
    disk = shutil.disk_usage(tmp_path)
    assert registry.get_sample_value("stream_rnn_state_size_bytes") == disk.total
    free = registry.get_sample_value("stream_rnn_state_free_bytes")
    assert free == pytest.approx(disk.free, rel=0.05)  # others write meanwhile


def test_the_room_of_a_folder_that_is_gone_is_unknown(tmp_path: Path) -> None:
    assert room.free_bytes(tmp_path / "gone") is None
    assert room.size_bytes(tmp_path / "gone") is None

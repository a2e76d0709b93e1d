"""The loop: nothing is lost when connections break, and a snapshot is what was applied."""

import io
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.checkpoint.store import Store
from stream_rnn.config import ConfigError
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.engine.frames import numerics
from stream_rnn.runtime.connection import SourceGone
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Guarantee,
    NotConnected,
    Position,
    Record,
    Sink,
    Source,
)
from stream_rnn.testing import ListSink, ScriptedSource

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "y", "horizon": 2},
    "learner": {
        "cell": {"kind": "gru", "units": 4},
        "credit": {"kind": "ok", "rank": 1},
        "optimizer": {"kind": "adam", "lr": 0.01},
    },
}
LOG = {"lanes": {"key": "id", "capacity": 3, "batching": "log"}}
Make = Callable[..., Runtime]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A runtime around a source; with `store`, the folder of that name under tmp_path."""
    stores: list[Store] = []

    def make(
        source: Source, sink: Sink | None = None, store: str | None = "state", **tables: Any
    ) -> Runtime:
        for each in stores:
            each.close()
        state = {"dir": str(tmp_path / (store or "none")), "every_s": 1e9}
        job = app.build({"state": state} | TABLES | tables)
        job.source, job.dead_letters = source, ListSink()
        job.sinks = [ListSink() if sink is None else sink]
        kept = None
        if store is not None:
            kept = Store(tmp_path / store)
            kept.open()
            stores.append(kept)
        runtime = make_runtime(job, kept, CollectorRegistry(), Console(io.StringIO()))
        newest = None if kept is None else kept.newest()
        if newest is not None:
            runtime.restore(newest)
        return runtime

    yield make
    for each in stores:
        each.close()


def records(n: int) -> list[Record]:
    return [{"y": math.sin(i / 2) * 10 + i % 5, "id": "abc"[i * i % 3]} for i in range(n)]


def written(runtime: Runtime) -> list[Record]:
    sink = runtime.outputs.sinks[0]
    assert isinstance(sink, ListSink)
    return sink.records


def newest(tmp_path: Path) -> snapshot.Loaded:
    return snapshot.read(snapshot.snapshots(tmp_path / "state")[0])


# Snapshots ------------------------------------------------------------------------------------


def test_a_stream_that_ends_leaves_a_snapshot_of_all_of_it(make: Make, tmp_path: Path) -> None:
    source = ScriptedSource([*records(20), EndOfStream()])
    runtime = make(source)
    runtime.run()
    assert [line["position"] for line in written(runtime)] == list(range(20))
    assert newest(tmp_path).positions == {"source": {"script": 19}}
    assert newest(tmp_path).step == 20
    assert source.acked == [{"script": 19}]
    assert source.n_closed == 1


class Asked(ScriptedSource):
    """Notes what half of the smallest normal number is where the run polls."""

    halves: list[float]

    def poll(self, max_events: int, timeout_s: float) -> Batch:
        self.halves.append(half_of_the_smallest())
        return super().poll(max_events, timeout_s)


def half_of_the_smallest() -> float:
    return float(torch.full((8,), torch.finfo(torch.float32).tiny).mul(0.5)[0])


def test_denormal_numbers_are_zero_while_a_run_lasts(make: Make) -> None:
    with numerics():
        flushed = half_of_the_smallest()  # a processor that cannot do it keeps it
    before = half_of_the_smallest()
    assert before > 0
    source = Asked([*records(3), EndOfStream()])
    source.halves = []
    make(source).run()
    assert set(source.halves) == {flushed}
    assert half_of_the_smallest() == before


@pytest.mark.parametrize("tables", [{}, LOG], ids=["event", "log"])
def test_a_run_in_two_parts_equals_a_run_in_one(make: Make, tables: Any) -> None:
    whole = make(ScriptedSource([*records(60), EndOfStream()]), store="one", **tables)
    whole.run()
    first = make(ScriptedSource([*records(60), EndOfStream()]), **tables)
    first.run(max_events=25)
    second = make(ScriptedSource([*records(60), EndOfStream()]), **tables)
    second.run()
    assert written(first) + written(second) == written(whole)
    mine, other = second.engine.learner.state_dict(), whole.engine.learner.state_dict()
    assert all(mine[name].equal(other[name]) for name in other)
    assert json.dumps(second.engine.state_dict()) == json.dumps(whole.engine.state_dict())


def test_a_run_with_snapshots_equals_one_without(make: Make) -> None:
    state = {"dir": "unused", "every_events": 7}
    with_snapshots = make(ScriptedSource([*records(60), EndOfStream()]), state=state)
    with_snapshots.run()
    without = make(ScriptedSource([*records(60), EndOfStream()]), store=None)
    without.run()
    assert with_snapshots.metrics.snapshots > 1  # a fast learner outruns the writer
    assert written(with_snapshots) == written(without)
    mine, other = with_snapshots.engine.learner.state_dict(), without.engine.learner.state_dict()
    assert all(mine[name].equal(other[name]) for name in other)


def test_at_most_the_events_asked_for_are_taken(make: Make) -> None:
    runtime = make(ScriptedSource(records(20)))
    runtime.run(max_events=7)
    assert len(written(runtime)) == 7


class Notes(ListSink):
    """Tells a shared list when it was flushed."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self.notes = notes

    def flush(self) -> None:
        super().flush()
        self.notes.append(f"flushed {self.n_flushed}")


class NotedSource(ScriptedSource):
    """Tells a shared list when it was acknowledged, and how many snapshots there were then."""

    notes: list[str]
    folder: Path

    def ack(self, resume: Position) -> None:
        super().ack(resume)
        steps = [path.name for path in snapshot.snapshots(self.folder)]
        self.notes.append(f"acked {resume['script']} with {steps[0]}")


def test_sinks_are_flushed_before_the_snapshot_and_the_source_acked_after_it(
    make: Make, tmp_path: Path
) -> None:
    notes: list[str] = []
    source = NotedSource([*records(9), EndOfStream()])
    source.notes, source.folder = notes, tmp_path / "state"
    make(source, Notes(notes)).run()
    assert notes[:2] == ["flushed 9", "acked 8 with step-000000000009"]


def test_no_snapshot_skips_an_event_whose_dead_letter_is_not_on_disk(
    make: Make, tmp_path: Path
) -> None:
    runtime = make(ScriptedSource([*records(3), b"no JSON", EndOfStream()]))
    runtime.outputs.dead_letters = Unflushable()
    with pytest.raises(CheckpointError):
        runtime.run()
    assert snapshot.snapshots(tmp_path / "state") == []


class Unflushable(ListSink):
    def flush(self) -> None:
        raise OSError("no space left on device")

    def close(self) -> None:
        self.is_open = False


def test_a_last_snapshot_that_fails_is_an_error_and_nothing_is_acked(
    make: Make, tmp_path: Path
) -> None:
    source = ScriptedSource([*records(9), EndOfStream()])
    runtime = make(source, Unflushable())
    with pytest.raises(CheckpointError, match="9 events are in none"):
        runtime.run()
    assert source.acked == []
    assert snapshot.snapshots(tmp_path / "state") == []
    assert runtime.metrics.snapshot_failures >= 1


def test_after_a_crash_nothing_is_written_that_was_not_whole(make: Make, tmp_path: Path) -> None:
    runtime = make(ScriptedSource([*records(9), RuntimeError("a bug")]))
    with pytest.raises(RuntimeError, match="a bug"):
        runtime.run()
    assert snapshot.snapshots(tmp_path / "state") == []


def test_what_was_emitted_before_a_crash_is_told_as_replayed(make: Make) -> None:
    crash = make(ScriptedSource([*records(9), RuntimeError("a bug")]))
    with pytest.raises(RuntimeError):
        crash.run()
    again = make(ScriptedSource([*records(12), EndOfStream()]))
    again.run()
    told = [line["replayed"] for line in written(again)]
    assert told == [True] * 9 + [False] * 3
    first = [line | {"replayed": True} for line in written(crash)]
    assert written(again)[:9] == first


def test_a_snapshot_of_another_shape_is_refused_with_the_remedy(make: Make) -> None:
    make(ScriptedSource([*records(5), EndOfStream()])).run()
    learner = TABLES["learner"] | {"cell": {"kind": "gru", "units": 5}}
    with pytest.raises(ConfigError, match=r"does not fit this model.*--fresh"):
        make(ScriptedSource([]), learner=learner)


# Sources that break ---------------------------------------------------------------------------


@pytest.mark.parametrize("tables", [{}, LOG], ids=["event", "log"])
@pytest.mark.parametrize("guarantee", [Guarantee.REPLAYABLE, Guarantee.FIRE_AND_FORGET], ids=str)
def test_a_connection_that_breaks_loses_nothing_and_repeats_nothing(
    make: Make, tables: Any, guarantee: Guarantee
) -> None:
    stream = records(30)
    calm = make(ScriptedSource([*stream, EndOfStream()], guarantee), store="calm", **tables)
    calm.run()
    breaks: list[Any] = [
        *stream[:8],
        NotConnected("cut"),
        *stream[8:9],
        NotConnected("cut"),
        *stream[9:],
    ]
    source = ScriptedSource([*breaks, EndOfStream()], guarantee)
    runtime = make(source, **tables)
    runtime.run()
    assert written(runtime) == written(calm)
    assert len(source.opened) == 3
    assert runtime.metrics.reconnects == 2


@pytest.mark.parametrize("tables", [{}, LOG], ids=["event", "log"])
def test_events_that_came_before_are_dropped_and_counted(make: Make, tables: Any) -> None:
    stream = [Event("p", n, json.dumps(r).encode()) for n, r in enumerate(records(10))]
    doubled: list[Any] = [*stream[:5], *stream[2:6], *stream[6:], stream[9], EndOfStream()]
    runtime = make(ScriptedSource(doubled), **tables)
    runtime.run()
    assert [line["position"] for line in written(runtime)] == list(range(10))
    assert runtime.metrics.duplicates_dropped == 4


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("tables", [{}, LOG], ids=["event", "log"])
def test_a_poll_of_repetitions_alone_takes_the_position_nowhere_back(
    make: Make, tables: Any, size: int
) -> None:
    stream = [Event("p", n, json.dumps(r).encode()) for n, r in enumerate(records(10))]
    script = [*stream[:6], *stream[1:], EndOfStream()]
    runtime = make(ScriptedSource(script), limits={"poll_events": size}, **tables)
    runtime.run()
    assert [line["position"] for line in written(runtime)] == list(range(10))
    assert runtime.metrics.duplicates_dropped == 5


def test_what_an_acknowledging_source_brings_again_over_several_polls_counts_once(
    make: Make,
) -> None:
    stream = records(12)
    script = [*stream[:8], NotConnected("cut"), *stream[8:], EndOfStream()]
    source = ScriptedSource(script, Guarantee.ACKABLE)
    source.acked.append({"script": 1})
    runtime = make(source, limits={"poll_events": 2})
    runtime.run()
    assert [line["position"] for line in written(runtime)] == list(range(2, 12))


@pytest.mark.parametrize("guarantee", [Guarantee.REPLAYABLE, Guarantee.FIRE_AND_FORGET], ids=str)
def test_an_event_refused_before_the_connection_broke_is_counted_once(
    make: Make, guarantee: Guarantee
) -> None:
    stream = records(4)
    del stream[1]["id"]
    script = [*stream[:2], NotConnected("cut"), *stream[2:], EndOfStream()]
    runtime = make(ScriptedSource(script, guarantee), **LOG)
    runtime.run()
    assert runtime.engine.task.features.issues == {"missing": 1}
    assert runtime.engine.counts.rejected["features"] == 1


class Gone(Source):
    """Opens or not, and breaks at the first poll."""

    guarantee = Guarantee.REPLAYABLE

    def __init__(self, opens: bool) -> None:
        self.opens = opens
        self.tries = 0

    def open(self, resume: Position | None) -> None:
        self.tries += 1
        if not self.opens:
            raise NotConnected("nobody is there")

    def poll(self, max_events: int, timeout_s: float) -> Batch:
        raise NotConnected("gone again")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("opens", [False, True])
def test_a_source_that_stays_away_is_tried_ever_more_rarely_then_given_up(
    make: Make, opens: bool
) -> None:
    source = Gone(opens)
    runtime = make(source, limits={"gone_s": 1.0})
    with pytest.raises(SourceGone, match=r"not reachable for 1 s \(\[limits\] gone_s\)"):
        runtime.run()
    assert 2 <= source.tries <= 6


def test_what_was_learned_before_the_source_went_away_is_saved(make: Make, tmp_path: Path) -> None:
    script: list[Any] = [*records(5), *(NotConnected("cut") for _ in range(9))]
    runtime = make(ScriptedSource(script), limits={"gone_s": 0.2})
    with pytest.raises(SourceGone):
        runtime.run()
    assert newest(tmp_path).positions == {"source": {"script": 4}}


@pytest.mark.parametrize("opens", [False, True])
def test_a_stop_ends_the_waiting_for_a_source(make: Make, opens: bool) -> None:
    runtime = make(Gone(opens))
    timer = threading.Timer(0.2, runtime.stop)
    timer.start()
    began = time.monotonic()
    runtime.run()
    assert time.monotonic() - began < 30.0  # whatever the back-off had become; gone_s is 300
    timer.join()


# Stopping -------------------------------------------------------------------------------------


def stop_at_tick(runtime: Runtime, n: int) -> None:
    runtime.engine.learn_in_runs(1)  # event by event, as where a tick takes long
    on_tick = runtime.engine.on_tick

    def tick(told: Any) -> None:
        on_tick(told)
        if runtime.engine.step == n:
            runtime.stop()

    runtime.engine.on_tick = tick


def test_a_stop_finishes_the_event_at_hand_and_the_rest_comes_again(
    make: Make, tmp_path: Path
) -> None:
    first = make(ScriptedSource([*records(20), EndOfStream()]))
    stop_at_tick(first, 7)
    first.run()
    assert len(written(first)) == 7
    assert newest(tmp_path).positions == {"source": {"script": 6}}
    second = make(ScriptedSource([*records(20), EndOfStream()]))
    second.run()
    assert [line["position"] for line in written(second)] == list(range(7, 20))


@pytest.mark.parametrize("tables", [{}, LOG], ids=["event", "log"])
def test_a_stop_first_learns_what_a_source_could_not_send_again(make: Make, tables: Any) -> None:
    runtime = make(ScriptedSource(records(20), Guarantee.FIRE_AND_FORGET), **tables)
    stop_at_tick(runtime, 2)
    runtime.run()
    assert [line["position"] for line in written(runtime)] == list(range(20))


# Sinks that break -----------------------------------------------------------------------------


class Flaky(ListSink):
    """Away for the first tries; tells how many snapshots there were at each."""

    def __init__(self, away: int, folder: Path) -> None:
        super().__init__()
        self.away, self.folder = away, folder
        self.snapshots: list[int] = []

    def open(self) -> None:
        if self.away % 2:
            self.away -= 1
            raise NotConnected("the database is down")
        super().open()

    def write(self, records: Sequence[Record]) -> None:
        self.snapshots.append(len(snapshot.snapshots(self.folder)))
        if self.away:
            self.away -= 1
            self.is_open = False
        super().write(records)


@pytest.mark.parametrize("away", [1, 2, 3])
def test_a_sink_that_is_away_for_a_while_gets_everything(
    make: Make, tmp_path: Path, away: int
) -> None:
    sink = Flaky(away, tmp_path / "state")
    runtime = make(ScriptedSource([*records(20), EndOfStream()]), sink, state={"every_s": 0.001})
    runtime.run()
    assert [line["position"] for line in sink.records] == list(range(20))
    assert sink.snapshots[0] == sink.snapshots[away // 2] == 0


class Full(ListSink):
    def write(self, records: Sequence[Record]) -> None:
        super().write(records)
        raise EndOfStream("nobody reads any more")


def test_a_sink_without_readers_drains_the_daemon(make: Make, tmp_path: Path) -> None:
    runtime = make(ScriptedSource(records(600)), Full())
    runtime.run()
    assert len(written(runtime)) == runtime.poll_events < 600  # one poll
    assert newest(tmp_path).positions == {"source": {"script": runtime.poll_events - 1}}


def test_dead_letters_go_to_their_own_sink_only(make: Make) -> None:
    runtime = make(ScriptedSource([*records(3), b"no JSON", *records(1), EndOfStream()]))
    runtime.run()
    assert [line["position"] for line in written(runtime)] == [0, 1, 2, 4]
    assert isinstance(runtime.outputs.dead_letters, ListSink)
    assert [letter["position"] for letter in runtime.outputs.dead_letters.records] == [3]


def test_a_dead_letter_says_when_it_was_written(make: Make) -> None:
    before = time.time()
    runtime = make(ScriptedSource([b"no JSON", EndOfStream()]))
    runtime.run()
    assert isinstance(runtime.outputs.dead_letters, ListSink)
    (letter,) = runtime.outputs.dead_letters.records
    assert before <= letter["written_at"] <= time.time()


# Looking --------------------------------------------------------------------------------------


def test_it_is_ready_while_connected_and_learning(make: Make) -> None:
    told: list[tuple[list[str], dict[str, Any]]] = []
    runtime = make(ScriptedSource([*records(20), EndOfStream()]))
    runtime.engine.learn_in_runs(1)  # event by event, as where a tick takes long
    on_tick = runtime.engine.on_tick

    def tick(each: Any) -> None:
        on_tick(each)
        told.append((runtime.watch.ready(), runtime.watch.status()))

    runtime.engine.on_tick = tick
    assert runtime.watch.ready() == ["the source is not connected"]
    runtime.run()
    assert [reasons for reasons, _ in told] == [[]] * 20
    assert [status["step"] for _, status in told] == list(range(1, 21))
    status = runtime.watch.status()
    assert status["guarantee"] == "replayable"
    assert status["positions"] == {"script": 19}
    assert status["events_applied"] == 20


def test_it_is_not_ready_once_the_learner_refuses_event_after_event(make: Make) -> None:
    runtime = make(ScriptedSource([*records(130), EndOfStream()]))
    runtime.engine.learn_in_runs(1)  # event by event, as where a tick takes long
    head = runtime.engine.learner.head
    told: list[list[str]] = []
    on_tick = runtime.engine.on_tick

    def tick(each: Any) -> None:
        on_tick(each)
        head.V_PF.fill_(1e30)  # diverged: every read-out is absurd from here on
        told.append(runtime.watch.ready())

    runtime.engine.on_tick = tick
    runtime.run()
    assert told[50] == []
    (reason,) = told[-1]
    assert "in a row: the model has diverged" in reason


def test_it_is_not_ready_while_no_snapshot_can_be_written(make: Make) -> None:
    cuts: list[Any] = [NotConnected("cut") for _ in range(3)]
    source = ScriptedSource([*records(3), *cuts, EndOfStream()])
    tables: dict[str, Any] = {"state": {"every_s": 0.05}, "limits": {"unsaved_s": 0.1}}
    runtime = make(source, Unflushable(), **tables)
    told: list[list[str]] = []
    housekeeping = runtime._housekeeping

    def spy(*, snapshots: bool = True) -> None:
        housekeeping(snapshots=snapshots)
        told.append(runtime.watch.ready())

    runtime._housekeeping = spy  # type: ignore[method-assign]
    with pytest.raises(CheckpointError):
        runtime.run()
    assert any("no snapshot for" in reason for reasons in told for reason in reasons)


def test_the_time_of_the_newest_event_stands_still_when_nothing_comes(make: Make) -> None:
    runtime = make(ScriptedSource([*records(3), EndOfStream()]))
    runtime.run()
    before = runtime.metrics.last_event_timestamp_seconds
    assert before is not None
    runtime.watch.publish(final=True)
    assert runtime.metrics.last_event_timestamp_seconds == before


def test_metrics_count_what_happened(make: Make) -> None:
    script: list[Any] = [*records(20), b"", {"y": None}, {"z": 1}, EndOfStream()]
    runtime = make(ScriptedSource(script))
    runtime.run()
    m = runtime.metrics
    assert m.events_in == {"source": 23}
    assert (m.events_applied, m.predictions, m.scored) == (20, 20, 18)
    assert (
        m.events_rejected == m.dead_letters == {"decode": 1, "features": 2, "learn": 0, "poison": 0}
    )
    assert m.step == 20
    assert m.snapshots == 1
    assert sum(m.tick_seconds.counts) == 20
    assert m.prequential_loss is not None
    assert m.baseline_loss["persistence"] is not None


@pytest.mark.parametrize(
    ("guarantee", "lost"),
    [(Guarantee.REPLAYABLE, 0), (Guarantee.ACKABLE, None), (Guarantee.FIRE_AND_FORGET, None)],
    ids=str,
)
def test_only_a_source_that_rewinds_knows_that_a_restart_lost_nothing(
    make: Make, guarantee: Guarantee, lost: int | None
) -> None:
    runtime = make(ScriptedSource([EndOfStream()], guarantee=guarantee))
    assert runtime.metrics.recovery_gap_events == lost


def test_log_lines_are_about_changes_not_events(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make(ScriptedSource([*records(200), b"bad", EndOfStream()])).run()
    assert len(caplog.records) <= 2

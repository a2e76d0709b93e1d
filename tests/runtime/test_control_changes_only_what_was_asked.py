"""The verbs of `ctl` in a run: what each does, what it leaves alone, what outlives a restart."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from torch import Tensor

from stream_rnn import app
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.journal.source import JournaledSource
from stream_rnn.runtime.checkpointing import Schedule
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import EndOfStream, Guarantee, NotConnected, Record, Sink, Source
from stream_rnn.testing import ListSink, ScriptedSource

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "y"},
    "learner": {
        "cell": {"kind": "gru", "units": 3},
        "credit": {"kind": "rtrl"},
        "optimizer": {"kind": "adam", "lr": 0.01},
    },
}
LOCKED = {"learner": TABLES["learner"] | {"credit": {"kind": "tbptt", "window": 6, "every": 5}}}
LOCKED["limits"] = {"poll_events": 12}
LOG = {"lanes": {"key": "id", "capacity": 3, "batching": "log"}}
Make = Callable[..., Runtime]
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy


class Telling(ListSink):
    """Calls back before it takes the predictions of a batch, the n-th of the run."""

    def __init__(self, at: dict[int, Callable[[], object]]) -> None:
        super().__init__()
        self.at = at
        self.writes = 0

    def write(self, records: Any) -> None:
        self.writes += 1
        self.at.get(self.writes, lambda: None)()
        super().write(records)


class Broken(ListSink):
    def flush(self) -> None:
        raise OSError("no space left")

    def close(self) -> None:
        """It would flush."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A runtime around a source; it continues from the newest snapshot in `store`."""
    stores: list[Store] = []

    def make(
        source: Source, sink: Sink | None = None, store: str = "state", **more: Any
    ) -> Runtime:
        for each in stores:
            each.close()
        tables = {"state": {"dir": str(tmp_path / store), "every_s": 1e9}} | TABLES | more
        tables["limits"] = {"poll_events": 10} | more.get("limits", {})
        job = app.build(tables)
        job.source, job.dead_letters = source, ListSink()
        job.sinks = [ListSink() if sink is None else sink]
        kept = Store(tmp_path / store)
        kept.open()
        stores.append(kept)
        runtime = make_runtime(job, kept, CollectorRegistry(), Console(io.StringIO()))
        newest = kept.newest()
        if newest is not None:
            runtime.restore(newest)
        return runtime

    yield make
    for each in stores:
        each.close()


@pytest.fixture
def started() -> Iterator[Callable[[Runtime], threading.Thread]]:
    """Runs in a thread; ends with the test."""
    running: list[tuple[Runtime, threading.Thread]] = []

    def started(runtime: Runtime) -> threading.Thread:
        thread = threading.Thread(target=runtime.run)
        running.append((runtime, thread))
        thread.start()
        return thread

    yield started
    for runtime, thread in running:
        runtime.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def records(n: int) -> list[Record]:
    return [{"y": (i * 7 % 11) / 3.0, "id": "abc"[i * i % 3]} for i in range(n)]


def stream(n: int, guarantee: Guarantee = Guarantee.REPLAYABLE) -> ScriptedSource:
    return ScriptedSource([*records(n), EndOfStream()], guarantee)


def parameters(runtime: Runtime) -> list[Tensor]:
    return [each.clone() for each in runtime.engine.learner.parameters()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


def everything(runtime: Runtime) -> tuple[list[bytes], str]:
    state = runtime.engine.learner.state_dict()
    tensors = [state[name].numpy().tobytes() for name in sorted(state)]
    return tensors, json.dumps(runtime.engine.state_dict())


def wait_for(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def host(tmp_path: Path) -> dict[str, Any]:
    newest = snapshot.read(snapshot.snapshots(tmp_path / "state")[0])
    decoded: dict[str, Any] = json.loads(newest.host)
    return decoded


# Freeze -----------------------------------------------------------------------------------------


def test_a_frozen_run_predicts_and_moves_no_parameter(make: Make) -> None:
    sink = Telling({1: lambda: runtime.control.ask("freeze")})  # after ten events
    runtime = make(stream(60), sink)
    runtime.run()
    learned = make(stream(60), store="ten")
    learned.run(max_events=10)
    assert equal(parameters(runtime), parameters(learned))
    assert runtime.freeze.since_step == 10
    assert len(sink.records) == 60


def test_a_frozen_run_takes_events_into_its_hidden_states(make: Make) -> None:
    runtime = make(stream(60), Telling({1: lambda: runtime.control.ask("freeze")}))
    runtime.run()
    early = make(stream(60), store="ten")
    early.run(max_events=10)
    mine, other = (each.engine.learner.recurrence.lane_state for each in (runtime, early))
    assert not all(mine[name].equal(other[name]) for name in mine)


def test_a_freeze_outlives_a_restart(make: Make) -> None:
    runtime = make(stream(60), Telling({1: lambda: runtime.control.ask("freeze")}))
    runtime.run(max_events=20)
    again = make(stream(60))
    before = parameters(again)
    again.run()
    assert again.freeze.since_step == 10
    assert equal(parameters(again), before)
    assert again.watch.status()["frozen_since_step"] == 10


def test_a_frozen_run_in_two_parts_equals_one_in_one(make: Make) -> None:
    whole = make(stream(60), Telling({1: lambda: whole.control.ask("freeze")}), store="whole")
    whole.run()
    first = make(stream(60), Telling({1: lambda: first.control.ask("freeze")}))
    first.run(max_events=33)
    second = make(stream(60))
    second.run()
    assert everything(second) == everything(whole)


def test_unfrozen_it_learns_again(make: Make) -> None:
    at = {1: lambda: runtime.control.ask("freeze"), 4: lambda: runtime.control.ask("unfreeze")}
    runtime = make(stream(60), Telling(at))
    runtime.run()
    frozen = make(stream(60), Telling({1: lambda: frozen.control.ask("freeze")}), store="frozen")
    frozen.run()
    assert runtime.freeze.since_step is None
    assert not equal(parameters(runtime), parameters(frozen))
    assert make(stream(0)).freeze.since_step is None  # the last snapshot says so, too


def test_what_a_locked_window_owes_is_paid_before_the_freeze(make: Make) -> None:
    runtime = make(stream(60), Telling({1: lambda: runtime.control.ask("freeze")}), **LOCKED)
    runtime.run()
    twelve = make(stream(60), store="twelve", **LOCKED)
    twelve.run(max_events=12)
    assert not equal(parameters(runtime), parameters(twelve))  # ten are paid for, two are owed
    twelve.engine.pay()
    assert equal(parameters(runtime), parameters(twelve))


def test_a_freeze_is_answered_when_it_is_durable(make: Make, tmp_path: Path) -> None:
    answers: list[Any] = []
    sink = Telling({1: lambda: answers.append(runtime.control.ask("freeze"))})
    runtime = make(stream(30), sink)
    runtime.run()
    said = answers[0].result(0)
    assert said["ok"] is True
    assert said["text"].startswith("frozen since step 10: predictions go on, nothing is learned; ")
    assert host(tmp_path)["freeze"] == {"since_step": 10}


def test_a_freeze_of_a_stream_at_rest_is_durable_too(
    make: Make, started: Callable[[Runtime], threading.Thread], tmp_path: Path
) -> None:
    runtime = make(ScriptedSource(records(10)))
    started(runtime)
    wait_for(lambda: runtime.engine.ordinal == 10)
    runtime.control.ask("checkpoint").result(PATIENCE_S)
    assert "step 10 is durable in" in runtime.control.ask("freeze").result(PATIENCE_S)["text"]
    assert host(tmp_path)["freeze"] == {"since_step": 10}
    runtime.control.ask("unfreeze").result(PATIENCE_S)
    assert "freeze" not in host(tmp_path)


def test_a_freeze_that_cannot_be_kept_says_so(make: Make) -> None:
    answers: list[Any] = []

    class Sinks(Broken, Telling):
        pass

    runtime = make(stream(40), Sinks({1: lambda: answers.append(runtime.control.ask("freeze"))}))
    with pytest.raises(Exception, match="the last snapshot could not be written"):
        runtime.run()
    said = answers[0].result(0)
    assert said["ok"] is False
    assert "frozen since step 10" in said["text"]
    assert "NOT durable: no space left" in said["text"]


def test_nothing_frozen_leaves_no_trace_in_a_snapshot(make: Make, tmp_path: Path) -> None:
    make(stream(10)).run()
    assert set(host(tmp_path)) == {"engine", "governor"}


def test_a_batch_that_takes_long_is_not_waited_for(make: Make) -> None:
    runtime = make(stream(60), limits={"poll_events": 60})
    runtime.engine.learn_in_runs(1)  # event by event, as where a tick takes long
    count = runtime.engine.on_events

    def ask(refused: Sequence[str | None]) -> None:
        count(refused)
        if runtime.engine.counts.applied == 7:
            runtime.control.ask("freeze")

    runtime.engine.on_events = ask
    runtime.run()
    assert runtime.freeze.since_step == 7


# Snapshots --------------------------------------------------------------------------------------


def test_a_snapshot_that_was_asked_for_is_answered_when_it_is_durable(
    make: Make, started: Callable[[Runtime], threading.Thread], tmp_path: Path
) -> None:
    runtime = make(ScriptedSource(records(10)))
    started(runtime)
    wait_for(lambda: runtime.engine.ordinal == 10)
    said = runtime.control.ask("checkpoint").result(PATIENCE_S)
    path = tmp_path / "state/step-000000000010"
    assert (said["ok"], said["saved_step"], said["path"]) == (True, 10, str(path))
    assert snapshot.read(path).step == 10


def test_asking_for_a_snapshot_changes_nothing_that_is_learned(make: Make) -> None:
    quiet = make(stream(60), store="quiet")
    quiet.run()
    at = {n: lambda: asked.control.ask("checkpoint") for n in range(1, 6)}
    asked = make(stream(60), Telling(at))
    asked.run()
    assert everything(asked) == everything(quiet)


def test_a_snapshot_waits_for_the_end_of_an_open_block(make: Make, tmp_path: Path) -> None:
    answers: list[Any] = []
    sink = Telling({2: lambda: answers.append(runtime.control.ask("checkpoint"))})
    runtime = make(stream(60), sink, **LOG)
    runtime.run()
    said = answers[0].result(0)
    whole = make(stream(60), store="whole", **LOG)
    whole.run()
    assert said["ok"] is True
    assert everything(runtime) == everything(whole)


def test_a_snapshot_that_fails_is_answered_with_its_failure(make: Make) -> None:
    answers: list[Any] = []

    class Sinks(Broken, Telling):
        pass

    runtime = make(
        stream(30), Sinks({1: lambda: answers.append(runtime.control.ask("checkpoint"))})
    )
    with pytest.raises(Exception, match="the last snapshot could not be written"):
        runtime.run()
    assert answers[0].result(0) == {
        "ok": False,
        "text": "snapshot taken, but the snapshot is NOT durable: no space left",
    }


def test_with_nothing_new_the_newest_snapshot_is_named(
    make: Make, started: Callable[[Runtime], threading.Thread]
) -> None:
    runtime = make(ScriptedSource(records(10)))
    started(runtime)
    wait_for(lambda: runtime.engine.ordinal == 10)
    first = runtime.control.ask("checkpoint").result(PATIENCE_S)
    second = runtime.control.ask("checkpoint").result(PATIENCE_S)
    assert (first["saved_step"], runtime.metrics.snapshots) == (10, 1)
    assert second["path"] == first["path"]


def test_snapshots_of_one_step_leave_in_the_journal_what_the_older_ones_need(
    make: Make, started: Callable[[Runtime], threading.Thread], tmp_path: Path
) -> None:
    events = [json.dumps({"y": i % 7, "pad": "x" * 500}).encode() for i in range(60)]
    journal = JournaledSource(
        ScriptedSource(events, Guarantee.ACKABLE),
        tmp_path / "journal",
        segment_bytes=4096,
        fsync_every=1,
        keep=2,
    )
    state = {"dir": str(tmp_path / "state"), "every_events": 50, "keep": 2}
    runtime = make(journal, state=state)
    thread = started(runtime)
    wait_for(lambda: runtime.engine.ordinal == 60)
    for verb in ("freeze", "unfreeze", "freeze", "unfreeze"):
        assert runtime.control.ask(verb).result(PATIENCE_S)["ok"] is True
    runtime.stop()
    thread.join(PATIENCE_S)
    older = snapshot.snapshots(tmp_path / "state")[-1]
    assert older.name == "step-000000000050"
    journal.open(snapshot.read(older).positions["source"])
    assert [event.position for event in journal.poll(20, 0.0).events] == list(range(51, 61))
    journal.close()


# Pause and drain --------------------------------------------------------------------------------


def test_paused_it_polls_nothing_and_says_so_until_it_is_resumed(
    make: Make, started: Callable[[Runtime], threading.Thread]
) -> None:
    source = stream(60)
    runtime = make(source, Telling({1: lambda: runtime.control.ask("pause")}))
    thread = started(runtime)
    wait_for(lambda: runtime.pause.reasons)
    time.sleep(0.5)  # two turns of the loop
    assert runtime.engine.ordinal == 10
    assert any("paused by ctl since 2" in reason for reason in runtime.watch.ready())
    assert runtime.watch.live() == []
    assert source.n_closed == 0
    assert runtime.metrics.paused == 1
    assert runtime.control.ask("resume").result(PATIENCE_S)["text"] == "resumed (ctl held)"
    thread.join(PATIENCE_S)
    assert runtime.engine.ordinal == 60
    assert runtime.pause.reasons == {}


def test_a_pause_changes_nothing_that_is_learned(
    make: Make, started: Callable[[Runtime], threading.Thread]
) -> None:
    whole = make(stream(60), store="whole")
    whole.run()
    runtime = make(stream(60), Telling({2: lambda: runtime.control.ask("pause")}))
    thread = started(runtime)
    wait_for(lambda: runtime.pause.reasons)
    runtime.control.ask("resume").result(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert everything(runtime) == everything(whole)


def test_snapshots_go_on_while_it_is_paused(
    make: Make, started: Callable[[Runtime], threading.Thread]
) -> None:
    runtime = make(stream(60), Telling({1: lambda: runtime.control.ask("pause")}))
    started(runtime)
    wait_for(lambda: runtime.pause.reasons)
    assert runtime.control.ask("checkpoint").result(PATIENCE_S)["saved_step"] == 10


def test_a_pause_does_not_outlive_a_restart(make: Make) -> None:
    sink = Telling({1: lambda: (runtime.control.ask("pause"), runtime.stop())})
    runtime = make(stream(60), sink)
    runtime.run()
    again = make(stream(60))
    again.run()
    assert again.engine.ordinal == 60


def test_a_drain_learns_what_was_received_and_leaves_the_rest_to_the_next_start(
    make: Make,
) -> None:
    answers: list[Any] = []
    sink = Telling({2: lambda: answers.append(runtime.control.ask("drain"))})
    runtime = make(stream(60), sink)
    runtime.run()
    said = answers[0].result(0)
    assert said["ok"] is True
    assert runtime.engine.ordinal == 20  # the batch at hand, whole
    assert said["path"].endswith("step-000000000020")
    whole = make(stream(60), store="whole")
    whole.run()
    again = make(stream(60))
    again.run()
    assert everything(again) == everything(whole)


def test_a_drain_takes_what_waits_in_a_source_that_cannot_rewind(make: Make) -> None:
    source = ScriptedSource(records(60), Guarantee.FIRE_AND_FORGET)  # it never ends
    runtime = make(source, Telling({2: lambda: runtime.control.ask("drain")}))
    runtime.run()
    assert runtime.engine.ordinal == 60


def test_a_drain_takes_what_waits_behind_a_journal_in_a_source_that_cannot_rewind(
    make: Make, tmp_path: Path
) -> None:
    # fsync_every: less is written ahead than waits
    source = JournaledSource(
        ScriptedSource(records(60), Guarantee.FIRE_AND_FORGET), tmp_path / "journal", fsync_every=1
    )
    runtime = make(source, Telling({1: lambda: runtime.control.ask("drain")}))
    runtime.run()
    assert runtime.engine.ordinal == 60


def test_a_drain_ends_the_waiting_for_a_source_that_is_gone(
    make: Make, started: Callable[[Runtime], threading.Thread]
) -> None:
    class Gone(ScriptedSource):
        def open(self, resume: Any) -> None:
            raise NotConnected("nobody there")

    runtime = make(Gone([]))
    thread = started(runtime)
    assert runtime.control.ask("drain").result(PATIENCE_S)["ok"] is True
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_who_waits_when_the_run_breaks_is_told_that_it_was_not_done(make: Make) -> None:
    answers: list[Any] = []

    class Breaking(ListSink):
        def write(self, records: Any) -> None:
            answers.append(runtime.control.ask("checkpoint"))
            raise RuntimeError("broken")

    runtime = make(stream(30), Breaking())
    with pytest.raises(RuntimeError, match="broken"):
        runtime.run()
    assert answers[0].result(0)["text"] == ("the daemon ended before this was done; see its log")
    assert runtime.control.ask("pause").result(0)["text"] == "the daemon is leaving"


# The rest ---------------------------------------------------------------------------------------


def test_an_unknown_verb_is_refused_with_the_known_ones(make: Make) -> None:
    said = make(stream(0)).control.ask("format\x1b").result(0)
    assert said["usage"] is True
    assert said["text"].startswith(r"unknown verb 'format\x1b' (known: status, checkpoint, pause,")


def test_no_more_requests_wait_than_there_is_room_for(make: Make) -> None:
    control = make(stream(0)).control
    answers = [control.ask("checkpoint") for _ in range(17)]
    assert [each.done() for each in answers] == [False] * 16 + [True]
    assert "try again" in answers[-1].result(0)["text"]


def test_a_request_that_was_given_up_is_not_done(make: Make) -> None:
    runtime = make(stream(30))
    runtime.control.ask("freeze").cancel()
    runtime.run()
    assert runtime.freeze.since_step is None


def test_an_open_breaker_stops_polling_until_somebody_resumes(
    make: Make, started: Callable[[Runtime], threading.Thread]
) -> None:
    bad = [{"no": 1}] * 30
    source = ScriptedSource([*records(20), *bad, *records(20), EndOfStream()])
    limits = {"limits": {"breaker_events": 20, "breaker_share": 0.5}}
    runtime = make(source, **limits)
    thread = started(runtime)
    wait_for(lambda: runtime.pause.reasons)
    time.sleep(0.3)
    assert runtime.engine.ordinal == 30
    assert runtime.metrics.breaker_open == 1
    assert any("10 of the last 20 events were refused" in each for each in runtime.watch.ready())
    assert runtime.control.ask("resume").result(PATIENCE_S)["text"] == "resumed (breaker held)"
    wait_for(lambda: runtime.pause.reasons)  # a fresh window, tripped again
    assert runtime.engine.ordinal == 40
    runtime.control.ask("resume").result(PATIENCE_S)
    wait_for(lambda: runtime.pause.reasons)
    runtime.control.ask("resume").result(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert runtime.engine.ordinal == 70


def test_what_the_newest_restart_lost_is_measured(make: Make) -> None:
    def forgetful() -> ScriptedSource:
        return ScriptedSource([*records(30), RuntimeError("killed")], Guarantee.FIRE_AND_FORGET)

    first = make(forgetful())
    first.checkpointing.schedule = Schedule(None, 20)
    with pytest.raises(RuntimeError, match="killed"):
        first.run()
    first.checkpointing._writer.drain(PATIENCE_S)  # type: ignore[union-attr]
    second = make(ScriptedSource([EndOfStream()], Guarantee.FIRE_AND_FORGET))
    second.run()
    assert second.metrics.recovery_gap_events == 10
    assert second.source.opened == [{"script": 29}]  # type: ignore[attr-defined]
    assert second.watch.status()["sources"][0]["recovery_gap_events"] == 10
    third = make(ScriptedSource([EndOfStream()], Guarantee.FIRE_AND_FORGET))
    third.run()
    assert third.metrics.recovery_gap_events == 0


def test_the_status_says_what_each_source_promises_and_why(make: Make) -> None:
    runtime = make(stream(0))
    assert runtime.watch.status()["sources"] == [
        {
            "name": "source",
            "reads": "ScriptedSource",
            "level": "exactly-once-effect",
            "why": "it rewinds to the position that is inside the snapshot",
            "conditions": [],
            "recovery_gap_events": 0,
        }
    ]

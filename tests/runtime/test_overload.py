"""A runtime with more events than it may let wait: what is learned, counted, kept and told."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from typing_extensions import override

from stream_rnn import app
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.store import Store
from stream_rnn.config import ConfigError
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import Batch, EndOfStream, Event, Position, Source
from stream_rnn.testing import ListSink

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "y"},
    "learner": {
        "cell": {"kind": "gru", "units": 4},
        "credit": {"kind": "ok", "rank": 1},
        "optimizer": {"kind": "adam", "lr": 0.01},
    },
    "limits": {"poll_events": 8},
}


class Burst(Source):
    """`n` events at once; then `calm` more, one poll each; then the end."""

    def __init__(self, n: int, calm: int = 0) -> None:
        self.n, self.calm = n, calm
        self.next = 0

    @override
    def open(self, resume: Position | None) -> None:
        self.next = int((resume or {"p": -1})["p"]) + 1

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self.next >= self.n + self.calm:
            raise EndOfStream
        if self.next >= self.n and timeout_s == 0:
            return Batch((), {"p": self.next - 1})
        most = self.n if self.next < self.n else self.next + 1
        last = min(self.next + max_events, most)
        events = [Event("p", i, data(i)) for i in range(self.next, last)]
        self.next = last
        return Batch(events, {"p": last - 1})

    @override
    def close(self) -> None:
        pass


def data(i: int) -> bytes:
    return json.dumps({"y": math.sin(i / 2) * 10 + i % 5}).encode()


def run(folder: Path, source: Source, tables: dict[str, Any], events: int | None = None) -> Runtime:
    job = app.build({"state": {"dir": str(folder), "every_s": 1e9}} | TABLES | tables)
    job.source, job.dead_letters, job.sinks = source, ListSink(), [ListSink()]
    store = Store(folder)
    store.open()
    try:
        runtime = make_runtime(job, store, CollectorRegistry(), Console(io.StringIO()))
        newest = store.newest()
        if newest is not None:
            runtime.restore(newest)
        runtime.run(events)
    finally:
        store.close()
    return runtime


def predicted(runtime: Runtime) -> Sequence[Any]:
    sink = runtime.outputs.sinks[0]
    assert isinstance(sink, ListSink)
    return [line["position"] for line in sink.records]


def overload(policy: str, **more: Any) -> dict[str, Any]:
    return {"overload": {"policy": policy, "limit": 16} | more}


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "sample"])
def test_what_is_shed_is_counted_applied_and_no_dead_letter(tmp_path: Path, policy: str) -> None:
    runtime = run(tmp_path, Burst(200), overload(policy))
    n = runtime.metrics.shed[policy]
    assert n > 50
    assert len(predicted(runtime)) == 200 - n
    assert runtime.outputs.dead_letters.records == []  # type: ignore[attr-defined]
    assert runtime.engine.ordinal == 200
    loaded = snapshot.read(snapshot.snapshots(tmp_path)[0])
    assert loaded.positions == {"source": {"p": 199}}
    assert runtime.metrics.events_in["source"] == 200


def test_what_was_shed_does_not_come_again_after_a_restart(tmp_path: Path) -> None:
    first = run(tmp_path, Burst(200), overload("drop_oldest"), events=100)
    second = run(tmp_path, Burst(200), overload("drop_oldest"))
    assert max(predicted(first)) < min(predicted(second))
    assert second.engine.ordinal == 200


def test_predict_only_predicts_every_event_and_learns_from_those_below_the_limit(
    tmp_path: Path,
) -> None:
    runtime = run(tmp_path, Burst(200, calm=30), overload("predict_only"))
    assert predicted(runtime) == list(range(230))
    skipped = runtime.metrics.update_skips
    assert 100 < skipped["overload"] < 200
    assert skipped["fallback"] == 0
    assert runtime.engine.learner.teaches == "all"


def test_the_most_restrictive_reason_wins(tmp_path: Path) -> None:
    ladder = app.build(TABLES | {"learner": {**TABLES["learner"], "fallback": ["readout"]}}).ladder
    learner, teaching = ladder.teaching._learner, ladder.teaching
    teaching.ask("overload", "nothing")
    ladder.move(1)
    assert learner.teaches == "nothing"
    teaching.ask("overload", "all")
    assert learner.teaches == "readout"
    assert teaching.restricted_by == {"fallback": "readout"}
    ladder.move(0)
    assert learner.teaches == "all"


def test_degrade_moves_down_the_ladder_by_what_waits(tmp_path: Path) -> None:
    learner = {**TABLES["learner"], "fallback": ["readout", "frozen"]}
    learner["governor"] = {"every": 5, "readings": 2, "cooldown": 10_000}
    runtime = run(tmp_path, Burst(200), {"learner": learner} | overload("degrade"))
    assert runtime.metrics.fallback_moves["down", "lag"] == 2
    assert predicted(runtime) == list(range(200))


def test_degrade_without_a_ladder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[overload\] policy = \"degrade\" needs rungs"):
        app.build(TABLES | overload("degrade") | {"learner": {**TABLES["learner"]}})


def test_block_is_the_run_without_the_table(tmp_path: Path) -> None:
    one = run(tmp_path / "one", Burst(100, 10), overload("block"))
    two = run(tmp_path / "two", Burst(100, 10), {})
    assert one.outputs.sinks[0].records == two.outputs.sinks[0].records  # type: ignore[attr-defined]
    mine, other = one.engine.learner.state_dict(), two.engine.learner.state_dict()
    assert all(mine[name].equal(other[name]) for name in other)


# What the model is told -----------------------------------------------------------------------


def test_the_gap_is_an_input_of_the_next_event_that_is_taken_in() -> None:
    features = app.build(TABLES | {"features": {"gap": True}}).engine.task.features
    assert features.names() == ["y", "gap"]
    assert features.encode({"y": 1.0}, 0)[-1] == 0.0
    features.pass_over(9)
    features.pass_over(90)
    assert features.encode({"y": 1.0}, 0)[-1] == pytest.approx(math.log(100) / 10)
    assert features.encode({"y": 1.0}, 0)[-1] == 0.0


def test_a_gap_that_nobody_was_told_of_yet_is_in_the_snapshot() -> None:
    tables = TABLES | {"features": {"gap": True}}
    one, two = app.build(tables).engine, app.build(tables).engine
    one.pass_over(7, {"p": 6})
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert two.task.features.encode({"y": 1.0}, 0)[-1] == pytest.approx(math.log(8) / 10)
    assert two.ordinal == 7


def test_the_model_is_another_one_only_with_the_gap() -> None:
    plain = app.build(TABLES)
    assert app.build(TABLES | overload("drop_oldest")).fingerprint == plain.fingerprint
    assert app.build(TABLES | {"features": {"gap": True}}).fingerprint != plain.fingerprint
    assert "shed" not in plain.engine.task.features.state_dict()


def test_the_banner_says_what_a_policy_costs() -> None:
    said = "\n".join(app.build(TABLES | overload("drop_oldest")).banner)
    assert "a restart is not bit-identical" in said
    assert "this source can wait: [overload] is unnecessary" in said
    assert "overload" not in "\n".join(app.build(TABLES | overload("block")).banner)

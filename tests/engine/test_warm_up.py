"""A made-up event before the first real one: it changes nothing, bit for bit."""

import json
import math
from typing import Any

import pytest

from stream_rnn import app
from stream_rnn.engine.engine import Engine
from stream_rnn.native import loading
from stream_rnn.spi import Event

GRU, TBPTT = {"kind": "gru", "units": 4}, {"kind": "tbptt", "window": 6, "every": 3}
LEARNERS: dict[str, dict[str, Any]] = {
    "kf, ladder": {"cell": GRU, "credit": {"kind": "kf"}, "fallback": TBPTT},
    "ok": {"cell": GRU, "credit": {"kind": "ok", "rank": 2}},
    "uoro": {"cell": GRU, "credit": {"kind": "uoro"}},
    "rtrl, fidelity": {
        "cell": GRU,
        "credit": {"kind": "rtrl"},
        "fidelity": {"window": 2, "every": 4},
    },
    "tbptt, locked": {"cell": GRU, "credit": TBPTT},
    "adaptive": {"cell": GRU, "credit": {"kind": "adaptive_tbptt"}},
    "fptt": {
        "cell": GRU,
        "credit": TBPTT,
        "optimizer": {"kind": "fptt", "inner": {"kind": "adam"}},
    },
    "lru stack": {"cell": [{"kind": "lru", "units": 4}, {"kind": "feedforward", "units": 3}]},
    "rls": {"cell": GRU, "credit": {"kind": "snap1"}, "head_optimizer": {"kind": "rls"}},
}


def engine(learner: dict[str, Any], horizon: int) -> Engine:
    tables = {
        "source": {"kind": "synthetic"},
        "task": {"kind": "forecast", "target": "y", "horizon": horizon},
        "learner": learner,
    }
    return app.build(tables).engine


def feed(job: Engine, start: int, stop: int) -> None:
    for i in range(start, stop):
        job.feed(Event("p", i, json.dumps({"y": math.sin(i / 2) * 10 + i % 5}).encode()))


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
def test_a_run_with_warm_ups_equals_one_without(learner: dict[str, Any], horizon: int) -> None:
    warm, cold = engine(learner, horizon), engine(learner, horizon)
    warm.warm_up()
    for start in (0, 7):
        feed(warm, start, start + 7)
        feed(cold, start, start + 7)
        before = {name: t.clone() for name, t in warm.learner.state_dict().items()}
        warm.warm_up()
        after = warm.learner.state_dict()
        assert [name for name in before if not before[name].equal(after[name])] == []
    feed(warm, 14, 30)
    feed(cold, 14, 30)
    mine, other = warm.learner.state_dict(), cold.learner.state_dict()
    assert [name for name in other if not mine[name].equal(other[name])] == []
    assert json.dumps(warm.state_dict()) == json.dumps(cold.state_dict())
    assert warm.outputs == cold.outputs


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
def test_nothing_made_up_is_reported(learner: dict[str, Any]) -> None:
    job = engine(learner, 1)
    feed(job, 0, 7)
    job.warm_up()
    assert job.learner.report().keys().isdisjoint({"gradient_norm", "influence_norm", "noise"})


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
def test_what_is_reported_after_a_warm_up_is_the_same_with_and_without_the_library(
    learner: dict[str, Any],
) -> None:
    for n in (1, 2, 3):  # the first one only waits for its target
        job, twin = engine(learner, 1), engine(learner, 1)
        job.warm_up()
        feed(job, 0, n)
        with loading.switched_off():
            twin.warm_up()
            feed(twin, 0, n)
        mine, other = job.learner.report(), twin.learner.report()
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-6, nan_ok=True)
        assert n > 1 or not any(mine.get(name) for name in ("gradient_norm", "influence_norm"))


def test_what_fails_for_every_event_fails_in_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    job = engine(LEARNERS["ok"], 1)
    monkeypatch.setattr(job.learner.recurrence, "learn", lambda *_: 1 / 0)
    with loading.switched_off(), pytest.raises(ZeroDivisionError):
        job.warm_up()

"""What is learned from a record: targets, units, and that nothing is known before its time."""

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from stream_rnn import app
from stream_rnn.config import ConfigError
from stream_rnn.features.cycles import Calendar
from stream_rnn.features.encoder import Features
from stream_rnn.features.values import BadEvent
from stream_rnn.native import loading
from stream_rnn.spi import Event
from stream_rnn.tasks import Classification, Forecast, NextSymbol, Regression, Task

TINY = {
    "cell": {"kind": "gru", "units": 4},
    "credit": {"kind": "rtrl"},
    "optimizer": {"kind": "sgd", "lr": 0.05},
}


def outputs(tables: dict[str, Any], records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the daemon would publish for `records`, one after the other."""
    job = app.build({"source": {"kind": "synthetic"}, "learner": TINY, **tables})
    for n, record in enumerate(records):
        job.engine.feed(Event("p", n, json.dumps(record).encode()))
    assert job.engine.letters == []
    return job.engine.outputs


def predictions(tables: dict[str, Any], records: Sequence[dict[str, Any]]) -> list[Any]:
    return [output["prediction"] for output in outputs(tables, records)]


Tables = dict[str, Any]
FORECAST: Tables = {"task": {"kind": "forecast", "target": "y", "horizon": 3}}
REGRESSION: Tables = {
    "task": {"kind": "regression", "target": "y"},
    "features": {"numeric": ["x"]},
}
CLASSIFICATION: Tables = {
    "task": {"kind": "classification", "target": "y"},
    "features": {"numeric": ["x"]},
}


def waves(n: int = 30) -> list[dict[str, Any]]:
    return [{"x": math.sin(i), "y": 10 + 5 * math.sin(i / 2)} for i in range(n)]


# Units and scores -----------------------------------------------------------------------------


def test_a_forecast_is_scored_against_the_event_it_was_made_for() -> None:
    records = [{"y": v} for v in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)]
    lines = outputs(FORECAST, records)
    assert [line["scored"] for line in lines[:3]] == [None] * 3
    for n in range(3, 7):
        due = lines[n - 3]
        assert lines[n]["scored"] == {
            "id": due["id"],
            "target": records[n]["y"],
            "loss": pytest.approx(abs(due["prediction"] - records[n]["y"])),
        }


def test_a_forecast_that_knows_nothing_yet_is_persistence() -> None:
    tables = FORECAST | {"learner": TINY | {"optimizer": {"kind": "sgd", "lr": 1e-12}}}
    for record, prediction in zip(waves(3), predictions(tables, waves(3)), strict=True):
        assert prediction == pytest.approx(record["y"], abs=0.3)  # 0.1 / sqrt(4) of random weights


def test_the_change_that_is_taught_is_the_one_from_then_to_now() -> None:
    task = Forecast(Features(numeric=["y"]), "y", horizon=2)
    steps = [task.steps({"y": v}, 0)[0] for v in (1.0, 5.0, 4.0, 11.0)]
    assert [step.y is None for step in steps] == [True, True, False, False]
    # changes over two events: 4-1 = 3, then 11-5 = 6: mean 4.5, standard deviation 1.5
    assert steps[3].y == pytest.approx([1.0])
    assert steps[3].target == [11.0]
    assert task.natural([1.0], steps[3]) == pytest.approx([11.0 + 6.0])


def test_without_difference_the_value_itself_is_taught() -> None:
    task = Forecast(Features(numeric=["y"]), "y", horizon=2, difference=False)
    steps = [task.steps({"y": v}, 0)[0] for v in (1.0, 3.0)]
    assert steps[1].y == pytest.approx([1.0])  # mean 2, standard deviation 1
    assert task.natural([1.0], steps[1]) == pytest.approx([3.0])
    assert task.persist() == {0: 0}


def test_several_targets_are_published_by_name() -> None:
    tables = {"task": {"kind": "forecast", "target": ["x", "y"], "horizon": 2}}
    lines = outputs(tables, waves(5))
    assert all(line["prediction"].keys() == {"x", "y"} for line in lines)
    assert lines[4]["scored"]["target"] == waves(5)[4]
    errors = [abs(lines[2]["prediction"][k] - waves(5)[4][k]) for k in ("x", "y")]
    assert lines[4]["scored"]["loss"] == pytest.approx(sum(errors) / 2)


@pytest.mark.parametrize("kind", ["forecast", "regression"])
def test_a_gaussian_states_its_doubt_in_the_streams_units(kind: str) -> None:
    tables = FORECAST if kind == "forecast" else REGRESSION
    tables = tables | {"task": tables["task"] | {"loss": "gaussian"}}
    lines = outputs(tables, [{"x": r["x"], "y": 1000 * r["y"]} for r in waves(40)])
    assert all(line["prediction"]["std"] > 0 for line in lines)
    assert lines[-1]["prediction"]["std"] > 100
    mean, std = lines[-1]["prediction"]["mean"], lines[-1]["prediction"]["std"]
    if kind == "regression":
        z = (lines[-1]["scored"]["target"] - mean) / std
        nats = 0.5 * z * z + math.log(std) + 0.5 * math.log(2 * math.pi)
        assert lines[-1]["scored"]["loss"] == pytest.approx(nats)


def test_a_quantile_forecast_lies_above_most_of_what_comes() -> None:
    generator = [{"y": float((n * 7919) % 101)} for n in range(600)]
    tables = {"task": {"kind": "forecast", "target": "y", "loss": "quantile", "tau": 0.9}}
    lines = outputs(tables, generator)
    late = [(lines[n - 1]["prediction"], generator[n]["y"]) for n in range(300, 600)]
    assert 0.75 < sum(p > y for p, y in late) / len(late) <= 1.0


# No leak --------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [True, False])
def test_a_forecast_knows_nothing_of_later_events(difference: bool) -> None:
    tables = {"task": FORECAST["task"] | {"difference": difference}}
    records = waves()
    other = [*records[:20], {"x": 0.0, "y": 999.0}, *records[21:]]
    one, two = predictions(tables, records), predictions(tables, other)
    assert one[:20] == two[:20]
    assert one[20:] != two[20:]


@pytest.mark.parametrize("tables", [REGRESSION, CLASSIFICATION], ids=["regression", "class"])
def test_a_prediction_knows_nothing_of_its_own_target(tables: dict[str, Any]) -> None:
    records = [{"x": r["x"], "y": "up" if r["x"] > 0 else "down"} for r in waves()]
    if tables is REGRESSION:
        records = waves()
    changed = "down" if records[20]["y"] == "up" else "up"
    other = [dict(r) for r in records]
    other[20]["y"] = 14.0 if tables is REGRESSION else changed
    one, two = predictions(tables, records), predictions(tables, other)
    assert one[:21] == two[:21]
    assert one[21:] != two[21:]


@pytest.mark.parametrize("tables", [REGRESSION, CLASSIFICATION], ids=["regression", "class"])
def test_a_class_seen_first_with_its_own_event_is_not_known_to_the_prediction(
    tables: dict[str, Any],
) -> None:
    first = outputs(tables, [{"x": 1.0, "y": 3.0}])[0]
    other = outputs(tables, [{"x": 1.0, "y": 4.0}])[0]
    if tables is REGRESSION:
        assert first["prediction"] == other["prediction"]
        return
    assert first["prediction"] == other["prediction"] == {"class": None, "probability": {}}


# Unlabelled events ----------------------------------------------------------------------------


@pytest.mark.parametrize("tables", [REGRESSION, CLASSIFICATION], ids=["regression", "class"])
@pytest.mark.parametrize("unlabelled", [{"x": 0.5}, {"x": 0.5, "y": None}], ids=str)
def test_an_event_without_a_target_is_predicted_and_not_learned(
    tables: dict[str, Any], unlabelled: dict[str, Any]
) -> None:
    job = app.build({"source": {"kind": "synthetic"}, "learner": TINY, **tables})
    for n in range(6):
        job.engine.feed(Event("p", n, json.dumps({"x": n, "y": n % 2}).encode()))
    before = [p.clone() for p in job.engine.learner.parameters()]
    job.engine.feed(Event("p", 6, json.dumps(unlabelled).encode()))
    line = job.engine.outputs[-1]
    assert line["prediction"] is not None
    assert line["scored"] is None
    assert all(a.equal(b) for a, b in zip(before, job.engine.learner.parameters(), strict=True))
    job.engine.feed(Event("p", 7, json.dumps({"x": 7, "y": 1}).encode()))
    assert job.engine.outputs[-1]["scored"]["id"] == "p:7"
    changed = zip(before, job.engine.learner.parameters(), strict=True)
    assert not all(a.equal(b) for a, b in changed)


def test_a_regression_target_out_of_all_proportion_is_refused() -> None:
    task = Regression(Features(numeric=["x"]), "y")
    for n in range(40):
        task.steps({"x": 1.0, "y": n}, 0)
    with pytest.raises(BadEvent, match="'y' is 1e"):
        task.steps({"x": 1.0, "y": 1e15}, 0)


@pytest.mark.parametrize("missing", ["reject", "previous", "mean"])
def test_a_forecast_target_out_of_all_proportion_is_refused_however_gaps_are_filled(
    missing: Literal["reject", "previous", "mean"],
) -> None:
    task = Forecast(Features(numeric=["y"], missing=missing), "y")
    for n in range(40):
        task.steps({"y": n}, 0)
    before = task.state_dict()["scales"]
    with pytest.raises(BadEvent, match="'y' is 1e"):
        task.steps({"y": 1e15}, 0)
    assert task.state_dict()["scales"] == before


# Classes and symbols --------------------------------------------------------------------------


def test_classes_are_learned_as_they_come() -> None:
    records = [{"x": float(n), "y": "abc"[n % 3]} for n in range(9)]
    lines = outputs(CLASSIFICATION, records)
    known = [set(line["prediction"]["probability"]) for line in lines]
    assert known[:4] == [set(), {"a"}, {"a", "b"}, {"a", "b", "c"}]
    assert [line["scored"]["target"] for line in lines] == [r["y"] for r in records]


def test_there_is_no_room_for_more_classes_than_configured() -> None:
    task = Classification(Features(numeric=["x"]), "y", max_classes=2)
    task.steps({"x": 1, "y": "a"}, 0)
    task.steps({"x": 1, "y": "b"}, 0)
    with pytest.raises(BadEvent, match="unknown class 'c'; known are a, b") as caught:
        task.steps({"x": 1, "y": "c"}, 0)
    assert caught.value.issue == "unknown_class"


def test_a_class_of_a_bad_event_is_not_learned() -> None:
    task = Classification(Features(numeric=["x"]), "y")
    with pytest.raises(BadEvent):
        task.steps({"x": "no number", "y": "a"}, 0)
    assert task.symbols == []


@pytest.mark.parametrize("classes", [["no", "yes"], ["a", "b", "c"]], ids=["two", "three"])
def test_probabilities_of_all_classes_add_up_to_one(classes: list[str]) -> None:
    tables = CLASSIFICATION | {"task": CLASSIFICATION["task"] | {"classes": classes}}
    records = [{"x": float(n), "y": classes[n % len(classes)]} for n in range(20)]
    for line in outputs(tables, records):
        assert sum(line["prediction"]["probability"].values()) == pytest.approx(1.0, abs=1e-5)


def test_a_class_that_follows_from_the_input_is_learned() -> None:
    tables = CLASSIFICATION | {"task": CLASSIFICATION["task"] | {"classes": ["neg", "pos"]}}
    records = [{"x": math.sin(n), "y": "pos" if math.sin(n) > 0 else "neg"} for n in range(300)]
    lines = outputs(tables, records)
    right = [line["prediction"]["class"] == r["y"] for line, r in zip(lines, records, strict=True)]
    assert sum(right[200:]) >= 95


def test_the_next_token_of_a_cycle_is_learned() -> None:
    tables = {"task": {"kind": "next_symbol", "field": "t", "max_symbols": 3}}
    records = [{"t": "abc"[n % 3]} for n in range(300)]
    lines = outputs(tables, records)
    assert [line["prediction"]["class"] for line in lines[-3:]] == ["b", "c", "a"]
    assert lines[1]["scored"]["id"] == "p:0"
    assert lines[1]["scored"]["target"] == "b"


def test_a_text_is_learned_byte_by_byte_and_scored_as_a_whole() -> None:
    tables = {"task": {"kind": "next_symbol", "field": "text", "unit": "byte", "end": "\n"}}
    lines = outputs(tables, [{"text": "ab"}, {"text": "é"}])
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0]["scored"]["n"] == 2  # nothing preceded the first byte
    assert lines[1]["scored"] == {
        "id": "p:1#1",  # the prediction made at the second byte of é
        "target": "\n",
        "n": 3,
        "loss": pytest.approx(math.log(256), abs=0.5),
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "expected text, got NoneType"), (5, "got int"), ("", "is empty"), ("x" * 101, "101")],
)
def test_what_is_no_text_or_too_much_of_it_is_a_bad_event(text: object, reason: str) -> None:
    task = NextSymbol(Features(), "text", unit="byte", max_bytes=100)
    with pytest.raises(BadEvent, match=reason):
        task.steps({"text": text}, 0)


# Weights of losses ----------------------------------------------------------------------------

CLASSES: Tables = CLASSIFICATION | {"task": CLASSIFICATION["task"] | {"classes": ["a", "b", "c"]}}
WEIGHTED = {"forecast": FORECAST, "regression": REGRESSION, "classification": CLASSES}


def labelled(kind: str, n: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"x": math.sin(i), "y": "abc"[i % 3] if kind == "classification" else math.sin(i / 2)}
        | more
        for i in range(n)
    ]


def taught(kind: str, records: Sequence[dict[str, Any]], weight: str | None = "w") -> Any:
    """The engine after `records`; plain SGD of rate 0.05, so that steps are as large as losses."""
    tables = WEIGHTED[kind]
    sgd = TINY | {"optimizer": {"kind": "sgd", "lr": 0.05, "clip": 0}}
    named = {} if weight is None else {"weight": weight}
    tables = tables | {"learner": sgd, "task": tables["task"] | named}
    engine = app.build({"source": {"kind": "synthetic"}, **tables}).engine
    for n, record in enumerate(records):
        engine.feed(Event("p", n, json.dumps(record).encode()))
    return engine


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("more", [{}, {"w": 1}, {"w": 1.0}, {"w": None}], ids=str)
def test_a_weight_of_one_or_none_at_all_changes_no_bit(kind: str, more: dict[str, Any]) -> None:
    with loading.switched_off():  # weighted losses are not the library's
        plain = taught(kind, labelled(kind, 20), weight=None)
        other = taught(kind, labelled(kind, 20, **more))
    assert other.outputs == plain.outputs
    mine, theirs = other.learner.state_dict(), plain.learner.state_dict()
    assert not [name for name in theirs if not mine[name].equal(theirs[name])]
    assert other.task.features.issues == plain.task.features.issues  # no field too many


@pytest.mark.parametrize("kind", WEIGHTED)
def test_the_step_is_as_large_as_the_weight(kind: str) -> None:
    def step_of(weight: float) -> list[Any]:
        records = labelled(kind, 20)
        engine = taught(kind, records[:19])
        before = [p.clone() for p in engine.learner.parameters()]
        engine.feed(Event("p", 19, json.dumps(records[19] | {"w": weight}).encode()))
        assert engine.outputs[-1]["scored"]["loss"] > 0  # the score is never weighted
        return [p - b for p, b in zip(engine.learner.parameters(), before, strict=True)]

    for none, half, whole in zip(step_of(0.0), step_of(0.5), step_of(1.0), strict=True):
        assert float(whole.norm()) > 1e-6
        gap = half - (none + whole) / 2  # linear in w
        assert float(gap.norm()) < 1e-3 * float(whole.norm()) + 1e-7
        assert bool(none.any()) == (kind == "classification")  # the rest wants no preference
        assert float(none.norm()) < float(whole.norm())


BAD_WEIGHTS: dict[str, tuple[Any, str, str]] = {
    "above": (1.5, "absurd", "expected a loss weight in 0..1 ([task] weight), got 1.5; scale it"),
    "below": (-0.1, "absurd", "expected a loss weight in 0..1 ([task] weight), got -0.1; scale it"),
    "huge": (1e30, "absurd", "1e+30"),
    "text": ("1", "wrong_type", "expected a number, got str '1'"),
    "list": ([1], "wrong_type", "expected a number, got list of 1"),
}


@pytest.mark.parametrize("bad", BAD_WEIGHTS)
@pytest.mark.parametrize("kind", WEIGHTED)
def test_an_impossible_weight_is_a_dead_letter_and_teaches_nothing(kind: str, bad: str) -> None:
    value, issue, reason = BAD_WEIGHTS[bad]
    records = labelled(kind, 12)
    plain = taught(kind, records)
    other = taught(kind, [*records[:6], records[6] | {"w": value}, *records[6:]])
    (letter,) = other.letters
    assert (letter["stage"], letter["issue"], letter["position"]) == ("features", issue, 6)
    assert letter["reason"].startswith("field 'w'")
    assert reason in letter["reason"]
    mine, theirs = other.learner.state_dict(), plain.learner.state_dict()
    assert not [name for name in theirs if not mine[name].equal(theirs[name])]
    assert [line["prediction"] for line in other.outputs] == [
        line["prediction"] for line in plain.outputs
    ]


@pytest.mark.parametrize("kind", WEIGHTED)
def test_an_event_with_an_impossible_weight_takes_no_lane(kind: str) -> None:
    lanes = {"key": "id", "capacity": 1}
    tables = WEIGHTED[kind] | {"lanes": lanes}
    tables["task"] = tables["task"] | {"weight": "w"}
    engine = app.build({"source": {"kind": "synthetic"}, "learner": TINY, **tables}).engine
    (record,) = labelled(kind, 1, id="a")
    engine.feed(Event("p", 0, json.dumps(record).encode()))
    engine.feed(Event("p", 1, json.dumps(record | {"id": "b", "w": 2}).encode()))
    assert len(engine.letters) == 1
    assert engine.lanes.find("a") == 0
    assert engine.lanes.evictions == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Forecast(Features(["y"]), "y", weight="y"),
        lambda: Regression(Features(["x"]), ["z", "y"], weight="y"),
        lambda: Classification(Features(["x"]), "y", weight="y"),
    ],
    ids=["forecast", "regression", "classification"],
)
def test_a_weight_that_is_the_target_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="weight = 'y' is the target"):
        make()


def test_weights_with_a_readout_that_owns_its_update_are_refused() -> None:
    rls = TINY | {"head_optimizer": {"kind": "rls"}}
    task = REGRESSION["task"] | {"weight": "w"}
    tables = {"source": {"kind": "synthetic"}, "learner": rls, **REGRESSION, "task": task}
    with pytest.raises((ValueError, ConfigError), match="weight: a read-out that owns its update"):
        app.build(tables)


# Settings and state ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Regression, Classification])
def test_a_target_among_the_features_of_its_own_prediction_is_refused(
    kind: type[Regression] | type[Classification],
) -> None:
    with pytest.raises(ValueError, match="'y' is among the features"):
        kind(Features(numeric=["x", "y"]), "y")
    with pytest.raises(ValueError, match="'y' is among the features"):
        kind(Features(calendar=Calendar("y")), "y")


@pytest.mark.parametrize("horizon", [0, -1, 10**12])
def test_a_senseless_horizon_is_refused(horizon: int) -> None:
    with pytest.raises(ValueError, match=r"horizon must be in 1\.\.100000"):
        Forecast(Features(numeric=["y"]), "y", horizon)


@pytest.mark.parametrize("target", [[], ["y", "y"]])
def test_targets_are_at_least_one_and_all_different(target: list[str]) -> None:
    with pytest.raises(ValueError, match="target: expected one field"):
        Forecast(Features(numeric=["y"]), target)


TASKS: dict[str, Any] = {
    "forecast": lambda: Forecast(Features(["y"], lags={"y": [2]}), "y", 2, season=4, lanes=2),
    "levels": lambda: Forecast(Features(["y"]), "y", 2, difference=False, lanes=2),
    "gaussian": lambda: Regression(Features(["x"]), "y", "gaussian", lanes=2),
    "lane scales": lambda: Regression(Features(["x"], scaling="lane"), ["y", "z"], lanes=2),
    "classes": lambda: Classification(Features(["x"]), "c", lanes=2),
    "tokens": lambda: NextSymbol(Features(), "c", lanes=2),
    "bytes": lambda: NextSymbol(Features(), "c", unit="byte", lanes=2),
}


def walk(task: Task, first: int, last: int) -> list[Any]:
    seen: list[Any] = []
    for n in range(first, last):
        record = {"x": n * 0.1, "y": math.sin(n), "z": n % 5, "c": "abc"[n % 3]}
        if n == 33:
            task.reset_lane(1)
        for step in task.steps(record, n % 2):
            p = [0.5] * {"gaussian": 2}.get(task.objective.kind, 1) * task.objective.size
            natural = task.natural(p, step)
            assert step.target is not None
            seen += [step, task.score(n % 2, natural, step.target), task.publish(natural, step)]
    return seen


@pytest.mark.parametrize("kind", TASKS)
def test_the_state_of_a_task_goes_through_json_and_back_exactly(kind: str) -> None:
    one, two = TASKS[kind](), TASKS[kind]()
    walk(one, 0, 30)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert two.state_dict() == one.state_dict()
    assert walk(two, 30, 60) == walk(one, 30, 60)
    assert two.state_dict() == one.state_dict()


def test_classes_of_another_configuration_are_refused() -> None:
    one = Classification(Features(["x"]), "c", classes=["a", "b"])
    with pytest.raises(ValueError, match="classes"):
        Classification(Features(["x"]), "c", classes=["a", "c"]).load_state_dict(one.state_dict())

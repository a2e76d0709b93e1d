"""What `[learner]` makes of what is left out, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from stream_rnn import app
from stream_rnn.assembly.choices import written_out
from stream_rnn.assembly.settings import LearnerTable
from stream_rnn.cells import Gru, Tanh
from stream_rnn.config import ConfigError
from stream_rnn.credit import Fallback, Ok, Rtrl, Tbptt
from stream_rnn.credit.ok import CHUNKS, RANK
from stream_rnn.recurrence import Dense, Feedforward, Rtu, Stack
from stream_rnn.update import Adam, Fptt


def job_of(learner: dict[str, Any], lanes: int | None = None) -> app.Job:
    keyed = {} if lanes is None else {"lanes": {"key": "k", "capacity": lanes}}
    return app.build(
        {
            "source": {"kind": "synthetic"},
            "task": {"kind": "forecast", "target": "y"},
            "learner": {"device": "cpu"} | learner,
            **keyed,
        }
    )


def chosen(learner: dict[str, Any], lanes: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = job_of(learner, lanes).model["learner"]
    return found


def test_a_small_gated_net_with_one_lane_is_taught_exactly() -> None:
    found = chosen({})
    assert found["cell"] == {"kind": "lstm", "units": 32}
    assert found["credit"] == {"kind": "rtrl"}
    assert found["fallback"] == [{"kind": "tbptt", "window": 32}, "readout", "frozen"]


@pytest.mark.parametrize(
    ("units", "lanes", "rule"),
    [(32, 1, "rtrl"), (64, 1, "ok"), (16, 4, "rtrl"), (32, 4, "ok"), (16, 64, "ok")],
)
def test_exact_credit_is_chosen_only_where_it_is_affordable(
    units: int, lanes: int, rule: str
) -> None:
    assert chosen({"cell": {"kind": "lstm", "units": units}}, lanes)["credit"]["kind"] == rule


@pytest.mark.parametrize(
    ("units", "times"),
    [(16, 18 / RANK), (32, 34 / RANK)],  # columns: input, units and bias; of OK: its rank
)
def test_the_reason_for_exact_credit_says_what_it_costs(units: int, times: float) -> None:
    banner = job_of({"cell": {"kind": "lstm", "units": units}}).banner
    reason = next(line for line in banner if "exact RTRL" in line)
    assert f"{times:.0f} times the arithmetic of OK of rank {RANK}" in reason


def test_the_default_of_ok_is_one_wherever_it_is_left_out() -> None:
    usual = {"kind": "ok", "rank": RANK, "chunks": CHUNKS}
    assert chosen({"cell": {"kind": "gru", "units": 64}})["credit"] == usual
    assert f'{{ kind = "ok", rank = {RANK} }}' in str(LearnerTable.__doc__)
    rule = Ok(Gru(1, 2), 1, torch.Generator())
    assert (rule.rank, rule.chunks) == (RANK, CHUNKS)


def test_a_default_left_out_and_written_down_is_the_same_model() -> None:
    written = {"kind": "ok", "rank": RANK, "chunks": CHUNKS}
    for learner in ({"credit": written}, {"fallback": [written]}):
        short = {
            key: {"kind": "ok"} if isinstance(value, dict) else [{"kind": "ok"}]
            for key, value in learner.items()
        }
        assert job_of(short).fingerprint == job_of(learner).fingerprint
    other = written | {"rank": RANK + 1}
    assert job_of({"credit": other}).fingerprint != job_of({"credit": written}).fingerprint


def test_many_lanes_on_a_cpu_get_element_wise_units() -> None:
    job = job_of({}, lanes=64)
    recurrence = job.engine.learner.recurrence
    assert isinstance(recurrence, Stack)
    assert [type(layer) for layer in recurrence.layers] == [Rtu, Feedforward]
    assert job.model["learner"]["credit"] == {"kind": "exact"}
    assert job.ladder.names == ("exact", "readout", "frozen")
    assert any("64 lanes learn exactly" in line for line in job.banner)


@pytest.mark.parametrize(
    "given", [{"credit": {"kind": "ok"}}, {"fallback": [{"kind": "tbptt", "window": 4}]}]
)
def test_many_lanes_get_a_gated_cell_where_a_rule_is_wanted(given: dict[str, Any]) -> None:
    found = chosen(given, lanes=64)
    assert found["cell"] == {"kind": "lstm", "units": 32}
    assert found["credit"]["kind"] == "ok"


def test_a_list_of_cells_is_a_stack_with_a_ladder_in_each_layer() -> None:
    cells = [{"kind": "gru", "units": 5}, {"kind": "lru", "units": 3}, {"kind": "tanh", "units": 4}]
    job = job_of({"cell": cells, "fallback": [{"kind": "tbptt", "window": 3}, "frozen"]})
    recurrence = job.engine.learner.recurrence
    assert isinstance(recurrence, Stack)
    assert [layer.width for layer in recurrence.layers] == [5, 6, 4]
    for layer in (recurrence.layers[0], recurrence.layers[2]):
        assert isinstance(layer, Dense)
        assert isinstance(layer.credit, Fallback)
        assert [type(rung) for rung in layer.credit.rungs] == [Rtrl, Tbptt]
    assert job.ladder.names == ("rtrl", "tbptt(window=3)", "frozen")
    assert any("gru(units=5) > lru(units=3) > tanh(units=4)" in line for line in job.banner)


def test_an_update_may_wrap_another() -> None:
    optimizer = {"kind": "fptt", "alpha": 0.2, "inner": {"kind": "adam", "lr": 0.01}}
    job = job_of({"cell": {"kind": "gru", "units": 3}, "optimizer": optimizer})
    update = job.engine.learner.update
    assert isinstance(update, Fptt)
    assert isinstance(update.inner, Adam)
    assert update.inner.lr == 0.01
    assert any("fptt(alpha=0.2, inner=adam(lr=0.01))" in line for line in job.banner)


def test_fptt_brings_its_window_and_goes_around_adam() -> None:
    job = job_of({"optimizer": {"kind": "fptt"}})
    found = job.model["learner"]
    assert found["credit"] == {"kind": "tbptt", "window": 32}
    assert found["fallback"] == ["readout", "frozen"]  # a second time the same rule is no help
    update = job.engine.learner.update
    assert isinstance(update, Fptt)
    assert isinstance(update.inner, Adam)
    assert (update.inner.lr, update.inner.clip, update.alpha) == (0.001, 1.0, 0.0005)
    assert any("TBPTT over 32 events, which is FPTT's own gradient" in line for line in job.banner)


def test_an_fptt_of_somebodys_own_brings_the_window_too() -> None:
    found = chosen({"optimizer": {"kind": "stream_rnn.update:Fptt"}}, lanes=64)
    assert found["cell"] == {"kind": "lstm", "units": 32}  # it needs a rule, many lanes or not
    assert found["credit"] == {"kind": "tbptt", "window": 32}


@pytest.mark.parametrize(
    ("given", "credit"),
    [
        ({"credit": {"kind": "kf"}}, {"kind": "kf"}),
        ({"cell": {"kind": "lru", "units": 4}}, {"kind": "exact"}),
    ],
    ids=["a rule that is given", "units that learn exactly"],
)
def test_fptt_goes_with_any_other_credit(given: dict[str, Any], credit: dict[str, Any]) -> None:
    assert chosen({"optimizer": {"kind": "fptt"}} | given)["credit"] == credit


def test_the_fidelity_is_probed_unless_told_not_to() -> None:
    for given, window in ((True, 64), ({"window": 8, "every": 16}, 8), (False, None)):
        recurrence = job_of({"fidelity": given}).engine.learner.recurrence
        assert isinstance(recurrence, Dense)
        probe = recurrence.fidelity
        assert (None if probe is None else probe.window) == window


def test_probing_the_fidelity_makes_no_other_model() -> None:
    assert job_of({"fidelity": False}).fingerprint == job_of({}).fingerprint


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (
            {"cell": {"kind": "lru", "units": 4}, "credit": {"kind": "ok"}},
            "[learner] credit is given, but these layers learn exactly by themselves; leave it out",
        ),
        (
            {"cell": {"kind": "rtu", "units": 4}, "fallback": [{"kind": "tbptt"}]},
            "[learner] fallback: these layers learn exactly by themselves and have no other credit "
            'rule to fall back to; only "readout" and "frozen"',
        ),
        ({"cell": []}, "[learner] cell is an empty list: name at least one layer"),
        (
            {"cell": [{"kind": "gru", "units": 4}, {"kind": "grru", "units": 4}]},
            "unknown kind 'grru' (known: tanh, gru, lstm, rhn, lru, rtu, elstm, feedforward)",
        ),
        (
            {"cell": [{"kind": "gru", "units": 4}, {"kind": "tanh", "units": 0}]},
            "[learner] cell, layer 1 units must be at least 1, got 0",
        ),
        ({"cell": {"kind": "stream_rnn.update:Adam"}}, "neither a Cell nor a Recurrence"),
        (
            {"optimizer": {"kind": "fptt", "inner": {"kind": "adam", "lr": -1.0}}},
            "[learner] optimizer inner lr must be positive and finite, got -1.0",
        ),
        (
            {"optimizer": {"kind": "fptt", "inner": 3}},
            "[learner] optimizer inner: expected a table",
        ),
        ({"optimizer": {"kind": "adam", "inner": {"kind": "sgd"}}}, "[learner] optimizer"),
        (
            {"fallback": ["frozen", "readout"]},
            "[learner] fallback: below the credit rules there may be 'readout' and 'frozen', each "
            "once and in this order, got ['frozen', 'readout']",
        ),
        (
            {"fallback": ["readout", {"kind": "tbptt"}]},
            "[learner] fallback: 'readout' stands above tbptt; name the rules first",
        ),
        ({"fidelity": {"window": 9, "every": 3}}, "[learner] fidelity every must be at least"),
        ({"cell": {"kind": "gru"}}, "[learner] cell 'units' is missing (units = 32)"),
        (
            {"cell": {"kind": "gru", "units": 4, "n_units": 5}},
            "[learner] cell unknown key 'n_units'; did you mean 'units'?",
        ),
        ({"cell": {"kind": "gru", "units": "32"}}, "[learner] cell units: expected int, got str"),
        ({"cell": {"kind": "gru", "units": 2**62}}, "[learner] cell: units must be at most 131072"),
        ({"credit": {"kind": "exact"}}, "[learner] credit: unknown kind 'exact' (known: rtrl,"),
        ({"fallback": {}}, "[learner] fallback: a rung without a kind: {}"),
        ({"fallback": ["readout", {"window": 3}]}, "[learner] fallback: a rung without a kind"),
        ({"fallback": ""}, "[learner] fallback: below the credit rules there may be"),
        ({"head_optimizer": {}}, "[learner] head_optimizer: kind is missing"),
        ({"threads": 10**6}, "[learner] threads must be in 1..1024, got 1000000"),
        ({"device": "meta"}, "[learner] device = 'meta' cannot be used"),
        ({"governor": {"trips": 10**19}}, "[learner] governor trips"),
        (
            {"optimizer": {"kind": "fptt", "inner": {"kind": "fptt", "inner": {"kind": "sgd"}}}},
            "[learner] optimizer inner: an update around another one cannot be wrapped itself",
        ),
        ({"optimizer": {"kind": "adam", "lr": float("inf")}}, "lr must be positive and finite"),
        (
            {"cell": {"kind": "rtu", "units": 3, "max_phase": 1e308}},
            "[learner] cell max_phase must be in (0, 2 pi]",
        ),
        (
            {"cell": {"kind": "rtu", "units": 3}, "fidelity": {"windows": 9}},
            "[learner] fidelity unknown key 'windows'",
        ),
        ({"fidelity": {"windows": 9}}, "[learner] fidelity unknown key 'windows'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(
    learner: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        job_of(learner)


def test_a_model_names_what_tables_leave_to_defaults_that_changed() -> None:
    """Else a state would go on with another rank, or another pull, than it was learned with."""
    tables: dict[str, Any] = {
        "credit": {"kind": "ok", "rank": 2},
        "optimizer": {"kind": "fptt", "inner": {"kind": "adam"}},
        "fallback": [{"kind": "ok"}, "readout"],
    }
    now, before = written_out(tables), app.written_out({"learner": tables})["learner"]
    assert now["credit"] == {"kind": "ok", "rank": 2, "chunks": "gate"}
    assert now["optimizer"]["alpha"] == Fptt().alpha == 0.0005
    assert before["optimizer"]["alpha"] == 0.1
    assert now["fallback"][0]["rank"] == Ok(Tanh(1, 2), 1, torch.Generator()).rank == 4
    assert before["fallback"][0]["rank"] == 8
    assert app.written_out({"learner": now})["learner"] == now

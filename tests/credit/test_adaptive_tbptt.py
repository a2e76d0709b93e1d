"""Adaptive TBPTT is TBPTT with the window of now; what it samples, and when."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.cells import CELLS, Tanh
from stream_rnn.console import Console
from stream_rnn.credit import AdaptiveTbptt, Tbptt
from stream_rnn.credit.truncation import Estimator, truncation
from stream_rnn.daemon import make_runtime
from stream_rnn.frame import Frame
from stream_rnn.metrics import Metrics
from stream_rnn.spi import EndOfStream
from stream_rnn.testing import ListSink, ScriptedSource, check_credit

ALL = torch.tensor([True, True])
QUICK: dict[str, Any] = {
    "k_min": 1,
    "k_max": 10,
    "window": 3,
    "history": 10,
    "sample_every": 2,
    "adapt_every": 12,
    "min_samples": 1,
}


def quick(cell: Any, n_lanes: int = 2, **more: Any) -> AdaptiveTbptt:
    return AdaptiveTbptt(cell, n_lanes, **(QUICK | more))


@pytest.mark.parametrize("kind", CELLS)
def test_it_keeps_the_contract_with_every_cell(kind: str) -> None:
    """Sampling and adapting all the time; a window of at least 2 uses what is old."""
    settings = QUICK | {"k_min": 2, "history": 4, "k_max": 4, "sample_every": 1, "adapt_every": 2}
    check_credit(lambda cell, n: AdaptiveTbptt(cell, n, **settings), CELLS[kind](2, 3))


@pytest.mark.parametrize("kind", CELLS)
def test_every_gradient_is_that_of_tbptt_with_the_window_of_now(
    kind: str, random_walk: Callable[..., Any]
) -> None:
    """Bit for bit, on ticks that sample and ticks that do not, with lanes that are idle."""
    walk = random_walk(kind, n_ticks=60)
    rule = quick(walk.cell, tolerance=0.3, window=7)
    fixed = {K: Tbptt(walk.cell, 2, window=K) for K in range(1, 11)}
    generator = torch.Generator().manual_seed(7)
    used = set()
    for lin, q_BS in walk:
        live_B = torch.rand(2, generator=generator) < 0.8
        K = rule.window
        used.add(K)
        rule.observe(lin, q_BS, live_B)
        for window, tbptt in fixed.items():
            tbptt.observe(lin, q_BS, live_B)
            if window == K:
                truth_ZM = tbptt.gradient()
                assert truth_ZM is not None
                assert torch.equal(rule.gradient(), truth_ZM)
                assert torch.equal(rule.healthy(), tbptt.healthy())
    assert len(used) > 1  # it did adapt


@pytest.mark.parametrize("estimator", ["slope", "max"])
@pytest.mark.parametrize("tau", [0.3, 0.8])
def test_what_it_gathers_is_how_much_of_a_loss_flows_how_far(
    tau: float, estimator: Estimator, random_walk: Callable[..., Any]
) -> None:
    """phi_k = |dL_t/ds_{t-k}| over h and c, by automatic differentiation; the window follows."""
    walk = random_walk("lstm", n_ticks=12)
    rule = quick(walk.cell, sample_every=12, adapt_every=13, tau=tau, estimator=estimator)
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, ALL)
    states = [torch.zeros_like(walk.q_TBS[0]).requires_grad_()]
    for x_BI in walk.x_TBI:
        states.append(walk.cell.step(walk.W_ZM, x_BI, states[-1])[0])
    loss = (walk.q_TBS[-1] * states[-1]).sum()
    back = torch.autograd.grad(loss, states[::-1][:10])
    phi_T = torch.stack([q_BS.norm(dim=1).sum() for q_BS in back])
    torch.testing.assert_close(rule.state_dict()["phi_T"], phi_T, rtol=1e-12, atol=0)
    assert int(rule.state_dict()["samples"]) == 2
    lin, q_BS = list(walk)[-1]
    rule.observe(lin, q_BS, ALL)  # adapts, without a sample of its own
    expected = truncation(phi_T.tolist(), 0.1, 1, 10, int(tau * 9), estimator)
    assert rule.window == expected.window
    assert float(rule.report()["beta"]) == pytest.approx(expected.beta, rel=1e-9)


def samples_of(rule: AdaptiveTbptt) -> int:
    return int(rule.state_dict()["samples"])


def test_idle_lanes_and_lanes_without_a_loss_are_not_sampled(
    random_walk: Callable[..., Any],
) -> None:
    walk = random_walk("gru", n_ticks=14, n_lanes=3)
    rule = quick(walk.cell, 3, sample_every=1, adapt_every=100)
    everybody = torch.tensor([True] * 3)
    ticks = list(walk)
    for lin, q_BS in ticks[:10]:
        rule.observe(lin, q_BS, everybody)
    before = samples_of(rule)
    lin, q_BS = ticks[10]
    q_BS[0] = 0.0  # without a loss
    rule.observe(lin, q_BS, torch.tensor([True, True, False]))
    assert samples_of(rule) - before == 1
    sums_T = rule.state_dict()["phi_T"].clone()
    lin, q_BS = ticks[11]
    rule.observe(lin, q_BS, torch.tensor([False] * 3))
    assert samples_of(rule) - before == 1
    assert torch.equal(rule.state_dict()["phi_T"], sums_T)


def test_a_lane_is_sampled_as_far_back_as_it_began(random_walk: Callable[..., Any]) -> None:
    """To the state it began with; beyond, and before a reset, there is nothing to leave out."""
    walk = random_walk("tanh", n_ticks=17)
    rule, alone = (quick(walk.cell, sample_every=1, adapt_every=100) for _ in range(2))
    for t, (lin, q_BS) in enumerate(walk):
        if t == 12:
            rule.reset(torch.tensor([True, False]))
        before_T, other_T = (each.state_dict()["phi_T"].clone() for each in (rule, alone))
        rule.observe(lin, q_BS, ALL)
        alone.observe(lin, q_BS * torch.tensor([[0.0], [1.0]]), ALL)
        assert samples_of(rule) == 2 * (t + 1)
        own_T = rule.state_dict()["phi_T"] - before_T - (alone.state_dict()["phi_T"] - other_T)
        age = t + 1 if t < 12 else t - 11
        reached_T = torch.arange(10) <= age
        assert bool((own_T[reached_T] > 1e-9).all())
        torch.testing.assert_close(own_T * ~reached_T, torch.zeros_like(own_T))


def test_the_window_follows_where_every_episode_is_shorter_than_the_history(
    random_walk: Callable[..., Any],
) -> None:
    """Down from 10, and to the state that episodes of 4 begin with, but no further."""
    walk = random_walk("gru", n_ticks=60)
    rule = quick(walk.cell, window=10, sample_every=1, tolerance=0.01)
    for t, (lin, q_BS) in enumerate(walk):
        if t % 4 == 0:
            rule.reset(ALL)
        rule.observe(lin, q_BS, ALL)
    assert 1 < rule.window <= 5
    assert float(rule.report()["bias"]) < 0.01


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e200])
@pytest.mark.parametrize("place", ["newest loss", "old step"])
def test_a_poisoned_lane_does_not_reach_the_samples(
    place: str, poison: float, random_walk: Callable[..., Any]
) -> None:
    """An old step, beyond the window, is seen by the samples only."""
    walk = random_walk("lstm", n_ticks=13)
    rule, alone = (quick(walk.cell, window=2, sample_every=1, adapt_every=100) for _ in range(2))
    for t, (lin, q_BS) in enumerate(walk):
        without_BS = q_BS.clone()
        if t == 12:
            without_BS[0] = 0.0
        if t == 12 and place == "newest loss":
            q_BS[0] = poison
        if t == 12 and place == "old step":
            rule.lane_state["J_h_BTSN"][0, (t + 1 - 5) % 10] = poison
        rule.observe(lin, q_BS, ALL)
        alone.observe(lin, without_BS, ALL)
    assert samples_of(rule) == 12 * 2 + 1  # of both lanes, then of one
    assert torch.equal(rule.state_dict()["phi_T"], alone.state_dict()["phi_T"])
    assert rule.state_dict()["phi_T"].isfinite().all()
    if place == "old step":
        assert rule.healthy().all()


@pytest.mark.parametrize("scored", [False, True])
def test_too_few_samples_leave_the_window_and_wait_for_more(
    scored: bool, random_walk: Callable[..., Any]
) -> None:
    """Each of two lanes gives 6 samples in 12 ticks."""
    walk = random_walk("tanh", n_ticks=24)
    rule = quick(walk.cell, min_samples=13)
    windows = []
    for lin, q_BS in walk:
        rule.observe(lin, q_BS * scored, ALL)
        windows.append(rule.window)
    assert windows[:23] == [3] * 23
    assert (rule.window != 3) == scored
    assert samples_of(rule) == 0


def test_each_adaptation_looks_at_what_came_since_the_last_one(
    random_walk: Callable[..., Any],
) -> None:
    walk = random_walk("tanh", n_ticks=24)
    rule = quick(walk.cell)
    for t, (lin, q_BS) in enumerate(walk):
        rule.observe(lin, q_BS, ALL)
        if t + 1 in (12, 24):
            assert samples_of(rule) == 0
            assert not rule.state_dict()["phi_T"].any()


@pytest.mark.parametrize("saved_after", [11, 12, 13])
def test_it_resumes_bit_for_bit_across_an_adaptation(
    saved_after: int, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk("gru", n_ticks=40)
    rule, resumed = quick(walk.cell), quick(walk.cell)
    windows = []
    for t, (lin, q_BS) in enumerate(walk):
        if t == saved_after:
            resumed.load_state_dict({k: v.clone() for k, v in rule.state_dict().items()})
            assert resumed.window == rule.window
        rule.observe(lin, q_BS, ALL)
        windows.append(rule.window)
        if t >= saved_after:
            resumed.observe(lin, q_BS, ALL)
            assert torch.equal(resumed.gradient(), rule.gradient())
    assert windows[0] != windows[-1]
    ours, theirs = rule.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert {k: float(v) for k, v in rule.report().items()} == {
        k: float(v) for k, v in resumed.report().items()
    }


def test_what_it_saves_is_finite_even_if_nothing_bounds_the_bias() -> None:
    """A snapshot refuses infinities; the bound comes back from their absence."""
    cell = Tanh(1, 1)
    rule = quick(cell, 1)
    W_ZM = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)  # h stays 0: phi_k = 1 for all k
    s_BS = torch.zeros(1, 1, dtype=torch.float64)
    for _ in range(24):  # the second adaptation sees whole histories alone
        _, lin = cell.step(W_ZM, s_BS, s_BS)
        rule.observe(lin, torch.ones_like(s_BS), torch.tensor([True]))
    assert float(rule.report()["bias"]) == math.inf
    assert all(tensor.isfinite().all() for tensor in rule.state_dict().values())
    resumed = quick(cell, 1)
    resumed.load_state_dict(rule.state_dict())
    resumed.observe(lin, torch.ones_like(s_BS), torch.tensor([True]))
    assert float(resumed.report()["bias"]) == math.inf
    assert float(resumed.report()["beta"]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("window", 11, "'window': expected 1..10, got 11"),
        ("ticks", 12, "'ticks': expected 0..11, got 12"),
        ("phi_T", [0.0] * 9, "'phi_T': expected \\(10,\\), got \\(9,\\)"),
        ("samples", None, "'samples' is missing"),
    ],
)
def test_a_state_of_other_settings_is_refused(name: str, value: Any, message: str) -> None:
    rule = quick(Tanh(1, 1))
    state = dict(rule.state_dict())
    if value is None:
        del state[name]
    else:
        state[name] = torch.tensor(value)
    with pytest.raises(ValueError, match=message):
        rule.load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance must be between 0 and 1"),
        ({"tolerance": 1.0}, "tolerance must be between 0 and 1"),
        ({"tolerance": math.nan}, "tolerance must be between 0 and 1"),
        ({"history": 2, "k_max": 2, "window": 2}, "history must be at least 3, got 2"),
        ({"k_min": 0}, "k_min <= k_max <= history must hold, got k_min = 0"),
        ({"k_min": 9, "k_max": 8}, "must hold, got k_min = 9, k_max = 8"),
        ({"k_max": 11}, "must hold, got k_min = 1, k_max = 11, history = 10"),
        ({"window": 11}, "window must be between k_min .1. and k_max .10., got 11"),
        ({"window": 2, "k_min": 3}, "window must be between k_min .3."),
        ({"sample_every": 0}, "sample_every must be at least 1, got 0"),
        ({"adapt_every": 1}, "adapt_every must be at least sample_every .2., got 1"),
        ({"min_samples": 0}, "min_samples must be at least 1, got 0"),
        ({"tau": 0.0}, "tau must be between 0 and 1"),
        ({"tau": 1.0}, "tau must be between 0 and 1"),
        ({"estimator": "mean"}, "estimator must be .slope. or .max., got 'mean'"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(Tanh(1, 1), **settings)


@pytest.mark.parametrize("tau", [0.001, math.nextafter(1, 0)])
@pytest.mark.parametrize("history", [3, 10])
def test_the_decay_is_told_by_two_lags_at_least(
    history: int, tau: float, random_walk: Callable[..., Any]
) -> None:
    """However extreme tau is: one is no slope."""
    walk = random_walk("tanh", n_ticks=12)
    rule = quick(walk.cell, history=history, k_max=3, tau=tau)
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, ALL)
    assert 0 < float(rule.report()["beta"]) < math.inf


def test_the_report_before_the_first_adaptation_promises_nothing(
    random_walk: Callable[..., Any],
) -> None:
    walk = random_walk("tanh", n_ticks=1)
    rule = quick(walk.cell)
    lin, q_BS = next(iter(walk))
    rule.observe(lin, q_BS, ALL)
    report = {name: float(fact) for name, fact in rule.report().items()}
    assert report["window"] == 3
    assert math.isnan(report["beta"])
    assert report["bias"] == math.inf


def test_a_learner_with_an_adaptive_window_reports_it_and_resumes(
    learner_of: Callable[..., Any], frames_of: Callable[..., list[Frame]]
) -> None:
    learner, resumed = (learner_of("lstm", quick) for _ in range(2))
    frames = frames_of(40, idle=0.2, unscored=0.2)
    for frame in frames[:21]:
        learner.step(frame)
    resumed.load_state_dict({k: v.clone() for k, v in learner.state_dict().items()})
    for frame in frames[21:]:
        learner.step(frame)
        resumed.step(frame)
    assert learner.report()["beta"] > 0
    assert learner.report() == resumed.report()
    ours, theirs = learner.state_dict(), resumed.state_dict()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("name", ["window", "beta", "bias"])
def test_each_fact_has_a_gauge_that_starts_unknown(name: str) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    assert math.isnan(registry.get_sample_value(f"stream_rnn_truncation_{name}") or 0.0)
    setattr(metrics, f"truncation_{name}", 3.5)
    assert registry.get_sample_value(f"stream_rnn_truncation_{name}") == 3.5


def test_a_daemon_shows_window_decay_and_bound(tmp_path: Path) -> None:
    """From `[learner] credit` to the metrics page."""
    tables: dict[str, Any] = {
        "state": {"dir": str(tmp_path)},
        "source": {"kind": "synthetic"},
        "task": {"kind": "forecast", "target": "y", "horizon": 1},
        "learner": {
            "cell": {"kind": "tanh", "units": 4},
            "credit": {"kind": "adaptive_tbptt"} | QUICK | {"window": 9, "tolerance": 0.9},
            "optimizer": {"kind": "adam", "lr": 0.001},
        },
    }
    job = app.build(tables)
    script: list[Any] = [*({"y": math.sin(i / 2)} for i in range(60)), EndOfStream()]
    job.source, job.dead_letters, job.sinks = ScriptedSource(script), ListSink(), [ListSink()]
    registry = CollectorRegistry()
    make_runtime(job, None, registry, Console(io.StringIO())).run()
    facts = {
        name: registry.get_sample_value(f"stream_rnn_truncation_{name}")
        for name in ("window", "beta", "bias")
    }
    report = job.engine.learner.report()
    assert facts == {name: report[name] for name in facts}
    assert facts["window"] != 9
    assert 0 < (facts["bias"] or 0) < 0.9

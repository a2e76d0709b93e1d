"""The live fidelity: 1 for an exact rule, less for a truncated one, and never in the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stream_rnn.cells import CELLS, Gru, Tanh
from stream_rnn.credit import Credit, Fallback, Kf, Rtrl, Tbptt
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.frame import Frame
from stream_rnn.learner import Learner, Teaches
from stream_rnn.recurrence import Dense

YES = torch.tensor([True])


def layer_of(probe: Fidelity, rungs: Callable[[Gru], list[Credit]]) -> Dense:
    cell = Gru(2, 3)
    W_ZM = cell.initial_weight(torch.Generator().manual_seed(0))
    return Dense(cell, Fallback(rungs(cell)), W_ZM, probe)


def kf_then_exact(cell: Gru) -> list[Credit]:
    """The second one is what the reference is."""
    return [Kf(cell, 1, torch.Generator().manual_seed(0)), Tbptt(cell, 1, window=4)]


def tick(layer: Dense, t: int) -> float | None:
    """The fidelity after the tick."""
    generator = torch.Generator().manual_seed(t)
    h_BN = layer.forward(torch.randn(1, 2, generator=generator, dtype=torch.float64), YES)
    layer.learn(h_BN - 0.5, YES)
    found = layer.report().get("fidelity")
    return None if found is None else float(found)


def fidelity_of(rule: Any, walk: Any, window: int, live: Callable[[int], list[bool]]) -> float:
    fidelity = Fidelity(window, every=walk.x_TBI.shape[0])
    for t, (lin, q_BS) in enumerate(walk):
        live_B = torch.tensor(live(t))
        rule.observe(lin, q_BS, live_B)
        fidelity.observe(lin, q_BS, live_B, rule.gradient(), walk.cell.mask_ZM)
    return float(fidelity.report()["fidelity"])


def always(_: int) -> list[bool]:
    return [True, True]


@pytest.mark.parametrize("kind", CELLS)
def test_an_exact_rule_scores_one(kind: str, random_walk: Callable[..., Any]) -> None:
    walk = random_walk(kind, n_ticks=12)
    rule = Rtrl(walk.cell, 2)
    fidelity = Fidelity(12, every=12)
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, torch.tensor([True, True]))
        gradient_ZM = rule.gradient()
        if walk.cell.mask_ZM is not None:
            gradient_ZM = torch.where(walk.cell.mask_ZM, gradient_ZM, 0.0)
        fidelity.observe(lin, q_BS, torch.tensor([True, True]), gradient_ZM, walk.cell.mask_ZM)
    assert float(fidelity.report()["fidelity"]) == pytest.approx(1.0, abs=1e-12)


def test_it_is_the_cosine_with_backpropagation(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("tanh", n_ticks=12, scale=1.2)
    truth = walk.bptt()[-1]
    rule = Tbptt(walk.cell, 2, window=2)
    found = fidelity_of(rule, walk, 12, always)
    gradient = rule.gradient()
    assert gradient is not None
    cosine = float((gradient * truth).sum() / gradient.norm() / truth.norm())
    assert found == pytest.approx(cosine, abs=1e-12)
    assert found < 0.999


def test_the_reference_is_the_window_as_each_lane_lived_it(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("lstm", n_ticks=9)
    rule = Tbptt(walk.cell, 2, window=9)
    # lane 1 sleeps now and then: its own events are what the window counts
    found = fidelity_of(rule, walk, 9, lambda t: [True, t % 3 != 1])
    assert found == pytest.approx(1.0, abs=1e-12)


def test_rows_of_idle_lanes_reach_nothing(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("tanh", n_ticks=6)
    rule, fidelity = Rtrl(walk.cell, 2), Fidelity(6, every=6)
    for lin, q_BS in walk:
        for rows in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM, q_BS):
            rows[1] = torch.nan
        rule.observe(lin, q_BS, torch.tensor([True, False]))
        fidelity.observe(lin, q_BS, torch.tensor([True, False]), rule.gradient())
    assert float(fidelity.report()["fidelity"]) == pytest.approx(1.0, abs=1e-12)


def test_a_tick_without_target_keeps_what_was_known(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("tanh", n_ticks=8)
    rule, fidelity = Rtrl(walk.cell, 2), Fidelity(2, every=4)
    walk.q_TBS[5:] = 0.0
    for t, (lin, q_BS) in enumerate(walk):
        rule.observe(lin, q_BS, torch.tensor([True, True]))
        fidelity.observe(lin, q_BS, torch.tensor([True, True]), rule.gradient())
        assert (fidelity.report() == {}) == (t < 3)
    assert float(fidelity.report()["fidelity"]) > 0


def test_a_locked_rule_is_passed_over(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("tanh", n_ticks=4)
    fidelity = Fidelity(2, every=4)
    for lin, q_BS in walk:
        fidelity.observe(lin, q_BS, torch.tensor([True, True]), None)
    assert fidelity.report() == {}


def test_learning_is_bitwise_the_same_with_and_without() -> None:
    states = []
    for probe in (None, Fidelity(4, every=8)):
        cell = Gru(2, 3)
        W_ZM = cell.initial_weight(torch.Generator().manual_seed(0))
        layer = Dense(cell, Rtrl(cell, 1), W_ZM, probe)
        yes = torch.tensor([True])
        generator = torch.Generator().manual_seed(1)
        for _ in range(20):
            x_BI = torch.randn(1, 2, generator=generator, dtype=torch.float64)
            h_BN = layer.forward(x_BI, yes)
            gradients, _ = layer.learn(h_BN - 0.5, yes)
            assert gradients is not None
            layer.W_ZM -= 0.1 * gradients[0]
        states.append(layer.state_dict())
    assert states[1].pop("fidelity.ticks") == 4
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    assert "fidelity" in layer.report()


def test_w_is_copied_because_it_moves() -> None:
    cell = Tanh(1, 2)
    rule, fidelity = Tbptt(cell, 1, window=6), Fidelity(6, every=6)
    W_ZM = cell.initial_weight(torch.Generator().manual_seed(0))
    yes = torch.tensor([True])
    s_BS = torch.zeros(1, 2, dtype=torch.float64)
    for t in range(6):
        s_BS, lin = cell.step(W_ZM, torch.ones(1, 1, dtype=torch.float64) * t, s_BS)
        q_BS = torch.ones_like(s_BS)
        rule.observe(lin, q_BS, yes)
        fidelity.observe(lin, q_BS, yes, rule.gradient())
        W_ZM *= -0.7  # in place, as an update does
    assert float(fidelity.report()["fidelity"]) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("resumed_at", [2, 7, 8])
def test_a_resumed_one_keeps_the_clock_and_compares_whole_windows_only(
    resumed_at: int, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk("tanh", n_ticks=20)
    rule, fidelity, compared = Tbptt(walk.cell, 2, window=3), Fidelity(4, every=10), []
    for t, (lin, q_BS) in enumerate(walk):
        if t == resumed_at:
            state = fidelity.state_dict()
            fidelity = Fidelity(4, every=10)
            fidelity.load_state_dict(state)
        rule.observe(lin, q_BS, torch.tensor([True, True]))
        fidelity.observe(lin, q_BS, torch.tensor([True, True]), rule.gradient())
        compared.append("fidelity" in fidelity.report())
    first = 9 if resumed_at < 7 else 19  # what it had copied by then is gone
    assert compared.index(True) == first


@pytest.mark.parametrize(
    ("window", "every", "message"), [(0, 5, "window must be"), (6, 5, "every must be at least")]
)
def test_settings_without_sense_are_refused(window: int, every: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fidelity(window, every)


def test_what_a_lane_did_before_its_reset_is_no_part_of_the_reference(
    random_walk: Callable[..., Any],
) -> None:
    walk = random_walk("tanh", n_lanes=2, n_ticks=10, scale=1.2)
    rule, fidelity = Rtrl(walk.cell, 2), Fidelity(10, every=10)
    s_BS, second = torch.zeros_like(walk.q_TBS[0]), torch.tensor([False, True])
    for t, (x_BI, q_BS) in enumerate(zip(walk.x_TBI, walk.q_TBS, strict=True)):
        if t == 7:
            rule.reset(second)
            fidelity.reset(second)
            s_BS[1] = 0.0
        s_BS, lin = walk.cell.step(walk.W_ZM, x_BI, s_BS)
        rule.observe(lin, q_BS, torch.tensor([True, True]))
        fidelity.observe(lin, q_BS, torch.tensor([True, True]), rule.gradient())
    assert float(fidelity.report()["fidelity"]) == pytest.approx(1.0, abs=1e-12)


def test_the_payment_of_several_ticks_is_not_compared_with_one_of_them(
    random_walk: Callable[..., Any],
) -> None:
    walk = random_walk("tanh", n_ticks=12)
    rule, fidelity = Tbptt(walk.cell, 2, window=4, every=4), Fidelity(4, every=4)
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, torch.tensor([True, True]))
        fidelity.observe(lin, q_BS, torch.tensor([True, True]), rule.gradient())
    assert fidelity.report() == {}


@pytest.mark.parametrize(
    ("moved_after", "known_again"),
    [(8, 16), (12, 16), (14, 24)],  # the copied ticks of a period of 8 are the last 4
)
def test_after_a_move_nothing_is_known_until_the_new_rule_was_compared(
    moved_after: int, known_again: int
) -> None:
    layer = layer_of(Fidelity(4, every=8), kf_then_exact)
    before = [tick(layer, t) for t in range(1, moved_after + 1)]
    assert before[-1] is not None
    assert before[-1] < 0.99
    layer.credit.move(1)  # type: ignore[attr-defined]
    assert "fidelity" not in layer.report()
    after = {t: tick(layer, t) for t in range(moved_after + 1, 25)}
    assert [t for t, found in after.items() if found is not None] == list(range(known_again, 25))
    assert after[24] == pytest.approx(1.0, abs=1e-12)


def test_moves_that_nobody_saw_are_moves() -> None:
    layer = layer_of(Fidelity(4, every=8), kf_then_exact)
    for t in range(8):
        tick(layer, t)
    layer.credit.move(1)  # type: ignore[attr-defined]
    layer.credit.move(0)  # type: ignore[attr-defined]
    assert "fidelity" not in layer.report()


def test_a_gradient_that_pays_what_the_rule_before_owed_is_not_compared() -> None:
    layer = layer_of(
        Fidelity(1, every=1), lambda cell: [Tbptt(cell, 1, window=4, every=4), Rtrl(cell, 1)]
    )
    assert [tick(layer, t) for t in range(2)] == [None, None]  # locked
    layer.credit.move(1)  # type: ignore[attr-defined]
    assert tick(layer, 2) is None
    assert tick(layer, 3) is not None


def test_below_the_last_rung_there_is_no_credit_to_compare() -> None:
    layer = layer_of(Fidelity(4, every=8), kf_then_exact)
    for t in range(8):
        tick(layer, t)
    layer.credit.move(2)  # type: ignore[attr-defined]
    for t in range(20):
        found = tick(layer, t)
        assert found is None or math.isnan(found)


@pytest.mark.parametrize("teaches", ["readout", "nothing"])
def test_while_the_recurrence_is_not_taught_no_fidelity_is_told(
    teaches: Teaches, learner_of: Callable[..., Learner], frames_of: Callable[..., list[Frame]]
) -> None:
    learner = learner_of("gru")
    assert isinstance(learner.recurrence, Dense)
    learner.recurrence.fidelity = Fidelity(2, every=4)
    for frame in frames_of(4):
        learner.step(frame)
    known = learner.report()["fidelity"]
    learner.teaches = teaches
    for frame in frames_of(6):
        learner.step(frame)
        assert "fidelity" not in learner.report()
    learner.teaches = "all"
    assert learner.report()["fidelity"] == known


@pytest.mark.parametrize(("resumed_at", "known_again"), [(13, 16), (14, 24), (16, 24), (17, 24)])
def test_after_a_restart_the_period_goes_on_and_the_mean_begins_anew(
    resumed_at: int, known_again: int
) -> None:
    layer = layer_of(Fidelity(4, every=8), kf_then_exact)
    for t in range(1, 33):
        if t == resumed_at:
            state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
            layer = layer_of(Fidelity(4, every=8), kf_then_exact)
            layer.load_state_dict(state)
        found = tick(layer, t)
        # a comparison is passed over whose window was half copied
        assert (found is not None) == (8 <= t < resumed_at or t >= known_again)


@pytest.mark.parametrize(
    ("window", "every", "first"), [(64, 200_000, 4096), (5000, 200_000, 5000), (64, 1000, 1000)]
)
def test_the_first_comparison_does_not_wait_for_a_long_period(
    window: int, every: int, first: int
) -> None:
    fidelity = Fidelity(window, every)
    assert fidelity.unseen_ticks == first - window
    fidelity.pass_over(10)
    fidelity.load_state_dict({})  # of a run that was not probed
    assert fidelity.unseen_ticks == first - window

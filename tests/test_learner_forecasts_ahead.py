"""With a horizon of k events the pairs (x_{t-k}, y_t) are learned, in order and exactly.

Predictions are made with the newest parameters, and nothing of the future leaks into them. float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS
from stream_rnn.frame import Frame
from stream_rnn.learner import Learner

HORIZONS = [1, 3]
T = 14


def predictions(learner: Learner, frames: list[Frame]) -> list[Tensor]:
    return [learner.step(frame).prediction_BP for frame in frames]


def reference(learner: Learner, frames: list[Frame], horizon: int) -> list[Tensor]:
    """W and V learned by hand from the pairs, by autograd and torch.optim.

    RTRL's influence while learning is the derivative by a shift common to all W_1..W_t of the
    trajectory really taken (docs/algorithms.md 7.3); `shift` is that.
    """
    cell: Any = learner.recurrence.cell
    W_ZM, V_PF = (parameter.clone() for parameter in learner.parameters())
    optimizers = [torch.optim.Adam([parameter], lr=0.01) for parameter in (W_ZM, V_PF)]
    history: list[Tensor] = []
    for t in range(len(frames) - horizon):
        history.append(W_ZM.clone())
        shift = torch.zeros_like(W_ZM).requires_grad_()
        V_leaf = V_PF.clone().requires_grad_()
        s_BS = torch.zeros(2, cell.n_state, dtype=torch.float64)
        for frame, W_then_ZM in zip(frames, history, strict=False):
            s_BS, _ = cell.step(W_then_ZM + shift, frame.x_BI, s_BS)
        h_BN, x_BI = s_BS[:, : cell.n_units], frames[t].x_BI
        o_BP = torch.cat((h_BN, x_BI, torch.ones(2, 1).double()), dim=1) @ V_leaf.T
        loss = (o_BP - frames[t + horizon].y_BQ).square().mean()
        grads = torch.autograd.grad(loss, [shift, V_leaf])
        for optimizer, parameter, grad in zip(optimizers, (W_ZM, V_PF), grads, strict=True):
            if cell.mask_ZM is not None and parameter is W_ZM:
                grad = torch.where(cell.mask_ZM, grad, 0.0)  # noqa: PLW2901
            parameter.grad = grad * min(1.0, 1.0 / float(grad.norm()))  # clipped to norm 1
            optimizer.step()
    return [W_ZM, V_PF]


@pytest.mark.parametrize("horizon", [0, *HORIZONS])
@pytest.mark.parametrize("kind", CELLS)
def test_what_is_learned_is_the_pairs_in_order(
    kind: str, horizon: int, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    frames = frames_of(T)
    learner = learner_of(kind, horizon=horizon)
    truth = reference(learner, frames, horizon)
    predictions(learner, frames)
    for mine, theirs in zip(learner.parameters(), truth, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("rule", ["ok", "tbptt"])
def test_it_learns_bitwise_what_a_learner_fed_with_the_pairs_learns(
    rule: str, horizon: int, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    frames = frames_of(T, n_lanes=1)
    late, paired = (learner_of("lstm", rule, n_lanes=1, horizon=k) for k in (horizon, 0))
    predictions(late, frames)
    if rule == "ok":  # signs are drawn at every tick, at those that wait for a target, too
        for _ in range(horizon):
            paired.recurrence.credit.draw_signs()
    for frame, later in zip(frames, frames[horizon:], strict=False):
        paired.step(dataclasses.replace(frame, y_BQ=later.y_BQ))
    for mine, theirs in zip(late.parameters(), paired.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("kind", CELLS)
def test_a_frozen_net_predicts_by_a_plain_forward_pass_over_all_inputs(
    kind: str, horizon: int, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    learner, frames = learner_of(kind, horizon=horizon), frames_of(T)
    learner.teaches = "nothing"
    W_ZM, V_PF = learner.parameters()
    s_BS = torch.zeros(2, learner.recurrence.cell.n_state, dtype=torch.float64)
    for frame in frames:
        s_BS, _ = learner.recurrence.cell.step(W_ZM, frame.x_BI, s_BS)
        features = torch.cat((s_BS[:, :3], frame.x_BI, torch.ones(2, 1).double()), dim=1)
        prediction_BP = learner.step(frame).prediction_BP
        torch.testing.assert_close(prediction_BP, features @ V_PF.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", CELLS)
def test_the_prediction_uses_the_parameters_that_contain_this_event(
    kind: str, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    learner = learner_of(kind, horizon=1)
    for frame in frames_of(T):
        outcome = learner.step(frame)
        h_BN = learner.lane_state["ahead_BS"][:, :3]
        again_BP = learner.head.predict(h_BN, frame.x_BI)  # with V as it is after the update
        assert torch.equal(outcome.prediction_BP, again_BP)


@pytest.mark.parametrize("horizon", [0, *HORIZONS])
@pytest.mark.parametrize("place", ["x", "y"])
@pytest.mark.parametrize("rule", ["rtrl", "ok", "tbptt"])
def test_nothing_leaks_from_the_future(
    rule: str,
    place: str,
    horizon: int,
    learner_of: Callable[..., Any],
    frames_of: Callable[..., Any],
) -> None:
    """Events from `cut` on are others: every prediction before it is bitwise the same."""
    frames, cut = frames_of(T), 8
    changed = list(frames)
    for t in range(cut, T):
        fresh = {f"{place}_B{'I' if place == 'x' else 'Q'}": torch.full((2, 2), 7.0).double()}
        if place == "y":
            fresh["y_BQ"] = fresh["y_BQ"][:, :1]
        changed[t] = dataclasses.replace(frames[t], **fresh)
    plain = predictions(learner_of("gru", rule, horizon=horizon), frames)
    other = predictions(learner_of("gru", rule, horizon=horizon), changed)
    assert all(torch.equal(a, b) for a, b in zip(plain[:cut], other[:cut], strict=True))
    assert not torch.equal(plain[-1], other[-1])
    if horizon == 0 and place == "y":  # its own target is not known when an event is predicted
        assert torch.equal(plain[cut], other[cut])


@pytest.mark.parametrize("horizon", HORIZONS)
def test_each_lane_waits_for_its_own_events(
    horizon: int, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    """Lane 1 lives at every second tick; nothing of it is learned before it has k events."""
    learner = learner_of("tanh", horizon=horizon)
    n_seen = [0, 0]
    for t, frame in enumerate(frames_of(10)):
        live = [True, t % 2 == 0]
        outcome = learner.step(dataclasses.replace(frame, live_B=torch.tensor(live)))
        ready = [is_live and n >= horizon for is_live, n in zip(live, n_seen, strict=True)]
        assert outcome.learned_B.tolist() == ready
        n_seen = [n + is_live for n, is_live in zip(n_seen, live, strict=True)]
    assert learner.lane_state["count_B"].tolist() == n_seen


@pytest.mark.parametrize("place", ["x", "y"])
def test_a_bad_event_is_skipped_in_the_queue_too(
    place: str, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    bad, clean = (learner_of("gru", "ok", horizon=2, n_lanes=1) for _ in range(2))
    for t, frame in enumerate(frames_of(10, n_lanes=1)):
        if t == 5:
            name = "x_BI" if place == "x" else "y_BQ"
            rows = torch.full_like(getattr(frame, name), torch.nan)
            assert bad.step(dataclasses.replace(frame, **{name: rows})).rejected_B.all()
            clean.step(dataclasses.replace(frame, live_B=torch.tensor([False])))
        else:
            bad.step(frame)
            clean.step(frame)
    state, truth = bad.state_dict(), clean.state_dict()
    assert all(torch.equal(state[name], truth[name]) for name in truth)

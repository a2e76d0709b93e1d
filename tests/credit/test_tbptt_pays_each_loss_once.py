"""TBPTT(k1 = every, k2 = window): every loss is paid once, carried back at most k2 steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Tanh
from stream_rnn.credit import Tbptt

ALL = torch.tensor([True, True])


def truncated(walk: Any, pays: dict[int, int], window: int) -> Tensor:
    """Sum of dL_t/dW, the loss of tick t paid at tick pays[t] over the last `window` steps."""
    total = torch.zeros_like(walk.W_ZM)
    states = [torch.zeros_like(walk.q_TBS[0])]
    for x_BI in walk.x_TBI:
        states.append(walk.cell.step(walk.W_ZM, x_BI, states[-1])[0])
    for t, paid_at in pays.items():
        W_ZM = walk.W_ZM.clone().requires_grad_()
        first = max(0, paid_at - window + 1)
        s_BS = states[first]
        for x_BI in walk.x_TBI[first : t + 1]:
            s_BS, _ = walk.cell.step(W_ZM, x_BI, s_BS)
        total += torch.autograd.grad((walk.q_TBS[t] * s_BS).sum(), W_ZM)[0]
    return total


@pytest.mark.parametrize(("window", "every"), [(1, 1), (5, 1), (6, 3), (5, 5), (7, 4), (24, 6)])
@pytest.mark.parametrize("kind", CELLS)
def test_what_is_paid_is_the_truncated_gradient(
    kind: str, window: int, every: int, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk(kind, n_ticks=24)
    rule = Tbptt(walk.cell, 2, window=window, every=every)
    since = 0
    for t, (lin, q_BS) in enumerate(walk):
        rule.observe(lin, q_BS, ALL)
        gradient_ZM = rule.gradient()
        if (t + 1) % every:
            assert gradient_ZM is None
            continue
        pays = dict.fromkeys(range(since, t + 1), t)
        torch.testing.assert_close(
            gradient_ZM, truncated(walk, pays, window), rtol=1e-10, atol=1e-12
        )
        since = t + 1


@pytest.mark.parametrize("kind", CELLS)
def test_the_payments_of_a_long_locked_window_sum_to_bptt(
    kind: str, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk(kind, n_ticks=24)
    rule = Tbptt(walk.cell, 2, window=24, every=4)
    paid = []
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, ALL)
        paid.append(rule.gradient())
    total = torch.stack([gradient for gradient in paid if gradient is not None]).sum(dim=0)
    truth = torch.stack(walk.bptt()).sum(dim=0)
    torch.testing.assert_close(total, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", CELLS)
def test_window_one_is_the_instantaneous_gradient(
    kind: str, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk(kind)
    rule = Tbptt(walk.cell, 2, window=1)
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, ALL)
        now_ZM = lin.pull_drive(q_BS).T @ lin.u_BM
        torch.testing.assert_close(rule.gradient(), now_ZM, rtol=0, atol=1e-13)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("kind", CELLS)
def test_a_flush_pays_what_is_owed_and_only_once(
    kind: str, every: int, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk(kind, n_ticks=8)  # 8 = 2 * 3 + 2: two losses are owed if every = 3
    rule = Tbptt(walk.cell, 2, window=5, every=every)
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, ALL)
    owed = rule.flush()
    if every == 1:
        assert owed is None
    else:
        torch.testing.assert_close(
            owed, truncated(walk, {6: 7, 7: 7}, window=5), rtol=1e-10, atol=1e-12
        )
    assert rule.flush() is None


@pytest.mark.parametrize("kind", CELLS)
def test_a_window_counts_the_events_of_its_own_lane(
    kind: str, random_walk: Callable[..., Any]
) -> None:
    """Lane 0 lives at every tick, lane 1 at every third: each as if it were alone."""
    both = random_walk(kind, n_lanes=2, n_ticks=18)
    cell, window = both.cell, 4
    alone = [Tbptt(cell, 1, window=window) for _ in range(2)]
    rule = Tbptt(cell, 2, window=window)
    s_BS = torch.zeros_like(both.q_TBS[0])
    for t, (x_BI, q_BS) in enumerate(zip(both.x_TBI, both.q_TBS, strict=True)):
        live = [True, t % 3 == 0]
        live_B = torch.tensor(live)
        new_BS, lin = cell.step(both.W_ZM, x_BI, s_BS)
        rule.observe(lin, q_BS, live_B)
        truth = torch.zeros_like(both.W_ZM)
        for b in (0, 1):
            if live[b]:
                _, lin_b = cell.step(both.W_ZM, x_BI[b : b + 1], s_BS[b : b + 1])
                alone[b].observe(lin_b, q_BS[b : b + 1], torch.tensor([True]))
                truth += alone[b].gradient()
        torch.testing.assert_close(rule.gradient(), truth, rtol=1e-10, atol=1e-12)
        s_BS = torch.where(live_B[:, None], new_BS, s_BS)


def test_an_idle_lane_is_paid_with_the_others_and_only_once(
    random_walk: Callable[..., Any],
) -> None:
    """every = 3: what lane 1 owes from the first tick is paid at the third, though it is idle."""
    walk = random_walk("gru", n_ticks=6)
    cell = walk.cell
    rule = Tbptt(cell, 2, window=6, every=3)
    s_BS = torch.zeros_like(walk.q_TBS[0])
    total = torch.zeros_like(walk.W_ZM)
    for t, (x_BI, q_BS) in enumerate(zip(walk.x_TBI, walk.q_TBS, strict=True)):
        live_B = torch.tensor([True, t == 0])
        new_BS, lin = cell.step(walk.W_ZM, x_BI, s_BS)
        rule.observe(lin, q_BS, live_B)
        gradient_ZM = rule.gradient()
        total += 0 if gradient_ZM is None else gradient_ZM
        s_BS = torch.where(live_B[:, None], new_BS, s_BS)
    walk.q_TBS[1:, 1] = 0.0  # the only loss of lane 1 is its first
    truth = torch.stack(walk.bptt()).sum(dim=0)
    torch.testing.assert_close(total, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("window", "every"), [(0, 1), (3, 0), (3, 4)])
def test_a_senseless_window_is_refused(window: int, every: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Tbptt(Tanh(1, 1), 1, window=window, every=every)

"""OK adds no noise, whatever the signs, while the influence's rank is at most r.

float64: relative error 1e-10 at every tick, gradient against exact RTRL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stream_rnn.cells import CELLS, Tanh
from stream_rnn.credit import Ok, Rtrl

CHUNKS = ["joint", "gate", "row"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def errors(walk: Any, rule: Ok) -> list[float]:
    """Relative error of the gradient of each tick."""
    B = walk.x_TBI.shape[1]
    exact, out = Rtrl(walk.cell, B), []
    for lin, q_BS in walk:
        for each in (rule, exact):
            each.observe(lin, q_BS, torch.ones(B, dtype=torch.bool))
        truth_ZM = exact.gradient()
        out.append(float((rule.gradient() - truth_ZM).norm() / truth_ZM.norm()))
    return out


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("kind", CELLS)
def test_rank_m_is_exact_for_ever(kind: str, chunks: Any, random_walk: Callable[..., Any]) -> None:
    walk = random_walk(kind, n_inputs=2, n_units=3, n_ticks=30)
    rule = Ok(walk.cell, 2, generator(), rank=6, chunks=chunks)  # M = 2 + 3 + 1
    assert max(errors(walk, rule)) < 1e-10


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("kind", CELLS)
def test_the_first_r_ticks_are_exact_and_so_they_are_after_a_reset(
    kind: str, chunks: Any, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk(kind, n_inputs=5, n_units=6, n_ticks=12)
    rule = Ok(walk.cell, 2, generator(), rank=3, chunks=chunks)
    early = errors(walk, rule)
    # the gradient is read before the projection: tick r + 1 is still exact, r + 2 is noisy
    assert max(early[:4]) < 1e-10
    if chunks != "row":  # a row's influence has rank N at most
        assert max(early[4:]) > 1e-4
    rule.reset(torch.tensor([True, True]))
    assert max(errors(walk, rule)[:4]) < 1e-10


@pytest.mark.parametrize("kind", CELLS)
def test_few_distinct_inputs_are_exact_at_their_rank(
    kind: str, random_walk: Callable[..., Any]
) -> None:
    """No recurrence in the weights' h columns and two distinct x: a_t spans few directions."""
    walk = random_walk(kind, n_inputs=4, n_units=5, n_lanes=1, n_ticks=30)
    walk.W_ZM[:, 4:9] = 0.0  # then h takes few values when the input repeats with period 2
    x_2BI = walk.x_TBI[:2].clone()
    walk.x_TBI = x_2BI.repeat(15, 1, 1)
    if kind == "tanh":  # h_t depends on x_t alone: [x_t, h_tm1, 1] takes 2 values, and the first
        rule = Ok(walk.cell, 1, generator(), rank=3, chunks="joint")
        assert max(errors(walk, rule)) < 1e-10
    else:  # the state forgets slowly: exact once r covers every direction there is
        rule = Ok(walk.cell, 1, generator(), rank=10, chunks="gate")
        assert max(errors(walk, rule)) < 1e-10


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("kind", CELLS)
def test_a_net_smaller_than_the_rank_is_exact(
    kind: str, chunks: Any, random_walk: Callable[..., Any]
) -> None:
    """N = 1: a chunk has fewer entries (S*L) than the r = 8 columns asked for."""
    walk = random_walk(kind, n_inputs=12, n_units=1, n_ticks=25)
    rule = Ok(walk.cell, 2, generator(), rank=8, chunks=chunks)
    assert max(errors(walk, rule)) < 1e-10


def test_rank_eight_is_exact_if_it_is_m(random_walk: Callable[..., Any]) -> None:
    """r = 8 = M: here seven Jacobi sweeps instead of eight left noise of 5e-8."""
    walk = random_walk("lstm", n_inputs=3, n_units=4, n_lanes=1, n_ticks=80)
    assert max(errors(walk, Ok(walk.cell, 1, generator(), rank=8))) < 1e-10


@pytest.mark.parametrize("n_steps", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_float32_stays_close_over_thousands_of_steps(n_steps: int) -> None:
    cell = Tanh(2, 3)
    W_ZM = cell.initial_weight(generator(1))
    W_ZM[:, 2:5] *= 0.95
    rule, exact = Ok(cell, 1, generator(), rank=6, chunks="joint"), Rtrl(cell, 1)
    s_BS, live_B = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([True])
    inputs, worst = generator(2), 0.0
    for _ in range(n_steps):
        x_BI = torch.randn(1, 2, generator=inputs, dtype=torch.float64)
        q_BS = torch.randn(1, 3, generator=inputs, dtype=torch.float64)
        _, lin = cell.step(W_ZM.float(), x_BI.float(), s_BS.float())
        rule.observe(lin, q_BS.float(), live_B)
        s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
        exact.observe(lin, q_BS, live_B)
        truth_ZM = exact.gradient()
        worst = max(worst, float((rule.gradient() - truth_ZM).norm() / truth_ZM.norm()))
    assert worst < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_zero_input_gives_zero_and_finite_output(chunks: Any, dtype: torch.dtype) -> None:
    """Saturated units: the drive is exactly zero, so is every summand."""
    cell = Tanh(1, 2)
    rule = Ok(cell, 1, generator(), rank=3, chunks=chunks)
    W_ZM = torch.full(cell.weight_shape, 100.0, dtype=dtype)
    s_BS = torch.zeros(1, 2, dtype=dtype)
    for _ in range(5):
        s_BS, lin = cell.step(W_ZM, torch.full((1, 1), 5.0, dtype=dtype), s_BS)
        assert not lin.drive_BKGN.any()
        rule.observe(lin, torch.ones_like(s_BS), torch.tensor([True]))
        assert not rule.gradient().any()
        assert not any(state.any() for state in rule.lane_state.values())
        assert rule.healthy().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": 0}, "rank must be at least 1, got 0"), ({"chunks": "cell"}, "got 'cell'")],
)
def test_a_senseless_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ok(Tanh(1, 1), 1, generator(), **settings)

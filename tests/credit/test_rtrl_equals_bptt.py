"""Exact RTRL, and a window as long as the stream, equal backpropagation through all of time.

Frozen W, float64, every tick of 40, three lanes. 1e-10 is relative to the largest entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stream_rnn.cells import CELLS

T = 40


def assert_equals_bptt(walk: Any, rule: Any) -> None:
    everybody = torch.ones(walk.x_TBI.shape[1], dtype=torch.bool)
    for (lin, q_BS), truth_ZM in zip(walk, walk.bptt(), strict=True):
        rule.observe(lin, q_BS, everybody)
        atol = 1e-10 * float(truth_ZM.abs().max())
        torch.testing.assert_close(rule.gradient(), truth_ZM, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("rtrl", {}), ("tbptt", {"window": T}), ("tbptt", {"window": T + 3})],
    ids=["rtrl", "window=T", "window>T"],
)
@pytest.mark.parametrize("kind", CELLS)
def test_the_gradient_of_every_tick_equals_bptt(
    kind: str,
    name: str,
    settings: dict[str, Any],
    random_walk: Callable[..., Any],
    rule_of: Callable[..., Any],
) -> None:
    walk = random_walk(kind, n_inputs=2, n_units=4, n_lanes=3, n_ticks=T)
    assert_equals_bptt(walk, rule_of(name, walk.cell, 3, **settings))


@pytest.mark.parametrize("kind", CELLS)
def test_a_window_shorter_than_the_stream_is_not_exact(
    kind: str, random_walk: Callable[..., Any], rule_of: Callable[..., Any]
) -> None:
    walk = random_walk(kind, n_units=4, n_ticks=T)
    with pytest.raises(AssertionError, match="not close"):
        assert_equals_bptt(walk, rule_of("tbptt", walk.cell, 2, window=3))


@pytest.mark.parametrize("kind", CELLS)
def test_the_influence_is_the_jacobian_of_the_state(
    kind: str,
    random_walk: Callable[..., Any],
    rule_of: Callable[..., Any],
    relative_error: Callable[..., float],
) -> None:
    walk = random_walk(kind, n_ticks=15)
    rule = rule_of("rtrl", walk.cell, 2)
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, torch.tensor([True, True]))

    def last_state(W_ZM: torch.Tensor) -> torch.Tensor:
        s_BS = torch.zeros_like(walk.q_TBS[0])
        for x_BI in walk.x_TBI:
            s_BS, _ = walk.cell.step(W_ZM, x_BI, s_BS)
        return s_BS

    truth = torch.autograd.functional.jacobian(last_state, walk.W_ZM)
    assert relative_error(rule.lane_state["G_BSZM"], truth) < 1e-10
    assert relative_error(walk.influence(), truth) < 1e-10  # the yardstick of the other tests

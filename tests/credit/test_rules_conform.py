"""Every rule keeps the contract of Credit with every cell: lanes, reset, bad credit, resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells import CELLS, Cell, Tanh
from stream_rnn.credit import RULES, Credit, Fallback, Rtrl, Tbptt
from stream_rnn.linearization import Linearization
from stream_rnn.testing import check_credit

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in RULES},
    "ok-joint-1": ("ok", {"rank": 1, "chunks": "joint"}),
    "ok-gate-2": ("ok", {"rank": 2}),
    "ok-row-2": ("ok", {"rank": 2, "chunks": "row"}),
    "tbptt-1": ("tbptt", {"window": 1}),
    "tbptt-4": ("tbptt", {"window": 4}),
    "tbptt-6-every-3": ("tbptt", {"window": 6, "every": 3}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", CELLS)
def test_the_rule_keeps_the_contract(
    kind: str, variant: str, rule_of: Callable[..., Credit]
) -> None:
    name, settings = VARIANTS[variant]
    check_credit(lambda cell, n: rule_of(name, cell, n, **settings), CELLS[kind](2, 3))


@pytest.mark.parametrize("kind", CELLS)
def test_a_fallback_ladder_keeps_the_contract(kind: str, rule_of: Callable[..., Credit]) -> None:
    def ladder(cell: Cell, n_lanes: int) -> Fallback:
        return Fallback([rule_of("ok", cell, n_lanes, rank=2), Tbptt(cell, n_lanes, window=4)])

    check_credit(ladder, CELLS[kind](2, 3))


def test_a_rule_that_lets_an_idle_lane_decay_is_found() -> None:
    class Forgetful(Rtrl):
        @override
        def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
            super().observe(lin, q_BS, live_B)
            self.lane_state["G_BSZM"] *= 0.99

    with pytest.raises(AssertionError, match="an idle lane must not change: G_BSZM differs"):
        check_credit(Forgetful)


def test_a_rule_that_forgets_a_tensor_in_its_state_is_found() -> None:
    class Amnesic(Rtrl):
        @override
        def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
            """Takes nothing."""

    with pytest.raises(AssertionError, match="a resumed rule learns differently"):
        check_credit(Amnesic)


@pytest.mark.parametrize("name", RULES)
def test_an_idle_lane_full_of_nan_harms_nobody(name: str, rule_of: Callable[..., Credit]) -> None:
    cell = Tanh(2, 3)
    rule = rule_of(name, cell, 2)
    W_ZM = cell.initial_weight(torch.Generator().manual_seed(0))
    s_BS = torch.zeros(2, 3, dtype=torch.float64)
    for live in ([True, True], [True, False]):
        s_BS, lin = cell.step(W_ZM, torch.ones_like(s_BS[:, :2]), s_BS)
        rule.observe(lin, torch.ones_like(s_BS), torch.tensor(live))
        for state in rule.lane_state.values():
            if state.is_floating_point():
                state[1] = torch.nan
    gradient_ZM = rule.gradient()
    assert gradient_ZM is not None
    assert gradient_ZM.isfinite().all()
    assert rule.healthy()[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_a_step_that_depends_on_nothing_gives_zero_and_finite_output(
    name: str, dtype: torch.dtype, rule_of: Callable[..., Credit]
) -> None:
    """Saturated units: drive and carry are exactly zero, so the influence is."""
    cell = Tanh(1, 2)
    rule = rule_of(name, cell, 1)
    s_BS = torch.zeros(1, 2, dtype=dtype)
    W_ZM = torch.full(cell.weight_shape, 0.5, dtype=dtype)
    for is_saturated in (True, True, False, False, True, True):  # from zero, and back to it
        W_t_ZM = W_ZM * 200 if is_saturated else W_ZM
        s_BS, lin = cell.step(W_t_ZM, torch.full((1, 1), 2.0, dtype=dtype), s_BS)
        assert is_saturated != bool(lin.drive_BKGN.any())
        rule.observe(lin, torch.ones_like(s_BS), torch.tensor([True]))
        gradient_ZM = rule.gradient()
        assert gradient_ZM is not None
        assert gradient_ZM.isfinite().all()
        assert is_saturated != bool(gradient_ZM.any())
        assert all(bool(state.isfinite().all()) for state in rule.lane_state.values())
        assert rule.healthy().all()


@pytest.mark.parametrize("name", RULES)
def test_no_lanes_are_refused(name: str, rule_of: Callable[..., Credit]) -> None:
    with pytest.raises(ValueError, match="n_lanes must be at least 1, got 0"):
        rule_of(name, Tanh(1, 1), 0)


@pytest.mark.parametrize("name", ["kf", "ok", "uoro"])
def test_a_noisy_rule_without_signs_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        RULES[name](Tanh(1, 1), 1)

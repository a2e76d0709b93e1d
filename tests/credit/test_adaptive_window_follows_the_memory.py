"""The window follows the memory of the net, up and down, while running; its bias is in bounds.

Memory is known by construction: a linear net with an orthogonal recurrent matrix times a carries
dL/ds back with the factor a per step, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells import Cell, Tanh
from stream_rnn.credit import AdaptiveTbptt, Rtrl, Tbptt
from stream_rnn.linearization import Linearization

B, INPUTS, N = 4, 2, 6
HISTORY = 32
PHASE = 70  # ticks, and one adaptation


class Linear(Cell):
    """h_t = W [x_t, h_tm1, 1]."""

    blocks = 1
    gates = 1

    @override
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        u_BM = self._assemble(x_BI, s_BS)
        h_BN = u_BM @ W_ZM.T
        drive_BKGN = torch.ones_like(h_BN)[:, None, None]
        W_h_ZN = self._recurrent_columns(W_ZM)
        return h_BN, Linearization(W_h_ZN, drive_BKGN, torch.zeros_like(drive_BKGN), u_BM)


def adaptive(cell: Cell, n_lanes: int = B, **more: Any) -> AdaptiveTbptt:
    quick: dict[str, Any] = {
        "k_max": HISTORY,
        "window": 2,
        "history": HISTORY,
        "sample_every": 7,
        "adapt_every": PHASE,
        "min_samples": 1,
    }
    return AdaptiveTbptt(cell, n_lanes, **(quick | more))


def windows_of(
    rule: AdaptiveTbptt,
    memory: list[float],
    size: float = 1.0,
    dtype: torch.dtype = torch.float64,
    loss: float = 1.0,
) -> list[int]:
    """The window after each phase, through which W_h is orthogonal times `memory`."""
    generator = torch.Generator().manual_seed(0)
    cell = rule.cell
    W_ZM = cell.initial_weight(generator).to(dtype)
    Q_NN = W_ZM[:, INPUTS : INPUTS + N].clone()
    s_BS = torch.zeros(B, N, dtype=dtype)
    windows = []
    for a in memory:
        W_ZM[:, INPUTS : INPUTS + N] = a * Q_NN
        for _ in range(PHASE):
            x_BI = size * torch.randn(B, INPUTS, generator=generator, dtype=dtype)
            q_BS = loss * torch.randn(B, N, generator=generator, dtype=dtype)
            s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
            rule.observe(lin, q_BS, torch.ones(B, dtype=torch.bool))
        windows.append(rule.window)
    return windows


def closed_form(a: float, tolerance: float = 0.1) -> int:
    share = 1 - 2 * a**HISTORY
    return math.floor(math.log(tolerance * share) / math.log(a)) + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", ["slope", "max"])
def test_the_window_follows_the_memory_up_and_down_while_running(
    estimator: str, dtype: torch.dtype
) -> None:
    """The phase after a switch still sees steps from before it (or none), the second one none."""
    memory = [0.5, 0.5, 0.9, 0.9, 0.5, 0.5, 0.8, 0.8]
    rule = adaptive(Linear(INPUTS, N), estimator=estimator)
    windows = windows_of(rule, memory, dtype=dtype)
    assert windows[1::2] == [closed_form(a) for a in (0.5, 0.9, 0.5, 0.8)]
    assert windows[1::2] == [4, 23, 4, 11]


def test_a_tanh_net_of_small_signals_follows_too() -> None:
    rule = adaptive(Tanh(INPUTS, N))
    windows = windows_of(rule, [0.5, 0.5, 0.9, 0.9, 0.5, 0.5], size=1e-3)
    assert windows[1::2] == [closed_form(a) for a in (0.5, 0.9, 0.5)]


@pytest.mark.parametrize("loss", [1e-25, 1e4])
def test_the_scale_of_the_loss_does_not_matter(loss: float) -> None:
    """In float32 the squares of 1e-25 are zero."""
    rule = adaptive(Linear(INPUTS, N))
    windows = windows_of(rule, [0.8, 0.8], dtype=torch.float32, loss=loss)
    assert windows[-1] == closed_form(0.8)


def test_a_net_that_does_not_forget_gets_the_largest_window() -> None:
    rule = adaptive(Linear(INPUTS, N), k_max=30)
    assert windows_of(rule, [1.0, 1.0]) == [30, 30]
    assert float(rule.report()["bias"]) == math.inf


def test_a_net_that_forgets_at_once_gets_the_smallest_window() -> None:
    rule = adaptive(Linear(INPUTS, N), window=30, k_min=3)
    assert windows_of(rule, [0.01], dtype=torch.float32) == [3]
    assert float(rule.report()["beta"]) == 0.0


def test_a_tighter_tolerance_takes_a_longer_window() -> None:
    for tolerance in (0.5, 0.1, 0.05):
        rule = adaptive(Linear(INPUTS, N), tolerance=tolerance)
        assert windows_of(rule, [0.9, 0.9])[-1] == closed_form(0.9, tolerance)


def test_the_report_says_decay_and_bound() -> None:
    rule = adaptive(Linear(INPUTS, N))
    windows_of(rule, [0.9, 0.9])
    report = {name: float(fact) for name, fact in rule.report().items()}
    bias = 0.9 ** closed_form(0.9) / (1 - 2 * 0.9**HISTORY)
    assert report == pytest.approx({"window": closed_form(0.9), "beta": 0.9, "bias": bias})


@pytest.mark.parametrize("estimator", ["slope", "max"])
@pytest.mark.parametrize("tolerance", [0.5, 0.1])
@pytest.mark.parametrize("a", [0.7, 0.85, 0.93])
def test_the_true_relative_bias_of_a_contractive_tanh_net_is_within_the_tolerance(
    a: float,
    tolerance: float,
    estimator: str,
    relative_error: Callable[[Tensor, Tensor], float],
) -> None:
    """Brute force: the mean gradient of the window chosen, beside that of all of time."""
    n_lanes, n_units, n_ticks = 16, 8, 100
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cell = Tanh(INPUTS, n_units)
    W_ZM = cell.initial_weight(generator)
    W_ZM[:, INPUTS : INPUTS + n_units] *= a
    slope_N = noise(n_units)
    everybody = torch.ones(n_lanes, dtype=torch.bool)
    rule = adaptive(
        cell,
        n_lanes,
        tolerance=tolerance,
        k_min=1,
        sample_every=1,
        adapt_every=n_ticks,
        estimator=estimator,
    )
    s_BS, ticks = torch.zeros(n_lanes, n_units, dtype=torch.float64), []
    for _ in range(n_ticks):
        s_BS, lin = cell.step(W_ZM, noise(n_lanes, INPUTS), s_BS)
        q_BS = slope_N + 0.3 * noise(n_lanes, n_units)
        rule.observe(lin, q_BS, everybody)
        ticks.append((lin, q_BS))
    cut, whole = Tbptt(cell, n_lanes, window=rule.window), Rtrl(cell, n_lanes)
    cut_ZM, whole_ZM = torch.zeros_like(W_ZM), torch.zeros_like(W_ZM)
    for t, (lin, q_BS) in enumerate(ticks):
        for credit, total_ZM in ((cut, cut_ZM), (whole, whole_ZM)):
            credit.observe(lin, q_BS, everybody)
            gradient_ZM = credit.gradient()
            assert gradient_ZM is not None
            if t >= HISTORY:
                total_ZM.add_(gradient_ZM)
    bias = relative_error(cut_ZM, whole_ZM)
    assert tolerance / 10 < bias < tolerance  # and the window is not needlessly long

"""The traces of LRU, RTU and eLSTM are backpropagation through all of time, at every tick.

The definitions are written once more (tests/recurrence/conftest.py; the LRU in complex numbers) and
left to autograd. float64, three lanes with idle ticks, losses at random ticks. What the tolerance
of 1e-12 lets through is rounding: the factor th that published code of the RTU leaves out of the
derivative by w_th is an error of order 1 here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.recurrence import Feedforward, Stack

Definition = Callable[..., tuple[Tensor, Tensor]]


class Unrolled:
    """The definition, kept differentiable from the first tick on."""

    def __init__(self, net: Any, definition: Definition) -> None:
        self.definition, self.width = definition, net.width
        self.s: Tensor = torch.zeros(())
        self.n_lanes = net.n_lanes

    def step(self, parameters: list[Tensor], x_BI: Tensor, live_B: Tensor) -> Tensor:
        if self.s.dim() == 0:
            s, _ = self.definition(parameters, torch.zeros_like(x_BI), self.zeros(parameters))
            self.s = torch.zeros_like(s)
        candidate, h_BN = self.definition(parameters, x_BI, self.s)
        self.s = torch.where(live_B[:, None], candidate, self.s)
        return h_BN

    def zeros(self, parameters: list[Tensor]) -> Tensor:
        # the state is as wide as a row of the dynamics, or as h where it is real
        size = parameters[1].shape[1] if len(parameters[1:]) and len(parameters[1]) == 3 else 0
        kind = torch.complex128 if size else torch.float64
        return torch.zeros(self.n_lanes, size or self.width, dtype=kind)


def test_the_gradient_of_every_tick_equals_bptt(
    kind: str,
    definition: Definition,
    make: Callable[..., Any],
    stream_for: Callable[..., Any],
) -> None:
    net = make(kind)
    stream = stream_for(net)
    leaves = [p.clone().requires_grad_() for p in net.parameters()]
    unrolled = Unrolled(net, definition)
    for t in range(len(stream)):
        x_BI = stream.x_TBI[t].clone().requires_grad_()
        truth_BN = unrolled.step(leaves, x_BI, stream.live_TB[t])
        loss = (truth_BN * stream.q_TBN[t]).sum()
        *truth, dL_dx_truth_BI = torch.autograd.grad(loss, [*leaves, x_BI], retain_graph=True)
        gradients, dL_dx_BI, h_BN = stream.learn(net, t)
        torch.testing.assert_close(h_BN, truth_BN.detach(), rtol=0, atol=1e-13)
        torch.testing.assert_close(dL_dx_BI, dL_dx_truth_BI, rtol=0, atol=1e-12)
        assert [g.shape for g in gradients] == [p.shape for p in net.parameters()]
        for got, expected in zip(gradients, truth, strict=True):
            for row, row_truth in zip(got.flatten(0, -2), expected.flatten(0, -2), strict=True):
                atol = 1e-12 * max(float(row_truth.abs().max()), 1e-3)
                torch.testing.assert_close(row, row_truth, rtol=0, atol=atol)


def test_below_a_stateless_layer_the_gradient_is_exact(
    kind: str,
    definition: Definition,
    make: Callable[..., Any],
    stream_for: Callable[..., Any],
) -> None:
    net = make(kind)
    stream = stream_for(net)
    generator = torch.Generator().manual_seed(5)
    above = Feedforward(net.width, net.width, 3, generator, "tanh", dtype=torch.float64)
    stack = Stack([net, above])
    W_NM = above.parameters()[0]
    leaves = [p.clone().requires_grad_() for p in net.parameters()]
    unrolled = Unrolled(net, definition)
    for t in range(len(stream)):
        h_BN = unrolled.step(leaves, stream.x_TBI[t], stream.live_TB[t])
        out_BN = torch.tanh(h_BN @ W_NM[:, :-1].T + W_NM[:, -1])
        truth = torch.autograd.grad((out_BN * stream.q_TBN[t]).sum(), leaves, retain_graph=True)
        gradients, _, _ = stream.learn(stack, t)
        for got, expected in zip(gradients[: len(truth)], truth, strict=True):
            atol = 1e-12 * max(float(expected.abs().max()), 1e-3)
            torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def test_the_loss_is_carried_through_time_by_more_than_rounding(
    kind: str, make: Callable[..., Any], stream_for: Callable[..., Any]
) -> None:
    """Without the traces of the past, the gradient is another one."""
    net, forgetful = make(kind), make(kind)
    stream = stream_for(net)
    for t in range(len(stream)):
        gradients, _, _ = stream.learn(net, t)
        forgetful.lane_state["influence_BKQN"].zero_()
        of_the_moment, _, _ = stream.learn(forgetful, t)
    for full, short in zip(gradients, of_the_moment, strict=True):
        assert float((full - short).norm()) > 0.1 * float(full.norm())


def test_while_learning_the_traces_are_the_slope_of_the_replayed_trajectory(
    kind: str, make: Callable[..., Any], stream_for: Callable[..., Any]
) -> None:
    """The parameters move at every tick; the whole of their history is shifted by +-eps."""
    net = make(kind, n_units=2, n_lanes=2)
    stream = stream_for(net, n_ticks=20)
    stream.live_TB[-1], stream.q_TBN[-1] = True, torch.linspace(-2, 1, net.width)
    history: list[list[Tensor]] = []
    for t in range(len(stream)):
        history.append([p.clone() for p in net.parameters()])
        gradients, _, _ = stream.learn(net, t)
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.sub_(gradient, alpha=0.2)
    for first, last in zip(history[0], history[-1], strict=True):
        assert float((first - last).abs().max()) > 0.05

    def last_loss(which: int, place: int, eps: float) -> float:
        again = make(kind, n_units=2, n_lanes=2)
        for t, then in enumerate(history):
            for mine, old in zip(again.parameters(), then, strict=True):
                mine.copy_(old)
            again.parameters()[which].view(-1)[place] += eps
            _, _, h_BN = stream.learn(again, t)
        return float((h_BN * stream.q_TBN[-1]).sum())

    eps = 1e-5
    for which, gradient in enumerate(gradients):
        for place, got in enumerate(gradient.flatten().tolist()):
            slope = (last_loss(which, place, eps) - last_loss(which, place, -eps)) / (2 * eps)
            assert got == pytest.approx(slope, rel=1e-6, abs=1e-7)

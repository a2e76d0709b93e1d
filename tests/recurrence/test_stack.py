"""A stack: what is exact equals backpropagation, what is truncated equals its definition.

Axes: T ticks, B lanes, I inputs, N units.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell, Gru, Tanh
from stream_rnn.credit import Credit, Fallback, Rtrl, Tbptt
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense, Feedforward, Recurrence, Stack
from stream_rnn.update import Adam

LANES, TICKS = 2, 12


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dense(cell: Cell, credit: Credit | None = None, seed: int = 0) -> Dense:
    W_ZM = cell.initial_weight(torch.Generator().manual_seed(seed))
    return Dense(cell, credit or Rtrl(cell, LANES), W_ZM + 0.2 * noise(*W_ZM.shape, seed=seed))


def feedforward(n_inputs: int, n_units: int) -> Feedforward:
    generator = torch.Generator().manual_seed(9)
    return Feedforward(n_inputs, n_units, LANES, generator, dtype=torch.float64)


def learned(stack: Recurrence, x_TBI: Tensor, q_TBN: Tensor) -> list[list[Tensor]]:
    """Gradients of each tick's loss `q . h`, W frozen."""
    everybody = torch.ones(x_TBI.shape[1], dtype=torch.bool)
    gradients = []
    for x_BI, q_BN in zip(x_TBI, q_TBN, strict=True):
        stack.forward(x_BI, everybody)
        found, _ = stack.learn(q_BN, everybody)
        assert found is not None
        gradients.append([gradient.clone() for gradient in found])
    return gradients


def by_autograd(
    cells: list[Cell], weights: list[Tensor], x_TBI: Tensor, q_TBN: Tensor, *, cut: bool
) -> list[list[Tensor]]:
    """The same by backpropagation; `cut`: nothing passes from a layer to the one below through the
    upper layer's recurrent state of later ticks."""
    weights = [W.clone().requires_grad_() for W in weights]
    s = [torch.zeros(LANES, cell.n_state, dtype=torch.float64) for cell in cells]
    s_cut = [each.clone() for each in s]
    gradients = []
    for x_BI, q_BN in zip(x_TBI, q_TBN, strict=True):
        below, below_cut = x_BI, x_BI
        for i, cell in enumerate(cells):
            if cut:  # the layer's own credit, and a path for the layers below it
                path, _ = cell.step(weights[i].detach(), below_cut, s[i].detach())
                s[i], _ = cell.step(weights[i], below.detach(), s[i])
                s_cut[i] = path
                below, below_cut = s[i][:, : cell.n_units], path[:, : cell.n_units]
                if i == 0:
                    below_cut = below
            else:
                s[i], _ = cell.step(weights[i], below, s[i])
                below = s[i][:, : cell.n_units]
        loss = (q_BN * below).sum()
        if cut and len(cells) > 1:
            loss = loss + (q_BN * below_cut).sum()
        gradients.append(list(torch.autograd.grad(loss, weights, retain_graph=True)))
    return gradients


@pytest.mark.parametrize("kind", CELLS)
def test_the_top_layer_is_exact_and_the_lower_one_is_truncated_as_documented(
    kind: str, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    cells = [CELLS[kind](2, 3), CELLS[kind](3, 2)]
    layers = [dense(cell, seed=i) for i, cell in enumerate(cells)]
    weights = [layer.W_ZM.clone() for layer in layers]
    masks = [cell.mask_ZM for cell in cells]
    for W_ZM, mask_ZM, layer in zip(weights, masks, layers, strict=True):
        if mask_ZM is not None:
            W_ZM.masked_fill_(~mask_ZM, 0.0)
            layer.W_ZM.copy_(W_ZM)
    x_TBI, q_TBN = noise(TICKS, LANES, 2, seed=5), noise(TICKS, LANES, 2, seed=6)
    found = learned(Stack(layers), x_TBI, q_TBN)
    exact = by_autograd(cells, weights, x_TBI, q_TBN, cut=False)
    truncated = by_autograd(cells, weights, x_TBI, q_TBN, cut=True)

    def masked(gradient: Tensor, i: int) -> Tensor:
        mask_ZM = masks[i]
        return gradient if mask_ZM is None else torch.where(mask_ZM, gradient, 0.0)

    for t in range(TICKS):
        assert relative_error(found[t][1], masked(exact[t][1], 1)) < 1e-12
        assert relative_error(found[t][0], masked(truncated[t][0], 0)) < 1e-12
    assert relative_error(found[-1][0], masked(exact[-1][0], 0)) > 1e-3


def test_below_a_stateless_layer_nothing_is_lost(
    relative_error: Callable[[Tensor, Tensor], float],
) -> None:
    cell = Gru(2, 3)
    assert cell.mask_ZM is not None
    bottom, top = dense(cell), feedforward(3, 4)
    bottom.W_ZM.masked_fill_(~cell.mask_ZM, 0.0)
    W_ZM, W_NM = bottom.W_ZM.clone().requires_grad_(), top.W_NM.clone().requires_grad_()
    x_TBI, q_TBN = noise(TICKS, LANES, 2, seed=5), noise(TICKS, LANES, 4, seed=6)
    found = learned(Stack([bottom, top]), x_TBI, q_TBN)
    s_BS = torch.zeros(LANES, 3, dtype=torch.float64)
    for t in range(TICKS):
        s_BS, _ = cell.step(W_ZM, x_TBI[t], s_BS)
        h_BN = torch.tanh(s_BS @ W_NM[:, :3].T + W_NM[:, 3])
        loss = (q_TBN[t] * h_BN).sum()
        dW_ZM, dW_NM = torch.autograd.grad(loss, (W_ZM, W_NM), retain_graph=True)
        assert relative_error(found[t][0], torch.where(cell.mask_ZM, dW_ZM, 0.0)) < 1e-12
        assert relative_error(found[t][1], dW_NM) < 1e-12


def test_a_rectified_layer_equals_autograd(
    relative_error: Callable[[Tensor, Tensor], float],
) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Feedforward(3, 4, LANES, generator, "relu", dtype=torch.float64)
    everybody = torch.ones(LANES, dtype=torch.bool)
    W_NM, x_BI = layer.W_NM.clone().requires_grad_(), noise(LANES, 3).requires_grad_()
    h_BN = torch.relu(x_BI @ W_NM[:, :3].T + W_NM[:, 3])
    q_BN = noise(LANES, 4, seed=1)
    dW_NM, dx_BI = torch.autograd.grad((q_BN * h_BN).sum(), (W_NM, x_BI))
    found_BN = layer.forward(x_BI.detach(), everybody)
    assert relative_error(found_BN, h_BN.detach()) < 1e-15
    gradients, found_BI = layer.learn(q_BN, everybody)
    assert gradients is not None
    assert relative_error(gradients[0], dW_NM) < 1e-12
    assert relative_error(found_BI, dx_BI) < 1e-12


def test_gradients_of_open_layers_wait_for_the_locked_ones(
    relative_error: Callable[[Tensor, Tensor], float],
) -> None:
    cell = Tanh(2, 3)
    locked = Stack([dense(cell, Tbptt(cell, LANES, window=4, every=4)), feedforward(3, 2)])
    free_cell = Tanh(2, 3)
    free = Stack([dense(free_cell), feedforward(3, 2)])
    everybody = torch.ones(LANES, dtype=torch.bool)
    x_TBI, q_TBN = noise(4, LANES, 2, seed=5), noise(4, LANES, 2, seed=6)
    total = torch.stack([g[1] for g in learned(free, x_TBI, q_TBN)]).sum(dim=0)
    for t in range(4):
        if t == 2:  # what waits is in the state
            resumed = Stack(
                [dense(cell, Tbptt(cell, LANES, window=4, every=4), seed=1), feedforward(3, 2)]
            )
            resumed.load_state_dict({k: v.clone() for k, v in locked.state_dict().items()})
            locked = resumed
        locked.forward(x_TBI[t], everybody)
        gradients, _ = locked.learn(q_TBN[t], everybody)
        assert (gradients is None) == (t < 3)
    assert gradients is not None
    assert relative_error(gradients[1], total) < 1e-12
    assert not any(name.startswith("owed") for name in locked.state_dict())


@pytest.mark.parametrize("updated", [True, False])
def test_what_was_saved_up_and_refused_is_still_owed(
    updated: bool, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    cell, free_cell = Tanh(2, 3), Tanh(2, 3)
    locked = Stack([dense(cell, Tbptt(cell, LANES, window=2, every=2)), feedforward(3, 2)])
    free = Stack([dense(free_cell), feedforward(3, 2)])
    everybody = torch.ones(LANES, dtype=torch.bool)
    x_TBI, q_TBN = noise(4, LANES, 2, seed=5), noise(4, LANES, 2, seed=6)
    each = torch.stack([g[1] for g in learned(free, x_TBI, q_TBN)])
    for t in range(4):
        locked.forward(x_TBI[t], everybody)
        gradients, _ = locked.learn(q_TBN[t], everybody)
        if t == 1:
            locked.settle(torch.tensor(updated))
    assert gradients is not None
    # tick 0 waited for the payment at tick 1; tick 1's own gradient is gone with its update
    truth = each[2] + each[3] + (0.0 if updated else each[0])
    assert relative_error(gradients[1], truth) < 1e-12


def test_a_debt_that_the_stack_saved_up_is_not_paid_by_the_layer_again() -> None:
    """The lower layer's ladder hands in late what it owed while the upper layer is locked."""
    lower, upper = Tanh(2, 3), Tanh(3, 2)
    ladder = Fallback([Tbptt(lower, LANES, window=6, every=6), Rtrl(lower, LANES)])
    stack = Stack([dense(lower, ladder), dense(upper, Tbptt(upper, LANES, window=3, every=3))])
    everybody = torch.ones(LANES, dtype=torch.bool)
    zero_BN = torch.zeros(LANES, 2, dtype=torch.float64)
    paid = []
    for t in range(12):
        if t == 1:
            owed_ZM = Tbptt(lower, LANES, window=6, every=6)
            owed_ZM.load_state_dict(ladder.rungs[0].state_dict())
            debt_ZM = owed_ZM.flush()
            ladder.move(1)
        stack.forward(noise(LANES, 2, seed=t), everybody)
        gradients, _ = stack.learn(noise(LANES, 2, seed=9) if t == 0 else zero_BN, everybody)
        if gradients is not None:
            updated = len(paid) > 0  # the first update is refused
            stack.settle(torch.tensor(updated))
            if updated:
                paid.append(gradients[0])
            else:
                paid.append(torch.zeros_like(gradients[0]))
    assert debt_ZM is not None
    assert debt_ZM.norm() > 1e-3
    torch.testing.assert_close(sum(paid), debt_ZM, rtol=0, atol=1e-12)


def test_an_idle_lane_keeps_every_tensor_of_every_layer() -> None:
    stack = Stack([dense(Tanh(2, 3)), feedforward(3, 3), dense(Gru(3, 2))])
    learned(stack, noise(3, LANES, 2), noise(3, LANES, 2, seed=1))
    before = {name: tensor[1].clone() for name, tensor in stack.lane_state.items()}
    x_BI, q_BN = noise(LANES, 2, seed=2), noise(LANES, 2, seed=3)
    x_BI[1], q_BN[1] = torch.nan, torch.nan
    only_first = torch.tensor([True, False])
    stack.forward(x_BI, only_first)
    gradients, _ = stack.learn(q_BN, only_first)
    assert gradients is not None
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    for name, tensor in stack.lane_state.items():
        assert torch.equal(tensor[1], before[name]), name
    stack.reset(~only_first)
    for name, tensor in stack.lane_state.items():
        assert not tensor[1].any(), name


def test_a_lower_layer_that_has_come_apart_is_not_hidden_by_a_saturating_one() -> None:
    bottom = dense(Tanh(2, 3))
    stack = Stack([bottom, feedforward(3, 2)])
    bottom.W_ZM.fill_(1e300)
    bottom.W_ZM[0] = torch.inf
    everybody = torch.ones(LANES, dtype=torch.bool)
    x_BI = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    h_BN = stack.forward(x_BI, everybody)
    assert not h_BN[0].isfinite().any()  # 0 times infinity


@pytest.mark.parametrize("horizon", [0, 2])
def test_a_stack_learns_in_the_learner(horizon: int) -> None:
    stack = Stack([dense(Gru(1, 6)), feedforward(6, 6), dense(Tanh(6, 4))])
    loss = SquaredError()
    V_PF = initial_readout(4, 1, loss, torch.Generator().manual_seed(0))
    learner = Learner(stack, Head(4, 1, loss, V_PF), Adam(0.01), Adam(0.01), horizon)
    everybody = torch.ones(LANES, dtype=torch.bool)
    losses = []
    for t in range(600):
        wave = torch.tensor([[t / 5.0], [t / 5.0 + 1.0]], dtype=torch.float64).sin()
        outcome = learner.step(Frame(wave, (wave * 2).tanh(), everybody, everybody))
        losses.append(float(outcome.loss_B.mean()))
    # measured: about a twentieth of the loss of the first ticks
    assert sum(losses[-50:]) < 0.2 * sum(losses[horizon : horizon + 50])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [], "at least one layer"),
        (lambda: [dense(Tanh(2, 3)), dense(Tanh(2, 3))], "layer 1 reads 2 inputs, but .* has 3"),
        (
            lambda: [dense(Tanh(2, 3)), Feedforward(3, 2, 5)],
            "layer 1 has 5 lanes, not 2",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    layers: Callable[[], list[Recurrence]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Stack(layers())


def test_a_state_of_another_stack_is_refused() -> None:
    stack = Stack([dense(Tanh(2, 3)), feedforward(3, 2)])
    state = stack.state_dict() | {"owed.7": torch.zeros(1)}
    with pytest.raises(ValueError, match=re.escape("'owed.7' belongs to no parameter")):
        stack.load_state_dict(state)

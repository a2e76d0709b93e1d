"""Brute force the tests share, as fixtures. Axes as in stream_rnn.linearization; T ticks."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import RULES, Credit
from stream_rnn.frame import Frame
from stream_rnn.head import Head, Loss, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.linearization import Linearization
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam, Update

torch.set_num_threads(1)


def rule_of(name: str, cell: Cell, n_lanes: int, seed: int = 0, **settings: Any) -> Credit:
    """A rule by its name; the noisy ones get a generator of their own."""
    if "generator" in inspect.signature(RULES[name]).parameters and "signs" not in settings:
        settings["generator"] = torch.Generator().manual_seed(seed)
    return RULES[name](cell, n_lanes, **settings)


@dataclass
class Walk:
    """A random net walking through random inputs, W frozen; the loss of tick t is `q_t . s_t`."""

    cell: Cell
    W_ZM: Tensor
    x_TBI: Tensor
    q_TBS: Tensor

    def __iter__(self) -> Iterator[tuple[Linearization, Tensor]]:
        """Linearization and dL/ds of each tick."""
        s_BS = self.q_TBS.new_zeros(self.q_TBS.shape[1:])
        for x_BI, q_BS in zip(self.x_TBI, self.q_TBS, strict=True):
            s_BS, lin = self.cell.step(self.W_ZM, x_BI, s_BS)
            yield lin, q_BS

    def bptt(self) -> list[Tensor]:
        """dL_t/dW of each tick, by autograd through all of time."""
        W_ZM = self.W_ZM.clone().requires_grad_()
        s_BS = self.q_TBS.new_zeros(self.q_TBS.shape[1:])
        gradients = []
        for x_BI, q_BS in zip(self.x_TBI, self.q_TBS, strict=True):
            s_BS, _ = self.cell.step(W_ZM, x_BI, s_BS)
            gradients += torch.autograd.grad((q_BS * s_BS).sum(), W_ZM, retain_graph=True)
        return gradients

    def influence(self) -> Tensor:
        """ds_T/dW (B, S, Z, M) after the last tick, by the definition of exact RTRL."""
        G_BSQ = None
        for lin, _ in self:
            now = torch.einsum("bsz,bm->bszm", lin.dense_drive(), lin.u_BM).flatten(2)
            G_BSQ = now if G_BSQ is None else lin.push(G_BSQ) + now
        assert G_BSQ is not None
        return G_BSQ.view(*G_BSQ.shape[:2], *self.cell.weight_shape)


def random_walk(
    kind: str,
    n_inputs: int = 2,
    n_units: int = 3,
    n_lanes: int = 2,
    n_ticks: int = 12,
    seed: int = 0,
    scale: float = 1.0,
) -> Walk:
    """Random weights (nothing zero but what must be), inputs and dL/ds, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cell = CELLS[kind](n_inputs, n_units)
    W_ZM = cell.initial_weight(generator) * scale + 0.2 * noise(*cell.weight_shape)
    if cell.mask_ZM is not None:
        W_ZM = torch.where(cell.mask_ZM, W_ZM, 0.0)
    x_TBI = noise(n_ticks, n_lanes, n_inputs)
    return Walk(cell, W_ZM, x_TBI, noise(n_ticks, n_lanes, cell.n_state))


@pytest.fixture(name="random_walk")
def random_walk_fixture() -> Callable[..., Walk]:
    return random_walk


@pytest.fixture(name="rule_of")
def rule_of_fixture() -> Callable[..., Credit]:
    return rule_of


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """|got - truth| / |truth|, Frobenius."""
    return lambda got, truth: float((got - truth).norm() / truth.norm())


def learner_of(
    kind: str,
    rule: str | Callable[[Cell, int], Credit] = "rtrl",
    n_inputs: int = 2,
    n_units: int = 3,
    n_lanes: int = 2,
    horizon: int = 0,
    seed: int = 0,
    loss: Loss | None = None,
    update: Callable[[], Update] = lambda: Adam(lr=0.01),
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Learner:
    """A small learner, the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    cell, loss = CELLS[kind](n_inputs, n_units), loss or SquaredError()
    credit = rule(cell, n_lanes) if callable(rule) else rule_of(rule, cell, n_lanes, seed)
    W_ZM = cell.initial_weight(generator).to(device, dtype)
    V_PF = initial_readout(n_units, n_inputs, loss, generator) * 10
    head = Head(n_units, n_inputs, loss, V_PF.to(device, dtype))
    return Learner(Dense(cell, credit, W_ZM), head, update(), update(), horizon)


def frames_of(
    n_ticks: int,
    n_lanes: int = 2,
    n_inputs: int = 2,
    n_targets: int = 1,
    seed: int = 1,
    idle: float = 0.0,
    unscored: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> list[Frame]:
    """Random frames; lanes are idle, and events without target, at random."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def below(probability: float) -> Tensor:
        return torch.rand(n_lanes, generator=generator) < probability

    return [
        Frame(noise(n_lanes, n_inputs), noise(n_lanes, n_targets), ~below(idle), ~below(unscored))
        for _ in range(n_ticks)
    ]


@pytest.fixture(name="learner_of")
def learner_of_fixture() -> Callable[..., Learner]:
    return learner_of


@pytest.fixture(name="frames_of")
def frames_of_fixture() -> Callable[..., list[Frame]]:
    return frames_of


def until(condition: Callable[[], object], what: str = "", patience_s: float = 60.0) -> None:
    """Wait until it is so; a busy machine may take its time, and a test that passes never does."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {patience_s:g} s: {what}"
        time.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    return until


@contextmanager
def never_waiting() -> Iterator[None]:
    """Within, an operation raises that makes the host wait for the CUDA device."""
    with warnings.catch_warnings():
        notice = "Synchronization debug mode is a prototype feature"
        warnings.filterwarnings("ignore", notice, UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(name="never_waiting")
def never_waiting_fixture() -> Callable[[], AbstractContextManager[None]]:
    return never_waiting

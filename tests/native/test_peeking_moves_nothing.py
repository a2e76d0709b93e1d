"""`Learner.peek`: the prediction of a tick that is not made, in the library and in torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS
from stream_rnn.credit import Kf, Ok, Tbptt
from stream_rnn.frame import Block
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Elstm, Feedforward, Lru, Recurrence, Rtu, Stack
from stream_rnn.update import Adam

LANES, TICKS = 3, 30
RULES: dict[str, Any] = {
    "kf": lambda cell, n: Kf(cell, n, torch.Generator().manual_seed(0)),
    "ok": lambda cell, n: Ok(cell, n, torch.Generator().manual_seed(0), rank=2),
    "window": lambda cell, n: Tbptt(cell, n, window=4),
}


def units(name: str, horizon: int) -> Learner:
    generator = torch.Generator().manual_seed(1)
    recurrence: Recurrence
    if name == "stack":
        below = Rtu(2, 5, LANES, generator, "linear")
        recurrence = Stack([below, Feedforward(below.width, 6, LANES, generator)])
    else:
        kinds = {"lru": Lru, "rtu": Rtu, "elstm": Elstm}
        recurrence = kinds[name](2, 5, LANES, generator)
    loss = SquaredError()
    V_PF = initial_readout(recurrence.width, 2, loss, generator).float()
    head = Head(recurrence.width, 2, loss, V_PF)
    return Learner(recurrence, head, Adam(lr=0.01), Adam(lr=0.01), horizon)


@pytest.fixture(params=["library", "torch"])
def way(request: pytest.FixtureRequest, kernels: loading.Library) -> object:
    with loading.switched_off() if request.param == "torch" else nullcontext():
        yield


@pytest.fixture(
    params=[f"{cell} {rule}" for cell in CELLS for rule in RULES] + ["lru", "rtu", "elstm", "stack"]
)
def make(request: pytest.FixtureRequest, learner_of: Any) -> Callable[[int], Learner]:
    kind, _, rule = request.param.partition(" ")
    if not rule:
        return lambda horizon: units(kind, horizon)
    settings = {"n_lanes": LANES, "n_units": 5, "dtype": torch.float32}
    return lambda horizon: learner_of(kind, RULES[rule], horizon=horizon, **settings)


def block_of() -> Block:
    """Lanes idle at random, and unusable inputs."""
    g = torch.Generator().manual_seed(7)
    x, y = torch.randn(TICKS, LANES, 2, generator=g), torch.randn(TICKS, LANES, 1, generator=g)
    live, scored = (torch.rand(TICKS, LANES, generator=g) < 0.8 for _ in range(2))
    x[5, 2], x[11, 0], x[12, 1] = torch.nan, torch.inf, -2e6
    live[5, 2] = live[11, 0] = live[12, 1] = True
    return Block(x, y, live, scored)


def bits(learner: Learner) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in learner.state_dict().items()}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("horizon", [0, 2])
def test_it_is_what_the_tick_then_predicts(make: Callable[[int], Learner], horizon: int) -> None:
    """Ahead of the event, the tick predicts with what it learned in it: so nothing is, here."""
    block, learner, unasked = block_of(), make(horizon), make(horizon)
    refused = 0
    for t in range(TICKS):
        if horizon:
            learner.teaches = unasked.teaches = "all" if t < TICKS // 2 else "nothing"
        before = bits(learner)
        told = learner.peek(block, t)
        assert (learner._plan is not None) == (loading.find() is not None)
        after = bits(learner)
        assert {name: after[name] for name in before} == before
        # updates make room for what they keep as soon as somebody wants to know where it is
        assert not any(any(after[name]) for name in after.keys() - before.keys())
        assert len(told) == 1
        assert not told.learned_TB.any()
        assert told.updated_T is None
        outcome, truth = learner.step(block.frame(t)), unasked.step(block.frame(t))
        for name in ("prediction_BP", "loss_B", "learned_B", "rejected_B"):
            assert torch.equal(getattr(outcome, name), getattr(truth, name)), name
        if not horizon or learner.teaches == "nothing":
            sound_B = block.live_TB[t] & ~outcome.rejected_B
            assert torch.equal(told.prediction_TBP[0][sound_B], outcome.prediction_BP[sound_B])
        assert torch.equal(told.rejected_TB[0], outcome.rejected_B)
        refused += int(told.rejected_TB.sum())
    assert refused == 3
    assert bits(learner) == bits(unasked)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("t", [-1, TICKS])
def test_a_tick_that_is_not_there_is_refused(make: Callable[[int], Learner], t: int) -> None:
    with pytest.raises(ValueError, match=rf"expected 0 <= t < {TICKS}, got {t}"):
        make(0).peek(block_of(), t)


@pytest.mark.usefixtures("kernels")
def test_who_was_interrupted_in_a_peek_learns_again(
    make: Callable[[int], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a notebook comes out of the call of the library."""
    block, learner, unasked = block_of(), make(0), make(0)
    for each in (learner, unasked):
        each.step(block.frame(0))
    ticks = loading.Library.ticks

    def interrupted(*args: Any) -> int:
        ticks(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loading.Library, "ticks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learner.peek(block, 1)
    for t in range(1, TICKS):
        assert len(learner.run(block, t, t + 1)) == len(unasked.run(block, t, t + 1)) == 1
    assert bits(learner) == bits(unasked)


@pytest.mark.usefixtures("kernels")
def test_the_library_and_torch_agree(make: Callable[[int], Learner]) -> None:
    block, learner = block_of(), make(0)
    for t in range(TICKS):
        learner.step(block.frame(t))
    natively = learner.peek(block, 3).prediction_TBP.clone()
    with loading.switched_off():
        assert torch.allclose(natively, learner.peek(block, 3).prediction_TBP, atol=1e-5)


def test_outcomes_on_the_host_are_the_tensors(make: Callable[[int], Learner], way: object) -> None:
    block, learner, t = block_of(), make(0), 0
    while t < TICKS:
        outcomes = learner.run(block, t)
        told = outcomes.on_host()
        for name, array in told._asdict().items():
            tensor: Tensor | None = getattr(outcomes, name)
            assert tensor is not None
            assert array.tobytes() == tensor.numpy().tobytes(), name
        for k, row_B in enumerate(told.rejected_TB):
            for b, is_rejected in enumerate(row_B):
                value = outcomes.first_output(k, b)
                assert value == (None if is_rejected else told.prediction_TBP[k, b, 0])
        t += len(outcomes)

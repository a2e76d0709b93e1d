"""All that a step makes is where its learner is: nothing on the host, nothing read by the host.

The device is one that no machine has ("lazy"): its tensors have shapes and places and no numbers,
torch refuses to mix them with the host's, and to tell what is in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import RULES, Credit, Fallback, Kf, Ok, Segmented, Tbptt, Uoro
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.frame import Frame
from stream_rnn.head import (
    Bernoulli,
    CrossEntropy,
    Gaussian,
    Head,
    Loss,
    Quantile,
    SquaredError,
)
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.plan import recorded
from stream_rnn.recurrence import Dense, Elstm, Feedforward, Lru, Recurrence, Rtu, Stack
from stream_rnn.update import Adam, Fptt, Obgd, Sgd, Update

THERE = "lazy"
B, I, N = 3, 2, 4  # noqa: E741
IMAGINARY = FakeTensorMode()


@pytest.fixture(autouse=True)
def imagined() -> Iterator[None]:
    with IMAGINARY:
        yield


def signs(shape: tuple[int, ...]) -> Tensor:
    return torch.ones(shape, device=THERE)


Rule = Callable[[Cell], Credit]
CREDIT: dict[str, Rule] = {
    **{name: lambda cell, kind=kind: kind(cell, B) for name, kind in RULES.items()},
    "kf": lambda cell: Kf(cell, B, None, signs=signs),
    "uoro": lambda cell: Uoro(cell, B, None, signs=signs),
    "ok": lambda cell: Ok(cell, B, None, rank=3, signs=signs),
    "ok joint": lambda cell: Ok(cell, B, None, rank=3, chunks="joint", signs=signs),
    "ok rows": lambda cell: Ok(cell, B, None, rank=1, chunks="row", signs=signs),
    "locked": lambda cell: Tbptt(cell, B, window=4, every=3),
    "segmented": lambda cell: Segmented(cell, B, window=4, every=3),
    "ladder": lambda cell: Fallback([Kf(cell, B, None, signs=signs), Tbptt(cell, B, window=4)]),
}
UPDATES: dict[str, Callable[[], Update]] = {
    "sgd": lambda: Sgd(0.1, momentum=0.5),
    "obgd": Obgd,
    "fptt": lambda: Fptt(Adam()),
}
LOSSES: list[Loss] = [SquaredError(2), Quantile(), Gaussian(), CrossEntropy(3), Bernoulli()]


def dense(kind: str = "gru", rule: Rule = CREDIT["kf"], fidelity: Fidelity | None = None) -> Dense:
    cell = CELLS[kind](I, N)
    return Dense(cell, rule(cell), torch.zeros(cell.weight_shape, device=THERE), fidelity)


def learner(
    recurrence: Recurrence,
    horizon: int = 0,
    loss: Loss | None = None,
    update: Callable[[], Update] = Adam,
    head: type[Head] = Head,
) -> Learner:
    loss = loss or SquaredError()
    V_PF = torch.zeros(loss.n_outputs, recurrence.width + I + 1, device=THERE)
    read = head(recurrence.width, I, loss, V_PF)
    return Learner(recurrence, read, update(), update(), horizon)


def goes_on_there(learner: Learner, weighted: bool = False) -> None:
    every_B = torch.ones(B, dtype=torch.bool, device=THERE)
    y_BQ = torch.zeros(B, learner.head.loss_function.n_targets, device=THERE)
    weight_B = torch.ones(B, device=THERE) if weighted else None
    for t in range(5):
        if t == 2:
            learner.reset(every_B)
        frame = Frame(torch.zeros(B, I, device=THERE), y_BQ, every_B, every_B, weight_B)
        outcome = learner._step(frame)
        given = [getattr(outcome, field.name) for field in dataclasses.fields(outcome)]
        assert {each.device.type for each in given if each is not None} == {THERE}
    for name, tensor in learner.lane_state.items():
        # a rung that was never in use is made where it is used first
        assert tensor.device.type == THERE or name.startswith("credit.1."), name


@pytest.mark.parametrize("rule", CREDIT)
def test_rules(rule: str) -> None:
    goes_on_there(learner(dense("lstm", CREDIT[rule])))


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("kind", CELLS)
def test_gated_cells(kind: str, horizon: int) -> None:
    goes_on_there(learner(dense(kind), horizon))


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("units", [Lru, Rtu, Elstm])
def test_element_wise_units(units: Any, horizon: int) -> None:
    host = torch.Generator()
    goes_on_there(learner(units(I, N, B, host, device=THERE), horizon))
    below = units(I, N, B, host, device=THERE)
    above = Feedforward(below.width, N, B, host, device=THERE)
    goes_on_there(learner(Stack([below, above]), horizon))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_losses(loss: Loss, weighted: bool) -> None:
    goes_on_there(learner(dense(), loss=loss), weighted)


@pytest.mark.parametrize("update", UPDATES)
def test_updates(update: str) -> None:
    goes_on_there(learner(dense(), update=UPDATES[update]))


def test_a_read_out_that_owns_its_update() -> None:
    goes_on_there(learner(dense(), head=LeastSquaresHead))


def test_the_live_fidelity() -> None:
    goes_on_there(learner(dense(fidelity=Fidelity(2, every=3))))


class Again:
    """In place of a graph: the tick is launched anew."""

    is_whole = True

    def __init__(self, device: torch.device, generators: object) -> None:
        assert device.type == THERE

    def record(self, tick: Callable[[], None]) -> None:
        self.play = tick
        tick()


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_recorded(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that a graph reads and writes are there, and one tick asks nothing of the host."""
    monkeypatch.setattr(recorded, "Graph", Again)
    taught = learner(dense(rule=CREDIT["tbptt"]))
    film = recorded.Film(taught._parts(), taught._step_of, weighted)
    every_TB = torch.ones(1, B, dtype=torch.bool, device=THERE)
    rows = [torch.zeros(1, B, I, device=THERE), torch.zeros(1, B, 1, device=THERE)]
    rows += [every_TB, every_TB, torch.ones(1, B, device=THERE)]
    given = rows if weighted else rows[:4]
    for taken in (film.take(given), film.show(given)):
        assert taken is not None
        assert {each.device.type for each in taken[0]} == {THERE}


def test_what_is_left_on_the_host_is_noticed() -> None:
    stray = learner(dense())
    stray.head.V_PF = torch.zeros_like(stray.head.V_PF, device="cpu")
    with pytest.raises(RuntimeError, match="same device"):
        goes_on_there(stray)

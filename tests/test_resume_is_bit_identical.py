"""N + M steps equal N steps, save to a file, load in a NEW PROCESS, M steps: bitwise, every tensor.

Every cell x rule x update, a ladder of rules, a read-out that owns its update, with and without a
forecast horizon, one lane and three (some idle, some unscored). This file is also the program of
the new process.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stream_rnn.cells import CELLS, Cell, Gru
from stream_rnn.credit import (
    RULES,
    AdaptiveTbptt,
    Credit,
    Fallback,
    Kf,
    Ok,
    Rtrl,
    Snap1,
    Tbptt,
    Uoro,
)
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.recurrence import RECURRENCES, Dense, Feedforward, Recurrence, Rtu, Stack
from stream_rnn.update import UPDATES, Adam, Fptt, Obgd, Sgd, Update

N, M = 7, 6  # neither a multiple of the windows below
N_INPUTS, N_UNITS = 2, 3


class Case(NamedTuple):
    """One combination; its name is that of its file."""

    kind: str
    rule: str
    update: str
    horizon: int
    lanes: int
    readout: str = "linear"

    @property
    def name(self) -> str:
        """E.g. gru-ok-adam-3-1-linear."""
        return "-".join(str(part) for part in self)


CASES = [
    Case(*parts)
    for parts in itertools.product(CELLS, [*RULES, "locked", "fallback"], ["adam"], [0, 3], [1, 3])
]
CASES += [
    Case(*parts)
    for parts in itertools.product(
        ["tanh", "gru"], ["ok", "locked"], [u for u in UPDATES if u != "adam"], [0, 3], [1, 3]
    )
]
CASES += [
    Case(*parts)
    for parts in itertools.product([*RECURRENCES, "stack"], ["exact"], ["adam"], [0, 3], [1, 3])
]
CASES += [
    Case(kind, rule, "adam", horizon, lanes, "rls")
    for kind, rule in [("tanh", "tbptt"), ("gru", "locked"), ("lstm", "ok")]
    for horizon in (0, 3)
    for lanes in (1, 3)
]


def recurrence_of(case: Case, generator: torch.Generator) -> Recurrence:
    """What learns by itself, or a cell with its rule."""
    if case.kind in RECURRENCES:
        made: Any = RECURRENCES[case.kind]
        layer: Recurrence = made(N_INPUTS, N_UNITS, case.lanes, generator)
        return layer
    if case.kind == "stack":
        bottom = Rtu(N_INPUTS, N_UNITS, case.lanes, generator, "linear")
        middle = Feedforward(bottom.width, N_UNITS, case.lanes, generator)
        top = Gru(N_UNITS, N_UNITS)
        W_ZM = top.initial_weight(generator).float()
        return Stack([bottom, middle, Dense(top, Tbptt(top, case.lanes, 5, 4), W_ZM)])
    cell = CELLS[case.kind](N_INPUTS, N_UNITS)
    return Dense(cell, credit_of(case, cell), cell.initial_weight(generator).float())


def credit_of(case: Case, cell: Cell) -> Credit:
    """The rule of a case."""
    noise = torch.Generator().manual_seed(3)
    rules: dict[str, Any] = {
        "rtrl": lambda: Rtrl(cell, case.lanes),
        "kf": lambda: Kf(cell, case.lanes, noise),
        "ok": lambda: Ok(cell, case.lanes, noise, rank=2),
        "tbptt": lambda: Tbptt(cell, case.lanes, window=4),
        "locked": lambda: Tbptt(cell, case.lanes, window=5, every=4),
        "uoro": lambda: Uoro(cell, case.lanes, noise),
        "snap1": lambda: Snap1(cell, case.lanes),
        "adaptive_tbptt": lambda: AdaptiveTbptt(  # adapts within the ticks of a case
            cell,
            case.lanes,
            window=3,
            k_max=4,
            history=4,
            sample_every=2,
            adapt_every=5,
            min_samples=1,
        ),
    }
    if case.rule == "fallback":
        return Fallback([rules["ok"](), rules["locked"](), rules["kf"]()])
    rule: Credit = rules[case.rule]()
    return rule


def update_of(case: Case) -> Update:
    """One of the two updates of a case."""
    match case.update:
        case "sgd":
            return Sgd(lr=0.05, momentum=0.9)
        case "obgd":
            return Obgd()
        case "fptt":
            return Fptt(Adam(lr=0.05))
    return Adam(lr=0.05)


def build(case: Case) -> Learner:
    """The learner of a case as configured, before anything is learned or loaded."""
    generator = torch.Generator().manual_seed(4)
    recurrence = recurrence_of(case, generator)
    width = recurrence.width
    V_PF = initial_readout(width, N_INPUTS, SquaredError(), generator).float()
    kind = LeastSquaresHead if case.readout == "rls" else Head
    head = kind(width, N_INPUTS, SquaredError(), V_PF)
    return Learner(recurrence, head, update_of(case), update_of(case), horizon=case.horizon)


def frames(case: Case) -> list[Frame]:
    """The stream of a case, N + M ticks."""
    generator = torch.Generator().manual_seed(5)

    def noise(n: int) -> Tensor:
        return torch.randn(case.lanes, n, generator=generator)

    def mostly() -> Tensor:
        return torch.rand(case.lanes, generator=generator) < 0.8

    return [Frame(noise(N_INPUTS), noise(1), mostly(), mostly()) for _ in range(N + M)]


def run(learner: Learner, case: Case, start: int, stop: int) -> None:
    """Ticks start..stop; a ladder moves as it would under a governor that counts ticks."""
    for t, frame in enumerate(frames(case)[start:stop], start):
        if case.rule == "fallback" and t in (3, N - 1, N, N + 3):
            ladder: Any = learner.recurrence
            ladder.credit.move({3: 1, N - 1: 2, N: 1, N + 3: 0}[t])
        learner.step(frame)


def copy_of(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def resume_all(folder: Path) -> None:
    """The new process: load, M more ticks, save."""
    torch.set_num_threads(1)
    for case in CASES:
        learner = build(case)
        learner.load_state_dict(load_file(folder / f"{case.name}.saved"))
        run(learner, case, N, N + M)
        save_file(copy_of(learner), folder / f"{case.name}.resumed")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every case was saved by this process and resumed by another."""
    folder = tmp_path_factory.mktemp("resumed")
    for case in CASES:
        learner = build(case)
        run(learner, case, 0, N)
        save_file(copy_of(learner), folder / f"{case.name}.saved")
        run(learner, case, N, N + M)  # uninterrupted
        save_file(copy_of(learner), folder / f"{case.name}.truth")
    here = Path(__file__).resolve()
    environment = os.environ | {"PYTHONPATH": str(here.parent.parent)}
    command = [sys.executable, str(here), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_new_process_goes_on_bit_for_bit(case: Case, resumed: Path) -> None:
    truth, got = (load_file(resumed / f"{case.name}.{end}") for end in ("truth", "resumed"))
    assert got.keys() == truth.keys()
    assert not [name for name in truth if got[name].dtype != truth[name].dtype]
    assert not [name for name in truth if not torch.equal(got[name], truth[name])]
    before = load_file(resumed / f"{case.name}.saved")
    learned = [name for name in truth if name.endswith(("W_ZM", "W_CI", "W_GNU", "W_NM", "V_PF"))]
    assert len(learned) >= 2
    for name in learned:
        assert not torch.equal(before[name], truth[name])  # it did learn


@pytest.mark.parametrize("rule", [*RULES, "locked", "fallback"])
def test_taking_a_copy_of_the_state_changes_nothing(rule: str) -> None:
    case = Case("lstm", rule, "adam", 3, 3)
    plain, watched = build(case), build(case)
    run(plain, case, 0, N + M)
    for t in range(N + M):
        run(watched, case, t, t + 1)
        copy_of(watched)
        watched.report()
    truth, got = copy_of(plain), copy_of(watched)
    assert not [name for name in truth if not torch.equal(got[name], truth[name])]


@pytest.mark.parametrize("rule", [*RULES, "locked", "fallback"])
def test_a_loaded_state_is_not_shared_with_its_source(rule: str) -> None:
    """A snapshot that is being written must not change under its writer."""
    case = Case("gru", rule, "adam", 3, 3)
    learner, other = build(case), build(case)
    run(learner, case, 0, N)
    snapshot = copy_of(learner)
    kept = {name: tensor.clone() for name, tensor in snapshot.items()}
    other.load_state_dict(snapshot)
    run(other, case, N, N + M)
    assert not [name for name in kept if not torch.equal(kept[name], snapshot[name])]


if __name__ == "__main__":
    resume_all(Path(sys.argv[1]))

"""Lanes that several threads share out among themselves learn the same bits as on one thread."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell, Lstm
from stream_rnn.credit import Credit, Kf, Ok, Rtrl
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam

ROOT = Path(__file__).resolve().parents[2]
LANES, UNITS, INPUTS, TICKS = 40, 24, 2, 6  # enough to be worth sharing


def signs() -> torch.Generator:
    return torch.Generator().manual_seed(4)


RULES: dict[str, Callable[[Cell, int], Credit]] = {
    "kf": lambda cell, n: Kf(cell, n, signs()),
    "ok-joint-8": lambda cell, n: Ok(cell, n, signs(), rank=8, chunks="joint"),
    "ok-gate-1": lambda cell, n: Ok(cell, n, signs(), rank=1),
    "ok-gate-3": lambda cell, n: Ok(cell, n, signs(), rank=3),
    "ok-row-1": lambda cell, n: Ok(cell, n, signs(), rank=1, chunks="row"),
    "rtrl": Rtrl,
}


class Custom(Lstm):
    """What the library has no whole tick for: it observes alone."""


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def learner_of(cell: Cell, rule: str) -> Learner:
    generator = torch.Generator().manual_seed(3)
    loss = SquaredError()
    V_PF = initial_readout(UNITS, INPUTS, loss, generator).float()
    W_ZM = cell.initial_weight(generator).float()
    dense = Dense(cell, RULES[rule](cell, LANES), W_ZM)
    return Learner(dense, Head(UNITS, INPUTS, loss, V_PF), Adam(), Adam())


def frames() -> list[Frame]:
    """Idle lanes, lanes without a target, and events that no net can use."""
    g = torch.Generator().manual_seed(5)
    result = []
    for _ in range(TICKS):
        x_BI = torch.randn(LANES, INPUTS, generator=g)
        x_BI[torch.rand(LANES, generator=g) < 0.1] = torch.nan
        live_B = torch.rand(LANES, generator=g) < 0.8
        scored_B = live_B & (torch.rand(LANES, generator=g) < 0.8)
        result.append(Frame(x_BI, torch.randn(LANES, 1, generator=g), live_B, scored_B))
    return result


def taught(cell: Cell, rule: str, threads: int) -> tuple[dict[str, Tensor], int, bool]:
    """The state after all frames, how many lanes restarted, and whether there was a plan."""
    torch.set_num_threads(threads)
    learner = learner_of(cell, rule)
    restarted = 0
    for tick, frame in enumerate(frames()):
        if tick == 3:  # one lane's credit comes apart
            influence = learner.recurrence.credit.lane_state  # type: ignore[attr-defined]
            max(influence.values(), key=Tensor.numel)[7].fill_(torch.inf)
            frame.live_B[7] = True
            frame.x_BI[7] = 1.0
        restarted += int(learner.step(frame).restarted_B.sum())
    return learner.state_dict(), restarted, learner._plan is not None


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", ["lstm", "tanh"])
@pytest.mark.parametrize("rule", RULES)
def test_any_number_of_threads_learns_the_same_bits(kind: str, rule: str) -> None:
    cell = CELLS[kind](INPUTS, UNITS)
    truth, restarted, is_planned = taught(cell, rule, 1)
    assert restarted == 1
    assert is_planned
    for threads in (2, 3):
        got = taught(cell, rule, threads)
        assert got[1:] == (restarted, is_planned)
        for name, tensor in truth.items():
            assert torch.equal(got[0][name], tensor), name


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("rule", ["kf", "ok-gate-3"])
def test_a_rule_that_observes_alone_learns_the_same_bits(rule: str) -> None:
    cell = Custom(INPUTS, UNITS)
    truth, restarted, is_planned = taught(cell, rule, 1)
    assert restarted == 1
    assert not is_planned
    state, *_ = taught(cell, rule, 3)
    for name, tensor in truth.items():
        assert torch.equal(state[name], tensor), name


SCRIPT = """
import os, signal, torch
from pathlib import Path
from stream_rnn.cells import Lstm
from stream_rnn.credit import Kf
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam

def learner_of(n_lanes):
    g = torch.Generator().manual_seed(3)
    cell, loss = Lstm(2, 24), SquaredError()
    rule = Kf(cell, n_lanes, torch.Generator().manual_seed(4))
    V = initial_readout(24, 2, loss, g).float()
    dense = Dense(cell, rule, cell.initial_weight(g).float())
    return Learner(dense, Head(24, 2, loss, V), Adam(), Adam())

def tick(learner, n_lanes):
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(n_lanes, 2, generator=g), torch.randn(n_lanes, 1, generator=g)
    yes = torch.ones(n_lanes, dtype=torch.bool)
    for _ in range(5):
        learner.step(Frame(x, y, yes, yes))
    assert learner._plan is not None
    return float(learner.head.V_PF.double().sum())

def helpers():
    tasks = [task for task in Path("/proc/self/task").iterdir()]
    mine = [t for t in tasks if (t / "comm").read_text().strip() == "srn-lanes"]
    for task in mine:
        blocked = int(dict(
            line.split(":", 1) for line in (task / "status").read_text().splitlines()
        )["SigBlk"], 16)
        assert blocked >> (signal.SIGTERM - 1) & 1, "a helper would take the daemon's signals"
    return len(mine)

torch.set_num_threads(1)
alone = learner_of(40)
first, second = tick(alone, 40), tick(alone, 40)
print("one thread:", helpers())
torch.set_num_threads(3)
tick(learner_of(2), 2)
print("few lanes:", helpers())
shared = learner_of(40)
assert tick(shared, 40) == first
print("three threads:", helpers())
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    assert helpers() == 0
    same = tick(shared, 40) == second
    os._exit(0 if same and helpers() == 2 else 1)
print("child of a fork:", os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of threads")
def test_threads_are_started_when_lanes_are_worth_it_take_no_signals_and_survive_a_fork(
    kernels: loading.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_RNN_CACHE", str(kernels.path.parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.stderr == ""
    assert run.stdout.splitlines() == [
        "one thread: 0",
        "few lanes: 0",
        "three threads: 2",
        "child of a fork: 0",
    ]

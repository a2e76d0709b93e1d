"""The hundred thousandth event costs what an early one did. Counted, not timed.

Work is what a stretch of events asks of torch (operations, and numbers in their results) and how
many calls of the library it takes. Memory is the tensors that are alive, their bytes, the state,
and what the system counts. In torch fewer events must do.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from stream_rnn.bench.cases import OWN, Case
from stream_rnn.bench.rows import run_all
from stream_rnn.frame import Block
from stream_rnn.learner import Learner
from stream_rnn.plan import recorded

LANES = 4
CASES = [
    Case("tanh", "kf", 4, LANES),
    Case("gru", "rtrl", 4, LANES),
    Case("lstm", "ok(1)", 4, LANES),
    Case("lstm", "tbptt(10)", 4, LANES),
    Case("rtu", OWN, 4, LANES),
]
TICKS = 64  # of a block, each with an event in every lane
ROUND = 4  # blocks: signs and room for outcomes, made ahead, come around after so many at most
COUNTED = {"native": ROUND, "torch": 1}  # blocks
ROUNDS = {"native": 96, "torch": 1}  # between the early and the late ones; 96: 98,304 events
PAGE = 4096
MOST_BYTES = 2 << 20  # natively 20 an event: less than any object that would be kept


class Work(TorchDispatchMode):
    """Counts torch's operations and the numbers in their results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: dict[str, int] = {}
        self.numbers = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations[func.name()] = self.operations.get(func.name(), 0) + 1
        for each in result if isinstance(result, tuple | list) else [result]:
            self.numbers += each.numel() if isinstance(each, Tensor) else 0
        return result


@dataclass(frozen=True)
class Cost:
    """Of one stretch of events."""

    operations: dict[str, int]
    numbers: int
    calls: int
    tensors: int
    bytes: int
    state: dict[str, tuple[int, ...]]


def cost(learner: Learner, block: Block, n_blocks: int) -> Cost:
    with Work() as work:
        calls = sum(run_all(learner, block) for _ in range(n_blocks))
    gc.collect()
    # an object's own __class__ may do anything
    alive = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    size = sum(each.untyped_storage().nbytes() for each in alive)
    state = {name: tuple(tensor.shape) for name, tensor in learner.state_dict().items()}
    return Cost(work.operations, work.numbers, calls, len(alive), size, state)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_grows(case: Case, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recorded.BEFORE, "cpu", 2)
    learner, block = case.learner(), case.block(TICKS)
    assert learner.takes_runs == (path == "native")
    counted = COUNTED[path]
    run_all(learner, block)  # makes room
    early, early_bytes = cost(learner, block, counted), resident_bytes()
    for _ in range(ROUNDS[path] * ROUND - counted):
        run_all(learner, block)
    late_bytes, late = resident_bytes(), cost(learner, block, counted)
    assert early.calls == counted  # in torch a recorded tick is played
    assert late == early
    assert late_bytes - early_bytes < MOST_BYTES


def test_the_watch_itself_notices_what_is_kept() -> None:
    case = CASES[0]
    learner, block = case.learner(), case.block(TICKS)
    run_all(learner, block)
    early = cost(learner, block, 1)
    kept = [learner.run(block) for _ in range(4)]
    late = cost(learner, block, 1)
    assert late.tensors > early.tensors
    assert late.bytes > early.bytes
    assert kept

"""The copy task and its curriculum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.reproduce.copy_task import CopyTask, CopyTrial, Sequences
from benchmarks.reproduce.experiment import Refused

SMALL = replace(CopyTask.sizes["small"], units=6, lanes=3)


def one_sequence(level: int, seed: int) -> tuple[list[int], list[int]]:
    """Inputs and targets of one lane's first sequence of a level."""
    sequences = Sequences(1, torch.Generator().manual_seed(seed))
    sequences.level = level
    while not sequences.advance()[0]:
        pass
    inputs, targets = [], []
    ended = False
    while not ended:
        (x,), (y,) = sequences.now()
        inputs.append(x)
        targets.append(y)
        (ended,) = sequences.advance()
    return inputs, targets


def test_a_sequence_is_the_published_one() -> None:
    for seed in range(20):
        inputs, targets = one_sequence(7, seed)
        T = len(inputs) // 2 - 1
        assert len(inputs) == len(targets) == 2 * T + 2
        assert inputs[0] == 2
        assert set(inputs[1 : T + 1]) <= {0, 1}
        assert inputs[T + 1 :] == [3] * (T + 1)
        assert targets == [3] * (T + 1) + inputs[: T + 1]


def test_lengths_are_drawn_from_the_level_and_four_below() -> None:
    lengths = {len(one_sequence(7, seed)[0]) // 2 - 1 for seed in range(60)}
    assert lengths == {3, 4, 5, 6, 7}
    assert {len(one_sequence(2, seed)[0]) // 2 - 1 for seed in range(30)} == {1, 2}


def test_the_level_rises_when_the_average_falls_below_the_mark() -> None:
    trial = CopyTrial(SMALL, "kf", 0, "cpu")
    trial.average_bits = 0.1501
    trial.follow(0.1)  # 0.999 * 0.1501 + 0.001 * 0.1 = 0.15005
    assert trial.sequences.level == 1
    trial.follow(0.0)  # 0.1499
    assert trial.sequences.level == 2
    assert trial.average_bits == 0.3


def test_a_lane_starts_anew_with_each_sequence() -> None:
    trial = CopyTrial(SMALL, "kf", 0, "cpu")
    for _ in range(4):  # T = 1: all sequences are 4 long
        trial.tick()
    lanes = trial.learner.recurrence.lane_state
    assert not any(bool(state.any()) for state in lanes.values())
    trial.tick()
    assert bool(lanes["s_BS"].any(dim=1).all())


def test_other_lanes_keep_theirs() -> None:
    trial = CopyTrial(SMALL, "kf", 0, "cpu")
    trial.sequences._position = [3, 0, 1]
    trial.tick()
    state_BS = trial.learner.recurrence.lane_state["s_BS"]
    assert state_BS.any(dim=1).tolist() == [False, True, True]


def test_the_readout_never_reads_the_input() -> None:
    trial = CopyTrial(SMALL, "kf", 0, "cpu")
    before_PF = trial.learner.head.parameters()[0].clone()
    for _ in range(30):
        trial.tick()
    V_PF = trial.learner.head.parameters()[0]
    assert not V_PF[:, 6:10].any()
    assert (V_PF[:, :6] != before_PF[:, :6]).all()


def test_the_first_level_is_learned() -> None:
    trial = CopyTrial(replace(SMALL, units=12, lr=1e-2), "tbptt-4", 0, "cpu")
    trial.average_bits = (
        0.3  # as after a rise: from 2 bits down takes 2,600 ticks whatever is learned
    )
    for _ in range(4000):
        trial.tick()
        if trial.sequences.level > 1:
            return
    pytest.fail(f"after 4,000 updates the average loss is {trial.average_bits:.2f} bits")


def test_data_for_the_copy_task_are_refused() -> None:
    with pytest.raises(Refused, match="makes its own data"):
        CopyTask(Path("somewhere"))

"""A chaotic net: the influence explodes, the events are innocent, and learning goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.mark.slow
def test_a_chaotic_net_restarts_its_influence_and_rejects_no_event(
    learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    """Tried once without restarts: every event was rejected for ever from number 2,921 on."""
    learner = learner_of("tanh", "kf", n_units=32, n_lanes=1, dtype=torch.float32)
    learner.recurrence.W_ZM[:, 2:34] *= 1.5
    n_restarted, n_rejected = torch.zeros(()), torch.zeros(())
    for seed in range(20):
        for frame in frames_of(1000, n_lanes=1, seed=seed, dtype=torch.float32):
            outcome = learner.step(frame)
            n_restarted += outcome.restarted_B.sum()
            n_rejected += outcome.rejected_B.sum()
    assert n_rejected == 0
    assert n_restarted > 0
    assert all(tensor.isfinite().all() for tensor in learner.state_dict().values())

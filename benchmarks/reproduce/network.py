"""The network of the published runs: a recurrent highway network read by a softmax.

Axes: B lanes, I inputs, N units, P outputs, F = N+I+1 features of the head.

As published (Benzing et al. 2019): all weights from N(0, 0.01^2), no forget bias, Adam without a
schedule, the clip on the recurrence's gradient only. Symbols enter as one-hot inputs, so that
their embedding is part of W and its gradient the rule's: nothing is truncated there. The read-out
sees h alone.
"""

from __future__ import annotations

import torch

from benchmarks.reproduce.experiment import Setting
from benchmarks.reproduce.rules import rule_of
from stream_rnn.cells import Rhn
from stream_rnn.head import CrossEntropy, Head
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam

SCALE = 0.01  # standard deviation of every initial weight


def network(setting: Setting, rule: str, n_symbols: int, seed: int, device: str = "cpu") -> Learner:
    """A fresh learner that reads and predicts one of `n_symbols`; the same for the same seed."""
    generator = generator_of(seed, 0)
    signs = generator_of(seed, 1, device)
    cell = Rhn(n_symbols, setting.units)
    W_ZM = torch.randn(cell.weight_shape, generator=generator) * SCALE
    V_PF = torch.randn(n_symbols, setting.units + n_symbols + 1, generator=generator) * SCALE
    V_PF[:, setting.units : setting.units + n_symbols] = 0
    credit = rule_of(rule, setting).build(cell, setting.lanes, signs)
    return Learner(
        Dense(cell, credit, W_ZM.to(device)),
        Head(
            setting.units, n_symbols, CrossEntropy(n_symbols), V_PF.to(device), reads_inputs=False
        ),
        Adam(setting.lr, clip=setting.clip),
        Adam(setting.lr, clip=None),
    )


def generator_of(seed: int, use: int, device: str = "cpu") -> torch.Generator:
    """A generator for one use (0 weights, 1 signs, 2 the task) of one seed."""
    return torch.Generator(device).manual_seed(1000 * seed + use)

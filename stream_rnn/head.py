"""The read-out and its losses, in closed form.

Axes: B lanes, I inputs, N units, P outputs of the head, Q targets, F = N+I+1 features of the head.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.saved import take


class Loss(ABC):
    """A loss of P outputs against Q targets, with its slope.

    Attributes:
        n_targets: Q.
        n_outputs: P.
    """

    n_targets: int
    n_outputs: int

    @abstractmethod
    def evaluate(self, o_BP: Tensor, y_BQ: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) and its slope dL/do (B, P) of each lane; the mean over several targets."""

    def evaluate_weighted(
        self, o_BP: Tensor, y_BQ: Tensor, weight_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `evaluate`, each lane's loss times its weight in 0..1 (docs/algorithms.md 9.3)."""
        loss_B, slope_BP = self.evaluate(o_BP, y_BQ)
        return loss_B * weight_B, slope_BP * weight_B[:, None]

    def taught_by(self, weight_B: Tensor) -> Tensor:
        """(B,) bool: whose weight leaves something to learn; without, a lane has no target."""
        return weight_B > 0

    def activate(self, o_BP: Tensor) -> Tensor:
        """What is published as the prediction (B, P)."""
        return o_BP


class Likelihood(Loss):
    """A cross-entropy. What the weight leaves, 1 - w, goes to the one against no preference."""

    @abstractmethod
    def undecided(self, o_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the C classes of -log(p) / C (B,), and its slope (B, P)."""

    @override
    def evaluate_weighted(
        self, o_BP: Tensor, y_BQ: Tensor, weight_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss_B, slope_BP = super().evaluate_weighted(o_BP, y_BQ, weight_B)
        rest_B, rest_BP = self.undecided(o_BP)
        left_B = 1 - weight_B
        return loss_B + rest_B * left_B, slope_BP + rest_BP * left_B[:, None]

    @override
    def taught_by(self, weight_B: Tensor) -> Tensor:
        return torch.ones_like(weight_B, dtype=torch.bool)


def mean_of(loss_BQ: Tensor) -> Tensor:
    """(B,): over the targets."""
    return loss_BQ.mean(dim=1) if loss_BQ.shape[1] > 1 else loss_BQ[:, 0]


class SquaredError(Loss):
    """(o - y)^2: forecasts the conditional mean."""

    def __init__(self, n_targets: int = 1) -> None:
        self.n_targets = self.n_outputs = n_targets

    @override
    def evaluate(self, o_BP: Tensor, y_BQ: Tensor) -> tuple[Tensor, Tensor]:
        error_BP = o_BP - y_BQ
        return mean_of(error_BP.square()), error_BP * (2 / self.n_targets)


class Quantile(Loss):
    """Pinball loss tau (y - o)+ + (1 - tau)(o - y)+, doubled: tau = 0.5 is |o - y| (median)."""

    def __init__(self, n_targets: int = 1, tau: float = 0.5) -> None:
        if not 0 < tau < 1:
            raise ValueError(f"tau must be between 0 and 1, got {tau}")
        self.n_targets = self.n_outputs = n_targets
        self.tau = tau

    @override
    def evaluate(self, o_BP: Tensor, y_BQ: Tensor) -> tuple[Tensor, Tensor]:
        error_BP = o_BP - y_BQ
        # in the dtype of the outputs: `where` of two Python numbers would round to float32
        above_BP, below_BP = (error_BP > 0).to(o_BP), (error_BP < 0).to(o_BP)
        slope_BP = above_BP * (2 * (1 - self.tau)) - below_BP * (2 * self.tau)
        return mean_of(error_BP * slope_BP), slope_BP / self.n_targets


class Gaussian(Loss):
    """Negative log likelihood of N(mean, std^2); outputs are [means | log stds]."""

    LOG_STD = 7.0  # log std is held within +- this; its slope is zero outside

    def __init__(self, n_targets: int = 1) -> None:
        self.n_targets = n_targets
        self.n_outputs = 2 * n_targets

    @override
    def evaluate(self, o_BP: Tensor, y_BQ: Tensor) -> tuple[Tensor, Tensor]:
        mean_BQ, raw_BQ = o_BP.chunk(2, dim=1)
        log_std_BQ = raw_BQ.clamp(-self.LOG_STD, self.LOG_STD)
        precision_BQ = torch.exp(-2 * log_std_BQ)
        error_BQ = mean_BQ - y_BQ
        scaled_BQ = error_BQ * error_BQ * precision_BQ
        loss_BQ = scaled_BQ / 2 + log_std_BQ + math.log(2 * math.pi) / 2
        d_log_std_BQ = torch.where(raw_BQ == log_std_BQ, 1 - scaled_BQ, 0.0)
        slope_BP = torch.cat((error_BQ * precision_BQ, d_log_std_BQ), dim=1)
        return mean_of(loss_BQ), slope_BP / self.n_targets

    @override
    def activate(self, o_BP: Tensor) -> Tensor:
        """[means | stds]."""
        mean_BQ, raw_BQ = o_BP.chunk(2, dim=1)
        return torch.cat((mean_BQ, raw_BQ.clamp(-self.LOG_STD, self.LOG_STD).exp()), dim=1)


class CrossEntropy(Likelihood):
    """-log softmax(o)[y] in nats; the target is one class number in 0..P-1."""

    def __init__(self, n_classes: int) -> None:
        if n_classes < 2:
            raise ValueError(f"at least 2 classes are needed, got {n_classes}")
        self.n_targets = 1
        self.n_outputs = n_classes

    @override
    def evaluate(self, o_BP: Tensor, y_BQ: Tensor) -> tuple[Tensor, Tensor]:
        log_p_BP = torch.log_softmax(o_BP, dim=1)
        classes = torch.arange(self.n_outputs, device=o_BP.device)
        chosen_BP = (classes == y_BQ).to(o_BP.dtype)
        return -(log_p_BP * chosen_BP).sum(dim=1), log_p_BP.exp() - chosen_BP

    @override
    def undecided(self, o_BP: Tensor) -> tuple[Tensor, Tensor]:
        log_p_BP = torch.log_softmax(o_BP, dim=1)
        C = self.n_outputs
        return -log_p_BP.mean(dim=1) / C, (log_p_BP.exp() - 1 / C) / C

    @override
    def activate(self, o_BP: Tensor) -> Tensor:
        """Probabilities."""
        return torch.softmax(o_BP, dim=1)


class Bernoulli(Likelihood):
    """Negative log likelihood of targets in {0, 1} (or between), one logit each."""

    def __init__(self, n_targets: int = 1) -> None:
        self.n_targets = self.n_outputs = n_targets

    @override
    def evaluate(self, o_BP: Tensor, y_BQ: Tensor) -> tuple[Tensor, Tensor]:
        loss_BP = torch.nn.functional.softplus(o_BP) - o_BP * y_BQ
        return mean_of(loss_BP), (torch.sigmoid(o_BP) - y_BQ) / self.n_targets

    @override
    def undecided(self, o_BP: Tensor) -> tuple[Tensor, Tensor]:
        loss_BP = torch.nn.functional.softplus(o_BP) - o_BP / 2  # (-log p - log(1 - p)) / 2
        return mean_of(loss_BP) / 2, (torch.sigmoid(o_BP) - 0.5) / (2 * self.n_targets)

    @override
    def activate(self, o_BP: Tensor) -> Tensor:
        """Probabilities of 1."""
        return torch.sigmoid(o_BP)


class Lesson(NamedTuple):
    """What one tick teaches the read-out and asks of the recurrence."""

    loss_B: Tensor
    dL_dh_BN: Tensor
    gradients: list[Tensor]


class Head:
    """Linear read-out `o = V [h, x, 1]` of the hidden state and, past it, of the inputs.

    Its gradient is instantaneous and exact under every credit rule.

    Args:
        n_units: N.
        n_inputs: I.
        loss: the loss and with it P and Q.
        V_PF: initial weights (P, N+I+1); kept, and moved in place by the update.
        reads_inputs: False: it reads zeros in their place, as where papers have a read-out of the
            hidden state alone; the weights on them never move.
    """

    def __init__(
        self, n_units: int, n_inputs: int, loss: Loss, V_PF: Tensor, reads_inputs: bool = True
    ) -> None:
        shape = (loss.n_outputs, n_units + n_inputs + 1)
        if tuple(V_PF.shape) != shape:
            raise ValueError(f"V: expected {shape}, got {tuple(V_PF.shape)}")
        self.n_units = n_units
        self.loss_function = loss
        self.V_PF = V_PF
        self.reads_inputs = reads_inputs
        self._features_BF: Tensor | None = None

    def parameters(self) -> list[Tensor]:
        """[V]."""
        return [self.V_PF]

    def predict(self, h_BN: Tensor, x_BI: Tensor) -> Tensor:
        """Raw outputs o (B, P); `loss_function.activate` makes a prediction of them."""
        if not self.reads_inputs:
            x_BI = torch.zeros_like(x_BI)
        self._features_BF = torch.cat((h_BN, x_BI, torch.ones_like(h_BN[:, :1])), dim=1)
        return self._features_BF @ self.V_PF.T

    def loss(
        self, o_BP: Tensor, y_BQ: Tensor, scored_B: Tensor, weight_B: Tensor | None = None
    ) -> Lesson:
        """Score the last `predict`.

        The slopes are those of the MEAN loss over the scored lanes; lanes not scored give exact
        zeros, whatever their rows hold. Weights in 0..1 scale the losses, never their number.
        """
        if weight_B is None:
            loss_B, slope_BP = self.loss_function.evaluate(o_BP, y_BQ)
        else:
            loss_B, slope_BP = self.loss_function.evaluate_weighted(o_BP, y_BQ, weight_B)
        if len(scored_B) > 1:
            slope_BP = slope_BP / scored_B.sum().clamp(min=1)
        slope_BP = torch.where(scored_B[:, None], slope_BP, 0.0)
        features_BF = torch.where(scored_B[:, None], self.features(), 0.0)
        dL_dh_BN = slope_BP @ self.V_PF[:, : self.n_units]
        loss_B = torch.where(scored_B, loss_B, 0.0)
        return Lesson(loss_B, dL_dh_BN, [slope_BP.T @ features_BF])

    @property
    def owns_update(self) -> bool:
        """Whether the read-out learns by `refit` instead of by a gradient and an update."""
        return False

    def refit(self, y_BQ: Tensor, scored_B: Tensor) -> None:
        """Learn from the last `predict`, if the read-out owns its update."""
        raise NotImplementedError(f"{type(self).__name__} learns by gradients")

    def features(self) -> Tensor:
        """[h, x, 1] (B, F) of the last `predict`."""
        if self._features_BF is None:
            raise RuntimeError("a predict() of the same tick must come first")
        return self._features_BF

    def state_dict(self) -> dict[str, Tensor]:
        """{V}."""
        return {"V_PF": self.V_PF}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; raises ValueError on another shape."""
        take(self.V_PF, state, "V_PF")


def initial_readout(
    n_units: int,
    n_inputs: int,
    loss: Loss,
    generator: torch.Generator,
    persist: Mapping[int, int] | None = None,
) -> Tensor:
    """Fresh V (P, N+I+1) in float64 on the CPU.

    Small random weights on h, so that the recurrence learns from the first scored event on; zeros
    on x. `persist` maps an output to the input it starts as a copy of: a forecast that begins as
    persistence instead of as noise.
    """
    V_PF = torch.zeros(loss.n_outputs, n_units + n_inputs + 1, dtype=torch.float64)
    noise_PN = torch.rand(loss.n_outputs, n_units, generator=generator, dtype=torch.float64)
    V_PF[:, :n_units] = (noise_PN * 2 - 1) * 0.1 / math.sqrt(n_units)
    for output, index in (persist or {}).items():
        V_PF[output, n_units + index] = 1.0
    return V_PF

"""TBPTT whose window follows the memory of the net, up and down (Aicher, Foti & Fox 2019).

Axes: B lanes, T = R + 1 slots, L lags, S state, Z = G*N, M = I+N+1. Their K is the window here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.truncation import Estimator, truncation
from stream_rnn.credit.window import Window
from stream_rnn.lane_state import rows
from stream_rnn.linearization import Linearization
from stream_rnn.saved import counted

ABSURD = 1e100  # a larger phi is no sample: the sums stay finite, and a snapshot takes them


class AdaptiveTbptt(Window):
    """TBPTT with the shortest window that keeps the relative bias of the gradient in bounds.

    At every tick it is `Tbptt(window, every=1)` with the window of now: no update lock, at the cost
    of this window. Every `sample_every` ticks the newest loss is carried back over the whole
    history, to see how much of it flows how far; every `adapt_every` ticks the window follows from
    what was seen since the last time. That tick alone waits for the device. Sampled are lanes with
    a loss, as far back as they began: where episodes are shorter than `history`, so is the window.
    All lanes share it. Everything is scheduled by ticks. Memory as TBPTT with `window = history`.

    The bound adds up norms, and takes phi as decaying geometrically from lag `tau` on: it steers
    well and proves nothing (docs/algorithms.md 4.4).

    Args:
        cell: the cell whose steps will be observed.
        n_lanes: B.
        tolerance: delta, the relative bias of the gradient to stay below.
        k_min: smallest window.
        k_max: largest window; taken where no decay is seen.
        window: the window until the first adaptation.
        history: steps kept, and looked back over by a sample (R + 1).
        sample_every: ticks between two samples. A prime beats with no rhythm of a stream.
        adapt_every: ticks between two adaptations.
        min_samples: with fewer samples than these the window stays, and they wait for more.
        tau: share of the history from which on the influence is taken to decay geometrically.
        estimator: of that decay: "slope": least squares; "max": never below what was seen, hence
            longer windows.
    """

    def __init__(
        self,
        cell: Cell,
        n_lanes: int,
        tolerance: float = 0.1,
        k_min: int = 2,
        k_max: int = 100,
        window: int = 15,
        history: int = 100,
        sample_every: int = 53,
        adapt_every: int = 5000,
        min_samples: int = 16,
        tau: float = 0.8,
        estimator: Estimator = "slope",
    ) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must be between 0 and 1 (exclusive), got {tolerance}")
        if history < 3:
            raise ValueError(f"history must be at least 3, got {history}")
        if not 1 <= k_min <= k_max <= history:
            raise ValueError(
                f"1 <= k_min <= k_max <= history must hold, got k_min = {k_min}, k_max = {k_max}, "
                f"history = {history}"
            )
        if not k_min <= window <= k_max:
            raise ValueError(
                f"window must be between k_min ({k_min}) and k_max ({k_max}), got {window}"
            )
        if sample_every < 1:
            raise ValueError(f"sample_every must be at least 1, got {sample_every}")
        if adapt_every < sample_every:
            raise ValueError(
                f"adapt_every must be at least sample_every ({sample_every}), got {adapt_every}"
            )
        if min_samples < 1:
            raise ValueError(f"min_samples must be at least 1, got {min_samples}")
        if not 0 < tau < 1:
            raise ValueError(f"tau must be between 0 and 1 (exclusive), got {tau}")
        if estimator not in ("slope", "max"):
            raise ValueError(f'estimator must be "slope" or "max", got {estimator!r}')
        super().__init__(cell, n_lanes, slots=history)
        self.tolerance = tolerance
        self.k_min = k_min
        self.k_max = k_max
        self.window = window
        self.sample_every = sample_every
        self.adapt_every = adapt_every
        self.min_samples = min_samples
        self.estimator = estimator
        self._tau = int(tau * (history - 1))  # below R: two lags at least show the decay
        self._phi_T = torch.zeros(history, dtype=torch.float64)  # sums over the samples
        self._samples = torch.zeros((), dtype=torch.int64)
        self._ticks = 0  # since the last adaptation
        self._has_ticked = False
        self._beta: float | None = None
        self._bias = math.inf
        self._gradient_ZM = torch.zeros(cell.weight_shape)

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._append(lin, live_B)
        self._has_ticked = True
        self._ticks += 1
        is_sample = self._ticks % self.sample_every == 0
        order = self._order(self.slots if is_sample else self.window)
        q_LBS = q_BS.new_zeros(len(order) // self.n_lanes, *q_BS.shape)
        q_LBS[0] = torch.where(rows(live_B, q_BS), q_BS, 0.0)
        self._carry_back(q_LBS, order)
        paid = self.window * self.n_lanes
        self._gradient_ZM = self._settle(q_LBS[: self.window], order[:paid])
        if is_sample:
            self._sample(q_LBS)
        if self._ticks == self.adapt_every:
            self._ticks = 0
            self._adapt()

    @override
    def gradient(self) -> Tensor:
        assert self._gradient_ZM is not None
        return self._gradient_ZM

    @override
    def report(self) -> dict[str, Tensor]:
        """The window in force; the decay beta and the bound on the relative bias it follows from.

        Before the first adaptation beta is NaN, unknown, and the bound infinite: no promise.
        """
        if not self._has_ticked:
            return {}
        facts = {
            "window": float(self.window),
            "beta": math.nan if self._beta is None else self._beta,
            "bias": self._bias,
        }
        return {name: torch.tensor(fact, dtype=torch.float64) for name, fact in facts.items()}

    @override
    def state_dict(self) -> dict[str, Tensor]:
        counts = {
            "phi_T": self._phi_T,
            "samples": self._samples,
            "ticks": torch.tensor(self._ticks),
            "window": torch.tensor(self.window),
        }
        # a snapshot takes finite numbers only: what is unknown or infinite is left out
        facts = {} if self._beta is None else {"beta": self._beta}
        facts |= {"bias": self._bias} if math.isfinite(self._bias) else {}
        known = {name: torch.tensor(fact, dtype=torch.float64) for name, fact in facts.items()}
        return super().state_dict() | counts | known

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name in ("phi_T", "samples", "ticks", "window"):
            if name not in state:
                raise ValueError(f"credit state {name!r} is missing")
        if state["phi_T"].shape != self._phi_T.shape:
            raise ValueError(
                f"credit state 'phi_T': expected {tuple(self._phi_T.shape)}, "
                f"got {tuple(state['phi_T'].shape)}"
            )
        ticks, window = (counted(state, name, 2**62) for name in ("ticks", "window"))
        for name, value, least, most in (
            ("ticks", ticks, 0, self.adapt_every - 1),
            ("window", window, self.k_min, self.k_max),
        ):
            if not least <= value <= most:
                raise ValueError(f"credit state {name!r}: expected {least}..{most}, got {value}")
        super().load_state_dict(state)
        self._phi_T = state["phi_T"].detach().to(self._phi_T, copy=True)
        self._samples = state["samples"].detach().to(self._samples, copy=True)
        self._ticks, self.window = ticks, window
        self._beta = float(state["beta"]) if "beta" in state else None
        self._bias = float(state["bias"]) if "bias" in state else math.inf

    def _sample(self, q_TBS: Tensor) -> None:
        """Add phi of the lanes that have a loss, and nothing absurd in it.

        Beyond the state that a lane began with it is zero: no window leaves anything out there.
        """
        if self._phi_T.device != q_TBS.device:
            self._phi_T = self._phi_T.to(q_TBS.device)
            self._samples = self._samples.to(q_TBS.device)
        # in float64: squares of small float32 numbers sink to zero
        phi_TB: Tensor = torch.linalg.vector_norm(q_TBS, dim=2, dtype=torch.float64)
        # NaN compares false; an idle lane has no loss
        use_B = (phi_TB.amax(dim=0) <= ABSURD) & (phi_TB[0] > 0) & self._healthy_B
        self._phi_T += torch.where(use_B, phi_TB, 0.0).sum(dim=1)
        self._samples += use_B.sum()

    def _adapt(self) -> None:
        """Choose the window anew, and start gathering anew; too few samples wait for more."""
        if int(self._samples) < self.min_samples:  # sync: once in `adapt_every` ticks
            return
        found = truncation(
            self._phi_T.tolist(),  # sync: and again
            self.tolerance,
            self.k_min,
            self.k_max,
            self._tau,
            self.estimator,
        )
        self.window, self._beta, self._bias = found.window, found.beta, found.bias
        self._phi_T.zero_()
        self._samples.zero_()

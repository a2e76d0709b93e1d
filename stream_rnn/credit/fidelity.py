"""How good the credit is while learning: a sampled comparison with a long window.

Axes: B lanes, S state, Z = G*N, M = I+N+1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stream_rnn.linearization import Linearization
from stream_rnn.saved import counted

LONGEST = 10_000
"""Ticks that are copied at once, at most: each takes a copy of the recurrent weights."""
FIRST = 4096
"""Ticks before the first comparison, at most; unless the window is longer."""


@dataclass(frozen=True, slots=True)
class _Tick:
    lin: Linearization
    live_B: Tensor


class Fidelity:
    """The cosine between a rule's gradient and backpropagation over the last `window` ticks.

    Of every `every` ticks it copies the last `window` linearizations and carries the newest dL/ds
    back through them once, over the trajectory really taken: the reference is exact up to the lags
    that lie beyond the window. So its cost is bounded: `window / every` of the ticks are copied
    (`window * Z * N` floats at most, then freed), one of them costs a window's backward pass. With
    the native library it is mostly that the copied ticks are taken by torch: 45 to 125 ms for a
    comparison at 32 units and one lane, which by default adds some 3 % to the ticks between two
    (`python -m benchmarks.fidelity`). It reads and never writes: learning is the same with and
    without. (Under the native library, which hands out no linearizations, the ticks it copies are
    taken by the torch step and differ by rounding; hence its clock is part of a snapshot.) A tick
    without a target, or an update-locked rule's, is passed over. A move of the ladder forgets all:
    it was another rule's.

    A noisy rule's single gradient may point far from the truth and still be right on average (a
    cosine of 0.3 is normal at rank 1); what tells is its course, and that it stays positive.

    Args:
        window: ticks carried back through.
        every: ticks from one comparison to the next; the first is made after 4096, if that is less.
    """

    def __init__(self, window: int = 64, every: int = 200_000) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        if window > LONGEST:
            raise ValueError(f"window must be at most {LONGEST}, got {window}")
        if every < window:
            raise ValueError(f"every must be at least window ({window}), got {every}")
        self.window = window
        self.every = every
        self._ticks = self._start = max(every - max(FIRST, window), 0)
        self._kept: list[_Tick] = []
        self._cosine: Tensor | None = None
        self._was_locked = False
        self._switches = 0

    @property
    def records_next(self) -> bool:
        """Whether the next tick has to be seen."""
        return self.unseen_ticks == 0

    @property
    def unseen_ticks(self) -> int:
        """How many coming ticks need not be seen."""
        return max(self.every - self.window - self._ticks, 0)

    def pass_over(self, n: int = 1) -> None:
        """Count n ticks that need not be seen."""
        self._ticks += n

    def follow(self, switches: int) -> None:
        """Told first of all how often the rule was switched: forget what is not of this one.

        The clock goes on. A window that was half copied is not compared, for the new rule has not
        seen its beginning; nor is the first gradient, which may hold what the old rule still owed.
        """
        if switches != self._switches:
            self._switches = switches
            self._kept.clear()
            self._cosine = None
            self._was_locked = True

    def state_dict(self) -> dict[str, Tensor]:
        """Where in its period it is.

        What it has copied is not kept, so a comparison that a restart falls into is passed over;
        nor is the mean, which would differ from then on from that of a run without the restart.
        """
        return {"ticks": torch.tensor(self._ticks)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; empty: a period begins (it was not probed before)."""
        self._ticks = counted(state, "ticks", 2**62) % self.every if state else self._start
        self._kept.clear()
        self._cosine = None

    def observe(
        self,
        lin: Linearization,
        q_BS: Tensor,
        live_B: Tensor,
        gradient_ZM: Tensor | None,
        mask_ZM: Tensor | None = None,
    ) -> None:
        """Take a tick, after the rule has: its linearization, dL/ds, live lanes and gradient."""
        is_recorded = self.records_next
        self._ticks += 1
        if is_recorded:
            self._kept.append(_Tick(_copied(lin), live_B.clone()))
        was_locked, self._was_locked = self._was_locked, gradient_ZM is None
        if self._ticks < self.every:
            return
        # a payment holds the losses of several ticks; and it may have been resumed within
        is_comparable = (
            gradient_ZM is not None and not was_locked and len(self._kept) == self.window
        )
        if gradient_ZM is not None and is_comparable:
            reference_ZM = _carried_back(self._kept, q_BS)
            if mask_ZM is not None:
                reference_ZM = torch.where(mask_ZM, reference_ZM, 0.0)
            self._compare(gradient_ZM, reference_ZM)
        self._kept.clear()
        self._ticks = 0

    def reset(self, lanes_B: Tensor) -> None:
        """The marked lanes (bool) start anew: what they did before is not to blame any more."""
        for tick in self._kept:
            tick.live_B.logical_and_(~lanes_B.to(tick.live_B.device))

    def report(self) -> dict[str, Tensor]:
        """`fidelity`: a running mean over about the last ten comparisons; empty before any."""
        return {} if self._cosine is None else {"fidelity": self._cosine}

    def _compare(self, gradient_ZM: Tensor, reference_ZM: Tensor) -> None:
        lengths = torch.linalg.vector_norm(gradient_ZM) * torch.linalg.vector_norm(reference_ZM)
        cosine = ((gradient_ZM * reference_ZM).sum() / lengths).clamp(-1.0, 1.0)
        old = torch.full_like(cosine, math.nan) if self._cosine is None else self._cosine
        mixed = torch.where(old.isnan(), cosine, torch.lerp(old, cosine, 0.1))
        self._cosine = torch.where(cosine.isfinite(), mixed, old)


def _copied(lin: Linearization) -> Linearization:
    return Linearization(
        lin.W_h_ZN.clone(), lin.drive_BKGN.clone(), lin.carry_BKKN.clone(), lin.u_BM.clone()
    )


def _carried_back(ticks: list[_Tick], q_BS: Tensor) -> Tensor:
    """dL/dW (Z, M) of the newest tick's loss, through all `ticks` (oldest first)."""
    total_ZM: Tensor | None = None
    after: _Tick | None = None
    for tick in reversed(ticks):
        if after is not None:
            q_BS = torch.where(after.live_B[:, None], after.lin.pull(q_BS), q_BS)
        live_B1 = tick.live_B[:, None]  # rows of idle lanes may hold NaN
        if after is None:
            q_BS = torch.where(live_B1, q_BS, 0.0)
        p_BZ = torch.where(live_B1, tick.lin.pull_drive(q_BS), 0.0)
        paid_ZM = p_BZ.T @ torch.where(live_B1, tick.lin.u_BM, 0.0)
        total_ZM = paid_ZM if total_ZM is None else total_ZM + paid_ZM
        after = tick
    assert total_ZM is not None
    return total_ZM

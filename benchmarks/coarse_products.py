"""What pushes in TF32 do to an estimate, worked out without a GPU.

    python -m benchmarks.coarse_products [--lanes 256] [--units 32] [--ticks 100] [--seeds 3]

On a random net with frozen weights each lane draws signs of its own, so the lanes' mean is an
estimate of the expected influence. Three learners see the same events: in float32, in float32
with the factors of each push rounded to TF32 (10 bits of mantissa, to nearest; sums stay in
float32, as on tensor cores), and exact RTRL in float64. Told is, as a share of the exact gradient's
size, in the mean over ticks and seeds, how far one lane's gradient is from the exact one (its
noise), and how far the mean of all lanes is: the noise over the root of the lanes, and any bias
beside it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import pad

from stream_rnn.cells import CELLS
from stream_rnn.credit import Credit, Kf, Ok, Rtrl
from stream_rnn.native import loading

INPUTS = 4
LOST = 13  # of the 23 bits of a float32's mantissa
RULES: dict[str, Callable[..., Credit]] = {
    "kf": Kf,
    "ok(2)": lambda *args: Ok(*args, rank=2),
    "ok(8)": lambda *args: Ok(*args, rank=8),
}


def rounded(tensor: Tensor) -> Tensor:
    """Float32 numbers to the nearest of TF32, ties to even."""
    bits = tensor.contiguous().view(torch.int32)
    odd = (bits >> LOST) & 1
    kept = (bits + (1 << (LOST - 1)) - 1 + odd) >> LOST << LOST
    return kept.view(torch.float32)


@contextmanager
def pushes_in_tf32() -> Iterator[None]:
    """`Linearization.push` with factors rounded, as a GPU would."""
    bmm = torch.bmm

    def coarse(left: Tensor, right: Tensor) -> Tensor:
        return bmm(rounded(left), rounded(right))

    with mock.patch("stream_rnn.linearization.torch", _With(bmm=coarse)):
        yield


class _With:
    """torch, with other functions in the place of some."""

    def __init__(self, **functions: Any) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        return self._functions.get(name) or getattr(torch, name)


def gradients(
    credit: Credit, weights: Tensor, x_TI: Tensor, q_TN: Tensor, coarse: bool = False
) -> Iterator[Tensor]:
    """(B, Z, M) of each tick: the lanes' own, all of which see the same events."""
    cell, B = credit.cell, credit.n_lanes
    s_BS = weights.new_zeros(B, cell.n_state)
    live_B = torch.ones(B, dtype=torch.bool)
    lanes: list[Tensor] = []

    def each(p: Tensor, v: Tensor, use_B: Tensor) -> Tensor:
        lanes[:] = [torch.einsum("brz,brm->bzm", p, v)]
        return lanes[0].sum(dim=0)

    def by_chunk(rule: Ok, A_BgSLr: Tensor, V_BCMr: Tensor, q_BS: Tensor, use_B: Tensor) -> Tensor:
        B, groups, S, L, r = A_BgSLr.shape
        p_BgLr = (q_BS[:, None, None, :] @ A_BgSLr.reshape(B, groups, S, L * r)).view(B, -1, L, r)
        lanes[:] = [torch.einsum("bclr,bcmr->bclm", p_BgLr, V_BCMr).reshape(B, *cell.weight_shape)]
        return lanes[0].sum(dim=0)

    for x_I, q_N in zip(x_TI, q_TN, strict=True):
        s_BS, lin = cell.step(weights, x_I.expand(B, -1).to(weights), s_BS)
        q_BS = pad(q_N.to(weights).expand(B, -1), (0, cell.n_state - cell.n_units))
        with ExitStack() as seams:
            seams.enter_context(mock.patch("stream_rnn.credit.kf.outer_sum", each))
            seams.enter_context(mock.patch.object(Ok, "_read_gradient", by_chunk))
            if coarse:
                seams.enter_context(pushes_in_tf32())
            credit.observe(lin, q_BS, live_B)
        gradient = credit.gradient()
        assert gradient is not None
        yield lanes[0].double() if lanes else gradient.double()[None] / B


@torch.no_grad()
@loading.switched_off()
def measured(kind: str, rule: str, lanes: int, units: int, ticks: int, seed: int) -> list[float]:
    """Shares of the exact gradient: one lane's error in float32 and TF32, the mean's in both."""
    cell, generator = CELLS[kind](INPUTS, units), torch.Generator().manual_seed(seed)
    weights = cell.initial_weight(generator)
    x_TI = torch.randn(ticks, INPUTS, generator=generator)
    q_TN = torch.randn(ticks, units, generator=generator)
    signs = [torch.Generator().manual_seed(seed + 1) for _ in range(2)]
    fine, coarse = (RULES[rule](cell, lanes, each) for each in signs)
    paths = (
        gradients(Rtrl(cell, 1), weights, x_TI, q_TN),
        gradients(fine, weights.float(), x_TI, q_TN),
        gradients(coarse, weights.float(), x_TI, q_TN, coarse=True),
    )
    rows = []
    for t, (exact, one, other) in enumerate(zip(*paths, strict=True)):
        if t < ticks // 3:
            continue
        size = float(exact.norm())
        apart = [float((each - exact).flatten(1).norm(dim=1).mean()) for each in (one, other)]
        means = [float((each.mean(0) - exact[0]).norm()) for each in (one, other)]
        rows.append([error / size for error in (*apart, *means)])
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, default in (("lanes", 256), ("units", 32), ("ticks", 100), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| | one lane, float32 | TF32 | mean of lanes, float32 | TF32 |")
    print("|---|---|---|---|---|")
    for kind in ("tanh", "lstm", "rhn"):
        for rule in RULES:
            found = [
                measured(kind, rule, given.lanes, given.units, given.ticks, seed)
                for seed in range(given.seeds)
            ]
            shown = [statistics.fmean(column) for column in zip(*found, strict=True)]
            columns = " | ".join(f"{share:.2g}" for share in shown)
            print(f"| {kind} {rule} | {columns} |", flush=True)


if __name__ == "__main__":
    main()

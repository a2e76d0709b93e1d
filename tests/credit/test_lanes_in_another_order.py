"""Lanes in another order, their signs with them, are the same lanes.

The signs of a run come from one generator in the order of the lanes
(docs/adr/031-signs-come-from-one-generator.md); here they travel through the `signs` seam. float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Kf, Ok, Uoro
from stream_rnn.credit.base import Noisy, Signs
from stream_rnn.linearization import Linearization

LANES, ORDER = 5, [3, 0, 4, 2, 1]
RULES: dict[str, Callable[[Cell, Signs], Noisy]] = {
    "kf": lambda cell, signs: Kf(cell, LANES, signs=signs),
    "uoro": lambda cell, signs: Uoro(cell, LANES, signs=signs),
    "ok": lambda cell, signs: Ok(cell, LANES, rank=2, signs=signs),
}


def drawn(order: list[int]) -> Signs:
    """Signs of a fixed seed, the lanes of which stand in this order."""
    generator = torch.Generator().manual_seed(3)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return (torch.randint(0, 2, shape, generator=generator) * 2 - 1)[order]

    return draw


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", CELLS)
def test_a_rule_gives_the_same_up_to_rounding(
    kind: str, rule: str, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk(kind, n_lanes=LANES)
    one, other = (RULES[rule](walk.cell, drawn(order)) for order in (list(range(LANES)), ORDER))
    for t, (lin, q_BS) in enumerate(walk):
        live_B = torch.arange(LANES) % 4 != t % 4  # in turn, some have no event
        rows = (each[ORDER] for each in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM))
        one.observe(lin, q_BS, live_B)
        other.observe(Linearization(lin.W_h_ZN, *rows), q_BS[ORDER], live_B[ORDER])
        torch.testing.assert_close(other.gradient(), one.gradient(), rtol=1e-10, atol=1e-10)
        for name, state in one.lane_state.items():
            torch.testing.assert_close(other.lane_state[name], state[ORDER], rtol=1e-8, atol=1e-8)

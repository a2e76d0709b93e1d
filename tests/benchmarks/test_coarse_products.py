"""TF32 without a GPU: what is rounded, and that only pushes are."""

from __future__ import annotations

import pytest
import torch

from benchmarks import coarse_products
from stream_rnn.linearization import Linearization


def test_ten_bits_are_kept_and_ties_go_to_even() -> None:
    step = 2.0**-10
    given = torch.tensor([1 + step, 1 + step / 2, 1 + 1.5 * step, 1 + 0.51 * step, -3.0, 0.0])
    expected = [1 + step, 1.0, 1 + 2 * step, 1 + step, -3.0, 0.0]
    assert coarse_products.rounded(given).tolist() == expected
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    error = (coarse_products.rounded(noise) - noise).abs() / noise.abs()
    assert 2.0**-12 < float(error.max()) <= 2.0**-11


def test_a_push_is_rounded_within_and_exact_again_outside() -> None:
    J, X = torch.full((1, 1), 1 + 2.0**-12), torch.ones(1, 1, 1)
    lin = Linearization(J, torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.ones(1, 3))
    with coarse_products.pushes_in_tf32():
        assert lin.push(X).item() == 1.0
    assert lin.push(X).item() == float(J)


@pytest.mark.parametrize("rule", coarse_products.RULES)
def test_the_mean_of_many_lanes_comes_nearer_and_tf32_is_another_number(rule: str) -> None:
    found = coarse_products.measured("lstm", rule, lanes=64, units=6, ticks=30, seed=0)
    lane, lane_coarse, mean, mean_coarse = found
    assert 2 * mean < lane
    assert 0.5 < lane_coarse / lane < 2
    assert 0.5 < mean_coarse / mean < 2
    assert (lane_coarse, mean_coarse) != (lane, mean)

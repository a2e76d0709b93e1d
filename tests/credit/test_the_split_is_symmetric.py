"""The published split of OK's projection is unbiased too, and never less noisy than ours. float64.

With C = P diag(sigma) Z^T and the L of `mixing`, ours keeps (P L)(Z L)^T; the published program
keeps (P diag(sigma)^-1/2 L)(Z diag(sigma)^1/2 L)^T (docs/algorithms.md 6.3).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stream_rnn.credit.small_matrices import mixing


def mean_and_variance(left_n: Tensor, right_n: Tensor, sigma_n: Tensor) -> tuple[Tensor, float]:
    """Over all signs, of diag(left) L L^T diag(right); P and Z change neither."""
    n = len(sigma_n)
    signs_En = 2.0 * (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).double() - 1
    L_Enr, _ = mixing(sigma_n.expand(2**n, n), signs_En, rtol=1e-13)
    kept_Enn = left_n[:, None] * (L_Enr @ L_Enr.transpose(1, 2)) * right_n
    errors_E = (kept_Enn - torch.diag(sigma_n)).square().sum(dim=(1, 2))
    return kept_Enn.mean(dim=0), float(errors_E.mean())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("r", [1, 2, 4])
def test_the_published_split_is_unbiased_and_noisier(r: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(10 * r + seed)
    sigma_n = torch.rand(r + 1, generator=generator, dtype=torch.float64) + 0.1
    sigma_n = sigma_n.sort(descending=True).values
    ones_n, root_n = torch.ones_like(sigma_n), sigma_n.sqrt()
    for left_n, right_n in ((ones_n, ones_n), (1 / root_n, root_n)):
        mean_nn, _ = mean_and_variance(left_n, right_n, sigma_n)
        torch.testing.assert_close(mean_nn, torch.diag(sigma_n), rtol=0, atol=1e-12)
    _, ours = mean_and_variance(ones_n, ones_n, sigma_n)
    _, published = mean_and_variance(1 / root_n, root_n, sigma_n)
    assert published > ours * (1 + 1e-9)

"""The small dense algebra of OK, judged by torch.linalg and by its own definition. float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stream_rnn.credit.small_matrices import floored_cholesky, jacobi_svd, mixing

SIZES = [2, 3, 4, 5, 6, 7, 9, 12, 17]  # n = r + 1, r up to 16
SPECTRA = {"even": 0.0, "graded": 0.4, "steep": 1.5}  # decades from one value to the next


def noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def graded(seed: int, batch: int, n: int, decades: float) -> Tensor:
    """Random matrices with the given decay of their columns and rows."""
    grades = 10.0 ** (-decades * torch.arange(n, dtype=torch.float64))
    Q, _ = torch.linalg.qr(noise(seed, batch, n, n))
    P, _ = torch.linalg.qr(noise(seed + 1, batch, n, n))
    return Q @ torch.diag(grades) @ P.transpose(-1, -2)


def size(tensor: Tensor) -> float:
    return float(tensor.abs().max())


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("n", SIZES)
def test_the_factors_multiply_to_the_matrix(n: int, spectrum: str) -> None:
    C = graded(n, 20, n, SPECTRA[spectrum])
    P, sigma, Z = jacobi_svd(C)
    assert size(P @ torch.diag_embed(sigma) @ Z.transpose(-1, -2) - C) < 1e-13 * size(C)
    assert size(Z.transpose(-1, -2) @ Z - torch.eye(n)) < 1e-13
    assert (sigma.diff() <= 0).all()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("n", SIZES)
def test_the_singular_values_are_those_of_torch(n: int, spectrum: str) -> None:
    C = graded(n, 20, n, SPECTRA[spectrum])
    _, sigma, _ = jacobi_svd(C)
    truth = torch.linalg.svdvals(C)
    # a fixed number of sweeps must do: what should be zero and is not becomes noise
    assert float(((sigma - truth).abs() / truth[:, :1]).max()) < 1e-10


@pytest.mark.parametrize("n", SIZES)
def test_the_left_factor_is_orthogonal_where_it_counts(n: int) -> None:
    P, _, _ = jacobi_svd(noise(n, 20, n, n))
    assert size(P.transpose(-1, -2) @ P - torch.eye(n)) < 1e-8


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("zeros", ["column", "all"])
def test_zero_columns_give_zero_singular_values_exactly(n: int, zeros: str) -> None:
    C = noise(n, 5, n, n)
    C[..., -1:] = 0.0
    if zeros == "all":
        C.zero_()
    P, sigma, Z = jacobi_svd(C)
    assert (sigma[:, -1] == 0).all()
    assert size(P @ torch.diag_embed(sigma) @ Z.transpose(-1, -2) - C) <= 1e-13
    assert (P[..., -1] == 0).all()


def test_a_matrix_of_nan_raises_nothing_and_leaves_the_others_alone() -> None:
    C = noise(0, 3, 4, 4)
    alone = jacobi_svd(C[::2])
    C[1] = torch.nan
    together = jacobi_svd(C)
    for one, all_of_them in zip(alone, together, strict=True):
        assert torch.equal(one, all_of_them[::2])


@pytest.mark.parametrize("n", SIZES)
def test_the_cholesky_factor_is_that_of_torch(n: int) -> None:
    V = noise(n, 20, 3 * n, n)
    gram = V.transpose(-1, -2) @ V
    R, T = floored_cholesky(gram, 1e-15)
    truth = torch.linalg.cholesky(gram, upper=True)
    torch.testing.assert_close(R, truth, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(R @ T, torch.eye(n).to(R).expand_as(R), rtol=0, atol=1e-10)


@pytest.mark.parametrize("floor", [1e-15, 1e-6])
@pytest.mark.parametrize("n", SIZES)
def test_dependent_columns_are_floored_and_still_reproduced(n: int, floor: float) -> None:
    """The last column is a copy of the first: V T R = V however R and T came out."""
    V = noise(n, 5, 3 * n, n)
    V[..., -1] = V[..., 0]
    R, T = floored_cholesky(V.transpose(-1, -2) @ V, floor)
    assert R.isfinite().all()
    assert T.isfinite().all()
    assert size(V @ T @ R - V) < 1e-7  # T is as large as 1/sqrt(floor)


@pytest.mark.parametrize("floor", [1e-15, 1e-6])
@pytest.mark.parametrize("n", [5, 9, 17])
def test_many_dependent_columns_are_no_worse_than_one(n: int, floor: float) -> None:
    """All but two are: T is as large as 1/sqrt(floor) and grows with none of them."""
    V = noise(n, 500, 3 * n, n)
    V[:, 2:] = 0.0
    R, T = floored_cholesky(V.transpose(-1, -2) @ V, floor)
    assert size(V @ T @ R - V) < 1e-6
    assert size(T) < 1e4 / floor**0.5


@pytest.mark.parametrize("column", [0, 1, -1])
def test_a_zero_column_is_dropped_exactly(column: int) -> None:
    V = noise(1, 5, 12, 4)
    V[..., column] = 0.0
    R, T = floored_cholesky(V.transpose(-1, -2) @ V, 1e-15)
    assert not R[..., column, :].any()
    assert not T[..., :, column].any()
    torch.testing.assert_close(V @ T @ R, V, rtol=0, atol=1e-12)


def all_signs(n: int) -> Tensor:
    """(2^n, n)."""
    return (2 * (torch.arange(2**n)[:, None] >> torch.arange(n) & 1) - 1).double()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_mixing_is_unbiased_and_costs_what_it_says(n: int, spectrum: str) -> None:
    sigma, _ = (
        noise(n, 10, n)
        .abs()
        .mul(10.0 ** (-SPECTRA[spectrum] * torch.arange(n)))
        .sort(dim=-1, descending=True)
    )
    signs = all_signs(n)
    L, variance = mixing(sigma[:, None].expand(-1, len(signs), -1), signs[None], rtol=1e-13)
    assert L.shape[-1] == n - 1
    square = L @ L.transpose(-1, -2)
    truth = torch.diag_embed(sigma)
    mean = square.mean(dim=1)
    assert float(((mean - truth).abs().amax(dim=(1, 2)) / sigma[:, 0]).max()) < 1e-12
    spread = (square - truth[:, None]).square().sum(dim=(2, 3)).mean(dim=1)
    torch.testing.assert_close(variance[:, 0], spread, rtol=1e-10, atol=1e-14)


def test_mixing_keeps_everything_if_the_last_value_is_rounding() -> None:
    sigma = torch.tensor([[3.0, 2.0, 1.0, 1e-15]], dtype=torch.float64)
    for signs in all_signs(4):
        L, variance = mixing(sigma, signs[None], rtol=1e-13)
        truth = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64))
        torch.testing.assert_close((L @ L.transpose(-1, -2))[0], truth, rtol=0, atol=1e-14)
        assert float(variance) == pytest.approx(0, abs=1e-14)


def test_mixing_nothing_gives_nothing() -> None:
    L, variance = mixing(torch.zeros(2, 5).double(), torch.ones(2, 5).double(), rtol=1e-13)
    assert not L.any()
    assert not variance.any()

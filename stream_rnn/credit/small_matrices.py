"""The small dense algebra of the OK projection: fixed sequences of tensor operations, batched.

Axes: leading axes are batch; n = r + 1 summands are reduced to r.

torch.linalg.svd and eigh synchronize the device, raise on NaN and cannot be captured in a CUDA
graph, so these are our own; torch.linalg is the tests' judge only. Everything here is float64.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def floored_cholesky(gram_nn: Tensor, floor: Tensor | float) -> tuple[Tensor, Tensor]:
    """Upper triangular R with R^T R ~ gram, and T with R T = I.

    A pivot below `floor` times its original diagonal entry is raised to that. For any such R and
    T `(V T)(R ...)` reproduces V, so an estimate built on them stays unbiased whatever the rounding
    of the Gram sums; only its variance depends on them (speed.md 1.4). A column that is exactly
    zero is dropped exactly: its row of R and its column of T are zero.
    """
    n = gram_nn.shape[-1]
    work = gram_nn.clone()
    R, T = torch.zeros_like(work), torch.zeros_like(work)
    diagonal = gram_nn.diagonal(dim1=-2, dim2=-1)
    least = diagonal * floor
    for j in range(n):
        pivot = torch.maximum(work[..., j, j], least[..., j])
        inverse = torch.where(diagonal[..., j] > 0, pivot.rsqrt(), 0.0)
        R[..., j, j] = pivot * inverse
        row = work[..., j, j + 1 :] * inverse[..., None]
        R[..., j, j + 1 :] = row
        work[..., j + 1 :, j + 1 :] -= row[..., :, None] * row[..., None, :]
        if j:
            above = torch.matmul(T[..., :j, :j], R[..., :j, j, None])[..., 0]
            T[..., :j, j] = above * -inverse[..., None]
        T[..., j, j] = inverse
    return R, T


@functools.lru_cache(maxsize=64)
def _next_round(n: int, device: torch.device) -> Tensor:
    """How n (even) rows change seats between rounds so that in n - 1 rounds every pair meets once.

    Rows 2i and 2i + 1 are a pair; the circle method keeps row 0 in its seat, and after n - 1 rounds
    everybody is back. Kept on the device: copying it there each time would synchronize.
    """
    top, bottom = list(range(0, n, 2)), list(range(1, n, 2))
    if n > 2:
        top, bottom = [top[0], bottom[0], *top[1:-1]], [*bottom[1:], top[-1]]
    seats = [seat for pair in zip(top, bottom, strict=True) for seat in pair]
    return torch.tensor(seats, device=device)


def jacobi_svd(C_nn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P, sigma (descending), Z with C = P diag(sigma) Z^T, by one-sided Jacobi rotations.

    The product is exact to rounding after any number of sweeps and Z is orthogonal; P's columns are
    orthogonal in the limit. Columns of P that belong to sigma = 0 are zero. One rotation is the
    closed form for n = 2.
    """
    n = C_nn.shape[-1]
    # enough for values to 1e-10 of the largest, however steep the spectrum: a value that should be
    # zero and is not would be mixed, as noise, into an influence of low rank
    sweeps = 1 if n == 2 else 5 if n <= 6 else 8 if n <= 10 else 12
    identity_nn = torch.eye(n, dtype=C_nn.dtype, device=C_nn.device).expand(C_nn.shape)
    # rows of W are the columns of [C; Z], so that a pair is one contiguous 2 x 2n block
    W = _rotate_pairs(torch.cat((C_nn.transpose(-1, -2), identity_nn), dim=-1), sweeps)
    sigma = W[..., :n].square().sum(dim=-1).sqrt()
    sigma, order = sigma.sort(dim=-1, descending=True, stable=True)
    W = W.gather(-2, order[..., :, None].expand(W.shape))
    P = (W[..., :n] / torch.where(sigma > 0, sigma, 1.0)[..., :, None]).transpose(-1, -2)
    return P, sigma, W[..., n:].transpose(-1, -2)


def _rotate_pairs(W_n2n: Tensor, sweeps: int) -> Tensor:
    """Rotate rows until the first halves of all rows are orthogonal to each other."""
    n = W_n2n.shape[-2]
    even = n + n % 2
    if even != n:  # a zero row nobody rotates with
        W_n2n = torch.cat((W_n2n, torch.zeros_like(W_n2n[..., :1, :])), dim=-2)
    shape = W_n2n.shape
    pairs_shape = (*shape[:-2], even // 2, 2, 2 * n)
    seats = _next_round(even, W_n2n.device)
    for _ in range(sweeps * (even - 1)):  # whole sweeps: every row ends in its own seat
        pairs = W_n2n.reshape(pairs_shape)
        half = pairs[..., :n]
        gram = half @ half.transpose(-1, -2)
        difference, gamma = gram[..., 0, 0] - gram[..., 1, 1], gram[..., 0, 1]
        gamma = torch.where(difference < 0, -gamma, gamma)  # the smaller of the two angles
        angle = torch.atan2(gamma + gamma, difference.abs()) * 0.5
        c, s = angle.cos(), angle.sin()
        rotation = torch.stack((c, s, -s, c), dim=-1).view(*gram.shape)
        W_n2n = (rotation @ pairs).view(shape)
        if even > 2:
            W_n2n = W_n2n.index_select(-2, seats)
    return W_n2n[..., :n, :]


def mixing(sigma: Tensor, signs: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    """The matrix L (..., r+1, r) of algorithms.md 6.1, steps 4 to 8, and the variance it costs.

    E[L L^T] over the signs is diag(sigma); E|P L L^T Z^T - P diag(sigma) Z^T|^2 is the minimum over
    all unbiased estimates of rank r: `s^2/q - sum of the mixed sigma^2`.

    Args:
        sigma: (..., r+1) singular values, descending.
        signs: (..., r+1) fair signs.
        rtol: values below rtol * sigma_1 are rounding and count as zero.
    """
    n = sigma.shape[-1]
    r = n - 1
    sigma = torch.where(sigma < rtol * sigma[..., :1], 0.0, sigma)
    places = torch.arange(n, device=sigma.device)
    tail = sigma.flip(-1).cumsum(-1).flip(-1)
    mixable = (r - places[:r]) * sigma[..., :r] <= tail[..., :r]
    p = (mixable.cumsum(-1) == 0).sum(-1, keepdim=True)  # kept exactly: the first p
    q = (r - p).to(sigma.dtype)
    s = tail.gather(-1, p)
    mixed = places >= p
    empty = s <= 0
    safe_s = torch.where(empty, 1.0, s)
    z = (1 - q * sigma / safe_s).clamp(min=0).sqrt() * mixed
    z = torch.where(empty, (places == r).to(sigma.dtype), z)
    z = z / z.square().sum(-1, keepdim=True).sqrt()
    w = z + (places == r)
    X = torch.eye(n, dtype=sigma.dtype, device=sigma.device) - (
        w[..., :, None] * w[..., None, :] / (1 + z[..., -1])[..., None, None]
    )
    d = torch.where(mixed, signs * (s / q).sqrt(), sigma.sqrt())
    variance = s.square()[..., 0] / q[..., 0] - (sigma.square() * mixed).sum(-1)
    return d[..., :, None] * X[..., :r], variance

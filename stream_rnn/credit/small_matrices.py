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

    A pivot below `floor` times its original diagonal entry is raised to that, and the rest of its
    row, which is rounding, is zero: else T grows with each such column by up to 1/sqrt(floor), and
    nothing is left of V. For any such R and T `(V T)(R ...)` reproduces V, so an estimate built on
    them stays unbiased whatever the rounding of the Gram sums; only its variance depends on them
    (docs/algorithms.md 6.6). A column that is exactly zero is dropped exactly: its row of R and its
    column of T are zero.
    """
    n = gram_nn.shape[-1]
    identity_nn = torch.eye(n, dtype=gram_nn.dtype, device=gram_nn.device)
    # eliminating in [gram | I] leaves [R | T^T]
    work = torch.cat((gram_nn, identity_nn.expand(gram_nn.shape)), dim=-1)
    diagonal = gram_nn.diagonal(dim1=-2, dim2=-1)
    least = diagonal * floor
    alive = diagonal > 0
    for j in range(n):
        row = work[..., j, :]
        if j + 1 < n:
            row[..., j + 1 : n] *= row[..., j, None] > least[..., j, None]
        pivot = torch.maximum(row[..., j], least[..., j])
        inverse = torch.where(alive[..., j], pivot.rsqrt(), 0.0)
        row[..., j] = pivot
        row *= inverse[..., None]
        if j + 1 < n:
            factors = row[..., j + 1 : n, None]
            work[..., j + 1 :, :].addcmul_(factors, row[..., None, :], value=-1)
    return work[..., :n].triu(), work[..., n:].transpose(-1, -2)


@functools.cache
def _round(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """One round of the tournament of n (even) rows, rows 2i and 2i + 1 being a pair.

    Returns:
        Two linear maps: (n*n, n) from a flat Gram matrix to 2 x.y of all pairs, followed by their
        |x|^2 - |y|^2; and (n, n*n) from each pair's cosine and sine to the flat matrix that rotates
        the pairs and moves the rows to their next seats (circle method: row 0 stays, after n - 1
        rounds everybody is back).
    """
    even, odd = range(0, n, 2), range(1, n, 2)
    pairs = n // 2
    facts = torch.zeros(n, n, 2 * pairs, dtype=torch.float64)
    for pair, (i, j) in enumerate(zip(even, odd, strict=True)):
        facts[i, j, pair] = 2.0
        facts[i, i, pairs + pair], facts[j, j, pairs + pair] = 1.0, -1.0
    top, bottom = list(even), list(odd)
    if n > 2:
        top, bottom = [top[0], bottom[0], *top[1:-1]], [*bottom[1:], top[-1]]
    seats = [seat for pair in zip(top, bottom, strict=True) for seat in pair]
    turn = torch.zeros(pairs, 2, n, n, dtype=torch.float64)
    for new, old in enumerate(seats):
        pair, partner = old // 2, old ^ 1
        turn[pair, 0, new, old] = 1.0
        turn[pair, 1, new, partner] = 1.0 if old % 2 == 0 else -1.0
    return facts.view(n * n, 2 * pairs).to(device), turn.view(2 * pairs, n * n).to(device)


def jacobi_svd(C_nn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P, sigma (descending), Z with C = P diag(sigma) Z^T, by one-sided Jacobi rotations.

    The product is exact to rounding after any number of sweeps and Z is orthogonal; P's columns are
    orthogonal in the limit. Columns of P that belong to sigma = 0 are zero. One rotation is the
    closed form for n = 2.
    """
    n = C_nn.shape[-1]
    sweeps = 1 if n == 2 else 5 if n <= 6 else 8 if n <= 10 else 11
    identity_nn = torch.eye(n, dtype=C_nn.dtype, device=C_nn.device).expand(C_nn.shape)
    # rows of W are the columns of [C; Z]
    W = torch.cat((C_nn.transpose(-1, -2), identity_nn), dim=-1)
    W = _orthogonalize(W.reshape(-1, n, 2 * n), sweeps).view(W.shape)
    sigma = W[..., :n].square().sum(dim=-1).sqrt()
    sigma, order = sigma.sort(dim=-1, descending=True, stable=True)
    W = W.gather(-2, order[..., :, None].expand(W.shape))
    P = (W[..., :n] / torch.where(sigma > 0, sigma, 1.0)[..., :, None]).transpose(-1, -2)
    return P, sigma, W[..., n:].transpose(-1, -2)


def _orthogonalize(W_bn2n: Tensor, sweeps: int) -> Tensor:
    """Rotate rows, pair by pair, until the first halves of all rows are orthogonal."""
    batch, n, _ = W_bn2n.shape
    even = n + n % 2
    if even != n:  # a zero row that nobody turns with
        W_bn2n = torch.cat((W_bn2n, torch.zeros_like(W_bn2n[:, :1])), dim=1)
    facts, turn = _round(even, W_bn2n.device)
    unit = W_bn2n.new_ones(1, even // 2)
    for _ in range(sweeps * (even - 1)):  # whole sweeps: every row ends in its own seat
        half = W_bn2n[:, :, :n]
        gram = torch.bmm(half, half.transpose(1, 2)).view(batch, even * even)
        products, differences = torch.mm(gram, facts).chunk(2, dim=1)
        # the smaller of the two angles that make a pair orthogonal; 0/0 turns nothing
        angle = (products / differences).nan_to_num_(nan=0.0).atan_().mul_(0.5)
        rotation = torch.mm(torch.view_as_real(torch.polar(unit, angle)).flatten(1), turn)
        W_bn2n = torch.bmm(rotation.view(batch, even, even), W_bn2n)
    return W_bn2n[:, :n]


@functools.cache
def _places(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """0..n-1; n-1..1; the map from values to their tail sums; the unit matrix."""
    places = torch.arange(n)
    ones = torch.ones(n, n, dtype=torch.float64)
    constants = (places, (n - 1 - places[:-1]).double(), ones.tril(), torch.eye(n).double())
    return tuple(constant.to(device) for constant in constants)  # type: ignore[return-value]


def mixing(sigma: Tensor, signs: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    """The L (..., r+1, r) of docs/algorithms.md 6.1, steps 4 to 8, and the variance it costs.

    E[L L^T] over the signs is diag(sigma); E|P L L^T Z^T - P diag(sigma) Z^T|^2 is the minimum over
    all unbiased estimates of rank r: `s^2/q - sum of the mixed sigma^2`.

    Args:
        sigma: (..., r+1) singular values, descending.
        signs: (..., r+1) fair signs.
        rtol: values below rtol * sigma_1 are rounding and count as zero.
    """
    n = sigma.shape[-1]
    r = n - 1
    places, left, tails, identity = _places(n, sigma.device)
    sigma = sigma * (sigma >= rtol * sigma[..., :1])
    tail = sigma @ tails
    mixable = left * sigma[..., :r] <= tail[..., :r]
    p = (mixable.cumsum(-1) == 0).sum(-1, keepdim=True)  # kept exactly: the first p
    q = (r - p).to(sigma.dtype)
    s = tail.gather(-1, p)
    mixed = places >= p
    share = sigma * q / s.clamp(min=torch.finfo(sigma.dtype).tiny)
    # an empty tail leaves any unit vector: the rows it would fill are zero
    z = (1 - share).clamp(min=0).sqrt() * mixed
    z = z / torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    w = z + identity[-1]
    X = identity[:, :r] - w[..., :, None] * (w[..., :r] / w[..., -1:])[..., None, :]
    d = torch.where(mixed, signs * (s / q).sqrt(), sigma.sqrt())
    variance = (s.square() / q)[..., 0] - (sigma.square() * mixed).sum(-1)
    return d[..., :, None] * X, variance

"""Influences of deficient rank under OK: float32, in the library and in torch, beside float64.

Of dependent summands no factorization is unique. What is compared is what all have in common: the
gradient, the variance, how far what is kept is from the truth (the root of the variance, whatever
the signs), and that its factors together are no larger than those of the summands.

Axes: B lanes, C chunks, N units, S state, Z rows of W, L rows of a chunk, M columns, R rank.
"""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.fuzz.bounds import Tally
from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Ok
from stream_rnn.credit.base import EXPLODED
from stream_rnn.linearization import Linearization
from stream_rnn.native import loading

TICKS = 16
GRADIENT, VARIANCE = 1e-4, 5e-3
"""Off by so much of the summands' size, and of its square: what is below 1e-3 of it is rounding."""
TINY = 1e-12
"""Summands so small are nothing: in float32 the squares of their factors may sink to zero."""


def fuzz(tally: Tally, cases: int, seed: int) -> None:
    """Walks of nets with saturated, equal and dead units through equal, dead and huge inputs."""
    for number in range(seed, seed + cases):
        drawn = setting(random.Random(number))

        def run(number: int = number, drawn: dict[str, Any] = drawn) -> str:
            with loading.switched_off() if number % 4 == 0 else nullcontext():
                return walk(random.Random(number), **drawn)

        tally.case(number, repr(drawn).encode(), run, ())


def setting(rng: random.Random) -> dict[str, Any]:
    """A cell, a rule and their sizes."""
    return {
        "kind": rng.choice(sorted(CELLS)),
        "n_inputs": rng.choice((1, 2, 5, 12)),
        "n_units": rng.choice((1, 2, 3, 6, 9, 17)),
        "n_lanes": rng.choice((1, 2, 5)),
        "rank": rng.choice((1, 2, 3, 4, 5, 8, 12, 16)),
        "chunks": rng.choice(("joint", "gate", "row")),
    }


def walk(
    rng: random.Random,
    *,
    kind: str,
    n_inputs: int,
    n_units: int,
    n_lanes: int,
    rank: int,
    chunks: Any,
) -> str:
    """Some ticks, each from where float32 came to; returns who took them."""
    noise = torch.Generator().manual_seed(rng.randrange(2**31))
    cell = CELLS[kind](n_inputs, n_units)
    W_ZM = weights(rng, noise, cell)
    signs: list[Tensor] = []
    native, exact = (
        Ok(cell, n_lanes, rank=rank, chunks=chunks, signs=lambda _: signs[-1]) for _ in range(2)
    )
    s_BS, x_BI = torch.zeros(n_lanes, cell.n_state), torch.zeros(n_lanes, n_inputs)
    for _ in range(TICKS):
        if rng.random() < 0.2:
            plant(rng, noise, native)
        x_BI = inputs(rng, noise, x_BI)
        s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
        lin = thinned(rng, lin)
        q_BS = torch.randn(s_BS.shape, generator=noise) * rng.choice((0.0, 1e-3, 1.0, 1.0))
        live_B = torch.rand(n_lanes, generator=noise) < 0.9
        signs.append(2.0 * torch.randint(0, 2, native.signs_shape, generator=noise) - 1)
        before = {name: state.double() for name, state in native.lane_state.items()}
        exact.load_state_dict(before)
        native.observe(lin, q_BS, live_B)
        exact.observe(Linearization(*(each.double() for each in parts(lin))), q_BS.double(), live_B)
        compare(native, exact, before, lin, q_BS, live_B)
        if rng.random() < 0.05:
            native.reset(torch.rand(n_lanes, generator=noise) < 0.5)
    return "torch" if native._observer is None else "native"


def parts(lin: Linearization) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What it is made of."""
    return lin.W_h_ZN, lin.drive_BKGN, lin.carry_BKKN, lin.u_BM


def weights(rng: random.Random, noise: torch.Generator, cell: Cell) -> Tensor:
    """Of small or saturated units, some of which are equal to each other or dead."""
    W_ZM = cell.initial_weight(noise).float() * rng.choice((0.1, 1.0, 1.0, 10.0, 1e3))
    W_GNM = W_ZM.view(cell.gates, cell.n_units, -1)
    for unit in range(1, cell.n_units):
        if rng.random() < 0.3:
            W_GNM[:, unit] = W_GNM[:, rng.randrange(unit)] * rng.choice((0.0, 1.0, 1.0, -1.0))
    if rng.random() < 0.3:
        W_GNM[:, :, cell.n_inputs : -1] = 0.0  # nothing recurs
    return W_ZM


def plant(rng: random.Random, noise: torch.Generator, rule: Ok) -> None:
    """Summands of any past, some of which are, to rounding or nearly, multiples of others."""
    for state in rule.lane_state.values():
        state.copy_(torch.randn(state.shape, generator=noise))
        for column in range(1, rule.rank):
            if rng.random() < 0.4:
                drawn = torch.randn(state.shape[:-1], generator=noise)
                of = state[..., rng.randrange(column)] * rng.choice((0.0, 1.0, -1.0, 3.0))
                state[..., column] = of + drawn * rng.choice((0.0, 1e-7, 1e-4, 1e-2))


def inputs(rng: random.Random, noise: torch.Generator, last_BI: Tensor) -> Tensor:
    """Drawn, or zero, as before, in equal columns, far out or next to nothing."""
    x_BI = torch.randn(last_BI.shape, generator=noise)
    match rng.randrange(8):
        case 0:
            return torch.zeros_like(x_BI)
        case 1 | 2:
            return last_BI
        case 3:
            return x_BI[:, :1].expand_as(x_BI).clone()
        case 4:
            return x_BI[:1].expand_as(x_BI).clone()
        case 5:
            return x_BI * rng.choice((10.0, 1e3, 9e5))
        case 6:
            return x_BI * rng.choice((1e-3, 1e-20, 1e-30))
        case _:
            return x_BI


def thinned(rng: random.Random, lin: Linearization) -> Linearization:
    """Now and then some units at once have no slope, or nothing is carried on."""
    drive_BKGN, carry_BKKN, u_BM = lin.drive_BKGN.clone(), lin.carry_BKKN.clone(), lin.u_BM
    N = drive_BKGN.shape[-1]
    if rng.random() < 0.3:
        drive_BKGN[..., rng.sample(range(N), rng.randint(0, N))] = 0.0
    if rng.random() < 0.2:
        carry_BKKN[..., rng.sample(range(N), rng.randint(0, N))] = 0.0
    return Linearization(lin.W_h_ZN, drive_BKGN, carry_BKKN, u_BM)


def compare(
    native: Ok,
    exact: Ok,
    before: dict[str, Tensor],
    lin: Linearization,
    q_BS: Tensor,
    live_B: Tensor,
) -> None:
    """Raise AssertionError where float32 is not what it should be."""
    lin = Linearization(*(each.double() for each in parts(lin)))
    V_BCMr, A_BCXr = summands(exact, before, lin)
    truth_BCMX = torch.einsum("bcmr,bcxr->bcmx", V_BCMr, A_BCXr)
    size_BC = (V_BCMr.norm(dim=2) * A_BCXr.norm(dim=2)).sum(dim=2) + TINY
    use_B = live_B & exact.healthy() & (size_BC.sum(dim=1) < EXPLODED)
    apart = (native.healthy() != exact.healthy()) & (size_BC.sum(dim=1) < EXPLODED / 2)
    require(not apart.any(), "healthy", apart)
    if bool((live_B & ~use_B).any()):
        return  # the gradient is one for all lanes

    got_ZM, want_ZM = native.gradient().double(), exact.gradient()
    scale = float((q_BS.double().norm(dim=1) * size_BC.sum(dim=1))[use_B].sum())
    require(near(got_ZM, want_ZM, GRADIENT * scale), "gradient", got_ZM - want_ZM)

    U_BCMR, A_BCXR = factors(native, native.lane_state)
    kept_BCMX = torch.einsum("bcmr,bcxr->bcmx", U_BCMR, A_BCXR)
    error_BC = (kept_BCMX - truth_BCMX).flatten(2).norm(dim=2)
    variance_BC = exact._facts["variance"].view_as(error_BC)
    got_BC = native._facts["variance"].double().view_as(error_BC)
    kept_BC = (U_BCMR.norm(dim=2) * A_BCXR.norm(dim=2)).sum(dim=2)
    for name, wrong_BC in (
        ("variance", ~((got_BC - variance_BC).abs() <= VARIANCE * size_BC**2)),
        ("kept", ~((error_BC**2 - variance_BC).abs() <= VARIANCE * size_BC**2)),
        ("factors", ~(kept_BC <= (1 + VARIANCE) * size_BC)),
    ):
        wrong_BC = wrong_BC & use_B[:, None]  # noqa: PLW2901
        require(not wrong_BC.any(), name, wrong_BC)


def summands(rule: Ok, state: dict[str, Tensor], lin: Linearization) -> tuple[Tensor, Tensor]:
    """[U, a] (B, C, M, R+1) and [J A, D] (B, C, S*L, R+1) of a tick."""
    U_BCMR, A_BCXR = factors(rule, state)
    B, C, _, R = U_BCMR.shape
    S = lin.n_state
    A_BSX = A_BCXR.view(B, C, S, -1).transpose(1, 2).reshape(B, S, -1)
    JA_BCXR = lin.push(A_BSX).view(B, S, C, -1, R).transpose(1, 2).reshape(B, C, -1, R)
    D_BCX1 = lin.dense_drive().view(B, S, C, -1).transpose(1, 2).reshape(B, C, -1, 1)
    a_BCM1 = lin.u_BM[:, None, :, None].expand(-1, C, -1, -1)
    return torch.cat((U_BCMR, a_BCM1), dim=3), torch.cat((JA_BCXR, D_BCX1), dim=3)


def factors(rule: Ok, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """U (B, C, M, R) and A (B, C, S*L, R), in float64."""
    U_BCMR, A_BgSLR = state["U_BCMR"].double(), state["A_BgSLR"].double()
    B, C, _, R = U_BCMR.shape
    S = A_BgSLR.shape[2]
    A_BSZR = A_BgSLR.transpose(1, 2).reshape(B, S, -1, R)
    return U_BCMR, A_BSZR.view(B, S, C, -1, R).transpose(1, 2).reshape(B, C, -1, R)


def near(got: Tensor, want: Tensor, limit: float) -> bool:
    """NaN is near nothing."""
    return float((got - want).norm()) <= limit + 1e-30


def require(is_true: object, name: str, what: Tensor) -> None:
    """Raise AssertionError with what is wrong."""
    if not is_true:
        largest = float(what.double().abs().max()) if what.numel() else math.nan
        raise AssertionError(f"{name}: {largest:.3g} in {tuple(what.shape)}")

"""One tick in the library equals one tick in torch, for every cell, rule, rank and chunking.

float32. The gradient is read before the projection and is a few sums of products: 1e-5 relative,
some ten roundings. What is kept (the influence, not its factors) passes through the square root of
Gram sums that are rounded to 6e-8 and floored at 1e-6: 1e-3 relative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells import CELLS, Cell, Lstm, Tanh
from stream_rnn.credit import Credit, Ok
from stream_rnn.head import Head, SquaredError
from stream_rnn.learner import Learner
from stream_rnn.linearization import Linearization
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam

RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "kf": ("kf", {}),
    **{
        f"ok-{chunks}-{rank}": ("ok", {"rank": rank, "chunks": chunks})
        for chunks in ("joint", "gate", "row")
        for rank in (1, 3, 8, 16)
    },
}
# one problem of small matrices alone turns its pairs side by side, of every size
RULES |= {f"ok-joint-{rank}": ("ok", {"rank": rank, "chunks": "joint"}) for rank in (2, 5, 12, 15)}
SIZES = [(name, 5) for name in RULES]
SIZES += [(name, 17) for name in ("kf", "ok-joint-1", "ok-gate-1")]
SIZES += [(name, 17) for name in ("ok-joint-8", "ok-gate-3", "ok-row-1")]
# panels of 32 columns and a rest
SIZES += [(name, 36) for name in ("kf", "ok-joint-1", "ok-gate-1", "ok-gate-8", "ok-row-8")]
LANES = 3


def influence(rule: Credit) -> Tensor:
    """The estimate of ds/dW itself, (B, S, Z, M)."""
    state = rule.lane_state
    if "u_BM" in state:
        return torch.einsum("bm,bsz->bszm", state["u_BM"], state["A_BSZ"])
    U_BCMR, A_BgSLR = state["U_BCMR"], state["A_BgSLR"]
    A_BSZR = A_BgSLR.transpose(1, 2).flatten(2, 3)
    each = A_BSZR.shape[2] // U_BCMR.shape[1]
    return torch.einsum("bzmr,bszr->bszm", U_BCMR.repeat_interleave(each, dim=1), A_BSZR)


def assert_near(got: Tensor, truth: Tensor, tolerance: float) -> None:
    assert float((got - truth).norm()) <= tolerance * float(truth.norm()) + 1e-12


def ticks(kind: str, n_units: int, n_ticks: int, n_inputs: int = 2) -> Any:
    """The cell, and linearization, dL/ds and live lanes of each tick; idle rows hold NaN."""
    generator = torch.Generator().manual_seed(1)
    cell = CELLS[kind](n_inputs, n_units)
    W_ZM = cell.initial_weight(generator).float()
    s_BS, steps = torch.zeros(LANES, cell.n_state), []
    for _ in range(n_ticks):
        x_BI = torch.randn(LANES, n_inputs, generator=generator)
        q_BS = torch.randn(LANES, cell.n_state, generator=generator)
        live_B = torch.rand(LANES, generator=generator) < 0.8
        s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
        for rows in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM, q_BS):
            rows[~live_B] = torch.nan
        steps.append((lin, q_BS, live_B))
    return cell, steps


def observe_both(
    native: Credit, twin: Credit, lin: Linearization, q_BS: Tensor, live_B: Tensor
) -> None:
    native.observe(lin, q_BS, live_B)
    assert native._observer is not None, "the library was not used"  # type: ignore[attr-defined]
    with loading.switched_off():
        twin.observe(lin, q_BS, live_B)
    assert twin._observer is None  # type: ignore[attr-defined]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("name", "n_units"), SIZES)
@pytest.mark.parametrize("kind", CELLS)
def test_a_tick_is_the_same(
    kind: str, name: str, n_units: int, rule_of: Callable[..., Credit]
) -> None:
    cell, steps = ticks(kind, n_units, 8)
    rule, settings = RULES[name]
    native, twin = (rule_of(rule, cell, LANES, **settings) for _ in range(2))
    for lin, q_BS, live_B in steps:
        before = {k: v.clone() for k, v in native.lane_state.items()}
        observe_both(native, twin, lin, q_BS, live_B)
        assert_near(native.gradient(), twin.gradient(), 1e-5)  # type: ignore[arg-type]
        assert_near(influence(native), influence(twin), 1e-3)
        assert torch.equal(native.healthy(), twin.healthy())
        for key, old in before.items():
            assert torch.equal(native.lane_state[key][~live_B], old[~live_B]), "an idle lane moved"
        # facts of idle lanes are the last ones here, 0 there
        for fact in native._facts:
            mine, theirs = (each._facts[fact].view(LANES, -1)[live_B] for each in (native, twin))
            torch.testing.assert_close(mine.float(), theirs.float(), rtol=1e-3, atol=1e-4)
        native.load_state_dict(twin.state_dict())  # rounding is judged tick by tick


@pytest.mark.parametrize("n_units", [6, 17])  # 24 columns; two panels of 32 and a rest
@pytest.mark.parametrize(
    "name", ["kf", "ok-joint-1", "ok-gate-1", "ok-gate-3", "ok-row-8", "ok-joint-16"]
)
def test_every_instruction_set_computes_the_same(
    name: str, n_units: int, kernels: loading.Library, monkeypatch: pytest.MonkeyPatch, rule_of: Any
) -> None:
    cell, steps = ticks("lstm", n_units, 6)
    rule, settings = RULES[name]
    for variant in kernels.runs:
        monkeypatch.setattr(loading, "_found", loading.Library(kernels.path, variant))
        native, twin = (rule_of(rule, cell, LANES, **settings) for _ in range(2))
        for step in steps:
            observe_both(native, twin, *step)
            assert_near(native.gradient(), twin.gradient(), 1e-5)
            native.load_state_dict(twin.state_dict())


class SixGates(Cell):
    """More gates, and so more sums of OK, than are factorized at once."""

    blocks = 1
    gates = 6

    @override
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        u_BM = self._assemble(x_BI, s_BS)
        h_BGN = torch.tanh(u_BM @ W_ZM.T).view(-1, self.gates, self.n_units)
        drive_BKGN = ((1 - h_BGN * h_BGN) / self.gates)[:, None]
        carry_BKKN = torch.zeros(len(x_BI), 1, 1, self.n_units)
        lin = Linearization(self._recurrent_columns(W_ZM), drive_BKGN, carry_BKKN, u_BM)
        return h_BGN.mean(1), lin


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["kf", "ok-joint-1", "ok-gate-1", "ok-gate-3"])
def test_a_cell_may_have_any_number_of_gates(
    name: str, rule_of: Callable[..., Credit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CELLS, "six", SixGates)
    cell, steps = ticks("six", 7, 8)
    rule, settings = RULES[name]
    native, twin = (rule_of(rule, cell, LANES, **settings) for _ in range(2))
    for step in steps:
        observe_both(native, twin, *step)
        assert_near(native.gradient(), twin.gradient(), 1e-5)  # type: ignore[arg-type]
        assert_near(influence(native), influence(twin), 1e-3)
        native.load_state_dict(twin.state_dict())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["kf", "ok-joint-1", "ok-gate-1", "ok-gate-8", "ok-row-3"])
@pytest.mark.parametrize("size", [1e6, float("inf"), float("nan")])
def test_bad_credit_restarts_the_lane_and_harms_no_other(
    size: float, name: str, rule_of: Callable[..., Credit]
) -> None:
    cell, steps = ticks("gru", 4, 5)
    rule, settings = RULES[name]
    native, twin = (rule_of(rule, cell, LANES, **settings) for _ in range(2))
    everybody = torch.ones(LANES, dtype=torch.bool)
    for t, (lin, _, live_B) in enumerate(steps):
        for rows in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM):
            rows[~live_B] = 0.1
        if t == 3:
            for each in (native, twin):
                for state in each.lane_state.values():
                    state[1] = size
        observe_both(native, twin, lin, torch.ones(LANES, cell.n_state), everybody)
        assert native.healthy().tolist() == [True, t != 3, True] == twin.healthy().tolist()
        gradient_ZM = native.gradient()
        assert gradient_ZM is not None
        assert_near(gradient_ZM, twin.gradient(), 1e-5)  # type: ignore[arg-type]
        if t == 3:
            assert not any(state[1].any() for state in native.lane_state.values())
            assert all(state[0].any() for state in native.lane_state.values())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["kf", "ok-gate-3"])
def test_a_run_may_change_between_library_and_twin_at_any_tick(
    name: str, rule_of: Callable[..., Credit]
) -> None:
    cell, steps = ticks("lstm", 5, 12)
    rule, settings = RULES[name]
    mixed, twin = (rule_of(rule, cell, LANES, **settings) for _ in range(2))
    assert mixed.state_dict().keys() == twin.state_dict().keys()
    for t, (lin, q_BS, live_B) in enumerate(steps):
        if t % 3 == 1:
            resumed = rule_of(rule, cell, LANES, seed=9, **settings)
            resumed.load_state_dict({k: v.clone() for k, v in mixed.state_dict().items()})
            mixed = resumed
        if t % 2:
            mixed.observe(lin, q_BS, live_B)
        else:
            with loading.switched_off():
                mixed.observe(lin, q_BS, live_B)
        with loading.switched_off():
            twin.observe(lin, q_BS, live_B)
        # roundings travel through twelve projections here
        assert_near(mixed.gradient(), twin.gradient(), 1e-2)  # type: ignore[arg-type]
        for key, value in twin.lane_state.items():
            assert mixed.lane_state[key].shape == value.shape
            assert mixed.lane_state[key].dtype == value.dtype


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("dtype", "rank"), [(torch.float64, 2), (torch.float32, 17)])
def test_what_the_library_is_not_made_for_goes_to_the_twin(dtype: torch.dtype, rank: int) -> None:
    cell = Tanh(2, 2)
    rule = Ok(cell, 1, torch.Generator().manual_seed(0), rank=rank)
    W_ZM = cell.initial_weight().to(dtype)
    _, lin = cell.step(W_ZM, torch.ones(1, 2, dtype=dtype), torch.zeros(1, 2, dtype=dtype))
    q_BS = torch.ones(1, 2, dtype=dtype)
    rule.observe(lin, q_BS, torch.tensor([True]))
    assert rule._observer is None
    torch.testing.assert_close(rule.gradient(), lin.pull_drive(q_BS).T @ lin.u_BM)


class ThreeBlocks(Cell):
    """h beside two leaky sums, each of which reads the next."""

    blocks = 3
    gates = 1

    @override
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        h_BN, c_BN, e_BN = s_BS.chunk(3, dim=1)
        u_BM = self._assemble(x_BI, h_BN)
        z_BN = torch.tanh(u_BM @ W_ZM.T)
        drive_BKGN = (1 - z_BN * z_BN)[:, None, None, :].repeat(1, 3, 1, 1)
        carry_KK = torch.tensor([[0.0, 0.2, 0.1], [0.0, 0.5, 0.3], [0.0, 0.0, 0.5]])
        carry_BKKN = carry_KK[None, :, :, None].repeat(len(x_BI), 1, 1, self.n_units)
        s_BS = torch.cat(
            [z_BN + 0.2 * c_BN + 0.1 * e_BN, z_BN + 0.5 * c_BN + 0.3 * e_BN, z_BN + 0.5 * e_BN],
            dim=1,
        )
        return s_BS, Linearization(self._recurrent_columns(W_ZM), drive_BKGN, carry_BKKN, u_BM)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("rule", ["kf", "ok"])
def test_a_cell_may_have_more_blocks_than_the_library_knows(
    rule: str, rule_of: Callable[..., Credit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CELLS, "three", ThreeBlocks)
    cell, steps = ticks("three", 4, 6)
    given, twin = (rule_of(rule, cell, LANES) for _ in range(2))
    for lin, q_BS, live_B in steps:
        given.observe(lin, q_BS, live_B)
        assert given._observer is None  # type: ignore[attr-defined]
        with loading.switched_off():
            twin.observe(lin, q_BS, live_B)
        assert torch.equal(given.gradient(), twin.gradient())  # type: ignore[arg-type]
    W_ZM, loss = cell.initial_weight().float(), SquaredError()
    head = Head(4, 2, loss, torch.zeros(1, 7))
    learner = Learner(Dense(cell, rule_of(rule, cell, 1), W_ZM), head, Adam(), Adam())
    assert learner.execution()[0] == "torch"  # as a checkpoint says


@pytest.mark.usefixtures("kernels")
def test_tensors_that_are_not_contiguous_are_understood(rule_of: Callable[..., Credit]) -> None:
    cell = Lstm(2, 5)
    (_, steps), (native, twin) = ticks("lstm", 5, 3), (rule_of("kf", cell, LANES) for _ in "ab")
    for lin, q_BS, live_B in steps:
        odd = Linearization(
            lin.W_h_ZN.T.contiguous().T,
            lin.drive_BKGN.transpose(0, 3).contiguous().transpose(0, 3),
            lin.carry_BKKN.transpose(0, 3).contiguous().transpose(0, 3),
            lin.u_BM.T.contiguous().T,
        )
        assert not odd.drive_BKGN.is_contiguous()
        native.observe(odd, q_BS.T.contiguous().T, live_B)
        with loading.switched_off():
            twin.observe(lin, q_BS, live_B)
        assert_near(native.gradient(), twin.gradient(), 1e-5)  # type: ignore[arg-type]

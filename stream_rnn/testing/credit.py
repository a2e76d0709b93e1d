"""What every credit rule must do, whatever its gradient is worth: tried out, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stream_rnn.cells import Cell, Lstm
from stream_rnn.credit import Credit
from stream_rnn.linearization import Linearization

_LANES = 3
_LOCKED = "a rule that never returned None from gradient() owes nothing: flush() must return None"


def check_credit(make: Callable[[Cell, int], Credit], cell: Cell | None = None) -> None:
    """Assert that what `make` builds keeps the contract of `Credit`, in float64.

    Whether a rule's gradient is the right one is for its own tests; here: the first tick, lanes
    that know nothing of each other, reset, bad credit, and resuming.

    Args:
        make: builds a fresh rule for a cell and a number of lanes, alike every time (a noisy rule
            seeds a generator of its own).
        cell: the cell whose steps it observes; an `Lstm` unless given.
    """
    the_cell: Cell = Lstm(2, 3) if cell is None else cell
    for check in (
        _check_first_tick,
        _check_idle_lanes,
        _check_lane_isolation,
        _check_reset,
        _check_bad_credit,
        _check_resumed_rule,
    ):
        with torch.no_grad():
            check(make, the_cell)


def _ticks(
    cell: Cell, n_ticks: int, seed: int = 0, spoiled: int | None = None
) -> list[tuple[Linearization, Tensor]]:
    """Steps of a random net and dL/ds; `spoiled`: a lane that lives through other data."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W_ZM = cell.initial_weight(generator)
    s_BS, ticks = noise(_LANES, cell.n_state) * 0, []
    for _ in range(n_ticks):
        x_BI, q_BS = noise(_LANES, cell.n_inputs), noise(_LANES, cell.n_state)
        if spoiled is not None:
            x_BI[spoiled], q_BS[spoiled] = 3.0, -2.0
        s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
        ticks.append((lin, q_BS))
    return ticks


def _mask(*lanes: int) -> Tensor:
    return torch.tensor([lane in lanes for lane in range(_LANES)])


def _lane(rule: Credit, lane: int) -> dict[str, Tensor]:
    return {name: state[lane].clone() for name, state in rule.lane_state.items()}


def _assert_same(before: dict[str, Tensor], after: dict[str, Tensor], claim: str) -> None:
    assert before.keys() == after.keys(), f"{claim}: the names of the lane state changed"
    for name, state in before.items():
        assert torch.equal(state, after[name]), f"{claim}: {name} differs"


def _check_first_tick(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """From zero influence, the first gradient is the instantaneous one."""
    rule = make(cell, _LANES)
    for name, state in rule.lane_state.items():
        assert len(state) == _LANES, f"lane_state[{name!r}] must have the lanes as leading axis"
        assert not bool(state.any()), f"lane_state[{name!r}] must be zero at the start"
    assert rule.flush() is None, "nothing is owed before the first tick"
    rule.report()  # metrics may be read before the first tick
    ((lin, q_BS),) = _ticks(cell, 1)
    before = [t.clone() for t in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM, q_BS)]
    rule.observe(lin, q_BS, _mask(0, 1, 2))
    for old, new in zip(before, (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM, q_BS), strict=True):
        assert torch.equal(old, new), "observe() changed its arguments"
    gradient_ZM = rule.gradient()
    is_locked = gradient_ZM is None
    if gradient_ZM is None:
        gradient_ZM = rule.flush()
        assert gradient_ZM is not None, "an update-locked rule must flush() what it owes"
    truth_ZM = lin.pull_drive(q_BS).T @ lin.u_BM
    torch.testing.assert_close(gradient_ZM, truth_ZM, rtol=0, atol=1e-12)
    assert is_locked or rule.flush() is None, _LOCKED
    assert bool(rule.healthy().all()), "healthy() must be true after a harmless tick"


def _check_idle_lanes(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """An idle lane keeps every tensor bitwise, whatever its rows hold."""
    rule = make(cell, _LANES)
    for t, (lin, q_BS) in enumerate(_ticks(cell, 8)):
        idle = t % _LANES
        for rows_B in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM, q_BS):
            rows_B[idle] = torch.nan if t > 2 else 0.0
        before = _lane(rule, idle)
        rule.observe(lin, q_BS, _mask(*{0, 1, 2} - {idle}))
        gradient_ZM = rule.gradient()
        if gradient_ZM is None:
            return  # a payment marks what every lane owes as paid, idle or not
        if t:
            _assert_same(before, _lane(rule, idle), "an idle lane must not change")
        assert bool(gradient_ZM.isfinite().all()), "an idle lane's rows reached the gradient"
        assert bool(rule.healthy().all()), "an idle lane's rows are no reason to be unhealthy"


def _check_lane_isolation(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """What lane 1 lives through never shows in the others."""
    rule, other = make(cell, _LANES), make(cell, _LANES)
    for (lin, q_BS), (lin_2, q_2_BS) in zip(
        _ticks(cell, 6), _ticks(cell, 6, spoiled=1), strict=True
    ):
        rule.observe(lin, q_BS, _mask(0, 1, 2))
        other.observe(lin_2, q_2_BS, _mask(0, 1, 2))
    for lane in (0, 2):
        _assert_same(_lane(rule, lane), _lane(other, lane), "a lane depends on another one")


def _check_reset(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    rule = make(cell, _LANES)
    for lin, q_BS in _ticks(cell, 5):
        rule.observe(lin, q_BS, _mask(0, 1, 2))
    others = {lane: _lane(rule, lane) for lane in (0, 2)}
    rule.reset(_mask(1))
    for lane, before in others.items():
        _assert_same(before, _lane(rule, lane), "reset() must touch the marked lanes only")
    for name, state in _lane(rule, 1).items():
        assert not bool(state.any()), f"reset() must zero the lane's {name}"


def _check_bad_credit(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """An unsound influence: the lane restarts, the gradient is that of the others."""
    for poison in (float("nan"), float("inf"), 1e30):
        rule, sound = make(cell, _LANES), make(cell, _LANES)
        ticks = _ticks(cell, 6)
        for lin, q_BS in ticks[:5]:
            rule.observe(lin, q_BS, _mask(0, 1, 2))
            sound.observe(lin, q_BS, _mask(0, 1, 2))
        if rule.gradient() is None:
            return  # tested where the rule pays
        for state in rule.lane_state.values():
            if state.is_floating_point() and bool(state.any()):  # a spare rung keeps its zeros
                state[0] = poison
        lin, q_BS = ticks[5]
        rule.observe(lin, q_BS, _mask(0, 1, 2))
        without_BS = q_BS.clone()
        without_BS[0] = 0.0
        sound.observe(lin, without_BS, _mask(0, 1, 2))
        gradient_ZM, truth_ZM = rule.gradient(), sound.gradient()
        assert gradient_ZM is not None
        assert truth_ZM is not None
        healthy = rule.healthy().tolist()
        assert healthy[1:] == [True, True], "a lane is unhealthy because of another one"
        if healthy[0]:  # only if nothing old was used
            kept = _lane(rule, 0).values()
            assert all(bool(t.isfinite().all()) for t in kept), f"{poison} is kept"
            assert bool(gradient_ZM.isfinite().all()), f"{poison} reached the gradient"
            continue
        torch.testing.assert_close(gradient_ZM, truth_ZM, rtol=0, atol=1e-12)
        for name, state in _lane(rule, 0).items():
            assert not bool(state.any()), f"an unsound lane must restart at zero, {name} did not"
        rule.observe(lin, q_BS, _mask(0, 1, 2))
        assert bool(rule.healthy().all()), "a restarted lane must be healthy again"


def _check_resumed_rule(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """state_dict into a fresh rule: the same from there on, bit for bit."""
    rule, resumed = make(cell, _LANES), make(cell, _LANES)
    ticks = _ticks(cell, 9)
    for lin, q_BS in ticks[:5]:
        rule.observe(lin, q_BS, _mask(0, 1, 2))
    resumed.load_state_dict({name: t.clone() for name, t in rule.state_dict().items()})
    for lin, q_BS in ticks[5:]:
        rule.observe(lin, q_BS, _mask(0, 1, 2))
        resumed.observe(lin, q_BS, _mask(0, 1, 2))
        ours, theirs = rule.gradient(), resumed.gradient()
        assert (ours is None) == (theirs is None), "a resumed rule pays at other ticks"
        if ours is not None and theirs is not None:
            assert torch.equal(ours, theirs), "a resumed rule learns differently"
    _assert_same(rule.state_dict(), resumed.state_dict(), "a resumed rule")
    for name in rule.lane_state:
        rest = {key: t for key, t in rule.state_dict().items() if key != name}
        try:
            make(cell, _LANES).load_state_dict(rest)
        except ValueError:
            continue
        raise AssertionError(f"load_state_dict() without {name!r} must raise ValueError")

"""Rules by name, and windows that pay across resets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.reproduce.copy_task import CopyTask
from benchmarks.reproduce.experiment import Refused
from benchmarks.reproduce.rules import rule_of
from stream_rnn.cells import Rhn
from stream_rnn.credit import Credit, Kf, Ok, Segmented, Tbptt, Uoro

SMALL = CopyTask.sizes["small"]
FULL = CopyTask.sizes["full"]
NOTHING = torch.zeros(2, dtype=torch.bool)
ALL = torch.ones(2, dtype=torch.bool)


def gradients(walk: Any, rule: Credit, resets: dict[int, list[bool]]) -> list[Tensor | None]:
    """What the rule gives tick by tick; lanes are reset (their state too) before a tick."""
    s_BS = torch.zeros_like(walk.q_TBS[0])
    given = []
    for tick, (x_BI, q_BS) in enumerate(zip(walk.x_TBI, walk.q_TBS, strict=True)):
        lanes_B = torch.tensor(resets[tick]) if tick in resets else NOTHING
        s_BS = torch.where(lanes_B[:, None], 0.0, s_BS)
        rule.reset(lanes_B)
        s_BS, lin = walk.cell.step(walk.W_ZM, x_BI, s_BS)
        rule.observe(lin, q_BS, ALL)
        given.append(rule.gradient())
    return given


def by_autograd(walk: Any, resets: dict[int, list[bool]]) -> Tensor:
    """The gradient of all the losses, by autograd through sequences that begin at zero."""
    W_ZM = walk.W_ZM.clone().requires_grad_()
    s_BS, total = torch.zeros_like(walk.q_TBS[0]), torch.zeros((), dtype=W_ZM.dtype)
    for tick, (x_BI, q_BS) in enumerate(zip(walk.x_TBI, walk.q_TBS, strict=True)):
        if tick in resets:
            s_BS = torch.where(torch.tensor(resets[tick])[:, None], 0.0, s_BS)
        s_BS, _ = walk.cell.step(W_ZM, x_BI, s_BS)
        total = total + (q_BS * s_BS).sum()
    return torch.autograd.grad(total, W_ZM)[0]


RESETS = {3: [True, False], 5: [False, True], 8: [True, True]}


@pytest.mark.parametrize("kind", ["rhn", "lstm"])
def test_a_locked_window_pays_every_loss_once_and_none_beyond_its_sequence(
    kind: str, random_walk: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    walk = random_walk(kind)
    rule = Segmented(walk.cell, 2, window=12, every=12)
    *waiting, paid = gradients(walk, rule, RESETS)
    assert all(gradient is None for gradient in waiting)
    assert relative_error(paid, by_autograd(walk, RESETS)) < 1e-12


@pytest.mark.parametrize("kind", ["rhn", "lstm"])
def test_it_equals_the_plain_window_where_nothing_is_owed(
    kind: str, random_walk: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    walk = random_walk(kind)
    plain = gradients(walk, Tbptt(walk.cell, 2, window=4), RESETS)
    ours = gradients(walk, Segmented(walk.cell, 2, window=4), RESETS)
    for expected, got in zip(plain, ours, strict=True):
        assert relative_error(got, expected) < 1e-12


def test_it_resumes_between_a_reset_and_the_first_tick_after_it(
    random_walk: Callable[..., Any],
) -> None:
    walk = random_walk("rhn")

    def window() -> Segmented:
        return Segmented(walk.cell, 2, window=12, every=12)

    rule, again = window(), window()
    steps = list(walk)
    for tick, (lin, q_BS) in enumerate(steps):
        if tick == 6:
            rule.reset(ALL)
            fresh = Tbptt(walk.cell, 2, window=12)
            fresh.observe(lin, q_BS, ALL)  # gives an unused rule the dtype, as a run does
            again.load_state_dict({k: v.clone() for k, v in rule.state_dict().items()})
        rule.observe(lin, q_BS, ALL)
        if tick >= 6:
            again.observe(lin, q_BS, ALL)
    got, expected = again.gradient(), rule.gradient()
    assert got is not None
    assert expected is not None
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("name", "full", "every", "kind"),
    [
        ("ok", "ok-4", 1, Ok),
        ("ok-8", "ok-8", 1, Ok),
        ("ok-2-joint", "ok-2-joint", 1, Ok),
        ("ok-joint", "ok-4-joint", 1, Ok),
        ("kf", "kf", 1, Kf),
        ("uoro", "uoro", 1, Uoro),
        ("tbptt-7", "tbptt-7", 1, Segmented),
        ("tbptt-lock", "tbptt-lock-10", 10, Segmented),
        ("tbptt-lock-3", "tbptt-lock-3", 3, Segmented),
    ],
)
def test_a_name_stands_for_a_rule(name: str, full: str, every: int, kind: type[Credit]) -> None:
    rule = rule_of(name, SMALL)
    assert (rule.name, rule.every) == (full, every)
    built = rule.build(Rhn(4, 3), 2, torch.Generator())
    assert isinstance(built, kind)
    assert rule_of(rule.name, SMALL).name == rule.name


def test_rank_and_chunks_reach_the_rule() -> None:
    built = rule_of("ok-3-row", SMALL).build(Rhn(4, 3), 2, torch.Generator())
    assert isinstance(built, Ok)
    assert (built.rank, built.chunks) == (3, "row")


@pytest.mark.parametrize("name", ["", "ok-0", "ok4", "ok-4-gates", "tbptt", "KF", "tbptt-lock-x"])
def test_an_unknown_rule_is_refused_with_what_is_known(name: str) -> None:
    with pytest.raises(Refused, match=r"known: ok\[-RANK\]"):
        rule_of(name, SMALL)


def test_the_full_copy_task_is_the_published_one() -> None:
    assert (FULL.units, FULL.lanes, FULL.rank, FULL.updates) == (128, 16, 16, 250_000)
    assert (FULL.lr, FULL.clip) == (10**-3.5, 1.0)

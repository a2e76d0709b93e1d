"""The noise benchmark against dense estimates, counted products and worked verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import noise as command
from benchmarks.noise_measured import (
    Noise,
    PublishedOk,
    Truth,
    exact,
    factors,
    gradients,
    influence_errors,
    noise,
    replicas,
)
from benchmarks.noise_plot import draw
from benchmarks.noise_study import Panel, Point, front, least_work, within
from benchmarks.noise_table import WHAT, Table, judge, verdicts
from benchmarks.ticks import Tick
from stream_rnn.cells import Cell
from stream_rnn.credit import Credit, Kf, Ok, Uoro
from stream_rnn.credit.ok import Chunks

Build = Callable[[Cell, int, torch.Generator], Credit]
ESTIMATORS: dict[str, Build] = {
    "kf": Kf,
    "uoro": Uoro,
    "ok-joint": lambda cell, B, g: Ok(cell, B, g, 2, "joint"),
    "ok-gate": lambda cell, B, g: Ok(cell, B, g, 2, "gate"),
    "ok-row": lambda cell, B, g: Ok(cell, B, g, 2, "row"),
    "published": lambda cell, B, g: PublishedOk(cell, B, g, 2, "gate"),
}


def small(kind: str, n_ticks: int = 12) -> Truth:
    return exact(kind, 3, 0.9, n_ticks, n_inputs=2, counted_from=0)


def built(name: str, truth: Truth, n_lanes: int) -> Credit:
    return ESTIMATORS[name](truth.cell, n_lanes, torch.Generator().manual_seed(0))


def advance(rule: Credit, truth: Truth, t: int) -> None:
    B, tick = rule.n_lanes, truth.ticks[t]
    lin = replicas(tick.lin, B, torch.float64)
    rule.observe(lin, tick.q_1S.expand(B, -1), torch.ones(B, dtype=torch.bool))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru", "rhn"])
def test_the_gradients_of_the_lanes_add_up_to_that_of_the_rule(kind: str, name: str) -> None:
    truth = small(kind)
    rule = built(name, truth, n_lanes=3)
    for t, tick in enumerate(truth.ticks):
        expected_ZM = gradients(rule, tick).sum(dim=0)
        advance(rule, truth, t)
        torch.testing.assert_close(rule.gradient(), expected_ZM, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_error_of_the_influence_is_that_of_the_dense_estimate(name: str) -> None:
    truth = small("lstm")
    rule = built(name, truth, n_lanes=3)
    for t in range(len(truth.ticks)):
        advance(rule, truth, t)
    G_SZM = truth.ticks[-1].influence_SZM
    assert G_SZM is not None
    U_BCMR, A_BCSLR = factors(rule)
    dense_BSZM = torch.einsum("bcslr,bcmr->bsclm", A_BCSLR, U_BCMR).flatten(2, 3)
    expected_B = (dense_BSZM - G_SZM).square().sum(dim=(1, 2, 3))
    assert float(expected_B.min()) > 1e-3  # there is something to measure
    torch.testing.assert_close(influence_errors(rule, G_SZM), expected_B, rtol=1e-9, atol=0)


@pytest.mark.parametrize("chunks", ["joint", "gate", "row"])
def test_full_rank_has_no_noise_and_rank_one_has(chunks: Chunks) -> None:
    truth = small("gru", n_ticks=20)
    full = truth.cell.weight_shape[1]

    def of_rank(rank: int) -> Noise:
        return noise(Ok(truth.cell, 2, torch.Generator().manual_seed(0), rank, chunks), truth)

    for what in WHAT:
        assert abs(of_rank(full).mean(what)) < 1e-12  # rounding of sums in float64
        assert of_rank(1).mean(what) > 1e-2


def test_the_asymmetric_split_is_unbiased_and_noisier_over_all_signs() -> None:
    truth = small("tanh", n_ticks=3)
    signs_B3 = 2.0 * (torch.arange(8)[:, None] >> torch.arange(3) & 1).double() - 1
    G_SZM = truth.ticks[2].influence_SZM
    assert G_SZM is not None
    errors = []
    for rule_class in (Ok, PublishedOk):
        # rank 2 mixes for the first time at the third tick: eight equally likely estimates
        rule = rule_class(truth.cell, 8, None, 2, "joint", signs=signs_B3.view)
        for t in range(3):
            advance(rule, truth, t)
        U_BCMR, A_BCSLR = factors(rule)
        mean_SZM = torch.einsum("bcslr,bcmr->bsclm", A_BCSLR, U_BCMR).flatten(2, 3).mean(dim=0)
        torch.testing.assert_close(mean_SZM, G_SZM, rtol=0, atol=1e-10)
        errors.append(float(influence_errors(rule, G_SZM).mean()))
    assert errors[1] > errors[0] * 1.001 > 0


def constant(value: float) -> Noise:
    both: Tensor = torch.full((2,), value, dtype=torch.float64)
    return Noise(both, both, 0)


def table(ok: float, kf: float, published: float) -> Table:
    return Table(
        "net",
        constant(kf),
        constant(9.0),
        {(2, "gate"): constant(ok)},
        {(2, "gate"): constant(published)},
    )


@pytest.mark.parametrize(
    ("ok", "kf", "published", "expected"),
    [
        (0.4, 1.0, 0.5, [True, True]),
        (0.6, 1.0, 0.7, [False, True]),  # two copies of KF: 0.5
        (0.4, 1.0, 0.39, [True, False]),
        (0.4, 1.0, 0.395, [True, True]),
    ],
    ids=["both", "above two copies of KF", "above the asymmetric split", "within two percent"],
)
def test_the_verdicts_follow_from_the_figures(
    ok: float, kf: float, published: float, expected: list[bool]
) -> None:
    assert [v.passed for v in verdicts(table(ok, kf, published))] == expected


def test_one_failed_claim_fails_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = table(0.4, 1.0, 0.5), table(0.6, 1.0, 0.7)
    assert judge([good])
    assert not judge([bad, good])
    assert capsys.readouterr().out.count("FAIL") == 1


def point(rank: int, error: float, us: float) -> Point:
    return Point(rank, "joint", constant(error), Tick(us, True))


def test_the_front_leaves_out_what_is_dearer_and_noisier() -> None:
    points = [point(3, 0.1, 30), point(1, 2.0, 10), point(2, 0.1, 20), point(4, 0.5, 15)]
    assert [p.rank for p in front(points)] == [1, 4, 2]


def test_a_budget_buys_the_least_noise_it_can_pay() -> None:
    points = [point(1, 2.0, 10), point(2, 0.5, 20), point(3, 0.1, 30)]
    best = within(points, 25)
    assert best is not None
    assert best.rank == 2
    assert within(points, 5) is None


def test_progress_weighs_noise_against_cost() -> None:
    points = [point(1, 3.0, 10), point(2, 0.5, 20), point(3, 0.1, 40)]
    assert least_work(points).rank == 2  # 40, 30, 44
    dearer = [points[0], point(2, 0.5, 30), points[2]]
    assert least_work(dearer).rank == 1  # 40, 45, 44


def a_panel(kind: str) -> Panel:
    points = [point(1, 3.0, 40), point(2, 0.5, 90), point(3, 0.1, 300)]
    beside = {"exact": Tick(400.0, True), "KF": Tick(30.0, True), "TBPTT(32)": Tick(50.0, True)}
    return Panel(kind, 16, points, constant(4.0), beside)


def test_the_table_of_the_study_names_the_best_of_each_share_of_exactness() -> None:
    lines = list(command.lines_of_study([a_panel("tanh")]))
    chosen = " | 1 joint: 3 | 2 joint: 0.5 | 2 joint: 0.5 | 2 joint: 0.5"
    assert lines[2] == f"| tanh 16 | 400 us | {chosen} |"


def test_the_table_of_settings_has_the_other_rules_beside_them() -> None:
    lines = list(command.lines_of_points([a_panel("tanh")]))
    assert lines[-4:] == [
        "| tanh 16 | 3 joint | 0.1 ± 0 | 0.1 ± 0 | 300 | 0.75 |",
        "| tanh 16 | KF | 4 ± 0 | 4 ± 0 | 30 | 0.07 |",
        "| tanh 16 | exact | 0 | 0 | 400 | 1.00 |",
        "| tanh 16 | TBPTT(32) |  |  | 50 | 0.12 |",
    ]


def test_the_table_of_ranks_shows_the_default_chunks() -> None:
    lines = list(command.lines_of_ranks([a_panel("tanh")]))
    beside = "4 (30) | (50) | 0 (400)"
    assert lines[2] == f"| tanh 16 | 3 (40) | 0.5 (90) | 0.1 (300) | {beside} |"


def test_the_plot_is_a_small_picture(tmp_path: Path) -> None:
    draw([a_panel("tanh"), a_panel("lstm")], tmp_path / "new" / "noise.png")
    written = (tmp_path / "new" / "noise.png").read_bytes()
    assert written.startswith(b"\x89PNG")
    assert 5_000 < len(written) < 150_000

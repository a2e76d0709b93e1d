"""How noisy are the estimators, and which rank and chunks of OK are worth their cost?

    python -m benchmarks.noise [--quick] [--part table|study] [--out DIR]

Two parts, both in Markdown. The table: |G^ - G|^2 / |G|^2 of the influence, and the same of the
gradient, on frozen random nets, for UORO, KF averaged over r copies, OK and the asymmetric split of
the published OK program. It ends in PASS or FAIL for two claims, and the exit code is 1 on a FAIL:
OK(r) is below KF averaged over r copies (1/r of one copy's noise, since copies are independent and
unbiased), and not above the asymmetric split (2 % tolerance).
The study: noise against cost over (rank, chunks), per cell and size; DIR/noise.png shows it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import noise_study as study
from benchmarks.noise_table import NETS, RANKS, WHAT, judge, line, lines_of_table, measure, spelled

BUDGETS_US = (1000, 2000, 4000, 8000)
BUDGETS_PUSH = (2, 4, 8, 16)
LANES = (1, 2, 4, 8, 16)


def lines_of_study(panels: list[study.Panel]) -> Iterator[str]:
    """Markdown: the best settings within budgets, in both currencies, and per progress."""
    times = [f"{budget / 1000:g} ms" for budget in BUDGETS_US]
    yield line("Net", times, "least time per progress", "exact RTRL")
    yield "|---" * (3 + len(times)) + "|"
    for one in panels:
        best = [study.within(one.points, lambda p: p.tick_us, us) for us in BUDGETS_US]
        least = study.least_work(one.points, lambda p: p.tick_us)
        name = f"{one.kind} {one.n_units}"
        yield line(name, [_choice(p) for p in best], _choice(least), f"{one.rtrl_us:,.0f} us")
    yield ""
    yield line("Net", [f"{budget} pushes" for budget in BUDGETS_PUSH], "least work", "exact RTRL")
    yield "|---" * (3 + len(BUDGETS_PUSH)) + "|"
    for one in panels:
        push = one.rtrl_multiply_adds / _columns(one)  # one column of A for every row of W
        best = [study.within(one.points, lambda p: p.multiply_adds, n * push) for n in BUDGETS_PUSH]
        least = study.least_work(one.points, lambda p: p.multiply_adds)
        name, exact_cost = f"{one.kind} {one.n_units}", f"{one.rtrl_multiply_adds / push:.0f}"
        yield line(name, [_choice(p) for p in best], _choice(least), exact_cost)


def _columns(one: study.Panel) -> float:
    """How many pushes of rank one the exact rule costs."""
    rank_1 = next(p for p in one.points if p.rank == 1 and p.chunks == "joint")
    return one.rtrl_multiply_adds / rank_1.push_multiply_adds


def _choice(point: study.Point | None) -> str:
    return "" if point is None else f"{point.spelled}: {point.gradient:.2g}"


def lines_of_points(panels: list[study.Panel]) -> Iterator[str]:
    """Markdown: every setting, noise of the gradient, microseconds, million multiply-adds."""
    yield line("Net", "Setting", "gradient", "influence", "us", "x push", "M mult-adds")
    yield "|---" * 7 + "|"
    for one in panels:
        for p in one.points:
            noises = [spelled(p.noise, what) for what in ("gradient", "influence")]
            costs = [f"{p.tick_us:,.0f}", f"{p.tick_us / p.push_us:.0f}"]
            work = f"{p.multiply_adds / 1e6:.2f}"
            yield line(f"{one.kind} {one.n_units}", p.spelled, noises, costs, work)
        noises = [spelled(one.kf, what) for what in ("gradient", "influence")]
        yield line(f"{one.kind} {one.n_units}", "KF", noises, f"{one.kf_us:,.0f}", "", "")
        work = f"{one.rtrl_multiply_adds / 1e6:.2f}"
        yield line(f"{one.kind} {one.n_units}", "exact", "0", "0", f"{one.rtrl_us:,.0f}", "", work)


def lines_of_lanes(sizes: tuple[int, ...]) -> Iterator[str]:
    """Markdown: exact RTRL beside OK of rank 3 per gate, microseconds by the number of lanes."""
    yield line("Net", "Rule", [f"{B} lane{'s' * (B > 1)}" for B in LANES])
    yield "|---" * (2 + len(LANES)) + "|"
    for kind, n_units in itertools.product(("lstm", "gru"), sizes):
        times = study.by_lanes(kind, n_units, LANES)
        yield line(f"{kind} {n_units}", "exact RTRL", [f"{exact_us:,.0f}" for exact_us, _ in times])
        yield line("", "OK, 3 gate", [f"{ok_us:,.0f}" for _, ok_us in times])


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a corner of it, below a minute")
    parser.add_argument("--part", choices=("table", "study"), help="only this one")
    parser.add_argument("--rho", type=float, default=0.95, help="spectral radius in the study")
    parser.add_argument("--out", type=Path, help="folder for noise.png; none: no plot")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    begin = time.perf_counter()
    passed = True
    if arguments.part != "study":
        nets, ranks = ((NETS[0], NETS[2]), (1, 2)) if arguments.quick else (NETS, RANKS)
        tables = [measure(net, ranks, 300) for net in nets]
        for what in WHAT:
            print("\n".join(lines_of_table(tables, what, ranks)), end="\n\n")
        passed = judge(tables)
    if arguments.part != "table":
        kinds = ("tanh", "lstm") if arguments.quick else ("tanh", "lstm", "gru", "rhn")
        sizes = study.SIZES[:1] if arguments.quick else study.SIZES
        of_ranks = (1, 2, 3, 4) if arguments.quick else study.RANKS
        panels = [study.panel(kind, n, arguments.rho, of_ranks) for n in sizes for kind in kinds]
        print("\n" + "\n".join(lines_of_points(panels)), end="\n\n")
        print("\n".join(lines_of_study(panels)), end="\n\n")
        print("\n".join(lines_of_lanes(sizes[:2])))
        if arguments.out is not None:
            from benchmarks.noise_plot import draw

            draw(panels, arguments.out / "noise.png")
    elapsed_s, busy_s = time.perf_counter() - begin, time.process_time()
    print(f"\n{elapsed_s:.0f} s, {busy_s:.0f} s of processor time")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

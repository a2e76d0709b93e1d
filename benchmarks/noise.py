"""How noisy are the estimators, and which rank and chunks of OK are worth their cost?

    python -m benchmarks.noise [--quick] [--part table|study] [--out DIR]

Two parts, both in Markdown. The table: |G^ - G|^2 / |G|^2 of the influence, and the same of the
gradient, on frozen random nets, for UORO, KF averaged over r copies, OK and the asymmetric split of
the published OK program. It ends in PASS or FAIL for two claims, and the exit code is 1 on a FAIL:
OK(r) is below KF averaged over r copies (1/r of one copy's noise, since copies are independent and
unbiased), and not above the asymmetric split (2 % tolerance).
The study: noise against the time of a whole tick over (rank, chunks), per cell and size, beside
KF, a window of 32 and exact RTRL on the same path; DIR/noise.png shows it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import noise_study as study
from benchmarks.noise_table import NETS, RANKS, WHAT, judge, line, lines_of_table, measure, spelled
from stream_rnn.native import loading

SHARES = (16, 8, 4, 2)
"""Budgets: a tick of exact RTRL, divided by these."""


def lines_of_study(panels: list[study.Panel]) -> Iterator[str]:
    """Markdown: the best settings within shares of what exactness costs, and per progress."""
    budgets = ["a 16th", "an 8th", "a 4th", "half"]
    yield line("Net", "exact RTRL", budgets, "least time per progress")
    yield "|---" * (3 + len(SHARES)) + "|"
    for one in panels:
        best = [study.within(one.points, one.exact_us / share) for share in SHARES]
        chosen = [_choice(point) for point in best]
        name = f"{one.kind} {one.n_units}"
        yield line(name, f"{one.beside['exact']} us", chosen, _choice(study.least_work(one.points)))


def _choice(point: study.Point | None) -> str:
    return "" if point is None else f"{point.spelled}: {point.gradient:.2g}"


def lines_of_points(panels: list[study.Panel]) -> Iterator[str]:
    """Markdown: every setting, noise of the gradient and influence, microseconds a tick."""
    yield line("Net", "Setting", "gradient", "influence", "us", "of exact RTRL")
    yield "|---" * 6 + "|"
    for one in panels:
        net = f"{one.kind} {one.n_units}"
        noises = {p.spelled: (p.noise, p.tick) for p in one.points}
        for name, (noise, tick) in (noises | {"KF": (one.kf, one.beside["KF"])}).items():
            both = [spelled(noise, what) for what in ("gradient", "influence")]
            yield line(net, name, both, str(tick), f"{tick.us / one.exact_us:.2f}")
        for name, tick in one.beside.items():
            if name != "KF":
                bare = "0" if name == "exact" else ""
                yield line(net, name, bare, bare, str(tick), f"{tick.us / one.exact_us:.2f}")


def lines_of_ranks(panels: list[study.Panel]) -> Iterator[str]:
    """Markdown: noise and microseconds by rank, in the default chunks."""
    ranks = list(dict.fromkeys(p.rank for one in panels for p in one.points))
    yield line("Net", [f"r = {rank}" for rank in ranks], "KF", "TBPTT(32)", "exact")
    yield "|---" * (4 + len(ranks)) + "|"
    for one in panels:
        of_ranks = [one.by_gate(rank) for rank in ranks]
        kf = f"{one.kf.mean('gradient'):.2g} ({one.beside['KF']})"
        beside = [f"({one.beside['TBPTT(32)']})", f"0 ({one.beside['exact']})"]
        shown = ["" if p is None else f"{p.gradient:.2g} ({p.tick})" for p in of_ranks]
        yield line(f"{one.kind} {one.n_units}", shown, kf, beside)


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
        print(f"\nticks: {loading.describe()}\n")
        seconds = 1.0 if arguments.quick else 6.0
        panels = [
            study.panel(kind, n, arguments.rho, seconds, of_ranks) for n in sizes for kind in kinds
        ]
        for lines in (lines_of_points, lines_of_ranks, lines_of_study):
            print("\n".join(lines(panels)), end="\n\n")
        if arguments.out is not None:
            from benchmarks.noise_plot import draw

            draw(panels, arguments.out / "noise.png")
    elapsed_s, busy_s = time.perf_counter() - begin, time.process_time()
    print(f"\n{elapsed_s:.0f} s, {busy_s:.0f} s of processor time")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""The picture of the noise study: noise of the gradient against time, a panel per cell and size."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.noise_study import Panel, front
from benchmarks.noise_table import CHUNKS
from stream_rnn.credit.ok import RANK

LABELED = (1, 2, 4, 8, 12)
NOISES = (1e-5, 10)
TIMES_US = (1, 1e4)
COLORS = {"joint": "#d55e00", "gate": "#0072b2", "row": "#009e73"}


def draw(panels: list[Panel], path: Path) -> None:
    """Write the PNG. Filled points are on the Pareto front of their panel; numbers are ranks."""
    kinds = list(dict.fromkeys(p.kind for p in panels))
    sizes = list(dict.fromkeys(p.n_units for p in panels))
    figure, grid = plt.subplots(
        len(sizes),
        len(kinds),
        figsize=(3.1 * len(kinds), 2.6 * len(sizes)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for one in panels:
        axes = grid[sizes.index(one.n_units)][kinds.index(one.kind)]
        best = front(one.points)
        for chunks in CHUNKS:
            line = sorted((p for p in one.points if p.chunks == chunks), key=lambda p: p.rank)
            times, noises = [p.tick.us for p in line], [p.gradient for p in line]
            axes.plot(times, noises, "-", color=COLORS[chunks], lw=0.8, alpha=0.6)
            for p in line:
                fill = COLORS[chunks] if p in best else "white"
                axes.plot(p.tick.us, p.gradient, "o", ms=4.5, mfc=fill, mec=COLORS[chunks], mew=0.9)
            if chunks != "gate":
                for p in line:
                    if p.rank not in LABELED or p.gradient < NOISES[0]:
                        continue
                    offset = (3, 4) if chunks == "joint" else (-4, -9)
                    axes.annotate(
                        str(p.rank),
                        (p.tick.us, p.gradient),
                        offset,
                        textcoords="offset points",
                        fontsize=7,
                        color=COLORS[chunks],
                    )
        usual = one.by_gate(RANK)
        if usual is not None:
            axes.plot(usual.tick.us, usual.gradient, "o", ms=10, mfc="none", mec="black", mew=0.9)
        axes.plot(one.beside["KF"].us, one.kf.mean("gradient"), "*", color="black", ms=7)
        axes.axvline(one.exact_us, color="gray", ls="--", lw=0.9)
        axes.axvline(one.beside["TBPTT(32)"].us, color="gray", ls=":", lw=0.9)
        axes.set(
            xscale="log",
            yscale="log",
            xlim=TIMES_US,
            ylim=NOISES,
            title=f"{one.kind}, {one.n_units} units",
        )
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, lw=0.5)
    for chunks in CHUNKS:
        grid[0][0].plot([], [], "o-", color=COLORS[chunks], ms=4.5, lw=0.8, label=f"OK, {chunks}")
    grid[0][0].plot([], [], "*", color="black", ls="none", label="KF")
    grid[0][0].plot([], [], "--", color="gray", lw=0.9, label="exact RTRL (no noise)")
    grid[0][0].plot([], [], ":", color="gray", lw=0.9, label="TBPTT(32) (biased)")
    grid[0][0].plot([], [], "o", ms=10, mfc="none", mec="black", label=f"rank {RANK}, per gate")
    figure.legend(loc="outside upper center", ncols=7, fontsize=8, frameon=False)
    ticks = [p.tick for one in panels for p in one.points]
    path_taken = "native" if all(tick.native for tick in ticks) else "in torch"
    figure.supxlabel(
        f"microseconds of processor time per whole tick, {path_taken}, one lane "
        "(numbers: ranks; filled: nothing is less noisy for less)",
        fontsize=9,
    )
    figure.supylabel("noise of the gradient, |g^ - g|² / |g|²", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})
    plt.close(figure)

"""`stream-rnn bench`: measures, prints as it goes, and writes JSON and a picture if asked."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from stream_rnn import __version__
from stream_rnn.bench import machine, rows, stages
from stream_rnn.bench.cases import INPUTS, cases, left_out
from stream_rnn.bench.machine import Machine
from stream_rnn.bench.rows import Row
from stream_rnn.bench.stages import Daemon
from stream_rnn.config import ConfigError
from stream_rnn.engine.frames import numerics
from stream_rnn.native import loading
from stream_rnn.runtime.collector import settled

SECONDS = {"quick": 0.4, "default": 0.6, "full": 1.0}  # for each row
MACHINE_S = {"quick": 1.0, "default": 3.0, "full": 6.0}
EVENTS = {"quick": 10_000, "default": 100_000, "full": 400_000}


def main(size: str, only: tuple[str, ...], json_path: Path | None, plot: Path | None) -> None:
    """Measure a set of `cases.SETS`, or those of its rows whose names hold every text of `only`.

    Raises:
        ConfigError: `only` names nothing, or there is no matplotlib for the picture.
    """
    found = cases(size, only)
    if not found and only != ("daemon",):
        raise ConfigError(
            f"--only {' --only '.join(only)}: no row is called so; a name is like "
            f'"{cases(size)[-1]}", or "daemon" for the daemon alone'
        )
    if plot is not None:
        from stream_rnn.bench.picture import require

        require(plot)
    torch.set_num_threads(1)
    begun = time.monotonic()
    with numerics(), settled():  # as the daemon learns
        here = machine.measure(MACHINE_S[size])
        click.echo(head(here))
        measured: list[Row] = []
        for case in found:
            if not measured:
                click.echo(HEADER)
            measured.append(rows.measure(case, here, SECONDS[size]))
            click.echo(line(measured[-1]))
        daemons: dict[str, Daemon] = {}
        if not only or only == ("daemon",):
            daemons["file"] = stages.measure("file", EVENTS[size])
            daemons["zeromq"] = stages.measure("zeromq", EVENTS[size])
            click.echo(daemon_table(daemons))
    if not only:
        click.echo(f"\n{left_out(size)}")
    took_s = time.monotonic() - begun
    click.echo(f"{took_s:.0f} s; compare within this table, where everything took turns")
    if json_path is not None:
        json_path.write_text(json.dumps(report(here, measured, daemons), indent=2) + "\n")
    if plot is not None:
        from stream_rnn.bench.picture import draw

        draw(plot, here, measured)


HEADER = (
    f"\n{'':15}{'':>4}{'':>3}{'W_h A_h':>9}{'credit':>9}{'':>7}{'tick':>9}{'tick of':>9}"
    f"{'per':>9}{'':>9}{'many/':>7}{'alloc.':>8}  tick, of one a call, in %\n"
    f"{'cell rule':15}{'N':>4}{'B':>3}{'product':>9}{'step':>9}{'ratio':>7}{'1 a call':>9}"
    f"{'many':>9}{'event':>9}{'floor':>9}{'floor':>7}{'a tick':>8}"
    "  floor credit forward update call"
)


def head(here: Machine) -> str:
    """What was measured of the machine itself."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    busy = f"; BUSY: {load:.1f} programs for each core" if load > 1 else ""
    products = ", ".join(f"{name} {rate / 1e3:.0f}" for name, rate in here.products.items())
    memory = ", ".join(f"{_size(n)} {rate / 1e3:.0f}" for n, rate in here.memory.items())
    return (
        f"stream-rnn {__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{loading.describe()}; one thread, float32, {INPUTS} inputs, Adam{busy}\n"
        f"one small in-place torch operation: {here.small_us:.2f} us\n"
        f"best products, GFLOP/s: {products}\n"
        f"memory read and written, GB/s by working set: {memory}\n"
        "credit step = Cell.step + Credit.observe + Credit.gradient; tick = credit step + head + "
        "update + commit;\nfloor = the larger of the push's operations at the best product's rate "
        "and the bytes over the bandwidth (m);\nratio = credit step / torch.mm(W_h, A_h); "
        "microseconds of processor time, least medians of rounds in which all of a row take turns"
    )


def line(row: Row) -> str:
    """One line of the table."""
    case, ratio = row.case, row.over_product
    product = "-" if row.product is None else _us(row.product)
    bound = "m" if row.bound == "memory" else " "
    total = sum(row.profile.values()) or 1.0
    shares = (f"{100 * us / total:.0f}" for us in row.profile.values())
    profile = "".join(f"{share:>{n}}" for share, n in zip(shares, (7, 7, 8, 7, 5), strict=True))
    return (
        f"{case.cell + ' ' + case.rule:15}{case.n_units:>4}{case.n_lanes:>3}{product:>9}"
        f"{_us(row.credit_step):>9}{'-' if ratio is None else f'{ratio:.2f}':>7}"
        f"{_us(row.tick):>9}{_us(row.many):>9}{_us(row.event):>9}{_us(row.floor):>8}{bound}"
        f"{row.over_floor:>7.2f}{row.allocations:>8.0f}{profile}"
    )


def daemon_table(daemons: dict[str, Daemon]) -> str:
    """Events a second, and where an event's processor time goes."""
    lines = [
        "\ndaemon, end to end: 32 rtu units, a forecast for each event; processor time, us an event"
    ]
    names = "".join(f"{stage:>10}" for stage in stages.ORDER)
    lines.append(f"{'from':10}{'events/s':>10}{'all':>8}{names}")
    for name, daemon in daemons.items():
        split = "".join(f"{daemon.cpu_us[stage]:>10.1f}" for stage in stages.ORDER)
        all_us = sum(daemon.cpu_us.values())
        lines.append(f"{name:10}{daemon.events_per_s:>10.0f}{all_us:>8.1f}{split}")
    return "\n".join(lines)


def report(here: Machine, measured: Sequence[Row], daemons: dict[str, Daemon]) -> dict[str, Any]:
    """Everything as JSON; durations in microseconds."""
    return {
        "stream_rnn": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "kernels": loading.describe(),
        "load_per_core": os.getloadavg()[0] / (os.cpu_count() or 1),
        "small_operation_us": here.small_us,
        "products_gflops": {name: rate / 1e3 for name, rate in here.products.items()},
        "memory_gb_per_s": {str(n): rate / 1e3 for n, rate in here.memory.items()},
        "rows": [_row(row) for row in measured],
        "daemon": {name: dataclasses.asdict(daemon) for name, daemon in daemons.items()},
    }


def _row(row: Row) -> dict[str, Any]:
    case = row.case
    return {
        "cell": case.cell,
        "rule": case.rule,
        "N": case.n_units,
        "B": case.n_lanes,
        "product_us": row.product,
        "credit_step_us": row.credit_step,
        "credit_step_over_product": row.over_product,
        "tick_us": row.tick,
        "tick_of_many_us": row.many,
        "ticks_a_call": row.ticks_a_call,
        "event_us": row.event,
        "allocations": row.allocations,
        "floor_us": row.floor,
        "floor_is": row.bound,
        "over_floor": row.over_floor,
        "profile_us": row.profile,
    }


def _us(us: float) -> str:
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 1000 else f"{us:,.0f}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes >> 20} MiB" if n_bytes >= 1 << 20 else f"{n_bytes >> 10} KiB"

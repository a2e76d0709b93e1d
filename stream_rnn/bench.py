"""Step time per cell and rule beside the bare matrix product it cannot avoid, on this machine.

Axes: N units, Z = G*N, R columns. Everything is measured in one run and interleaved, because shared
machines change speed; medians and ratios are what to quote.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Credit, Kf, Ok, Rtrl, Tbptt
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam

INPUTS = 8
SIZES = (32, 64, 128, 256)
RULES: dict[str, tuple[int, Callable[[Cell, torch.Generator], Credit]]] = {
    # name: (columns of A that the push multiplies, in units of Z; how to build it)
    "kf": (1, lambda cell, g: Kf(cell, 1, g)),
    "ok(1)": (1, lambda cell, g: Ok(cell, 1, g, rank=1)),
    "ok(8)": (8, lambda cell, g: Ok(cell, 1, g, rank=8)),
    "tbptt(50)": (0, lambda cell, g: Tbptt(cell, 1, window=50)),
    "rtrl": (-1, lambda cell, g: Rtrl(cell, 1)),
}


def main(quick: bool, json_path: Path | None) -> None:
    """`stream-rnn bench`: print the tables, and write them as JSON if asked."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    repetitions = 30 if quick else 100
    small = _small_operation_us()
    click.echo(f"torch {torch.__version__}, {platform.machine()}, one thread, float32, one lane")
    click.echo(f"one small in-place torch operation: {small:.2f} us\n")
    click.echo(f"{'cell':<6}{'rule':<11}{'N':>5}{'tick us':>11}{'W_h @ A us':>12}{'ratio':>8}")
    rows = []
    for N in SIZES[:2] if quick else SIZES:
        for cell_name in CELLS:
            for rule_name in RULES:
                if rule_name == "rtrl" and N > 32:
                    continue  # S*Z*M floats of influence: not what it is for
                row = measure(cell_name, rule_name, N, repetitions)
                rows.append(row)
                ratio = f"{row['ratio']:.2f}" if row["gemm_us"] else "-"
                gemm = f"{row['gemm_us']:.1f}" if row["gemm_us"] else "-"
                click.echo(
                    f"{cell_name:<6}{rule_name:<11}{N:>5}{row['tick_us']:>11.1f}{gemm:>12}{ratio:>8}"
                )
    click.echo("\ndaemon, end to end (lstm 32, ok rank 1, one forecast per event):")
    daemon = {name: daemon_rate(name, 1000 if quick else 4000) for name in ("file", "zeromq")}
    for name, rate in daemon.items():
        click.echo(f"  from {name:<8}{rate:>9.0f} events/s")
    if json_path is not None:
        report = {"small_operation_us": small, "ticks": rows, "daemon_events_per_s": daemon}
        json_path.write_text(json.dumps(report, indent=2))


def measure(cell_name: str, rule_name: str, N: int, repetitions: int) -> dict[str, Any]:
    """One whole tick (credit step, head, update, conditional commit) beside `W_h @ A`."""
    generator = torch.Generator().manual_seed(0)
    cell = CELLS[cell_name](INPUTS, N)
    columns, build = RULES[rule_name]
    loss = SquaredError()
    W = cell.initial_weight(generator).float()
    V = initial_readout(N, INPUTS, loss, generator).float()
    head = Head(N, INPUTS, loss, V)
    learner = Learner(Dense(cell, build(cell, generator), W), head, Adam(), Adam())
    yes = torch.ones(1, dtype=torch.bool)
    x, y = torch.randn(1, INPUTS, generator=generator), torch.randn(1, 1, generator=generator)
    frame = Frame(x, y, yes, yes)
    Z = cell.gates * N
    width = Z * columns if columns >= 0 else Z * (INPUTS + N + 1)
    W_h = W[:, INPUTS : INPUTS + N].contiguous()
    A, out = torch.randn(N, max(width, 1)), torch.empty(Z, max(width, 1))
    for _ in range(5):
        learner.step(frame)
    ticks: list[float] = []
    gemms: list[float] = []
    deadline = time.perf_counter() + 5
    while len(ticks) < repetitions and time.perf_counter() < deadline:
        ticks.append(_timed_us(lambda: learner.step(frame)))
        if width:
            gemms.append(_timed_us(lambda: torch.mm(W_h, A, out=out)))
    tick_us = statistics.median(ticks)
    gemm_us = statistics.median(gemms) if gemms else 0.0
    ratio = tick_us / gemm_us if gemm_us else 0.0
    return {
        "cell": cell_name,
        "rule": rule_name,
        "N": N,
        "tick_us": tick_us,
        "gemm_us": gemm_us,
        "ratio": ratio,
    }


def daemon_rate(kind: str, n_events: int) -> float:
    """Events per second through the whole daemon, from a backlog in a file or a ZeroMQ socket."""
    from prometheus_client import CollectorRegistry

    from stream_rnn import app
    from stream_rnn.console import Console
    from stream_rnn.daemon import make_runtime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        lines = [json.dumps({"t": i, "value": (i * 7919) % 101 / 101}) for i in range(n_events)]
        path.write_text("\n".join(lines) + "\n")
        source: dict[str, Any] = {"kind": "jsonl", "path": str(path)}
        if kind == "zeromq":
            source = {"kind": "zeromq", "address": "tcp://127.0.0.1:*", "bind": True}
            source["address"] = f"ipc://{folder}/events"
        tables = {
            "source": source,
            "task": {"kind": "forecast", "target": "value"},
            "learner": {
                "kind": "auto",
                "cell": {"kind": "lstm", "units": 32},
                "credit": {"kind": "ok", "rank": 1},
            },
            "sink": [{"kind": "jsonl", "path": f"{folder}/predictions.jsonl"}],
            "state": {"dir": f"{folder}/state"},
        }
        job = app.build(tables)
        console = Console(interactive=False, every_s=1e9)
        runtime = make_runtime(job, None, CollectorRegistry(), console)
        if kind == "zeromq":
            threading.Thread(target=_send, args=(source["address"], lines), daemon=True).start()
        start = time.perf_counter()
        runtime.run(n_events)
        return n_events / (time.perf_counter() - start)


def _send(address: str, lines: list[str]) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(address)
        for line in lines:
            socket.send(line.encode())


def _small_operation_us() -> float:
    a: Tensor = torch.randn(32)
    return statistics.median(_timed_us(lambda: a.add_(a)) for _ in range(2000))


def _timed_us(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6

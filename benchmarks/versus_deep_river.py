"""The same work as deep-river's rolling LSTM: predict and learn, 8 inputs, 64 units.

    python -m venv /tmp/theirs && /tmp/theirs/bin/pip install deep-river==0.3.4 pytest
    python -m benchmarks.versus_deep_river --deep-river /tmp/theirs/bin/python

deep-river lives in an environment of its own, because it pins torch below 2.6 (and it imports
pytest). Without `--deep-river` only our side is measured, and that is said. Both sides read the
same records, a nerve cell's membrane potential (the demo's stream): its last 8 samples, and the
next one as the target, which the next record shows: no label is known before its time. All
candidates take turns, a slice of the stream each. Rates are events per second of processor time,
medians over the slices; errors are over all records and prequential: each prediction is made before
its target was looked at.

Forms: *pair* is `predict_one` and `learn_one` for each record, as deep-river does it. *step* is our
one call for both, *steps* 64 records a call.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from stream_rnn import demo
from stream_rnn.bench.clock import medians_us, small_operation
from stream_rnn.cells import Cell, Lstm
from stream_rnn.credit import Credit, Ok, Tbptt
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense, Elstm, Lru, Recurrence, Rtu
from stream_rnn.regressor import Regressor

INPUTS, UNITS, AHEAD, A_CALL, SLICES = 8, 64, 1, 64, 20
FIELDS = [f"x{i}" for i in range(INPUTS)]
THEIRS = "deep-river, rolling LSTM, window 10"
TARGETS = {"rtu": 100, "lru": 100, "elstm": 100, "lstm tbptt(10)": 20, "lstm ok(1)": 15}
Records = list[tuple[dict[str, float], float]]
Slice = Callable[[int, int], tuple[float, list[float]]]  # from .. to -> seconds, predictions


def records(n: int) -> Records:
    """The demo's stream as records and targets; raises SystemExit without matplotlib's sample."""
    with tempfile.TemporaryDirectory() as folder:
        tables, _ = demo.stream(Path(folder))
        if tables["source"]["kind"] != "jsonl":
            raise SystemExit("the membrane recording comes with matplotlib: pip install matplotlib")
        lines = Path(tables["source"]["path"]).read_text(encoding="utf-8").splitlines()
    potential = [json.loads(line)["potential"] for line in lines]
    mean, deviation = statistics.fmean(potential), statistics.pstdev(potential)
    z = [(value - mean) / deviation for value in potential]
    last = min(n, len(z) - AHEAD - INPUTS)
    return [
        (dict(zip(FIELDS, z[i : i + INPUTS], strict=True)), z[i + INPUTS - 1 + AHEAD])
        for i in range(last)
    ]


def regressor(name: str) -> Regressor:
    """One of ours, by its name in the table."""
    generator = torch.Generator().manual_seed(0)
    rules: dict[str, Callable[[Cell], Credit]] = {
        "tbptt(10)": lambda cell: Tbptt(cell, 1, window=10, every=1),
        "ok(1)": lambda cell: Ok(cell, 1, generator, rank=1),
    }
    units: dict[str, Callable[..., Recurrence]] = {"rtu": Rtu, "lru": Lru, "elstm": Elstm}
    kind, _, rule = name.partition(" ")
    if rule:
        cell = Lstm(INPUTS, UNITS)
        W_ZM = cell.initial_weight(generator).float()
        recurrence: Recurrence = Dense(cell, rules[rule](cell), W_ZM)
    else:
        recurrence = units[kind](INPUTS, UNITS, 1, generator)
    return Regressor(recurrence, FIELDS, generator)


def ours(name: str, form: str, stream: Records) -> Slice:
    """One of ours in one of the three forms."""
    model = regressor(name)

    def timed(form: Callable[[int, int], list[float]]) -> Slice:
        def run(start: int, end: int) -> tuple[float, list[float]]:
            begun = time.process_time()
            predictions = form(start, end)
            return time.process_time() - begun, predictions

        return run

    def pair(start: int, end: int) -> list[float]:
        predictions = []
        for x, y in stream[start:end]:
            predictions.append(model.predict_one(x))
            model.learn_one(x, y)
        return predictions

    def step(start: int, end: int) -> list[float]:
        return [model.step(x, y) for x, y in stream[start:end]]

    def steps(start: int, end: int) -> list[float]:
        predictions = []
        for i in range(start, end, A_CALL):
            xs, ys = zip(*stream[i : min(end, i + A_CALL)], strict=True)
            predictions += model.steps(xs, ys)
        return predictions

    return timed({"pair": pair, "step": step, "steps": steps}[form])


@contextmanager
def theirs(python: str, stream: Records) -> Iterator[tuple[str, Slice]]:
    """Their side in its own process: its versions, and its slices."""
    script = Path(__file__).with_name("versus_deep_river_side.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.json"
        path.write_text(json.dumps(stream))
        command = [python, str(script), str(path), str(UNITS)]
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=alone) as process:
            assert process.stdin
            assert process.stdout
            to, said = process.stdin, process.stdout
            hello = said.readline().strip()
            if not hello:
                raise SystemExit(f"{python} could not run deep-river, see above")

            def slice_of(start: int, end: int) -> tuple[float, list[float]]:
                to.write(f"{start} {end}\n")
                to.flush()
                answer = json.loads(said.readline())
                return answer["seconds"], answer["predictions"]

            try:
                yield hello, slice_of
            finally:
                to.close()


def errors(predictions: list[float], stream: Records) -> tuple[float, float]:
    """Mean absolute and root mean square error."""
    off = [p - y for p, (_, y) in zip(predictions, stream, strict=True)]
    return statistics.fmean(map(abs, off)), math.sqrt(statistics.fmean(e * e for e in off))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deep-river", metavar="PYTHON", help="of an environment that has it")
    parser.add_argument("--events", type=int, default=demo.SAMPLES)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    stream = records(given.events)
    runs = {(name, form): ours(name, form, stream) for name in TARGETS for form in _FORMS}
    if given.deep_river:
        with theirs(given.deep_river, stream) as (hello, slice_of):
            rates, predictions = turns(runs | {(THEIRS, "pair"): slice_of}, stream)
    else:
        hello = "deep-river: NOT MEASURED, name its Python with --deep-river (see --help)"
        sys.stderr.write(f"{hello}\n")
        rates, predictions = turns(runs, stream)
    print(f"{loading.describe()}; {hello}; {len(stream)} records, {SLICES} slices")
    small_us = medians_us({"small": small_operation()}, 0.3)["small"]
    print(f"one small in-place torch operation: {small_us:.2f} us")
    report = show(rates, predictions, stream)
    if given.json:
        report |= {"small_operation_us": small_us, "versions": hello}
        given.json.write_text(json.dumps(report, indent=2) + "\n")


_FORMS = ("pair", "step", "steps")
Name = tuple[str, str]


def turns(
    runs: dict[Name, Slice], stream: Records
) -> tuple[dict[Name, float], dict[Name, list[float]]]:
    """Events/s (median over the slices) and predictions of each, all taking turns."""
    rates: dict[Name, list[float]] = {name: [] for name in runs}
    predictions: dict[Name, list[float]] = {name: [] for name in runs}
    size = -(-len(stream) // SLICES)
    for start in range(0, len(stream), size):
        end = min(len(stream), start + size)
        for name, run in runs.items():
            seconds, predicted = run(start, end)
            predictions[name] += predicted
            rates[name].append((end - start) / seconds)
    return {name: statistics.median(each) for name, each in rates.items()}, predictions


def show(
    rates: dict[Name, float], predictions: dict[Name, list[float]], stream: Records
) -> dict[str, object]:
    """Print the table; the same as plain values."""
    base = rates.get((THEIRS, "pair"))
    rows: dict[str, object] = {}
    print("\n| | pair, events/s | | step | | steps | | asked for | MAE | RMSE |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in rates):
        forms = [form for form in _FORMS if (name, form) in rates]
        assert len({repr(predictions[name, form]) for form in forms}) == 1, "forms must agree"
        mae, rmse = errors(predictions[name, "pair"], stream)
        cells = []
        for form in _FORMS:
            rate = rates.get((name, form))
            cells.append(f"{rate:,.0f}" if rate else "")
            cells.append(f"{rate / base:.1f}x" if rate and base and name != THEIRS else "")
        asked = f"{TARGETS[name]}x" if name in TARGETS else ""
        print(f"| {name} | {' | '.join(cells)} | {asked} | {mae:.4f} | {rmse:.4f} |")
        each = {form: rates[name, form] for form in forms}
        rows[name] = {"events_per_s": each, "mae": mae, "rmse": rmse}
    mae, rmse = errors([x[FIELDS[-1]] for x, _ in stream], stream)
    print(f"| the last sample again |{' |' * 7} {mae:.4f} | {rmse:.4f} |")
    return {"rows": rows, "persistence": {"mae": mae, "rmse": rmse}}


if __name__ == "__main__":
    main()

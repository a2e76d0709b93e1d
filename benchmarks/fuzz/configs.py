"""Hostile configurations: mutated TOML through `config.load` and `app.build`."""

from __future__ import annotations

import copy
import json
import os
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fuzz.bounds import Tally
from benchmarks.fuzz.mutate import NASTY, damaged, places, twisted
from stream_rnn import app, config
from stream_rnn.config import ConfigError

TEXTS = [
    """
source = { kind = "jsonl", path = "events.jsonl" }
[task]
kind = "regression"
target = "y"
season = 5
[features]
numeric = ["x"]
categorical = { c = ["a", "b"] }
calendar = { field = "t", cycles = ["day"], harmonics = 2 }
lags = { x = [1, 2] }
memory = 1000
[lanes]
key = "k"
capacity = 4
batching = "log"
block = 2
[learner]
cell = { kind = "gru", units = 4 }
credit = { kind = "ok", rank = 3, chunks = "gate" }
fallback = [{ kind = "tbptt", window = 8, every = 2 }, "readout"]
fidelity = { window = 8, every = 100 }
governor = { trips = 3, cooldown = 100, noise_limit = 0.5 }
optimizer = { kind = "adam", lr = 0.01, clip = 1.0 }
head_optimizer = { kind = "rls", forgetting = 0.99 }
seed = 1
dtype = "float64"
[[sink]]
kind = "jsonl"
path = "predictions.jsonl"
max_bytes = 1000000
[state]
dir = "state"
every_events = 100
keep = 2
[dead_letter]
keep_bytes = 100
[limits]
event_bytes = 100000
poll_events = 64
gone_s = 10.0
[metrics]
address = "127.0.0.1:0"
""",
    """
source = { kind = "synthetic", n = 100, seed = 3 }
task = { kind = "forecast", target = "value", horizon = 3, loss = "quantile", tau = 0.7 }
learner = { cell = [{ kind = "rtu", units = 4 }, { kind = "feedforward", units = 4 }] }
state = { dir = "state", every_s = 5 }
""",
    """
source = { kind = "jsonl", path = "events.jsonl", max_line_bytes = 1000 }
task = { kind = "next_symbol", field = "c", max_symbols = 16 }
codec = { kind = "json" }
[learner]
kind = "explicit"
cell = { kind = "rhn", units = 3 }
credit = { kind = "adaptive_tbptt", history = 16, k_max = 8, window = 4 }
optimizer = { kind = "fptt", alpha = 0.1, inner = { kind = "sgd", lr = 0.1, momentum = 0.9 } }
head_optimizer = { kind = "obgd", lr = 0.5, kappa = 2.5 }
[state]
dir = "state"
""",
]
HUGE: tuple[Any, ...] = (
    *NASTY,
    10**6,
    10**7,
    10**9,
    10**12,
    10**5,
    1e18,
    1000,
    100,
    500,
    30_000,
    1e-9,
    1e9,
)


def toml(value: Any) -> str:
    """A value as TOML writes it, inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool) or value is None:
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    return repr(value)


def renumbered(rng: random.Random, tables: dict[str, Any]) -> dict[str, Any]:
    """A copy with one or two numbers of the same type that are too large, too small or strange."""
    tables = copy.deepcopy(tables)
    for _ in range(rng.choice((1, 1, 2))):
        ways = [way for way in places(tables) if isinstance(_at(tables, way), int | float)]
        *way, last = rng.choice(ways)
        owner = _at(tables, way)
        same = [n for n in HUGE if type(n) is type(owner[last])]
        owner[last] = rng.choice(same)
    return tables


def _at(value: Any, way: Sequence[Any]) -> Any:
    for step in way:
        value = value[step]
    return value


def fuzz(tally: Tally, cases: int, seed: int, workplace: Path) -> None:
    """A configuration is refused with a ConfigError, or builds; no file is written."""
    workplace.mkdir(parents=True, exist_ok=True)
    before, path = Path.cwd(), workplace / "config.toml"
    os.chdir(workplace)
    lines = [
        json.dumps({"x": i % 5, "y": i % 3, "c": "ab"[i % 2], "k": "u", "t": i}) for i in range(9)
    ]
    Path("events.jsonl").write_text("\n".join(lines) + "\n")
    allowed = {"events.jsonl", "config.toml"}
    tables = [tomllib.loads(text) for text in TEXTS]
    raw = [text.encode() for text in TEXTS]
    try:
        for table in tables:  # what is mutated is sound: else nothing behind the first check is met
            app.build(table)
        for number in range(seed, seed + cases):
            rng = random.Random(number)
            if rng.random() < 0.35:
                data = damaged(rng, rng.choice(raw), raw)
            else:
                try:
                    table = rng.choice(tables)
                    is_number = rng.random() < 0.6
                    value = renumbered(rng, table) if is_number else twisted(rng, table, HUGE)
                    data = "\n".join(
                        f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()
                    ).encode()
                except (RecursionError, UnicodeEncodeError):
                    continue
            path.write_bytes(data)

            def run() -> str:
                app.build(config.load(path))
                return "built"

            tally.case(number, data, run, (ConfigError,), seconds=60.0)
            written = {entry.name for entry in Path().iterdir()} - allowed
            if written:
                tally.failures.append(f"seed {number}: wrote {sorted(written)[:5]}")
                allowed |= written
    finally:
        os.chdir(before)

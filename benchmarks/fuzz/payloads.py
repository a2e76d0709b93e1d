"""Hostile payloads: every codec, then the features and tasks of several configurations."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import msgspec

from benchmarks.fuzz.bounds import Tally
from benchmarks.fuzz.mutate import damaged, twisted
from stream_rnn import config
from stream_rnn.codec import CODECS, codec_by_name
from stream_rnn.features.encoder import Features
from stream_rnn.features.values import BadEvent
from stream_rnn.lanes import Lanes
from stream_rnn.spi import DecodeError, Event
from stream_rnn.tasks import TASKS, Task

RECORDS: list[dict[str, Any]] = [
    {"x": 1.5, "y": 2, "c": "a", "k": "s1", "t": "2026-01-02T03:04:05", "w": 0.5, "end": False},
    {"x": -3e5, "y": 0.25, "c": "b", "k": "s2", "t": 1.7e9, "text": "hello é"},
    {"x": 7, "y": -1.0, "c": "c", "k": 5, "t": 1.7e12, "end": True, "text": "\U0001f600"},
]
MODELS: list[dict[str, Any]] = [
    {
        "task": {"kind": "forecast", "target": ["y", "x"], "horizon": 2, "weight": "w"},
        "features": {
            "numeric": ["x", "y"],
            "categorical": ["c"],
            "calendar": {"field": "t"},
            "lags": {"x": [1, 3]},
            "missing": "previous",
        },
    },
    {
        "task": {"kind": "regression", "target": "y", "loss": "gaussian"},
        "features": {"numeric": ["x"], "categorical": {"c": ["a", "b"]}, "scaling": "lane"},
    },
    {"task": {"kind": "classification", "target": "c"}, "features": {"numeric": ["x"]}},
    {"task": {"kind": "next_symbol", "unit": "byte", "max_bytes": 500}, "features": {}},
    {"task": {"kind": "next_symbol", "field": "c"}, "features": {"calendar": {"field": "t"}}},
]


def task_of(model: Mapping[str, Any]) -> Task:
    """A task with fresh features."""
    features = config.build("[features]", model["features"], Features)
    table = dict(model["task"])
    return config.build("[task]", table, TASKS[table["kind"]], features=features, lanes=4)


def corpus(kind: str) -> list[bytes]:
    """Payloads that are in order."""
    if kind == "msgpack":
        return [msgspec.msgpack.encode(record) for record in RECORDS]
    return [json.dumps(record).encode() for record in RECORDS]


def fuzz(tally: Tally, cases: int, seed: int) -> None:
    """Only DecodeError and BadEvent may be raised, and rows must have their width."""
    tasks = [task_of(model) for model in MODELS]
    lanes = [Lanes("k", 4, "end") for _ in tasks]
    codecs = {kind: (codec_by_name(kind), corpus(kind)) for kind in CODECS}
    for number in range(seed, seed + cases):
        rng = random.Random(number)
        kind = rng.choice(list(codecs))
        codec, seeds = codecs[kind]
        if kind != "text" and rng.random() < 0.5:
            record = twisted(rng, rng.choice(RECORDS))
            try:
                data = (msgspec.msgpack if kind == "msgpack" else msgspec.json).encode(record)
            except (OverflowError, RecursionError):
                continue  # no encoder writes it
        else:
            data = damaged(rng, rng.choice(seeds), seeds)
        i = rng.randrange(len(tasks))

        def run(codec: Any = codec, data: bytes = data, i: int = i) -> str:
            record = codec.decode(data)
            event = Event("p", 1, data)
            key = lanes[i].key_of(event, record)
            lanes[i].ends(record)
            if lanes[i].find(key) is None:
                tasks[i].check(record)
            lane, anew = lanes[i].assign(key)
            if anew:
                tasks[i].reset_lane(lane)
            for step in tasks[i].steps(record, lane):
                wrong = len(step.x) != tasks[i].inputs
                wrong |= not all(-1e4 < value < 1e4 for value in step.x)
                if wrong:
                    raise AssertionError(f"a row of {len(step.x)}: {step.x[:20]}")
            return "learned"

        tally.case(number, data, run, (DecodeError, BadEvent))

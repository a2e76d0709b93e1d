"""Whatever comes, the daemon goes on: counted, dead-lettered, and nothing else changes."""

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.assembly.settings import Limits
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.engine.attempts import Unwatched
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import EndOfStream, Event
from stream_rnn.testing import ListSink, ScriptedSource

MEGABYTE = 1 << 20
Record = dict[str, Any]
TASKS: dict[str, dict[str, Any]] = {
    "forecast": {"task": {"kind": "forecast", "target": "y"}},
    "regression": {"task": {"kind": "regression", "target": "y"}},
    "classification": {"task": {"kind": "classification", "target": "c", "classes": ["a", "b"]}},
    "tokens": {"task": {"kind": "next_symbol", "field": "c", "vocabulary": ["a", "b"]}},
    "bytes": {"task": {"kind": "next_symbol", "field": "text", "unit": "byte"}},
}
GOOD: Record = {"id": "k", "x": 1.0, "at": "2024-01-01T00:00:00", "color": "red"}


def good(n: int) -> Record:
    return GOOD | {
        "x": math.sin(n),
        "y": 5 * math.sin(n / 2),
        "c": "ab"[n % 2],
        "text": "hm",
        "id": "kl"[n % 2],
    }


def changed(**fields: Any) -> bytes:
    return json.dumps(good(0) | fields).encode()


def without(field: str) -> bytes:
    return json.dumps({k: v for k, v in good(0).items() if k != field}).encode()


def literal(field: str, text: str) -> bytes:
    return changed(**{field: "@"}).replace(b'"@"', text.encode())


BYTES: dict[str, tuple[bytes, str, str]] = {
    "no JSON": (b"\x00\xff\xfe hello", "decode", "undecodable"),
    "half an object": (b'{"x": 1', "decode", "undecodable"),
    "empty": (b"", "decode", "undecodable"),
    "a list": (b"[1, 2]", "decode", "undecodable"),
    "null": (b"null", "decode", "undecodable"),
    "a NaN literal": (literal("x", "NaN"), "decode", "undecodable"),
    "a number beyond a double": (literal("x", "1e999"), "decode", "undecodable"),
    "nested deeply": (b'{"x":' + b"[" * 100_000, "decode", "undecodable"),
    "50 MB": (changed(x="z" * 50 * MEGABYTE), "decode", "undecodable"),
    "10,000 digits": (literal("x", "9" * 10_000), "decode", "undecodable"),
}
FIELDS: dict[str, tuple[bytes, str, str]] = {
    "a number gone null": (changed(x=None), "features", "missing"),
    "a number missing": (without("x"), "features", "missing"),
    "nothing at all": (b"{}", "features", "missing"),
    "a number as text": (changed(x="1.5"), "features", "wrong_type"),
    "NaN as text": (changed(x="NaN"), "features", "wrong_type"),
    "a number become a list": (changed(x=[1.0]), "features", "wrong_type"),
    "nested almost too deeply": (
        literal("x", "[" * 900 + "]" * 900),
        "features",
        "wrong_type",
    ),
    "1e30": (changed(x=1e30), "features", "absurd"),
    "400 digits": (literal("x", "9" * 400), "features", "absurd"),
    "no key": (without("id"), "features", "missing"),
    "a key of a megabyte": (changed(id="k" * MEGABYTE), "features", "wrong_type"),
    "a key that is a table": (changed(id={"a": 1}), "features", "wrong_type"),
    "no time": (changed(at="yesterday"), "features", "wrong_type"),
    "a category of a megabyte": (changed(color="r" * MEGABYTE), "features", "wrong_type"),
}
NUMBER: dict[str, tuple[bytes, str, str]] = {
    "target as text": (changed(y="7"), "features", "wrong_type"),
    "target 1e30": (changed(y=-1e30), "features", "absurd"),
    "target of 400 digits": (literal("y", "9" * 400), "features", "absurd"),
}
CLASS: dict[str, tuple[bytes, str, str]] = {
    "an unknown class": (changed(c="z"), "features", "unknown_class"),
    "a class that is a list": (changed(c=["a"]), "features", "wrong_type"),
    "a class of a megabyte": (changed(c="a" * MEGABYTE), "features", "wrong_type"),
}
OF_KIND = {
    "forecast": NUMBER | {"no target": (without("y"), "features", "missing")},
    "regression": NUMBER,
    "classification": CLASS,
    "tokens": CLASS | {"no token": (without("c"), "features", "missing")},
    "bytes": {
        "text gone": (without("text"), "features", "missing"),
        "text become a number": (changed(text=5), "features", "wrong_type"),
        "empty text": (changed(text=""), "features", "missing"),
        "a megabyte of text": (changed(text="t" * MEGABYTE), "features", "wrong_type"),
    },
}


def run(kind: str, stream: list[bytes], folder: Path) -> Runtime:
    """Through the whole daemon: sinks and snapshots are files."""
    tables = TASKS[kind] | {
        "source": {"kind": "synthetic"},
        "features": {
            "numeric": ["x"],
            "categorical": ["color"],
            "calendar": {"field": "at"},
        },
        "lanes": {"key": "id", "capacity": 2},
        "learner": {
            "cell": {"kind": "gru", "units": 4},
            "credit": {"kind": "ok", "rank": 1},
            "optimizer": {"kind": "adam", "lr": 0.01},
        },
        "state": {"dir": str(folder / "state"), "every_s": 1e9},
        "dead_letter": {"path": str(folder / "dead.jsonl")},
    }
    job = app.build(tables)
    job.source = ScriptedSource([*stream, EndOfStream()])
    job.sinks = [ListSink()]
    store = Store(folder / "state")
    store.open()
    runtime = make_runtime(job, store, CollectorRegistry(), Console(io.StringIO()))
    runtime.run()
    store.close()
    return runtime


def written(runtime: Runtime) -> list[Record]:
    sink = runtime.outputs.sinks[0]
    assert isinstance(sink, ListSink)
    return sink.records


@pytest.mark.parametrize("kind", TASKS)
def test_bad_events_are_counted_and_kept_aside_and_change_nothing_else(
    kind: str, tmp_path: Path
) -> None:
    planted = BYTES | FIELDS | OF_KIND[kind]
    lines = [json.dumps(good(n)).encode() for n in range(len(planted) + 10)]
    stream: list[bytes] = [*lines[:10]]
    bad_at = []
    for line, (data, _, _) in zip(lines[10:], planted.values(), strict=True):
        bad_at.append(len(stream))
        stream += [data, line]
    clean, hit = run(kind, lines, tmp_path / "clean"), run(kind, stream, tmp_path / "hit")

    letters = [json.loads(line) for line in (tmp_path / "hit/dead.jsonl").read_text().splitlines()]
    told = [(letter["position"], letter["stage"], letter["issue"]) for letter in letters]
    expected = [
        (position, stage, issue)
        for position, (_, stage, issue) in zip(bad_at, planted.values(), strict=True)
    ]
    assert told == expected
    for letter, (data, _, _) in zip(letters, planted.values(), strict=True):
        assert letter["size_bytes"] == len(data)
        assert base64.b64decode(letter["data_base64"]) == data[:4096]
        assert 0 < len(letter["reason"]) < 600
    n_undecodable = sum(stage == "decode" for _, stage, _ in told)
    counts = {"decode": n_undecodable, "features": len(told) - n_undecodable}
    counts |= {"learn": 0, "poison": 0}
    assert hit.metrics.events_rejected == hit.metrics.dead_letters == counts
    issues = Counter(issue for _, stage, issue in told if stage == "features")
    before = clean.metrics.feature_issues
    more = {issue: n - before[issue] for issue, n in hit.metrics.feature_issues.items()}
    assert more == dict.fromkeys(more, 0) | issues

    assert [line["prediction"] for line in written(hit)] == [
        line["prediction"] for line in written(clean)
    ]
    mine, other = hit.engine.learner.state_dict(), clean.engine.learner.state_dict()
    assert all(mine[name].equal(other[name]) for name in other)
    assert all(bool(torch.isfinite(p).all()) for p in hit.engine.learner.parameters())
    assert hit.engine.positions == {"script": len(stream) - 1}


def test_a_step_that_comes_out_unsound_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    runtime = run("forecast", [json.dumps(good(n)).encode() for n in range(20)], tmp_path)
    engine = runtime.engine
    engine.attempts = Unwatched()  # the mark is closed
    engine.outputs.clear()
    engine.learner.head.V_PF.fill_(1e30)  # as after a bug: no input can do this
    before = {name: t.clone() for name, t in engine.learner.state_dict().items()}
    engine.feed(Event("script", 20, json.dumps(good(20)).encode()))
    engine.end_of_poll()
    (letter,) = engine.letters
    assert (letter["stage"], letter["issue"], letter["position"]) == ("learn", "unsound", 20)
    assert engine.outputs == []
    after = engine.learner.state_dict()
    moved = [name for name, t in before.items() if not after[name].equal(t)]
    # signs were drawn, for nobody, and a tick was counted
    assert sorted(moved) == ["recurrence.credit.generator", "recurrence.fidelity.ticks"]


def test_the_dead_letter_file_is_bounded(tmp_path: Path) -> None:
    letters = {"path": str(tmp_path / "dead.jsonl"), "max_bytes": 20_000, "keep": 1}
    tables = TASKS["forecast"] | {"source": {"kind": "synthetic"}, "dead_letter": letters}
    job = app.build(tables | {"state": {"dir": str(tmp_path)}})
    job.sinks, job.source = [], ScriptedSource([b"\xff" * 1000] * 300 + [EndOfStream()])
    job.limits = Limits(poll_events=1)
    make_runtime(job, None, CollectorRegistry(), Console(io.StringIO())).run()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["dead.jsonl", "dead.jsonl.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000
    last = json.loads((tmp_path / "dead.jsonl").read_text().splitlines()[-1])
    assert last["position"] == 299


HOSTILE: list[Callable[[], bytes]] = [
    lambda: b"\x81\xa1x\xcb\x7f\xf8" + bytes(6),  # {"x": NaN}
    lambda: b"\x81\xa1x\xcb\x7f\xf0" + bytes(6),  # {"x": inf}
    lambda: b"\xdf\xff\xff\xff\xff",  # four billion entries announced
    lambda: b"\x91" * 100_000,
    lambda: b"\x81\xa1x\xc7\x04\x05abcd",  # an unknown extension
    lambda: b"\x81\xa1x\xd6\xff\x00\x00\x00\x00",  # a time stamp
    lambda: b"\x81\xa2\xff\xfe\x01",  # a name that is not UTF-8
    lambda: b"\x81\xa1x\xa1\xff",
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_messagepack_is_a_dead_letter(data: Callable[[], bytes], tmp_path: Path) -> None:
    tables = {
        "source": {"kind": "synthetic"},
        "codec": {"kind": "msgpack"},
        "task": {"kind": "forecast", "target": "x"},
        "state": {"dir": str(tmp_path)},
    }
    engine = app.build(tables).engine
    engine.feed(Event("p", 0, data()))
    assert len(engine.letters) == 1
    assert engine.letters[0]["stage"] in ("decode", "features")
    assert engine.outputs == []

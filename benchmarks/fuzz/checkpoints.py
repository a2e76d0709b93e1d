"""Hostile snapshots: bytes damaged, and values twisted under a hash that is right again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save

from benchmarks.fuzz.bounds import Tally
from benchmarks.fuzz.mutate import damaged, twisted
from stream_rnn import app
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.checkpoint.manifest import HOST, MANIFEST, TENSORS
from stream_rnn.checkpoint.snapshot import Loaded, Snapshot
from stream_rnn.checkpoint.store import Store
from stream_rnn.config import ConfigError
from stream_rnn.engine.frames import numerics
from stream_rnn.runtime.checkpointing import UNFIT
from stream_rnn.spi import Event

LEARNERS: list[dict[str, Any]] = [
    {
        "cell": {"kind": "gru", "units": 3},
        "credit": {"kind": "ok", "rank": 2},
        "fallback": {"kind": "tbptt", "window": 4},
        "optimizer": {"kind": "adam", "lr": 0.01},
    },
    {
        "cell": [{"kind": "lru", "units": 2}, {"kind": "lstm", "units": 2}],
        "credit": {"kind": "adaptive_tbptt", "history": 8, "k_max": 6, "window": 3},
        "optimizer": {"kind": "fptt", "inner": {"kind": "sgd", "momentum": 0.5}},
        "head_optimizer": {"kind": "rls"},
    },
]
TASKS: list[dict[str, Any]] = [
    {
        "task": {"kind": "forecast", "target": "y", "horizon": 2, "season": 3},
        "features": {"numeric": ["x"], "categorical": ["c"], "lags": {"x": [1]}},
    },
    {
        "task": {"kind": "regression", "target": "y"},
        "features": {"numeric": ["x"], "missing": "previous", "scaling": "lane"},
    },
    {"task": {"kind": "classification", "target": "c"}, "features": {"numeric": ["x"]}},
]
CHOICES = [(0, 0), (1, 1), (2, 0)]  # (task, learner)


def events(first: int, n: int) -> list[Event]:
    """Three streams, in turn."""
    return [
        Event("p", i, b'{"x":%d,"y":%d,"c":"%c","k":"%d"}' % (i % 7, i * i % 11, 97 + i % 3, i % 3))
        for i in range(first, first + n)
    ]


def job_of(choice: tuple[int, int]) -> app.Job:
    """A model, before its first event."""
    task, learner = TASKS[choice[0]], dict(LEARNERS[choice[1]])
    if choice[0] == 2:
        learner.pop("head_optimizer", None)
    return app.build(
        {
            "source": {"kind": "synthetic"},
            **task,
            "lanes": {"key": "k", "capacity": 4},
            "learner": learner,
            "state": {"dir": os.devnull + "-none"},
        }
    )


def prepared(folder: Path, choice: tuple[int, int]) -> Path:
    """A sound snapshot of a model that has learned a little."""
    job = job_of(choice)
    with numerics():
        for event in events(1, 60):
            job.engine.feed(event)
    store = Store(folder)
    store.open()
    host = {"engine": job.engine.state_dict(), "governor": job.governor.state_dict()}
    tensors = {name: t.clone() for name, t in job.engine.learner.state_dict().items()}
    encoded = msgspec.json.encode(host)
    saved = store.save(
        Snapshot(job.engine.step, tensors, encoded, {"source": {"p": 60}}, job.fingerprint)
    )
    store.close()
    return saved.path


def restored(choice: tuple[int, int], loaded: Loaded) -> app.Job:
    """What the daemon does with a snapshot, without its files; raises ConfigError."""
    job = job_of(choice)
    try:
        host = msgspec.json.decode(loaded.host)
        job.engine.learner.load_state_dict(dict(loaded.tensors))
        job.engine.load_state_dict(host["engine"])
        job.governor.load_state_dict(host["governor"])
    except UNFIT as error:
        raise ConfigError(repr(error)) from error
    job.ladder.move(job.governor.level)
    return job


def rehashed(folder: Path, **files: bytes) -> None:
    """Write files and a manifest that vouches for them."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for name, data in files.items():
        path = folder / {"host": HOST, "tensors": TENSORS}[name]
        path.unlink()
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][path.name] = {"sha256": digest, "bytes": len(data)}
    vouch(folder, manifest)


def vouch(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest under its own hash."""
    manifest.pop("sha256", None)
    guard = hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / MANIFEST).write_bytes(msgspec.json.encode({**manifest, "sha256": guard}))


def strange(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """Another shape, number type or size of values."""
    flat = tensor.reshape(-1)
    match rng.randrange(6):
        case 0:
            return flat[: rng.randrange(flat.numel() + 1)].clone()
        case 1:
            dtypes = (torch.int8, torch.int64, torch.float64, torch.bool, torch.float16)
            return tensor.to(rng.choice(dtypes))
        case 2:
            return torch.full_like(tensor, rng.choice((0, 1, 100)))
        case 3 if tensor.dtype != torch.bool and tensor.dtype != torch.uint8:
            return -tensor - 1
        case 4 if tensor.is_floating_point():
            return torch.full_like(tensor, rng.choice((1e30, -1e30, 1e-38, 3e38)))
        case 4 if tensor.dtype == torch.int64:
            return torch.full_like(tensor, rng.choice((2**62, -(2**63), 2**40)))
        case _:
            return tensor[None].clone()


def mutate(rng: random.Random, folder: Path) -> str:
    """Damage the snapshot in `folder` in one way; returns which."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    match rng.randrange(8):
        case 0:
            name = rng.choice((TENSORS, HOST, MANIFEST))
            data = damaged(rng, (folder / name).read_bytes())
            (folder / name).unlink()
            (folder / name).write_bytes(data)
            return f"bytes of {name}"
        case 1:
            try:
                vouch(folder, twisted(rng, manifest))
            except (OverflowError, RecursionError):
                return "none"
            return "manifest"
        case 2:
            rehashed(folder, tensors=damaged(rng, (folder / TENSORS).read_bytes()))
            return "tensor file"
        case 3 | 4:
            from safetensors.torch import load

            tensors = load((folder / TENSORS).read_bytes())
            for name in rng.sample(sorted(tensors), rng.choice((1, 1, 3))):
                tensors[name] = strange(rng, tensors[name])
            rehashed(folder, tensors=save(tensors))
            manifest = json.loads((folder / MANIFEST).read_bytes())
            for name, tensor in tensors.items():
                dtype = str(tensor.dtype).removeprefix("torch.")
                manifest["tensors"][name] = {"dtype": dtype, "shape": list(tensor.shape)}
            vouch(folder, manifest)
            return "tensors"
        case 5:
            rehashed(folder, host=damaged(rng, (folder / HOST).read_bytes()))
            return "host bytes"
        case _:
            host = json.loads((folder / HOST).read_bytes())
            try:
                data = msgspec.json.encode(twisted(rng, host))
            except (OverflowError, RecursionError):
                data = json.dumps(twisted(rng, host, (10**30, 1e308))).encode()
            rehashed(folder, host=data)
            return "host values"


def fuzz(tally: Tally, cases: int, seed: int, workplace: Path) -> None:
    """A snapshot is refused (CheckpointError, ConfigError), or the model goes on with it."""
    sound = [prepared(workplace / f"sound-{i}", choice) for i, choice in enumerate(CHOICES)]
    trial = workplace / "trial"
    for number in range(seed, seed + cases):
        rng = random.Random(number)
        i = rng.randrange(len(CHOICES))
        shutil.rmtree(trial, ignore_errors=True)
        folder = shutil.copytree(sound[i], trial / sound[i].name)
        try:
            how = mutate(rng, folder)
        except RecursionError:
            continue

        def run(i: int = i, folder: Path = folder, how: str = how) -> str:
            job = restored(CHOICES[i], snapshot.read(folder))
            with numerics():
                for event in events(61, 70):
                    job.engine.feed(event)
            again = {"engine": job.engine.state_dict(), "governor": job.governor.state_dict()}
            msgspec.json.encode(again)
            return f"goes on ({how})"

        data = how.encode()
        tally.case(number, data, run, (CheckpointError, ConfigError))

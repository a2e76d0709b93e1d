"""One run of one rule with one seed: kept on disk every few minutes, continued where it was.

A run's folder holds `state.safetensors` (all that influences the future, with the record of the run
in its header, so that the two are always of the same tick) and `result.json`, the same record for
people and for the table. Saving goes by the clock and influences nothing: a run that was killed
ends with the same figures as one that was not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks.reproduce.experiment import Experiment, Point, Refused, Setting, Trial

RECORD = "record"  # the key of the header


@dataclass
class Record:
    """What a run has measured so far.

    Attributes:
        rule: its full name.
        seed: of weights, signs and task.
        setting: what must agree for the run to be continued.
        device: likewise.
        every: ticks to an update.
        ticks: made so far.
        seconds: spent so far, over all its processes.
        cpu_seconds: likewise, of the processor: what a shared machine tells truly.
        points: the curve.
        falls_from: the tick from which the learning rate falls; None: it does not.
    """

    rule: str
    seed: int
    setting: dict[str, float | None]
    device: str
    every: int
    ticks: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    points: list[Point] = field(default_factory=list)
    falls_from: int | None = None

    def at(self, key: str, mark: int, metric: str) -> float | None:
        """The metric at so many "ticks" or "updates"; None if the run has not come so far."""
        return next((point[metric] for point in self.points if point[key] == mark), None)


def folder_of(out: Path, rule: str, seed: int) -> Path:
    """Where a run lives."""
    return out / rule / f"seed-{seed}"


def read_record(folder: Path) -> Record | None:
    """The record of a run as last saved; None if there is none."""
    path = folder / "result.json"
    if not path.exists():
        return None
    return _parsed(path.read_text(encoding="utf-8"), path)


def run(
    experiment: Experiment,
    setting: Setting,
    rule_name: str,
    seed: int,
    out: Path,
    *,
    device: str = "cpu",
    save_every_s: float = 120.0,
    tell: Callable[[Record, int], None] = lambda record, goal: None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Record:
    """Make the run, or what is missing of it; ends early, saved, once `stop()` says so.

    `tell(record, goal in ticks)` is called before the first tick and after each.
    """
    rule = experiment.rule(rule_name, setting)
    folder = folder_of(out, rule.name, seed)
    trial = experiment.start(setting, rule_name, seed, device)
    fresh = Record(rule.name, seed, setting.identity(), device, rule.every)
    goal, falling = setting.updates * rule.every, setting.falling * rule.every
    fresh.falls_from = goal - falling if falling else None
    record = _resumed(folder / "state.safetensors", trial, fresh)
    marks = {goal, *setting.marks}
    begun = saved = clock()
    cpu_begun = time.process_time()
    before_s, cpu_before_s = record.seconds, record.cpu_seconds
    tell(record, goal)
    while record.ticks < goal and not stop():
        if record.falls_from is not None and record.ticks >= record.falls_from:
            trial.set_lr(setting.lr * (goal - record.ticks) / falling)
        trial.tick()
        record.ticks += 1
        now = clock()
        record.seconds = before_s + now - begun
        record.cpu_seconds = cpu_before_s + time.process_time() - cpu_begun
        if record.ticks % setting.record_every == 0 or record.ticks in marks:
            place = {"ticks": record.ticks, "updates": record.ticks // rule.every}
            record.points.append(place | trial.point())
        tell(record, goal)
        if now - saved >= save_every_s:
            _save(folder, trial, record)
            saved = now
    _save(folder, trial, record)
    return record


def _save(folder: Path, trial: Trial, record: Record) -> None:
    text = json.dumps(asdict(record))
    folder.mkdir(parents=True, exist_ok=True)
    # copies: safetensors takes no two views of one memory
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in _state(trial).items()
    }
    _replace(folder / "state.safetensors", save(tensors, {RECORD: text}))
    _replace(folder / "result.json", text.encode())


def _state(trial: Trial) -> dict[str, Tensor]:
    learner = {f"learner/{name}": t for name, t in trial.learner.state_dict().items()}
    return learner | {f"task/{name}": t for name, t in trial.task_state().items()}


def _resumed(path: Path, trial: Trial, fresh: Record) -> Record:
    """The saved record, its trial brought to the same tick; or the fresh one."""
    if not path.exists():
        return fresh
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path}: not readable ({error}); remove it to start the run anew") from error
    record = _parsed(header.get(RECORD, ""), path)
    ours, theirs = (
        {**r.setting, "rule": r.rule, "seed": r.seed, "device": r.device} for r in (fresh, record)
    )
    if ours != theirs:
        names = [name for name in ours if ours[name] != theirs.get(name)]
        raise Refused(
            f"{path}: made with other settings ({', '.join(names)}); "
            "use another --out, or remove it to start the run anew"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    fell = [r.falls_from for r in (fresh, record) if r.falls_from is not None]
    if fresh.falls_from != record.falls_from and min(fell) < record.ticks:
        raise Refused(
            f"{path}: stands at tick {record.ticks:,}, and the learning rate would have to fall "
            f"from tick {min(fell):,}; name another --falling, or another --out"
        )
    record.falls_from = fresh.falls_from
    trial.learner.load_state_dict(part("learner/"))
    trial.load_task_state(part("task/"))
    return record


def _parsed(text: str, path: Path) -> Record:
    try:
        known: dict[str, Any] = json.loads(text)
        return Record(**known)
    except (ValueError, TypeError) as error:
        raise Refused(f"{path}: holds no record of a run ({error}); remove it") from error


def _replace(path: Path, data: bytes) -> None:
    """Write all or nothing, durably: a power cut leaves the old file or the new one."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def prepare() -> None:
    """One thread, denormals flushed: what the figures of a process depend on besides its seed."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

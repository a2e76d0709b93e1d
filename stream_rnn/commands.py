"""What the commands do."""

from __future__ import annotations

import importlib.resources
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from prometheus_client import CollectorRegistry

from stream_rnn import __version__, app, checkpoint, config, prequential, report
from stream_rnn.checkpoint import CheckpointError, Loaded, Store
from stream_rnn.cli import Temporary
from stream_rnn.config import ConfigError
from stream_rnn.console import Console, NoteHandler
from stream_rnn.metrics import Metrics
from stream_rnn.runtime import SOURCE, Runtime, SourceGone, signals
from stream_rnn.spi import Finding, NotConnected, SettingError, Sink, Source
from stream_rnn.status import StatusServer

DEMO_STEP_S = 0.0005  # of the membrane recording
DEMO_HORIZON = 10


def run(path: Path, max_events: int | None, fresh: bool) -> None:
    """`stream-rnn run`."""
    job = app.build(config.load(path))
    _run(job, max_events, fresh)


def _run(job: app.Job, max_events: int | None, fresh: bool) -> None:
    registry = CollectorRegistry()
    with ExitStack() as stack:
        store = open_store(Path(job.state.dir), job.state.keep, fresh)
        stack.callback(store.close)
        console = Console()
        runtime = make_runtime(job, store, registry, console)
        newest = _newest(store)
        if newest is not None:
            _require_same_model(job, newest)
            runtime.restore(newest)
            runtime.metrics.snapshot_fallbacks = len(newest.fallbacks)
        if job.metrics is not None:
            pages = runtime.status, runtime.live, runtime.ready
            server = _serve(job.metrics, registry, *pages)
            stack.callback(server.close)
        for line in (*job.banner, _resumed(newest, job.state.dir)):
            click.echo(line, err=True)
        for finding in job.source.check(dict(runtime.engine.positions) or None):
            click.echo(f"  {'ok ' if finding.ok else 'BUT'}          {finding.text}", err=True)
        if console.interactive:
            stack.enter_context(_notes_above(console))
        stack.callback(console.done)
        with signals(runtime):
            _guarded(job, runtime, max_events)
    click.echo(report.table(_rows(job)), err=True)


def _guarded(job: app.Job, runtime: Runtime, max_events: int | None) -> None:
    """Run; what a plug-in's `open` says about a setting becomes a configuration error."""
    try:
        runtime.run(max_events)
    except SettingError as error:
        raise ConfigError(f"{_place(job, error)} {error}") from error
    except (SourceGone, NotConnected) as error:
        raise Temporary(str(error)) from error
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error


def _place(job: app.Job, error: SettingError) -> str:
    """The table a setting error came from, by the object whose method raised it."""
    trace = error.__traceback__
    place = "[source]"
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if owner is job.dead_letters:
            place = "[dead_letter]"
        elif isinstance(owner, Sink):
            place = "[[sink]]"
        elif isinstance(owner, Source):
            place = "[source]"
        trace = trace.tb_next
    return place


def _serve(
    table: app.MetricsTable,
    registry: CollectorRegistry,
    status: Callable[[], Mapping[str, object]],
    live: Callable[[], list[str]],
    ready: Callable[[], list[str]],
) -> StatusServer:
    """The status page, open."""
    try:
        server = StatusServer(table.address, registry, status, live, ready, insecure=table.insecure)
        server.open()
    except SettingError as error:
        raise ConfigError(f"[metrics] {error}") from error
    return server


def demo(max_events: int | None, seed: int, out: Path) -> None:
    """`stream-rnn demo`."""
    state, predictions, mark = out / "state", out / "predictions.jsonl", out / ".demo"
    if not mark.exists() and (state.exists() or predictions.exists()):
        raise ConfigError(
            f"--out {out}: holds a state or predictions that no demo made, and a demo clears its "
            "folder; name another"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        mark.touch()
        if state.exists():  # our own output of the last demo
            shutil.rmtree(state)
        predictions.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    stream, title = _demo_stream(out)
    tables = stream | {
        "learner": {"kind": "auto"},
        "sink": [{"kind": "jsonl", "path": str(predictions)}],
        "state": {"dir": str(state)},
    }
    recorder = report.Recorder()
    job = app.build(tables, seed=seed, on_score=lambda *score: _record(recorder, job, *score))
    _run(job, max_events, fresh=False)
    picture = out / "demo.png"
    drawn = _plot(picture, recorder, job, title)
    click.echo(f"\npredictions  {predictions}\nsnapshots    {state}", err=True)
    if drawn:
        click.echo(f"picture      {picture}", err=True)


def _demo_stream(out: Path) -> tuple[dict[str, Any], str]:
    """A real recording that comes with an installed package, as a stream of JSON lines.

    The membrane potential of a nerve cell, 12,000 samples at 2 kHz, ships with matplotlib (the
    extra `plot`); without that, the water flow in a pipeline that ships with River.
    """
    try:
        folder = importlib.resources.files("matplotlib") / "mpl-data" / "sample_data"
        samples = np.frombuffer((folder / "membrane.dat").read_bytes(), dtype="<f4")
    except (ModuleNotFoundError, FileNotFoundError):
        river = {
            "source": {"kind": "river", "dataset": "WaterFlow"},
            "task": {"kind": "forecast", "target": "Flow", "horizon": 1},
        }
        return river, "stream-rnn demo: water flow in a pipeline, one hour ahead"
    path = out / "membrane.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for i, value in enumerate(samples.tolist()):
            file.write(json.dumps({"t_s": round(i * DEMO_STEP_S, 4), "potential": value}) + "\n")
    membrane = {
        "source": {"kind": "jsonl", "path": str(path)},
        "task": {"kind": "forecast", "target": "potential", "horizon": DEMO_HORIZON},
    }
    ahead_ms = 1000 * DEMO_HORIZON * DEMO_STEP_S
    return membrane, f"stream-rnn demo: membrane potential of a nerve cell, {ahead_ms:g} ms ahead"


def evaluate(path: Path, max_events: int | None, seeds: int, plot: Path | None) -> None:
    """`stream-rnn evaluate`."""
    tables = config.load(path)
    jobs: list[app.Job] = []
    recorder = report.Recorder()
    for seed in range(seeds):
        sink = recorder if seed == 0 else None
        jobs.append(_evaluate_once(tables, seed if seeds > 1 else None, max_events, sink))
        if seeds > 1:
            click.echo(f"seed {seed}")
        click.echo(report.table(_rows(jobs[-1])))
        rejected = {k: n for k, n in jobs[-1].engine.counts.rejected.items() if n}
        if rejected:
            click.echo(f"events that could not be used, by stage: {rejected}")
    if seeds > 1:
        click.echo(_over_seeds(jobs))
    plot = plot or Path("out") / f"{path.stem}.png"
    plot.parent.mkdir(parents=True, exist_ok=True)
    if _plot(plot, recorder, jobs[0], f"{path.stem}: {jobs[0].engine.task.describe()}"):
        click.echo(f"picture: {plot}")


def _evaluate_once(
    tables: Mapping[str, Any], seed: int | None, max_events: int | None, recorder: Any
) -> app.Job:
    """One pass over the stream: no snapshots, no sinks, no dead-letter file."""
    quiet = {k: v for k, v in tables.items() if k not in ("sink", "state", "metrics")}

    def on_score(*score: Any) -> None:
        if recorder is not None:
            _record(recorder, job, *score)

    job = app.build(quiet, seed=seed, on_score=on_score)
    job.sinks, job.dead_letters = [], _Nowhere()
    console = Console()
    runtime = make_runtime(job, None, CollectorRegistry(), console)
    with signals(runtime):
        _guarded(job, runtime, max_events)
    console.done()
    return job


class _Nowhere(Sink):
    """Forgets; the counts say what it was given."""

    def open(self) -> None:
        """Nothing to open."""

    def write(self, records: Any) -> None:
        """Forget."""

    def close(self) -> None:
        """Nothing to close."""


def check(path: Path) -> None:
    """`stream-rnn check`."""
    tables = config.load(path)
    job = app.build(tables)
    for line in job.banner:
        click.echo(line)
    cell = getattr(job.engine.learner.recurrence, "cell", None)
    if cell is not None:
        from stream_rnn.testing import check_cell

        try:
            check_cell(type(cell)(cell.n_inputs, min(cell.n_units, 4)))
        except AssertionError as error:
            raise ConfigError(f"[learner] cell: its derivatives are wrong: {error}") from error
        click.echo("  cell         closed-form derivatives equal numerical ones")
    newest = _newest_readable(checkpoint.snapshots(Path(job.state.dir)))
    if newest is not None:
        _require_same_model(job, newest)
    click.echo(_resumed(newest, job.state.dir))
    positions = None if newest is None else dict(newest.positions.get(SOURCE, {})) or None
    findings = job.source.check(positions)
    with job.source:
        try:
            job.source.open(positions)
            findings.append(Finding(True, "the source opens"))
        except SettingError as error:
            raise ConfigError(f"[source] {error}") from error
        except NotConnected as error:
            findings.append(Finding(False, f"the source is not reachable now: {error}"))
    if job.metrics is not None:
        _serve(job.metrics, CollectorRegistry(), dict, list, list).close()
    for finding in findings:
        click.echo(f"  {'ok ' if finding.ok else 'BUT'}          {finding.text}")
    if not all(finding.ok for finding in findings):
        raise ConfigError("the configuration is sound, but see BUT above")


def show(target: Path) -> None:
    """`stream-rnn show`."""
    if target.is_dir():
        _show_state(target)
        return
    tables = config.load(target)
    job = app.build(tables)
    effective = {**tables, **job.model}
    click.echo(json.dumps(config.redacted(effective), indent=2, default=str))
    click.echo(f"model fingerprint {job.fingerprint}")


def _show_state(directory: Path) -> None:
    folder = directory
    if not (directory / "manifest.json").exists():
        folders = checkpoint.snapshots(directory)
        if not folders:
            raise ConfigError(f"{directory}: no snapshots here")
        click.echo("snapshots    " + ", ".join(f.name for f in folders))
        folder = folders[0]
    try:
        loaded = checkpoint.read(folder)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    click.echo(f"newest       {folder}\nstep         {loaded.step}\ncreated      {loaded.created}")
    click.echo(f"epoch        {loaded.epoch}\nfingerprint  {loaded.fingerprint}")
    click.echo(f"positions    {json.dumps(loaded.positions)}")
    click.echo(f"execution    {json.dumps(loaded.execution)}")
    click.echo(f"model        {json.dumps(config.redacted(loaded.config), default=str)}")
    for name, tensor in sorted(loaded.tensors.items()):
        size = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        click.echo(f"  {name:<36} {size}")


def open_store(directory: Path, keep: int, fresh: bool) -> Store:
    """Take the state folder; raises ConfigError if another process holds it."""
    try:
        if fresh:
            old = checkpoint.move_aside(directory)
            if old is not None:
                click.echo(f"--fresh: the old state is now {old}", err=True)
        store = Store(directory, keep)
        store.open()
    except (CheckpointError, OSError) as error:
        raise ConfigError(f"[state] dir = {str(directory)!r}: {error}") from error
    return store


def _newest(store: Store) -> Loaded | None:
    try:
        return store.newest()
    except CheckpointError as error:
        raise ConfigError(
            f"[state] {error}; restore a snapshot from a backup, or start over with --fresh "
            "(the old state is kept)"
        ) from error


def _newest_readable(folders: list[Path]) -> Loaded | None:
    """What `Store.newest` would take, without the lock and without setting anything aside."""
    errors = []
    for folder in folders:
        try:
            return checkpoint.read(folder)
        except CheckpointError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError(f"[state] no snapshot can be trusted: {'; '.join(errors)}")
    return None


def make_runtime(
    job: app.Job, store: Store | None, registry: CollectorRegistry, console: Console
) -> Runtime:
    """A job with its metrics; `commands.run` and tests drive it."""
    task = job.engine.task
    metrics = Metrics(registry, baselines=tuple(task.scores.live()[1]))
    metrics.lanes_capacity = job.engine.lanes.capacity
    metrics.parameters = sum(p.numel() for p in job.engine.learner.parameters())
    metrics.guarantee_info = ((SOURCE, job.source.guarantee.value),)
    metrics.build_info = ((__version__, torch.__version__),)
    runtime = Runtime(
        job.source,
        job.engine,
        job.sinks,
        job.dead_letters,
        job.governor,
        job.fallback,
        job.rule,
        store,
        every_s=job.state.every_s,
        every_events=job.state.every_events,
        identity=(job.fingerprint, job.model, job.execution),
        metrics=metrics,
        console=console,
        poll_events=job.limits.poll_events,
        gone_s=job.limits.gone_s,
        unsaved_s=job.limits.unsaved_s,
    )
    metrics.snapshot_age_seconds = runtime.snapshot_age_s
    if store is not None:
        metrics.epoch = store.epoch
    return runtime


def _require_same_model(job: app.Job, loaded: Loaded) -> None:
    if loaded.fingerprint != job.fingerprint:
        lines = app.difference(job.model, loaded.config) or ["(no setting differs by name)"]
        raise ConfigError(
            f"[state] dir = {job.state.dir!r} holds another model:\n  "
            + "\n  ".join(lines)
            + "\nGive this configuration a dir of its own, or start over with --fresh "
            "(the old state is kept)"
        )
    changed = [
        f"{key}: {loaded.execution.get(key)} -> {value}"
        for key, value in job.execution.items()
        if loaded.execution.get(key) != value
    ]
    if changed:
        click.echo(
            f"  note         resuming on another execution path ({', '.join(changed)}): sound, "
            "but not bit-identical to an uninterrupted run",
            err=True,
        )


def _resumed(loaded: Loaded | None, directory: str) -> str:
    if loaded is None:
        return f"  start        fresh: no snapshot in {directory}"
    return f"  start        resumes at step {loaded.step} from {loaded.path.name}"


@contextmanager
def _notes_above(console: Console) -> Iterator[None]:
    """Log lines go above the live line instead of through it."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [NoteHandler(console)]
    try:
        yield
    finally:
        root.handlers = handlers


def _record(
    recorder: report.Recorder,
    job: app.Job,
    prediction: list[float],
    target: list[float] | int,
    loss: float,
) -> None:
    """Keep a scored prediction for the picture."""
    scores = job.engine.task.scores
    live, baselines = scores.live()
    first = job.engine.task.baseline
    point = report.Point(
        event=scores.seen,
        prediction=prediction[0],
        target=target[0] if isinstance(target, list) else float(target),
        loss=live,
        baseline_loss=baselines.get(first),
    )
    recorder.add(point)


def _plot(path: Path, recorder: report.Recorder, job: app.Job, title: str) -> bool:
    """Draw; False if the drawing library is not installed."""
    task = job.engine.task
    names = getattr(task, "targets", None)
    try:
        report.plot(
            path,
            recorder,
            title,
            rows=_rows(job),
            target=names[0] if names else "class",
            loss="loss",
            baseline=task.baseline,
        )
    except SettingError as error:
        click.echo(f"no picture: {error}", err=True)
        return False
    return True


def _rows(job: app.Job) -> list[prequential.Row]:
    """The scores to show; an L1 loss is the MAE, which says it better."""
    return [row for row in job.engine.task.scores.summary() if row.name != "absolute loss"]


def _over_seeds(jobs: list[app.Job]) -> str:
    """Mean, least and largest of every metric over the seeds."""
    lines = ["over seeds: mean (least .. largest)"]
    tables = [_rows(job) for job in jobs]
    for rows in zip(*tables, strict=True):
        values = [row.model for row in rows if row.model is not None]
        if values:
            mean = sum(values) / len(values)
            lines.append(
                f"  {rows[0].name:<20} {mean:.5g} ({min(values):.5g} .. {max(values):.5g})"
            )
    return "\n".join(lines)

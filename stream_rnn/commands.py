"""What the commands do, one function each."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry

from stream_rnn import app, ckpt, config, evaluation, report, results, resuming
from stream_rnn import demo as demo_stream
from stream_rnn.apart import rehearse
from stream_rnn.assembly.settings import MetricsTable
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.owner import last_owner
from stream_rnn.config import ConfigError
from stream_rnn.control.client import NoAnswer, ask
from stream_rnn.daemon import (
    open_readers,
    place_of,
    readers_lines,
    readers_place,
    run_job,
    serve,
)
from stream_rnn.journal.source import JournaledSource
from stream_rnn.preview import preview
from stream_rnn.readers.zeromq import ReadersSocket
from stream_rnn.runtime.checkpointing import SOURCE
from stream_rnn.spi import Finding, NotConnected, SettingError

ASK_S = 2.0
BY_ITSELF = "a daemon runs on this state folder, so it was not tried"


def run(
    path: Path,
    max_events: int | None,
    fresh: bool,
    migrate: bool = False,
    require: str | None = None,
) -> None:
    """`stream-rnn run`."""
    tables = config.load(path)
    job = app.build(tables)
    app.require(job.source, require, "--require")
    run_job(job, max_events, fresh, migrate, (path, tables))


def demo(max_events: int | None, seed: int, out: Path) -> None:
    """`stream-rnn demo`."""
    state, predictions = demo_stream.clear(out)
    stream, title = demo_stream.stream(out)
    tables = stream | {
        "learner": {"kind": "auto"},
        "sink": [{"kind": "jsonl", "path": str(predictions)}],
        "state": {"dir": str(state)},
    }
    trace = results.Trace()
    job = app.build(tables, seed=seed, on_score=lambda *score: trace.add(job.engine.task, *score))
    run_job(job, max_events, fresh=False)
    picture = out / "demo.png"
    drawn = results.plot(picture, trace, job.engine.task, title)
    click.echo(f"\npredictions  {predictions}\nsnapshots    {state}", err=True)
    if drawn:
        click.echo(f"picture      {picture}", err=True)


def evaluate(path: Path, max_events: int | None, seeds: int, plot: Path | None) -> None:
    """`stream-rnn evaluate`."""
    tables = config.load(path)
    jobs: list[app.Job] = []
    trace = results.Trace()
    for seed in range(seeds):
        kept = trace if seed == 0 else None
        jobs.append(evaluation.evaluate(tables, seed if seeds > 1 else None, max_events, kept))
        if seeds > 1:
            click.echo(f"seed {seed}")
        click.echo(report.table(results.rows(jobs[-1].engine.task)))
        rejected = {k: n for k, n in jobs[-1].engine.counts.rejected.items() if n}
        if rejected:
            click.echo(f"events that could not be used, by stage: {rejected}")
    if seeds > 1:
        click.echo(evaluation.over_seeds(jobs))
    engine = jobs[0].engine
    task = engine.task
    plot = plot or Path("out") / f"{path.stem}.png"
    plot.parent.mkdir(parents=True, exist_ok=True)
    title = f"{path.stem}: {task.describe()}"
    if results.plot(plot, trace, task, title, engine.lanes.key):
        click.echo(f"picture: {plot}")


def check(path: Path) -> None:
    """`stream-rnn check`."""
    tables = config.load(path)
    job = app.build(tables)
    for line in (*job.banner, *readers_lines(job, readers_place(job))):
        click.echo(line)
    cell = getattr(job.engine.learner.recurrence, "cell", None)
    if cell is not None:
        from stream_rnn.testing import check_cell

        try:
            check_cell(type(cell)(cell.n_inputs, min(cell.n_units, 4)))
        except AssertionError as error:
            raise ConfigError(f"[learner] cell: its derivatives are wrong: {error}") from error
        click.echo("  cell         closed-form derivatives equal numerical ones")
    resuming.require_place(Path(job.state.dir))
    newest = resuming.newest_readable(snapshot.snapshots(Path(job.state.dir)))
    if newest is not None:
        resuming.require_same_model(job, newest)
    click.echo(resuming.start_line(newest, job.state.dir))
    positions = None if newest is None else dict(newest.positions.get(SOURCE, {})) or None
    findings = job.source.check(positions)
    has_daemon = _runs(Path(job.state.dir))
    if has_daemon:
        owner = last_owner(Path(job.state.dir))
        said = f"{job.state.dir}: in use by process {owner}; a second daemon would be refused"
        findings.append(Finding(True, said))
    with job.source:
        try:
            if isinstance(job.source, JournaledSource):  # its folder belongs to a daemon that runs
                job.source.rehearse(positions)
            else:
                job.source.open(positions)
            findings.append(Finding(True, "the source opens"))
            findings += preview(job.source, job.engine, _targets(tables["task"]))
        except SettingError as error:
            if not (has_daemon and _is_taken(error)):
                raise ConfigError(f"{place_of(job, error)} {error}") from error
            findings.append(Finding(True, f"the source's address is taken: {BY_ITSELF}"))
        except NotConnected as error:
            findings.append(Finding(False, f"the source is not reachable now: {error}"))
    findings += _addresses(job, has_daemon)
    for finding in findings:
        click.echo(f"  {'ok ' if finding.ok else 'BUT'}          {finding.text}")
    if not all(finding.ok for finding in findings):
        raise ConfigError("the configuration is sound, but see BUT above")


def _addresses(job: app.Job, has_daemon: bool) -> list[Finding]:
    """Take those that a run listens at, and let them go; tells of those that its daemon has."""
    tries: list[tuple[str, Callable[[], None]]] = []
    if job.metrics is not None:
        table = job.metrics
        given = table, CollectorRegistry(), dict, list, list
        tries.append((table.address, lambda: serve(*given).close()))
    if job.apart is not None:
        apart, certified = job.apart, job.metrics or MetricsTable()
        tries.append(("a [readers] address", lambda: rehearse(apart, certified)))
    if job.readers_socket is not None:
        tries.append((job.readers_socket.address, partial(_try_socket, job.readers_socket)))
    findings = []
    for address, try_it in tries:
        try:
            try_it()
        except ConfigError as error:
            if not (has_daemon and _is_taken(error)):
                raise
            findings.append(Finding(True, f"{address} is taken: {BY_ITSELF}"))
    return findings


def _try_socket(socket: ReadersSocket) -> None:
    open_readers(socket)
    socket.close()


def _targets(task: Mapping[str, Any]) -> list[str]:
    """The fields that are predicted, where there are such."""
    target = task.get("target", [])
    return [target] if isinstance(target, str) else list(target)


def _is_taken(error: BaseException) -> bool:
    """Whether it is an address that somebody listens at."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) != errno.EADDRINUSE:
        cause = cause.__cause__
    return cause is not None


def _runs(directory: Path) -> bool:
    """Whether a daemon runs on the state folder."""
    try:
        ask(directory, "status", "", ASK_S)
    except NoAnswer:
        return False
    return True


def show(target: Path) -> None:
    """`stream-rnn show`."""
    if config.is_folder(target):
        ckpt.show(target)
        return
    tables = config.load(target)
    job = app.build(tables)
    effective = {**tables, **job.model}
    click.echo(json.dumps(config.redacted(effective), indent=2, default=str))
    click.echo(f"model fingerprint {job.fingerprint}")

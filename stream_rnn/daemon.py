"""A job run as a daemon: signals, status page, log lines, and what its accidents are called."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click
from prometheus_client import CollectorRegistry

from stream_rnn import __version__, report, results, resuming
from stream_rnn.apart import Apart, apart
from stream_rnn.app import Job
from stream_rnn.assembly.settings import MetricsTable
from stream_rnn.checkpoint import room
from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.checkpoint.rollback import link_aside
from stream_rnn.checkpoint.store import Store
from stream_rnn.cli import Temporary
from stream_rnn.config import ConfigError
from stream_rnn.console import Console, NoteHandler, printable
from stream_rnn.control.server import ControlServer
from stream_rnn.http.guard import token_in
from stream_rnn.http.live import Feed, live_stream, page
from stream_rnn.http.pages import Predict, moved, pages, predicting
from stream_rnn.http.server import HttpServer, listen
from stream_rnn.journal.source import JournaledSource
from stream_rnn.metrics import Metrics
from stream_rnn.notify import Notifier
from stream_rnn.readers.zeromq import ReadersSocket
from stream_rnn.runtime.checkpointing import SOURCE, Identity, Schedule
from stream_rnn.runtime.collector import uncollected
from stream_rnn.runtime.connection import SourceGone
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import (
    LEVELS,
    Guarantee,
    NotConnected,
    SettingError,
    Sink,
    Source,
    require_port,
    worded,
)
from stream_rnn.tuning import Tuning

_log = logging.getLogger(__name__)

TOKEN = "token"  # the file in the state folder


def run_job(
    job: Job,
    max_events: int | None,
    fresh: bool,
    migrate: bool = False,
    file: tuple[Path, Mapping[str, Any]] | None = None,
) -> None:
    """Learn until the end of the stream or a signal, with snapshots, metrics and a banner.

    Args:
        job: built, not opened.
        max_events: stop after so many.
        fresh: move the old state aside first.
        migrate: carry over what fits of another model's state.
        file: the configuration file and what it holds, to be read again on SIGHUP.
    """
    registry = CollectorRegistry()
    with ExitStack() as stack:
        store = resuming.open_store(Path(job.state.dir), job.state.keep, fresh)
        stack.callback(store.close)
        console = Console()
        notifier = Notifier.from_environment()
        stack.callback(notifier.close)
        runtime = make_runtime(job, store, registry, console, notifier)
        tuning = Tuning(runtime, job.state, job.limits, file)
        runtime.control.tune = tuning.assign
        runtime.control.reload = None if file is None else tuning.reload
        with uncollected():
            newest = resuming.newest(store)
        if newest is not None:
            if migrate and newest.fingerprint != job.fingerprint:
                old, newest = newest, resuming.migrated(job, newest)
                kept = link_aside(old.path.parent, old.fingerprint)
                click.echo(f"  old state    its snapshots are kept in {kept}", err=True)
                runtime.checkpointing.begin_as(newest.migrated_from)
            resuming.require_same_model(job, newest)
            with uncollected():
                runtime.restore(newest)
            runtime.metrics.snapshot_fallbacks = len(newest.fallbacks)
        folder, table = Path(job.state.dir), job.metrics or MetricsTable()
        asked_at = readers_place(job)
        elsewhere = None
        if job.apart is not None:
            token = partial(post_token, table, folder)
            given = job.apart, job.engine, job.model, table, token, runtime.watch.ready_alone
            beside = stack.enter_context(apart(*given))
            table = replace(table, token=token())
            attend(runtime, beside)
            elsewhere = beside.places
            asked_at = f"{elsewhere}, a process of their own"
        if job.metrics is not None:
            watch = runtime.watch
            server = serve(
                table,
                registry,
                watch.status,
                watch.live,
                watch.ready,
                feed=watch.feed,
                predict=None if job.readers is None else job.readers.answer,
                elsewhere=elsewhere,
                state_dir=folder,
            )
            stack.callback(server.close)
        stack.enter_context(controlled(runtime, store))
        if job.readers_socket is not None:
            open_readers(job.readers_socket)
            stack.callback(job.readers_socket.close)
            asked_at = job.readers_socket.address
        for line in (
            *job.banner,
            *readers_lines(job, asked_at),
            resuming.start_line(newest, job.state.dir),
        ):
            click.echo(line, err=True)
        if runtime.freeze.since_step is not None:
            text = f"since step {runtime.freeze.since_step}: nothing is learned until ctl unfreeze"
            click.echo(f"  frozen       {text}", err=True)
        runtime.watch.findings = job.source.check(dict(runtime.engine.positions) or None)
        for finding in runtime.watch.findings:
            click.echo(f"  {'ok ' if finding.ok else 'BUT'}          {finding.text}", err=True)
        if console.interactive:
            stack.enter_context(_notes_above(console))
        stack.callback(console.done)
        with signals(runtime), requests_by_signal(runtime, console):
            guarded(job, runtime, max_events)
    click.echo(report.table(results.rows(job.engine.task)), err=True)
    for line in unused(runtime):
        click.echo(line, err=True)


def readers_place(job: Job) -> str | None:
    """Where readers ask, as configured; None: nobody answers them."""
    if job.apart is not None:
        places = [each for each in (job.apart.http, job.apart.address) if each is not None]
        return f"{', '.join(places)}, a process of their own"
    if job.readers_socket is not None:
        return job.readers_socket.address
    return None if job.readers is None else "no address of their own"


def readers_lines(job: Job, asked_at: str | None) -> list[str]:
    """For the banner: where readers ask, and where the token is that is made for HTTP."""
    if asked_at is None:
        return []
    lines = [f"  readers      {asked_at}"]
    table = job.metrics or MetricsTable()
    if table.token is None and (job.apart is not None or job.metrics is not None):
        lines.append(f"  token        {Path(job.state.dir) / TOKEN}, for POST /predict")
    return lines


def unused(runtime: Runtime) -> list[str]:
    """For people, at the end: how many events of this run could not be used, and why the newest."""
    counts = runtime.engine.counts
    by_stage = {stage: n for stage, n in counts.rejected.items() if n}
    if not by_stage:
        return [] if counts.applied else ["no event came"]
    stages = ", ".join(f"{stage} {n:,}" for stage, n in by_stage.items())
    newest = [printable(letter["reason"]) for letter in runtime.outputs.newest_letters[-1:]]
    why = f"; the newest: {newest[0]}" if newest else ""
    n = sum(by_stage.values())
    return [f"{n:,} {worded(n, 'event')} could not be used ({stages}){why}"]


def make_runtime(
    job: Job,
    store: Store | None,
    registry: CollectorRegistry,
    console: Console,
    notifier: Notifier | None = None,
) -> Runtime:
    """A job with its metrics; `run_job` and tests drive it."""
    task = job.engine.task
    metrics = Metrics(registry, baselines=tuple(task.scores.live()[1]))
    metrics.lanes_capacity = job.engine.lanes.capacity
    metrics.parameters = sum(p.numel() for p in job.engine.learner.parameters())
    metrics.guarantee_info = ((SOURCE, LEVELS[job.source.guarantee]),)
    journal = job.source if isinstance(job.source, JournaledSource) else None
    behind = job.source if journal is None else journal.inner
    if behind.guarantee is Guarantee.REPLAYABLE:
        metrics.recovery_gap_events = 0  # what a crash took away comes again
    if journal is not None:
        metrics.journal_bytes = lambda: journal.size_bytes
        metrics.journal_segments = lambda: journal.n_segments
        metrics.journal_lag_events = lambda: journal.backlog
        journal.on_fsync(metrics.journal_fsync_seconds.observe)
    metrics.build_info = ((__version__, job.execution["torch"]),)
    runtime = Runtime(
        job.source,
        job.engine,
        job.sinks,
        job.dead_letters,
        job.governor,
        job.ladder,
        lambda: job.ladder.rule,
        store,
        schedule=Schedule(job.state.every_s, job.state.every_events),
        identity=Identity(job.fingerprint, job.model, job.execution),
        metrics=metrics,
        console=console,
        poll_events=job.limits.poll_events,
        gone_s=job.limits.gone_s,
        unsaved_s=job.limits.unsaved_s,
        overload=job.overload,
        # without a state folder it is an evaluation: nobody is there to resume it
        breaker=(0, 1.0) if store is None else job.limits.breaker,
        notifier=notifier,
        loses_what_waits=behind.guarantee is Guarantee.FIRE_AND_FORGET,
    )
    if journal is not None:
        journal.saved_step = lambda: runtime.checkpointing.saved_step
    metrics.loop_age_seconds = runtime.watch.silent_s
    metrics.ready = lambda: float(not runtime.watch.ready())
    metrics.snapshot_age_seconds = runtime.checkpointing.age_s
    metrics.unsaved_seconds = runtime.checkpointing.unsaved_s
    if job.readers is not None:
        runtime.readers = job.readers
        metrics.reader_requests = job.readers.counts
        metrics.reader_copy_age_seconds = job.readers.age_s
        metrics.reader_copy_seconds = job.readers.newest_copy_s
    if store is not None:
        metrics.epoch = store.epoch
        metrics.state_free_bytes = partial(room.free_bytes, store.directory)
        metrics.state_size_bytes = partial(room.size_bytes, store.directory)
    return runtime


def guarded(job: Job, runtime: Runtime, max_events: int | None) -> None:
    """Run; what a plug-in's `open` says about a setting becomes a configuration error."""
    try:
        runtime.run(max_events)
    except SettingError as error:
        raise ConfigError(f"{place_of(job, error)} {error}") from error
    except (SourceGone, NotConnected) as error:
        raise Temporary(str(error)) from error
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error


def place_of(job: Job, error: SettingError) -> str:
    """The table a setting error came from, by the object whose method raised it."""
    trace = error.__traceback__
    place = "[source]"
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if owner is job.dead_letters:
            place = "[dead_letter]"
        elif isinstance(owner, Sink):
            place = "[[sink]]"
        elif isinstance(owner, JournaledSource):
            place = "[journal]"
        elif isinstance(owner, Source):
            place = "[source]"
        trace = trace.tb_next
    return place


def serve(
    table: MetricsTable,
    registry: CollectorRegistry,
    status: Callable[[], Mapping[str, object]],
    live: Callable[[], list[str]],
    ready: Callable[[], list[str]],
    *,
    feed: Feed | None = None,
    predict: Predict | None = None,
    elsewhere: str | None = None,
    state_dir: Path | None = None,
) -> HttpServer:
    """The HTTP server, open.

    Args:
        table: `[metrics]`.
        registry: what /metrics shows.
        status: what /status shows.
        live: reasons against /livez.
        ready: reasons against /readyz.
        feed: what the live page draws.
        predict: what POST /predict answers; without it there is no such page.
        elsewhere: where it is answered instead.
        state_dir: where a token is kept if one is needed and none is configured.
    """
    routes = {**page(), **pages(registry, status, live, ready)}
    if feed is not None:
        routes |= live_stream(feed, ready)
    if predict is not None:
        routes |= predicting(predict)
    elif elsewhere is not None:
        routes |= moved(elsewhere)
    token = table.token
    with ExitStack() as undo:
        try:
            listening = listen(*require_port(table.address))
            undo.callback(listening.close)
            if predict is not None and state_dir is not None:  # not before the port is ours
                token = post_token(table, state_dir)
            server = HttpServer(
                table.address,
                routes,
                insecure=table.insecure,
                token=token,
                certificate=table.certificate,
                key=table.key,
                listening=listening,
            )
            server.open()
        except SettingError as error:
            raise ConfigError(f"[metrics] {error}") from error
        undo.pop_all()
    if not server.local and table.token is not None and table.certificate is None:
        _log.warning(
            "[metrics] the token travels in clear: anybody on the way reads it; set certificate "
            "and key"
        )
    return server


def post_token(table: MetricsTable, state_dir: Path) -> str:
    """What POST /predict needs: the configured token, or one that is made and kept."""
    if table.token is not None:
        return table.token
    try:
        return token_in(state_dir / TOKEN)
    except SettingError as error:
        raise ConfigError(f"[metrics] {error}") from error


def attend(runtime: Runtime, beside: Apart) -> None:
    """Let a running readers' process have copies, be counted, and be among the reasons."""
    supervisor, metrics = beside.supervisor, runtime.metrics
    runtime.readers = beside.shared
    runtime.watch.others = supervisor.reasons
    runtime.watch.more_status = lambda: {"readers": supervisor.status()}
    metrics.reader_requests = beside.shared.counts
    metrics.reader_copy_age_seconds = beside.shared.age_s
    metrics.reader_copy_seconds = beside.shared.newest_copy_s
    metrics.reader_restarts = lambda: supervisor.restarts


def open_readers(socket: ReadersSocket) -> None:
    """The socket that readers ask, open."""
    try:
        socket.open()
    except SettingError as error:
        raise ConfigError(f"[readers] {error}") from error


@contextmanager
def controlled(runtime: Runtime, store: Store) -> Iterator[None]:
    """The control socket, open; a folder that can hold none costs `ctl`, not the daemon."""
    server = ControlServer(store.directory, runtime.control.ask, runtime.watch.live)
    try:
        server.open()
    except OSError as error:
        _log.warning("no control socket, `stream-rnn ctl` will not work: %s", error.strerror)
    try:
        yield
    finally:
        server.close()


@contextmanager
def _notes_above(console: Console) -> Iterator[None]:
    """Log lines go above the live line instead of through it."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [NoteHandler(console)]
    try:
        yield
    finally:
        root.handlers = handlers


@contextmanager
def signals(runtime: Runtime) -> Iterator[None]:
    """SIGTERM and SIGINT drain and snapshot; a second one leaves at once."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        runtime.stop()

    with _handled({signal.SIGTERM: handle, signal.SIGINT: handle}):
        yield


@contextmanager
def requests_by_signal(runtime: Runtime, console: Console) -> Iterator[None]:
    """SIGUSR1: snapshot now; SIGHUP: read the configuration again. Both only take note.

    A terminal that was closed sends SIGHUP as well: then it means what it always meant, leave.
    """

    def snapshot(number: int, frame: FrameType | None) -> None:
        runtime.control.wants_snapshot()

    def hang_up(number: int, frame: FrameType | None) -> None:
        if console.interactive and not os.isatty(sys.stderr.fileno()):
            runtime.stop()
        else:
            runtime.control.wants_reload()

    with _handled({signal.SIGUSR1: snapshot, signal.SIGHUP: hang_up}):
        yield


@contextmanager
def _handled(
    handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]],
) -> Iterator[None]:
    before = {number: signal.signal(number, handle) for number, handle in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

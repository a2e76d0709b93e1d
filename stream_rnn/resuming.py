"""Where a run continues: the state folder taken, its newest snapshot, and whether it fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryFile

import click
import msgspec

from stream_rnn.app import Job, fingerprint, task_of, written_out
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.compare import differences
from stream_rnn.checkpoint.files import CheckpointError, PerhapsIntact
from stream_rnn.checkpoint.owner import move_aside
from stream_rnn.checkpoint.snapshot import Loaded
from stream_rnn.checkpoint.store import Store
from stream_rnn.config import ConfigError
from stream_rnn.journal.records import PARTITION
from stream_rnn.journal.source import JournaledSource
from stream_rnn.runtime.checkpointing import SOURCE, UNFIT


def open_store(directory: Path, keep: int, fresh: bool) -> Store:
    """Take the state folder; raises ConfigError if another process holds it."""
    try:
        if fresh:
            old = move_aside(directory)
            if old is not None:
                click.echo(f"--fresh: the old state is now {old}", err=True)
        store = Store(directory, keep)
        store.open()
    except (CheckpointError, OSError) as error:
        raise ConfigError(f"[state] dir = {str(directory)!r}: {error}") from error
    return store


def require_place(directory: Path) -> None:
    """Refuse a state folder that could not be made or written. Leaves nothing behind."""
    place = f"[state] dir = {str(directory)!r}"
    try:
        there = next(each for each in (directory, *directory.parents) if each.exists())
        if not there.is_dir():
            raise ConfigError(f"[state] dir: {str(there)!r} is no folder; name another place")
        with TemporaryFile(dir=there):  # permissions alone do not tell: /proc, a full disk
            pass
    except OSError as error:
        raise ConfigError(
            f"{place}: nothing can be written there ({error.strerror}); check the path and its "
            "permissions, or name another place"
        ) from error


def newest(store: Store) -> Loaded | None:
    """The snapshot to continue from; raises ConfigError if there are some and none is sound."""
    try:
        return _written_out(store.newest())
    except CheckpointError as error:
        raise ConfigError(f"[state] {error}") from error  # it names the remedy


def newest_readable(folders: list[Path]) -> Loaded | None:
    """What `Store.newest` would take, without the lock and without setting anything aside."""
    errors = []
    for folder in folders:
        try:
            return _written_out(snapshot.read(folder))
        except PerhapsIntact as error:
            raise ConfigError(f"[state] {error}") from error
        except CheckpointError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError(f"[state] no snapshot can be trusted: {'; '.join(errors)}")
    return None


def _written_out(loaded: Loaded | None) -> Loaded | None:
    """A snapshot of an earlier version, with what its model left to the defaults of then."""
    if loaded is None or (model := written_out(loaded.config)) == loaded.config:
        return loaded
    return dataclasses.replace(loaded, config=model, fingerprint=fingerprint(model))


def require_same_model(job: Job, loaded: Loaded) -> None:
    """Refuse the state of another model; note another execution path."""
    if loaded.fingerprint != job.fingerprint:
        lines = [
            f"{name}: the state has {_shown(theirs)}, the configuration {_shown(ours)}"
            for name, ours, theirs in differences(job.model, loaded.config)
        ] or ["(no setting differs by name)"]
        raise ConfigError(
            f"[state] dir = {job.state.dir!r} holds another model:\n  "
            + "\n  ".join(lines)
            + f"\n{_remedies(loaded.step)}"
        )
    stood = loaded.positions.get(SOURCE, {})
    if PARTITION in stood and not isinstance(job.source, JournaledSource):
        raise ConfigError(
            f"[state] dir = {job.state.dir!r}: was learned through a journal, up to its event "
            f"{stood[PARTITION]}; put the [journal] table back, or start over with --fresh "
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


def _remedies(step: int) -> str:
    """What to do with the state of another model that has learned so many ticks."""
    if not step:
        return (
            "It has learned nothing yet: start over with --fresh, which loses nothing (the old "
            "state is kept), or give this configuration a dir of its own"
        )
    return (
        "Write what the state has into this configuration to go on with it, give it a dir "
        "of its own, carry over what fits with --migrate, or start over with --fresh (the old "
        "state is kept)"
    )


def _shown(value: object) -> str:
    return "none (the default)" if value is None else repr(value)


def migrated(job: Job, loaded: Loaded) -> Loaded:
    """Another model's snapshot as this job's state; tells what is carried and what starts afresh.

    Raises:
        ConfigError: nothing that was learned fits, or the snapshot is damaged.
    """
    from stream_rnn.migration import Refused, Side, migrate

    place = f"[state] dir = {job.state.dir!r}"
    learner = job.engine.learner
    tensors = learner.state_dict()
    moved = {"update": learner.recurrence.parameters(), "head_update": learner.head.parameters()}
    for part, update in (("update", learner.update), ("head_update", learner.head_update)):
        fresh_state = update.fresh_state(moved[part])
        tensors |= {f"{part}.{name}": tensor.cpu() for name, tensor in fresh_state.items()}
    names = {
        part: [name for each in parameters for name, t in tensors.items() if t is each]
        for part, parameters in moved.items()
    }
    host = {"engine": job.engine.state_dict(), "governor": job.governor.state_dict()}
    task = job.engine.task
    on_host = {name: tensor.cpu() for name, tensor in tensors.items()}
    new = Side(job.model, on_host, host, task.input_names(), task.output_names())
    try:
        theirs = task_of(loaded.config)
        old = Side(
            loaded.config,
            loaded.tensors,
            msgspec.json.decode(loaded.host),
            theirs.input_names(),
            theirs.output_names(),
        )
        done = migrate(old, new, names)
    except Refused as error:
        raise ConfigError(
            f"{place}: {error}: --migrate has nothing to go on with; start over with --fresh (the "
            "old state is kept)"
        ) from error
    except (ConfigError, *UNFIT) as error:
        raise ConfigError(
            f"{place}: {loaded.path.name} cannot be migrated: {error!r}; it is damaged, or from a "
            "version whose settings were others: start over with --fresh (the old state is kept)"
        ) from error
    for title, lines in (("carried", done.carried), ("afresh", done.fresh)):
        click.echo(f"  {title:<12} {', '.join(lines) or 'nothing'}", err=True)
    origin = {"step": loaded.step, "folder": loaded.path.name, "fingerprint": loaded.fingerprint}
    return dataclasses.replace(
        loaded,
        tensors=done.tensors,
        host=msgspec.json.encode(done.host),
        fingerprint=job.fingerprint,
        config=job.model,
        migrated_from=origin,
    )


def start_line(loaded: Loaded | None, directory: str) -> str:
    """What the banner says of where a run begins."""
    if loaded is None:
        return f"  start        fresh: no snapshot in {directory}"
    return f"  start        resumes at step {loaded.step} from {loaded.path.name}"

"""`stream-rnn ckpt`: look into snapshots, compare them, check them, go back, take one out."""

from __future__ import annotations

import json
from pathlib import Path

import click

from stream_rnn import config
from stream_rnn.app import build_source
from stream_rnn.assembly.settings import build_state
from stream_rnn.checkpoint import compare, export, snapshot
from stream_rnn.checkpoint.files import CheckpointError, PerhapsIntact, explained
from stream_rnn.checkpoint.rollback import roll_back
from stream_rnn.checkpoint.snapshot import Loaded
from stream_rnn.config import ConfigError
from stream_rnn.console import printable
from stream_rnn.runtime.checkpointing import SOURCE
from stream_rnn.spi import Guarantee

Positions = dict[str, dict[str, int | str]]


def folder_of(target: Path) -> Path:
    """The state folder that `target` is, or that the configuration `target` names."""
    with config.looked_at(target):
        if target.is_dir():
            return target
        if not target.exists():
            raise ConfigError(f"{target}: no such state folder or configuration")
    return Path(build_state(config.load(target)).dir)


def show(target: Path) -> None:
    """What the newest snapshot of a state folder holds, or that snapshot folder's own."""
    if not _is_snapshot(target):
        folders = _snapshots(target)
        click.echo("snapshots    " + ", ".join(folder.name for folder in folders))
        target = folders[0]
    loaded = _read(target)
    click.echo(f"newest       {loaded.path}\nstep         {loaded.step}")
    click.echo(f"created      {printable(loaded.created)}")
    click.echo(f"epoch        {loaded.epoch}\nfingerprint  {printable(loaded.fingerprint)}")
    click.echo(f"positions    {json.dumps(loaded.positions)}")
    click.echo(f"execution    {json.dumps(loaded.execution)}")
    if loaded.migrated_from:
        click.echo(f"migrated     {json.dumps(loaded.migrated_from)}")
    click.echo(f"model        {json.dumps(config.redacted(loaded.config), default=str)}")
    for name, tensor in sorted(loaded.tensors.items()):
        size = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        click.echo(f"  {printable(name):<36} {size}")


def ls(target: Path) -> None:
    """One line for each snapshot, newest first; every one is verified."""
    head = ["name", "step", "created", "size", "epoch", "parent", "verified", "positions"]
    rows = [head]
    for folder in _snapshots(folder_of(target)):
        size = ""
        try:
            with explained(folder):
                files = [entry for entry in folder.iterdir() if entry.is_file()]
                size = _size(sum(file.stat().st_size for file in files))
            loaded = snapshot.read(folder)
        except CheckpointError as error:
            verified = "no" if isinstance(error, PerhapsIntact) else "DAMAGED"
            rows.append([folder.name, "", "", size, "", "", verified, printable(str(error))])
            continue
        parent = "-" if loaded.parent is None else str(loaded.parent)
        row = [folder.name, str(loaded.step), printable(loaded.created), size]
        row += [str(loaded.epoch), parent, "yes", json.dumps(loaded.positions.get(SOURCE, {}))]
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    for row in rows:
        click.echo("  ".join([c.ljust(w) for c, w in zip(row, widths, strict=False)] + row[-1:]))


def verify(target: Path) -> None:
    """Every snapshot in full: hashes, headers, shapes, numbers; exit code 1 if one is bad."""
    directory = folder_of(target)
    bad = 0
    for folder in _snapshots(directory):
        try:
            loaded = snapshot.read(folder)
        except CheckpointError as error:
            bad += 1
            click.echo(f"BAD  {folder.name}  {printable(str(error))}")
        else:
            n_numbers = sum(tensor.numel() for tensor in loaded.tensors.values())
            click.echo(f"ok   {folder.name}  {len(loaded.tensors)} tensors, {n_numbers} numbers")
    for folder in sorted(directory.glob("damaged-step-*")):
        bad += 1
        click.echo(f"BAD  {folder.name}  found damaged at a start, and set aside")
    if bad:
        raise click.ClickException(f"{bad} damaged; a start takes the newest sound one")


def diff(first: Path, second: Path) -> None:
    """From A to B: settings, positions, how far each tensor moved, host state."""
    a, b = _newest(first), _newest(second)
    click.echo(f"A  {a.path}  step {a.step}\nB  {b.path}  step {b.step}\nsettings")
    settings = list(compare.differences(config.redacted(a.config), config.redacted(b.config)))
    for name, one, other in settings:
        click.echo(f"  {printable(name)}: {json.dumps(one)} -> {json.dumps(other)}")
    if not settings:
        click.echo("  same")
    click.echo("positions")
    for line in _moves(a.positions, b.positions):
        click.echo(line)
    click.echo("tensors (|B - A| / |A|)")
    for name, told in compare.tensor_changes(a, b):
        click.echo(f"  {printable(name):<36} {told}")
    click.echo("host state")
    for name, told in compare.host_changes(a, b):
        click.echo(f"  {printable(name):<48} {told}")


def rollback(target: Path, to: str) -> None:
    """Move what is newer than `to` aside; the next start continues from there."""
    directory = folder_of(target)
    try:
        done = roll_back(directory, to)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    click.echo(f"next start   {done.target.path} (step {done.target.step}, epoch {done.epoch})")
    if done.aside is None:
        click.echo("             it is the newest already; nothing was moved")
        return
    click.echo(f"moved aside  {', '.join(done.moved)} -> {done.aside}")
    click.echo("positions    of the newest sound one before -> now")
    for line in _moves(done.before or {}, done.target.positions):
        click.echo(line)
    for line in _consequence(target):
        click.echo(line)


def take_out(target: Path, step: str, file: Path, *, mean: bool = False) -> None:
    """Parameters (or their running means) as .safetensors and .json, or all of it as .tar."""
    directory = folder_of(target)
    if file.suffix not in (".safetensors", ".tar"):
        raise ConfigError(
            f"{file}: expected a name ending in .safetensors (parameters alone) or .tar (all of it)"
        )
    if mean and file.suffix == ".tar":
        raise ConfigError(f"{file}: a .tar holds the means already; --mean goes with .safetensors")
    try:
        folder = _snapshots(directory)[0] if step == "newest" else snapshot.find(directory, step)
        loaded = snapshot.read(folder)
        if file.suffix == ".tar":
            written = export.export_whole(loaded, file)
        else:
            written = export.export_parameters(loaded, file, mean=mean)
        for path in written:
            click.echo(f"wrote        {path} ({_size(path.stat().st_size)})")
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def _consequence(target: Path) -> list[str]:
    """What going back means for the events in between, as far as the source is known."""
    again = "the events between the two positions are learned again"
    lost = "a source that cannot rewind does not bring them again: what they taught is lost"
    acked = (
        "what was acknowledged may be gone at the source; whether it still has them is checked "
        "at the next start"
    )
    if target.is_dir():
        lines = [f"{again} if the source rewinds;", f"{lost};", acked]
        return [f"             {line}" for line in lines]
    tables = config.load(target)
    source = build_source(tables)
    known = {
        Guarantee.REPLAYABLE: [acked] if source.forgets_acked else [again],
        Guarantee.ACKABLE: [lost, acked],
        Guarantee.FIRE_AND_FORGET: [lost],
    }
    lines = [f"{again}, from the journal"] if "journal" in tables else known[source.guarantee]
    return [f"             {line}" for line in lines]


def _moves(before: Positions, after: Positions) -> list[str]:
    lines = []
    for source in sorted({*before, *after}):
        ours, theirs = before.get(source, {}), after.get(source, {})
        for partition in sorted({*ours, *theirs}):
            one, other = ours.get(partition, "-"), theirs.get(partition, "-")
            told = "same" if one == other else f"{one} -> {other}"
            if isinstance(one, int) and isinstance(other, int) and one != other:
                told += f" ({other - one:+d})"
            lines.append(f"  {printable(f'{source} {partition}')}: {printable(told)}")
    return lines or ["  none"]


def _snapshots(directory: Path) -> list[Path]:
    with config.looked_at(directory):
        folders = snapshot.snapshots(directory)
    if not folders:
        raise ConfigError(f"{directory}: no snapshots here")
    return folders


def _is_snapshot(folder: Path) -> bool:
    with config.looked_at(folder):
        return (folder / "manifest.json").exists()


def _newest(target: Path) -> Loaded:
    if not _is_snapshot(target):
        target = _snapshots(folder_of(target))[0]
    return _read(target)


def _read(folder: Path) -> Loaded:
    try:
        return snapshot.read(folder)
    except CheckpointError as error:
        raise ConfigError(printable(str(error))) from error


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.2f} MB" if n_bytes >= 10_000 else f"{n_bytes} B"

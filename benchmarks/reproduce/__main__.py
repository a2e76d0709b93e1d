"""The command: python -m benchmarks.reproduce NAME --size small|full ...

Killed at any moment, it goes on where it was when started again with the same arguments.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import FrameType

import click

from benchmarks.reproduce.adaptive import Adaptive, AdaptiveVaried
from benchmarks.reproduce.add_task import AddTask
from benchmarks.reproduce.copy_task import CopyTask
from benchmarks.reproduce.experiment import Experiment, Refused, Setting
from benchmarks.reproduce.jobs import run_all
from benchmarks.reproduce.progress import (
    Bar,
    Bars,
    Display,
    Lines,
    Sent,
    received,
    run_name,
    standing_of,
)
from benchmarks.reproduce.ptb import Ptb
from benchmarks.reproduce.runner import folder_of, prepare, read_record, run
from benchmarks.reproduce.table import write

EXPERIMENTS: dict[str, type[Experiment]] = {
    "adaptive": Adaptive,
    "adaptive-varied": AdaptiveVaried,
    "add": AddTask,
    "copy": CopyTask,
    "ptb": Ptb,
}

REFUSED = 78  # exit codes as of `stream-rnn`
STOPPED = 143


def seeds_of(text: str) -> tuple[int, ...]:
    """Numbers from text such as "0-4" or "0,2,7"; raises Refused."""
    seeds: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", item, re.ASCII)
        if match is None:
            raise Refused(f"--seeds: expected for example 0-4 or 0,2,7, got {text[:40]!r}")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not seeds:
        raise Refused(f"--seeds: none in {text[:40]!r}; the first must not exceed the last")
    return tuple(dict.fromkeys(seeds))


def _takes() -> str:
    """A line for each experiment; the first character keeps click from filling them."""
    lines = [
        f"{name:<16} small {told.takes['small']:<8} full {told.takes['full']}"
        for name, told in EXPERIMENTS.items()
    ]
    head = "What all rules and seeds of a size take on two cores (--jobs 2):"
    return "\n".join(["\b", head, *lines])


@click.command(epilog=_takes())
@click.argument("name", type=click.Choice(sorted(EXPERIMENTS)))
@click.option("--size", type=click.Choice(["small", "full"]), default="small", show_default=True)
@click.option("--rules", help="Comma-separated, for example ok,ok-8-joint,kf,uoro,tbptt-lock-10.")
@click.option("--seeds", help="For example 0-4 or 0,2,7.")
@click.option("--updates", type=int, help="Other than the size's; a longer run continues.")
@click.option("--falling", type=int, help="Last updates over which the learning rate falls to 0.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder or zip file of the corpus.")
@click.option("--out", type=click.Path(path_type=Path), help="[default: out/reproduce/NAME-SIZE]")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--save-every-s", type=click.FloatRange(min=0), default=120.0, show_default=True)
@click.option("--worker", is_flag=True, hidden=True, help="Make the runs here, write no table.")
def main(
    name: str,
    size: str,
    rules: str | None,
    seeds: str | None,
    updates: int | None,
    falling: int | None,
    data: Path | None,
    out: Path | None,
    jobs: int,
    device: str,
    save_every_s: float,
    worker: bool,
) -> None:
    """Run a published experiment again and lay the figures side by side."""
    try:
        setting = EXPERIMENTS[name].sizes[size].lasting(updates).ending(falling)
        chosen = tuple(rules.split(",")) if rules else setting.rules
        which = seeds_of(seeds) if seeds else setting.seeds
        out = (out or Path("out/reproduce") / f"{name}-{size}").absolute()
        experiment = EXPERIMENTS[name](data)
        full = [experiment.rule(rule, setting).name for rule in chosen]
        pairs = [(rule, seed) for seed in which for rule in dict.fromkeys(full)]
        every = {rule: experiment.rule(rule, setting).every for rule in full}
        goals = {run_name(rule, seed): setting.updates * every[rule] for rule, seed in pairs}
        with closing(_display(goals, jobs, worker)) as display:
            if worker or jobs == 1:
                is_complete = _here(experiment, setting, pairs, out, device, save_every_s, display)
            else:
                common = [name, "--size", size, "--out", str(out), "--device", device, "--worker"]
                common += ["--updates", str(updates)] if updates else []
                common += ["--falling", str(falling)] if falling else []
                common += ["--data", str(data.absolute())] if data else []
                common += ["--save-every-s", str(save_every_s)]
                each = [[*common, "--rules", rule, "--seeds", str(seed)] for rule, seed in pairs]
                codes = run_all(each, jobs, lambda line: display.show(received(line)))
                is_complete = not any(codes)
        if not worker:
            _report(experiment, setting, size, pairs, out)
    except Refused as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(REFUSED)
    if not is_complete:
        click.echo("not all runs have ended; the same command goes on where they are", err=True)
        sys.exit(STOPPED)


def _display(goals: Mapping[str, int], n_jobs: int, is_worker: bool) -> Display:
    """What fits whoever looks: the process above, a file, or a terminal."""
    if is_worker:
        return Sent()
    if not sys.stderr.isatty():
        return Lines()
    return Bar(sys.stderr) if n_jobs == 1 else Bars(goals, n_jobs, sys.stderr)


def _here(
    experiment: Experiment,
    setting: Setting,
    pairs: list[tuple[str, int]],
    out: Path,
    device: str,
    save_every_s: float,
    display: Display,
) -> bool:
    """Make the runs in this process; whether all came to their end."""
    stopping: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    prepare()
    before = {n: signal.signal(n, on_signal) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        for rule, seed in pairs:
            run(
                experiment,
                setting,
                rule,
                seed,
                out,
                device=device,
                save_every_s=save_every_s,
                tell=lambda record, goal: display.show(standing_of(experiment, record, goal)),
                stop=lambda: bool(stopping),
            )
            if stopping:
                return False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return True


def _report(
    experiment: Experiment, setting: Setting, size: str, pairs: list[tuple[str, int]], out: Path
) -> None:
    records = [read_record(folder_of(out, rule, seed)) for rule, seed in pairs]
    found = [record for record in records if record is not None]
    if found:
        click.echo(write(experiment, setting, size, found, out))
        click.echo(f"the table (Markdown, JSON) and plot.png are in {out}", err=True)


if __name__ == "__main__":
    main()

"""The commands, declared; what they do is in `commands`, imported only when one runs.

`--help` must answer at once, so nothing here imports torch.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stream_rnn import __version__
from stream_rnn.config import ConfigError
from stream_rnn.ctl import VERBS, command

OK, CRASH, TEMPORARY, CONFIGURATION, INTERRUPTED = 0, 1, 75, 78, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="stream-rnn")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def cli(verbose: bool) -> None:
    """Learn a recurrent network from an unbounded event stream, one update per event.

    \b
    Exit codes: 0 done, 1 crash, 75 temporary (source gone too long), 78 configuration,
    130 interrupted.
    """  # noqa: D301 - click reads the backspace
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", force=True)
    # matplotlib tells at INFO that it has looked through the fonts, once in a home
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)


# who may not read it is told by the command, with the remedy
any_path = click.Path(path_type=Path, readable=False)
config_argument = click.argument("config", type=any_path)
max_events_option = click.option(
    "--max-events", type=click.IntRange(min=1), help="Stop after this many events."
)
plot_option = click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a picture (.png) or a page (.html) here.",
)


@cli.command()
@config_argument
@max_events_option
@click.option("--fresh", is_flag=True, help="Move the old state aside (never deleted), start anew.")
@click.option("--migrate", is_flag=True, help="Carry over what fits of another model's state.")
@click.option(
    "--require",
    type=click.Choice(["exactly-once-effect", "at-least-once"]),
    help="Refuse a source that promises less.",
)
def run(
    config: Path, max_events: int | None, fresh: bool, migrate: bool, require: str | None
) -> None:
    """Run the daemon; resumes where the last snapshot ends.

    \b
    SIGTERM, SIGINT  drain, snapshot, exit 0; a second one leaves at once, as does one
                     in the seconds before it starts (143, 130)
    SIGUSR1          snapshot now
    SIGHUP           read the configuration again
    """  # noqa: D301 - click reads the backspace
    for number in (signal.SIGUSR1, signal.SIGHUP):  # until the daemon takes them: they would kill
        signal.signal(number, signal.SIG_IGN)
    if fresh and migrate:
        raise ConfigError("--fresh starts over, --migrate carries over: give one of them")
    try:
        from stream_rnn import commands

        commands.run(config, max_events, fresh, migrate, require)
    except KeyboardInterrupt as error:  # the daemon, once it runs, takes the signal itself
        raise Interrupted("interrupted before the start; nothing was learned") from error


@cli.command(epilog="\b\n" + "\n".join(f"{verb:11} {does}" for verb, does in VERBS.items()))
@click.argument("target", type=any_path, metavar="CONFIG|STATE_DIR")
@click.argument("verb", type=click.Choice(list(VERBS)), metavar="VERB")
@click.argument("argument", required=False, metavar="[KEY=VALUE]")
@click.option(
    "--timeout",
    "patience_s",
    type=click.FloatRange(min=0.0, max=3600.0, min_open=True),
    help="Seconds to wait for the answer; by default 5, more for what takes longer.",
)
def ctl(target: Path, verb: str, argument: str | None, patience_s: float | None) -> None:
    """Tell a running daemon what to do, and hear when it is done."""
    from stream_rnn.control.client import NoAnswer

    try:
        command(target, verb, argument, patience_s)
    except NoAnswer as error:
        raise Temporary(str(error)) from error


@cli.command()
@max_events_option
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/demo"),
    show_default=True,
    help="Folder for predictions, snapshots and the picture.",
)
def demo(max_events: int | None, seed: int, out: Path) -> None:
    """Learn a real stream that comes along.

    The main job; no broker, no GPU, no file needed.
    """
    from stream_rnn import commands

    commands.demo(max_events, seed, out)


@cli.command()
@click.argument("target", required=False, metavar="[ADDRESS|CONFIG]")
@click.option(
    "--state",
    type=any_path,
    help="Its state folder, if that is on this machine; a CONFIG names it itself.",
)
@click.option("--token", metavar="env:NAME|file:PATH", help="Where the token is.")
@click.option(
    "--cacert", type=click.Path(path_type=Path), help="PEM file: who may sign its certificate."
)
def top(target: str | None, state: Path | None, token: str | None, cacert: Path | None) -> None:
    """Watch a running daemon in a terminal.

    A screen over its HTTP side, by default 127.0.0.1:9464. Reads only, once a second; the daemon
    learns the same with it or without.
    """
    from stream_rnn.top.command import command as watch

    watch(target, state, token, cacert)


@cli.command()
@config_argument
def check(config: Path) -> None:
    """Whether a configuration would run, and what it promises.

    Builds everything, opens the source, takes the addresses for a moment, verifies the cell.
    """
    from stream_rnn import commands

    commands.check(config)


@cli.command()
@click.argument("target", type=any_path, metavar="CONFIG|STATE_DIR")
def show(target: Path) -> None:
    """The effective configuration, or what a checkpoint holds."""
    from stream_rnn import commands

    commands.show(target)


@cli.group()
def ckpt() -> None:
    """Snapshots: look into, compare, verify, go back, take out."""


state_argument = click.argument("target", type=any_path, metavar="CONFIG|STATE_DIR")


@ckpt.command("ls")
@state_argument
def ckpt_ls(target: Path) -> None:
    """The snapshots, newest first, each verified.

    And where in the stream they stand.
    """
    from stream_rnn import ckpt

    ckpt.ls(target)


@ckpt.command("show")
@click.argument("target", type=any_path, metavar="STATE_DIR|SNAPSHOT")
def ckpt_show(target: Path) -> None:
    """What a snapshot holds; of a state folder, the newest."""
    from stream_rnn import ckpt

    ckpt.show(ckpt.folder_of(target))


@ckpt.command("diff")
@click.argument("first", type=any_path, metavar="A")
@click.argument("second", type=any_path, metavar="B")
def ckpt_diff(first: Path, second: Path) -> None:
    """What changed from snapshot A to B.

    Of a state folder it is the newest.
    """
    from stream_rnn import ckpt

    ckpt.diff(first, second)


@ckpt.command("verify")
@state_argument
def ckpt_verify(target: Path) -> None:
    """Every snapshot in full; exit code 1 if one is damaged."""
    from stream_rnn import ckpt

    ckpt.verify(target)


@ckpt.command("rollback")
@state_argument
@click.option("--to", required=True, metavar="STEP", help="Folder name, or the number of the step.")
def ckpt_rollback(target: Path, to: str) -> None:
    """Continue from an older snapshot.

    Newer ones are moved aside, never deleted.
    """
    from stream_rnn import ckpt

    ckpt.rollback(target, to)


@ckpt.command("export")
@state_argument
@click.argument("step")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--mean", is_flag=True, help="The running means that FPTT keeps of the parameters.")
def ckpt_export(target: Path, step: str, file: Path, mean: bool) -> None:
    """Take a snapshot out (STEP, or "newest") into a file.

    FILE.safetensors holds the parameters, FILE.tar everything.
    """
    from stream_rnn import ckpt

    ckpt.take_out(target, step, file, mean=mean)


@cli.command()
@click.argument("target", default="127.0.0.1:9464", metavar="[[https://]HOST:PORT|CONFIG]")
@click.option("--ready", is_flag=True, help="Ask whether it does its job, not whether it is alive.")
def health(target: str, ready: bool) -> None:
    """Whether a running daemon is well: exit code 0, else 1.

    The one whose [metrics] page is at HOST:PORT, or where CONFIG says.
    """
    from stream_rnn import probe

    try:
        reasons = probe.ask(probe.address_of(target), "/readyz" if ready else "/livez")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if reasons:
        raise click.ClickException("; ".join(reasons))
    click.echo("ok")


@cli.command()
@config_argument
@max_events_option
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Seeds to learn it with, one after another; the picture is of the first.",
)
@plot_option
def evaluate(config: Path, max_events: int | None, seeds: int, plot: Path | None) -> None:
    """Score a recorded stream beside baselines.

    Prequential scores as a table, and a picture.
    """
    from stream_rnn import commands

    commands.evaluate(config, max_events, seeds, plot)


@cli.command()
@click.argument("target", metavar="CONFIG|ADDRESS")
@click.argument("record")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait.")
def predict(target: str, record: str, timeout: float) -> None:
    """Ask a running daemon what it predicts for RECORD (JSON).

    Nothing is learned from it.
    """
    from stream_rnn import asking

    asking.predict(target, record, timeout)


@cli.command()
@click.option("--quick", "size", flag_value="quick", help="A corner of it: a quarter of a minute.")
@click.option("--full", "size", flag_value="full", help="Every cell, rule and size; long.")
@click.option("--only", multiple=True, help='Rows with this in their name ("lstm", "N=128").')
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write JSON here.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw it here (.png).")
def bench(
    size: str | None, only: tuple[str, ...], json_path: Path | None, plot: Path | None
) -> None:
    """Time a tick beside its floor, and the daemon by stage.

    A tick per cell, rule, size and lanes.
    """
    # what is compared runs on one thread; libraries look when they are loaded, which is below
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    from stream_rnn.bench import command

    command.main(size or "default", only, json_path, plot)


@cli.group()
def dlq() -> None:
    """Dead letters: events that could not be used."""


stage_option = click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.Choice(["decode", "features", "learn", "poison"]),
    help="Only those refused there; may be given several times.",
)


@dlq.command("ls")
@click.argument("target", type=any_path, metavar="CONFIG|STATE_DIR")
@stage_option
@click.option("--json", "as_lines", is_flag=True, help="A JSON object for each, in full.")
@click.option("--last", type=click.IntRange(1, 1_000_000), help="Only the newest ones.")
def dlq_ls(target: Path, stages: tuple[str, ...], as_lines: bool, last: int | None) -> None:
    """A table of them, oldest first."""
    from stream_rnn import dlq

    dlq.ls(target, stages, as_lines, last)


@dlq.command("replay")
@click.argument("target", type=any_path, metavar="CONFIG|STATE_DIR")
@stage_option
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="A new file; else stdout."
)
def dlq_replay(target: Path, stages: tuple[str, ...], out: Path | None) -> None:
    """Write their original bytes, to be fed again.

    One event a line, as a jsonl source reads it.
    """
    from stream_rnn import dlq

    dlq.replay(target, stages, out)


def main() -> None:
    """Entry point; maps what went wrong to an exit code."""
    # A plug-in in the working directory is found by `python -m` only; at the end, so that no file
    # there can stand in for an installed module.
    sys.path.append("")
    sys.exit(_exit_code(lambda: cli.main(standalone_mode=False)))


def _exit_code(command: Callable[[], Any]) -> int:
    try:
        command()
    except ConfigError as error:
        click.echo(f"stream-rnn: {error}", err=True)
        return CONFIGURATION
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Interrupted as error:
        click.echo(f"stream-rnn: {error}", err=True)
        return INTERRUPTED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Temporary as error:
        click.echo(f"stream-rnn: {error}", err=True)
        return TEMPORARY
    except Exception:
        logging.getLogger(__name__).exception("stream-rnn crashed; the last snapshot stands")
        return CRASH
    return OK


class Interrupted(Exception):
    """By Ctrl-C, where nothing drains: exit code 130, as of a program that the signal ends."""


class Temporary(Exception):
    """Not our fault and not for ever: exit code 75, a supervisor may try again."""

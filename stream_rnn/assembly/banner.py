"""What `run` and `check` print first: what is read, what is promised, what learns, and why."""

from __future__ import annotations

from collections.abc import Sequence

from stream_rnn import __version__
from stream_rnn.assembly.choices import spelled
from stream_rnn.assembly.model import Model
from stream_rnn.assembly.network import layers_of
from stream_rnn.assembly.settings import MetricsTable, State
from stream_rnn.overload import Overload
from stream_rnn.spi import WHY_SO, Guarantee, Sink, Source, worded
from stream_rnn.tasks import Task

PROMISES = {
    Guarantee.REPLAYABLE: "every event affects the model exactly once, across crashes",
    Guarantee.ACKABLE: "at least once: what was not acknowledged comes again after a crash",
    Guarantee.FIRE_AND_FORGET: "at most once: a crash loses the events since the last snapshot",
}


def lines(
    source: Source,
    task: Task,
    model: Model,
    sinks: Sequence[Sink],
    letter_path: str,
    state: State,
    metrics: MetricsTable | None,
    journal: str | None = None,
) -> list[str]:
    """One line for each thing a person should know before the daemon runs.

    `journal` tells what holds before the journal; None: there is none.
    """
    chosen = model.chosen
    layers = " > ".join(spelled(table) for table in layers_of(chosen["cell"]))
    n = state.every_events
    how_often = f"every {n} {worded(n, 'event')}" if n else f"every {state.every_s:g} s"
    said = [
        f"stream-rnn {__version__}",
        f"  source       {source.describe()}",
        f"  guarantee    {source.guarantee.value}"
        f"{' from the journal on' if journal else ''}: {PROMISES[source.guarantee]}",
        f"    because    {WHY_SO[source.guarantee]}",
        *([f"  journal      {journal}"] if journal else []),
        f"  task         {task.describe()}",
        f"  model        {layers}, {task.inputs} {worded(task.inputs, 'input')}, "
        f"{model.n_parameters} parameters, {chosen['dtype']} on {model.device}",
        f"  learning     {' -> '.join(model.ladder.names)}, {spelled(chosen['optimizer'])}",
    ]
    said.append(f"  computing    {model.learner.execution()[1]}")
    said += [f"    chosen     {reason}" for reason in model.why]
    said += [f"  sink         {sink.describe()}" for sink in sinks]
    said += [f"  dead letters {letter_path}", f"  state        {state.dir}, {how_often}"]
    where = "off (add a [metrics] table)"
    if metrics:
        where = f"{'https' if metrics.certificate else 'http'}://{metrics.address}/"
    said.append(f"  metrics      {where}")
    return said


def overload_lines(overload: Overload, source: Source) -> list[str]:
    """What a policy other than "block" costs; nothing for "block"."""
    if overload.policy == "block":
        return []
    said = [
        f"  overload     {overload.policy} beyond {overload.limit} waiting events: what is learned "
        "depends on the load, so a restart is not bit-identical"
    ]
    if source.guarantee is Guarantee.REPLAYABLE:
        said.append(
            "  warning      this source can wait: [overload] is unnecessary, and leaves out what "
            'would otherwise be learned later (policy = "block")'
        )
    return said

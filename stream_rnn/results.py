"""What a job has achieved so far: its scores as rows, its predictions as points, a picture."""

from __future__ import annotations

from pathlib import Path

import click

from stream_rnn import report
from stream_rnn.scores import Row
from stream_rnn.spi import SettingError
from stream_rnn.tasks import Task


def rows(task: Task) -> list[Row]:
    """The scores to show; an L1 loss is the MAE, which says it better."""
    return [row for row in task.scores.summary() if row.name != "absolute loss"]


def record(
    recorder: report.Recorder,
    task: Task,
    prediction: list[float],
    target: list[float] | int,
    loss: float,
) -> None:
    """Keep a scored prediction for the picture."""
    live, baselines = task.scores.live()
    point = report.Point(
        event=task.scores.seen,
        prediction=prediction[0],
        target=target[0] if isinstance(target, list) else float(target),
        loss=live,
        baseline_loss=baselines.get(task.baseline),
    )
    recorder.add(point)


def plot(path: Path, recorder: report.Recorder, task: Task, title: str) -> bool:
    """Draw; False if the drawing library is not installed."""
    names = getattr(task, "targets", None)
    try:
        report.plot(
            path,
            recorder,
            title,
            rows=rows(task),
            target=names[0] if names else "class",
            loss="loss",
            baseline=task.baseline,
        )
    except SettingError as error:
        click.echo(f"no picture: {error}", err=True)
        return False
    return True

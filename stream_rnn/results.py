"""What a job has achieved so far: its scores as rows, its predictions as points, a picture."""

from __future__ import annotations

from pathlib import Path

import click

from stream_rnn import report
from stream_rnn.scores import ClassScores, Row
from stream_rnn.spi import SettingError
from stream_rnn.tasks import Task

UNITLESS = ("NRMSE", "MAPE")
IN_UNITS = ("MAE", "RMSE", "squared loss", "quantile loss")


def rows(task: Task) -> list[Row]:
    """The scores to show; an L1 loss is the MAE, which says it better.

    Of several targets the averages without a unit come first; the others would be of different
    units.
    """
    shown = [row for row in task.scores.summary() if not row.name.startswith("absolute loss")]
    if len(getattr(task, "targets", ())) < 2:
        return shown
    averages = [row for name in UNITLESS for row in shown if row.name == name]
    return averages + [row for row in shown if row.name not in (*UNITLESS, *IN_UNITS)]


class Trace:
    """What a picture is drawn from: the loss over all events, the forecasts of one stream.

    Attributes:
        every: the events of all streams.
        one: those of the stream that was scored first; the forecasts of several make no line.
        stream: its key; None: nothing was scored yet.
        is_one_of_several: whether another was scored, too.
    """

    def __init__(self) -> None:
        self.every, self.one = report.Recorder(), report.Recorder()
        self.stream: str | None = None
        self.is_one_of_several = False

    def add(
        self,
        task: Task,
        prediction: list[float],
        target: list[float] | int,
        loss: float,
        stream: str,
    ) -> None:
        """Keep a scored prediction; of classes the probability of the one that came."""
        _, live, baselines = task.scores.shown()
        point = report.Point(
            event=task.scores.seen,
            prediction=prediction[0] if isinstance(target, list) else prediction[target],
            target=target[0] if isinstance(target, list) else 1.0,
            loss=live,
            baseline_loss=baselines.get(task.baseline),
        )
        if isinstance(task.scores, ClassScores):
            accuracy, guesses = task.scores.live_accuracy()
            best = max((each for each in guesses.values() if each is not None), default=None)
            point = point._replace(accuracy=accuracy, baseline_accuracy=best)
        self.every.add(point)
        if self.stream is None:
            self.stream = stream
        if stream == self.stream:
            self.one.add(point)
        else:
            self.is_one_of_several = True


def plot(path: Path, trace: Trace, task: Task, title: str, key: str | None = None) -> bool:
    """Draw; False if the drawing library is not installed. `key`: the field with the streams'."""
    names = getattr(task, "targets", ("class",))
    try:
        report.plot(
            path,
            trace.every,
            title,
            rows=rows(task),
            target=names[0],
            loss=task.scores.shown()[0],
            baseline=task.baseline,
            guess="the better of no-change and majority",
            forecasts=trace.one,
            stream=f"{key or 'key'} {trace.stream}" if trace.is_one_of_several else "",
            made="forecast, made in advance"
            if task.horizon
            else "prediction, before the target was seen",
        )
    except SettingError as error:
        click.echo(f"no picture: {error}", err=True)
        return False
    return True

"""Prequential scores: every forecast is judged when its target arrives, beside simple baselines.

Model and baseline are compared on the same events: each baseline keeps paired sums of its own, over
the events for which both it and the model had a forecast. Plain sums instead of River's metrics
(equal to them, by test): they are cheap, checkpoint as JSON, and continue bit-identically.
"""

from stream_rnn.scores.base import Row
from stream_rnn.scores.classes import ClassScores
from stream_rnn.scores.drift import Drift
from stream_rnn.scores.losses import Absolute, Gaussian, LossFn, Quantile, Squared
from stream_rnn.scores.numeric import NumericScores

__all__ = [
    "Absolute",
    "ClassScores",
    "Drift",
    "Gaussian",
    "LossFn",
    "NumericScores",
    "Quantile",
    "Row",
    "Squared",
]

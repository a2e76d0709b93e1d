"""Fused ticks: a plan that the one Learner looks up for its parts, or does not find."""

from stream_rnn.plan.fused import Plan
from stream_rnn.plan.lookup import execution, is_watched, plan_for, recorded_for
from stream_rnn.plan.outcomes import Room, Ticked
from stream_rnn.plan.parts import Parts, Rows
from stream_rnn.plan.recorded import Recorded

__all__ = [
    "Parts",
    "Plan",
    "Recorded",
    "Room",
    "Rows",
    "Ticked",
    "execution",
    "is_watched",
    "plan_for",
    "recorded_for",
]

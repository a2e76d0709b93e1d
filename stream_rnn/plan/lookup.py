"""Looks up the plan for a learner's parts, and says what computes them."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_rnn.credit import Credit, Fallback, Kf, Ok
from stream_rnn.native import loading
from stream_rnn.plan.fused import Plan
from stream_rnn.plan.parts import Parts, active_rule, dense_layers, plannable, recordable, units_in
from stream_rnn.plan.recorded import Recorded, Step
from stream_rnn.plan.recurrent import DenseRecurrent, Recurrent, UnitsRecurrent
from stream_rnn.recurrence import Dense, Recurrence


def plan_for(parts: Parts, known: Plan | None) -> Plan | None:
    """The plan for these parts as they are now: `known` if it still fits; None: there is none."""
    kernels = loading.find()
    if kernels is None:
        return None
    if known is not None and known.fits(kernels, parts):
        return known
    return Plan(kernels, parts, _recurrent(parts.recurrence)) if plannable(parts) else None


def recorded_for(parts: Parts, step: Step, known: Recorded | None) -> Recorded | None:
    """The recording of `step`, the tick in torch of parts without a plan; as `plan_for`."""
    if known is not None and known.fits(parts):
        return known
    if not recordable(parts) or not _is_all_torch(parts):
        return None
    return Recorded(parts, step, known)


def _is_all_torch(parts: Parts) -> bool:
    """Whether no recurrence lets the library observe, which a recording would not see."""
    if loading.find() is None:
        return True
    dense = dense_layers(parts.recurrence)
    rules = [active_rule(layer.credit) for layer in dense]
    weights = [layer.parameters()[0] for layer in dense]
    return not any(map(_is_observed, rules, weights))


def _recurrent(recurrence: Recurrence) -> Recurrent:
    """Its share in a plan, if there is one."""
    if isinstance(recurrence, Dense):
        rule = active_rule(recurrence.credit)
        assert rule is not None, "not plannable"
        return DenseRecurrent(recurrence, rule)
    units = units_in(recurrence)
    assert units is not None, "not plannable"
    return UnitsRecurrent(recurrence, units)


def execution(parts: Parts) -> tuple[str, str]:
    """What computes the ticks of these parts: its name in a checkpoint, and words for people."""
    kernels = loading.find()
    recurrence = parts.recurrence
    rule = recurrence.credit if type(recurrence) is Dense else None
    rule = rule.active if isinstance(rule, Fallback) else rule
    is_whole = plannable(parts)
    if kernels is None or not (is_whole or _is_observed(rule, recurrence.parameters()[0])):
        if parts.head.V_PF.device.type == "cuda":
            return "torch", "torch, ticks in a CUDA graph" if recordable(parts) else "torch"
        why = "" if kernels is not None else f" ({loading.describe()})"
        return "torch", f"torch{why}"
    what = "whole ticks" if is_whole else "the credit rule"
    return loading.path_name(), f"{loading.describe()}, {what}"


def is_watched(recurrence: Recurrence) -> bool:
    """Whether the tick's linearization is wanted for the live fidelity; no plan gives any."""
    for layer in dense_layers(recurrence):
        if layer.fidelity is not None and layer.fidelity.records_next:
            return True
    return False


def _is_observed(rule: Credit | None, parameter: Tensor) -> bool:
    """Whether the rule, alone, computes natively."""
    if not isinstance(rule, Kf | Ok) or not rule.native_shape.is_known:
        return False
    return parameter.dtype is torch.float32 and parameter.device.type == "cpu"

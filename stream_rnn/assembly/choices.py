"""What is chosen where `[learner]` leaves it open, and the reasons the banner gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_rnn.assembly import network
from stream_rnn.assembly.settings import LearnerTable
from stream_rnn.config import ConfigError

EXACT = {"kind": "exact"}
"""Stands for the credit of layers that need no rule: element-wise ones learn exactly."""
WINDOW = {"kind": "tbptt", "window": 32}


def kind_of(table: Mapping[str, Any]) -> str | None:
    """How much of `[learner]` is chosen: "auto", "explicit", or None for what is left out."""
    kind = table.get("kind")
    if kind not in (None, "auto", "explicit"):
        raise ConfigError(
            f'[learner] unknown kind {kind!r} (known: "auto", "explicit", or leave it out)'
        )
    return kind


def choose(plan: LearnerTable, device: str, kind: str | None) -> tuple[dict[str, Any], list[str]]:
    """Fill in what the configuration leaves open; returns the choice and the reasons."""
    why: list[str] = []

    def pick(name: str, given: Any, default: Any, reason: str) -> Any:
        if given is not None:
            return given
        if kind == "explicit":
            raise ConfigError(f'[learner] {name} is missing; with kind = "auto" it would be chosen')
        why.append(reason)
        return default

    units = 64 if device != "cpu" else 32
    chosen: dict[str, Any] = {
        "cell": pick(
            "cell",
            plan.cell,
            {"kind": "lstm", "units": units},
            f"LSTM with {units} units: gates keep long memories trainable; a size this {device} "
            "steps in a millisecond or a few",
        ),
    }
    is_exact = not any(network.needs_credit(table) for table in network.layers_of(chosen["cell"]))
    if is_exact and plan.credit is not None:
        raise ConfigError(
            "[learner] credit is given, but these layers learn exactly by themselves; leave it out"
        )
    chosen["credit"] = (
        EXACT
        if is_exact
        else pick(
            "credit",
            plan.credit,
            {"kind": "ok", "rank": 3, "chunks": "gate"},
            "OK of rank 3 per gate: unbiased credit over unlimited time at a constant cost per "
            "event, no update lock",
        )
    )
    chosen["optimizer"] = pick(
        "optimizer",
        plan.optimizer,
        {"kind": "adam", "lr": 0.001},
        "Adam, lr 0.001, gradients clipped to norm 1",
    )
    chosen["head_optimizer"] = plan.head_optimizer or chosen["optimizer"]
    chosen["fallback"] = _ladder(plan, kind, is_exact, why)
    return chosen, why


def _ladder(
    plan: LearnerTable, kind: str | None, is_exact: bool, why: list[str]
) -> list[dict[str, Any] | str]:
    """The rungs below the credit rule: tables of rules, then "readout" and "frozen"."""
    fallback = plan.fallback
    if fallback is None:
        fallback = kind == "auto" or plan.credit is None
    if fallback is True:
        why.append(
            "if the influence turns unsound, the read-out alone learns for a while"
            if is_exact
            else "falls back to TBPTT over 32 events if the influence turns unsound, then to the "
            "read-out alone"
        )
        return ["readout", "frozen"] if is_exact else [dict(WINDOW), "readout", "frozen"]
    if not fallback:
        return []
    rungs = fallback if isinstance(fallback, list) else [fallback]
    if is_exact and any(isinstance(rung, dict) for rung in rungs):
        raise ConfigError(
            "[learner] fallback: these layers learn exactly by themselves and have no other credit "
            'rule to fall back to; only "readout" and "frozen"'
        )
    return rungs


def spelled(table: Mapping[str, Any] | str) -> str:
    """A table in one word, e.g. `ok(rank=3)`."""
    if isinstance(table, str):
        return table
    rest = ", ".join(
        f"{k}={spelled(v) if isinstance(v, Mapping) else v}"
        for k, v in table.items()
        if k != "kind"
    )
    return f"{table['kind']}({rest})" if rest else str(table["kind"])

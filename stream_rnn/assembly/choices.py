"""What is chosen where `[learner]` leaves it open, and the reasons the banner gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_rnn.assembly.settings import LearnerTable
from stream_rnn.config import ConfigError


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
        "credit": pick(
            "credit",
            plan.credit,
            {"kind": "ok", "rank": 3, "chunks": "gate"},
            "OK of rank 3 per gate: unbiased credit over unlimited time at a constant cost per "
            "event, no update lock",
        ),
        "optimizer": pick(
            "optimizer",
            plan.optimizer,
            {"kind": "adam", "lr": 0.001},
            "Adam, lr 0.001, gradients clipped to norm 1",
        ),
    }
    chosen["head_optimizer"] = plan.head_optimizer or chosen["optimizer"]
    fallback = plan.fallback
    if fallback is None:
        fallback = kind == "auto" or plan.credit is None
    if fallback is True:
        fallback = {"kind": "tbptt", "window": 32}
        why.append("falls back to TBPTT over 32 events if the influence turns unsound")
    rungs = [] if not fallback else [fallback] if isinstance(fallback, dict) else fallback
    chosen["fallback"] = rungs
    return chosen, why


def spelled(table: Mapping[str, Any]) -> str:
    """A table in one word, e.g. `ok(rank=3)`."""
    rest = ", ".join(f"{k}={v}" for k, v in table.items() if k != "kind")
    return f"{table['kind']}({rest})"

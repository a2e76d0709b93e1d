"""What is chosen where `[learner]` leaves it open, and the reasons the banner gives."""

# Abstract base classes are handed over to be compared with, never to be called:
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from stream_rnn.assembly import network
from stream_rnn.assembly.settings import LearnerTable
from stream_rnn.config import ConfigError
from stream_rnn.credit.ok import CHUNKS, RANK
from stream_rnn.update import UPDATES, Fptt, Update
from stream_rnn.update.fptt import ALPHA

EXACT = {"kind": "exact"}
"""Stands for the credit of layers that need no rule: element-wise ones learn exactly."""
WINDOW = {"kind": "tbptt", "window": 32}
"""What a rule falls back to, and what FPTT is published with: the window is its part."""
FEW_LANES = 4
"""Up to so many lanes a CPU carries the dense influence of each: some 0.2 ms a tick, 3 in torch."""
EXACT_LIMIT = 20_000_000
"""Multiply-adds a tick up to which exact RTRL is chosen on a CPU: a tick takes 0.6 ms at most, 2 in
torch (benchmarks/RESULTS.md, "Which credit costs what")."""

RANK_BEFORE, ALPHA_BEFORE = 8, 0.1
"""OK's rank and FPTT's alpha where a table left them out, until snapshots named them."""


def kind_of(table: Mapping[str, Any]) -> str | None:
    """How much of `[learner]` is chosen: "auto", "explicit", or None for what is left out."""
    kind = table.get("kind")
    if kind not in (None, "auto", "explicit"):
        raise ConfigError(
            f'[learner] unknown kind {kind!r} (known: "auto", "explicit", or leave it out)'
        )
    return kind


def choose(
    plan: LearnerTable, device: str, kind: str | None, *, n_inputs: int, n_lanes: int
) -> tuple[dict[str, Any], list[str]]:
    """Fill in what the configuration leaves open; returns the choice and the reasons."""
    why: list[str] = []

    def pick(name: str, given: Any, default: Any, reason: str) -> Any:
        if given is not None:
            return given
        if kind == "explicit":
            raise ConfigError(f'[learner] {name} is missing; with kind = "auto" it would be chosen')
        why.append(reason)
        return default

    rungs = plan.fallback if isinstance(plan.fallback, list) else [plan.fallback]
    in_parts = plan.optimizer is not None and _is_fptt(plan.optimizer)
    wants_a_rule = (
        in_parts or plan.credit is not None or any(isinstance(rung, dict) for rung in rungs)
    )
    default = _cell(device, n_lanes, wants_a_rule)
    chosen: dict[str, Any] = {"cell": pick("cell", plan.cell, *default)}
    layers = network.layers_of(chosen["cell"])
    is_exact = not any(network.needs_credit(table) for table in layers)
    if is_exact and plan.credit is not None:
        raise ConfigError(
            "[learner] credit is given, but these layers learn exactly by themselves; leave it out"
        )
    if is_exact:
        chosen["credit"] = EXACT
    else:
        rule = _part() if in_parts else _credit(device, layers, n_inputs, n_lanes)
        chosen["credit"] = pick("credit", plan.credit, *rule)
    chosen["optimizer"] = pick(
        "optimizer",
        plan.optimizer,
        {"kind": "adam", "lr": 0.001},
        "Adam, lr 0.001, gradients clipped to norm 1",
    )
    chosen["head_optimizer"] = plan.head_optimizer
    if plan.head_optimizer is None:
        chosen["head_optimizer"] = chosen["optimizer"]
    chosen["fallback"] = _ladder(plan, kind, chosen["credit"], why)
    return chosen, why


def _cell(device: str, n_lanes: int, wants_a_rule: bool) -> tuple[Any, str]:
    if device == "cpu" and n_lanes > FEW_LANES and not wants_a_rule:
        linear = {"kind": "rtu", "units": 32, "activation": "linear"}
        return [linear, {"kind": "feedforward", "units": 32}], (
            f"32 pairs of trace units under a tanh layer: {n_lanes} lanes learn exactly at about "
            "the cost of the forward pass, where a gated cell's credit takes this CPU many times as"
            " long"
        )
    units = 32 if device == "cpu" else 64
    return {"kind": "lstm", "units": units}, (
        f"LSTM with {units} units: gates keep long memories trainable; a size this {device} steps "
        "in a few milliseconds at most"
    )


def _is_fptt(optimizer: Mapping[str, Any]) -> bool:
    return issubclass(network.class_of("[learner] optimizer", optimizer, UPDATES, Update), Fptt)


def _part() -> tuple[dict[str, Any], str]:
    return dict(WINDOW), (
        "TBPTT over 32 events, which is FPTT's own gradient: the window is its part, with an "
        "update at every event; credit reaches no further back"
    )


def _credit(
    device: str, layers: Sequence[network.Table], n_inputs: int, n_lanes: int
) -> tuple[dict[str, Any], str]:
    exact = network.push_cost(layers, n_inputs)
    estimate = network.push_cost(layers, n_inputs, RANK)
    if device == "cpu" and exact and estimate and exact * n_lanes <= EXACT_LIMIT:
        return {"kind": "rtrl"}, (
            f"exact RTRL: no noise and no horizon; {exact / estimate:.0f} times the arithmetic of "
            f"OK of rank {RANK}, at this size still a millisecond or two of a CPU at most"
        )
    return {"kind": "ok", "rank": RANK, "chunks": CHUNKS}, (
        f"OK of rank {RANK} per {CHUNKS}: unbiased credit over unlimited time at a constant cost "
        "per event, no update lock"
    )


def _ladder(
    plan: LearnerTable, kind: str | None, credit: Mapping[str, Any], why: list[str]
) -> list[dict[str, Any] | str]:
    """The rungs below the credit rule: tables of rules, then "readout" and "frozen"."""
    fallback, is_exact = plan.fallback, credit is EXACT
    if fallback is None:
        fallback = kind == "auto" or plan.credit is None
    if fallback is True:
        if is_exact or credit == WINDOW:
            why.append("if the influence turns unsound, the read-out alone learns for a while")
            return ["readout", "frozen"]
        why.append(
            "falls back to TBPTT over 32 events if the influence turns unsound, then to the "
            "read-out alone"
        )
        return [dict(WINDOW), "readout", "frozen"]
    if fallback is False:
        return []
    rungs = fallback if isinstance(fallback, list) else [fallback]
    for rung in rungs:
        if isinstance(rung, dict) and not isinstance(rung.get("kind"), str):
            raise ConfigError(f"[learner] fallback: a rung without a kind: {rung!r}")
    for above, below in pairwise(rungs):
        if isinstance(above, str) and not isinstance(below, str):
            raise ConfigError(
                f"[learner] fallback: {above!r} stands above {spelled(below)}; name the rules first"
            )
    if is_exact and any(isinstance(rung, dict) for rung in rungs):
        raise ConfigError(
            "[learner] fallback: these layers learn exactly by themselves and have no other credit "
            'rule to fall back to; only "readout" and "frozen"'
        )
    return rungs


def written_out(
    learner: Mapping[str, Any], rank: int = RANK, alpha: float = ALPHA
) -> dict[str, Any]:
    """What was chosen, with what tables of OK and FPTT leave to defaults that have changed.

    What a state was learned with does not change with them, and so its fingerprint names it.
    """
    defaults: dict[Any, dict[str, Any]] = {
        "ok": {"rank": rank, "chunks": CHUNKS},
        "fptt": {"alpha": alpha},
    }

    def full(table: Any) -> Any:
        kind = table.get("kind") if isinstance(table, Mapping) else None
        return {**defaults[kind], **table} if kind in defaults else table

    said = {
        name: full(table) if name in ("credit", "optimizer", "head_optimizer") else table
        for name, table in learner.items()
    }
    if isinstance(said.get("fallback"), list):
        said["fallback"] = [full(rung) for rung in said["fallback"]]
    return said


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

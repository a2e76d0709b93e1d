"""What a model will take, told before a byte of it is allocated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stream_rnn.assembly import network
from stream_rnn.cells import Cell
from stream_rnn.config import ConfigError

LARGEST = 1 << 60
MOST_UNITS = 1 << 17  # a layer of a stream's model: beyond it is a slip of the pen
SHARE = 0.8  # of what there is: the rest is the stream's, the snapshots' and the system's
# of what a credit rule keeps: itself, a snapshot's, and on a GPU what a tick in torch makes of it
COPIES = {"cpu": 2, "cuda": 6}


def require_room(
    layers: Sequence[Mapping[str, Any]],
    rules: Sequence[Mapping[str, Any]],
    *,
    n_inputs: int,
    n_outputs: int,
    n_lanes: int,
    horizon: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Refuse a model that this machine (or GPU) has no room for.

    Raises:
        ConfigError: with what it would take and what there is.
    """
    size = torch.finfo(dtype).bits // 8
    needed = size * n_lanes * n_inputs * (max(horizon, 1) + 3)
    width = n_inputs
    for table in layers:
        units = table.get("units")
        if not isinstance(units, int) or isinstance(units, bool) or units < 1:
            return  # refused soon, with a word of its own
        if units > MOST_UNITS:
            raise ConfigError(
                f"[learner] cell: units must be at most {MOST_UNITS}, got {units}; use fewer units"
            )
        needed += _layer(table, rules, width, units, n_lanes, size, COPIES.get(device.type, 2))
        width = network.width_of(table, units)
    # initial weights are float64; gradient, two moments and a snapshot's copy follow
    needed += n_outputs * (width + n_inputs + 1) * (8 + 4 * size)
    there = _room(device)
    if needed > there * SHARE:
        raise ConfigError(
            f"[learner] the model would take about {needed / 1e9:.3g} GB, there are "
            f"{there / 1e9:.3g} GB; use fewer units, lanes, a lower rank, a shorter window or "
            "horizon"
        )


def _layer(
    table: Mapping[str, Any],
    rules: Sequence[Mapping[str, Any]],
    width: int,
    units: int,
    B: int,
    size: int,
    copies: int,
) -> int:
    """Bytes of a layer: weights with their moments, states, and what its credit keeps."""
    target = network.layer_class("[learner] cell", table)
    if not issubclass(target, Cell):  # element-wise: at most two components, two gates
        return size * units * (2 * width + 4) * (2 * B + 10)
    S, Z, M = target.blocks * units, target.gates * units, width + units + 1
    weights = Z * M * (8 + 4 * size) + 3 * 8 * units * units
    if weights > LARGEST:
        return weights
    kept = sum(_rule(target, rule, width, units, B) for rule in rules)
    return weights + size * B * S * 4 + copies * kept


def _rule(cell: type[Cell], table: Mapping[str, Any], width: int, units: int, B: int) -> int:
    """Bytes of a credit rule's lane state, tried where tensors have no memory."""
    try:
        with torch.device("meta"):
            rule = network.rule_of(cell(width, units), table, 0, B, torch.Generator())
    except (RuntimeError, OverflowError, MemoryError):  # sizes beyond what a tensor can have
        return LARGEST
    except (ConfigError, ValueError, TypeError):  # refused soon, with a word of its own
        return 0
    return sum(t.numel() * t.element_size() for t in rule.lane_state.values())


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

"""Learning rules by the names used in tables: ok, ok-4, ok-8-joint, kf, uoro, tbptt-lock-10 ..."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.reproduce.experiment import Refused, Setting
from stream_rnn.cells import Cell
from stream_rnn.credit import Credit, Kf, Ok, Rtrl, Segmented, Snap1, Uoro
from stream_rnn.credit.ok import Chunks

KNOWN = "ok[-RANK][-joint|-gate|-row], kf, uoro, snap1, rtrl, tbptt-WINDOW, tbptt-lock[-WINDOW]"
_OK = re.compile(r"ok(?:-([1-9]\d{0,2}))?(?:-(joint|gate|row))?")
_TBPTT = re.compile(r"tbptt-([1-9]\d{0,3})")
_LOCK = re.compile(r"tbptt-lock(?:-([1-9]\d{0,3}))?")


@dataclass(frozen=True)
class Rule:
    """A learning rule, ready to be built.

    Attributes:
        name: in full, defaults spelled out.
        every: ticks to an update.
        build: from the cell, the number of lanes, and a generator for the signs.
    """

    name: str
    every: int
    build: Callable[[Cell, int, torch.Generator], Credit]


def rule_of(name: str, setting: Setting) -> Rule:
    """The rule called `name`; raises Refused with what is known."""
    if match := _OK.fullmatch(name):
        rank = int(match[1] or setting.rank)
        # spelled out for the type checker
        kinds: dict[str, Chunks] = {"joint": "joint", "gate": "gate", "row": "row"}
        chunks = kinds[match[2] or "gate"]
        full = f"ok-{rank}" + ("" if chunks == "gate" else f"-{chunks}")
        return Rule(full, 1, lambda cell, lanes, signs: Ok(cell, lanes, signs, rank, chunks))
    if match := _LOCK.fullmatch(name):
        n = int(match[1] or setting.window)
        return Rule(f"tbptt-lock-{n}", n, lambda cell, lanes, _: _window(cell, lanes, n, n))
    if match := _TBPTT.fullmatch(name):
        n = int(match[1])
        return Rule(name, 1, lambda cell, lanes, _: _window(cell, lanes, n, 1))
    simple: dict[str, Callable[[Cell, int, torch.Generator], Credit]] = {
        "kf": Kf,
        "uoro": Uoro,
        "snap1": lambda cell, lanes, _: Snap1(cell, lanes),
        "rtrl": lambda cell, lanes, _: Rtrl(cell, lanes),
    }
    if name in simple:
        return Rule(name, 1, simple[name])
    raise Refused(f"--rules: unknown rule {name[:40]!r}; known: {KNOWN}")


def _window(cell: Cell, lanes: int, window: int, every: int) -> Credit:
    return Segmented(cell, lanes, window, every)

"""Characters of the Penn Treebank, the protocol of Benzing et al. 2019.

Axes: B lanes, I symbols, N units, S = N.

The lanes start spread evenly over the training text and go round it, one character per tick; state
and influence of all lanes start anew every 100 characters. Bits per character of the validation
text are measured twice: with the state started anew every 100 characters as in training (the
figure of the table: how the authors measured is not documented), and with a state carried along
400 pieces of the text.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.reproduce.experiment import (
    Experiment,
    Named,
    Point,
    Published,
    Refused,
    Setting,
    Trial,
)
from benchmarks.reproduce.network import network
from benchmarks.reproduce.rules import rule_of
from stream_rnn.frame import Frame
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense

SEGMENT = 100  # characters between two fresh starts
PIECES = 400  # of the validation text, read side by side
DECAY = 0.999
LARGEST = 64 << 20  # bytes of one text; the real ones have 5 MB


@dataclass(frozen=True)
class Text:
    """Training and validation text as symbol numbers."""

    train: Tensor
    valid: Tensor
    n_symbols: int


def read(path: Path) -> Text:
    """ptb.train.txt and ptb.valid.txt from a folder or a zip file; raises Refused."""
    train, valid = (_bytes(path, f"ptb.{part}.txt") for part in ("train", "valid"))
    symbols = sorted(set(train))
    unknown = set(valid) - set(symbols)
    if unknown or len(symbols) < 2 or min(len(train), len(valid)) <= SEGMENT:
        raise Refused(
            f"--data {path}: {len(train)} characters of {len(symbols)} kinds to train, "
            f"{len(valid)} to validate with {len(unknown)} kinds unknown; expected the "
            "character-level Penn Treebank (5,101,618 and 399,782 of 50 kinds)"
        )
    number = torch.zeros(256, dtype=torch.int64)
    number[symbols] = torch.arange(len(symbols))

    def numbered(text: bytes) -> Tensor:
        return number[torch.frombuffer(bytearray(text), dtype=torch.uint8).long()]

    return Text(numbered(train), numbered(valid), len(symbols))


def _bytes(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            with (path / name).open("rb") as file:
                text = file.read(LARGEST + 1)
        else:
            with zipfile.ZipFile(path) as archive, archive.open(name) as member:
                text = member.read(LARGEST + 1)
    except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise Refused(
            f"--data {path}: no readable {name} ({error}); expected a folder or a zip file with "
            "ptb.train.txt and ptb.valid.txt (Mikolov's Penn Treebank)"
        ) from error
    if len(text) > LARGEST:
        raise Refused(f"--data {path}: {name} is larger than {LARGEST >> 20} MB; is it the corpus?")
    return text


@torch.no_grad()
def bits_per_character(learner: Learner, text: Tensor, n_pieces: int) -> float:
    """Mean over the text, read as `n_pieces` side by side, each from a zero state."""
    recurrence, head = learner.recurrence, learner.head
    assert isinstance(recurrence, Dense)
    cell, W_ZM = recurrence.cell, recurrence.W_ZM
    length = (len(text) - 1) // n_pieces
    # the last target of a piece is the first input of the next
    x_BT = text[: n_pieces * length].view(n_pieces, length).to(W_ZM.device)
    y_BT = text[1 : n_pieces * length + 1].view(n_pieces, length).to(W_ZM.device)
    one_hot = torch.eye(cell.n_inputs, device=W_ZM.device)
    s_BS = W_ZM.new_zeros(n_pieces, cell.n_state)
    total = torch.zeros((), dtype=torch.float64, device=W_ZM.device)
    for x_B, y_B in zip(x_BT.T, y_BT.T, strict=True):
        x_BI = one_hot[x_B]
        s_BS, _ = cell.step(W_ZM, x_BI, s_BS)
        o_BP = head.predict(s_BS[:, : cell.n_units], x_BI)
        loss_B, _ = head.loss_function.evaluate(o_BP, y_B[:, None])
        total += loss_B.sum()
    return float(total) / (n_pieces * length) / math.log(2)


class PtbTrial(Trial):
    """A learner somewhere in the text."""

    def __init__(self, setting: Setting, rule: str, seed: int, device: str, text: Text) -> None:
        self.learner = network(setting, rule, text.n_symbols, seed, device)
        self._text = text
        self._train = text.train.to(device)
        B = setting.lanes
        self._start_B = (torch.arange(B) * (len(text.train) // B)).to(device)
        self._one_hot = torch.eye(text.n_symbols, device=device)
        self._all_B = torch.ones(B, dtype=torch.bool, device=device)
        self._ticks = 0
        # on the device, as the loss is: nothing of a tick waits for it
        self._nats = torch.zeros((), dtype=torch.float64, device=device)

    @override
    def tick(self) -> None:
        if self._ticks % SEGMENT == 0:
            self.learner.reset(self._all_B)
        at_B = (self._start_B + self._ticks) % len(self._train)
        x_BI = self._one_hot[self._train[at_B]]
        next_B = self._train[(at_B + 1) % len(self._train)]
        y_BQ = next_B[:, None].to(x_BI.dtype)
        outcome = self.learner.step(Frame(x_BI, y_BQ, self._all_B, self._all_B))
        self._nats.mul_(DECAY).add_(outcome.loss_B.double().mean(), alpha=1 - DECAY)
        self._ticks += 1

    @override
    def point(self) -> Point:
        weight = 1 - DECAY ** max(self._ticks, 1)  # an average that starts at nothing
        valid = self._text.valid
        return {
            "train_bpc": float(self._nats) / weight / math.log(2),
            "valid_bpc": bits_per_character(self.learner, valid, (len(valid) - 1) // SEGMENT),
            "valid_bpc_carried": bits_per_character(
                self.learner, valid, min(PIECES, len(valid) // SEGMENT)
            ),
        }

    @override
    def task_state(self) -> dict[str, Tensor]:
        return {"ticks": torch.tensor(self._ticks), "nats": self._nats}

    @override
    def load_task_state(self, state: Mapping[str, Tensor]) -> None:
        self._ticks = int(state["ticks"])
        self._nats.copy_(state["nats"])


class Ptb(Experiment):
    """Bits per character of the validation text."""

    title = "Penn Treebank, characters"
    metric, label, digits = "valid_bpc", "validation bits per character", 3
    sizes = {  # noqa: RUF012
        "small": Setting(
            units=64,
            lanes=8,
            lr=1e-3,
            clip=1.0,
            rank=4,
            window=10,
            updates=60_000,
            record_every=5000,
            marks=(20_000, 60_000),
            rules=("ok", "kf", "uoro"),
            seeds=(0, 1, 2),
        ),
        "full": Setting(
            units=256,
            lanes=32,
            lr=10**-3.5,
            clip=1.0,
            rank=8,
            window=25,
            updates=1_000_000,
            record_every=10_000,
            marks=(100_000, 250_000, 500_000, 1_000_000),
            rules=("ok", "kf", "uoro", "tbptt-lock"),
            seeds=(0, 1, 2, 3, 4),
        ),
    }
    takes = {"small": "7 min", "full": "10 days"}  # noqa: RUF012
    published = {  # noqa: RUF012
        "full": (
            Published(
                "OK-8, authors' logs (Benzing et al. 2019); mean of 5 before 1M",
                {
                    100_000: (2.07,),
                    250_000: (1.861,),
                    500_000: (1.794,),
                    1_000_000: (1.7481, 1.7466, 1.7504, 1.7479, 1.7490),
                },
            ),
        )
    }

    def __init__(self, data: Path | None) -> None:
        if data is None:
            raise Refused("--data PATH is needed: the folder or zip file with ptb.train.txt")
        self._text = read(data)

    @override
    def rule(self, name: str, setting: Setting) -> Named:
        return rule_of(name, setting)

    @override
    def start(self, setting: Setting, rule: str, seed: int, device: str) -> Trial:
        return PtbTrial(setting, rule, seed, device, self._text)

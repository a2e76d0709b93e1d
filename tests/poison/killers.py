"""Plug-ins that end the process at a certain event, as a bug in native code would."""

import json
import os
import signal
import time

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells import Tanh
from stream_rnn.linearization import Linearization
from stream_rnn.spi import DecodeError, Record


def die(how: object) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "abort":
        os.abort()
    if how == "raise":
        raise RuntimeError("a bug in somebody's codec")


class Codec:
    """JSON; `boom` names the way the process ends, or is a decode error where that is asked for."""

    def __init__(self, armed: bool = True, slow_s: float = 0.0) -> None:
        self.armed = armed
        self.slow_s = slow_s

    def decode(self, data: bytes) -> Record:
        try:
            record = json.loads(data)
        except ValueError as error:
            raise DecodeError(str(error)) from error
        if "boom" in record:
            if not self.armed:
                raise DecodeError("boom")
            die(record["boom"])
        time.sleep(self.slow_s)
        return dict(record)


class Cell(Tanh):
    """Dies in the middle of a tick that holds the category "boom" (the third input)."""

    @override
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        if bool(torch.any(x_BI[:, 2] == 1.0)):
            die("kill")
        return super().step(W_ZM, x_BI, s_BS)

"""Hands one tick of KF or OK to the library: checks what comes, fills in where everything is.

Axes: B lanes, K blocks, G gates, N units, S = K*N, Z = G*N, M = I+N+1, C chunks, R rank.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import NamedTuple

import torch
from torch import Tensor

from stream_rnn.native import loading
from stream_rnn.native.loading import Library, Observation

RULES = {"kf": 0, "ok": 1, "tbptt": 2, "rtrl": 3}
CHUNKS = {"joint": 0, "gate": 1, "row": 2}
MAX_RANK = 16
"""What the library's small matrices are made for; ranks above go to the twin."""
MAX_BLOCKS = 2
"""Blocks of the state whose rows the library knows how to push; cells with more go to the twin."""


class Shape(NamedTuple):
    """What a rule says about itself: its sizes, and which tensors of its lane state are u and A."""

    rule: str
    n_lanes: int
    blocks: int
    gates: int
    n_units: int
    columns: int  # M
    u: str
    A: str
    rank: int = 1
    chunks: str = "joint"
    n_chunks: int = 1

    @property
    def is_known(self) -> bool:
        """Whether the library is made for these sizes."""
        return self.rank <= MAX_RANK and self.blocks <= MAX_BLOCKS


class Observed(NamedTuple):
    """What a tick gave: gradient (Z, M), healthy (B,), and facts, 0 of idle lanes."""

    gradient_ZM: Tensor
    healthy_B: Tensor
    norm_B: Tensor
    variance_Q: Tensor


class Observer:
    """One rule's way into the library; keeps its work space."""

    def __init__(self, kernels: Library, shape: Shape) -> None:
        self.kernels = kernels
        self.shape = shape
        Z, S, B = shape.gates * shape.n_units, shape.blocks * shape.n_units, shape.n_lanes
        self._Z = Z
        self._sizes = (B * shape.blocks * Z, B * shape.blocks * S, B * shape.columns, B * S, B)
        self._constant = observation_of(shape)
        n_bytes = kernels.work_bytes(self._constant)
        self._work = torch.empty(n_bytes, dtype=torch.uint8)
        self._norm_B = torch.zeros(shape.n_lanes, dtype=torch.float64)
        self._variance_Q = torch.zeros(shape.n_lanes * shape.n_chunks, dtype=torch.float64)
        self._constant.work = self._work.data_ptr()
        self._constant.norm = self._norm_B.data_ptr()
        self._constant.variance = self._variance_Q.data_ptr()

    def observe(
        self,
        lane_state: MutableMapping[str, Tensor],
        W_h_ZN: Tensor,
        linearization: tuple[Tensor, Tensor, Tensor],
        q_BS: Tensor,
        live_B: Tensor,
        signs: Tensor,
    ) -> Observed:
        """One tick; `linearization` is drive, carry and u. Changes `lane_state` in place."""
        u, A = own(lane_state, self.shape.u), own(lane_state, self.shape.A)
        drive, carry, u_BM = (float_rows(each) for each in linearization)
        q, signs = float_rows(q_BS), float_rows(signs)
        live = live_B.contiguous()
        for each, size in zip((drive, carry, u_BM, q, live), self._sizes, strict=True):
            if each.numel() != size:  # the library would read beyond its end
                raise ValueError(f"expected {size} numbers of {self.shape}, got {each.numel()}")
        if W_h_ZN.stride(1) != 1 or W_h_ZN.dtype != torch.float32:
            W_h_ZN = float_rows(W_h_ZN)
        gradient_ZM = torch.empty(self._Z, self.shape.columns)
        healthy_B = torch.empty(self.shape.n_lanes, dtype=torch.bool)
        o = self._constant
        o.u, o.A = u.data_ptr(), A.data_ptr()
        o.W_h, o.W_stride = W_h_ZN.data_ptr(), W_h_ZN.stride(0)
        o.drive, o.carry, o.input = drive.data_ptr(), carry.data_ptr(), u_BM.data_ptr()
        o.q, o.live, o.signs = q.data_ptr(), live.data_ptr(), signs.data_ptr()
        o.gradient, o.healthy = gradient_ZM.data_ptr(), healthy_B.data_ptr()
        self.kernels.observe(o)
        return Observed(gradient_ZM, healthy_B, self._norm_B, self._variance_Q)


def observer_for(shape: Shape, q_BS: Tensor, known: Observer | None) -> Observer | None:
    """Who observes natively, `known` if it still may; None: the twin does.

    The library takes float32 on the processor, ranks up to `MAX_RANK` and `MAX_BLOCKS` blocks.
    """
    if not shape.is_known or q_BS.dtype != torch.float32 or q_BS.device.type != "cpu":
        return None
    kernels = loading.find()
    if kernels is None:
        return None
    return known if known is not None and known.kernels is kernels else Observer(kernels, shape)


def observation_of(shape: Shape) -> Observation:
    """The structure of an observation with its sizes filled in, no pointers.

    Lanes are shared out among as many threads as torch has now; the results are the same bits.
    """
    return Observation(
        rule=RULES[shape.rule],
        B=shape.n_lanes,
        K=shape.blocks,
        G=shape.gates,
        N=shape.n_units,
        M=shape.columns,
        rank=shape.rank,
        chunks=CHUNKS[shape.chunks],
        pays=1,
        threads=torch.get_num_threads(),
    )


def own(lane_state: MutableMapping[str, Tensor], name: str) -> Tensor:
    """The tensor itself, which the library changes in place; made contiguous if it is not."""
    tensor = lane_state[name]
    if not tensor.is_contiguous():
        tensor = lane_state[name] = tensor.contiguous()
    return tensor


def float_rows(tensor: Tensor) -> Tensor:
    """The same numbers as contiguous float32; the tensor itself where it is that already."""
    if tensor.dtype is not torch.float32:
        tensor = tensor.to(torch.float32)
    return tensor if tensor.is_contiguous() else tensor.contiguous()

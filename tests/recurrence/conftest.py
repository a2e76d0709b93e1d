"""The element-wise recurrences by name, and their definitions written once more for autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stream_rnn.recurrence.elementwise import Elementwise
from stream_rnn.recurrence.elstm import Elstm
from stream_rnn.recurrence.lru import Lru
from stream_rnn.recurrence.rtu import Rtu

Parameters = list[Tensor]


def make(
    kind: str,
    n_inputs: int = 3,
    n_units: int = 4,
    n_lanes: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Elementwise:
    """One of KINDS, at its own initial values but for some noise that makes every term count."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (n_inputs, n_units, n_lanes, generator)
    there = {"dtype": dtype, "device": device}
    built: Elementwise
    match kind.split("-"):
        case ["lru"]:
            built = Lru(*sizes, **there)
        case ["rtu", activation]:
            built = Rtu(*sizes, activation, **there)
        case ["elstm"]:
            built = Elstm(*sizes, **there)
    for parameter in built.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_((0.3 * noise).to(device, dtype))
    return built


def lru_step(parameters: Parameters, x_BI: Tensor, s_BN: Tensor) -> tuple[Tensor, Tensor]:
    """In complex numbers; the state is complex."""
    W_CI, (nu_N, theta_N, g_N) = parameters[0], parameters[1]
    W_NI = torch.complex(*W_CI.chunk(2))
    lam_N = torch.exp(torch.complex(-nu_N.exp(), theta_N.exp()))
    h_BN = lam_N * s_BN + g_N.exp() * (x_BI.to(W_NI.dtype) @ W_NI.T)
    return h_BN, torch.cat((h_BN.real, h_BN.imag), dim=1)


def rtu_step(
    f: Callable[[Tensor], Tensor], parameters: Parameters, x_BI: Tensor, s_BC: Tensor
) -> tuple[Tensor, Tensor]:
    (W_1_NI, W_2_NI), (w_r_N, w_th_N) = parameters[0].chunk(2), parameters[1]
    r_N, th_N = torch.exp(-torch.exp(w_r_N)), torch.exp(w_th_N)
    nrm_N = torch.sqrt(1 - r_N**2)
    h_1_BN, h_2_BN = s_BC.real.chunk(2, dim=1)
    pre_1_BN = r_N * th_N.cos() * h_1_BN - r_N * th_N.sin() * h_2_BN + nrm_N * (x_BI @ W_1_NI.T)
    pre_2_BN = r_N * th_N.cos() * h_2_BN + r_N * th_N.sin() * h_1_BN + nrm_N * (x_BI @ W_2_NI.T)
    h_BC = f(torch.cat((pre_1_BN, pre_2_BN), dim=1))
    return h_BC, h_BC


def elstm_step(parameters: Parameters, x_BI: Tensor, s_BN: Tensor) -> tuple[Tensor, Tensor]:
    I = x_BI.shape[1]  # noqa: E741
    (W_f_NU, W_z_NU), c_BN = parameters[0], s_BN.real
    f_BN = torch.sigmoid(x_BI @ W_f_NU[:, :I].T + W_f_NU[:, I] * c_BN + W_f_NU[:, I + 1])
    z_BN = torch.tanh(x_BI @ W_z_NU[:, :I].T + W_z_NU[:, I] * c_BN + W_z_NU[:, I + 1])
    c_BN = f_BN * c_BN + (1 - f_BN) * z_BN
    return c_BN, c_BN


DEFINITIONS: dict[str, Callable[[Parameters, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "lru": lru_step,
    "rtu-linear": lambda *args: rtu_step(lambda pre: pre, *args),
    "rtu-tanh": lambda *args: rtu_step(torch.tanh, *args),
    "rtu-relu": lambda *args: rtu_step(torch.relu, *args),
    "elstm": elstm_step,
}


class Stream:
    """Inputs, dL/dh (zero rows where nothing was scored) and idle lanes of T ticks, float64."""

    def __init__(self, net: Elementwise, n_ticks: int = 30, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        B = net.n_lanes
        x_TBI = torch.randn(n_ticks, B, net.n_inputs, generator=generator, dtype=torch.float64)
        q_TBN = torch.randn(n_ticks, B, net.width, generator=generator, dtype=torch.float64)
        scored_TB = torch.rand(n_ticks, B, generator=generator) < 0.5
        self.live_TB = torch.rand(n_ticks, B, generator=generator) < 0.8
        self.q_TBN = torch.where((scored_TB & self.live_TB)[..., None], q_TBN, 0.0)
        self.x_TBI = x_TBI

    def __len__(self) -> int:
        return len(self.x_TBI)

    def learn(self, net: Elementwise, t: int) -> tuple[Parameters, Tensor, Tensor]:
        """One tick: the gradients, dL/dx and h."""
        h_BN = net.forward(self.x_TBI[t], self.live_TB[t]).clone()
        gradients, dL_dx_BI = net.learn(self.q_TBN[t], self.live_TB[t])
        return gradients, dL_dx_BI, h_BN


@pytest.fixture(params=DEFINITIONS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="make")
def make_fixture() -> Callable[..., Elementwise]:
    return make


@pytest.fixture(name="stream_for")
def stream_fixture() -> Callable[..., Stream]:
    return Stream


@pytest.fixture
def definition(kind: str) -> Callable[[Parameters, Tensor, Tensor], tuple[Tensor, Tensor]]:
    return DEFINITIONS[kind]

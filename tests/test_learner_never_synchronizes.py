"""The step asks nothing of the host: no value is read, no shape depends on data, nothing is copied.

On a GPU it equals the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stream_rnn.cells import CELLS
from stream_rnn.credit import RULES, Credit, Fallback, Ok, Tbptt
from stream_rnn.credit.base import Noisy, Signs
from stream_rnn.frame import Frame
from stream_rnn.head import Bernoulli, CrossEntropy, Gaussian, Loss, Quantile, SquaredError
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.update import Adam, Fptt, Obgd, Sgd, Update

BANNED = {
    "aten::_local_scalar_dense",  # item(), float(), bool(), `if tensor`
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::unique2",
    "aten::lift_fresh",  # torch.tensor(...) of Python numbers: a blocking copy to a device
    "aten::linalg_eigh",
    "aten::_linalg_svd",
}
LOSSES: dict[str, Loss] = {
    "squared": SquaredError(),
    "quantile": Quantile(),
    "gaussian": Gaussian(),
    "cross-entropy": CrossEntropy(3),
    "bernoulli": Bernoulli(),
}
UPDATES: dict[str, Callable[[], Update]] = {
    "adam": Adam,
    "sgd": Sgd,
    "momentum": lambda: Sgd(momentum=0.9),
    "obgd": Obgd,
    "fptt": lambda: Fptt(Adam()),
}
NeverWaiting = Callable[[], AbstractContextManager[None]]


class NothingForTheHost(TorchDispatchMode):
    """Raises where a step would wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        assert name not in BANNED, f"{name} synchronizes host and device"
        if name in ("aten::index", "aten::index_put_"):  # a mask asks how many are true
            masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
            assert not masks, f"{name} by a mask has a data-dependent shape"
        return func(*args, **(kwargs or {}))


def ladder(cell: Any, n_lanes: int) -> Fallback:
    generator = torch.Generator().manual_seed(0)
    return Fallback([Ok(cell, n_lanes, generator, rank=2), Tbptt(cell, n_lanes, window=4)])


def assert_never_synchronizes(learner: Learner, frames: list[Frame]) -> None:
    for frame in frames[:2]:  # the first tick may set up what is kept on the device
        learner.step(frame)
    with NothingForTheHost():
        for frame in frames[2:]:
            learner.step(frame)


@pytest.mark.parametrize("horizon", [0, 3])
@pytest.mark.parametrize("rule", [*RULES, "ladder"])
@pytest.mark.parametrize("kind", CELLS)
def test_no_rule_reads_the_device(
    kind: str,
    rule: str,
    horizon: int,
    learner_of: Callable[..., Learner],
    frames_of: Callable[..., list[Frame]],
) -> None:
    learner = learner_of(kind, ladder if rule == "ladder" else rule, horizon=horizon)
    assert_never_synchronizes(learner, frames_of(5, idle=0.3, unscored=0.3))


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_and_no_update_reads_the_device(
    loss: str,
    update: str,
    learner_of: Callable[..., Learner],
    frames_of: Callable[..., list[Frame]],
) -> None:
    learner = learner_of("tanh", loss=LOSSES[loss], update=UPDATES[update])
    assert_never_synchronizes(learner, frames_of(4))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weighted_loss_does_not_read_the_device(
    loss: str,
    learner_of: Callable[..., Learner],
    frames_of: Callable[..., list[Frame]],
) -> None:
    weight_B = torch.tensor([0.5, 1.0], dtype=torch.float64)
    frames = [dataclasses.replace(frame, weight_B=weight_B) for frame in frames_of(4)]
    assert_never_synchronizes(learner_of("tanh", loss=LOSSES[loss]), frames)


def with_least_squares(learner: Learner) -> Learner:
    """The same learner with a read-out that owns its update."""
    V_PF = learner.head.V_PF
    n_units, n_inputs = learner.recurrence.width, learner.recurrence.n_inputs
    head = LeastSquaresHead(n_units, n_inputs, SquaredError(), V_PF)
    return Learner(learner.recurrence, head, learner.update, Sgd(), learner.horizon)


@pytest.mark.parametrize("horizon", [0, 3])
def test_a_readout_by_least_squares_does_not_read_the_device(
    horizon: int, learner_of: Callable[..., Learner], frames_of: Callable[..., list[Frame]]
) -> None:
    learner = with_least_squares(learner_of("lstm", horizon=horizon))
    start_PF = learner.head.V_PF.clone()
    assert_never_synchronizes(learner, frames_of(8, idle=0.3, unscored=0.3))
    assert not torch.equal(learner.head.V_PF, start_PF)


def test_the_watch_itself_notices_a_read() -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NothingForTheHost():
        torch.ones(1).item()
    with pytest.raises(AssertionError, match="by a mask"), NothingForTheHost():
        _ = torch.ones(2)[torch.ones(2) > 0]
    with pytest.raises(AssertionError, match="lift_fresh"), NothingForTheHost():
        torch.tensor([1.0])


def on_gpu(frame: Frame) -> Frame:
    tensors: dict[str, Any] = {f.name: getattr(frame, f.name) for f in dataclasses.fields(frame)}
    return Frame(**{name: None if t is None else t.cuda() for name, t in tensors.items()})


def drawing(n_ticks: int, n_lanes: int, width: int, device: str) -> Signs:
    """The same signs on every device, and there before the first tick."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (n_ticks, n_lanes, width), generator=generator) * 2 - 1
    left = iter(signs.to(device))
    return lambda shape: next(left)[:, : shape[1]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("horizon", [0, 3])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", CELLS)
def test_a_gpu_learns_what_a_cpu_learns_without_waiting_for_the_host(
    kind: str,
    rule: str,
    horizon: int,
    learner_of: Callable[..., Learner],
    frames_of: Callable[..., list[Frame]],
    never_waiting: NeverWaiting,
) -> None:
    frames = frames_of(20, idle=0.2, unscored=0.2)

    def make(device: str) -> Learner:
        def build(cell: Any, n_lanes: int) -> Credit:
            if rule == "ok":  # exact at this rank, hence the same whatever the signs
                generator = torch.Generator(device).manual_seed(0)
                return Ok(cell, n_lanes, generator, rank=cell.weight_shape[1])
            if issubclass(RULES[rule], Noisy):
                signs = drawing(len(frames), n_lanes, max(2, cell.n_state), device)
                return RULES[rule](cell, n_lanes, signs=signs)  # type: ignore[call-arg]
            return RULES[rule](cell, n_lanes)

        return learner_of(kind, build, horizon=horizon, device=device)

    cpu, gpu = make("cpu"), make("cuda")
    there = [on_gpu(frame) for frame in frames]
    for t, (frame, copy) in enumerate(zip(frames, there, strict=True)):
        truth = cpu.step(frame)
        # what is made at first use, and the recording of a tick, may wait
        with nullcontext() if t < 2 or 4 < t < 9 else never_waiting():
            outcome = gpu.step(copy)
    torch.testing.assert_close(outcome.prediction_BP.cpu(), truth.prediction_BP, rtol=0, atol=1e-4)
    for mine, theirs in zip(gpu.parameters(), cpu.parameters(), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_least_squares_on_a_gpu_learns_what_it_learns_on_a_cpu(
    learner_of: Callable[..., Learner],
    frames_of: Callable[..., list[Frame]],
    never_waiting: NeverWaiting,
) -> None:
    cpu, gpu = (with_least_squares(learner_of("lstm", device=d)) for d in ("cpu", "cuda"))
    frames = frames_of(20, idle=0.2, unscored=0.2)
    there = [on_gpu(frame) for frame in frames]
    for t, (frame, copy) in enumerate(zip(frames, there, strict=True)):
        cpu.step(frame)
        # what is made at first use, and the recording of a tick, may wait
        with nullcontext() if t < 2 or 4 < t < 9 else never_waiting():
            gpu.step(copy)
    torch.testing.assert_close(gpu.head.V_PF.cpu(), cpu.head.V_PF, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_ladder_on_a_gpu_may_move_and_reset_before_a_rung_has_seen_a_tick(
    learner_of: Callable[..., Learner], frames_of: Callable[..., list[Frame]]
) -> None:
    def build(cell: Any, n_lanes: int) -> Fallback:
        return Fallback([Tbptt(cell, n_lanes, window=4, every=4), RULES["rtrl"](cell, n_lanes)])

    learner = learner_of("gru", build, device="cuda")
    everybody = torch.tensor([True, True], device="cuda")
    learner.reset(everybody)
    there = [on_gpu(frame) for frame in frames_of(3)]
    learner.step(there[0])
    learner.recurrence.credit.move(1)  # type: ignore[attr-defined]
    learner.reset(everybody)
    learner.step(there[1])
    learner.recurrence.credit.move(0)  # type: ignore[attr-defined]
    learner.step(there[2])
    assert all(parameter.isfinite().all() for parameter in learner.parameters())
